import { assert, assertEquals } from "@std/assert";
import { Sweep, UNSENT } from "../../serve/sweep.ts";
import { Client, PING } from "../support/client.ts";
import { Daemon, project, run, TempFolder, until } from "../support/daemon.ts";

Deno.test("Sweep runs from start to stop, and sooner once it is hastened", async () => {
  let looks = 0;
  let interval = 3_600_000;
  const sweep = new Sweep(() => looks++, () => interval);
  sweep.start();
  interval = 1;
  sweep.hasten();
  await until(() => looks >= 3);
  sweep.stop();
  const then = looks;
  const other = Promise.withResolvers<void>();
  const later = new Sweep(() => other.resolve(), () => 20);
  later.start();
  await other.promise;
  later.stop();
  assertEquals(looks, then);
});

Deno.test("Sweep.hasten of one that does not run makes it run no earlier than start", async () => {
  let interval = 3_600_000;
  const looked = Promise.withResolvers<void>();
  const sweep = new Sweep(() => looked.resolve(), () => interval);
  sweep.start();
  sweep.stop();
  sweep.hasten();
  interval = 1;
  sweep.start();
  await looked.promise;
  sweep.stop();
});

Deno.test("Sweep.sent is behind its clock by the time that an answer may take to its socket", async () => {
  const sweep = new Sweep(() => {}, () => 1);
  const began = sweep.clock;
  await until(() => {
    sweep.tick();
    return sweep.sent >= began;
  });
  assert(sweep.clock - sweep.sent >= UNSENT, `${sweep.clock - sweep.sent} ms`);
});

Deno.test("Connections.serve reads what arrived while the process stood still before it ends late clients", async () => {
  // What comes before the stop has to be done within them, on a busy machine as well.
  const args = ["-H", "tcp://127.0.0.1:0", "--header-timeout", "1.5", "--idle-timeout", "1.5"];
  await Promise.all(["the first", "the next"].map(async (request) => {
    await using daemon = Daemon.start(args);
    const target = { hostname: "127.0.0.1", port: await daemon.port() };
    await daemon.open();
    const clients = await Promise.all(Array.from({ length: 24 }, () => Client.to(target)));
    if (request === "the next") await Promise.all(clients.map((client) => client.ask(PING)));
    // All that is known of them here is that they are accepted once one that came later is served.
    const last = await Client.to(target);
    await last.ask(PING);
    last.close();
    daemon.kill("SIGSTOP");
    await Promise.all(clients.map((client) => client.send(PING)));
    await new Promise((resolve) => setTimeout(resolve, 2_500)); // Past both timeouts.
    daemon.kill("SIGCONT");
    const answers = await Promise.allSettled(clients.map((client) => client.answer()));
    const lost = answers.filter(({ status }) => status === "rejected").length;
    assertEquals(lost, 0, `${request} requests of 24`);
    clients.forEach((client) => client.close());
  }));
});

Deno.test("Sweep keeps no program alive whose engine has shut down", async () => {
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(
    `${folder.path}/program.ts`,
    `import { Served } from ${JSON.stringify(project("tests/support/served.ts"))};
    const served = await Served.open({}, ["tcp://127.0.0.1:0"]);
    await (await fetch(served.addresses[0].replace("tcp", "http") + "/_ping")).text();
    await served.engine.shutdown();
    await served.ended;
    // It does not keep the process; if something else does, it is seen.
    Deno.unrefTimer(setTimeout(() => console.log("still there"), 300));`,
  );
  const { code, stdout, stderr } = await run(Deno.execPath(), [
    ...["run", "-A", "--no-check", "--no-lock", "--import-map", project("offline/import_map.json")],
    `${folder.path}/program.ts`,
  ]);
  assertEquals([code, stdout], [0, ""], stderr);
});
