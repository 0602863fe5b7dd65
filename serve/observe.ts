/**
 * Observers of requests: the access log and the metrics.
 *
 * @module
 */

import { staticBody, type Transferred, withBody } from "../platform/http.ts";
import { UpgradeRequired } from "../platform/websockets.ts";
import type { Described } from "../router/bindings.ts";
import type { RequestHandler, RequestInfo } from "./handler.ts";

/** A request and its outcome. */
export class Exchange {
  /** The status of the answer. */
  status = 500;
  /** The bytes of its body, or on the connection that it has hijacked, that the client was sent. */
  bytes = 0;
  /** The bytes on the connection that it has hijacked, if they are known. */
  transferred: Transferred | undefined = undefined;
  /** Whether the client left before the answer was complete. */
  brokenOff = false;
  /** The router's description; undefined if it was refused before. */
  described: Described | undefined = undefined;
  #observers: readonly RequestObserver[];
  #method: string | undefined;

  /** Begins with a request that has come in. */
  constructor(
    readonly request: Request,
    readonly info: RequestInfo,
    /** When it came in, by `performance.now()`; undefined if no observer measures it. */
    readonly started: number | undefined,
    /** Whether the answer gets the request's id. */
    readonly identified: boolean,
    observers: readonly RequestObserver[],
  ) {
    this.#observers = observers;
  }

  get method(): string {
    // The router's copy: to ask the request is slower.
    return this.#method ??= this.described?.method ?? this.request.method;
  }

  began(): void {
    const observers = this.#observers;
    for (let i = 0; i < observers.length; i++) observers[i]!.began?.(this);
  }
  ended(): void {
    const observers = this.#observers;
    for (let i = 0; i < observers.length; i++) observers[i]!.ended(this);
  }
}

/** An observer of requests. */
export interface RequestObserver {
  /** Whether to measure the duration of the request that comes in now. */
  times(): boolean;
  /** Whether each request needs an id, which its answer gets too. */
  readonly identifies?: boolean;
  /** Called while the request can be read: it cannot once its client is gone. */
  began?(exchange: Exchange): void;
  /** Called when the answer is complete, or the client gone. */
  ended(exchange: Exchange): void;
}

/** Wraps a handler: reports its requests to the observers that there are at that time. */
export function observed(
  handler: RequestHandler,
  observers: readonly RequestObserver[],
): RequestHandler {
  return (request, info) =>
    observers.length === 0 ? handler(request, info) : observe(handler, observers, request, info);
}

function observe(
  handler: RequestHandler,
  observers: readonly RequestObserver[],
  request: Request,
  info: RequestInfo,
): Response | Promise<Response> {
  let timed = false;
  let identified = false;
  for (let i = 0; i < observers.length; i++) {
    if (observers[i]!.times()) timed = true;
    if (observers[i]!.identifies) identified = true;
  }
  const started = timed ? performance.now() : undefined;
  const exchange = new Exchange(request, info, started, identified, observers);
  info.exchange = exchange;
  let answer: Response | Promise<Response>;
  try {
    answer = handler(request, info);
  } catch (error) {
    exchange.began();
    return fail(exchange, error);
  }
  // The handler has set the URL that the client asked for.
  exchange.began();
  if (!(answer instanceof Promise)) return watch(exchange, answer);
  return answer.then((response) => watch(exchange, response), (error) => fail(exchange, error));
}

function fail(exchange: Exchange, error: unknown): never {
  if (error instanceof UpgradeRequired) exchange.status = error.status;
  exchange.ended();
  throw error;
}

/** Reports a request to the observers that was answered before it came to a handler. */
export function tellRefused(
  observers: readonly RequestObserver[],
  request: Request,
  info: RequestInfo,
  response: Response,
): void {
  if (observers.length === 0) return;
  const exchange = new Exchange(request, info, performance.now(), false, observers);
  exchange.began();
  exchange.status = response.status;
  exchange.bytes = lengthOf(staticBody(response) ?? null);
  exchange.ended();
}

const encoder = new TextEncoder();
const scratch = new Uint8Array(65_536);
let lastText = "";
let lastLength = 0;

function lengthOf(body: string | Uint8Array | null): number {
  if (body === null) return 0;
  if (typeof body !== "string") return body.length;
  // Many answers are the same text.
  if (body === lastText) return lastLength;
  if (body.length * 3 > scratch.length) return encoder.encode(body).length;
  lastText = body;
  return lastLength = encoder.encodeInto(body, scratch).written;
}

/** RFC 9110, 15.2.2. */
const SWITCHING_PROTOCOLS = 101;
/** An answer that fits the buffers of a socket counts as complete at once. */
const SMALL = 65_536;

function watch(exchange: Exchange, response: Response): Response {
  exchange.status = response.status;
  const { info } = exchange;
  if (response.status === SWITCHING_PROTOCOLS) {
    // It ends with its connection, which is never broken off.
    info.completed.then(() => {
      exchange.transferred = info.transferred;
      exchange.bytes += info.transferred?.sent ?? 0;
      exchange.ended();
    });
    return response;
  }
  const body = exchange.method === "HEAD" ? null : staticBody(response);
  if (body !== undefined) {
    exchange.bytes = lengthOf(body);
    if (exchange.bytes <= SMALL) {
      exchange.ended();
      return response;
    }
  }
  info.completed.then(() => {
    exchange.brokenOff = info.left;
    exchange.ended();
  });
  return body === undefined ? counted(response, exchange) : response;
}

/** Wraps an answer to count its bytes. */
function counted(response: Response, exchange: Exchange): Response {
  const source = response.body!.getReader();
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      const { value, done } = await source.read();
      if (done) return controller.close();
      exchange.bytes += value.length;
      controller.enqueue(value);
    },
    cancel: (reason) => source.cancel(reason),
  }, { highWaterMark: 0 });
  return withBody(response, body);
}
