import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { denoIsFrom, knowsAbstractNames } from "../../platform/deno.ts";
import {
  Daemon,
  type DaemonOptions,
  exchange,
  freePort,
  installer,
  missing,
  project,
  run,
  serveProject,
  TempFolder,
  testWhere,
  until,
  untilHeld,
} from "../support/daemon.ts";

const NO_ACTIVATE = await missing("systemd-socket-activate", ["--version"]);
const NO_NOTIFY = await missing("systemd-notify", ["--version"]);
const NO_NODE = await missing("node", ["--version"]);

/** systemd-socket-activate passes no variables on but those that it is told. */
const PASSED = ["HOME", "PATH", "TMPDIR", "DENO_DIR", "JSR_URL", "NO_COLOR", "DENO_NO_UPDATE_CHECK"]
  .flatMap((name) => ["-E", name]);

/**
 * A daemon that the real systemd-socket-activate starts at the first connection. It takes no port 0,
 * so such a port is replaced by one that is free.
 */
async function activate(
  sockets: string[],
  args: string[],
  options: DaemonOptions & { activator?: string[] } = {},
): Promise<Daemon> {
  for (;;) {
    const listen = sockets.map((socket) => {
      const [, hostname] = /^\[?(.*?)\]?:0$/.exec(socket) ?? [];
      if (hostname === undefined) return socket;
      return socket.replace(/0$/, String(freePort(hostname)));
    });
    const daemon = Daemon.start(args, {
      ...options,
      through: [
        "systemd-socket-activate",
        ...PASSED,
        ...options.activator ?? [],
        ...listen.flatMap((socket) => ["-l", socket]),
      ],
    });
    const last = new RegExp(`^Listening on .* as ${2 + sockets.length}\\.$|in use`, "m");
    const [said] = await daemon.says(last);
    if (said !== "in use") return daemon;
    await daemon.status; // Somebody was faster.
  }
}

/** What the daemon itself wrote to stderr. */
function complaints(daemon: Daemon): string[] {
  return daemon.stderr.split("\n").filter((line) => line.startsWith("floodgate:"));
}

/** The port of a tcp socket in another process, found by its inode: nobody has told it. */
async function portOf(pid: number, fd: number): Promise<number> {
  const [, inode] = /socket:\[(\d+)\]/.exec(await Deno.readLink(`/proc/${pid}/fd/${fd}`))!;
  for (const table of ["tcp", "tcp6"]) {
    for (const line of (await Deno.readTextFile(`/proc/net/${table}`)).split("\n")) {
      const columns = line.trim().split(/\s+/);
      if (columns[9] === inode) return parseInt(columns[1].split(":")[1], 16);
    }
  }
  throw new Error(`descriptor ${fd} is in no table`);
}

function get(path: string): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;
}
const PING = get("/_ping");
const ANSWERED = /^HTTP\/1\.1 200 OK\r\n/;

/** Addresses that the daemon says it listens on. */
function addresses(daemon: Daemon): string[] {
  return [...daemon.stdout.matchAll(/^listening on (\S+), try/gm)].map(([, address]) => address);
}

Deno.test(
  "fd:// serves named sockets beside the daemon's own, and whoever came before the program or its boot",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const passed = `${folder.path}/passed`;
    const own = `${folder.path}/own`;
    const boot = installer(untilHeld(201));
    await using daemon = await activate(
      [passed, "127.0.0.1:0"],
      ["fd://api", "fd://net", "tcp://127.0.0.1:0", `unix://${own}`].flatMap((host) => ["-H", host])
        .concat("--install", boot),
      { activator: ["--fdname=api:net"] },
    );
    const port = await portOf(daemon.pid, 4);
    assertEquals(daemon.stderr.includes("Execing"), false);
    let answers = 0;
    const ask = async (address: Deno.ConnectOptions | Deno.UnixConnectOptions) => {
      assertMatch(await exchange(address, PING), ANSWERED);
      answers++;
    };
    const first = ask({ hostname: "127.0.0.1", port });
    await daemon.says(/listening on unix:\/\/.*own/);
    assertEquals(addresses(daemon).slice(0, 2), [`unix://${passed}`, `tcp://127.0.0.1:${port}`]);
    const ownPort = Number(new URL(addresses(daemon)[2].replace("tcp:", "http:")).port);
    assertEquals(answers, 0);
    const clients = Array.from({ length: 50 }, () => [
      ask({ transport: "unix", path: passed }),
      ask({ hostname: "127.0.0.1", port }),
      ask({ hostname: "127.0.0.1", port: ownPort }),
      ask({ transport: "unix", path: own }),
    ]).flat();
    await daemon.says(/\+job acceptconnections/);
    await Promise.all([first, ...clients]);
    assertEquals(answers, 201);
    assertEquals(await daemon.end(), 0);
    // What systemd has made is not ours to remove: it listens there still.
    assertEquals(folder.names(), ["passed"]);
  },
);

const CHOICES: [string, string[], string[]][] = [
  ["fd:// is all of them", ["fd://"], ["a", "b", "c"]],
  ["fd://* is all of them", ["fd://*"], ["a", "b", "c"]],
  ["fd://4 is the second", ["fd://4"], ["b"]],
  ["fd://two is the one of this name", ["fd://two"], ["b"]],
  ["fd://one is both of this name", ["fd://one"], ["a", "c"]],
  ["fd://* is what is left", ["fd://5", "fd://*"], ["c", "a", "b"]],
];
for (const [what, hosts, expected] of CHOICES) {
  Deno.test(`${what}, and the log says who is left out`, { ignore: NO_ACTIVATE }, async () => {
    await using folder = await TempFolder.make();
    await using daemon = await activate(
      ["a", "b", "c"].map((name) => `${folder.path}/${name}`),
      hosts.flatMap((host) => ["-H", host]),
      { activator: ["--fdname=one:two:one"] },
    );
    for (const name of expected) {
      assertMatch(
        await exchange({ transport: "unix", path: `${folder.path}/${name}` }, PING),
        ANSWERED,
      );
    }
    assertEquals(addresses(daemon), expected.map((name) => `unix://${folder.path}/${name}`));
    await daemon.open();
    const left = ["fd://3 (fd://one)", "fd://4 (fd://two)", "fd://5 (fd://one)"]
      .filter((_, i) => !expected.includes("abc"[i]));
    const warning = /WARN .* systemd has passed: (.*)/.exec(daemon.stderr)?.[1];
    assertEquals(warning, left.length ? left.join(", ") : undefined);
    assertEquals(await daemon.end(), 0);
  });
}

// Before 2.4 the URL of a request at an abstract name has no host, in which a router finds no path.
const abstractUrlTest = testWhere(denoIsFrom("2.4.0"), "abstract unix sockets");
abstractUrlTest(
  "fd:// serves IPv6 and abstract unix sockets",
  { ignore: NO_ACTIVATE },
  async () => {
    const name = `floodgate-test-${crypto.randomUUID()}`;
    await using daemon = await activate([`@${name}`, "[::1]:0"], ["-H", "fd://"]);
    const port = await portOf(daemon.pid, 4);
    assertMatch(await exchange({ hostname: "::1", port }, PING), ANSWERED);
    assertMatch(await exchange({ transport: "unix", path: `\0${name}` }, PING), ANSWERED);
    assertEquals(addresses(daemon), [`unix://@${name}`, `tcp://[::1]:${port}`]);
    assertEquals(await daemon.end(), 0);
  },
);

Deno.test(
  "programs that the daemon starts inherit neither the sockets nor word of them",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/used`;
    const module = installer(`
      const { stdout } = await new Deno.Command("sh", {
        args: ["-c", "env; for fd in /proc/self/fd/*; do readlink $fd; done"],
      }).output();
      router.get("/child", (c) => c.text(new TextDecoder().decode(stdout)));`);
    // One that an address uses, and one that none uses.
    await using daemon = await activate([path, `${folder.path}/unused`], [
      "-H",
      "fd://3",
      "--install",
      module,
    ], { activator: ["--fdname=used:unused"] });
    const answer = await exchange({ transport: "unix", path }, get("/child"));
    assertMatch(answer, /^PATH=/m);
    assertMatch(answer, /^pipe:/m); // Its own, as a sign that descriptors are listed.
    assertEquals(answer.match(/^LISTEN_.*|^socket:.*/gm), null);
    assertEquals(await daemon.end(), 0);
  },
);

Deno.test("fd:// finishes requests at SIGTERM, and leaves the next to the next daemon", {
  ignore: NO_ACTIVATE,
}, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const go = `${folder.path}/go`;
  const module = installer(`
    router.get("/slow", async (c) => {
      console.log("asked");
      for (;;) {
        try { Deno.statSync(${JSON.stringify(go)}); return c.text("finished"); }
        catch { await new Promise((r) => setTimeout(r, 5)); }
      }
    });`);
  await using daemon = await activate([path], ["-H", "fd://", "--install", module]);
  const answer = exchange({ transport: "unix", path }, get("/slow"));
  await daemon.says(/^asked$/m);
  daemon.kill("SIGTERM");
  await daemon.says(/SIGTERM: draining/);
  await Deno.writeTextFile(go, "");
  assertMatch(await answer, /finished$/);
  assertEquals((await daemon.status).code, 0);
  assertEquals((await Deno.lstat(path)).isSocket, true);
});

Deno.test(
  "an inherited socket survives running out of descriptors",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    const go = `${folder.path}/go`;
    // All of them are held until the boot is done, so that there is no descriptor left for the last.
    const module = installer(`
    while (!await Deno.lstat(${
      JSON.stringify(go)
    }).catch(() => {})) await new Promise((r) => setTimeout(r, 5));`);
    await using daemon = await activate([path, "127.0.0.1:0"], [
      "-H",
      "fd://",
      "--max-connections",
      "100000",
      "--install",
      module,
    ], { descriptors: 100 });
    const port = await portOf(daemon.pid, 4);
    const clients = Array.from({ length: 150 }, () => [
      exchange({ transport: "unix", path }, PING),
      exchange({ hostname: "127.0.0.1", port }, PING),
    ]).flat();
    await daemon.says(/accept: Too many open files/);
    await Deno.writeTextFile(go, "");
    for (const answer of await Promise.all(clients)) assertMatch(answer, ANSWERED);
    assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
    assertEquals(await daemon.end(), 0);
  },
);

/** Errors: [what, variables, `-H` of each, what `deno run` is told, the message]. */
const WRONG: [string, string, string[], string[], RegExp][] = [
  ["none was passed", "", ["fd://"], ["-A"], /fd:\/\/: no sockets were passed \(LISTEN_FDS and/],
  [
    "they are another process's",
    "LISTEN_FDS=1 LISTEN_PID=1",
    ["fd://"],
    ["-A"],
    /passed to process 1 \(LISTEN_PID\), and this is \d+$/,
  ],
  ...["some", "0", "-1", "1e3", "9999999", "\u00bd"].map((count): typeof WRONG[number] => [
    `LISTEN_FDS is ${count}`,
    `LISTEN_FDS=${count} LISTEN_PID=$$`,
    ["fd://"],
    ["-A"],
    new RegExp(`LISTEN_FDS is "${count}", expected the number of sockets`),
  ]),
  [
    "there are too few",
    "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=one:unknown",
    ["fd://9"],
    ["-A"],
    /fd:\/\/9: no such socket was passed, there are fd:\/\/3 \(fd:\/\/one\), fd:\/\/4$/,
  ],
  [
    "there is none of this name",
    "LISTEN_FDS=1 LISTEN_PID=$$ LISTEN_FDNAMES=one",
    ["fd://two"],
    ["-A"],
    /fd:\/\/two: no such socket was passed, there are fd:\/\/3 \(fd:\/\/one\)$/,
  ],
  [
    "it is no socket",
    "LISTEN_FDS=1 LISTEN_PID=$$",
    ["fd://"],
    ["-A"],
    /fd:\/\/: descriptor 3 is not open, or no socket$/,
  ],
  [
    "it is not open",
    "LISTEN_FDS=200 LISTEN_PID=$$",
    ["fd://201"],
    ["-A"],
    /fd:\/\/201: descriptor 201 is not open, or no socket$/,
  ],
  [
    "foreign functions are not allowed",
    "LISTEN_FDS=1 LISTEN_PID=$$",
    ["fd://"],
    ["--allow-net", "--allow-env", "--allow-read"],
    /fd:\/\/: this needs the permission --allow-ffi$/,
  ],
  [
    "/proc may not be read",
    "LISTEN_FDS=1 LISTEN_PID=$$",
    ["fd://"],
    ["--allow-net", "--allow-env", "--allow-read", "--allow-ffi"],
    /fd:\/\/: this needs all permissions, --allow-all: to look into \/proc$/,
  ],
];
for (const [what, variables, hosts, flags, message] of WRONG) {
  Deno.test(`fd:// says in one line what is wrong where ${what}`, async () => {
    await using daemon = Daemon.start(hosts.flatMap((host) => ["-H", host]), {
      flags: ["--no-prompt", ...flags],
      through: ["sh", "-c", `exec 3</dev/null; ${variables} exec "$@"`, "sh"],
    });
    assertEquals((await daemon.status).code, 1);
    assertMatch(daemon.stderr, /^floodgate: cannot listen on .*\n$/);
    assertMatch(daemon.stderr.trim(), message);
    assertEquals(daemon.stdout, "");
  });
}

Deno.test("fd:// refuses a socket that two addresses want", { ignore: NO_ACTIVATE }, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = await activate([path], ["-H", "fd://3", "-H", "fd://one"], {
    activator: ["--fdname=one"],
  });
  using _client = await Deno.connect({ transport: "unix", path });
  assertEquals((await daemon.status).code, 1);
  assertEquals(complaints(daemon), [
    "floodgate: cannot listen on fd://one: another address has taken what was passed",
  ]);
});

Deno.test(
  "sockets that a serveapi had which failed, or whose boot did, can be had again",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/passed`;
    const program = `${folder.path}/program.ts`;
    await Deno.writeTextFile(
      program,
      `import { createRouter, Engine, registerBuiltins } from ${JSON.stringify(project("mod.ts"))};
      function serve(...addresses: string[]) {
        const engine = new Engine({ log: (level, line) => console.log(level, line) });
        const { activation } = registerBuiltins(engine, { router: createRouter(engine) });
        const job = engine.job("serveapi", ...addresses);
        const bound = new Promise<void>((resolve) => job.stdout.add({ write: () => resolve() }));
        const served = job.run().catch((error) => console.log("failed:", error.message));
        return { engine, activation, bound, served };
      }
      await serve("fd://", "unix:///nowhere/s").served;
      const failing = serve("fd://");
      await failing.bound;
      failing.activation.fail(new Error("no boot"));
      await failing.served;
      const { engine, served } = serve("fd://");
      await engine.job("acceptconnections").run();
      await served;`,
    );
    await using daemon = await activate([path, "127.0.0.1:0"], [], { program });
    const port = await portOf(daemon.pid, 4);
    const passed = await Deno.readLink(`/proc/${daemon.pid}/fd/4`);
    // It starts the program.
    (await Deno.connect({ transport: "unix", path })).close();
    await daemon.says(/-job acceptconnections\(\) = OK/);
    assertMatch(daemon.stdout, /failed: .*unix:\/\/\/nowhere\/s.*\n[^]*failed: .*no boot/);
    assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
    assertMatch(await exchange({ hostname: "127.0.0.1", port }, PING), ANSWERED);
    assertEquals(daemon.stdout.includes("no address uses"), false);
    // Whoever comes once it is closed must not wait in its queue.
    const targets = [...Deno.readDirSync(`/proc/${daemon.pid}/fd`)].map(({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/${daemon.pid}/fd/${name}`);
      } catch (error) {
        if (error instanceof Deno.errors.NotFound) return ""; // It was closed meanwhile.
        throw error;
      }
    });
    assertEquals(targets.filter((target) => target === passed).length, 1);
  },
);

Deno.test(
  "fd:// refuses a tcp socket that other machines can reach",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    await using daemon = await activate([`${folder.path}/s`, "0.0.0.0:0"], ["-H", "fd://"]);
    const port = await portOf(daemon.pid, 4);
    using _client = await Deno.connect({ port });
    assertEquals((await daemon.status).code, 1);
    assertEquals(complaints(daemon).length, 1);
    assertStringIncludes(
      complaints(daemon)[0],
      `cannot listen on fd://: descriptor 4 is tcp://0.0.0.0:${port}: other machines can reach it`,
    );
  },
);

Deno.test("fd:// refuses a datagram socket", { ignore: NO_ACTIVATE }, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = await activate([path], ["-H", "fd://"], { activator: ["--datagram"] });
  const sender = Deno.listenDatagram({ transport: "unixpacket", path: `${folder.path}/own` });
  await sender.send(new Uint8Array(1), { transport: "unixpacket", path });
  sender.close();
  assertEquals((await daemon.status).code, 1);
  assertEquals(complaints(daemon), [
    "floodgate: cannot listen on fd://: descriptor 3 is not a listening stream socket",
  ]);
});

Deno.test(
  "fd:// refuses a connection, which is what Accept=yes passes",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    // For each connection it starts a child and does not end itself.
    await using activator = await activate([path], ["-H", "fd://"], { activator: ["--accept"] });
    using _client = await Deno.connect({ transport: "unix", path });
    await activator.says(/descriptor 3 is not a listening stream socket/);
  },
);

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

/** Waits for a file, in a module for `--install`. */
function waitFor(path: string): string {
  return `while (!await Deno.lstat(${
    JSON.stringify(path)
  }).catch(() => {})) await new Promise((r) => setTimeout(r, 5));`;
}

const abstractTest = testWhere(knowsAbstractNames(), "datagrams to an abstract name");
for (const [kind, test] of [["path", Deno.test], ["abstract", abstractTest]] as const) {
  test(`sd_notify over a socket with ${kind} name: booting, ready after the boot, reloading, stopping`, async () => {
    await using folder = await TempFolder.make();
    using systemd = new Receiver(
      kind === "path" ? `${folder.path}/notify` : `@floodgate-test-${crypto.randomUUID()}`,
    );
    const go = `${folder.path}/go`;
    const module = `${folder.path}/module.js`;
    await Deno.writeTextFile(
      module,
      `export async function install() { console.log("booting"); ${waitFor(go)} }`,
    );
    await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`, "--install", module], {
      env: { NOTIFY_SOCKET: systemd.address },
    });
    await daemon.says(/^booting$/m);
    await systemd.got(`STATUS=Booting ${module}`);
    assertEquals(systemd.texts, [`STATUS=Booting ${module}`]);
    const booted = performance.now();
    await Deno.writeTextFile(go, "");
    await systemd.got("READY=1");
    assertEquals(systemd.texts.slice(1), ["READY=1\nSTATUS=Accepting connections"]);
    assert(systemd.messages[1].time > booted);

    daemon.kill("SIGHUP");
    await systemd.got("READY=1", 2);
    assertMatch(systemd.texts[2], /^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    assertEquals(systemd.texts.slice(3), ["READY=1\nSTATUS=Accepting connections"]);
    assertEquals(await daemon.end(), 0);
    await systemd.got("STOPPING=1");
    assertEquals(systemd.texts.slice(4), ["STOPPING=1\nSTATUS=Draining connections"]);
    assertEquals(daemon.stderr.includes("WARN"), false, daemon.stderr);
  });
}

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
    ["-H", `unix://${folder.path}/s`, "--install", installer(waitFor(go))],
    { env: { NOTIFY_SOCKET: systemd.address } },
  );
  await daemon.says(/listening on/);
  daemon.kill("SIGHUP");
  await daemon.says(/-job reload\(\) = OK/);
  await Deno.writeTextFile(go, "");
  await systemd.got("READY=1");
  assertEquals(systemd.texts.filter((text) => !text.startsWith("STATUS=Booting")), [
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

/** Waits until all is there that the daemon has told systemd: by an answer, which comes after it. */
async function answered(daemon: Daemon, systemd: Receiver): Promise<void> {
  const seen = systemd.messages.length;
  daemon.kill("SIGHUP");
  await systemd.got("READY=1", seen);
}

Deno.test("WATCHDOG=1 comes twice in WATCHDOG_USEC, and not while the event loop is blocked", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  using systemd = new Receiver(`${folder.path}/notify`);
  await using daemon = watched(path, systemd, { WATCHDOG_USEC: "400000" });
  await systemd.got("READY=1");
  const dogs = () => systemd.messages.filter(({ text }) => text === WATCHDOG);
  await until(() => dogs().length === 6);
  assertEquals(systemd.texts.indexOf(WATCHDOG), systemd.texts.length - 6);
  // Five times 200 ms; late on a busy machine, never early.
  const took = dogs()[5].time - dogs()[0].time;
  assert(took > 900 && took < 2_000, `five intervals took ${took} ms`);

  const seen = dogs().length;
  const answer = await exchange({ transport: "unix", path }, get("/block?ms=1500"));
  assertMatch(answer, /done$/);
  await until(() => dogs().length > seen + 2);
  const times = dogs().slice(seen - 1).map(({ time }) => time);
  const longest = Math.max(...times.slice(1).map((time, i) => time - times[i]));
  assert(longest > 1_400, `the longest silence was ${longest} ms`);
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

Deno.test("sd_notify from a URL, where Deno has no datagrams, is systemd-notify's work", {
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
    `MAINPID=${daemon.pid}\nSTATUS=Booting ${project("examples/containers.ts")}`,
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
  ["nobody listens", {}, false, /cannot tell systemd: .*No such file or directory/],
];
for (const [what, env, remote, message] of DEAF) {
  Deno.test(`sd_notify warns once where ${what}, and the daemon serves`, async () => {
    await using folder = await TempFolder.make();
    await using web = serveProject();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", installer("")], {
      program: remote ? `http://127.0.0.1:${web.addr.port}/mod.ts` : undefined,
      cwd: folder.path,
      env: { NOTIFY_SOCKET: `${folder.path}/nobody`, WATCHDOG_USEC: "20000", ...env },
    });
    await daemon.open();
    // STATUS=, READY=1 and several WATCHDOG=1 later:
    daemon.kill("SIGHUP");
    await daemon.says(/-job reload\(\) = OK/);
    assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
    assertEquals(await daemon.end(), 0);
    const warnings = daemon.stderr.split("\n").filter((line) => line.includes("WARN"));
    assertEquals(warnings.length, 1, daemon.stderr);
    assertMatch(warnings[0], message);
  });
}

Deno.test("a unix address needs no permission for its long queue", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(["-H", `unix://${path}`], {
    // Foreign functions, but not /proc, which takes all permissions.
    flags: ["--no-prompt", "-A", "--deny-run"],
  });
  await daemon.says(/listening on/);
  assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
  assertEquals(await daemon.end(), 0);
});
