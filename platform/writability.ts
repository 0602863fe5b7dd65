/**
 * Whether a write would block, for those who write at once and must not wait.
 *
 * @module
 */

import { foreignFunctionsProblem } from "./descriptors.ts";
import { Libc } from "./libc.ts";

/** The standard streams' descriptors (stdin(3)). */
export const [STDOUT, STDERR] = [1, 2];

/**
 * Tells, whenever it is asked, whether a write to a descriptor would not block now: one of up to a
 * page, as poll(2) has it of pipes. Undefined where foreign functions cannot be called.
 */
export function writability(fd: number): () => boolean | undefined {
  let callable: boolean | undefined;
  return () => {
    callable ??= foreignFunctionsProblem() === undefined;
    return callable ? (shared ??= new Libc()).writable(fd) : undefined;
  };
}

let shared: Libc | undefined;
