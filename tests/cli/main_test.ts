import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import {
  Daemon,
  exchange,
  installer,
  missing,
  project,
  run,
  TempFolder,
  until,
} from "../support/daemon.ts";

const REQUEST = "GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

const NO_DOCKER = await missing("docker", ["--version"]);
const NO_SCRIPT = await missing("script", ["--version"]);
const NO_CURL = await missing("curl", ["--version"]);

Deno.test("main holds clients of a boot that takes 3 s and answers them right after it", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  await using daemon = Daemon.start(
    [
      "-H",
      "tcp://127.0.0.1:0",
      "-H",
      `unix://${path}`,
      "--install",
      project("examples/containers.ts"),
    ],
    { env: { SHELF_BOOT: "3000" } },
  );
  const port = await daemon.port();
  const started = performance.now();
  const answers = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const answer = i % 2
        ? await exchange({ hostname: "127.0.0.1", port }, REQUEST)
        : await exchange({ transport: "unix", path }, REQUEST);
      assertMatch(answer, /^HTTP\/1\.1 200 OK\r\n/);
      assertStringIncludes(answer, '"ApiVersion":');
      return performance.now() - started;
    }),
  );
  // The first answer cannot have come before the boot was done; a boot is a timer of 3 s.
  assert(Math.min(...answers) > 2_500, `the first answer came after ${Math.min(...answers)} ms`);
  assertStringIncludes(daemon.stderr, "-job acceptconnections() = OK (0)");
  assertEquals(await daemon.end(), 0);
});

Deno.test(
  "main prints a line an address with what to try, and that works",
  { ignore: NO_CURL },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`]);
    await daemon.open();
    const lines = daemon.stdout.trim().split("\n");
    assertEquals(lines.length, 2);
    for (const line of lines) {
      const [, command] = /^listening on (?:tcp|unix):\/\/\S+, try: (curl .*)$/.exec(line)!;
      const { code, stdout } = await run("sh", ["-c", command + " --silent --fail"]);
      assertEquals(code, 0);
      assertEquals(JSON.parse(stdout).ApiVersion, "1.47");
    }
    assertEquals((await Deno.stat(path)).mode! & 0o777, 0o660);
  },
);

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`main ends with status 0 and without a socket file at ${signal}`, async () => {
    await using folder = await TempFolder.make();
    await using daemon = Daemon.start([
      "-H",
      `unix://${folder.path}/api.sock`,
      "--pidfile",
      `${folder.path}/pid`,
    ]);
    await daemon.open();
    assertEquals(folder.names(), ["api.sock", "pid"]);
    assertEquals((await Deno.readTextFile(`${folder.path}/pid`)).trim(), String(daemon.pid));
    assertEquals(await daemon.end(signal), 0);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main stops during a boot: status 0, held clients closed, no socket file", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  await using daemon = Daemon.start([
    "-H",
    `unix://${path}`,
    "--install",
    installer("await new Promise((r) => setTimeout(r, 60_000))"),
  ]);
  await daemon.says(/listening on/);
  const conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode(REQUEST));
  const answer = new Response(conn.readable).text().catch(() => "");
  assertEquals(await daemon.end(), 0);
  assertEquals(await answer, "");
  assertEquals(folder.names(), []);
});

const WRONG: [string, string[], number, RegExp][] = [
  ["an address with no protocol", ["-H", "foo"], 2, /"foo": expected tcp:\/\/HOST:PORT, unix:/],
  ["tcp:// with nothing", ["-H", "tcp://"], 2, /"tcp:\/\/": expected tcp:\/\/HOST:PORT/],
  ["a port that is none", ["-H", "tcp://127.0.0.1:99999"], 2, /port 99999 .* 0 to 65535/],
  ["unix:// with no path", ["-H", "unix://"], 2, /absolute path of a socket/],
  [
    "a path too long",
    ["-H", `unix:///tmp/${"a".repeat(110)}`],
    2,
    /115 bytes, expected at most 107/,
  ],
  ["a folder that is missing", ["-H", "unix:///no/such.sock"], 1, /directory \/no does not exist/],
  ["an address others can reach", ["-H", "tcp://0.0.0.0:0"], 2, /--insecure/],
  ["an unknown flag", ["--hots", "x"], 2, /unknown flag --hots, did you mean --host\?/],
  ["an unknown short flag", ["-x"], 2, /unknown flag -x/],
  ["a flag without its value", ["--pidfile"], 2, /--pidfile needs a value/],
  ["an argument", ["foo"], 2, /unexpected argument "foo"/],
  ["a log level", ["-l", "loud"], 2, /expected one of debug, info, warn, error/],
  ["a timeout", ["--shutdown-timeout", "soon"], 2, /soon: expected a number of seconds/],
];
for (const [what, args, status, message] of WRONG) {
  Deno.test(`main says in one line what is wrong with ${what}`, async () => {
    await using daemon = Daemon.start(args);
    assertEquals((await daemon.status).code, status);
    const lines = daemon.stderr.trim().split("\n");
    assertEquals(lines.length, 1, daemon.stderr);
    assertMatch(lines[0], /^floodgate: /);
    assertMatch(lines[0], message);
    assertEquals(daemon.stdout, "");
  });
}

Deno.test("main refuses addresses in use, in one line, and leaves none bound", async () => {
  await using folder = await TempFolder.make();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = `tcp://127.0.0.1:${listener.addr.port}`;
  await using daemon = Daemon.start(["-H", `unix://${folder.path}/api.sock`, "-H", taken]);
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr,
    `floodgate: cannot listen on ${taken}: the port is in use, expected a free one, or 0 for any\n`,
  );
  assertEquals(folder.names(), []);
});

const BAD_MODULES: [string, string, RegExp][] = [
  ["is missing", "./no/such/module.ts", /cannot load --install \.\/no\/such\/module\.ts, expected/],
  ["exports nothing", "data:text/javascript,", /exports no function install\(engine, router\)/],
  ["throws", installer("throw new Error('no disk\\nat all')"), /failed: no disk$/],
  ["does not parse", "data:text/javascript,function", /cannot load/],
];
for (const [what, module, message] of BAD_MODULES) {
  Deno.test(`main fails when the --install module ${what}: last line says so, held clients are closed`, async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", module]);
    assertEquals((await daemon.status).code, 1);
    assertMatch(daemon.stderr.trim().split("\n").at(-1)!, message);
    assertEquals(/^\s+at /m.test(daemon.stderr), false);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main closes held clients when the boot fails", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const go = `${folder.path}/go`;
  // It fails when the test says so, after the client has connected.
  const body = `for (;;) {
    try { Deno.statSync(${
    JSON.stringify(go)
  }); } catch { await new Promise((r) => setTimeout(r, 5)); continue; }
    throw new Error("no quorum");
  }`;
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", installer(body)]);
  await daemon.says(/listening on/);
  const conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode(REQUEST));
  await Deno.writeTextFile(go, "");
  const answer = await new Response(conn.readable).text().catch(() => "");
  assertEquals(answer, "");
  assertEquals((await daemon.status).code, 1);
  assertMatch(daemon.stderr, /\nfloodgate: install of .* failed: no quorum\n$/);
  assertEquals(folder.names(), ["go"]);
});

Deno.test("main survives what a handler leaves behind: late rejections and uncaught errors", async () => {
  const body = `
    router.get("/late", (c) => {
      Promise.reject(new Error("nobody awaits me"));
      setTimeout(() => { throw new Error("nobody catches me"); });
      return c.text("answered");
    });`;
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", installer(body)]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  assertEquals(await (await fetch(url + "/late")).text(), "answered");
  await daemon.says(/unhandled rejection: Error: nobody awaits me/);
  await daemon.says(/uncaught error: Error: nobody catches me/);
  assertEquals(await (await fetch(url + "/_ping")).text(), "OK");
  assertEquals(await daemon.end(), 0);
});

Deno.test("main writes its log as JSON with --log-format json", async () => {
  await using daemon = Daemon.start([
    "-H",
    "tcp://127.0.0.1:0",
    "--log-format",
    "json",
    "-l",
    "debug",
  ]);
  const port = await daemon.port();
  await daemon.says(/-job acceptconnections/);
  await (await fetch(`http://127.0.0.1:${port}/version`)).body?.cancel();
  await daemon.says(/-job version\(\) = OK/);
  assertEquals(await daemon.end(), 0);
  for (const line of daemon.stderr.trim().split("\n")) {
    const { time, level, message } = JSON.parse(line);
    assertMatch(time, /^\d{4}-/);
    assertMatch(level, /^(debug|info|warn|error)$/);
    assertEquals(typeof message, "string");
  }
});

Deno.test("a module to install finds the program's own copy of Floodgate by the package's name", async () => {
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(
    `${folder.path}/mine.ts`,
    `import { Engine, type Installer } from "@floodgate/floodgate";
     export const install: Installer = (engine, router) => {
       router.get("/same", (c) => c.text(String(engine instanceof Engine)));
     };`,
  );
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", "--install", "./mine.ts"],
    { cwd: folder.path },
  );
  await daemon.open();
  const answer = await fetch(`http://127.0.0.1:${await daemon.port()}/same`);
  assertEquals(await answer.text(), "true");
  assertEquals(await daemon.end(), 0);
});

Deno.test("main prints its version and its help", async () => {
  await using version = Daemon.start(["-v"]);
  await using help = Daemon.start(["--help"]);
  assertEquals([(await version.status).code, (await help.status).code], [0, 0]);
  // Nothing of a build, which this is not; build_test.ts has one.
  assertMatch(version.stdout, /^floodgate \d+\.\d+\.\d+ \(API 1\.\d+, Deno .*\)\n$/);
  assertStringIncludes(help.stdout, "-H, --host PROTO://ADDR");
  const { version: declared } = JSON.parse(await Deno.readTextFile(project("deno.json")));
  assertStringIncludes(version.stdout, `floodgate ${declared} `);
});

Deno.test("mod.ts has no side effects when imported, and needs no JSR", async () => {
  await using folder = await TempFolder.make();
  const program = `${folder.path}/embed.ts`;
  await Deno.writeTextFile(
    program,
    `import * as floodgate from ${JSON.stringify(new URL("../../mod.ts", import.meta.url).href)};
     console.log(Object.keys(floodgate).sort().join(" "));`,
  );
  // Without a permission it can look at nothing, and a registry that nothing answers at gives nothing.
  const { code, stdout, stderr } = await run(
    Deno.execPath(),
    ["run", "--no-prompt", "--no-config", program],
    { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } },
  );
  assertEquals([code, stderr.replace(/^Download .*\n/gm, "")], [0, ""]);
  for (
    const name of ["Engine", "ListenBuffer", "createRouter", "registerBuiltins", "main", "tail"]
  ) {
    assertStringIncludes(stdout, name);
  }
  assertEquals(folder.names(), ["embed.ts"]);
});

Deno.test("registerBuiltins, serveapi and acceptconnections need no permission but --allow-net", async () => {
  await using folder = await TempFolder.make();
  const program = `${folder.path}/embed.ts`;
  await Deno.writeTextFile(
    program,
    `import { createRouter, Engine, registerBuiltins } from ${
      JSON.stringify(new URL("../../mod.ts", import.meta.url).href)
    };
     const engine = new Engine();
     registerBuiltins(engine, { router: createRouter(engine) });
     const job = engine.job("serveapi", "tcp://127.0.0.1:0");
     const lines = job.stdout.addPipe().pipeThrough(new TextDecoderStream()).getReader();
     const served = job.run();
     await engine.job("acceptconnections").run();
     const address = (await lines.read()).value.trim().replace("tcp:", "http:");
     console.log(await (await fetch(address + "/_ping")).text());
     await engine.shutdown();
     await served;`,
  );
  const { code, stdout, stderr } = await run(
    Deno.execPath(),
    ["run", "--no-prompt", "--no-config", "--no-check", "--allow-net", program],
    { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } },
  );
  assertEquals([code, stdout], [0, "OK\n"], stderr);
  if (NO_SCRIPT) return;
  // On a terminal Deno would ask for what is missing, and wait.
  const terminal = await run("timeout", [
    "60",
    "script",
    "-qec",
    `${Deno.execPath()} run --no-config --no-check --allow-net ${program}`,
    "/dev/null",
  ], { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } });
  assertMatch(terminal.stdout, /^OK\r$/m);
  assertEquals(terminal.stdout.includes("Deno requests"), false, terminal.stdout);
});

Deno.test("the docker CLI gets version, info, events, and a clean error for ps", {
  ignore: NO_DOCKER,
}, async () => {
  await using folder = await TempFolder.make();
  const unix = `unix://${folder.path}/api.sock`;
  await using daemon = Daemon.start(["-H", unix, "-H", "tcp://127.0.0.1:0"]);
  const tcp = `tcp://127.0.0.1:${await daemon.port()}`;
  await daemon.open();

  const version = await run("docker", ["-H", unix, "version"]);
  assertEquals(version.code, 0, version.stderr);
  assertMatch(
    version.stdout,
    /Server: Floodgate\n Engine:\n\s+Version:\s+0\.1\.0\n\s+API version:\s+1\.47/,
  );
  assertMatch(version.stdout, /Deno:\n\s+Version:\s+\d/);

  const info = await run("docker", ["-H", tcp, "info"]);
  assertEquals(info.code, 0, info.stderr);
  assertMatch(info.stdout, /Server Version: 0\.1\.0/);
  assertMatch(info.stdout, new RegExp(`CPUs: ${navigator.hardwareConcurrency}\n`));

  // The CLI cuts --until to whole seconds, so what just happened is there a second later.
  let events = { code: 0, stdout: "", stderr: "" };
  await until(async () => {
    events = await run("docker", ["-H", tcp, "events", "--since", "10m", "--until", "0s"]);
    assertEquals(events.code, 0, events.stderr);
    return events.stdout.includes("daemon die");
  });
  assertMatch(events.stdout, /daemon start serveapi \(name=serveapi\)/);
  assertMatch(events.stdout, /daemon die acceptconnections \(exitCode=0, name=acceptconnections\)/);

  const ps = await run("docker", ["-H", unix, "ps"]);
  assertEquals(ps.code, 1);
  assertEquals(ps.stderr, "Error response from daemon: no such job registered: containers\n");
  assertEquals(await daemon.end(), 0);
});

Deno.test("the docker CLI manages the example's containers and sees live events", {
  ignore: NO_DOCKER,
}, async () => {
  await using folder = await TempFolder.make();
  const host = `unix://${folder.path}/api.sock`;
  await using daemon = Daemon.start([
    "-H",
    host,
    "--install",
    project("examples/containers.ts"),
  ]);
  await daemon.open();
  const docker = (...args: string[]) => run("docker", ["-H", host, ...args]);

  const live = new Deno.Command("docker", {
    args: ["-H", host, "events", "--filter", "type=container"],
    stdout: "piped",
    stderr: "null",
  }).spawn();
  const lines = live.stdout.pipeThrough(new TextDecoderStream()).getReader();
  await until(async () => {
    const { stdout } = await docker("info", "--format", "{{json .}}");
    return JSON.parse(stdout).NEventsListener === 1;
  });

  assertMatch((await docker("ps")).stdout, /^CONTAINER ID.*\nf1f1f1f1f1f1\s+nginx:1\.27.*web\n$/);
  assertEquals((await docker("start", "db")).stdout, "db\n");
  assertMatch((await docker("ps")).stdout, /postgres:17/);
  let seen = "";
  while (!seen.includes("\n")) seen += (await lines.read()).value ?? "\n";
  assertMatch(seen, /container start a7a7\w+ \(image=postgres:17, name=db\)\n/);
  live.kill("SIGTERM");
  await lines.cancel();
  await live.status;

  const refused = await docker("rm", "web");
  assertEquals(
    refused.stderr,
    "Error response from daemon: container web is running: stop it first\n",
  );
  const unknown = await docker("stop", "nobody");
  assertStringIncludes(unknown.stderr, "No such container: nobody");
  assertEquals((await docker("create", "--name", "web", "alpine")).code, 1);
  assertEquals(await daemon.end(), 0);
});
