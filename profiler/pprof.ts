/**
 * Profiles of V8 in the format of pprof (github.com/google/pprof, proto/profile.proto).
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { concat } from "../engine/lines.ts";
import {
  type CallFrame,
  CPU_PERIOD,
  type CpuProfile,
  HEAP_PERIOD,
  type HeapNode,
  type HeapProfile,
  parentsOf,
} from "./sampler.ts";

/** The result of {@linkcode cpuToPprof} and {@linkcode heapToPprof}: protobuf, gzipped. */
export type Encoded = Promise<Uint8Array>;

/** Encodes a CPU profile, with `samples/count`, `cpu/nanoseconds`, and its jobs as labels. */
export function cpuToPprof(profile: CpuProfile): Encoded {
  const builder = new Builder([["samples", "count"], ["cpu", "nanoseconds"]], CPU_PERIOD * 1_000);
  const parents = parentsOf(profile.nodes);
  const totals = timeByNode(profile);
  for (const node of profile.nodes) {
    const total = totals.get(node.id);
    // V8 samples idle time as a function; pprof has no samples for it.
    if (total === undefined || node.callFrame.functionName === "(idle)") continue;
    const callers: CallFrame[] = [];
    for (let at = parents.get(node.id); at; at = parents.get(at.id)) callers.push(at.callFrame);
    const { positionTicks: ticks = [] } = node;
    const all = ticks.reduce((sum, { ticks }) => sum + ticks, 0);
    const lines = all > 0
      ? ticks.map(({ line, ticks }) => ({ line, share: ticks / all }))
      : [{ line: node.callFrame.lineNumber + 1, share: 1 }];
    for (const { line, share } of lines) {
      builder.add({ top: node.callFrame, line, callers, job: node.job }, [
        Math.round(total.samples * share),
        Math.round(total.microseconds * share * 1_000),
      ]);
    }
  }
  return builder.encode((profile.endTime - profile.startTime) / 1_000);
}

/** How often each node was on top, and for how long. */
function timeByNode({ samples, timeDeltas, startTime, endTime }: CpuProfile) {
  const totals = new Map<number, { samples: number; microseconds: number }>();
  let at = startTime;
  for (let i = 0; i < samples.length; i++) {
    const node = samples[i]!;
    at += timeDeltas[i]!;
    // A sample lasts until the next.
    const next = i + 1 < samples.length ? timeDeltas[i + 1]! : endTime - at;
    const total = totals.get(node) ?? { samples: 0, microseconds: 0 };
    total.samples++;
    total.microseconds += Math.max(0, next);
    totals.set(node, total);
  }
  return totals;
}

/**
 * Encodes a heap profile, with `samples/count` and a second type in bytes, such as `inuse_space`.
 * V8 does not report how many objects a sample stands for.
 *
 * @param milliseconds How long the heap was sampled.
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
      const { callFrame: top, job } = node;
      builder.add({ top, line: top.lineNumber + 1, callers, job }, [total.count, total.bytes]);
    }
    for (const child of node.children) walk(child, [node.callFrame, ...callers]);
  };
  walk(head, []);
  return builder.encode(milliseconds);
}

/** A sampled stack. */
interface Stack {
  readonly top: CallFrame;
  /** The line in the function on top, counted from 1. */
  readonly line: number;
  /** Its callers, the nearest first. */
  readonly callers: readonly CallFrame[];
  readonly job?: string | undefined;
}

/** Builds a profile. The numbers of fields are those of proto/profile.proto. */
class Builder {
  // The empty string has index 0, the default of all references.
  #strings = new Map([["", 0]]);
  #types: Uint8Array[];
  #periodType: Uint8Array;
  #period: number;
  #samples: Uint8Array[] = [];
  #locations = new Numbered();
  #functions = new Numbered();

  /** @param periodType What the period counts, in the unit of the last of `types`. */
  constructor(types: [type: string, unit: string][], period: number, periodType = types[1]![0]) {
    const valueType = ([type, unit]: [string, string]) =>
      message([[1, this.#string(type)], [2, this.#string(unit)]]);
    this.#types = types.map(valueType);
    this.#periodType = valueType([periodType, types[1]![1]]);
    this.#period = period;
  }

  /** Adds the values of a sample. */
  add({ top, line, callers, job }: Stack, values: number[]): void {
    if (top.functionName === "(root)") return; // The root of the tree is not a function.
    const locations = [
      this.#location(top, line),
      // V8 reports the first line of a caller, not the line of the call.
      ...callers.filter(({ functionName }) => functionName !== "(root)")
        .map((frame) => this.#location(frame, frame.lineNumber + 1)),
    ];
    const sample: Field[] = [[1, packed(locations)], [2, packed(values)]];
    if (job !== undefined) {
      sample.push([3, message([[1, this.#string("job")], [2, this.#string(job)]])]);
    }
    this.#samples.push(message(sample));
  }

  #location(frame: CallFrame, line: number): number {
    const fn = this.#function(frame);
    return this.#locations.number(
      `${fn}:${line}`,
      (id) => message([[1, id], [2, MAPPING], [4, message([[1, fn], [2, Math.max(0, line)]])]]),
    );
  }

  #function({ functionName, url, lineNumber, columnNumber }: CallFrame): number {
    return this.#functions.number(
      `${lineNumber}:${columnNumber}:${functionName}\n${url}`,
      (id) => {
        const name = this.#string(functionName || "(anonymous)");
        const file = this.#string(fileName(url));
        return message([[1, id], [2, name], [3, name], [4, file], [
          5,
          Math.max(0, lineNumber + 1),
        ]]);
      },
    );
  }

  #string(text: string): number {
    const known = this.#strings.get(text);
    if (known !== undefined) return known;
    this.#strings.set(text, this.#strings.size);
    return this.#strings.size - 1;
  }

  async encode(milliseconds: number): Promise<Uint8Array> {
    const mapping = message([
      [1, MAPPING],
      [5, this.#string(fileName(Deno.mainModule))],
      // The mapping has functions, files, lines and inlined frames: pprof need not symbolize.
      ...[7, 8, 9, 10].map((has): Field => [has, 1]),
    ]);
    const repeated = (field: number, values: Iterable<Uint8Array>) =>
      Array.from(values, (value): Field => [field, value]);
    const bytes = message([
      ...repeated(1, this.#types),
      ...repeated(2, this.#samples),
      [3, mapping],
      ...repeated(4, this.#locations.messages),
      ...repeated(5, this.#functions.messages),
      ...repeated(6, Array.from(this.#strings.keys(), (text) => encoder.encode(text))),
      [9, Math.round(Date.now() - milliseconds) * 1e6],
      [10, Math.max(0, Math.round(milliseconds * 1e6))],
      [11, this.#periodType],
      [12, this.#period],
    ]);
    const zipped = new Blob([bytes]).stream().pipeThrough(new CompressionStream("gzip"));
    return new Uint8Array(await new Response(zipped).arrayBuffer());
  }
}

/** The only mapping: V8 reports functions, not addresses. */
const MAPPING = 1;

/** Messages that are referenced by number, counted from 1. */
class Numbered {
  readonly messages: Uint8Array[] = [];
  #numbers = new Map<string, number>();

  /** The number of the message for a key; made if it is new. */
  number(key: string, make: (number: number) => Uint8Array): number {
    const known = this.#numbers.get(key);
    if (known !== undefined) return known;
    const number = this.messages.length + 1;
    this.messages.push(make(number));
    this.#numbers.set(key, number);
    return number;
  }
}

const encoder = new TextEncoder();

/** A field of a protobuf message: a non-negative integer, or bytes with a length. */
type Field = [number: number, value: number | Uint8Array];

/**
 * A protobuf message (protobuf.dev/programming-guides/encoding). Not by an npm package: with a
 * second one Deno would parse the metadata of hono twice, at every start of the daemon.
 */
function message(fields: readonly Field[]): Uint8Array<ArrayBuffer> {
  const [numbered, bytes] = [0, 2]; // The wire types.
  const parts = fields.flatMap(([field, value]) =>
    typeof value === "number"
      ? [varint(field * 8 + numbered), varint(value)]
      : [varint(field * 8 + bytes), varint(value.length), value]
  );
  return concat(parts) as Uint8Array<ArrayBuffer>;
}

function packed(numbers: number[]): Uint8Array {
  return concat(numbers.map(varint));
}

/** Seven bits per byte, the lowest first. By division, because shifts are limited to 32 bits. */
function varint(value: number): Uint8Array {
  const bytes: number[] = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push(value % 128 + 128);
  bytes.push(value);
  return Uint8Array.from(bytes);
}

/** A module's name as `pprof -list` finds it. A `data:` URL is truncated. */
function fileName(url: string): string {
  if (url.startsWith("file:")) return fileURLToPath(url);
  return url.startsWith("data:") && url.length > 64 ? `${url.slice(0, 64)}...` : url;
}
