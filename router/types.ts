/**
 * What a router is to the type checker: Hono's app, whose methods give a router back, and `job`, which
 * adds what a row takes to the types that a client of Hono's (`hc`) is made of.
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

/** A router for each env of handlers: that of `E` is `(RouterKind & { E: E })["router"]`. */
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

/** What a router can besides what every Hono app can, and what gives a router back. */
interface RouterMethods<E extends Env, S extends Schema, B extends string> {
  /**
   * Adds a row to the route table.
   *
   * @throws {TypeError} If the row cannot be, or is there already: it says which, and what is wrong.
   */
  job<const R extends Route>(route: R): Typed<E, S & RowSchema<R, B>, B>;
  /**
   * Says that handlers of a path call `c.env.upgrade()`, so that connections are looked at for requests
   * that ask for it. Rows with `upgrade: "tcp"` say so themselves.
   *
   * @param path A Hono pattern, without version.
   */
  upgradable(path: string): Typed<E, S, B>;
  /** The first segments of the paths that may be upgraded, `*` for any. */
  readonly upgrades: ReadonlySet<string>;
  /** The rows that were added, and those that every daemon has whose jobs are registered. */
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
  on<M extends string, const Q extends string, R = Response>(
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
  /** The same app, with a path before the routes that are added to it. */
  basePath<Q extends string>(path: Q): Typed<E, S, MergePath<B, Q>>;
  /** Adds an application by its `fetch` under a path. */
  mount(...args: Parameters<HonoBase["mount"]>): Typed<E, S, B>;
  /** Sets what answers a request that failed. */
  onError(handler: ErrorHandler<E>): Typed<E, S, B>;
  /** Sets what answers a request that no handler has answered. */
  notFound(handler: NotFoundHandler<E>): Typed<E, S, B>;
}

type Answering<E extends Env, P extends string, I extends Input, R> = (
  c: Context<E, P, I>,
  next: Next,
) => R;
// deno-lint-ignore no-explicit-any -- as Hono has it
type Before<E extends Env, P extends string, I extends Input> = MiddlewareHandler<E, P, I, any>;

// deno-lint-ignore no-explicit-any -- as Hono has it
type AnyInput = any;
// deno-lint-ignore no-explicit-any -- Hono takes it for an answer of which nothing is known
type AnyOutput = any;

/** Adds handlers for a method to a path. */
interface RouteMethod<
  E extends Env,
  M extends string,
  S extends Schema,
  B extends string,
> {
  <Q extends string, I extends Input = BlankInput, R = Response>(
    path: Q,
    handler: Answering<E, MergePath<B, Q>, I, R>,
  ): Typed<E, S & ToSchema<M, MergePath<B, Q>, I, Result<R>>, B>;
  <
    Q extends string,
    I extends Input = BlankInput,
    I2 extends Input = I,
    R = Response,
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
    R = Response,
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
    R = Response,
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

/** What a row takes and gives, as `hc` wants to know it: nothing where its path is not known. */
type RowSchema<R extends Route, B extends string> = string extends R["path"] ? BlankSchema
  : ToSchema<Lowercase<R["method"]>, MergePath<B, R["path"]>, { in: RowInput<R> }, AnyOutput>;

/** What a row takes besides the variables of its path. */
type RowInput<R extends Route> =
  & (R["query"] extends readonly (infer Name extends string)[]
    ? { query: { [N in Name]?: string | string[] } }
    : R["query"] extends StandardSchema ? { query: Record<string, string | string[]> }
    : R["query"] extends Fields ? { query: { [N in keyof R["query"]]?: string | string[] } }
    : BlankInput)
  & (R["body"] extends StandardSchema<infer Given> ? { json: Given }
    : R["body"] extends "env" | { readonly type: "env" } ? { json: Record<string, unknown> }
    : BlankInput);

/** What a handler's result tells of its answer. */
type Result<R> = R extends Promise<infer T> ? T extends TypedResponse ? T : TypedResponse
  : R extends TypedResponse ? R
  : TypedResponse;
