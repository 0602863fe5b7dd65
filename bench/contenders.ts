/**
 * The programs that the bench compares, as a table, and how each is had and started: on a tcp port
 * and a unix socket.
 *
 * @module
 */

import { Daemon, project } from "../tests/support/daemon.ts";

const folder = project("bench/contenders");

/** Where the bench keeps what it builds, installs and finds: nothing there is committed. */
export const WORKSHOP: string = project("dist/bench");

/** A contender that runs. */
export interface Running extends AsyncDisposable {
  /** Its process id. */
  pid: number;
  /** Where it listens, in the form that the load client takes. */
  tcp: string;
  /** The same on a unix socket. */
  unix: string;
}

/** What the load client is told of a server that it loads in turn with others. */
export function targetOf(who: Who, server: Running, proto: "tcp" | "unix", path: string): string {
  return [server[proto], server.pid, (contender(who).prefix ?? "") + path].join();
}

/** A contender, and how it is had. */
interface Contender {
  /** What tables call it. */
  name: string;
  /** Packages from npm, and files of `contenders/` that stand beside them. */
  npm?: { packages: string[]; files: string[] };
  /** The folder in `contenders/` of a program in Go. */
  go?: string;
  /** Its command; the path for the unix socket follows. It prints `port N` once it serves. */
  command?: string[];
  /** What it runs on, for the page. */
  version: () => Promise<string>;
  /** What its environment has besides. */
  env?: Record<string, string>;
  /** What its paths begin with. */
  prefix?: string;
}

const denoVersion = () => Promise.resolve(`Deno ${Deno.version.deno}`);
const deno = (file: string) => [Deno.execPath(), "run", "-A", `${folder}/${file}`];
const goVersion = async () => (await run("go", ["env", "GOVERSION"])).trim().replace("go", "Go ");
const installed = async (name: string) =>
  JSON.parse(await Deno.readTextFile(`${WORKSHOP}/node_modules/${name}/package.json`)).version;
const nodeWith = (name: string) => async () =>
  `Node ${(await run("node", ["--version"])).trim().slice(1)}, ${name} ${await installed(name)}`;
const BUN = `${WORKSHOP}/node_modules/.bin/bun`;

/** All contenders. Those without a command are this daemon. */
export const CONTENDERS = {
  ours: { name: "Floodgate", version: denoVersion },
  raw: { name: "Floodgate with a raw route", env: { UPGRADES: "1" }, version: denoVersion },
  handler: { name: "Floodgate, a handler", env: { UPGRADES: "1" }, version: denoVersion },
  job: {
    name: "Floodgate, a job",
    env: { UPGRADES: "1" },
    prefix: "/job",
    version: denoVersion,
  },
  serve: { name: "Deno.serve", command: deno("deno_serve.ts"), version: denoVersion },
  limit: { name: "accept loop", command: deno("accept_loop.ts"), version: denoVersion },
  pipe: { name: "bare pipeTo", command: deno("raw_loop.ts"), version: denoVersion },
  go: { name: "Go net/http", go: "go", command: [`${WORKSHOP}/go`, "serve"], version: goVersion },
  gorilla: {
    name: "Go, gorilla",
    go: "gorilla",
    command: [`${WORKSHOP}/gorilla`],
    version: goVersion,
  },
  node: {
    name: "Node, node-server",
    npm: { packages: ["hono@^4.13", "@hono/node-server"], files: ["app.js", "node_hono.js"] },
    command: ["node", `${WORKSHOP}/node_hono.js`],
    version: nodeWith("@hono/node-server"),
  },
  fastify: {
    name: "Fastify",
    npm: { packages: ["fastify"], files: ["app.js", "node_fastify.js"] },
    command: ["node", `${WORKSHOP}/node_fastify.js`],
    version: nodeWith("fastify"),
  },
  ws: {
    name: "Node, ws",
    npm: { packages: ["ws"], files: ["node_ws.js"] },
    command: ["node", `${WORKSHOP}/node_ws.js`],
    version: nodeWith("ws"),
  },
  bun: {
    name: "Bun.serve",
    npm: { packages: ["hono@^4.13", "bun"], files: ["app.js", "bun_serve.js"] },
    command: [BUN, `${WORKSHOP}/bun_serve.js`],
    version: async () => `Bun ${(await run(BUN, ["--version"])).trim()}`,
  },
} satisfies Record<string, Contender>;

/** The name of a contender in {@linkcode CONTENDERS}. */
export type Who = keyof typeof CONTENDERS;

const contender = (who: Who): Contender => CONTENDERS[who];

/** What tables call a contender. */
export const nameOf = (who: Who): string => contender(who).name;

/** Runs a program to its end, and gives its stdout. Throws with what it said if it fails. */
export async function run(
  command: string,
  args: string[],
  options: { cwd?: string; env?: Record<string, string> } = {},
): Promise<string> {
  const decoder = new TextDecoder();
  let output: Deno.CommandOutput;
  try {
    output = await new Deno.Command(command, { args, stdin: "null", ...options }).output();
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw new Error(`there is no ${command}`);
    throw error;
  }
  if (output.success) return decoder.decode(output.stdout);
  const said = decoder.decode(output.stderr).trim() || decoder.decode(output.stdout).trim();
  throw new Error(`${command} ${args.join(" ")}: ${said.split("\n").slice(0, 3).join(" / ")}`);
}

/** Builds one of the Go programs in `contenders/`. Nothing is fetched. */
export async function buildGo(name: string, into: string = WORKSHOP): Promise<string> {
  const program = `${into}/${name}`;
  await Deno.mkdir(into, { recursive: true });
  await run("go", ["build", "-o", program, "."], {
    cwd: `${folder}/${name}`,
    env: {
      GOPROXY: "off",
      GOTOOLCHAIN: "local",
      // Where Debian has the sources of its Go packages.
      ...name === "gorilla" && { GO111MODULE: "off", GOPATH: "/usr/share/gocode" },
    },
  });
  return program;
}

const prepared = new Map<Who, Promise<string>>();

/** Builds or installs a contender, once, and gives its version. Throws where it cannot be had. */
export function prepare(who: Who): Promise<string> {
  const found = prepared.get(who);
  if (found) return found;
  const { go, npm, version } = contender(who);
  const made = (async () => {
    if (go !== undefined) await buildGo(go);
    if (npm) {
      await Deno.mkdir(WORKSHOP, { recursive: true });
      const manifest = `${WORKSHOP}/package.json`;
      if (!await Deno.stat(manifest).catch(() => undefined)) {
        await Deno.writeTextFile(manifest, '{ "type": "module" }\n');
      }
      for (const name of npm.files) await Deno.copyFile(`${folder}/${name}`, `${WORKSHOP}/${name}`);
      await run("npm", ["install", "--no-audit", "--no-fund", ...npm.packages], { cwd: WORKSHOP });
    }
    return await version();
  })();
  prepared.set(who, made);
  return made;
}

const pids = new Set<number>();

/** Kills all contenders that run, for a bench that is ended by a signal. */
export function killAll(): void {
  for (const pid of pids) {
    try {
      Deno.kill(pid, "SIGKILL");
    } catch (error) {
      // The signal may have been for it too.
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
}

let sockets = 0;

/**
 * Starts a contender that has been prepared, and waits until it serves, or holds its clients with
 * `HOLD`.
 */
export async function start(
  who: Who,
  folder: string,
  env: Record<string, string> = {},
): Promise<Running> {
  const { command, env: own } = contender(who);
  const path = `${folder}/${++sockets}.sock`;
  const all = { ...own, ...env };
  const server = command ? await spawn(command, path, all) : await daemon(path, all);
  pids.add(server.pid);
  return {
    ...server,
    async [Symbol.asyncDispose]() {
      pids.delete(server.pid);
      await server[Symbol.asyncDispose]();
    },
  };
}

/** This daemon, with a gate that opens by itself, or with `HOLD` in its environment at SIGWINCH. */
async function daemon(path: string, env: Record<string, string>): Promise<Running> {
  const hosts = ["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`];
  const daemon = Daemon.start([...hosts, "--install", `${folder}/floodgate.ts`], { env });
  const port = await daemon.port();
  await (env.HOLD ? daemon.says(/^holding$/m) : daemon.open());
  return {
    pid: daemon.pid,
    tcp: `tcp:127.0.0.1:${port}`,
    unix: `unix:${path}`,
    [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
  };
}

async function spawn(
  command: string[],
  path: string,
  env: Record<string, string>,
): Promise<Running> {
  const process = new Deno.Command(command[0]!, {
    args: [...command.slice(1), path],
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", NODE_ENV: "production", ...env },
    stdin: "null",
    stdout: "piped",
    stderr: "inherit",
  }).spawn();
  let said = "";
  let port: string | undefined;
  const decoder = new TextDecoder();
  for await (const chunk of process.stdout.values({ preventCancel: true })) {
    said += decoder.decode(chunk, { stream: true });
    if ((port = /^port (\d+)\n/m.exec(said)?.[1])) break;
  }
  if (port === undefined) throw new Error(`${command.join(" ")} did not start: ${said.trim()}`);
  return {
    pid: process.pid,
    tcp: `tcp:127.0.0.1:${port}`,
    unix: `unix:${path}`,
    async [Symbol.asyncDispose]() {
      process.kill("SIGKILL");
      await process.status;
      await process.stdout.cancel();
    },
  };
}
