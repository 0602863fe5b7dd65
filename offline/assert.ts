/**
 * Stands in for `jsr:@std/assert@^1` where JSR cannot be reached: the same names, signatures,
 * verdicts and messages (only the diff in a message is plainer). `offline/import_map.json` puts it
 * in place; `offline/flags.ts` says when.
 *
 * @module
 */

import { stripVTControlCharacters } from "node:util";

// The parameters have to be `any`: a class is accepted whatever its constructor takes.
// deno-lint-ignore no-explicit-any
type Class<T> = abstract new (...args: any[]) => T;

/** What {@linkcode assertFalse} leaves of a type. */
export type Falsy = false | 0 | 0n | "" | null | undefined;

/** Array-like values that are no plain strings. */
export type ArrayLikeArg<T> = ArrayLike<T> & object;

/** What every failed assertion throws. */
export class AssertionError extends Error {
  override name = "AssertionError";
}

/** How a message ends: with the caller's own words if there are any. */
function because(msg?: string): string {
  return msg ? `: ${msg}` : ".";
}

function format(value: unknown): string {
  return Deno.inspect(value, {
    compact: false,
    depth: Infinity,
    getters: true,
    iterableLimit: Infinity,
    sorted: true,
    strAbbreviateSize: Infinity,
    trailingComma: true,
  });
}

/** Both values with the lines they have in common at the start and at the end shown once. */
function diff(actual: unknown, expected: unknown): string {
  const lines = (value: unknown) =>
    (typeof value === "string" ? JSON.stringify(value).replaceAll("\\n", "\\n\n") : format(value))
      .split("\n");
  const a = lines(actual);
  const b = lines(expected);
  let start = 0;
  while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
  let end = 0;
  while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end++;
  const marked = [
    ...a.slice(0, start).map((line) => `    ${line}`),
    ...a.slice(start, a.length - end).map((line) => `-   ${line}`),
    ...b.slice(start, b.length - end).map((line) => `+   ${line}`),
    ...a.slice(a.length - end).map((line) => `    ${line}`),
  ];
  return `\n\n\n    [Diff] Actual / Expected\n\n\n${marked.join("\n")}\n`;
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null;
}

// Objects whose content no property shows, or not fully, but whose text does.
const TEXTUAL = /^\[object (RegExp|URL|URLSearchParams|Intl\.Locale|Temporal\.\w+)\]$/;

const BARE: readonly unknown[] = [null, Object.prototype];
const PLAIN: readonly unknown[] = [...BARE, Array.prototype];

/**
 * What decides whether an object equals another: of a plain object or an array what it owns and
 * lists; of any other also what is hidden or inherited, which is where a class keeps its accessors.
 */
function decidingKeys(object: object): PropertyKey[] {
  const plain = PLAIN.includes(Object.getPrototypeOf(object));
  if (plain) return Reflect.ownKeys({ ...object });
  const keys: PropertyKey[] = [];
  for (let o: object | null = object; !PLAIN.includes(o); o = Object.getPrototypeOf(o)) {
    keys.push(...Reflect.ownKeys(o!));
  }
  return keys;
}

/** Whether two values are deeply equal, 0 and -0 being equal and `undefined` keys being keys. */
export function equal(a: unknown, b: unknown): boolean {
  // Pairs under comparison, taken as equal when they come round again in a circular structure.
  const pending = new Map<object, object>();

  function same(a: unknown, b: unknown): boolean {
    if (a === b || Object.is(a, b)) return true;
    if (!isObject(a) || !isObject(b)) return false;
    if (a instanceof Date && b instanceof Date) return Object.is(a.getTime(), b.getTime());
    const prototypes = [Object.getPrototypeOf(a), Object.getPrototypeOf(b)];
    if (prototypes[0] !== prototypes[1] && !prototypes.every((p) => BARE.includes(p))) return false;
    if (a instanceof WeakMap || a instanceof WeakSet) {
      throw new TypeError(
        `Cannot compare ${a instanceof WeakMap ? "WeakMap" : "WeakSet"} instances`,
      );
    }
    if (a instanceof WeakRef) return same(a.deref(), (b as typeof a).deref());
    if (a instanceof ArrayBuffer || a instanceof SharedArrayBuffer) {
      return sameItems(new Uint8Array(a), new Uint8Array(b as typeof a));
    }
    if (ArrayBuffer.isView(a) && !(a instanceof DataView)) {
      return sameItems(a as Uint8Array, b as Uint8Array);
    }
    if (pending.get(a) === b) return true;
    if (Object.keys(a).length !== Object.keys(b).length) return false;
    pending.set(a, b);
    const outcome = sameContent(a, b);
    if (!outcome) pending.delete(a);
    return outcome;
  }

  function sameItems(a: ArrayLike<unknown>, b: ArrayLike<unknown>): boolean {
    if (a.length !== b.length) return false;
    for (let i = 0; i < a.length; i++) if (!same(a[i], b[i])) return false;
    return true;
  }

  function sameContent(a: object, b: object): boolean {
    if (a instanceof Map || a instanceof Set) return sameEntries(a, b as typeof a);
    if (TEXTUAL.test(Object.prototype.toString.call(a))) return String(a) === String(b);
    const keys = new Set([...decidingKeys(a), ...decidingKeys(b)]);
    return [...keys].every((key) =>
      key in a === key in b && same(Reflect.get(a, key), Reflect.get(b, key))
    );
  }

  function sameEntries<T extends Map<unknown, unknown> | Set<unknown>>(a: T, b: T): boolean {
    if (a.size !== b.size) return false;
    // Only a key that is an object can equal a key that is not the same one.
    return [...a.entries()].every(([key, value]) =>
      isObject(key)
        ? [...b.entries()].some(([key2, value2]) => same(key, key2) && same(value, value2))
        : b.has(key) && (b instanceof Set || same(value, b.get(key)))
    );
  }

  return same(a, b);
}

/** Fails unless `expr` is truthy. */
export function assert(expr: unknown, msg = ""): asserts expr {
  if (!expr) throw new AssertionError(msg);
}

/** Fails unless `expr` is falsy. */
export function assertFalse(expr: unknown, msg = ""): asserts expr is Falsy {
  if (expr) throw new AssertionError(msg);
}

/** Fails unless both values are deeply equal. */
export function assertEquals<T>(actual: T, expected: T, msg?: string): void {
  if (equal(actual, expected)) return;
  throw new AssertionError(`Values are not equal${because(msg)}${diff(actual, expected)}`);
}

/** Fails if both values are deeply equal. */
export function assertNotEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!equal(actual, expected)) return;
  throw new AssertionError(
    `Expected actual: ${format(actual)} not to be: ${format(expected)}${because(msg)}`,
  );
}

/** Fails unless both values are the same one. */
export function assertStrictEquals<T>(
  actual: unknown,
  expected: T,
  msg?: string,
): asserts actual is T {
  if (Object.is(actual, expected)) return;
  const text = format(actual);
  if (text === format(expected)) {
    const indented = text.split("\n").map((line) => `    ${line}`).join("\n");
    throw new AssertionError(
      `Values have the same structure but are not reference-equal${because(msg)}\n\n${indented}\n`,
    );
  }
  throw new AssertionError(`Values are not strictly equal${because(msg)}${diff(actual, expected)}`);
}

/** Fails if both values are the same one. */
export function assertNotStrictEquals<T>(actual: T, expected: T, msg?: string): void {
  if (!Object.is(actual, expected)) return;
  throw new AssertionError(
    `Expected "actual" to not be strictly equal to: ${format(actual)}${because(msg)}\n`,
  );
}

/** Fails if the value is null or undefined. */
export function assertExists<T>(actual: T, msg?: string): asserts actual is NonNullable<T> {
  if (actual !== undefined && actual !== null) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not be null or undefined${because(msg)}`,
  );
}

/** Fails unless the value is an instance of the class. */
export function assertInstanceOf<T extends Class<unknown>>(
  actual: unknown,
  expectedType: T,
  msg = "",
): asserts actual is InstanceType<T> {
  if (actual instanceof expectedType) return;
  let found: string = actual === null ? "null" : typeof actual;
  if (isObject(actual)) found = actual.constructor?.name ?? "Object";
  const other = typeof actual === "function"
    ? " but was not an instanced object"
    : found === expectedType.name
    ? ""
    : ` but was "${found}"`;
  throw new AssertionError(
    `Expected object to be an instance of "${expectedType.name}"${other}${because(msg)}`,
  );
}

/** Fails if the value is an instance of the class. */
export function assertNotInstanceOf<A, T>(
  actual: A,
  unexpectedType: Class<T>,
  msg?: string,
): asserts actual is Exclude<A, T> {
  assertFalse(
    actual instanceof unexpectedType,
    `Expected object to not be an instance of "${typeof unexpectedType}"${because(msg)}`,
  );
}

/** Fails unless the string matches. */
export function assertMatch(actual: string, expected: RegExp, msg?: string): void {
  if (expected.test(actual)) return;
  throw new AssertionError(`Expected actual: "${actual}" to match: "${expected}"${because(msg)}`);
}

/** Fails if the string matches. */
export function assertNotMatch(actual: string, expected: RegExp, msg?: string): void {
  if (!expected.test(actual)) return;
  throw new AssertionError(
    `Expected actual: "${actual}" to not match: "${expected}"${because(msg)}`,
  );
}

/** Fails unless the string contains the other. */
export function assertStringIncludes(actual: string, expected: string, msg?: string): void {
  if (actual.includes(expected)) return;
  throw new AssertionError(`Expected actual: "${actual}" to contain: "${expected}"${because(msg)}`);
}

/** Fails unless the array has an equal for every item of the other. */
export function assertArrayIncludes<T>(
  actual: ArrayLikeArg<T>,
  expected: ArrayLikeArg<T>,
  msg?: string,
): void {
  const items = Array.from(actual);
  const missing = Array.from(expected).filter((item) => !items.some((other) => equal(item, other)));
  if (missing.length === 0) return;
  throw new AssertionError(
    `Expected actual: "${format(actual)}" to include: "${format(expected)}"${because(msg)}` +
      `\nmissing: ${format(missing)}`,
  );
}

/**
 * Fails unless the object has all that `expected` has, nested objects alike; an array may be longer
 * than the one expected of it.
 */
export function assertObjectMatch(
  // As in the original: values of interfaces and classes have no index signature of unknowns.
  // deno-lint-ignore no-explicit-any
  actual: Record<PropertyKey, any>,
  expected: Record<PropertyKey, unknown>,
  msg?: string,
): void {
  for (const side of [actual, expected]) {
    if (isObject(side)) continue;
    throw new TypeError(
      `Cannot assertObjectMatch ${side === null ? "null" : `type ${typeof side}`}`,
    );
  }
  if (matchesKeys(actual, expected, new Map())) return;
  throw new AssertionError(`Values are not equal${because(msg)}${diff(actual, expected)}`);
}

type Seen = Map<object, object>;

/** Calls `match` unless the pair comes round again, then not reduced to what is expected of it. */
function onFirstVisit<T extends object>(actual: T, expected: T, seen: Seen, match: () => boolean) {
  if (seen.get(actual) === expected) return equal(actual, expected);
  seen.set(actual, expected);
  return match();
}

function matchesKeys(actual: object, expected: object, seen: Seen): boolean {
  return onFirstVisit(
    actual,
    expected,
    seen,
    () =>
      Reflect.ownKeys(expected).every((key) =>
        Object.hasOwn(actual, key) &&
        matches(Reflect.get(actual, key), Reflect.get(expected, key), seen)
      ),
  );
}

function matchesItems(actual: unknown[], expected: unknown[], seen: Seen): boolean {
  return onFirstVisit(actual, expected, seen, () =>
    actual.length >= expected.length &&
    Array.from(expected).every((item, i) => matches(actual[i], item, seen)));
}

function matches(actual: unknown, expected: unknown, seen: Seen): boolean {
  const whole = [actual, expected].some((v) =>
    !isObject(v) || v instanceof RegExp || v instanceof Date
  );
  if (whole) return equal(actual, expected);
  if (Array.isArray(expected)) {
    return Array.isArray(actual) && matchesItems(actual, expected, seen);
  }
  if (expected instanceof Map) {
    return actual instanceof Map &&
      [...expected].every(([key, value]) =>
        actual.has(key) && matches(actual.get(key), value, seen)
      );
  }
  if (expected instanceof Set) return actual instanceof Set && expected.isSubsetOf(actual);
  return matchesKeys(actual as object, expected as object, seen);
}

/** Fails unless `actual > expected`. */
export function assertGreater<T>(actual: T, expected: T, msg?: string): void {
  if (actual > expected) return;
  throw new AssertionError(msg ?? `Expect ${format(actual)} > ${format(expected)}`);
}

/** Fails unless `actual >= expected`. */
export function assertGreaterOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (actual >= expected) return;
  throw new AssertionError(msg ?? `Expect ${format(actual)} >= ${format(expected)}`);
}

/** Fails unless `actual < expected`. */
export function assertLess<T>(actual: T, expected: T, msg?: string): void {
  if (actual < expected) return;
  throw new AssertionError(msg ?? `Expect ${format(actual)} < ${format(expected)}`);
}

/** Fails unless `actual <= expected`. */
export function assertLessOrEqual<T>(actual: T, expected: T, msg?: string): void {
  if (actual <= expected) return;
  throw new AssertionError(msg ?? `Expect ${format(actual)} <= ${format(expected)}`);
}

/** Fails unless the numbers differ by at most the tolerance, a ten-millionth if none is given. */
export function assertAlmostEquals(
  actual: number,
  expected: number,
  tolerance: number = Number.isFinite(expected) ? Math.abs(expected * 1e-7) : 1e-7,
  msg?: string,
): void {
  const delta = Math.abs(expected - actual);
  if (Object.is(actual, expected) || delta <= tolerance) return;
  const digits = (n: number) => Number.isInteger(n) ? `${n}` : n.toExponential();
  throw new AssertionError(
    `Expected actual: "${digits(actual)}" to be close to "${digits(expected)}": ` +
      `delta "${digits(delta)}" is greater than "${digits(tolerance)}"${because(msg)}`,
  );
}

/** Fails unless the value is an error of the class whose message includes or matches. */
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ErrorClass?: Class<E>,
  msgMatches?: string | RegExp,
  msg?: string,
): asserts error is E {
  if (!(error instanceof Error)) {
    throw new AssertionError(`Expected "error" to be an Error object${because(msg)}`);
  }
  if (ErrorClass && !(error instanceof ErrorClass)) {
    throw new AssertionError(
      `Expected error to be instance of "${ErrorClass.name}", ` +
        `but was "${error.constructor?.name}"${because(msg)}`,
    );
  }
  // An error may come from a program that colours its messages.
  const text = stripVTControlCharacters(error.message);
  const matching = typeof msgMatches === "string"
    ? text.includes(stripVTControlCharacters(msgMatches))
    : msgMatches?.test(text) ?? true;
  if (matching) return;
  const wanted = typeof msgMatches === "string" ? JSON.stringify(msgMatches) : msgMatches;
  throw new AssertionError(
    `Expected error message to include ${wanted}, but got ${JSON.stringify(error.message)}${
      because(msg)
    }`,
  );
}

/** What follows the function: the class of the error, what its message includes and a message. */
type Expectation<E> = [(Class<E> | string)?, string?, string?];

/** Without a class, only a message can follow. */
function readExpectation<E>([first, second, third]: Expectation<E>) {
  return first && typeof first !== "string"
    ? { ErrorClass: first, includes: second, msg: third }
    : { msg: first || second };
}

/** Judges what came out of a function by what is expected. */
function assertCaught<E extends Error>(
  caught: { error: unknown } | undefined,
  expectation: Expectation<E>,
  verbs: { base: string; past: string },
): unknown {
  const { ErrorClass, includes, msg } = readExpectation(expectation);
  if (!caught) throw new AssertionError(`Expected function to ${verbs.base}${because(msg)}`);
  if (ErrorClass) {
    if (!(caught.error instanceof Error)) {
      throw new AssertionError(`A non-Error object was ${verbs.past}${because(msg)}`);
    }
    assertIsError(caught.error, ErrorClass, includes, msg);
  }
  return caught.error;
}

/** Fails unless the function throws; returns what it threw. */
export function assertThrows(fn: () => unknown, msg?: string): unknown;
/** Fails unless the function throws an error of the class; returns the error. */
export function assertThrows<E extends Error = Error>(
  fn: () => unknown,
  ErrorClass: Class<E>,
  msgIncludes?: string,
  msg?: string,
): E;
export function assertThrows<E extends Error>(
  fn: () => unknown,
  ...expectation: Expectation<E>
): unknown {
  let caught: { error: unknown } | undefined;
  try {
    fn();
  } catch (error) {
    caught = { error };
  }
  return assertCaught(caught, expectation, { base: "throw", past: "thrown" });
}

/** Fails unless the promise is rejected; returns the reason. */
export function assertRejects(fn: () => PromiseLike<unknown>, msg?: string): Promise<unknown>;
/** Fails unless the promise is rejected with an error of the class; returns the error. */
export function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ErrorClass: Class<E>,
  msgIncludes?: string,
  msg?: string,
): Promise<E>;
export async function assertRejects<E extends Error>(
  fn: () => PromiseLike<unknown>,
  ...expectation: Expectation<E>
): Promise<unknown> {
  let promise: PromiseLike<unknown> | undefined;
  try {
    promise = fn();
  } catch {
    // Left undefined: to throw is as wrong as to return something that is no promise.
  }
  if (typeof promise?.then !== "function") {
    throw new AssertionError(
      `Function throws when expected to reject${because(readExpectation(expectation).msg)}`,
    );
  }
  let caught: { error: unknown } | undefined;
  try {
    await promise;
  } catch (error) {
    caught = { error };
  }
  return assertCaught(caught, expectation, { base: "reject", past: "rejected" });
}

/** Fails. */
export function fail(msg?: string): never {
  throw new AssertionError(`Failed assertion${because(msg)}`);
}

/** Fails, for code that is still to be written. */
export function unimplemented(msg?: string): never {
  throw new AssertionError(`Unimplemented${because(msg)}`);
}

/** Fails, for code that must not be reached. */
export function unreachable(msg?: string): never {
  throw new AssertionError(`Unreachable${because(msg)}`);
}
