/**
 * The programs that the bench compares: each is started by it, on a tcp port and a unix socket.
 *
 * @module
 */

import { Daemon, project } from "../tests/support/daemon.ts";

/** A contender that runs. */
export interface Running extends AsyncDisposable {
  /** Its process id. */
  pid: number;
  /** Where it listens, in the form that the load client takes. */
  tcp: string;
  /** The same on a unix socket. */
  unix: string;
}

/** A contender that can be started. */
export interface Contender {
  /** What tables call it. */
  name: string;
  /** Its version. */
  version: string;
  /** Starts it, and waits until it serves. */
  start(env: Record<string, string>): Promise<Running>;
}

const folder = project("bench/contenders");

/** Where the bench keeps what it builds and installs. */
export interface Workshop {
  /** A folder of its own. */
  path: string;
}

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

/** Builds one of the Go programs in `contenders/`. */
export async function buildGo(workshop: Workshop, name: string): Promise<string> {
  const program = `${workshop.path}/${name}`;
  await run("go", ["build", "-o", program, "."], {
    cwd: `${folder}/${name}`,
    // Nothing is fetched: they need only what comes with Go.
    env: { GOPROXY: "off", GOTOOLCHAIN: "local", GOCACHE: `${workshop.path}/go-cache` },
  });
  return program;
}

let sockets = 0;

/** Starts a program that is given a path for a unix socket, and prints `port N` once it serves. */
async function start(
  workshop: Workshop,
  command: string[],
  env: Record<string, string>,
): Promise<Running> {
  const path = `${workshop.path}/${++sockets}.sock`;
  const process = new Deno.Command(command[0]!, {
    args: [...command.slice(1), path],
    cwd: workshop.path,
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

/** This daemon, with a gate that opens by itself, or with `HOLD` in its environment at SIGUSR2. */
export function floodgate(workshop: Workshop): Contender {
  return {
    name: "Floodgate",
    version: `Deno ${Deno.version.deno}`,
    async start(env) {
      const path = `${workshop.path}/${++sockets}.sock`;
      const hosts = ["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`];
      const daemon = Daemon.start([...hosts, "--install", `${folder}/floodgate.ts`], { env });
      const port = await daemon.port();
      if (!env.HOLD) await daemon.open();
      return {
        pid: daemon.pid,
        tcp: `tcp:127.0.0.1:${port}`,
        unix: `unix:${path}`,
        [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose](),
      };
    },
  };
}

/** The yardstick: as fast as the runtime goes. */
export function denoServe(workshop: Workshop): Contender {
  return {
    name: "Deno.serve",
    version: `Deno ${Deno.version.deno}`,
    start: (env) => start(workshop, [Deno.execPath(), "run", "-A", `${folder}/deno_serve.ts`], env),
  };
}

/** What a server can reach at most that accepts its connections itself. */
export function acceptLoop(workshop: Workshop): Contender {
  return {
    name: "accept loop",
    version: `Deno ${Deno.version.deno}, the limit of accepting by oneself`,
    start: (env) =>
      start(workshop, [Deno.execPath(), "run", "-A", `${folder}/accept_loop.ts`], env),
  };
}

/** Go's net/http. */
export async function goHttp(workshop: Workshop): Promise<Contender> {
  const program = await buildGo(workshop, "go");
  return {
    name: "Go net/http",
    version: (await run("go", ["env", "GOVERSION"])).trim().replace("go", "Go "),
    start: (env) => start(workshop, [program, "serve"], env),
  };
}

/** Installs packages from npm into the workshop, and puts the contenders that need them beside. */
async function installNpm(workshop: Workshop, packages: string[]): Promise<void> {
  const manifest = `${workshop.path}/package.json`;
  if (!await Deno.stat(manifest).catch(() => undefined)) {
    await Deno.writeTextFile(manifest, '{ "type": "module" }\n');
    for (const name of ["app.js", "node_hono.js", "node_fastify.js", "bun_serve.js"]) {
      await Deno.copyFile(`${folder}/${name}`, `${workshop.path}/${name}`);
    }
  }
  await run("npm", ["install", "--no-audit", "--no-fund", ...packages], { cwd: workshop.path });
}

async function installed(workshop: Workshop, name: string): Promise<string> {
  const text = await Deno.readTextFile(`${workshop.path}/node_modules/${name}/package.json`);
  return JSON.parse(text).version;
}

/** Node with the same Hono app. */
export async function nodeHono(workshop: Workshop): Promise<Contender> {
  await installNpm(workshop, ["hono@^4.13", "@hono/node-server"]);
  const node = (await run("node", ["--version"])).trim().slice(1);
  return {
    name: "Node, node-server",
    version: `Node ${node}, ${await installed(workshop, "@hono/node-server")}`,
    start: (env) => start(workshop, ["node", "node_hono.js"], env),
  };
}

/** Fastify on Node. */
export async function fastify(workshop: Workshop): Promise<Contender> {
  await installNpm(workshop, ["fastify"]);
  const node = (await run("node", ["--version"])).trim().slice(1);
  return {
    name: "Fastify",
    version: `Node ${node}, ${await installed(workshop, "fastify")}`,
    start: (env) => start(workshop, ["node", "node_fastify.js"], env),
  };
}

/** Bun with the same Hono app. */
export async function bun(workshop: Workshop): Promise<Contender> {
  await installNpm(workshop, ["hono@^4.13", "bun"]);
  const program = `${workshop.path}/node_modules/.bin/bun`;
  return {
    name: "Bun.serve",
    version: `Bun ${(await run(program, ["--version"])).trim()}`,
    start: (env) => start(workshop, [program, "bun_serve.js"], env),
  };
}
