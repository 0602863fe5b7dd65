import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Daemon, missing, project, run, TempFolder, until } from "../support/daemon.ts";

const NO_DOCKER = await missing("docker", ["--version"]);

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
  const unknown = await docker("stop", "missing");
  assertStringIncludes(unknown.stderr, "No such container: missing");
  assertEquals((await docker("create", "--name", "web", "alpine")).code, 1);
  assertEquals(await daemon.end(), 0);
});
