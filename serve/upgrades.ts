/**
 * Connections that stop to speak HTTP: a request that asks for a raw upgrade is answered with 101, and
 * what follows are bytes both ways. The native loop has no way for them, and refuses those that the
 * docker CLI sends. So a connection's first request is looked at before the loop has it, and read here
 * if it asks for one. All others go to the loop untouched; if a later one asks, the connection is taken
 * back from it.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { after, within } from "../engine/time.ts";
import type { Hijacked, Serve, Served } from "../platform/http.ts";
import {
  canPeek,
  type Descriptor,
  descriptorOf,
  duplicate,
  peek,
  releaseDescriptor,
  type Stream,
  untilReadable,
} from "../platform/peek.ts";
export { findDescriptor, peekProblem, skipDescriptor } from "../platform/peek.ts";
import type { Upgrade, UpgradedConnection } from "../router/bindings.ts";
import type { Upgrading } from "./handler.ts";

/** What may ask for raw upgrades: the first segments of those routes' paths, `*` for any. */
export type Upgradable = ReadonlySet<string>;

/**
 * Serves connections with `serve`, and raw upgrades besides.
 *
 * @param routes What may ask for one; with nothing in it no connection is looked at.
 */
export function upgrading(serve: Serve, routes: () => Upgradable | undefined): Serve {
  return (conn, ...rest) => {
    const upgradable = routes();
    if (!upgradable?.size) return serve(conn, ...rest);
    const descriptor = descriptorOf(conn);
    if (descriptor === undefined || !canPeek()) return serve(conn, ...rest);
    return new Front(conn, descriptor, upgradable, serve, ...rest);
  };
}

type Signal = Parameters<Serve>[1];
type Handler = Parameters<Serve>[2];

/** A connection that is looked at before the native loop has it. */
class Front implements Upgrading {
  readonly finished: Promise<void>;
  /** Whether the next answer should be the last, because the loop would refuse what may come then. */
  once = false;
  readonly #conn: Deno.Conn;
  readonly #descriptor: Descriptor;
  #native?: Served;
  /** What ends the native loop's connection. */
  #cancel?: () => void;
  /** Whether it has a request that is read here. */
  #answering = false;
  /** The raw upgrade that the request asks for which is being answered. */
  #upgrade?: RawUpgrade;
  /** What the connection has become. */
  #hijacked?: RawUpgrade;

  constructor(
    conn: Deno.Conn,
    descriptor: Descriptor,
    routes: Upgradable,
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
      if (kind === INCOMPLETE) return this.#lookAgain(routes).then(judge);
      if (kind > 0) return this.#serveRaw(kind, handler, onError);
      this.once = kind === MAY_UPGRADE;
      this.#native = serve(conn, this, handler, onError, onListen);
      return this.#native.finished;
    };
    const kind = this.#look(routes);
    // Most clients have sent their request by now.
    const served = kind === NOTHING
      ? untilReadable(conn).then(() => judge(this.#look(routes)))
      : judge(kind);
    this.finished = served.then(
      () => this.#end(),
      (error) => {
        const ended = this.#end();
        // Taken back from the loop, which takes that for an error.
        if (ended) return ended;
        throw error;
      },
    );
  }

  /** The connection is free; what it has become may live on, as another. */
  #end(): Promise<void> | undefined {
    releaseDescriptor(this.#descriptor);
    return this.#hijacked?.ended;
  }

  /** All that the native loop asks of its abort signal. */
  addEventListener(_type: "abort", cancel: () => void): void {
    this.#cancel = cancel;
  }

  shutdown(): Promise<void> {
    if (this.#native) return this.#native.shutdown();
    if (!this.#answering) this.#cut(); // It ends behind its answer.
    return Promise.resolve();
  }

  /** Asks for the connection, for the handler of the request that is being answered. */
  upgrade(headers?: HeadersInit): RawUpgrade {
    return this.#upgrade ??= new RawUpgrade(headers);
  }

  hijack(response: Response, request: Request): Hijacked | undefined {
    const upgrade = this.#upgrade;
    if (upgrade === undefined) return this.#native?.hijack?.(response, request);
    if (this.#native) upgrade.answerable = this.#takeBack(upgrade, response);
    return this.#hijacked = upgrade;
  }

  #cut(): void {
    if (this.#hijacked) this.#hijacked.cut();
    else if (this.#native) this.#cancel?.();
    else closeQuietly(this.#conn);
  }

  #look(routes: Upgradable): number {
    const count = peek(this.#descriptor.fd, window);
    return count < 0 ? NOTHING : judgeHead(window, count, routes);
  }

  /** Waits for the rest of a header, which nothing tells of as long as what there is was not taken. */
  async #lookAgain(routes: Upgradable): Promise<number> {
    for (const pause of PAUSES) {
      await new Promise<void>((resolve) => after(pause, resolve));
      const kind = this.#look(routes);
      if (kind !== INCOMPLETE) return kind === NOTHING ? PASS : kind;
    }
    return PASS; // The native loop has its own patience.
  }

  /** Serves a request that asks for a raw upgrade, whose header is so long. */
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
      if (asked instanceof Response) return await answer(conn, asked, "GET");
      void this.#watch(asked, left);
      const completed = Promise.withResolvers<void>();
      completed.promise.catch(() => {});
      let response: Response;
      try {
        response = await handler(asked.request, { completed: completed.promise });
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
      this.#upgrade?.refuse("the request was answered otherwise");
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
      // What it still has to send would be taken for a sign of life, again and again.
      if (asked.hasBody) return;
      await untilReadable(this.#conn);
      if (peek(this.#descriptor.fd, window) === 0) leave();
    } catch {
      leave();
    }
  }

  /** Takes the connection from the native loop, which has read a request and answered nothing. */
  async #takeBack(upgrade: RawUpgrade, response: Response): Promise<void> {
    let stream: Stream | undefined;
    try {
      stream = duplicate(this.#descriptor.fd);
      this.#cancel?.();
      // The loop has let go of its own descriptor then.
      await this.#native!.finished.catch(() => {});
      await writeAll(stream, headOf(response));
      upgrade.take(stream, new AbortController());
    } catch (error) {
      if (stream) closeQuietly(stream);
      upgrade.refuse(error);
    }
  }
}

// ------------------------------------------------------------------ what a client has sent

/** The longest header that is looked at, in bytes. */
const HEAD = 16_384;
const window = new Uint8Array(HEAD);
const latin1 = new TextDecoder("latin1");

/** What {@linkcode judgeHead} finds, besides the length of a header that asks for a raw upgrade. */
const PASS = 0;
const INCOMPLETE = -1;
/** A client may ask for an upgrade later, on the same connection. */
const MAY_UPGRADE = -2;
/** A client has sent nothing yet. */
const NOTHING = -3;

/** How long the rest of a header is waited for, each time, in milliseconds. */
const PAUSES = [1, 2, 5, 10, 20, 50, 100, 200, 500];

const [LF, CR, COLON, SPACE] = [10, 13, 58, 32];
const [C, K, U] = [99, 107, 117];
const [CONNECTION, UPGRADE] = ["connection".length, "upgrade".length];

/**
 * Judges what a client has sent first. The docker CLI takes a new connection for each upgrade. Others take
 * one that they have kept: clients in Python, in Node and in Java, which all say that they want to
 * keep it, in a header that is not needed since HTTP/1.1.
 */
function judgeHead(bytes: Uint8Array, count: number, routes: Upgradable): number {
  let upgrade = false;
  let keeps = false;
  // By bytes, because to make a text of them takes longer than all else here.
  for (let at = bytes.indexOf(LF); at >= 0 && at < count; at = bytes.indexOf(LF, at + 1)) {
    const first = (bytes[at + 1] ?? 0) | 0x20;
    if (bytes[at + 1] === CR) return upgrade || keeps ? judgeText(bytes, at + 3, routes) : PASS;
    if (first === U) upgrade ||= bytes[at + 1 + UPGRADE] === COLON;
    else if (first === C && bytes[at + 1 + CONNECTION] === COLON) {
      let value = at + 2 + CONNECTION;
      while (bytes[value] === SPACE) value++;
      keeps ||= ((bytes[value] ?? 0) | 0x20) === K;
    }
  }
  return count === HEAD ? PASS : count === 0 ? PASS : INCOMPLETE;
}

function judgeText(bytes: Uint8Array, length: number, routes: Upgradable): number {
  const head = latin1.decode(bytes.subarray(0, length));
  const wanted = /\r\nupgrade:[ \t]*([^\r\n]*?)[ \t]*\r\n/i.exec(head)?.[1];
  if (wanted === undefined || /^(websocket|h2c)$/i.test(wanted)) {
    // A browser asks for no raw upgrades.
    const keeps = /\r\nconnection:[ \t]*keep-alive[ \t]*\r\n/i.test(head) &&
      !/\r\nsec-fetch-/i.test(head);
    const segment = /^\S+ (?:\/v\d[\d.]*)?\/([^/?\s]*)/.exec(head)?.[1];
    const near = routes.has("*") || (segment !== undefined && routes.has(segment));
    return keeps && near ? MAY_UPGRADE : PASS;
  }
  return /\r\nconnection:[^\r\n]*\bupgrade\b/i.test(head) ? length : PASS;
}

/** The longest body of a request that asks for a raw upgrade, in bytes. */
const BODY = 1 << 20;
/** How long what is left of such a body may take, in milliseconds. */
const BODY_TIMEOUT = 10_000;
const TOKEN = /^[!#$%&'*+.^`|~\w-]+$/;

/** A request that is read here, and not by the native loop. */
class RawRequest {
  readonly request: Request;
  readonly hasBody: boolean;
  readonly #conn: Stream;
  #left: number;

  private constructor(request: RequestInit & { url: string }, conn: Stream, length: number) {
    const { url, ...init } = request;
    this.#conn = conn;
    this.#left = length;
    this.hasBody = length > 0;
    this.request = new Request(url, { ...init, body: this.hasBody ? this.#body() : null });
  }

  /** A request of its header, or what it is answered with at once if that is none. */
  static parse(head: Uint8Array, conn: Stream, signal: AbortSignal): RawRequest | Response {
    const [line, ...lines] = latin1.decode(head).slice(0, -4).split("\r\n");
    const [, method, target] = /^(\S+) (\/\S*) HTTP\/1\.1$/.exec(line!) ?? [];
    if (method === undefined || !TOKEN.test(method)) return bad();
    const headers = new Headers();
    for (const each of lines) {
      const colon = each.indexOf(":");
      const name = each.slice(0, colon);
      if (colon < 1 || !TOKEN.test(name)) return bad();
      try {
        headers.append(name, each.slice(colon + 1).trim());
      } catch {
        return bad();
      }
    }
    // Whoever combines these, or repeats one, means to be read in two ways (RFC 9112, 6.3).
    const length = headers.get("content-length") ?? "0";
    if (headers.has("transfer-encoding")) return bad(411);
    if (!/^\d{1,15}$/.test(length)) return bad();
    const host = headers.get("host") ?? "localhost";
    if (!URL.canParse(`http://${host}/`) || /[\s/?#@\\,]/.test(host)) return bad();
    const body = Number(length);
    if (body > BODY) return bad(413);
    if (body > 0 && (method === "GET" || method === "HEAD")) return bad();
    const url = `http://${host}${target}`;
    try {
      return new RawRequest({ url, method, headers, signal }, conn, body);
    } catch (error) {
      if (error instanceof TypeError) return bad(); // A method such as TRACE.
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
    const buffer = new Uint8Array(Math.min(this.#left, CHUNK));
    const count = await this.#conn.read(buffer);
    if (count === null) return undefined;
    this.#left -= count;
    return buffer.subarray(0, count);
  }

  /** Takes what the handler has left of the body off the connection. */
  async finish(): Promise<void> {
    const take = async () => {
      while (this.#left > 0) {
        if (await this.#take() === undefined) throw new Deno.errors.UnexpectedEof();
      }
    };
    if (!await within(BODY_TIMEOUT, take())) throw new TypedError("timeout", "no body came");
  }
}

function bad(status = 400): Response {
  return new Response(null, { status });
}

// ------------------------------------------------------------------ what it is answered

const SWITCHING_PROTOCOLS = 101;
/** The most that is read at once, in bytes. */
const CHUNK = 65_536;
/** How long a client may take to hear of our end before its connection is closed, in milliseconds. */
const LINGER = 1_000;

const encoder = new TextEncoder();
const REASONS: Record<number, string> = { 101: "UPGRADED", 200: "OK" };

/** The head of an answer, as it goes over the wire. */
function headOf(
  { status, statusText, headers }: Response,
  more: [string, string][] = [],
): Uint8Array {
  const lines = [`HTTP/1.1 ${status} ${statusText || (REASONS[status] ?? "")}`];
  for (const [name, value] of [...headers, ...more]) lines.push(`${name}: ${value}`);
  const text = lines.join("\r\n") + "\r\n\r\n";
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** Answers without an upgrade. The connection is of no more use then. */
async function answer(conn: Stream, response: Response, method: string): Promise<void> {
  const { body } = response;
  const more: [string, string][] = [["connection", "close"], ["date", new Date().toUTCString()]];
  response.headers.delete("connection");
  const chunked = body !== null && !response.headers.has("content-length");
  if (chunked) more.push(["transfer-encoding", "chunked"]);
  else if (body === null && !response.headers.has("content-length")) {
    more.push(["content-length", "0"]);
  }
  await writeAll(conn, headOf(response, more));
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

/** Waits for a client's own end: what it still sends would make a reset of our close, and lose our last words. */
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
    // It has ended by itself.
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}

// ------------------------------------------------------------------ what a handler has of it

/** How long a handler may take to use a connection that it has asked for, in milliseconds. */
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

  constructor(headers?: HeadersInit) {
    const all = new Headers(headers);
    all.set("connection", "Upgrade");
    if (!all.has("upgrade")) all.set("upgrade", "tcp");
    this.response = new Response(null, { status: SWITCHING_PROTOCOLS, headers: all });
    this.connection = this.#connection.promise;
    this.connection.catch(() => {}); // A handler need not look.
    this.ended = this.#ended.promise;
  }

  /** The answer is sent, and the connection is the handler's. */
  take(stream: Stream, left: AbortController): void {
    if (this.#over) return closeQuietly(stream);
    const raw = this.#raw = new RawConnection(stream, left);
    raw.closed.then(() => this.#ended.resolve());
    if (this.#leaving) raw.leave();
    this.#connection.resolve(raw);
  }
  /** There will be no connection. */
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

/** A connection that speaks HTTP no more. */
class RawConnection implements UpgradedConnection {
  readonly closed: Promise<void>;
  readonly #closed = Promise.withResolvers<void>();
  readonly #stream: Stream;
  readonly #left: AbortController;
  readonly #buffer = new Uint8Array(CHUNK);
  #readable?: ReadableStream<Uint8Array>;
  #writable?: WritableStream<Uint8Array>;
  #controller?: ReadableStreamDefaultController<Uint8Array>;
  /** Whether there is nothing more to read, or nobody who would. */
  #readEnded = false;
  #writeEnded = false;
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
    return this.#readable ??= new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
        if (this.#readEnded) controller.close();
      },
      pull: () => this.#pull(),
      cancel: () => this.#endReading(),
    }, { highWaterMark: 0 });
  }

  get writable(): WritableStream<Uint8Array> {
    this.#forget();
    return this.#writable ??= new WritableStream<Uint8Array>({
      write: async (chunk) => {
        try {
          await writeAll(this.#stream, chunk);
        } catch (error) {
          this.#break(error);
          throw error;
        }
      },
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

  /** Ends what the handler reads, and tells it by its signal. */
  leave(): void {
    if (!this.#readEnded) {
      this.#controller?.close();
      this.#endReading();
    }
    this.#left.abort(new TypedError("unavailable", "the daemon is shutting down"));
  }

  async #pull(): Promise<void> {
    try {
      const count = await this.#stream.read(this.#buffer);
      if (this.#readEnded) return; // It was told that there is nothing more.
      if (count !== null) return this.#controller!.enqueue(this.#buffer.slice(0, count));
      this.#controller!.close();
      this.#endReading();
    } catch (error) {
      if (this.#readEnded) return;
      this.#break(error);
      throw error;
    }
  }

  /** The client is gone. */
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
      else return; // The handler reads on, to the client's own end.
    } catch {
      // The client is gone already, and with it all that it could have been told.
    }
    this.close();
  }
}
