/**
 * How much memory the process may have: what Linux tells of its control group, and the machine.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import { descriptorsProblem } from "./descriptors.ts";

/** What is taken for granted where the system does not tell, in bytes. */
const ASSUMED = 1_024 ** 3;

/**
 * The bytes of memory that the process can have: the machine's, or the least that a control group it is
 * in allows (memory.max of cgroups(7), which `MemoryMax=` of systemd and containers set). Where the
 * process may not look, 1 GiB.
 */
export function memoryLimit(): number {
  const machine = Deno.permissions.querySync({ name: "sys", kind: "systemMemoryInfo" }).state ===
      "granted"
    ? Deno.systemMemoryInfo().total
    : ASSUMED;
  return Math.min(machine, ...controlGroups().map(limitOf));
}

/** The folders of the process's control group and of those that it is in. */
function controlGroups(): string[] {
  if (descriptorsProblem()) return [];
  const [, path] = /^0::(.*)$/m.exec(Deno.readTextFileSync("/proc/self/cgroup")) ?? [];
  if (path === undefined) return [];
  const names = path.split("/").filter(Boolean);
  return Array.from(
    { length: names.length + 1 },
    (_, i) => ["/sys/fs/cgroup", ...names.slice(0, i)].join("/"),
  );
}

function limitOf(group: string): number {
  try {
    const text = Deno.readTextFileSync(`${group}/memory.max`).trim();
    return text === "max" ? Infinity : Number(text);
  } catch (error) {
    // The topmost has no such file, and in a container those outside are not seen.
    if (error instanceof Deno.errors.NotFound) return Infinity;
    throw new Error(`memory limit of ${group}: ${messageOf(error)}`, { cause: error });
  }
}
