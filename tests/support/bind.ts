/**
 * Binds addresses in tests, and checks the errors of those that are refused.
 *
 * @module
 */

import { assertEquals, assertRejects, assertStringIncludes } from "@std/assert";
import { TypedError } from "../../engine.ts";
import { bind, parseAddress } from "../../serve/addresses.ts";
import type { Bound } from "../../serve/bound.ts";

/** A bound address other than `fd://`: one socket, with a listener of Deno's. */
export type One = Bound & { listener: Deno.Listener };

/** Binds an address. */
export async function bound(text: string, options?: Parameters<typeof bind>[1]): Promise<One> {
  const [one] = await bind(parseAddress(text), options);
  return one as One;
}

/** Checks that an error is a TypedError of this kind, whose message has all these parts. */
export function assertTyped(error: TypedError, kind: string, ...parts: string[]): void {
  assertEquals(error.kind, kind);
  for (const part of parts) assertStringIncludes(error.message, part);
}
export async function assertRefused(
  attempt: () => Promise<Bound>,
  kind: string,
  ...parts: string[]
): Promise<void> {
  assertTyped(await assertRejects(attempt, TypedError), kind, ...parts);
}
