/**
 * How an error becomes an answer: its status and its message.
 *
 * @module
 */

import { type ErrorKind, JobError, TypedError } from "../engine/errors.ts";
import { noWebSocket } from "../platform/websockets.ts";

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

/** The status of a text of `job.error`, by the first phrase it contains, as in dockerd of 2014. */
const WORDING: readonly [string, number][] = [
  ["no such", 404],
  ["bad parameter", 400],
  ["conflict", 409],
  ["impossible", 406],
  ["wrong login/password", 401],
  ["hasn't been activated", 403],
];

/** From this API version on errors are JSON; before, they are text. */
export const JSON_ERRORS: readonly number[] = [1, 24];

/** The answer to a request that failed. */
export interface ErrorAnswer {
  readonly status: number;
  /** Undefined if the error's own message is not meant for clients. */
  readonly message?: string | undefined;
  /** The seconds for the client to wait before it retries, for Retry-After. */
  readonly retryAfter?: number | undefined;
  /** Headers that the status requires. */
  readonly headers?: Record<string, string> | undefined;
  /** The whole response, for an error that brings one. */
  readonly response?: Response | undefined;
  /** The innermost error, for jobs that run jobs. */
  readonly cause?: unknown;
}

/** The answer to an error that a handler or a job threw. Never throws. */
export function toHttp(error: unknown): ErrorAnswer {
  try {
    return answerOf(error);
  } catch {
    return { status: 500, cause: error }; // One of its getters throws.
  }
}

function answerOf(error: unknown): ErrorAnswer {
  // The error of the innermost job, where jobs run jobs; its `words`, if it only wrote to stderr.
  let cause = error;
  while (cause instanceof JobError && cause.cause instanceof Error) cause = cause.cause;
  if (cause instanceof JobError) {
    const message = cause.words?.trim().split("\n", 1)[0] || undefined;
    const lower = message?.toLowerCase() ?? "";
    return { status: WORDING.find(([words]) => lower.includes(words))?.[1] ?? 500, message, cause };
  }
  if (!(cause instanceof Error)) return { status: 500, cause };
  // Not by instanceof: a module that is loaded twice has two classes of the same name.
  const { kind, retryAfter } = cause as Partial<TypedError & Busy>;
  if (typeof kind === "string" && Object.hasOwn(STATUS_OF, kind)) {
    return { status: STATUS_OF[kind], message: cause.message, retryAfter, cause };
  }
  if (cause.message === NO_WEBSOCKET) cause = noWebSocket();
  if (isHttpException(cause)) {
    const { status, message, headers, res } = cause;
    return { status, message, headers, response: res && cause.getResponse(), cause };
  }
  return { status: 500, cause };
}

/** Hono's own error with a status. */
interface HttpException extends Error {
  readonly status: number;
  /** Only that of UpgradeRequired has them. */
  readonly headers?: Record<string, string>;
  readonly res?: Response;
  getResponse(): Response;
}

/** What Hono's `upgradeWebSocket(c, events)` throws for a request that asks for no WebSocket. */
const NO_WEBSOCKET = "Failed to upgrade WebSocket";

function isHttpException(error: unknown): error is HttpException {
  return error instanceof Error && "getResponse" in error &&
    typeof error.getResponse === "function" &&
    "status" in error && typeof error.status === "number";
}

interface Busy {
  readonly retryAfter: number;
}

/** The error for an overload: 503, with Retry-After. */
export function busy(message: string, seconds = 1): TypedError & Busy {
  return Object.assign(new TypedError("unavailable", message), { retryAfter: seconds });
}

export function noSuchPage(path: string): TypedError {
  return new TypedError("not found", `page not found: ${path}`);
}

export function notRegistered(job: string): TypedError {
  return new TypedError("not implemented", `no such job registered: ${job}`);
}
