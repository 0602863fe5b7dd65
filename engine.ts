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
 * const job = engine.job("greet", "world");
 * const lines = job.stdout.addTail(1);
 * await job.run();
 * console.log(lines.text); // hello world
 * ```
 *
 * @module
 */

/** Floodgate's own version. The same as in deno.json, which a remote import cannot read. */
export const VERSION = "0.1.0";
/** The newest version of the docker API that the built-in jobs answer in. */
export const API_VERSION = "1.47";
/** The oldest that is documented; whoever asks in an older one is answered all the same, as in 2014. */
export const MIN_API_VERSION = "1.12";

/** How urgent a log line is, from the least to the most. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Takes one log line: its level, its text, and what a machine may want to know besides. */
export interface Logger {
  (level: LogLevel, message: string, fields?: Record<string, unknown>): void;
  /** The least urgent level that it writes, if it says so: lines below are not even made. */
  readonly level?: LogLevel;
}

const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

/** What {@linkcode createLogger} can be told. */
export interface LoggerOptions {
  /** The least urgent level that is written. Default `"info"`. */
  level?: LogLevel;
  /** One line of text, or one JSON object a line. Default `"text"`. */
  format?: "text" | "json";
  /** Where a line goes, its newline included. Default: standard error. */
  write?: (line: string) => void;
}

/** A {@linkcode Logger} that writes a line an event: time, level, message, fields. */
export function createLogger(options: LoggerOptions = {}): Logger {
  const { level: lowest = "info" } = options;
  const least = LEVELS.indexOf(lowest);
  const write = options.write ?? writeToStderr;
  const json = options.format === "json";
  const log: Logger = (level, message, fields) => {
    if (LEVELS.indexOf(level) < least) return;
    const time = new Date().toISOString();
    if (json) {
      write(JSON.stringify({ time, level, message, ...fields }, jsonField) + "\n");
      return;
    }
    // One event is one line, whatever a client has put into it.
    let line = `${time} ${level.toUpperCase().padEnd(5)} ${printable(message)}`;
    for (const [key, value] of Object.entries(fields ?? {})) {
      line += ` ${key}=${
        typeof value === "string" ? JSON.stringify(value) : printable(String(value))
      }`;
    }
    write(line + "\n");
  };
  return Object.assign(log, { level: lowest });
}

/** Text whose control characters are spelled out. */
function printable(text: string): string {
  // deno-lint-ignore no-control-regex -- they are what this is about
  return text.replace(/[\0-\x1f\x7f]/g, (char) => JSON.stringify(char).slice(1, -1));
}

function jsonField(_key: string, value: unknown): unknown {
  if (value instanceof Error) return value.stack ?? messageOf(value);
  return typeof value === "bigint" ? String(value) : value;
}

function writeToStderr(line: string): void {
  const bytes = encoder.encode(line);
  for (let sent = 0; sent < bytes.length;) {
    try {
      sent += Deno.stderr.writeSync(bytes.subarray(sent));
    } catch {
      // Whoever read our log has gone, or its pipe is full and does not block. A daemon must not
      // die of that, and there is nowhere left to say it.
      return;
    }
  }
}

/** Exit statuses that have a name; any other integer is as good. */
export const Status = {
  /** The job did what it was asked to. */
  OK: 0,
  /** The job failed. */
  Err: 1,
  /** No handler is registered under the job's name. */
  NotFound: 127,
} as const;
/** A job's exit status: any integer, 0 for success. */
export type Status = number;

/** What a {@linkcode TypedError} says about its cause, in terms that any front end can map. */
export type ErrorKind =
  | "not found"
  | "bad parameter"
  | "conflict"
  | "not acceptable"
  | "unauthorized"
  | "forbidden"
  | "too large"
  | "timeout"
  | "not implemented"
  | "unavailable";

/**
 * An error whose kind and message are meant for the caller. Over HTTP the kind chooses the status
 * (`"not found"` is 404, and so on) and the message reaches the client as it is.
 */
export class TypedError extends Error {
  /** Always `"TypedError"`. */
  override readonly name: string = "TypedError";
  /** What went wrong. */
  readonly kind: ErrorKind;
  /** An error of this kind; `options.cause` is for the log. */
  constructor(kind: ErrorKind, message: string, options?: ErrorOptions) {
    super(message, options);
    this.kind = kind;
  }
}

/** What {@linkcode Job.run} rejects with when the exit status is not 0. */
export class JobError extends Error {
  /** The name of the job that failed. */
  override readonly name: string;
  /** Its exit status, never 0. */
  readonly status: Status;
  /** The failure of the job `name`; `options.cause` is what its handler threw, if it did. */
  constructor(name: string, status: Status, message: string, options?: ErrorOptions) {
    super(message, options);
    this.name = name;
    this.status = status;
  }
}

/**
 * Does a job's work. Returning nothing means status 0; a thrown error's message goes to the job's
 * stderr and makes the status 1.
 */
export type Handler = (job: Job) => Status | void | Promise<Status | void>;

/** The phases of a job that {@linkcode Engine.onJob} hears of. */
export type JobPhase = "start" | "end";

/** What {@linkcode Engine} can be told. */
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

/** How long {@linkcode Engine.shutdown} waits for jobs that are no services, in milliseconds. */
const JOBS_TIMEOUT = 5_000;
/** The longest that {@linkcode Engine.shutdown} takes with the default drain time, in milliseconds. */
const SHUTDOWN_TIMEOUT = 15_000;

/** Registers handlers and runs jobs. Engines share nothing: a process may have any number. */
export class Engine {
  /** Where this engine's log lines go. */
  readonly log: Logger;
  /**
   * Aborted when {@linkcode Engine.shutdown} begins. A job that would go on for ever (a stream of
   * events) ends itself on it.
   */
  readonly stopping: AbortSignal;
  #handlers = new Map<string, Handler>();
  #catchall?: Handler;
  #stop = new AbortController();
  #shut = false;
  #shutdown?: Promise<void>;
  #shutdownHandlers: (() => unknown)[] = [];
  #handled = false;
  #observers: readonly ((job: Job, phase: JobPhase) => void)[] = [];
  #wraps: readonly ((job: Job, handler: Handler) => ReturnType<Handler>)[] = [];
  #running = new Running();
  #leastLogged: number;
  #started = 0;
  #failed = 0;

  /** An engine with one job, `commands`, which prints the names of all jobs, sorted, a line each. */
  constructor(options: EngineOptions = {}) {
    const log = options.log ?? createLogger();
    const guarded: Logger = (level, message, fields) => {
      try {
        log(level, message, fields);
      } catch (error) {
        // A log that is broken must not break the jobs that are logged.
        writeToStderr(`log: ${messageOf(error)}\n`);
      }
    };
    this.log = Object.assign(guarded, { level: log.level });
    this.#leastLogged = LEVELS.indexOf(log.level ?? "debug");
    this.stopping = this.#stop.signal;
    this.register("commands", (job) => job.print(this.#names()));
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

  /** Sets the handler for every non-empty name that has none of its own; a later call replaces it. */
  registerCatchall(handler: Handler): void {
    this.#catchall = handler;
  }

  /** Whether a job of this name would find a handler. */
  has(name: string): boolean {
    return this.#handlers.has(name) || (name !== "" && this.#catchall !== undefined);
  }

  /** The handlers by the names of their jobs, without the one for all other names. */
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
   * A new job from one line: words are split on white space, `KEY=VALUE` words go to the
   * environment, the first of the others is the name and the rest are arguments.
   *
   * @throws {TypeError} If the line has no name.
   */
  parseJob(line: string): Job {
    const words: string[] = [];
    const settings: [string, string][] = [];
    for (const word of line.split(/\s+/)) {
      // A key looks like a name, so that an argument such as a URL may hold a "=".
      const setting = /^([A-Za-z_][\w.-]*)=(.*)$/.exec(word);
      if (setting) settings.push([setting[1], setting[2]]);
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
   * @returns A function that ends this.
   */
  onJob(observer: (job: Job, phase: JobPhase) => void): () => void {
    // A new list, since the one at hand may be being gone through.
    this.#observers = [...this.#observers, observer];
    return () => void (this.#observers = this.#observers.filter((each) => each !== observer));
  }

  /**
   * Lets `wrap` call the handlers of all jobs that start from now on, so that it can do so in a
   * context of its own, such as an `AsyncLocalStorage`'s. It must give what the handler gives. Who
   * wraps later is further outside.
   *
   * @returns A function that ends this, for all jobs that start after it was called.
   */
  wrapHandlers(wrap: (job: Job, handler: Handler) => ReturnType<Handler>): () => void {
    this.#wraps = [...this.#wraps, wrap];
    return () => void (this.#wraps = this.#wraps.filter((each) => each !== wrap));
  }

  /**
   * Calls `handler` in {@linkcode Engine.shutdown}, once the jobs have ended; at once, if that has
   * called the others already.
   */
  onShutdown(handler: () => unknown): void {
    if (this.#handled) void this.#guard(handler);
    else this.#shutdownHandlers.push(handler);
  }

  /**
   * Ends the engine. Services ({@linkcode Job.onStop}) are told to stop, and may run the jobs of
   * the clients they still have; then no job starts any more, running ones are given 5 s and
   * aborted after that, and all shutdown handlers run at once. A second call is the same call.
   *
   * @param options `drain`: how long services may take, in milliseconds. Default 10 000.
   * @returns A promise that settles within 15 s (5 s more than `drain`, where that is longer) and
   * does not reject: what a shutdown handler throws is logged.
   */
  shutdown(options: { drain?: number } = {}): Promise<void> {
    return this.#shutdown ??= this.#end(options.drain ?? SHUTDOWN_TIMEOUT - JOBS_TIMEOUT);
  }

  async #end(drain: number): Promise<void> {
    const deadline = Date.now() + Math.max(SHUTDOWN_TIMEOUT, drain + JOBS_TIMEOUT);
    this.#stop.abort(new TypedError("unavailable", "the engine is shutting down"));
    const services = [...this.#running].filter((job) => job[STOP] !== undefined);
    if (services.length > 0) {
      const stopped = services.flatMap((job) =>
        job[STOP]!.map((stop) => this.#guard(() => stop(drain)))
      );
      await within(drain + 1_000, Promise.all([...stopped, ...services.map((job) => job[ENDED])]));
    }
    this.#shut = true;
    const patience = Math.min(JOBS_TIMEOUT, (deadline - Date.now()) / 2);
    await within(patience, Promise.all([...this.#running].map((job) => job[ENDED])));
    for (const job of [...this.#running]) {
      this.log("warn", `job ${job.name} still runs at shutdown`);
      job.abort(this.stopping.reason);
    }
    this.#handled = true;
    const handlers = this.#shutdownHandlers.map((handler) => this.#guard(handler));
    if (!await within(deadline - Date.now(), Promise.all(handlers))) {
      this.log("warn", "shutdown handlers took too long");
    }
  }

  async #guard(handler: () => unknown): Promise<void> {
    try {
      await handler();
    } catch (error) {
      this.log("error", `shutdown handler: ${messageOf(error)}`);
    }
  }

  #names(): string {
    return [...this.#handlers.keys()].sort().map((name) => name + "\n").join("");
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
    logs: (level) => LEVELS.indexOf(level) >= this.#leastLogged,
    stopNow: (stop) => void this.#guard(() => stop(0)),
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
 * The jobs that run, linked through themselves: a Set would give each job a hash, which costs more than
 * all else that the engine does for one.
 */
class Running implements Iterable<Job> {
  size = 0;
  #first?: Job;
  #last?: Job;

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
  /** The oldest first. None may end meanwhile: whoever lets them takes a copy. */
  *[Symbol.iterator](): Generator<Job> {
    for (let job = this.#first; job; job = job[NEXT]) yield job;
  }
}

interface EngineInternals {
  begin(job: Job): Handler | undefined;
  logs(level: LogLevel): boolean;
  end(job: Job): void;
  stopNow(stop: (drain: number) => unknown): void;
}

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
  /** Set by whoever runs a job for each request: its start and end are logged at level debug. */
  quiet = false;
  /**
   * On whose behalf it runs, as a process has a user: for a request from a client that has proven who it
   * is, the subject of its certificate (RFC 4514), such as `CN=alice,O=Ops`. Undefined where nobody asked.
   */
  user?: string;
  #internals: EngineInternals;
  #env?: Env;
  #stdin?: Input;
  #stdout?: Output;
  #stderr?: Output;
  #lastWords?: TailSink;
  #cause?: unknown;
  #started = false;
  #endTime?: number;
  #abort?: AbortController;
  #abortSource?: () => AbortSignal;
  #ended?: PromiseWithResolvers<void>;
  /** @internal */
  [STOP]?: ((drain: number) => unknown)[];
  /** @internal */
  [PREVIOUS]?: Job;
  /** @internal */
  [NEXT]?: Job;

  /** @internal Use {@linkcode Engine.job}. */
  constructor(engine: Engine, internals: unknown, name: string, args: string[]) {
    this.engine = engine;
    this.#internals = internals as EngineInternals;
    this.name = name;
    this.args = args;
  }

  // Most jobs of a busy daemon need one or two of these, so each is made when it is first asked for.

  /** When the job ended. */
  get endTime(): Date | undefined {
    return this.#endTime === undefined ? undefined : new Date(this.#endTime);
  }
  /** The environment. */
  get env(): Env {
    return this.#env ??= new Env();
  }
  /** What the job reads. */
  get stdin(): Input {
    return this.#stdin ??= new Input();
  }
  /** What the job says. */
  get stdout(): Output {
    return this.#stdout ??= new Output();
  }
  /** What the job complains of. */
  get stderr(): Output {
    if (this.#stderr === undefined) {
      this.#lastWords = new TailSink(1);
      this.#stderr = new Output(this.#lastWords);
    }
    return this.#stderr;
  }
  /** Aborted when nobody wants the job's work any more, for example because its client left. */
  get signal(): AbortSignal {
    if (this.#abort === undefined) {
      this.#abort = new AbortController();
      const source = this.#abortSource?.();
      if (source?.aborted) this.abort(source.reason);
      else source?.addEventListener("abort", () => this.abort(source.reason), { once: true });
    }
    return this.#abort.signal;
  }

  /** Aborts {@linkcode Job.signal}. The job goes on until its handler returns. */
  abort(reason?: unknown): void {
    (this.#abort ??= new AbortController()).abort(reason);
  }

  /**
   * Lets {@linkcode Job.signal} follow another signal, which is asked for only if the job looks at
   * its own.
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
    // The engine has asked already; a service that starts so late ends at once.
    if (this.engine.stopping.aborted) this.#internals.stopNow(stop);
  }

  /** @internal Resolves when the job has ended. */
  get [ENDED](): Promise<void> {
    this.#ended ??= Promise.withResolvers();
    return this.#ended.promise;
  }

  /** Writes to stdout. Like {@linkcode Output.write}. */
  print(text: string): Promise<void> {
    // Where nobody has asked for stdout, nobody is attached to it.
    return this.#stdout === undefined ? DONE : this.#stdout.write(text);
  }

  /**
   * Writes a line to stderr and gives the status to return: `return job.error("no such thing")`.
   * The error becomes the `cause` of what {@linkcode Job.run} rejects with.
   */
  error(problem: unknown): Status {
    if (problem instanceof Error) this.#cause ??= problem;
    this.stderr.write(messageOf(problem) + "\n");
    return Status.Err;
  }

  /**
   * Runs the handler and closes the job's streams. A job whose handler neither waits for anything nor
   * gives a promise of its own has ended, and has its {@linkcode Job.status}, when this returns.
   *
   * @throws {TypedError} ("unavailable") If the engine is shut down.
   * @throws {TypeError} If the job has run before.
   * @throws {JobError} If the exit status is not 0. The message is the last line of stderr.
   */
  run(): Promise<void> {
    // No async function: most jobs of a busy daemon end in one go, and a promise a step is what they
    // would mostly be made of.
    let handler: Handler | undefined;
    try {
      if (this.#started) throw new TypeError(`job ${this.name} has run already`);
      handler = this.#internals.begin(this);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#started = true;
    if (this.#logs) this.engine.log(this.#level, `+job ${this}`);
    if (handler === undefined) {
      this.error(`${this.name}: command not found`);
      return this.#finish(Status.NotFound);
    }
    let result: ReturnType<Handler>;
    try {
      result = handler(this);
      // What print() gives where nobody had to be waited for is as good as nothing.
      if (result === undefined || result === DONE) result = Status.OK;
      if (typeof result === "number") return this.#finish(this.#checked(result));
    } catch (error) {
      return this.#finish(this.#thrown(error));
    }
    return this.#wait(result);
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
    return this.error(error);
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
      // stderr last: a job's output that could not be delivered is said there.
      await closing;
    } catch (error) {
      this.#cause ??= error;
      const failed = this.error(error);
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
      if (this.#logs) this.engine.log(this.#level, `-job ${this} = OK (0)`);
      return DONE;
    }
    const lastWords = this.#lastWords?.text ?? "";
    if (this.#logs) {
      const label = status === Status.NotFound ? "NotFound" : "Err";
      const why = lastWords && ": " + lastWords;
      this.engine.log(this.#level, `-job ${this} = ${label} (${status})${why}`);
    }
    return Promise.reject(
      new JobError(this.name, status, lastWords || `${this.name}: exit status ${status}`, {
        cause: this.#cause,
      }),
    );
  }

  get #level(): LogLevel {
    return this.quiet ? "debug" : "info";
  }
  /** Whether anybody wants to read of its start and end; else their lines are not even made. */
  get #logs(): boolean {
    return this.#internals.logs(this.#level);
  }

  /** `name(arg, arg)`, as in the log. */
  toString(): string {
    return `${this.name}(${this.args.join(", ")})`;
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

/** An ordered set of strings by name. A key may be set again: the last value wins, all are kept. */
export class Env {
  #values = new Map<string, string[]>();

  /** The last value set under `key`, or `""`. */
  get(key: string): string {
    return this.#values.get(key)?.at(-1) ?? "";
  }
  /** Sets `key` to `value`; what it was set to before stays in {@linkcode Env.toMultiMap}. */
  set(key: string, value: string): void {
    const values = this.#values.get(key);
    if (values) values.push(value);
    else this.#values.set(key, [value]);
  }
  /** Whether `key` was ever set. */
  has(key: string): boolean {
    return this.#values.has(key);
  }
  /** How many different keys are set. */
  get size(): number {
    return this.#values.size;
  }

  /** False for `""`, `0`, `no`, `false` and `none` in any case, and where unset; else true. */
  getBool(key: string): boolean {
    return !["", "0", "no", "false", "none"].includes(this.get(key).trim().toLowerCase());
  }
  /** Sets `1` or `0`. */
  setBool(key: string, value: boolean): void {
    this.set(key, value ? "1" : "0");
  }

  /**
   * The value as a decimal integer; 0 where it is not one.
   *
   * @throws {RangeError} If it is an integer that a number cannot hold exactly; `get` still gives
   * all its digits.
   */
  getInt(key: string): number {
    const text = this.get(key).trim();
    if (!/^[+-]?\d+$/.test(text)) return 0;
    const value = Number(text);
    if (Number.isSafeInteger(value)) return value + 0;
    throw new RangeError(
      `${key}=${text} is out of range, expected an integer between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER}`,
    );
  }
  /**
   * Sets the decimal digits of an integer.
   *
   * @throws {RangeError} If the number is not a safe integer. A bigint may be of any size.
   */
  setInt(key: string, value: number | bigint): void {
    if (typeof value === "number" && !Number.isSafeInteger(value)) {
      throw new RangeError(`cannot set ${key} to ${value}, expected a safe integer or a bigint`);
    }
    this.set(key, String(value));
  }

  /** A JSON array as a list (elements that are no strings as their JSON text), else one string. */
  getList(key: string): string[] {
    const text = this.get(key);
    if (text === "") return [];
    const parsed = tryParse(text, keepDigits);
    if (!Array.isArray(parsed?.value)) return [text];
    return parsed.value.map((item) => typeof item === "string" ? item : toJson(item));
  }
  /** Sets a JSON array of strings. */
  setList(key: string, value: readonly string[]): void {
    this.setJson(key, value);
  }

  /**
   * The value parsed as JSON, or undefined where unset.
   *
   * @throws {SyntaxError} If it is not JSON.
   */
  getJson(key: string): unknown {
    if (!this.has(key)) return undefined;
    try {
      return JSON.parse(this.get(key));
    } catch (error) {
      throw new SyntaxError(`${key} is not JSON: ${messageOf(error)}`, { cause: error });
    }
  }
  /**
   * Sets the JSON text of a value.
   *
   * @throws {TypeError} If the value has no JSON text (undefined, a function, a cycle).
   */
  setJson(key: string, value: unknown): void {
    const text = toJson(value);
    if (text === undefined) throw new TypeError(`cannot set ${key}: the value has no JSON form`);
    this.set(key, text);
  }

  /** A JSON object as an Env of its own; undefined where unset or anything else. */
  getSubEnv(key: string): Env | undefined {
    const parsed = tryParse(this.get(key));
    return isObject(parsed?.value) ? Env.decode(this.get(key)) : undefined;
  }
  /** Sets the JSON object of another Env. */
  setSubEnv(key: string, value: Env): void {
    this.set(key, value.encode());
  }

  /** Drops null and undefined, sets a string as it is, and anything else as its JSON text. */
  setAuto(key: string, value: unknown): void {
    if (value === null || value === undefined) return;
    if (typeof value === "string") this.set(key, value);
    else this.setJson(key, value);
  }

  /** The last value of each key, in the order the keys were first set. */
  toObject(): Record<string, string> {
    // Object.fromEntries defines own properties, so that a key such as __proto__ is only a key.
    return Object.fromEntries(this);
  }
  /** Every value of each key, in the order set. */
  toMultiMap(): Map<string, string[]> {
    return new Map([...this.#values].map(([key, values]) => [key, [...values]]));
  }
  /** The keys with their last values, in the order the keys were first set. */
  *[Symbol.iterator](): Generator<[string, string]> {
    for (const [key, values] of this.#values) yield [key, values[values.length - 1]];
  }

  /**
   * A JSON object on one line. Values that are JSON themselves are written as they are, so that an
   * integer keeps all its digits; the others as strings.
   */
  encode(): string {
    let text = "{";
    for (const [key, value] of this) {
      if (text !== "{") text += ",";
      text += JSON.stringify(key) + ":" +
        (tryParse(value) ? compact(value) : JSON.stringify(value));
    }
    return text + "}";
  }
  /**
   * The Env of a JSON object's members, by {@linkcode Env.setAuto}. Numbers keep their digits. Keys
   * that are integers come first, as in every JavaScript object.
   *
   * @throws {SyntaxError} If the text is not a JSON object.
   */
  static decode(text: string): Env {
    let value: unknown;
    try {
      value = parseJson(text, keepDigits);
    } catch (error) {
      throw new SyntaxError(`expected a JSON object: ${messageOf(error)}`, { cause: error });
    }
    if (!isObject(value) || isRawJSON(value)) {
      throw new SyntaxError(`expected a JSON object, got ${compact(text).slice(0, 40)}`);
    }
    const env = new Env();
    for (const [key, member] of Object.entries(value)) env.setAuto(key, member);
    return env;
  }
}

// JSON.parse source text access (ES2026): a number that JavaScript would print differently from how
// it was written is kept as it was written.
const { parse: parseJson, rawJSON, isRawJSON } = JSON as unknown as {
  parse(text: string, reviver?: Reviver): unknown;
  rawJSON(text: string): unknown;
  isRawJSON(value: unknown): boolean;
};
type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
function keepDigits(_key: string, value: unknown, context: { source?: string }): unknown {
  return typeof value === "number" && context.source !== undefined &&
      String(value) !== context.source
    ? rawJSON(context.source)
    : value;
}

function toJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, part) => typeof part === "bigint" ? rawJSON(`${part}`) : part,
  );
}

function tryParse(text: string, reviver?: Reviver): { value: unknown } | undefined {
  try {
    return { value: parseJson(text, reviver) };
  } catch {
    return undefined; // The question was whether it is JSON, and it is not.
  }
}

/** JSON text without the white space between its tokens. */
function compact(json: string): string {
  // A token at a time: a pattern for a whole string overflows the stack where that has megabytes.
  let quoted = false;
  return json.replace(/\\.|"|\s+/g, (token) => {
    if (token === '"') quoted = !quoted;
    return quoted || token === '"' ? token : "";
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** What a job reads: one source, or nothing. */
export class Input {
  #source?: ReadableStream<Uint8Array>;
  #added = false;
  #text?: "reading" | "read";

  /**
   * Attaches the source.
   *
   * @throws {TypeError} If there is one already.
   */
  add(source: ReadableStream<Uint8Array> | Uint8Array | string): void {
    if (this.#added) throw new TypeError("the input has a source already");
    this.#added = true;
    this.#source = source instanceof ReadableStream ? source : streamOf(source);
  }
  /** Whether a source is attached. */
  get used(): boolean {
    return this.#added;
  }
  /** Whether somebody reads from it now. */
  get reading(): boolean {
    // A source that was read to its end by text() stays locked.
    return this.#text ? this.#text === "reading" : this.#source?.locked === true;
  }
  /** The source as a stream; empty where none is attached. */
  get readable(): ReadableStream<Uint8Array> {
    return this.#source ??= streamOf("");
  }
  /** All of it, decoded as UTF-8. */
  async text(): Promise<string> {
    this.#text = "reading";
    try {
      return await new Response(this.readable as ReadableStream<Uint8Array<ArrayBuffer>>).text();
    } finally {
      this.#text = "read";
    }
  }
  /** All of it, parsed as JSON. Rejects with a SyntaxError if it is none. */
  async json(): Promise<unknown> {
    return JSON.parse(await this.text());
  }
  /** Tells the source that nobody will read on. A source that somebody reads at is left to them. */
  async close(): Promise<void> {
    const source = this.#source;
    if (source === undefined || source.locked) return;
    // A source that broke has told whoever read from it.
    await source.cancel().catch(() => {});
  }
}

function streamOf(data: Uint8Array | string): ReadableStream<Uint8Array> {
  const bytes = typeof data === "string" ? encoder.encode(data) : data;
  return new ReadableStream({
    start(controller) {
      if (bytes.length > 0) controller.enqueue(bytes);
      controller.close();
    },
  });
}

/** Something that takes bytes, and may be closed. What it throws or rejects with is reported. */
export interface Sink {
  /** Takes a chunk. The next one is not written before the promise resolves. */
  write(chunk: Uint8Array): void | Promise<void>;
  /** The same for what was written as text, where that is wanted as it is. Default: its UTF-8 bytes. */
  writeText?(text: string): void | Promise<void>;
  /** Called once, after the last chunk. */
  close?(): void | Promise<void>;
}

/** The last lines that an {@linkcode Output} was written. */
export interface Tail {
  /** The lines so far, without the final newline. */
  readonly text: string;
}

const encoder = new TextEncoder();
/** Every promise of something that is done already, so that a caller may see that it is. */
const DONE = Promise.resolve();
const NOBODY: readonly Sink[] = [];
/** As much as a pipe of Linux holds (pipe(7)) before its writer has to wait. */
const PIPE_SIZE = 65_536;

/** What a job writes: any number of destinations; with none, what is written is discarded. */
export class Output {
  #sinks: readonly Sink[] = NOBODY;
  #queue?: Promise<void>;
  #failure?: { error: unknown };
  #closed?: Promise<void>;
  #observer?: TailSink;

  /** An output with no destination. A job's streams are made by the job. */
  constructor(observer?: unknown) {
    // Sees what is written whatever the destinations are, and is none itself.
    this.#observer = observer as TailSink | undefined;
  }

  /** Attaches a destination. It is closed with the output. */
  add(destination: WritableStream<Uint8Array> | Sink): void {
    // Told apart without the class, which the runtime loads only when somebody names it.
    if ("getWriter" in destination) {
      const writer = destination.getWriter();
      // The writer's own promise rejects as well when a write does; the write is what we report.
      writer.closed.catch(() => {});
      this.add({
        write: (chunk) => writer.write(chunk),
        close: () => writer.close(),
      });
    } else {
      // A new list, so that what is being written goes to those who were there.
      this.#sinks = [...this.#sinks, destination];
    }
  }
  /** Makes `destination` the only one. Those before are not closed. */
  set(destination: WritableStream<Uint8Array> | Sink): void {
    this.#sinks = NOBODY;
    this.add(destination);
  }
  /** Whether anything is attached. */
  get used(): boolean {
    return this.#sinks.length > 0;
  }

  /** Whether something was written that a destination has not taken yet. */
  get pending(): boolean {
    return this.#queue !== undefined;
  }

  /** Attaches a pipe and gives its reading end. It holds 64 KiB; then writing waits for the reader. */
  addPipe(): ReadableStream<Uint8Array> {
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>(
      undefined,
      undefined,
      new ByteLengthQueuingStrategy({ highWaterMark: PIPE_SIZE }),
    );
    this.add(writable);
    return readable;
  }
  /** Keeps the last `n` lines. */
  addTail(n: number): Tail {
    const sink = new TailSink(n);
    this.add(sink);
    return sink;
  }
  /**
   * Gives an Env that holds, once the output is closed, the last JSON object written. Text that is
   * no sequence of JSON objects makes {@linkcode Output.close} reject.
   */
  addEnv(): Env {
    const env = new Env();
    let last: Env | undefined;
    this.#addObjects((object) => last = object, () => {
      for (const [key, value] of last ?? []) env.set(key, value);
    });
    return env;
  }
  /** Gives a list that holds, once the output is closed, every JSON object written. See `addEnv`. */
  addTable(): Env[] {
    const table: Env[] = [];
    this.#addObjects((object) => void table.push(object));
    return table;
  }
  #addObjects(each: (object: Env) => void, end?: () => void): void {
    const decoder = new TextDecoder();
    const splitter = new ObjectSplitter((text) => each(Env.decode(text)));
    this.add({
      write: (chunk) => splitter.push(decoder.decode(chunk, { stream: true })),
      close() {
        splitter.push(decoder.decode());
        splitter.end();
        end?.();
      },
    });
  }

  /**
   * Writes to every destination, in order, each one's promise awaited before the next. After
   * {@linkcode Output.close} the data is accepted and reaches nobody.
   *
   * @returns A promise that rejects with the first error, after every destination was tried. One
   * that is not awaited ends no process: `close` reports the error again.
   */
  write(data: Uint8Array | string): Promise<void> {
    if (this.#closed) return DONE;
    const sinks = this.#sinks;
    if (sinks.length === 0 && this.#observer === undefined) return DONE;
    let chunk: Uint8Array | string;
    if (typeof data !== "string") {
      // A copy, because the caller may use its buffer again before everyone has taken what it holds.
      chunk = data.slice();
    } else if (this.#observer === undefined && sinks.every(takesText)) {
      chunk = data;
    } else {
      chunk = encoder.encode(data);
    }
    this.#observer?.write(chunk as Uint8Array);
    const delivered = this.#queue
      ? this.#queue.then(() => this.#deliver(chunk, sinks))
      : this.#deliver(chunk, sinks);
    if (delivered === undefined) return DONE;
    const settled = delivered.then(() => {}, () => {});
    this.#queue = settled;
    settled.then(() => {
      if (this.#queue === settled) this.#queue = undefined;
    });
    return delivered;
  }

  /** Undefined where every destination took the chunk at once, which spares most writes a promise. */
  #deliver(chunk: Uint8Array | string, sinks: readonly Sink[]): Promise<void> | undefined {
    let failure: { error: unknown } | undefined;
    for (let i = 0; i < sinks.length; i++) {
      try {
        const pending = give(sinks[i], chunk);
        if (pending !== undefined) return this.#deliverRest(chunk, sinks, i, pending, failure);
      } catch (error) {
        failure ??= { error };
      }
    }
    return failure && this.#fail(failure);
  }
  async #deliverRest(
    chunk: Uint8Array | string,
    sinks: readonly Sink[],
    i: number,
    pending: void | Promise<void>,
    failure?: { error: unknown },
  ): Promise<void> {
    for (;;) {
      try {
        await pending;
      } catch (error) {
        failure ??= { error };
      }
      if (++i === sinks.length) break;
      try {
        pending = give(sinks[i], chunk);
      } catch (error) {
        pending = undefined;
        failure ??= { error };
      }
    }
    if (failure) await this.#fail(failure);
  }
  #fail(failure: { error: unknown }): Promise<never> {
    // Whoever cancels a pipe need not say why, but whoever writes to it should read something.
    failure.error ??= new Error("the reader has gone away");
    this.#failure ??= failure;
    return Promise.reject(failure.error);
  }

  /**
   * Waits for what is being written and closes every destination. A second call is the same call.
   *
   * @returns A promise that rejects with the first error of writing or closing, after all are closed.
   */
  close(): Promise<void> {
    if (this.#closed === undefined) {
      // Most outputs of a busy daemon have nothing to wait for, and nothing to close.
      const settled = !this.#queue && !this.#failure && !this.#sinks.some(closes);
      this.#closed = settled ? DONE : this.#close();
    }
    return this.#closed;
  }
  async #close(): Promise<void> {
    if (this.#queue) await this.#queue;
    for (const sink of this.#sinks) {
      try {
        await sink.close?.();
      } catch (error) {
        this.#failure ??= { error };
      }
    }
    if (this.#failure) throw this.#failure.error;
  }
}

const takesText = (sink: Sink) => sink.writeText !== undefined;
const closes = (sink: Sink) => sink.close !== undefined;

/** Gives a sink a chunk; text only where it has said that it takes it. */
function give(sink: Sink, chunk: Uint8Array | string): void | Promise<void> {
  return typeof chunk === "string" ? sink.writeText!(chunk) : sink.write(chunk);
}

/** Keeps the last lines. */
class TailSink implements Sink, Tail {
  #n: number;
  #decoder = new TextDecoder();
  #kept = "";

  constructor(n: number) {
    this.#n = n;
  }
  write(chunk: Uint8Array): void {
    this.#kept += this.#decoder.decode(chunk, { stream: true });
    if (this.#kept.length > PIPE_SIZE) {
      this.#kept = tail(this.#kept, this.#n) + (this.#kept.endsWith("\n") ? "\n" : "");
    }
  }
  get text(): string {
    return tail(this.#kept, this.#n);
  }
}

/** Cuts a text of JSON objects, one after another, into the text of each. */
class ObjectSplitter {
  #each: (text: string) => void;
  #text = "";
  #seen = 0;
  #depth = 0;
  #quoted = false;
  #escaped = false;

  constructor(each: (text: string) => void) {
    this.#each = each;
  }

  push(text: string): void {
    this.#text += text;
    for (; this.#seen < this.#text.length; this.#seen++) {
      const char = this.#text[this.#seen];
      if (this.#quoted) {
        if (this.#escaped) this.#escaped = false;
        else if (char === "\\") this.#escaped = true;
        else if (char === '"') this.#quoted = false;
      } else if (this.#depth === 0 && char !== "{") {
        if (!/\s/.test(char)) {
          throw new SyntaxError(
            `expected a JSON object, got ${this.#text.slice(this.#seen, this.#seen + 40)}`,
          );
        }
        this.#cut();
      } else if (char === '"') {
        this.#quoted = true;
      } else if (char === "{" || char === "[") {
        this.#depth++;
      } else if (char === "}" || char === "]") {
        if (--this.#depth === 0) this.#each(this.#cut());
      }
    }
  }

  end(): void {
    if (this.#depth > 0) throw new SyntaxError("a JSON object was not finished");
  }

  /** Takes the text up to and with the character just seen. */
  #cut(): string {
    const text = this.#text.slice(0, this.#seen + 1);
    this.#text = this.#text.slice(this.#seen + 1);
    this.#seen = -1;
    return text;
  }
}

/** The last `n` lines of a text, without the final newline; `""` where `n` is 0 or less. */
export function tail(text: string, n: number): string {
  if (n <= 0) return "";
  const end = text.endsWith("\n") ? text.length - 1 : text.length;
  let start = end;
  for (let lines = 0; lines < n && start >= 0; lines++) {
    start = start === 0 ? -1 : text.lastIndexOf("\n", start - 1);
  }
  return text.slice(start + 1, end);
}

/** An error's message, or the thing that was thrown as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message || error.name : String(error);
}

/** Whether `promise` settled within `ms` milliseconds, `Infinity` for any. Rejects if it does. */
export function within(ms: number, promise: Promise<unknown>): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const cancel = ms === Infinity ? () => {} : after(ms, () => resolve(false));
    promise.then(() => {
      cancel();
      resolve(true);
    }, (error) => {
      cancel();
      reject(error);
    });
  });
}

/** The most that a timer takes, in milliseconds: some 24.8 days. With more it fires at once. */
export const LONGEST = 2 ** 31 - 1;

/** Calls back after so many milliseconds, however many. Gives what calls it off. */
export function after(ms: number, callback: () => void): () => void {
  let timer: ReturnType<typeof setTimeout>;
  const wait = (left: number) => {
    timer = left > LONGEST
      ? setTimeout(() => wait(left - LONGEST), LONGEST)
      : setTimeout(callback, Math.max(0, left));
  };
  wait(ms);
  return () => clearTimeout(timer);
}
