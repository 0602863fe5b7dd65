import { Env } from "./env.ts";

/** What a job reads: one source, or nothing. */
export class Input {
  #source?: ReadableStream<Uint8Array>;
  #added = false;
  #text?: "reading" | "read";

  /**
   * Attaches the source.
   *
   * @throws {TypeError} If there is one already.
   */
  add(source: ReadableStream<Uint8Array> | Uint8Array | string): void {
    if (this.#added) throw new TypeError("the input has a source already");
    this.#added = true;
    this.#source = source instanceof ReadableStream ? source : streamOf(source);
  }
  /** Whether a source is attached. */
  get used(): boolean {
    return this.#added;
  }
  /** Whether somebody reads from it now. */
  get reading(): boolean {
    // A source that was read to its end by text() stays locked.
    return this.#text ? this.#text === "reading" : this.#source?.locked === true;
  }
  /** The source as a stream; empty where none is attached. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#source ??= streamOf("");
  }
  /** All of it, decoded as UTF-8. */
  async text(): Promise<string> {
    this.#text = "reading";
    try {
      return await new Response(this.readable as ReadableStream<Uint8Array<ArrayBuffer>>).text();
    } finally {
      this.#text = "read";
    }
  }
  /** All of it, parsed as JSON. Rejects with a SyntaxError if it is none. */
  async json(): Promise<unknown> {
    return JSON.parse(await this.text());
  }
  /** Tells the source that nobody will read on. A source that somebody reads at is left to them. */
  async close(): Promise<void> {
    const source = this.#source;
    if (source === undefined || source.locked) return;
    // A source that broke has told whoever read from it.
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

/** Something that takes bytes, and may be closed. What it throws or rejects with is reported. */
export interface Sink {
  /** Takes a chunk. The next one is not written before the promise resolves. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** The same for what was written as text, where that is wanted as it is. Default: its UTF-8 bytes. */
  writeText?(text: string): void | Promise<void>;
  /** Called once, after the last chunk. */
  close?(): void | Promise<void>;
}

/** The last lines that an {@linkcode Output} was written. */
export interface Tail {
  /** The lines so far, without the final newline. */
  readonly text: string;
}

const encoder = new TextEncoder();
/** Every promise of something that is done already, so that a caller may see that it is. */
export const DONE = Promise.resolve();
const NOBODY: readonly Sink[] = [];
/** As much as a pipe of Linux holds (pipe(7)) before its writer has to wait. */
const PIPE_SIZE = 65_536;

/** Under what a job hears that it has written to a stdout that is closed. */
export const LATE = Symbol("late");

/** What a job writes: any number of destinations; with none, what is written is discarded. */
export class Output {
  #sinks: readonly Sink[] = NOBODY;
  #queue?: Promise<void> | undefined;
  #failure?: { error: unknown };
  #closed?: Promise<void>;
  #observer?: TailSink | undefined;
  #writer?: { [LATE](data: Uint8Array | string): void } | undefined;

  /** An output with no destination. A job's streams are made by the job. */
  constructor(observer?: unknown, writer?: unknown) {
    // Sees what is written whatever the destinations are, and is none itself.
    this.#observer = observer as TailSink | undefined;
    // Hears of what is written when it is closed.
    this.#writer = writer as { [LATE](data: Uint8Array | string): void } | undefined;
  }

  /** Attaches a destination. It is closed with the output. */
  add(destination: WritableStream<Uint8Array> | Sink): void {
    // Told apart without the class, which the runtime loads only when somebody names it.
    if ("getWriter" in destination) {
      const writer = destination.getWriter();
      // The writer's own promise rejects as well when a write does; the write is what we report.
      writer.closed.catch(() => {});
      this.add({
        write: (chunk) => writer.write(chunk),
        close: () => writer.close(),
      });
    } else {
      // A new list, so that what is being written goes to those who were there.
      this.#sinks = [...this.#sinks, destination];
    }
  }
  /** Makes `destination` the only one. Those before are not closed. */
  set(destination: WritableStream<Uint8Array> | Sink): void {
    this.#sinks = NOBODY;
    this.add(destination);
  }
  /** Whether anything is attached. */
  get used(): boolean {
    return this.#sinks.length > 0;
  }

  /** Whether something was written that a destination has not taken yet. */
  get pending(): boolean {
    return this.#queue !== undefined;
  }

  /** Attaches a pipe and gives its reading end. It holds 64 KiB; then writing waits for the reader. */
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
   * Gives an Env that holds, once the output is closed, the last JSON object written. Text that is
   * no sequence of JSON objects makes {@linkcode Output.close} reject.
   */
  addEnv(): Env {
    const env = new Env();
    let last: Env | undefined;
    this.#addObjects((object) => last = object, () => {
      for (const [key, value] of last ?? []) env.set(key, value);
    });
    return env;
  }
  /** Gives a list that holds, once the output is closed, every JSON object written. See `addEnv`. */
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
   * Writes to every destination, in order, each one's promise awaited before the next. After
   * {@linkcode Output.close} the data is accepted and reaches nobody; of a job's stdout the log tells.
   *
   * @returns A promise that rejects with a TypeError if the data is neither text nor bytes, else with the
   * first error, after every destination was tried. One
   * that is not awaited ends no process: `close` reports the error again.
   */
  write(data: Uint8Array | string): Promise<void> {
    if (typeof data !== "string" && !(data instanceof Uint8Array)) {
      const problem = `cannot write ${shown(data)}, expected a text or a Uint8Array`;
      const failed = this.#fail({ error: new TypeError(problem) });
      failed.catch(() => {}); // Closing reports it again.
      return failed;
    }
    if (this.#closed) {
      this.#writer?.[LATE](data);
      return DONE;
    }
    const sinks = this.#sinks;
    if (sinks.length === 0 && this.#observer === undefined) return DONE;
    let chunk: Uint8Array | string;
    if (typeof data !== "string") {
      // A copy, because the caller may use its buffer again before everyone has taken what it holds.
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

  /** Undefined where every destination took the chunk at once, which spares most writes a promise. */
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
    // Whoever cancels a pipe need not say why, but whoever writes to it should read something.
    failure.error ??= new Error("the reader has gone away");
    this.#failure ??= failure;
    return Promise.reject(failure.error);
  }

  /**
   * Waits for what is being written and closes every destination. A second call is the same call.
   *
   * @returns A promise that rejects with the first error of writing or closing, after all are closed.
   */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      // Most outputs of a busy daemon have nothing to wait for, and nothing to close.
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

/** What was given in place of a text, for a message. */
function shown(value: unknown): string {
  return `${
    Deno.inspect(value, { depth: 0, strAbbreviateSize: 40 }).slice(0, 40)
  } (${typeof value})`;
}

const takesText = (sink: Sink) => sink.writeText !== undefined;
const closes = (sink: Sink) => sink.close !== undefined;

/** Gives a sink a chunk; text only where it has said that it takes it. */
function give(sink: Sink, chunk: Uint8Array | string): void | Promise<void> {
  return typeof chunk === "string" ? sink.writeText!(chunk) : sink.write(chunk);
}

/** Keeps the last lines. */
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

  /** Takes the text up to and with the character just seen. */
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
