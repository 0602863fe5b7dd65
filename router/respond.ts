/**
 * Making answers so that Hono keeps what middleware has said of them.
 *
 * @module
 */

import type { Context } from "npm:hono@^4.13";
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
