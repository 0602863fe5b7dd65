/**
 * The shared state of the daemon's parts: the engine, the store, the exec driver, and the paths of
 * files.
 *
 * @module
 */

import { type Engine, type ErrorKind, type Job, TypedError } from "../../mod.ts";
import type { ExecDriver } from "./driver.ts";
import type { Store } from "./store.ts";

/** Labels, attributes, and other maps of strings. */
export type Strings = Record<string, string>;

/** The daemon, for its parts. */
export class Daemon {
  #locks = new Map<string, Promise<void>>();
  #preparing = new Map<string, Set<Promise<unknown>>>();

  /** A daemon with this engine and store, whose files are in `folder`. */
  constructor(
    readonly engine: Engine,
    readonly store: Store,
    readonly driver: ExecDriver,
    readonly folder: string,
  ) {}

  /** The folder of a container: its log, its files, and the records of its exits. */
  folderOf(container: string): string {
    return `${this.folder}/containers/${container}`;
  }

  /** The root folder of a container, and its default working directory. */
  filesOf(container: string): string {
    return `${this.folderOf(container)}/files`;
  }

  /** Records an event for `docker events`. */
  async tell(type: string, action: string, id: string, attributes: Strings = {}): Promise<void> {
    const job = this.engine.job("log", action, id);
    job.setenv("Type", type);
    job.setenvJson("Attributes", attributes);
    job.quiet = true;
    await job.run();
  }

  /** Registers a pending step of a container, for {@linkcode Daemon.prepared}. */
  async prepare<T>(container: string, work: Promise<T>): Promise<T> {
    let all = this.#preparing.get(container);
    if (!all) this.#preparing.set(container, all = new Set());
    all.add(work);
    try {
      return await work;
    } finally {
      all.delete(work);
      if (all.size === 0) this.#preparing.delete(container);
    }
  }

  /** Resolves when the steps that were pending for a container at this call are done. */
  async prepared(container: string): Promise<void> {
    await Promise.allSettled(this.#preparing.get(container) ?? []);
  }

  /** Runs `work` exclusively for an id: after other work on it has ended. */
  async alone<T>(id: string, work: () => Promise<T>): Promise<T> {
    const before = this.#locks.get(id);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#locks.set(id, promise);
    await before;
    try {
      return await work();
    } finally {
      resolve();
      if (this.#locks.get(id) === promise) this.#locks.delete(id);
    }
  }
}

/** An error for the client. */
export function failure(kind: ErrorKind, message: string): TypedError {
  return new TypedError(kind, message);
}

/** The id or name that a job is about: its first argument. */
export function subject(job: Job): string {
  return job.args[0] ?? "";
}

/** Tells the router, by `Tty`, whether a job's output is a raw stream without frames. */
export function terminal(job: Job, terminal: boolean): void {
  job.setenvBool("Tty", terminal);
}

/** Prints a value as a line of JSON. */
export function print(job: Job, value: unknown): Promise<void> {
  return job.print(JSON.stringify(value) + "\n");
}

/** A time in nanoseconds since 1970 in Go's format (RFC 3339). */
export function goTime(ms: number): string {
  return new Date(ms).toISOString();
}

/** Go's zero time. */
export const NEVER = "0001-01-01T00:00:00Z";

/** A duration in words, as `docker ps` shows it. */
export function humanDuration(ms: number): string {
  const seconds = Math.floor(ms / 1_000);
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60 + 0.5);
  if (seconds < 1) return "Less than a second";
  if (seconds === 1) return "1 second";
  if (seconds < 60) return `${seconds} seconds`;
  if (minutes === 1) return "About a minute";
  if (minutes < 60) return `${minutes} minutes`;
  if (hours === 1) return "About an hour";
  if (hours < 48) return `${hours} hours`;
  if (hours < 24 * 7 * 2) return `${Math.floor(hours / 24)} days`;
  if (hours < 24 * 30 * 2) return `${Math.floor(hours / 24 / 7)} weeks`;
  if (hours < 24 * 365 * 2) return `${Math.floor(hours / 24 / 30)} months`;
  return `${Math.floor(hours / 24 / 365)} years`;
}
