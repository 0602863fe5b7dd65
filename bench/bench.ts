/**
 * How fast, against whom: `deno task bench`. It starts each contender, measures them in turns, several
 * rounds of all, and writes `bench/results.md`, `bench/results.svg`, and a table in README.md. It takes less than ten
 * minutes, and `--quick`, which writes nothing, less than two. Needs Go (Debian: golang-go), which its
 * client is written in; contenders that cannot be had are left out, and it says why.
 *
 * @module
 */

import { project } from "../tests/support/daemon.ts";
import {
  acceptLoop,
  buildGo,
  bun,
  type Contender,
  denoServe,
  fastify,
  floodgate,
  goHttp,
  nodeHono,
  run,
  type Running,
  type Workshop,
} from "./contenders.ts";
import type { Growth } from "./growth.ts";
import { chart, ratios, show, showSpread, spread, table } from "./report.ts";

const quick = Deno.args.includes("--quick");
const ROUNDS = quick ? 2 : 7;
const LENGTH = quick ? "200ms" : "350ms";
const WARM = "120ms";
const HELD = 10_000;
const IDLE = 5_000;

const OURS = "Floodgate";
const YARDSTICK = "Deno.serve";
const GO = "Go net/http";
const LIMIT = "accept loop";

/** Some way to load a contender. */
interface Load {
  mode: "rate" | "fresh";
  path: string;
  proto: "tcp" | "unix";
  clients: number;
  /** Whether every contender takes part, or only those that the goals name. */
  all?: boolean;
}

const LOADS: Load[] = [
  ...["/_ping", "/things/web"].flatMap((path) =>
    (["tcp", "unix"] as const).flatMap((proto) =>
      [1, 32, 256].map((clients): Load => ({
        mode: "rate",
        path,
        proto,
        clients,
        all: clients === 32,
      }))
    )
  ),
  { mode: "rate", path: "/version", proto: "tcp", clients: 32, all: true },
  { mode: "rate", path: "/version", proto: "unix", clients: 32 },
  { mode: "fresh", path: "/_ping", proto: "tcp", clients: 32 },
  { mode: "fresh", path: "/_ping", proto: "unix", clients: 32 },
];

interface Rates {
  rate: number;
  p50: number;
  p99: number;
  /** Microseconds of the server's processor time for a request. */
  cpu: number;
}

const nameOf = ({ mode, path, proto, clients }: Load) =>
  `${path}, ${proto}, ${clients} ${mode === "fresh" ? "clients, a connection each" : "kept"}`;

function say(line: string): void {
  console.error(line);
}

const folder = await Deno.makeTempDir({ prefix: "floodgate-bench-" });
const workshop: Workshop = { path: folder };
async function bench(): Promise<void> {
  const started = performance.now();
  const client = await buildGo(workshop, "load");
  const load = async <T>(mode: string, flags: string[], env = {}): Promise<T> =>
    JSON.parse(await run(client, [mode, ...flags], { env }));

  const skipped: string[] = [];
  const contenders: Contender[] = [
    floodgate(workshop),
    denoServe(workshop),
    acceptLoop(workshop),
  ];
  const enter = async (name: string, make: () => Promise<Contender>) => {
    try {
      contenders.push(await make());
    } catch (error) {
      skipped.push(`${name}: ${(error as Error).message}`);
      say(`left out: ${skipped.at(-1)}`);
    }
  };
  await enter(GO, () => goHttp(workshop));
  await enter("Node, node-server", () => nodeHono(workshop));
  await enter("Fastify", () => fastify(workshop));
  await enter("Bun.serve", () => bun(workshop));

  // The rates: every contender runs, and one at a time is loaded.
  const rates = new Map<string, Rates[]>();
  const wrkRates = new Map<string, number[]>();
  const wrk = async (name: string, url: string) => {
    if (skipped.some((line) => line.startsWith("wrk"))) return;
    try {
      const text = await run("wrk", ["-t1", "-c32", "-d1s", `${url}/_ping`]);
      push(wrkRates, name, Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]));
    } catch (error) {
      skipped.push(`wrk, which checks our client: ${(error as Error).message}`);
      say(`left out: ${skipped.at(-1)}`);
    }
  };
  const key = (name: string, load: Load) => `${name} ${nameOf(load)}`;
  const seen = (name: string, load: Load) => rates.get(key(name, load)) ?? [];
  {
    await using servers = new AsyncDisposableStack();
    const running: [Contender, Running][] = [];
    const env: Record<string, string> = {};
    for (const contender of [...contenders]) {
      let server: Running;
      try {
        server = servers.use(await contender.start(env));
      } catch (error) {
        if ([OURS, YARDSTICK].includes(contender.name)) throw error;
        contenders.splice(contenders.indexOf(contender), 1);
        skipped.push(`${contender.name}: ${(error as Error).message}`);
        say(`left out: ${skipped.at(-1)}`);
        continue;
      }
      running.push([contender, server]);
      if (contender.name === OURS) {
        const port = server.tcp.replace("tcp:", "http://");
        env.VERSION_TEXT = await (await fetch(`${port}/version`)).text();
      }
    }
    for (const path of new Set(LOADS.map(({ path }) => path))) {
      for (const [, { tcp }] of running) {
        await load("rate", ["-to", tcp, "-path", path, "-c", "32", "-for", "200ms"]);
      }
    }
    for (let round = 0; round < ROUNDS; round++) {
      say(`round ${round + 1} of ${ROUNDS}`);
      for (const one of LOADS) {
        // Each goes first in turn, so that none always follows the same one.
        for (let i = 0; i < running.length; i++) {
          const [{ name }, server] = running[(i + round) % running.length]!;
          if (!one.all && ![OURS, YARDSTICK, LIMIT, GO].includes(name)) continue;
          const flags = ["-to", server[one.proto], "-path", one.path, "-c", `${one.clients}`];
          const times = ["-for", LENGTH, "-warm", WARM, "-pid", `${server.pid}`];
          const found = await load<Rates>(one.mode, [...flags, ...times]);
          rates.set(key(name, one), [...seen(name, one), found]);
        }
      }
      for (const [{ name }, { tcp }] of running) {
        if ([OURS, YARDSTICK, GO].includes(name)) await wrk(name, tcp.replace("tcp:", "http://"));
      }
    }
  }

  await using registry = await Registry.start();
  const cached = { JSR_URL: registry.url };
  say("start");
  const starts = await measureStarts(load, cached);
  say("gate");
  const gates = new Map<string, number[]>();
  for (let round = 0; round < (quick ? 1 : 3); round++) {
    for (const proto of ["tcp", "unix"] as const) {
      const crowd = async (contender: Contender, held: boolean) => {
        await using server = await contender.start(held ? { HOLD: "1" } : {});
        const flags = ["-to", server[proto], "-path", "/_ping", "-c", `${HELD}`];
        if (held) flags.push("-pid", `${server.pid}`);
        return await load<Record<string, number>>("gate", flags);
      };
      for (const [what, ms] of Object.entries(await crowd(contenders[0]!, true))) {
        push(gates, `${proto} ${what}`, ms);
      }
      // A daemon that nobody has asked anything yet has all its memory still to get, held clients or not.
      push(gates, `${proto} cold`, (await crowd(contenders[0]!, false)).open!);
      // Clients whom a short queue turns away come again after a second or more.
      if (round === 0) push(gates, `${proto} serve`, (await crowd(contenders[1]!, false)).open!);
    }
  }
  say("memory and streams");
  const memory = new Map<string, number[]>();
  const streams = new Map<string, number[]>();
  for (let round = 0; round < (quick ? 1 : 3); round++) {
    // An answer each, so that what is loaded at the first request is there.
    const atRest = async ({ tcp, pid }: Running) => {
      await load("rate", ["-to", tcp, "-path", "/_ping", "-for", "500ms"]);
      return await resident(pid);
    };
    {
      await using server = await contenders[0]!.start(cached);
      push(memory, `${OURS} cached`, await atRest(server) / 1024);
    }
    for (const contender of contenders) {
      if (![OURS, YARDSTICK, LIMIT, GO].includes(contender.name)) continue;
      await using server = await contender.start({});
      const idle = await atRest(server);
      push(memory, `${contender.name} idle`, idle / 1024);
      const crowd = new Deno.Command(client, {
        args: ["idle", "-to", server.tcp, "-path", "/_ping", "-c", `${IDLE}`],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const output = crowd.stdout.getReader();
      await output.read();
      push(memory, `${contender.name} connection`, (await resident(server.pid) - idle) / IDLE);
      await crowd.stdin.close();
      await output.cancel();
      await crowd.status;
    }
    for (const contender of contenders) {
      if (![OURS, YARDSTICK, GO].includes(contender.name)) continue;
      await using server = await contender.start({});
      const flags = ["-to", server.tcp, "-path", `/bytes/${quick ? 64 : 1024}`];
      const { bytes, seconds } = await load<Record<string, number>>("stream", flags);
      push(streams, contender.name, bytes! / seconds! / 2 ** 20);
    }
  }
  say("jobs");
  const jobs = new Map<string, number[]>();
  for (let round = 0; round < (quick ? 1 : 5); round++) {
    // So large a young generation shows what is allocated, and would make a job slow: it fits no cache.
    const heap = "--v8-flags=--min-semi-space-size=256,--max-semi-space-size=256";
    const ours = async (...flags: string[]) =>
      JSON.parse(await run(Deno.execPath(), ["run", "-A", ...flags, project("bench/jobs.ts")]));
    push(jobs, "ns", (await ours()).ns);
    push(jobs, "bytes", (await ours(heap)).bytes);
    if (!contenders.some(({ name }) => name === GO)) continue;
    const go = JSON.parse(await run(`${folder}/go`, ["job"]));
    push(jobs, "go ns", go.ns);
  }
  say("growth");
  const growth: Growth[] = JSON.parse(
    await run(Deno.execPath(), ["run", "-A", project("bench/growth.ts")]),
  );

  // What the goals say, from medians of what was measured side by side.
  const goals: string[][] = [];
  let missed = 0;
  const goal = (
    what: string,
    found: number[] | undefined,
    op: "≥" | "≤",
    bound: number,
    limit?: number[],
  ) => {
    if (found === undefined) return; // The other side was left out, which was said.
    const fits = (value: number) => op === "≥" ? value >= bound : value <= bound;
    const middle = spread(found);
    let met = "yes";
    if (!fits(middle.median)) {
      missed++;
      met = `**no**, ${found.filter(fits).length} of ${found.length} rounds`;
    }
    goals.push([
      what,
      showSpread(middle),
      `${op} ${bound}`,
      met,
      limit ? showSpread(spread(limit)) : "",
    ]);
  };
  const versus = (load: Load, other: string, of: "rate" | "p99" = "rate", who = OURS) => {
    const [a, b] = [seen(who, load), seen(other, load)];
    return b.length ? ratios(a.map((r) => r[of]), b.map((r) => r[of])) : undefined;
  };
  for (const one of LOADS) {
    const name = nameOf(one);
    const limitOf = (of: "rate" | "p99") => versus(one, YARDSTICK, of, LIMIT);
    // What Deno gets out of this machine beside Go, with nothing of ours.
    const limitOfGo = versus(one, GO, "rate", YARDSTICK);
    const rate = versus(one, YARDSTICK);
    if (one.mode === "fresh") {
      goal(`6. ${name}: of ${YARDSTICK}`, rate, "≥", 0.97, limitOf("rate"));
    } else if (one.path === "/version") {
      goal(`2. ${name}: of a constant from ${YARDSTICK}`, rate, "≥", 0.85, limitOf("rate"));
      goal(`2. ${name}: of ${GO}`, versus(one, GO), "≥", 2, limitOfGo);
    } else {
      goal(`1. ${name}: of ${YARDSTICK}`, rate, "≥", 0.97, limitOf("rate"));
      goal(`1. ${name}: of ${GO}`, versus(one, GO), "≥", 1.5, limitOfGo);
      goal(
        `1. ${name}: p99, of ${YARDSTICK}`,
        versus(one, YARDSTICK, "p99"),
        "≤",
        1,
        limitOf("p99"),
      );
    }
  }
  const of = (map: Map<string, number[]>, name: string) => map.get(name) ?? [];
  const against = (map: Map<string, number[]>, a: string, b: string) =>
    of(map, b).length ? ratios(of(map, a), of(map, b)) : undefined;
  goal("3. A job, in µs", of(jobs, "ns").map((ns) => ns / 1_000), "≤", 0.5);
  goal("3. A job: how many times as fast as Go's", against(jobs, "go ns", "ns"), "≥", 2);
  goal(
    "4. Exec to connectable: of bare Deno.listen",
    against(starts, "ours", "bare"),
    "≤",
    1.15,
    against(starts, "imports", "bare"),
  );
  goal(
    "4. The same with @std/cli in Deno's cache",
    against(starts, "ours cached", "bare"),
    "≤",
    1.15,
    against(starts, "imports", "bare"),
  );
  goal(
    `4. Exec to READY=1: of ${YARDSTICK} connectable`,
    against(starts, "ours ready", "serve"),
    "≤",
    1.15,
  );
  for (const proto of ["tcp", "unix"]) {
    goal(
      `5. Last of ${show(HELD)} held, ${proto}: of the same clients at an open gate`,
      against(gates, `${proto} held`, `${proto} open`),
      "≤",
      1.25,
      against(gates, `${proto} cold`, `${proto} open`),
    );
  }
  goal(
    `6. Idle memory: of ${YARDSTICK}`,
    against(memory, `${OURS} idle`, `${YARDSTICK} idle`),
    "≤",
    1.15,
    against(memory, `${LIMIT} idle`, `${YARDSTICK} idle`),
  );
  goal(
    "6. The same with @std/cli in Deno's cache",
    against(memory, `${OURS} cached`, `${YARDSTICK} idle`),
    "≤",
    1.15,
    against(memory, `${LIMIT} idle`, `${YARDSTICK} idle`),
  );
  goal(
    "6. Memory of an idle connection, in KiB",
    of(memory, `${OURS} connection`),
    "≤",
    24,
    of(memory, `${LIMIT} connection`),
  );
  goal(`6. A stream of 1 GiB: of ${YARDSTICK}`, against(streams, OURS, YARDSTICK), "≥", 0.9);

  const rateRows = LOADS.map((one) => [
    nameOf(one),
    ...contenders.map(({ name }) => {
      const found = seen(name, one);
      return found.length ? showSpread(spread(found.map(({ rate }) => rate))) : "";
    }),
  ]);
  const latencyRows = LOADS.map((one) => [
    nameOf(one),
    ...contenders.map(({ name }) => {
      const found = seen(name, one);
      if (!found.length) return "";
      const middle = (of: "p50" | "p99") => show(spread(found.map((rate) => rate[of])).median);
      return `${middle("p50")} / ${middle("p99")}`;
    }),
  ]);
  const cpuRows = LOADS.map((one) => [
    nameOf(one),
    ...contenders.map(({ name }) => {
      const found = seen(name, one);
      return found.length ? show(spread(found.map(({ cpu }) => cpu)).median) : "";
    }),
  ]);
  const lines = (map: Map<string, number[]>, names: Record<string, string>) =>
    Object.entries(names).filter(([name]) => map.has(name)).map(([name, what]) => [
      what,
      showSpread(spread(of(map, name))),
    ]);
  const others = [
    ...contenders.flatMap(({ name }) =>
      lines(wrkRates, { [name]: `${name}: /_ping by \`wrk -t1 -c32\`, requests per second` })
    ),
    ...lines(starts, {
      bare: "bare `Deno.listen`: exec to connectable, ms",
      imports: "the same, importing our modules besides, ms",
      ours: `${OURS}: exec to connectable, ms`,
      "ours cached": `${OURS} with @std/cli in Deno's cache: exec to connectable, ms`,
      "ours ready": `${OURS}: exec to READY=1, ms`,
      serve: `${YARDSTICK} with Hono: exec to connectable, ms`,
      "serve answer": `${YARDSTICK} with Hono: exec to the first answer, ms`,
      "ours answer": `${OURS}: exec to the first answer, ms`,
    }),
    ...["tcp", "unix"].flatMap((proto) =>
      lines(gates, {
        [`${proto} held`]: `${show(HELD)} held clients, ${proto}: gate to last answer, ms`,
        [`${proto} open`]: `the same clients at an open gate: first connect to last answer, ms`,
        [`${proto} kept`]: `again, on the connections they have: first request to last answer, ms`,
        [`${proto} cold`]: `as many at the open gate of a daemon that nobody has used yet, ms`,
        [`${proto} serve`]: `the same at ${YARDSTICK}, once, ms`,
      })
    ),
    ...contenders.flatMap(({ name }) =>
      lines(memory, {
        [`${name} idle`]: `${name}: idle, MiB`,
        [`${name} connection`]: `${name}: an idle connection, KiB`,
      })
    ),
    ...contenders.flatMap(({ name }) =>
      lines(streams, { [name]: `${name}: a streamed answer of 1 GiB, MiB/s` })
    ),
    ...lines(jobs, {
      ns: `${OURS}: a job that writes a line, ns`,
      bytes: `${OURS}: what it allocates, bytes`,
      "go ns": `${GO}: the same, ns`,
    }),
  ];
  const growthRows = growth.map(({ what, count, setup, step, us }) => [
    `${show(count)} ${what}`,
    show(setup),
    step,
    show(us),
  ]);
  const machine = `${navigator.hardwareConcurrency} cores, ${
    show(Deno.systemMemoryInfo().total / 2 ** 30)
  } GiB`;
  const date = new Date().toISOString().slice(0, 10);
  const took = show((performance.now() - started) / 60_000);
  const page = `# Results of \`deno task bench\`

${date}, ${machine}, ${Deno.build.os} ${
    Deno.osRelease().split("-")[0]
  }. ${ROUNDS} rounds, every contender once a
round and load, ${LENGTH} each after ${WARM} of warming up; client and server share the machine. Medians,
with the least and the greatest in brackets. Took ${took} minutes. Written by \`bench/bench.ts\`; what it
means is in [README.md](README.md).

${contenders.map(({ name, version }) => `- ${name}: ${version}`).join("\n")}
${skipped.map((line) => `- left out: ${line}\n`).join("")}
![Requests per second](results.svg)

## Goals

Ratios are taken a round at a time, of what was measured side by side. The limit is what the least
program reaches that does the same thing: a bare accept loop, a script that only imports our modules, or,
for clients that were held, as many at the open gate of a daemon that nobody has used yet.

${table(["goal", "found", "wanted", "met", "limit"], goals)}
## Requests per second

${table(["load", ...contenders.map(({ name }) => name)], rateRows)}
## Latency in µs: median / p99

${table(["load", ...contenders.map(({ name }) => name)], latencyRows)}
## Processor time of the server for a request, in µs

Less disturbed by whatever else the machine does than the rates are.

${table(["load", ...contenders.map(({ name }) => name)], cpuRows)}
## Start, gate, memory, streams, jobs

${table(["what", "found"], others)}
## How cost grows

${table(["of", "to set up, ms", "a step", "takes, µs"], growthRows)}`;
  if (quick) {
    console.log(page);
  } else {
    await Deno.writeTextFile(project("bench/results.md"), page);
    await Deno.writeTextFile(project("bench/results.svg"), picture());
    await intoReadme();
    await run(Deno.execPath(), [
      "fmt",
      "--quiet",
      "bench/results.md",
      "bench/results.svg",
      "README.md",
    ], {
      cwd: project("."),
    });
    console.log(table(["goal", "found", "wanted", "met", "limit"], goals));
  }
  say(`${goals.length} goals, ${missed} missed, ${took} minutes`);

  function peers(): Contender[] {
    return contenders.filter(({ name }) => name !== LIMIT);
  }

  /** Puts the table that a reader sees first where the README has it. */
  async function intoReadme(): Promise<void> {
    const rows = LOADS.filter(({ all, proto }) => all && proto === "tcp").map((one) => [
      `\`${one.path}\``,
      ...peers().map(({ name }) => {
        const found = seen(name, one);
        return found.length ? show(spread(found.map(({ rate }) => rate)).median) : "";
      }),
    ]);
    const main = table(["requests per second", ...peers().map(({ name }) => name)], rows);
    const path = project("README.md");
    const text = await Deno.readTextFile(path);
    const [before, after] = ["<!-- bench -->\n", "<!-- /bench -->"];
    const [start, end] = [text.indexOf(before) + before.length, text.indexOf(after)];
    if (start < before.length || end < start) throw new Error(`no ${before.trim()} in README.md`);
    const when =
      `Medians of ${ROUNDS} rounds, 32 kept connections over tcp; ${date}, ${machine}.\n`;
    await Deno.writeTextFile(path, `${text.slice(0, start)}\n${main}\n${when}\n${text.slice(end)}`);
  }

  function picture(): string {
    const wanted = LOADS.filter(({ all }) => all);
    return chart(
      "Requests per second, 32 kept connections",
      `${date}, ${machine}. Median of ${ROUNDS} rounds. /version: a job here and in Go, a constant elsewhere.`,
      wanted.map((one) => ({
        title: `${one.path}, ${one.proto}`,
        bars: peers().flatMap(({ name }) => {
          const found = seen(name, one);
          return found.length
            ? [{ name, value: spread(found.map(({ rate }) => rate)).median }]
            : [];
        }),
      })),
      OURS,
    );
  }
}

function push(map: Map<string, number[]>, name: string, value: number): void {
  map.set(name, [...map.get(name) ?? [], value]);
}

/** Resident memory of a process in KiB, once it has had the time to come to rest. */
async function resident(pid: number): Promise<number> {
  await new Promise((resolve) => setTimeout(resolve, 500));
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  return Number(/^VmRSS:\s+(\d+)/m.exec(status)![1]);
}

/** From exec to a socket: ours, the least that a program can do, and the yardstick, in turns. */
async function measureStarts(
  load: <T>(mode: string, flags: string[], env?: Record<string, string>) => Promise<T>,
  cached: Record<string, string>,
): Promise<Map<string, number[]>> {
  const found = new Map<string, number[]>();
  const path = `${folder}/start.sock`;
  const deno = [Deno.execPath(), "run", "-A"];
  const ours = [...deno, project("mod.ts"), "-H", `unix://${path}`];
  const one = async (
    flags: string[],
    command: string[],
    env: Record<string, string>,
    names: Record<string, string>,
  ) => {
    await Deno.remove(path).catch(() => {});
    const times = await load<Record<string, number>>(
      "start",
      ["-to", `unix:${path}`, ...flags, "--", ...command],
      { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1", ...env },
    );
    for (const [what, name] of Object.entries(names)) push(found, name, times[what]!);
  };
  const imports = `${folder}/imports.ts`;
  await Deno.writeTextFile(
    imports,
    `import ${JSON.stringify(new URL("../mod.ts", import.meta.url).href)};\n` +
      await Deno.readTextFile(project("bench/contenders/bare_listen.ts")),
  );
  // The first start of each fills Deno's caches; it is not counted.
  for (let round = -1; round < (quick ? 3 : 21); round++) {
    if (round === 0) found.clear();
    await one([], [...deno, project("bench/contenders/bare_listen.ts"), path], {}, {
      connect: "bare",
    });
    await one([], [...deno, imports, path], {}, { connect: "imports" });
    await one(["-ready"], ours, {}, { connect: "ours", ready: "ours ready" });
    await one(["-path", "/_ping"], ours, {}, { answer: "ours answer" });
    await one([], ours, cached, { connect: "ours cached" });
    await one(["-path", "/_ping"], [...deno, project("bench/contenders/deno_serve.ts"), path], {}, {
      connect: "serve",
      answer: "serve answer",
    });
  }
  return found;
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

try {
  await bench();
} finally {
  await Deno.remove(folder, { recursive: true });
}
