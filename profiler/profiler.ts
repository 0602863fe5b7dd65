/**
 * Profiles and live statistics of a running daemon: for V8 what net/http/pprof is for Go, and
 * readable by `go tool pprof`.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import { writeHeapSnapshot } from "node:v8";
import type { DaemonStats } from "../builtins/info.ts";
import type { Engine, Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { within } from "../engine/time.ts";
import { BOUNDS, Monitor, type Span } from "./monitor.ts";
import { ASSETS, CONTENT_SECURITY_POLICY, renderPage, renderParts, type Snapshot } from "./page.ts";
import { cpuToPprof, heapToPprof } from "./pprof.ts";
import { elapsed, Sampler } from "./sampler.ts";
import { toTrace } from "./trace.ts";
import type { Router } from "../router.ts";
import type { Bindings } from "../router/bindings.ts";
import { HONO } from "../router/hono.ts";

const { accepts } = await import(`${HONO}/accepts`) as typeof import("npm:hono@4.13.19/accepts");

/** The longest profile, in seconds. */
const MAX_SECONDS = 300;
/** How long a client may read nothing of a heap snapshot, in milliseconds. */
const SEND_TIMEOUT = 60_000;
/** How often `livestats` prints, in milliseconds. */
const LIVE = 1_000;
/** How many `livestats` may run at once. Each open page is one. */
const MAX_LIVE = 16;

const PPROF = "application/octet-stream";
const JSON_TYPE = "application/json";

/** A job whose output is a profile, and its route. */
interface ProfileRoute {
  path: string;
  job: string;
  /** Content types by their names for `?format=`; the first is the default. */
  formats: Record<string, string>;
}

const PROFILES: readonly ProfileRoute[] = [
  { path: "profile", job: "cpuprofile", formats: { pprof: PPROF, cpuprofile: JSON_TYPE } },
  {
    path: "heap",
    job: "heapprofile",
    formats: { pprof: PPROF, heapprofile: JSON_TYPE, heapsnapshot: JSON_TYPE },
  },
  { path: "allocs", job: "allocprofile", formats: { pprof: PPROF, heapprofile: JSON_TYPE } },
  { path: "trace", job: "traceprofile", formats: { json: JSON_TYPE } },
];

/**
 * Registers the jobs `cpuprofile`, `heapprofile`, `allocprofile` and `traceprofile`, which print
 * profiles (env: `seconds`, `format`, `gc`), and `livestats`, which prints live statistics each
 * second; and their routes, where Go has its own: `/debug/pprof/`, `profile`, `heap`, `allocs`,
 * `trace`, `cmdline`, `symbol`, and in place of `goroutine` and `threadcreate`: `jobs`, `resources`
 * and `eventloop`.
 *
 * From then on the heap and the event loop are watched, and jobs until a minute after the last
 * request about them. Any client that can reach the router can then slow the daemon down, and read
 * names of its functions and contents of its memory.
 */
export async function attachProfiler(router: Router, engine: Engine): Promise<void> {
  const sampler = await Sampler.start(engine);
  const monitor = new Monitor(engine);
  engine.onShutdown(() => {
    sampler.close();
    monitor.close();
  });
  const mutex = new Mutex();
  registerJobs(engine, sampler, monitor, mutex);

  router.use("/debug/pprof/*", async (c, next) => {
    // Another site's page may link to this one. It may neither read profiles nor slow us down, even
    // if it may use the API.
    const site = c.req.header("Sec-Fetch-Site") ?? "none";
    if (!["none", "same-origin"].includes(site) && c.req.header("Sec-Fetch-Mode") !== "navigate") {
      throw new TypedError("forbidden", "pages of other sites may not use the profiler");
    }
    await next();
    const { headers } = c.res;
    headers.set("Cache-Control", "no-store");
    headers.set("X-Content-Type-Options", "nosniff");
    if (c.res.status === 409) headers.set("Retry-After", String(mutex.secondsLeft));
  });
  // Relative, so that a version in the path is kept.
  router.get("/debug/pprof", (c) => c.redirect("pprof/"));
  router.get(
    "/debug/pprof/",
    async (c) =>
      c.html(renderPage(await snapshot(engine, monitor)), 200, {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
      }),
  );
  for (const [name, { contentType, text }] of Object.entries(ASSETS)) {
    router.get(`/debug/pprof/${name}`, (c) => c.body(text, 200, { "Content-Type": contentType }));
  }
  for (const profile of PROFILES) {
    router.get(`/debug/pprof/${profile.path}`, (c) => answer(engine, profile, c));
  }
  router.job({
    method: "GET",
    path: "/debug/pprof/live",
    job: "livestats",
    stream: true,
    contentType: "text/event-stream",
  });
  router.get(
    "/debug/pprof/jobs",
    (c) => {
      monitor.watch();
      return c.json({ running: monitor.running, bounds: BOUNDS, jobs: monitor.counts });
    },
  );
  router.get("/debug/pprof/eventloop", (c) => c.json({ bounds: BOUNDS, delay: monitor.eventLoop }));
  router.get("/debug/pprof/resources", async (c) => c.json(await monitor.resources() ?? {}));
  router.get(
    "/debug/pprof/cmdline",
    (c) => c.text([Deno.execPath(), Deno.mainModule, ...Deno.args].join("\0")),
  );
  // pprof first asks whether there are symbols. Our profiles contain the names.
  router.on(["GET", "POST"], "/debug/pprof/symbol", (c) => c.text("num_symbols: 1\n"));
}

function registerJobs(engine: Engine, sampler: Sampler, monitor: Monitor, mutex: Mutex): void {
  const until = (job: Job) => AbortSignal.any([job.signal, engine.stopping]);

  engine.register("cpuprofile", async (job) => {
    const ms = duration(job, 30);
    const profile = await mutex.run("a CPU profile is", ms, async () => {
      const [profile] = await sampler.cpu(ms, until(job));
      return job.getenv("format") === "cpuprofile" ? JSON.stringify(profile) : cpuToPprof(profile);
    });
    await print(job, profile);
  });

  engine.register("heapprofile", async (job) => {
    if (job.getenv("format") === "heapsnapshot") return await heapSnapshot(job, mutex);
    const profile = await mutex.run("a heap profile is", 0, async () => {
      const profile = await sampler.heap({ gc: job.getenvBool("gc") });
      return job.getenv("format") === "heapprofile"
        ? JSON.stringify(profile)
        : heapToPprof(profile, "inuse_space", performance.now() - sampler.heapSince);
    });
    await print(job, profile);
  });

  engine.register("allocprofile", async (job) => {
    const ms = duration(job, 10);
    const profile = await mutex.run("an allocation profile is", ms, async () => {
      const started = performance.now();
      const profile = await sampler.allocations(ms, until(job));
      return job.getenv("format") === "heapprofile"
        ? JSON.stringify(profile)
        : heapToPprof(profile, "alloc_space", performance.now() - started);
    });
    await print(job, profile);
  });

  engine.register("traceprofile", async (job) => {
    const ms = duration(job, 1);
    const trace = await mutex.run("a trace is", ms, async () => {
      const stop = monitor.record();
      let spans: Span[] = [];
      const [profile, started] = await sampler.cpu(ms, until(job)).finally(() => spans = stop());
      return toTrace(profile, started, spans);
    });
    await print(job, trace);
  });

  const live = new Live(() => snapshot(engine, monitor));
  engine.register("livestats", async (job) => {
    const stop = until(job);
    const leave = live.join();
    try {
      while (!stop.aborted) {
        await job.print(`data: ${await live.text()}\n\n`);
        await elapsed(LIVE, stop);
      }
    } finally {
      leave();
    }
  });
}

/** Live statistics, shared by all clients: collected once a second, however many there are. */
class Live {
  #find: () => Promise<Snapshot>;
  #found?: { at: number; snapshot: Promise<Snapshot>; text: Promise<string> };
  #listeners = 0;

  constructor(find: () => Promise<Snapshot>) {
    this.#find = find;
  }

  /** Counts a client, until the returned function is called. Throws if there are too many. */
  join(): () => void {
    if (this.#listeners >= MAX_LIVE) {
      throw new TypedError(
        "unavailable",
        `${MAX_LIVE} clients already read live statistics, expected fewer; close a page`,
      );
    }
    this.#listeners++;
    return () => void this.#listeners--;
  }

  /** The statistics, at most a second old. */
  text(): Promise<string> {
    const now = performance.now();
    // Half a period, because timers are inexact and each period should have new statistics.
    if (this.#found && now - this.#found.at < LIVE / 2) return this.#found.text;
    // Without a recent snapshot no rates are shown: they would be averages of a long time.
    const before = this.#found && now - this.#found.at < 3 * LIVE
      ? this.#found.snapshot
      : undefined;
    const snapshot = this.#find();
    const text = (async () => JSON.stringify(renderParts(await snapshot, await before)))();
    this.#found = { at: now, snapshot, text };
    return text;
  }
}

/** Writes a profile, unless the client has left, which also ended the profile early. */
async function print(job: Job, profile: Uint8Array | string): Promise<void> {
  if (!job.signal.aborted) await job.stdout.write(profile);
}

/** The requested duration of a profile, in milliseconds. */
function duration(job: Job, seconds: number): number {
  const text = job.getenv("seconds");
  if (text !== "") seconds = Number(text);
  if (seconds > 0 && seconds <= MAX_SECONDS) return seconds * 1_000;
  throw new TypedError(
    "bad parameter",
    `seconds=${text}: expected a number above 0, and at most ${MAX_SECONDS}`,
  );
}

/** Runs one profile at a time: V8 has one heap sampler, and profiles would measure each other. */
class Mutex {
  #current?: { what: string; until: number } | undefined;

  /** Runs `work`, of this duration. Throws a TypedError ("conflict") while other work runs. */
  async run<T>(what: string, milliseconds: number, work: () => T | Promise<T>): Promise<T> {
    if (this.#current) {
      throw new TypedError(
        "conflict",
        `${this.#current.what} being taken, come back in ${this.secondsLeft} s`,
      );
    }
    this.#current = { what, until: performance.now() + milliseconds };
    try {
      return await work();
    } finally {
      this.#current = undefined;
    }
  }

  /** Seconds until the current work should be done; at least 1. */
  get secondsLeft(): number {
    const left = (this.#current?.until ?? 0) - performance.now();
    return Math.max(1, Math.ceil(left / 1_000));
  }
}

/** Through a file, because V8 writes at the speed of the disk and a client reads at its own. */
async function heapSnapshot(job: Job, mutex: Mutex): Promise<void> {
  const path = await Deno.makeTempFile({ prefix: "floodgate-", suffix: ".heapsnapshot" });
  let file: Deno.FsFile;
  try {
    await mutex.run("a heap snapshot is", 0, () => writeHeapSnapshot(path));
    file = await Deno.open(path);
  } finally {
    await Deno.remove(path);
  }
  for await (const chunk of file.readable) {
    if (!await within(SEND_TIMEOUT, job.stdout.write(chunk))) {
      throw new TypedError("timeout", "the client does not take its answer");
    }
  }
}

async function snapshot(engine: Engine, monitor: Monitor): Promise<Snapshot> {
  monitor.watch();
  return {
    time: performance.now(),
    memory: Deno.memoryUsage(),
    totals: engine.stats,
    running: monitor.running,
    counts: monitor.counts,
    eventLoop: monitor.eventLoop,
    recentDelay: monitor.recentDelay,
    resources: await monitor.recentResources(),
    apis: await apis(engine),
  };
}

/** The listeners in the output of the job `stats`; none without such a job. */
async function apis(engine: Engine): Promise<DaemonStats["apis"]> {
  if (!engine.has("stats")) return [];
  const job = engine.job("stats");
  job.quiet = true;
  return (await job.json() as Partial<DaemonStats>).apis ?? [];
}

/** Runs the job of a profile and answers with its output. */
async function answer(
  engine: Engine,
  { path, job: name, formats }: ProfileRoute,
  c: Context<{ Bindings: Bindings }>,
): Promise<Response> {
  const format = formatOf(c, formats);
  const extension = format === "pprof" ? "pb.gz" : format;
  const headers = {
    "Content-Type": formats[format]!,
    "Content-Disposition": `attachment; filename="${path}.${extension}"`,
  };
  // A request without a body in its answer should not run a profile.
  if (c.req.raw.method === "HEAD") return new Response(null, { headers });
  const job = engine.job(name);
  job.quiet = true;
  job.onBehalfOf(c.env);
  job.abortWith(() => c.env.signal);
  job.setenv("format", format);
  for (const variable of ["seconds", "gc"]) {
    const value = c.req.query(variable);
    if (value !== undefined) job.setenv(variable, value);
  }
  const output = job.stdout.addPipe().getReader();
  const ran = job.run();
  // A job that fails prints nothing, so its status can still be chosen.
  const first = await output.read();
  if (first.done) await ran;
  ran.catch((error) => {
    if (job.signal.aborted) return; // The client left first, and the job failed because of that.
    engine.log("warn", `job ${name} failed in its answer: ${messageOf(error)}`);
    c.env.cut();
  });
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      if (!first.done) controller.enqueue(first.value as Uint8Array<ArrayBuffer>);
    },
    async pull(controller) {
      const { value, done } = await output.read();
      if (!done) return controller.enqueue(value as Uint8Array<ArrayBuffer>);
      await ran; // A truncated answer must not look complete.
      controller.close();
    },
    async cancel(reason) {
      job.abort(reason);
      await output.cancel(reason);
    },
  });
  return new Response(body, { headers });
}

/** The format by `?format=`, else by the Accept header, else the first. */
function formatOf(c: Context, formats: Record<string, string>): string {
  const asked = c.req.query("format");
  if (asked !== undefined) {
    if (Object.hasOwn(formats, asked)) return asked;
    const known = Object.keys(formats).join(", ");
    throw new TypedError("bad parameter", `format=${asked}: expected one of ${known}`);
  }
  const types = Object.values(formats);
  const type = accepts(c, { header: "Accept", supports: types, default: types[0]! });
  return Object.keys(formats).find((format) => formats[format] === type)!;
}
