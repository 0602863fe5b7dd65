/**
 * Execs: commands that run in a container beside its main program.
 *
 * @module
 */

import { type Job, TypedError } from "../../mod.ts";
import type { Container, Containers } from "./containers.ts";
import { type Daemon, failure, print, subject, terminal } from "./daemon.ts";
import type { Attached, Ended, Started, Streams } from "./driver.ts";
import { notThere } from "./files.ts";
import { codeOf, type Lifecycle, recorded } from "./lifecycle.ts";
import { newId } from "./store.ts";
import { detachKeys, relay, sizeOf } from "./streams.ts";

/** How long an exec is remembered at least after its exit, in milliseconds. */
const MEMORY = 300_000;
/** How long to wait for the record of an exit after the end of output, in milliseconds. */
const PATIENCE = 10_000;

/** The configuration of an exec. */
export interface ExecConfig {
  args: string[];
  env: string[];
  user: string;
  cwd: string;
  terminal: boolean;
  privileged: boolean;
  streams: Streams;
  keys: string;
  size?: [rows: number, columns: number] | undefined;
}

/** An exec. */
export interface Exec extends ExecConfig {
  id: string;
  container: string;
  created: number;
  started: boolean;
  running: boolean;
  pid: number;
  code: number | null;
  finished: number;
}

/** The execs. */
export class Execs {
  #daemon: Daemon;
  #containers: Containers;
  #life: Lifecycle;
  #waiters = new Map<string, PromiseWithResolvers<number>>();

  /** The execs of these containers. */
  constructor(life: Lifecycle) {
    this.#life = life;
    this.#containers = life.containers;
    this.#daemon = life.containers.daemon;
    life.onExecEnd((ended) => void this.#ended(ended));
  }

  /** At boot, updates the execs that ran when a daemon last saw them. */
  async restore(): Promise<void> {
    const running = new Set((await this.#daemon.driver.running()).map(({ id }) => id));
    const sql = "SELECT body FROM execs WHERE json_extract(body, '$.running')";
    for (const exec of this.#daemon.store.documents<Exec>(sql)) {
      if (running.has(exec.id)) continue;
      this.#finish(exec.id, recorded(this.#record(exec))?.code ?? 255);
    }
  }

  #record({ id, container }: Pick<Exec, "id" | "container">): string {
    return `${this.#daemon.folderOf(container)}/exec-${id}.json`;
  }

  /** The exec of this id. */
  find(id: string): Exec {
    const found = this.#daemon.store.document<Exec>("SELECT body FROM execs WHERE id = ?", id);
    if (!found) throw failure("not found", `No such exec instance: ${id}`);
    return found;
  }

  #update(id: string, change: (exec: Exec) => void): Exec | undefined {
    return this.#daemon.store.update("execs", id, change);
  }

  /** Creates an exec. */
  async create(container: Container, config: ExecConfig): Promise<Exec> {
    checkUnpaused(container);
    if (config.args.length === 0) throw failure("bad parameter", "No exec command specified");
    const now = Date.now();
    const exec: Exec = {
      ...config,
      id: newId(),
      container: container.id,
      created: now,
      started: false,
      running: false,
      pid: 0,
      code: null,
      finished: 0,
    };
    const { store } = this.#daemon;
    const old = store.documents<Exec>(
      `SELECT body FROM execs WHERE container = ?
       AND json_extract(body, '$.finished') BETWEEN 1 AND ?`,
      container.id,
      now - MEMORY,
    );
    store.transaction(() => {
      for (const { id } of old) store.run("DELETE FROM execs WHERE id = ?", id);
      const sql = "INSERT INTO execs VALUES (?, ?, ?)";
      store.run(sql, exec.id, container.id, JSON.stringify(exec));
    });
    for (const each of old) {
      await Deno.remove(this.#record(each)).catch(notThere);
    }
    await this.#tell("exec_create", exec, container);
    return exec;
  }

  #tell(action: string, exec: Exec, container: Container, more = {}): Promise<void> {
    const command = action === "exec_die" ? action : `${action}: ${exec.args.join(" ")} `;
    return this.#containers.tell(command, container, { execID: exec.id, ...more });
  }

  /**
   * Starts an exec.
   *
   * @param streams The streams to attach its client to; undefined for none.
   */
  async start(
    exec: Exec,
    streams?: Streams,
    size = exec.size,
  ): Promise<Started & { io?: Attached }> {
    const container = this.#containers.findRunning(exec.container);
    checkUnpaused(container);
    const claimed = this.#update(exec.id, (each) => {
      if (each.started) throw failure("conflict", `exec ${exec.id} was started already`);
      each.started = each.running = true;
    });
    if (!claimed) throw failure("not found", `No such exec instance: ${exec.id}`);
    const { driver } = this.#daemon;
    this.#waiters.set(exec.id, Promise.withResolvers());
    try {
      const program = this.#life.program(container, exec);
      if (exec.terminal) program.env.TERM ??= "xterm";
      const spec = {
        ...program,
        id: exec.id,
        run: 1,
        terminal: exec.terminal,
        size,
        stdin: streams?.stdin ? "once" as const : "none" as const,
        record: this.#record(exec),
      };
      const started = streams ? await driver.start(spec, streams) : await driver.start(spec);
      this.#update(exec.id, (each) => each.pid = started.pid);
      await this.#tell("exec_start", exec, container);
      return started;
    } catch (error) {
      this.#finish(exec.id, codeOf((error as Error).message));
      throw error;
    }
  }

  async #ended(ended: Ended): Promise<void> {
    const exec = this.#finish(ended.id, ended.code);
    const container = exec && this.#containers.get(exec.container);
    if (container) await this.#tell("exec_die", exec, container, { exitCode: String(ended.code) });
  }

  #finish(id: string, code: number): Exec | undefined {
    const exec = this.#update(id, (exec) => {
      Object.assign(exec, { running: false, code, finished: Date.now() });
    });
    this.#waiters.get(id)?.resolve(code);
    this.#waiters.delete(id);
    return exec;
  }

  /** The exit status of an exec that this daemon started, once it has ended. */
  async ended(id: string): Promise<number | null> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    const late = new Promise<undefined>((resolve) => {
      timer = setTimeout(() => resolve(undefined), PATIENCE);
    });
    await Promise.race([this.#waiters.get(id)?.promise, late]);
    clearTimeout(timer);
    return this.find(id).code;
  }
}

function checkUnpaused(container: Container): void {
  if (container.state.status !== "paused") return;
  throw failure(
    "conflict",
    `container ${container.id} is paused, unpause the container before exec`,
  );
}

/** Registers the jobs of execs. */
export function registerExecs(
  execs: Execs,
  containers: Containers,
): void {
  const { engine, driver } = containers.daemon;
  engine.register("execCreate", async (job) => {
    const container = containers.findRunning(subject(job));
    const keys = job.getenv("DetachKeys");
    detachKeys(keys);
    const exec = await execs.create(container, {
      args: job.getenvList("Cmd"),
      env: job.getenvList("Env"),
      user: job.getenv("User"),
      cwd: job.getenv("WorkingDir"),
      terminal: job.getenvBool("Tty"),
      privileged: job.getenvBool("Privileged"),
      streams: {
        stdin: job.getenvBool("AttachStdin"),
        stdout: job.getenvBool("AttachStdout"),
        stderr: job.getenvBool("AttachStderr"),
      },
      keys,
      size: consoleSize(job),
    });
    await print(job, { Id: exec.id });
  });
  engine.register("execStart", async (job) => {
    const exec = execs.find(subject(job));
    const size = consoleSize(job) ?? exec.size;
    if (job.getenvBool("Detach")) {
      await execs.start(exec, undefined, size);
      return;
    }
    terminal(job, exec.terminal);
    let io: Attached;
    try {
      io = (await execs.start(exec, exec.streams, size)).io!;
    } catch (error) {
      if (!(error instanceof TypedError && error.kind === "bad parameter")) throw error;
      // As in dockerd: the client is attached already, and asks for the exit status.
      await job.stdout.write(`OCI runtime exec failed: ${error.message}\r\n`);
      return;
    }
    await job.stdout.write("");
    const keys = exec.terminal ? detachKeys(exec.keys) : undefined;
    const { store } = containers.daemon;
    const detached = await relay(job, io, exec.streams, () => !store.owned, keys);
    if (!detached && !job.signal.aborted) {
      await execs.ended(exec.id);
    }
  });
  engine.register("execResize", async (job) => {
    const exec = execs.find(subject(job));
    if (!exec.running) throw failure("conflict", `exec ${exec.id} is not running`);
    await driver.resize(exec.id, ...sizeOf(job));
  });
  engine.register("exec_inspect", (job) => {
    const exec = execs.find(subject(job));
    const [entrypoint, ...args] = exec.args;
    return print(job, {
      ID: exec.id,
      Running: exec.running,
      ExitCode: exec.code,
      ProcessConfig: {
        tty: exec.terminal,
        entrypoint,
        arguments: args,
        privileged: exec.privileged,
        user: exec.user,
      },
      OpenStdin: exec.streams.stdin,
      OpenStderr: exec.streams.stderr,
      OpenStdout: exec.streams.stdout,
      CanRemove: !exec.running,
      ContainerID: exec.container,
      DetachKeys: exec.keys,
      Pid: exec.pid,
    });
  });
}

function consoleSize(job: Job): [rows: number, columns: number] | undefined {
  const size = job.getenvJson("ConsoleSize");
  if (!Array.isArray(size) || !size.every((each) => Number.isInteger(each) && each > 0)) {
    return undefined;
  }
  return [size[0], size[1]];
}
