import { assertEquals, assertMatch } from "@std/assert";
import { Authority } from "./support/certificates.ts";
import { get } from "./support/client.ts";
import { Daemon, exchange, missing, project, run, TempFolder, until } from "./support/daemon.ts";

const NO_SCRIPT = await missing("script", ["--version"]);

Deno.test("registerBuiltins, serve and acceptconnections need no permission but --allow-net", async () => {
  await using folder = await TempFolder.make();
  const program = `${folder.path}/embed.ts`;
  await Deno.writeTextFile(
    program,
    `import { Engine, registerBuiltins, serve } from ${JSON.stringify(project("mod.ts"))};
     const engine = new Engine();
     registerBuiltins(engine);
     const { addresses, finished } = await serve(engine, { addresses: ["tcp://127.0.0.1:0"] });
     await engine.job("acceptconnections").run();
     console.log(await (await fetch(addresses[0].replace("tcp:", "http:") + "/_ping")).text());
     await engine.shutdown();
     await finished;`,
  );
  const { code, stdout, stderr } = await run(
    Deno.execPath(),
    ["run", "--no-prompt", "--no-config", "--no-check", "--allow-net", program],
    { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } },
  );
  assertEquals([code, stdout], [0, "OK\n"], stderr);
  if (NO_SCRIPT) return;
  // On a terminal Deno would ask for what is missing, and wait.
  const terminal = await run("timeout", [
    "60",
    "script",
    "-qec",
    `${Deno.execPath()} run --no-config --no-check --allow-net ${program}`,
    "/dev/null",
  ], { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } });
  assertMatch(terminal.stdout, /^OK\r$/m);
  assertEquals(terminal.stdout.includes("Deno requests"), false, terminal.stdout);
});

const NO_OPENSSL = await missing("openssl", ["version"]);
const PING = get("/_ping");

/** A daemon, and the permissions that it needs. */
interface Case {
  args: string[];
  /** All of them. Each is needed. */
  flags: string[];
  env?: Record<string, string>;
  /** Asks it for an answer, once it listens. */
  ask(daemon: Daemon): Promise<string>;
}

async function askTcp(daemon: Daemon): Promise<string> {
  return await exchange({ hostname: "127.0.0.1", port: await daemon.port() }, PING);
}

/** Asks at a daemon's TLS address, with a certificate if it wants one. */
function askTls(authority: Authority): Case["ask"] {
  const read = (name: string) => Deno.readTextFile(authority.path(name));
  return async (daemon) => {
    const conn = await Deno.connectTls({
      hostname: "127.0.0.1",
      port: await daemon.port(),
      caCerts: [await read("ca.pem")],
      cert: await read("client.pem"),
      key: await read("client.key"),
    });
    await conn.write(new TextEncoder().encode(PING));
    let answer = "";
    // No further: old releases end a TLS connection in a way that a client takes for an error.
    for await (const text of conn.readable.pipeThrough(new TextDecoderStream())) {
      if ((answer += text).endsWith("OK")) break;
    }
    return answer;
  };
}

const TCP = ["-H", "tcp://127.0.0.1:0"];
const NET = "--allow-net=127.0.0.1:0";

/** A flag, if this Deno refuses to run the code without it. Older ones ask for less. */
async function flagFor(flag: string, code: string): Promise<string[]> {
  const { stdout } = await run(Deno.execPath(), [
    ...["run", "--no-prompt", "--allow-read", "--allow-write"],
    `data:text/javascript,try { ${code} } catch ({ name }) { console.log(name) }`,
  ]);
  return stdout === "NotCapable\n" ? [flag] : [];
}
const UNIX_NET = await flagFor(
  "--allow-net",
  `Deno.listen({ transport: "unix", path: "/no/such/folder/api.sock" })`,
);

/**
 * A daemon at a unix address. It needs the folder, because it is bound under another name there;
 * all of the network, because that name is random; and to know who it is, to tell its own folders
 * from those that others can change.
 */
function unix(folder: string, args: string[] = [], flags: string[] = []): Case {
  const path = `${folder}/api.sock`;
  return {
    args: ["-H", `unix://${path}`, ...args],
    // deno-fmt-ignore
    flags: [...UNIX_NET, "--allow-sys=uid", `--allow-write=${folder}`, `--allow-read=${folder}`, ...flags],
    ask: () => exchange({ transport: "unix", path }, PING),
  };
}

/** The name of our own group, which we may give a file to; empty where the system has none. */
const GROUP = Deno.readTextFileSync("/etc/group").split("\n").map((line) => line.split(":"))
  .find(([, , gid]) => gid === `${Deno.gid()}`)?.[0] ?? "";

/** What docs/operating.md lists under Permissions. */
const CASES: Record<string, (folder: string) => Case> = {
  "a tcp address": () => ({ args: TCP, flags: [NET], ask: askTcp }),
  "a unix address": (folder) => unix(folder),
  "a group by its number": (folder) => unix(folder, ["-G", `${Deno.gid()}`]),
  "a group by its name": (folder) => unix(folder, ["-G", GROUP], ["--allow-run=getent"]),
  "a group by its name, from a file": (folder) =>
    unix(folder, ["-G", GROUP], ["--allow-read=/etc/group"]),
  "the default address": (folder) => ({
    ...unix(folder, [], ["--allow-env=XDG_RUNTIME_DIR"]),
    args: [],
    env: { XDG_RUNTIME_DIR: folder },
    ask: () => exchange({ transport: "unix", path: `${folder}/floodgate.sock` }, PING),
  }),
  "a module": (folder) => {
    const module = `${folder}/module.js`;
    Deno.writeTextFileSync(module, "export function install() {}");
    return {
      args: [...TCP, "--install", module],
      flags: [NET, `--allow-read=${module}`],
      ask: askTcp,
    };
  },
  "a pidfile": (folder) => ({
    args: [...TCP, "--pidfile", `${folder}/pid`],
    flags: [NET, `--allow-read=${folder}`, `--allow-write=${folder}`],
    ask: askTcp,
  }),
  "a profiler": () => ({ args: [...TCP, "--debug"], flags: [NET, "--allow-sys"], ask: askTcp }),
};

for (const [name, make] of Object.entries(CASES)) {
  const ignore = GROUP === "" && name.includes("by its name");
  Deno.test(`main serves ${name} with just the permissions it needs`, { ignore }, async () => {
    await using folder = await TempFolder.make();
    await assertMinimal(make(folder.path), folder);
  });
}

for (const flag of ["--tls", "--tlsverify"]) {
  Deno.test(`main with ${flag} serves with just the permissions it needs`, {
    ignore: NO_OPENSSL,
  }, async () => {
    await using folder = await TempFolder.make();
    await using authority = await Authority.make();
    const { ca } = authority;
    const { cert, key } = await authority.server();
    await authority.client();
    const ask = askTls(authority);
    const verifies = flag === "--tlsverify";
    await assertMinimal({
      // deno-fmt-ignore
      args: [...TCP, flag, "--tlscert", cert, "--tlskey", key, ...verifies ? ["--tlscacert", ca] : []],
      env: { TMPDIR: folder.path },
      // deno-fmt-ignore
      flags: verifies
        ? ["--allow-net", `--allow-read=${cert},${key},${ca}`, `--allow-read=${folder.path}`,
          `--allow-write=${folder.path}`]
        : [NET, `--allow-read=${cert},${key}`],
      ask,
    }, folder);
  });
}

/** Checks that a daemon serves with these permissions, and names a missing one. */
async function assertMinimal({ args, flags, env, ask }: Case, folder: TempFolder): Promise<void> {
  const before = folder.names();
  const start = (flags: string[]) =>
    Daemon.start(args, { flags: ["--no-prompt", ...flags], ...env && { env } });

  await using daemon = start(flags);
  await daemon.says(/listening on/);
  assertMatch(await ask(daemon), /^HTTP\/1\.1 200 .*\r\n\r\nOK$/s);
  assertEquals(await daemon.end(), 0);
  assertEquals(daemon.stderr.match(/WARN|ERROR/g), null, daemon.stderr);
  assertEquals(folder.names(), before);

  for (const missing of flags) {
    await using without = start(flags.filter((flag) => flag !== missing));
    const ended = without.status.then(({ code }) => code);
    const serves = without.open().then(() => "it serves", () => ended);
    assertEquals([missing, await Promise.race([ended, serves])], [missing, 1]);
    const last = without.stderr.trimEnd().split("\n").at(-1)!;
    const [flag] = missing.split("=");
    // A group can be found in two ways; the error names the second.
    const hint = flag === "--allow-run" ? "--allow-read" : flag;
    assertMatch(last, new RegExp(`^floodgate: .*Requires .*, run again with the ${hint} flag$`));
    // What was bound before that is in the log, and why it failed; there is nothing else.
    const log = /^(?:\d.* (?:INFO|DEBUG|ERROR -job serveapi).*| {4}.*)\n/gm;
    assertEquals(without.stderr.replace(log, ""), `${last}\n`);
    assertEquals(folder.names(), before);
  }
}

Deno.test("main notifies systemd with just the permissions it needs", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/notify`;
  const flags = ["--allow-net", `--allow-write=${path}`];
  const told: string[] = [];
  const receiver = Deno.listenDatagram({ transport: "unixpacket", path });
  const received = (async () => {
    for await (const [message] of receiver) told.push(new TextDecoder().decode(message));
  })();
  const serve = async (...flags: string[]): Promise<string> => {
    await using daemon = Daemon.start(TCP, {
      flags: ["--no-prompt", ...flags.includes("--allow-net") ? [] : [NET], ...flags],
      env: { NOTIFY_SOCKET: path },
    });
    await daemon.open();
    assertEquals(await daemon.end(), 0);
    return daemon.stderr.split("\n").filter((line) => /WARN|ERROR/.test(line)).join("\n");
  };

  const asked = "--allow-env=NOTIFY_SOCKET";
  assertEquals(await serve(asked, ...flags), "");
  // With nothing to drain it ends right after this line.
  await until(() => told.length === 2);
  assertEquals(told.map((text) => text.split("\n")[0]), ["READY=1", "STOPPING=1"]);

  // It serves nevertheless, and logs once what is missing.
  const hint = new RegExp(`WARN  cannot tell systemd: .* ${flags.join(" ")}$`);
  for (const missing of [...UNIX_NET, flags[1]]) {
    assertMatch(await serve(asked, ...flags.filter((flag) => flag !== missing)), hint);
  }
  // Without this permission it does not know of systemd.
  assertEquals(await serve(...flags), "");
  assertEquals(told.length, 2);
  receiver.close();
  await received;
});

Deno.test("fd:// says that it needs all permissions, before it says that nothing was passed", async () => {
  for (const flags of [["--allow-net"], ["--allow-net", "--allow-read", "--allow-ffi"]]) {
    await using daemon = Daemon.start(["-H", "fd://"], {
      flags: ["--no-prompt", ...flags],
      env: { LISTEN_FDS: "1" },
    });
    assertEquals((await daemon.status).code, 1);
    assertMatch(daemon.stderr, /^floodgate: cannot listen on fd:\/\/: this needs .*--allow-.*\n$/);
  }
});

Deno.test("main without any permission prints its help and its version, and asks for nothing", async () => {
  for (const [flag, said] of [["--help", /^Usage: /], ["--version", /^floodgate \d/]] as const) {
    await using daemon = Daemon.start([flag], { flags: ["--no-prompt"] });
    assertEquals((await daemon.status).code, 0);
    assertMatch(daemon.stdout, said);
    assertEquals(daemon.stderr, "");
  }
});

Deno.test("version, info and stats print without permissions what they can", async () => {
  await using daemon = Daemon.start(TCP, { flags: ["--no-prompt", NET] });
  const port = await daemon.port();
  for (const path of ["/version", "/info", "/debug/vars"]) {
    const answer = await exchange(
      { hostname: "127.0.0.1", port },
      PING.replace("/_ping", path),
    );
    assertMatch(answer, /^HTTP\/1\.1 200 /, path);
    assertEquals(answer.includes("KernelVersion"), false);
  }
  assertEquals(await daemon.end(), 0);
});

Deno.test("main without all permissions leaves the pidfile of another alone, and says why", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/pid`;
  await Deno.writeTextFile(path, "1\n");
  await using daemon = Daemon.start([...TCP, "--pidfile", path], {
    flags: ["--no-prompt", NET, `--allow-read=${folder.path}`, `--allow-write=${folder.path}`],
  });
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr.split("\n").at(-2),
    `floodgate: --pidfile ${path}: process 1 may run, which is seen with --allow-all only; ` +
      "remove the file if not",
  );
  assertEquals(await Deno.readTextFile(path), "1\n");
});
