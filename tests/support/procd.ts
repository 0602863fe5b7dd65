/**
 * procd in its own process, and the docker CLI as its client.
 *
 * @module
 */

import { Daemon, missing, project, TempFolder, until } from "./daemon.ts";

/** How long a command of the docker CLI may take, in milliseconds. */
const PATIENCE = 60_000;

/** Skips tests, with a line that says so, if there is no docker CLI. */
export const NO_DOCKER: boolean = await missing("docker", ["--version"]);

/** The result of a command of the docker CLI. */
export interface Said {
  /** Its exit status. */
  code: number;
  /** Its standard output, without white space at the end. */
  stdout: string;
  /** Its standard error, without white space at the end. */
  stderr: string;
}

/** A daemon with its own state, and its clients. */
export class Procd implements AsyncDisposable {
  /** The current daemon. */
  daemon: Daemon;
  readonly #folder: TempFolder;
  readonly #env: Record<string, string>;

  private constructor(folder: TempFolder, env: Record<string, string>) {
    this.#folder = folder;
    this.#env = env;
    this.daemon = this.start();
  }

  /** Starts a daemon. */
  static async make(env: Record<string, string> = {}): Promise<Procd> {
    const procd = new Procd(await TempFolder.make(), env);
    await procd.daemon.open();
    return procd;
  }

  /** The folder of the test. */
  get folder(): string {
    return this.#folder.path;
  }
  /** The folder of the state. */
  get state(): string {
    return `${this.folder}/state`;
  }
  /** The path of its socket. */
  get socket(): string {
    return `${this.folder}/d.sock`;
  }

  /** Starts a daemon with this state, to replace one that has ended, or to take over from it. */
  start(...flags: string[]): Daemon {
    const install = project("examples/procd/mod.ts");
    return this.daemon = Daemon.start(
      ["-H", `unix://${this.socket}`, "--install", install, ...flags],
      { env: { FLOODGATE_STATE: this.state, ...this.#env } },
    );
  }

  /** Kills the daemon and starts another. */
  async crash(): Promise<void> {
    await this.daemon.end("SIGKILL");
    await this.start().open();
  }

  /** The docker CLI with these arguments. */
  command(args: readonly string[], options: Deno.CommandOptions = {}): Deno.Command {
    return new Deno.Command("docker", {
      ...options,
      args: ["-H", `unix://${this.socket}`, ...args],
      cwd: options.cwd ?? this.folder,
      env: {
        DOCKER_CLI_HINTS: "false",
        DOCKER_BUILDKIT: "0",
        DOCKER_CONFIG: `${this.folder}/config`,
        ...options.env,
      },
    });
  }

  /** Runs the docker CLI to its end. */
  async docker(...args: string[]): Promise<Said> {
    const signal = AbortSignal.timeout(PATIENCE);
    const { code, stdout, stderr } = await this.command(args, { stdin: "null", signal }).output();
    if (signal.aborted) throw new Error(`docker ${args.join(" ")} took more than ${PATIENCE} ms`);
    const decoder = new TextDecoder();
    return {
      code,
      stdout: decoder.decode(stdout).trimEnd(),
      stderr: decoder.decode(stderr).trimEnd(),
    };
  }

  /** Runs the docker CLI, and returns its output. Throws if it fails. */
  async ok(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.docker(...args);
    if (code !== 0) throw new Error(`docker ${args.join(" ")}: exit status ${code}: ${stderr}`);
    return stdout;
  }

  /** A container's property, such as `.State.Status`. */
  inspect(name: string, property: string): Promise<string> {
    return this.ok("inspect", "--format", `{{${property}}}`, name);
  }

  /** The events of containers so far, one line each in this format. */
  async events(format: string): Promise<string[]> {
    // The CLI sends whole seconds, so this waits for the next second to get all events of this one.
    const until = String(Math.floor(Date.now() / 1_000) + 1);
    const range = ["--since", "10m", "--until", until];
    const only = ["--filter", "type=container", "--format", format];
    return (await this.ok("events", ...range, ...only)).split("\n");
  }

  /** Waits until a container's property has a value. */
  async becomes(name: string, property: string, value: string): Promise<void> {
    await until(async () => await this.inspect(name, property) === value);
  }

  /** Ends all containers, and the daemon. */
  async [Symbol.asyncDispose](): Promise<void> {
    const all = await this.ok("ps", "-aq");
    if (all) await this.ok("rm", "-f", ...all.split("\n"));
    await this.daemon.end();
    // The supervisor exits when no program runs and no daemon is connected.
    await until(() => !exists(`${this.state}/supervisor.sock`));
    await this.#folder[Symbol.asyncDispose]();
  }
}

function exists(path: string): boolean {
  try {
    Deno.lstatSync(path);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}
