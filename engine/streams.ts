import { Env } from "./env.ts";

/**
 * A source that can be read as a whole, faster than as a stream: a Request has one, or a Response.
 */
type Whole = Pick<Body, "body" | "bodyUsed" | "text">;

/** A job's input stream: one source, or none. */
export class Input {
  #source?: ReadableStream<Uint8Array>;
  /** The source, until it is asked for as a stream. */
  #whole: Whole | undefined;
  #added = false;
  #text?: "reading" | "read";

  /**
   * Attaches the source.
   *
   * @throws {TypeError} If a source is attached already, or this is none.
   */
  add(source: ReadableStream<Uint8Array> | Request | Response | Uint8Array | string): void {
    if (this.#added) throw new TypeError("the input has a source already");
    // A Blob has a text, too, but not a body.
    if (has(source, "text") && "body" in source) this.#whole = source;
    else if (typeof source === "string" || source instanceof Uint8Array) {
      this.#source = streamOf(source);
    } else if (source instanceof ReadableStream) this.#source = source;
    else {
      const expected = "a text, a Uint8Array, a ReadableStream, a Request or a Response";
      throw new TypeError(`cannot read ${shown(source)}, expected ${expected}`);
    }
    this.#added = true;
  }
  /** Whether a source is attached. */
  get used(): boolean {
    return this.#added;
  }
  /** Whether a reader is active now. */
  get reading(): boolean {
    // A source that was read to its end by text() stays locked.
    return this.#text ? this.#text === "reading" : this.#source?.locked === true;
  }
  /** The source as a stream; empty if none is attached. */
  get readable(): ReadableStream<Uint8Array> {
    if (this.#source === undefined) {
      this.#source = this.#whole?.body ?? streamOf("");
      this.#whole = undefined;
    }
    return this.#source;
  }
  /** Reads to the end and decodes as UTF-8. Rejects with the source's error if it breaks. */
  async text(): Promise<string> {
    this.#text = "reading";
    try {
      if (this.#whole) return await this.#whole.text();
      return await new Response(this.readable as ReadableStream<Uint8Array<ArrayBuffer>>).text();
    } finally {
      this.#text = "read";
    }
  }
  /** Reads to the end and parses as JSON. Rejects with a SyntaxError if it is not JSON. */
  async json(): Promise<unknown> {
    return JSON.parse(await this.text());
  }
  /** Cancels the source, unless a reader has locked it. */
  async close(): Promise<void> {
    if (this.#text === undefined && this.#whole) this.readable; // A stream can be told.
    const source = this.#source;
    if (source === undefined || source.locked) return;
    // A source that broke has rejected the reads from it.
    await source.cancel().catch(() => {});
  }
}

function streamOf(data: Uint8Array | string): ReadableStream<Uint8Array> {
  const bytes = typeof data === "string" ? encoder.encode(data) : data;
  return new ReadableStream({
    start(controller) {
      if (bytes.length > 0) controller.enqueue(bytes);
      controller.close();
    },
  });
}

/** A destination of bytes. {@linkcode Output.write} reports what it throws or rejects with. */
export interface Sink {
  /** Takes a chunk. The next one is not written before the promise resolves. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** Takes what was written as text. Default: `write` gets its UTF-8 bytes. */
  writeText?(text: string): void | Promise<void>;
  /** Called once, after the last chunk. */
  close?(): void | Promise<void>;
}

/** The last lines that were written to an {@linkcode Output}. */
export interface Tail {
  /** The lines so far, without the final newline. */
  readonly text: string;
}

const encoder = new TextEncoder();
/** The resolved promise of all synchronous paths, so that a caller can compare against it. */
export const DONE = Promise.resolve();
const NO_SINKS: readonly Sink[] = [];
/** The capacity of a pipe on Linux (pipe(7)), in bytes. */
const PIPE_SIZE = 65_536;

/** The method of a job that is called when data is written to its stdout after it was closed. */
export const WRITE_AFTER_END = Symbol("write after end");

/** A job's output stream, with any number of destinations; without one the data is discarded. */
export class Output {
  #sinks: readonly Sink[] = NO_SINKS;
  #queue?: Promise<void> | undefined;
  #failure?: { error: unknown };
  #closed?: Promise<void>;
  #observer?: TailSink | undefined;
  #writer?: { [WRITE_AFTER_END](data: Uint8Array | string): void } | undefined;

  /** An output with no destination. A job's streams are made by the job. */
  constructor(observer?: unknown, writer?: unknown) {
    // Gets all that is written, whatever the destinations are.
    this.#observer = observer as TailSink | undefined;
    this.#writer = writer as { [WRITE_AFTER_END](data: Uint8Array | string): void } | undefined;
  }

  /**
   * Attaches a destination. It is closed with the output.
   *
   * @throws {TypeError} If this is none, or a stream that is locked.
   */
  add(destination: WritableStream<Uint8Array> | Sink): void {
    if (!has(destination, "getWriter") && !has(destination, "write")) {
      const expected = "a WritableStream, or an object with a method write";
      throw new TypeError(`cannot write to ${shown(destination)}, expected ${expected}`);
    }
    // Not by instanceof: the runtime loads the class WritableStream only when code names it.
    if ("getWriter" in destination) {
      const writer = destination.getWriter();
      // The writer's own promise rejects as well when a write does; we report the write.
      writer.closed.catch(() => {});
      this.add({
        write: (chunk) => writer.write(chunk),
        close: () => writer.close(),
      });
    } else {
      // A new list, because a pending write iterates over the current one.
      this.#sinks = [...this.#sinks, destination];
    }
  }
  /** Makes `destination` the only one. Those before are not closed. */
  set(destination: WritableStream<Uint8Array> | Sink): void {
    this.#sinks = NO_SINKS;
    this.add(destination);
  }
  /** Whether a destination is attached. */
  get used(): boolean {
    return this.#sinks.length > 0;
  }

  /** Whether a destination has yet to take data that was written. */
  get pending(): boolean {
    return this.#queue !== undefined;
  }

  /** Attaches a pipe and returns its reading end. It holds 64 KiB; then writes wait. */
  addPipe(): ReadableStream<Uint8Array> {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>(
      undefined,
      undefined,
      new ByteLengthQueuingStrategy({ highWaterMark: PIPE_SIZE }),
    );
    this.add(writable);
    return readable;
  }
  /** Keeps the last `n` lines. */
  addTail(n: number): Tail {
    const sink = new TailSink(n);
    this.add(sink);
    return sink;
  }
  /**
   * Returns an Env that holds, once the output is closed, the last JSON object written. Text other
   * than a sequence of JSON objects makes {@linkcode Output.close} reject.
   */
  addEnv(): Env {
    const env = new Env();
    let last: Env | undefined;
    this.#addObjects((object) => last = object, () => {
      for (const [key, value] of last ?? []) env.set(key, value);
    });
    return env;
  }
  /** Like {@linkcode Output.addEnv}, but returns a list of every JSON object written. */
  addTable(): Env[] {
    const table: Env[] = [];
    this.#addObjects((object) => void table.push(object));
    return table;
  }
  #addObjects(each: (object: Env) => void, end?: () => void): void {
    const decoder = new TextDecoder();
    const splitter = new ObjectSplitter((text) => each(Env.decode(text)));
    this.add({
      write: (chunk) => splitter.push(decoder.decode(chunk, { stream: true })),
      close() {
        splitter.push(decoder.decode());
        splitter.end();
        end?.();
      },
    });
  }

  /**
   * Writes to every destination in turn, and awaits each before the next. After {@linkcode
   * Output.close} the data is discarded; for a job's stdout the log has a warning.
   *
   * @returns A promise that rejects with a TypeError if the data is neither text nor bytes, else
   * with the first destination's error after all were tried. It need not be awaited: `close`
   * reports the error again.
   */
  write(data: Uint8Array | string): Promise<void> {
    if (typeof data !== "string" && !(data instanceof Uint8Array)) {
      const problem = `cannot write ${shown(data)}, expected a text or a Uint8Array`;
      const failed = this.#fail({ error: new TypeError(problem) });
      failed.catch(() => {}); // close() reports it again.
      return failed;
    }
    if (this.#closed) {
      this.#writer?.[WRITE_AFTER_END](data);
      return DONE;
    }
    const sinks = this.#sinks;
    if (sinks.length === 0 && this.#observer === undefined) return DONE;
    let chunk: Uint8Array | string;
    if (typeof data !== "string") {
      // A copy, because the caller may reuse its buffer before every destination has taken the
      // data.
      chunk = data.slice();
    } else if (this.#observer === undefined && sinks.every(takesText)) {
      chunk = data;
    } else {
      chunk = encoder.encode(data);
    }
    this.#observer?.write(chunk as Uint8Array);
    const delivered = this.#queue
      ? this.#queue.then(() => this.#deliver(chunk, sinks))
      : this.#deliver(chunk, sinks);
    if (delivered === undefined) return DONE;
    const settled = delivered.then(() => {}, () => {});
    this.#queue = settled;
    settled.then(() => {
      if (this.#queue === settled) this.#queue = undefined;
    });
    return delivered;
  }

  /** Undefined if every destination took the chunk synchronously, which spares a promise. */
  #deliver(chunk: Uint8Array | string, sinks: readonly Sink[]): Promise<void> | undefined {
    let failure: { error: unknown } | undefined;
    for (let i = 0; i < sinks.length; i++) {
      try {
        const pending = give(sinks[i]!, chunk);
        if (pending !== undefined) return this.#deliverRest(chunk, sinks, i, pending, failure);
      } catch (error) {
        failure ??= { error };
      }
    }
    return failure && this.#fail(failure);
  }
  async #deliverRest(
    chunk: Uint8Array | string,
    sinks: readonly Sink[],
    i: number,
    pending: void | Promise<void>,
    failure?: { error: unknown },
  ): Promise<void> {
    for (;;) {
      try {
        await pending;
      } catch (error) {
        failure ??= { error };
      }
      if (++i === sinks.length) break;
      try {
        pending = give(sinks[i]!, chunk);
      } catch (error) {
        pending = undefined;
        failure ??= { error };
      }
    }
    if (failure) await this.#fail(failure);
  }
  #fail(failure: { error: unknown }): Promise<never> {
    // A reader may cancel a pipe without a reason, but the writer needs an error.
    failure.error ??= new Error("the reader has gone away");
    this.#failure ??= failure;
    return Promise.reject(failure.error);
  }

  /**
   * Waits for pending writes and closes every destination. Further calls return the first's
   * promise.
   *
   * @returns A promise that rejects with the first error of writing or closing, after all are
   * closed.
   */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      // The common case in a busy daemon, without an async function.
      const settled = !this.#queue && !this.#failure && !this.#sinks.some(closes);
      this.#closed = settled ? DONE : this.#close();
    }
    return this.#closed;
  }
  async #close(): Promise<void> {
    if (this.#queue) await this.#queue;
    for (const sink of this.#sinks) {
      try {
        await sink.close?.();
      } catch (error) {
        this.#failure ??= { error };
      }
    }
    if (this.#failure) throw this.#failure.error;
  }
}

function has<T, Name extends string>(
  value: T,
  name: Name,
): value is Extract<T, Record<Name, unknown>> {
  return typeof value === "object" && value !== null &&
    typeof (value as Record<string, unknown>)[name] === "function";
}

/** A value of the wrong type, for an error message. */
function shown(value: unknown): string {
  return `${
    Deno.inspect(value, { depth: 0, strAbbreviateSize: 40 }).slice(0, 40)
  } (${typeof value})`;
}

const takesText = (sink: Sink) => sink.writeText !== undefined;
const closes = (sink: Sink) => sink.close !== undefined;

/** Passes a chunk to a sink; text only to one that takes text. */
function give(sink: Sink, chunk: Uint8Array | string): void | Promise<void> {
  return typeof chunk === "string" ? sink.writeText!(chunk) : sink.write(chunk);
}

/** Keeps the last `n` lines written to it. */
export class TailSink implements Sink, Tail {
  #n: number;
  #decoder = new TextDecoder();
  #kept = "";

  constructor(n: number) {
    this.#n = n;
  }
  write(chunk: Uint8Array): void {
    this.#kept += this.#decoder.decode(chunk, { stream: true });
    if (this.#kept.length > PIPE_SIZE) {
      this.#kept = tail(this.#kept, this.#n) + (this.#kept.endsWith("\n") ? "\n" : "");
    }
  }
  get text(): string {
    return tail(this.#kept, this.#n);
  }
}

/** Cuts a text of JSON objects, one after another, into the text of each. */
class ObjectSplitter {
  #each: (text: string) => void;
  #text = "";
  #seen = 0;
  #depth = 0;
  #quoted = false;
  #escaped = false;

  constructor(each: (text: string) => void) {
    this.#each = each;
  }

  push(text: string): void {
    this.#text += text;
    for (; this.#seen < this.#text.length; this.#seen++) {
      const char = this.#text[this.#seen]!;
      if (this.#quoted) {
        if (this.#escaped) this.#escaped = false;
        else if (char === "\\") this.#escaped = true;
        else if (char === '"') this.#quoted = false;
      } else if (this.#depth === 0 && char !== "{") {
        if (!/\s/.test(char)) {
          throw new SyntaxError(
            `expected a JSON object, got ${this.#text.slice(this.#seen, this.#seen + 40)}`,
          );
        }
        this.#cut();
      } else if (char === '"') {
        this.#quoted = true;
      } else if (char === "{" || char === "[") {
        this.#depth++;
      } else if (char === "}" || char === "]") {
        if (--this.#depth === 0) this.#each(this.#cut());
      }
    }
  }

  end(): void {
    if (this.#depth > 0) throw new SyntaxError("a JSON object was not finished");
  }

  /** Removes and returns the text up to and including the current character. */
  #cut(): string {
    const text = this.#text.slice(0, this.#seen + 1);
    this.#text = this.#text.slice(this.#seen + 1);
    this.#seen = -1;
    return text;
  }
}

/** The last `n` lines of a text, without the final newline; `""` where `n` is 0 or less. */
export function tail(text: string, n: number): string {
  if (n <= 0) return "";
  const end = text.endsWith("\n") ? text.length - 1 : text.length;
  let start = end;
  for (let lines = 0; lines < n && start >= 0; lines++) {
    start = start === 0 ? -1 : text.lastIndexOf("\n", start - 1);
  }
  return text.slice(start + 1, end);
}
