/**
 * The `filters` of lists and of pruning, in both forms that clients send.
 *
 * @module
 */

import { failure } from "./daemon.ts";

/** Filters by name, of `Env.getFilters`. One of a filter's values has to match, by default. */
export type Filters = ReadonlyMap<string, readonly string[]>;

/** Whether one of a filter's values fits; true where there is no such filter. */
export function some(filters: Filters, name: string, fits: (value: string) => boolean): boolean {
  const values = filters.get(name);
  return values === undefined || values.length === 0 || values.some(fits);
}

/** Whether labels are as the filters `label` (all of it) and `label!` (none of it) want them. */
export function labelled(filters: Filters, labels: Record<string, string> | undefined): boolean {
  const has = (wanted: string) => {
    const at = wanted.indexOf("=");
    const key = at < 0 ? wanted : wanted.slice(0, at);
    return Object.hasOwn(labels ?? {}, key) && (at < 0 || labels![key] === wanted.slice(at + 1));
  };
  return (filters.get("label") ?? []).every(has) && !(filters.get("label!") ?? []).some(has);
}

/** Whether a name is one that the filter `name` wants: a regular expression, as in dockerd. */
export function named(filters: Filters, name: string): boolean {
  return some(filters, "name", (wanted) => {
    if (wanted === name || wanted === `/${name}`) return true;
    try {
      const pattern = new RegExp(wanted);
      return pattern.test(name) || pattern.test(`/${name}`);
    } catch {
      return name.includes(wanted); // It is no expression, so it is meant as it stands.
    }
  });
}

/** A yes or no of a filter such as `dangling`; undefined where it is not given. */
export function yesOrNo(filters: Filters, name: string): boolean | undefined {
  const [value] = filters.get(name) ?? [];
  if (value === undefined) return undefined;
  if (["true", "1"].includes(value)) return true;
  if (["false", "0"].includes(value)) return false;
  throw failure("bad parameter", `invalid filter ${name}=${value}, expected true or false`);
}

/** The time before which things are meant by `until`, in ms since 1970: a time, or how long ago. */
export function untilOf(filters: Filters): number {
  const [value] = filters.get("until") ?? [];
  if (value === undefined) return Infinity;
  if (/^\d+(\.\d+)?$/.test(value)) return Number(value) * 1_000;
  const ago = durationOf(value);
  if (ago !== undefined) return Date.now() - ago;
  const date = Date.parse(value);
  if (!Number.isNaN(date)) return date;
  const expected = "expected a time or a duration such as 10m";
  throw failure("bad parameter", `invalid filter until=${value}, ${expected}`);
}

/** A duration such as `1m30s`, in milliseconds; undefined if the text is none. */
export function durationOf(text: string): number | undefined {
  const units: Record<string, number> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };
  const parts = [...text.matchAll(/(\d+(?:\.\d+)?)(h|ms|m|s)/g)];
  if (text === "" || parts.map(([all]) => all).join("") !== text) return undefined;
  return parts.reduce((sum, [, number, unit = ""]) => sum + Number(number) * units[unit]!, 0);
}
