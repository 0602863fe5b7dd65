/**
 * Profiles and live counts of a daemon in trouble: what Go's net/http/pprof is to a Go program, for
 * one that runs on V8, and readable by `go tool pprof`.
 *
 * @module
 */

import { accepts } from "npm:hono@4.13.19/accepts";
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

/** The longest that a profile may take, in seconds. */
const MAX_SECONDS = 300;
/** How long a client may take nothing of a heap snapshot, in milliseconds. */
const SEND_TIMEOUT = 60_000;
/** How often the page is told what is new, in milliseconds. */
const LIVE = 1_000;
/** How many may be told at once. Each page that is open is one, and each is a line of what it shows. */
const MOST_LIVE = 16;

const PPROF = "application/octet-stream";
const JSON_TYPE = "application/json";

/** A job whose output is a profile, and how a request asks for it. */
interface ProfileRoute {
  path: string;
  job: string;
  /** Content types by the name that `?format=` has for them; the first is the default. */
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
 * profiles (env: `seconds`, `format`, `gc`), and `livestats`, which tells each second what goes on;
 * and routes for them where Go has its own: `/debug/pprof/`, `profile`, `heap`, `allocs`, `trace`,
 * `cmdline`, `symbol`, and in place of `goroutine` and `threadcreate`: `jobs`, `resources` and
 * `eventloop`.
 *
 * From here on the heap and the event loop are watched; jobs only while somebody looks, which is until a
 * minute after the last question about them. Anyone who can reach the router can then slow the daemon
 * down, and see its functions' names and what is in its memory.
 */
export async function attachProfiler(router: Router, engine: Engine): Promise<void> {
  const sampler = await Sampler.start(engine);
  const monitor = new Monitor(engine);
  engine.onShutdown(() => {
    sampler.close();
    monitor.close();
  });
  const turn = new Turn();
  registerJobs(engine, sampler, monitor, turn);

  router.use("/debug/pprof/*", async (c, next) => {
    // A page from elsewhere may link to us. It may neither read what is here nor slow us down, even
    // where it may use the API.
    const site = c.req.header("Sec-Fetch-Site") ?? "none";
    if (!["none", "same-origin"].includes(site) && c.req.header("Sec-Fetch-Mode") !== "navigate") {
      throw new TypedError("forbidden", "profiles are not for pages from elsewhere");
    }
    await next();
    const { headers } = c.res;
    headers.set("Cache-Control", "no-store");
    headers.set("X-Content-Type-Options", "nosniff");
    if (c.res.status === 409) headers.set("Retry-After", String(turn.secondsLeft));
  });
  // Relative, so that the version of a path stays.
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
  // pprof asks whether there are symbols, and then for those of addresses; our profiles have names.
  router.on(["GET", "POST"], "/debug/pprof/symbol", (c) => c.text("num_symbols: 1\n"));
}

function registerJobs(engine: Engine, sampler: Sampler, monitor: Monitor, turn: Turn): void {
  const until = (job: Job) => AbortSignal.any([job.signal, engine.stopping]);

  engine.register("cpuprofile", async (job) => {
    const ms = duration(job, 30);
    const profile = await turn.take("a CPU profile is", ms, async () => {
      const [profile] = await sampler.cpu(ms, until(job));
      return job.getenv("format") === "cpuprofile" ? JSON.stringify(profile) : cpuToPprof(profile);
    });
    await print(job, profile);
  });

  engine.register("heapprofile", async (job) => {
    if (job.getenv("format") === "heapsnapshot") return await heapSnapshot(job, turn);
    const profile = await turn.take("a heap profile is", 0, async () => {
      const profile = await sampler.heap({ gc: job.getenvBool("gc") });
      return job.getenv("format") === "heapprofile"
        ? JSON.stringify(profile)
        : heapToPprof(profile, "inuse_space", performance.now() - sampler.heapSince);
    });
    await print(job, profile);
  });

  engine.register("allocprofile", async (job) => {
    const ms = duration(job, 10);
    const profile = await turn.take("an allocation profile is", ms, async () => {
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
    const trace = await turn.take("a trace is", ms, async () => {
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

/** What goes on, for all who look: it is found out once each second, however many they are. */
class Live {
  #find: () => Promise<Snapshot>;
  #found?: { at: number; snapshot: Promise<Snapshot>; text: Promise<string> };
  #listeners = 0;

  constructor(find: () => Promise<Snapshot>) {
    this.#find = find;
  }

  /** Counts one more who looks, until what it gives is called. Throws if there are enough. */
  join(): () => void {
    if (this.#listeners >= MOST_LIVE) {
      throw new TypedError(
        "unavailable",
        `${MOST_LIVE} clients look at what goes on already, expected fewer; close a page`,
      );
    }
    this.#listeners++;
    return () => void this.#listeners--;
  }

  /** What goes on now, or did less than a second ago. */
  text(): Promise<string> {
    const now = performance.now();
    // Timers are not exact, and whoever comes each second is to be told something new.
    if (this.#found && now - this.#found.at < LIVE / 2) return this.#found.text;
    // A rate over a time in which none looked would say little of now.
    const before = this.#found && now - this.#found.at < 3 * LIVE
      ? this.#found.snapshot
      : undefined;
    const snapshot = this.#find();
    const text = (async () => JSON.stringify(renderParts(await snapshot, await before)))();
    this.#found = { at: now, snapshot, text };
    return text;
  }
}

/** Writes a profile, unless whoever asked for it has left, which is also what ended it early. */
async function print(job: Job, profile: Uint8Array | string): Promise<void> {
  if (!job.signal.aborted) await job.stdout.write(profile);
}

/** How long a profile is to take, in milliseconds. */
function duration(job: Job, seconds: number): number {
  const text = job.getenv("seconds");
  if (text !== "") seconds = Number(text);
  if (seconds > 0 && seconds <= MAX_SECONDS) return seconds * 1_000;
  throw new TypedError(
    "bad parameter",
    `seconds=${text}: expected a number above 0, and at most ${MAX_SECONDS}`,
  );
}

/** One profile at a time: they would count each other's cost, and V8 can watch the heap once. */
class Turn {
  #taken?: { what: string; until: number } | undefined;

  /** Does the work, which is to take so long. Throws if there is other work, and says until when. */
  async take<T>(what: string, milliseconds: number, work: () => T | Promise<T>): Promise<T> {
    if (this.#taken) {
      throw new TypedError(
        "conflict",
        `${this.#taken.what} being taken, come back in ${this.secondsLeft} s`,
      );
    }
    this.#taken = { what, until: performance.now() + milliseconds };
    try {
      return await work();
    } finally {
      this.#taken = undefined;
    }
  }

  /** Until the work at hand should be done; at least 1. */
  get secondsLeft(): number {
    const left = (this.#taken?.until ?? 0) - performance.now();
    return Math.max(1, Math.ceil(left / 1_000));
  }
}

/** Through a file, since V8 gives it at the speed of the disk, and a client takes it at its own. */
async function heapSnapshot(job: Job, turn: Turn): Promise<void> {
  const path = await Deno.makeTempFile({ prefix: "floodgate-", suffix: ".heapsnapshot" });
  let file: Deno.FsFile;
  try {
    await turn.take("a heap snapshot is", 0, () => writeHeapSnapshot(path));
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

/** The listeners that the job `stats` tells of; none where there is no such job. */
async function apis(engine: Engine): Promise<DaemonStats["apis"]> {
  if (!engine.has("stats")) return [];
  const job = engine.job("stats");
  job.quiet = true;
  return (await job.json() as Partial<DaemonStats>).apis ?? [];
}

/** Runs the job of a profile and answers with what it prints. */
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
  // Whoever asks for no body must not cost one.
  if (c.req.raw.method === "HEAD") return new Response(null, { headers });
  const job = engine.job(name);
  job.quiet = true;
  job.user = c.env.client?.subject;
  job.abortWith(() => c.env.signal);
  job.setenv("format", format);
  for (const variable of ["seconds", "gc"]) {
    const value = c.req.query(variable);
    if (value !== undefined) job.setenv(variable, value);
  }
  const output = job.stdout.addPipe().getReader();
  const ran = job.run();
  // A job that fails does so before it prints anything, and then there is still an answer to choose.
  const first = await output.read();
  if (first.done) await ran;
  ran.catch((error) => {
    if (job.signal.aborted) return; // The client went first, and the job failed of that.
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
      await ran; // Half an answer must not look like a whole one.
      controller.close();
    },
    async cancel(reason) {
      job.abort(reason);
      await output.cancel(reason);
    },
  });
  return new Response(body, { headers });
}

/** By `?format=`, else by the Accept header, else the first. */
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
