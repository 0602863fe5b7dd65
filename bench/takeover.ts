/**
 * A restart under load, of a daemon by `--takeover` and of nginx and Caddy by their own reload,
 * under the same clients: `deno task takeover`. Bounded: some two minutes, on this machine only; it
 * ends with status 1 if the daemon lost a request. nginx and Caddy are left out where they are not
 * installed.
 *
 * @module
 */

import { Authority } from "../tests/support/certificates.ts";
import { type Answer, Client, type Target } from "../tests/support/client.ts";
import { Daemon, freePort, installer, missing, TempFolder } from "../tests/support/daemon.ts";
import { flags } from "../tests/support/tls.ts";

/** Restarts of each contender. */
const RESTARTS = 25;
/** How long clients are at it between two restarts, in milliseconds. */
const BETWEEN = 300;

/** A request, by the token that its answer has to have. */
type Ask = (client: Client, token: string) => Promise<Answer>;

const header = (method: string, path: string, ...lines: string[]) =>
  [`${method} /${path} HTTP/1.1`, "Host: localhost", ...lines, "", ""].join("\r\n");
const whole = (client: Client, request: string) => client.ask(request);
const pause = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

const get: Ask = (client, token) => whole(client, header("GET", token));
const getOnce: Ask = (client, token) => whole(client, header("GET", token, "Connection: close"));
const post: Ask = (client, token) =>
  whole(client, header("POST", token, "Content-Length: 1000") + "x".repeat(1_000));
/** An upload that takes longer than the time between two looks of a drain. */
const upload: Ask = async (client, token) => {
  await client.send(header("POST", token, "Content-Length: 100", "Connection: close"));
  for (let i = 0; i < 10; i++) {
    await client.send("x".repeat(10));
    await pause(40);
  }
  return await client.answer();
};
/** An answer that is sent in pieces. */
const stream: Ask = (client, token) =>
  whole(client, header("GET", `stream/${token}`, "Connection: close"));

/** What clients do, and how many do it. */
interface Kind {
  ask: Ask;
  kept: boolean;
  clients: number;
}
const COMMON: Kind[] = [
  { ask: getOnce, kept: false, clients: 6 },
  { ask: get, kept: true, clients: 4 },
  { ask: post, kept: true, clients: 2 },
];
const OURS: Kind[] = [
  ...COMMON,
  { ask: upload, kept: false, clients: 2 },
  { ask: stream, kept: false, clients: 2 },
];

/** What became of the requests. */
class Clients {
  ok = 0;
  /**
   * Kept connections that were closed while a request was on its way: HTTP lets a client ask again.
   */
  retried = 0;
  readonly failed = new Map<string, number>();
  #stopped = false;
  #working: Promise<void>[];

  constructor(target: Target, kinds: Kind[]) {
    this.#working = kinds.flatMap((kind) =>
      Array.from({ length: kind.clients }, () => this.#work(target, kind))
    );
  }
  async stop(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#working);
  }
  async #work(target: Target, { ask, kept }: Kind): Promise<void> {
    let client: Client | undefined;
    for (let asked = 0; !this.#stopped; asked++) {
      const token = crypto.randomUUID();
      try {
        client ??= (asked = 0, await Client.to(target));
        const { status, body, last } = await ask(client, token);
        if (status === 200 && body.includes(token)) this.ok++;
        else this.#fail(`wrong answer: ${status} ${body.slice(0, 60)}`);
        if (kept && !last) continue;
        client.close();
        client = undefined;
      } catch (error) {
        client?.close();
        client = undefined;
        const { message } = error as Error;
        const gone = /closed without an answer|reset|Broken pipe|close_notify/.test(message);
        if (kept && asked > 0 && gone) this.retried++;
        else this.#fail(`${ask.name}: ${message}`);
      }
    }
    client?.close();
  }
  #fail(why: string): void {
    this.failed.set(why, (this.failed.get(why) ?? 0) + 1);
  }
}

/** A server that can be restarted. */
interface Contender extends AsyncDisposable {
  target: Target;
  kinds: Kind[];
  restart(): Promise<void>;
}

const APP = installer(`
  engine.register("pieces", async (job) => {
    for (let i = 0; i < 10; i++) {
      await job.print(job.args[0] + "\\n");
      await new Promise((resolve) => setTimeout(resolve, 40));
    }
  });
  router.job({ method: "GET", path: "/stream/:token", job: "pieces", stream: true });
  router.get("/:token", (c) => c.text(c.req.param("token")));
  router.post("/:token", async (c) => {
    const { length } = await c.req.text();
    return c.text(c.req.param("token") + " " + length);
  });
`);

async function floodgate(args: string[], target: Target): Promise<Contender> {
  const folder = await TempFolder.make();
  const given = [...args, "--handover", `${folder.path}/handover`, "--install", APP];
  let current = Daemon.start(given);
  await current.open();
  return {
    target,
    kinds: OURS,
    async restart() {
      const next = Daemon.start([...given, "--takeover"]);
      await next.says(/^serving in place of/m);
      const { code } = await current.status;
      if (code !== 0) throw new Error(`the old daemon ended with status ${code}`);
      current = next;
    },
    async [Symbol.asyncDispose]() {
      await current[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** A server that is run by a command, and reloaded by it or by a signal. */
async function other(
  command: string,
  args: string[],
  port: number,
  folder: TempFolder,
  reload: (child: Deno.ChildProcess) => Promise<unknown> | void,
): Promise<Contender> {
  const child = new Deno.Command(command, {
    args,
    stdout: "null",
    stderr: "null",
    env: { HOME: folder.path },
  }).spawn();
  const target = { hostname: "127.0.0.1", port };
  const deadline = performance.now() + 10_000;
  while (!await Client.to(target).then((client) => (client.close(), true), () => false)) {
    if (performance.now() > deadline) throw new Error(`${command} does not start`);
    await pause(20);
  }
  return {
    target,
    kinds: COMMON,
    async restart() {
      await reload(child);
      await pause(BETWEEN); // They do not say when they are done.
    },
    async [Symbol.asyncDispose]() {
      child.kill("SIGTERM");
      await child.status;
      await folder[Symbol.asyncDispose]();
    },
  };
}

async function nginx(): Promise<Contender> {
  const folder = await TempFolder.make();
  const port = freePort();
  const config = `${folder.path}/nginx.conf`;
  await Deno.writeTextFile(
    config,
    `daemon off; master_process on; worker_processes 1; pid ${folder.path}/pid; error_log /dev/null;
    events { worker_connections 512; }
    http { access_log off; client_body_temp_path ${folder.path}; keepalive_requests 1000000;
      proxy_temp_path ${folder.path}/p; fastcgi_temp_path ${folder.path}/f;
      uwsgi_temp_path ${folder.path}/u; scgi_temp_path ${folder.path}/s;
      server { listen 127.0.0.1:${port}; location / { return 200 $request_uri; } } }`,
  );
  return await other(
    "nginx",
    ["-c", config],
    port,
    folder,
    (child) => child.kill("SIGHUP"),
  );
}

async function caddy(): Promise<Contender> {
  const folder = await TempFolder.make();
  const [port, admin] = [freePort(), freePort()];
  const config = `${folder.path}/Caddyfile`;
  await Deno.writeTextFile(
    config,
    `{
      admin 127.0.0.1:${admin}
      auto_https off
    }
    http://:${port} {
      bind 127.0.0.1
      respond "{uri}" 200
    }`,
  );
  const run = ["run", "--config", config, "--adapter", "caddyfile"];
  return await other("caddy", run, port, folder, () =>
    new Deno.Command("caddy", {
      args: [
        ...["reload", "--force", "--config", config, "--adapter", "caddyfile"],
        "--address",
        `127.0.0.1:${admin}`,
      ],
      stdout: "null",
      stderr: "null",
    }).output());
}

await using authority = await Authority.make();
await using sockets = await TempFolder.make();
const caCerts = [await Deno.readTextFile(authority.ca)];
const [server, client] = [await authority.server(), await authority.client()];
const own = { cert: Deno.readTextFileSync(client.cert), key: Deno.readTextFileSync(client.key) };
const overTcp = (tls: string[] = [], shown: object = {}) => {
  const port = freePort();
  const hostname = tls.length > 0 ? "localhost" : "127.0.0.1";
  return floodgate(["-H", `tcp://127.0.0.1:${port}`, ...tls], { hostname, port, ...shown });
};
const contenders: [name: string, start: () => Promise<Contender>][] = [
  ["floodgate, tcp", () => overTcp()],
  [
    "floodgate, unix",
    () =>
      floodgate(["-H", `unix://${sockets.path}/s`], {
        transport: "unix",
        path: `${sockets.path}/s`,
      }),
  ],
  ["floodgate, --tls", () => overTcp(flags(server), { caCerts })],
  ["floodgate, --tlsverify", () => overTcp(flags(server, authority.ca), { caCerts, ...own })],
];
if (!await missing("nginx", ["-v"])) contenders.push(["nginx, tcp", nginx]);
if (!await missing("caddy", ["version"])) contenders.push(["Caddy, tcp", caddy]);

console.log("| restarted | times | answered | asked again on a kept connection | failed |");
console.log("| --- | ---: | ---: | ---: | --- |");
let lost = 0;
for (const [name, start] of contenders) {
  await using contender = await start();
  const clients = new Clients(contender.target, contender.kinds);
  for (let i = 0; i < RESTARTS; i++) {
    await pause(BETWEEN);
    await contender.restart();
  }
  await pause(BETWEEN);
  await clients.stop();
  const failed = [...clients.failed].map(([why, count]) => `${count} ${why}`).join("; ") || "0";
  console.log(`| ${name} | ${RESTARTS} | ${clients.ok} | ${clients.retried} | ${failed} |`);
  if (name.startsWith("floodgate")) lost += clients.failed.size;
}
if (lost > 0) Deno.exit(1);
