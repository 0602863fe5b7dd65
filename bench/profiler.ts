/**
 * What the profiler costs a daemon, by two measures.
 *
 * The instructions of a job by itself, without a profiler, with one that no client uses, and while
 * jobs are watched: counted by valgrind, and so the same on a busy machine. After that the CPU time
 * of a daemon for a request with `--debug`, while the page watches, and while a profile is taken,
 * against a daemon without: in turns of a second on one core (A B B A), and the median of the
 * ratios. The first line compares two daemons that are the same. Needs wrk, taskset and Linux; the
 * first part valgrind.
 *
 *     deno run -A bench/profiler.ts [ROUNDS]
 *
 * @module
 */

import { attachProfiler, createLogger, Engine } from "../mod.ts";
import { createRouter } from "../router.ts";
import { Daemon } from "../tests/support/daemon.ts";

const ROUNDS = Number(Deno.args[0] ?? 9);
/** How long a turn takes. Profiles go on for longer, which they end with. */
const SECONDS = 1;

/** What goes on beside the requests, and how to end it. */
type Beside = (url: string) => () => unknown;
const nothing: Beside = () => () => {};
/** Asks for something that lasts as long as the requests do. */
const asking = (path: string): Beside => (url) => {
  const asked = fetch(url + path);
  return async () => {
    const answer = await asked;
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
    await answer.body?.cancel();
  };
};

interface Started extends AsyncDisposable {
  daemon: Daemon;
  url: string;
}

async function start(...flags: string[]): Promise<Started> {
  const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-l", "info", ...flags]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  await daemon.open();
  const { success } = await new Deno.Command("taskset", {
    args: ["-acp", "0", String(daemon.pid)],
    stdout: "null",
  }).output();
  if (!success) throw new Error("taskset failed");
  return { daemon, url, [Symbol.asyncDispose]: () => daemon[Symbol.asyncDispose]() };
}

/** Nanoseconds of CPU time that the daemon takes for a request. */
async function costs({ daemon, url }: Started, path: string): Promise<number> {
  const before = cpuTime(daemon.pid);
  const { stdout } = await new Deno.Command("wrk", {
    args: ["-t1", "-c16", `-d${SECONDS}`, url + path],
  }).output();
  const used = cpuTime(daemon.pid) - before;
  return used / Number(/^ +(\d+) requests in/m.exec(new TextDecoder().decode(stdout))![1]);
}

/** Of all threads of a process, in nanoseconds. */
function cpuTime(pid: number): number {
  let time = 0;
  for (const { name } of Deno.readDirSync(`/proc/${pid}/task`)) {
    time += Number(Deno.readTextFileSync(`/proc/${pid}/task/${name}/schedstat`).split(" ")[0]);
  }
  return time;
}

function quantile(values: number[], share: number): number {
  return values.toSorted((a, b) => a - b)[Math.round((values.length - 1) * share)]!;
}

/** Counts the instructions of a job; run by valgrind, which it asks for the counts. */
async function jobs(mode: string, counts: string): Promise<void> {
  const engine = new Engine({ log: createLogger({ level: "warn" }) });
  engine.register("echo", (job) => void job.print("hello\n"));
  const router = createRouter(engine);
  if (mode !== "none") await attachProfiler(router, engine);
  const run = async (count: number) => {
    for (let i = 0; i < count; i++) {
      // A client's interest in jobs expires after a minute, and this may take longer.
      if (mode === "watched" && i % 10_000 === 0) await router.request("/debug/pprof/jobs");
      await engine.job("echo", "one", "two").run();
    }
  };
  const control = async (flag: string) => {
    const args = [flag, String(Deno.pid)];
    const { success } = await new Deno.Command("callgrind_control", { args, stdout: "null" })
      .output();
    if (!success) throw new Error("callgrind_control failed");
  };
  await run(200_000); // Compiled before it is measured.
  await control("--instr=on");
  await run(50_000);
  await control("--dump");
  const total = /^totals: (\d+)/m.exec(await Deno.readTextFile(`${counts}.1`))![1];
  console.log(`${mode.padEnd(7)} ${Math.round(Number(total) / 50_000)} instructions a job`);
}

async function instructions(): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "floodgate-" });
  try {
    for (const mode of ["none", "idle", "watched"]) {
      const counts = `${folder}/${mode}`;
      const flags = ["-q", "--tool=callgrind", "--instr-atstart=no", "--smc-check=all-non-file"];
      const deno = ["run", "-A", "--v8-flags=--single-threaded", import.meta.filename!];
      const { success } = await new Deno.Command("valgrind", {
        args: [...flags, `--callgrind-out-file=${counts}`, Deno.execPath(), ...deno, mode, counts],
      }).spawn().status;
      if (!success) throw new Error("valgrind failed");
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

if (Deno.args.length === 2) {
  await jobs(Deno.args[0]!, Deno.args[1]!);
  Deno.exit();
}
await instructions();

await using stack = new AsyncDisposableStack();
const plain = stack.use(await start());
const same = stack.use(await start());
const debug = stack.use(await start("-D"));
const logging = stack.use(await start("-D", "-l", "debug"));
// A process of its own: for some seconds after a profile a process is slower than before.
const profiled = stack.use(await start("-D"));

const contenders: [name: string, Started, Beside][] = [
  ["the same", same, nothing],
  ["--debug", debug, nothing],
  ["--debug, its log", logging, nothing],
  ["the page is open", debug, asking("/debug/pprof/live")],
  ["CPU profile", profiled, asking(`/debug/pprof/profile?seconds=${2 * SECONDS + 1}`)],
  ["allocation profile", profiled, asking(`/debug/pprof/allocs?seconds=${2 * SECONDS + 1}`)],
];
for (const path of ["/_ping", "/version"]) {
  // Compiled before it is measured.
  for (const started of [plain, same, debug, logging, profiled]) await costs(started, path);
  const ratios = contenders.map((): number[] => []);
  const own: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, [, started, beside]] of contenders.entries()) {
      const before = await costs(plain, path);
      const end = beside(started.url);
      const other = await costs(started, path) + await costs(started, path);
      await end();
      const base = before + await costs(plain, path);
      own.push(base / 2);
      ratios[i]!.push(other / base);
    }
  }
  console.log(`${path}: ${(quantile(own, 0.5) / 1_000).toFixed(1)} us CPU a request`);
  contenders.forEach(([name], i) => {
    const at = (share: number) => quantile(ratios[i]!, share).toFixed(3);
    console.log(`  ${name.padEnd(19)} x ${at(0.5)}  (quartiles ${at(0.25)} to ${at(0.75)})`);
  });
}
