import { assert, assertEquals, assertMatch } from "@std/assert";
import { NO_ACTIVATE, PASSED } from "../support/activate.ts";
import { Client, get, PING } from "../support/client.ts";
import {
  Daemon,
  exchange,
  installer,
  project,
  TempFolder,
  until,
  untilThere,
} from "../support/daemon.ts";

Deno.test("--boot-timeout fails a boot that hangs, with its last progress in the reason", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const boot = `engine.progress("opening the store");
    engine.progress("container 40 of 200"); await new Promise(() => setInterval(() => {}, 1_000));`;
  await using daemon = Daemon.start([
    ...["-H", `unix://${path}`, "--boot-timeout", "2s"],
    ...["--install", installer(boot)],
  ]);
  await daemon.says(/container 40|opening/);
  const held = await Client.to({ transport: "unix", path });
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr.trim().split("\n").at(-1),
    'floodgate: the boot hangs: "container 40 of 200" was the last progress, and nothing more for 2 s (--boot-timeout)',
  );
  assertEquals(await held.ended(), "");
  assertEquals(folder.names(), []);
});

Deno.test("--boot-timeout spares a boot that makes progress, or asks for more time", async () => {
  await using folder = await TempFolder.make();
  const wait = (ms: number) => `await new Promise((r) => setTimeout(r, ${ms}));`;
  const steps = `for (let i = 0; i < 4; i++) { engine.progress(String(i)); ${wait(500)} }`;
  const long = `engine.progress("checking", { within: 60_000 }); ${wait(1_900)}`;
  await using daemon = Daemon.start([
    ...["-H", `unix://${folder.path}/s`, "--boot-timeout", "1.5s"],
    ...["--install", installer(steps + long)],
  ]);
  await daemon.open();
  assertEquals(await daemon.end(), 0);
});

/** A daemon that a stand-in for systemd starts again and again on a socket that it keeps. */
function activated(path: string, folder: string, ...args: string[]): Daemon {
  // What systemd-socket-activate runs has the socket: here a shell, as systemd has it, and each
  // daemon gets it with a LISTEN_PID of its own.
  const again = `while [ ! -e ${folder}/stop ]; do
      sh -c 'LISTEN_PID=$$ exec "$@"' sh "$@" || exit; echo ended
    done`;
  return Daemon.start(["-H", "fd://", ...args], {
    through: [
      ...["systemd-socket-activate", "-l", path],
      ...PASSED,
      ...["sh", "-c", again, "sh"],
    ],
    program: project("mod.ts"),
  });
}

Deno.test("--exit-idle-time loses none of twenty clients that connect as the daemon exits", {
  ignore: NO_ACTIVATE,
}, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const stop = `${folder.path}/stop`;
  await using daemon = activated(path, folder.path, "--exit-idle-time", "100ms");
  await daemon.says(/Listening on/);
  const exits = () => daemon.stdout.split("\nended\n").length - 1;
  for (let round = 0; round < 20; round++) {
    const before = daemon.stderr.length;
    // The first client of a round wakes the daemon; the next comes as it ends: sooner or later
    // after it said so.
    assertMatch(await exchange({ transport: "unix", path }, get("/_ping")), /^HTTP\/1.1 200 /);
    await until(() => daemon.stderr.slice(before).includes("no client for 0.1 s: ending"));
    const delay = performance.now() + round * 2;
    while (performance.now() < delay) await new Promise((resolve) => setTimeout(resolve, 0));
    assertMatch(
      await exchange({ transport: "unix", path }, get("/version")),
      /^HTTP\/1.1 200 [^]*"ApiVersion"/,
      `round ${round}`,
    );
  }
  await Deno.writeTextFile(stop, "");
  assertEquals((await daemon.status).code, 0);
  assert(exits() >= 19, daemon.stdout);
});

Deno.test(
  "--exit-idle-time waits for clients, streams and jobs",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await Deno.writeTextFile(`${folder.path}/stop`, "");
    const go = `${folder.path}/go`;
    const module = installer(`
    engine.register("long", async () => {
      ${untilThere(go)}
      console.log("long has ended");
    });
    engine.job("long").run();
  `);
    await using daemon = Daemon.start([
      ...["-H", "fd://", "--exit-idle-time", "200ms", "--install", module],
    ], {
      through: [
        ...["systemd-socket-activate", "-l", path],
        ...PASSED,
      ],
    });
    await daemon.says(/Listening on/);
    const idle = await Client.to({ transport: "unix", path });
    await idle.send(PING);
    await idle.sees(/OK$/);
    const events = await Client.to({ transport: "unix", path });
    await events.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
    await events.sees(/\r\n\r\n/);
    const started = performance.now();
    const passed = (ms: number) => until(() => performance.now() - started > ms);
    await passed(500);
    idle[Symbol.dispose]();
    await passed(1_000);
    assertEquals(daemon.stderr.includes("ending"), false);
    events[Symbol.dispose]();
    await passed(1_500);
    assertEquals(daemon.stderr.includes("ending"), false); // A job runs.
    await Deno.writeTextFile(go, "");
    await daemon.says(/no client for 0.2 s: ending/);
    assertEquals((await daemon.status).code, 0);
    assertMatch(daemon.stdout, /long has ended/);
  },
);

Deno.test("--exit-idle-time is refused without sockets of systemd", async () => {
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--exit-idle-time", "1m"]);
  assertEquals((await daemon.status).code, 2);
  assertMatch(daemon.stderr, /^floodgate: --exit-idle-time is for sockets .* expected -H fd:\/\//);
});
