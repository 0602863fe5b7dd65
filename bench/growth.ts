/**
 * How cost grows with the number of routes, of listeners for events, and of registered jobs, within
 * one process and without sockets: `deno run -A bench/growth.ts`, or as a part of `deno task
 * bench`.
 *
 * @module
 */

import { registerBuiltins } from "../builtins/builtins.ts";
import { createLogger, Engine } from "../engine.ts";
import { createRouter } from "../router.ts";
import { median } from "./report.ts";

/** One line of the table: what grows, to how many, and what a step costs then. */
export interface Growth {
  /** What there are many of. */
  what: string;
  /** How many. */
  count: number;
  /** What to set them all up takes, in milliseconds. */
  setup: number;
  /** What is done again and again. */
  step: string;
  /** How long that takes, in microseconds. */
  us: number;
}

function quiet(): Engine {
  return new Engine({ log: createLogger({ level: "error" }) });
}

/** The microseconds of a step: the median of several batches of 30 ms or more. */
async function time(step: (i: number) => unknown): Promise<number> {
  const batches: number[] = [];
  for (let batch = 0; batch < 7; batch++) {
    const started = performance.now();
    let steps = 0;
    let took = 0;
    do {
      const done = step(steps++);
      if (done instanceof Promise) await done;
    } while ((took = performance.now() - started) < 30);
    batches.push(took * 1_000 / steps);
  }
  return median(batches);
}

/** Requests to a router of so many routes with a variable, to all of them in turn. */
async function routes(count: number): Promise<Growth> {
  const engine = quiet();
  engine.register("echo", (job) => void job.print("{}\n"));
  const started = performance.now();
  const router = createRouter(engine);
  for (let i = 0; i < count; i++) {
    router.job({ method: "GET", path: `/things${i}/:id/json`, job: "echo" });
  }
  // Hono makes its matcher at the first request.
  await router.fetch(new Request("http://localhost/things0/a/json"));
  const setup = performance.now() - started;
  const requests = Array.from(
    { length: count },
    (_, i) => new Request(`http://localhost/things${i}/a/json`),
  );
  const us = await time((i) => router.fetch(requests[i % count]!));
  return { what: "routes", count, setup, step: "a request through a job", us };
}

/** Events that so many listeners are told of. */
async function listeners(count: number): Promise<Growth> {
  const engine = quiet();
  registerBuiltins(engine);
  const started = performance.now();
  let told = 0;
  const running: Promise<void>[] = [];
  for (let i = 0; i < count; i++) {
    const job = engine.job("events");
    job.quiet = true;
    job.stdout.add({ write: (chunk) => void (told += Number(chunk.length > 0)) });
    running.push(job.run());
  }
  const setup = performance.now() - started;
  let events = 0;
  const us = await time(async () => {
    const log = engine.job("log", "start", "c0ffee");
    log.quiet = true;
    await log.run();
    events++;
    while (told < events * count) await Promise.resolve();
  });
  await engine.shutdown();
  await Promise.all(running);
  return { what: "listeners for events", count, setup, step: "an event to all of them", us };
}

/** Jobs of an engine that has so many of them. */
async function jobs(count: number): Promise<Growth> {
  const engine = quiet();
  const started = performance.now();
  const names = Array.from({ length: count }, (_, i) => `job${i}`);
  for (const name of names) engine.register(name, (job) => void job.print("hello\n"));
  const setup = performance.now() - started;
  const us = await time((i) => engine.job(names[i % count]!, "one").run());
  return { what: "registered jobs", count, setup, step: "a job", us };
}

/** The whole table. */
export async function growth(): Promise<Growth[]> {
  const rows: Growth[] = [];
  for (const count of [10, 100, 1_000, 10_000]) rows.push(await routes(count));
  for (const count of [1, 10, 100, 1_000, 10_000]) rows.push(await listeners(count));
  for (const count of [1, 10, 100, 1_000, 10_000, 100_000]) rows.push(await jobs(count));
  return rows;
}

if (import.meta.main) console.log(JSON.stringify(await growth()));
