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

/** How long a client may take, in milliseconds. */
export interface Timeouts {
  /** From connecting to the end of the first request's header. Default 10 000. */
  header?: number;
  /** Between the end of an answer and the end of the next request's header. Default 60 000. */
  idle?: number;
  /** For taking an answer of which nothing tells whether that is done. Default 300 000. */
  send?: number;
}

/** What the connections did since the start. */
export interface ConnectionStats {
  /** Connections that are served now. */
  active: number;
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
 * How long connections may take to be gone once they are cut, in milliseconds. One that was told to
 * end after its answer cannot be cut any more (the native loop forgets it), and ends with the process.
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
  #live: Connection[] = [];
  #timer?: AbortSignal;
  #empty?: () => void;
  #pressed: () => boolean;
  #since = Infinity;
  /**
   * @internal The time of the last look at the connections, in milliseconds: good enough for what
   * happens between two looks, and far cheaper than the clock.
   */
  clock = performance.now();
  /** @internal The counts that {@linkcode stats} adds the live ones to. */
  readonly counts = { requests: 0, timedOut: 0, shed: 0, cut: 0 };

  /**
   * Serves with this handler, by default in the clear or with Deno's own TLS. While `pressed` says that others have to wait for a place, answers are
   * their connections' last, and nobody is given more time than idle connections are.
   */
  constructor(
    handler: RequestHandler,
    timeouts: Timeouts,
    log: Logger,
    pressed: () => boolean = () => false,
    serve?: Serve<AnyInfo>,
  ) {
    this.#serve = serve;
    this.#pressed = pressed;
    this.#handler = handler;
    this.#timeouts = {
      header: timeouts.header ?? 10_000,
      idle: timeouts.idle ?? 60_000,
      send: timeouts.send ?? 300_000,
    };
    this.#log = log;
  }

  /** Counts for an operator. */
  get stats(): ConnectionStats {
    return { active: this.#live.length, ...this.counts };
  }
  /** @internal Whether an answer should be the connection's last. */
  get lastAnswers(): boolean {
    return this.#since !== Infinity || this.#pressed();
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

  /** Serves a connection until it ends. Never rejects: what one client does is no other's business. */
  serve(conn: Deno.Conn): Promise<void> {
    this.clock = performance.now();
    const connection = new Connection(conn, this, this.#handler);
    connection.place = this.#live.push(connection) - 1;
    if (this.#live.length === 1) this.#watch();
    // No async functions: an idle connection should hold as little as it can, and their frames are
    // more than all else here.
    return connection.run(conn, this.#serve ??= nativeServe(), this.#failed).then(
      () => this.#over(connection),
      (error) => {
        // A reset, a TLS handshake that failed, a request that was none.
        this.#log("debug", `connection: ${messageOf(error)}`);
        connection.letGo();
        this.#over(connection);
      },
    );
  }

  #over(connection: Connection): void {
    connection.over();
    const last = this.#live.pop()!;
    if (last !== connection) this.#live[last.place = connection.place] = last;
    if (this.#live.length > 0) return;
    // While somebody listens to it, it keeps the process alive.
    this.#timer?.removeEventListener("abort", this.#look);
    this.#empty?.();
  }

  /**
   * Ends all connections: quiet ones soon, busy ones after their answer, and what is left after
   * `limit` milliseconds by cutting it.
   */
  async drain(limit: number): Promise<void> {
    this.#since = performance.now();
    this.#timer?.removeEventListener("abort", this.#look);
    this.#timer = undefined; // More often, from now on.
    if (this.#live.length > 0) this.#watch();
    if (await this.#emptied(limit)) return;
    this.cutAll();
    await this.#emptied(CUT_TIMEOUT);
  }

  /** Ends the connections that there are now, busy ones after their answer. */
  retire(): void {
    for (const connection of this.#live) {
      connection.retired = true;
      if (connection.active === 0) connection.leave();
    }
  }

  /** Ends all connections at once. */
  cutAll(): void {
    for (const connection of this.#live) this.#end(connection, "cut");
  }

  /** Whether all connections have ended within so many milliseconds. */
  #emptied(limit: number): Promise<boolean> {
    if (this.#live.length === 0) return Promise.resolve(true);
    return within(limit, new Promise<void>((resolve) => this.#empty = resolve));
  }

  /** Ends the connection that has been idle longest, if any is, for somebody who needs its place. */
  makeRoom(): void {
    this.#shed(1);
  }

  get #interval(): number {
    if (this.#since !== Infinity) return 20;
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
    const drainTime = now - this.#since; // Negative where there is no drain.
    for (const connection of this.#live) {
      if (connection.active > 0 || connection.closing) continue;
      const quiet = now - connection.since;
      const linger = connection.requests > 0 ? LINGER : FIRST_LINGER;
      if (drainTime > linger && quiet > linger) connection.leave();
      else if (quiet > this.#patience(connection)) {
        this.#end(connection, connection.owes ? "cut" : "timedOut");
      }
    }
    if (this.#pressed()) this.#shed(Math.max(1, this.#live.length / 8));
  }

  /** How long a connection may be quiet. */
  #patience({ requests, owes }: Connection): number {
    const { header, idle, send } = this.#timeouts;
    if (requests === 0) return header;
    // While others wait for a place, nobody gets longer for an answer that may have been taken.
    return owes && !this.#pressed() ? Math.max(send, idle) : idle;
  }

  /** Ends up to `count` connections that can go, the longest idle first. */
  #shed(count: number): void {
    const now = performance.now();
    const idle = this.#live.filter((connection) =>
      connection.active === 0 && !connection.closing && !connection.owes &&
      (connection.requests > 0 || now - connection.since > PRESSED_HEADER_TIMEOUT)
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
  /** Where it is among those that there are. */
  place = -1;
  /** Requests whose answers are not complete. */
  active = 0;
  requests = 0;
  /** When something last began or ended. */
  since: number;
  /** It was told to end after its answer. */
  closing = false;
  /** Its next answer is to be its last. */
  retired = false;
  /** It has a long answer, which the client may or may not have taken. */
  owes = false;
  /** Requests whose handlers look at their signal; made when one does. */
  watched?: Set<Info>;
  readonly remoteAddr: Deno.Addr;
  readonly owner: Connections;
  #handler: RequestHandler;
  #server?: Served;
  #cancel?: () => void;
  #ended = false;

  constructor(conn: Deno.Conn, owner: Connections, handler: RequestHandler) {
    // Not the connection itself, which nobody needs once it is served.
    this.remoteAddr = conn.remoteAddr;
    this.since = owner.clock;
    this.owner = owner;
    this.#handler = handler;
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
  letGo(): void {
    this.#server?.shutdown().catch(() => {});
  }

  /** The native loop is done with it. */
  over(): void {
    this.#ended = true;
    for (const info of this.watched ?? []) info.leave();
  }

  /** Ends it when its answer is sent: at once where there is none. */
  close(): void {
    if (this.closing || this.#ended) return;
    this.closing = true;
    // It rejects as `finished` does, where the reason is dealt with.
    this.#server?.shutdown().catch(() => {});
  }

  /** Ends it, quiet as it is. */
  leave(): void {
    // In the middle of a TLS handshake, the native loop would wait for the rest of it.
    if (this.requests === 0) this.end();
    else this.close();
  }

  /** Ends it at once, whatever it does. False if it is beyond that. */
  end(): boolean {
    if (this.closing || this.#ended) return false;
    this.#ended = true;
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
    this.requests++;
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

  #answered(info: Info, owes = false): void {
    this.active--;
    this.owes = owes;
    this.since = this.owner.clock;
    info.done();
  }
}

/** One request's {@linkcode RequestInfo}. The signal costs something only where it is asked for. */
class Info implements RequestInfo {
  readonly client?: ClientCertificate;
  #connection: Connection;
  #request: Request;
  #abort?: AbortController;
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
    this.#connection.owner.cut(this.#connection);
  }
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      if (this.#done) return this.#abort.signal;
      (this.#connection.watched ??= new Set()).add(this);
      silenceLegacyAbort();
      // The native loop looks whether the client is there only while somebody listens to this. It
      // aborts after a complete answer too; by the microtask's turn we have heard of that.
      this.#request.signal.addEventListener("abort", () => queueMicrotask(() => this.leave()));
    }
    return this.#abort.signal;
  }
  /** The answer is complete. */
  done(): void {
    this.#done = true;
    if (this.#abort) this.#connection.watched?.delete(this);
  }
  /** The client has left, unless the answer is complete. */
  leave(): void {
    if (!this.#done) this.#abort?.abort(new DOMException("The client has left.", "AbortError"));
  }
}
