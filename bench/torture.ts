/**
 * What kills other servers, done to a daemon: `deno task torture [NAME ...]`. Bounded: it takes
 * less than two minutes, goes to this machine only, and ends with status 1 if anything was lost.
 *
 * @module
 */

import { Daemon, installer, TempFolder } from "../tests/support/daemon.ts";
import { Client, connect, Load, type Target } from "../tests/support/client.ts";
import { ECHO, malformed } from "./malformed.ts";
import { median } from "./report.ts";

const PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n";
const PING_ONCE = "GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

let failures = 0;
function report(ok: boolean, text: string): void {
  if (!ok) failures++;
  console.log(`${ok ? "ok  " : "FAIL"} ${text}`);
}

const ms = (since: number) => Math.round(performance.now() - since);

/** A boot that waits this long, as a module for --install. */
function boot(milliseconds: number): string {
  return installer(`await new Promise((resolve) => setTimeout(resolve, ${milliseconds}));`);
}

async function once(target: Target, request = PING_ONCE): Promise<number> {
  const client = await Client.to(target);
  try {
    return (await client.ask(request)).status;
  } finally {
    client.close();
  }
}

/** How often each thing happened. */
function count(things: string[]): string {
  const counts = new Map<string, number>();
  for (const thing of things) counts.set(thing, (counts.get(thing) ?? 0) + 1);
  return [...counts].map(([thing, n]) => `${n} ${thing}`).join(", ");
}

async function stats(target: Target) {
  const client = await Client.to(target);
  const answer = await client.ask(
    "GET /debug/vars HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
  );
  client.close();
  return JSON.parse(answer.body);
}

/** 256 descriptors, 2 000 clients at once, ten rounds. */
function descriptors(): Promise<void> {
  return crowd("descriptors", 10, []);
}

/** The same with a limit above what the descriptors allow, so that accept really fails. */
function exhausted(): Promise<void> {
  return crowd("exhausted", 3, ["--max-connections", "100000"]);
}

async function crowd(name: string, rounds: number, args: string[]): Promise<void> {
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...args], { descriptors: 256 });
  const target = { hostname: "127.0.0.1", port: await daemon.port() };
  await daemon.open();
  let slowest = 0;
  const outcomes: string[] = [];
  const started = performance.now();
  for (let round = 0; round < rounds; round++) {
    // Half of them keep their connection open until the round is over, idle.
    const kept: Client[] = [];
    const one = async (i: number) => {
      if (i % 2) return await once(target);
      const client = await Client.to(target);
      kept.push(client);
      return (await client.ask(PING)).status;
    };
    outcomes.push(
      ...await Promise.all(
        Array.from(
          { length: 2_000 },
          (_, i) => one(i).then((status) => `answered ${status}`, (error) => error.message),
        ),
      ),
    );
    const fresh = performance.now();
    const status = await once(target).catch((error) => error.message);
    slowest = Math.max(slowest, ms(fresh));
    if (status !== 200) outcomes.push(`after the round: ${status}`);
    for (const client of kept) client.close();
  }
  const { apis: [{ listeners: [{ shed, acceptErrors }] }] } = await stats(target);
  const logged = daemon.stderr.match(/accept: /g)?.length ?? 0;
  report(
    outcomes.every((outcome) => outcome === "answered 200") && slowest < 1_000 &&
      (args.length === 0 || acceptErrors > 0),
    `${name}: 256 of them, ${rounds} x 2 000 clients in ${ms(started)} ms: ${count(outcomes)}; a ` +
      `fresh request after a round took at most ${slowest} ms; ${shed} idle ones shed, ` +
      `${acceptErrors} accept errors, ${logged} log lines about them`,
  );
}

/** 10 000 unix clients and 4 000 tcp ones while the daemon boots, within 1.5 s. */
async function flood(): Promise<void> {
  await using folder = await TempFolder.make();
  const unix: Target = { transport: "unix", path: `${folder.path}/s` };
  await using daemon = Daemon.start([
    "-H",
    "tcp://127.0.0.1:0",
    "-H",
    `unix://${unix.path}`,
    "--install",
    boot(3_000),
  ]);
  const tcp: Target = { hostname: "127.0.0.1", port: await daemon.port() };
  let opened = 0;
  daemon.open().then(() => opened = performance.now());
  const started = performance.now();
  let connected = 0;
  let early = 0;
  let last = 0;
  const client = async (target: Target, delay: number) => {
    await new Promise((resolve) => setTimeout(resolve, delay));
    try {
      const client = await Client.to(target);
      connected = performance.now();
      const { status } = await client.ask(PING);
      if (!opened) early++;
      last = performance.now();
      client.close();
      return `answered ${status}`;
    } catch (error) {
      return (error as Error).message;
    }
  };
  const outcomes = await Promise.all([
    ...Array.from({ length: 10_000 }, (_, i) => client(unix, (i * 1_500) / 10_000)),
    ...Array.from({ length: 4_000 }, (_, i) => client(tcp, (i * 1_500) / 4_000)),
  ]);
  report(
    outcomes.every((outcome) => outcome === "answered 200"),
    `flood: 10 000 unix and 4 000 tcp clients, connected in ${
      Math.round(connected - started)
    } ms of a 3 s boot: ${count(outcomes)}; last answer ${
      Math.round(last - opened)
    } ms after the gate opened`,
  );
}

/** 2 000 clients that stop in the middle of a header. */
async function stalled(): Promise<void> {
  const timeout = 4;
  await using daemon = Daemon.start([
    "-H",
    "tcp://127.0.0.1:0",
    "--header-timeout",
    String(timeout),
  ]);
  const target = { hostname: "127.0.0.1", port: await daemon.port() };
  await daemon.open();
  const probe = async (): Promise<number[]> => {
    const times: number[] = [];
    for (let i = 0; i < 300; i++) {
      const started = performance.now();
      await once(target);
      times.push((performance.now() - started) * 1_000);
    }
    return times;
  };
  await probe();
  const without = median(await probe());
  const started = performance.now();
  const clients = await Promise.all(Array.from({ length: 2_000 }, () => Client.to(target)));
  await Promise.all(clients.map((client) => client.send("GET /_ping HTTP/1.1\r\nHo")));
  const connected = ms(started);
  const beside = median(await probe());
  const gone = await Promise.all(clients.map(async (client) => {
    await client.ended();
    client.close();
    return ms(started);
  }));
  const latest = Math.max(...gone);
  report(
    latest < timeout * 1_000 + connected + 1_500 && beside < without * 3,
    `stalled: 2 000 half headers; a good client takes ${Math.round(beside)} µs beside them and ${
      Math.round(without)
    } µs without; with a timeout of ${timeout} s all were gone ${
      Math.min(...gone)
    } to ${latest} ms ` +
      `after the first connected`,
  );
}

/** Ten takeovers of a unix socket under load. */
async function takeover(): Promise<void> {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const address = ["-H", `unix://${path}`];
  await using daemons = new AsyncDisposableStack();
  let current = daemons.use(Daemon.start(address));
  await current.open();
  const load = new Load({ transport: "unix", path }, 8, 8);
  const started = performance.now();
  const statuses: number[] = [];
  for (let i = 0; i < 10; i++) {
    const next = daemons.use(
      Daemon.start([...address, "--takeover", "--install", boot(100)]),
    );
    await next.open();
    statuses.push(await current.end());
    current = next;
  }
  const seconds = (performance.now() - started) / 1_000;
  const { ok, failed } = await load.stop();
  statuses.push(await current.end());
  const rate = Math.round(ok / seconds);
  report(
    failed.size === 0 && statuses.every((status) => status === 0) && rate > 2_000,
    `takeover: 10 in ${
      seconds.toFixed(1)
    } s at ${rate} requests/s (half of the clients connect for ` +
      `each request, half keep their connection): ${ok} answered, failed: ${list(failed)}`,
  );
}

/** SIGTERM under load. */
async function drain(): Promise<void> {
  for (const kind of ["unix", "tcp"]) {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`]);
    const port = await daemon.port();
    await daemon.open();
    const target: Target = kind === "unix"
      ? { transport: "unix", path }
      : { hostname: "127.0.0.1", port };
    const load = new Load(target, 8, 8, false);
    while (load.tally.ok < 4_000) await new Promise((resolve) => setTimeout(resolve, 10));
    const started = performance.now();
    const status = await daemon.end();
    const took = ms(started);
    const { ok, failed } = await load.stop();
    // A tcp client whose handshake the kernel made after our last accept is reset by the kernel.
    const lost = [...failed.values()].reduce((a, b) => a + b, 0);
    report(
      status === 0 &&
        (kind === "unix" ? lost === 0 : ![...failed.keys()].some((k) => /cut/.test(k))),
      `drain: SIGTERM under load on ${kind}, ended in ${took} ms with status ${status}: ${ok} answered ` +
        `whole, failed: ${list(failed)}`,
    );
  }
}

function list(failed: Map<string, number>): string {
  return [...failed].map(([why, n]) => `${n} ${why}`).join("; ") || "none";
}

/** What stands at the path of a unix socket. */
async function files(): Promise<void> {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const address = ["-H", `unix://${path}`];
  const killed = Daemon.start(address);
  await killed.open();
  await killed.end("SIGKILL");
  await using restarted = Daemon.start(address);
  await restarted.open();
  report(
    await once({ transport: "unix", path }) === 200,
    "files: after kill -9 the stale socket is replaced",
  );
  await using beside = Daemon.start(address);
  const { code } = await beside.status;
  report(
    code === 1 && /a living process answers/.test(beside.stderr),
    `files: ${beside.stderr.trim()}`,
  );
  report(
    await once({ transport: "unix", path }) === 200,
    "files: the living daemon was not disturbed",
  );
  await restarted.end();
  await Deno.writeTextFile(path, "precious");
  await using refused = Daemon.start(address);
  report(
    (await refused.status).code === 1 && await Deno.readTextFile(path) === "precious",
    `files: ${refused.stderr.trim()}`,
  );
}

/** 20 000 requests that are none, and good ones among them. */
async function garbage(): Promise<void> {
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", installer(ECHO)]);
  const target = { hostname: "127.0.0.1", port: await daemon.port() };
  await daemon.open();
  const started = performance.now();
  const total = 20_000;
  const outcomes: string[] = [];
  const problems: string[] = [];
  let next = 0;
  await Promise.all(Array.from({ length: 32 }, async () => {
    while (next < total) {
      const attack = malformed(next++);
      const { outcome, problem } = await tryOne(target, attack);
      outcomes.push(outcome);
      if (problem) problems.push(`${attack.name}: ${problem}`);
    }
  }));
  const alive = await once(target);
  const { memory } = await stats(target);
  report(
    alive === 200 && problems.length === 0 && outcomes.length === total,
    `garbage: ${total} malformed requests in ${ms(started)} ms: ${
      count(outcomes)
    }; then a good one: ` +
      `${alive}; resident ${Math.round(memory.rss / 1e6)} MB; problems: ${
        count(problems).slice(0, 600) || "none"
      }`,
  );
}

async function tryOne(
  target: Target,
  attack: ReturnType<typeof malformed>,
): Promise<{ outcome: string; problem?: string | undefined }> {
  const conn = await connect(target);
  const client = new Client(conn);
  const timer = setTimeout(() => client.close(), 3_000);
  const late = performance.now() + 2_900;
  try {
    // A server that has seen enough closes in the middle of what we send.
    for (const part of attack.parts) await client.send(part).catch(() => {});
    if (attack.leaves === "reset") return { outcome: "left" };
    if (attack.leaves === "half") await conn.closeWrite().catch(() => {});
    // Read all that comes until the server closes, or it has answered as often as it may and a
    // marker shows that it waits for the next request.
    while (await client.more().catch(() => false)) {
      if (attack.complete && attack.done(client.rest)) break;
    }
    const text = client.rest;
    const statuses = [...text.matchAll(/HTTP\/1\.[01] (\d{3}) /g)].map(([, status]) => status!);
    let problem: string | undefined;
    if (performance.now() > late) problem = "hung";
    else if (statuses.some((status) => status >= "500")) problem = `answered ${statuses}`;
    else problem = attack.check(text, statuses);
    return { outcome: statuses[0] ?? "closed", problem };
  } finally {
    clearTimeout(timer);
    client.close();
  }
}

const SCENARIOS = { descriptors, exhausted, flood, stalled, takeover, drain, files, garbage };

if (import.meta.main) {
  const names = Deno.args.length > 0 ? Deno.args : Object.keys(SCENARIOS);
  const started = performance.now();
  for (const name of names) {
    const scenario = SCENARIOS[name as keyof typeof SCENARIOS];
    if (!scenario) {
      console.error(`torture: no ${name}, expected any of ${Object.keys(SCENARIOS).join(", ")}`);
      Deno.exit(2);
    }
    try {
      await scenario();
    } catch (error) {
      report(false, `${name}: ${(error as Error).stack}`);
    }
  }
  console.log(`${failures === 0 ? "nothing was lost" : `${failures} failed`}, ${ms(started)} ms`);
  Deno.exit(failures === 0 ? 0 : 1);
}
