/**
 * What the profiler costs: a daemon without `--debug`, with it, while a page watches, and while a
 * profile is taken; interleaved, medians of rounds. The daemon's own CPU time for a request is told
 * beside the requests per second: on a machine that others use it is the steadier of the two. Needs
 * wrk, and Linux.
 *
 *     deno run -A bench/profiler.ts [ROUNDS]
 *
 * @module
 */

import { Daemon } from "../tests/daemon.ts";

const ROUNDS = Number(Deno.args[0] ?? 25);
const SECONDS = 1;
const PATHS = ["/_ping", "/version"];

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

interface Measured {
  /** Requests per second. */
  rate: number;
  /** Microseconds of CPU time that the daemon takes for a request. */
  cpu: number;
}

async function measure(daemon: Daemon, url: string): Promise<Measured> {
  const before = cpuTime(daemon.pid);
  const { stdout } = await new Deno.Command("wrk", {
    args: ["-t1", "-c32", `-d${SECONDS}`, url],
  }).output();
  const used = cpuTime(daemon.pid) - before;
  const text = new TextDecoder().decode(stdout);
  const [, requests] = /^ +(\d+) requests in/m.exec(text)!;
  const [, rate] = /^Requests\/sec: +([\d.]+)/m.exec(text)!;
  return { rate: Number(rate), cpu: used / Number(requests) };
}

/** User and system time of a process, in microseconds (proc_pid_stat(5), 100 ticks a second). */
function cpuTime(pid: number): number {
  const fields = Deno.readTextFileSync(`/proc/${pid}/stat`).replace(/^.*\) /, "").split(" ");
  return (Number(fields[11]) + Number(fields[12])) * 10_000;
}

function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return (sorted[(sorted.length - 1) >> 1] + sorted[sorted.length >> 1]) / 2;
}

const start = async (...flags: string[]) => {
  const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-l", "info", ...flags]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  await daemon.open();
  for (const path of PATHS) await measure(daemon, url + path); // Warm.
  return { daemon, url };
};
await using stack = new AsyncDisposableStack();
const plain = await start();
stack.use(plain.daemon);
const debug = await start("-D");
stack.use(debug.daemon);

const contenders: [name: string, typeof plain, Beside][] = [
  ["without --debug", plain, nothing],
  ["--debug", debug, nothing],
  ["the page is open", debug, asking("/debug/pprof/live")],
  ["CPU profile", debug, asking(`/debug/pprof/profile?seconds=${SECONDS + 1}`)],
  ["allocation profile", debug, asking(`/debug/pprof/allocs?seconds=${SECONDS + 1}`)],
];
for (const path of PATHS) {
  const rounds = contenders.map((): Measured[] => []);
  for (let round = 0; round < ROUNDS; round++) {
    for (const i of contenders.keys()) {
      // Each comes first, second, ... in turn, since a machine that warms up favours somebody.
      const at = (i + round) % contenders.length;
      const [, { daemon, url }, beside] = contenders[at];
      const end = beside(url);
      rounds[at].push(await measure(daemon, url + path));
      await end();
    }
  }
  contenders.forEach(([name], i) => {
    // Round by round, so that what slows the machine for a while counts on both sides.
    const ratio = (of: keyof Measured) =>
      median(rounds[i].map((round, j) => round[of] / rounds[0][j][of])).toFixed(3);
    const of = (key: keyof Measured) => median(rounds[i].map((round) => round[key]));
    console.log(
      path.padEnd(9),
      name.padEnd(19),
      `${of("rate").toFixed(0)}/s (${ratio("rate")})`,
      `${of("cpu").toFixed(1)} us CPU a request (${ratio("cpu")})`,
    );
  });
}
