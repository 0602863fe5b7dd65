/**
 * Writes lines to standard error or standard output without blocking the process when the reader of
 * that stream stalls.
 *
 * @module
 */

import { within } from "./time.ts";

/** The longest queue of unwritten lines, in bytes. */
const QUEUE = 2 ** 20;
/** What a writable pipe takes without blocking, in bytes: PIPE_BUF, which is a page (pipe(7)). */
const PIECE = 4_096;
/** A write that takes longer than this is waiting for a stalled reader, in milliseconds. */
const STALLED = 100;

/** The stream that a {@linkcode LineWriter} writes to. */
interface Stream {
  write(data: Uint8Array): Promise<number>;
  writeSync(data: Uint8Array): number;
}

/**
 * Writes lines in order, and drops those that cannot be written: because the reader has gone, the
 * disk is full, or the reader has stalled and the queue is full. It never throws.
 */
export class LineWriter {
  /**
   * Whether a write of up to 4 096 bytes would not block now; undefined if that is not known: then
   * all writes are asynchronous, on a thread of the runtime. Default: always true, for programs
   * other than daemons, which may wait for their reader.
   */
  ready: () => boolean | undefined;
  #stream: Stream;
  #queue: Uint8Array[] = [];
  #queued = 0;
  #lost = 0;
  /** Whether the last line was written in part. */
  #torn = false;
  /** When the current asynchronous write began. */
  #since?: number | undefined;
  #empty?: PromiseWithResolvers<void> | undefined;

  /** Writes to a stream such as `Deno.stderr`. */
  constructor(stream: Stream, ready: LineWriter["ready"] = () => true) {
    this.#stream = stream;
    this.ready = ready;
  }

  /**
   * Writes a line that includes its newline, synchronously if that does not block.
   *
   * @param line The line, or a function that makes it after the notice, so that their times are in
   * order.
   * @param notice Makes a line to write first if lines were lost, given how many. Default: none.
   */
  write(line: string | (() => string), notice?: (lost: number) => string): void {
    if (notice && this.#lost > 0 && this.#queued <= QUEUE / 2) {
      if (!this.#put(notice(this.#lost))) return void this.#lost++;
      this.#lost = 0;
    }
    if (!this.#put(typeof line === "string" ? line : line())) this.#lost++;
  }

  /** Writes or queues a line; false if it is lost. */
  #put(line: string): boolean {
    let bytes: Uint8Array = encoder.encode(this.#torn ? "\n" + line : line);
    const { length } = bytes;
    if (this.#since === undefined) {
      try {
        while (bytes.length > 0 && this.ready()) {
          bytes = bytes.subarray(this.#stream.writeSync(bytes.subarray(0, PIECE)));
        }
      } catch {
        // The reader has gone or the disk is full, and standard error was the place to report it.
        this.#torn ||= bytes.length < length;
        return false;
      }
    }
    // A single line may exceed the limit of the queue.
    if (this.#queued > 0 && this.#queued + bytes.length > QUEUE) return false;
    this.#torn = false;
    if (bytes.length === 0) return true;
    this.#queue.push(bytes);
    this.#queued += bytes.length;
    if (this.#since === undefined) this.#drain();
    return true;
  }

  /** Waits until everything is written, or the current write has taken `ms` milliseconds. */
  async flush(ms: number): Promise<void> {
    if (this.#since === undefined) return;
    this.#empty ??= Promise.withResolvers();
    await within(Math.max(0, this.#since + ms - performance.now()), this.#empty.promise);
  }

  /** Writes the queue synchronously as the process ends, as far as that does not block. */
  flushNow(): void {
    const stalled = this.#since !== undefined && performance.now() - this.#since > STALLED;
    try {
      for (const bytes of this.#queue.splice(0)) {
        for (let sent = 0; sent < bytes.length;) {
          if (!(this.ready() ?? !stalled)) return;
          sent += this.#stream.writeSync(bytes.subarray(sent, sent + PIECE));
        }
      }
    } catch {
      // As in #put.
    }
  }

  /** Writes the queue asynchronously: a thread of the runtime may block on it. */
  async #drain(): Promise<void> {
    while (this.#queue.length > 0) {
      const batch = this.#queue.splice(0);
      this.#queued = 0;
      this.#since = performance.now();
      try {
        for (let bytes = concat(batch); bytes.length > 0;) {
          bytes = bytes.subarray(await this.#stream.write(bytes));
        }
      } catch {
        this.#lost += batch.length;
        this.#torn = true;
      }
    }
    this.#since = undefined;
    this.#empty?.resolve();
    this.#empty = undefined;
  }
}

/** One array of all bytes: the part itself if there is only one. */
export function concat(parts: readonly Uint8Array[]): Uint8Array {
  if (parts.length === 1) return parts[0]!;
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

const encoder = new TextEncoder();
