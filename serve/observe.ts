/**
 * Telling of each request what became of it, where something asks: a log, or metrics.
 *
 * @module
 */

import { staticBody } from "../platform/http.ts";
import type { Described } from "../router/bindings.ts";
import type { RequestHandler, RequestInfo } from "./handler.ts";

/** A request, and what became of it. */
export class Exchange {
  /** The status of the answer. */
  status = 500;
  /** How many bytes of its body were given to the client. */
  bytes = 0;
  /** Whether the client left before the answer was complete. */
  brokenOff = false;
  /** What the router knows of it; undefined where it was refused before. */
  described: Described | undefined = undefined;
  #observers: readonly RequestObserver[];
  #method: string | undefined;

  /** A request that has come in. */
  constructor(
    readonly request: Request,
    readonly info: RequestInfo,
    /** When it came in, by `performance.now()`; undefined where no observer has looked at the clock. */
    readonly started: number | undefined,
    /** Whether the answer is to have the request's id. */
    readonly identified: boolean,
    observers: readonly RequestObserver[],
  ) {
    this.#observers = observers;
  }

  get method(): string {
    // A router has asked the request for it, which is faster asked than that.
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

/** What asks about requests. */
export interface RequestObserver {
  /** Whether it wants to know how long the request takes that comes in now. */
  times(): boolean;
  /** Whether it wants each request to have an id, which its answer has, too. */
  readonly identifies?: boolean;
  /** Told of a request while it can be looked at, which it cannot any more once its client is gone. */
  began?(exchange: Exchange): void;
  /** Told of a request when its answer is complete, or its client gone. */
  ended(exchange: Exchange): void;
}

/** A handler that tells the observers which there are at the moment of each of its requests. */
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
    exchange.ended();
    throw error;
  }
  // By now it has the URL that the client has asked for.
  exchange.began();
  if (!(answer instanceof Promise)) return watch(exchange, answer);
  return answer.then((response) => watch(exchange, response), (error) => {
    exchange.ended();
    throw error;
  });
}

const encoder = new TextEncoder();
const scratch = new Uint8Array(65_536);
let lastText = "";
let lastLength = 0;

function lengthOf(body: string | Uint8Array | null): number {
  if (body === null) return 0;
  if (typeof body !== "string") return body.length;
  // Many answers are one text, again and again.
  if (body === lastText) return lastLength;
  if (body.length * 3 > scratch.length) return encoder.encode(body).length;
  lastText = body;
  return lastLength = encoder.encodeInto(body, scratch).written;
}

/** An answer that the buffers of a socket take at once counts as complete when it is given. */
const SMALL = 65_536;

function watch(exchange: Exchange, response: Response): Response {
  exchange.status = response.status;
  const { info } = exchange;
  const body = exchange.method === "HEAD" ? null : staticBody(response);
  if (body !== undefined) {
    exchange.bytes = lengthOf(body);
    if (exchange.bytes <= SMALL && response.status !== 101) {
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

/** The same answer, whose bytes are counted on their way. */
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
  return new Response(body, response);
}
