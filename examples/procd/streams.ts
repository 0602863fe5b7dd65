/**
 * The streams of programs: `logs`, `attach`, and those of execs.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import type { Job } from "../../mod.ts";
import type { Container, Containers } from "./containers.ts";
import { failure, type Strings, subject, terminal } from "./daemon.ts";
import type { Attached, Follower, Streams } from "./driver.ts";
import { LogReader, type LogRecord } from "./logs.ts";

/** The default keys that detach a client. */
const DETACH_KEYS = "ctrl-p,ctrl-q";

/** Parses detach keys such as `ctrl-p,ctrl-q` or `a,b` to the bytes that a terminal sends. */
export function detachKeys(text: string): number[] {
  return (text || DETACH_KEYS).split(",").map((key) => {
    const control = /^ctrl-([a-z@[\\\]^_])$/.exec(key)?.[1];
    if (control) return control.toUpperCase().charCodeAt(0) - 64;
    if (/^[\x20-\x7e]$/.test(key)) return key.charCodeAt(0);
    throw failure("bad parameter", `invalid detach keys (${text}), expected such as ctrl-p,ctrl-q`);
  });
}

/** Finds the detach keys in input, and holds back what may be their beginning. */
export class KeyFilter {
  #keys: number[];
  #seen = 0;
  constructor(keys: number[]) {
    this.#keys = keys;
  }
  /** Returns the input for the program, and whether the keys were typed after it. */
  pass(data: Uint8Array): { data: Uint8Array; detached: boolean } {
    const out: number[] = [];
    for (const byte of data) {
      const kept = [...this.#keys.slice(0, this.#seen), byte];
      // What is kept back is the longest end of the input that the keys begin with.
      while (kept.some((each, i) => each !== this.#keys[i])) out.push(kept.shift()!);
      this.#seen = kept.length;
      if (this.#seen === this.#keys.length) {
        return { data: Uint8Array.from(out), detached: true };
      }
    }
    return { data: Uint8Array.from(out), detached: false };
  }
}

/**
 * Connects a job's streams with a program's, until the program ends, the client leaves, or it types
 * the detach keys. Returns whether it did.
 *
 * @param replaced Whether another daemon has taken over.
 * @param keys The detach keys, for a program with a terminal.
 */
export async function relay(
  job: Job,
  io: Attached,
  streams: Streams,
  replaced: () => boolean,
  keys?: number[],
): Promise<boolean> {
  let detached = false;
  const { stopping } = job.engine;
  const leave = () => {
    // A replaced daemon serves its clients until they leave or the drain time is over.
    if (!(stopping.aborted && replaced())) io.close();
  };
  job.signal.addEventListener("abort", leave, { once: true });
  if (job.signal.aborted) leave();
  const input = streams.stdin ? job.stdin.readable.getReader() : undefined;
  const reading = input && (async () => {
    const filter = keys && new KeyFilter(keys);
    for (;;) {
      // A client that breaks off has ended its input.
      const { value, done } = await input.read().catch(() => ({ value: undefined, done: true }));
      if (done || value === undefined) break;
      const passed = filter?.pass(value) ?? { data: value, detached: false };
      await io.write(passed.data);
      if (passed.detached) {
        detached = true;
        return io.close();
      }
    }
    // It is the daemon that ends, not the client's input.
    if (!stopping.aborted) await io.end();
  })();
  try {
    for (let chunk; (chunk = await io.read());) {
      if (chunk.stream === 1 ? !streams.stdout : !streams.stderr) continue;
      await (chunk.stream === 1 ? job.stdout : job.stderr).write(chunk.data);
    }
  } finally {
    job.signal.removeEventListener("abort", leave);
    io.close();
    // Closing it ends the other half; an error only says that the program has ended.
    input?.cancel().catch(() => {});
    await reading;
  }
  return detached;
}

/** The part of a line that was written in one record. */
interface Piece {
  stream: 1 | 2;
  time: bigint;
  data: Uint8Array;
  /** Whether a line begins with it. */
  begins: boolean;
}

/** Splits records into lines, separately for each stream. */
class Lines {
  #open = new Set<number>();
  cut({ stream, time, data }: LogRecord): Piece[] {
    const pieces: Piece[] = [];
    for (let start = 0; start < data.length;) {
      const newline = data.indexOf(0x0a, start);
      const end = newline < 0 ? data.length : newline + 1;
      const begins = !this.#open.has(stream);
      pieces.push({ stream, time, data: data.subarray(start, end), begins });
      if (newline < 0) this.#open.add(stream);
      else this.#open.delete(stream);
      start = end;
    }
    return pieces;
  }
}

/** The options of reading a log. */
interface Wanted {
  stdout: boolean;
  stderr: boolean;
  timestamps: boolean;
  /** A prefix of each line. */
  details: string;
  /** How many lines from the end; Infinity for all. */
  tail: number;
  since: bigint;
  until?: bigint | undefined;
  follow: boolean;
}

const encoder = new TextEncoder();
const BILLION = 1_000_000_000n;

/** A time in nanoseconds since 1970 in RFC 3339, with nine digits. */
export function timestamp(time: bigint): string {
  const seconds = new Date(Number(time / BILLION) * 1_000).toISOString().slice(0, 19);
  return `${seconds}.${String(time % BILLION).padStart(9, "0")}Z`;
}

/** Prints the requested part of a container's log as a job's output. */
async function tell(
  job: Job,
  containers: Containers,
  container: Container,
  wanted: Wanted,
): Promise<void> {
  using reader = new LogReader(containers.daemon.folderOf(container.id));
  const lines = new Lines();
  // Whether the current line is to be printed.
  const told = [false, false, false];
  const isWanted = (piece: Piece) => {
    if (piece.begins) {
      told[piece.stream] = piece.time >= wanted.since &&
        (wanted.until === undefined || piece.time <= wanted.until) &&
        (piece.stream === 1 ? wanted.stdout : wanted.stderr);
    }
    return told[piece.stream];
  };
  const write = async (piece: Piece) => {
    let { data } = piece;
    if (piece.begins && (wanted.timestamps || wanted.details)) {
      const prefix = (wanted.timestamps ? `${timestamp(piece.time)} ` : "") + wanted.details;
      data = Buffer.concat([encoder.encode(prefix), data]);
    }
    await (piece.stream === 1 ? job.stdout : job.stderr).write(data);
  };
  const plain = !wanted.timestamps && !wanted.details && wanted.stdout && wanted.stderr &&
    wanted.since === 0n && wanted.until === undefined;
  const drain = async (each: (piece: Piece) => Promise<void> | void) => {
    for (let record; !job.signal.aborted && (record = await reader.next());) {
      if (plain && wanted.tail === Infinity) {
        await (record.stream === 1 ? job.stdout : job.stderr).write(record.data);
        continue;
      }
      for (const piece of lines.cut(record)) if (isWanted(piece)) await each(piece);
    }
  };

  const follower = wanted.follow ? await containers.daemon.driver.follow(container.id) : undefined;
  const leave = () => follower?.close();
  job.signal.addEventListener("abort", leave, { once: true });
  const timer = follower && wanted.until !== undefined
    ? setTimeout(leave, Math.max(0, Number(wanted.until / 1_000_000n) - Date.now()))
    : undefined;
  try {
    if (wanted.tail === Infinity) await drain(write);
    else await last(wanted.tail, drain, write);
    wanted.tail = Infinity;
    if (follower) await follow(follower, () => drain(write));
  } finally {
    clearTimeout(timer);
    job.signal.removeEventListener("abort", leave);
    follower?.close();
  }
}

/** Prints the last lines. */
async function last(
  n: number,
  drain: (each: (piece: Piece) => void) => Promise<void>,
  write: (piece: Piece) => Promise<void>,
): Promise<void> {
  // Parts in order; a continued line belongs to the last part of its stream.
  let kept: Piece[][] = [];
  const open: (Piece[] | undefined)[] = [];
  await drain((piece) => {
    if (piece.begins) kept.push(open[piece.stream] = [piece]);
    else open[piece.stream]?.push(piece);
    if (kept.length > 2 * n + 1_000) kept = kept.slice(kept.length - n);
  });
  const lines = kept.slice(Math.max(0, kept.length - n));
  for (const piece of lines.flat()) await write(piece);
}

async function follow(follower: Follower, drain: () => Promise<void>): Promise<void> {
  // Once before waiting, for records written meanwhile.
  do await drain(); while (await follower.more());
  await drain();
}

/** Parses seconds since 1970 with decimals to nanoseconds. */
function nanoseconds(text: string, other: bigint): bigint {
  if (text === "" || text === "0") return other;
  const [, seconds, decimals = ""] = /^(-?\d+)(?:\.(\d{1,9}))?$/.exec(text) ?? [];
  if (seconds !== undefined) return BigInt(seconds) * BILLION + BigInt(decimals.padEnd(9, "0"));
  const date = Date.parse(text);
  if (!Number.isNaN(date)) return BigInt(date) * 1_000_000n;
  throw failure("bad parameter", `invalid time "${text}", expected seconds since 1970`);
}

/** The options in a job's env. */
function wantedOf(job: Job, container: Container): Wanted {
  const tail = job.getenv("tail");
  const labels: Strings = container.config.Labels ?? {};
  const details = Object.entries(labels).map(([key, value]) => `${key}=${value}`).join(",");
  const until = nanoseconds(job.getenv("until"), 0n);
  return {
    stdout: job.getenvBool("stdout"),
    stderr: job.getenvBool("stderr"),
    timestamps: job.getenvBool("timestamps"),
    details: job.getenvBool("details") && details ? `${details} ` : "",
    tail: /^\d+$/.test(tail) ? Number(tail) : Infinity,
    since: nanoseconds(job.getenv("since"), 0n),
    until: until === 0n ? undefined : until,
    follow: job.getenvBool("follow"),
  };
}

/** Registers `logs`, `attach` and `resize`. */
export function registerStreams(containers: Containers): void {
  const { daemon } = containers;
  const { engine, driver } = daemon;
  engine.register("logs", async (job) => {
    const container = containers.find(subject(job));
    const wanted = wantedOf(job, container);
    if (!wanted.stdout && !wanted.stderr) {
      throw failure("bad parameter", "Bad parameters: you must choose at least one stream");
    }
    terminal(job, container.config.Tty === true);
    // Sends the headers, so that the client knows that the container exists.
    await job.stdout.write("");
    await tell(job, containers, container, wanted);
  });
  engine.register("attach", async (job) => {
    const container = containers.find(subject(job));
    if (container.state.status === "paused") {
      throw failure("conflict", `container ${container.name} is paused, unpause it first`);
    }
    const keys = detachKeys(job.getenv("detachKeys"));
    const streams: Streams = {
      stdin: job.getenvBool("stdin") && container.config.OpenStdin === true,
      stdout: job.getenvBool("stdout"),
      stderr: job.getenvBool("stderr"),
    };
    const tty = container.config.Tty === true;
    terminal(job, tty);
    // A start waits for this, so that the attached client gets all output.
    const io = job.getenvBool("stream")
      ? await daemon.prepare(container.id, driver.attach(container.id, streams))
      : undefined;
    await job.stdout.write("");
    if (job.getenvBool("logs")) {
      const wanted = wantedOf(job, container);
      await tell(job, containers, container, { ...wanted, tail: Infinity, follow: false });
    }
    if (!io) return;
    await containers.tell("attach", container);
    if (await relay(job, io, streams, () => !daemon.store.owned, tty ? keys : undefined)) {
      await containers.tell("detach", containers.get(container.id) ?? container);
    }
  });
  engine.register("resize", async (job) => {
    const container = containers.findRunning(subject(job));
    const [rows, columns] = sizeOf(job);
    if (await driver.resize(container.id, rows, columns)) {
      await containers.tell("resize", container, { height: String(rows), width: String(columns) });
    }
  });
}

/** The rows and columns in a job's arguments. */
export function sizeOf(job: Job): [rows: number, columns: number] {
  const [rows = NaN, columns = NaN] = job.args.slice(1).map(Number);
  if (!(rows >= 0 && rows < 65_536 && columns >= 0 && columns < 65_536)) {
    throw failure("bad parameter", `invalid size ${columns}x${rows}, expected at most 65535`);
  }
  return [rows, columns];
}
