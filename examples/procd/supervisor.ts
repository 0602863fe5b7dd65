/**
 * The supervisor: the parent process of all containers. It outlives the daemon, so that a daemon
 * which is killed or replaced loses none of them: it holds their pipes and terminals, writes their
 * logs, waits for their exits and records them. There is one per state directory, from the first
 * start until no program runs and no daemon is connected.
 *
 * It is a process of its own because pipes and terminals belong to a process, and only a parent
 * gets an exit status. It is one process for all containers because a Deno process costs some 35
 * MiB, and a container in it nearly nothing. It does so little that it has few reasons to fail.
 *
 * It listens on `supervisor.sock` in the state directory, for a {@linkcode Request}.
 *
 * @module
 */

import type { Engine } from "../../mod.ts";
import type { Ended, ProcessSpec, Started, Streams } from "./driver.ts";
import { notThere } from "./files.ts";
import { LogWriter } from "./logs.ts";
import { isNoSuchProcess, MARK, type Members, membersOf, statOf } from "./procfs.ts";
import type { Pty } from "./pty.ts";
import { isOver, Wire } from "./wire.ts";

/** A request to the supervisor: the first line of a connection. */
export type Request =
  | { do: "start"; spec: ProcessSpec; streams?: Streams | undefined }
  | { do: "attach"; id: string; streams: Streams }
  | { do: "follow"; id: string }
  | { do: "signal"; id: string; signal: Deno.Signal; all: boolean }
  | { do: "resize"; id: string; rows: number; columns: number }
  | { do: "list" }
  | { do: "watch" };

/** Its reply. */
export interface Reply {
  /** The error message, if the request failed. */
  error?: string | undefined;
  /** The kind of the error. */
  kind?: "bad parameter" | "conflict" | undefined;
  /** Whether the program of the request runs. */
  found?: boolean | undefined;
  /** The started program. */
  started?: Started | undefined;
  /** The running programs. */
  running?: Started[] | undefined;
}

/** The name of the supervisor's socket in the state directory. */
export const SOCKET = "supervisor.sock";
const LOCK = "supervisor.lock";
/** How long it stays without programs and daemons, in milliseconds. */
const LINGER = 500;
/** How long to wait for output after all its writers were killed, in milliseconds. */
const DRAIN = 2_000;

/** The shortest interval between two scans of all processes, in milliseconds. */
const LOOKS = 10;

/** A client that is attached to a program's streams. */
interface Attachment {
  wire: Wire;
  streams: Streams;
  /** The program, once it runs. */
  target: PromiseWithResolvers<Running>;
}

/** A running program. */
class Running {
  readonly started: Started;
  readonly ended: Promise<Ended>;
  readonly #spec: ProcessSpec;
  readonly #child: Deno.ChildProcess;
  readonly #pty: Pty | undefined;
  readonly #stdin?: WritableStreamDefaultWriter<Uint8Array>;
  readonly #attachments: Set<Attachment>;
  readonly #followers = new Set<() => void>();
  readonly #log: LogWriter | undefined;
  #full = false;
  #over = false;

  constructor(
    spec: ProcessSpec,
    attachments: Set<Attachment>,
    sweep: (running: Running) => Promise<void>,
    pty?: Pty,
  ) {
    this.#spec = spec;
    this.#pty = pty;
    this.#attachments = attachments;
    this.#log = spec.log && new LogWriter(spec.log.folder, spec.log.limits);
    try {
      this.#child = command(spec, pty).spawn();
    } catch (error) {
      this.#log?.[Symbol.dispose]();
      throw error;
    }
    const { pid } = this.#child;
    this.started = {
      id: spec.id,
      container: spec.container,
      run: spec.run,
      pid,
      startTime: statOf(pid)?.startTime ?? 0,
      startedAt: new Date().toISOString(),
    };
    if (pty === undefined && spec.stdin !== "none") this.#stdin = this.#child.stdin.getWriter();
    for (const { target } of attachments) target.resolve(this);
    this.ended = this.#run(sweep);
  }

  async #run(sweep: (running: Running) => Promise<void>): Promise<Ended> {
    const stop = new AbortController();
    const outputs = this.#pty ? [this.#pump(1, this.#pty.readable, stop.signal)] : [
      this.#pump(1, this.#child.stdout, stop.signal),
      this.#pump(2, this.#child.stderr, stop.signal),
    ];
    const { code } = await this.#child.status;
    this.#over = true;
    const finishedAt = new Date().toISOString();
    // All processes of a container end with the main one, as in a pid namespace.
    // Errors from here on must not prevent the report of the exit.
    const complain = (error: unknown) => console.error(`${this.#spec.id}: ${stackOf(error)}`);
    if (this.#spec.id === this.#spec.container) await sweep(this).catch(complain);
    this.#pty?.release();
    const drained = Promise.all(outputs).catch(complain);
    // A process that an exec left in the background may keep its pipes open for ever.
    const timer = setTimeout(() => stop.abort(), DRAIN);
    await drained;
    clearTimeout(timer);
    this.#pty?.close();
    // An ended program reads no more, so its input pipe is broken.
    this.#stdin?.abort().catch(() => {});
    this.#log?.[Symbol.dispose]();
    const ended = { ...this.started, code, finishedAt };
    try {
      record(this.#spec.record, ended);
    } catch (error) {
      complain(error);
    }
    return ended;
  }

  /** Closes the connections of clients, once the exit was reported. */
  release(): void {
    for (const { wire } of this.#attachments) wire[Symbol.dispose]();
    for (const more of this.#followers) more();
  }

  async #pump(
    stream: 1 | 2,
    readable: ReadableStream<Uint8Array>,
    stop: AbortSignal,
  ): Promise<void> {
    const reader = readable.getReader();
    // Where cancelling fails the read below has failed as well.
    stop.addEventListener("abort", () => void reader.cancel().catch(() => {}), { once: true });
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.#keep(stream, value);
      for (const more of this.#followers) more();
      // An attached client that does not read blocks the program, like a pipe.
      const sent: Promise<boolean>[] = [];
      for (const attachment of this.#attachments) {
        const { wire, streams } = attachment;
        if (!(stream === 1 ? streams.stdout : streams.stderr)) continue;
        sent.push(wire.sendFrame(stream, value).then((there) => there || this.detach(attachment)));
      }
      if (sent.length > 0) await Promise.all(sent);
    }
  }

  #keep(stream: 1 | 2, data: Uint8Array): void {
    try {
      if (!this.#full) this.#log?.write(stream, data);
    } catch (error) {
      // For example a full disk: it is reported, and the program runs on.
      console.error(`log of ${this.#spec.id} ends: ${error}`);
      this.#full = true;
    }
  }

  /** Attaches a client to a running program. */
  attach(attachment: Attachment): void {
    this.#attachments.add(attachment);
    attachment.target.resolve(this);
  }
  detach(attachment: Attachment): false {
    this.#attachments.delete(attachment);
    attachment.wire[Symbol.dispose]();
    return false;
  }

  /** Writes to the program's input. */
  async input(data: Uint8Array): Promise<void> {
    if (this.#pty) return await this.#pty.write(data);
    try {
      await this.#stdin?.write(data);
    } catch (error) {
      // The program reads no more.
      if (!isOver(error) && !(error instanceof TypeError)) throw error;
    }
  }
  async endInput(): Promise<void> {
    if (this.#pty || this.#spec.stdin !== "once") return;
    try {
      await this.#stdin?.close();
    } catch (error) {
      if (!isOver(error) && !(error instanceof TypeError)) throw error; // It was closed already.
    }
  }

  follow(more: () => void): () => void {
    this.#followers.add(more);
    return () => this.#followers.delete(more);
  }

  signal(signal: Deno.Signal): boolean {
    if (this.#over) return false;
    try {
      this.#child.kill(signal);
      return true;
    } catch (error) {
      if (error instanceof TypeError) return false; // It has ended.
      throw error;
    }
  }

  resize(rows: number, columns: number): boolean {
    this.#pty?.resize(rows, columns);
    return this.#pty !== undefined;
  }
}

function command(spec: ProcessSpec, pty?: Pty): Deno.Command {
  const options = {
    cwd: spec.cwd,
    env: { ...spec.env, [MARK]: spec.container },
    clearEnv: true,
    ...spec.uid !== undefined && { uid: spec.uid },
    ...spec.gid !== undefined && { gid: spec.gid },
    detached: true, // In a session of its own.
  };
  const [program = "", ...args] = spec.args;
  if (pty === undefined) {
    return new Deno.Command(program, {
      ...options,
      args,
      stdin: spec.stdin === "none" ? "null" : "piped",
      stdout: "piped",
      stderr: "piped",
    });
  }
  // The session leader gets the terminal as its controlling one by opening it. `env`, because a
  // shell drops variables whose names it does not allow.
  const odd = Object.entries(spec.env).filter(([name]) => !/^[A-Za-z_]\w*$/.test(name))
    .map(([name, value]) => `${name}=${value}`);
  const words = odd.length > 0 ? ["env", ...odd, ...spec.args] : spec.args;
  return new Deno.Command("/bin/sh", {
    ...options,
    args: ["-c", 'tty=$1; shift; exec "$@" <>"$tty" >&0 2>&1', "sh", pty.path, ...words],
    stdin: "null",
    stdout: "null",
    stderr: "null",
  });
}

/** Writes a file atomically. */
function record(path: string, ended: Ended): void {
  try {
    Deno.writeTextFileSync(`${path}.new`, JSON.stringify(ended));
    Deno.renameSync(`${path}.new`, path);
  } catch (error) {
    notThere(error); // The container was removed by force, with its folder.
  }
}

/** Serves a state directory. */
class Supervisor {
  #running = new Map<string, Running>();
  /** Clients that are to be attached to programs that do not run yet. */
  #waiting = new Map<string, Set<Attachment>>();
  #watchers = new Set<Wire>();
  #connections = 0;
  #idle: ReturnType<typeof setTimeout> | undefined;
  #sweeping: Promise<void> | undefined;
  #toSweep = new Set<Running>();
  #listener: Deno.Listener;

  constructor(folder: string) {
    const path = `${folder}/${SOCKET}`;
    try {
      Deno.removeSync(path); // Of a supervisor that was killed: this one has the lock.
    } catch (error) {
      notThere(error);
    }
    // Never accessible to other users, because its clients can run programs.
    const mask = Deno.umask(0o177);
    this.#listener = Deno.listen({ transport: "unix", path });
    Deno.umask(mask);
  }

  /** Serves until no program runs and no daemon is connected. */
  async serve(): Promise<void> {
    this.#rest();
    for await (const conn of this.#listener) {
      this.#connections++;
      clearTimeout(this.#idle);
      this.#serve(new Wire(conn)).catch((error) => console.error(stackOf(error)))
        .finally(() => {
          this.#connections--;
          this.#rest();
        });
    }
  }

  #rest(): void {
    clearTimeout(this.#idle);
    if (this.#running.size > 0 || this.#connections > 0) return;
    this.#idle = setTimeout(() => this.#listener.close(), LINGER);
  }

  async #serve(wire: Wire): Promise<void> {
    using _wire = wire;
    const request = await wire.receive<Request>();
    const reply = async (reply: Reply) => void await wire.send(reply);
    switch (request?.do) {
      case "start":
        return await this.#start(wire, request);
      case "attach":
        return await this.#attach(wire, request);
      case "follow":
        return await this.#follow(wire, request.id);
      case "signal":
        return await reply({ found: await this.#signal(request) });
      case "resize": {
        const { id, rows, columns } = request;
        const found = this.#running.get(id)?.resize(rows, columns) ?? false;
        return await reply({ found });
      }
      case "list":
        return await reply({ running: [...this.#running.values()].map(({ started }) => started) });
      case "watch":
        return await this.#watch(wire);
    }
  }

  async #start(wire: Wire, { spec, streams }: Extract<Request, { do: "start" }>): Promise<void> {
    const own = streams && { wire, streams, target: Promise.withResolvers<Running>() };
    let running: Running;
    try {
      // Registered before the check, with nothing asynchronous between the check and the start.
      const Terminal = spec.terminal ? (await import("./pty.ts")).Pty : undefined;
      if (this.#running.has(spec.id)) {
        const reply: Reply = { kind: "conflict", error: `${spec.id} runs already` };
        return void await wire.send(reply);
      }
      const pty = Terminal && new Terminal();
      if (spec.size) pty?.resize(...spec.size);
      try {
        const waiting = this.#waiting.get(spec.id) ?? new Set();
        running = new Running(spec, waiting, (running) => this.#sweep(running), pty);
      } catch (error) {
        pty?.close();
        throw error;
      }
    } catch (error) {
      const reply: Reply = { kind: "bad parameter", error: (error as Error).message };
      return void await wire.send(reply);
    }
    this.#running.set(spec.id, running);
    this.#waiting.delete(spec.id);
    for (const watcher of this.#watchers) watcher.send(running.started);
    running.ended.then((ended) => this.#ended(running, ended));
    // Attached before the reply is awaited, or the program's first output would be missed. Lines
    // are sent in order.
    const sent = wire.send({ started: running.started } satisfies Reply);
    if (own) {
      running.attach(own);
      await this.#relay(own);
    }
    await sent;
  }

  #ended(running: Running, ended: Ended): void {
    this.#running.delete(ended.id);
    for (const wire of this.#watchers) wire.send(ended);
    running.release();
    this.#rest();
  }

  async #attach(wire: Wire, { id, streams }: Extract<Request, { do: "attach" }>): Promise<void> {
    const attachment = { wire, streams, target: Promise.withResolvers<Running>() };
    const running = this.#running.get(id);
    // Not awaited: a daemon that has read this may start the program again at once.
    wire.send({ found: running !== undefined } satisfies Reply);
    if (running) {
      running.attach(attachment);
    } else {
      let waiting = this.#waiting.get(id);
      if (!waiting) this.#waiting.set(id, waiting = new Set());
      waiting.add(attachment);
    }
    await this.#relay(attachment);
  }

  /** Forwards a client's input, until it leaves or the program ends. */
  async #relay(attachment: Attachment): Promise<void> {
    const { wire, target } = attachment;
    for (let frame; (frame = await wire.frame());) {
      const running = await target.promise;
      if (frame.data.length > 0) await running.input(frame.data);
      else await running.endInput();
    }
    for (const [id, waiting] of this.#waiting) {
      if (waiting.delete(attachment) && waiting.size === 0) this.#waiting.delete(id);
    }
    target.promise.then((running) => running.detach(attachment));
  }

  async #follow(wire: Wire, id: string): Promise<void> {
    const running = this.#running.get(id);
    if (!running) return void await wire.send({ found: false } satisfies Reply);
    // Registered before the reply, so that no event is missed.
    let more = Promise.withResolvers<void>();
    const unfollow = running.follow(() => more.resolve());
    const over = running.ended.then(() => {}, () => {});
    try {
      await wire.send({ found: true } satisfies Reply);
      // One event at a time: the next is sent when the last was acknowledged.
      do {
        await Promise.race([more.promise, over]);
        if (this.#running.get(id) !== running) return;
        more = Promise.withResolvers();
      } while (await wire.send(true) && await wire.receive() !== undefined);
    } finally {
      unfollow();
    }
  }

  async #signal({ id, signal, all }: Extract<Request, { do: "signal" }>): Promise<boolean> {
    const running = this.#running.get(id);
    if (!running) return false;
    return all ? await this.#signalAll([running], signal) : running.signal(signal);
  }

  /**
   * Sends a signal to all processes of containers, repeatedly until there is no new one, since a
   * process may fork before the signal reaches it.
   */
  async #signalAll(running: readonly Running[], signal: Deno.Signal): Promise<boolean> {
    const sent = new Set<number>();
    for (let looks = 0, again = true; again && looks < LOOKS; looks++) {
      const members = this.#members(running);
      again = members.doubtful;
      for (const { pid } of [...members.of.values()].flat()) {
        if (sent.has(pid)) continue;
        again = true;
        sent.add(pid);
        kill(pid, signal);
      }
      if (again) await new Promise((resolve) => setTimeout(resolve, looks));
    }
    return sent.size > 0;
  }

  #members(running: Iterable<Running>): Members {
    const containers = new Set<string>();
    const sessions = new Map<number, string>();
    for (const { started } of running) containers.add(started.container);
    for (const { started } of this.#running.values()) {
      if (containers.has(started.container)) sessions.set(started.pid, started.container);
    }
    return membersOf(containers, sessions);
  }

  /** Kills the remaining processes of containers. One scan serves all that end at the same time. */
  #sweep(running: Running): Promise<void> {
    this.#toSweep.add(running);
    return this.#sweeping ??= (async () => {
      await new Promise((resolve) => setTimeout(resolve, 0));
      this.#sweeping = undefined;
      const batch = [...this.#toSweep];
      this.#toSweep.clear();
      await this.#signalAll(batch, "SIGKILL");
    })();
  }

  async #watch(wire: Wire): Promise<void> {
    this.#watchers.add(wire);
    try {
      await wire.send({ found: true } satisfies Reply);
      while (await wire.receive() !== undefined);
    } finally {
      this.#watchers.delete(wire);
    }
  }
}

function kill(pid: number, signal: Deno.Signal): void {
  try {
    Deno.kill(pid, signal);
  } catch (error) {
    // It has ended, or belongs to another user by now.
    if (error instanceof Deno.errors.NotFound) return;
    if (error instanceof Deno.errors.PermissionDenied) return;
    if (isNoSuchProcess(error)) return;
    throw error;
  }
}

function stackOf(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

/** Serves a state directory, unless another supervisor does, until there is nothing to do. */
export async function supervise(folder: string): Promise<void> {
  using lock = Deno.openSync(`${folder}/${LOCK}`, { create: true, write: true, mode: 0o600 });
  // A supervisor that is about to exit holds the lock for a moment; if another starts, that one
  // serves.
  if (!lock.tryLockSync(true)) return;
  await new Supervisor(folder).serve();
}

/** The supervisor as a module to install, for a compiled binary, which can only run itself. */
export async function install(engine: Engine): Promise<void> {
  await supervise(Deno.env.get("FLOODGATE_SUPERVISE") ?? "");
  engine.shutdown();
}

if (import.meta.main) {
  // An error of one container must not end the others.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    console.error(stackOf(event.reason));
  });
  await supervise(Deno.args[0] ?? "");
}
