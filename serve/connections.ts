/**
 * Serving HTTP on connections that were accepted elsewhere: what each may cost in time, how they
 * are ended, and what they did.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import {
  bodyKind,
  nativeServe,
  type Serve,
  type Served,
  type ServedInfo,
  silenceLegacyAbort,
} from "../platform/http.ts";
import type { RequestHandler, RequestInfo } from "./handler.ts";
import type { ClientCertificate } from "../router/bindings.ts";
import { SEND_TIMEOUT } from "../router/limits.ts";

/** How long a client may take for its first request, in milliseconds. */
export const HEADER_TIMEOUT = 10_000;
/** How long a connection may be idle between requests, in milliseconds. */
export const IDLE_TIMEOUT = 60_000;

/**
 * Where a connection stands: `new` until its first request is there whole, `active` while a request
 * is in work or its answer on the way, `idle` between requests, `closing` once it was told to end
 * after its answers, and then `closed`.
 */
export type ConnectionState = "new" | "active" | "idle" | "closing" | "closed";

/** How long a client may take, in milliseconds. */
export interface Timeouts {
  /** From connecting to the end of the first request's header. Default 10 000. */
  header?: number;
  /** Between the end of an answer and the end of the next request's header. Default 60 000. */
  idle?: number;
  /** For taking an answer of which nothing tells whether that is done. Default 300 000. */
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
  /** Serves HTTP on a connection. Default: Deno's native loop, in the clear or with its own TLS. */
  serve?: Serve<AnyInfo>;
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
  /** Connections that end after their answers. */
  closing: number;
  /** Requests that reached a handler. */
  requests: number;
  /** Connections ended because no whole request came, or no further one, in time. */
  timedOut: number;
  /** Idle connections ended because others had to wait. */
  shed: number;
  /** Connections cut in the middle of an answer: the client did not take it, or the drain was over. */
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
/**
 * How long connections may take to be gone once they are cut, in milliseconds. A closing one cannot
 * be cut any more (the native loop forgets it), and ends with the process.
 */
const CUT_TIMEOUT = 500;

/** Serves connections and keeps them within bounds. */
export class Connections {
  #handler: RequestHandler;
  #timeouts: Required<Timeouts>;
  #log: Logger;
  #serve?: Serve<AnyInfo>;
  /**
   * Each knows its place. Not a Set: where members come and go, V8 replaces its table all the time, and an
   * old table keeps the next alive, with all that was in it, until there is a whole garbage collection.
   */
  #open: Connection[] = [];
  #timer?: AbortSignal;
  #empty?: () => void;
  #pressed: () => boolean;
  /** When the drain began. */
  #drained = Infinity;
  /**
   * @internal The time of the last look at the connections, in milliseconds: good enough for what
   * happens between two looks, and far cheaper than the clock.
   */
  clock = performance.now();
  /** @internal The counts that {@linkcode stats} adds the open ones to. */
  readonly counts = { requests: 0, timedOut: 0, shed: 0, cut: 0 };

  /** Serves nothing yet. */
  constructor(options: ConnectionsOptions) {
    const { timeouts = {} } = options;
    this.#handler = options.handler;
    this.#serve = options.serve;
    this.#pressed = options.pressed ?? (() => false);
    this.#log = options.log ?? (() => {});
    this.#timeouts = {
      header: timeouts.header ?? HEADER_TIMEOUT,
      idle: timeouts.idle ?? IDLE_TIMEOUT,
      send: timeouts.send ?? SEND_TIMEOUT,
    };
  }

  /** Counts for an operator. */
  get stats(): ConnectionStats {
    const states = { new: 0, active: 0, idle: 0, closing: 0, closed: 0 };
    for (const { state } of this.#open) states[state]++;
    const { closed: _, ...open } = states; // None of those that are open.
    return { open: this.#open.length, ...open, ...this.counts };
  }
  /** @internal Whether an answer should be the connection's last. */
  get lastAnswers(): boolean {
    return this.#drained !== Infinity || this.#pressed();
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

  /** Serves a connection until it is closed. Never rejects: what one client does is no other's business. */
  serve(conn: Deno.Conn): Promise<void> {
    this.clock = performance.now();
    const connection = new Connection(conn, this, this.#handler);
    connection.place = this.#open.push(connection) - 1;
    if (this.#open.length === 1) this.#watch();
    // No async functions: an idle connection should hold as little as it can, and their frames are
    // more than all else here.
    return connection.run(conn, this.#serve ??= nativeServe(), this.#failed).then(
      () => this.#remove(connection),
      (error) => {
        // A reset, a TLS handshake that failed, a request that was none.
        this.#log("debug", `connection closed while ${connection.state}: ${messageOf(error)}`);
        connection.release();
        this.#remove(connection);
      },
    );
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
   * `limit` milliseconds by cutting it.
   */
  async drain(limit: number): Promise<void> {
    this.#drained = performance.now();
    this.#timer?.removeEventListener("abort", this.#look);
    this.#timer = undefined; // More often, from now on.
    if (this.#open.length > 0) this.#watch();
    if (await this.#emptied(limit)) return;
    this.cutAll();
    await this.#emptied(CUT_TIMEOUT);
  }

  /** Ends the connections that there are now, busy ones after their answer. */
  retire(): void {
    for (const connection of this.#open) {
      connection.retired = true;
      if (connection.active === 0) connection.leave();
    }
  }

  /** Ends all connections at once. */
  cutAll(): void {
    for (const connection of this.#open) this.#end(connection, "cut");
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
    if (this.#drained !== Infinity) return 20;
    // Often enough that a timeout is late by an eighth, and rare enough to cost nothing.
    return Math.min(Math.max(Math.min(...Object.values(this.#timeouts)) / 8, 10), 1_000);
  }

  /** Looks at the connections from time to time, as long as there are any. */
  #watch(): void {
    // Not setInterval: the first timer of that kind loads 4 MiB in 11 ms, for which the first client
    // would wait.
    if (!this.#timer || this.#timer.aborted) this.#timer = AbortSignal.timeout(this.#interval);
    this.#timer.addEventListener("abort", this.#look);
  }

  #look = () => {
    this.#watch();
    this.#sweep();
  };

  #sweep(): void {
    const now = this.clock = performance.now();
    const drainTime = now - this.#drained; // Negative where there is no drain.
    for (const connection of this.#open) {
      if (!connection.quiet) continue;
      const quiet = now - connection.since;
      const linger = connection.state === "new" ? FIRST_LINGER : LINGER;
      if (drainTime > linger && quiet > linger) connection.leave();
      else if (quiet > this.#patience(connection)) {
        this.#end(connection, connection.untaken ? "cut" : "timedOut");
      }
    }
    if (this.#pressed()) this.#shed(Math.max(1, this.#open.length / 8));
  }

  /** How long a connection may be quiet. */
  #patience({ state, untaken }: Connection): number {
    const { header, idle, send } = this.#timeouts;
    if (state === "new") return header;
    // While others wait for a place, no client gets longer for an answer that may have been taken.
    return untaken && !this.#pressed() ? Math.max(send, idle) : idle;
  }

  /** Ends up to `count` connections that can go, the longest idle first. */
  #shed(count: number): void {
    const now = performance.now();
    const idle = this.#open.filter((connection) =>
      connection.quiet && !connection.untaken &&
      (connection.state === "idle" || now - connection.since > PRESSED_HEADER_TIMEOUT)
    ).sort((a, b) => a.since - b.since);
    for (const connection of idle.slice(0, count)) this.#end(connection, "shed");
  }

  /** @internal Ends a connection in the middle of what it does. */
  cut(connection: Connection): void {
    this.#end(connection, "cut");
  }

  #end(connection: Connection, why: "timedOut" | "shed" | "cut"): void {
    if (connection.end()) this.counts[why]++;
  }

  #failed = (error: unknown): Response => {
    this.#log("error", `request handler: ${messageOf(error)}`);
    return new Response(null, { status: 500 });
  };
}

const onListen = () => {};

class Connection {
  /** Where it is among those that are open. */
  place = -1;
  state: ConnectionState = "new";
  /** Requests whose answers are not complete. */
  active = 0;
  /** When something last began or ended. */
  since: number;
  /** Its next answer is to be its last. */
  retired = false;
  /** It has a long answer, which the client may or may not have taken. */
  untaken = false;
  /** Requests whose handlers look at their signal; made when one does. */
  watched?: Set<Info>;
  readonly remoteAddr: Deno.Addr;
  readonly owner: Connections;
  #handler: RequestHandler;
  #server?: Served;
  #cancel?: () => void;

  constructor(conn: Deno.Conn, owner: Connections, handler: RequestHandler) {
    // Not the connection itself, which is of no use once it is served.
    this.remoteAddr = conn.remoteAddr;
    this.since = owner.clock;
    this.owner = owner;
    this.#handler = handler;
  }

  /** Whether it waits for its client alone. */
  get quiet(): boolean {
    return this.state === "idle" || this.state === "new";
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

  /** It ended badly. Deno before 2.8 keeps what it has of such a one until it is told to let go. */
  release(): void {
    this.#server?.shutdown().catch(() => {});
  }

  /** The native loop is done with it. */
  closed(): void {
    this.state = "closed";
    for (const info of this.watched ?? []) info.leave();
  }

  /** Ends it when its answers are sent: at once where there are none. */
  close(): void {
    if (this.state === "closing" || this.state === "closed") return;
    this.state = "closing";
    // It rejects as `finished` does, where the reason is dealt with.
    this.#server?.shutdown().catch(() => {});
  }

  /** Ends it, quiet as it is. */
  leave(): void {
    // In the middle of a TLS handshake, the native loop would wait for the rest of it.
    if (this.state === "new") this.end();
    else this.close();
  }

  /** Ends it at once, whatever it does. False if it is beyond that. */
  end(): boolean {
    if (this.state === "closing" || this.state === "closed") return false;
    this.state = "closing";
    try {
      this.#cancel?.();
    } catch (error) {
      // It ended between our look and now.
      if (!(error instanceof Deno.errors.BadResource)) throw error;
      return false;
    }
    return true;
  }

  #handle(request: Request, native: AnyInfo): Response | Promise<Response> {
    this.active++;
    if (this.state === "idle" || this.state === "new") this.state = "active";
    this.owner.counts.requests++;
    const info = new Info(this, request, native.client);
    let answer: Response | Promise<Response>;
    try {
      answer = this.#handler(request, info);
    } catch (error) {
      this.#answered(info);
      throw error;
    }
    if (answer instanceof Promise) {
      return answer.then((response) => this.#answer(response, native, info), (error) => {
        this.#answered(info);
        throw error;
      });
    }
    return this.#answer(answer, native, info);
  }

  #answer(response: Response, native: AnyInfo, info: Info): Response {
    const last = this.retired || this.owner.lastAnswers;
    if (last) {
      // The native loop does not read this; it is told to close once the answer is complete.
      try {
        response.headers.set("connection", "close");
      } catch {
        // The headers of a fetched response cannot be changed; the client finds out by the close.
      }
    }
    const kind = bodyKind(response);
    if (kind === "small") {
      // Most answers: as good as sent. To be told so by the native loop costs a sixth of the speed.
      this.#answered(info);
      if (last) this.close();
      return response;
    }
    const answered = () => {
      this.#answered(info, kind === "long");
      // Not one that may have to be cut: once told to close, it cannot be.
      if (last && kind === "stream") this.close();
    };
    native.completed.then(answered, () => {
      info.leave();
      answered();
    });
    return response;
  }

  #answered(info: Info, untaken = false): void {
    this.active--;
    this.untaken = untaken;
    this.since = this.owner.clock;
    if (this.active === 0 && this.state === "active") this.state = "idle";
    info.done();
  }
}

/** One request's {@linkcode RequestInfo}. The signal costs something only where it is asked for. */
class Info implements RequestInfo {
  readonly client?: ClientCertificate;
  #connection: Connection;
  #request: Request;
  #abort?: AbortController;
  #completed?: PromiseWithResolvers<void>;
  #done = false;

  constructor(connection: Connection, request: Request, client?: ClientCertificate) {
    this.client = client;
    this.#connection = connection;
    this.#request = request;
  }
  get remoteAddr(): Deno.Addr {
    return this.#connection.remoteAddr;
  }
  cut(): void {
    // The connection is the next request's by then.
    if (!this.#done) this.#connection.owner.cut(this.#connection);
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
      this.#request.signal.addEventListener("abort", () => queueMicrotask(() => this.leave()));
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
  leave(): void {
    if (!this.#done) this.#abort?.abort(new DOMException("The client has left.", "AbortError"));
  }
}
