/**
 * A table of the built-in routes, apart from Hono's router. They are many, and names in them hold
 * slashes: with them Hono would replace its regular expression by a tree, which takes 1 to 4 µs per
 * path.
 *
 * @module
 */

import type { ParamIndexMap, Params, Result } from "npm:hono@4.13.19/router";

/** Handlers with their variables, in order. */
export type Entries<T> = [T, Params][];

/** Handlers by method and path. */
export class Table<T> {
  readonly #methods = new Map<string, Paths<T>>();

  /** Adds a handler after those of the same path. */
  add(method: string, path: string, handler: T): void {
    let paths = this.#methods.get(method);
    if (paths === undefined) this.#methods.set(method, paths = new Paths());
    paths.add(path, handler);
  }

  /** The handlers of the first path that matches. */
  match(method: string, path: string): Entries<T> | undefined {
    return this.#methods.get(method)?.match(path);
  }
}

/** A result of one of Hono's routers with handlers appended, in the form common to them. */
export function withMore<T>(found: Result<T>, more: Entries<T>): Result<T> {
  const [handlers, stash] = found;
  if (handlers.length === 0) return [more];
  // Results with a stash have indices into it in place of the variables.
  if (stash === undefined) return [[...handlers as Entries<T>, ...more]];
  const inFull = (handlers as [T, ParamIndexMap][]).map(([handler, indices]): [T, Params] => [
    handler,
    Object.fromEntries(Object.entries(indices).map(([name, i]) => [name, stash[i] ?? ""])),
  ]);
  return [[...inFull, ...more]];
}

class Paths<T> {
  readonly #whole = new Map<string, Entries<T>>();
  /** Paths with variables, by their first segment, then by their last (`:` for a variable). */
  readonly #nouns = new Map<string, Map<string, Pattern<T>[]>>();

  add(path: string, handler: T): void {
    if (!path.includes(":")) {
      const entries = this.#whole.get(path);
      if (entries) entries.push([handler, {}]);
      else this.#whole.set(path, [[handler, {}]]);
      return;
    }
    const first = firstOf(path);
    let noun = this.#nouns.get(first);
    if (noun === undefined) this.#nouns.set(first, noun = new Map());
    const last = lastOf(path);
    const key = last.startsWith(":") ? ":" : last;
    let patterns = noun.get(key);
    if (patterns === undefined) noun.set(key, patterns = []);
    const pattern = patterns.find((each) => each.path === path);
    if (pattern) pattern.handlers.push(handler);
    else patterns.push(new Pattern(path, handler));
  }

  match(path: string): Entries<T> | undefined {
    const whole = this.#whole.get(path);
    if (whole !== undefined) return whole;
    const noun = this.#nouns.get(firstOf(path));
    return noun && (first(noun.get(lastOf(path)), path) ?? first(noun.get(":"), path));
  }
}

function firstOf(path: string): string {
  const end = path.indexOf("/", 1);
  return end < 0 ? path : path.slice(0, end);
}

function lastOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

function first<T>(patterns: Pattern<T>[] | undefined, path: string): Entries<T> | undefined {
  if (patterns === undefined) return undefined;
  for (const pattern of patterns) {
    const params = pattern.match(path);
    if (params !== undefined) return pattern.handlers.map((handler) => [handler, params]);
  }
}

/** A path with variables: `:name`, or `:name{...}` with a regular expression for it. */
class Pattern<T> {
  readonly path: string;
  readonly handlers: T[];
  #names: string[] = [];
  /** Compiled at the first match. */
  #expression?: RegExp;

  constructor(path: string, handler: T) {
    this.path = path;
    this.handlers = [handler];
  }

  match(path: string): Params | undefined {
    const values = (this.#expression ??= this.#compile()).exec(path);
    if (values === null) return undefined;
    const params: Params = {};
    let i = 0;
    for (const name of this.#names) params[name] = values[++i]!;
    return params;
  }

  #compile(): RegExp {
    const source = this.path.split("/").map((segment) => {
      const [, name, expression = "[^/]+"] = /^:(\w+)(?:\{(.+)\})?$/.exec(segment) ?? [];
      if (name === undefined) return segment;
      this.#names.push(name);
      return `(${expression})`;
    });
    return new RegExp(`^${source.join("/")}$`);
  }
}
