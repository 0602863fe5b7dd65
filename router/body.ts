/**
 * The body of a request, read no further than it may be, and not for ever.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { after } from "../engine/time.ts";
import {
  type BodyGuard,
  type BodySource,
  discardBody,
  headerOf,
  NativeSource,
} from "../platform/http.ts";
import { busy } from "./errors.ts";

/** Bytes a second that a client has to send while it is waited for. */
const MIN_RATE = 500;
/** A timer that is so late, in milliseconds, tells of a process that stood still. */
const STALL = 1_000;
/** A body of an announced length up to this, in bytes, is read into one buffer. */
const ONE_BUFFER = 1_048_576;
/** As much of such a body is read at once, in bytes. */
const CHUNK = 131_072;
/** As much of another one. */
const PIECE = 65_536;
/** The header of a request is seldom longer than this, in bytes. */
const HEADER = 2_048;
/**
 * Where nothing is to come any more, which the native loop has to be asked for. It makes its buffer
 * for the connection as long as what it is asked for, and has read the whole of the next such
 * request at once.
 */
let end: Chunk | undefined;
/** From such a timeout on, in milliseconds, a body may be looked at once a second only. */
const SWEPT = 8_000;

type Chunk = Uint8Array<ArrayBuffer>;

/** Has `look` called every second or more often, as long as there is a connection. */
export type OnSweep = (look: () => void) => void;

/**
 * The bodies of a router's requests: what bounds them, and which of them clients still have to
 * send.
 */
export class Bodies {
  /**
   * How long a client may send nothing, and over how long its rate is measured, in milliseconds.
   */
  readonly timeout: number;
  /** How many bytes all bodies may have together, of those whose length is limited. */
  readonly together: number;
  /** How many they have. */
  held = 0;
  /** Each knows its place. */
  #awaited: LimitedBody[] = [];
  /** One timer for all of them: one for each takes as long as to read a small body. */
  #cancelTimer: (() => void) | undefined;
  #due = Infinity;

  /** None has come yet. */
  constructor(timeout: number, together: number) {
    this.timeout = timeout;
    this.together = together;
  }

  /** A reader waits for a body's client from now on. */
  await(body: LimitedBody, onSweep: OnSweep | undefined): void {
    body.place = this.#awaited.push(body) - 1;
    // By the look that there is at connections anyway, where that is often enough.
    if (onSweep !== undefined && this.timeout >= SWEPT) onSweep(this.#look);
    else if (body.due < this.#due) this.#setTimer(body.due);
  }
  /** No reader waits for it any more. */
  came(body: LimitedBody): void {
    const last = this.#awaited.pop()!;
    if (last !== body) this.#awaited[last.place = body.place] = last;
    if (this.#awaited.length > 0 || this.#cancelTimer === undefined) return;
    this.#cancelTimer();
    this.#cancelTimer = undefined;
    this.#due = Infinity;
  }

  #setTimer(due: number): void {
    this.#cancelTimer?.();
    this.#due = due;
    this.#cancelTimer = after(due - performance.now(), this.#timeIsUp);
  }
  #timeIsUp = () => {
    this.#cancelTimer = undefined;
    this.#due = Infinity;
    this.#look();
    let next = Infinity;
    for (const { due } of this.#awaited) next = Math.min(next, due);
    if (next < Infinity) this.#setTimer(next);
  };

  #look = () => {
    if (this.#awaited.length === 0) return;
    const now = performance.now();
    for (const body of this.#awaited.slice()) if (body.due <= now) body.late(now);
  };
}

/** The request whose body it is. */
interface Owner {
  readonly request: Request;
  /** How long the body may be: a handler may change it before the body is read. */
  readonly bodyLimit: number;
  readonly signal: AbortSignal;
  /**
   * Calls back from time to time, as long as its connection is open; undefined where it has none.
   */
  readonly onSweep: OnSweep | undefined;
}

/** A body on its way from a client to its reader. */
export class LimitedBody implements BodyGuard {
  /** Why it could not be read to its end: too long, too slow, broken off. */
  problem?: TypedError;
  /** Whether its request was answered before all of it was read. */
  incomplete = false;
  /** @internal Its place among those that are waited for. */
  place = -1;
  /** @internal Until when its client may send nothing, by `performance.now()`. */
  due = Infinity;
  #owner: Owner;
  #bodies: Bodies;
  #source: BodySource | undefined;
  /** What handlers read piece by piece. */
  #stream: ReadableStream<Chunk> | undefined;
  #controller: ReadableByteStreamController | undefined;
  /** What a handler reads as a whole. */
  #all: { resolve(all: Chunk): void; reject(error: unknown): void } | undefined;
  /** What has come of that: in one buffer, or in pieces. */
  #buffer: Chunk | undefined;
  #chunks: Chunk[] = [];
  /** Where the native loop is to put the next piece. */
  #room: Chunk | undefined;
  /** Its Content-Length; 0 where it has none. */
  #announced = 0;
  #size = 0;
  #held = 0;
  #waiting = false;
  #started = 0;
  /** How long the client was waited for since its rate was looked at, in ms, and what it sent. */
  #waited = 0;
  #came = 0;
  #ended = false;
  #released = false;
  #discarded = false;

  /** Guards a body of which nothing has been read. */
  constructor(owner: Owner, bodies: Bodies) {
    this.#owner = owner;
    this.#bodies = bodies;
  }

  /** The client's. */
  get signal(): AbortSignal {
    return this.#owner.signal;
  }
  /** Whether it was let go. */
  get gone(): boolean {
    return this.#discarded;
  }

  /** A reader takes all of it, which has come. */
  take(size: number, native: boolean): void {
    try {
      this.#checkThere();
      // The native loop has compared the two.
      this.#check(native ? size : Math.max(size, announced(this.#owner.request)));
      this.#hold(size);
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  /** Reads all of it. */
  collect(source: BodySource): Promise<Chunk> {
    this.#begin(source);
    return new Promise((resolve, reject) => {
      this.#all = { resolve, reject };
      this.#next();
    });
  }

  /** Gives a stream of it that is read no further than it may be. */
  wrap(source: BodySource): ReadableStream<Chunk> {
    this.#begin(source);
    return this.#stream = new ReadableStream({
      type: "bytes",
      pull: (controller) => {
        this.#controller = controller;
        if (!this.#waiting) this.#next();
      },
      cancel: (reason) => {
        this.#stopWaiting();
        return this.#source!.cancel(reason);
      },
    });
  }

  /**
   * Its request is answered. A reader that is at it may go on; one that comes later finds an error.
   *
   * @param sent Whether the answer has been sent; else it is about to be.
   */
  release(sent: boolean): void {
    this.#released = true;
    this.#bodies.held -= this.#held;
    this.#held = 0;
    if (this.#all !== undefined || this.#stream?.locked) this.incomplete = !this.#ended;
    else if (this.#source === undefined) {
      this.#discarded = true;
      // Later, the native loop has done so itself.
      if (!sent) this.incomplete = discardBody(this.#owner.request);
    } else this.#discard();
  }

  /** @internal The time for its client to send something is over. */
  late(now: number): void {
    // A process that was stopped finds its timers late, and what was sent meanwhile not yet read.
    const stalled = now - this.due > STALL;
    if (!stalled && this.#came < this.#bodies.timeout / 1_000 * MIN_RATE) {
      this.#fail(new TypedError("timeout", "the request body comes too slowly, or no more"));
      return;
    }
    this.#waited = this.#came = 0;
    this.#started = now;
    this.due = now + this.#bodies.timeout;
  }

  #begin(source: BodySource): void {
    this.#source = source;
    if (!this.#discarded) this.#announced = announced(this.#owner.request);
  }

  #next(): void {
    try {
      this.#checkThere();
      this.#check(Math.max(this.#announced, this.#size));
    } catch (error) {
      return this.#fail(error);
    }
    // A body that may be of any length may take any time, as long as it goes forward.
    if (this.#owner.bodyLimit === Infinity) this.#waited = this.#came = 0;
    this.#waiting = true;
    this.#started = performance.now();
    this.due = this.#started + Math.max(0, this.#bodies.timeout - this.#waited);
    this.#bodies.await(this, this.#owner.onSweep);
    const source = this.#source!;
    if (source instanceof NativeSource) {
      source.read(this.#room = this.#makeRoom()).then(this.#filled, this.#brokeOff);
    } else {
      source.read().then(
        this.#got as (result: { value?: Uint8Array | undefined }) => void,
        this.#brokeOff,
      );
    }
  }

  /** Where the next piece goes. */
  #makeRoom(): Chunk {
    const announced = this.#announced;
    const left = announced - this.#size;
    if (announced > 0 && left === 0) {
      end ??= new Uint8Array(CHUNK);
      return end.subarray(0, Math.min(announced + HEADER, CHUNK));
    }
    if (this.#all !== undefined && announced > 0 && announced <= ONE_BUFFER) {
      this.#buffer ??= new Uint8Array(announced);
      return this.#buffer.subarray(this.#size, this.#size + CHUNK);
    }
    return new Uint8Array(left > 0 ? Math.min(left, PIECE) : PIECE);
  }

  #filled = (count: number) => {
    if (count === 0) return this.#got({ value: undefined });
    const room = this.#room!;
    if (room.buffer === end?.buffer) return this.#brokeOff(new RangeError("it is too long"));
    this.#got({ value: room.subarray(0, count) });
  };

  #got = ({ value }: { value?: Chunk | undefined }) => {
    if (!this.#waiting) return; // It was given up meanwhile.
    this.#stopWaiting();
    if (value === undefined) return this.#end();
    this.#size += value.length;
    this.#came += value.length;
    try {
      this.#check(this.#size);
      this.#hold(value.length);
      // A stream of bytes takes no empty chunk, and takes the buffers of others away.
      if (this.#all === undefined && value.length > 0) {
        const own = this.#source instanceof NativeSource ? value : value.slice();
        return this.#controller!.enqueue(own);
      }
    } catch (error) {
      return this.#fail(error);
    }
    if (this.#all !== undefined && this.#buffer === undefined) this.#chunks.push(value);
    this.#next();
  };

  /** A body that ends early, or whose chunks are none, is the client's mistake. */
  #brokeOff = (cause: unknown) => {
    if (!this.#waiting) return;
    const message = "the request body broke off or is malformed";
    this.#fail(new TypedError("bad parameter", message, { cause }));
  };

  #end(): void {
    this.#ended = true;
    if (this.#all === undefined) {
      this.#controller!.close();
      this.#controller!.byobRequest?.respond(0); // A reader with a buffer of its own waits on.
      return;
    }
    const { resolve } = this.#all;
    this.#all = undefined;
    resolve(this.#buffer ?? joined(this.#chunks, this.#size));
  }

  #fail(error: unknown): void {
    if (error instanceof TypedError) this.problem = error;
    this.#stopWaiting();
    this.#discard();
    this.#all?.reject(error);
    this.#all = undefined;
    this.#controller?.error(error);
  }

  #stopWaiting(): void {
    if (!this.#waiting) return;
    this.#waiting = false;
    this.#waited += performance.now() - this.#started;
    this.#bodies.came(this);
  }

  /** What was not read would keep the connection waiting. */
  #discard(): void {
    if (this.#discarded) return;
    this.#discarded = true;
    if (this.#ended || this.#source === undefined) return;
    this.incomplete = true;
    // A body that broke off is discarded already, which is all that can go wrong.
    this.#source.cancel().catch(() => {});
  }

  #checkThere(): void {
    if (!this.#discarded) return;
    throw this.problem ?? new TypeError("the request was answered: its body is gone");
  }

  #check(size: number): void {
    const limit = this.#owner.bodyLimit;
    if (size <= limit) return;
    throw new TypedError("too large", `the request body is longer than ${limit} bytes`);
  }

  /** A body of any length is one that is not kept, so only the others count. */
  #hold(size: number): void {
    if (this.#released || this.#owner.bodyLimit === Infinity) return;
    this.#held += size;
    this.#bodies.held += size;
    if (this.#bodies.held > this.#bodies.together) {
      throw busy("too many request bodies at once");
    }
  }
}

function announced(request: Request): number {
  return Number(headerOf(request, "content-length")) || 0;
}

/** A copy of one chunk too, unlike concat: readers of a body are given its buffer as a whole. */
function joined(chunks: readonly Chunk[], size: number): Chunk {
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
