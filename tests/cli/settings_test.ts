import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Daemon, project } from "../support/daemon.ts";

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
