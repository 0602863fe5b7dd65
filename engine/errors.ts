/** The exit statuses that have a name. A job may end with any other integer too. */
export const Status = {
  /** The job did what it was asked to. */
  OK: 0,
  /** The job failed. */
  Err: 1,
  /** No handler is registered under the job's name. */
  NotFound: 127,
} as const;
/** A job's exit status: any integer, 0 for success. */
export type Status = number;

/** The kind of a {@linkcode TypedError}, in terms that any front end can map. */
export type ErrorKind =
  | "not found"
  | "bad parameter"
  | "conflict"
  | "not acceptable"
  | "unauthorized"
  | "forbidden"
  | "too large"
  | "unsupported media type"
  | "timeout"
  | "deadline exceeded"
  | "not implemented"
  | "unavailable";

/**
 * An error whose kind and message are meant for the caller. Over HTTP the kind chooses the status
 * (`"not found"` is 404, and so on) and the message reaches the client as it is.
 */
export class TypedError extends Error {
  /** Always `"TypedError"`. */
  override readonly name: string = "TypedError";
  /** What went wrong. */
  readonly kind: ErrorKind;
  /** Makes an error of this kind; `options.cause` reaches the log only. */
  constructor(kind: ErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** What {@linkcode Job.run} rejects with when the exit status is not 0. */
export class JobError extends Error {
  /** The name of the job that failed. */
  override readonly name: string;
  /** Its exit status, never 0. */
  readonly status: Status;
  /** The text that its handler passed to {@linkcode Job.error}, for clients; else undefined. */
  readonly words?: string | undefined;
  /**
   * Makes the error of the job `name`; `options.cause` is what its handler threw, and
   * `options.words` the text that it passed to {@linkcode Job.error}.
   */
  constructor(
    name: string,
    status: Status,
    message: string,
    options?: ErrorOptions & { words?: string | undefined },
  ) {
    super(message, options);
    this.name = name;
    this.status = status;
    this.words = options?.words;
  }
}

/**
 * An error's message, or another thrown value as text. Never throws, although a getter of the
 * value, its `toString`, or a Proxy's trap may.
 */
export function messageOf(error: unknown): string {
  try {
    return isError(error) ? String(error.message) || String(error.name) : String(error);
  } catch {
    return `a thrown ${typeof error} that cannot be shown as text`;
  }
}

/** The longest report of an error, in characters. */
const REPORT = 65_536;

/** Everything about an error, for a log: its stack, its causes with theirs, its properties. */
export function reportOf(error: unknown): string {
  try {
    return Deno.inspect(error, { colors: false, depth: 4, strAbbreviateSize: 1_000 })
      .slice(0, REPORT);
  } catch {
    return messageOf(error);
  }
}

/** The longest value that an error message quotes, in characters. */
const QUOTED = 80;

/** A value as JSON, for an error message: on one line, and shortened. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > QUOTED ? text.slice(0, QUOTED - 1) + "…" : text;
}

/** Whether a value is an error. Never throws, as `instanceof` does for some Proxies. */
export function isError(value: unknown): value is Error {
  try {
    return value instanceof Error;
  } catch {
    return false;
  }
}
