/**
 * Fake time for tests that would take too long in real time.
 *
 * @module
 */

import { settle } from "./daemon.ts";

const real = { setTimeout, clearTimeout, now: Date.now, monotonic: performance.now };

/** Time that only the test advances, until the end of the block. */
export class FakeClock implements Disposable {
  #now = real.now();
  /** The difference between the wall clock and the monotonic clock. */
  #jumped = 0;
  #timers = new Map<number, { at: number; callback: () => void }>();
  /** Ids that no real timer has, in case one is cleared after real time is back. */
  #timersSet = 2 ** 40;
  constructor() {
    Date.now = () => this.#now + this.#jumped;
    performance.now = () => this.#now;
    globalThis.setTimeout = ((callback: () => void, ms = 0) => {
      // As in Deno: a delay that does not fit in 31 bits counts as 0.
      const at = this.#now + (ms < 2 ** 31 ? ms : 1);
      this.#timers.set(++this.#timersSet, { at, callback });
      return this.#timersSet;
    }) as unknown as typeof setTimeout;
    globalThis.clearTimeout = (id) => void this.#timers.delete(id as number);
  }
  /** How many timers are pending. */
  get timers(): number {
    return this.#timers.size;
  }
  /** Advances time by so many milliseconds, and runs everything that becomes due. */
  async pass(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      const [next] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at);
      if (next === undefined || next[1].at > end) break;
      this.#timers.delete(next[0]);
      this.#now = next[1].at;
      next[1].callback();
    }
    this.#now = end;
  }
  /** Sets the wall clock, as an operator or NTP does; no time passes. */
  jump(ms: number): void {
    this.#jumped += ms;
  }
  [Symbol.dispose](): void {
    Date.now = real.now;
    performance.now = real.monotonic;
    globalThis.setTimeout = real.setTimeout;
    globalThis.clearTimeout = real.clearTimeout;
  }
}
