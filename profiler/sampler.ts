/**
 * V8's samplers of the stack and of allocations, through `node:inspector`; and the source positions
 * of their frames.
 *
 * @module
 */

import { Session } from "node:inspector/promises";
import { runInThisContext } from "node:vm";
import type { Engine, Handler } from "../engine.ts";
import { within } from "../engine/time.ts";

/** Microseconds between two samples of the stack: V8's default. */
export const CPU_PERIOD = 1_000;
/** Bytes between two sampled allocations, on average: as in Go. */
export const HEAP_PERIOD = 512 * 1024;

/** Runtime.CallFrame of the Chrome DevTools protocol; lines and columns count from 0. */
export interface CallFrame {
  functionName: string;
  scriptId: string;
  url: string;
  lineNumber: number;
  columnNumber: number;
}

/** Profiler.Profile: a tree as a list, and the top node of each sample. */
export interface CpuProfile {
  nodes: CpuNode[];
  /** Microseconds by V8's clock, like `endTime`. */
  startTime: number;
  endTime: number;
  samples: number[];
  /** Microseconds since the sample before; occasionally negative. */
  timeDeltas: number[];
}

/** A function at a place in the tree of calls. */
export interface CpuNode {
  id: number;
  callFrame: CallFrame;
  children?: number[];
  /** The lines, counted from 1, on top in samples; a line may occur more than once. */
  positionTicks?: { line: number; ticks: number }[];
  /** The job whose handler is on this stack. Not part of V8's profile. */
  job?: string | undefined;
}

/** HeapProfiler.SamplingHeapProfile: a tree, and the allocations of its nodes. */
export interface HeapProfile {
  head: HeapNode;
  samples: { size: number; nodeId: number }[];
}

/** A function at a place in the tree of calls. */
export interface HeapNode {
  id: number;
  callFrame: CallFrame;
  children: HeapNode[];
  /** The job whose handler is on this stack. Not part of V8's profile. */
  job?: string | undefined;
}

/** Takes profiles of this process. The heap is sampled from the start. */
export class Sampler {
  /** When sampling of the heap began, by `performance.now()`. */
  heapSince = performance.now();
  #session = new Session();
  #engine: Engine;

  private constructor(engine: Engine) {
    this.#engine = engine;
    this.#session.connect();
  }

  /** Starts sampling the heap. */
  static async start(engine: Engine): Promise<Sampler> {
    const sampler = new Sampler(engine);
    await sampler.#session.post("HeapProfiler.enable");
    await sampler.#watchHeap(false);
    await sampler.#session.post("Profiler.enable");
    return sampler;
  }

  /** Stops all sampling. */
  close(): void {
    this.#session.disconnect();
  }

  /**
   * Samples the stack for a time, or until the signal is aborted.
   *
   * @returns The profile, and when it began, by `performance.now()`.
   */
  async cpu(milliseconds: number, signal: AbortSignal): Promise<[CpuProfile, number]> {
    // Before the start, because V8 sets the profile's start time first and then takes a while to
    // start.
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

  /** Samples of what was allocated since {@linkcode Sampler.heapSince} and is still live. */
  async heap(options: { gc: boolean }): Promise<HeapProfile> {
    if (options.gc) await this.#session.post("HeapProfiler.collectGarbage");
    return await this.#heapProfile("HeapProfiler.getSamplingProfile");
  }

  /**
   * Samples allocations for a time, whether they are still live or not. V8 has one heap sampler, so
   * {@linkcode Sampler.heap} starts again afterwards.
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
   * Maps frames of handlers to their jobs. V8 does not know jobs, but a handler is on the stack
   * while it or its callees run, even after an `await` of its own.
   */
  async #jobs(): Promise<(frame: CallFrame) => string | undefined> {
    const names = new Map<string, string[]>();
    for (const [name, place] of await this.#places([...this.#engine.handlers])) {
      names.set(place, [...names.get(place) ?? [], name]);
    }
    // One function in the source may be the handler of several jobs, which differ in their closures
    // only.
    return ({ scriptId, lineNumber, columnNumber }) =>
      names.get(`${scriptId}:${lineNumber}:${columnNumber}`)?.join(" or ");
  }

  /** The source position of each handler, in the form of frames. */
  async #places(handlers: [string, Handler][]): Promise<[string, string][]> {
    const key = Symbol.for("floodgate: handlers to be found");
    const holder = globalThis as unknown as Record<symbol, unknown>;
    const objectGroup = "floodgate";
    // The inspector can only inspect the result of an expression.
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
      objectId = of("[[TargetFunction]]")?.objectId; // The function that `bind` was called on.
    }
  }

  #properties(objectId: string) {
    return this.#session.post("Runtime.getProperties", { objectId, ownProperties: true });
  }
}

/** The parent of each node that has one, by the node's id. */
export function parentsOf(nodes: readonly CpuNode[]): Map<number, CpuNode> {
  return new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node])));
}

/** Waits, or until the signal is aborted. */
export async function elapsed(milliseconds: number, signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const end = () => resolve();
  signal.addEventListener("abort", end, { once: true });
  if (signal.aborted) end();
  await within(milliseconds, promise);
  signal.removeEventListener("abort", end);
}

/** A line and a column, counted from 1. */
interface Position {
  line: number;
  column: number;
}

/** A column behind the end of any line: V8's ticks have lines without columns. */
const END_OF_LINE = 100_000;
/** Known positions, because a lookup costs some 0.1 ms. Bounded by the size of the code. */
const known = new Map<string, Position>();
/** How many positions are looked up between two turns of the event loop. */
const BATCH = 50;
let looked = 0;

/** Replaces the position in compiled code by that in the TypeScript source. */
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
 * The position in the source. V8 samples compiled code, in which types are gone and lines have
 * moved. The inspector has no source map, but Deno applies its own to the stacks of errors. So we
 * create an error at that very position: in a script with the name and offset of the module.
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
    // If the program has replaced the format of stacks, V8's position is used.
    position = mappedLine === undefined
      ? { line, column }
      : { line: Number(mappedLine), column: Number(mappedColumn) };
    known.set(key, position);
  }
  return position;
}
