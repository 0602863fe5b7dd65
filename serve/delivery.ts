/**
 * An answer on its way to the client: what of it the client takes, and when.
 *
 * @module
 */

import type { StaticBody } from "../platform/http.ts";

/** In pieces of at most this many bytes an answer is given to the loop, so that it can be seen to move. */
const PIECE = 65_536;
/** How many bytes of an answer the loop keeps until the client takes them. */
const IN_LOOP = 2 * PIECE;

/** What a {@linkcode Delivery} is on the account of. */
interface Account {
  /** The time, in milliseconds. */
  readonly clock: number;
  /** Told by how many bytes more, or less, wait for the client. */
  hold(bytes: number): void;
  /** Told, once, that an answer is complete, or that its client has left and its source has let go. */
  over(delivery: Delivery): void;
}

const encoder = new TextEncoder();

/**
 * Gives an answer to the native loop piece by piece, as the client takes it. The loop asks for the next
 * piece once there is room for it, behind the last 64 KiB or so: only so can it be known whether the
 * client takes anything.
 */
export class Delivery<Info = unknown> {
  /** Which request it answers. */
  readonly info: Info;
  /** Whether its connection ends with it. */
  readonly last: boolean;
  /** The answer to give in place of the one that was made. */
  readonly response: Response;
  /** When the client last took something, or something came for it to take. */
  since: number;
  /** How many bytes wait here for the client. */
  held = 0;
  /** Whether something is there that the client has not taken. */
  waiting = true;
  /** Whether it was given up. */
  abandoned = false;
  #source?: ReadableStreamDefaultReader<Uint8Array>;
  #controller!: ReadableStreamDefaultController<Uint8Array>;
  #rest?: Uint8Array;
  #given = 0;
  #ended = false;
  #account: Account;

  /**
   * Takes over an answer's body.
   *
   * @param body The body where it is held whole; else it is read from the answer.
   * @throws {TypeError} If the body was read already.
   */
  constructor(
    response: Response,
    body: StaticBody | undefined,
    info: Info,
    last: boolean,
    account: Account,
  ) {
    this.info = info;
    this.last = last;
    this.#account = account;
    this.since = account.clock;
    const headers = new Headers(response.headers);
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

  /** Gives it up in the middle. False if it is over. */
  abandon(reason: unknown): boolean {
    if (this.#ended) return false;
    this.abandoned = true;
    this.#controller.error(reason);
    this.cancel(reason);
    return true;
  }

  /** The client has it. */
  complete(): void {
    if (this.#ended) return;
    this.#end();
    this.#account.over(this);
  }

  /**
   * The client has left. What makes the answer is told, and may go on for a while: only when it has let go
   * the answer is over.
   */
  cancel(reason: unknown): void {
    if (this.#ended) return;
    this.#end();
    const over = () => this.#account.over(this);
    if (!this.#source) over();
    // A source that throws at this has let go as well.
    else this.#source.cancel(reason).then(over, over);
  }

  #end(): void {
    this.#ended = true;
    this.waiting = false;
    this.#keep(undefined);
  }

  /** Keeps what the loop has no room for yet, and accounts for that and for what the loop has. */
  #keep(rest: Uint8Array | undefined, given = 0): void {
    this.#rest = rest;
    this.#given = this.#ended ? 0 : Math.min(this.#given + given, IN_LOOP);
    const held = (rest?.length ?? 0) + this.#given;
    if (held !== this.held) this.#account.hold(held - this.held);
    this.held = held;
  }

  /** The loop has room for more. Not as a promise: that would cost each piece another microsecond. */
  #next(): void {
    this.since = this.#account.clock;
    if (this.#rest) return this.#give(this.#rest);
    if (!this.#source) return this.#close();
    this.waiting = false;
    this.#source.read().then(this.#came, this.#failed);
  }

  #came = ({ value, done }: ReadableStreamReadResult<Uint8Array>) => {
    if (this.#ended) return;
    this.since = this.#account.clock;
    this.waiting = true;
    if (done) this.#close();
    else this.#give(value);
  };

  #failed = (error: unknown) => {
    if (this.#ended) return;
    // The loop hears of it once the client has taken what is there.
    this.since = this.#account.clock;
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
      if (!this.#source) this.#close();
    } else {
      this.#keep(chunk.subarray(PIECE), PIECE);
      this.#controller.enqueue(chunk.subarray(0, PIECE));
    }
  }

  #close(): void {
    this.#controller.close();
  }
}
