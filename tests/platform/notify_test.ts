import { assert, assertEquals, assertMatch } from "@std/assert";
import { ANSWERED, get } from "../support/client.ts";
import {
  Daemon,
  exchange,
  installer,
  missing,
  project,
  run,
  serveProject,
  TempFolder,
  until,
  untilThere,
} from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";

const PING = get("/_ping");

const NO_NOTIFY = await missing("systemd-notify", ["--version"]);
const NO_NODE = await missing("node", ["--version"]);

/** The manager's end of sd_notify: what arrives, and when. */
class Receiver implements Disposable {
  readonly messages: { text: string; time: number }[] = [];
  #socket: Deno.DatagramConn;
  constructor(readonly address: string) {
    this.#socket = Deno.listenDatagram({
      transport: "unixpacket",
      path: address.replace(/^@/, "\0"),
    });
    this.#read();
  }
  async #read(): Promise<void> {
    for await (const [data] of this.#socket) {
      this.messages.push({ text: new TextDecoder().decode(data), time: performance.now() });
    }
  }
  get texts(): string[] {
    return this.messages.map(({ text }) => text);
  }
  /** Waits until a message with this line has come, beyond the first `after`. */
  async got(line: string, after = 0): Promise<void> {
    await until(() => this.texts.slice(after).some((text) => text.split("\n").includes(line)));
  }
  [Symbol.dispose](): void {
    this.#socket.close();
  }
}

for (const kind of ["path", "abstract"]) {
  Deno.test(`sd_notify over a socket with ${kind} name: booting, ready after the boot, reloading, stopping`, async () => {
    await using folder = await TempFolder.make();
    using systemd = new Receiver(
      kind === "path" ? `${folder.path}/notify` : `@floodgate-test-${crypto.randomUUID()}`,
    );
    const go = `${folder.path}/go`;
    const module = `${folder.path}/module.js`;
    await Deno.writeTextFile(
      module,
      `export async function install() { console.log("booting"); ${untilThere(go)} }`,
    );
    await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`, "--install", module], {
      env: { NOTIFY_SOCKET: systemd.address },
    });
    await daemon.says(/^booting$/m);
    await systemd.got(`STATUS=installing ${module}`);
    assertEquals(systemd.texts, [`STATUS=installing ${module}\nEXTEND_TIMEOUT_USEC=30000000`]);
    const booted = performance.now();
    await Deno.writeTextFile(go, "");
    await systemd.got("READY=1");
    assertEquals(systemd.texts.slice(1), ["READY=1\nSTATUS=Accepting connections"]);
    assert(systemd.messages[1]!.time > booted);

    daemon.kill("SIGHUP");
    await systemd.got("READY=1", 2);
    assertMatch(systemd.texts[2]!, /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    assertEquals(systemd.texts.slice(3), ["READY=1\nSTATUS=Accepting connections"]);
    assertEquals(await daemon.end(), 0);
    await systemd.got("STOPPING=1");
    assertEquals(systemd.texts.slice(4), ["STOPPING=1\nSTATUS=Draining connections"]);
    assertEquals(daemon.stderr.includes("WARN"), false, daemon.stderr);
  });
}

/**
 * TimeoutStartSec= of systemd.service(5): ends a daemon that is not ready in time, unless it asks
 * for more.
 */
async function startWithin(
  milliseconds: number,
  systemd: Receiver,
  daemon: Daemon,
): Promise<boolean> {
  let deadline = performance.now() + milliseconds;
  for (let seen = 0;;) {
    for (const { text, time } of systemd.messages.slice(seen)) {
      const [, more] = /^EXTEND_TIMEOUT_USEC=(\d+)$/m.exec(text) ?? [];
      if (more) deadline = Math.max(deadline, time + Number(more) / 1_000);
      seen++;
    }
    if (systemd.texts.some((text) => text.startsWith("READY=1"))) return true;
    if (performance.now() > deadline) {
      daemon.kill("SIGKILL");
      return false;
    }
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

/**
 * A boot of 30 steps of 100 ms, after the daemon has loaded. In real time, which {@linkcode
 * startWithin} counts as systemd does.
 */
const longBoot = (progress: string) =>
  `console.log("the boot begins");
   for (let i = 1; i <= 30; i++) { ${progress} await new Promise((r) => setTimeout(r, 100)); }`;

Deno.test("progress of a boot gives it more time than TimeoutStartSec=, and is its STATUS", async () => {
  await Promise.all([true, false].map(async (goesOn) => {
    await using folder = await TempFolder.make();
    using systemd = new Receiver(`${folder.path}/notify`);
    const progress = goesOn ? "engine.progress(`container\\n${i} of 30`, { within: 2_000 });" : "";
    await using daemon = Daemon.start(
      ["-H", `unix://${folder.path}/s`, "--install", installer(longBoot(progress))],
      { env: { NOTIFY_SOCKET: systemd.address } },
    );
    // What the program itself says at the beginning counts as well, and stands for a
    // TimeoutStartSec.
    await daemon.says(/the boot begins/);
    await until(() => systemd.texts.some((text) => text.startsWith("STATUS=installing ")));
    systemd.messages.shift();
    assertEquals(await startWithin(1_000, systemd, daemon), goesOn);
    if (goesOn) {
      const said = systemd.texts.slice(0, -1);
      assert(said.length > 10, systemd.texts.join("\n"));
      for (const text of said) {
        assertMatch(text, /^STATUS=container \d+ of 30\nEXTEND_TIMEOUT_USEC=2000000$/);
      }
    }
  }));
});

Deno.test("progress that comes too fast is sent by its last text, before READY", async () => {
  await using folder = await TempFolder.make();
  using systemd = new Receiver(`${folder.path}/notify`);
  const go = `${folder.path}/go`;
  const steps = `for (let i = 1; i <= 10_000; i++) engine.progress(String(i));`;
  await using _daemon = Daemon.start(
    ["-H", `unix://${folder.path}/s`, "--install", installer(steps + untilThere(go))],
    { env: { NOTIFY_SOCKET: systemd.address } },
  );
  await systemd.got("STATUS=10000");
  await Deno.writeTextFile(go, "");
  await systemd.got("READY=1");
  const all = systemd.texts;
  assertEquals(all.slice(-2), [
    "STATUS=10000\nEXTEND_TIMEOUT_USEC=30000000",
    "READY=1\nSTATUS=Accepting connections",
  ]);
  assert(all.length < 10, `${all.length} messages`);
});

Deno.test("MONOTONIC_USEC is of the clock that systemd reads", { ignore: NO_NODE }, async () => {
  await using folder = await TempFolder.make();
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`], {
    env: { NOTIFY_SOCKET: systemd.address },
  });
  await systemd.got("READY=1");
  // libuv's clock is CLOCK_MONOTONIC.
  const clock = async () =>
    Number((await run("node", ["-p", "process.hrtime.bigint() / 1000n"])).stdout.replace("n", ""));
  const before = await clock();
  daemon.kill("SIGHUP");
  await systemd.got("READY=1", 1);
  const after = await clock();
  const [, sent] = /MONOTONIC_USEC=(\d+)/.exec(systemd.texts.join("\n"))!;
  assert(before < Number(sent) && Number(sent) < after, `${before} ${sent} ${after}`);
});

Deno.test("SIGHUP during the boot tells systemd nothing, which waits for READY=1 anyway", async () => {
  await using folder = await TempFolder.make();
  using systemd = new Receiver(`${folder.path}/notify`);
  const go = `${folder.path}/go`;
  await using daemon = Daemon.start(
    ["-H", `unix://${folder.path}/s`, "--install", installer(untilThere(go))],
    { env: { NOTIFY_SOCKET: systemd.address } },
  );
  await daemon.says(/listening on/);
  daemon.kill("SIGHUP");
  await daemon.says(/-job reload\(\) = OK/);
  await Deno.writeTextFile(go, "");
  await systemd.got("READY=1");
  assertEquals(systemd.texts.filter((text) => !text.startsWith("STATUS=installing")), [
    "READY=1\nSTATUS=Accepting connections",
  ]);
  assertEquals(await daemon.end(), 0);
});

/** A daemon whose watchdog is on, and a route `/block?ms=` that blocks the event loop. */
function watched(path: string, systemd: Receiver, env: Record<string, string>): Daemon {
  const module = installer(`
    router.get("/block", (c) => {
      const end = performance.now() + Number(c.req.query("ms"));
      while (performance.now() < end);
      return c.text("done");
    });
    router.get("/break", (c) => {
      const { job } = engine;
      engine.job = (name, ...args) => {
        if (name === "true") throw new Error("no more jobs");
        return job.call(engine, name, ...args);
      };
      return c.text("broken");
    });
    router.get("/wait", async (c) => {
      await new Promise((r) => setTimeout(r, Number(c.req.query("ms"))));
      return c.text("waited");
    });`);
  return Daemon.start(["-H", `unix://${path}`, "--install", module], {
    env: { NOTIFY_SOCKET: systemd.address, ...env },
  });
}
const WATCHDOG = "WATCHDOG=1";

/**
 * Waits until all is there that the daemon has told systemd: by an answer, which comes after it.
 */
async function answered(daemon: Daemon, systemd: Receiver): Promise<void> {
  const seen = systemd.messages.length;
  daemon.kill("SIGHUP");
  await systemd.got("READY=1", seen);
}

Deno.test("WATCHDOG=1 is sent twice in WATCHDOG_USEC, and not while the event loop is blocked", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = watched(path, systemd, { WATCHDOG_USEC: "400000" });
  await systemd.got("READY=1");
  const dogs = () => systemd.messages.filter(({ text }) => text === WATCHDOG);
  // Five times 200 ms. On a busy machine one of them may be late, or the first be read late.
  await until(() =>
    dogs().some(({ time }, i, all) => {
      const took = (all[i + 5]?.time ?? Infinity) - time;
      return took > 900 && took < 1_300;
    })
  );
  const others = systemd.texts.slice(systemd.texts.indexOf(WATCHDOG));
  assertEquals(others.filter((text) => text !== WATCHDOG), []);

  const seen = dogs().length;
  const answer = await exchange({ transport: "unix", path }, get("/block?ms=1500"));
  assertMatch(answer, /done$/);
  await until(() => dogs().length > seen + 2);
  const times = dogs().slice(seen - 1).map(({ time }) => time);
  const longest = Math.max(...times.slice(1).map((time, i) => time - times[i]!));
  assert(longest > 1_200, `the longest silence was ${longest} ms`);
  // It is no event, and nothing to fill a log with.
  assertEquals(daemon.stderr.includes("true()"), false);
  assertEquals(await daemon.end(), 0);
});

Deno.test("WATCHDOG=1 stops when no job can run", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = watched(path, systemd, { WATCHDOG_USEC: "20000" });
  await systemd.got(WATCHDOG);
  assertMatch(await exchange({ transport: "unix", path }, get("/break")), /broken$/);
  const intervals = () =>
    daemon.stderr.match(/ERROR watchdog: no job can run: no more jobs/g)?.length ?? 0;
  await until(() => intervals() > 0);
  // What it says in the log may be here before what it has told systemd until then.
  await answered(daemon, systemd);
  const seen = systemd.texts.length;
  const before = intervals();
  await until(() => intervals() > before + 10);
  await answered(daemon, systemd);
  assertEquals(systemd.texts.slice(seen).includes(WATCHDOG), false);
});

Deno.test("WATCHDOG=1 is left to the process that WATCHDOG_PID names", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = watched(path, systemd, { WATCHDOG_USEC: "2000", WATCHDOG_PID: "1" });
  await systemd.got("READY=1");
  // Twenty intervals.
  await exchange({ transport: "unix", path }, get("/wait?ms=20"));
  await answered(daemon, systemd);
  assertEquals(systemd.texts.includes(WATCHDOG), false);
  assertEquals(await daemon.end(), 0);
});

Deno.test("sd_notify from a URL, where Deno has no datagrams, runs systemd-notify", {
  ignore: NO_NOTIFY,
}, async () => {
  await using folder = await TempFolder.make();
  await using web = serveProject();
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = Daemon.start(
    ["-H", `unix://${folder.path}/s`, "--install", project("examples/containers.ts")],
    {
      program: `http://127.0.0.1:${web.addr.port}/mod.ts`,
      cwd: folder.path,
      env: { NOTIFY_SOCKET: systemd.address, WATCHDOG_USEC: "1000000" },
    },
  );
  await systemd.got("READY=1");
  // It adds who is meant, and lets systemd tell it when the message was read.
  const told = systemd.texts.filter((text) => text !== "BARRIER=1");
  assertEquals(told.slice(0, 2), [
    `MAINPID=${daemon.pid}\nSTATUS=installing ${
      project("examples/containers.ts")
    }\nEXTEND_TIMEOUT_USEC=30000000`,
    `MAINPID=${daemon.pid}\nREADY=1\nSTATUS=Accepting connections`,
  ]);
  await systemd.got(WATCHDOG);
  daemon.kill("SIGHUP");
  await until(() => systemd.texts.some((text) => /^RELOADING=1\nMONOTONIC_USEC=\d+$/m.test(text)));
  assertEquals(await daemon.end(), 0);
  await systemd.got("STOPPING=1");
  assertEquals(daemon.stderr.includes("WARN"), false, daemon.stderr);
});

const DEAF: [string, Record<string, string>, boolean, RegExp][] = [
  [
    "there is neither",
    { PATH: "/nowhere" },
    true,
    /cannot tell systemd: .*systemd-notify.* \(run with --unstable-net, or install systemd-notify\)/,
  ],
  ["no process listens", {}, false, /cannot tell systemd: .*No such file or directory/],
];
for (const [what, env, remote, message] of DEAF) {
  Deno.test(`sd_notify warns once where ${what}, and the daemon serves`, async () => {
    await using folder = await TempFolder.make();
    await using web = serveProject();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", installer("")], {
      program: remote ? `http://127.0.0.1:${web.addr.port}/mod.ts` : undefined,
      cwd: folder.path,
      env: { NOTIFY_SOCKET: `${folder.path}/missing`, WATCHDOG_USEC: "20000", ...env },
    });
    await daemon.open();
    // STATUS=, READY=1 and several WATCHDOG=1 later:
    daemon.kill("SIGHUP");
    await daemon.says(/-job reload\(\) = OK/);
    assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
    assertEquals(await daemon.end(), 0);
    const warnings = daemon.stderr.split("\n").filter((line) => line.includes("WARN"));
    assertEquals(warnings.length, 1, daemon.stderr);
    assertMatch(warnings[0]!, message);
  });
}

foreignTest(
  "sd_notify at a takeover makes the new process the service's, which does not stop",
  async () => {
    await using folder = await TempFolder.make();
    using systemd = new Receiver(`${folder.path}/notify`);
    const args = ["-H", "tcp://127.0.0.1:0", "--handover", `${folder.path}/handover`];
    const options = { env: { NOTIFY_SOCKET: systemd.address } };
    await using old = Daemon.start(args, options);
    await systemd.got("READY=1");
    const before = systemd.texts.length;
    await using next = Daemon.start([...args, "--takeover"], options);
    await next.says(/^serving in place of/m);
    assertEquals((await old.status).code, 0);
    assertEquals(systemd.texts.slice(before), [
      `MAINPID=${next.pid}\nREADY=1\nSTATUS=Accepting connections`,
    ]);
    assertEquals(await next.end(), 0);
    await systemd.got("STOPPING=1", before);
  },
);
