/**
 * The resources of containers, by /proc: `top` and `container_stats`.
 *
 * @module
 */

import { setTimeout as elapsed } from "node:timers/promises";
import { type Container, type Containers, isRunning } from "./containers.ts";
import { failure, NEVER, print, subject } from "./daemon.ts";
import { membersOf, type ProcessStat, systemTicks, TICKS, usageOf } from "./procfs.ts";

/** The interval of `docker stats`, in milliseconds. */
const PERIOD = 1_000;

/** The processes of a container. */
function processesOf(containers: Containers, container: Container): ProcessStat[] {
  const sessions = new Map([[container.state.pid, container.id]]);
  const rows = containers.daemon.store.all<{ pid: number }>(
    `SELECT json_extract(body, '$.pid') AS pid FROM execs
     WHERE container = ? AND json_extract(body, '$.running')`,
    container.id,
  );
  for (const { pid } of rows) sessions.set(pid, container.id);
  return membersOf(new Set([container.id]), sessions).of.get(container.id) ?? [];
}

/** A sample of a container's resources. */
interface Sample {
  read: string;
  cpu: Record<string, unknown>;
  memory: number;
  processes: number;
  blocks: { read: number; written: number };
}

/** Samples repeatedly. The usage of ended processes is kept, so that totals never decrease. */
class Meter {
  #containers: Containers;
  #container: Container;
  #ticks = new Map<string, number>();
  #bytes = new Map<string, { read: number; written: number }>();

  constructor(containers: Containers, container: Container) {
    this.#containers = containers;
    this.#container = container;
  }

  look(): Sample {
    let memory = 0;
    let processes = 0;
    for (const { pid, startTime, ticks } of processesOf(this.#containers, this.#container)) {
      const key = `${pid} ${startTime}`;
      const { memory: own, threads, read, written } = usageOf(pid);
      memory += own;
      processes += threads;
      this.#ticks.set(key, ticks);
      this.#bytes.set(key, { read, written });
    }
    const sum = (values: Iterable<number>) => [...values].reduce((all, each) => all + each, 0);
    const bytes = [...this.#bytes.values()];
    const nanoseconds = (ticks: number) => ticks * (1e9 / TICKS);
    return {
      read: new Date().toISOString(),
      cpu: {
        cpu_usage: {
          total_usage: nanoseconds(sum(this.#ticks.values())),
          usage_in_kernelmode: 0,
          usage_in_usermode: 0,
        },
        system_cpu_usage: nanoseconds(systemTicks()),
        online_cpus: navigator.hardwareConcurrency,
        throttling_data: { periods: 0, throttled_periods: 0, throttled_time: 0 },
      },
      memory,
      processes,
      blocks: {
        read: sum(bytes.map(({ read }) => read)),
        written: sum(bytes.map(({ written }) => written)),
      },
    };
  }
}

function describe(
  { id, name }: Container,
  now: Sample | undefined,
  before: Sample | undefined,
  limit: number,
): Record<string, unknown> {
  return {
    id,
    name: `/${name}`,
    read: now?.read ?? NEVER,
    preread: before?.read ?? NEVER,
    num_procs: 0,
    pids_stats: now ? { current: now.processes } : {},
    cpu_stats: now?.cpu ?? { cpu_usage: { total_usage: 0 } },
    precpu_stats: before?.cpu ?? { cpu_usage: { total_usage: 0 } },
    memory_stats: now ? { usage: now.memory, stats: {}, limit } : {},
    blkio_stats: {
      io_service_bytes_recursive: now
        ? [
          { major: 0, minor: 0, op: "read", value: now.blocks.read },
          { major: 0, minor: 0, op: "write", value: now.blocks.written },
        ]
        : null,
    },
    storage_stats: {},
    // The network is that of the machine, so containers have no statistics of it.
    networks: {},
  };
}

/** The rows of ps(1) for these processes. */
async function ps(args: string, pids: ReadonlySet<number>): Promise<Record<string, unknown>> {
  const words = args.split(/\s+/).filter((word) => word !== "");
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command("ps", { args: words, env: { LC_ALL: "C" } }).output();
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    throw failure("not implemented", "ps is not installed here, which docker top needs");
  }
  const text = new TextDecoder().decode(output.success ? output.stdout : output.stderr);
  if (!output.success) throw failure("bad parameter", `ps: ${text.trim().split("\n", 1)[0]}`);
  const [head = "", ...lines] = text.trimEnd().split("\n");
  const Titles = head.trim().split(/\s+/);
  const at = Titles.indexOf("PID");
  if (at < 0) throw failure("bad parameter", "Couldn't find PID field in ps output");
  const Processes = lines.map((line) => {
    const fields = line.trim().split(/\s+/);
    // The last column is the command, with spaces.
    return [...fields.slice(0, Titles.length - 1), fields.slice(Titles.length - 1).join(" ")];
  }).filter((fields) => pids.has(Number(fields[at])));
  return { Titles, Processes };
}

/** Registers `top` and `container_stats`. */
export function registerUsage(containers: Containers): void {
  const { engine } = containers.daemon;
  engine.register("top", async (job) => {
    const container = containers.findRunning(subject(job));
    const pids = new Set(processesOf(containers, container).map(({ pid }) => pid));
    await print(job, await ps(job.args[1] || "-ef", pids));
    await containers.tell("top", container);
  });
  engine.register("container_stats", async (job) => {
    let container = containers.find(subject(job));
    const meter = new Meter(containers, container);
    const look = () => isRunning(container) ? meter.look() : undefined;
    const limit = Deno.systemMemoryInfo().total;
    const stream = job.getenv("stream") === "" || job.getenvBool("stream");
    let before: Sample | undefined;
    let now = look();
    if (stream || job.getenvBool("one-shot") || !now) {
      await print(job, describe(container, now, undefined, limit));
      if (!stream) return;
    }
    const stop = AbortSignal.any([job.signal, engine.stopping]);
    while (!stop.aborted) {
      await elapsed(PERIOD, undefined, { signal: stop }).catch(() => {}); // It was aborted.
      const there = containers.get(container.id);
      if (!there || stop.aborted) return;
      container = there;
      before = now;
      now = look();
      await print(job, describe(container, now, before, limit));
      if (!stream) return;
    }
  });
}

/** How many containers are in each state. */
export function countStates(containers: Containers): Record<string, number> {
  const counts = { Containers: 0, ContainersRunning: 0, ContainersPaused: 0, ContainersStopped: 0 };
  for (const { state } of containers.all()) {
    counts.Containers++;
    if (state.status === "running") counts.ContainersRunning++;
    else if (state.status === "paused") counts.ContainersPaused++;
    else counts.ContainersStopped++;
  }
  return counts;
}
