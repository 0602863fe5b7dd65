/**
 * A listener with a gate in front of it: connections are accepted, and kept, while a daemon boots,
 * and come out in order once it is ready.
 *
 * ```ts
 * import { Activation, ListenBuffer } from "./listenbuffer.ts";
 *
 * const gate = new Activation();
 * using listener = new ListenBuffer(Deno.listen({ port: 0 }), gate);
 * queueMicrotask(() => gate.open()); // the boot, in real life
 * for await (const connection of listener) {
 *   connection.close();
 *   break;
 * }
 * ```
 *
 * @module
 */

import { messageOf } from "./engine/errors.ts";
import type { Logger } from "./engine/log.ts";
import { within } from "./engine/time.ts";

/** A gate that opens, or fails, once and for all. Any number of listeners may wait at it. */
export class Activation {
  #state: "shut" | "open" | "failed" = "shut";
  #gate = Promise.withResolvers<void>();

  /** A gate that is shut. */
  constructor() {
    // A gate may fail before a consumer waits at it; that must not end the process.
    this.#gate.promise.catch(() => {});
  }
  /** Where the gate stands. */
  get state(): "shut" | "open" | "failed" {
    return this.#state;
  }
  /** Resolves when the gate opens, at once if it has; rejects with the reason if it fails. */
  get opened(): Promise<void> {
    return this.#gate.promise;
  }
  /** Opens the gate. Does nothing if it is open or has failed. */
  open(): void {
    if (this.#state !== "shut") return;
    this.#state = "open";
    this.#gate.resolve();
  }
  /** Rejects all who wait, now or later, with this reason. Nothing if it is open or has failed. */
  fail(reason: unknown): void {
    if (this.#state !== "shut") return;
    this.#state = "failed";
    this.#gate.reject(reason);
  }
}

/** Counts connections against a maximum that several listeners may share. */
export class ConnectionLimit {
  #max: number;
  #active = 0;
  #waiting: (() => void)[] = [];

  /** A limit of `max` connections. */
  constructor(max: number) {
    if (!(max >= 1)) throw new RangeError(`a limit of ${max} connections, expected at least 1`);
    this.#max = max;
  }
  /** How many connections there may be. A listener that is accepting already may add one more. */
  get max(): number {
    return this.#max;
  }
  set max(max: number) {
    this.#max = max;
    if (!this.full) this.#wakeAll();
  }
  /** How many connections there are. */
  get active(): number {
    return this.#active;
  }
  /** Counts a connection. */
  enter(): void {
    this.#active++;
  }
  /** Counts a connection no more. */
  leave(): void {
    this.#active--;
    if (!this.full) this.#wakeAll();
  }
  /** Whether there is no room for another. */
  get full(): boolean {
    return this.#active >= this.#max;
  }
  /** Calls `wake` once there is room. */
  whenFree(wake: () => void): void {
    this.#waiting.push(wake);
  }
  #wakeAll(): void {
    this.#waiting.splice(0).forEach((wake) => wake());
  }
}

/** What a {@linkcode ListenBuffer} needs of a listener; every `Deno.Listener` has it. */
export interface Acceptor<T, A> {
  /** Resolves with the next connection. Never called while a call is pending. */
  accept(): Promise<T>;
  /** Stops listening; a pending `accept` rejects. */
  close(): void;
  /** Where it listens. */
  readonly addr: A;
  /** Keeps the process alive. */
  ref?(): void;
  /** Lets the process end. */
  unref?(): void;
}

/** What a {@linkcode ListenBuffer} can be told. */
export interface ListenBufferOptions<T = Deno.Conn> {
  /**
   * How many connections are taken off the kernel's queue while the gate is shut. Default 16 384.
   * With 0 the kernel's queue is all there is.
   */
  hold?: number;
  /** At this many connections accepting pauses, until some have ended. Default: no limit. */
  maxConnections?: number | ConnectionLimit;
  /** Called with each connection that is accepted, before the next one is. It must not throw. */
  onAccept?: (connection: T) => void;
  /**
   * Called with true when a client has to wait for want of descriptors or of room under the limit,
   * and with false when that is over. A server ends idle connections meanwhile.
   */
  onPressure?: (pressed: boolean) => void;
  /** Where accept errors are logged, once a burst. Default: nowhere. */
  log?: Logger;
}

/** What a {@linkcode ListenBuffer} has seen. */
export interface ListenBufferStats {
  /** Connections accepted since the start. */
  accepted: number;
  /** Connections that wait for the gate to open now. */
  held: number;
  /** Accepted connections that have not been released. */
  active: number;
  /**
   * Connections that were closed unserved: the gate failed, or the listener was closed before it
   * opened.
   */
  refused: number;
  /** Errors of accepting. None of them ended it. */
  acceptErrors: number;
}

/**
 * How many connections are held by default: more than fit a kernel's queue, less than hurt (28 KiB
 * each).
 */
export const HOLD = 16_384;
/** The shortest and the longest wait for something that accepting lacks, in milliseconds. */
const BACKOFF = { first: 5, last: 1_000 };
/** How long a queue that never empties is served before it is closed, in milliseconds. */
const BUSY_DRAIN = 1_000;
/** How long an accept may take to end once its listener is closed, in milliseconds. */
const CLOSE_TIMEOUT = 1_000;
/** How often a drain looks whether there is room again, in milliseconds. */
const FULL_PAUSE = 20;
/** Errors this close together, in milliseconds, are one burst: logged once. */
const BURST = 1_000;
/**
 * Errors of accept(2) that deserve a wait: what it lacks has to be freed first, or another process
 * has shut the socket that we share. Every other one is that of a client that has left before it
 * was accepted (ENOTCONN, ECONNABORTED), or a network error of its connection, which Linux passes
 * on: the next client is not to wait for it.
 */
const WAITS = new Set(["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EINVAL", "EBADF", "ENOTSOCK"]);
/**
 * After so many other errors in a row the event loop has its turn, so that no error can block it.
 */
const ROW = 512;

/**
 * Wraps a listener, and is one: `accept`, `for await`, `close`, `using`. Nothing comes out before
 * the gate opens; if it fails, everything is closed and `accept` rejects with its reason. Errors of
 * accepting never end it.
 */
export class ListenBuffer<T extends { close(): void } = Deno.Conn, A = Deno.Addr>
  implements AsyncIterableIterator<T, undefined> {
  #listener: Acceptor<T, A>;
  #activation: Activation;
  #hold: number;
  #limit?: ConnectionLimit;
  #onAccept: ((connection: T) => void) | undefined;
  #onPressure: (pressed: boolean) => void;
  #log: Logger;
  #held: T[] = [];
  #waiters: PromiseWithResolvers<T>[] = [];
  #consumer?: { take(connection: T): void; ended: PromiseWithResolvers<void> };
  #wake?: () => void;
  #end?: { error: unknown };
  #pressed = false;
  #accepting = false;
  #drained = false;
  #pumped: Promise<void>;
  #backoff = 0;
  #row = 0;
  #burst = { errors: 0, last: 0 };
  #accepted = 0;
  #released = 0;
  #refused = 0;
  #acceptErrors = 0;

  /** Starts to accept at once: what arrives before the gate opens is held. */
  constructor(
    listener: Acceptor<T, A>,
    activation: Activation,
    options: ListenBufferOptions<T> = {},
  ) {
    const { maxConnections = Infinity } = options;
    this.#listener = listener;
    this.#activation = activation;
    this.#hold = options.hold ?? HOLD;
    if (typeof maxConnections !== "number") this.#limit = maxConnections;
    else if (maxConnections !== Infinity) this.#limit = new ConnectionLimit(maxConnections);
    this.#log = options.log ?? (() => {});
    this.#onAccept = options.onAccept;
    this.#onPressure = options.onPressure ?? (() => {});
    activation.opened.then(() => this.#turn(), (reason) => this.#finish(reason));
    this.#pumped = this.#pump();
  }

  /** Where the listener listens. */
  get addr(): A {
    return this.#listener.addr;
  }
  /** Counts for an operator. */
  get stats(): ListenBufferStats {
    return {
      accepted: this.#accepted,
      held: this.#held.length,
      active: this.#accepted - this.#released,
      refused: this.#refused,
      acceptErrors: this.#acceptErrors,
    };
  }

  /**
   * The next connection, once the gate is open.
   *
   * @returns A promise that rejects with `Deno.errors.BadResource` once the listener is closed, and
   * with the gate's reason if it failed.
   */
  accept(): Promise<T> {
    if (this.#end) return Promise.reject(this.#end.error);
    if (this.#activation.state === "open" && this.#held.length > 0 && this.#waiters.length === 0) {
      return Promise.resolve(this.#held.shift()!);
    }
    const waiter = Promise.withResolvers<T>();
    this.#waiters.push(waiter);
    this.#turn();
    return waiter.promise;
  }

  /**
   * Calls `take` with each connection once the gate is open. The same as a loop, with fewer
   * promises: a connection a request takes 3 to 6 % less time.
   *
   * @param take Must not throw. It is the only consumer: there is no `accept` besides it.
   * @returns A promise that resolves once the listener is closed, and rejects with the gate's
   * reason if it failed.
   */
  forEach(take: (connection: T) => void): Promise<void> {
    const ended = Promise.withResolvers<void>();
    this.#consumer = { take, ended };
    if (this.#end) this.#endConsumer(this.#end.error);
    else this.#turn();
    return ended.promise;
  }
  #endConsumer(error: unknown): void {
    if (error instanceof Deno.errors.BadResource) this.#consumer?.ended.resolve();
    else this.#consumer?.ended.reject(error);
  }

  /** Tells that a connection which came out of here has ended, so that it counts no more. */
  release(): void {
    this.#released++;
    this.#limit?.leave();
  }

  /**
   * Closes the listener once the kernel's queue is empty, so that clients which were let in are
   * served. Between our last look into the queue and the close a client may still slip in, and the
   * kernel resets it: at a unix socket only if its path can still be found, over tcp always.
   *
   * @param options `quiet`: for how long no client may have come, in milliseconds, for the queue to
   * count as empty; default 0, a turn of the event loop. Longer is safer where no new clients can
   * come, and futile where they always do: without it, it takes at most 1 s, unless there is no
   * room for those who wait. `limit`: the longest it may take in any case; default 10 000.
   */
  async drain(options: { quiet?: number; limit?: number } = {}): Promise<void> {
    const { quiet = 0, limit = 10_000 } = options;
    const started = performance.now();
    for (let seen = -1; !this.#end;) {
      const patience = quiet > 0 || this.#limit?.full ? limit : Math.min(limit, BUSY_DRAIN);
      if (performance.now() - started > patience) break;
      // No client came although an accept was pending all the while.
      if (this.#accepting && seen === this.#accepted) break;
      seen = this.#accepted;
      const pause = quiet || (this.#limit?.full ? FULL_PAUSE : 0);
      await new Promise((resolve) =>
        pause > 0 ? setTimeout(resolve, pause) : setImmediate(resolve)
      );
    }
    if (this.#accepting && !this.#end) {
      // A client that is being accepted at this moment still comes out: what has been taken off the
      // queue is in no other process's reach.
      this.#drained = true;
      this.#close("the listener", this.#listener);
      await within(CLOSE_TIMEOUT, this.#pumped);
    }
    this.close();
  }

  /**
   * Stops accepting, for another process that accepts from the same socket from now on. A client
   * that is being accepted at this moment still comes out, and then the listener counts as closed.
   *
   * @returns The connections that are held, which are the caller's from now on.
   */
  handOver(): T[] {
    const held = this.#held.splice(0);
    held.forEach(() => this.release());
    if (!this.#accepting) this.close();
    else this.#close("the listener", this.#listener); // Which ends the accept, and then all.
    return held;
  }

  /** Takes a connection that another process has accepted, as if it had been accepted here. */
  take(connection: T): void {
    this.#admit(connection);
  }

  /** Stops listening and closes held connections. A pending `accept` rejects. Never throws. */
  close(): void {
    this.#finish(new Deno.errors.BadResource("Listener has been closed"));
  }
  /** Keeps the process alive while it listens; the default. */
  ref(): void {
    this.#listener.ref?.();
  }
  /** Lets the process end while it listens. */
  unref(): void {
    this.#listener.unref?.();
  }

  /** One step of `for await`: done once the listener is closed; rejects if the gate failed. */
  async next(): Promise<IteratorResult<T, undefined>> {
    try {
      return { value: await this.accept(), done: false };
    } catch (error) {
      if (error instanceof Deno.errors.BadResource) return { value: undefined, done: true };
      throw error;
    }
  }
  /** Leaving the loop closes the listener, as it does for `Deno.listen`. */
  return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return Promise.resolve({ value: undefined, done: true });
  }
  /** The listener itself. */
  [Symbol.asyncIterator](): this {
    return this;
  }
  /** Closes the listener. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** Gives held connections to those who wait, and lets the pump look again. */
  #turn(): void {
    if (this.#activation.state === "open") {
      if (this.#consumer) this.#held.splice(0).forEach(this.#consumer.take);
      while (this.#held.length > 0 && this.#waiters.length > 0) {
        this.#waiters.shift()!.resolve(this.#held.shift()!);
      }
    }
    this.#wake?.();
  }

  /** Whether a connection that is accepted now has a place to go. */
  get #wanted(): boolean {
    return this.#activation.state === "open"
      ? this.#consumer !== undefined || this.#waiters.length > 0
      : this.#held.length < this.#hold;
  }

  /** The only one that accepts: a listener refuses a second `accept` while one is pending. */
  async #pump(): Promise<void> {
    while (!this.#end) {
      if (!this.#wanted) {
        await new Promise<void>((wake) => this.#wake = wake);
        continue;
      }
      if (this.#limit?.full) {
        this.#press(true);
        await new Promise<void>((wake) => {
          this.#wake = wake;
          this.#limit!.whenFree(wake);
        });
        continue;
      }
      // With no descriptor to be had the pressure lasts until an accept succeeds.
      if (this.#backoff === 0) this.#press(false);
      try {
        this.#accepting = true;
        const connection = await this.#listener.accept();
        this.#accepting = false;
        this.#backoff = 0;
        this.#row = 0;
        this.#onAccept?.(connection);
        this.#admit(connection);
      } catch (error) {
        this.#accepting = false;
        if (this.#end) return;
        if (this.#drained || error instanceof Deno.errors.BadResource) {
          this.close(); // Its owner closed the listener that we wrap.
          return;
        }
        await this.#acceptFailed(error);
      }
    }
  }

  #admit(connection: T): void {
    if (this.#end) {
      this.#refused++;
      this.#close("a connection", connection);
      return;
    }
    this.#accepted++;
    this.#limit?.enter();
    if (this.#burst.errors > 0 && performance.now() - this.#burst.last > BURST) {
      this.#log("info", `accepting again after ${this.#burst.errors} errors`);
      this.#burst.errors = 0;
    }
    const open = this.#activation.state === "open";
    if (open && this.#consumer) {
      this.#consumer.take(connection);
    } else if (open && this.#held.length === 0 && this.#waiters.length > 0) {
      this.#waiters.shift()!.resolve(connection);
    } else {
      this.#held.push(connection);
    }
  }

  async #acceptFailed(error: unknown): Promise<void> {
    this.#acceptErrors++;
    const now = performance.now();
    if (this.#burst.errors === 0 || now - this.#burst.last > BURST) {
      this.#burst.errors = 0;
      this.#log("warn", `accept: ${messageOf(error)}, going on`);
    }
    this.#burst.errors++;
    this.#burst.last = now;
    if (!WAITS.has((error as { code?: string }).code ?? "")) {
      if (++this.#row % ROW === 0) await new Promise((resolve) => setTimeout(resolve, 0));
      return;
    }
    this.#press(true);
    this.#backoff = Math.min(this.#backoff * 2 || BACKOFF.first, BACKOFF.last);
    const { promise, resolve } = Promise.withResolvers<void>();
    const timer = setTimeout(resolve, this.#backoff);
    this.#limit?.whenFree(resolve); // A connection that ends frees a descriptor.
    this.#wake = () => this.#end && resolve();
    await promise;
    clearTimeout(timer);
  }

  #press(pressed: boolean): void {
    if (pressed === this.#pressed) return;
    this.#pressed = pressed;
    try {
      this.#onPressure(pressed);
    } catch (error) {
      this.#log("error", `onPressure: ${messageOf(error)}`);
    }
  }

  #finish(error: unknown): void {
    if (this.#end) return;
    this.#end = { error };
    this.#press(false);
    for (const connection of this.#held.splice(0)) {
      this.#refused++;
      this.release();
      this.#close("a connection", connection);
    }
    for (const waiter of this.#waiters.splice(0)) waiter.reject(error);
    this.#endConsumer(error);
    this.#wake?.();
    this.#close("the listener", this.#listener);
  }

  #close(what: string, resource: { close(): void }): void {
    try {
      resource.close();
    } catch (error) {
      // It was closed already, which is what we are after.
      if (error instanceof Deno.errors.BadResource) return;
      this.#log("warn", `closing ${what}: ${messageOf(error)}`);
    }
  }
}
