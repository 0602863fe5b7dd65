/**
 * How many requests may run a row's job at once.
 *
 * @module
 */

import { busy } from "./errors.ts";

/** Lets so many run at once, lets so many wait for their turn, and refuses the others. */
export class Turns {
  readonly #running: number;
  readonly #waiting: number;
  #free: number;
  readonly #queue = new Set<() => void>();

  /** @throws {TypeError} If one of them is no count. */
  constructor(running: number, waiting = 100) {
    if (!Number.isInteger(running) || running < 1) {
      throw new TypeError(`concurrency is ${running}, expected an integer from 1 on`);
    }
    if (!Number.isInteger(waiting) || waiting < 0) {
      throw new TypeError(`concurrency has ${waiting} waiting, expected an integer from 0 on`);
    }
    this.#running = running;
    this.#waiting = waiting;
    this.#free = running;
  }

  /**
   * Takes a turn, which has to be given back: at once (undefined), or when the promise resolves.
   *
   * @param signal Aborted when it is not wanted any more: then the promise rejects with its reason.
   * @throws {TypedError} ("unavailable") If as many as may already wait.
   */
  take(signal: AbortSignal): Promise<void> | undefined {
    if (this.#free > 0) {
      this.#free--;
      return undefined;
    }
    if (this.#queue.size >= this.#waiting) {
      throw busy(`too many requests at once: ${this.#running} run and ${this.#queue.size} wait`);
    }
    if (signal.aborted) return Promise.reject(signal.reason);
    return new Promise((resolve, reject) => {
      const leave = () => {
        this.#queue.delete(go);
        reject(signal.reason);
      };
      const go = () => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      this.#queue.add(go);
      signal.addEventListener("abort", leave, { once: true });
    });
  }

  /** Gives a turn back: to the one that has waited longest, if any does. */
  give(): void {
    for (const go of this.#queue) {
      this.#queue.delete(go);
      return go();
    }
    this.#free++;
  }
}
