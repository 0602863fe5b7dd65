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
  // Not setTimeout: at its first use in a process the runtime loads 4 MiB.
  return new Promise((resolve) =>
    AbortSignal.timeout(0).addEventListener("abort", () => resolve())
  );
}

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
