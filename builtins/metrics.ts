/**
 * Metrics for Prometheus. Counting begins with the first scrape: without one it costs nothing.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { BUILD } from "../engine/build.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import {
  descriptorLimit,
  DESCRIPTORS,
  descriptorsProblem,
  processTimes,
} from "../platform/descriptors.ts";
import type { Exchange, RequestObserver } from "../serve/observe.ts";
import { Exposition, type Format, Histogram, type Labels, MEDIA_TYPE } from "./exposition.ts";
import type { Sources } from "./info.ts";

/** The interval of measuring the event loop's delay, in milliseconds. */
const TICK = 100;
/**
 * How many durations are measured in each tick. Reading the clock costs as much as everything else
 * here: beyond that, one in {@linkcode SAMPLE} is measured.
 */
const TIMED = 500;
const SAMPLE = 16;
/** The label for names that clients may have made up. */
const OTHER = "(other)";

/** When a measured job was started, by `performance.now()`. */
const STARTED = Symbol("started");
// On the job itself: a table of the running jobs would double the cost.
interface Counted extends Job {
  [STARTED]?: number;
}

interface JobCounts {
  readonly name: string;
  readonly ok: Histogram;
  readonly failed: Histogram;
}

function secondsSince(started: number | undefined): number | undefined {
  return started === undefined ? undefined : (performance.now() - started) / 1_000;
}

/** The series of a route, method and status. */
interface RequestCounts {
  readonly labels: Labels;
  readonly duration: Histogram;
  bytes: number;
}

/** Methods with series of their own; clients may make up others. */
const METHODS: ReadonlySet<string> = new Set([
  ...["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"],
]);
/** The most series of requests: a handler may answer with any status. */
const MAX_SERIES = 2_000;

/** The counters, and their exposition. */
export class Metrics implements RequestObserver {
  #engine: Engine;
  #sources: Sources;
  #jobs = new Map<string, JobCounts>();
  #lastJob: JobCounts = { name: "", ok: new Histogram(), failed: new Histogram() };
  /** By route, then by method and status. */
  #requests = new Map<string, Map<string, RequestCounts>>();
  #series = 0;
  #last?: { route: string; method: string; status: number; counts: RequestCounts };
  #brokenOff = 0;
  #eventLoop = new Histogram();
  #left = TIMED;
  #untimed = 0;

  /** Begins to count; ends with the engine. */
  constructor(engine: Engine, sources: Sources) {
    this.#engine = engine;
    this.#sources = sources;
    engine.onJob((job: Counted, phase) => {
      if (phase === "end") return this.#jobEnded(job);
      if (this.times()) job[STARTED] = performance.now();
    });
    let last = performance.now();
    const timer = setInterval(() => {
      const now = performance.now();
      this.#eventLoop.observe(Math.max(0, now - last - TICK) / 1_000);
      last = now;
      this.#left = TIMED;
    }, TICK);
    // It must not keep the process alive.
    Deno.unrefTimer(timer);
    engine.onShutdown(() => clearInterval(timer), { name: "of metrics" });
  }

  /** Whether to measure the duration of what begins now. */
  times(): boolean {
    if (this.#left > 0) {
      this.#left--;
      return true;
    }
    return ++this.#untimed % SAMPLE === 0;
  }

  ended({ method, status, bytes, brokenOff, described, started }: Exchange): void {
    if (brokenOff) this.#brokenOff++;
    const route = described?.route ?? "";
    let last = this.#last;
    // Most requests to a busy daemon are alike.
    if (last?.route !== route || last.method !== method || last.status !== status) {
      const counts = this.#countsOfRequests(route, method, status);
      last = this.#last = { route, method, status, counts };
    }
    last.counts.duration.observe(secondsSince(started));
    last.counts.bytes += bytes;
  }

  #countsOfRequests(route: string, method: string, status: number): RequestCounts {
    if (!METHODS.has(method)) method = OTHER;
    if (this.#series >= MAX_SERIES && !this.#requests.get(route)?.has(`${method} ${status}`)) {
      [route, method, status] = [OTHER, OTHER, 0];
    }
    let ofRoute = this.#requests.get(route);
    if (!ofRoute) this.#requests.set(route, ofRoute = new Map());
    const key = `${method} ${status}`;
    let counts = ofRoute.get(key);
    if (!counts) {
      const labels = { route, method, status };
      ofRoute.set(key, counts = { labels, duration: new Histogram(), bytes: 0 });
      this.#series++;
    }
    return counts;
  }

  #jobEnded(job: Counted): void {
    // A busy daemon runs the same job most of the time.
    const counts = job.name === this.#lastJob.name ? this.#lastJob : this.#countsOf(job.name);
    (job.status === 0 ? counts.ok : counts.failed).observe(secondsSince(job[STARTED]));
  }

  #countsOf(name: string): JobCounts {
    if (!this.#engine.handlers.has(name)) name = OTHER;
    let counts = this.#jobs.get(name);
    if (!counts) {
      this.#jobs.set(name, counts = { name, ok: new Histogram(), failed: new Histogram() });
    }
    return this.#lastJob = counts;
  }

  /** All metrics, and their media type. */
  expose(format: Format): { type: string; body: string } {
    const out = new Exposition(format);
    this.#exposeServer(out);
    this.#exposeRequests(out);
    this.#exposeJobs(out);
    this.#exposeProcess(out);
    return { type: MEDIA_TYPE[format], body: out.toString() };
  }

  #exposeServer(out: Exposition): void {
    const { gate, apis } = this.#sources;
    out.gauge(
      "floodgate_ready",
      "Whether the gate is open and the daemon is not draining.",
      Number(gate.state === "open" && !this.#engine.stopping.aborted),
    );
    const listeners = apis().flatMap((api) => api.listeners)
      .map(({ address, ...counts }) => ({ listener: address, ...counts }));
    const states = ["held", "new", "active", "idle", "hijacked", "closing"] as const;
    out.gauge(
      "floodgate_connections",
      "Connections by state: held at the gate, new (no whole request yet), and so on.",
      listeners.flatMap((counts) =>
        states.map((state): [Labels, number] => [
          { listener: counts.listener, state },
          counts[state],
        ])
      ),
    );
    out.counter(
      "floodgate_connections_accepted_total",
      "Connections that were accepted.",
      listeners.map(({ listener, accepted }) => [{ listener }, accepted]),
    );
    out.counter(
      "floodgate_accept_errors_total",
      "Errors of accepting connections, such as want of descriptors.",
      listeners.map(({ listener, acceptErrors }) => [{ listener }, acceptErrors]),
    );
    const reasons = {
      refused: "refused",
      timedOut: "timed_out",
      shed: "shed",
      cut: "cut",
    } as const;
    out.counter(
      "floodgate_connections_ended_total",
      "Connections that the daemon ended: refused unserved, timed out, shed for others, cut.",
      listeners.flatMap((counts) =>
        Object.entries(reasons).map(([key, reason]): [Labels, number] => [
          { listener: counts.listener, reason },
          counts[key as keyof typeof reasons],
        ])
      ),
    );
    out.counter(
      "floodgate_http_requests_overload_total",
      "Requests answered 503: too many were in work, or too much of answers was not taken.",
      listeners.map(({ listener, overload }) => [{ listener }, overload]),
    );
  }

  #exposeRequests(out: Exposition): void {
    const series = [...this.#requests.values()].flatMap((ofRoute) => [...ofRoute.values()]);
    out.histogram(
      "floodgate_http_request_duration_seconds",
      "How long requests took until their answers were complete, by route, method and status.",
      series.map(({ labels, duration }) => [labels, duration]),
    );
    out.counter(
      "floodgate_http_response_body_bytes_total",
      "Bytes of answers' bodies, by route, method and status.",
      series.map(({ labels, bytes }) => [labels, bytes]),
    );
    out.counter(
      "floodgate_http_requests_broken_off_total",
      "Requests whose clients left before the answer was complete.",
      this.#brokenOff,
    );
  }

  #exposeJobs(out: Exposition): void {
    out.gauge("floodgate_jobs_running", "Jobs that run now.", this.#engine.stats.running);
    out.histogram(
      "floodgate_job_duration_seconds",
      "How long jobs took, by name and outcome: ok for status 0, else failed.",
      [...this.#jobs.values()].flatMap(({ name: job, ok, failed }) =>
        Object.entries({ ok, failed })
          .filter(([, { counts }]) => counts.some((count) => count > 0))
          .map(([outcome, histogram]): [Labels, Histogram] => [{ job, outcome }, histogram])
      ),
    );
    const listeners = this.#sources.listeners();
    out.gauge("floodgate_events_listeners", "Clients that listen for events.", listeners);
  }

  #exposeProcess(out: Exposition): void {
    out.histogram(
      "floodgate_event_loop_delay_seconds",
      "How late the event loop was, measured ten times a second.",
      [[{}, this.#eventLoop]],
    );
    const { rss, heapTotal, heapUsed, external } = Deno.memoryUsage();
    const { cpu, started } = processTimes() ?? {};
    const open = descriptorsProblem() ? undefined : [...Deno.readDirSync(DESCRIPTORS)].length;
    const most = descriptorLimit();
    out.gauge("process_resident_memory_bytes", "Resident memory of the process.", rss);
    out.gauge("floodgate_heap_bytes", "Size of V8's heap.", heapTotal);
    out.gauge("floodgate_heap_used_bytes", "Used part of V8's heap.", heapUsed);
    out.gauge(
      "floodgate_external_memory_bytes",
      "Memory outside of V8's heap that it refers to.",
      external,
    );
    out.counter("process_cpu_seconds_total", "User and system time of the process.", cpu);
    out.gauge("process_start_time_seconds", "When the process was started, since 1970.", started);
    out.gauge("process_open_fds", "Open file descriptors.", open);
    out.gauge("process_max_fds", "The most file descriptors that may be open.", most);
    out.info("floodgate_build_info", "What the daemon was built from.", {
      version: VERSION,
      api_version: API_VERSION,
      deno: Deno.version.deno,
      commit: BUILD.commit ?? "",
    });
  }
}
