/** Whether `promise` settled within `ms` milliseconds, `Infinity` for any. Rejects if it does. */
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

/** Resolves in another turn of the event loop, when what is waiting has had its own. */
export function turn(): Promise<void> {
  // For the first setTimeout of a process the runtime loads 4 MiB.
  return new Promise((resolve) =>
    AbortSignal.timeout(0).addEventListener("abort", () => resolve())
  );
}

/** How long a shutdown lets services finish what they do, in milliseconds. */
export const DRAIN_TIMEOUT = 10_000;

/** The most that a timer takes, in milliseconds: some 24.8 days. With more it fires at once. */
export const LONGEST = 2 ** 31 - 1;

/** Calls back after so many milliseconds, however many. Gives what calls it off. */
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
