import { assertEquals, assertMatch } from "@std/assert";
import { Client, PING } from "../support/client.ts";
import { Daemon, missing, run, TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

const NO_DOCKER = await missing("docker", ["--version"]);

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

Deno.test("stats counts per listener", async () => {
  await using folder = await TempFolder.make();
  await using served = await Served.open({}, ["tcp://127.0.0.1:0", `unix://${folder.path}/s`]);
  const client = await Client.to(served.target);
  await client.ask(PING);
  const { listeners } = await served.stats();
  assertEquals(
    listeners.map((listener) => [
      listener.accepted,
      listener.open,
      listener.requests,
    ]),
    [[1, 1, 1], [0, 0, 0]],
  );
  client.close();
  await until(async () => (await served.stats()).listeners[0].open === 0);
});
