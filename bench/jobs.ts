/**
 * What a job costs by itself: prints the nanoseconds and the bytes of `engine.job(name, ...args)`
 * and `run()` with a handler that writes one line that has no reader. The bytes are right only with
 * a young generation that is large enough for no collection to fall between two looks at the heap,
 * and the time only without:
 *
 * ```sh
 * deno run -A bench/jobs.ts
 * deno run -A --v8-flags=--min-semi-space-size=256,--max-semi-space-size=256 bench/jobs.ts
 * ```
 *
 * @module
 */

import { createLogger, Engine } from "../engine.ts";

// As in the other contender, no logger takes the lines "+job" and "-job".
const engine = new Engine({ log: createLogger({ level: "warn" }) });
engine.register("echo", (job) => void job.print("hello\n"));

async function jobs(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await engine.job("echo", "one", "two").run();
}

const COUNT = 1_000_000;
await jobs(COUNT);
const started = performance.now();
await jobs(COUNT);
const ns = (performance.now() - started) * 1e6 / COUNT;
const before = Deno.memoryUsage().heapUsed;
await jobs(100_000);
const bytes = (Deno.memoryUsage().heapUsed - before) / 100_000;
console.log(JSON.stringify({ ns, bytes }));
