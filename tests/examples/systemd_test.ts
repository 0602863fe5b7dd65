import { assert, assertEquals, assertMatch } from "@std/assert";
import { exchange, missing, project, run, TempFolder, until } from "../support/daemon.ts";

const NO_ANALYZE = await missing("systemd-analyze", ["--version"]);

/** Copies the units into a folder, with a test's additions to the service. */
async function units(folder: string, service = ""): Promise<void> {
  for (const name of ["floodgate.socket", "floodgate.service"]) {
    await Deno.copyFile(project(`examples/systemd/${name}`), `${folder}/${name}`);
  }
  if (!service) return;
  await Deno.mkdir(`${folder}/floodgate.service.d`);
  await Deno.writeTextFile(`${folder}/floodgate.service.d/test.conf`, `[Service]\n${service}\n`);
}

Deno.test("systemd-analyze verify finds nothing wrong with the units", {
  ignore: NO_ANALYZE,
}, async () => {
  await using folder = await TempFolder.make();
  // systemd-analyze checks that the program exists, which is not installed here.
  await units(folder.path, `ExecStart=\nExecStart=${Deno.execPath()} run mod.ts`);
  const { code, stdout, stderr } = await run("systemd-analyze", [
    "verify",
    `${folder.path}/floodgate.socket`,
    `${folder.path}/floodgate.service`,
  ]);
  // It reports problems of this machine's own units, too.
  const problems = (stdout + stderr).split("\n").filter((line) => line.includes("floodgate"));
  assertEquals([code, problems], [0, []]);
});

/** A systemd in its own namespaces. */
class Systemd implements AsyncDisposable {
  #unshare: Deno.ChildProcess;
  #log: Promise<string>;
  #cgroup?: string | undefined;
  pid = 0;
  private constructor(unshare: Deno.ChildProcess) {
    this.#unshare = unshare;
    this.#log = new Response(unshare.stderr).text();
  }

  /** Boots it with the units in a folder's `units`, or says why it cannot. */
  static async boot(folder: string): Promise<Systemd | string> {
    const { stdout } = await run(Deno.execPath(), ["info", "--json"]);
    const systemd = new Systemd(
      new Deno.Command(project("tests/support/systemd.sh"), {
        args: [folder, project("."), Deno.execPath(), JSON.parse(stdout).denoDir],
        stdin: "null",
        stdout: "null",
        stderr: "piped",
      }).spawn(),
    );
    let ended: Deno.CommandStatus | undefined;
    systemd.#unshare.status.then((status) => ended = status);
    await until(async () => ended !== undefined || await systemd.#isUp());
    if (!ended) return systemd;
    const problem = (await systemd.#log).trim();
    await systemd[Symbol.asyncDispose]();
    assert(ended.code === 77 || /unshare/.test(problem), problem);
    return problem;
  }

  async #isUp(): Promise<boolean> {
    const { pid } = this.#unshare;
    const children = await Deno.readTextFile(`/proc/${pid}/task/${pid}/children`).catch(() => "");
    this.pid = Number(children.trim().split(" ")[0]);
    const cgroups = await Deno.readTextFile(`/proc/${pid}/cgroup`).catch(() => "");
    const [, own] = /^0::(\/.*floodgate-test-\d+)/m.exec(cgroups) ?? [];
    this.#cgroup ??= own;
    return this.pid > 0 && (await this.run("systemctl", "is-active", "basic.target")).code === 0;
  }

  /** A path in its namespace, as seen from here. */
  path(inside: string): string {
    return `/proc/${this.pid}/root${inside}`;
  }
  /** Runs a program in it. */
  run(command: string, ...args: string[]): ReturnType<typeof run> {
    const namespaces = ["-m", "-p", "-n", "-C", "-u", "-i"];
    return run("nsenter", ["-t", String(this.pid), ...namespaces, command, ...args]);
  }
  /** systemctl, which has to succeed. */
  async systemctl(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await this.run("systemctl", ...args);
    assertEquals(code, 0, stderr);
    return stdout;
  }
  /** A property of the service. */
  async show(property: string): Promise<string> {
    return (await this.systemctl("show", "floodgate.service", "--value", "-p", property)).trim();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its process 1 dies with unshare, and all its processes with that.
    try {
      this.#unshare.kill("SIGKILL");
    } catch {
      // It has ended.
    }
    await Promise.all([this.#unshare.status, this.#log]);
    if (!this.#cgroup) return;
    const [, mount] = /^\S+ (\S+) cgroup2 /m.exec(await Deno.readTextFile("/proc/mounts"))!;
    // A folder of a cgroup can be removed once the last of its processes is gone.
    await until(async () => {
      await run("find", [
        mount! + this.#cgroup,
        "-depth",
        "-type",
        "d",
        "-exec",
        "rmdir",
        "{}",
        "+",
      ]);
      return await Deno.stat(mount! + this.#cgroup).then(() => false, () => true);
    });
  }
}

const MODULE = `export function install(engine, router) {
  router.get("/block", (c) => { for (;;); });
  router.get("/self", (c) => c.text(Deno.readTextFileSync("/proc/self/status")));
}`;

Deno.test("the units work in a real systemd: activation, reload, restart under load, watchdog", async (t) => {
  await using folder = await TempFolder.make();
  const made = `${folder.path}/units`;
  await Deno.mkdir(made);
  await Deno.mkdir(`${folder.path}/scratch`);
  const service = await Deno.readTextFile(project("examples/systemd/floodgate.service"));
  const [, command] = /^ExecStart=(.*)$/m.exec(service)!;
  const log = "/run/floodgate.log";
  await units(
    made,
    `ExecStart=
ExecStart=${command} --install /units/module.js
WatchdogSec=2s
StandardOutput=append:${log}
StandardError=inherit`,
  );
  await Deno.writeTextFile(`${made}/module.js`, MODULE);
  // The cache for the service.
  await run(Deno.execPath(), ["cache", project("mod.ts")]);
  const booted = await Systemd.boot(folder.path);
  if (typeof booted === "string") {
    console.log(`skipped: no systemd can be booted here: ${booted}`);
    return;
  }
  await using systemd = booted;
  const ask = (path: string) =>
    exchange(
      { transport: "unix", path: systemd.path("/run/floodgate.sock") },
      `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`,
    );

  await t.step("the first client starts the daemon, and is answered", async () => {
    await systemd.systemctl("start", "floodgate.socket");
    assertEquals(await systemd.show("ActiveState"), "inactive");
    const answer = await ask("/_ping");
    assertMatch(answer, /OK$/, await Deno.readTextFile(systemd.path(log)).catch(() => answer));
    await until(async () => await systemd.show("ActiveState") === "active");
    assertEquals(await systemd.show("StatusText"), "Accepting connections");
  });

  await t.step("it is a user of its own that may do nothing", async () => {
    const self = await ask("/self");
    assertMatch(self, /^Uid:\s+[1-9]\d+/m);
    assertMatch(self, /^CapBnd:\s+0+$/m);
    assertMatch(self, /^NoNewPrivs:\s+1$/m);
    assertMatch(self, /^Seccomp:\s+2$/m);
  });

  await t.step("systemctl reload", async () => {
    await systemd.systemctl("reload", "floodgate.service");
    // With Type=notify that waits for nothing but the signal to be sent.
    await until(async () =>
      (await Deno.readTextFile(systemd.path(log))).includes("-job reload() = OK")
    );
    await until(async () => await systemd.show("SubState") === "running");
  });

  await t.step("no client is lost by a restart", async () => {
    const main = await systemd.show("MainPID");
    let restarted = false;
    let answered = 0;
    const clients = Array.from({ length: 8 }, async () => {
      while (!restarted) {
        assertMatch(await ask("/_ping"), /OK$/);
        answered++;
      }
      assertMatch(await ask("/_ping"), /OK$/);
    });
    await until(() => answered > 100);
    await systemd.systemctl("restart", "floodgate.service");
    restarted = true;
    await Promise.all(clients);
    assert(await systemd.show("MainPID") !== main);
  });

  await t.step("the watchdog ends a daemon that hangs, and it is back", async () => {
    assertEquals(await systemd.show("NRestarts"), "0");
    await ask("/block").catch(() => {}); // Until it is cut off.
    assertMatch(await ask("/_ping"), /OK$/);
    assertEquals(await systemd.show("NRestarts"), "1");
  });

  await t.step("systemctl stop", async () => {
    await systemd.systemctl("stop", "floodgate.socket", "floodgate.service");
    assertEquals(await systemd.show("Result"), "success");
    const text = await Deno.readTextFile(systemd.path(log));
    assertMatch(text, /SIGTERM: draining\n(.*\n)*.*-job serveapi\(fd:\/\/\) = OK \(0\)\n$/);
    assertEquals(/WARN|ERROR/.test(text), false, text);
  });
});
