/**
 * Looking after something from time to time, and the clock that goes with it.
 *
 * @module
 */

/** How late a look may be before the process counts as stalled, in milliseconds. */
const LATE = 100;
/**
 * So long after an answer was handed over it may not have reached the socket yet, in milliseconds.
 */
export const UNSENT = 20;

/**
 * Looks after something from time to time while it runs, and has a clock that costs nothing to
 * read.
 */
export class Sweep {
  /**
   * The time of the last tick, in milliseconds: good enough for what happens between two looks, and
   * far cheaper than the clock. It stands still with the process: what a client sent meanwhile was
   * in time, and is to be read before it is judged. Whole, because V8 has no room for others in the
   * objects that note it.
   */
  clock = Math.trunc(performance.now());
  /** Answers that were handed to the native loop before this time have reached their sockets. */
  sent = -Infinity;
  /** A time that the clock has shown, after `sent` by {@linkcode UNSENT} at least. */
  #mark = -Infinity;
  #look: () => void;
  #interval: () => number;
  #running = false;
  #timer: AbortSignal | undefined;
  /** When the timer is due, by `performance.now()`. */
  #due = 0;
  /** For how many milliseconds the process stood still, as far as that kept us from looking. */
  #stalled = 0;
  #skipped = false;

  /**
   * Does not run yet.
   *
   * @param look What is done each time.
   * @param interval After how many milliseconds the next look is, asked each time.
   */
  constructor(look: () => void, interval: () => number) {
    this.#look = look;
    this.#interval = interval;
  }

  /** Looks from now on. */
  start(): void {
    this.#running = true;
    this.#watch(this.#interval());
  }

  /** Looks no more. */
  stop(): void {
    this.#running = false;
    // While something listens to it, it keeps the process alive.
    this.#timer?.removeEventListener("abort", this.#onTimer);
  }

  /** The interval has become shorter. */
  hasten(): void {
    this.#timer?.removeEventListener("abort", this.#onTimer);
    this.#timer = undefined;
    if (this.#running) this.#watch(this.#interval());
  }

  /** Sets the clock. True if the process stood still until now. */
  tick(): boolean {
    const now = performance.now();
    // Where it does not run there is no timer that could be late.
    const late = this.#running && now - this.#due > LATE;
    if (late) {
      this.#stalled += now - this.#due;
      this.#due = now;
    }
    this.clock = Math.trunc(now - this.#stalled);
    if (this.clock - this.#mark >= UNSENT) {
      this.sent = this.#mark;
      this.#mark = this.clock;
    }
    return late;
  }

  #watch(delay: number): void {
    // Not setInterval: the first timer of that kind loads 4 MiB in 11 ms, for which the first
    // client would wait.
    if (!this.#timer || this.#timer.aborted) {
      this.#timer = AbortSignal.timeout(delay);
      this.#due = performance.now() + delay;
    }
    this.#timer.addEventListener("abort", this.#onTimer);
  }

  #onTimer = () => {
    // What came while the process stood still is in the sockets yet: the loop has to read it first.
    this.#skipped = this.tick() && !this.#skipped;
    this.#watch(this.#skipped ? Math.min(LATE, this.#interval()) : this.#interval());
    if (!this.#skipped) this.#look();
  };
}
