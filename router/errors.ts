/**
 * What a client is told of an error: its status, and its words.
 *
 * @module
 */

import { type ErrorKind, JobError, messageOf, TypedError } from "../engine/errors.ts";

const STATUS_OF: Record<ErrorKind, number> = {
  "bad parameter": 400,
  "unauthorized": 401,
  "forbidden": 403,
  "not found": 404,
  "not acceptable": 406,
  "timeout": 408,
  "conflict": 409,
  "too large": 413,
  "not implemented": 501,
  "unavailable": 503,
};

/** The wording rules of the original, for errors that have no kind; the first that fits. */
const WORDING: readonly [string, number][] = [
  ["no such", 404],
  ["bad parameter", 400],
  ["conflict", 409],
  ["impossible", 406],
  ["wrong login/password", 401],
  ["hasn't been activated", 403],
];

/** The status and the message of what a handler or a job threw. */
export function toHttp(error: unknown): { status: number; message: string } {
  // What the innermost job threw, where jobs run jobs; its last words, where it only said them.
  let cause = error;
  while (cause instanceof JobError && cause.cause instanceof Error) cause = cause.cause;
  if (cause instanceof Error && !(cause instanceof JobError)) {
    // By its kind and not its class, which a module that was loaded twice has twice.
    const { kind } = cause as Partial<TypedError>;
    if (kind !== undefined && Object.hasOwn(STATUS_OF, kind)) {
      return { status: STATUS_OF[kind], message: cause.message };
    }
  }
  const text = messageOf(cause).trimStart().split("\n", 1)[0];
  const message = /^at .*:\d+\)?$/.test(text) ? "internal error" : withoutPaths(text);
  // "No such file or directory" is the system's wording about our files, not ours about the client's.
  const lower = isSystemError(cause) ? "" : message.toLowerCase();
  return { status: WORDING.find(([words]) => lower.includes(words))?.[1] ?? 500, message };
}

function isSystemError(error: unknown): boolean {
  return Object.values(Deno.errors).some((kind) => error instanceof kind) ||
    typeof (error as { code?: unknown } | undefined)?.code === "string";
}

/** Hono's own error with a status, without the module that it is in. */
export function isHttpException(
  error: unknown,
): error is Error & { status: number; res?: Response } {
  return error instanceof Error && "getResponse" in error && "status" in error;
}

/** A message nobody wrote for a client may name files of the host; those are nobody's business. */
function withoutPaths(message: string): string {
  // In quotes, after a scheme without a host, or by itself; not the path of a URL or of an image.
  return message.replace(
    /(?<=(["'`]))\/(?=.*\1)(?:(?!\1).)*|(?:\b[a-z][\w+.-]*:\/\/(?=\/)|(?<![\w./:-])|(?<=:)(?!\/\/))\/[^\s'"`,:;()[\]]+(?::\d+)*/gi,
    "(path)",
  );
}

export function noSuchPage(path: string): TypedError {
  return new TypedError("not found", `page not found: ${path}`);
}

export function notRegistered(job: string): TypedError {
  return new TypedError("not implemented", `no such job registered: ${job}`);
}
