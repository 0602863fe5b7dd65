/**
 * Tests of the behaviour of Deno that platform/ depends on, one thing each. If one fails on a new
 * release, the first line of the failure says what of the daemon is broken.
 *
 * @module
 */

import { foreignFunctionsProblem } from "../../platform/descriptors.ts";
import { testWhere } from "./daemon.ts";

/** A test of one thing that the daemon needs, and what breaks without it. */
export function needs(
  name: string,
  breaks: string,
  fn: () => Promise<void>,
  test: typeof Deno.test.ignore = Deno.test,
): void {
  test(name, async () => {
    try {
      await fn();
    } catch (cause) {
      throw new Error(`broken on Deno ${Deno.version.deno}: ${breaks}`, { cause });
    }
  });
}

export const foreign = foreignFunctionsProblem();
export const foreignTest = testWhere(!foreign, `what needs the C library: ${foreign}`);
