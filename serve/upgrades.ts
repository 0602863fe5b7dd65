/**
 * Raw upgrades: a request for one is answered with 101, and the handler hijacks the connection. The
 * native HTTP loop cannot do that, and refuses the requests of the docker CLI. So this module peeks
 * at the first request of a connection, and parses it if it asks for a raw upgrade. All other
 * connections go to the loop untouched; if a later request asks for an upgrade, the connection is
 * taken back from the loop.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { after, within } from "../engine/time.ts";
import {
  type Hijacked,
  type Serve,
  type Served,
  staticBody,
  type Transferred,
  withBody,
} from "../platform/http.ts";
import {
  canPeek,
  type Descriptor,
  descriptorOf,
  duplicate,
  hasEnded,
  peek,
  releaseDescriptor,
  type Stream,
  untilReadable,
} from "../platform/peek.ts";
export { findDescriptor, peekProblem, skipDescriptor } from "../platform/peek.ts";
import type { Upgrade, UpgradedConnection } from "../router/bindings.ts";
import type { Upgradable } from "../router/upgradable.ts";
import type { Upgrading } from "./handler.ts";

/**
 * Wraps `serve`, and serves raw upgrades besides.
 *
 * @param routes The routes with raw upgrades; without any, no connection is peeked at.
 */
export function upgrading(serve: Serve, routes: () => Upgradable | undefined): Serve {
  return (conn, ...rest) => {
    if (!routes()?.size) return serve(conn, ...rest);
    const descriptor = descriptorOf(conn);
    if (descriptor === undefined || !canPeek()) return serve(conn, ...rest);
    return new Front(conn, descriptor, serve, ...rest);
  };
}

type Signal = Parameters<Serve>[1];
type Handler = Parameters<Serve>[2];

/** A connection that is peeked at before the native loop gets it. */
class Front implements Upgrading {
  readonly finished: Promise<void>;
  /** Whether to close after the next answer: the loop would refuse an upgrade that may follow. */
  once = false;
  readonly #conn: Deno.Conn;
  readonly #descriptor: Descriptor;
  #native?: Served;
  /** Cancels the native loop's serving of the connection. */
  #cancel?: () => void;
  /** Whether its client speaks HTTP/1.0. */
  #tooOld = false;
  /** Whether it was closed before the native loop got it. */
  #over = false;
  /** Whether it has a request that was parsed here. */
  #answering = false;
  /** The last raw upgrade that a request has asked for. */
  #upgrade: RawUpgrade | undefined;
  /** The raw upgrade that has hijacked the connection. */
  #hijacked: RawUpgrade | undefined;

  constructor(
    conn: Deno.Conn,
    descriptor: Descriptor,
    serve: Serve,
    signal: Signal,
    handler: Handler,
    onError: (error: unknown) => Response,
    onListen: () => void,
  ) {
    this.#conn = conn;
    this.#descriptor = descriptor;
    signal.addEventListener("abort", () => this.#cut());
    const judge = (kind: number): Promise<void> => {
      if (kind === INCOMPLETE) return this.#lookAgain().then(judge);
      if (kind > 0) return this.#serveRaw(kind, handler, onError);
      this.once = kind === MAY_UPGRADE;
      this.#tooOld = kind === TOO_OLD;
      this.#native = serve(conn, this, handler, onError, onListen);
      return this.#native.finished;
    };
    const kind = look(descriptor);
    // Most clients have sent their first request by the time they are accepted.
    const served = kind === NOTHING
      ? untilReadable(conn).then(() => judge(this.#over ? PASS : look(descriptor)))
      : judge(kind);
    this.finished = served.then(
      () => this.#end(),
      (error) => {
        const ended = this.#end();
        // The loop reports an error for a connection that was taken back from it.
        if (ended) return ended;
        throw error;
      },
    );
  }

  /** Releases the descriptor. A connection that was taken back lives on by another one. */
  #end(): Promise<void> | undefined {
    releaseDescriptor(this.#descriptor);
    return this.#hijacked?.ended;
  }

  /** The only part of an abort signal that the native loop uses. */
  addEventListener(_type: "abort", cancel: () => void): void {
    this.#cancel = cancel;
  }

  shutdown(): Promise<void> {
    if (this.#native) return this.#native.shutdown();
    if (!this.#answering) this.#cut(); // Otherwise it closes after its answer.
    return Promise.resolve();
  }

  /** Prepares the upgrade that the handler of the request in work asks for. */
  upgrade(request: Request, headers?: HeadersInit): RawUpgrade {
    if (this.#tooOld) throw new TypedError("bad parameter", "expected a request of HTTP/1.1");
    if (this.#upgrade?.request !== request) this.#upgrade = new RawUpgrade(request, headers);
    return this.#upgrade;
  }

  hijack(response: Response, request: Request): Hijacked | undefined {
    const upgrade = this.#upgrade;
    if (upgrade?.request !== request) return this.#native?.hijack?.(response, request);
    if (this.#native) upgrade.answerable = this.#takeBack(upgrade, response);
    return this.#hijacked = upgrade;
  }

  #cut(): void {
    if (this.#hijacked) this.#hijacked.cut();
    else if (this.#native) this.#cancel?.();
    else {
      this.#over = true;
      closeQuietly(this.#conn);
    }
  }

  /** Polls for the rest of a header: epoll does not report more data behind unread data. */
  async #lookAgain(): Promise<number> {
    // A client that never sends the rest is cut when its time for a header is over.
    for (let i = 0; !this.#over; i++) {
      const pause = PAUSES[Math.min(i, PAUSES.length - 1)]!;
      await new Promise<void>((resolve) => after(pause, resolve));
      if (this.#over) break; // The descriptor may be another's.
      const ended = hasEnded(this.#descriptor);
      const kind = look(this.#descriptor);
      if (kind !== INCOMPLETE) return kind === NOTHING ? PASS : kind;
      if (ended) break; // The loop finds that out, too.
    }
    return PASS;
  }

  /** Serves a request that asks for a raw upgrade; `length` is that of its header. */
  async #serveRaw(
    length: number,
    handler: Handler,
    onError: (error: unknown) => Response,
  ): Promise<void> {
    const conn = this.#conn;
    this.#answering = true;
    const seen = window.slice(0, length);
    try {
      const head = new Uint8Array(length);
      for (let at = 0; at < length;) {
        const count = await conn.read(head.subarray(at));
        if (count === null) return;
        at += count;
      }
      if (!head.every((byte, i) => byte === seen[i])) throw new Error("not its descriptor");
      const left = new AbortController();
      const asked = RawRequest.parse(head, conn, left.signal);
      if (asked instanceof Response) {
        await handler(standIn(head), { completed: Promise.resolve(), refused: asked });
        return await answer(conn, asked, "GET");
      }
      void this.#watch(asked, left);
      const completed = Promise.withResolvers<void>();
      completed.promise.catch(() => {});
      let response: Response;
      try {
        response = await handler(asked.request, { completed: completed.promise });
        // As the native loop does.
        if (response.type === "error") throw new TypeError("the answer is Response.error()");
        if (response.bodyUsed) throw new TypeError("the body of the answer has been read");
      } catch (error) {
        response = onError(error);
      }
      const upgrade = this.#hijacked;
      if (upgrade && response.status === SWITCHING_PROTOCOLS) {
        await asked.finish();
        await writeAll(conn, headOf(response));
        completed.resolve();
        upgrade.take(conn, left);
        await upgrade.ended;
        return;
      }
      try {
        await answer(conn, response, asked.request.method);
        completed.resolve();
      } catch (error) {
        completed.reject(error);
      }
    } catch (error) {
      this.#upgrade?.refuse(error);
      throw error;
    } finally {
      closeQuietly(conn);
    }
  }

  /** Aborts a request's signal when its client leaves before it is answered. */
  async #watch(asked: RawRequest, left: AbortController): Promise<void> {
    const leave = () => {
      if (!this.#hijacked) left.abort(new DOMException("The client has left.", "AbortError"));
    };
    try {
      // A body that the handler has not read keeps the socket readable.
      await asked.complete;
      await untilReadable(this.#conn);
      if (peek(this.#descriptor.fd, window) === 0) leave();
    } catch {
      leave();
    }
  }

  /** Takes the connection back from the native loop, which has read the request. */
  async #takeBack(upgrade: RawUpgrade, response: Response): Promise<void> {
    let stream: Stream | undefined;
    try {
      stream = duplicate(this.#conn, this.#descriptor);
      this.#cancel?.();
      // By then the loop has closed its own descriptor.
      await this.#native!.finished.catch(() => {});
      await writeAll(stream, headOf(response));
      upgrade.take(stream, new AbortController());
    } catch (error) {
      if (stream) closeQuietly(stream);
      this.#hijacked = undefined;
      upgrade.refuse(error);
      throw error;
    }
  }
}

// ------------------------------------------------------------------ requests

/** The longest header that is peeked at, in bytes. */
const HEAD = 16_384;
const window = new Uint8Array(HEAD);

/** Results of {@linkcode judgeHead}, besides the length of a header that asks for an upgrade. */
const PASS = 0;
const INCOMPLETE = -1;
/** A client may ask for an upgrade later, on the same connection. */
const MAY_UPGRADE = -2;
/** The client has sent nothing yet. */
const NOTHING = -3;
/** It asks for one by HTTP/1.0, in which that means nothing (RFC 9110, 7.8). */
const TOO_OLD = -4;

/** Delays between polls for the rest of a header, in milliseconds. */
const PAUSES = [1, 2, 5, 10, 20, 50, 100, 200, 500];

const [LF, CR, COLON, SPACE] = [10, 13, 58, 32];
const [C, K, U] = [99, 107, 117];
const [CONNECTION, UPGRADE] = ["connection".length, "upgrade".length];

function look({ fd }: Descriptor): number {
  const count = peek(fd, window);
  return count < 0 ? NOTHING : judgeHead(window, count);
}

/**
 * Classifies the first bytes of a connection. The docker CLI opens a new connection for each
 * upgrade. Clients in Python, Node and Java reuse one, and all of them send `Connection:
 * keep-alive`, which HTTP/1.1 does not need.
 */
function judgeHead(bytes: Uint8Array, count: number): number {
  let upgrade = false;
  let keeps = false;
  let start = 0;
  while (start < count && (bytes[start] === CR || bytes[start] === LF)) start++;
  // On bytes: decoding them takes longer than everything else here.
  for (let at = bytes.indexOf(LF, start); at >= 0 && at < count; at = bytes.indexOf(LF, at + 1)) {
    // Behind `count` are those of another client.
    if (bytes[at + 1] === CR && at + 2 < count) {
      return bytes[at + 2] === LF && (upgrade || keeps) ? judgeText(bytes, at + 3) : PASS;
    }
    if (bytes[at + 1] === LF && at + 1 < count) return PASS; // The native loop refuses such lines.
    const first = (bytes[at + 1] ?? 0) | 0x20;
    if (first === U) upgrade ||= bytes[at + 1 + UPGRADE] === COLON;
    else if (first === C && bytes[at + 1 + CONNECTION] === COLON) {
      let value = at + 2 + CONNECTION;
      while (bytes[value] === SPACE) value++;
      keeps ||= ((bytes[value] ?? 0) | 0x20) === K;
    }
  }
  return count === HEAD ? PASS : count === 0 ? PASS : INCOMPLETE;
}

function judgeText(bytes: Uint8Array, length: number): number {
  const head = textOf(bytes.subarray(0, length));
  const wanted = /\r\nupgrade:[ \t]*([^\r\n]*?)[ \t]*\r\n/i.exec(head)?.[1];
  if (wanted === undefined || /^(websocket|h2c)$/i.test(wanted)) {
    // Browsers do not ask for raw upgrades.
    const keeps = /\r\nconnection:[ \t]*keep-alive[ \t]*\r\n/i.test(head) &&
      !/\r\nsec-fetch-/i.test(head);
    // Whatever it asks for first: their pools give any idle connection to an upgrade.
    return keeps ? MAY_UPGRADE : PASS;
  }
  if (!/\r\nconnection:[^\r\n]*\bupgrade\b/i.test(head)) return PASS;
  return HTTP_1_0.test(head) ? TOO_OLD : length;
}
const HTTP_1_0 = /^[^\r\n]* HTTP\/1\.0\r\n/;

/**
 * A header in Latin-1, without the empty lines that a client may send before it (RFC 9112, 2.2).
 */
function textOf(head: Uint8Array): string {
  // Not by the decoder of that name, which is one of Windows-1252 (Encoding, 4.2).
  return String.fromCharCode(...head).replace(/^[\r\n]+/, "");
}

/** The longest body of a request that asks for a raw upgrade, in bytes. */
const BODY = 1 << 20;
/** How long the unread rest of such a body may take, in milliseconds. */
const BODY_TIMEOUT = 10_000;
const TOKEN = /^[!#$%&'*+.^`|~\w-]+$/;
/** A line of a header. No other control character is in it (RFC 9110, 5.5). */
const FIELD = /^([!#$%&'*+.^`|~\w-]+):([\t -~\x80-\xff]*)$/;

/** A request that is parsed here, and not by the native loop. */
class RawRequest {
  readonly request: Request;
  readonly #conn: Stream;
  #left: number;
  readonly #complete = Promise.withResolvers<void>();
  /** Resolves when the body was read from the connection. */
  readonly complete = this.#complete.promise;
  /** Whether the client waits for a word before it sends the body. */
  #expects: boolean;

  private constructor(request: RequestInit & { url: string }, conn: Stream, length: number) {
    const { url, ...init } = request;
    this.#conn = conn;
    this.#left = length;
    if (length === 0) this.#complete.resolve();
    this.#expects = new Headers(init.headers).has("expect");
    this.request = new Request(url, { ...init, body: length > 0 ? this.#body() : null });
  }

  /** Parses a header; returns the response if it is malformed. */
  static parse(head: Uint8Array, conn: Stream, signal: AbortSignal): RawRequest | Response {
    const [line, ...lines] = textOf(head).slice(0, -4).split("\r\n");
    // To proxies, and so to servers, the whole URL may be sent (RFC 9112, 3.2.2).
    const [, method, authority, path] =
      /^(\S+) (?:[Hh][Tt]{2}[Pp]:\/\/([^\s/?#]+))?(\/\S*)? HTTP\/1\.1$/.exec(line!) ?? [];
    if (method === undefined || !TOKEN.test(method)) return bad();
    if (authority === undefined && path === undefined) return bad();
    const headers = new Headers();
    for (const each of lines) {
      const [, name, value] = FIELD.exec(each) ?? [];
      if (name === undefined) return bad();
      headers.append(name, value!);
    }
    // Both of these, or one of them twice, are used for request smuggling (RFC 9112, 6.3).
    const length = headers.get("content-length") ?? "0";
    if (headers.has("transfer-encoding")) return bad(411);
    if (!/^\d{1,15}$/.test(length)) return bad();
    const host = headers.get("host") ?? "localhost";
    if (!URL.canParse(`http://${host}/`) || /[\s/?#@\\,]/.test(host)) return bad();
    if (authority !== undefined && authority.toLowerCase() !== host.toLowerCase()) return bad();
    const body = Number(length);
    if (body > BODY) return bad(413);
    if (body > 0 && (method === "GET" || method === "HEAD")) return bad();
    if (!/^100-continue$/i.test(headers.get("expect") ?? "100-continue")) return bad(417);
    const url = `http://${host}${path ?? "/"}`;
    try {
      return new RawRequest({ url, method, headers, signal }, conn, body);
    } catch (error) {
      if (error instanceof TypeError) return bad(); // For a method such as TRACE.
      throw error;
    }
  }

  #body(): ReadableStream<Uint8Array<ArrayBuffer>> {
    return new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: async (controller) => {
        const chunk = await this.#take();
        if (chunk === undefined) throw new Deno.errors.UnexpectedEof("the request body broke off");
        controller.enqueue(chunk);
        if (this.#left === 0) controller.close();
      },
    }, { highWaterMark: 0 });
  }
  async #take(): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (this.#expects) await writeAll(this.#conn, CONTINUE);
    this.#expects = false;
    const buffer = new Uint8Array(Math.min(this.#left, CHUNK));
    const count = await this.#conn.read(buffer);
    if (count === null) return undefined;
    this.#left -= count;
    if (this.#left === 0) this.#complete.resolve();
    return buffer.subarray(0, count);
  }

  /** Discards the part of the body that the handler has not read. */
  async finish(): Promise<void> {
    const take = async () => {
      while (this.#left > 0) {
        if (await this.#take() === undefined) throw new Deno.errors.UnexpectedEof();
      }
    };
    if (!await within(BODY_TIMEOUT, take())) throw new TypedError("timeout", "no body came");
  }
}

/** For the log and the metrics: a request that has as much of a malformed one as can be had. */
function standIn(head: Uint8Array): Request {
  const [, method, target] = /^([!-~]{1,32}) (\/[!-~]*)?/.exec(textOf(head)) ?? [];
  const url = new URL("http://localhost/");
  url.pathname = target?.split("?", 1)[0] ?? "/";
  try {
    return new Request(url, method === undefined ? {} : { method });
  } catch (error) {
    if (error instanceof TypeError) return new Request(url); // For a method such as TRACE.
    throw error;
  }
}

function bad(status = 400): Response {
  return new Response(null, { status });
}

// ------------------------------------------------------------------ answers

const SWITCHING_PROTOCOLS = 101;
/** The most that is read at once, in bytes. */
const CHUNK = 65_536;
/** How long a client may take to close after our half-close, in milliseconds. */
const LINGER = 1_000;

const encoder = new TextEncoder();
const CONTINUE = encoder.encode("HTTP/1.1 100 Continue\r\n\r\n");
const REASONS: Record<number, string> = {
  101: "UPGRADED",
  200: "OK",
  400: "Bad Request",
  411: "Length Required",
  413: "Content Too Large",
  417: "Expectation Failed",
};

/** The head of an answer, as it goes over the wire. */
function headOf({ status, statusText, headers }: Response): Uint8Array {
  const lines = [`HTTP/1.1 ${status} ${statusText || (REASONS[status] ?? "")}`];
  for (const [name, value] of headers) lines.push(`${name}: ${value}`);
  const text = lines.join("\r\n") + "\r\n\r\n";
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** Sends an answer without an upgrade, and half-closes. */
async function answer(conn: Stream, given: Response, method: string): Promise<void> {
  // The headers of a redirect, or a fetched answer, cannot be changed, and those may be of
  // another's body.
  const held = staticBody(given);
  const response = withBody(given, given.body);
  const { body, headers, status } = response;
  if (held && !headers.has("content-length")) {
    const { length } = typeof held === "string" ? encoder.encode(held) : held;
    headers.set("content-length", String(length));
  }
  headers.set("connection", "close");
  if (!headers.has("date")) headers.set("date", new Date().toUTCString());
  headers.delete("transfer-encoding"); // Of the one that it was fetched from.
  const chunked = body !== null && !headers.has("content-length");
  if (chunked) headers.set("transfer-encoding", "chunked");
  // RFC 9110, 8.6.
  else if (status === 204) headers.delete("content-length");
  else if (body === null && status !== 304 && !headers.has("content-length")) {
    headers.set("content-length", "0");
  }
  await writeAll(conn, headOf(response));
  if (body && method !== "HEAD") {
    for await (const chunk of body) {
      if (chunk.length === 0) continue;
      if (chunked) await writeAll(conn, encoder.encode(chunk.length.toString(16) + "\r\n"));
      await writeAll(conn, chunk);
      if (chunked) await writeAll(conn, encoder.encode("\r\n"));
    }
    if (chunked) await writeAll(conn, encoder.encode("0\r\n\r\n"));
  } else {
    await body?.cancel();
  }
  await conn.closeWrite();
  await linger(conn);
}

/**
 * Discards data until the client closes: a close with unread data would reset the connection, and
 * the client would lose the end of the answer.
 */
async function linger(conn: Stream): Promise<void> {
  const buffer = new Uint8Array(4_096);
  const read = async () => {
    while (await conn.read(buffer) !== null);
  };
  const reading = read();
  reading.catch(() => {});
  await within(LINGER, reading);
}

async function writeAll(conn: Stream, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length;) at += await conn.write(bytes.subarray(at));
}

function closeQuietly(conn: { close(): void }): void {
  try {
    conn.close();
  } catch (error) {
    // It is closed already.
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

// ------------------------------------------------------------------ upgraded connections

/** How long a handler may leave a hijacked connection unused, in milliseconds. */
const UNUSED = 10_000;

/** A raw upgrade that a handler has asked for. */
class RawUpgrade implements Upgrade, Hijacked {
  readonly response: Response;
  readonly connection: Promise<UpgradedConnection>;
  readonly ended: Promise<void>;
  answerable?: Promise<void>;
  readonly #connection = Promise.withResolvers<UpgradedConnection>();
  readonly #ended = Promise.withResolvers<void>();
  #raw?: RawConnection;
  #leaving = false;
  #over = false;

  constructor(readonly request: Request, headers?: HeadersInit) {
    const all = new Headers(headers);
    all.set("connection", "Upgrade");
    if (!all.has("upgrade")) all.set("upgrade", "tcp");
    this.response = new Response(null, { status: SWITCHING_PROTOCOLS, headers: all });
    this.connection = this.#connection.promise;
    this.connection.catch(() => {}); // Handlers need not await it.
    this.ended = this.#ended.promise;
  }

  /** Called when the answer is sent: hands the connection to the handler. */
  take(stream: Stream, left: AbortController): void {
    if (this.#over) return closeQuietly(stream);
    const raw = this.#raw = new RawConnection(stream, left);
    raw.closed.then(() => this.#ended.resolve());
    if (this.#leaving) raw.leave();
    this.#connection.resolve(raw);
  }
  get transferred(): Transferred | undefined {
    return this.#raw?.transferred;
  }
  /** Called when there will be no connection. */
  refuse(reason: unknown): void {
    this.#over = true;
    this.#connection.reject(reason instanceof Error ? reason : new Error(String(reason)));
    this.#ended.resolve();
  }
  leave(): void {
    this.#leaving = true;
    this.#raw?.leave();
  }
  cut(): void {
    if (this.#raw) this.#raw.close();
    else this.refuse("the connection was cut");
  }
}

/** A hijacked connection. */
class RawConnection implements UpgradedConnection {
  readonly closed: Promise<void>;
  readonly transferred = { received: 0, sent: 0 };
  readonly #closed = Promise.withResolvers<void>();
  readonly #stream: Stream;
  readonly #left: AbortController;
  /** What is read into next. */
  #buffer: Uint8Array<ArrayBuffer> | undefined;
  #readable?: ReadableStream<Uint8Array>;
  #writable?: WritableStream<Uint8Array>;
  #controller?: ReadableByteStreamController;
  /** Whether the client has sent all, or the handler reads no more. */
  #readEnded = false;
  #writeEnded = false;
  /** Whether the handler has begun to read. */
  #reads = false;
  #over = false;
  #forget: () => void;

  constructor(stream: Stream, left: AbortController) {
    this.#stream = stream;
    this.#left = left;
    this.closed = this.#closed.promise;
    this.#forget = after(UNUSED, () => this.close());
  }

  get readable(): ReadableStream<Uint8Array> {
    this.#forget();
    return this.#readable ??= new ReadableStream({
      type: "bytes",
      start: (controller) => {
        this.#controller = controller;
        if (this.#readEnded) controller.close();
      },
      pull: (controller) => this.#pull(controller),
      cancel: () => this.#endReading(),
    }, { highWaterMark: 0 });
  }

  get writable(): WritableStream<Uint8Array> {
    this.#forget();
    return this.#writable ??= new WritableStream<Uint8Array>({
      write: (chunk) => this.#write(chunk),
      close: () => this.#endWriting(),
      abort: () => this.close(),
    });
  }

  close(): void {
    if (this.#over) return;
    this.#over = true;
    this.#forget();
    closeQuietly(this.#stream);
    this.#closed.resolve();
  }

  /** Tells the handler of a shutdown: ends `readable`, and aborts its signal. */
  leave(): void {
    if (!this.#readEnded) {
      this.#endOf(this.#controller);
      this.#endReading();
    }
    this.#left.abort(new TypedError("unavailable", "the daemon is shutting down"));
  }

  async #pull(controller: ReadableByteStreamController): Promise<void> {
    if (!this.#reads) this.#forget();
    this.#reads = true;
    try {
      // That of a reader that brings its own.
      const view = controller.byobRequest?.view;
      const buffer = view
        ? new Uint8Array(view.buffer as ArrayBuffer, view.byteOffset, view.byteLength)
        : this.#buffer ??= new Uint8Array(CHUNK);
      const count = await this.#stream.read(buffer);
      if (this.#readEnded) return; // By leave().
      if (count !== null) {
        this.transferred.received += count;
        if (view) return controller.byobRequest!.respond(count);
        // A copy of little holds no more than that; of much it would take longer than a new buffer.
        const much = count > CHUNK / 4;
        if (much) this.#buffer = undefined;
        return controller.enqueue(much ? buffer.subarray(0, count) : buffer.slice(0, count));
      }
      this.#endOf(controller);
      this.#endReading();
    } catch (error) {
      if (this.#readEnded) return;
      this.#break(error);
      throw error;
    }
  }

  #endOf(controller: ReadableByteStreamController | undefined): void {
    controller?.close();
    controller?.byobRequest?.respond(0); // Else a reader with a buffer of its own would wait on.
  }

  async #write(chunk: Uint8Array): Promise<void> {
    try {
      // Not by a function of its own, as above: at each await a part of a microsecond would go.
      let sent = await this.#stream.write(chunk);
      while (sent < chunk.length) sent += await this.#stream.write(chunk.subarray(sent));
      this.transferred.sent += sent;
    } catch (error) {
      this.#break(error);
      throw error;
    }
  }

  /** Called when the client is gone. */
  #break(reason: unknown): void {
    this.#left.abort(new DOMException("The client has left.", "AbortError"));
    if (!this.#readEnded) {
      this.#readEnded = true;
      this.#controller?.error(reason);
    }
    this.close();
  }

  #endReading(): void {
    this.#readEnded = true;
    if (this.#writeEnded) this.close();
  }

  async #endWriting(): Promise<void> {
    this.#writeEnded = true;
    try {
      await this.#stream.closeWrite();
      if (this.#readEnded || this.#readable === undefined) await linger(this.#stream);
      else {
        // The handler may read on until the client's half-close; if it does not read, nothing would
        // end this.
        if (!this.#reads) this.#forget = after(UNUSED, () => this.close());
        return;
      }
    } catch {
      // The client is gone already.
    }
    this.close();
  }
}
