/**
 * Reading the body of a request: no further than it may be, and not for ever.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { Env } from "../engine/env.ts";
import { messageOf, TypedError } from "../engine/errors.ts";

/** Decodes a request's body, a JSON object, into a job's env. */
export async function bodyToEnv(request: Request, job: Job): Promise<void> {
  const text = await request.text();
  if (text.trim() === "") return;
  let env: Env;
  try {
    env = Env.decode(text);
  } catch (error) {
    throw new TypedError("bad parameter", `request body: ${messageOf(error)}`);
  }
  for (const [key, value] of env) job.setenv(key, value);
}

/** A body that ends early, or whose chunks are none, is the client's mistake. */
export function brokenOff(error: unknown): never {
  throw new TypedError("bad parameter", "the request body broke off or is malformed", {
    cause: error,
  });
}

export function tooLarge(source: ReadableStreamDefaultReader, limit: number): TypedError {
  letGo(source);
  return new TypedError("too large", `the request body is longer than ${limit} bytes`);
}

/** Reads no further. A body that broke is let go of already, which is all that can go wrong. */
export function letGo(source: ReadableStreamDefaultReader): void {
  source.cancel().catch(() => {});
}
