/**
 * The type of `job.input` for each row, derived from what the row declares.
 *
 * @module
 */

import type { Fields, Route, StandardSchema } from "./route.ts";

/**
 * A function from a row to its input, as a type: that of `R` is `(InputKind & { R: R })["input"]`.
 */
export interface InputKind {
  readonly R: unknown;
  readonly input: this["R"] extends Route ? RowInput<this["R"]> : never;
}
/**
 * By this route.ts names {@linkcode InputKind}, as `typeof import`. It is a type alone, no value.
 */
export declare const kind: InputKind;

interface RowInput<R extends Route> {
  /** The path's variables; text where the row declares no type. */
  readonly params:
    & GivenParams<R["params"]>
    & Omit<Record<PathNames<R["path"]>, string>, keyof R["params"]>;
  /** The query parameters. */
  readonly query: Given<R["query"]>;
  /** The headers. */
  readonly headers: Given<R["headers"]>;
  /** The body: the output of its schema, or its declared fields. */
  readonly body: R["body"] extends { readonly fields: infer F } ? Given<F> : Given<R["body"]>;
}

/** What a group of parameters is read as: by a schema, a list of names, or fields with types. */
type Given<P> = P extends StandardSchema<unknown, infer Got> ? Got
  : P extends readonly (infer Name extends string)[] ? { readonly [N in Name]?: string }
  : P extends Fields ? { readonly [N in keyof P]: Value<P[N]> | Absent<P[N]> }
  : undefined;

/** Variables of a path: unlike other parameters they are required if the row says nothing else. */
type GivenParams<P> = P extends Fields
  ? { readonly [N in keyof P]: Value<P[N]> | AbsentParam<P[N]> }
  : unknown;
type AbsentParam<P> = P extends { readonly required: false } ? Absent<P> : never;

type Absent<P> = P extends { readonly default: unknown } | { readonly required: true } ? never
  : P extends "boolean" | { readonly type: "boolean" } ? never
  : P extends "list" | { readonly type: "list" } ? never
  : undefined;

/** The value of a field. */
type Value<P> = P extends { readonly type: "string"; readonly enum: readonly (infer E)[] } ? E
  : P extends { readonly type: infer T } ? OfKind<T>
  : OfKind<P>;

type OfKind<T> = T extends "string" ? string
  : T extends "integer" | "number" ? number
  : T extends "boolean" ? boolean
  : T extends "list" ? readonly string[]
  : T extends "filters" ? Readonly<Record<string, readonly string[]>>
  : unknown;

/** The names of the variables in a Hono pattern. */
type PathNames<Path extends string> = Path extends `${string}:${infer Name}/${infer Rest}`
  ? Bare<Name> | PathNames<`/${Rest}`>
  : Path extends `${string}:${infer Name}` ? Bare<Name>
  : never;
/** The name without Hono's `{regex}` and `?`. */
type Bare<Name extends string> = Name extends `${infer N}{${string}` ? N
  : Name extends `${infer N}?` ? N
  : Name;
