/**
 * Tests of what platform/ leans on in Deno, each thing by itself. When a release fails one of
 * these, the first line of the failure says what of the daemon is broken on it.
 *
 * @module
 */

import { foreignFunctionsProblem } from "../../platform/descriptors.ts";
import { testWhere } from "./daemon.ts";

/** A test of one thing that the daemon needs, and what breaks without. */
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
