/**
 * Watches the daemon at run time: its jobs, its event loop, and its open files.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { Status } from "../engine/errors.ts";
import { descriptorLimit, DESCRIPTORS, descriptorsProblem } from "../platform/descriptors.ts";

/** Upper bounds of a histogram's buckets, in milliseconds; the last bucket has none. */
export const BOUNDS: readonly number[] = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000];
/** How many names of jobs are counted: with a catch-all, clients can make up any number. */
const MAX_NAMES = 200;
const OTHERS = "(others)";
/** How often the event loop is measured, in milliseconds. */
const TICK = 20;
/** How many measurements make a second, without delays. */
const SECOND = 1_000 / TICK;
/** How long jobs are watched after the last call of {@linkcode Monitor.watch}, in milliseconds. */
const WATCH_TIME = 60_000;
/** How long {@linkcode Monitor.recentResources} reuses a result, in milliseconds. */
const RESOURCES_AGE = 5_000;
/** How many spans are recorded at most. */
const MAX_SPANS = 200_000;

/** A histogram of durations by {@linkcode BOUNDS}; all times in milliseconds. */
export class Histogram {
  /** The count of each bucket; one more than there are bounds. */
  readonly counts: number[] = new Array(BOUNDS.length + 1).fill(0);
  count = 0;
  sum = 0;
  max = 0;

  add(milliseconds: number): void {
    let i = 0;
    while (i < BOUNDS.length && milliseconds > BOUNDS[i]!) i++;
    this.counts[i]!++;
    this.count++;
    this.sum += milliseconds;
    if (milliseconds > this.max) this.max = milliseconds;
  }

  /** The upper bound of this share of the durations, by the buckets; 0 without any. */
  below(share: number): number {
    let seen = 0;
    for (let i = 0; i < BOUNDS.length; i++) {
      seen += this.counts[i]!;
      if (seen >= this.count * share) return Math.min(BOUNDS[i]!, this.max);
    }
    return this.max;
  }

  toJSON(): unknown {
    const { count, max, counts } = this;
    const round = (ms: number) => Math.round(ms * 1_000) / 1_000;
    return {
      count,
      mean: count === 0 ? 0 : round(this.sum / count),
      p50: round(this.below(0.5)),
      p99: round(this.below(0.99)),
      max: round(max),
      counts,
    };
  }
}

/** A job's run, with times in milliseconds by `performance.now()`; no end: it still runs. */
export interface Span {
  name: string;
  start: number;
  end?: number;
  status?: Status | undefined;
}

/** A running job, for display. */
export interface RunningJob {
  name: string;
  args: readonly string[];
  /** How long it has run, in milliseconds. */
  age: number;
  /** Whether it started before the monitor: it is older than its age. */
  older?: true;
  /** The job whose handler started it, before its first `await`; if watched at that time. */
  parent?: string;
  /** What it is doing, as far as the engine knows. */
  where: string;
}

/** Counts of the jobs of one name that ended while jobs were watched. */
export interface JobCounts {
  name: string;
  ended: number;
  failed: number;
  /** The durations of those whose start was watched. */
  latency: Histogram;
}

/** Open files of the process. */
export interface Resources {
  open: number;
  limit?: number | undefined;
  /** The count of each kind, the most frequent first. */
  kinds: Record<string, number>;
}

/** When a job was started, by `performance.now()`. */
const STARTED = Symbol("started");
/** When a running job was first seen: up to a second after its start. */
const SEEN = Symbol("seen");
/** The job whose handler started it. */
const PARENT = Symbol("parent");
// On the job itself: a table of running jobs would double the cost of the monitor.
interface Watched extends Job {
  [STARTED]?: number;
  [SEEN]?: number;
  [PARENT]?: Job;
}

/** Watches the event loop always, and jobs only while a client asks about them. */
export class Monitor {
  /** The delays of the event loop. */
  readonly eventLoop: Histogram = new Histogram();
  #engine: Engine;
  #watchTime: number;
  #since: number;
  #counts = new Map<string, JobCounts>();
  /** Until when jobs are watched, and how to stop; undefined while they are not watched. */
  #watch?: { until: number; end: () => void } | undefined;
  /** The job whose handler is being called. An async handler returns at its first `await`. */
  #current?: Job | undefined;
  #spans?: Span[] | undefined;
  #timer?: ReturnType<typeof setTimeout>;
  #ticks = 0;
  #delays: number[] = [];
  #resources?: { at: number; found: Resources | undefined };

  /**
   * @param watchTime For how long jobs are watched after {@linkcode Monitor.watch}, in
   * milliseconds.
   */
  constructor(engine: Engine, watchTime: number = WATCH_TIME) {
    this.#engine = engine;
    this.#watchTime = watchTime;
    this.#since = this.#see();
    this.#tick();
  }

  /**
   * Watches jobs until this has not been called for a minute. {@linkcode Monitor.counts} restart if
   * jobs were not watched before.
   */
  watch(): void {
    const until = performance.now() + this.#watchTime;
    if (this.#watch) {
      this.#watch.until = until;
      return;
    }
    this.#see();
    this.#counts.clear();
    const ends = [
      this.#engine.onJob((job, phase) => phase === "start" ? this.#start(job) : this.#end(job)),
      this.#engine.wrapHandlers((job, handler) => {
        const before = this.#current;
        this.#current = job;
        try {
          return handler(job);
        } finally {
          this.#current = before;
        }
      }),
    ];
    this.#watch = { until, end: () => ends.forEach((end) => end()) };
  }

  /** Marks the running jobs with the time, for their age later on. */
  #see(): number {
    const now = performance.now();
    for (const job of this.#engine.running as Watched[]) job[SEEN] ??= now;
    return now;
  }

  #start(job: Watched): void {
    job[STARTED] = performance.now();
    if (this.#current) job[PARENT] = this.#current;
  }

  #end(job: Watched): void {
    const counts = this.#countsOf(job.name);
    counts.ended++;
    if (job.status !== Status.OK) counts.failed++;
    const start = job[STARTED];
    if (start === undefined) return;
    const end = performance.now();
    counts.latency.add(end - start);
    if (this.#spans && this.#spans.length < MAX_SPANS) {
      this.#spans.push({ name: job.name, start, end, status: job.status });
    }
  }

  #countsOf(name: string): JobCounts {
    let counts = this.#counts.get(name);
    if (counts === undefined) {
      if (this.#counts.size >= MAX_NAMES && name !== OTHERS) return this.#countsOf(OTHERS);
      counts = { name, ended: 0, failed: 0, latency: new Histogram() };
      this.#counts.set(name, counts);
    }
    return counts;
  }

  /** Measures how late a timer fires: that long other work blocked the event loop. */
  #tick(): void {
    const due = performance.now() + TICK;
    this.#timer = setTimeout(() => {
      const delay = Math.max(0, performance.now() - due);
      this.eventLoop.add(delay);
      this.#delays.push(delay);
      if (this.#delays.length > SECOND) this.#delays.shift();
      if (++this.#ticks % SECOND === 0) this.#see();
      if (this.#watch && !this.#spans && due > this.#watch.until) this.#stop();
      this.#tick();
    }, TICK);
    Deno.unrefTimer(this.#timer);
  }

  #stop(): void {
    this.#watch?.end();
    this.#watch = undefined;
  }

  /** The longest delay of about the last second, in milliseconds. */
  get recentDelay(): number {
    return Math.max(0, ...this.#delays);
  }

  /** Stops all watching. */
  close(): void {
    clearTimeout(this.#timer);
    this.#stop();
  }

  /** Records the spans of jobs. Returns the function that stops and returns them. */
  record(): () => Span[] {
    this.watch();
    const spans: Span[] = this.#spans = [];
    return () => {
      this.#spans = undefined;
      for (const job of this.#engine.running as Watched[]) {
        spans.push({ name: job.name, start: this.#startOf(job) });
      }
      return spans;
    };
  }

  /** The start by `performance.now()`; up to a second late for a job that was not watched then. */
  #startOf(job: Watched): number {
    return job[STARTED] ?? job[SEEN] ?? performance.now();
  }

  /** The counts by name, the most frequent first. */
  get counts(): JobCounts[] {
    return [...this.#counts.values()].sort((a, b) => b.ended - a.ended);
  }

  /** The running jobs, the oldest first. */
  get running(): RunningJob[] {
    const now = performance.now();
    const jobs: readonly Watched[] = this.#engine.running;
    const children = Map.groupBy(jobs, (job) => job[PARENT]);
    return jobs.map((job) => {
      const parent = job[PARENT];
      return {
        name: job.name,
        args: job.args,
        age: Math.round(now - this.#startOf(job)),
        ...job[SEEN] === this.#since ? { older: true as const } : {},
        ...parent ? { parent: parent.name } : {},
        where: whereIs(job, children.get(job) ?? []),
      };
    });
  }

  /** {@linkcode Monitor.resources}, at most 5 s old, because it reads a link for each open file. */
  async recentResources(): Promise<Resources | undefined> {
    const now = performance.now();
    if (this.#resources === undefined || now - this.#resources.at > RESOURCES_AGE) {
      this.#resources = { at: now, found: await this.resources() };
    }
    return this.#resources.found;
  }

  /** The open files, from /proc; undefined if it cannot be read. */
  async resources(): Promise<Resources | undefined> {
    if (descriptorsProblem()) return undefined;
    const kinds = new Map<string, number>();
    let open = 0;
    for await (const { name } of Deno.readDir(DESCRIPTORS)) {
      open++;
      const target = await Deno.readLink(`${DESCRIPTORS}/${name}`).catch(() => "(closed)");
      const kind = kindOf(target);
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    return {
      open,
      limit: descriptorLimit(),
      kinds: Object.fromEntries([...kinds].sort(([, a], [, b]) => b - a)),
    };
  }
}

/** What a job is doing. What its handler awaits is known to V8 only. */
function whereIs(job: Job, children: readonly Job[]): string {
  if (job.stdout.pending) return "writing stdout";
  if (children.length > 0) {
    return `running ${[...new Set(children.map(({ name }) => name))].join(", ")}`;
  }
  return job.stdin.reading ? "reading stdin" : "in its handler";
}

/** The kind of a descriptor, from its link: `socket:[12]`, `anon_inode:[eventpoll]`, `/path`. */
function kindOf(target: string): string {
  const [, kind, what] = /^(\w+):\[?(\w*)/.exec(target) ?? [];
  if (kind !== undefined) return kind === "anon_inode" ? what! : kind;
  return target.startsWith("/dev/") ? "device" : target.startsWith("/") ? "file" : target;
}
