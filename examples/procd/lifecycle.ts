/**
 * The life of containers: start, exit, restart, removal, and their record.
 *
 * @module
 */

import type { Job } from "../../mod.ts";
import {
  type Container,
  type Containers,
  isRunning,
  numberOf,
  signalOf,
  type State,
} from "./containers.ts";
import { type Daemon, failure, goTime, print, type Strings, subject } from "./daemon.ts";
import type { Ended, ProcessSpec, Started } from "./driver.ts";
import { notThere } from "./files.ts";
import { labelled, untilOf } from "./filters.ts";
import { containerOf, pids } from "./procfs.ts";
import { reaches, type User, userOf } from "./users.ts";

/** The default time to stop, in seconds. */
const STOP_TIMEOUT = 10;
/** How long a killed container may take to end, in milliseconds. */
const KILL_TIMEOUT = 10_000;
/** The first and the longest pause before a restart, in milliseconds. */
const BACKOFF = { first: 100, longest: 60_000 };
/** After this time of running the pause before a restart is reset, in milliseconds. */
const STEADY = 10_000;
/** How often a daemon that is not the owner looks for removed containers, in milliseconds. */
const LOOK = 50;
/** How often a replaced daemon checks whether its successor lives, in milliseconds. */
const WATCH = 500;
/** The exit status of a container whose real one is unknown: the machine or the supervisor died. */
const LOST = 255;

/** The options of stopping a container. */
export interface Stopping {
  /** How long it may take to end before it is killed, in seconds; negative for no limit. */
  seconds?: number | undefined;
  /** The signal that asks it to end. */
  signal?: string | undefined;
}

/** The condition of `docker wait`. */
export type Condition = "not-running" | "next-exit" | "removed";

/** Starts and stops containers, and records their exits. */
export class Lifecycle {
  readonly containers: Containers;
  #daemon: Daemon;
  /** Callbacks that wait for the next exit of a container. */
  #waiters = new Map<string, Set<(code?: number) => void>>();
  /** The starts in progress: the program may exit before its start is recorded. */
  #starting = new Map<string, Promise<unknown>>();
  #timers = new Map<string, ReturnType<typeof setTimeout>>();
  #pauses = new Map<string, number>();
  #watching: ReturnType<typeof setInterval> | undefined;
  #execEnded: (ended: Ended) => void = () => {};
  #changed: (container: Container) => void = () => {};

  /** The life of a daemon's containers. */
  constructor(containers: Containers) {
    this.containers = containers;
    this.#daemon = containers.daemon;
    this.#daemon.driver.onStart((started) => {
      this.#started(started).catch(this.#complain(`start of ${started.id}`));
    });
    this.#daemon.driver.onEnd((ended) => {
      this.#ended(ended).catch(this.#complain(`end of ${ended.id}`));
    });
    this.#daemon.engine.onShutdown(() => {
      for (const timer of this.#timers.values()) clearTimeout(timer);
      clearInterval(this.#watching);
    });
  }

  #complain(what: string): (error: Error) => void {
    return (error) => this.#daemon.engine.log("error", `${what}: ${error.stack ?? error}`);
  }

  /** Sets the callback for exits of execs. */
  onExecEnd(listener: (ended: Ended) => void): void {
    this.#execEnded = listener;
  }

  /** Sets the callback for starts and exits of containers. */
  onChange(listener: (container: Container) => void): void {
    this.#changed = listener;
  }

  /** At boot, updates the containers that ran when a daemon last saw them. */
  async restore(): Promise<void> {
    const running = new Map((await this.#daemon.driver.running()).map((each) => [each.id, each]));
    for (const container of this.containers.all()) {
      const { state, id } = container;
      const started = running.get(id);
      if (started?.run === state.run && state.ended < state.run) {
        if (!isRunning(container)) this.#adopt(started);
        const now = this.containers.get(id);
        if (now) this.#changed(now);
      } else if (state.ended < state.run && (isRunning(container) || this.#record(container))) {
        await this.#ended(this.#record(container) ?? lost(container));
        this.#killStrays(id);
      } else if (state.status === "restarting") {
        this.#startLater(id, 0);
      } else if (state.status === "exited" && wantsRestartAtBoot(container)) {
        this.containers.update(id, (each) => each.state.stopped = false);
        this.#startLater(id, 0);
      }
    }
  }

  /** The supervisor's record of the last exit. */
  #record({ id, state }: Container): Ended | undefined {
    const ended = recorded(this.#recordPath(id));
    return ended?.run === state.run ? ended : undefined;
  }

  #recordPath(id: string): string {
    return `${this.#daemon.folderOf(id)}/ended.json`;
  }

  /** Kills what is left of a container whose main process died without the supervisor. */
  #killStrays(id: string): void {
    for (const pid of pids()) {
      if (containerOf(pid) !== id) continue;
      try {
        Deno.kill(pid, "SIGKILL");
      } catch (error) {
        notThere(error);
      }
    }
  }

  /** Records the exits of all running programs when the supervisor has died. */
  async lost(): Promise<void> {
    this.#daemon.engine.log("error", "the supervisor has ended, and with it all that ran");
    for (const container of this.containers.all()) {
      if (!isRunning(container)) continue;
      this.#killStrays(container.id);
      await this.#ended(this.#record(container) ?? lost(container));
    }
  }

  #adopt({ id, run, pid, startTime, startedAt }: Started): Container | undefined {
    return this.containers.update(id, ({ state }) => {
      // Its exit may be recorded by now.
      if (state.run !== run || state.ended >= run) return;
      const now: Partial<State> = { status: "running", pid, startTime, startedAt };
      Object.assign(state, now, { code: 0, error: "" });
    });
  }

  /**
   * Starts a container. Returns false if it runs already.
   *
   * @throws {TypedError} If it cannot be started; its record has the reason too.
   */
  start(id: string): Promise<boolean> {
    return this.#daemon.alone(id, () => this.#start(id, true));
  }

  async #start(id: string, asked: boolean): Promise<boolean> {
    const container = this.containers.find(id);
    if (container.state.status === "paused") {
      throw failure("conflict", "cannot start a paused container, try unpause instead");
    }
    if (container.state.status === "running") return false;
    this.#cancelRestart(id);
    if (asked) this.#pauses.delete(id);
    await this.#daemon.prepared(id);
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#starting.set(id, promise);
    try {
      let spec: ProcessSpec;
      let started: Started;
      const run = container.state.run + 1;
      try {
        spec = this.#spec(container, run);
        this.containers.update(id, ({ state }) => {
          state.run = run;
          if (asked) Object.assign(state, { restarts: 0, stopped: false });
          delete state.health;
        });
        started = await this.#daemon.driver.start(spec);
      } catch (error) {
        await this.#failed(id, run, (error as Error).message);
        throw error;
      }
      const now = this.#adopt(started);
      if (now) {
        await this.containers.tell("start", now);
        if (isRunning(now)) this.#changed(now);
      } else {
        await this.#daemon.driver.signal(id, "SIGKILL"); // It was removed meanwhile.
      }
      return true;
    } finally {
      this.#starting.delete(id);
      resolve();
    }
  }

  /** Records a start that another daemon requested; that one may have died before it was told. */
  async #started(started: Started): Promise<void> {
    const { id } = started;
    if (id !== started.container || this.#starting.has(id)) return;
    const before = this.containers.get(id);
    if (!before || isRunning(before)) return;
    const now = this.#adopt(started);
    if (!now || !isRunning(now)) return;
    await this.containers.tell("start", now);
    this.#changed(now);
  }

  /** Records a failed start. */
  async #failed(id: string, run: number, message: string): Promise<void> {
    const code = codeOf(message);
    const container = this.containers.update(id, ({ state }) => {
      const status = state.status === "restarting" ? "exited" : state.status;
      Object.assign(state, { status, run, ended: run, code, error: message });
    });
    if (container?.host.AutoRemove === true) await this.containers.remove(container, true);
    this.#wake(id, code);
  }

  #spec(container: Container, run: number): ProcessSpec {
    const { id, config, host } = container;
    const [rows, columns] = (host.ConsoleSize ?? [0, 0]) as [number, number];
    return {
      ...this.program(container, { args: container.args }),
      id,
      run,
      terminal: config.Tty === true,
      size: rows > 0 && columns > 0 ? [rows, columns] : undefined,
      stdin: !config.OpenStdin ? "none" : config.StdinOnce ? "once" : "open",
      log: { folder: this.#daemon.folderOf(id), limits: container.limits },
      record: this.#recordPath(id),
    };
  }

  /**
   * What to run in a container, and as whom: its own program, or one beside it.
   *
   * @throws {TypedError} ("bad parameter") If there is no such user, or it cannot be executed.
   */
  program(
    container: Container,
    given: { args: string[]; env?: string[]; user?: string; cwd?: string },
  ): Pick<ProcessSpec, "container" | "args" | "env" | "cwd" | "uid" | "gid"> {
    const { config, id } = container;
    const { args } = given;
    const user = userOf(given.user || config.User || "");
    const env = this.#environment(container, user.home, given.env);
    const cwd = this.#workingFolder(id, given.cwd || config.WorkingDir || "", user);
    checkProgram(args[0] ?? "", env.PATH ?? "", cwd);
    const { uid, gid } = user;
    const other = uid !== Deno.uid() || gid !== Deno.gid();
    return { container: id, args, env, cwd, ...other && { uid, gid } };
  }

  /** The environment of a program in a container. */
  #environment(container: Container, home: string, extra: readonly string[] = []): Strings {
    const { id, config, mounts } = container;
    const env: Strings = {
      PATH: Deno.env.get("PATH") ?? "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
      HOME: home,
      HOSTNAME: config.Hostname || id.slice(0, 12),
      ...config.Tty && { TERM: "xterm" },
      CONTAINER_FILES: this.#daemon.filesOf(id),
    };
    for (const { Destination, Source } of mounts) env[variableOf(Destination)] = Source;
    for (const each of [...config.Env ?? [], ...extra]) {
      const at = each.indexOf("=");
      if (at > 0) env[each.slice(0, at)] = each.slice(at + 1);
      else delete env[each]; // A name without value removes the variable.
    }
    return env;
  }

  /** The working directory of a program, on this machine or else in the container's folder. */
  #workingFolder(id: string, wanted: string, user: User): string {
    const files = this.#daemon.filesOf(id);
    // Other users may not be able to enter the state directory.
    if (wanted === "" || wanted === "/") return reaches(user, files) ? files : "/";
    const absolute = wanted.startsWith("/") ? wanted : `${files}/${wanted}`;
    try {
      if (Deno.statSync(absolute).isDirectory) return absolute;
    } catch (error) {
      notThere(error);
    }
    const own = `${files}/${wanted.split("/").filter((part) => part !== "..").join("/")}`;
    Deno.mkdirSync(own, { recursive: true });
    return own;
  }

  async #ended(ended: Ended): Promise<void> {
    if (ended.id !== ended.container) return this.#execEnded(ended);
    await this.#starting.get(ended.id);
    const { id } = ended;
    if (!this.#daemon.store.owned) return this.#leave(ended);
    let first = false;
    const container = this.containers.update(id, ({ state }) => {
      if (state.run !== ended.run || state.ended >= ended.run) return;
      first = true;
      const { run, code, startedAt, finishedAt } = ended;
      Object.assign(state, { status: "exited", ended: run, pid: 0, code, startedAt, finishedAt });
      if (ended.pid === 0) state.error = "its supervisor, or the machine, has ended";
    });
    if (!container || !first) return this.#wake(id, ended.code);
    const duration = Date.parse(ended.finishedAt) - Date.parse(ended.startedAt);
    await this.containers.tell("die", container, {
      exitCode: String(ended.code),
      execDuration: String(Math.max(0, Math.floor(duration / 1_000))),
    });
    this.#changed(container);
    if (this.#wantsRestart(container)) {
      const pause = duration > STEADY ? 0 : this.#pauses.get(id) ?? 0;
      const next = Math.min(Math.max(BACKOFF.first, 2 * pause), BACKOFF.longest);
      this.#pauses.set(id, next);
      this.containers.update(id, ({ state }) => {
        state.status = "restarting";
        state.restarts++;
      });
      this.#startLater(id, next);
    } else if (container.host.AutoRemove === true) {
      await this.containers.remove(container, true);
    }
    this.#wake(id, ended.code);
  }

  /** Leaves an exit to the owner while that lives, and wakes the jobs that wait for it. */
  #leave(ended: Ended): void {
    this.#wake(ended.id, ended.code);
    if (this.#watching !== undefined) return;
    this.#watching = setInterval(() => {
      if (!this.#daemon.store.owned) return;
      clearInterval(this.#watching);
      this.#watching = undefined;
      this.restore().catch(this.#complain("taking over again"));
    }, WATCH);
  }

  #wantsRestart({ restart, state }: Container): boolean {
    if (state.stopped || this.#daemon.engine.stopping.aborted) return false;
    switch (restart.Name) {
      case "always":
      case "unless-stopped":
        return true;
      case "on-failure":
        return state.code !== 0 &&
          (restart.MaximumRetryCount === 0 || state.restarts < restart.MaximumRetryCount);
      default:
        return false;
    }
  }

  #startLater(id: string, pause: number): void {
    this.#cancelRestart(id);
    this.#timers.set(
      id,
      setTimeout(() => {
        this.#timers.delete(id);
        if (!this.#daemon.store.owned) return;
        this.#daemon.alone(id, async () => {
          if (this.containers.get(id)?.state.stopped === false) await this.#start(id, false);
        }).catch((error) => {
          this.#daemon.engine.log("warn", `restart of ${id}: ${error.message}`);
          this.#wake(id);
        });
      }, pause),
    );
  }

  #cancelRestart(id: string): void {
    clearTimeout(this.#timers.get(id));
    this.#timers.delete(id);
  }

  /** @param code Its exit status, if it has ended, because its record may be gone. */
  #wake(id: string, code?: number): void {
    const waiters = this.#waiters.get(id);
    this.#waiters.delete(id);
    for (const wake of waiters ?? []) wake(code);
  }

  /** Resolves at the next exit of a container; `cancel` stops waiting. */
  #nextEnd(id: string): { ended: Promise<number | undefined>; cancel: () => void } {
    const { promise, resolve } = Promise.withResolvers<number | undefined>();
    let waiters = this.#waiters.get(id);
    if (!waiters) this.#waiters.set(id, waiters = new Set());
    waiters.add(resolve);
    return {
      ended: promise,
      cancel: () => {
        waiters.delete(resolve);
        resolve(undefined);
      },
    };
  }

  /** Waits until a container has stopped, up to `ms` milliseconds. Returns whether it has. */
  async #untilEnded(id: string, ms: number): Promise<boolean> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    for (const deadline = Date.now() + ms;;) {
      const { ended, cancel } = this.#nextEnd(id);
      const container = this.containers.get(id);
      if (!container || !isRunning(container)) return cancel(), true;
      const left = deadline - Date.now();
      if (left <= 0) return cancel(), false;
      const look = this.#daemon.store.owned ? 2 ** 31 - 1 : LOOK;
      timer = setTimeout(cancel, Math.min(left, look));
      await ended;
      clearTimeout(timer);
    }
  }

  /**
   * Waits for a condition of a container, and returns its exit status.
   *
   * @param started Called once no later exit can be missed.
   */
  async wait(
    id: string,
    condition: Condition,
    started: () => Promise<void>,
    signal: AbortSignal,
  ): Promise<number> {
    let code = 0;
    const look = () => {
      const container = this.containers.get(id);
      if (container) code = container.state.code;
      return container;
    };
    let next = this.#nextEnd(id);
    const abort = () => next.cancel();
    signal.addEventListener("abort", abort);
    try {
      let container = look();
      await started();
      for (let first = true;; first = false) {
        if (signal.aborted) return code;
        if (!container) return code;
        const rests = !isRunning(container) && container.state.status !== "restarting";
        if (condition === "not-running" && rests) return code;
        if (condition === "next-exit" && !first) return code;
        // Another daemon may record its exit and remove it without notice to this one.
        const poll = condition !== "next-exit" && !this.#daemon.store.owned
          ? setTimeout(() => next.cancel(), LOOK)
          : undefined;
        const ended = await next.ended;
        clearTimeout(poll);
        next = this.#nextEnd(id);
        container = look();
        // Its record may be gone, or not yet written by the other daemon.
        code = ended ?? code;
      }
    } finally {
      signal.removeEventListener("abort", abort);
      next.cancel();
    }
  }

  /** Stops a container. Returns false if it does not run. */
  stop(id: string, given: Stopping): Promise<boolean> {
    return this.#daemon.alone(id, () => this.#stop(id, given));
  }

  async #stop(id: string, given: Stopping): Promise<boolean> {
    const container = this.#giveUp(id);
    if (!container || !isRunning(container)) {
      this.#wake(id); // It may be pausing before a restart.
      return false;
    }
    const signal = signalOf(given.signal || container.config.StopSignal || "SIGTERM");
    const seconds = given.seconds ?? container.config.StopTimeout ?? STOP_TIMEOUT;
    await this.#signal(container, signal);
    if (container.state.status === "paused") await this.#daemon.driver.signal(id, "SIGCONT", true);
    const patience = seconds < 0 ? Infinity : seconds * 1_000;
    if (!await this.#untilEnded(id, patience)) await this.#end(container);
    await this.containers.tell("stop", container);
    return true;
  }

  /** Prevents further restarts of a container. */
  #giveUp(id: string): Container | undefined {
    this.#cancelRestart(id);
    return this.containers.update(id, ({ state }) => {
      state.stopped = true;
      if (state.status === "restarting") state.status = "exited";
    });
  }

  /** Kills a container. */
  async #end(container: Container): Promise<void> {
    await this.#signal(container, "SIGKILL");
    if (await this.#untilEnded(container.id, KILL_TIMEOUT)) return;
    throw failure("unavailable", `container ${container.id} does not end, although it was killed`);
  }

  async #signal(container: Container, signal: Deno.Signal): Promise<void> {
    // All its processes end with the main one.
    await this.#daemon.driver.signal(container.id, signal);
    await this.containers.tell("kill", container, { signal: String(numberOf(signal)) });
  }

  /** Sends a signal to a container's main process. */
  async kill(id: string, name: string): Promise<void> {
    const signal = signalOf(name || "SIGKILL");
    const container = this.containers.find(id);
    if (!isRunning(container)) {
      throw failure(
        "conflict",
        `cannot kill container: ${container.name}: container ${id} is not running`,
      );
    }
    const stopSignal = container.config.StopSignal && signalOf(container.config.StopSignal);
    // A container that a client has killed is not restarted.
    if (signal === "SIGKILL" || signal === (stopSignal ?? signal)) {
      this.containers.update(id, ({ state }) => state.stopped = true);
    }
    await this.#signal(container, signal);
    if (signal === "SIGKILL") await this.#untilEnded(id, KILL_TIMEOUT);
  }

  /** Stops and starts a container. */
  async restart(id: string, given: Stopping): Promise<void> {
    await this.#daemon.alone(id, async () => {
      const { AutoRemove } = this.containers.find(id).host;
      if (AutoRemove) this.containers.update(id, ({ host }) => host.AutoRemove = false);
      try {
        await this.#stop(id, given);
      } finally {
        if (AutoRemove) this.containers.update(id, ({ host }) => host.AutoRemove = true);
      }
      await this.#start(id, true);
    });
    const container = this.containers.get(id);
    if (container) await this.containers.tell("restart", container);
  }

  /** Pauses or resumes all processes of a container. */
  async pause(id: string, pause: boolean): Promise<void> {
    await this.#daemon.alone(id, async () => {
      const { state, name } = this.containers.find(id);
      if (pause && state.status === "paused") {
        throw failure("conflict", `Container ${id} is already paused`);
      }
      if (state.status !== (pause ? "running" : "paused")) {
        throw failure("conflict", `Container ${name} is not ${pause ? "running" : "paused"}`);
      }
      await this.#daemon.driver.signal(id, pause ? "SIGSTOP" : "SIGCONT", true);
      const container = this.containers.update(id, ({ state }) => {
        if (state.ended < state.run) state.status = pause ? "paused" : "running";
      });
      if (container) await this.containers.tell(pause ? "pause" : "unpause", container);
    });
  }

  /** Removes a container; with `force` kills it before. */
  async remove(id: string, options: { force: boolean; volumes: boolean }): Promise<void> {
    for (let again = true; again;) {
      const container = options.force ? this.#giveUp(id) : undefined;
      if (container && isRunning(container)) await this.#end(container);
      again = await this.#daemon.alone(id, async () => {
        const container = this.containers.get(id);
        if (!container) return false; // It has removed itself.
        if (isRunning(container) || container.state.status === "restarting") {
          if (options.force) return true; // It was started meanwhile.
          throw failure(
            "conflict",
            `cannot remove container "/${container.name}": container is ${container.state.status}: stop the container before removing or force remove`,
          );
        }
        await this.containers.remove(container, options.volumes);
        return false;
      });
    }
    this.#wake(id);
  }
}

/** Whether a container that ended while no daemon ran is restarted, as in dockerd. */
function wantsRestartAtBoot({ restart, state }: Container): boolean {
  if (state.run === 0) return false;
  return restart.Name === "always" || restart.Name === "unless-stopped" && !state.stopped;
}

/** The exit of a container without a record. */
function lost({ id, state }: Container): Ended {
  const { run, startTime, startedAt } = state;
  const finishedAt = goTime(Date.now());
  return { id, container: id, run, pid: 0, startTime, startedAt, code: LOST, finishedAt };
}

/** The record of an exit that the supervisor has written to a file; undefined if there is none. */
export function recorded(path: string): Ended | undefined {
  try {
    return JSON.parse(Deno.readTextFileSync(path));
  } catch (error) {
    return notThere(error);
  }
}

/** The variable with the path of a mount: `VOLUME_VAR_LIB_DATA` for `/var/lib/data`. */
function variableOf(destination: string): string {
  return `VOLUME${destination.toUpperCase().replace(/[^A-Z\d]+/g, "_")}`;
}

/**
 * Checks that a program can be executed.
 *
 * @throws {TypedError} ("bad parameter") With dockerd's message, which the docker CLI parses.
 */
function checkProgram(program: string, path: string, cwd: string): void {
  const candidates = program.includes("/")
    ? [program.startsWith("/") ? program : `${cwd}/${program}`]
    : path.split(":").map((folder) => `${folder || "."}/${program}`);
  let denied = false;
  for (const candidate of candidates) {
    try {
      const { isFile, mode } = Deno.statSync(candidate);
      if (isFile && (mode! & 0o111) !== 0) return;
      denied ||= isFile || program.includes("/"); // A folder in $PATH is no program.
    } catch (error) {
      if (
        !(error instanceof Deno.errors.NotFound || error instanceof Deno.errors.PermissionDenied ||
          error instanceof Deno.errors.NotADirectory)
      ) throw error;
    }
  }
  const missing = program.includes("/")
    ? "no such file or directory"
    : "executable file not found in $PATH";
  const why = denied ? "permission denied" : missing;
  const problem = `failed to run the container's program: exec: "${program}": ${why}`;
  throw failure("bad parameter", problem);
}

/** The exit status of a program that cannot be executed, as in shells and dockerd. */
export function codeOf(message: string): number {
  if (/executable file not found|no such file or directory/i.test(message)) return 127;
  return /permission denied/i.test(message) ? 126 : 128;
}

/** Registers the jobs that start, stop and remove containers. */
export function registerLifecycle(life: Lifecycle): void {
  const { containers } = life;
  const { engine } = containers.daemon;
  const find = (job: Job) => containers.find(subject(job)).id;
  const stopping = (job: Job): Stopping => {
    const signal = job.getenv("signal");
    if (signal) signalOf(signal); // Before the container counts as stopped by a client.
    return { seconds: job.getenv("t") === "" ? undefined : job.getenvInt("t"), signal };
  };
  engine.register("start", async (job) => {
    if (!await life.start(find(job))) job.outcome = { status: 304 };
  });
  engine.register("stop", async (job) => {
    if (!await life.stop(find(job), stopping(job))) job.outcome = { status: 304 };
  });
  engine.register("kill", (job) => life.kill(find(job), job.args[1] ?? ""));
  engine.register("restart", (job) => life.restart(find(job), stopping(job)));
  engine.register("pause", (job) => life.pause(find(job), true));
  engine.register("unpause", (job) => life.pause(find(job), false));
  engine.register("wait", async (job) => {
    const StatusCode = await life.wait(
      find(job),
      (job.getenv("condition") || "not-running") as Condition,
      // Sends the headers: the docker CLI starts the container only then.
      () => job.stdout.write(""),
      job.signal,
    );
    if (!job.signal.aborted) await print(job, { StatusCode });
  });
  engine.register("rm", (job) =>
    life.remove(find(job), {
      force: job.getenvBool("forceRemove"),
      volumes: job.getenvBool("removeVolume"),
    }));
  engine.register("containers_prune", async (job) => {
    const filters = job.env.getFilters("filters");
    const until = untilOf(filters);
    const deleted: string[] = [];
    let reclaimed = 0;
    for (const container of containers.all()) {
      if (isRunning(container) || container.state.status === "restarting") continue;
      if (container.created >= until || !labelled(filters, container.config.Labels ?? {})) continue;
      reclaimed += await containers.size(container);
      await life.remove(container.id, { force: false, volumes: false });
      deleted.push(container.id);
    }
    await containers.daemon.tell("container", "prune", "", { reclaimed: String(reclaimed) });
    const ContainersDeleted = deleted.length > 0 ? deleted : null;
    await print(job, { ContainersDeleted, SpaceReclaimed: reclaimed });
  });
}
