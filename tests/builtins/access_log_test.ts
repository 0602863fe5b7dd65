import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { AccessLog } from "../../builtins/access_log.ts";
import { Client, get } from "../support/client.ts";
import { Daemon, exchange, installer, missing, run, TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { Served } from "../support/served.ts";
import { closed, Doors, handshakeOf, openSocket, upgrade, upgradeOf } from "../support/upgrades.ts";

const NO_CURL = await missing("curl", ["--version"]);
const NO_LOGROTATE = await missing("logrotate", ["--version"]);

const ROUTES = installer(`
  engine.register("greet", (job) => job.print('{"hello":"' + job.args[0] + '"}'));
  engine.register("wait", async (job) => {
    await job.print("begun");
    await new Promise((resolve) => job.signal.addEventListener("abort", resolve));
  });
  router.job({ method: "GET", path: "/greet/:name", job: "greet" });
  router.job({ method: "GET", path: "/wait", job: "wait", stream: true });
`);

/** The lines about requests that are JSON, without what no test can know. */
async function linesOf(daemon: Daemon, count: number): Promise<Record<string, unknown>[]> {
  const lines = () =>
    daemon.stderr.split("\n").filter((line) => line.startsWith("{") && line.includes('"protocol"'));
  await until(() => lines().length >= count);
  return lines().map((line) => {
    const { time, duration, ...rest } = JSON.parse(line);
    assertMatch(time, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    assert(duration >= 0 && duration < 60, `${duration}`);
    return rest;
  });
}

Deno.test("--access-log json writes each request, also one that is refused or broken off", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start([
    ...["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`, "--access-log", "json"],
    ...["--install", ROUTES, "-l", "debug"],
  ]);
  const port = await daemon.port();
  await daemon.open();
  const answer = await fetch(`http://127.0.0.1:${port}/v1.40/greet/w%C3%B6rld?a=b`, {
    headers: { "x-request-id": "abc-1", "user-agent": "test/1" },
  });
  assertEquals(answer.headers.get("x-request-id"), "abc-1");
  await answer.text();
  const made = await fetch(`http://127.0.0.1:${port}/none`, {
    headers: { "x-request-id": "not fit\tfor a log" },
  });
  await made.text();
  const id = made.headers.get("x-request-id")!;
  assertMatch(id, /^[\da-f-]{36}$/);
  const target = { transport: "unix", path } as const;
  const leaver = await Client.to(target);
  await leaver.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await leaver.sees(/begun/);
  leaver[Symbol.dispose]();
  await linesOf(daemon, 3);
  await exchange({ port }, get("/version").replace("localhost", "evil.example"));
  const [greeted, none, waited, refused] = await linesOf(daemon, 4);
  const { client, ...rest } = greeted!;
  assertMatch(String(client), /^127\.0\.0\.1:\d+$/);
  assertEquals(rest, {
    level: "info",
    message: "GET /v1.40/greet/w%C3%B6rld?a=b 200",
    method: "GET",
    path: "/v1.40/greet/w%C3%B6rld?a=b",
    status: 200,
    bytes: 18,
    protocol: "HTTP/1.1",
    route: "/greet/:name",
    request: "abc-1",
    userAgent: "test/1",
  });
  assertEquals([none!.status, none!.request, none!.route], [404, id, undefined]);
  assertEquals(
    [waited!.status, waited!.bytes, waited!.brokenOff, waited!.client],
    [200, 5, true, "unix"],
  );
  assertEquals([refused!.status, refused!.path], [403, "/version"]);
  // The jobs of the request have its id.
  assertStringIncludes(daemon.stderr, '+job greet(wörld) request="abc-1"');
  assertEquals(await daemon.end(), 0);
});

Deno.test("--access-log writes a request that is refused because too much is in work", async () => {
  await using served = await Served.open({ MaxRequests: "1" });
  const lines: string[] = [];
  served.builtins.observe(new AccessLog("json", (line) => lines.push(line)));
  const go = Promise.withResolvers<void>();
  served.engine.register("wait", () => go.promise);
  served.router.job({ method: "POST", path: "/wait", job: "wait" });
  using first = await Client.to(served.target);
  const waiting = first.ask("POST /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(() => served.engine.stats.running === 2);
  using second = await Client.to(served.target);
  const { status, body } = await second.ask(get("/version?x=1"));
  assertEquals(status, 503);
  const told = lines.map((line) => JSON.parse(line));
  assertEquals(told.map(({ method, path, status, bytes }) => [method, path, status, bytes]), [
    ["GET", "/version?x=1", 503, body.length],
  ]);
  go.resolve();
  assertEquals((await waiting).status, 204);
  await until(() => lines.length === 2);
});

foreignTest("--access-log tells of an upgraded connection when it has ended", async () => {
  await using doors = await Doors.open();
  const { served } = doors;
  const lines: string[] = [];
  served.builtins.observe(new AccessLog("json", (line) => lines.push(line)));
  served.engine.register("count", async (job) => {
    job.setenvBool("Tty", true);
    await job.print(String((await job.stdin.text()).length));
  });
  served.router.job({ method: "POST", path: "/raw/:id", job: "count", upgrade: "tcp" });
  served.router.job({ method: "GET", path: "/ws/:id", job: "count", upgrade: "websocket" });
  served.router.get("/wrong", () => new Response(null, { status: 101 }));
  for (const { target, url } of doors.doors) {
    using raw = await upgrade(target, upgradeOf("/raw/1"));
    await raw.send("x".repeat(100_000));
    assertEquals(lines, []);
    await raw.conn.closeWrite();
    assertEquals(await raw.ended(), "100000");
    const socket = await openSocket(`${url}/ws/1`);
    socket.close();
    await closed(socket);
    using wrong = await Client.to(target);
    assertEquals((await wrong.ask(handshakeOf("/wrong"))).status, 500);
    await until(() => lines.length === 3);
    const [ofRaw, ofSocket, ofWrong] = lines.splice(0).map((line) => JSON.parse(line));
    const { status, path, route, bytes, received, brokenOff } = ofRaw;
    assertEquals(
      { status, path, route, bytes, received, brokenOff },
      {
        ...{ status: 101, path: "/raw/1", route: "/raw/:id", bytes: 6, received: 100_000 },
        brokenOff: undefined,
      },
    );
    // What goes over it is Deno's affair.
    assertEquals(
      [ofSocket.status, ofSocket.route, ofSocket.bytes, ofSocket.received, ofSocket.brokenOff],
      [101, "/ws/:id", undefined, undefined, undefined],
    );
    assertEquals([ofWrong.status, ofWrong.path], [500, "/wrong"]);
    assert(ofRaw.duration > 0 && ofSocket.duration > 0);
  }
});

Deno.test(
  "--access-log text and combined are lines for people and for tools",
  { ignore: NO_CURL },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    for (
      const [format, line] of [
        [
          "text",
          /^\S+ INFO {2}GET \/greet\/a 200 duration=0\.\d+ bytes=13 protocol="HTTP\/1.1" client="unix"( user="\w+")? route="\/greet\/:name" request="r-1" userAgent="curl\\"x"$/m,
        ],
        [
          "combined",
          /^unix - \S+ \[\d\d\/\w{3}\/\d{4}:\d\d:\d\d:\d\d \+0000\] "GET \/greet\/a HTTP\/1\.1" 200 13 "http:\/\/from\/" "curl\\"x"$/m,
        ],
      ] as const
    ) {
      await using daemon = Daemon.start([
        ...["-H", `unix://${path}`, "--access-log", format, "--install", ROUTES],
      ]);
      await daemon.open();
      await run("curl", [
        ...["-sS", "-m", "60", "--unix-socket", path, "-H", "X-Request-Id: r-1"],
        ...["-A", 'curl"x', "-e", "http://from/", "http://localhost/greet/a"],
      ]);
      await daemon.says(/GET \/greet\/a.*\n/);
      assertMatch(daemon.stderr, line);
      assertEquals(await daemon.end(), 0);
    }
  },
);

Deno.test(
  "--log-file takes the log, and is opened again after logrotate",
  { ignore: NO_LOGROTATE },
  async () => {
    await using folder = await TempFolder.make();
    const [path, log, state] = ["s", "log", "state"].map((name) => `${folder.path}/${name}`) as [
      string,
      string,
      string,
    ];
    const target = { transport: "unix", path } as const;
    await using daemon = Daemon.start([
      ...["-H", `unix://${path}`, "--log-file", log, "--access-log", "combined"],
      ...["--install", ROUTES],
    ]);
    const has = (file: string, text: string) =>
      until(() => Deno.readTextFile(file).then((whole) => whole.includes(text), () => false));
    await has(log, "-job acceptconnections() = OK");
    assertEquals(Deno.statSync(log).mode! & 0o777, 0o640);
    await exchange(target, get("/greet/before"));
    await has(log, '"GET /greet/before HTTP/1.1" 200');
    await Deno.writeTextFile(
      `${folder.path}/conf`,
      `${log} {
  rotate 3
  postrotate
    kill -HUP ${daemon.pid}
  endscript
}
`,
    );
    await Deno.chmod(`${folder.path}/conf`, 0o644);
    const rotated = await run("logrotate", ["--force", "--state", state, `${folder.path}/conf`]);
    assertEquals([rotated.code, rotated.stderr], [0, ""]);
    await has(log, "-job reload() = OK");
    await exchange(target, get("/greet/after"));
    await has(log, '"GET /greet/after HTTP/1.1" 200');
    const before = await Deno.readTextFile(`${log}.1`);
    assertStringIncludes(before, '"GET /greet/before HTTP/1.1" 200');
    assertEquals(before.includes("/greet/after"), false);
    assertEquals(daemon.stderr, "");
    assertEquals(await daemon.end(), 0);
  },
);

Deno.test("--log-file says why it cannot be opened, and --access-log which formats there are", async () => {
  await using folder = await TempFolder.make();
  const host = ["-H", `unix://${folder.path}/s`];
  await using missing = Daemon.start([...host, "--log-file", "/no/such/log"]);
  assertEquals((await missing.status).code, 1);
  assertMatch(
    missing.stderr,
    /^floodgate: cannot open --log-file \/no\/such\/log: No such file.*\n$/,
  );
  await using wrong = Daemon.start([...host, "--access-log", "clf"]);
  assertEquals((await wrong.status).code, 2);
  assertEquals(wrong.stderr, "floodgate: --access-log clf: expected one of text, json, combined\n");
});
