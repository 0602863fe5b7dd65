/**
 * An engine runs jobs that are modelled on Unix processes: a job has a name, arguments, an
 * environment, standard streams, an exit status and a time at which it ended.
 *
 * ```ts
 * import { Engine } from "./engine.ts";
 *
 * const engine = new Engine();
 * engine.register("greet", async (job) => {
 *   await job.print(`hello ${job.args[0]}\n`);
 * });
 * console.log(await engine.job("greet", "world").text()); // hello world
 * ```
 *
 * @module
 */

import { Env } from "./engine/env.ts";
import { isError, JobError, messageOf, Status, TypedError } from "./engine/errors.ts";
import { createLogger, isLogged, type Logger, type LogLevel, stderr } from "./engine/log.ts";
import { DONE, Input, Output, tail, TailSink, WRITE_AFTER_END } from "./engine/streams.ts";
import { DRAIN_TIMEOUT, secondsSince, within } from "./engine/time.ts";

export { createLogger, type Logger, type LoggerOptions, type LogLevel } from "./engine/log.ts";
export { Env } from "./engine/env.ts";
export { type ErrorKind, JobError, Status, TypedError } from "./engine/errors.ts";
export { Input, Output, type Sink, type Tail, tail } from "./engine/streams.ts";

/**
 * Does a job's work. Returning nothing means status 0; a thrown error's message goes to the job's
 * stderr and makes the status 1.
 */
export type Handler = (job: Job) => Status | void | Promise<Status | void>;

/** The phases of a job that {@linkcode Engine.onJob} hears of. */
export type JobPhase = "start" | "end";

/** Options of {@linkcode Engine}. */
export interface EngineOptions {
  /** Where log lines go. Default: lines of text on standard error, from level info on. */
  log?: Logger;
}

/** Counts of an engine's jobs since it was made. */
export interface EngineStats {
  /** Jobs that were started. */
  started: number;
  /** Jobs that ended with a status other than 0. */
  failed: number;
  /** Jobs that run now. */
  running: number;
}

/** The process at the other end of a unix socket, as the kernel knew it when it connected. */
export interface Peer {
  /** Its process id. */
  readonly pid: number;
  /** The number of its user. */
  readonly uid: number;
  /** The number of its group. */
  readonly gid: number;
  /** The numbers of the other groups that it is in. */
  readonly groups: readonly number[];
}

/** The client on whose behalf a job runs. A property is looked up when it is first read. */
export interface Requester {
  /** The id of the request in the log. */
  readonly requestId?: string;
  /** The name of the authenticated user. */
  readonly user?: string | undefined;
  /** The client's process, for a request over a unix socket. */
  readonly peer?: Peer | undefined;
}

/** One report of a boot's progress, by {@linkcode Engine.progress}. */
export interface Progress {
  /** The text of the report, such as `container 40 of 200`. */
  readonly text: string;
  /** How long the next report may take to come, in milliseconds; undefined where not announced. */
  readonly within?: number | undefined;
}

/** How {@linkcode Engine.onShutdown} calls a handler. */
export interface ShutdownOptions {
  /** What the log calls the handler. Default: the function's name, or where it was registered. */
  name?: string;
  /** How long the handler may take, in milliseconds, before the next is called. Default 5 000. */
  timeout?: number;
}

/** Reads configuration again. It may return a function that applies what was read. */
export type ReloadHandler = () =>
  | void
  | (() => unknown)
  | Promise<void | (() => unknown)>;

/**
 * What installers share, by name: {@linkcode Engine.provide} and {@linkcode Engine.require} are
 * typed by it. A module that provides something adds it:
 *
 * ```ts
 * declare module "./engine.ts" {
 *   interface Provisions {
 *     store: Map<string, string>;
 *   }
 * }
 * ```
 */
// deno-lint-ignore no-empty-interface -- what is in it comes from modules of users
export interface Provisions {}

/** The type of what is provided under a name. */
export type Provided<Name extends string> = Name extends keyof Provisions ? Provisions[Name]
  : unknown;

/** How long {@linkcode Engine.shutdown} waits for jobs that are not services, in milliseconds. */
const JOBS_TIMEOUT = 5_000;
/** How long services and jobs together may take to end, at least, in milliseconds. */
const SHUTDOWN_TIMEOUT = DRAIN_TIMEOUT + JOBS_TIMEOUT;
/** How long a shutdown handler may take by default, in milliseconds. */
const HANDLER_TIMEOUT = 5_000;
/** How many progress reports a second are logged at level info; further ones are at level debug. */
const PROGRESS_RATE = 10;

/** Registers handlers and runs jobs. Engines share nothing: a process may have any number. */
export class Engine {
  /** Where this engine's log lines go. */
  readonly log: Logger;
  /**
   * Aborted when {@linkcode Engine.shutdown} begins. A job that would run for ever, such as a
   * stream of events, should end when it is.
   */
  readonly stopping: AbortSignal;
  /**
   * The daemon that this one takes over from; undefined where there is none. It serves until the
   * gate of this one is open. `released` resolves when its jobs have ended: what only one process
   * may have open, such as a store, is free from then on. Await it after the gate is open and not
   * before, since the predecessor ends only then.
   */
  predecessor?: { readonly pid: number; readonly released: Promise<void> };
  #handlers = new Map<string, Handler>();
  #catchall?: Handler;
  #stop = new AbortController();
  #shut = false;
  #shutdown?: Promise<void>;
  #shutdownHandlers: Required<ShutdownOptions & { handler: () => unknown }>[] = [];
  #reloadHandlers: readonly ReloadHandler[] = [];
  #provided = new Map<string, { value: unknown } | { make: () => unknown }>();
  /** The names whose values are being made, the innermost last. One that recurs is a cycle. */
  #making: string[] = [];
  #progressObservers: readonly ((progress: Progress) => void)[] = [];
  #progress = { second: -Infinity, reports: 0 };
  #observers: readonly ((job: Job, phase: JobPhase) => void)[] = [];
  #wraps: readonly ((job: Job, handler: Handler) => ReturnType<Handler>)[] = [];
  #running = new Running();
  #logged: Logger;
  #started = 0;
  #failed = 0;

  /** Makes an engine with one job, `commands`, which prints the names of all jobs, one per line. */
  constructor(options: EngineOptions = {}) {
    const log = options.log ?? createLogger();
    const guarded: Logger = (level, message, fields) => {
      try {
        log(level, message, fields);
      } catch (error) {
        // A logger that throws must not fail the jobs that are logged.
        stderr.write(`log: ${messageOf(error)}\n`);
      }
    };
    // The level may change while the daemon runs.
    this.log = Object.defineProperties(guarded, {
      level: { get: () => log.level, enumerable: true },
      plain: { get: () => log.plain, enumerable: true },
    });
    this.#logged = log;
    this.stopping = this.#stop.signal;
    this.register("commands", (job) => {
      const names = [...this.#handlers.keys()].sort();
      return job.print(names.map((name) => name + "\n").join(""));
    });
  }

  /**
   * Sets the handler for jobs of this name.
   *
   * @throws {TypeError} If the name is empty or has a handler already.
   */
  register(name: string, handler: Handler): void {
    if (name === "") throw new TypeError("cannot register a job without a name");
    if (this.#handlers.has(name)) {
      throw new TypeError(`cannot register ${name}: it has a handler already`);
    }
    this.#handlers.set(name, handler);
  }

  /** Sets the handler for all other non-empty names; a later call replaces it. */
  registerCatchall(handler: Handler): void {
    this.#catchall = handler;
  }

  /** Whether a job of this name would find a handler. */
  has(name: string): boolean {
    return this.#handlers.has(name) || (name !== "" && this.#catchall !== undefined);
  }

  /** The handlers by the names of their jobs, without the catch-all. */
  get handlers(): ReadonlyMap<string, Handler> {
    return this.#handlers;
  }

  /** The jobs that run now, in the order in which they were started. */
  get running(): Job[] {
    return [...this.#running];
  }

  /** Counts of the jobs so far. */
  get stats(): EngineStats {
    return { started: this.#started, failed: this.#failed, running: this.#running.size };
  }

  /** A new job that has not run yet. */
  job(name: string, ...args: string[]): Job {
    return new Job(this, this.#internals, name, args);
  }

  /**
   * Parses a new job from one line of words separated by white space. `KEY=VALUE` words go to the
   * environment, the first of the others is the name, and the rest are arguments.
   *
   * @throws {TypeError} If the line has no name.
   */
  parseJob(line: string): Job {
    const words: string[] = [];
    const settings: [string, string][] = [];
    for (const word of line.split(/\s+/)) {
      // A key looks like a name, so that an argument such as a URL may hold a "=".
      const setting = /^([A-Za-z_][\w.-]*)=(.*)$/.exec(word);
      if (setting) settings.push([setting[1]!, setting[2]!]);
      else if (word !== "") words.push(word);
    }
    const [name, ...args] = words;
    if (name === undefined) {
      throw new TypeError(`no job in "${line}", expected [KEY=VALUE ...] NAME [ARGUMENT ...]`);
    }
    const job = this.job(name, ...args);
    for (const [key, value] of settings) job.setenv(key, value);
    return job;
  }

  /**
   * Calls `observer` when a job starts and when it has ended. What it throws is logged.
   *
   * @returns A function that removes the observer.
   */
  onJob(observer: (job: Job, phase: JobPhase) => void): () => void {
    // A new list, because #report may be iterating over the current one.
    this.#observers = [...this.#observers, observer];
    return () => void (this.#observers = this.#observers.filter((each) => each !== observer));
  }

  /**
   * Calls the handlers of all jobs that start from now on through `wrap`, for example inside an
   * `AsyncLocalStorage` context. `wrap` must return what the handler returns. A later wrap is
   * outside of an earlier one.
   *
   * @returns A function that removes the wrap from jobs that start after it was called.
   */
  wrapHandlers(wrap: (job: Job, handler: Handler) => ReturnType<Handler>): () => void {
    this.#wraps = [...this.#wraps, wrap];
    return () => void (this.#wraps = this.#wraps.filter((each) => each !== wrap));
  }

  /**
   * Reports how far a boot is, such as `container 40 of 200`, to the log, to systemd, and to
   * clients that ask for the daemon's health.
   *
   * The first ten reports of a second are logged at level info, the others at level debug.
   *
   * @param options `within`: how long the next report may take to come, in milliseconds. systemd
   * (EXTEND_TIMEOUT_USEC of sd_notify(3); 30 000 by default) and `--boot-timeout` give the boot at
   * least that time.
   */
  progress(text: string, options: { within?: number } = {}): void {
    const now = performance.now();
    if (now - this.#progress.second >= 1_000) this.#progress = { second: now, reports: 0 };
    const level = ++this.#progress.reports > PROGRESS_RATE ? "debug" : "info";
    this.log(level, `progress: ${text}`);
    const progress: Progress = { text, within: options.within };
    for (const observer of this.#progressObservers) {
      try {
        observer(progress);
      } catch (error) {
        this.log("error", `observer of progress: ${messageOf(error)}`);
      }
    }
  }

  /**
   * Calls `observer` at each {@linkcode Engine.progress}. What it throws is logged.
   *
   * @returns A function that removes the observer.
   */
  onProgress(observer: (progress: Progress) => void): () => void {
    this.#progressObservers = [...this.#progressObservers, observer];
    return () =>
      void (this.#progressObservers = this.#progressObservers.filter((each) => each !== observer));
  }

  /**
   * Provides a value to other installers, by name. Add its type to {@linkcode Provisions}.
   *
   * @throws {TypeError} If the name is empty, or something is provided under it already.
   */
  provide<Name extends string>(name: Name, value: Provided<Name>): void {
    this.#provide(name, { value });
  }

  /**
   * Provides a value that is made once, when an installer first requires it. `make` may require
   * other values, in whatever order they are provided. An asynchronous `make` should require them
   * before its first await: a cycle that is closed later is not detected.
   *
   * @throws {TypeError} If the name is empty, or something is provided under it already.
   */
  provideLazily<Name extends string>(name: Name, make: () => Provided<Name>): void {
    this.#provide(name, { make });
  }

  /**
   * Returns what was provided under a name.
   *
   * @throws {TypeError} If nothing was, or if its `make` requires itself, directly or through
   * others.
   */
  require<Name extends string>(name: Name): Provided<Name>;
  require(name: string): unknown {
    const provided = this.#provided.get(name);
    if (provided === undefined) {
      const names = [...this.#provided.keys()];
      throw new TypeError(
        `nothing provides "${name}" so far, expected ${
          names.length > 0 ? `one of ${names.join(", ")}` : `a call of provide("${name}", ...)`
        }; install the module that provides it before the one that requires it`,
      );
    }
    if ("value" in provided) return provided.value;
    if (this.#making.includes(name)) {
      const cycle = [...this.#making.slice(this.#making.indexOf(name)), name];
      throw new TypeError(`"${name}" requires itself: ${cycle.join(" -> ")}`);
    }
    this.#making.push(name);
    try {
      const value = provided.make();
      this.#provided.set(name, { value });
      return value;
    } finally {
      this.#making.pop();
    }
  }

  #provide(name: string, provided: { value: unknown } | { make: () => unknown }): void {
    if (name === "") throw new TypeError("cannot provide something without a name");
    if (this.#provided.has(name)) {
      throw new TypeError(
        `cannot provide "${name}": something is provided under that name already`,
      );
    }
    this.#provided.set(name, provided);
  }

  /**
   * Calls `handler` in {@linkcode Engine.reload}. It should read and check its configuration and
   * return the function that applies it. The engine calls those functions once all handlers have
   * returned, and none of them if a handler fails.
   *
   * @returns A function that removes the handler.
   */
  onReload(handler: ReloadHandler): () => void {
    this.#reloadHandlers = [...this.#reloadHandlers, handler];
    return () =>
      void (this.#reloadHandlers = this.#reloadHandlers.filter((each) => each !== handler));
  }

  /**
   * Runs the reload handlers, one after another in the order in which they were registered, and
   * then the functions that they returned. The job `reload`, and with it SIGHUP, calls this.
   *
   * @param last A handler to run after all others, for this call only.
   * @throws What a handler threw: then nothing has been applied. Or, if a returned function failed,
   * an `AggregateError`, after the others were called.
   */
  async reload(last?: ReloadHandler): Promise<void> {
    const commits: (() => unknown)[] = [];
    for (const handler of last ? [...this.#reloadHandlers, last] : this.#reloadHandlers) {
      const commit = await handler();
      if (typeof commit === "function") commits.push(commit);
    }
    const errors: unknown[] = [];
    for (const commit of commits) {
      try {
        await commit();
      } catch (error) {
        errors.push(error);
      }
    }
    if (errors.length > 0) {
      throw new AggregateError(errors, `reloaded in part: ${errors.map(messageOf).join("; ")}`);
    }
  }

  /**
   * Calls `handler` in {@linkcode Engine.shutdown}, once the jobs have ended: one handler after
   * another, the one registered last first. It may run jobs. If the engine is closed already, the
   * handler is called at once.
   *
   * @returns A function that removes the handler.
   */
  onShutdown(handler: () => unknown, options: ShutdownOptions = {}): () => void {
    // What its stack says is made when it is asked for, which takes the source maps of all files in
    // it.
    const here = new Error();
    const entry = {
      handler,
      get name() {
        // The first line of a stack is the error's own, the second that of onShutdown.
        return options.name ??
          (handler.name || (here.stack?.split("\n")[2]?.trim() ?? "without a name"));
      },
      timeout: options.timeout ?? HANDLER_TIMEOUT,
    };
    if (this.#shut) void this.#guard(`shutdown handler ${entry.name}`, handler);
    else this.#shutdownHandlers.push(entry);
    return () =>
      void (this.#shutdownHandlers = this.#shutdownHandlers.filter((each) => each !== entry));
  }

  /**
   * Shuts the engine down, in four steps. Services ({@linkcode Job.onStop}) are told to stop, and
   * may still run jobs for their clients. Other jobs get 5 s to end and are then aborted. The
   * shutdown handlers are called one after another, the one registered last first; one that exceeds
   * its timeout is named in the log, and the next is called. Then the engine is closed: no job can
   * start any more, and jobs that still run are aborted. Further calls return the promise of the
   * first.
   *
   * @param options `drain`: how long services may take, in milliseconds. Default 10 000.
   * @returns A promise that never rejects: what a shutdown handler throws is logged. Services and
   * jobs take 15 s at most (5 s more than `drain`, where that is longer), and each handler its
   * timeout.
   */
  shutdown(options: { drain?: number } = {}): Promise<void> {
    return this.#shutdown ??= this.#end(options.drain ?? DRAIN_TIMEOUT);
  }

  async #end(drain: number): Promise<void> {
    const deadline = performance.now() + Math.max(SHUTDOWN_TIMEOUT, drain + JOBS_TIMEOUT);
    this.#stop.abort(new TypedError("unavailable", "the engine is shutting down"));
    const services = [...this.#running].filter((job) => job[STOP] !== undefined);
    if (services.length > 0) {
      const stopped = services.flatMap((job) =>
        job[STOP]!.map((stop) => this.#guard(`stop of job ${job.name}`, () => stop(drain)))
      );
      await within(drain + 1_000, Promise.all([...stopped, ...services.map((job) => job[ENDED])]));
    }
    const left = [...this.#running];
    if (left.length > 0) {
      const timeout = Math.min(JOBS_TIMEOUT, (deadline - performance.now()) / 2);
      await within(timeout, Promise.all(left.map((job) => job[ENDED])));
      this.#abortRunning(left.filter((job) => job.status === undefined));
    }
    for (let next; (next = this.#shutdownHandlers.pop());) {
      const { name, timeout, handler } = next;
      if (!await within(timeout, this.#guard(`shutdown handler ${name}`, handler))) {
        this.log("warn", `shutdown handler ${name} still runs after ${timeout} ms, going on`);
      }
    }
    this.#shut = true;
    this.#abortRunning([...this.#running].filter((job) => !left.includes(job)));
  }

  #abortRunning(jobs: Job[]): void {
    for (const job of jobs) {
      this.log("warn", `job ${job.name} still runs at shutdown`);
      job.abort(this.stopping.reason);
    }
  }

  async #guard(what: string, step: () => unknown): Promise<void> {
    try {
      await step();
    } catch (error) {
      this.log("error", `${what}: ${messageOf(error)}`);
    }
  }

  /** The part of the engine that only its own jobs may use. */
  readonly #internals: EngineInternals = {
    begin: (job) => {
      if (this.#shut) throw new TypedError("unavailable", "the engine is shut down");
      this.#started++;
      this.#running.add(job);
      this.#report(job, "start");
      const handler = this.#handlers.get(job.name) ??
        (job.name === "" ? undefined : this.#catchall);
      if (handler === undefined || this.#wraps.length === 0) return handler;
      return this.#wraps.reduce<Handler>((inner, wrap) => (job) => wrap(job, inner), handler);
    },
    logs: (level) => isLogged(this.#logged, level),
    stopNow: (job, stop) => void this.#guard(`stop of job ${job.name}`, () => stop(0)),
    end: (job) => {
      this.#running.delete(job);
      if (job.status !== Status.OK) this.#failed++;
      this.#report(job, "end");
    },
  };

  #report(job: Job, phase: JobPhase): void {
    for (const observer of this.#observers) {
      try {
        observer(job, phase);
      } catch (error) {
        this.log("error", `observer of job ${job.name}: ${messageOf(error)}`);
      }
    }
  }
}

/**
 * The running jobs, as a linked list through the jobs themselves: a Set would give each job a hash,
 * which costs more than all else that the engine does for a job.
 */
class Running implements Iterable<Job> {
  size = 0;
  #first?: Job | undefined;
  #last?: Job | undefined;

  add(job: Job): void {
    job[PREVIOUS] = this.#last;
    if (this.#last) this.#last[NEXT] = job;
    else this.#first = job;
    this.#last = job;
    this.size++;
  }
  delete(job: Job): void {
    const { [PREVIOUS]: previous, [NEXT]: next } = job;
    if (previous) previous[NEXT] = next;
    else this.#first = next;
    if (next) next[PREVIOUS] = previous;
    else this.#last = previous;
    job[PREVIOUS] = job[NEXT] = undefined;
    this.size--;
  }
  /** The oldest first. No job may end during the iteration: a caller that awaits needs a copy. */
  *[Symbol.iterator](): Generator<Job> {
    for (let job = this.#first; job; job = job[NEXT]) yield job;
  }
}

interface EngineInternals {
  begin(job: Job): Handler | undefined;
  logs(level: LogLevel): boolean;
  end(job: Job): void;
  stopNow(job: Job, stop: (drain: number) => unknown): void;
}

/** How many lines of its stderr a job keeps. */
const STDERR_LINES = 20;
const STOP = Symbol("stop");
const ENDED = Symbol("ended");
const PREVIOUS = Symbol("previous");
const NEXT = Symbol("next");

/** One run of a handler. Made by {@linkcode Engine.job}; runs once. */
export class Job {
  /** The engine that the job belongs to. */
  readonly engine: Engine;
  /** Which handler it runs. */
  readonly name: string;
  /** Its arguments. */
  readonly args: readonly string[];
  /** The exit status, once the job has ended. */
  status?: Status;
  /** Whether its start and end are logged at level debug in place of info. Default false. */
  quiet = false;
  /**
   * The input that the caller has validated, beside the arguments and the env: for a request, what
   * the row of its route declares. Undefined for a job that no request runs.
   */
  input?: unknown;
  /**
   * Set by a handler to choose among several successful answers. Over HTTP `status` is one that the
   * route lists under `answers`, and `headers` are sent with the answer; where the answer is a
   * stream, both are read when it begins. Default: the route's own status, no headers.
   */
  outcome?: { readonly status?: number; readonly headers?: Readonly<Record<string, string>> };
  #internals: EngineInternals;
  #env?: Env;
  #stdin?: Input;
  #stdout?: Output;
  #stderr?: Output;
  #stderrTail?: TailSink;
  #warnedOfLateWrite = false;
  #cause?: unknown;
  #words?: string | undefined;
  #started = false;
  /** By `performance.now()`, in milliseconds; 0 where the start is not logged. */
  #startTime = 0;
  #endTime?: number;
  #requester?: Requester | undefined;
  #user?: string | undefined;
  #abort?: AbortController;
  #abortSource?: () => AbortSignal;
  #ended?: PromiseWithResolvers<void>;
  /** @internal */
  [STOP]?: ((drain: number) => unknown)[];
  /** @internal */
  [PREVIOUS]?: Job | undefined;
  /** @internal */
  [NEXT]?: Job | undefined;

  /** @internal Use {@linkcode Engine.job}. */
  constructor(engine: Engine, internals: unknown, name: string, args: string[]) {
    this.engine = engine;
    this.#internals = internals as EngineInternals;
    this.name = name;
    this.args = args;
  }

  // Most jobs of a busy daemon use one or two of these, so each is made when it is first read.

  /**
   * Sets the client whose request this job is part of, for {@linkcode Job.user}, `peer`,
   * `requestId`.
   */
  onBehalfOf(requester: Requester | undefined): void {
    this.#requester = requester;
  }
  /**
   * The user on whose behalf the job runs: the subject of a client's certificate (RFC 4514), such
   * as `CN=alice,O=Ops`, or the name of the user whose process is at the other end of a unix
   * socket. Undefined for an unauthenticated client.
   */
  get user(): string | undefined {
    return this.#user ?? this.#requester?.user;
  }
  set user(user: string | undefined) {
    this.#user = user;
  }
  /** The client's process, for a request over a unix socket; undefined where it is not known. */
  get peer(): Peer | undefined {
    return this.#requester?.peer;
  }
  /** The id, in the log, of the request that this job is part of; undefined without a request. */
  get requestId(): string | undefined {
    return this.#requester?.requestId;
  }

  /** When the job ended; undefined until then. */
  get endTime(): Date | undefined {
    return this.#endTime === undefined ? undefined : new Date(this.#endTime);
  }
  /** The environment. */
  get env(): Env {
    return this.#env ??= new Env();
  }
  /** The job's input stream. */
  get stdin(): Input {
    return this.#stdin ??= new Input();
  }
  /** The job's output stream. */
  get stdout(): Output {
    return this.#stdout ??= new Output(undefined, this);
  }
  /**
   * The job's stream of error messages. Its last line becomes the message of a {@linkcode
   * JobError}.
   */
  get stderr(): Output {
    if (this.#stderr === undefined) {
      this.#stderrTail = new TailSink(STDERR_LINES);
      this.#stderr = new Output(this.#stderrTail);
    }
    return this.#stderr;
  }
  /** Aborted when the job's result is not needed any more: its client has left. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      const source = this.#abortSource?.();
      if (source?.aborted) this.abort(source.reason);
      else source?.addEventListener("abort", () => this.abort(source.reason), { once: true });
    }
    return this.#abort.signal;
  }

  /** Aborts {@linkcode Job.signal}. The job runs until its handler returns. */
  abort(reason?: unknown): void {
    (this.#abort ??= new AbortController()).abort(reason);
  }

  /**
   * Makes {@linkcode Job.signal} follow another signal. `source` is called only if the handler
   * reads its own signal.
   */
  abortWith(source: () => AbortSignal): void {
    this.#abortSource = source;
  }

  /**
   * Marks the job as a service: one that runs until it is told to stop. `stop` is called when the
   * engine shuts down, with the milliseconds the service may take to end.
   */
  onStop(stop: (drain: number) => unknown): void {
    (this[STOP] ??= []).push(stop);
    // The engine has told its services to stop before this one started.
    if (this.engine.stopping.aborted) this.#internals.stopNow(this, stop);
  }

  /** Whether it is a service, which runs until it is told to stop: {@linkcode Job.onStop}. */
  get service(): boolean {
    return this[STOP] !== undefined;
  }

  /** @internal Resolves when the job has ended. */
  get [ENDED](): Promise<void> {
    this.#ended ??= Promise.withResolvers();
    return this.#ended.promise;
  }

  /** Writes to stdout. Like {@linkcode Output.write}. */
  print(text: string): Promise<void> {
    // A stdout that was never read has no destination, so the text is discarded.
    if (this.#stdout !== undefined || typeof text !== "string") return this.stdout.write(text);
    if (this.status !== undefined) this[WRITE_AFTER_END](text);
    return DONE;
  }

  /**
   * Writes a line to stderr and returns {@linkcode Status.Err}, for a handler to return in turn:
   * `return job.error("no such thing")`. A text becomes the `words` of the {@linkcode JobError}
   * that {@linkcode Job.run} rejects with, which reach a client; an error becomes its `cause`,
   * which reaches the log.
   */
  error(problem: unknown): Status {
    if (isError(problem)) this.#cause ??= problem;
    else this.#words = messageOf(problem);
    return this.#writeError(problem);
  }

  #writeError(problem: unknown): Status {
    this.stderr.write(messageOf(problem) + "\n");
    return Status.Err;
  }

  /**
   * Runs the handler and closes the job's streams. A job whose handler is synchronous has ended,
   * and has its {@linkcode Job.status}, when this returns.
   *
   * @throws {TypedError} ("unavailable") If the engine is shut down.
   * @throws {TypeError} If the job has run before.
   * @throws {JobError} If the exit status is not 0. The message is the last line of stderr.
   */
  run(): Promise<void> {
    // Not an async function: most jobs of a busy daemon end synchronously, and a promise per step
    // would be most of their cost.
    let handler: Handler | undefined;
    try {
      if (this.#started) throw new TypeError(`job ${this.name} has run already`);
      handler = this.#internals.begin(this);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#started = true;
    if (this.#logs) {
      this.#startTime = performance.now();
      this.engine.log(this.#level, `+job ${this}`, this.#fields());
    }
    if (handler === undefined) {
      this.#writeError(`${this.name}: command not found`);
      return this.#finish(Status.NotFound);
    }
    let result: ReturnType<Handler>;
    try {
      result = handler(this);
      // print() returns DONE where no destination has to be waited for.
      if (result === undefined || result === DONE) result = Status.OK;
      if (typeof result === "number") return this.#finish(this.#checked(result));
    } catch (error) {
      return this.#finish(this.#thrown(error));
    }
    return this.#wait(result);
  }

  /**
   * Runs the job as {@linkcode Job.run} does, and returns what it wrote to stdout, decoded as
   * UTF-8. Other destinations of stdout get it too.
   *
   * @throws What {@linkcode Job.run} throws.
   */
  async text(): Promise<string> {
    const decoder = new TextDecoder();
    let text = "";
    this.stdout.add({
      write: (chunk) => void (text += decoder.decode(chunk, { stream: true })),
      close: () => void (text += decoder.decode()),
    });
    await this.run();
    return text;
  }

  /**
   * Like {@linkcode Job.text}, parsed as JSON.
   *
   * @throws {SyntaxError} If the text is not JSON; and what {@linkcode Job.run} throws.
   */
  async json(): Promise<unknown> {
    const text = await this.text();
    try {
      return JSON.parse(text);
    } catch (error) {
      throw new SyntaxError(`job ${this.name} printed no JSON: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  async #wait(result: Promise<Status | void>): Promise<void> {
    let status: Status;
    try {
      status = this.#checked(await result ?? Status.OK);
    } catch (error) {
      status = this.#thrown(error);
    }
    await this.#finish(status);
  }

  #checked(status: Status): Status {
    if (Number.isInteger(status)) return status;
    throw new TypeError(`${this.name} returned ${status}, expected an integer exit status`);
  }

  #thrown(error: unknown): Status {
    this.#cause = error;
    this.#words = undefined; // The error that ended it counts, not what it wrote before.
    return this.#writeError(error);
  }

  #finish(status: Status): Promise<void> {
    const closing = this.#stdout?.close() ?? DONE;
    if (closing === DONE && this.#stdin === undefined && this.#stderr === undefined) {
      return this.#end(status);
    }
    return this.#close(status, closing);
  }

  async #close(status: Status, closing: Promise<void>): Promise<void> {
    try {
      // stderr is closed last: a failed delivery of stdout is reported there.
      await closing;
    } catch (error) {
      this.#cause ??= error;
      const failed = this.#writeError(error);
      if (status === Status.OK) status = failed;
    }
    if (this.#stdin) await this.#stdin.close();
    if (this.#stderr) {
      await this.#stderr.close().catch((error) =>
        this.engine.log("warn", `stderr of job ${this.name}: ${messageOf(error)}`)
      );
    }
    await this.#end(status);
  }

  #end(status: Status): Promise<void> {
    this.status = status;
    this.#endTime = Date.now();
    this.#internals.end(this);
    this.#ended?.resolve();
    if (status === Status.OK) {
      if (this.#logs) this.engine.log(this.#level, `-job ${this} = OK (0)`, this.#fields(status));
      if (this.#stderrTail?.text && !this.#stderr!.used) this.#logStderr();
      return DONE;
    }
    const message = tail(this.#stderrTail?.text ?? "", 1);
    const level = this.quiet ? "debug" : "error";
    if (this.#internals.logs(level)) {
      const label = status === Status.NotFound ? "NotFound" : "Err";
      const why = message && ": " + message;
      this.engine.log(level, `-job ${this} = ${label} (${status})${why}`, this.#fields(status));
    }
    return Promise.reject(
      new JobError(this.name, status, message || `${this.name}: exit status ${status}`, {
        cause: this.#cause,
        words: this.#words,
      }),
    );
  }

  /** Logs what a successful job wrote to a stderr that no caller reads. */
  #logStderr(): void {
    for (const line of this.#stderrTail!.text.split("\n")) {
      this.engine.log("info", `job ${this.name}: ${line}`);
    }
  }

  /** @internal Warns, once, of output that is discarded because the job has ended. */
  [WRITE_AFTER_END](data: Uint8Array | string): void {
    if (this.#warnedOfLateWrite) return;
    this.#warnedOfLateWrite = true;
    const what = typeof data === "string"
      ? JSON.stringify(data.slice(0, 40))
      : `${data.length} bytes`;
    this.engine.log("warn", `job ${this.name} has ended, but still writes: ${what}`);
  }

  /** The structured fields of its log lines. */
  #fields(status?: Status): Record<string, unknown> | undefined {
    const { requestId } = this;
    const cause = this.#cause === undefined ? undefined : { error: this.#cause };
    const request = requestId === undefined ? undefined : { request: requestId };
    // For people the message itself has the other fields.
    if (this.engine.log.plain) return cause || request ? { ...cause, ...request } : undefined;
    return {
      job: this.name,
      args: this.args,
      ...status !== undefined && { status, duration: secondsSince(this.#startTime) },
      ...cause,
      ...request,
    };
  }

  get #level(): LogLevel {
    return this.quiet ? "debug" : "info";
  }
  /** Whether the logger takes the lines of its start and end; else they are not even built. */
  get #logs(): boolean {
    return this.#internals.logs(this.#level);
  }

  /** `name(arg, arg)`, as in the log. */
  toString(): string {
    // A caller that is not type-checked may have passed arguments that are not strings.
    return `${this.name}(${this.args.map(messageOf).join(", ")})`;
  }

  /** {@linkcode Env.get} of the job's environment. */
  getenv(key: string): string {
    return this.#env?.get(key) ?? "";
  }
  /** {@linkcode Env.set} of the job's environment. */
  setenv(key: string, value: string): void {
    this.env.set(key, value);
  }
  /** {@linkcode Env.getBool} of the job's environment. */
  getenvBool(key: string): boolean {
    return this.env.getBool(key);
  }
  /** {@linkcode Env.setBool} of the job's environment. */
  setenvBool(key: string, value: boolean): void {
    this.env.setBool(key, value);
  }
  /** {@linkcode Env.getInt} of the job's environment. */
  getenvInt(key: string): number {
    return this.env.getInt(key);
  }
  /** {@linkcode Env.setInt} of the job's environment. */
  setenvInt(key: string, value: number | bigint): void {
    this.env.setInt(key, value);
  }
  /** {@linkcode Env.getList} of the job's environment. */
  getenvList(key: string): string[] {
    return this.env.getList(key);
  }
  /** {@linkcode Env.setList} of the job's environment. */
  setenvList(key: string, value: readonly string[]): void {
    this.env.setList(key, value);
  }
  /** {@linkcode Env.getJson} of the job's environment. */
  getenvJson(key: string): unknown {
    return this.env.getJson(key);
  }
  /** {@linkcode Env.setJson} of the job's environment. */
  setenvJson(key: string, value: unknown): void {
    this.env.setJson(key, value);
  }
  /** {@linkcode Env.getSubEnv} of the job's environment. */
  getenvSubEnv(key: string): Env | undefined {
    return this.env.getSubEnv(key);
  }
  /** {@linkcode Env.setSubEnv} of the job's environment. */
  setenvSubEnv(key: string, value: Env): void {
    this.env.setSubEnv(key, value);
  }
}
