/**
 * How long a daemon may take to boot, and how long it stays where no client comes.
 *
 * @module
 */

import type { ApiStats } from "../serve/listeners.ts";
import type { Engine } from "../engine.ts";
import { after } from "../engine/time.ts";

/**
 * Rejects once a boot has made no progress for so long.
 *
 * @param milliseconds From now, and from each {@linkcode Engine.progress}, which may ask for more.
 */
export function hangingBoot(
  engine: Engine,
  milliseconds: number,
): { failed: Promise<never>; cancel: () => void } {
  const { promise: failed, reject } = Promise.withResolvers<never>();
  failed.catch(() => {}); // The boot may have ended by then.
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

/** How often it is looked whether the daemon is idle, as a share of the time that it has to be. */
const LOOKS = 4;
/** The longest pause between two looks, in milliseconds. */
const LONGEST_PAUSE = 5_000;

/**
 * Calls back once no client has been connected and no job has run for so long, unless the engine is told
 * to stop before. Of what came and went between two looks, clients count.
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
  }, Math.min(Math.max(milliseconds / LOOKS, 1), LONGEST_PAUSE));
  engine.stopping.addEventListener("abort", () => clearInterval(timer), { once: true });
}
