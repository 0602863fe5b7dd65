/**
 * How each part of the bench measures: it starts the contenders that it needs, loads them in turn,
 * and gives what it found as samples.
 *
 * @module
 */

import { project } from "../tests/support/daemon.ts";
import {
  buildGo,
  nameOf,
  prepare,
  run,
  type Running,
  start,
  targetOf,
  type Who,
  WORKSHOP,
} from "./contenders.ts";
import type { Growth } from "./growth.ts";
import { isChecked, type Load, LOADS, type Metric, type Part, sampleOf, titleOf } from "./plan.ts";

/** How long and how often a run measures. */
export interface Effort {
  /** Turns of each load of a part, two slices a contender each. */
  turns: number;
  /** How often the processes are started anew for them: no two of one program are equally fast. */
  lives: number;
  /** Rounds of starts. */
  starts: number;
  /** Rounds of what takes seconds. */
  rounds: number;
  /** Whether only what `--check` looks at is measured. */
  check: boolean;
}

/** What a part found. */
export interface Found {
  /** Figures by name; those that were found side by side have the same index. */
  samples: Record<string, number[]>;
  /** The table of {@linkcode growth}. */
  growth?: Growth[];
  /** The contenders, and on what each ran. */
  versions: Record<string, string>;
  /** Contenders and loads that are left out, and why. */
  skipped: string[];
}

/** The part that is being measured. */
class Measurement {
  readonly found: Found = { samples: {}, versions: {}, skipped: [] };
  /** The loads that the servers which run are warm for. */
  readonly warm = new Set<string>();
  constructor(readonly folder: string, readonly client: string, readonly effort: Effort) {}

  add(name: string, ...values: number[]): void {
    (this.found.samples[name] ??= []).push(...values);
  }

  /** Runs the load client. */
  async load<T>(mode: string, args: string[], env: Record<string, string> = {}): Promise<T> {
    return JSON.parse(await run(this.client, [mode, ...args], { env }));
  }

  /** Whether a contender can be had. This daemon and what it is compared with have to be. */
  async has(who: Who): Promise<boolean> {
    try {
      this.found.versions[nameOf(who)] ??= await prepare(who);
      return true;
    } catch (error) {
      if (["ours", "raw", "handler", "serve"].includes(who)) throw error;
      const line = `${nameOf(who)}: ${(error as Error).message}`;
      if (!this.found.skipped.includes(line)) this.found.skipped.push(line);
      return false;
    }
  }
}

/** How many clients are held, and how many connections are idle. */
const HELD = 10_000;
const IDLE = 5_000;

/** Measures a part, or several that have loads, by the same processes. */
export async function measure(parts: readonly Part[], effort: Effort): Promise<Found> {
  const folder = await Deno.makeTempDir({ prefix: "floodgate-bench-" });
  try {
    const measurement = new Measurement(folder, await buildGo("load"), effort);
    await (HOW[parts[0]!] ?? loads)(measurement, parts);
    return measurement.found;
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

const HOW: Partial<Record<Part, (measurement: Measurement) => Promise<void>>> = {
  start: starts,
  gate,
  memory,
  streams,
  jobs,
};

/**
 * Loads contenders in turn, each for a slice of 40 ms, all loads of a part, and all of that again
 * with new processes.
 */
async function loads(measurement: Measurement, parts: readonly Part[]): Promise<void> {
  const { effort, folder } = measurement;
  const these = LOADS.filter((load) =>
    parts.includes(load.part) && (!effort.check || isChecked(load))
  );
  const everyone: Who[] = [];
  for (const who of new Set(these.flatMap(({ who }) => effort.check ? who.slice(0, 2) : who))) {
    if (await measurement.has(who)) everyone.push(who);
  }
  for (let life = 0; life < effort.lives; life++) {
    measurement.warm.clear();
    await using servers = new AsyncDisposableStack();
    const running = new Map<Who, Running>();
    const env: Record<string, string> = {};
    for (const who of everyone) {
      const server = servers.use(await start(who, folder, env));
      running.set(who, server);
      // What the others answer to /version is what this daemon does.
      env.VERSION_TEXT ??= await (await fetch(`${server.tcp.replace("tcp:", "http://")}/version`))
        .text();
    }
    for (const load of these) {
      try {
        await turns(measurement, load, running);
      } catch (error) {
        measurement.found.skipped.push(`${titleOf(load)}: ${(error as Error).message}`);
      }
    }
  }
}

/** One load, once its servers are as fast as they get: V8 compiles what is hot again and again. */
async function turns(
  measurement: Measurement,
  load: Load,
  running: ReadonlyMap<Who, Running>,
): Promise<void> {
  const { effort, warm } = measurement;
  const taking = (effort.check ? load.who.slice(0, 2) : load.who).filter((who) => running.has(who));
  const targets = taking.map((who) => targetOf(who, running.get(who)!, load.proto, load.path));
  const flags = ["-kind", load.kind, "-c", `${load.clients}`, "-size", `${load.size ?? 0}`];
  const what = `${load.kind} ${load.path}`;
  if (!warm.has(what)) {
    await measurement.load("turns", [...flags, "-slice", "300ms", ...targets]);
    warm.add(what);
  }
  const share = effort.check ? 1 : load.share ?? 1;
  const turns = Math.ceil(effort.turns * share / effort.lives);
  const found = await measurement.load<Record<Metric, number[]>[]>(
    "turns",
    [...flags, "-turns", `${turns}`, ...targets],
  );
  for (const [i, who] of taking.entries()) {
    for (const metric of ["cpu", "rate", "p50", "p99"] as const) {
      measurement.add(sampleOf(load, who, metric), ...found[i]![metric]);
    }
  }
}

/** From exec to a socket, to READY=1, and to the first answer: the programs one after the other. */
async function starts(measurement: Measurement): Promise<void> {
  const { effort, folder, found } = measurement;
  await measurement.has("ours");
  await using registry = await Registry.start();
  const path = `${folder}/start.sock`;
  const deno = [Deno.execPath(), "run", "-A"];
  const bare = project("bench/contenders/bare_listen.ts");
  const imports = `${folder}/imports.ts`;
  await Deno.writeTextFile(
    imports,
    `import ${JSON.stringify(new URL("../mod.ts", import.meta.url).href)};\n` +
      await Deno.readTextFile(bare),
  );
  const ours = [...deno, project("mod.ts"), "-H", `unix://${path}`];
  const serve = [...deno, project("bench/contenders/deno_serve.ts"), path];
  const all: [who: string, what: string[], flags: string[], command: string[], env?: object][] = [
    ["bare", ["connect"], [], [...deno, bare, path]],
    ["ours", ["connect", "ready"], ["-ready"], ours],
    ["serve", ["connect", "answer"], ["-path", "/_ping"], serve],
    ["ours", ["answer"], ["-path", "/_ping"], ours],
    ["imports", ["connect"], [], [...deno, imports, path]],
    ["cached", ["connect"], [], ours, { JSR_URL: registry.url }],
  ];
  const these = effort.check ? all.slice(0, 4) : all;
  const env = { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" };
  // The first start of each fills Deno's caches; it is not counted.
  for (let round = -1; round < effort.starts; round++) {
    if (round === 0) found.samples = {};
    const order = round % 2 === 0 ? these : these.toReversed();
    for (const [who, what, flags, command, more] of order) {
      await Deno.remove(path).catch(() => {});
      const times = await measurement.load<Record<string, number>>(
        "start",
        ["-to", `unix:${path}`, ...flags, "--", ...command],
        { ...env, ...more },
      );
      for (const name of what) measurement.add(`${who} ${name}`, times[name]!);
    }
  }
}

/** Ten thousand clients: held, at an open gate, and at the open gate of a daemon that is new. */
async function gate(measurement: Measurement): Promise<void> {
  const { effort, folder } = measurement;
  await measurement.has("ours");
  await measurement.has("serve");
  for (let round = 0; round < effort.rounds; round++) {
    for (const proto of ["tcp", "unix"] as const) {
      const crowd = async (who: Who, ...held: string[]) => {
        await using server = await start(who, folder, held.length ? { HOLD: "1" } : {});
        const flags = ["-to", server[proto], "-path", "/_ping", "-c", `${HELD}`];
        return await measurement.load<Record<string, number>>(
          "gate",
          [...flags, "-pid", `${server.pid}`, ...held],
        );
      };
      for (const [what, ms] of Object.entries(await crowd("ours", "-held"))) {
        measurement.add(`${what} ${proto}`, ms);
      }
      // A daemon that has not been asked anything has all its memory still to get, held clients or
      // not.
      measurement.add(`cold ${proto}`, (await crowd("ours")).open!);
      // Clients that a short queue turns away come again after a second or more.
      if (round === 0) measurement.add(`serve ${proto}`, (await crowd("serve")).open!);
    }
  }
}

/** Resident memory of a process in KiB, once it has had the time to come to rest. */
async function resident(pid: number): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 500));
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)![1]);
}

/** What a server has when it has nothing to do, and more for each connection that it keeps. */
async function memory(measurement: Measurement): Promise<void> {
  const { effort, folder, client } = measurement;
  await using registry = await Registry.start();
  // An answer each, so that what is loaded at the first request is there.
  const atRest = async (who: Who, server: Running) => {
    const target = targetOf(who, server, "tcp", "/_ping");
    await measurement.load("turns", ["-c", "8", "-turns", "5", target]);
    return await resident(server.pid);
  };
  const crowd = async ({ tcp, pid }: Running, idle: number, kind: string, path: string) => {
    const flags = ["-to", tcp, "-kind", kind, "-path", path, "-c", `${IDLE}`, "-size", "64"];
    const process = new Deno.Command(client, {
      args: ["idle", ...(kind === "http" ? flags.slice(0, -2) : flags)],
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const output = process.stdout.getReader();
    await output.read();
    const kibibytes = (await resident(pid) - idle) / IDLE;
    await process.stdin.close();
    await output.cancel();
    await process.status;
    return kibibytes;
  };
  const plain: Who[] = effort.check ? ["ours", "serve"] : ["ours", "serve", "limit", "go"];
  const sockets: Who[] = effort.check ? [] : ["handler", "serve", "ws", "bun", "gorilla"];
  // It varies by a percent, and a round takes half a minute.
  for (let round = 0; round < Math.min(effort.rounds, 2); round++) {
    if (!effort.check) {
      await using server = await start("ours", folder, { JSR_URL: registry.url });
      measurement.add("cached idle", await atRest("ours", server) / 1024);
    }
    for (const who of plain) {
      if (!await measurement.has(who)) continue;
      await using server = await start(who, folder);
      const idle = await atRest(who, server);
      measurement.add(`${who} idle`, idle / 1024);
      if (effort.check && who !== "ours") continue;
      measurement.add(`${who} connection`, await crowd(server, idle, "http", "/_ping"));
    }
    for (const who of sockets) {
      if (!await measurement.has(who)) continue;
      await using server = await start(who, folder);
      const target = targetOf(who, server, "tcp", "/websocket");
      const flags = ["-kind", "websocket", "-size", "64", "-c", "8", "-turns", "5"];
      await measurement.load("turns", [...flags, target]);
      const idle = await resident(server.pid);
      measurement.add(`${who} websocket`, await crowd(server, idle, "websocket", "/websocket"));
    }
  }
}

/** One long answer. */
async function streams(measurement: Measurement): Promise<void> {
  const { effort, folder } = measurement;
  for (let round = 0; round < effort.rounds; round++) {
    for (const who of ["ours", "serve", "go"] as const) {
      if (!await measurement.has(who)) continue;
      await using server = await start(who, folder);
      const { bytes, seconds } = await measurement.load<Record<string, number>>(
        "stream",
        ["-to", server.tcp, "-path", "/bytes/1024"],
      );
      measurement.add(`${who} stream`, bytes! / seconds! / 2 ** 20);
    }
  }
}

/** What a job costs by itself, and how cost grows with how much there is. */
async function jobs(measurement: Measurement): Promise<void> {
  const { effort, found } = measurement;
  // So large a young generation shows what is allocated, and would make a job slow: it fits no
  // cache.
  const heap = "--v8-flags=--min-semi-space-size=256,--max-semi-space-size=256";
  const ours = async (...flags: string[]) =>
    JSON.parse(await run(Deno.execPath(), ["run", "-A", ...flags, project("bench/jobs.ts")]));
  const go = await measurement.has("go");
  await measurement.has("ours");
  for (let round = 0; round < effort.rounds; round++) {
    measurement.add("ours job", (await ours()).ns);
    measurement.add("ours bytes", (await ours(heap)).bytes);
    if (go) measurement.add("go job", JSON.parse(await run(`${WORKSHOP}/go`, ["job"])).ns);
  }
  found.growth = JSON.parse(
    await run(Deno.execPath(), ["run", "-A", project("bench/growth.ts")]),
  );
}

/** A registry on this machine in place of JSR, with the stand-in for @std/cli on it. */
class Registry implements AsyncDisposable {
  #server: Deno.HttpServer<Deno.NetAddr>;
  private constructor(server: Deno.HttpServer<Deno.NetAddr>) {
    this.#server = server;
  }
  static async start(): Promise<Registry> {
    const source = await Deno.readFile(project("offline/parse_args.ts"));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", source));
    const files: Record<string, BodyInit> = {
      "/@std/cli/meta.json": JSON.stringify({
        scope: "std",
        name: "cli",
        versions: { "1.0.0": {} },
      }),
      "/@std/cli/1.0.0_meta.json": JSON.stringify({
        manifest: {
          "/parse_args.ts": { size: source.length, checksum: `sha256-${digest.toHex()}` },
        },
        exports: { "./parse-args": "./parse_args.ts" },
      }),
      "/@std/cli/1.0.0/parse_args.ts": source,
    };
    return new Registry(
      Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
        const path = new URL(url).pathname;
        if (!Object.hasOwn(files, path)) return new Response(null, { status: 404 });
        const type = path.endsWith(".ts") ? "application/typescript" : "application/json";
        return new Response(files[path], { headers: { "Content-Type": type } });
      }),
    );
  }
  get url(): string {
    return `http://127.0.0.1:${this.#server.addr.port}/`;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
