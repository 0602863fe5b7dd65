import { assert, assertEquals } from "@std/assert";
import { until } from "../../support/daemon.ts";
import { NO_DOCKER, Procd } from "../../support/procd.ts";

const ignore = NO_DOCKER || Deno.build.os !== "linux";

Deno.test({
  name:
    "procd is replaced under load: clients of the old one go on, and nothing is lost or doubled",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    // The old one waits for the counter's clients, which on a busy machine takes longer than the 3
    // s that it sleeps.
    const handover = ["--handover", `${procd.folder}/handover`, "--shutdown-timeout", "60"];
    await procd.daemon.end();
    await using old = procd.start(...handover);
    await old.open();
    const counter = "i=0; while [ $i -lt 300 ]; do echo $i; i=$((i+1)); sleep 0.01; done; exit 9";
    const foreground = procd.docker("run", "--name", "counter", "host", "sh", "-c", counter);
    await until(async () => (await procd.docker("logs", "counter")).stdout.length > 0);
    const followed = procd.docker("logs", "-f", "counter");
    let stop = false;
    let ran = 0;
    const load = async () => {
      while (!stop) {
        assertEquals((await procd.docker("run", "--rm", "host", "echo", "on")).stdout, "on");
        ran++;
      }
    };
    const loads = [load(), load()];
    await until(() => ran > 1);
    const young = procd.start(...handover, "--takeover");
    await young.says(/^serving in place of/m);
    assertEquals(await procd.inspect("counter", ".State.Status"), "running");
    const before = ran;
    await until(() => ran > before + 2);
    stop = true;
    await Promise.all(loads);
    const lines = Array.from({ length: 300 }, (_, i) => String(i)).join("\n");
    assertEquals(await foreground, { code: 9, stdout: lines, stderr: "" });
    assertEquals((await followed).stdout, lines);
    assertEquals((await old.status).code, 0);
    assertEquals(await procd.ok("logs", "counter"), lines);
    assertEquals(
      await procd.ok("ps", "-a", "--format", "{{.Names}} {{.Status}}").then((all) =>
        all.replace(/\).*/, ")")
      ),
      "counter Exited (9)",
    );
    assert(!/ERROR/.test(old.stderr + young.stderr), old.stderr + young.stderr);
  },
});
