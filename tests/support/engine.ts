/**
 * Shared by the tests of the engine and its parts: engines that keep their log, jobs with a given
 * handler, and destinations of output.
 *
 * @module
 */

import { assertLess, assertRejects } from "@std/assert";
import {
  Engine,
  Env,
  type Handler,
  type Job,
  JobError,
  type Output,
  type Sink,
} from "../../engine.ts";
import { settle } from "./daemon.ts";

export const HUGE = "123456789012345678901234567890";

/** An engine that keeps its log lines, each with its level. */
export function logged(): { engine: Engine; lines: string[] } {
  const lines: string[] = [];
  const engine = new Engine({ log: (level, message) => void lines.push(`${level} ${message}`) });
  return { engine, lines };
}
/** A job with this handler, on an engine without a log. */
export function jobOf(handler: Handler, ...args: string[]): Job {
  const engine = new Engine({ log: () => {} });
  engine.register("test", handler);
  return engine.job("test", ...args);
}
/** The error of a job that has to fail. */
export const failureOf = (job: Job) => assertRejects(() => job.run(), JobError);

/** An Env with these keys. */
export function envOf(settings: Record<string, string>): Env {
  const env = new Env();
  for (const [key, value] of Object.entries(settings)) env.set(key, value);
  return env;
}

/** A destination that keeps what is written to it. */
export class Recorder implements Sink {
  chunks: string[] = [];
  closes = 0;
  get text(): string {
    return this.chunks.join("");
  }
  write(chunk: Uint8Array): void {
    this.chunks.push(decoded(chunk));
  }
  close(): void {
    this.closes++;
  }
}
/** Keeps what is written to an output from now on. */
export function recorded(out: Output): Recorder {
  const recorder = new Recorder();
  out.add(recorder);
  return recorder;
}
/** A destination whose writes wait for a call of `finish`. */
export class SlowRecorder extends Recorder {
  #pending: (() => void)[] = [];
  override write(chunk: Uint8Array): Promise<void> {
    super.write(chunk);
    return new Promise((resolve) => this.#pending.push(resolve));
  }
  async finish(): Promise<void> {
    this.#pending.shift()!();
    await settle();
  }
}
/** Destinations that fail to write in different ways, all with this error. */
export const failing = (error: Error): Record<string, WritableStream<Uint8Array> | Sink> => ({
  "a sink that throws": {
    write() {
      throw error;
    },
  },
  "a sink that rejects": { write: () => Promise.reject(error) },
  "a stream that errors": new WritableStream({
    write() {
      throw error;
    },
  }),
});

export const encoded = (text: string) => new TextEncoder().encode(text);
export const decoded = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

/**
 * Asserts that work takes time in proportion to its size, by the best of three runs each.
 *
 * @param size The smaller of the two sizes; the other is eight times that.
 * @param prepare Gives the work of a size.
 */
export async function assertLinear(size: number, prepare: (size: number) => () => unknown) {
  const time = async (size: number) => {
    const work = prepare(size);
    let best = Infinity;
    for (let i = 0; i < 3; i++) {
      const started = performance.now();
      await work();
      best = Math.min(best, performance.now() - started);
    }
    return best;
  };
  // The square of eight times the size would be 64 times the time. A busy machine may try again.
  for (let attempt = 1;; attempt++) {
    const [small, large] = [await time(size), await time(8 * size)];
    if (large < Math.max(small, 5) * 24) break;
    assertLess(attempt, 10, `${large} ms for eight times what takes ${small} ms`);
  }
}
