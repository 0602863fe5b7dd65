/**
 * Serving HTTP on connections that were accepted elsewhere: what each may cost in time, how they
 * are ended, and what they did.
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { after, within } from "../engine/time.ts";
import {
  headerOf,
  type Hijacked,
  nativeServe,
  onGone,
  Probe,
  type Serve,
  type ServedInfo,
  silenceLegacyAbort,
  type StaticBody,
  staticBody,
  type Transferred,
} from "../platform/http.ts";
import { endsOf, shutConnections } from "../platform/sockets.ts";
import { type Descriptor, descriptorOf, releaseDescriptor } from "../platform/peek.ts";
import { peerOf, type Peers } from "../platform/peers.ts";
import { isWebSocket, markServed, settleUpgrade, UpgradeRequired } from "../platform/websockets.ts";
import type { ClientCertificate, Upgrade } from "../router/bindings.ts";
import { HEADER_TIMEOUT, IDLE_TIMEOUT, SEND_TIMEOUT } from "../router/limits.ts";
import { deliver, type Delivery } from "./delivery.ts";
import type { RequestHandler, RequestInfo, Upgrading } from "./handler.ts";
import { refuse } from "./requests.ts";
import { Workload } from "./workload.ts";

/**
 * Where a connection stands: `new` until its first request is there whole, `active` while a request
 * is in work or its answer on the way, `idle` between requests, `hijacked` once it is a WebSocket or a
 * raw stream, `closing` once it was told to end after its answers, and then `closed`.
 */
export type ConnectionState = "new" | "active" | "idle" | "hijacked" | "closing" | "closed";

/** How long a client may take, in milliseconds. */
export interface Timeouts {
  /** From connecting to the end of the first request's header. Default 10 000. */
  header?: number;
  /** Between the end of an answer and the end of the next request's header. Default 60 000. */
  idle?: number;
  /** For taking some 64 KiB more of an answer, or its end. Default 300 000. */
  send?: number;
}

/** What {@linkcode Connections} can be told. */
export interface ConnectionsOptions {
  /** Answers the requests. */
  handler: RequestHandler;
  /** How long clients may take. */
  timeouts?: Timeouts;
  /**
   * Whether clients wait for a place: answers are then their connections' last, and no client is
   * given more time than an idle connection is. Default: never.
   */
  pressed?: () => boolean;
  /** What they may have in work together with other connections. Default: those of {@linkcode Workload}. */
  workload?: Workload;
  /** Serves HTTP on a connection. Default: Deno's native loop, in the clear or with its own TLS. */
  serve?: Serve<AnyInfo>;
  /** Why a connection cannot be taken over for a raw upgrade, where `serve` has no way to. */
  upgradeProblem?: () => string;
  /** Called for each request that is refused before it comes to the handler. */
  onRefused?: (request: Request, info: RequestInfo, response: Response) => void;
  /** Who the clients of a unix listener are. Default: that is not known. */
  peers?: Peers;
  /** Where connections that end badly are logged, at level debug. Default: nowhere. */
  log?: Logger;
}

/** What the connections did since the start, and how many there are in each state. */
export interface ConnectionStats {
  /** Connections that are not closed: the sum of those in each state. */
  open: number;
  /** Connections that have sent no whole request yet. */
  new: number;
  /** Connections with a request in work, or an answer on the way. */
  active: number;
  /** Connections between requests. */
  idle: number;
  /** Connections that have become WebSockets or raw streams. */
  hijacked: number;
  /** Connections that end after their answers. */
  closing: number;
  /** Requests that reached a handler. */
  requests: number;
  /** Connections ended because no whole request came, or no further one, in time. */
  timedOut: number;
  /** Idle connections ended because others had to wait. */
  shed: number;
  /** Requests answered 503 because too many were in work, or too much of answers was not taken. */
  overload: number;
  /** Answers cut in the middle: the client did not take them, or the drain was over. */
  cut: number;
}

/** What the way of serving tells of a request. */
type AnyInfo = ServedInfo & Pick<RequestInfo, "client">;

/** While others wait for a place, a client that has sent no whole request yet gets this long. */
const PRESSED_HEADER_TIMEOUT = 1_000;
/**
 * How long a drain leaves quiet connections open, in milliseconds. A client may be about to send on
 * one, and it is better answered, with "Connection: close", than cut: HTTP lets it retry only some.
 */
const LINGER = 250;
/** The same for a connection that has sent no whole request yet: it is in the middle of one, or new. */
const FIRST_LINGER = 1_000;
/** How long connections may take to be gone once they are cut, in milliseconds. */
const CUT_TIMEOUT = 500;
/** How long connections that were let in by other rules may take to end, in milliseconds. */
const RETIRED_TIMEOUT = 5_000;
/** How late a look at the connections may be before the process counts as stalled, in milliseconds. */
const LATE = 100;
/** So long after an answer was handed over it may not have reached the socket yet, in milliseconds. */
const UNSENT = 20;
/** While too much of answers is not taken, a client that takes nothing for so long is cut, in milliseconds. */
const PRESSED_SEND_TIMEOUT = 1_000;
/**
 * What a small answer is at most, in bytes: the buffers of a socket take it at once, whatever its client does.
 * By HTTP/2 up to 200 of them can wait for a client that takes none (the limit of streams in hyper).
 */
const SMALL = 65_536;
const SMALL_BY_HTTP2 = 2_048;

/** Why an answer ends that its client does not take. */
class NotTaken extends Error {
  constructor() {
    super("the client does not take its answer");
  }
}

/** Serves connections and keeps them within bounds. */
export class Connections {
  #handler: RequestHandler;
  #timeouts: Required<Timeouts>;
  #log: Logger;
  #serve: Serve<AnyInfo> | undefined;
  /**
   * Each knows its place. Not a Set: where members come and go, V8 replaces its table all the time, and an
   * old table keeps the next alive, with all that was in it, until there is a whole garbage collection.
   */
  #open: Connection[] = [];
  #timer: AbortSignal | undefined;
  /** When the timer is due, by `performance.now()`. */
  #due = 0;
  /** For how many milliseconds the process stood still, as far as that kept us from looking. */
  #stalled = 0;
  #skipped = false;
  /** Two times that the clock has shown, apart by {@linkcode UNSENT} at least: what was before is sent. */
  #before = -Infinity;
  #mark = -Infinity;
  /** Whether there is to be another look for connections that can go. */
  #looksAgain = false;
  #empty?: () => void;
  #pressed: () => boolean;
  /** When the drain began. */
  #drained = Infinity;
  /** Those that are closing and have to be cut: only their sockets can be, and all at once costs least. */
  #stuck: Connection[] = [];
  #workload: Workload | undefined;
  /**
   * @internal The time of the last look at the connections, in milliseconds: good enough for what
   * happens between two looks, and far cheaper than the clock. It stands still with the process: what a
   * client sent meanwhile was in time, and is to be read before it is judged.
   */
  clock = performance.now();
  /** @internal The counts that {@linkcode stats} adds the open ones to. */
  readonly counts = { requests: 0, timedOut: 0, shed: 0, overload: 0, cut: 0 };

  /** @internal Has other deadlines looked at as often as those of connections are. */
  readonly onSweep = (look: () => void): void => void this.#looks.add(look);
  #looks = new Set<() => void>();
  /** @internal Why a connection cannot be taken over. */
  readonly upgradeProblem: () => string;
  /** @internal Called for requests that are refused. */
  readonly onRefused: NonNullable<ConnectionsOptions["onRefused"]>;
  /** @internal Who the clients are, where that can be known. */
  readonly peers: Peers | undefined;

  /** Serves nothing yet. */
  constructor(options: ConnectionsOptions) {
    const { timeouts = {} } = options;
    this.#handler = options.handler;
    this.onRefused = options.onRefused ?? (() => {});
    this.peers = options.peers;
    this.#serve = options.serve;
    this.#workload = options.workload;
    this.#pressed = options.pressed ?? (() => false);
    this.#log = options.log ?? (() => {});
    this.upgradeProblem = options.upgradeProblem ??
      (() => "raw upgrades cannot be served on this connection");
    this.#timeouts = {
      header: timeouts.header ?? HEADER_TIMEOUT,
      idle: timeouts.idle ?? IDLE_TIMEOUT,
      send: timeouts.send ?? SEND_TIMEOUT,
    };
  }

  /** How long clients may take from now on; what is not given stays. */
  set timeouts(timeouts: Timeouts) {
    Object.assign(this.#timeouts, timeouts);
  }
  /** Counts for an operator. */
  get stats(): ConnectionStats {
    const states = { new: 0, active: 0, idle: 0, hijacked: 0, closing: 0, closed: 0 };
    for (const { state } of this.#open) states[state]++;
    const { closed: _, ...open } = states; // None of those that are open.
    return { open: this.#open.length, ...open, ...this.counts };
  }
  /** @internal Whether a connection is open and there is no other. */
  hasOnly(connection: Connection): boolean {
    return this.#open.length === 1 && this.#open[0] === connection;
  }
  /** @internal Whether an answer should be the connection's last. */
  get lastAnswers(): boolean {
    return this.draining || this.#pressed();
  }
  /** @internal Whether all connections are to end. */
  get draining(): boolean {
    return this.#drained !== Infinity;
  }
  /** @internal What is in work. */
  get workload(): Workload {
    return this.#workload ??= new Workload();
  }

  /**
   * Gets ready to serve.
   *
   * @throws {Error} If this Deno cannot.
   */
  prepare(): void {
    // Not when it is made, because to load the runtime's HTTP side takes longer than to bind.
    this.#serve ??= nativeServe();
  }

  /** The unix address, and the host of a tcp address, that were seen last: most are the same. */
  #unix: Deno.UnixAddr | undefined;
  #hostname = "";

  /** @internal The same address, in as little memory as it can take. */
  addressOf(addr: Deno.Addr): Deno.Addr {
    if (addr.transport === "tcp") {
      const { transport, hostname, port } = addr;
      if (hostname !== this.#hostname) this.#hostname = hostname;
      return { transport, hostname: this.#hostname, port };
    }
    if (addr.transport !== "unix") return addr;
    if (addr.path !== this.#unix?.path) this.#unix = { transport: "unix", path: addr.path };
    return this.#unix!;
  }

  /**
   * Serves a connection until it is closed. Never throws: what one client does is no other's business.
   *
   * @param closed Called once it is closed.
   */
  serve(conn: Deno.Conn, closed: () => void): void {
    this.#tick();
    const connection = new Connection(conn, this, this.#handler);
    connection.place = this.#open.push(connection) - 1;
    if (this.#open.length === 1) this.#watch(this.#interval);
    const over = () => {
      this.#remove(connection);
      closed();
    };
    // No async functions: an idle connection should hold as little as it can, and their frames are
    // more than all else here.
    connection.run(conn, this.#serve ??= nativeServe(), this.#failed).then(over, (error) => {
      // A reset, a TLS handshake that failed, a request that was none.
      this.#log("debug", `connection closed while ${connection.state}: ${messageOf(error)}`);
      over();
    });
  }

  #remove(connection: Connection): void {
    connection.closed();
    const last = this.#open.pop()!;
    if (last !== connection) this.#open[last.place = connection.place] = last;
    if (this.#open.length > 0) return;
    // While something listens to it, it keeps the process alive.
    this.#timer?.removeEventListener("abort", this.#look);
    this.#empty?.();
  }

  /**
   * Ends all connections: quiet ones soon, busy ones after their answer, and what is left after
   * `limit` milliseconds by cutting it. WebSockets and raw streams are told at once; where `patient`, because
   * another process has the place of this one, they go on, and are told a second before the end.
   */
  async drain(limit: number, patient = false): Promise<void> {
    this.#tick();
    this.#drained = this.clock;
    this.#timer?.removeEventListener("abort", this.#look);
    this.#timer = undefined; // More often, from now on.
    if (this.#open.length > 0) this.#watch(this.#interval);
    const goodbye = patient ? Math.min(GOODBYE, limit / 2) : limit;
    if (await this.#emptied(limit - goodbye)) return;
    for (const connection of this.#open) connection.hijacked?.leave();
    if (await this.#emptied(goodbye)) return;
    this.cutAll();
    await this.#emptied(CUT_TIMEOUT);
  }

  /**
   * Ends the connections that there are now: quiet ones at once, busy ones after their answers, which
   * they get 5 s for. By HTTP/2 they are told so, and send no more requests.
   */
  retire(): void {
    this.#tick();
    for (const connection of this.#open) {
      connection.retired = this.clock;
      connection.leave();
    }
  }

  /** Ends all connections at once. */
  cutAll(): void {
    for (const connection of this.#open) this.#end(connection, "cut");
    this.#shutStuck();
  }

  /** Whether all connections have ended within so many milliseconds. */
  #emptied(limit: number): Promise<boolean> {
    if (this.#open.length === 0) return Promise.resolve(true);
    return within(limit, new Promise<void>((resolve) => this.#empty = resolve));
  }

  /** Ends the connection that has been idle longest, if any is, for a client that needs its place. */
  makeRoom(): void {
    this.#shed(1);
  }

  get #interval(): number {
    if (this.draining) return 20;
    // Often enough that a timeout is late by an eighth, and rare enough to cost nothing.
    return Math.min(Math.max(Math.min(...Object.values(this.#timeouts)) / 8, 10), 1_000);
  }

  /** Looks at the connections after so many milliseconds, as long as there are any. */
  #watch(delay: number): void {
    // Not setInterval: the first timer of that kind loads 4 MiB in 11 ms, for which the first client
    // would wait.
    if (!this.#timer || this.#timer.aborted) {
      this.#timer = AbortSignal.timeout(delay);
      this.#due = performance.now() + delay;
    }
    this.#timer.addEventListener("abort", this.#look);
  }

  /** Sets the clock. True if the process stood still until now. */
  #tick(): boolean {
    const now = performance.now();
    // Without connections there is no timer that could be late.
    const late = this.#open.length > 0 && now - this.#due > LATE;
    if (late) {
      this.#stalled += now - this.#due;
      this.#due = now;
    }
    this.clock = now - this.#stalled;
    if (this.clock - this.#mark >= UNSENT) {
      this.#before = this.#mark;
      this.#mark = this.clock;
    }
    return late;
  }

  #look = () => {
    // What came while the process stood still is in the sockets yet: the loop has to read it first.
    this.#skipped = this.#tick() && !this.#skipped;
    this.#watch(this.#skipped ? Math.min(LATE, this.#interval) : this.#interval);
    if (!this.#skipped) this.#sweep();
  };

  #sweep(): void {
    const now = this.clock;
    const drainTime = now - this.#drained; // Negative where there is no drain.
    const { idle, send } = this.#timeouts;
    // While others wait for a place, no client gets longer for its answer than for its next request.
    const patience = this.#pressed() ? Math.min(send, idle) : send;
    for (const connection of this.#open) {
      const quiet = now - connection.since;
      if (now - connection.retired > RETIRED_TIMEOUT) {
        this.#end(connection, "cut");
      } else if (connection.active > 0) {
        const stalled = connection.stalled(
          now - (connection.holdsTooMuch ? Math.min(PRESSED_SEND_TIMEOUT, patience) : patience),
        );
        for (const delivery of stalled) this.cut(connection, delivery);
      } else if (connection.state === "closing") {
        if (quiet > patience) this.#end(connection, "cut");
      } else {
        const linger = connection.state === "new" ? FIRST_LINGER : LINGER;
        if (drainTime > linger && quiet > linger) connection.leave();
        else if (quiet > (connection.state === "new" ? this.#timeouts.header : idle)) {
          this.#end(connection, "timedOut");
        }
      }
    }
    for (const look of this.#looks) look();
    if (this.#pressed()) this.#shed(Math.max(1, this.#open.length / 8));
    if (this.workload.held > this.workload.maxHeld) this.#cutHolders();
    this.#shutStuck();
  }

  /**
   * Ends up to `count` connections that can go, the longest idle first. One whose answer has just been
   * handed to the native loop counts as idle, and would lose it if it were cut: it is told to close. A unix
   * socket that closes could not be cut any more, so there is another look instead, soon.
   */
  #shed(count: number): void {
    this.#tick();
    const now = this.clock;
    const idle = this.#open.filter(({ state, since }) =>
      state === "idle" || state === "new" && now - since > PRESSED_HEADER_TIMEOUT
    ).sort((a, b) => a.since - b.since);
    let unsent = 0;
    for (const connection of idle.slice(0, count)) {
      if (connection.since < this.#before) {
        this.#end(connection, "shed");
      } else if (connection.ends !== undefined) {
        this.counts.shed++;
        connection.close();
      } else unsent++;
    }
    if (unsent === 0 || this.#looksAgain) return;
    this.#looksAgain = true;
    after(UNSENT, () => {
      this.#looksAgain = false;
      if (this.#pressed()) this.#shed(unsent);
    });
  }

  /** Cuts answers that are not taken until no more than is allowed waits, the greatest first. */
  #cutHolders(): void {
    const stalled = this.#open.flatMap((connection) =>
      connection.stalled(this.clock - PRESSED_SEND_TIMEOUT)
        .map((delivery) => ({ connection, delivery }))
    ).sort((a, b) => b.delivery.held - a.delivery.held);
    for (const { connection, delivery } of stalled) {
      if (this.workload.held <= this.workload.maxHeld) return;
      this.cut(connection, delivery);
    }
  }

  /**
   * @internal Ends an answer in the middle: with its connection, unless other requests are in work
   * there, which takes HTTP/2.
   */
  cut(connection: Connection, delivery?: Delivery<Info>): void {
    if (delivery === undefined || connection.active - connection.abandoned <= 1) {
      this.#end(connection, "cut");
      return;
    }
    if (!connection.abandon(delivery, new NotTaken())) return;
    this.counts.cut++;
  }

  /** @internal Ends a connection on which nothing can be sent any more. */
  drop(connection: Connection): void {
    this.#end(connection);
  }

  #end(connection: Connection, why?: "timedOut" | "shed" | "cut"): void {
    const end = connection.end();
    if (end === "gone") return;
    if (why) this.counts[why]++;
    if (end === "stuck") this.#stuck.push(connection);
  }

  /**
   * Ends those that were told to close and whose clients do not take what was sent before: the native loop
   * has forgotten them, so their sockets are shut down. A unix socket cannot be found; one of those ends
   * with its client, or the process.
   */
  #shutStuck(): void {
    if (this.#stuck.length === 0) return;
    shutConnections(new Set(this.#stuck.flatMap(({ ends }) => ends ?? [])));
    this.#stuck = [];
  }

  #failed = (error: unknown): Response => {
    if (error instanceof UpgradeRequired) return refuse(error.status, error.message, error.headers);
    // It was said where it was found out.
    if (!(error instanceof NotTaken)) {
      this.#log("error", `request handler: ${messageOf(error)}`, { error });
    }
    return refuse(500, "internal error");
  };
}

/** Says of an answer that it is the last. The native loop does not read this; it is told to close. */
function sayLast(response: Response): void {
  try {
    response.headers.set("connection", "close");
  } catch {
    // The headers of a fetched response cannot be changed; the client finds out by the close.
  }
}

/** How long WebSockets and raw streams have to end that a takeover has let go on, in milliseconds. */
const GOODBYE = 1_000;
/** RFC 9110, 15.2.2. */
const SWITCHING_PROTOCOLS = 101;
const OVERLOAD = "too much is in work, try again";
const onListen = () => {};
const gone = () => new DOMException("The client has left.", "AbortError");

class Connection {
  /** Where it is among those that are open. */
  place = -1;
  state: ConnectionState = "new";
  /** Requests in work: their answers are not complete, or what makes those has not let go. */
  active = 0;
  /** How many of those were given up: nothing more is sent of their answers. */
  abandoned = 0;
  /** When something last began or ended. */
  since: number;
  /** Since when its answers are to be its last. */
  retired = Infinity;
  /** Answers on their way, where that is looked at; made when there is one. */
  #deliveries?: Delivery<Info>[];
  /** Requests whose handlers look at their signal; made when one does. */
  watched?: Set<Info>;
  /** What it has become, where it speaks HTTP no more. */
  hijacked?: Hijacked;
  readonly remoteAddr: Deno.Addr;
  readonly owner: Connections;
  /** That of a tcp connection. */
  #localAddr: Deno.Addr | undefined;
  /** That of a unix connection, where it was found. */
  #descriptor: Descriptor | undefined;
  #peer?: Peer | undefined;
  #handler: RequestHandler;
  #server?: Upgrading;
  #cancel?: () => void;
  #cut = false;
  /** Whether it speaks HTTP/2; undefined until its second request, or an answer for which it matters. */
  #http2: boolean | undefined;
  #probe?: Probe;
  /** Whether an answer was given up on it, which by HTTP/2 stands in the way until the client takes it. */
  #crippled = false;

  constructor(conn: Deno.Conn, owner: Connections, handler: RequestHandler) {
    // Not the connection itself, which is of no use once it is served, and not its addresses: the
    // runtime makes a hash table of each.
    this.remoteAddr = owner.addressOf(conn.remoteAddr);
    if (conn.remoteAddr.transport === "tcp") this.#localAddr = owner.addressOf(conn.localAddr);
    if (owner.peers) this.#descriptor = descriptorOf(conn);
    this.since = owner.clock;
    this.owner = owner;
    this.#handler = handler;
  }

  /** @internal The time, for deliveries. */
  get clock(): number {
    return this.owner.clock;
  }
  /** @internal More, or less, waits here for the client. */
  hold(bytes: number): void {
    this.held += bytes;
    this.owner.workload.held += bytes;
  }
  /** How many bytes of answers wait here for the client. */
  held = 0;

  /** What its socket is known by; undefined if it is a unix socket, of which there are many of a name. */
  get ends(): string | undefined {
    const { remoteAddr } = this;
    if (remoteAddr.transport !== "tcp") return undefined;
    return endsOf({ localAddr: this.#localAddr!, remoteAddr });
  }

  get peer(): Peer | undefined {
    if (this.state === "closed") return undefined;
    // It has the descriptor for as long as it is open, and no other may be taken to have it.
    this.#descriptor ??= this.owner.peers?.find(this.owner.hasOnly(this));
    return this.#peer ??= this.#descriptor && peerOf(this.#descriptor);
  }

  run(
    conn: Deno.Conn,
    serve: Serve<AnyInfo>,
    onError: (error: unknown) => Response,
  ): Promise<void> {
    try {
      this.#server = serve(
        conn,
        this,
        (request, native) => this.#handle(request, native),
        onError,
        onListen,
      );
    } catch (error) {
      return Promise.reject(error);
    }
    return this.#server.finished;
  }

  /** All that the native loop asks of its abort signal: it calls `cancel` when that aborts. */
  addEventListener(_type: "abort", cancel: () => void): void {
    this.#cancel = cancel;
  }

  /** The native loop is done with it. */
  closed(): void {
    this.state = "closed";
    if (this.#descriptor) releaseDescriptor(this.#descriptor);
    for (const info of this.watched ?? []) info.leave();
    for (const delivery of this.#deliveries?.slice() ?? []) delivery.cancel(gone());
  }

  /** Ends it when its answers are sent: at once where there are none. */
  close(): void {
    if (this.state === "closing" || this.state === "closed") return;
    this.state = "closing";
    // It rejects as `finished` does, where the reason is dealt with.
    this.#server?.shutdown().catch(() => {});
  }

  /** Ends it as soon as it is quiet. */
  leave(): void {
    if (this.hijacked) return this.hijacked.leave();
    // In the middle of a TLS handshake, the native loop would wait for the rest of it. And a unix socket
    // that is closing cannot be cut.
    if (this.state === "new" || this.state === "idle" && this.ends === undefined) this.end();
    else this.close();
  }

  /**
   * Ends it at once, whatever it does.
   *
   * @returns `gone` if it has ended by itself, `stuck` if only its socket can be shut down.
   */
  end(): "ended" | "gone" | "stuck" {
    if (this.#cut || this.state === "closed") return "gone";
    this.#cut = true;
    const closing = this.state === "closing";
    this.state = "closing";
    this.hijacked?.cut();
    try {
      this.#cancel?.();
      return "ended";
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
      // Where it was not told to close, it ended between our look and now.
      return closing ? "stuck" : "gone";
    }
  }

  /** Whether more answers wait here than one connection may have. A single one may be of any size. */
  get holdsTooMuch(): boolean {
    return this.held > this.owner.workload.maxConnectionHeld && this.#deliveries!.length > 1;
  }

  /** The answers of which the client has taken nothing since then. */
  stalled(then: number): Delivery<Info>[] {
    return this.#deliveries?.filter(({ waiting, since }) => waiting && since < then) ?? [];
  }

  /** Gives an answer up. False if it was given up before. */
  abandon(delivery: Delivery<Info>, reason: Error): boolean {
    if (!delivery.abandon(reason)) return false;
    this.abandoned++;
    return true;
  }

  #handle(request: Request, native: AnyInfo): Response | Promise<Response> {
    const { workload, counts } = this.owner;
    const first = this.state === "new";
    counts.requests++;
    if (this.retired !== Infinity) {
      const problem = "who may connect has changed since you did, connect again";
      return this.#refuse(problem, new Info(this, request, native.client));
    }
    if (
      this.active >= workload.maxConnectionRequests || workload.requests >= workload.maxRequests
    ) {
      this.since = this.owner.clock;
      if (this.state === "new") this.state = "idle";
      return this.#refuse(OVERLOAD, new Info(this, request, native.client));
    }
    this.active++;
    workload.requests++;
    if (this.state === "idle" || this.state === "new") this.state = "active";
    markServed(request);
    const info = new Info(this, request, native.client);
    let answer: Response | Promise<Response>;
    try {
      answer = this.#handler(request, info);
    } catch (error) {
      this.#answered(info);
      throw error;
    }
    // Of a first answer that is given at once it is not asked: it would take longer than all else here.
    if (!first && this.#http2 === undefined) answer = Promise.resolve(answer);
    if (answer instanceof Promise) {
      return this.#probed(
        answer.then((response) => this.#answer(response, native, info), (error) => {
          this.#answered(info);
          throw error;
        }),
      );
    }
    return this.#answer(answer, native, info);
  }

  /** The same answer, which finds out whether this is HTTP/2 if that is not known. */
  #probed(answer: Promise<Response>): Promise<Response> {
    if (this.#http2 !== undefined) return answer;
    this.#probe = new Probe(answer);
    return this.#probe as unknown as Promise<Response>;
  }

  #refuse(message: string, info: Info): Response {
    if (message === OVERLOAD) this.owner.counts.overload++;
    const response = refuse(503, message, { "Retry-After": "1" });
    // A request that came to the handler is reported when it is complete.
    if (info.exchange) {
      info.exchange.status = response.status;
      info.exchange.bytes = staticBody(response)?.length ?? 0; // In ASCII.
    } else {
      this.owner.onRefused(info.request, info, response);
    }
    return response;
  }

  #answer(response: Response, native: AnyInfo, info: Info): Response | Promise<Response> {
    if (response.status === SWITCHING_PROTOCOLS) return this.#hijack(response, info);
    this.#http2 ??= this.#probe?.http2;
    const last = this.retired !== Infinity || this.owner.lastAnswers ||
      this.#server?.once === true;
    const body = staticBody(response);
    const size = body === undefined
      ? Infinity
      // A unit of a text is at most three bytes.
      : body === null
      ? 0
      : typeof body === "string"
      ? body.length * 3
      : body.length;
    if (size === 0 || !last && size <= (this.#http2 ? SMALL_BY_HTTP2 : SMALL)) {
      // Most answers: as good as sent. To be told so by the native loop costs a sixth of the speed.
      this.#answered(info);
      if (last) {
        sayLast(response);
        this.close();
      }
      return response;
    }
    const { workload } = this.owner;
    if (
      body != null && (this.held > 0 && this.held + size > workload.maxConnectionHeld ||
        workload.held > 0 && workload.held + size > workload.maxHeld)
    ) {
      this.#answered(info);
      return this.#refuse(OVERLOAD, info);
    }
    const on = () => this.#deliver(response, body ?? undefined, native, info, last);
    if (this.#http2 !== undefined) return on();
    return this.#probed(
      Promise.resolve().then(() => {
        this.#http2 ??= this.#probe!.http2;
        return on();
      }),
    );
  }

  #deliver(
    response: Response,
    body: StaticBody | undefined,
    native: AnyInfo,
    info: Info,
    last: boolean,
  ): Response {
    let delivery: Delivery<Info>;
    try {
      delivery = info.delivery = deliver(response, body, this.#http2!, info, last, this);
    } catch (error) {
      this.#answered(info);
      throw error;
    }
    (this.#deliveries ??= []).push(delivery);
    if (last) sayLast(delivery.response);
    native.completed.then(() => delivery.complete(), () => {
      info.leave();
      delivery.cancel(gone());
    });
    return delivery.response;
  }

  /** @internal An answer is over. */
  over(delivery: Delivery<Info>): void {
    this.#deliveries!.splice(this.#deliveries!.indexOf(delivery), 1);
    this.#answered(delivery.info);
    // Not before, because it cannot be cut any more once it was told to close.
    if (delivery.last) this.close();
    if (delivery.abandoned) {
      this.abandoned--;
      this.#crippled = true;
    }
    // HTTP/2 has no more room for the stream that was given up, until the client takes it.
    if (this.#crippled && this.active === 0) this.owner.drop(this);
  }

  /** It speaks HTTP no more after this answer. */
  #hijack(response: Response, info: Info): Response | Promise<Response> {
    silenceLegacyAbort();
    const hijacked = this.#server?.hijack?.(response, info.request);
    if (hijacked === undefined) {
      if (info.exchange) info.exchange.status = 500;
      this.#answered(info);
      throw new Error("the answer is 101, and its handler has not upgraded the connection");
    }
    this.hijacked = hijacked;
    if (this.state === "active") this.state = "hijacked";
    // It is a connection from now on, and no request in work.
    this.owner.workload.requests--;
    if (this.retired !== Infinity || this.owner.draining) hijacked.leave();
    hijacked.ended.then(() => {
      this.owner.workload.requests++;
      info.leave();
      this.#answered(info);
    });
    return hijacked.answerable?.then(() => response) ?? response;
  }

  /** Takes it over, for the handler of a request. */
  upgrade(request: Request, headers?: HeadersInit): Upgrade {
    if (!/\bupgrade\b/i.test(headerOf(request, "connection") ?? "")) {
      throw new TypedError("bad parameter", "expected a request with Connection: Upgrade");
    }
    if (this.#server?.upgrade === undefined) {
      throw new TypedError("not implemented", this.owner.upgradeProblem());
    }
    return this.#server.upgrade(headers);
  }

  #answered(info: Info): void {
    settleUpgrade(info.request);
    this.active--;
    this.owner.workload.requests--;
    this.since = this.owner.clock;
    if (this.active === 0 && this.state === "active") this.state = "idle";
    info.done();
  }
}

/** One request's {@linkcode RequestInfo}. The signal costs something only where it is asked for. */
class Info implements RequestInfo {
  readonly client: ClientCertificate | undefined;
  /** Its answer, where that is looked at. */
  delivery?: Delivery<Info>;
  readonly request: Request;
  left = false;
  exchange?: NonNullable<RequestInfo["exchange"]>;
  #connection: Connection;
  #abort?: AbortController;
  #completed?: PromiseWithResolvers<void>;
  #done = false;

  constructor(connection: Connection, request: Request, client?: ClientCertificate) {
    this.client = client;
    this.#connection = connection;
    this.request = request;
  }
  get remoteAddr(): Deno.Addr {
    return this.#connection.remoteAddr;
  }
  get peer(): Peer | undefined {
    return this.#connection.peer;
  }
  get onSweep(): NonNullable<RequestInfo["onSweep"]> {
    return this.#connection.owner.onSweep;
  }
  cut(): void {
    // The connection is the next request's by then.
    if (!this.#done) this.#connection.owner.cut(this.#connection, this.delivery);
  }
  upgrade(headers?: HeadersInit): Upgrade {
    return this.#connection.upgrade(this.request, headers);
  }
  get transferred(): Transferred | undefined {
    return this.#connection.hijacked?.transferred;
  }
  get completed(): Promise<void> {
    if (this.#done) return Promise.resolve();
    return (this.#completed ??= Promise.withResolvers()).promise;
  }
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#done) return this.#abort.signal;
      (this.#connection.watched ??= new Set()).add(this);
      silenceLegacyAbort();
      // The native loop looks whether the client is there only while something listens to this. It
      // aborts after a complete answer too; by the microtask's turn we have heard of that.
      const { request } = this;
      onGone(
        request,
        (reason) => queueMicrotask(() => isWebSocket(request) || this.leave(reason)),
      );
    }
    return this.#abort.signal;
  }
  /** The answer is complete. */
  done(): void {
    this.#done = true;
    this.#completed?.resolve();
    if (this.#abort) this.#connection.watched?.delete(this);
  }
  /** The client has left, unless the answer is complete. */
  leave(reason?: unknown): void {
    if (this.#done) return;
    this.left = true;
    // The native loop's own reason says less.
    this.#abort?.abort(reason instanceof TypedError ? reason : gone());
  }
}
