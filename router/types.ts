/**
 * The type of a router: Hono's app, with methods that return a router, and `job`, which adds the
 * input of a row to the schema that Hono's client (`hc`) is typed by.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { HonoBase } from "npm:hono@4.13.19/hono-base";
import type {
  BlankEnv,
  BlankInput,
  BlankSchema,
  Env,
  ErrorHandler,
  HandlerResponse,
  Input,
  MergePath,
  MergeSchemaPath,
  MiddlewareHandler,
  Next,
  NotFoundHandler,
  Schema,
  ToSchema,
  TypedResponse,
} from "npm:hono@4.13.19/types";
import type { Bindings } from "./bindings.ts";
import type { Fields, Route, StandardSchema } from "./route.ts";
import type { Upgradable } from "./upgradable.ts";

/** A type function from an env to its router: `(RouterKind & { E: E })["router"]`. */
export interface RouterKind {
  readonly E: unknown;
  readonly router: Typed<
    (this["E"] extends Env ? this["E"] : BlankEnv) & { Bindings: Bindings },
    BlankSchema,
    "/"
  >;
}
export declare const kind: RouterKind;

/** A Hono app with routes of this env, these types and this path before them. */
type Typed<E extends Env, S extends Schema, B extends string> =
  & RouterMethods<E, S, B>
  & HonoBase<E, S, B>;

/** The methods that a router adds to Hono's app, and those of Hono's that return a router here. */
interface RouterMethods<E extends Env, S extends Schema, B extends string> {
  /**
   * Adds a row to the route table.
   *
   * @throws {TypeError} If the row is invalid, or one for the same requests exists. The message
   * names it.
   */
  job<const R extends Route>(route: R & Only<R>): Typed<E, S & RowSchema<R, B>, B>;
  /**
   * Declares that handlers of a path call `c.env.upgrade()`, so that connections are inspected for
   * upgrade requests before they are served. Rows with `upgrade: "tcp"` are declared by themselves.
   *
   * @param path A Hono pattern, without version.
   */
  upgradable(path: string): Typed<E, S, B>;
  /** The first segments of the upgradable paths; `*` for any. */
  readonly upgrades: Upgradable;
  /** The rows that were added, and the built-in rows whose jobs are registered. */
  rows(): Route[];
  /** Adds handlers for GET and HEAD. */
  get: RouteMethod<E, "get", S, B>;
  /** Adds handlers for POST. */
  post: RouteMethod<E, "post", S, B>;
  /** Adds handlers for PUT. */
  put: RouteMethod<E, "put", S, B>;
  /** Adds handlers for DELETE. */
  delete: RouteMethod<E, "delete", S, B>;
  /** Adds handlers for PATCH. */
  patch: RouteMethod<E, "patch", S, B>;
  /** Adds handlers for OPTIONS. */
  options: RouteMethod<E, "options", S, B>;
  /** Adds handlers for QUERY. */
  query: RouteMethod<E, "query", S, B>;
  /** Adds handlers for all methods. */
  all: RouteMethod<E, "all", S, B>;
  /** Adds handlers for some methods, to some paths. */
  on<M extends string, const Q extends string, R extends Answer = Response>(
    methods: M | M[],
    paths: Q | Q[],
    ...handlers: Answering<E, MergePath<B, Q>, BlankInput, R>[]
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, BlankInput, Result<R>>, B>;
  /** Adds middleware. */
  use: UseMethod<E, S, B>;
  /** Adds the routes of another app under a path. */
  route<Q extends string, E2 extends Env, S2 extends Schema, B2 extends string, P2 extends string>(
    path: Q,
    app: HonoBase<E2, S2, B2, P2>,
  ): Typed<E, S & MergeSchemaPath<S2, MergePath<B, Q>>, B>;
  /** The same app, with a prefix for the paths of routes that are added to it. */
  basePath<Q extends string>(path: Q): Typed<E, S, MergePath<B, Q>>;
  /** Adds an application under a path, by its `fetch`. */
  mount(...args: Parameters<HonoBase["mount"]>): Typed<E, S, B>;
  /** Sets the handler of errors. */
  onError(handler: ErrorHandler<E>): Typed<E, S, B>;
  /** Sets the handler of requests that no other handler has answered. */
  notFound(handler: NotFoundHandler<E>): Typed<E, S, B>;
}

// deno-lint-ignore no-explicit-any -- as Hono has it
type Answer = HandlerResponse<any>;
type Answering<E extends Env, P extends string, I extends Input, R> = (
  c: Context<E, P, I>,
  next: Next,
) => R;
// deno-lint-ignore no-explicit-any -- as Hono has it
type Before<E extends Env, P extends string, I extends Input> = MiddlewareHandler<E, P, I, any>;

// deno-lint-ignore no-explicit-any -- as Hono has it
type AnyInput = any;
// deno-lint-ignore no-explicit-any -- Hono's type of an unknown answer
type AnyOutput = any;

/** Adds handlers for a method to a path. */
interface RouteMethod<
  E extends Env,
  M extends string,
  S extends Schema,
  B extends string,
> {
  <Q extends string, I extends Input = BlankInput, R extends Answer = Response>(
    path: Q,
    handler: Answering<E, MergePath<B, Q>, I, R>,
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, I, Result<R>>, B>;
  <
    Q extends string,
    I extends Input = BlankInput,
    I2 extends Input = I,
    R extends Answer = Response,
    E2 extends Env = E,
  >(
    path: Q,
    first: Before<E2, MergePath<B, Q>, I>,
    handler: Answering<E & E2, MergePath<B, Q>, I2, R>,
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, I2, Result<R>>, B>;
  <
    Q extends string,
    I extends Input = BlankInput,
    I2 extends Input = I,
    I3 extends Input = I & I2,
    R extends Answer = Response,
    E2 extends Env = E,
    E3 extends Env = E,
  >(
    path: Q,
    first: Before<E2, MergePath<B, Q>, I>,
    second: Before<E3, MergePath<B, Q>, I2>,
    handler: Answering<E & E2 & E3, MergePath<B, Q>, I3, R>,
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, I3, Result<R>>, B>;
  <
    Q extends string,
    I extends Input = BlankInput,
    I2 extends Input = I,
    I3 extends Input = I & I2,
    I4 extends Input = I & I2 & I3,
    R extends Answer = Response,
    E2 extends Env = E,
    E3 extends Env = E,
    E4 extends Env = E,
  >(
    path: Q,
    first: Before<E2, MergePath<B, Q>, I>,
    second: Before<E3, MergePath<B, Q>, I2>,
    third: Before<E4, MergePath<B, Q>, I3>,
    handler: Answering<E & E2 & E3 & E4, MergePath<B, Q>, I4, R>,
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, I4, Result<R>>, B>;
}

/** Adds middleware, to all paths or to those of a pattern. */
interface UseMethod<E extends Env, S extends Schema, B extends string> {
  <E2 extends Env = E>(...handlers: Before<E2, MergePath<B, "*">, AnyInput>[]): Typed<E & E2, S, B>;
  <Q extends string, E2 extends Env = E>(
    path: Q,
    ...handlers: Before<E2, MergePath<B, Q>, AnyInput>[]
  ): Typed<E & E2, S, B>;
}

/** No other members than those of a row: what a type parameter infers is not checked for them. */
type Only<R> = { readonly [K in Exclude<keyof R, keyof Route>]: never };

/** The input and output of a row, for `hc`; none for a path that is not a literal type. */
type RowSchema<R extends Route, B extends string> = string extends R["path"] ? BlankSchema
  : ToSchema<Lowercase<R["method"]>, MergePath<B, R["path"]>, { in: RowInput<R> }, AnyOutput>;

/** The input of a row besides the variables of its path. */
type RowInput<R extends Route> =
  & (R["query"] extends readonly (infer Name extends string)[]
    ? { query: { [N in Name]?: string | string[] } }
    : R["query"] extends StandardSchema ? { query: Record<string, string | string[]> }
    : R["query"] extends Fields ? { query: { [N in keyof R["query"]]?: string | string[] } }
    : BlankInput)
  & (R["body"] extends StandardSchema<infer Given> ? { json: Given }
    : R["body"] extends "env" | { readonly type: "env" } ? { json: Record<string, unknown> }
    : BlankInput);

/** The type of a handler's answer. */
type Result<R> = R extends Promise<infer T> ? T extends TypedResponse ? T : TypedResponse
  : R extends TypedResponse ? R
  : TypedResponse;
