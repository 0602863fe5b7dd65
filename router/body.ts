/**
 * The body of a request, read no further than it may be, and not for ever.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { within } from "../engine/time.ts";
import { busy } from "./errors.ts";

/** What bounds the bodies of a router's requests. */
export interface BodyLimits {
  /** How long a client may send nothing, and over how long its rate is measured, in milliseconds. */
  readonly timeout: number;
  /** How many bytes all bodies may have together, of those whose length is limited. */
  readonly together: number;
  /** How many they have. */
  held: number;
}

type Chunk = Uint8Array<ArrayBuffer>;

/** Bytes a second that a client has to send while it is waited for. */
const MIN_RATE = 500;
/** A timer that is so late, in milliseconds, tells of a process that stood still. */
const STALL = 1_000;

/** A body on its way from a client to its reader. */
export class LimitedBody {
  /** What handlers read. */
  readonly stream: ReadableStream<Chunk>;
  /** Why it could not be read to its end: too long, too slow, broken off. */
  problem?: TypedError;
  #source: ReadableStreamDefaultReader<Chunk>;
  #announced: number;
  #limits: BodyLimits;
  #limit: () => number;
  #size = 0;
  #held = 0;
  /** How long the client was waited for since its rate was looked at, in ms, and what it sent. */
  #waited = 0;
  #came = 0;
  #discarded = false;

  /**
   * Takes over a body.
   *
   * @param announced Its Content-Length.
   * @param limit How long it may be: asked when it is read, because a handler may change it.
   */
  constructor(
    body: ReadableStream<Chunk>,
    announced: number,
    limits: BodyLimits,
    limit: () => number,
  ) {
    this.#source = body.getReader();
    this.#announced = announced;
    this.#limits = limits;
    this.#limit = limit;
    this.stream = new ReadableStream<Chunk>({
      pull: async (controller) => {
        const chunk = await this.#next();
        if (chunk) controller.enqueue(chunk);
        else controller.close();
      },
      cancel: (reason) => this.#source.cancel(reason),
    }, { highWaterMark: 0 });
  }

  /** The answer is complete. A reader that is at it may go on; one that comes later finds an error. */
  release(): void {
    this.#limits.held -= this.#held;
    this.#held = 0;
    if (!this.stream.locked) this.#discard();
  }

  /** What was not read would keep the connection waiting. */
  #discard(): void {
    this.#discarded = true;
    // A body that broke off is discarded already, which is all that can go wrong.
    this.#source.cancel().catch(() => {});
  }

  async #next(): Promise<Chunk | undefined> {
    if (this.#discarded) {
      throw this.problem ?? new TypeError("the request was answered: its body is gone");
    }
    try {
      this.#check(Math.max(this.#announced, this.#size));
      const { value, done } = await this.#read();
      if (done) return undefined;
      this.#size += value.length;
      this.#came += value.length;
      this.#check(this.#size);
      this.#hold(value.length);
      return value;
    } catch (error) {
      if (error instanceof TypedError) this.problem = error;
      this.#discard();
      throw error;
    }
  }

  #check(size: number): void {
    const limit = this.#limit();
    if (size <= limit) return;
    throw new TypedError("too large", `the request body is longer than ${limit} bytes`);
  }

  /** A body of any length is one that is not kept, so only the others count. */
  #hold(size: number): void {
    if (this.#limit() === Infinity) return;
    this.#held += size;
    this.#limits.held += size;
    if (this.#limits.held > this.#limits.together) {
      throw busy("too many request bodies at once");
    }
  }

  async #read(): Promise<ReadableStreamReadResult<Chunk>> {
    const { timeout } = this.#limits;
    const read = this.#source.read().catch(brokenOff);
    for (;;) {
      // A body that may be of any length may take any time, as long as it goes forward.
      const anyLength = this.#limit() === Infinity;
      if (anyLength) this.#waited = this.#came = 0;
      const left = Math.max(0, timeout - this.#waited);
      const started = performance.now();
      const came = await within(left, read);
      const waited = performance.now() - started;
      this.#waited += waited;
      if (came) return await read;
      // A process that was stopped finds its timers late, and what was sent meanwhile not yet read.
      const stalled = waited > left + STALL;
      if (!stalled && this.#came < timeout / 1_000 * MIN_RATE) {
        throw new TypedError("timeout", "the request body comes too slowly, or no more");
      }
      this.#waited = this.#came = 0;
    }
  }
}

/** A body that ends early, or whose chunks are none, is the client's mistake. */
function brokenOff(error: unknown): never {
  throw new TypedError("bad parameter", "the request body broke off or is malformed", {
    cause: error,
  });
}
