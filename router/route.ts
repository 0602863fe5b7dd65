/**
 * The row of the route table, as types: all that runs, validates and describes a route derives from it.
 *
 * @module
 */

import type { ErrorKind } from "../engine/errors.ts";

/** One row of the route table: which requests run which job, and how they map to it. */
export interface Route {
  /** The HTTP method. A HEAD row has a job of its own; without one HEAD runs the job of GET. */
  readonly method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** A Hono pattern, without version. Its variables, in order, become the job's arguments. */
  readonly path: string;
  /** The job's name. */
  readonly job: string;
  /** What the path's variables have to be. Default: strings. Their names are the path's. */
  readonly params?: Fields;
  /**
   * The query parameters that become variables of the job's env. Others are ignored. A list of names
   * stands for optional strings, of which the env gets all that are given, the last by its name; a
   * Standard Schema is given all that the client has sent.
   */
  readonly query?: readonly string[] | Fields | StandardSchema;
  /** The request headers that become variables of the job's env. */
  readonly headers?: Fields;
  /**
   * Which of the parameters become arguments, in order, by the names they have in the path, else in the
   * query. Absent ones are left out at the end, and are `""` before others. A list becomes several.
   * Default: those of the path.
   */
  readonly args?: readonly string[];
  /**
   * The request body: nothing (the default), the job's stdin, or a JSON object or a form into its env. A
   * Standard Schema is given the parsed JSON, whatever it is; an object's members go into the env.
   */
  readonly body?: BodyKind | Body | StandardSchema;
  /** The longest body in bytes, `Infinity` for any. Default: the router's. */
  readonly bodyLimit?: number;

  /** Whether the answer is sent as the job writes it, and not when it has ended. Default false. */
  readonly stream?: boolean;
  /** The answer's Content-Type. Default `application/json`. */
  readonly contentType?: string;
  /** The answer's status if the job succeeds. Default 200, or 204 if it has written nothing. */
  readonly status?: number;
  /**
   * What the job may answer, by status; it chooses by {@linkcode Job.outcome}. Where the row has no
   * `status`, the first from 200 to 299 is the one of a job that succeeds and chooses none.
   */
  readonly answers?: Readonly<Record<number, AnswerKind | AnswerSpec>>;
  /** The statuses of errors that clients have to expect, for the description. */
  readonly errors?: readonly number[];

  /** The first API version, such as `1.25`, that has the row. A request without one has the newest. */
  readonly since?: string;
  /** The last API version that has the row. */
  readonly until?: string;
  /** A query parameter that has to be there, and not empty, for the row to be the one. */
  readonly when?: string;
  /** What is said, with 503, where no such job is registered. Default: 501, with the job's name. */
  readonly unavailable?: string;
  /**
   * How long the job may take until it ends or begins a stream, in milliseconds. Then it is aborted and
   * the client gets 504, or the status of `kind`. Default: no limit.
   */
  readonly timeout?: number | { readonly ms: number; readonly kind: ErrorKind };
  /**
   * How many requests may run the job at once. `waiting` more (default 100) wait for their turn; the
   * others get 503 and Retry-After. Default: no limit.
   */
  readonly concurrency?: number | { readonly running: number; readonly waiting?: number };
  /**
   * Whether the job has its client's connection: stdin is what the client sends, which ends when that has
   * sent all, and what the job writes is what the client gets, until the job ends. With `"tcp"` on a raw
   * stream: stdout and stderr in frames of eight bytes and data, as `docker attach` reads them, unless
   * the job has set `Tty` in its env; a client that asks for no upgrade gets the same as the body of a
   * 200. With `"websocket"` as binary messages, and stdin from messages of any kind; the method is GET.
   * A job that fails before it reads or writes, and within 200 ms, is answered as any that fails.
   */
  readonly upgrade?: "tcp" | "websocket";

  /** What it does, in one line. */
  readonly summary?: string;
  /** What a description groups it under. */
  readonly tags?: readonly string[];
}

/** Parameters by their names. */
export type Fields = Readonly<Record<string, ParameterKind | Parameter>>;

/**
 * What a parameter is. `boolean` is false for `""`, `0`, `no`, `false` and `none` in any case, and else
 * true, as dockerd reads it. `integer` and `number` are decimal. `list` is what is given repeatedly:
 * `?names=a&names=b`. `filters` is a JSON object of lists, `{"name": ["x"]}`, or of sets,
 * `{"name": {"x": true}}`. An empty `integer`, `number`, `json` or `filters` is as good as absent.
 */
export type ParameterKind =
  | "string"
  | "integer"
  | "number"
  | "boolean"
  | "json"
  | "list"
  | "filters";

/** What every parameter may say besides its kind. */
export interface ParameterOptions {
  /** Whether it has to be there. Default: in the path yes, else no. */
  readonly required?: boolean;
  /** The name of the job's variable. Default: the parameter's name. */
  readonly env?: string;
  /** The first API version that reads it. Before, it is ignored. */
  readonly since?: string;
  /** The last API version that reads it. After, it is ignored. */
  readonly until?: string;
  /** What it is for, in one line. */
  readonly description?: string;
}

/** A parameter with its limits. */
export type Parameter =
  | (ParameterOptions & {
    readonly type: "string";
    readonly default?: string;
    /** The values it may have. */
    readonly enum?: readonly string[];
    /** A regular expression that the whole value has to match. */
    readonly pattern?: string;
    /** Characters (UTF-16 units). */
    readonly minLength?: number;
    readonly maxLength?: number;
  })
  | (ParameterOptions & {
    readonly type: "integer" | "number";
    readonly default?: number;
    readonly minimum?: number;
    readonly maximum?: number;
  })
  | (ParameterOptions & { readonly type: "boolean"; readonly default?: boolean })
  | (ParameterOptions & { readonly type: "json"; readonly default?: unknown })
  | (ParameterOptions & {
    readonly type: "list";
    readonly default?: readonly string[];
    /** The values its items may have. */
    readonly enum?: readonly string[];
    readonly minItems?: number;
    readonly maxItems?: number;
  })
  | (ParameterOptions & {
    readonly type: "filters";
    /** The names it may have. Default: any. */
    readonly names?: readonly string[];
  });

/** What becomes of a request's body. */
export type BodyKind = "stdin" | "env" | "form";

/** A request's body. */
export interface Body {
  /**
   * `stdin`: bytes, as they come. `env`: a JSON object. `form`: `application/x-www-form-urlencoded` or
   * `multipart/form-data`, of texts.
   */
  readonly type: BodyKind;
  /** What members of the object, or fields of the form, have to be. Others pass as they are. */
  readonly fields?: Fields;
  /** Whether there has to be one. Default false. */
  readonly required?: boolean;
  /** The Content-Types that are taken. Default: those of the type; any for `stdin`. */
  readonly contentTypes?: readonly string[];
  /** The status where it is another. Default 415; dockerd's is 400. */
  readonly mismatch?: 400 | 415;
}

/**
 * The form of an answer: `json`; `lines` of JSON, as they come; a `tar` archive; `text`; `raw` bytes as
 * they come; `frames`, which is stdout and stderr in frames of a header of eight bytes and data; `none`,
 * without a body.
 */
export type AnswerKind = "json" | "lines" | "tar" | "text" | "raw" | "frames" | "none";

/** An answer of a row. */
export interface AnswerSpec {
  /** Its form. Default `json`. */
  readonly type?: AnswerKind;
  /** Its Content-Type. Default: that of its form. */
  readonly contentType?: string;
  /** Whether it is sent as the job writes it. Default: that of its form. */
  readonly stream?: boolean;
  /** Headers that the job sets, with what they hold. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The JSON Schema, or the Standard Schema, of what is in it. */
  readonly schema?: JsonSchema | StandardSchema;
  /** What it means, in one line. */
  readonly description?: string;
}

/** A JSON Schema, draft 2020-12. */
export type JsonSchema = { readonly [keyword: string]: unknown };

/**
 * What a schema library gives: https://standardschema.dev. Where it has the JSON Schema part as well,
 * that goes into the description.
 */
export interface StandardSchema<Given = unknown, Got = Given> {
  /** What every such schema has under this name. */
  readonly "~standard": {
    readonly version: 1;
    readonly vendor: string;
    readonly validate: (value: unknown) => SchemaResult<Got> | Promise<SchemaResult<Got>>;
    readonly types?: { readonly input: Given; readonly output: Got } | undefined;
    readonly jsonSchema?: Readonly<
      Record<"input" | "output", (options: { target: "draft-2020-12" }) => Record<string, unknown>>
    >;
  };
}

/** What a Standard Schema says of a value. */
export type SchemaResult<Got> =
  | { readonly value: Got; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

/** What a Standard Schema has against a value. */
export interface SchemaIssue {
  /** What it is. */
  readonly message: string;
  /** Where it is in the value. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/**
 * What a row's job finds as `job.input`: what the client has sent, validated, with its defaults. `params`
 * are the path's variables, `query` and `headers` the parameters that the row declares, `body` the fields
 * that it declares, or what its schema has made of the body.
 */
// By way of an index, because deno doc --lint would have all of its parts documented here.
export type InputOf<R extends Route> = ((typeof import("./input.ts"))["kind"] & { R: R })["input"];
