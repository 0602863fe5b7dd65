import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Daemon, missing, project, run, TempFolder } from "../support/daemon.ts";

const ignore = await missing("docker", ["--version"]);

/** The docker CLI, told to talk to a daemon with jobs behind rows of the Docker API. */
async function start() {
  const folder = await TempFolder.make();
  const address = `unix://${folder.path}/docker.sock`;
  const install = project("tests/support/fixtures/docker.ts");
  const daemon = Daemon.start(["-H", address, "--install", install]);
  await daemon.open();
  const env = { DOCKER_HOST: address, DOCKER_CONFIG: folder.path, HOME: folder.path };
  return {
    daemon,
    docker: (...args: string[]) => run("docker", args, { env }),
    async [Symbol.asyncDispose]() {
      await daemon[Symbol.asyncDispose]();
      await folder[Symbol.asyncDispose]();
    },
  };
}

const names = (stdout: string) => stdout.split("\n").filter(Boolean);

Deno.test("docker ps lists what its filters let through", { ignore }, async () => {
  await using cli = await start();
  const ps = async (...args: string[]) => {
    const { code, stdout, stderr } = await cli.docker("ps", "--format", "{{.Names}}", ...args);
    assertEquals([code, stderr], [0, ""]);
    return names(stdout);
  };
  assertEquals(await ps(), ["web"]);
  assertEquals(await ps("-a"), ["web", "db"]);
  assertEquals(await ps("-n", "1"), ["web"]);
  assertEquals(await ps("-a", "--filter", "name=d"), ["db"]);
  assertEquals(await ps("-a", "--filter", "name=web", "--filter", "name=db"), ["web", "db"]);
  assertEquals(await ps("--filter", "status=exited"), ["db"]);
  assertEquals(await ps("-a", "--filter", "label=tier=back"), ["db"]);
  assertEquals(await ps("-a", "--filter", "ancestor=nginx"), ["web"]);
  for (
    const filter of [
      "before=x",
      "expose=80",
      "exited=0",
      "health=none",
      "id=x",
      "isolation=default",
      "is-task=false",
      "network=x",
      "publish=80",
      "since=x",
      "volume=x",
    ]
  ) await ps("--filter", filter);
  const wrong = await cli.docker("ps", "--filter", "colour=red");
  assertEquals(wrong.code, 1);
  assertStringIncludes(wrong.stderr, 'query parameter filters has "colour", expected names among');
  assertMatch((await cli.docker("ps", "-s")).stdout, /1kB \(virtual 2kB\)/);
});

Deno.test(
  "docker images and inspect show an image, whose name has slashes",
  { ignore },
  async () => {
    await using cli = await start();
    assertMatch((await cli.docker("images")).stdout, /^me\/box +1 +0a0a0a0a0a0a +.* 4\.2MB$/m);
    assertEquals((await cli.docker("images", "other")).stdout.split("\n").length, 2);
    const image = await cli.docker("image", "inspect", "me/box:1", "--format", "{{.Architecture}}");
    assertEquals([image.code, image.stdout], [0, "amd64\n"]);
    // It asks for a container of that name first, and goes on where there is none.
    const any = await cli.docker("inspect", "me/box:1", "--format", "{{.Os}}");
    assertEquals([any.code, any.stdout], [0, "linux\n"]);
    const web = await cli.docker("inspect", "web", "--format", "{{.State.Status}}");
    assertEquals([web.code, web.stdout], [0, "running\n"]);
    const missing = await cli.docker("image", "inspect", "no/such");
    assertEquals(missing.code, 1);
    assertStringIncludes(missing.stderr, "No such image: no/such");
  },
);

Deno.test("docker logs tells stdout and stderr apart", { ignore }, async () => {
  await using cli = await start();
  const { code, stdout, stderr } = await cli.docker("logs", "--tail", "10", "web");
  assertEquals([code, stdout, stderr], [0, "to stdout\n", "to stderr\n"]);
});

Deno.test("docker pull shows its progress, and what went wrong", { ignore }, async () => {
  await using cli = await start();
  const { code, stdout } = await cli.docker("pull", "me/box:1");
  assertEquals(code, 0);
  assertStringIncludes(stdout, "1: Pulling from docker.io/me/box");
  assertStringIncludes(stdout, "0a0a0a0a0a0a: Download complete");
  assertStringIncludes(stdout, "Status: Downloaded newer image for docker.io/me/box:1");
  const failed = await cli.docker("pull", "me/nosuch");
  assertEquals(failed.code, 1);
  assertStringIncludes(failed.stderr, "pull access denied for docker.io/me/nosuch");
});

Deno.test("docker events, network ls, volume ls and system df work", { ignore }, async () => {
  await using cli = await start();
  const events = await cli.docker(
    ...["events", "--since", "1h", "--until", "0s", "--filter", "type=daemon"],
  );
  assertEquals([events.code, events.stderr], [0, ""]);
  const networks = await cli.docker("network", "ls", "--format", "{{.Name}} {{.Driver}}");
  assertEquals([networks.code, networks.stdout], [0, "bridge bridge\n"]);
  const volumes = await cli.docker("volume", "ls", "-q", "--filter", "dangling=true");
  assertEquals([volumes.code, volumes.stdout], [0, "data\n"]);
  const df = await cli.docker("system", "df");
  assertEquals([df.code, df.stderr], [0, ""]);
  assertMatch(df.stdout, /^Images +1 +0 +4\.2MB/m);
});

Deno.test(
  "docker names the job that is missing, and says that there is no swarm",
  { ignore },
  async () => {
    await using cli = await start();
    const rename = await cli.docker("rename", "web", "front");
    assertEquals(rename.code, 1);
    assertStringIncludes(rename.stderr, "no such job registered: rename");
    for (const args of [["node", "ls"], ["service", "ls"], ["secret", "ls"], ["swarm", "init"]]) {
      const { code, stderr } = await cli.docker(...args);
      assertEquals([args, code], [args, 1]);
      assertStringIncludes(stderr, "This node is not a swarm manager.");
    }
  },
);
