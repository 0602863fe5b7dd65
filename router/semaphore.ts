/**
 * A semaphore with a bounded queue: how many requests may run a row's job at once.
 *
 * @module
 */

import { busy } from "./errors.ts";

/** Lets a number of holders run at once, a number of callers wait, and refuses further ones. */
export class Semaphore {
  readonly #running: number;
  readonly #waiting: number;
  #free: number;
  readonly #queue = new Set<() => void>();

  /**
   * @param running How many may hold it at once.
   * @param waiting How many may wait for it. Default 100.
   * @throws {TypeError} If `running` is not a positive integer, or `waiting` is a negative one or
   * none.
   */
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
   * Acquires it: at once (undefined), or when the promise resolves. The caller has to release it.
   *
   * @param signal Its abort ends the wait: the promise rejects with the signal's reason.
   * @throws {TypedError} ("unavailable") If the queue is full.
   */
  acquire(signal: AbortSignal): Promise<void> | undefined {
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
        this.#queue.delete(enter);
        reject(signal.reason);
      };
      const enter = () => {
        signal.removeEventListener("abort", leave);
        resolve();
      };
      this.#queue.add(enter);
      signal.addEventListener("abort", leave, { once: true });
    });
  }

  /** Releases it to the caller that has waited longest, if one waits. */
  release(): void {
    for (const enter of this.#queue) {
      this.#queue.delete(enter);
      return enter();
    }
    this.#free++;
  }
}
