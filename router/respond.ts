/**
 * Making responses so that Hono keeps the headers that middleware has set.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import { withBody } from "../platform/http.ts";
import type { Bindings } from "./bindings.ts";

/** Hono's context of a request. */
export type RequestContext = Context<{ Bindings: Bindings }>;

/** Statuses of responses without a body (Fetch, 2.2.3). */
export const BODYLESS: readonly number[] = [204, 205, 304];

/** The status and headers of a response. */
export interface Init {
  readonly status: number;
  readonly headers: Record<string, string>;
}

/**
 * A response; made through Hono's context if there is one, since middleware may have set headers on
 * it. `init` has to include the headers of all answers.
 */
export function respond(
  c: RequestContext | undefined,
  body: BodyInit | null,
  init: Init,
): Response {
  if (BODYLESS.includes(init.status)) body = null;
  if (c === undefined) return new Response(body, init);
  const response = c.newResponse(
    body as string | null,
    init as Parameters<typeof c.newResponse>[1],
  );
  // If an answer was complete before this error, Hono copies its headers; these describe its body.
  if (c.finalized) {
    for (const name of ["content-length", "content-encoding"]) response.headers.delete(name);
  }
  return response;
}

/**
 * The same response with a stream that ends regularly when `stopping` is aborted. Its source is
 * then cancelled, as it is when the client leaves.
 */
export function endingAt(stopping: AbortSignal, response: Response): Response {
  const source = response.body!.getReader();
  let controller: ReadableStreamDefaultController<Uint8Array<ArrayBuffer>>;
  let open = true;
  const end = () => {
    if (open) controller.close();
    open = false;
    stopping.removeEventListener("abort", stop);
  };
  const stop = () => {
    end();
    source.cancel(stopping.reason).catch(() => {}); // The source is not read again.
  };
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start: (given) => void (controller = given),
    async pull() {
      const { value, done } = await source.read();
      if (done) end();
      else if (open) controller.enqueue(value);
    },
    cancel(reason) {
      open = false;
      end();
      return source.cancel(reason);
    },
  }, { highWaterMark: 0 });
  stopping.addEventListener("abort", stop);
  if (stopping.aborted) stop();
  return withBody(response, body);
}
