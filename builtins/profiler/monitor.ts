/**
 * What the daemon is at: its jobs, its event loop, its memory and its open files.
 *
 * @module
 */

import { type Engine, type Job, Status } from "../../engine.ts";
import { descriptorLimit, DESCRIPTORS, descriptorsProblem } from "../runtime.ts";

/** Upper bounds of a histogram's buckets, in milliseconds; the last bucket has none. */
export const BOUNDS: readonly number[] = [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000];
/** How many names of jobs are counted apart: with a catch-all, clients may make up any number. */
const MAX_NAMES = 200;
const OTHERS = "(others)";
/** How often the event loop is looked at, in milliseconds. */
const TICK = 20;
/**
 * How many jobs are timed between two looks, which makes 1 000 a second: the clock costs more than
 * all else here does.
 */
const TIMED_PER_TICK = 20;
/** How many of the last looks are recent: a second, where nothing is late. */
const RECENT = 1_000 / TICK;
/** For how long what is open is not looked at again by those who look each second, in milliseconds. */
const RESOURCES_AGE = 5_000;
/** The most spans that are recorded at once. */
const MAX_SPANS = 200_000;

/** How many durations were in each bucket of {@linkcode BOUNDS}; all times in milliseconds. */
export class Histogram {
  /** One more than there are bounds. */
  readonly counts: number[] = new Array(BOUNDS.length + 1).fill(0);
  count = 0;
  sum = 0;
  max = 0;

  add(milliseconds: number): void {
    let i = 0;
    while (milliseconds > BOUNDS[i]) i++;
    this.counts[i]++;
    this.count++;
    this.sum += milliseconds;
    if (milliseconds > this.max) this.max = milliseconds;
  }

  /** The bound below which this share of the durations was; 0 where there are none. */
  below(share: number): number {
    let seen = 0;
    for (let i = 0; i < BOUNDS.length; i++) {
      seen += this.counts[i];
      if (seen >= this.count * share) return Math.min(BOUNDS[i], this.max);
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

/** A job that ran; times in milliseconds by `performance.now()`. Without an end it still runs. */
export interface Span {
  name: string;
  start: number;
  end?: number;
  status?: Status;
}

/** A job that runs now, as it is shown. */
export interface RunningJob {
  name: string;
  args: readonly string[];
  /** How long it runs, in milliseconds. */
  age: number;
  /** It ran before we came: it is older than its age. */
  older?: true;
  /** The job whose handler started it, before an `await` of its own. */
  parent?: string;
  /** Where it is, as far as the engine can see. */
  where: string;
}

/** The jobs of one name. */
export interface JobCounts {
  name: string;
  ended: number;
  failed: number;
  /** Of up to 1 000 jobs a second, whatever their names. */
  latency: Histogram;
}

/** Open files of the process. */
export interface Resources {
  open: number;
  limit?: number;
  /** How many there are of each kind, the most first. */
  kinds: Record<string, number>;
}

/** When a job was started, by `performance.now()`; it may have been up to a tick later. */
const STARTED = Symbol("started");
/** Set where that is exact, and the job's time is to be taken. */
const TIMED = Symbol("timed");
/** The job whose handler started it. */
const PARENT = Symbol("parent");
// On the job itself: a table of the running jobs would cost as much again as all else here.
interface Watched extends Job {
  [STARTED]?: number;
  [TIMED]?: true;
  [PARENT]?: Job;
}

/** Watches an engine from the moment on at which it is made. */
export class Monitor {
  /** How late the event loop was. */
  readonly eventLoop: Histogram = new Histogram();
  #engine: Engine;
  #since = performance.now();
  /** The time of the last tick. */
  #now = this.#since;
  /** How many jobs may still be timed until the next. */
  #budget = TIMED_PER_TICK;
  #counts = new Map<string, JobCounts>();
  /** The job whose handler is being called: until it returns, which an async one does early. */
  #current?: Job;
  #spans?: Span[];
  #timer?: ReturnType<typeof setTimeout>;
  #delays: number[] = [];
  #resources?: { at: number; found: Resources | undefined };

  constructor(engine: Engine) {
    this.#engine = engine;
    engine.onJob((job, phase) => phase === "start" ? this.#start(job) : this.#end(job));
    engine.wrapHandlers((job, handler) => {
      const before = this.#current;
      this.#current = job;
      try {
        return handler(job);
      } finally {
        this.#current = before;
      }
    });
    this.#tick();
  }

  #start(job: Watched): void {
    if (this.#budget > 0 || this.#spans) {
      this.#budget--;
      job[STARTED] = performance.now();
      job[TIMED] = true;
    } else {
      job[STARTED] = this.#now;
    }
    if (this.#current) job[PARENT] = this.#current;
  }

  #end(job: Watched): void {
    const start = job[STARTED];
    if (start === undefined) return; // It was started before us.
    const counts = this.#countsOf(job.name);
    counts.ended++;
    if (job.status !== Status.OK) counts.failed++;
    if (!job[TIMED]) return;
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

  /** A timer that comes late says how long something else had the event loop. */
  #tick(): void {
    this.#now = performance.now();
    this.#budget = TIMED_PER_TICK;
    const due = this.#now + TICK;
    const timer = this.#timer = setTimeout(() => {
      const delay = Math.max(0, performance.now() - due);
      this.eventLoop.add(delay);
      this.#delays.push(delay);
      if (this.#delays.length > RECENT) this.#delays.shift();
      this.#tick();
    }, TICK);
    Deno.unrefTimer(timer);
  }

  /** The longest delay of the last second or so, in milliseconds. */
  get recentDelay(): number {
    return Math.max(0, ...this.#delays);
  }

  /** Ends the watch of the event loop. */
  close(): void {
    clearTimeout(this.#timer);
  }

  /** Keeps the spans of the jobs that end from now on, until the function it gives is called. */
  record(): () => Span[] {
    const spans: Span[] = this.#spans = [];
    return () => {
      this.#spans = undefined;
      for (const job of this.#engine.running as Watched[]) {
        spans.push({ name: job.name, start: job[STARTED] ?? this.#since });
      }
      return spans;
    };
  }

  /** The jobs that have ended by name, the most first. */
  get counts(): JobCounts[] {
    return [...this.#counts.values()].sort((a, b) => b.ended - a.ended);
  }

  /** The jobs that run now, the oldest first. */
  get running(): RunningJob[] {
    const now = performance.now();
    const jobs: readonly Watched[] = this.#engine.running;
    const children = Map.groupBy(jobs, (job) => job[PARENT]);
    return jobs.map((job) => {
      const parent = job[PARENT];
      return {
        name: job.name,
        args: job.args,
        age: Math.round(now - (job[STARTED] ?? this.#since)),
        ...job[STARTED] === undefined ? { older: true as const } : {},
        ...parent ? { parent: parent.name } : {},
        where: whereIs(job, children.get(job) ?? []),
      };
    });
  }

  /** {@linkcode Monitor.resources}, or what it said less than 5 s ago: it reads a link for each file. */
  async recentResources(): Promise<Resources | undefined> {
    const now = performance.now();
    if (this.#resources === undefined || now - this.#resources.at > RESOURCES_AGE) {
      this.#resources = { at: now, found: await this.resources() };
    }
    return this.#resources.found;
  }

  /** What the process has open, by /proc; undefined where there is none, or it may not be read. */
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

/** What a handler awaits inside itself is known to nobody but V8, which does not tell. */
function whereIs(job: Job, children: readonly Job[]): string {
  if (job.stdout.pending) return "writing stdout";
  if (children.length > 0) {
    return `running ${[...new Set(children.map(({ name }) => name))].join(", ")}`;
  }
  return job.stdin.reading ? "reading stdin" : "in its handler";
}

/** `socket:[1234]`, `anon_inode:[eventpoll]`, `/dev/null`, `/path`. */
function kindOf(target: string): string {
  const [, kind, what] = /^(\w+):\[?(\w*)/.exec(target) ?? [];
  if (kind !== undefined) return kind === "anon_inode" ? what : kind;
  return target.startsWith("/dev/") ? "device" : target.startsWith("/") ? "file" : target;
}
