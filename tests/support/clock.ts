/**
 * Time for tests that would take too long in real time.
 *
 * @module
 */

import { settle } from "./daemon.ts";

const real = { setTimeout, clearTimeout, now: Date.now, monotonic: performance.now };

/** Time that only the test moves, until the end of the block. */
export class FakeClock implements Disposable {
  #now = real.now();
  /** How far the clock on the wall is from the one that only goes on. */
  #jumped = 0;
  #timers = new Map<number, { at: number; callback: () => void }>();
  /** Numbers that no real timer has, should one be cleared when real time is back. */
  #timersSet = 2 ** 40;
  constructor() {
    Date.now = () => this.#now + this.#jumped;
    performance.now = () => this.#now;
    globalThis.setTimeout = ((callback: () => void, ms = 0) => {
      // As Deno has it: what does not fit 31 bits is no time at all.
      const at = this.#now + (ms < 2 ** 31 ? ms : 1);
      this.#timers.set(++this.#timersSet, { at, callback });
      return this.#timersSet;
    }) as unknown as typeof setTimeout;
    globalThis.clearTimeout = (id) => void this.#timers.delete(id as number);
  }
  /** How many timers still wait. */
  get timers(): number {
    return this.#timers.size;
  }
  /** Lets that many milliseconds go by, and everything happen that they bring about. */
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
  /** Sets the clock on the wall, as an operator or NTP does: no time goes by. */
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
