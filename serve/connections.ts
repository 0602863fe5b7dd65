/**
 * Serving HTTP on connections that were accepted elsewhere: what each may cost in time, how they
 * are ended, and what they did.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { after, within } from "../engine/time.ts";
import { nativeServe, type Serve } from "../platform/http.ts";
import type { Peers } from "../platform/peers.ts";
import { shutConnections } from "../platform/sockets.ts";
import { UpgradeRequired } from "../platform/websockets.ts";
import { HEADER_TIMEOUT, IDLE_TIMEOUT, SEND_TIMEOUT } from "../router/limits.ts";
import { type AnyInfo, Connection, type Info, type Owner } from "./connection.ts";
import type { Delivery } from "./delivery.ts";
import type { RequestHandler, RequestInfo } from "./handler.ts";
import { refuse } from "./requests.ts";
import { Sweep, UNSENT } from "./sweep.ts";
import { Workload } from "./workload.ts";

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
  /**
   * What they may have in work together with other connections. Default: those of
   * {@linkcode Workload}.
   */
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

/** While others wait for a place, a client that has sent no whole request yet gets this long. */
const PRESSED_HEADER_TIMEOUT = 1_000;
/**
 * How long a drain leaves quiet connections open, in milliseconds. A client may be about to send on
 * one, and it is better answered, with "Connection: close", than cut: HTTP lets it retry only some.
 */
const LINGER = 250;
/**
 * The same for a connection that has sent no whole request yet: it is in the middle of one, or new.
 */
const FIRST_LINGER = 1_000;
/** How long connections may take to be gone once they are cut, in milliseconds. */
const CUT_TIMEOUT = 500;
/** How long connections that were let in by other rules may take to end, in milliseconds. */
const RETIRED_TIMEOUT = 5_000;
/**
 * While too much of answers is not taken, a client that takes nothing for so long is cut, in
 * milliseconds.
 */
const PRESSED_SEND_TIMEOUT = 1_000;
/**
 * How long WebSockets and raw streams have to end that a takeover has let go on, in milliseconds.
 */
const GOODBYE = 1_000;

/** Why an answer ends that its client does not take. */
class NotTaken extends Error {
  constructor() {
    super("the client does not take its answer");
  }
}

/** Serves connections and keeps them within bounds. */
export class Connections implements Owner {
  #handler: RequestHandler;
  #timeouts: Required<Timeouts>;
  /** @internal Where lines go. */
  readonly log: Logger;
  #serve: Serve<AnyInfo> | undefined;
  /**
   * Each knows its place. Not a Set: where members come and go, V8 replaces its table all the time,
   * and an old table keeps the next alive, with all that was in it, until there is a whole garbage
   * collection.
   */
  #open: Connection[] = [];
  #sweep: Sweep;
  /** Whether there is to be another look for connections that can go. */
  #looksAgain = false;
  #empty?: () => void;
  #pressed: () => boolean;
  /** When the drain began. */
  #drained = Infinity;
  /**
   * Those that are closing and have to be cut: only their sockets can be, and all at once costs
   * least.
   */
  #stuck: Connection[] = [];
  #workload: Workload | undefined;
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
    this.#sweep = new Sweep(() => this.#look(), () => this.#interval);
    this.#handler = options.handler;
    this.onRefused = options.onRefused ?? (() => {});
    this.peers = options.peers;
    this.#serve = options.serve;
    this.#workload = options.workload;
    this.#pressed = options.pressed ?? (() => false);
    this.log = options.log ?? (() => {});
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
  /** @internal The time, by the clock of the sweep. */
  get clock(): number {
    return this.#sweep.clock;
  }
  /** @internal Whether a connection is open and there is no other. */
  hasOnly(connection: Connection): boolean {
    return this.#open.length === 1 && this.#open[0] === connection;
  }
  /** @internal Whether an answer should be the connection's last. */
  get lastAnswers(): boolean {
    return this.#draining || this.#pressed();
  }
  /** Whether all connections are to end. */
  get #draining(): boolean {
    return this.#drained !== Infinity;
  }
  /** @internal Whether WebSockets and raw streams are told to end. */
  parting = false;
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
   * Serves a connection until it is closed. Never throws: what one client does is no other's
   * business.
   *
   * @param closed Called once it is closed.
   */
  serve(conn: Deno.Conn, closed: () => void): void {
    this.#sweep.tick();
    const connection = new Connection(conn, this, this.#handler);
    connection.place = this.#open.push(connection) - 1;
    if (this.#open.length === 1) this.#sweep.start();
    const over = () => {
      this.#remove(connection);
      closed();
    };
    // No async functions: an idle connection should hold as little as it can, and their frames are
    // more than all else here.
    connection.run(conn, this.#serve ??= nativeServe(), this.#failed).then(over, (error) => {
      // A reset, a TLS handshake that failed, a request that was none.
      this.log("debug", `connection closed while ${connection.state}: ${messageOf(error)}`);
      over();
    });
  }

  #remove(connection: Connection): void {
    connection.closed();
    const last = this.#open.pop()!;
    if (last !== connection) this.#open[last.place = connection.place] = last;
    if (this.#open.length > 0) return;
    this.#sweep.stop();
    this.#empty?.();
  }

  /**
   * Ends all connections: quiet ones soon, busy ones after their answer, and what is left after
   * `limit` milliseconds by cutting it. WebSockets and raw streams are told at once; where
   * `patient`, because another process has the place of this one, they go on, and are told a second
   * before the end.
   */
  async drain(limit: number, patient = false): Promise<void> {
    this.#sweep.tick();
    this.#drained = this.clock;
    this.#sweep.hasten();
    const goodbye = patient ? Math.min(GOODBYE, limit / 2) : limit;
    if (await this.#emptied(limit - goodbye)) return;
    this.parting = true;
    for (const connection of this.#open) connection.hijacked?.leave();
    if (await this.#emptied(goodbye)) return;
    this.cutAll();
    await this.#emptied(CUT_TIMEOUT);
  }

  /**
   * Ends the connections that there are now: quiet ones at once, busy ones after their answers,
   * which they get 5 s for. By HTTP/2 they are told so, and send no more requests.
   */
  retire(): void {
    this.#sweep.tick();
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

  /**
   * Ends the connection that has been idle longest, if any is, for a client that needs its place.
   */
  makeRoom(): void {
    this.#shed(1);
  }

  get #interval(): number {
    if (this.#draining) return 20;
    // Often enough that a timeout is late by an eighth, and rare enough to cost nothing.
    return Math.min(Math.max(Math.min(...Object.values(this.#timeouts)) / 8, 10), 1_000);
  }

  /** Ends what has gone beyond its bounds. */
  #look(): void {
    const now = this.clock;
    const drainTime = now - this.#drained; // Negative where there is no drain.
    const { idle, send } = this.#timeouts;
    // While others wait for a place, no client gets longer for its answer than for its next
    // request.
    const patience = this.#pressed() ? Math.min(send, idle) : send;
    for (const connection of this.#open) {
      const quiet = now - connection.since;
      if (connection.retired !== undefined && now - connection.retired > RETIRED_TIMEOUT) {
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
   * Ends up to `count` connections that can go, the longest idle first. One whose answer has just
   * been handed to the native loop counts as idle, and would lose it if it were cut: it is told to
   * close. A unix socket that closes could not be cut any more, so there is another look instead,
   * soon.
   */
  #shed(count: number): void {
    this.#sweep.tick();
    const now = this.clock;
    const idle = this.#open.filter(({ state, since }) =>
      state === "idle" || state === "new" && now - since > PRESSED_HEADER_TIMEOUT
    ).sort((a, b) => a.since - b.since);
    let unsent = 0;
    for (const connection of idle.slice(0, count)) {
      if (connection.since < this.#sweep.sent) {
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
   * Ends those that were told to close and whose clients do not take what was sent before: the
   * native loop has forgotten them, so their sockets are shut down. A unix socket cannot be found;
   * one of those ends with its client, or the process.
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
      this.log("error", `request handler: ${messageOf(error)}`, { error });
    }
    return refuse(500, "internal error");
  };
}
