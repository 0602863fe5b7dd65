import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Daemon, project } from "../../support/daemon.ts";
import { NO_DOCKER, Procd } from "../../support/procd.ts";

const ignore = NO_DOCKER || Deno.build.os !== "linux";

Deno.test({
  name: "images are made of host by commit and build, named, saved, loaded and removed",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("run", "--name", "web", "-e", "A=1", "host", "true");
    const changes = ["-c", "ENV B=2", "-c", 'CMD ["sh", "-c", "echo $A$B"]'];
    const id = await procd.ok("commit", "-a", "me", "-m", "why", ...changes, "web", "me/made:1");
    assertEquals(await procd.ok("run", "--rm", "me/made:1"), "12");
    await procd.ok("tag", "me/made:1", "other");
    // The CLI has the names of one image in any order.
    const names = async () =>
      (await procd.ok("images", "--format", "{{.Repository}}:{{.Tag}}")).split("\n").sort();
    assertEquals(await names(), ["host:latest", "me/made:1", "other:latest"]);
    const property = (format: string) => procd.ok("image", "inspect", "-f", format, "other");
    assertEquals(await property("{{.Id}} {{.Author}} {{.Comment}}"), `${id} me why`);
    assertMatch(await procd.ok("history", "other"), /why\n<missing> .*this machine/);

    await procd.ok("save", "-o", "saved.tar", "me/made:1");
    assertMatch(await procd.ok("rmi", "me/made:1"), /^Untagged: me\/made:1$/);
    assertMatch(await procd.ok("rmi", "other"), /Untagged: other:latest\nDeleted: sha256:/);
    assertEquals(await procd.ok("load", "-i", "saved.tar"), "Loaded image: me/made:1");
    assertEquals(await procd.ok("images", "-q", "--no-trunc", "me/made"), id);
    assertEquals(await procd.ok("run", "--name", "user", "me/made:1"), "12");
    assertMatch((await procd.docker("rmi", "me/made:1")).stderr, /used by stopped container/);
    assertMatch((await procd.docker("rmi", "host")).stderr, /this machine, and cannot be removed/);
    await procd.ok("rm", "user");
    await procd.ok("image", "prune", "-af");
    assertEquals(await names(), ["host:latest"]);
  },
});

Deno.test({
  name: "docker build does what can be done on this machine, and refuses files",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await Deno.mkdir(`${procd.folder}/context`);
    const build = async (dockerfile: string, ...args: string[]) => {
      await Deno.writeTextFile(`${procd.folder}/context/Dockerfile`, dockerfile);
      return await procd.docker("build", "-t", "built", ...args, "context");
    };
    const said = await build(
      `# What it says.
FROM host
ARG WHO=world
ENV GREETING="hello there" \\
    NAME=$WHO
WORKDIR /tmp
RUN echo built for $WHO
CMD ["sh", "-c", "echo $GREETING, $NAME"]
`,
      "--build-arg",
      "WHO=me",
    );
    assertMatch(said.stdout, /Step 6\/7.*built for me|built for me/s);
    assertMatch(said.stdout, /Successfully tagged built:latest$/);
    assertEquals(await procd.ok("run", "--rm", "built"), "hello there, me");
    assertEquals(await procd.ok("ps", "-aq"), "");
    const copy = await build("FROM host\nCOPY a b\n");
    assertEquals(copy.code, 1);
    assertMatch(copy.stderr, /an image here holds no files/);
    assertMatch((await build("FROM host\nRUN exit 3\n")).stderr, /returned a non-zero code: 3/);
    assertMatch((await build("FROM nothing\n")).stderr, /No such image: nothing:latest/);
    assertMatch(
      (await build("FORM host\n")).stderr,
      /dockerfile parse error: unknown instruction: FORM/,
    );
    await procd.ok("tag", "host", "twice:1");
    for (
      const [args, message] of [
        [["tag", "nothing", "x"], "No such image: nothing:latest"],
        [["rmi", "nothing:2"], "No such image: nothing:2"],
        [["load", "-i", "context/Dockerfile"], "x\\nx\\nx"],
      ] as const
    ) {
      if (args[0] === "load") {
        await Deno.writeTextFile(`${procd.folder}/context/Dockerfile`, "x\n".repeat(999));
      }
      const { code, stderr } = await procd.docker(...args);
      assertEquals([code, stderr.trim().split("\n").length], [1, 1]);
      assertStringIncludes(stderr, message);
    }
  },
});

Deno.test({
  name: "docker build has stages, a target, arguments for all of them, and a shell",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await Deno.mkdir(`${procd.folder}/context`);
    await Deno.writeTextFile(
      `${procd.folder}/context/Dockerfile`,
      `ARG BASE=host
ARG ALL=w
ARG WHO=\${ALL}orld
FROM $BASE AS first
ENV STAGE=1
RUN echo unsaid: $WHO.
FROM first AS Second
ARG WHO
ENV STAGE=\${STAGE}2
CMD echo $STAGE, \${WHO-none}
RUN echo said: $WHO.
FROM 0
SHELL ["/bin/sh", "-e", "-c"]
CMD false; echo no
`,
    );
    const build = (...args: string[]) => procd.docker("build", "-t", "built", ...args, "context");
    const all = await build("--build-arg", "WHO=me");
    assertEquals(all.code, 0, all.stderr);
    assertMatch(all.stdout, /^unsaid: \.$/m);
    assertMatch(all.stdout, /^said: me\.$/m);
    assertEquals((await procd.docker("run", "--rm", "built")).code, 1);
    const second = await build("--target", "second");
    assertMatch(second.stdout, /^Step 11\/11 : RUN echo said: \$WHO\.$/m);
    assertMatch(second.stdout, /^said: world\.$/m);
    assertEquals(await procd.ok("run", "--rm", "built"), "12, none");
    const none = await build("--target", "third");
    assertMatch(none.stderr, /target stage "third" could not be found/);
  },
});

Deno.test({
  name: "docker run warns of what has no effect, and pulls nothing for a missing network",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const other = Deno.build.arch === "aarch64" ? "linux/amd64" : "linux/arm64";
    for (
      const [args, warning] of [
        [["--platform", other], `Platform ${other} is ignored`],
        [["--log-driver", "syslog"], "Log driver syslog is ignored"],
        [["--log-driver", "json-file"], undefined],
        [["--mount", "type=tmpfs,dst=/x"], "Mounts of type tmpfs are ignored"],
        [["--privileged"], "Privileged is ignored"],
        [["--gpus", "all"], "DeviceRequests is ignored"],
      ] as const
    ) {
      const { code, stdout, stderr } = await procd.docker("run", "--rm", ...args, "host", "true");
      assertEquals([code, stdout], [0, ""], stderr);
      if (warning === undefined) assertEquals(stderr, "");
      else assertStringIncludes(stderr, `WARNING: ${warning}`);
    }
    for (
      const [args, message] of [
        [["-v", "some/folder:/x"], /includes invalid characters .* needs its absolute path$/m],
        [["-w", "folder"], /the working directory 'folder' is invalid, .* an absolute path$/m],
        [["--log-opt", "size=1m"], /unknown log opt 'size' for local log driver, .*max-size/],
      ] as const
    ) {
      const { code, stderr } = await procd.docker("run", "--rm", ...args, "host", "true");
      assertEquals(code, 125);
      assertMatch(stderr, message);
    }
    const nothing = await procd.docker("run", "--rm", "host", "");
    assertEquals(nothing.code, 127);
    assertMatch(nothing.stderr, /exec: "": executable file not found in \$PATH$/m);
    for (const option of ["--network=none-such", "--network=container:none-such"]) {
      const { code, stderr } = await procd.docker("run", "--rm", option, "host", "true");
      assertEquals(code, 125);
      assertMatch(stderr, /^docker: Error response from daemon: .*none-such/);
    }
    const { stderr } = await procd.docker("ps", "--filter", "status=runing");
    assertMatch(stderr, /invalid filter 'status=runing', expected one of created, /);
  },
});

Deno.test({
  name: "docker cp copies into a container's folder and out of it, and no further",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const { folder } = procd;
    await Deno.mkdir(`${folder}/from/deep`, { recursive: true });
    await Deno.writeTextFile(`${folder}/from/file`, "one");
    await Deno.writeTextFile(`${folder}/from/deep/${"long".repeat(40)}`, "two");
    await Deno.symlink("deep", `${folder}/from/link`);
    const bytes = crypto.getRandomValues(new Uint8Array(65_536));
    await Deno.writeFile(`${folder}/from/bytes`, bytes, { mode: 0o750 });
    await procd.ok("run", "-d", "--name", "web", "-v", "data:/data", "host", "sleep", "1000");
    await procd.ok("cp", "from", "web:/to");
    assertEquals(await procd.ok("exec", "web", "cat", "to/file"), "one");
    await procd.ok("cp", "web:/to", "back");
    assertEquals(await Deno.readFile(`${folder}/back/bytes`), bytes);
    assertEquals((await Deno.stat(`${folder}/back/bytes`)).mode! & 0o777, 0o750);
    assertEquals(await Deno.readLink(`${folder}/back/link`), "deep");
    assertEquals(await Deno.readTextFile(`${folder}/back/link/${"long".repeat(40)}`), "two");
    await procd.ok("cp", "from/file", "web:/data/");
    assertEquals(await procd.ok("exec", "web", "sh", "-c", "cat $VOLUME_DATA/file"), "one");
    // A link of the container's leads nowhere but into its folder.
    await procd.ok("exec", "web", "ln", "-s", "/etc", "escape");
    for (const path of ["/etc/passwd", "/escape/passwd", "/../../../../etc/passwd"]) {
      const said = await procd.docker("cp", `web:${path}`, "-");
      assertMatch(said.stderr, /Could not find the file/);
    }
    await procd.docker("cp", "from/file", "web:/escape/floodgate-was-here");
    assertEquals(await Deno.lstat("/etc/floodgate-was-here").then(() => true, () => false), false);
  },
});

Deno.test({
  name: "volumes and networks are kept, listed, refused while in use, and pruned",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("volume", "create", "--label", "a=b", "data");
    await procd.ok("network", "create", "front");
    const options = ["-v", "data:/data", "-v", "/anonymous", "--network", "front"];
    await procd.ok("run", "-d", "--name", "web", ...options, "host", "sleep", "1000");
    assertMatch((await procd.docker("volume", "rm", "data")).stderr, /volume is in use/);
    assertMatch((await procd.docker("network", "rm", "front")).stderr, /has active endpoints/);
    const format = ["-f", "{{range .Containers}}{{.Name}}{{end}}"];
    assertEquals(await procd.ok("network", "inspect", ...format, "front"), "web");
    assertEquals(await procd.ok("ps", "--filter", "volume=data", "--format", "{{.Names}}"), "web");
    assertEquals(
      await procd.ok("ps", "--filter", "network=front", "--format", "{{.Names}}"),
      "web",
    );
    await procd.ok("network", "disconnect", "front", "web");
    await procd.ok("network", "rm", "front");
    const networks = () => procd.ok("network", "ls", "--format", "{{.Name}}");
    assertEquals(await networks(), "host");
    assertEquals((await procd.docker("network", "rm", "host")).code, 1);
    const df = await procd.ok("system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}");
    assertEquals(df, "Images 1 1\nContainers 1 1\nLocal Volumes 2 2\nBuild Cache 0 0");
    await procd.ok("rm", "-f", "-v", "web");
    assertEquals(await procd.ok("volume", "ls", "-q"), "data");
    assertEquals(await procd.ok("volume", "ls", "-q", "--filter", "label=a=c"), "");
    await procd.ok("network", "create", "unused");
    await procd.ok("create", "host", "true");
    await procd.ok("system", "prune", "-f");
    assertEquals(await networks(), "host");
    assertEquals(await procd.ok("ps", "-aq"), "");
    await procd.ok("volume", "prune", "-af");
    assertEquals(await procd.ok("volume", "ls", "-q"), "");
  },
});

Deno.test({
  name: "docker info counts containers, and says that nothing is isolated",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("create", "host", "true");
    const format = "{{.Containers}} {{.ContainersStopped}} {{.Images}} {{.Driver}} {{.OSType}}";
    assertEquals(await procd.ok("info", "--format", format), "1 1 1 process linux");
    assertMatch(
      (await procd.docker("info")).stderr,
      /No isolation: containers are plain processes/,
    );
    assertMatch((await procd.docker("inspect", "nothing")).stderr, /No such object: nothing/);
    assertMatch((await procd.docker("pull", "alpine")).stderr, /there is no registry here/);
    assertMatch(await procd.ok("pull", "host"), /Image is up to date/);
  },
});

Deno.test({
  name: "two daemons do not share a state, unless one takes the place of the other",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const install = project("examples/procd/mod.ts");
    await using second = Daemon.start(
      ["-H", `unix://${procd.folder}/second.sock`, "--install", install],
      { env: { FLOODGATE_STATE: procd.state } },
    );
    assertEquals((await second.status).code, 1);
    assertMatch(second.stderr, /process \d+ has this state already/);
  },
});
