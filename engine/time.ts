/**
 * Resolves with whether `promise` resolved within `ms` milliseconds; `Infinity` waits for ever.
 * Rejects if the promise rejects within that time.
 */
export function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const cancel = ms === Infinity ? () => {} : after(ms, () => resolve(false));
    promise.then(() => {
      cancel();
      resolve(true);
    }, (error) => {
      cancel();
      reject(error);
    });
  });
}

/** Resolves in a later turn of the event loop, after the tasks that are already queued. */
export function turn(): Promise<void> {
  return new Promise((resolve) => void lightly(0, resolve));
}

/**
 * Calls back after `ms` milliseconds, {@linkcode LONGEST} at most. Returns the cancel. What happens
 * in a start uses this and not {@linkcode after}: with the first setTimeout in a process the
 * runtime loads 4 MiB in 11 ms.
 */
export function lightly(ms: number, callback: () => void): () => void {
  const timer = AbortSignal.timeout(ms);
  timer.addEventListener("abort", callback);
  // While something listens to it, it keeps the process alive.
  return () => timer.removeEventListener("abort", callback);
}

/** For so long after the gate has opened nothing is done that can wait, in milliseconds. */
export const START = 1_000;

/** How long services may take to drain at shutdown by default, in milliseconds. */
export const DRAIN_TIMEOUT = 10_000;

/** The longest delay of setTimeout, in milliseconds: 24.8 days. With more it fires at once. */
export const LONGEST = 2 ** 31 - 1;

/** Calls back after `ms` milliseconds, however many. Returns the cancel. */
export function after(ms: number, callback: () => void): () => void {
  let timer: ReturnType<typeof setTimeout>;
  const wait = (left: number) => {
    timer = left > LONGEST
      ? setTimeout(() => wait(left - LONGEST), LONGEST)
      : setTimeout(callback, Math.max(0, left));
  };
  wait(ms);
  return () => clearTimeout(timer);
}

/** How long ago a time by `performance.now()` was, in seconds, to the microsecond. */
export function secondsSince(time: number): number {
  return Math.round((performance.now() - time) * 1_000) / 1_000_000;
}
