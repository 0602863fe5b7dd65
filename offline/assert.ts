/**
 * Stands in for `jsr:@std/assert@^1` where JSR cannot be reached: the assertions that the tests
 * use, by `node:assert/strict`. The verdicts are the same, the messages are Node's.
 */

import node, { AssertionError } from "node:assert/strict";
export { AssertionError };

// A class with any constructor.
// deno-lint-ignore no-explicit-any
type Class<T> = abstract new (...args: any[]) => T;
type Check = <T>(actual: T, expected: T, msg?: string) => void;

export const fail = (msg?: string): never => node.fail(msg);
export const assert: (expr: unknown, msg?: string) => asserts expr = node.ok;
export const assertFalse = (expr: unknown, msg?: string): void => node.ok(!expr, msg);
export const assertEquals: Check = (actual, expected, msg) => {
  if (actual !== expected) node.deepStrictEqual(actual, expected, msg); // 0 is -0.
};
export const assertNotEquals: Check = node.notDeepStrictEqual;
export const assertStrictEquals: typeof node.strictEqual = node.strictEqual;
export const assertNotStrictEquals: Check = node.notStrictEqual;
export const assertMatch: typeof node.match = node.match;
export const assertNotMatch: typeof node.match = node.doesNotMatch;
export const assertObjectMatch: (actual: object, expected: object, msg?: string) => void =
  node.partialDeepStrictEqual;
export const assertArrayIncludes: Check = (actual, expected, msg) =>
  node.partialDeepStrictEqual(new Set(actual as unknown[]), new Set(expected as unknown[]), msg);
export const assertStringIncludes = (actual: string, expected: string, msg?: string): void =>
  node.ok(actual.includes(expected), msg ?? `expected "${expected}" in "${actual}"`);

const than = (sign: string, holds: (a: never, b: never) => boolean): Check => (a, b, msg) =>
  node.ok(holds(a as never, b as never), msg ?? `expected ${a} ${sign} ${b}`);
export const assertGreater: Check = than(">", (a, b) => a > b);
export const assertGreaterOrEqual: Check = than(">=", (a, b) => a >= b);
export const assertLess: Check = than("<", (a, b) => a < b);
export const assertLessOrEqual: Check = than("<=", (a, b) => a <= b);
export const assertAlmostEquals = (actual: number, expected: number, tolerance = 1e-7): void =>
  assertLessOrEqual(Math.abs(actual - expected), tolerance);

export const assertExists: <T>(actual: T, msg?: string) => asserts actual is NonNullable<T> = (
  actual: unknown,
  msg?: string,
) => node.ok(actual !== undefined && actual !== null, msg);
export function assertInstanceOf<T>(
  actual: unknown,
  expected: Class<T>,
  msg?: string,
): asserts actual is T {
  node.ok(actual instanceof expected, msg ?? `expected ${expected.name}, got ${actual}`);
}
export const assertNotInstanceOf = (actual: unknown, unexpected: Class<unknown>): void =>
  node.ok(!(actual instanceof unexpected), `expected no ${unexpected.name}`);

type Expected<E> = [expected?: Class<E>, includes?: string | RegExp, msg?: string];
export function assertIsError<E extends Error = Error>(
  error: unknown,
  ...rest: Expected<E>
): asserts error is E {
  const [expected = Error, includes = "", msg] = rest;
  assertInstanceOf(error, expected, msg);
  if (typeof includes === "string") assertStringIncludes(error.message, includes, msg);
  else node.match(error.message, includes, msg);
}
export function assertThrows<E extends Error = Error>(fn: () => unknown, ...rest: Expected<E>): E {
  try {
    fn();
  } catch (error) {
    assertIsError(error, ...rest);
    return error;
  }
  throw new AssertionError({ message: rest[2] ?? "expected it to throw" });
}
export async function assertRejects<E extends Error = Error>(
  fn: () => PromiseLike<unknown>,
  ...rest: Expected<E>
): Promise<E> {
  const { error } = await fn().then(() => ({ error: undefined }), (error) => ({ error }));
  if (error === undefined) {
    throw new AssertionError({ message: rest[2] ?? "expected it to reject" });
  }
  return assertThrows<E>(() => {
    throw error;
  }, ...rest);
}
