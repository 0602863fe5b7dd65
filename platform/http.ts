/**
 * What Deno's HTTP server has without documenting it: serving a connection that was accepted
 * elsewhere, one header of a request, and the kind of an answer's body. A Deno that changes any of
 * it breaks this file, and tests/platform/http_test.ts says which part.
 *
 * @module
 */

import { keepingWebSockets } from "./websockets.ts";

/** What a connection has become that speaks HTTP no more. */
export interface Hijacked {
  /**
   * Resolves when the native loop may be given the answer, rejects if the connection cannot be
   * hijacked. Default: at once.
   */
  readonly answerable?: Promise<void>;
  /** Resolves when it has ended. Never rejects. */
  readonly ended: Promise<void>;
  /** What has gone over it so far, where that is known. */
  readonly transferred?: Transferred | undefined;
  /** Tells its client, and its handler, that the daemon is about to go. */
  leave(): void;
  /** Ends it at once. */
  cut(): void;
}

/** Bytes that have gone over a connection since it ceased to speak HTTP. */
export interface Transferred {
  /** From the client. */
  readonly received: number;
  /** To the client. */
  readonly sent: number;
}

/** A connection that is being served. */
export interface Served {
  /** Resolves when it has ended, rejects if it ended badly. */
  readonly finished: Promise<void>;
  /** Ends it once its answers are sent: at once where there are none. */
  shutdown(): Promise<void>;
  /**
   * Told of an answer with status 101, before it is sent: what the connection becomes by it, if
   * that is something that can be served. `finished` waits for its end.
   */
  hijack?(response: Response, request: Request): Hijacked | undefined;
}
/** What the server tells of a request besides itself. */
export interface ServedInfo {
  /** Resolves when the answer is complete, rejects if the client left before. */
  readonly completed: Promise<void>;
  /** The answer to a malformed request, which runs no handler and is only reported. */
  readonly refused?: Response;
}
/** Serves HTTP on a connection. */
export type Serve<Info extends ServedInfo = ServedInfo> = (
  connection: Deno.Conn,
  // Of an AbortSignal only this is called, so each connection is spared the real thing.
  signal: { addEventListener(type: "abort", listener: () => void): void },
  handler: (request: Request, info: Info) => Response | Promise<Response>,
  onError: (error: unknown) => Response,
  onListen: () => void,
) => Served;

/**
 * The native HTTP loop for one connection. Deno's own tests use it, its documentation does not name
 * it; there is no other way to serve a connection at the speed of `Deno.serve`.
 *
 * @throws {Error} If this Deno has none.
 */
export function nativeServe(): Serve {
  const deno = Deno as unknown as { internal: symbol } & Record<symbol, Record<string, unknown>>;
  const serve = deno[deno.internal]?.serveHttpOnConnection;
  if (typeof serve !== "function") {
    throw new Error(
      `Deno ${Deno.version.deno} cannot serve HTTP on a connection: ` +
        "Deno[Deno.internal].serveHttpOnConnection is no more",
    );
  }
  return keepingWebSockets(serve as Serve);
}

/**
 * The symbols under which the runtime keeps parts of its objects, by their descriptions, once
 * found.
 */
const symbols: Record<string, symbol | undefined> = {};

/**
 * The symbol of a description, which is the same in all objects that have one; undefined if none
 * has.
 */
function symbolOf(object: object, description: string): symbol | undefined {
  return symbols[description] ??= findSymbol(object, description);
}

function findSymbol(object: object | null, description: string): symbol | undefined {
  for (; object !== null; object = Object.getPrototypeOf(object)) {
    const found = Object.getOwnPropertySymbols(object).find((each) =>
      each.description === description
    );
    if (found !== undefined) return found;
  }
  return undefined;
}

/** @internal What the runtime keeps in an object, by the description of its symbol. */
export function partOf(object: object, description: string): unknown {
  const symbol = symbolOf(object, description);
  return symbol && (object as Parts)[symbol];
}

// Those of each request and answer. By a line of its own for each, which V8 makes faster than one
// that looks for different symbols.
let requestSymbol: symbol | undefined;
let responseSymbol: symbol | undefined;
let lazyBodySymbol: symbol | undefined;
type Parts = Record<symbol, unknown>;

/** @internal What the runtime has in a request. */
export function innerRequest(request: Request): unknown {
  return (request as unknown as Parts)[requestSymbol ??= symbolOf(request, "request")!];
}
function innerResponse(response: Response): unknown {
  return (response as unknown as Parts)[responseSymbol ??= symbolOf(response, "response")!];
}
function lazyBody(response: Response): unknown {
  return (response as unknown as Parts)[
    lazyBodySymbol ??= symbolOf(response, "lazy static body")!
  ];
}

/**
 * One header of a request that the native loop has made. To look at `request.headers` makes the
 * loop copy them all and answer by way of a promise, which is a sixth of all that a small request
 * takes; its inner object can be asked for just one.
 *
 * @param name In lower case.
 */
export function headerOf(request: Request, name: string): string | null {
  const inner = innerRequest(request) as { header?: unknown } | undefined;
  return typeof inner?.header === "function" ? inner.header(name) : request.headers.get(name);
}

/** A body that an answer holds whole. */
export type StaticBody = string | Uint8Array;

/** The body that an answer holds whole, null if it has none, and undefined if it is a stream. */
export function staticBody(response: Response): StaticBody | null | undefined {
  const inner = innerResponse(response) as {
    body?: { streamOrStatic?: { body?: unknown } } | null;
  } | undefined;
  const body = lazyBody(response) ?? inner?.body?.streamOrStatic?.body;
  if (typeof body === "string" || body instanceof Uint8Array) return body;
  // To look at a body makes a stream of it, where there is one.
  return inner?.body === null && response.body === null ? null : undefined;
}

/** Names and values of headers. */
export type HeaderList = readonly (readonly [name: string, value: string])[];

/** What the runtime keeps of an answer. */
interface InnerResponse {
  status: number;
  headerList: [string, string][];
  body: unknown;
}

/**
 * Makes answers that are alike but for their bodies, which are whole. A Response by itself checks
 * its headers and copies them each time, which takes longer than the job that answers.
 *
 * @throws {TypeError | RangeError} If there can be no such answer.
 */
export function answers(status: number, headers: HeaderList): (body: StaticBody) => Response {
  const init = { status, headers: headers.map(([name, value]): [string, string] => [name, value]) };
  const model = innerResponse(new Response("", init)) as
    | Partial<InnerResponse>
    | undefined;
  const Body = model?.body?.constructor as (new (held: unknown) => unknown) | undefined;
  if (Body === undefined || !Array.isArray(model?.headerList)) {
    return (body) => new Response(body as BodyInit, init);
  }
  return (body) => {
    const response = new Response(null);
    const inner = innerResponse(response) as InnerResponse;
    inner.status = status;
    // A list of its own, and pairs of its own, since a middleware may set headers.
    inner.headerList = headers.map(([name, value]) => [name, value]);
    inner.body = new Body({ body, consumed: false });
    return response;
  };
}

/**
 * Adds those headers to an answer whose names it has not. By itself `Headers.set` checks each, and
 * copies the answers whose headers cannot be changed, as of a redirect, which takes half as long
 * again as all else.
 *
 * @param headers In lower case, with values that are good ones.
 */
export function addHeaders(response: Response, headers: HeaderList): void {
  // Until it is asked for its headers, an answer is sent with those it was made with.
  const own = response.headers;
  const inner = innerResponse(response) as Partial<InnerResponse> | undefined;
  const list = inner?.headerList;
  for (const [name, value] of headers) {
    if (list === undefined) own.has(name) || own.set(name, value);
    else if (!list.some(([each]) => each.toLowerCase() === name)) list.push([name, value]);
  }
}

/** Headers that describe a body as it came, and not what `fetch` has decoded of it. */
const ENCODED: readonly string[] = ["content-encoding", "content-length", "transfer-encoding"];

/**
 * The same answer with another body. One that `fetch` has decoded still has the headers of the
 * encoded body: the native loop leaves them out, and of a copy it could not know.
 */
export function withBody(response: Response, body: ReadableStream | null): Response {
  const headers = new Headers(response.headers);
  const inner = innerResponse(response) as { bodyDecoded?: boolean } | undefined;
  if (inner?.bodyDecoded) { for (const name of ENCODED) headers.delete(name); }
  const { status, statusText } = response;
  return new Response(body as ReadableStream<Uint8Array<ArrayBuffer>>, {
    status,
    statusText,
    headers,
  });
}

/** The URL of a request, which the request itself does not keep: it may be given another. */
export function urlOf(request: Request): string {
  const inner = innerRequest(request) as { url?: () => string } | undefined;
  return typeof inner?.url === "function" ? inner.url() : request.url;
}

/**
 * Gives a request another URL, for itself and its copies. A new Request would take the other's body
 * over, and cost all that makes the native ones fast. It has to be before anything asks the request
 * for its URL.
 */
export function setUrl(request: Request, url: string): void {
  const inner = innerRequest(request) as { url?: () => string } | undefined;
  if (inner) inner.url = () => url;
}

/** The requests that others were made of. */
const originals = new WeakMap<Request, Request>();

/** Lets a request stand for the one that came in, of which it was made. */
export function standFor(request: Request, original: Request): void {
  originals.set(request, original);
}
/** The request that came in, for one that stands for it. */
export function originalOf(request: Request): Request {
  for (let original; (original = originals.get(request));) request = original;
  return request;
}

/**
 * What the runtime keeps of a request: an object of its class where the native loop has read it.
 */
interface InnerRequest {
  body: InnerBody | null;
  request?: Request;
  consumeTextBody?: unknown;
  onCancel?(callback: () => void): void;
}

/** What the runtime keeps of a body: all of it, or a stream. */
interface InnerBody {
  streamOrStatic: ReadableStream<Uint8Array> | { body: Uint8Array | string; consumed: boolean };
  source: unknown;
  length: number | null;
  readonly stream: ReadableStream<Uint8Array>;
  unusable(): boolean;
  consumed(): boolean;
  consume(): Uint8Array | Promise<Uint8Array>;
  cancel(reason: unknown): void;
  error(reason: unknown): void;
  clone(): InnerBody;
  createProxy(): InnerBody;
}

/**
 * Calls back when the client of a request leaves; soon after a complete answer as well, since Deno
 * tells the two apart nowhere. It goes by the native loop itself where that has read the request:
 * to ask it for a signal makes an error and its stack for each request.
 */
export function onGone(request: Request, callback: (reason?: unknown) => void): void {
  const inner = innerRequest(request) as InnerRequest | undefined;
  const { onCancel } = Object.getPrototypeOf(inner ?? {}) as InnerRequest;
  if (onCancel !== undefined) return onCancel.call(inner, callback);
  const { signal } = request;
  if (signal.aborted) callback(signal.reason);
  else signal.addEventListener("abort", () => callback(signal.reason), { once: true });
}

/** What stands between a request's body and whatever reads it. */
export interface BodyGuard {
  /** The signal that the request has from then on. */
  readonly signal: AbortSignal;
  /** Whether the body cannot be had any more. */
  readonly gone: boolean;
  /**
   * Told that a reader takes a body of which all has come, which gets what this throws.
   *
   * @param native Whether the native loop has read it.
   */
  take(size: number, native: boolean): void;
  /** Reads all of a body for a reader. */
  collect(source: BodySource): Promise<Uint8Array>;
  /** Gives what readers of the stream get in its place. */
  wrap(source: BodySource): ReadableStream<Uint8Array>;
}

/** What a body is read from. */
export type BodySource = NativeSource | ReadableStreamDefaultReader<Uint8Array>;

/** The part of Deno's core that reads. */
interface Core {
  read(resource: number, into: Uint8Array): Promise<number>;
  cancelRead(resource: number): void;
  tryClose(resource: number): void;
}

/**
 * A body that the native loop reads. The runtime's stream of it takes several microseconds a chunk,
 * and its buffers are of 64 KiB whatever the body is.
 */
export class NativeSource {
  #core: Core;
  #resource: number;
  /**
   * The lock on the runtime's stream, which would close the resource if it were collected as
   * garbage.
   */
  readonly lock: ReadableStreamDefaultReader;

  private constructor(core: Core, resource: number, lock: ReadableStreamDefaultReader) {
    this.#core = core;
    this.#resource = resource;
    this.lock = lock;
  }

  /** Takes the place of a stream, which is locked from then on. */
  static of(stream: ReadableStream<Uint8Array>): BodySource {
    const backing = partOf(stream, "[[resourceBacking]]") as { rid?: number } | undefined;
    const deno = Deno as unknown as { internal: symbol } & Record<symbol, { core?: Core }>;
    const core = deno[deno.internal]?.core;
    const reader = stream.getReader();
    if (!core || typeof core.read !== "function" || typeof backing?.rid !== "number") return reader;
    return new NativeSource(core, backing.rid, reader);
  }

  /**
   * Reads what comes next.
   *
   * @param into Where it goes. The native loop makes its own buffer for the connection as long, up
   * to which it reads a request at once from then on.
   * @returns How many bytes there are; 0 at the end.
   */
  async read(into: Uint8Array): Promise<number> {
    const count = await this.#core.read(this.#resource, into);
    if (count === 0) this.#core.tryClose(this.#resource);
    return count;
  }
  /** Reads no more. */
  cancel(_reason?: unknown): Promise<void> {
    this.#core.cancelRead(this.#resource);
    this.#core.tryClose(this.#resource);
    return Promise.resolve();
  }
}

/**
 * Puts a guard between the body of a request and whatever reads it. The request stays the same: to
 * make another one, with a stream of one's own, takes longer than all else about a small body. And
 * nothing is done before something asks for the body.
 *
 * @returns The request; undefined if it has no body, or one that was read.
 */
export function guardBody(request: Request, guard: BodyGuard): Request | undefined {
  const inner = innerRequest(request) as InnerRequest;
  const own = isNative(inner) ? undefined : inner.body;
  if (own === null || own?.unusable()) return undefined;
  new Guarded(inner, new GuardedBody(inner, guard, own));
  return request;
}

/**
 * Discards what is left of a guarded body: what is not read would keep its connection from further
 * requests.
 *
 * @returns Whether some of it had not come. Then the answer has to be a promise, or the loop closes
 * the connection after it, which resets a client that is still sending.
 */
export function discardBody(request: Request): boolean {
  const { body } = innerRequest(request) as InnerRequest;
  return body instanceof GuardedBody && body.discard();
}

/** How a request that the native loop has read gets its body. */
let nativeBody: ((this: InnerRequest) => InnerBody) | undefined;

/** Whether the native loop has read it, and no guard has its body yet. */
function isNative(inner: InnerRequest): boolean {
  if (Object.hasOwn(inner, "body")) return false;
  nativeBody ??= Object.getOwnPropertyDescriptor(Object.getPrototypeOf(inner), "body")?.get;
  return nativeBody !== undefined;
}

/** What a request calls that is asked for its signal for the first time. */
function onCancelGuarded(this: InnerRequest, callback: () => void): void {
  const { request } = this;
  if (request !== undefined) {
    // The loop aborts the signal of its request after complete answers too. From now on its request
    // is one that is like this one, and has no signal.
    const cache = symbolOf(request, "signalCache");
    if (cache) this.request = Object.create(request, { [cache]: { writable: true } });
  }
  const { signal } = (this.body as GuardedBody).guard;
  if (signal.aborted) callback();
  else signal.addEventListener("abort", callback, { once: true });
}

/** For classes whose fields go onto an object that there is. */
const Onto = function (object: object) {
  return object;
} as unknown as new (object: object) => object;

/**
 * What a guarded request has of its own, in place of what its class has. Fields are defined, which
 * a body that can only be got has to be; Object.defineProperty takes 20 times as long.
 */
class Guarded extends Onto {
  body: InnerBody;
  onCancel: typeof onCancelGuarded = onCancelGuarded;
  /** That of the class would take the text past the guard. */
  consumeTextBody: undefined;

  constructor(inner: InnerRequest, body: InnerBody) {
    super(inner);
    this.body = body;
  }
}

/** In place of what the runtime keeps of a request's body: it asks the guard. */
class GuardedBody implements InnerBody {
  readonly guard: BodyGuard;
  /** What is sent again where a fetch is redirected: no stream is. */
  readonly source = null;
  #inner: InnerRequest;
  #own: InnerBody | undefined;
  #native: boolean;
  #state: "untouched" | "wrapped" | "collected" = "untouched";

  constructor(inner: InnerRequest, guard: BodyGuard, own: InnerBody | undefined) {
    this.#inner = inner;
    this.guard = guard;
    this.#own = own;
    this.#native = own === undefined;
  }

  /**
   * The runtime's own. That of the native loop is asked for as late as can be: it copies what is
   * there.
   */
  get #body(): InnerBody {
    return this.#own ??= this.guard.gone
      ? bodyOf(this.guard.wrap(new ReadableStream().getReader()))
      : nativeBody!.call(this.#inner);
  }
  /** The same, where a reader gets only what the guard lets pass. */
  get #passed(): InnerBody {
    const body = this.#body;
    if (this.#state === "untouched" && !body.unusable()) {
      this.#state = "wrapped";
      body.streamOrStatic = this.guard.wrap(this.#sourceOf(body));
    }
    return body;
  }
  #sourceOf({ streamOrStatic, stream }: InnerBody): BodySource {
    return this.#native && streamOrStatic instanceof ReadableStream
      ? NativeSource.of(stream)
      : stream.getReader();
  }

  /** Whether some of it had not come. */
  discard(): boolean {
    if (!this.#native || this.#state !== "untouched") return false;
    const { streamOrStatic } = this.#own ?? nativeBody!.call(this.#inner);
    this.#own = undefined; // A reader that comes later asks the guard.
    if (!(streamOrStatic instanceof ReadableStream) || streamOrStatic.locked) return false;
    streamOrStatic.cancel().catch(() => {}); // It may have broken off, which is as good.
    return true;
  }

  consume(): Uint8Array | Promise<Uint8Array> {
    const body = this.#body;
    if (this.#state !== "untouched" || body.unusable()) return body.consume();
    const { streamOrStatic } = body;
    this.#state = "collected";
    if (streamOrStatic instanceof ReadableStream) return this.guard.collect(this.#sourceOf(body));
    const held = streamOrStatic.body;
    if (typeof held === "string") streamOrStatic.body = encoder.encode(held);
    this.guard.take(streamOrStatic.body.length, this.#native);
    return body.consume();
  }
  get stream(): ReadableStream<Uint8Array> {
    return this.#passed.stream;
  }
  get streamOrStatic(): InnerBody["streamOrStatic"] {
    return this.#passed.streamOrStatic;
  }
  set streamOrStatic(value: InnerBody["streamOrStatic"]) {
    this.#passed.streamOrStatic = value;
  }
  get length(): number | null {
    return this.#body.length;
  }
  unusable(): boolean {
    return this.#body.unusable();
  }
  consumed(): boolean {
    return this.#state === "collected" || this.#body.consumed();
  }
  cancel(reason: unknown): void {
    this.#passed.cancel(reason);
  }
  error(reason: unknown): void {
    this.#passed.error(reason);
  }
  clone(): InnerBody {
    return this.#passed.clone();
  }
  createProxy(): InnerBody {
    return this.#passed.createProxy();
  }
}

function bodyOf(stream: ReadableStream<Uint8Array>): InnerBody {
  const response = new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>);
  return (innerResponse(response) as { body: InnerBody }).body;
}
const encoder = new TextEncoder();

/**
 * An answer that finds out whether its request has come by HTTP/2, where a client need not take one
 * answer to get the next. Deno tells it nowhere, but what serves HTTP/1 looks at an answer for its
 * `then` once before it waits for it, and what serves HTTP/2 only waits. Where Deno has changed
 * that, every answer seems to go by HTTP/2, which is slower and no less right. (A stack tells it
 * too. But to format one, Deno may need a descriptor, and ends where there is none.)
 */
export class Probe implements PromiseLike<Response> {
  #answer: Promise<Response>;
  #looks = 0;

  /** Stands for the answer. To be returned by a handler, and nothing else done with it. */
  constructor(answer: Promise<Response>) {
    this.#answer = answer;
  }
  /** Whether it goes by HTTP/2; known from the next microtask on. */
  get http2(): boolean {
    return this.#looks < 2;
  }
  /** As that of a promise. */
  get then(): PromiseLike<Response>["then"] {
    this.#looks++;
    return (onfulfilled, onrejected) => this.#answer.then(onfulfilled, onrejected);
  }
}

/** How the native loop reads a stream, as {@linkcode watchReads} sees it. */
export interface Reads {
  /** Whether the loop waits for the stream, and has nothing of it that it could not pass on. */
  readonly pending: boolean;
  /** Ends the stream with an error, and tells its source. Nothing where it has ended. */
  fail(reason: unknown): void;
}

/** The runtime's own parts of a stream (Streams standard, 4.2.2 and 4.6.4). */
interface StreamParts {
  controller?: { error(reason: unknown): void };
  reader?: object;
}

/**
 * Watches the native loop read a stream, which it does a chunk at a time, when the last is passed
 * on. To put a stream of one's own in between costs several microseconds a chunk; this costs
 * nothing that can be measured.
 *
 * @param onRead Called when the loop asks for a chunk.
 * @param onCancel Called when the source is told that no more is wanted, with what resolves when it
 * has let go.
 * @returns Undefined where the loop does not read it so: a file, or a Deno that is made
 * differently.
 */
export function watchReads(
  stream: ReadableStream,
  onRead: () => void,
  onCancel: (released: Promise<unknown>) => void,
): Reads | undefined {
  if (partOf(stream, "[[resourceBacking]]")) return undefined;
  const controller = partOf(stream, "[[controller]]") as StreamParts["controller"];
  const pull = controller && symbolOf(controller, "[[PullSteps]]");
  const cancel = controller && symbolOf(controller, "[[CancelSteps]]");
  if (!controller || !pull || !cancel) return undefined;
  const steps = controller as unknown as Record<symbol, (argument: unknown) => unknown>;
  const pullSteps = steps[pull]!;
  const cancelSteps = steps[cancel]!;
  steps[pull] = (request) => {
    onRead();
    return pullSteps.call(controller, request);
  };
  steps[cancel] = (reason) => {
    const released = cancelSteps.call(controller, reason) as Promise<unknown>;
    onCancel(released);
    return released;
  };
  return {
    get pending() {
      const reader = partOf(stream, "[[reader]]") as object | undefined;
      const requests = reader && partOf(reader, "[[readRequests]]");
      const { size, length } = (requests ?? {}) as { size?: number; length?: number };
      return (size ?? length ?? 0) > 0;
    },
    fail(reason) {
      if (partOf(stream, "[[state]]") !== "readable") return;
      steps[cancel]!(reason);
      controller.error(reason);
    },
  };
}

const legacyAbort = "Deno.serve: request.signal aborts on successful responses";
let silenced = false;

/**
 * Deno warns, once a process, that a request's signal aborts after a complete answer as well. Here
 * no handler is misled by that, and a user who never called Deno.serve would be puzzled.
 */
export function silenceLegacyAbort(): void {
  if (silenced) return;
  silenced = true;
  const { warn } = console;
  const filter = (...args: unknown[]) => {
    if (!String(args[0]).startsWith(legacyAbort)) return warn.apply(console, args);
    if (console.warn === filter) console.warn = warn;
  };
  console.warn = filter;
}
