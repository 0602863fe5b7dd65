/**
 * The protocol between the daemon and its supervisor, over a unix socket: a JSON line each way, and
 * then frames, as in Docker's API: the stream's number, three zeros, the length (u32, big-endian),
 * data.
 *
 * @module
 */

const FRAME = 8;
/** The longest line, in bytes: arguments and environment may take 2 MiB on Linux. */
const LINE_LIMIT = 8 * 1_024 * 1_024;

const encoder = new TextEncoder();
const decoder = new TextDecoder();

/** A frame. */
export interface Frame {
  /** 0 for standard input, 1 for output, 2 for errors. */
  stream: number;
  /** The data. */
  data: Uint8Array;
}

/** One end of a connection. */
export class Wire implements Disposable {
  #conn: Deno.Conn;
  #buffer: Uint8Array<ArrayBuffer> = new Uint8Array(65_536 + FRAME);
  #start = 0;
  #end = 0;
  #sending: Promise<void> = Promise.resolve();
  #closed = false;

  /** Owns this connection. */
  constructor(conn: Deno.Conn) {
    this.#conn = conn;
  }

  /** The next line, parsed as JSON; undefined at the end. */
  async receive<T>(): Promise<T | undefined> {
    for (let seen = this.#start;;) {
      const at = this.#buffer.subarray(seen, this.#end).indexOf(0x0a);
      if (at >= 0) {
        const line = decoder.decode(this.#buffer.subarray(this.#start, seen + at));
        this.#start = seen + at + 1;
        return JSON.parse(line);
      }
      const length = this.#end - this.#start;
      if (length > LINE_LIMIT) throw new Error(`a line of more than ${LINE_LIMIT} bytes`);
      if (!await this.#more(length + 1)) return undefined;
      seen = this.#start + length;
    }
  }

  /** The next frame; undefined at the end. Its data is valid until the next call. */
  async frame(): Promise<Frame | undefined> {
    while (this.#end - this.#start < FRAME) if (!await this.#more(FRAME)) return undefined;
    const view = new DataView(this.#buffer.buffer, this.#start, FRAME);
    const stream = view.getUint8(0);
    const whole = FRAME + view.getUint32(4);
    while (this.#end - this.#start < whole) if (!await this.#more(whole)) return undefined;
    const data = this.#buffer.subarray(this.#start + FRAME, this.#start + whole);
    this.#start += whole;
    return { stream, data };
  }

  /** Reads more, with room for `wanted` bytes in all. False at the end. */
  async #more(wanted: number): Promise<boolean> {
    if (this.#start + wanted > this.#buffer.length || this.#end === this.#buffer.length) {
      const length = this.#end - this.#start;
      const target = wanted > this.#buffer.length || length === this.#buffer.length
        ? new Uint8Array(2 * Math.max(wanted, length))
        : this.#buffer;
      target.set(this.#buffer.subarray(this.#start, this.#end));
      this.#buffer = target;
      this.#start = 0;
      this.#end = length;
    }
    let n: number | null;
    try {
      n = await this.#conn.read(this.#buffer.subarray(this.#end));
    } catch (error) {
      if (isOver(error)) return false;
      throw error;
    }
    if (n === null) return false;
    this.#end += n;
    return true;
  }

  /** Sends a line. False if the other end has gone. */
  send(message: unknown): Promise<boolean> {
    return this.#write(encoder.encode(JSON.stringify(message) + "\n"));
  }

  /** Sends a frame after those before. False if the other end has gone. */
  sendFrame(stream: number, data: Uint8Array): Promise<boolean> {
    const bytes = new Uint8Array(FRAME + data.length);
    bytes[0] = stream;
    new DataView(bytes.buffer).setUint32(4, data.length);
    bytes.set(data, FRAME);
    return this.#write(bytes);
  }

  #write(bytes: Uint8Array): Promise<boolean> {
    const sent = this.#sending.then(async () => {
      try {
        for (let n = 0; n < bytes.length;) n += await this.#conn.write(bytes.subarray(n));
        return true;
      } catch (error) {
        if (isOver(error)) return false;
        throw error;
      }
    });
    this.#sending = sent.then(() => {}, () => {});
    return sent;
  }

  /** Closes it. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#conn.close();
  }
}

/** Whether an error means that the other end has gone, or that ours is closed. */
export function isOver(error: unknown): boolean {
  return error instanceof Deno.errors.BrokenPipe ||
    error instanceof Deno.errors.ConnectionReset ||
    error instanceof Deno.errors.ConnectionAborted ||
    error instanceof Deno.errors.NotConnected ||
    error instanceof Deno.errors.BadResource ||
    error instanceof Deno.errors.Interrupted;
}
