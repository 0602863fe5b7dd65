import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { ALL } from "../../builtins/settings.ts";
import { help, parseFlags } from "../../cli/settings.ts";
import { Daemon, installer, project, TempFolder, until } from "../support/daemon.ts";

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
  [
    "a time below 0",
    ["--header-timeout", "-1"],
    2,
    /--header-timeout -1: expected a number of seconds of at least 0/,
  ],
  ["a number below 0", ["-l", "-.5"], 2, /--log-level -\.5: expected one of debug/],
  [
    "a flag in place of a value",
    ["-p", "-D"],
    2,
    /--pidfile needs a value, expected one before -D/,
  ],
  ["a unit", ["--body-limit", "10MX"], 2, /--body-limit 10MX: expected a number of bytes of at/],
  ["a count", ["--max-connections", "0"], 2, /--max-connections 0: expected a whole number of at/],
  ["a value that a flag does not take", ["--tls=no"], 2, /--tls=no: expected --tls by itself/],
  ["an argument after --", ["--", "foo"], 2, /unexpected argument "foo"/],
  ["an unknown letter among others", ["-Dxl", "warn"], 2, /unknown flag -x/],
  [
    "an address that is there twice",
    ["-H", "unix:///tmp/floodgate-twice", "-H", "unix:///tmp/floodgate-twice"],
    2,
    /address "unix:\/\/\/tmp\/floodgate-twice": it is given twice, expected once/,
  ],
  [
    "an address that is no machine's", // Of a net for documentation, RFC 5737.
    ["-H", "tcp://192.0.2.1:0", "--insecure"],
    1,
    /192\.0\.2\.1:0: this machine does not have the address, expected one of its own, or 0\.0\.0\.0 or \[::\] for all$/,
  ],
  [
    "a pidfile, whose handover socket would have the same fault",
    ["-H", "unix:///tmp/floodgate-unbound", "-p", "/no/such/pid"],
    2,
    /^floodgate: --pidfile \/no\/such\/pid: the directory \/no\/such\/ does not exist$/,
  ],
];
for (const [what, args, status, message] of WRONG) {
  Deno.test(`main says in one line what is wrong with ${what}`, async () => {
    await using daemon = Daemon.start(args);
    assertEquals((await daemon.status).code, status);
    const lines = daemon.stderr.trim().split("\n");
    assertEquals(lines.length, 1, daemon.stderr);
    assertMatch(lines[0]!, /^floodgate: /);
    assertMatch(lines[0]!, message);
    assertEquals(daemon.stdout, "");
  });
}

Deno.test("parseFlags returns typed values, whatever the form of the flags", async () => {
  const flags = await parseFlags([
    ...["--host=tcp://127.0.0.1:1", "-H", "unix:///a", "-Hunix:///b", "-DGwheel", "-lwarn"],
    ...["--header-timeout", "1.5s", "--idle-timeout=2m", "--send-timeout", "0", "-p=/run/pid"],
    ...["--shutdown-timeout", "0", "--body-limit", "10MB", "--max-connections=7", "--takeover"],
    ...["--allowed-host", "API.example", "--allowed-host", "b.example", "--tls=false"],
  ]);
  assertEquals(flags, {
    addresses: ["tcp://127.0.0.1:1", "unix:///a", "unix:///b"],
    install: [],
    serve: {
      handover: "/run/pid.handover",
      shutdownTimeout: 0,
      group: "wheel",
      takeover: true,
      allowedHosts: ["api.example", "b.example"],
      headerTimeout: 1_500,
      idleTimeout: 120_000,
      sendTimeout: Infinity,
      maxConnections: 7,
      bodyLimit: 10_000_000,
    },
    router: { bodyLimit: 10_000_000, sendTimeout: Infinity, logging: false },
    drain: 0,
    health: [],
    bootTimeout: Infinity,
    validate: false,
    pidfile: "/run/pid",
    logLevel: "warn",
    logFormat: "text",
    debug: true,
  });
});

Deno.test("main takes times and sizes with units", async () => {
  const limits = ["--header-timeout", "300ms", "--body-limit", "1kB"];
  const module = installer('router.post("/read", async (c) => c.text(await c.req.text()))');
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...limits, "--install", module]);
  const port = await daemon.port();
  await daemon.open();
  const post = async (size: number) => {
    const response = await fetch(`http://127.0.0.1:${port}/read`, {
      method: "POST",
      body: new Uint8Array(size),
    });
    await response.body?.cancel();
    return response.status;
  };
  assertEquals([await post(1_000), await post(1_001)], [200, 413]);
  const client = await Deno.connect({ port });
  const started = performance.now();
  assertEquals(await client.read(new Uint8Array(1)), null); // It has said nothing.
  client.close();
  // By default it would be 10 s.
  assert(performance.now() - started < 8_000, "the client was kept for longer than 300 ms");
  assertEquals(await daemon.end(), 0);
});

Deno.test("main writes its log as JSON with --log-format json", async () => {
  await using daemon = Daemon.start([
    ...["-H", "tcp://127.0.0.1:0", "--log-format", "json", "-l", "debug"],
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

Deno.test("help has a line of at most 80 columns for each flag, its units, and no backticks", () => {
  const lines = help().split("\n");
  assertEquals(lines.filter((line) => line.length > 80), []);
  assertEquals(lines.filter((line) => line.includes("`")), []);
  for (const [, { flag, letter, takes }] of ALL) {
    if (flag === undefined) continue;
    const names = `${letter ? `-${letter},` : "   "} --${flag}${takes ? ` ${takes}` : ""}`;
    assertEquals(lines.filter((line) => `${line} `.startsWith(`  ${names} `)).length, 1, names);
  }
  assertStringIncludes(
    help(),
    "--header-timeout TIME   How long a client's first request may take to\n" +
      `${" ".repeat(30)}arrive (default: 10s; 0: no limit)\n`,
  );
  const headings = lines.filter((line) => /^[A-Z].*:$/.test(line));
  assertEquals(headings[0], "Addresses and boot:");
  assertEquals(headings.length, 7);
  assertEquals(lines.filter((line) => line.endsWith(" ")), []);
});

Deno.test("main prints its version and its help", async () => {
  await using version = Daemon.start(["-v"]);
  await using help = Daemon.start(["--help"]);
  assertEquals([(await version.status).code, (await help.status).code], [0, 0]);
  // Nothing of a build, which this is not; build/build_test.ts has one.
  assertMatch(version.stdout, /^floodgate \d+\.\d+\.\d+ \(API 1\.\d+, Deno .*\)\n$/);
  assertStringIncludes(help.stdout, "-H, --host PROTO://ADDR");
  const { version: declared } = JSON.parse(await Deno.readTextFile(project("deno.json")));
  assertStringIncludes(version.stdout, `floodgate ${declared} `);
});

Deno.test("main fetches @std/cli once it has booted, and uses it from the next start on", async () => {
  await using folder = await TempFolder.make();
  const parser = await Deno.readTextFile(project("offline/parse_args.ts")) +
    `console.error("@std/cli is in use");`;
  const digest = new Uint8Array(
    await crypto.subtle.digest("SHA-256", new TextEncoder().encode(parser)),
  );
  const files: Record<string, string> = {
    "/@std/cli/meta.json": JSON.stringify({ versions: { "1.0.0": {} } }),
    "/@std/cli/1.0.0_meta.json": JSON.stringify({
      exports: { "./parse-args": "./parse_args.ts" },
      manifest: {
        "/parse_args.ts": { size: parser.length, checksum: `sha256-${digest.toHex()}` },
      },
    }),
    "/@std/cli/1.0.0/parse_args.ts": parser,
  };
  const asked: string[] = [];
  await using jsr = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, (request) => {
    const { pathname } = new URL(request.url);
    asked.push(pathname);
    const type = pathname.endsWith(".ts") ? "application/typescript" : "application/json";
    return new Response(files[pathname] ?? null, {
      status: pathname in files ? 200 : 404,
      headers: { "content-type": type },
    });
  });
  const env = {
    DENO_DIR: `${folder.path}/cache`,
    JSR_URL: `http://127.0.0.1:${jsr.addr.port}/`,
  };
  const args = ["-H", "tcp://127.0.0.1:0", "--install", installer(`console.log("booted");`)];
  {
    await using daemon = Daemon.start(args, { env });
    await daemon.says(/@std\/cli is in use/); // It is run when it is there.
    assertMatch(daemon.stderr, /-job acceptconnections\(\) = OK[^]*@std\/cli is in use/);
  }
  assertEquals([...new Set(asked)], Object.keys(files));
  asked.length = 0;
  await using daemon = Daemon.start(args, { env });
  await daemon.open();
  assertMatch(daemon.stderr, /@std\/cli is in use[^]*\+job serveapi/);
  assertEquals(asked, []);
});

Deno.test("main boots, and handlers import, while JSR does not answer", async () => {
  await using folder = await TempFolder.make();
  using jsr = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const install = installer(`
    const late = "data:text/javascript,export default 'late'";
    router.get("/late", async (c) => c.text((await import(late)).default));
  `);
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", install], {
    env: { DENO_DIR: `${folder.path}/cache`, JSR_URL: `http://127.0.0.1:${jsr.addr.port}/` },
  });
  await daemon.open();
  using _asking = await jsr.accept();
  const response = await fetch(`http://127.0.0.1:${await daemon.port()}/late`);
  assertEquals(await response.text(), "late");
});

Deno.test("main asks for @std/cli through a proxy where there is one", async () => {
  await using folder = await TempFolder.make();
  const asked: string[] = [];
  await using proxy = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, ({ url }) => {
    asked.push(url);
    return new Response(null, { status: 404 });
  });
  await using _daemon = Daemon.start(["-H", "tcp://127.0.0.1:0"], {
    env: {
      DENO_DIR: `${folder.path}/cache`,
      // No network but the proxy's knows this name (RFC 6761, 6.4).
      JSR_URL: "http://jsr.invalid/",
      http_proxy: `http://127.0.0.1:${proxy.addr.port}/`,
    },
  });
  await until(() => asked.length > 0);
  assertEquals(asked[0], "http://jsr.invalid/@std/cli/meta.json");
});
