/**
 * The exec driver `process`: a container is a session of plain processes of this machine. They are
 * children of a supervisor, see `supervisor.ts`, which this driver starts when it first needs it.
 *
 * @module
 */

import { TypedError } from "../../mod.ts";
import type {
  Attached,
  Ended,
  ExecDriver,
  Follower,
  ProcessSpec,
  Started,
  Streams,
} from "./driver.ts";
import { type Reply, type Request, SOCKET } from "./supervisor.ts";
import { Wire } from "./wire.ts";

/** How long a supervisor may take to start, in milliseconds. */
const START_TIMEOUT = 20_000;
/** The pause between two attempts to reach it, in milliseconds. */
const RETRY = 10;
const END = new Uint8Array(0);

/** Runs plain processes. */
export class ProcessDriver implements ExecDriver {
  /** Always `process`. */
  readonly name = "process";
  #folder: string;
  #watch: Promise<void> | undefined;
  #watcher?: Wire;
  #startListeners: ((started: Started) => void)[] = [];
  #endListeners: ((ended: Ended) => void)[] = [];
  #lost: () => void;
  #closed = false;

  /**
   * A driver for this state directory.
   *
   * @param lost Called when the supervisor has died, and its programs with it.
   */
  constructor(folder: string, lost: () => void) {
    this.#folder = folder;
    this.#lost = lost;
  }

  async #connect(start: boolean): Promise<Deno.Conn | undefined> {
    const path = `${this.#folder}/${SOCKET}`;
    let spawned: Deno.ChildProcess | undefined;
    for (const deadline = Date.now() + START_TIMEOUT;;) {
      try {
        return await Deno.connect({ transport: "unix", path });
      } catch (error) {
        const absent = error instanceof Deno.errors.NotFound ||
          error instanceof Deno.errors.ConnectionRefused;
        if (!absent || Date.now() > deadline) throw error;
        if (!start) return undefined;
      }
      if (spawned === undefined) {
        spawned = this.#spawn();
        // A supervisor exits at once if another serves, or is about to exit: then it is tried
        // again.
        spawned.status.then(() => spawned = undefined);
      }
      await new Promise((resolve) => setTimeout(resolve, RETRY));
    }
  }

  #spawn(): Deno.ChildProcess {
    const module = new URL("./supervisor.ts", import.meta.url);
    const path = module.protocol === "file:" ? decodeURI(module.pathname) : module.href;
    const args = Deno.build.standalone
      // A compiled program can only run itself, so the supervisor is a module that it installs.
      ? ["--host", `unix://${this.#folder}/idle.sock`, "--install", module.href]
      : ["run", "--allow-all", "--no-config", "--quiet", path, this.#folder];
    const script = 'log=$1; shift; exec "$@" >>"$log" 2>&1';
    const child = new Deno.Command("/bin/sh", {
      args: ["-c", script, "sh", this.#log, Deno.execPath(), ...args],
      cwd: "/",
      env: { FLOODGATE_SUPERVISE: this.#folder },
      detached: true,
      stdin: "null",
      stdout: "null",
      stderr: "null",
    }).spawn();
    child.unref();
    return child;
  }

  get #log(): string {
    return `${this.#folder}/supervisor.log`;
  }

  async #ask(request: Request, start = false): Promise<{ wire: Wire; reply: Reply } | undefined> {
    const conn = await this.#connect(start);
    if (!conn) return undefined;
    const wire = new Wire(conn);
    try {
      await wire.send(request);
      const reply = await wire.receive<Reply>();
      if (!reply) throw new Error(`the supervisor has ended; ${this.#log} may tell why`);
      return { wire, reply };
    } catch (error) {
      wire[Symbol.dispose]();
      throw error;
    }
  }

  /** Resolves once exits are reported; without a supervisor there are none. */
  #watching(start: boolean): Promise<void> {
    return this.#watch ??= (async () => {
      const asked = await this.#ask({ do: "watch" }, start).catch((error) => {
        this.#watch = undefined;
        throw error;
      });
      if (!asked) {
        this.#watch = undefined;
        return;
      }
      this.#watcher = asked.wire;
      this.#listen(asked.wire);
    })();
  }

  async #listen(wire: Wire): Promise<void> {
    for (let told; (told = await wire.receive<Started | Ended>());) {
      if ("finishedAt" in told) { for (const listener of this.#endListeners) listener(told); }
      else for (const listener of this.#startListeners) listener(told);
    }
    wire[Symbol.dispose]();
    this.#watch = undefined;
    if (!this.#closed) this.#lost();
  }

  start(spec: ProcessSpec): Promise<Started>;
  start(spec: ProcessSpec, streams: Streams): Promise<Started & { io: Attached }>;
  async start(spec: ProcessSpec, streams?: Streams): Promise<Started & { io?: Attached }> {
    await this.#watching(true);
    const { wire, reply } = (await this.#ask({ do: "start", spec, streams }, true))!;
    if (reply.started && streams) return { ...reply.started, io: new Connection(wire) };
    wire[Symbol.dispose]();
    if (reply.started) return reply.started;
    throw new TypedError(reply.kind ?? "bad parameter", reply.error ?? "it was not started");
  }

  async attach(id: string, streams: Streams): Promise<Attached> {
    await this.#watching(true);
    return new Connection((await this.#ask({ do: "attach", id, streams }, true))!.wire);
  }

  async follow(id: string): Promise<Follower | undefined> {
    const asked = await this.#ask({ do: "follow", id });
    if (!asked) return undefined;
    const { wire, reply } = asked;
    if (!reply.found) {
      wire[Symbol.dispose]();
      return undefined;
    }
    return {
      async more() {
        const more = await wire.receive() !== undefined;
        if (more) await wire.send(true);
        return more;
      },
      close: () => wire[Symbol.dispose](),
    };
  }

  async signal(id: string, signal: Deno.Signal, all = false): Promise<boolean> {
    return await this.#found({ do: "signal", id, signal, all });
  }

  async resize(id: string, rows: number, columns: number): Promise<boolean> {
    return await this.#found({ do: "resize", id, rows, columns });
  }

  async #found(request: Request): Promise<boolean> {
    const asked = await this.#ask(request);
    asked?.wire[Symbol.dispose]();
    return asked?.reply.found ?? false;
  }

  async running(): Promise<Started[]> {
    await this.#watching(false);
    const asked = await this.#ask({ do: "list" });
    asked?.wire[Symbol.dispose]();
    return asked?.reply.running ?? [];
  }

  onStart(listener: (started: Started) => void): void {
    this.#startListeners.push(listener);
  }

  onEnd(listener: (ended: Ended) => void): void {
    this.#endListeners.push(listener);
  }

  close(): void {
    this.#closed = true;
    this.#watcher?.[Symbol.dispose]();
  }
}

/** An attachment to a program's streams, through the supervisor. */
class Connection implements Attached {
  #wire: Wire;
  constructor(wire: Wire) {
    this.#wire = wire;
  }
  async read(): Promise<{ stream: 1 | 2; data: Uint8Array } | undefined> {
    return await this.#wire.frame() as { stream: 1 | 2; data: Uint8Array } | undefined;
  }
  async write(data: Uint8Array): Promise<void> {
    // An empty frame would mean the end.
    if (data.length > 0) await this.#wire.sendFrame(0, data);
  }
  async end(): Promise<void> {
    await this.#wire.sendFrame(0, END);
  }
  close(): void {
    this.#wire[Symbol.dispose]();
  }
}
