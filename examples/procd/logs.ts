/**
 * The logs of containers on disk: segments of records, each a chunk with its stream and time. One
 * process writes while others read. Chunks are stored as bytes, so binary output is kept.
 *
 * @module
 */

import { notThere } from "./files.ts";

/** The stream of a chunk: 1 for standard output, 2 for standard error. */
export type StreamNumber = 1 | 2;

/** A chunk of output. */
export interface LogRecord {
  /** The stream. */
  stream: StreamNumber;
  /** When it was read from the program, in nanoseconds since 1970. */
  time: bigint;
  /** The data. */
  data: Uint8Array<ArrayBuffer>;
}

/** The limits of a log. */
export interface LogLimits {
  /** The longest segment, in bytes. */
  maxSize: number;
  /** The most segments. */
  maxFiles: number;
}

/** The default limits: 20 MiB, of which the oldest 10 may just have been removed. */
export const DEFAULT_LIMITS: LogLimits = { maxSize: 10 * 1_024 * 1_024, maxFiles: 3 };

/** The header of a record: stream, three zeros, length (u32), time (u64), big-endian. */
const HEADER = 16;
const NAME = /^log\.(\d{8})$/;

/** The path of a segment. */
export function segmentPath(folder: string, number: number): string {
  return `${folder}/log.${String(number).padStart(8, "0")}`;
}

/** The numbers of the existing segments, the oldest first. */
export function segments(folder: string): number[] {
  const found: number[] = [];
  try {
    for (const { name } of Deno.readDirSync(folder)) {
      const number = NAME.exec(name)?.[1];
      if (number !== undefined) found.push(Number(number));
    }
  } catch (error) {
    notThere(error);
  }
  return found.sort((a, b) => a - b);
}

let last = 0n;
/** The time in nanoseconds since 1970, strictly increasing, so that records stay in order. */
function now(): bigint {
  const time = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n;
  return last = time > last ? time : last + 1n;
}

/** The longest record, in bytes, as in dockerd; a longer line becomes several. */
const LONGEST_RECORD = 16_384;
const LINE_END = 0x0a;

/** Appends to a container's log. */
export class LogWriter implements Disposable {
  #folder: string;
  #limits: LogLimits;
  #number: number;
  #file: Deno.FsFile;
  #size: number;

  /** Continues the log of an earlier writer. */
  constructor(folder: string, limits: LogLimits) {
    this.#folder = folder;
    this.#limits = limits;
    this.#number = segments(folder).at(-1) ?? 1;
    this.#file = this.#open();
    // The earlier writer may have been killed within a record.
    this.#size = wholeRecords(this.#file);
    this.#file.truncateSync(this.#size);
    this.#file.seekSync(0, Deno.SeekMode.End);
  }

  /** Appends a chunk, split into records at the ends of lines. */
  write(stream: StreamNumber, data: Uint8Array): void {
    const longest = Math.max(1, Math.min(LONGEST_RECORD, this.#limits.maxSize - HEADER));
    for (let rest = data; rest.length > 0;) {
      const end = rest.length <= longest
        ? rest.length
        : rest.lastIndexOf(LINE_END, longest - 1) + 1;
      const piece = rest.subarray(0, end || longest);
      this.#append(stream, piece);
      rest = rest.subarray(piece.length);
    }
  }

  #append(stream: StreamNumber, data: Uint8Array): void {
    if (this.#size > 0 && this.#size + HEADER + data.length > this.#limits.maxSize) this.#rotate();
    const record = new Uint8Array(HEADER + data.length);
    const view = new DataView(record.buffer);
    view.setUint8(0, stream);
    view.setUint32(4, data.length);
    view.setBigUint64(8, now());
    record.set(data, HEADER);
    for (let sent = 0; sent < record.length;) sent += this.#file.writeSync(record.subarray(sent));
    this.#size += record.length;
  }

  #open(): Deno.FsFile {
    return Deno.openSync(segmentPath(this.#folder, this.#number), {
      read: true,
      write: true,
      create: true,
      mode: 0o600,
    });
  }

  #rotate(): void {
    this.#file.close();
    this.#number++;
    this.#file = this.#open();
    this.#size = 0;
    for (const number of segments(this.#folder).slice(0, -this.#limits.maxFiles)) {
      Deno.removeSync(segmentPath(this.#folder, number));
    }
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** How many bytes of a file are complete records. */
function wholeRecords(file: Deno.FsFile): number {
  const { size } = file.statSync();
  const header = new Uint8Array(HEADER);
  const view = new DataView(header.buffer);
  for (let end = 0;;) {
    if (end + HEADER > size) return end;
    file.seekSync(end, Deno.SeekMode.Start);
    file.readSync(header);
    const next = end + HEADER + view.getUint32(4);
    if (next > size) return end;
    end = next;
  }
}

/** Reads a container's log from its beginning, and follows it. */
export class LogReader implements Disposable {
  #folder: string;
  #number = 0;
  #file?: Deno.FsFile;
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(65_536);
  #start = 0;
  #end = 0;

  /** A reader of the log in a folder; the log need not exist yet. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** The next record; undefined if there is none yet. */
  async next(): Promise<LogRecord | undefined> {
    for (;;) {
      const record = this.#take();
      if (record) return record;
      if (this.#file) {
        this.#makeRoom();
        const n = await this.#file.read(this.#buffer.subarray(this.#end));
        if (n !== null && n > 0) {
          this.#end += n;
          continue;
        }
      }
      if (!this.#nextSegment()) return undefined;
    }
  }

  #take(): LogRecord | undefined {
    const length = this.#end - this.#start;
    if (length < HEADER) return undefined;
    const view = new DataView(this.#buffer.buffer, this.#start, length);
    const whole = HEADER + view.getUint32(4);
    if (length < whole) return undefined;
    const start = this.#start + HEADER;
    this.#start += whole;
    return {
      stream: view.getUint8(0) as StreamNumber,
      time: view.getBigUint64(8),
      data: this.#buffer.slice(start, this.#start),
    };
  }

  /** Makes room in the buffer for the rest of the current record. */
  #makeRoom(): void {
    const length = this.#end - this.#start;
    const wanted = length < HEADER
      ? HEADER
      : HEADER + new DataView(this.#buffer.buffer, this.#start).getUint32(4);
    if (this.#start === 0 && this.#end < this.#buffer.length && wanted <= this.#buffer.length) {
      return;
    }
    const target = wanted > this.#buffer.length ? new Uint8Array(2 * wanted) : this.#buffer;
    target.set(this.#buffer.subarray(this.#start, this.#end));
    this.#buffer = target;
    this.#start = 0;
    this.#end = length;
  }

  /** Moves to the next segment, if it exists: then the current one is complete. */
  #nextSegment(): boolean {
    const next = segments(this.#folder).find((number) => number > this.#number);
    if (next === undefined) return false;
    if (this.#file) {
      // The writer may have appended to the current segment before it began the new one.
      const at = this.#file.seekSync(0, Deno.SeekMode.Current);
      if (this.#file.statSync().size > at) return true;
    }
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(segmentPath(this.#folder, next));
    } catch (error) {
      notThere(error);
      return true; // Removed meanwhile: list again.
    }
    this.#file?.close();
    this.#file = file;
    this.#number = next;
    // A killed writer may have left an incomplete record.
    this.#start = this.#end = 0;
    return true;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file?.close();
  }
}
