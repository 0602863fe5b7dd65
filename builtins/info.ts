/**
 * The jobs that describe the daemon: `version`, `info` and `stats`.
 *
 * @module
 */

import type { ApiStats } from "../serve/listeners.ts";
import type { Engine, EngineStats } from "../engine.ts";
import { BUILD } from "../engine/build.ts";
import { API_VERSION, MIN_API_VERSION, VERSION } from "../engine/version.ts";
import { DESCRIPTORS, descriptorsProblem } from "../platform/descriptors.ts";
import type { Activation } from "../listenbuffer.ts";

/** The other built-in jobs' contributions to the daemon's statistics. */
export interface Sources {
  /** The engine's gate. */
  readonly gate: Activation;
  /** How many `events` jobs run. */
  listeners(): number;
  /** The counts of each running `serveapi`. */
  apis(): ApiStats[];
}

/** The JSON that the job `stats` prints. */
export interface DaemonStats {
  /** The process id. */
  pid: number;
  /** Seconds since the start. */
  uptime: number;
  /** The memory of the process, in bytes. */
  memory: Deno.MemoryUsage;
  /** Counts of the engine's jobs. */
  jobs: EngineStats;
  /** How many `events` jobs run. */
  events: { listeners: number };
  /** The counts of each running `serveapi`. */
  apis: ApiStats[];
}

/** Registers `version`, `info` and `stats`. Each prints one JSON object. */
export function registerInfo(engine: Engine, sources: Sources): void {
  // Made at first use: random bytes load half of the runtime's cryptography.
  let id: string | undefined;
  const started = Date.now(); // Not a Date, which would load the time zone.
  const began = performance.now(); // The wall clock may be set.
  // Made at first use, because it asks for permissions; and once, because it does not change.
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
  // Undefined, and so left out, for a program that runs from its source.
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

/** The system's answer to `ask`; undefined without the permission of that kind. */
function permitted<T>(
  kind: NonNullable<Deno.SysPermissionDescriptor["kind"]>,
  ask: () => T,
): T | undefined {
  return Deno.permissions.querySync({ name: "sys", kind }).state === "granted" ? ask() : undefined;
}

/** The architecture by its name in Go, which the docker CLI expects. */
function arch(): string {
  return { x86_64: "amd64", aarch64: "arm64" }[Deno.build.arch] ?? Deno.build.arch;
}

const OS_RELEASE = "/etc/os-release";

/** The system's PRETTY_NAME in os-release(5); Deno's name of it if that file cannot be read. */
async function osName(): Promise<string> {
  const { state } = await Deno.permissions.query({ name: "read", path: OS_RELEASE });
  const text = state === "granted" ? await Deno.readTextFile(OS_RELEASE).catch(() => "") : "";
  return /^PRETTY_NAME="?(.*?)"?$/m.exec(text)?.[1] ?? Deno.build.os;
}

/** How many descriptors are open; -1, as in dockerd, if /proc cannot be read. */
async function countDescriptors(): Promise<number> {
  if (descriptorsProblem()) return -1;
  let count = 0;
  for await (const _ of Deno.readDir(DESCRIPTORS)) count++;
  return count;
}
