/**
 * Stands in for `jsr:@std/cli@^1/parse-args` where JSR cannot be reached: the same results but
 * for the option `negatable`, with simpler types. `offline/import_map.json` puts it in place;
 * `offline/flags.ts` says when.
 *
 * @module
 */

type Tree = Record<string, unknown>;
type Aliases = Readonly<Record<string, string | readonly string[]>>;

/** What {@linkcode parseArgs} can be told. */
export interface ParseOptions<B = string, S = string, C = string, D = Tree, A = Aliases> {
  /** Keep what follows `--` in a `"--"` of its own instead of among the positional arguments. */
  "--"?: boolean;
  /** Other names of options; all names of an option are set in the result. */
  alias?: A;
  /** Options that take no value; `true` makes one of every `--option` without a `=`. */
  boolean?: boolean | B | readonly B[];
  /** Options all of whose values are kept, in an array. */
  collect?: C | readonly C[];
  /** Values of options that are not given. */
  default?: D;
  /** Take all that follows the first positional argument as positional. */
  stopEarly?: boolean;
  /** Options whose values stay strings even if they look like numbers. */
  string?: S | readonly S[];
  /** Called with what is not defined above; if it returns `false`, that is left out. */
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

type NamesIn<T> = T extends readonly (infer N extends string)[] ? N : T extends string ? T : never;
type Value<K, B, S, C, D> = K extends B ? K extends C ? boolean[] : boolean
  : K extends S ? K extends C ? string[] : string | (K extends keyof D ? D[K] : never)
  : K extends C ? unknown[]
  : unknown;
/** The options that may be missing, `M`, and the others, under their names and those of `A`. */
type Options<K extends PropertyKey, M, A, B, S, C, D> =
  & { [N in Exclude<K, M> as string extends N ? never : N]: Value<N, B, S, C, D> }
  & { [N in K & M as string extends N ? never : N]?: string }
  & { [N in Exclude<keyof A, M> as NamesIn<A[N]>]: Value<N, B, S, C, D> }
  & { [N in keyof A & M as NamesIn<A[N]>]?: string };

/** What {@linkcode parseArgs} returns. */
export type Args<B extends string, S extends string, C extends string, D, A> =
  & Options<B | S | C, Exclude<S, B | C | keyof D>, A, B, S, C, D>
  // deno-lint-ignore no-explicit-any -- As in the original: nothing is known without options.
  & { [key: string]: [B | S | C] extends [never] ? any : unknown }
  & { "--"?: string[]; _: (string | number)[] };

const list = <T>(value: T | readonly T[] = []): readonly T[] => [value].flat() as T[];
const numberIfNumeric = (value: string): string | number =>
  value.trim() !== "" && Number.isFinite(Number(value)) ? Number(value) : value;

/** Takes command-line arguments apart into options and, in `_`, positional arguments. */
export function parseArgs<
  const B extends string = never,
  const S extends string = never,
  const C extends string = never,
  D extends Tree = Record<never, never>,
  const A extends Aliases = Record<never, never>,
>(args: readonly string[], options: ParseOptions<B, S, C, D, A> = {}): Args<B, S, C, D, A> {
  const groups = new Map<string, string[]>();
  for (const [key, others] of Object.entries<string | readonly string[]>(options.alias ?? {})) {
    for (const name of [key, ...list(others)]) groups.set(name, [name, key, ...list(others)]);
  }
  const namesOf = (key: string) => new Set(groups.get(key) ?? [key]);
  const oneOf = (keys: readonly string[]) => (key: string) =>
    keys.some((name) => namesOf(key).has(name));
  const allBoolean = options.boolean === true;
  const booleans = typeof options.boolean === "boolean" ? [] : list<string>(options.boolean);
  const strings = list<string>(options.string);
  const isBoolean = oneOf(booleans);
  const isString = oneOf(strings);
  const isCollected = oneOf(list(options.collect));
  const positional: (string | number)[] = [];
  const result: Tree = { _: positional };

  /** Sets an option under all its names, creating the objects that dotted ones lead through. */
  function store(key: string, value: unknown, how: "append" | "replace" | "preset") {
    for (const path of [...namesOf(key)].map((name) => name.split("."))) {
      // No argument may reach the prototypes that all objects share.
      if (path.includes("__proto__") || path.includes("constructor")) continue;
      const last = path.pop()!;
      const tree = path.reduce((tree, part) => {
        return (Object.hasOwn(tree, part) ? tree[part] : tree[part] = {}) as Tree;
      }, result);
      if (how === "preset" && Object.hasOwn(tree, last)) return;
      const old = tree[last];
      tree[last] = how === "append" ? [...Array.isArray(old) ? old : [], value] : value;
    }
  }

  function set(key: string, value: unknown, arg: string) {
    const known = [isBoolean, isString, isCollected].some((is) => is(key)) || groups.has(key) ||
      allBoolean && /^--[^=]+$/.test(arg);
    if (!known && options.unknown?.(arg, key, value) === false) return;
    const final = typeof value === "string" && !isString(key) ? numberIfNumeric(value) : value;
    store(key, final, isCollected(key) ? "append" : "replace");
  }

  /** Sets an option that has nothing attached; returns whether it took the next argument. */
  function setBare(key: string, arg: string, boolean: boolean, next = "", stop = /^-/): boolean {
    const takes = boolean ? /^(true|false)$/.test(next) : next !== "" && !stop.test(next);
    set(key, takes ? boolean ? next === "true" : next : isString(key) ? "" : true, arg);
    return takes;
  }

  /** Sets the options of a group like `-abc`; returns whether the last took the next argument. */
  function setGroup(arg: string, next?: string): boolean {
    for (let i = 1; i < arg.length - 1; i++) {
      const rest = arg.slice(i + 1);
      // A value is told from further letters by a "=", by its last character or by its first.
      const told = /[A-Za-z]/.test(arg[i]) ? /=([^]+)/.exec(rest) ?? /[^]*\d\.?$/.exec(rest) : null;
      const plain = rest === "=" ? "" : /^(-$|\W[^])/.test(rest) ? rest : undefined;
      const value = told?.[1] ?? told?.[0] ?? plain;
      set(arg[i], value ?? (isString(arg[i]) ? "" : true), arg);
      if (value !== undefined) return false;
    }
    return setBare(arg.slice(-1), arg, isBoolean(arg.slice(-1)), next, /^--?[^-]/);
  }

  const end = args.includes("--") ? args.indexOf("--") : args.length;
  for (let i = 0, stopped = false; i < end; i++) {
    const arg = args[i];
    const next = i + 1 < end ? args[i + 1] : undefined;
    const [, key, value] = /^--(?:no-)?(.+?)=([^]*)$/.exec(arg) ?? [];
    if (stopped) {
      positional.push(arg);
    } else if (key !== undefined) {
      set(key, isBoolean(key) ? value !== "false" : value, arg);
    } else if (/^--[^]/.test(arg)) {
      if (setBare(arg.slice(2), arg, allBoolean || isBoolean(arg.slice(2)), next)) i++;
    } else if (/^-[^]/.test(arg)) {
      if (setGroup(arg, next)) i++;
    } else {
      const kept = options.unknown?.(arg) !== false;
      if (kept) positional.push(strings.includes("_") ? arg : numberIfNumeric(arg));
      stopped = options.stopEarly === true;
    }
  }

  for (const [key, value] of Object.entries(options.default ?? {})) store(key, value, "preset");
  for (const key of booleans) store(key, isCollected(key) ? [] : false, "preset");
  for (const key of strings) if (isCollected(key)) store(key, [], "preset");
  if (options["--"]) result["--"] = args.slice(end + 1);
  else positional.push(...args.slice(end + 1));
  return result as Args<B, S, C, D, A>;
}
