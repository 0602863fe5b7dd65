/**
 * A daemon in its own process, for tests and benchmarks.
 *
 * @module
 */

import { fileURLToPath } from "node:url";
import { connect, type Target } from "./client.ts";

// The real ones, even if a test has replaced them.
const { setTimeout, clearTimeout } = globalThis;

/** How long a condition may take to come true on a busy machine, in milliseconds. */
const PATIENCE = 120_000;

/** The path of a file of this project. */
export function project(path: string): string {
  return fileURLToPath(new URL(`../../${path}`, import.meta.url));
}

/** Options of {@linkcode Daemon.start}. */
export interface DaemonOptions {
  /** Additional environment variables. */
  env?: Record<string, string>;
  /** The limit on open descriptors (ulimit -n). */
  descriptors?: number;
  /** The program to run. Default: mod.ts. */
  program?: string | undefined;
  /** The command that runs a daemon. Default: `deno run -A mod.ts`. */
  command?: string[];
  /** The working directory. Default: ours. */
  cwd?: string;
  /** The flags of `deno run`. Default: -A. */
  flags?: string[] | undefined;
  /** A command that executes the one that follows it (exec). */
  through?: string[];
}

/** A running `deno run -A mod.ts ARGS`, its output, and its exit. */
export class Daemon implements AsyncDisposable {
  /** The output so far. */
  stdout = "";
  /** The output so far, without Deno's messages about @std/cli and about this release. */
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

  /** Starts a daemon, without waiting for anything. */
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

  /**
   * Waits for a match in its output, and returns it. Throws if the daemon ends without one, or says
   * nothing more for {@linkcode PATIENCE}.
   */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    for (let late = false;;) {
      const match = pattern.exec(this.stdout) ?? pattern.exec(this.stderr);
      if (match) return match;
      if (late || this.#ended) {
        const why = late ? ` for ${PATIENCE} ms` : "";
        throw new Error(`no ${pattern}${why} in\n${this.stdout}\n${this.stderr}`);
      }
      let timer;
      const patience = new Promise<void>((resolve) => {
        timer = setTimeout(() => resolve(void (late = true)), PATIENCE);
      });
      await Promise.race([this.#changed.promise, patience]);
      clearTimeout(timer);
    }
  }

  /** Waits until its tcp address is bound, and returns the port. */
  async port(): Promise<number> {
    return Number((await this.says(/listening on tcp:\/\/.*:(\d+)[,\n]/))[1]);
  }

  /** Waits until the gate is open. */
  async open(): Promise<void> {
    await this.says(/-job acceptconnections\(\) = OK/);
  }

  /** Sends a signal. */
  kill(signal: Deno.Signal): void {
    this.#process.kill(signal);
  }

  /** Sends a signal, and returns the exit status. */
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
        // It has ended meanwhile.
      }
    }
    await this.status;
  }
}

/** `Deno.test`; skipped, with a line that says so, where what is tested cannot be done. */
export function testWhere(can: boolean, what: string): typeof Deno.test {
  if (can) return Deno.test;
  console.log(`Skipped: ${what} (cannot be had here)`);
  // It takes what Deno.test takes, its own `ignore` as well.
  return Deno.test.ignore as typeof Deno.test;
}

/** A temporary folder for one test. */
export class TempFolder implements AsyncDisposable {
  private constructor(readonly path: string) {}
  /** Makes a folder. */
  static async make(): Promise<TempFolder> {
    return new TempFolder(await Deno.makeTempDir({ prefix: "floodgate-" }));
  }
  /** The names of its files, sorted. */
  names(): string[] {
    return [...Deno.readDirSync(this.path)].map(({ name }) => name).sort();
  }
  /** Removes the folder. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Deno.remove(this.path, { recursive: true });
  }
}

/** A module for `--install` with this body. */
export function installer(body: string): string {
  return "data:text/javascript," +
    encodeURIComponent(`export async function install(engine, router) {${body}}`);
}

/** For the body of {@linkcode installer}: waits until there is a file. */
export function untilThere(path: string): string {
  return `while (!await Deno.lstat(${JSON.stringify(path)}).catch(() => {}))
    await new Promise((resolve) => setTimeout(resolve, 5));`;
}

/**
 * For the body of {@linkcode installer}: waits until so many clients are held, or the most that can
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
 * Serves the project's files over HTTP, where no deno.json is read.
 *
 * @param paths The served files. Default: all.
 */
export function serveProject(paths?: ReadonlySet<string>): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, async (request) => {
    const path = new URL(request.url).pathname.slice(1);
    if (paths?.has(path) === false) return new Response("not found", { status: 404 });
    return new Response(await Deno.readFile(project(path)), {
      // The Content-Type of https://raw.githubusercontent.com for every file.
      headers: { "Content-Type": "text/plain; charset=utf-8" },
    });
  });
}

/** Whether a program is missing: then a test that needs it is skipped, and a line says so. */
export async function missing(command: string, args: string[]): Promise<boolean> {
  const found = await new Deno.Command(command, { args, stdout: "null", stderr: "null" }).output()
    .then(({ success }) => success).catch(() => false);
  if (!found) console.log(`skipped: there is no ${command} here`);
  return !found;
}

/** Waits until a condition holds, with a generous limit for busy machines. */
export async function until(condition: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE;
  while (!await condition()) {
    if (performance.now() > deadline) throw new Error(`not so after ${PATIENCE} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

/** Lets all pending tasks run. */
export function settle(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 0));
}

/** Whether a promise has not settled after all pending tasks have run. */
export async function isPending(promise: Promise<unknown>): Promise<boolean> {
  let pending = true;
  promise.then(() => pending = false, () => pending = false);
  await settle();
  return pending;
}

/**
 * A port that was just free, for programs that do not accept 0. It is none that the kernel gives to
 * those who ask for any (ip_local_port_range, ip(7)): other tests do all the time, and would have
 * it before the program does.
 */
export function freePort(hostname = "127.0.0.1"): number {
  for (;;) {
    const port = 10_000 + Math.floor(Math.random() * 20_000);
    try {
      Deno.listen({ hostname, port }).close();
      return port;
    } catch (error) {
      if (!(error instanceof Deno.errors.AddrInUse)) throw error;
    }
  }
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

/** Sends bytes to an address and returns all that comes back until the other side closes. */
export async function exchange(target: Target, text: string): Promise<string> {
  const conn = await connect(target);
  await conn.write(new TextEncoder().encode(text));
  return await new Response(conn.readable).text();
}
