/** Options of {@linkcode parseArgs}, as in @std/cli. */
interface ParseOptions {
  boolean?: readonly string[];
  string?: readonly string[];
  collect?: readonly string[];
  unknown?: (arg: string, key?: string, value?: unknown) => unknown;
}

/**
 * Stands in for `parseArgs` of `jsr:@std/cli@^1` where JSR cannot be reached. It returns the same
 * for the arguments of this project: `--flag`, `--flag=VALUE`, `--flag VALUE`, and others.
 */
export function parseArgs(
  args: readonly string[],
  { boolean = [], string = [], collect = [], unknown }: ParseOptions = {},
): { _: string[]; [flag: string]: unknown } {
  const result: ReturnType<typeof parseArgs> = { _: [] };
  for (const flag of boolean) result[flag] = false;
  for (const flag of collect) result[flag] = [];
  const rest = [...args];
  for (let arg; (arg = rest.shift()) !== undefined;) {
    if (arg === "--") return { ...result, _: [...result._, ...rest] };
    const [, key, attached] = /^--?([^=]+)(?:=([^]*))?$/.exec(arg) ?? [];
    if (key === undefined) {
      if (unknown?.(arg) !== false) result._.push(arg);
    } else if (boolean.includes(key)) {
      result[key] = attached !== "false";
    } else if (string.includes(key)) {
      const follows = attached === undefined && rest.length > 0 && !rest[0]!.startsWith("-");
      const value = follows ? rest.shift() : attached ?? "";
      result[key] = collect.includes(key) ? [...result[key] as string[], value] : value;
    } else if (unknown?.(arg, key, attached ?? true) !== false) {
      result[key] = attached ?? true;
    }
  }
  return result;
}
