/**
 * How long a daemon may take to boot (`--boot-timeout`), and when an idle one ends
 * (`--exit-idle-time`).
 *
 * @module
 */

import type { ApiStats } from "../serve/listeners.ts";
import type { Engine } from "../engine.ts";
import { after } from "../engine/time.ts";

/**
 * A promise that rejects once a boot has made no progress for too long.
 *
 * @param milliseconds From now, and from each {@linkcode Engine.progress}, which may ask for more.
 */
export function hangingBoot(
  engine: Engine,
  milliseconds: number,
): { failed: Promise<never>; cancel: () => void } {
  const { promise: failed, reject } = Promise.withResolvers<never>();
  failed.catch(() => {}); // If the boot has ended by then, it is not awaited any more.
  let last = "nothing was said of its progress";
  let cancelTimer = () => {};
  const wait = (patience: number) => {
    cancelTimer();
    cancelTimer = after(patience, () =>
      reject(
        new Error(
          `the boot hangs: ${last}, and nothing more for ${patience / 1_000} s (--boot-timeout)`,
        ),
      ));
  };
  wait(milliseconds);
  const cancelProgress = engine.onProgress(({ text, within = 0 }) => {
    last = `"${text}" was the last progress`;
    wait(Math.max(milliseconds, within));
  });
  return {
    failed,
    cancel() {
      cancelTimer();
      cancelProgress();
    },
  };
}

/** How many times in the idle time it is checked whether the daemon is idle. */
const CHECKS = 4;
/** The longest pause between two checks, in milliseconds. */
const LONGEST_PAUSE = 5_000;

/**
 * Calls `idle` once no client has been connected and no job has run for `milliseconds`, unless the
 * engine is stopping. A client that came and went between two checks counts, a job does not.
 */
export function whenIdle(
  engine: Engine,
  apis: () => ApiStats[],
  milliseconds: number,
  idle: () => void,
): void {
  let since = performance.now();
  let seen = -1;
  const timer = setInterval(() => {
    const listeners = apis().flatMap(({ listeners }) => listeners);
    const accepted = listeners.reduce((sum, { accepted }) => sum + accepted, 0);
    const busy = listeners.some(({ open, held }) => open + held > 0) ||
      engine.running.some((job) => !job.service);
    if (busy || accepted !== seen) since = performance.now();
    seen = accepted;
    if (performance.now() - since >= milliseconds) {
      clearInterval(timer);
      idle();
    }
  }, Math.min(Math.max(milliseconds / CHECKS, 1), LONGEST_PAUSE));
  engine.stopping.addEventListener("abort", () => clearInterval(timer), { once: true });
}
