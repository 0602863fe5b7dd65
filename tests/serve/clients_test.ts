import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { activate, NO_ACTIVATE } from "../support/activate.ts";
import { Browser, CHROMIUM } from "../support/browser.ts";
import { Authority, type Pair } from "../support/certificates.ts";
import type { Target } from "../support/client.ts";
import { Daemon, installer, missing, project, run, TempFolder } from "../support/daemon.ts";
import { foreign } from "../support/platform.ts";
import { flags } from "../support/tls.ts";
import { closed, message, openSocket, upgrade, upgradeOf } from "../support/upgrades.ts";

/** What the daemons do: `/ws` and `/cat` send back what they get. */
const INSTALL = installer(`
  router.get("/ws", (c) => {
    const { response, socket } = Deno.upgradeWebSocket(c.req.raw, {
      protocol: c.req.header("sec-websocket-protocol")?.includes("two") ? "two" : undefined,
    });
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  router.get("/page", (c) => c.html("<title>x</title>"));
  engine.register("cat", async (job) => {
    job.setenvBool("Tty", true);
    for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    await job.print("bye");
  });
  router.job({ method: "POST", path: "/cat", job: "cat", upgrade: "tcp" });
`);

const NODE = await missing("node", ["--version"]) ? undefined : "node";
const GO_PATH = "/usr/share/gocode";
const GO_PACKAGES = {
  "golang.org/x/net/websocket": "golang-golang-x-net-dev",
  "github.com/gorilla/websocket": "golang-github-gorilla-websocket-dev",
};
const NO_GO = await missing("go", ["version"]) || await lacksPackages();

/** Whether Go's libraries are not where Debian puts them; that is said, then. */
async function lacksPackages(): Promise<boolean> {
  for (const [name, debian] of Object.entries(GO_PACKAGES)) {
    if (await Deno.stat(`${GO_PATH}/src/${name}`).catch(() => undefined)) continue;
    console.log(`skipped: there is no ${name} here, which Debian has in ${debian}`);
    return true;
  }
  return false;
}

/** Builds fixtures/upgrades.go. */
async function buildClient(folder: TempFolder): Promise<string> {
  const program = `${folder.path}/client`;
  const source = project("tests/support/fixtures/upgrades.go");
  const env = { GO111MODULE: "off", GOPATH: GO_PATH, GOFLAGS: "", GOCACHE: `${folder.path}/cache` };
  const { code, stderr } = await run("go", ["build", "-o", program, source], { env });
  assertEquals([code, stderr], [0, ""]);
  return program;
}

/** An address of a daemon, and what a client needs to reach it. */
interface Door {
  readonly name: string;
  /** Its port, or else its path. */
  readonly port?: number;
  readonly path?: string;
  readonly authority?: Authority;
  readonly pair?: Pair;
}

const hostOf = ({ port }: Door) => `localhost:${port}`;

function webSocketOf(door: Door): string {
  return door.path !== undefined
    ? `ws+unix://${door.path}:/ws`
    : `${door.authority ? "wss" : "ws"}://${hostOf(door)}/ws`;
}

function tlsOf({ authority, pair }: Door): { ca?: string; cert?: string; key?: string } {
  const text = (path: string) => Deno.readTextFileSync(path);
  return {
    ...authority && { ca: text(authority.ca) },
    ...pair && { cert: text(pair.cert), key: text(pair.key) },
  };
}

interface Tools {
  readonly go: string;
  readonly browser: Browser | undefined;
}
/** A way to have a WebSocket, or a raw stream. It rejects if that is not as it should be. */
type Way = (door: Door, tools: Tools) => Promise<void>;

const LARGE = "0123456789".repeat(30_000);

const webSockets: Record<string, Way> = {
  "ws from npm": async (door) => {
    const socket = await openSocket(webSocketOf(door), ["two"], tlsOf(door));
    assertEquals(socket.protocol, "two");
    for (const text of ["hellö", LARGE]) {
      const got = message(socket);
      socket.send(text);
      assertEquals(await got, text);
    }
    const ponged = new Promise((resolve) => socket.once("pong", resolve));
    socket.ping();
    await ponged;
    socket.close(3001, "bye");
    assertEquals(await closed(socket), { code: 3001, reason: "bye" });
  },
  "Deno's": async (door) => {
    const { ca, cert, key } = tlsOf(door);
    using client = Deno.createHttpClient({
      ...ca && { caCerts: [ca] },
      ...cert && key && { cert, key },
      ...door.path !== undefined && { proxy: { transport: "unix", path: door.path } },
    });
    const url = door.path !== undefined ? "ws://localhost/ws" : webSocketOf(door);
    const socket = new WebSocket(url, { protocols: ["two"], client } as unknown as string);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = (event) => reject((event as ErrorEvent).error);
    });
    for (const text of ["hellö", LARGE]) {
      socket.send(text);
      const { data } = await new Promise<MessageEvent>((resolve) => socket.onmessage = resolve);
      assertEquals(data, text);
    }
    const end = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
    socket.close(3001, "bye");
    const { code, reason } = await end;
    assertEquals([code, reason], [3001, "bye"]);
  },
  "Chromium's": async (door, { browser }) => {
    await browser!.send("Security.setIgnoreCertificateErrors", { ignore: true });
    await browser!.open(`${door.authority ? "https" : "http"}://${hostOf(door)}/page`);
    const heard = await browser!.evaluate(`new Promise((resolve) => {
      const url = location.href.replace("http", "ws").replace("page", "ws");
      const socket = new WebSocket(url, ["two"]);
      const heard = [];
      socket.onopen = () => {
        heard.push(socket.protocol);
        socket.send("hellö");
        socket.send("x".repeat(300000));
      };
      socket.onmessage = ({ data }) => {
        heard.push(data.length);
        if (heard.length === 3) socket.close(3001, "bye");
      };
      socket.onclose = ({ code, reason }) => resolve([...heard, code, reason]);
    })`);
    assertEquals(heard, ["two", 5, 300_000, 3001, "bye"]);
  },
  "Go's, gorilla": (door, { go }) => runGo(go, door, "gorilla"),
  "Go's, x/net": (door, { go }) => runGo(go, door, "xnet"),
};

/** What Node runs: as dockerode does, it takes the connection by an "upgrade" event. */
const NODE_CLIENT = `
  const [scheme, options] = JSON.parse(process.argv[1]);
  const { Agent, request } = require(scheme);
  function upgrade(more, body) {
    const headers = { Connection: "Upgrade", Upgrade: "tcp", ...more.headers };
    const asked = request({ path: "/cat", method: "POST", ...options, ...more, headers });
    asked.on("response", ({ statusCode }) => {
      console.log(statusCode);
      process.exit();
    });
    asked.on("upgrade", (response, socket, head) => {
      socket.on("data", (data) => process.stdout.write(data));
      process.stdout.write(head);
      socket.end("hello");
    });
    asked.end(body);
  }
`;
const NODE_ALONE = `${NODE_CLIENT} upgrade({ agent: false });`;

/** The same with a body and a pool of connections, from one that another path was asked for on. */
const NODE_POOL = `${NODE_CLIENT}
  const agent = new Agent({ keepAlive: true });
  request({ path: "/_ping", agent, ...options }).on("response", (response) => {
    const more = { agent, headers: { "Content-Length": 2 } };
    response.resume().on("end", () => setImmediate(() => upgrade(more, "{}")));
  }).end();
`;

async function runNode(door: Door, program: string): Promise<void> {
  const options = door.path !== undefined
    ? { socketPath: door.path }
    : { host: "localhost", port: door.port, ...tlsOf(door) };
  const scheme = door.authority ? "https" : "http";
  const given = JSON.stringify([scheme, options]);
  const { code, stdout, stderr } = await run(NODE!, ["-e", program, given]);
  assertEquals([code, stdout, stderr], [0, "hellobye", ""]);
}

const rawStreams: Record<string, Way> = {
  "Deno's": async (door) => {
    const { ca, cert, key } = tlsOf(door);
    const target = door.path !== undefined
      ? { transport: "unix", path: door.path }
      : { hostname: "localhost", port: door.port, ...ca && { caCerts: [ca], cert, key } };
    using client = await upgrade(target as Target, upgradeOf("/cat"));
    assertMatch(client.head, /^HTTP\/1\.1 101 UPGRADED\r\n/);
    await client.send("hello");
    await client.sees(/^hello$/);
    if (ca) return; // It has no half-close over TLS.
    await client.conn.closeWrite();
    assertEquals(await client.ended(), "hellobye");
  },
  "Node's": (door) => runNode(door, NODE_ALONE),
  "Node's, from a pool": (door) => runNode(door, NODE_POOL),
  "Go's, as the docker CLI": (door, { go }) => runGo(go, door, "docker"),
  "Go's, net/http": (door, { go }) => runGo(go, door, "http"),
};

async function runGo(
  go: string,
  { port, path, authority, pair }: Door,
  way: string,
): Promise<void> {
  const { code, stdout, stderr } = await run(go, [
    ...path === undefined
      ? ["-address", `localhost:${port}`]
      : ["-network", "unix", "-address", path],
    ...authority ? ["-ca", authority.ca] : [],
    ...pair ? ["-cert", pair.cert, "-key", pair.key] : [],
    way,
  ]);
  assertEquals([code, stdout, stderr], [0, `${way}\n`, ""]);
}

/** Why a client cannot be asked to open a door, if it cannot. */
function problemOf(client: string, door: Door): string | undefined {
  if (client.startsWith("Go's") && NO_GO) return "there is no Go, or not its libraries";
  if (client.startsWith("Node's") && NODE === undefined) return "there is no Node";
  if (client.startsWith("Chromium's")) {
    if (CHROMIUM === undefined) return "there is no Chromium";
    if (door.path !== undefined) return "a page reaches no unix socket";
    if (door.pair) return "Chromium shows a certificate only by a policy of the machine";
  }
}

Deno.test("clients of every kind have WebSockets and raw streams at addresses of every kind", async (t) => {
  await using folder = await TempFolder.make();
  await using authority = await Authority.make();
  const server = await authority.server();
  const pair = await authority.client();
  const tcp = ["-H", "tcp://127.0.0.1:0", "--install", INSTALL];
  const paths = [`${folder.path}/s`, `${folder.path}/activated`] as const;
  await using plain = Daemon.start([...tcp, "-H", `unix://${paths[0]}`]);
  await using secret = Daemon.start([...tcp, ...flags(server)]);
  await using verified = Daemon.start([...tcp, ...flags(server, authority.ca)]);
  const doors: Door[] = [
    { name: "tcp", port: await plain.port() },
    { name: "unix", path: paths[0] },
    { name: "--tls", port: await secret.port(), authority },
    { name: "--tlsverify", port: await verified.port(), authority, pair },
  ];
  const given = ["-H", "fd://", "--install", INSTALL];
  await using activated = NO_ACTIVATE || foreign
    ? null
    : await activate(["127.0.0.1:0", paths[1]], given);
  if (activated) {
    const port = Number((await activated.says(/^Listening on 127\.0\.0\.1:(\d+) /m))[1]);
    doors.push({ name: "fd://, tcp", port }, { name: "fd://, unix", path: paths[1] });
  }
  await using browser = CHROMIUM === undefined ? null : await Browser.start();
  const go = NO_GO ? "" : await buildClient(folder);
  const tools = { go, browser: browser ?? undefined };
  for (const door of doors) {
    for (const [client, way] of Object.entries(webSockets)) {
      const problem = problemOf(client, door);
      const name = `WebSocket, ${door.name}, ${client}${problem ? `: ${problem}` : ""}`;
      await t.step({ name, ignore: problem !== undefined, fn: () => way(door, tools) });
    }
    for (const [client, way] of Object.entries(rawStreams)) {
      const problem = problemOf(client, door) ?? foreign;
      const name = `raw stream, ${door.name}, ${client}${problem ? `: ${problem}` : ""}`;
      // What Deno's loop says to all of these, which say how long their bodies are; others get 501.
      const refused = door.authority && !door.pair;
      const fn = refused
        ? async () => void await assertRejects(() => way(door, tools), Error, "400")
        : () => way(door, tools);
      await t.step({ name, ignore: problem !== undefined, fn });
    }
  }
  for (const daemon of [plain, secret, verified, activated]) {
    assertEquals(await daemon?.end() ?? 0, 0);
  }
});
