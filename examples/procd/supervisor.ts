/**
 * The supervisor: the process that containers are children of. It outlives the daemon, so that a
 * daemon which is killed, or replaced, loses none of them: it has their pipes and terminals, writes
 * their logs, waits for their end and records it. There is one for a state directory, from the first
 * start until nothing runs and no daemon is connected.
 *
 * Why a process of its own: pipes and the masters of terminals live in a process, and only a
 * parent is told an exit status. Why one for all: in Deno one costs some 35 MiB, and a container
 * in it next to nothing. What it does is so little that it has no reason to fail.
 *
 * It listens on `supervisor.sock` in the state directory; {@linkcode Request} is what it is asked.
 *
 * @module
 */

import type { Engine } from "../../mod.ts";
import type { Ended, ProcessSpec, Started, Streams } from "./driver.ts";
import { LogWriter } from "./logs.ts";
import { isNoSuchProcess, MARK, type Members, membersOf, statOf } from "./procfs.ts";
import type { Pty } from "./pty.ts";
import { isOver, Wire } from "./wire.ts";

/** What the supervisor is asked, in the first line of a connection. */
export type Request =
  | { do: "start"; spec: ProcessSpec; streams?: Streams | undefined }
  | { do: "attach"; id: string; streams: Streams }
  | { do: "follow"; id: string }
  | { do: "signal"; id: string; signal: Deno.Signal; all: boolean }
  | { do: "resize"; id: string; rows: number; columns: number }
  | { do: "list" }
  | { do: "watch" };

/** What it answers. */
export interface Reply {
  /** Why it cannot be done, if so. */
  error?: string | undefined;
  /** What kind of error that is. */
  kind?: "bad parameter" | "conflict" | undefined;
  /** Whether there was something to do it to. */
  found?: boolean | undefined;
  /** What was started. */
  started?: Started | undefined;
  /** What runs. */
  running?: Started[] | undefined;
}

/** The name of the supervisor's socket in the state directory. */
export const SOCKET = "supervisor.sock";
const LOCK = "supervisor.lock";
/** How long it stays when nothing runs and no daemon is connected, in milliseconds. */
const LINGER = 500;
/** How long output may be on its way when all that could write it has been killed, in milliseconds. */
const DRAIN = 2_000;

/** How often all processes are looked through at most, to find those of a container. */
const LOOKS = 10;

/** What is connected with a program's streams. */
interface Attachment {
  wire: Wire;
  streams: Streams;
  /** The program, once it runs. */
  target: PromiseWithResolvers<Running>;
}

/** A program that runs. */
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
    // With the first process of a container all others end, as in a pid namespace.
    // Whatever goes wrong from here on, the daemon is told of the end.
    const complain = (error: unknown) => console.error(`${this.#spec.id}: ${stackOf(error)}`);
    if (this.#spec.id === this.#spec.container) await sweep(this).catch(complain);
    this.#pty?.release();
    const drained = Promise.all(outputs).catch(complain);
    // What an exec has left in the background may keep its pipes for ever.
    const timer = setTimeout(() => stop.abort(), DRAIN);
    await drained;
    clearTimeout(timer);
    this.#pty?.close();
    // A program that has ended reads no more, and a pipe that it did not read to its end is broken.
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

  /** Ends the connections of clients, which are told of the program's end before. */
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
    stop.addEventListener("abort", () => void reader.cancel().catch(() => {}), { once: true });
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      this.#keep(stream, value);
      for (const more of this.#followers) more();
      // A client that is connected and does not read holds the program up, as a pipe would.
      const sent: Promise<boolean>[] = [];
      for (const attachment of this.#attachments) {
        const { wire, streams } = attachment;
        if (!(stream === 1 ? streams.stdout : streams.stderr)) continue;
        sent.push(wire.sendFrame(stream, value).then((there) => there || this.#leave(attachment)));
      }
      if (sent.length > 0) await Promise.all(sent);
    }
  }

  #keep(stream: 1 | 2, data: Uint8Array): void {
    try {
      if (!this.#full) this.#log?.write(stream, data);
    } catch (error) {
      // The disk is full, for example. That is said, and is no reason to end the program.
      console.error(`log of ${this.#spec.id} ends: ${error}`);
      this.#full = true;
    }
  }

  #leave(attachment: Attachment): false {
    this.#attachments.delete(attachment);
    attachment.wire[Symbol.dispose]();
    return false;
  }

  /** Connects a client that came when the program ran already. */
  attach(attachment: Attachment): void {
    this.#attachments.add(attachment);
    attachment.target.resolve(this);
  }
  detach(attachment: Attachment): void {
    this.#leave(attachment);
  }

  /** Gives the program what it reads. */
  async input(data: Uint8Array): Promise<void> {
    if (this.#pty) return await this.#pty.write(data);
    try {
      await this.#stdin?.write(data);
    } catch (error) {
      if (!isOver(error) && !(error instanceof TypeError)) throw error; // It reads no more.
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
      if (error instanceof TypeError) return false; // It has ended by now.
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
  // A session's leader that opens a terminal has it as its own; and a shell keeps no variables whose
  // names it could not have.
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

/** Writes a file so that it is there whole or not at all. */
function record(path: string, ended: Ended): void {
  try {
    Deno.writeTextFileSync(`${path}.new`, JSON.stringify(ended));
    Deno.renameSync(`${path}.new`, path);
  } catch (error) {
    // The container was removed by force, and its folder with it.
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Serves a state directory. */
class Supervisor {
  #running = new Map<string, Running>();
  /** Clients that are to be connected with programs that do not run yet. */
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
      Deno.removeSync(path); // Of one that was killed: the lock is ours.
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
    // Never, at any moment, for other users: a client of it runs programs.
    const mask = Deno.umask(0o177);
    this.#listener = Deno.listen({ transport: "unix", path });
    Deno.umask(mask);
  }

  /** Serves until nothing runs, and no daemon is there. */
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
    switch (request?.do) {
      case "start":
        return await this.#start(wire, request);
      case "attach":
        return await this.#attach(wire, request);
      case "follow":
        return await this.#follow(wire, request.id);
      case "signal":
        return void await wire.send(await this.#signal(request));
      case "resize": {
        const { id, rows, columns } = request;
        const found = this.#running.get(id)?.resize(rows, columns) ?? false;
        return void await wire.send({ found } satisfies Reply);
      }
      case "list": {
        const running = [...this.#running.values()].map(({ started }) => started);
        return void await wire.send({ running } satisfies Reply);
      }
      case "watch":
        return await this.#watch(wire);
    }
  }

  async #start(wire: Wire, { spec, streams }: Extract<Request, { do: "start" }>): Promise<void> {
    const own = streams && { wire, streams, target: Promise.withResolvers<Running>() };
    let running: Running;
    try {
      // Before it is looked whether it runs: nothing may come between that and its start.
      const Terminal = spec.terminal ? (await import("./pty.ts")).Pty : undefined;
      if (this.#running.has(spec.id)) {
        return void await wire.send(
          { kind: "conflict", error: `${spec.id} runs already` } satisfies Reply,
        );
      }
      const pty = Terminal && new Terminal();
      if (spec.size) pty?.resize(...spec.size);
      try {
        running = new Running(
          spec,
          this.#waiting.get(spec.id) ?? new Set(),
          (running) => this.#sweep(running),
          pty,
        );
      } catch (error) {
        pty?.close();
        throw error;
      }
    } catch (error) {
      return void await wire.send(
        { kind: "bad parameter", error: (error as Error).message } satisfies Reply,
      );
    }
    this.#running.set(spec.id, running);
    this.#waiting.delete(spec.id);
    for (const watcher of this.#watchers) watcher.send(running.started);
    running.ended.then((ended) => this.#ended(running, ended));
    // Not awaited before it is attached, or the first that the program writes would be missed; what is
    // sent keeps its order.
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
    // Not awaited: a daemon that has read this may start the program at once.
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

  /** Takes what a client sends, until it leaves or the program ends. */
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
    // From before the answer on, so that nothing is missed that the daemon has not read by then.
    let more = Promise.withResolvers<void>();
    const unfollow = running.follow(() => more.resolve());
    const over = running.ended.then(() => {}, () => {});
    try {
      await wire.send({ found: true } satisfies Reply);
      // One word at a time is on its way: the next is sent when it was answered.
      do {
        await Promise.race([more.promise, over]);
        if (this.#running.get(id) !== running) return;
        more = Promise.withResolvers();
      } while (await wire.send(true) && await wire.receive() !== undefined);
    } finally {
      unfollow();
    }
  }

  async #signal({ id, signal, all }: Extract<Request, { do: "signal" }>): Promise<Reply> {
    const running = this.#running.get(id);
    if (!running) return { found: false };
    if (!all) return { found: running.signal(signal) };
    return { found: await this.#signalAll([running], signal) };
  }

  /**
   * Sends a signal to all processes of containers, and again until none is new, since one may have
   * forked before it was reached.
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

  /** Ends what is left of containers. Those that end at the same time are looked for at once. */
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
    // It has ended by now, or it has become another user's.
    if (error instanceof Deno.errors.NotFound) return;
    if (error instanceof Deno.errors.PermissionDenied) return;
    if (isNoSuchProcess(error)) return;
    throw error;
  }
}

function stackOf(error: unknown): string {
  return error instanceof Error ? error.stack ?? error.message : String(error);
}

/** Serves the state directory of this path. Returns when another supervisor does, or all is over. */
export async function supervise(folder: string): Promise<void> {
  using lock = Deno.openSync(`${folder}/${LOCK}`, { create: true, write: true, mode: 0o600 });
  // One that is about to end holds it for a moment; one that is about to serve is as good as we.
  if (!lock.tryLockSync(true)) return;
  await new Supervisor(folder).serve();
}

/** In a compiled binary, which can run nothing but itself: the same as a module to install. */
export async function install(engine: Engine): Promise<void> {
  await supervise(Deno.env.get("FLOODGATE_SUPERVISE") ?? "");
  engine.shutdown();
}

if (import.meta.main) {
  // What goes wrong with one container must not end the others.
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    console.error(stackOf(event.reason));
  });
  await supervise(Deno.args[0] ?? "");
}
