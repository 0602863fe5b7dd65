/**
 * What containers have written, on disk: segments of records, each a chunk with its stream and time.
 * Written by one process and read by others meanwhile. Bytes are kept as they are, so that what is
 * no text comes out as it went in.
 *
 * @module
 */

/** Where a chunk was written: 1 for standard output, 2 for standard error. */
export type StreamNumber = 1 | 2;

/** A chunk of output. */
export interface LogRecord {
  /** Where it was written. */
  stream: StreamNumber;
  /** When it was read from the program, in nanoseconds since 1970. */
  time: bigint;
  /** What was written. */
  data: Uint8Array<ArrayBuffer>;
}

/** How much of a container's output is kept. */
export interface LogLimits {
  /** The longest segment, in bytes. */
  maxSize: number;
  /** How many segments there may be. */
  maxFiles: number;
}

/** What is kept where no `--log-opt` says otherwise: the last 20 MiB, of which 10 may just have gone. */
export const DEFAULT_LIMITS: LogLimits = { maxSize: 10 * 1_024 * 1_024, maxFiles: 3 };

/** Of a record: its stream, three zeros, its length (u32), its time (u64), all big-endian. */
const HEADER = 16;
const NAME = /^log\.(\d{8})$/;

/** The path of a segment. */
export function segmentPath(folder: string, number: number): string {
  return `${folder}/log.${String(number).padStart(8, "0")}`;
}

/** The numbers of the segments that are there, the oldest first. */
export function segments(folder: string): number[] {
  const found: number[] = [];
  try {
    for (const { name } of Deno.readDirSync(folder)) {
      const number = NAME.exec(name)?.[1];
      if (number !== undefined) found.push(Number(number));
    }
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
  return found.sort((a, b) => a - b);
}

let last = 0n;
/** Now in nanoseconds since 1970, later than ever before, so that records stay in their order. */
function now(): bigint {
  const time = BigInt(Math.round((performance.timeOrigin + performance.now()) * 1_000)) * 1_000n;
  return last = time > last ? time : last + 1n;
}

/** As long as dockerd's own: more of a line is another record. */
const LONGEST_RECORD = 16_384;
const LINE_END = 0x0a;

/** Appends to a container's log. */
export class LogWriter implements Disposable {
  #folder: string;
  #limits: LogLimits;
  #number: number;
  #file: Deno.FsFile;
  #size: number;

  /** Goes on where an earlier writer has ended. */
  constructor(folder: string, limits: LogLimits) {
    this.#folder = folder;
    this.#limits = limits;
    this.#number = segments(folder).at(-1) ?? 1;
    this.#file = this.#open();
    // The writer before may have been killed in the middle of a record.
    this.#size = wholeRecords(this.#file);
    this.#file.truncateSync(this.#size);
    this.#file.seekSync(0, Deno.SeekMode.End);
  }

  /** Appends a chunk, in records that end where a line does, if one does. */
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

/** How many bytes of a file are whole records. */
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

/** Reads a container's log from its beginning, and goes on when more is there. */
export class LogReader implements Disposable {
  #folder: string;
  #number = 0;
  #file?: Deno.FsFile;
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(65_536);
  #start = 0;
  #end = 0;

  /** A reader of the log in a folder, which may have none yet. */
  constructor(folder: string) {
    this.#folder = folder;
  }

  /** The next record; undefined where there is none yet. */
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

  /** Makes room for the rest of the record that has begun. */
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

  /** Goes on to the next segment, if there is one, whose being there says that this one is complete. */
  #nextSegment(): boolean {
    const next = segments(this.#folder).find((number) => number > this.#number);
    if (next === undefined) return false;
    if (this.#file) {
      // The writer may have added to the old one between our look at its end and the new one.
      const at = this.#file.seekSync(0, Deno.SeekMode.Current);
      if (this.#file.statSync().size > at) return true;
    }
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(segmentPath(this.#folder, next));
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return true; // Removed meanwhile: look again.
      throw error;
    }
    this.#file?.close();
    this.#file = file;
    this.#number = next;
    // A writer that was killed may have left the beginning of a record.
    this.#start = this.#end = 0;
    return true;
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file?.close();
  }
}
