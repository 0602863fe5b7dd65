/**
 * Types only: the row of the route table, from which all that runs, validates and describes a route
 * derives.
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
  /** The kinds of the path's variables, by name. Default: strings. */
  readonly params?: Fields;
  /**
   * The query parameters that become variables of the job's env; others are ignored. A list of
   * names declares optional strings, of which the env gets every value, and the last one as its
   * value. A Standard Schema validates the whole query.
   */
  readonly query?: readonly string[] | Fields | StandardSchema;
  /** The request headers that become variables of the job's env. */
  readonly headers?: Fields;
  /**
   * The parameters that become arguments, in order, by their names in the path, else in the query.
   * An absent one is left out at the end and `""` before others. A list becomes several arguments.
   * Default: the variables of the path.
   */
  readonly args?: readonly string[];
  /**
   * The request body: ignored (the default), the job's stdin, or a JSON object or a form that goes
   * into its env. A Standard Schema validates the parsed JSON; the members of an object go into the
   * env.
   */
  readonly body?: BodyKind | Body | StandardSchema;
  /** The longest body in bytes, `Infinity` for no limit. Default: the router's. */
  readonly bodyLimit?: number;

  /** Whether the answer is sent while the job writes it. Default false. */
  readonly stream?: boolean;
  /** The answer's Content-Type. Default `application/json`. */
  readonly contentType?: string;
  /** The answer's status if the job succeeds. Default 200, or 204 if it has written nothing. */
  readonly status?: number;
  /**
   * The possible answers of a successful job, by status; it chooses one by {@linkcode Job.outcome}.
   * If the row has no `status`, the default is the first one from 200 to 299.
   */
  readonly answers?: Readonly<Record<number, AnswerKind | AnswerSpec>>;
  /** Further statuses of errors that the description lists. */
  readonly errors?: readonly number[];

  /** The first API version with the row, such as `1.25`. A request without one uses the newest. */
  readonly since?: string;
  /** The last API version that has the row. */
  readonly until?: string;
  /** A query parameter that a request must have, not empty, for the row to match. */
  readonly when?: string;
  /** The message of a 503 if no such job is registered. Default: 501, with the job's name. */
  readonly unavailable?: string;
  /**
   * How long the job may take until it ends or begins a stream, in milliseconds. Then it is aborted
   * and the client gets 504, or the status of `kind`. Default: no limit.
   */
  readonly timeout?: number | { readonly ms: number; readonly kind: ErrorKind };
  /**
   * How many requests may run the job at once. `waiting` more (default 100) wait; further ones get
   * 503 and Retry-After. Default: no limit.
   */
  readonly concurrency?: number | { readonly running: number; readonly waiting?: number };
  /**
   * Whether the job hijacks its client's connection. Its stdin is then the client's data, up to the
   * client's half-close, and the client gets what the job writes until it ends. `"tcp"` is a raw
   * stream: stdout and stderr in frames of eight bytes and data, as `docker attach` reads them,
   * unless the job has set `Tty` in its env; a client that asks for no upgrade gets the same as the
   * body of a 200. `"websocket"` sends binary messages and takes messages of any kind; the method
   * is GET. The client gets the upgrade when the job first reads its stdin or writes (an empty
   * write will do) or succeeds, and with `stream: true` at once; a job that fails before that is
   * answered like any job that fails.
   */
  readonly upgrade?: "tcp" | "websocket";

  /** What the route does, in one line. */
  readonly summary?: string;
  /** The groups of the route in the description. */
  readonly tags?: readonly string[];
}

/** Parameters by their names. */
export type Fields = Readonly<Record<string, ParameterKind | Parameter>>;

/**
 * The kind of a parameter. `boolean` is false for `""`, `0`, `no`, `false` and `none` in any case,
 * and else true, as in dockerd. `integer` and `number` are decimal. `list` is a repeated parameter:
 * `?names=a&names=b`. `filters` is a JSON object of lists, `{"name": ["x"]}`, or of sets, `{"name":
 * {"x": true}}`. An empty `integer`, `number`, `json` or `filters` counts as absent.
 */
export type ParameterKind =
  | "string"
  | "integer"
  | "number"
  | "boolean"
  | "json"
  | "list"
  | "filters";

/** The options that all kinds of parameters have. */
export interface ParameterOptions {
  /** Whether a request without it is answered 400. Default: true in the path, else false. */
  readonly required?: boolean;
  /** The name of the job's variable. Default: the parameter's name. */
  readonly env?: string;
  /** The first API version that reads it. Before, it is ignored. */
  readonly since?: string;
  /** The last API version that reads it. After, it is ignored. */
  readonly until?: string;
  /** The purpose of the parameter, in one line. */
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
    /** In characters (UTF-16 units). */
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

/** How a row takes the request's body. */
export type BodyKind = "stdin" | "env" | "form";

/** A request's body. */
export interface Body {
  /**
   * `stdin`: bytes, as they come. `env`: a JSON object. `form`: `application/x-www-form-urlencoded`
   * or `multipart/form-data`, of texts.
   */
  readonly type: BodyKind;
  /** The kinds of the object's members, or the form's fields. Others pass as they are. */
  readonly fields?: Fields;
  /** Whether a request without a body is answered 400. Default false. */
  readonly required?: boolean;
  /** The accepted Content-Types. Default: those of the type; any for `stdin`. */
  readonly contentTypes?: readonly string[];
  /** The status for another Content-Type. Default 415; dockerd's is 400. */
  readonly mismatch?: 400 | 415;
}

/**
 * The form of an answer: `json`; `lines`, a stream of JSON lines; `tar`, an archive; `text`; `raw`,
 * a stream of bytes; `frames`, a stream of stdout and stderr in frames of an eight-byte header and
 * data; `none`, without a body.
 */
export type AnswerKind = "json" | "lines" | "tar" | "text" | "raw" | "frames" | "none";

/** An answer of a row. */
export interface AnswerSpec {
  /** Its form. Default `json`. */
  readonly type?: AnswerKind;
  /** Its Content-Type. Default: that of its form. */
  readonly contentType?: string;
  /** Whether it is sent while the job writes it. Default: that of its form. */
  readonly stream?: boolean;
  /** Descriptions of the headers that the job sets, by name. */
  readonly headers?: Readonly<Record<string, string>>;
  /** The JSON Schema, or the Standard Schema, of the body. */
  readonly schema?: JsonSchema | StandardSchema;
  /** The meaning of the answer, in one line. */
  readonly description?: string;
}

/** A JSON Schema, draft 2020-12. */
export type JsonSchema = { readonly [keyword: string]: unknown };

/**
 * A schema of any library that follows https://standardschema.dev. If it can be converted to JSON
 * Schema, the description includes that.
 */
export interface StandardSchema<Given = unknown, Got = Given> {
  /** The properties that the standard defines. */
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

/** The result of validating a value with a Standard Schema: the value it makes, or issues. */
export type SchemaResult<Got> =
  | { readonly value: Got; readonly issues?: undefined }
  | { readonly issues: readonly SchemaIssue[] };

/** A problem that a Standard Schema finds in a value. */
export interface SchemaIssue {
  /** What is wrong. */
  readonly message: string;
  /** The path to the wrong part of the value. Default: the whole value. */
  readonly path?: readonly (PropertyKey | { readonly key: PropertyKey })[] | undefined;
}

/**
 * The type of `job.input` for a row's job: the client's input, validated, with defaults. `params`
 * are the path's variables, `query` and `headers` the declared parameters, `body` the declared
 * fields, or the value that the row's schema made of the body.
 */
// An indexed type, because deno doc --lint would ask for documentation of all its parts here.
export type InputOf<R extends Route> = ((typeof import("./input.ts"))["kind"] & { R: R })["input"];
