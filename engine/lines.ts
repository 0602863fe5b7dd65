/**
 * Lines that go to standard error or standard output, whose reader may stall, and must not stop us.
 *
 * @module
 */

import { within } from "./time.ts";

/** How much of what could not be written yet is kept, in bytes. */
const QUEUE = 2 ** 20;
/** What a pipe that takes anything takes without blocking, in bytes: PIPE_BUF, which is a page (pipe(7)). */
const PIECE = 4_096;
/** A write that takes longer than this waits for the reader, in milliseconds. */
const STALLED = 100;

/** What a {@linkcode LineWriter} writes to. */
interface Stream {
  write(data: Uint8Array): Promise<number>;
  writeSync(data: Uint8Array): number;
}

/**
 * Writes lines in their order, and goes on without them where they cannot be written: no reader, no
 * space on the disk, or a reader that takes nothing while too much waits for it. It never throws.
 */
export class LineWriter {
  /**
   * Whether a write of up to 4 096 bytes would not block now; undefined if that cannot be told, and
   * then nothing is written but by a thread of its own. Default: always true, as a program that is no
   * daemon expects it, which waits for its reader.
   */
  ready: () => boolean | undefined;
  #stream: Stream;
  #queue: Uint8Array[] = [];
  #queued = 0;
  #lost = 0;
  /** Whether the last line was written in part. */
  #torn = false;
  /** When the write began that is under way. */
  #since?: number | undefined;
  #empty?: PromiseWithResolvers<void> | undefined;

  /** Writes to standard error, or something that is like it. */
  constructor(stream: Stream, ready: LineWriter["ready"] = () => true) {
    this.#stream = stream;
    this.ready = ready;
  }

  /**
   * Writes a line, its newline included; at once, if that does not block.
   *
   * @param line The line, or what makes it once the notice is made: both may tell the time.
   * @param notice What to write before it if lines were lost, given how many. Default: nothing.
   */
  write(line: string | (() => string), notice?: (lost: number) => string): void {
    if (notice && this.#lost > 0 && this.#queued <= QUEUE / 2) {
      if (!this.#put(notice(this.#lost))) return void this.#lost++;
      this.#lost = 0;
    }
    if (!this.#put(typeof line === "string" ? line : line())) this.#lost++;
  }

  /** Whether a line was written, or is going to be. */
  #put(line: string): boolean {
    let bytes: Uint8Array = encoder.encode(this.#torn ? "\n" + line : line);
    const { length } = bytes;
    if (this.#since === undefined) {
      try {
        while (bytes.length > 0 && this.ready()) {
          bytes = bytes.subarray(this.#stream.writeSync(bytes.subarray(0, PIECE)));
        }
      } catch {
        // Its reader has gone, or its disk is full, and there is nowhere to say it.
        this.#torn ||= bytes.length < length;
        return false;
      }
    }
    // A single one that is longer than all may be is as long as its caller has made it.
    if (this.#queued > 0 && this.#queued + bytes.length > QUEUE) return false;
    this.#torn = false;
    if (bytes.length === 0) return true;
    this.#queue.push(bytes);
    this.#queued += bytes.length;
    if (this.#since === undefined) this.#drain();
    return true;
  }

  /** Waits until all is written, if the reader has been stalling for less than that many milliseconds. */
  async flush(ms: number): Promise<void> {
    if (this.#since === undefined) return;
    this.#empty ??= Promise.withResolvers();
    await within(Math.max(0, this.#since + ms - performance.now()), this.#empty.promise);
  }

  /** Writes what is left, at once, for a process that is about to end; if that does not block. */
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
      // As above.
    }
  }

  /** Writes what is queued, by a thread that may block. */
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

function concat(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let offset = 0;
  for (const part of parts) {
    whole.set(part, offset);
    offset += part.length;
  }
  return whole;
}

const encoder = new TextEncoder();
