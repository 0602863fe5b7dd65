/**
 * Making answers so that Hono keeps what middleware has said of them.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { Bindings } from "./bindings.ts";

/** Statuses whose answers have no body (Fetch, 2.2.3). */
export const BODYLESS: readonly number[] = [204, 205, 304];

/** How an answer begins. */
export interface Init {
  readonly status: number;
  readonly headers: Record<string, string>;
}

/**
 * An answer, made by Hono where it is known to Hono, since middleware may have set headers. The headers of
 * all answers are among those of `init`.
 */
export function respond(
  c: Context<{ Bindings: Bindings }> | undefined,
  body: BodyInit | null,
  init: Init,
): Response {
  if (BODYLESS.includes(init.status)) body = null;
  if (c === undefined) return new Response(body, init);
  const response = c.newResponse(
    body as string | null,
    init as Parameters<typeof c.newResponse>[1],
  );
  // What failed after an answer was there takes the headers of that over, and these are not of it.
  if (c.finalized) {
    for (const name of ["content-length", "content-encoding"]) response.headers.delete(name);
  }
  return response;
}

/**
 * The same answer, whose stream ends when the engine is told to stop: its source is cancelled, as when the
 * client leaves, and the client gets its end.
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
    source.cancel(stopping.reason).catch(() => {}); // Whatever it says of it, it is not asked again.
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
  return new Response(body, response);
}
