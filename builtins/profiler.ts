/**
 * Profiles that `go tool pprof` reads, of a program that runs on V8.
 *
 * @module
 */

import { Session } from "node:inspector/promises";
import {
  Function as Fn,
  Line,
  Location,
  Profile,
  Sample,
  StringTable,
  ValueType,
} from "npm:pprof-format@^2.3";
import { type Engine, type Job, TypedError, within } from "../engine.ts";
import type { Router } from "../router.ts";

/** Nanoseconds between two looks at the stack: what V8 takes by default. */
const CPU_PERIOD = 1_000_000;
/** Bytes between two allocations that are looked at, on average: as in Go. */
const HEAP_PERIOD = 512 * 1024;
/** The longest that a profile may take, in seconds. */
const MAX_SECONDS = 300;

/**
 * Registers the jobs `cpuprofile` (env: `seconds`, default 30) and `heapprofile`, and routes for them
 * where Go has its own: `/debug/pprof/profile` and `/debug/pprof/heap`. The heap is watched from here
 * on, which costs little.
 *
 * Anyone who can reach the router can then slow the daemon down and see its functions' names.
 */
export async function attachProfiler(router: Router, engine: Engine): Promise<void> {
  const session = new Session();
  session.connect();
  engine.onShutdown(() => session.disconnect());
  await session.post("HeapProfiler.enable");
  await session.post("HeapProfiler.startSampling", { samplingInterval: HEAP_PERIOD });
  await session.post("Profiler.enable");

  let profiling = false;
  engine.register("cpuprofile", async (job) => {
    const seconds = Number(job.getenv("seconds") || 30);
    if (!(seconds > 0 && seconds <= MAX_SECONDS)) {
      throw new TypedError(
        "bad parameter",
        `seconds=${job.getenv("seconds")}: expected a number above 0, and at most ${MAX_SECONDS}`,
      );
    }
    if (profiling) throw new TypedError("conflict", "a CPU profile is being taken already");
    profiling = true;
    try {
      await session.post("Profiler.start");
      await elapsed(seconds * 1_000, AbortSignal.any([job.signal, engine.stopping]));
      const { profile } = await session.post("Profiler.stop");
      await print(job, cpuProfile(profile as unknown as CpuProfile));
    } finally {
      profiling = false;
    }
  });
  engine.register("heapprofile", async (job) => {
    const { profile } = await session.post("HeapProfiler.getSamplingProfile");
    await print(job, heapProfile(profile as unknown as HeapProfile));
  });

  const contentType = "application/octet-stream";
  router
    .job({
      method: "GET",
      path: "/debug/pprof/profile",
      job: "cpuprofile",
      query: ["seconds"],
      contentType,
    })
    .job({ method: "GET", path: "/debug/pprof/heap", job: "heapprofile", contentType });
}

/** Waits, or less long if the signal comes first. */
async function elapsed(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = () => resolve();
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  await within(milliseconds, promise);
  signal.removeEventListener("abort", end);
}

async function print(job: Job, profile: Profile): Promise<void> {
  const encoded = new Blob([profile.encode() as Uint8Array<ArrayBuffer>]).stream();
  for await (const chunk of encoded.pipeThrough(new CompressionStream("gzip"))) {
    await job.stdout.write(chunk);
  }
}

/** Runtime.CallFrame of the Chrome DevTools protocol; its lines count from 0. */
interface CallFrame {
  functionName: string;
  url: string;
  lineNumber: number;
}
/** Profiler.Profile: a tree as a list, and which node was on top at each look. */
interface CpuProfile {
  nodes: { id: number; callFrame: CallFrame; children?: number[] }[];
  startTime: number;
  endTime: number;
  samples?: number[];
  timeDeltas?: number[];
}
/** HeapProfiler.SamplingHeapProfile: a tree, and what each node allocated that is still there. */
interface HeapProfile {
  head: HeapNode;
  samples: { size: number; nodeId: number }[];
}
interface HeapNode {
  id: number;
  callFrame: CallFrame;
  children: HeapNode[];
}

function cpuProfile({ nodes, startTime, endTime, samples = [], timeDeltas = [] }: CpuProfile) {
  const builder = new Builder([["samples", "count"], ["cpu", "nanoseconds"]], CPU_PERIOD);
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(
    nodes.flatMap(({ id, children = [] }) => children.map((child) => [child, id] as const)),
  );
  const totals = new Map<number, { count: number; microseconds: number }>();
  samples.forEach((id, i) => {
    const total = totals.get(id) ?? { count: 0, microseconds: 0 };
    total.count++;
    total.microseconds += Math.max(0, timeDeltas[i] ?? 0);
    totals.set(id, total);
  });
  for (const [id, { count, microseconds }] of totals) {
    const stack: CallFrame[] = [];
    for (let at: number | undefined = id; at !== undefined; at = parents.get(at)) {
      stack.push(byId.get(at)!.callFrame);
    }
    // V8 counts waiting as a function of its own; in pprof that is the absence of a sample.
    if (stack[0].functionName === "(idle)") continue;
    builder.add(stack, [count, Math.round(microseconds * 1_000)]);
  }
  return builder.build((endTime - startTime) * 1_000);
}

function heapProfile({ head, samples }: HeapProfile): Profile {
  const builder = new Builder([["inuse_objects", "count"], ["inuse_space", "bytes"]], HEAP_PERIOD);
  const totals = new Map<number, { count: number; bytes: number }>();
  for (const { nodeId, size } of samples) {
    const total = totals.get(nodeId) ?? { count: 0, bytes: 0 };
    total.count++;
    total.bytes += size;
    totals.set(nodeId, total);
  }
  const walk = (node: HeapNode, above: CallFrame[]) => {
    const stack = [node.callFrame, ...above];
    const total = totals.get(node.id);
    if (total) builder.add(stack, [total.count, total.bytes]);
    for (const child of node.children) walk(child, stack);
  };
  walk(head, []);
  return builder.build(0);
}

/** A profile in the making (github.com/google/pprof, proto/profile.proto). */
class Builder {
  #strings = new StringTable();
  #types: ValueType[];
  #period: number;
  #samples: Sample[] = [];
  #locations = new Map<string, Location>();
  #functions = new Map<string, Fn>();

  constructor(types: [type: string, unit: string][], period: number) {
    this.#types = types.map(([type, unit]) =>
      new ValueType({ type: this.#strings.dedup(type), unit: this.#strings.dedup(unit) })
    );
    this.#period = period;
  }

  /** Adds values for a stack, whose first frame is the innermost. */
  add(stack: CallFrame[], value: number[]): void {
    // The tree's own root stands for no function.
    const frames = stack.filter(({ functionName }) => functionName !== "(root)");
    if (frames.length === 0) return;
    this.#samples.push(
      new Sample({ locationId: frames.map((frame) => this.#location(frame).id), value }),
    );
  }

  #location(frame: CallFrame): Location {
    const line = frame.lineNumber + 1;
    const key = `${frame.functionName}\n${frame.url}\n${line}`;
    let location = this.#locations.get(key);
    if (location === undefined) {
      location = new Location({
        id: this.#locations.size + 1,
        line: [new Line({ functionId: this.#function(frame, key, line).id, line })],
      });
      this.#locations.set(key, location);
    }
    return location;
  }

  #function(frame: CallFrame, key: string, line: number): Fn {
    let fn = this.#functions.get(key);
    if (fn === undefined) {
      const name = this.#strings.dedup(frame.functionName || "(anonymous)");
      fn = new Fn({
        id: this.#functions.size + 1,
        name,
        systemName: name,
        filename: this.#strings.dedup(frame.url),
        startLine: line,
      });
      this.#functions.set(key, fn);
    }
    return fn;
  }

  build(durationNanos: number): Profile {
    return new Profile({
      sampleType: this.#types,
      sample: this.#samples,
      location: [...this.#locations.values()],
      function: [...this.#functions.values()],
      stringTable: this.#strings,
      timeNanos: BigInt(Date.now()) * 1_000_000n,
      durationNanos: Math.round(durationNanos),
      periodType: this.#types[1],
      period: this.#period,
    });
  }
}
