import { assert, assertEquals } from "@std/assert";
import { until } from "../../support/daemon.ts";
import { NO_DOCKER, Procd } from "../../support/procd.ts";

const ignore = NO_DOCKER || Deno.build.os !== "linux";

/** How many processes carry a container's mark, and are the program that it runs. */
function processesOf(id: string): number {
  let count = 0;
  for (const { name } of Deno.readDirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const environ = Deno.readTextFileSync(`/proc/${name}/environ`);
      if (environ.split("\0").includes(`FLOODGATE_CONTAINER=${id}`)) count++;
    } catch (error) {
      // It has ended, or is another user's.
      if (!(error instanceof Error)) throw error;
    }
  }
  return count;
}

Deno.test({
  name: "procd that is killed twenty times under load loses no container, line or exit status",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const program = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.02; done";
    const counter = await procd.ok("run", "-d", "--name", "counter", "host", "sh", "-c", program);
    // Ends at some time, with a daemon or without, with a status of its own.
    const ends = new Map<string, number>();
    const load = async (n: number) => {
      const code = n % 100;
      const { stdout } = await procd.docker(
        ...["run", "-d", "--name", `ends-${n}`, "host", "sh", "-c"],
        `echo begun; sleep 0.${n % 10}; echo ended; exit ${code}`,
      );
      if (/^[\da-f]{64}$/.test(stdout)) ends.set(stdout, code);
      await procd.docker("exec", "counter", "echo", "x");
      await procd.docker("logs", "--tail", "3", "counter");
    };
    for (let n = 0; n < 20; n++) {
      const work = [load(2 * n), load(2 * n + 1)];
      // Somewhere in the middle of it.
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 150));
      await procd.crash();
      assertEquals(await procd.inspect("counter", ".State.Status"), "running");
      await Promise.all(work);
    }
    assert(ends.size > 0, "no container was started at all");
    // It is the same process, and there is one: it and the sleep that it waits for.
    await until(() => processesOf(counter) <= 2);
    for (const [id, code] of ends) {
      // A daemon may have been killed when it had told the id, and not yet started the program.
      if (await procd.inspect(id, ".State.Status") === "created") continue;
      await procd.becomes(id, ".State.Status", "exited");
      assertEquals(await procd.inspect(id, ".State.ExitCode"), String(code));
      assertEquals(await procd.ok("logs", id), "begun\nended");
    }
    const all = (await procd.ok("ps", "-a", "--format", "{{.Names}}")).split("\n");
    assertEquals(new Set(all).size, all.length);
    await procd.ok("kill", "counter");
    const lines = (await procd.ok("logs", "counter")).split("\n");
    assertEquals(lines, lines.map((_, i) => `line ${i}`));
    assert(lines.length > 50, `only ${lines.length} lines`);
  },
});

Deno.test({
  name: "procd finds the end of a container that ended while no daemon ran, and starts it again",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("run", "-d", "--name", "once", "host", "sh", "-c", "sleep 0.3; exit 42");
    await procd.ok("run", "-d", "--name", "gone", "--rm", "host", "sleep", "0.3");
    const again = ["--restart", "always", "host", "sh", "-c", "echo begun; sleep 0.3"];
    await procd.ok("run", "-d", "--name", "again", ...again);
    const supervisor = `${procd.state}/supervisor.sock`;
    await procd.daemon.end("SIGKILL");
    // It goes when nothing runs any more.
    await until(() => Deno.lstat(supervisor).then(() => false, () => true));
    await procd.start().open();
    assertEquals(await procd.inspect("once", ".State.ExitCode"), "42");
    assertEquals((await procd.docker("inspect", "gone")).code, 1);
    await until(async () => (await procd.ok("logs", "again")).split("\n").length > 1);
    await procd.ok("stop", "again");
  },
});

Deno.test({
  name: "procd tells the truth when its supervisor was killed, and leaves no process",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const id = await procd.ok(
      ...["run", "-d", "--name", "lost", "host", "sh", "-c", "sleep 1000; true"],
    );
    assert(processesOf(id) > 0);
    const status = Deno.readTextFileSync(`/proc/${await procd.inspect("lost", ".State.Pid")}/stat`);
    const parent = Number(status.slice(status.lastIndexOf(")") + 2).split(" ")[1]);
    Deno.kill(parent, "SIGKILL");
    await procd.becomes("lost", ".State.Status", "exited");
    await until(() => processesOf(id) === 0);
    assertEquals(await procd.inspect("lost", ".State.ExitCode"), "255");
    // And goes on.
    assertEquals(await procd.ok("run", "--rm", "host", "echo", "on"), "on");
  },
});
