/**
 * V8's own samplers, of the stack and of allocations, over `node:inspector`; and the sources that
 * their frames come from.
 *
 * @module
 */

import { Session } from "node:inspector/promises";
import { runInThisContext } from "node:vm";
import type { Engine, Handler } from "../engine.ts";
import { within } from "../engine/time.ts";

/** Microseconds between two looks at the stack: what V8 takes by default. */
export const CPU_PERIOD = 1_000;
/** Bytes between two allocations that are looked at, on average: as in Go. */
export const HEAP_PERIOD = 512 * 1024;

/** Runtime.CallFrame of the Chrome DevTools protocol; lines and columns count from 0. */
export interface CallFrame {
  functionName: string;
  scriptId: string;
  url: string;
  lineNumber: number;
  columnNumber: number;
}

/** Profiler.Profile: a tree as a list, and which node was on top at each look. */
export interface CpuProfile {
  nodes: CpuNode[];
  /** Microseconds, by a clock of V8's own; as `endTime`. */
  startTime: number;
  endTime: number;
  samples: number[];
  /** Microseconds since the sample before; now and then below 0. */
  timeDeltas: number[];
}

/** A function in the place that it has on a stack. */
export interface CpuNode {
  id: number;
  callFrame: CallFrame;
  children?: number[];
  /** Which lines, from 1 on, were on top; the same line may come more than once. */
  positionTicks?: { line: number; ticks: number }[];
  /** The job whose handler is on this stack. Our own addition. */
  job?: string | undefined;
}

/** HeapProfiler.SamplingHeapProfile: a tree, and what its nodes allocated. */
export interface HeapProfile {
  head: HeapNode;
  samples: { size: number; nodeId: number }[];
}

/** A function in the place that it has on a stack. */
export interface HeapNode {
  id: number;
  callFrame: CallFrame;
  children: HeapNode[];
  /** The job whose handler is on this stack. Our own addition. */
  job?: string | undefined;
}

/** Takes profiles of this process. The heap is watched from the start on. */
export class Sampler {
  /** Since when the heap is watched, by performance.now(). */
  heapSince = performance.now();
  #session = new Session();
  #engine: Engine;

  private constructor(engine: Engine) {
    this.#engine = engine;
    this.#session.connect();
  }

  /** Starts to watch the heap. */
  static async start(engine: Engine): Promise<Sampler> {
    const sampler = new Sampler(engine);
    await sampler.#session.post("HeapProfiler.enable");
    await sampler.#watchHeap(false);
    await sampler.#session.post("Profiler.enable");
    return sampler;
  }

  /** Ends all watching. */
  close(): void {
    this.#session.disconnect();
  }

  /**
   * Samples the stack for a while, or less long if the signal comes first.
   *
   * @returns The profile, and when it began, by `performance.now()`.
   */
  async cpu(milliseconds: number, signal: AbortSignal): Promise<[CpuProfile, number]> {
    // V8 takes its start time at once, and then a while to get going.
    const started = performance.now();
    await this.#session.post("Profiler.start");
    await elapsed(milliseconds, signal);
    const { profile } = await this.#session.post("Profiler.stop") as unknown as {
      profile: CpuProfile;
    };
    const jobOf = await this.#jobs();
    const parents = parentsOf(profile.nodes);
    for (const node of profile.nodes) {
      for (let at: CpuNode | undefined = node; at && !node.job; at = parents.get(at.id)) {
        node.job = jobOf(at.callFrame);
      }
    }
    for (const { callFrame, positionTicks = [] } of profile.nodes) {
      const { url } = callFrame;
      await toSource(callFrame);
      for (const tick of positionTicks) {
        tick.line = (await sourcePosition(url, tick.line, END_OF_LINE)).line;
      }
    }
    return [profile, started];
  }

  /** What was allocated since the heap is watched and is still there. */
  async heap(options: { gc: boolean }): Promise<HeapProfile> {
    if (options.gc) await this.#session.post("HeapProfiler.collectGarbage");
    return await this.#heapProfile("HeapProfiler.getSamplingProfile");
  }

  /**
   * What is allocated within a while, whether it is still there or not. V8 can watch the heap in one
   * way at a time, so that {@linkcode Sampler.heap} begins anew after it.
   */
  async allocations(milliseconds: number, signal: AbortSignal): Promise<HeapProfile> {
    await this.#session.post("HeapProfiler.stopSampling");
    await this.#watchHeap(true);
    try {
      await elapsed(milliseconds, signal);
      return await this.#heapProfile("HeapProfiler.stopSampling");
    } finally {
      await this.#watchHeap(false);
    }
  }

  async #watchHeap(collected: boolean): Promise<void> {
    await this.#session.post("HeapProfiler.startSampling", {
      samplingInterval: HEAP_PERIOD,
      includeObjectsCollectedByMajorGC: collected,
      includeObjectsCollectedByMinorGC: collected,
    });
    this.heapSince = performance.now();
  }

  async #heapProfile(
    method: "HeapProfiler.getSamplingProfile" | "HeapProfiler.stopSampling",
  ): Promise<HeapProfile> {
    const { profile } = await this.#session.post(method) as unknown as { profile: HeapProfile };
    const jobOf = await this.#jobs();
    const walk = async (node: HeapNode, job?: string): Promise<void> => {
      node.job = jobOf(node.callFrame) ?? job;
      await toSource(node.callFrame);
      for (const child of node.children) await walk(child, node.job);
    };
    await walk(profile.head);
    return profile;
  }

  /**
   * Finds a job by a frame of its handler. V8 knows nothing of jobs, yet a handler is on the stack
   * while it or what it calls runs, also after an `await` of its own.
   */
  async #jobs(): Promise<(frame: CallFrame) => string | undefined> {
    const names = new Map<string, string[]>();
    for (const [name, place] of await this.#places([...this.#engine.handlers])) {
      names.set(place, [...names.get(place) ?? [], name]);
    }
    // One function in the source may be the handler of several jobs, which only its closure tells
    // apart.
    return ({ scriptId, lineNumber, columnNumber }) =>
      names.get(`${scriptId}:${lineNumber}:${columnNumber}`)?.join(" or ");
  }

  /** Where each handler's source begins, as frames have it. */
  async #places(handlers: [string, Handler][]): Promise<[string, string][]> {
    const key = Symbol.for("floodgate: handlers to be found");
    const holder = globalThis as unknown as Record<symbol, unknown>;
    const objectGroup = "floodgate";
    // The inspector can only be pointed at what an expression finds.
    holder[key] = handlers.map(([, handler]) => handler);
    try {
      const list = await this.#session.post("Runtime.evaluate", {
        expression: `globalThis[Symbol.for(${JSON.stringify(key.description)})]`,
        objectGroup,
      });
      const functions = await this.#properties(list.result.objectId!);
      const places: [string, string][] = [];
      for (let i = 0; i < handlers.length; i++) {
        const found = functions.result.find(({ name }) => name === String(i));
        const place = await this.#place(found?.value?.objectId);
        if (place !== undefined) places.push([handlers[i]![0], place]);
      }
      return places;
    } finally {
      delete holder[key];
      await this.#session.post("Runtime.releaseObjectGroup", { objectGroup });
    }
  }

  async #place(objectId: string | undefined): Promise<string | undefined> {
    while (objectId !== undefined) {
      const { internalProperties = [] } = await this.#properties(objectId);
      const of = (property: string) =>
        internalProperties.find(({ name }) => name === property)?.value;
      const location = of("[[FunctionLocation]]")?.value;
      if (location) return `${location.scriptId}:${location.lineNumber}:${location.columnNumber}`;
      objectId = of("[[TargetFunction]]")?.objectId; // What `bind` was called on.
    }
  }

  #properties(objectId: string) {
    return this.#session.post("Runtime.getProperties", { objectId, ownProperties: true });
  }
}

/** The parents of the nodes that have one, by the children's ids. */
export function parentsOf(nodes: readonly CpuNode[]): Map<number, CpuNode> {
  return new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node])));
}

/** Waits, or less long if the signal comes first. */
export async function elapsed(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = () => resolve();
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  await within(milliseconds, promise);
  signal.removeEventListener("abort", end);
}

/** A line and a column, both from 1 on. */
interface Position {
  line: number;
  column: number;
}

/** A column behind the end of any line: V8 tells of the lines on top without a column. */
const END_OF_LINE = 100_000;
/** What was found, since looking costs some 0.1 ms. There are no more places than there is code. */
const known = new Map<string, Position>();
/** How many places are looked for before others get a turn. */
const BATCH = 50;
let looked = 0;

/** Puts the place in the TypeScript source for the one in what Deno made of it. */
async function toSource(frame: CallFrame): Promise<void> {
  if (frame.lineNumber < 0) return;
  const { line, column } = await sourcePosition(
    frame.url,
    frame.lineNumber + 1,
    frame.columnNumber + 1,
  );
  frame.lineNumber = line - 1;
  frame.columnNumber = column - 1;
}

/**
 * The place in the source. V8 samples what Deno made of it, where types are gone and lines have
 * moved; the inspector has no source map, but Deno applies its own to the stacks of errors. So we
 * let an error happen at that very place: in a script that says it is the module, and is put there.
 */
async function sourcePosition(url: string, line: number, column: number): Promise<Position> {
  if (!/^(?:file|https?|data|blob):/.test(url) || /\.[cm]?js$/.test(url)) return { line, column };
  const key = `${line}:${column}:${url}`;
  let position = known.get(key);
  if (position === undefined) {
    if (++looked % BATCH === 0) await new Promise((resolve) => setImmediate(resolve));
    const stack = String(runInThisContext("new Error().stack", {
      filename: url,
      lineOffset: line - 1,
      columnOffset: column - 1,
    }));
    const [, mappedLine, mappedColumn] = /^.*\n.*:(\d+):(\d+)\)?$/m.exec(stack) ?? [];
    // A program may have replaced how stacks are written; then nothing is known but what V8 said.
    position = mappedLine === undefined
      ? { line, column }
      : { line: Number(mappedLine), column: Number(mappedColumn) };
    known.set(key, position);
  }
  return position;
}
