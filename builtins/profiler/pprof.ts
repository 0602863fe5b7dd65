/**
 * Profiles of V8 in the format of pprof (github.com/google/pprof, proto/profile.proto).
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import {
  Function as Fn,
  Label,
  Line,
  Location,
  Mapping,
  Profile,
  Sample,
  StringTable,
  ValueType,
} from "npm:pprof-format@^2.3";
import {
  type CallFrame,
  CPU_PERIOD,
  type CpuProfile,
  HEAP_PERIOD,
  type HeapNode,
  type HeapProfile,
  parentsOf,
} from "./sampler.ts";

/** What {@linkcode cpuToPprof} and {@linkcode heapToPprof} give: protobuf, gzipped. */
export type Encoded = Promise<Uint8Array>;

/** The samples of a CPU profile with `samples/count` and `cpu/nanoseconds`, and its jobs as labels. */
export function cpuToPprof(profile: CpuProfile): Encoded {
  const builder = new Builder([["samples", "count"], ["cpu", "nanoseconds"]], CPU_PERIOD * 1_000);
  const parents = parentsOf(profile.nodes);
  const totals = timeByNode(profile);
  for (const node of profile.nodes) {
    const total = totals.get(node.id);
    // V8 counts waiting as a function of its own; in pprof that is the absence of a sample.
    if (total === undefined || node.callFrame.functionName === "(idle)") continue;
    const callers: CallFrame[] = [];
    for (let at = parents.get(node.id); at; at = parents.get(at.id)) callers.push(at.callFrame);
    const { positionTicks: ticks = [] } = node;
    const all = ticks.reduce((sum, { ticks }) => sum + ticks, 0);
    const lines = all > 0
      ? ticks.map(({ line, ticks }) => ({ line, share: ticks / all }))
      : [{ line: node.callFrame.lineNumber + 1, share: 1 }];
    for (const { line, share } of lines) {
      builder.add(node.callFrame, line, callers, node.job, [
        Math.round(total.samples * share),
        Math.round(total.microseconds * share * 1_000),
      ]);
    }
  }
  return builder.encode((profile.endTime - profile.startTime) / 1_000);
}

/** How often a CPU profile's nodes were on top, and for how long. */
function timeByNode({ samples, timeDeltas, startTime, endTime }: CpuProfile) {
  const totals = new Map<number, { samples: number; microseconds: number }>();
  let at = startTime;
  for (let i = 0; i < samples.length; i++) {
    at += timeDeltas[i];
    // What was seen lasts until the next look.
    const next = i + 1 < samples.length ? timeDeltas[i + 1] : endTime - at;
    const total = totals.get(samples[i]) ?? { samples: 0, microseconds: 0 };
    total.samples++;
    total.microseconds += Math.max(0, next);
    totals.set(samples[i], total);
  }
  return totals;
}

/**
 * The samples of a heap profile with `samples/count` and a second type in bytes, such as
 * `inuse_space`. How many objects a sample stands for is nothing that V8 tells.
 *
 * @param milliseconds For how long was watched what is in it.
 */
export function heapToPprof(
  { head, samples }: HeapProfile,
  type: "inuse_space" | "alloc_space",
  milliseconds: number,
): Encoded {
  const builder = new Builder([["samples", "count"], [type, "bytes"]], HEAP_PERIOD, "space");
  const totals = new Map<number, { count: number; bytes: number }>();
  for (const { nodeId, size } of samples) {
    const total = totals.get(nodeId) ?? { count: 0, bytes: 0 };
    total.count++;
    total.bytes += size;
    totals.set(nodeId, total);
  }
  const walk = (node: HeapNode, callers: CallFrame[]) => {
    const total = totals.get(node.id);
    if (total) {
      const { lineNumber } = node.callFrame;
      builder.add(node.callFrame, lineNumber + 1, callers, node.job, [total.count, total.bytes]);
    }
    for (const child of node.children) walk(child, [node.callFrame, ...callers]);
  };
  walk(head, []);
  return builder.encode(milliseconds);
}

/** A profile in the making. */
class Builder {
  #strings = new StringTable();
  #types: ValueType[];
  #periodType: ValueType;
  #period: number;
  #samples: Sample[] = [];
  #locations = new Map<string, Location>();
  #functions = new Map<string, Fn>();

  /** @param periodType What the period counts, in the unit of the last of `types`. */
  constructor(types: [type: string, unit: string][], period: number, periodType = types[1][0]) {
    const valueType = ([type, unit]: [string, string]) =>
      new ValueType({ type: this.#strings.dedup(type), unit: this.#strings.dedup(unit) });
    this.#types = types.map(valueType);
    this.#periodType = valueType([periodType, types[1][1]]);
    this.#period = period;
  }

  /** Adds values for a stack: the function on top, at a line, and its callers, the nearest first. */
  add(
    top: CallFrame,
    line: number,
    callers: CallFrame[],
    job: string | undefined,
    value: number[],
  ): void {
    if (top.functionName === "(root)") return; // The tree's own, which stands for no function.
    const locations = [
      this.#location(top, line),
      // V8 tells where a caller begins, and not where in it the call is.
      ...callers.filter(({ functionName }) => functionName !== "(root)")
        .map((frame) => this.#location(frame, frame.lineNumber + 1)),
    ];
    const label = job === undefined
      ? []
      : [new Label({ key: this.#strings.dedup("job"), str: this.#strings.dedup(job) })];
    this.#samples.push(new Sample({ locationId: locations.map(({ id }) => id), value, label }));
  }

  #location(frame: CallFrame, line: number): Location {
    const fn = this.#function(frame);
    const key = `${fn.id}:${line}`;
    let location = this.#locations.get(key);
    if (location === undefined) {
      location = new Location({
        id: this.#locations.size + 1,
        mappingId: 1,
        line: [new Line({ functionId: fn.id, line: Math.max(0, line) })],
      });
      this.#locations.set(key, location);
    }
    return location;
  }

  #function({ functionName, url, lineNumber, columnNumber }: CallFrame): Fn {
    const key = `${lineNumber}:${columnNumber}:${functionName}\n${url}`;
    let fn = this.#functions.get(key);
    if (fn === undefined) {
      const name = this.#strings.dedup(functionName || "(anonymous)");
      fn = new Fn({
        id: this.#functions.size + 1,
        name,
        systemName: name,
        filename: this.#strings.dedup(fileName(url)),
        startLine: Math.max(0, lineNumber + 1),
      });
      this.#functions.set(key, fn);
    }
    return fn;
  }

  async encode(milliseconds: number): Promise<Uint8Array> {
    const profile = new Profile({
      sampleType: this.#types,
      sample: this.#samples,
      // Says that there is nothing left for pprof to look up in a binary.
      mapping: [
        new Mapping({
          id: 1,
          filename: this.#strings.dedup(fileName(Deno.mainModule)),
          hasFunctions: true,
          hasFilenames: true,
          hasLineNumbers: true,
          hasInlineFrames: true,
        }),
      ],
      location: [...this.#locations.values()],
      function: [...this.#functions.values()],
      stringTable: this.#strings,
      timeNanos: BigInt(Math.round(Date.now() - milliseconds)) * 1_000_000n,
      durationNanos: Math.round(milliseconds * 1e6),
      periodType: this.#periodType,
      period: this.#period,
    });
    const bytes = profile.encode() as Uint8Array<ArrayBuffer>;
    const zipped = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
    return new Uint8Array(await new Response(zipped).arrayBuffer());
  }
}

/** A module as `pprof -list` finds it. A module that is its own URL is cut short. */
function fileName(url: string): string {
  if (url.startsWith("file:")) return fileURLToPath(url);
  return url.startsWith("data:") && url.length > 64 ? `${url.slice(0, 64)}...` : url;
}
