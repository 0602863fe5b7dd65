/**
 * What the tests of the engine and of its parts share: engines that keep their log, jobs with a
 * handler of the test's, and places for output.
 *
 * @module
 */

import { assertRejects } from "@std/assert";
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

/** An engine whose log lines are kept, each after its level. */
export function logged(): { engine: Engine; lines: string[] } {
  const lines: string[] = [];
  const engine = new Engine({ log: (level, message) => void lines.push(`${level} ${message}`) });
  return { engine, lines };
}
/** A job with this handler, in an engine of its own that logs nowhere. */
export function jobOf(handler: Handler, ...args: string[]): Job {
  const engine = new Engine({ log: () => {} });
  engine.register("test", handler);
  return engine.job("test", ...args);
}
/** What a job that has to fail rejects with. */
export const failureOf = (job: Job) => assertRejects(() => job.run(), JobError);

/** An Env with these keys. */
export function envOf(settings: Record<string, string>): Env {
  const env = new Env();
  for (const [key, value] of Object.entries(settings)) env.set(key, value);
  return env;
}

/** A destination that keeps what it is given. */
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
/** What an output is written from now on. */
export function recorded(out: Output): Recorder {
  const recorder = new Recorder();
  out.add(recorder);
  return recorder;
}
/** A destination that takes as long as the test wants: each write waits for a `finish`. */
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
/** Destinations that fail to write, each in its own way, always with this error. */
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
