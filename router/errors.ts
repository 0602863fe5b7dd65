/**
 * What a client is told of an error: its status, and its words.
 *
 * @module
 */

import { type ErrorKind, JobError, TypedError } from "../engine/errors.ts";

/** The status of each kind of error. */
export const STATUS_OF: Record<ErrorKind, number> = {
  "bad parameter": 400,
  "unauthorized": 401,
  "forbidden": 403,
  "not found": 404,
  "not acceptable": 406,
  "timeout": 408,
  "conflict": 409,
  "too large": 413,
  "unsupported media type": 415,
  "not implemented": 501,
  "unavailable": 503,
  "deadline exceeded": 504,
};

/** The wording rules of the original, for what a job has said; the first that fits. */
const WORDING: readonly [string, number][] = [
  ["no such", 404],
  ["bad parameter", 400],
  ["conflict", 409],
  ["impossible", 406],
  ["wrong login/password", 401],
  ["hasn't been activated", 403],
];

/** What a client is told. */
export interface Told {
  readonly status: number;
  /** Undefined where the error's own words are not for clients. */
  readonly message?: string | undefined;
  /** In how many seconds to come back. */
  readonly retryAfter?: number | undefined;
  /** The whole answer, where the error brings one. */
  readonly response?: Response | undefined;
  /** The error that says so, where jobs that run jobs have failed of it. */
  readonly cause?: unknown;
}

/** What a client is told of what a handler or a job threw. */
export function toHttp(error: unknown): Told {
  try {
    return judged(error);
  } catch {
    return { status: 500, cause: error }; // A getter of it throws.
  }
}

function judged(error: unknown): Told {
  // What the innermost job threw, where jobs run jobs; its last words, where it only said them.
  let cause = error;
  while (cause instanceof JobError && cause.cause instanceof Error) cause = cause.cause;
  if (cause instanceof JobError) {
    const message = cause.words?.trim().split("\n", 1)[0] || undefined;
    const lower = message?.toLowerCase() ?? "";
    return { status: WORDING.find(([words]) => lower.includes(words))?.[1] ?? 500, message, cause };
  }
  if (!(cause instanceof Error)) return { status: 500, cause };
  // By what they have and not by their classes, which modules that were loaded twice have twice.
  const { kind, retryAfter } = cause as Partial<TypedError & Busy>;
  if (typeof kind === "string" && Object.hasOwn(STATUS_OF, kind)) {
    return { status: STATUS_OF[kind], message: cause.message, retryAfter, cause };
  }
  if (isHttpException(cause)) {
    const { status, message, res } = cause;
    return { status, message, response: res && cause.getResponse(), cause };
  }
  return { status: 500, cause };
}

/** Hono's own error with a status. */
interface HttpException extends Error {
  readonly status: number;
  readonly res?: Response;
  getResponse(): Response;
}

function isHttpException(error: Error): error is HttpException {
  return "getResponse" in error && typeof error.getResponse === "function" &&
    "status" in error && typeof error.status === "number";
}

interface Busy {
  readonly retryAfter: number;
}

/** There is too much to do, and it makes sense to come back. */
export function busy(message: string, seconds = 1): TypedError & Busy {
  return Object.assign(new TypedError("unavailable", message), { retryAfter: seconds });
}

export function noSuchPage(path: string): TypedError {
  return new TypedError("not found", `page not found: ${path}`);
}

export function notRegistered(job: string): TypedError {
  return new TypedError("not implemented", `no such job registered: ${job}`);
}
