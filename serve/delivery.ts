/**
 * An answer on its way to the client: what of it the client takes, and when.
 *
 * @module
 */

import { type Reads, sentHeaders, type StaticBody, watchReads } from "../platform/http.ts";

/** In pieces of at most this many bytes an answer is given to the loop, so that it can be seen to move. */
const PIECE = 65_536;
/** How many bytes of an answer the loop keeps until the client takes them. */
const IN_LOOP = 2 * PIECE;

/** What a {@linkcode Delivery} is on the account of. */
interface Account<Info> {
  /** The time, in milliseconds. */
  readonly clock: number;
  /** Told by how many bytes more, or less, wait for the client. */
  hold(bytes: number): void;
  /** Told, once, that an answer is complete, or that its client has left and its source has let go. */
  over(delivery: Delivery<Info>): void;
}

/** An answer that is on its way. */
export abstract class Delivery<Info> {
  /** The answer to give to the native loop. */
  abstract readonly response: Response;
  /** Which request it answers. */
  readonly info: Info;
  /** Whether its connection ends with it. */
  readonly last: boolean;
  /** When the client last took something, or something came for it to take. */
  since: number;
  /** How many bytes wait here for the client. */
  held = 0;
  /** Whether it was given up. */
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
   * Whether something is there that the client has not taken. Where it waits for its source, `since` becomes
   * the present.
   */
  abstract get waiting(): boolean;
  /** Tells the source that no more is wanted. What it gives resolves when that has let go. */
  protected abstract tellSource(reason: unknown): Promise<unknown> | undefined;
  /** Ends what the loop reads with an error. */
  protected abstract fail(reason: unknown): void;

  /** Gives it up in the middle. False if it is over. */
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
   * The client has left. What makes the answer is told, and may go on for a while: only when it has let go
   * the answer is over.
   */
  cancel(reason: unknown): void {
    if (this.ended) return;
    this.end();
    const over = () => this.account.over(this);
    // A source that throws at this has let go as well.
    const letGo = this.tellSource(reason);
    if (letGo) letGo.then(over, over);
    else over();
  }

  protected end(): void {
    this.ended = true;
    this.hold(0);
  }

  /** Says how many bytes wait here from now on. */
  protected hold(held: number): void {
    if (held !== this.held) this.account.hold(held - this.held);
    this.held = held;
  }
}

/**
 * Sees to an answer on its way.
 *
 * @param body The body where the answer holds it whole; undefined if it is a stream.
 * @param http2 Whether the answer goes by HTTP/2, where the loop takes a chunk of any length at once.
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

/** A stream that the native loop reads by itself, while it is watched. */
class Watched<Info> extends Delivery<Info> {
  readonly response: Response;
  #reads!: Reads;
  #letGo?: Promise<unknown>;

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
      (letGo) => delivery.#letGo = letGo,
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
  protected tellSource(reason: unknown): Promise<unknown> | undefined {
    // The loop has done so where it knew first.
    if (this.#letGo === undefined) this.#reads.fail(reason);
    return this.#letGo;
  }
  protected fail(reason: unknown): void {
    this.#reads.fail(reason);
  }
}

const encoder = new TextEncoder();

/**
 * A body that the loop gets piece by piece. It asks for the next one once there is room for it, behind the
 * last 64 KiB or so: only so can it be known whether the client takes anything.
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
    const headers = sentHeaders(response);
    if (body === undefined) this.#source = response.body!.getReader();
    else {
      const bytes = typeof body === "string" ? encoder.encode(body) : body;
      // The loop does so where it has the body itself.
      headers.set("content-length", String(bytes.length));
      this.#keep(bytes);
    }
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#next(),
      cancel: (reason) => this.cancel(reason),
    }, { highWaterMark: 0 });
    const { status, statusText } = response;
    this.response = new Response(stream as ReadableStream<Uint8Array<ArrayBuffer>>, {
      status,
      statusText,
      headers,
    });
  }

  protected tellSource(reason: unknown): Promise<unknown> | undefined {
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

  /** Keeps what the loop has no room for yet, and accounts for that and for what the loop has. */
  #keep(rest: Uint8Array | undefined, given = 0): void {
    this.#rest = rest;
    this.#given = Math.min(this.#given + given, IN_LOOP);
    this.hold((rest?.length ?? 0) + this.#given);
  }

  /** The loop has room for more. Not as a promise: that would cost each piece another microsecond. */
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
    // The loop hears of it once the client has taken what is there.
    this.since = this.account.clock;
    this.waiting = true;
    this.#source = undefined;
    this.#controller.error(error);
  };

  #give(chunk: Uint8Array): void {
    // What is no bytes the loop refuses, and says why.
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
