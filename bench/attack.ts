/**
 * What an attacker does who has read SECURITY.md, done to a daemon: `deno task attack [--daemon
 * COMMAND] [NAME ...]`. COMMAND runs a build in place of mod.ts. It takes less than two minutes,
 * goes to this machine only, and ends with status 1 if an attack succeeded. The table it prints is
 * the one in SECURITY.md. Needs openssl and curl.
 *
 * @module
 */

import { type ClientHttp2Session, connect as connectHttp2 } from "node:http2";
import { createConnection } from "node:net";
import { within } from "../engine/time.ts";
import { Authority } from "../tests/support/certificates.ts";
import { Client, PING } from "../tests/support/client.ts";
import { Daemon, installer, run, until } from "../tests/support/daemon.ts";
import { flags } from "../tests/support/tls.ts";

/** What became of an attack. */
interface Outcome {
  /** Whether the daemon held. */
  held: boolean;
  /** What was found, in numbers. */
  found: string;
}

/** Something that an attacker does. */
interface Attack {
  /** What is done, in words. */
  what: string;
  /** What is allowed to come of it. */
  allowed: string;
  /** Does it. Throws if something else goes wrong, which counts as a success of the attacker's. */
  run(): Promise<Outcome>;
}

const MIB = 1_024 * 1_024;
/** How long an attack may take, in milliseconds. */
const LIMIT = 25_000;

let command: string[] | undefined;

/** A daemon on a tcp port of its own, whose gate is open. */
class Attacked implements AsyncDisposable {
  private constructor(readonly daemon: Daemon, readonly target: Deno.ConnectOptions) {}

  static async start(...args: string[]): Promise<Attacked> {
    const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...args], {
      ...command && { command },
    });
    try {
      const port = await daemon.port();
      await daemon.open();
      return new Attacked(daemon, { hostname: "127.0.0.1", port });
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
  }
  /** What the daemon says of its connections and requests. */
  async stats() {
    using client = await Client.to(this.target);
    const { status, body } = await client.ask(
      "GET /debug/vars HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    );
    if (status !== 200) throw new Error(`stats: ${status}`);
    const { apis: [{ listeners: [listener], work }] } = JSON.parse(body);
    return { ...listener, work };
  }
  /** How long a client waits for its answer now, in milliseconds. */
  async wait(): Promise<number> {
    const started = performance.now();
    using client = await Client.to(this.target);
    const { status } = await client.ask(PING);
    if (status !== 200) throw new Error(`answered ${status}`);
    return Math.round(performance.now() - started);
  }
  /** The memory that it has, in MiB. */
  memory(): number {
    const text = Deno.readTextFileSync(`/proc/${this.daemon.pid}/status`);
    return Math.round(Number(/^VmRSS:\s+(\d+)/m.exec(text)![1]) / 1_024);
  }
  http2(initialWindowSize?: number): ClientHttp2Session {
    const session = connectHttp2(`http://localhost:${this.target.port}`, {
      settings: { ...initialWindowSize !== undefined && { initialWindowSize } },
    });
    session.on("error", () => {}); // That it is cut is what may happen.
    return session;
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
  }
}

/** Routes whose answers are great, or never end, and a job that hears nothing of its client. */
const ROUTES = installer(`
  router.get("/mib", () => new Response(new Uint8Array(1 << 20)));
  router.get("/whole", () => new Response(new Uint8Array(12 << 20)));
  router.get("/endless", () => new Response(new ReadableStream({
    pull: (controller) => controller.enqueue(new Uint8Array(100_000)),
  })));
  engine.register("ended", (job) => { job.stdout.write(new Uint8Array(12 << 20)).catch(() => {}); });
  router.job({ method: "GET", path: "/ended", job: "ended" });
  let deaf = 0;
  engine.register("deaf", async () => {
    deaf++;
    await new Promise((resolve) => setTimeout(resolve, 20_000));
  });
  router.job({ method: "GET", path: "/deaf", job: "deaf" });
  router.get("/deaf-jobs", (c) => c.text(String(deaf)));
`);

const get = (path: string, host = "localhost") => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;

/** A connection that is reset as soon as it is there (SO_LINGER 0). */
function reset(port: number): Promise<unknown> {
  const client = createConnection(port, "127.0.0.1");
  client.on("connect", () => client.resetAndDestroy()).on("error", () => {});
  return new Promise((resolve) => client.on("close", resolve));
}

async function resets(count: number, ...args: string[]): Promise<Outcome> {
  await using attacked = await Attacked.start(...args);
  // A daemon that does not run accepts nothing meanwhile: all of them are reset in its queue.
  const before = args.length > 0 ? 0 : await attacked.wait();
  attacked.daemon.kill("SIGSTOP");
  for (let i = 0; i < count; i += 50) {
    await Promise.all(Array.from({ length: 50 }, () => reset(attacked.target.port)));
  }
  attacked.daemon.kill("SIGCONT");
  const started = performance.now();
  if (args.length > 0) {
    const { code } = await run("curl", ["-sk", `https://localhost:${attacked.target.port}/`]);
    if (code === 0) throw new Error("let in without a certificate");
  } else await attacked.wait();
  const took = Math.round(performance.now() - started);
  return { held: took < 1_000, found: `the next client waits ${took} ms (before: ${before} ms)` };
}

/** Attacks by their names. To add one, put it here. */
export const ATTACKS: Record<string, Attack> = {
  resets: {
    what: "1 000 clients connect and reset at once",
    allowed: "the next one waits less than 1 s",
    run: () => resets(1_000),
  },
  "resets-tls": {
    what: "the same with `--tlsverify`",
    allowed: "the next one waits less than 1 s",
    run: async () => {
      await using authority = await Authority.make();
      return await resets(1_000, ...flags(await authority.server(), authority.ca));
    },
  },
  places: {
    what: "at `--max-connections 10`, 10 clients take nothing of great answers of each kind",
    allowed: "each time the next client is answered, after the timeout of 1 s",
    run: async () => {
      const limits = ["--max-connections", "10", "--send-timeout", "1", "--idle-timeout", "1"];
      await using attacked = await Attacked.start(...limits, "--install", ROUTES);
      const waits: number[] = [];
      for (const path of ["/whole", "/endless", "/ended"]) {
        const clients = await Promise.all(
          Array.from({ length: 10 }, () => Client.to(attacked.target)),
        );
        await Promise.all(clients.map((client) => client.send(get(path))));
        waits.push(await attacked.wait());
        clients.forEach((client) => client.close());
        await until(async () => (await attacked.stats()).open <= 1);
      }
      return { held: Math.max(...waits) < 5_000, found: `waits of ${waits.join(", ")} ms` };
    },
  },
  closing: {
    what: "a client with a full window and 2 000 small answers to come, at SIGTERM",
    allowed: "the daemon ends within `--shutdown-timeout 2` and a second",
    run: async () => {
      await using attacked = await Attacked.start("--shutdown-timeout", "2");
      const client = await Client.to(attacked.target);
      client.send(get("/info").repeat(4_000)).catch(() => {}); // It is reset in the middle.
      let seen = -1;
      await until(async () => {
        const { requests } = await attacked.stats();
        await new Promise((resolve) => setTimeout(resolve, 100));
        return requests - seen <= 1 || (seen = requests, false);
      });
      const started = performance.now();
      await attacked.daemon.end();
      client.close();
      const took = Math.round(performance.now() - started);
      return { held: took < 3_500, found: `${took} ms` };
    },
  },
  window: {
    what: "150 answers of 1 MiB on one HTTP/2 connection whose window is 0",
    allowed: "64 MiB wait at most, and the connection is gone after `--send-timeout 1`",
    run: async () => {
      await using attacked = await Attacked.start("--send-timeout", "1", "--install", ROUTES);
      await attacked.wait();
      const before = attacked.memory();
      const session = attacked.http2(0);
      let answered = 0;
      for (let i = 0; i < 150; i++) {
        session.request({ ":path": "/mib" }).on("response", () => answered++).on("error", () => {});
      }
      await until(() => answered === 150);
      const { work: { held } } = await attacked.stats();
      const grown = attacked.memory() - before;
      const started = performance.now();
      await until(async () => (await attacked.stats()).open === 1);
      const took = Math.round(performance.now() - started);
      session.destroy();
      return {
        held: held <= 66 * MIB && took < 4_000,
        found: `${
          Math.round(held / MIB)
        } MiB wait, ${grown} MiB more resident; gone after ${took} ms`,
      };
    },
  },
  neighbours: {
    what: "one stream of an HTTP/2 connection is not taken",
    allowed: "its neighbours go on",
    run: async () => {
      await using attacked = await Attacked.start("--send-timeout", "1", "--install", ROUTES);
      const session = attacked.http2();
      let ended = false;
      session.request({ ":path": "/events" }).on("close", () => ended = true).resume();
      session.request({ ":path": "/endless" }).on("error", () => {}).pause();
      await until(async () => (await attacked.stats()).cut === 1);
      const status = await new Promise((resolve) =>
        session.request({ ":path": "/_ping" }).on("response", (h) => resolve(h[":status"]))
      );
      session.destroy();
      return {
        held: !ended && status === 200,
        found: ended
          ? "they were cut"
          : `the stream is given up, a neighbour goes on, the next is ${status}`,
      };
    },
  },
  streams: {
    what: "3 s of HTTP/2 streams to a job that hears nothing of its client, reset 15 at a time",
    allowed: "100 jobs run for each connection it takes, and others are answered",
    run: async () => {
      await using attacked = await Attacked.start("--install", ROUTES);
      let session = attacked.http2();
      let connections = 1;
      let sent = 0;
      for (const started = performance.now(); performance.now() - started < 3_000;) {
        // Deno ends a connection that resets too much (ENHANCE_YOUR_CALM).
        if (session.destroyed || session.closed) {
          session = attacked.http2();
          connections++;
        }
        const streams = Array.from({ length: 15 }, () => session.request({ ":path": "/deaf" }));
        sent += streams.length;
        for (const stream of streams) stream.on("error", () => {}).resume();
        await new Promise((resolve) => setTimeout(resolve, 5));
        for (const stream of streams) stream.close(8); // CANCEL (RFC 9113, 7)
      }
      const wait = await attacked.wait();
      using client = await Client.to(attacked.target);
      const jobs = Number((await client.ask(get("/deaf-jobs"))).body);
      session.destroy();
      return {
        held: jobs <= 100 * connections && wait < 1_000,
        found: `${jobs} jobs of ${sent} requests, by ${connections} connections`,
      };
    },
  },
  stall: {
    what: "the daemon is stopped for 1.5 s, with a `--header-timeout` of 0.5 s",
    allowed: "no request that was sent meanwhile is lost",
    run: async () => {
      await using attacked = await Attacked.start("--header-timeout", "0.5");
      const clients = await Promise.all(
        Array.from({ length: 24 }, () => Client.to(attacked.target)),
      );
      await attacked.wait();
      attacked.daemon.kill("SIGSTOP");
      for (const client of clients) await client.send(PING);
      await new Promise((resolve) => setTimeout(resolve, 1_500));
      attacked.daemon.kill("SIGCONT");
      const answers = await Promise.allSettled(clients.map((client) => client.answer()));
      const lost = answers.filter(({ status }) => status === "rejected").length;
      clients.forEach((client) => client.close());
      return { held: lost === 0, found: `${lost} of 24 are` };
    },
  },
  rebinding: {
    what: "a page by HTTP/2 in the clear, under a name that is none of the daemon's",
    allowed: "403",
    run: async () => {
      await using attacked = await Attacked.start();
      const session = attacked.http2();
      const status = await new Promise((resolve) =>
        session.request({ ":path": "/_ping", ":authority": "attacker.example" })
          .on("response", (header) => resolve(header[":status"]))
      );
      session.destroy();
      return { held: status === 403, found: `${status}` };
    },
  },
  authority: {
    what: "a client of the old authority listens to events at SIGHUP with another",
    allowed: "it hears nothing after 7 s",
    run: async () => {
      await using authority = await Authority.make();
      await using other = await Authority.make();
      const ca = authority.path("changing.pem");
      await Deno.copyFile(authority.ca, ca);
      const { cert, key } = await authority.client();
      await using attacked = await Attacked.start(...flags(await authority.server(), ca));
      const conn = await Deno.connectTls({
        ...attacked.target,
        caCerts: [await Deno.readTextFile(authority.ca)],
        cert: await Deno.readTextFile(cert),
        key: await Deno.readTextFile(key),
      });
      using client = new Client(conn);
      await client.send(get("/events"));
      await client.sees(/\r\n\r\n/);
      await Deno.copyFile(other.ca, ca);
      const started = performance.now();
      attacked.daemon.kill("SIGHUP");
      const ended = await within(10_000, client.ended());
      const took = Math.round(performance.now() - started);
      return { held: ended && took < 7_000, found: `it is cut after ${took} ms` };
    },
  },
  impostor: {
    what: "certificates of one authority, `O=Ops/UID=alice` and `O=Ops/UID=bob`",
    allowed: "two users",
    run: async () => {
      await using authority = await Authority.make();
      const whoami = installer(`router.get("/whoami", (c) => c.text(c.env.client.subject));`);
      await using attacked = await Attacked.start(
        ...flags(await authority.server(), authority.ca),
        ...["--install", whoami],
      );
      const users: string[] = [];
      for (const user of ["alice", "bob"]) {
        const { cert, key } = await authority.client(user, `/O=Ops/UID=${user}`);
        const { stdout } = await run("curl", [
          ...["-sS", "--cacert", authority.ca, "--cert", cert, "--key", key],
          `https://localhost:${attacked.target.port}/whoami`,
        ]);
        users.push(stdout);
      }
      const held = users.every((user) => user !== "") && new Set(users).size === 2;
      return { held, found: users.join(" and ") };
    },
  },
  intruder: {
    what: "10 clients without a certificate, and 10 without TLS, at `--tlsverify`",
    allowed: "each is told why",
    run: async () => {
      await using authority = await Authority.make();
      await using attacked = await Attacked.start(
        ...flags(await authority.server(), authority.ca),
      );
      const { port } = attacked.target;
      let told = 0;
      for (let i = 0; i < 10; i++) {
        const args = ["-sS", "--cacert", authority.ca, `https://localhost:${port}/_ping`];
        if (/certificate required/.test((await run("curl", args)).stderr)) told++;
        if (/HTTPS server/.test((await run("curl", ["-sS", `localhost:${port}`])).stdout)) told++;
      }
      return { held: told === 20, found: `${told} of 20 are` };
    },
  },
};

async function attack(name: string, { what, allowed, run }: Attack): Promise<boolean> {
  let outcome: Outcome = { held: false, found: `it took more than ${LIMIT / 1_000} s` };
  try {
    const running = run().then((found) => outcome = found);
    await within(LIMIT, running);
  } catch (error) {
    outcome = { held: false, found: (error as Error).message };
  }
  const { held, found } = outcome;
  console.log(`| ${name} | ${what} | ${allowed} | ${found} | ${held ? "yes" : "**no**"} |`);
  return held;
}

if (import.meta.main) {
  const args = [...Deno.args];
  if (args[0] === "--daemon") command = args.splice(0, 2)[1]?.split(" ") ?? [];
  const names = args.length > 0 ? args : Object.keys(ATTACKS);
  const unknown = names.find((name) => !Object.hasOwn(ATTACKS, name));
  if (unknown !== undefined || command?.length === 0) {
    console.error(
      `attack: ${unknown === undefined ? "no COMMAND" : `no ${unknown}`}, expected ` +
        `[--daemon COMMAND] and any of ${Object.keys(ATTACKS).join(", ")}`,
    );
    Deno.exit(2);
  }
  console.log("| attack | what is done | what may come of it | what came of it | held |");
  console.log("| ------ | ------------ | ------------------- | --------------- | ---- |");
  const started = performance.now();
  let failed = 0;
  for (const name of names) if (!await attack(name, ATTACKS[name]!)) failed++;
  const seconds = Math.round((performance.now() - started) / 1_000);
  console.log(`\n${failed === 0 ? "all held" : `${failed} did not hold`}, ${seconds} s`);
  Deno.exit(failed === 0 ? 0 : 1);
}
