/**
 * Mixed load for ten minutes, or for as many seconds as the first argument says: memory and
 * descriptors at the end, held against those after the first tenth.
 *
 * ```sh
 * deno run -A bench/soak.ts 600
 * ```
 *
 * @module
 */

import { Daemon, installer, TempFolder } from "../tests/support/daemon.ts";
import { Client, Load, type Target } from "../tests/support/client.ts";
import { ECHO, malformed } from "./malformed.ts";
import { median } from "./report.ts";

const seconds = Number(Deno.args[0] ?? 600);
if (!(seconds >= 10)) {
  console.error(`soak: ${Deno.args[0]}: expected a number of seconds of at least 10`);
  Deno.exit(2);
}

const INSTALL = installer(
  ECHO + `
  engine.register("wait", (job) => new Promise((resolve) => job.signal.addEventListener("abort", () => resolve())));
  router.job({ method: "GET", path: "/wait", job: "wait" });
  engine.register("fail", () => { throw new Error("no such luck"); });
  router.job({ method: "GET", path: "/fail", job: "fail" });`,
);

await using folder = await TempFolder.make();
const unix: Target = { transport: "unix", path: `${folder.path}/s` };
await using daemon = Daemon.start([
  "-H",
  "tcp://127.0.0.1:0",
  "-H",
  `unix://${unix.path}`,
  "--header-timeout",
  "2",
  "--idle-timeout",
  "5",
  "--install",
  INSTALL,
]);
const tcp: Target = { hostname: "127.0.0.1", port: await daemon.port() };
await daemon.open();

let stopped = false;
let requests = 0;
const wrong = new Map<string, number>();

/** Does one thing over and over, and notes what went wrong with it. */
async function worker(name: string, step: (round: number) => Promise<void>): Promise<void> {
  for (let round = 0; !stopped; round++) {
    try {
      await step(round);
      requests++;
    } catch (error) {
      const what = `${name}: ${(error as Error).message}`;
      wrong.set(what, (wrong.get(what) ?? 0) + 1);
    }
  }
}

async function ask(target: Target, request: string, status: number): Promise<void> {
  const client = await Client.to(target);
  try {
    const answer = await client.ask(request);
    if (answer.status !== status) throw new Error(`answered ${answer.status}`);
  } finally {
    client.close();
  }
}

const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
const loads = [new Load(tcp, 1, 2), new Load(unix, 1, 2)];
const body = "x".repeat(200_000);
const workers = [
  worker("version", () => ask(tcp, get("/version"), 200)),
  worker("info", () => ask(unix, get("/info"), 200)),
  worker("fail", () => ask(unix, get("/fail"), 500)),
  worker(
    "upload",
    () =>
      ask(
        tcp,
        `POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        200,
      ),
  ),
  // Listens to events, and leaves in the middle.
  worker("events", async () => {
    const client = await Client.to(unix);
    await client.send(get("/events?since=1m"));
    await client.sees(/\r\n\r\n/);
    client.close();
  }),
  // Leaves while its job runs.
  worker("leaver", async () => {
    const client = await Client.to(tcp);
    await client.send(get("/wait"));
    await new Promise((resolve) => setTimeout(resolve, 20));
    client.close();
  }),
  // Sends half a header, and is ended by the timeout.
  ...Array.from({ length: 20 }, () =>
    worker("stalled", async () => {
      const client = await Client.to(tcp);
      await client.send("GET / HT");
      await client.ended();
      client.close();
    })),
  worker("garbage", async (round) => {
    const client = await Client.to(tcp);
    const { parts, leaves } = malformed(round);
    // A server that has seen enough closes in the middle of what we send.
    for (const part of parts) await client.send(part).catch(() => {});
    if (leaves !== "reset") await Promise.race([client.more().catch(() => false), pause(50)]);
    client.close();
  }),
];

function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

function sample(): { rss: number; descriptors: number } {
  const status = Deno.readTextFileSync(`/proc/${daemon.pid}/status`);
  return {
    rss: Number(/VmRSS:\s+(\d+)/.exec(status)![1]) / 1_024,
    descriptors: [...Deno.readDirSync(`/proc/${daemon.pid}/fd`)].length,
  };
}

/** The median of what a tenth of the time, at its end, shows. */
async function measure(until: number): Promise<{ rss: number; descriptors: number }> {
  const samples: ReturnType<typeof sample>[] = [];
  while (performance.now() < until) {
    await pause(250);
    samples.push(sample());
  }
  return {
    rss: median(samples.map(({ rss }) => rss)),
    descriptors: median(samples.map(({ descriptors }) => descriptors)),
  };
}

const started = performance.now();
const first = await measure(started + seconds * 100);
console.log(
  `after ${seconds / 10} s: ${first.rss.toFixed(1)} MB, ${first.descriptors} descriptors`,
);
for (let tenth = 2; tenth < 10; tenth++) {
  const { rss, descriptors } = await measure(started + tenth * seconds * 100);
  console.log(
    `      ${(tenth * seconds) / 10} s: ${rss.toFixed(1)} MB, ${descriptors} descriptors`,
  );
}
const last = await measure(started + seconds * 1_000);
stopped = true;
const tallies = await Promise.all(loads.map((load) => load.stop()));
await Promise.all(workers);
console.log(`after ${seconds} s: ${last.rss.toFixed(1)} MB, ${last.descriptors} descriptors`);
const ok = tallies.reduce((sum, tally) => sum + tally.ok, requests);
for (const tally of tallies) for (const [what, n] of tally.failed) wrong.set(what, n);
console.log(
  `${ok} requests, memory x ${(last.rss / first.rss).toFixed(3)}, descriptors x ${
    (last.descriptors / first.descriptors).toFixed(3)
  }, wrong: ${[...wrong].map(([what, n]) => `${n} ${what}`).join("; ") || "none"}`,
);
// Not Deno.exit, which would leave the daemon running.
Deno.exitCode =
  wrong.size === 0 && last.rss < first.rss * 1.1 && last.descriptors < first.descriptors * 1.1
    ? 0
    : 1;
