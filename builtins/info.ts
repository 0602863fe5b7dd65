/**
 * The jobs that tell about the daemon: `version`, `info` and `stats`.
 *
 * @module
 */

import type { ApiStats } from "./serveapi.ts";
import type { Engine, EngineStats } from "../engine.ts";
import { BUILD } from "../engine/build.ts";
import { API_VERSION, MIN_API_VERSION, VERSION } from "../engine/version.ts";
import { DESCRIPTORS, descriptorsProblem } from "../platform/descriptors.ts";
import type { Activation } from "../listenbuffer.ts";

/** What the other built-in jobs know. */
export interface Sources {
  /** The engine's gate. */
  readonly gate: Activation;
  /** How many clients listen for events. */
  listeners(): number;
  /** The counts of each running `serveapi`. */
  apis(): ApiStats[];
}

/** What the job `stats` prints, as JSON. */
export interface DaemonStats {
  /** The process id. */
  pid: number;
  /** Seconds since the start. */
  uptime: number;
  /** What the process takes, in bytes. */
  memory: Deno.MemoryUsage;
  /** Counts of the engine's jobs. */
  jobs: EngineStats;
  /** How many clients listen for events. */
  events: { listeners: number };
  /** The counts of each running `serveapi`. */
  apis: ApiStats[];
}

/** Registers `version`, `info` and `stats`. Each prints one JSON object. */
export function registerInfo(engine: Engine, sources: Sources): void {
  // Random bytes load half of the runtime's cryptography, for which nobody has asked yet.
  let id: string | undefined;
  const started = Date.now(); // A Date would ask for the time zone.
  const began = performance.now(); // The clock on the wall may be set.
  // Asked for when somebody wants to know, since it takes a permission; and once, since it stays.
  let version: string | undefined;
  engine.register("version", (job) => job.print(version ??= describe()));

  engine.register("info", async (job) => {
    const [operatingSystem, descriptors] = await Promise.all([osName(), countDescriptors()]);
    return await job.print(
      JSON.stringify({
        ID: id ??= crypto.randomUUID(),
        Name: permitted("hostname", Deno.hostname),
        ServerVersion: VERSION,
        OSType: Deno.build.os,
        OperatingSystem: operatingSystem,
        Architecture: arch(),
        KernelVersion: permitted("osRelease", Deno.osRelease),
        NCPU: navigator.hardwareConcurrency,
        MemTotal: permitted("systemMemoryInfo", Deno.systemMemoryInfo)?.total,
        SystemTime: new Date().toISOString(),
        StartedAt: new Date(started).toISOString(),
        NFd: descriptors,
        NEventsListener: sources.listeners(),
        Jobs: engine.stats,
      }) + "\n",
    );
  });

  engine.register("stats", (job) => {
    const stats: DaemonStats = {
      pid: Deno.pid,
      uptime: (performance.now() - began) / 1_000,
      memory: Deno.memoryUsage(),
      jobs: engine.stats,
      events: { listeners: sources.listeners() },
      apis: sources.apis(),
    };
    return job.print(JSON.stringify(stats) + "\n");
  });
}

function describe(): string {
  const versions = { ApiVersion: API_VERSION, MinAPIVersion: MIN_API_VERSION };
  // Undefined, and so left out, where this runs from its source.
  const build = { GitCommit: BUILD.commit, BuildTime: BUILD.time };
  const system = {
    Os: Deno.build.os,
    Arch: arch(),
    KernelVersion: permitted("osRelease", Deno.osRelease),
  };
  return JSON.stringify({
    Platform: { Name: "Floodgate" },
    Version: VERSION,
    ...versions,
    ...build,
    ...system,
    DenoVersion: Deno.version.deno,
    // The docker CLI shows these, with their details, in place of the names above.
    Components: [
      { Name: "Engine", Version: VERSION, Details: { ...versions, ...build, ...system } },
      {
        Name: "Deno",
        Version: Deno.version.deno,
        Details: { V8: Deno.version.v8, TypeScript: Deno.version.typescript },
      },
    ],
  }) + "\n";
}

/** What the system tells, where we may ask. A daemon that may not leaves it out. */
function permitted<T>(
  kind: NonNullable<Deno.SysPermissionDescriptor["kind"]>,
  ask: () => T,
): T | undefined {
  return Deno.permissions.querySync({ name: "sys", kind }).state === "granted" ? ask() : undefined;
}

/** The architecture by the name that Go, and so the docker CLI, has for it. */
function arch(): string {
  return { x86_64: "amd64", aarch64: "arm64" }[Deno.build.arch] ?? Deno.build.arch;
}

const OS_RELEASE = "/etc/os-release";

/** os-release(5): the name for people, where the system has that file. */
async function osName(): Promise<string> {
  const { state } = await Deno.permissions.query({ name: "read", path: OS_RELEASE });
  const text = state === "granted" ? await Deno.readTextFile(OS_RELEASE).catch(() => "") : "";
  return /^PRETTY_NAME="?(.*?)"?$/m.exec(text)?.[1] ?? Deno.build.os;
}

/** How many descriptors are open, or -1 where nobody tells, which is what dockerd says then. */
async function countDescriptors(): Promise<number> {
  if (descriptorsProblem()) return -1;
  let count = 0;
  for await (const _ of Deno.readDir(DESCRIPTORS)) count++;
  return count;
}
