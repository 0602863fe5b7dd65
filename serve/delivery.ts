/**
 * An answer on its way to the client: how much of it waits, and when the client last took some.
 *
 * @module
 */

import { type Reads, type StaticBody, watchReads, withBody } from "../platform/http.ts";

/**
 * The most bytes that the native loop gets at once: each request for more shows that the client
 * reads.
 */
const PIECE = 65_536;
/** How many bytes of an answer the native loop buffers until the client takes them. */
const IN_LOOP = 2 * PIECE;

/** The connection of a {@linkcode Delivery}, which accounts for it. */
interface Account<Info> {
  /** The time, in milliseconds. */
  readonly clock: number;
  /**
   * Called with the number of bytes, negative or not, by which what waits for the client has grown.
   */
  hold(bytes: number): void;
  /** Called once, when the client has the answer, or has left and the source has been released. */
  over(delivery: Delivery<Info>): void;
}

/** An answer on its way. */
export abstract class Delivery<Info> {
  /** The answer to give to the native loop. */
  abstract readonly response: Response;
  /** The request that it answers. */
  readonly info: Info;
  /** Whether the connection is closed after it. */
  readonly last: boolean;
  /** When the client last took some of it, or the source last gave some. */
  since: number;
  /** How many bytes wait for the client. */
  held = 0;
  /** Whether it was cut by {@linkcode abandon}. */
  abandoned = false;
  protected account: Account<Info>;
  protected ended = false;

  constructor(info: Info, last: boolean, account: Account<Info>) {
    this.info = info;
    this.last = last;
    this.account = account;
    this.since = account.clock;
  }

  /**
   * Whether it waits for the client. Where it waits for its source, `since` becomes the present:
   * the client is not late.
   */
  abstract get waiting(): boolean;
  /** Cancels the source. The promise settles when that has been released. */
  protected abstract cancelSource(reason: unknown): Promise<unknown> | undefined;
  /** Ends the stream that the native loop reads with an error. */
  protected abstract fail(reason: unknown): void;

  /** Cuts it before its end. False if it is over. */
  abandon(reason: unknown): boolean {
    if (this.ended) return false;
    this.abandoned = true;
    this.cancel(reason);
    this.fail(reason);
    return true;
  }

  /** The client has it. */
  complete(): void {
    if (this.ended) return;
    this.end();
    this.account.over(this);
  }

  /**
   * The client has left. The source is cancelled, and may run on for a while: the answer is over
   * when it has been released, so that a client that resets its requests cannot run more jobs than
   * it may.
   */
  cancel(reason: unknown): void {
    if (this.ended) return;
    this.end();
    const over = () => this.account.over(this);
    const released = this.cancelSource(reason);
    // A source that fails as it is cancelled is released as well.
    if (released) released.then(over, over);
    else over();
  }

  protected end(): void {
    this.ended = true;
    this.hold(0);
  }

  /** Sets how many bytes wait for the client. */
  protected hold(held: number): void {
    if (held !== this.held) this.account.hold(held - this.held);
    this.held = held;
  }
}

/**
 * Follows an answer to its client.
 *
 * @param body The body, if the answer holds it whole; undefined if it is a stream.
 * @param http2 Whether it is sent by HTTP/2, where the native loop takes a chunk of any length at
 * once.
 * @param last Whether the connection is closed after it.
 * @returns The delivery, whose `response` is to be given to the native loop.
 * @throws {TypeError} If the body was read already.
 */
export function deliver<Info>(
  response: Response,
  body: StaticBody | undefined,
  http2: boolean,
  info: Info,
  last: boolean,
  account: Account<Info>,
): Delivery<Info> {
  return (body === undefined && !http2 && Watched.begin(response, info, last, account)) ||
    new Pieces(response, body, info, last, account);
}

/** A stream that the native loop reads itself, while its reads are watched. */
class Watched<Info> extends Delivery<Info> {
  readonly response: Response;
  #reads!: Reads;
  #released?: Promise<unknown>;

  private constructor(response: Response, info: Info, last: boolean, account: Account<Info>) {
    super(info, last, account);
    this.response = response;
  }

  /** Undefined where the stream cannot be watched. */
  static begin<Info>(
    response: Response,
    info: Info,
    last: boolean,
    account: Account<Info>,
  ): Watched<Info> | undefined {
    const delivery = new Watched(response, info, last, account);
    const reads = watchReads(
      response.body!,
      () => delivery.since = account.clock,
      (released) => delivery.#released = released,
    );
    if (reads === undefined || response.body!.locked) return undefined;
    delivery.#reads = reads;
    delivery.hold(IN_LOOP);
    return delivery;
  }

  get waiting(): boolean {
    if (!this.#reads.pending) return !this.ended;
    this.since = this.account.clock;
    return false;
  }
  protected cancelSource(reason: unknown): Promise<unknown> | undefined {
    // Where the native loop noticed first that the client has left, it has cancelled the source.
    if (this.#released === undefined) this.#reads.fail(reason);
    return this.#released;
  }
  protected fail(reason: unknown): void {
    this.#reads.fail(reason);
  }
}

const encoder = new TextEncoder();

/**
 * A body that the native loop gets in pieces. It asks for the next one when its buffer of some 64
 * KiB has room, which is the only sign that the client reads.
 */
class Pieces<Info> extends Delivery<Info> {
  readonly response: Response;
  waiting = true;
  #source: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #rest: Uint8Array | undefined;
  #given = 0;

  constructor(
    response: Response,
    body: StaticBody | undefined,
    info: Info,
    last: boolean,
    account: Account<Info>,
  ) {
    super(info, last, account);
    this.response = withBody(
      response,
      new ReadableStream<Uint8Array>({
        start: (controller) => {
          this.#controller = controller;
        },
        pull: () => this.#next(),
        cancel: (reason) => this.cancel(reason),
      }, { highWaterMark: 0 }),
    );
    if (body === undefined) this.#source = response.body!.getReader();
    else {
      const bytes = typeof body === "string" ? encoder.encode(body) : body;
      // The native loop sets it only where it has the whole body.
      this.response.headers.set("content-length", String(bytes.length));
      this.#keep(bytes);
    }
  }

  protected cancelSource(reason: unknown): Promise<unknown> | undefined {
    return this.#source?.cancel(reason);
  }
  protected fail(reason: unknown): void {
    this.#controller.error(reason);
  }
  protected override end(): void {
    super.end();
    this.waiting = false;
    this.#rest = undefined;
  }

  /** Keeps the rest of a chunk, and accounts for it and for what the native loop buffers. */
  #keep(rest: Uint8Array | undefined, given = 0): void {
    this.#rest = rest;
    this.#given = Math.min(this.#given + given, IN_LOOP);
    this.hold((rest?.length ?? 0) + this.#given);
  }

  /**
   * The native loop has room for more. No promise: it would cost each piece another microsecond.
   */
  #next(): void {
    this.since = this.account.clock;
    if (this.#rest) return this.#give(this.#rest);
    if (!this.#source) return this.#controller.close();
    this.waiting = false;
    this.#source.read().then(this.#came, this.#failed);
  }

  #came = ({ value, done }: ReadableStreamReadResult<Uint8Array>) => {
    if (this.ended) return;
    this.since = this.account.clock;
    this.waiting = true;
    if (done) this.#controller.close();
    else this.#give(value);
  };

  #failed = (error: unknown) => {
    if (this.ended) return;
    // The native loop sees the error after the client has taken what was written before it.
    this.since = this.account.clock;
    this.waiting = true;
    this.#source = undefined;
    this.#controller.error(error);
  };

  #give(chunk: Uint8Array): void {
    // The native loop refuses a chunk that is no bytes, with an error that says so.
    if (!(chunk instanceof Uint8Array)) return this.#controller.enqueue(chunk);
    if (chunk.length <= PIECE) {
      this.#keep(undefined, chunk.length);
      this.#controller.enqueue(chunk);
      if (!this.#source) this.#controller.close();
    } else {
      this.#keep(chunk.subarray(PIECE), PIECE);
      this.#controller.enqueue(chunk.subarray(0, PIECE));
    }
  }
}
