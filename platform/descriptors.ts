/**
 * What the process has and may have: its descriptors, as Linux lists them in /proc, which Deno
 * keeps from a process that has not all permissions, and its memory.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";

/** Why foreign functions cannot be called, if they cannot. Never prompts. */
export function foreignFunctionsProblem(): string | undefined {
  if (Deno.build.os !== "linux") return `this works on Linux, not on ${Deno.build.os}`;
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
    return "this needs the permission --allow-ffi";
  }
}

/**
 * Why the process's descriptors cannot be read, if they cannot. They are listed in /proc, which
 * Deno opens only to a process with all permissions. Never prompts.
 */
export function descriptorsProblem(): string | undefined {
  const problem = foreignFunctionsProblem();
  if (problem) return problem;
  const missing = "this needs all permissions, --allow-all: to look into /proc";
  if (Deno.permissions.querySync({ name: "read" }).state !== "granted") return missing;
  try {
    Deno.readTextFileSync(LIMITS);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return missing;
    return `this needs /proc: ${messageOf(error)}`;
  }
}

/**
 * Makes sure that sockets that another process has made can be looked at and listened on.
 *
 * @throws {TypedError} ("bad parameter") If this process may not do so.
 */
export function requireDescriptors(): void {
  const problem = descriptorsProblem();
  if (problem) throw new TypedError("bad parameter", problem);
}

/** The process's descriptors, by their numbers (proc_pid_fd(5)). */
export const DESCRIPTORS = "/proc/self/fd";
const LIMITS = "/proc/self/limits";
const CONTROL_GROUP = "/proc/self/cgroup";

/** How many descriptors the process may have; undefined where {@linkcode descriptorsProblem} is. */
export function descriptorLimit(): number | undefined {
  if (descriptorsProblem()) return undefined;
  const [, soft] = /^Max open files +(\d+)/m.exec(Deno.readTextFileSync(LIMITS)) ?? [];
  return soft === undefined ? undefined : Number(soft);
}

/** Clock ticks in a second as proc(5) counts them: USER_HZ, 100 on every architecture of Deno's. */
const TICKS = 100;

/**
 * When the process was started, in seconds since 1970, and how many seconds of processor time it
 * has had; undefined where {@linkcode descriptorsProblem} is.
 */
export function processTimes(): { started: number; cpu: number } | undefined {
  if (descriptorsProblem()) return undefined;
  // The second field is the program's name in parentheses, which may have any character in it.
  const fields = Deno.readTextFileSync("/proc/self/stat").replace(/^.*\) /s, "").split(" ");
  const [, booted] = /^btime (\d+)$/m.exec(Deno.readTextFileSync("/proc/stat")) ?? [];
  // Fields 14, 15 and 22 of proc_pid_stat(5); the first here is the third.
  const [user, system, start] = [11, 12, 19].map((i) => Number(fields[i]) / TICKS);
  return { started: Number(booted) + start!, cpu: user! + system! };
}

/** A variable of the environment, where we may look, without a prompt for the permission. */
export function permittedEnv(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) : undefined;
}

/** The process's descriptors and where they point; not that of the listing itself. */
export function descriptors(): { fd: number; target: string }[] {
  return [...Deno.readDirSync(DESCRIPTORS)].flatMap(({ name }) => {
    try {
      return [{ fd: Number(name), target: Deno.readLinkSync(`${DESCRIPTORS}/${name}`) }];
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  });
}

/** What is taken for granted where the system does not tell, in bytes. */
const ASSUMED = 1_024 ** 3;

/**
 * The bytes of memory that the process can have: the machine's, or the least that a control group
 * it is in allows (memory.max of cgroups(7), which `MemoryMax=` of systemd and containers set).
 * Where the process may not look, 1 GiB.
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
  const [, path] = /^0::(.*)$/m.exec(Deno.readTextFileSync(CONTROL_GROUP)) ?? [];
  if (path === undefined) return [];
  const names = path.split("/").filter(Boolean);
  return Array.from(
    { length: names.length + 1 },
    (_, i) => ["/sys/fs/cgroup", ...names.slice(0, i)].join("/"),
  );
}

function limitOf(group: string): number {
  let text: string;
  try {
    text = Deno.readTextFileSync(`${group}/memory.max`).trim();
  } catch {
    // The topmost has no such file, in a container those outside are not seen, and where it cannot
    // be read it sets no limit that we could know of.
    return Infinity;
  }
  return text === "max" ? Infinity : Number(text);
}
