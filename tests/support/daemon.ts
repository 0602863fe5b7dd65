/**
 * A daemon in a process of its own, for tests and benches.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { connect, type Target } from "./client.ts";

// The real one, also where a test has put its own in its place.
const { setTimeout } = globalThis;

/** The path of a file of the project. */
export function project(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}

/** What {@linkcode Daemon.start} can be told. */
export interface DaemonOptions {
  /** Variables of the environment, besides our own. */
  env?: Record<string, string>;
  /** The most descriptors it may have (ulimit -n). */
  descriptors?: number;
  /** The program, in place of mod.ts. */
  program?: string | undefined;
  /** What runs a daemon, in place of `deno run -A mod.ts`. */
  command?: string[];
  /** The folder it runs in, in place of ours. */
  cwd?: string;
  /** What `deno run` is told, in place of -A. */
  flags?: string[] | undefined;
  /** A command that runs the one that follows it, and is replaced by it. */
  through?: string[];
}

/** `deno run -A mod.ts ARGS`, its output, and its end. */
export class Daemon implements AsyncDisposable {
  /** What it wrote so far. */
  stdout = "";
  /**
   * What it wrote so far, without what Deno says while it looks for @std/cli, and what is said of
   * this Deno.
   */
  stderr = "";
  /** Its exit status, once it has ended. */
  readonly status: Promise<Deno.CommandStatus>;
  /** Its process id. */
  readonly pid: number;
  #process: Deno.ChildProcess;
  #readers: Promise<void>[];
  #changed = Promise.withResolvers<void>();
  #ended = false;

  private constructor(process: Deno.ChildProcess) {
    this.#process = process;
    this.pid = process.pid;
    this.#readers = [
      this.#read(process.stdout, (text) => this.stdout += text),
      this.#read(process.stderr, (text) => {
        this.stderr = (this.stderr + text).replace(/^Download .*\n/gm, "");
      }),
    ];
    this.status = process.status.then(async (status) => {
      await Promise.all(this.#readers);
      this.#ended = true;
      this.#changed.resolve();
      return status;
    });
  }

  async #read(stream: ReadableStream<Uint8Array>, add: (text: string) => void): Promise<void> {
    const decoder = new TextDecoder();
    for await (const chunk of stream) {
      add(decoder.decode(chunk, { stream: true }));
      this.#changed.resolve();
      this.#changed = Promise.withResolvers();
    }
  }

  /** Starts one; waits for nothing. */
  static start(args: string[], options: DaemonOptions = {}): Daemon {
    const program = options.command ??
      [Deno.execPath(), "run", ...options.flags ?? ["-A"], options.program ?? project("mod.ts")];
    const command = [...options.through ?? [], ...program, ...args];
    const limited = options.descriptors
      ? ["sh", "-c", `ulimit -n ${options.descriptors}; exec "$@"`, "sh", ...command]
      : command;
    return new Daemon(
      new Deno.Command(limited[0]!, {
        args: limited.slice(1),
        ...options.cwd !== undefined && { cwd: options.cwd },
        env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", ...options.env },
        stdin: "null",
        stdout: "piped",
        stderr: "piped",
      }).spawn(),
    );
  }

  /** Waits for what matches in its output, and gives the match. Throws if it ends without. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
      if (match) return match;
      if (this.#ended) throw new Error(`no ${pattern} in\n${this.stdout}\n${this.stderr}`);
      await this.#changed.promise;
    }
  }

  /** Waits until its tcp address is bound, and gives the port. */
  async port(): Promise<number> {
    return Number((await this.says(/listening on tcp:\/\/.*:(\d+)/))[1]);
  }

  /** Waits until the gate is open. */
  async open(): Promise<void> {
    await this.says(/-job acceptconnections\(\) = OK/);
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Sends a signal, and waits for the exit status. */
  async end(signal: Deno.Signal = "SIGTERM"): Promise<number> {
    if (!this.#ended) this.kill(signal);
    return (await this.status).code;
  }

  /** Kills it if it still runs. */
  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#ended) {
      try {
        this.kill("SIGKILL");
      } catch {
        // It ended between our look and now.
      }
    }
    await this.status;
  }
}

/** `Deno.test`, or, where this Deno cannot do what is tested, one that skips and says so. */
export function testWhere(can: boolean, what: string): typeof Deno.test {
  if (can) return Deno.test;
  console.log(`Skipped: ${what} (Deno ${Deno.version.deno} cannot)`);
  // It takes what Deno.test takes, its own `ignore` as well.
  return Deno.test.ignore as typeof Deno.test;
}

/** A folder for one test. */
export class TempFolder implements AsyncDisposable {
  private constructor(readonly path: string) {}
  /** Makes one. */
  static async make(): Promise<TempFolder> {
    return new TempFolder(await Deno.makeTempDir({ prefix: "floodgate-" }));
  }
  /** The names in it, sorted. */
  names(): string[] {
    return [...Deno.readDirSync(this.path)].map(({ name }) => name).sort();
  }
  /** Removes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** A module for `--install` with this body. */
export function installer(body: string): string {
  return "data:text/javascript," +
    encodeURIComponent(`export async function install(engine, router) {${body}}`);
}

/**
 * For the body of {@linkcode installer}: waits until so many clients are held, or as many as may
 * be.
 */
export function untilHeld(clients: number): string {
  return `for (;;) {
    const job = engine.job("stats");
    job.quiet = true;
    const [{ maxConnections, listeners }] = (await job.json()).apis;
    const held = listeners.reduce((sum, listener) => sum + listener.held, 0);
    if (held >= Math.min(${clients}, maxConnections ?? Infinity)) break;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }`;
}

/**
 * The project's files on a web server, where no deno.json is read.
 *
 * @param paths Those that are there. Default: all.
 */
export function serveProject(paths?: ReadonlySet<string>): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const path = new URL(request.url).pathname.slice(1);
    if (paths?.has(path) === false) return new Response("not found", { status: 404 });
    return new Response(await Deno.readFile(project(path)), {
      // What https://raw.githubusercontent.com says of every file.
      headers: { "Content-Type": "text/plain; charset=utf-8" },
    });
  });
}

/** Whether a program cannot be run here. A test that needs it is skipped, and this says so. */
export async function missing(command: string, args: string[]): Promise<boolean> {
  const found = await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()
    .then(({ success }) => success).catch(() => false);
  if (!found) console.log(`skipped: there is no ${command} here`);
  return !found;
}

/** Waits until a condition holds, however long a busy machine takes, within reason. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + 20_000;
  while (!await condition()) {
    if (performance.now() > deadline) throw new Error(`not so after 20 s: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Lets everything run that is ready to. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Whether a promise has not settled by the time that everything has run that was ready to. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  promise.then(() => pending = false, () => pending = false);
  await settle();
  return pending;
}

/** A port that was free a moment ago, for programs that take no 0. */
export function freePort(hostname = "127.0.0.1"): number {
  using listener = Deno.listen({ hostname, port: 0 });
  return listener.addr.port;
}

/** Runs a program to its end. */
export async function run(
  command: string,
  args: string[],
  options: { signal?: AbortSignal; env?: Record<string, string>; cwd?: string } = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  const { code, stdout, stderr } = await new Deno.Command(command, {
    args,
    stdin: "null",
    ...options,
  })
    .output();
  const decoder = new TextDecoder();
  return { code, stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

/** Sends bytes to an address and gives all that comes back until the other side closes. */
export async function exchange(target: Target, text: string): Promise<string> {
  const conn = await connect(target);
  await conn.write(new TextEncoder().encode(text));
  return await new Response(conn.readable).text();
}
