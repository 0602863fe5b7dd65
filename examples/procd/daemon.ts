/**
 * What the parts of the daemon share: the engine, the store, the exec driver, and where things are.
 *
 * @module
 */

import { type Engine, type ErrorKind, type Job, TypedError } from "../../mod.ts";
import type { ExecDriver } from "./driver.ts";
import type { Store } from "./store.ts";

/** Labels, attributes, and all else that is text by name. */
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

  /** The folder of a container: its log, its files, and the records of its ends. */
  folderOf(container: string): string {
    return `${this.folder}/containers/${container}`;
  }

  /** The folder that a container has for files of its own, and where it runs unless told otherwise. */
  filesOf(container: string): string {
    return `${this.folderOf(container)}/files`;
  }

  /** Tells `docker events`. */
  async tell(type: string, action: string, id: string, attributes: Strings = {}): Promise<void> {
    const job = this.engine.job("log", action, id);
    job.setenv("Type", type);
    job.setenvJson("Attributes", attributes);
    job.quiet = true;
    await job.run();
  }

  /** Lets {@linkcode Daemon.prepared} wait for something that is done for a container. */
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

  /** Resolves when all is done for a container that was being prepared when this was called. */
  async prepared(container: string): Promise<void> {
    await Promise.allSettled(this.#preparing.get(container) ?? []);
  }

  /** Runs `work` when no other work on the same thing does. */
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

/** What a job is about: its first argument. */
export function subject(job: Job): string {
  return job.args[0] ?? "";
}

/** Prints one document of JSON. */
export function print(job: Job, value: unknown): Promise<void> {
  return job.print(JSON.stringify(value) + "\n");
}

/** Nanoseconds since 1970 as Go prints a time (RFC 3339). */
export function goTime(ms: number): string {
  return new Date(ms).toISOString();
}

/** What Go prints for a time that never was. */
export const NEVER = "0001-01-01T00:00:00Z";

/** A span of time in words, as `docker ps` has it. */
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

/** How many bytes the files of a folder have, those of links not counted. */
export async function sizeOf(folder: string): Promise<number> {
  let size = 0;
  try {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = `${folder}/${name}`;
      size += isDirectory ? await sizeOf(path) : (await Deno.lstat(path)).size;
    }
  } catch (error) {
    // It goes away while we look, or is a container's that keeps it to itself.
    if (error instanceof Deno.errors.NotFound) return size;
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
  }
  return size;
}
