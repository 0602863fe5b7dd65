/**
 * One served connection: where it stands, its requests in work, and how it is ended.
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import {
  headerOf,
  type Hijacked,
  onGone,
  Probe,
  type Serve,
  type ServedInfo,
  silenceLegacyAbort,
  type StaticBody,
  staticBody,
  type Transferred,
} from "../platform/http.ts";
import { type Descriptor, descriptorOf, releaseDescriptor } from "../platform/peek.ts";
import { peerOf, type Peers } from "../platform/peers.ts";
import { isWebSocket, lost, markServed, settleUpgrade } from "../platform/websockets.ts";
import { endsOf } from "../platform/sockets.ts";
import type { ClientCertificate, Upgrade } from "../router/bindings.ts";
import { deliver, type Delivery } from "./delivery.ts";
import type { PendingUpgrade, RequestHandler, RequestInfo, Upgrading } from "./handler.ts";
import { refuse } from "./requests.ts";
import type { Workload } from "./workload.ts";

/**
 * Where a connection stands: `new` until its first request is there whole, `active` while a request
 * is in work or its answer on the way, `idle` between requests, `hijacked` once it is a WebSocket
 * or a raw stream, `closing` once it was told to end after its answers, and then `closed`.
 */
export type ConnectionState = "new" | "active" | "idle" | "hijacked" | "closing" | "closed";

/** What the way of serving tells of a request. */
export type AnyInfo = ServedInfo & Pick<RequestInfo, "client">;

/** What a {@linkcode Connection} asks of the connections that it is one of. */
export interface Owner {
  /** The time, in milliseconds, by the clock of {@linkcode Sweep}. */
  readonly clock: number;
  /** The requests that came, and those refused for overload. */
  readonly counts: { requests: number; overload: number };
  /** What is in work. */
  readonly workload: Workload;
  /** Whether an answer should be its connection's last. */
  readonly lastAnswers: boolean;
  /** Where lines go. */
  readonly log: Logger;
  /** Whether WebSockets and raw streams are told to end. */
  readonly parting: boolean;
  /** Who the clients are, where that can be known. */
  readonly peers: Peers | undefined;
  /** Has other deadlines looked at as often as those of connections are. */
  readonly onSweep: (look: () => void) => void;
  /** Why a connection cannot be taken over. */
  readonly upgradeProblem: () => string;
  /** Called for each request that is refused before it comes to the handler. */
  readonly onRefused: (request: Request, info: RequestInfo, response: Response) => void;
  /** Whether a connection is open and there is no other. */
  hasOnly(connection: Connection): boolean;
  /** The same address, in as little memory as it can take. */
  addressOf(addr: Deno.Addr): Deno.Addr;
  /** Ends an answer in the middle: with its connection, unless other requests are in work there. */
  cut(connection: Connection, delivery?: Delivery<Info>): void;
  /** Ends a connection on which nothing can be sent any more. */
  drop(connection: Connection): void;
}

/**
 * What a small answer is at most, in bytes: the buffers of a socket take it at once, whatever its
 * client does. By HTTP/2 up to 200 of them can wait for a client that takes none (the limit of
 * streams in hyper).
 */
const SMALL = 65_536;
const SMALL_BY_HTTP2 = 2_048;
/** RFC 9110, 15.2.2. */
const SWITCHING_PROTOCOLS = 101;
const OVERLOAD = "too much is in work, try again";
const onListen = () => {};
const gone = () => new DOMException("The client has left.", "AbortError");

/** A connection that is served. */
export class Connection {
  // What each request touches stands first, in as few lines of the processor's cache as may be: of
  // a thousand connections none is there any more when its next request comes.
  state: ConnectionState = "new";
  /** Requests in work: their answers are not complete, or what makes those has not let go. */
  active = 0;
  readonly owner: Owner;
  #handler: RequestHandler;
  /** When something last began or ended. */
  since: number;
  /** Since when its answers are to be its last, if they are. */
  retired: number | undefined;
  /**
   * Whether it speaks HTTP/2; undefined until its second request, or an answer for which it
   * matters.
   */
  #http2: boolean | undefined;
  /** Whether its first answer is its last, as that of its server: {@linkcode Upgrading.once}. */
  #once = false;

  #server?: Upgrading;
  /** Where it is among those that are open. */
  place = -1;
  /** How many of those were given up: nothing more is sent of their answers. */
  abandoned = 0;
  /** Answers on their way, where that is looked at; made when there is one. */
  #deliveries?: Delivery<Info>[];
  /** Requests whose handlers look at their signal; made when one does. */
  watched?: Set<Info>;
  /** What it has become, where it speaks HTTP no more. */
  hijacked: Hijacked | undefined;
  readonly remoteAddr: Deno.Addr;
  /** That of a tcp connection. */
  #localAddr: Deno.Addr | undefined;
  /** That of a unix connection, where it was found. */
  #descriptor: Descriptor | undefined;
  #peer?: Peer | undefined;
  #cancel?: () => void;
  #cut = false;
  #probe?: Probe;
  /**
   * Whether an answer was given up on it, which by HTTP/2 stands in the way until the client takes
   * it.
   */
  #crippled = false;

  constructor(conn: Deno.Conn, owner: Owner, handler: RequestHandler) {
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

  /**
   * What its socket is known by; undefined if it is a unix socket, of which there are many of a
   * name.
   */
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
    // In the middle of a TLS handshake, the native loop would wait for the rest of it. And a unix
    // socket that is closing cannot be cut.
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

  /**
   * Whether more answers wait here than one connection may have. A single one may be of any size.
   */
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
    if (native.refused) {
      this.owner.onRefused(request, new Info(this, request, native.client), native.refused);
      return native.refused;
    }
    const first = this.state === "new";
    if (first) this.#once = this.#server?.once ?? false;
    counts.requests++;
    if (this.retired !== undefined) {
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
    // Of a first answer that is given at once it is not asked: it would take longer than all else
    // here.
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
    const last = this.#once || this.retired !== undefined || this.owner.lastAnswers;
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
    if (this.retired !== undefined || this.owner.parting) hijacked.leave();
    hijacked.ended.then(() => {
      this.owner.workload.requests++;
      info.leave();
      this.#answered(info);
      if (!lost.tooMany || lost.told) return;
      lost.told = true;
      this.owner.log(
        "error",
        `${lost.sockets} clients left as they were answered with a WebSocket, and Deno keeps their ` +
          "descriptors: no more WebSockets are served before a restart",
      );
    });
    return hijacked.answerable?.then(() => response, (error) => {
      if (this.state === "hijacked") this.state = "idle";
      this.hijacked = undefined;
      // The loop would send the 101, and take what the client sends then for requests.
      return this.#refuse(`the connection cannot be hijacked: ${messageOf(error)}`, info);
    }) ?? response;
  }

  /** Takes it over, for the handler of a request. */
  upgrade(request: Request, headers?: HeadersInit): PendingUpgrade {
    if (!/\bupgrade\b/i.test(headerOf(request, "connection") ?? "")) {
      throw new TypedError("bad parameter", "expected a request with Connection: Upgrade");
    }
    if (this.#server?.upgrade === undefined) {
      throw new TypedError("not implemented", this.owner.upgradeProblem());
    }
    return this.#server.upgrade(request, headers);
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
export class Info implements RequestInfo {
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
    const upgrade = this.#connection.upgrade(this.request, headers);
    this.completed.then(() => upgrade.refuse("the request was answered otherwise"));
    return upgrade;
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

/**
 * Says of an answer that it is the last. The native loop does not read this; it is told to close.
 */
function sayLast(response: Response): void {
  try {
    response.headers.set("connection", "close");
  } catch {
    // The headers of a fetched response cannot be changed; the client finds out by the close.
  }
}
