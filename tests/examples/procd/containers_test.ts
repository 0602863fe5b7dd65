import { assert, assertEquals, assertMatch } from "@std/assert";
import { until } from "../../support/daemon.ts";
import { NO_DOCKER, Procd } from "../../support/procd.ts";

const ignore = NO_DOCKER || Deno.build.os !== "linux";
const LOOP = ["sh", "-c", "while :; do sleep 0.1; done"];

Deno.test({
  name: "docker stop ends a program that ignores SIGTERM, and kill sends any signal",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const deaf = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    await procd.ok("run", "-d", "--name", "deaf", "host", "sh", "-c", deaf);
    await until(async () => await procd.ok("logs", "deaf") === "ready");
    const started = performance.now();
    await procd.ok("stop", "-t", "1", "deaf");
    assert(performance.now() - started >= 1_000, "it was not asked first");
    assertEquals(await procd.inspect("deaf", ".State.ExitCode"), "137");

    const script = "trap 'echo hup; exit 5' HUP; echo ready; while :; do sleep 0.1; done";
    await procd.ok("run", "-d", "--name", "polite", "host", "sh", "-c", script);
    await until(async () => await procd.ok("logs", "polite") === "ready");
    const waiting = procd.ok("wait", "polite");
    await procd.ok("kill", "-s", "HUP", "polite");
    assertEquals(await waiting, "5");
    assertEquals(await procd.ok("logs", "polite"), "ready\nhup");
    const again = await procd.docker("kill", "polite");
    assertMatch(again.stderr, /is not running/);
    assertEquals((await procd.docker("stop", "polite")).code, 0);
  },
});

Deno.test({
  name: "docker restart, pause, rename, top, stats and rm -f do what they say",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const id = await procd.ok("run", "-d", "--name", "web", "host", ...LOOP);
    const pid = await procd.inspect("web", ".State.Pid");
    await procd.ok("restart", "-t", "0", "web");
    assert(await procd.inspect("web", ".State.Pid") !== pid, "it is the same process");
    await procd.ok("pause", "web");
    assertEquals(await procd.ok("ps", "--filter", "status=paused", "-q"), id.slice(0, 12));
    const stat = Deno.readTextFileSync(`/proc/${await procd.inspect("web", ".State.Pid")}/stat`);
    assertMatch(stat, /\) T /);
    assertMatch((await procd.docker("exec", "web", "true")).stderr, /paused/);
    await procd.ok("unpause", "web");
    await procd.ok("rename", "web", "www");
    assertMatch(await procd.ok("top", "www"), /while :; do sleep 0\.1; done/);
    const format = ["--format", "{{.Name}} {{.PIDs}}"];
    assertMatch(await procd.ok("stats", "--no-stream", ...format, "www"), /^www [1-9]/);
    assertMatch((await procd.docker("rm", "www")).stderr, /container is running/);
    await procd.ok("rm", "-f", "www");
    assertEquals(await procd.ok("ps", "-aq"), "");
    await until(() => Deno.lstat(`/proc/${pid}`).then(() => false, () => true));
  },
});

Deno.test({
  name: "procd ends all processes of a container with its first, those that have left it too",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const script = "(setsid sleep 1000 </dev/null >/dev/null 2>&1 &); sleep 1000 & echo $!; wait";
    await procd.ok("run", "-d", "--name", "many", "host", "sh", "-c", script);
    await until(async () => (await procd.ok("top", "many")).split("\n").length === 4);
    const pids = (await procd.ok("top", "many", "-o", "pid")).split("\n").slice(1).map(Number);
    await procd.ok("kill", "many");
    await until(() => pids.every((pid) => !running(pid)));
  },
});

function running(pid: number): boolean {
  try {
    return !/\) Z /.test(Deno.readTextFileSync(`/proc/${pid}/stat`));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    throw error;
  }
}

Deno.test({
  name: "containers are found by name, id and the beginning of an id; % and _ are letters",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const ids: string[] = [];
    // Of seventeen ids two begin alike.
    for (let i = 0; i < 17; i++) {
      ids.push(await procd.ok("create", "--name", `c${i}`, "-l", `n=${i}`, "host", "true"));
    }
    const first = ids.map((id) => id.charAt(0));
    const twice = first.find((digit, i) => first.indexOf(digit) !== i)!;
    const ambiguous = await procd.docker("container", "inspect", twice);
    assertMatch(ambiguous.stderr, /multiple IDs found with provided prefix/);
    for (const odd of ["%", "_", "c%", "c_"]) {
      assertMatch((await procd.docker("rm", "-f", odd)).stderr, /No such container/);
    }
    const names = (...args: string[]) => procd.ok("ps", "-a", "--format", "{{.Names}}", ...args);
    assertEquals(await names("--filter", "name=^c5$"), "c5");
    assertEquals(await names("--filter", "label=n=7"), "c7");
    assertEquals(await names("--filter", `id=${ids[3]}`), "c3");
    assertEquals(await names("-n", "2"), "c16\nc15");
    assertEquals(await names("-l"), "c16");
    assertEquals(await names("--filter", "since=c14"), "c16\nc15");
    assertEquals(await names("--filter", "before=c2"), "c1\nc0");
    assertEquals(await names("--filter", "ancestor=host", "-n", "1"), "c16");
    assertEquals(await names("--filter", "status=running"), "");
    assertMatch((await procd.docker("ps", "--filter", "color=red")).stderr, /color/);
    const conflict = await procd.docker("create", "--name", "c1", "host", "true");
    assertMatch(conflict.stderr, /The container name "\/c1" is already in use by container/);
    assertMatch((await procd.docker("create", "--name", "-x", "host", "true")).stderr, /Invalid/);
    // All of these and nothing else.
    await procd.ok("rm", ...(await procd.ok("ps", "-aq", "--filter", "name=c1")).split("\n"));
    assertEquals((await names()).split("\n").length, 9);
  },
});

Deno.test({
  name: "a container has its env, working directory, user, entrypoint and volumes",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const run = (...args: string[]) => procd.ok("run", "--rm", ...args);
    assertMatch(await run("-e", "A=b", "host", "sh", "-c", "echo $A $HOSTNAME"), /^b [\da-f]{12}$/);
    assertMatch(await run("--hostname", "hh", "host", "sh", "-c", "echo $HOSTNAME"), /^hh$/);
    assertEquals(await run("-w", "/tmp", "host", "pwd"), "/tmp");
    assertMatch(await run("host", "pwd"), /\/containers\/[\da-f]{64}\/files$/);
    assertEquals(await run("--entrypoint", "echo", "host", "a", "b"), "a b");
    await run("-v", "data:/var/lib/data", "host", "sh", "-c", "echo kept >var/lib/data/file");
    const read = 'cat "$VOLUME_VAR_LIB_DATA/file"';
    assertEquals(await run("-v", "data:/var/lib/data", "host", "sh", "-c", read), "kept");
    assertMatch(
      (await procd.docker("run", "-u", "no-such-user", "host", "id")).stderr,
      /unable to find user/,
    );
    if (Deno.uid() === 0) assertEquals(await run("-u", "12345:23456", "host", "id", "-u"), "12345");
    const warned = await procd.docker(
      ...["run", "--rm", "-m", "64m", "-p", "80:80", "--cap-drop", "ALL", "--read-only"],
      ...["--network", "none", "--privileged", "host", "true"],
    );
    for (const what of ["Memory", "ports", "CapDrop", "ReadonlyRootfs", "Network none"]) {
      assertMatch(warned.stderr, new RegExp(`WARNING: .*${what}`));
    }
    assertEquals(warned.code, 0);
  },
});

Deno.test({
  name: "restart policies start a container again, and stop ends that",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const failing = ["--restart", "on-failure:2", "host", "sh", "-c", "exit 5"];
    await procd.ok("run", "-d", "--name", "failing", ...failing);
    await procd.becomes("failing", ".RestartCount", "2");
    await procd.becomes("failing", ".State.Status", "exited");
    const always = ["--restart", "always", "host", "sh", "-c", "echo begun; sleep 0.1"];
    await procd.ok("run", "-d", "--name", "always", ...always);
    const begun = async () => (await procd.ok("logs", "always")).split("\n").length;
    await until(async () => await begun() >= 3);
    // A signal that there is not changes nothing.
    const wrong = await procd.docker("restart", "-s", "NO", "always");
    assertMatch(wrong.stderr, /invalid signal: NO/);
    const before = await begun();
    await until(async () => await begun() > before + 1);
    await procd.ok("stop", "always");
    assertEquals(await procd.inspect("always", ".State.Status"), "exited");
    await procd.ok("update", "--restart", "no", "always");
    assertEquals(await procd.inspect("always", ".HostConfig.RestartPolicy.Name"), "no");
    const limited = await procd.docker("update", "--memory", "64m", "always");
    assertMatch(limited.stdout + limited.stderr, /Memory is ignored/);
    const both = await procd.docker("run", "--rm", "--restart", "always", "host", "true");
    assertEquals(both.code, 125);
  },
});

Deno.test({
  name: "a healthcheck says how a container is",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const check = [
      ...["--health-cmd", "test -f ok", "--health-interval", "100ms", "--health-retries", "2"],
    ];
    await procd.ok("run", "-d", "--name", "sick", ...check, "host", ...LOOP);
    await procd.becomes("sick", ".State.Health.Status", "unhealthy");
    await procd.ok("exec", "sick", "touch", "ok");
    await procd.becomes("sick", ".State.Health.Status", "healthy");
    assertEquals(
      await procd.ok("ps", "--filter", "health=healthy", "--format", "{{.Names}}"),
      "sick",
    );
    const events = (await procd.events("{{.Action}}")).filter((event) => event.includes("health"));
    assertEquals(events, ["health_status: unhealthy", "health_status: healthy"]);
  },
});

Deno.test({
  name: "docker exec runs commands in a container, with their own streams and exit status",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("run", "-d", "--name", "web", "-e", "A=1", "host", ...LOOP);
    const script = "echo $A$B; echo err >&2; pwd; exit 3";
    const said = await procd.docker("exec", "-e", "B=2", "-w", "/tmp", "web", "sh", "-c", script);
    assertEquals(said, { code: 3, stdout: "12\n/tmp", stderr: "err" });
    await using cat = procd.command(["exec", "-i", "web", "cat"], {
      stdin: "piped",
      stdout: "piped",
    }).spawn();
    const writer = cat.stdin.getWriter();
    await writer.write(new TextEncoder().encode("in and out"));
    await writer.close();
    assertEquals(await new Response(cat.stdout).text(), "in and out");
    assertEquals((await procd.docker("exec", "web", "no-such-program")).code, 127);
    await procd.ok("exec", "-d", "web", "sh", "-c", "echo done >written");
    await until(async () =>
      (await procd.docker("exec", "web", "cat", "written")).stdout === "done"
    );
    await procd.ok("stop", "-t", "0", "web");
    assertMatch((await procd.docker("exec", "web", "true")).stderr, /is not running/);
  },
});

Deno.test({
  name: "docker events tells what happens to a container, as dockerd names it",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.docker("run", "--name", "web", "host", "sh", "-c", "exit 3");
    await procd.ok("start", "web");
    await procd.ok("wait", "web");
    await procd.ok("rename", "web", "www");
    await procd.ok("rm", "www");
    const format = "{{.Action}} {{.Actor.Attributes.exitCode}} {{.Actor.Attributes.name}}";
    const events = await procd.events(format);
    assertEquals(events.filter((event) => !event.startsWith("attach")), [
      "create <no value> web",
      "start <no value> web",
      "die 3 web",
      "start <no value> web",
      "die 3 web",
      "rename <no value> www",
      "destroy <no value> www",
    ]);
  },
});

Deno.test({
  name: "two hundred containers that are started at once all run",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const body = JSON.stringify({ Image: "host", Cmd: ["sleep", "1000"] });
    using client = Deno.createHttpClient({ proxy: { transport: "unix", path: procd.socket } });
    const post = async (path: string, body?: string) => {
      const headers = { "Content-Type": "application/json" };
      const response = await fetch(`http://localhost${path}`, {
        client,
        method: "POST",
        headers,
        ...body && { body },
      });
      assert(response.ok, `${path}: ${response.status}`);
      return response;
    };
    await Promise.all(Array.from({ length: 200 }, async () => {
      const { Id } = await (await post("/containers/create", body)).json();
      await (await post(`/containers/${Id}/start`)).body?.cancel();
    }));
    assertEquals((await procd.ok("ps", "-q")).split("\n").length, 200);
  },
});
