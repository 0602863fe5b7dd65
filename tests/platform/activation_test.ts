import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { activate, NO_ACTIVATE } from "../support/activate.ts";
import { ANSWERED, get } from "../support/client.ts";
import {
  Daemon,
  exchange,
  installer,
  project,
  TempFolder,
  untilHeld,
  untilThere,
} from "../support/daemon.ts";

/** What the daemon itself wrote to stderr. */
function complaints(daemon: Daemon): string[] {
  return daemon.stderr.split("\n").filter((line) => line.startsWith("floodgate:"));
}

/** The port of a tcp socket in another process, found by its inode. */
async function portOf(pid: number, fd: number): Promise<number> {
  const [, inode] = /socket:\[(\d+)\]/.exec(await Deno.readLink(`/proc/${pid}/fd/${fd}`))!;
  for (const table of ["tcp", "tcp6"]) {
    for (const line of (await Deno.readTextFile(`/proc/net/${table}`)).split("\n")) {
      const columns = line.trim().split(/\s+/);
      if (columns[9] === inode) return parseInt(columns[1]!.split(":")[1]!, 16);
    }
  }
  throw new Error(`descriptor ${fd} is in no table`);
}
const PING = get("/_ping");

/** Addresses that the daemon says it listens on. */
function addresses(daemon: Daemon): string[] {
  return [...daemon.stdout.matchAll(/^listening on (\S+), try/gm)].map(([, address]) => address!);
}

Deno.test(
  "fd:// serves named sockets beside the daemon's own, and clients that came before the program or its boot",
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
    const ownPort = Number(new URL(addresses(daemon)[2]!.replace("tcp:", "http:")).port);
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
      .filter((_, i) => !expected.includes("abc"[i]!));
    const warning = /WARN .* systemd has passed: (.*)/.exec(daemon.stderr)?.[1];
    assertEquals(warning, left.length ? left.join(", ") : undefined);
    assertEquals(await daemon.end(), 0);
  });
}

Deno.test(
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
  "fd:// passes programs that the daemon starts neither the sockets nor their variables",
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
      ${untilThere(go)}
      return c.text("finished");
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
  "fd:// survives running out of descriptors",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    const go = `${folder.path}/go`;
    // None is answered until there is no descriptor left for the last.
    const module = installer(`
    const gone = async () => {
      ${untilThere(go)}
    };
    router.get("/late", async (c) => {
      await gone();
      return c.text("OK");
    });`);
    await using daemon = await activate([path, "127.0.0.1:0"], [
      "-H",
      "fd://",
      "--max-connections",
      "100000",
      "--install",
      module,
    ], { descriptors: 100 });
    const port = await portOf(daemon.pid, 4);
    const late = "GET /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    const clients = Array.from({ length: 150 }, () => [
      exchange({ transport: "unix", path }, late),
      exchange({ hostname: "127.0.0.1", port }, late),
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
  ...["200", "999999"].map((count): typeof WRONG[number] => [
    `LISTEN_FDS is ${count}, more than are open`,
    `LISTEN_FDS=${count} LISTEN_PID=$$`,
    ["fd://"],
    ["-A"],
    new RegExp(`fd://: LISTEN_FDS is "${count}", and only \\d+ descriptors are open$`),
  ]),
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

for (const flags of [["-A"], ["--allow-net", "--allow-env"]]) {
  Deno.test(`main names no more than 20 of the sockets that no address uses, with ${flags}`, async () => {
    const all = flags[0] === "-A";
    // Without all permissions it cannot be seen how many are open.
    const count = all ? 25 : 999_999;
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0"], {
      flags: ["--no-prompt", ...flags],
      through: [
        "bash",
        "-c",
        `for fd in {3..27}; do eval "exec $fd</dev/null"; done; LISTEN_FDS=${count} LISTEN_PID=$$ exec "$@"`,
        "bash",
      ],
    });
    await daemon.open();
    assertMatch(
      daemon.stderr,
      new RegExp(
        `no address uses what systemd has passed: fd://3, .*, fd://22, and ${count - 20} more\n`,
      ),
    );
    assertEquals(await daemon.end(), 0);
  });
}

Deno.test("fd:// refuses a socket for two addresses", { ignore: NO_ACTIVATE }, async () => {
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
      `import { Engine, registerBuiltins, serve } from ${JSON.stringify(project("mod.ts"))};
      async function start(...addresses: string[]) {
        const engine = new Engine({ log: (level, line) => console.log(level, line) });
        const { activation } = registerBuiltins(engine);
        const { finished } = await serve(engine, { addresses });
        return { engine, activation, finished };
      }
      const failed = (error: Error) => console.log("failed:", error.message);
      await start("fd://", "unix:///nowhere/s").catch(failed);
      const failing = await start("fd://");
      failing.activation.fail(new Error("no boot"));
      await failing.finished.catch(failed);
      const { engine, finished } = await start("fd://");
      await engine.job("acceptconnections").run();
      await finished;`,
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
    // A client that comes once it is closed must not wait in its queue.
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
      complaints(daemon)[0]!,
      `cannot listen on fd://: descriptor 4 is tcp://0.0.0.0:${port}: clients on other machines could use the API`,
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
