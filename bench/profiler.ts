/**
 * What the profiler costs a daemon: its CPU time for a request with `--debug`, while the page watches,
 * and while a profile is taken, against a daemon without. Both are under load at the same time and
 * share one core, so that what else the machine does counts on both sides; requests per second of the
 * whole machine differ more from one minute to the next than what is looked for here. The first line
 * compares two daemons that are the same. Needs wrk, taskset and Linux.
 *
 *     deno run -A bench/profiler.ts [ROUNDS]
 *
 * @module
 */

import { Daemon } from "../tests/daemon.ts";

const ROUNDS = Number(Deno.args[0] ?? 9);
const SECONDS = 2;

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
  return values.toSorted((a, b) => a - b)[Math.round((values.length - 1) * share)];
}

await using stack = new AsyncDisposableStack();
const plain = stack.use(await start());
const same = stack.use(await start());
const debug = stack.use(await start("-D"));
// A process of its own: for some seconds after a profile a process is slower than before.
const profiled = stack.use(await start("-D"));

const contenders: [name: string, Started, Beside][] = [
  ["the same", same, nothing],
  ["--debug", debug, nothing],
  ["the page is open", debug, asking("/debug/pprof/live")],
  ["CPU profile", profiled, asking(`/debug/pprof/profile?seconds=${SECONDS + 1}`)],
  ["allocation profile", profiled, asking(`/debug/pprof/allocs?seconds=${SECONDS + 1}`)],
];
for (const path of ["/_ping", "/version"]) {
  // Compiled before it is measured.
  for (const started of [plain, same, debug, profiled]) await costs(started, path);
  const ratios = contenders.map((): number[] => []);
  const own: number[] = [];
  for (let round = 0; round < ROUNDS; round++) {
    for (const [i, [, started, beside]] of contenders.entries()) {
      const end = beside(started.url);
      const [base, other] = await Promise.all([costs(plain, path), costs(started, path)]);
      await end();
      own.push(base);
      ratios[i].push(other / base);
    }
  }
  console.log(`${path}: ${(quantile(own, 0.5) / 1_000).toFixed(1)} us CPU a request`);
  contenders.forEach(([name], i) => {
    const at = (share: number) => quantile(ratios[i], share).toFixed(3);
    console.log(`  ${name.padEnd(19)} x ${at(0.5)}  (quartiles ${at(0.25)} to ${at(0.75)})`);
  });
}
