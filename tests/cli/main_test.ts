import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { get } from "../support/client.ts";
import {
  Daemon,
  exchange,
  installer,
  missing,
  project,
  run,
  TempFolder,
  untilThere,
} from "../support/daemon.ts";

const REQUEST = get("/version");

const NO_CURL = await missing("curl", ["--version"]);

Deno.test("main holds clients of a boot that takes 3 s and answers them right after it", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const started = performance.now();
  await using daemon = Daemon.start(
    [
      "-H",
      "tcp://127.0.0.1:0",
      "-H",
      `unix://${path}`,
      "--install",
      project("examples/containers.ts"),
    ],
    { env: { SHELF_BOOT: "3000" } },
  );
  const port = await daemon.port();
  const answers = await Promise.all(
    Array.from({ length: 20 }, async (_, i) => {
      const answer = i % 2
        ? await exchange({ hostname: "127.0.0.1", port }, REQUEST)
        : await exchange({ transport: "unix", path }, REQUEST);
      assertMatch(answer, /^HTTP\/1\.1 200 OK\r\n/);
      assertStringIncludes(answer, '"ApiVersion":');
      return performance.now() - started;
    }),
  );
  // The first answer cannot have come before the boot was done; a boot is a timer of 3 s.
  assert(Math.min(...answers) >= 3_000, `the first answer came after ${Math.min(...answers)} ms`);
  assertStringIncludes(daemon.stderr, "-job acceptconnections() = OK (0)");
  assertEquals(await daemon.end(), 0);
});

Deno.test(
  "main prints a line per address with a command to try, which works",
  { ignore: NO_CURL },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`]);
    await daemon.open();
    const lines = daemon.stdout.trim().split("\n");
    assertEquals(lines.length, 2);
    for (const line of lines) {
      const [, command] = /^listening on (?:tcp|unix):\/\/\S+, try: (curl .*)$/.exec(line)!;
      const { code, stdout } = await run("sh", ["-c", command + " --silent --fail"]);
      assertEquals(code, 0);
      assertEquals(JSON.parse(stdout).ApiVersion, "1.47");
    }
    assertEquals((await Deno.stat(path)).mode! & 0o777, 0o660);
  },
);

Deno.test("main stops during a boot: status 0, held clients closed, no socket file", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  await using daemon = Daemon.start([
    "-H",
    `unix://${path}`,
    "--install",
    installer("await new Promise(() => {})"),
  ]);
  await daemon.says(/listening on/);
  const conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode(REQUEST));
  const answer = new Response(conn.readable).text().catch(() => "");
  assertEquals(await daemon.end(), 0);
  assertEquals(await answer, "");
  assertEquals(folder.names(), []);
});

Deno.test("main refuses addresses in use, in one line, and leaves none bound", async () => {
  await using folder = await TempFolder.make();
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = `tcp://127.0.0.1:${listener.addr.port}`;
  await using daemon = Daemon.start(["-H", `unix://${folder.path}/api.sock`, "-H", taken]);
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr,
    `floodgate: cannot listen on ${taken}: the port is in use, expected a free one, or 0 for any\n`,
  );
  assertEquals(folder.names(), []);
});

Deno.test("main says whom a low port is for", {
  ignore: Deno.uid() !== 0 || await missing("setpriv", ["--version"]) ||
    Number(await Deno.readTextFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")) < 1_024,
}, async () => {
  await using folder = await TempFolder.make();
  await Deno.chmod(folder.path, 0o777);
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:1"], {
    through: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    env: { DENO_DIR: folder.path, HOME: folder.path },
  });
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr,
    "floodgate: cannot listen on tcp://127.0.0.1:1: ports below 1024 are not for this user, " +
      "expected another one, CAP_NET_BIND_SERVICE, or a socket of systemd (fd://)\n",
  );
});

const BAD_MODULES: [string, string, RegExp][] = [
  ["is missing", "./no/such/module.ts", /cannot load --install \.\/no\/such\/module\.ts, expected/],
  ["exports nothing", "data:text/javascript,", /exports no function install\(engine, router\)/],
  ["throws", installer("throw new Error('no disk\\nat all')"), /failed: no disk$/],
  [
    "is at no server",
    "http://127.0.0.1:1/x.ts",
    /cannot load .*'http:\/\/127\.0\.0\.1:1\/x\.ts' failed: Connection refused \(os error 111\)$/,
  ],
  [
    "imports what is missing",
    "data:text/javascript,import 'file:///no/such.ts'",
    /Module not found "file:\/\/\/no\/such\.ts"(, at .*:1:8)?$/,
  ],
  ["does not parse", "data:text/javascript,function", /cannot load/],
];
for (const [what, module, message] of BAD_MODULES) {
  Deno.test(`main fails when the --install module ${what}, and the last line says so`, async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", module]);
    assertEquals((await daemon.status).code, 1);
    assertMatch(daemon.stderr.trim().split("\n").at(-1)!, message);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main names the place of a failed boot in its last line, and logs the error in full", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/boot.ts`;
  for (
    const [code, line, stack] of [
      [
        "export const install = () => {\n  const a b = 3;\n};\n",
        /cannot load .* at .*boot\.ts:2:11$/,
        "const a b",
      ],
      [
        'const disk = () => {\n  throw new Error("no disk\\nat all", { cause: new TypeError("why") });\n};\n' +
        "export const install = async () => {\n  await null;\n  disk();\n};\n",
        /install of .*boot\.ts failed: no disk, at file:.*boot\.ts:2:9$/,
        "TypeError: why",
      ],
      [
        "const x = null!.y;\nexport const install = () => x;\n",
        /cannot load .*boot\.ts:1:\d+$/,
        "null",
      ],
      [
        'import { nope } from "node:fs";\nexport const install = nope;\n',
        /cannot load .*nope/,
        "nope",
      ],
    ] as const
  ) {
    await Deno.writeTextFile(path, code);
    for (const format of ["text", "json"]) {
      await using daemon = Daemon.start(
        // deno-fmt-ignore
        ["-H", `unix://${folder.path}/api.sock`, "--install", path, "--log-format", format],
      );
      assertEquals((await daemon.status).code, 1);
      const lines = daemon.stderr.trim().split("\n");
      const last = lines.pop()!;
      if (format === "text") {
        assertMatch(last, line);
        assert(last.startsWith("floodgate: "));
        const from = lines.findIndex((line) => / ERROR -job serveapi/.test(line));
        const whole = lines.slice(from + 1);
        assertEquals(whole.filter((line) => !line.startsWith("    ")), []);
        assertStringIncludes(whole.join("\n"), stack);
        assertMatch(whole.join("\n"), /\n {4,}at /);
      } else {
        const entries = lines.map((line) => JSON.parse(line));
        const { level, message, ...rest } = JSON.parse(last);
        assertMatch(message, line);
        assertEquals([level, Object.keys(rest)], ["error", ["time"]]);
        const failed = entries.find(({ level }) => level === "error");
        assertStringIncludes(failed.error, stack);
      }
    }
  }
  assertEquals(folder.names(), ["boot.ts"]);
});

Deno.test("main with --log-format json reports a failed bind in JSON", async () => {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const taken = `tcp://127.0.0.1:${listener.addr.port}`;
  await using daemon = Daemon.start(["-H", taken, "--log-format", "json"]);
  assertEquals((await daemon.status).code, 1);
  const { level, message } = JSON.parse(daemon.stderr);
  assertEquals(level, "error");
  assertStringIncludes(message, `cannot listen on ${taken}: the port is in use`);
});

Deno.test("main adds the profiler and the built-in routes after a module's middleware", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  await Deno.writeTextFile(
    `${folder.path}/lock.ts`,
    `import { basicAuth } from "npm:hono@4.13.19/basic-auth";
     export const install = (_engine, router) => {
       router.use("*", basicAuth({ username: "me", password: "secret" }));
     };`,
  );
  await using daemon = Daemon.start(
    ["-H", `unix://${path}`, "--debug", "--install", `${folder.path}/lock.ts`],
  );
  await daemon.open();
  for (const asked of ["/debug/pprof/heap", "/debug/pprof/", "/version", "/_ping", "/debug/vars"]) {
    const curl = async (...args: string[]) => {
      // deno-fmt-ignore
      const all = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--unix-socket", path, ...args];
      return (await run("curl", [...all, `http://localhost${asked}`])).stdout;
    };
    assertEquals([asked, await curl()], [asked, "401"]);
    assertEquals([asked, await curl("-u", "me:secret")], [asked, "200"]);
  }
});

Deno.test("main closes held clients when the boot fails", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const go = `${folder.path}/go`;
  // It fails when the test says so, after the client has connected.
  const body = `${untilThere(go)} throw new Error("no quorum");`;
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", installer(body)]);
  await daemon.says(/listening on/);
  const conn = await Deno.connect({ transport: "unix", path });
  await conn.write(new TextEncoder().encode(REQUEST));
  await Deno.writeTextFile(go, "");
  const answer = await new Response(conn.readable).text().catch(() => "");
  assertEquals(answer, "");
  assertEquals((await daemon.status).code, 1);
  assertMatch(daemon.stderr, /\nfloodgate: install of .* failed: no quorum\n$/);
  assertEquals(folder.names(), ["go"]);
});

Deno.test("main gives a module its own copy of Floodgate by the package's name", async () => {
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(
    `${folder.path}/mine.ts`,
    `import { Engine, type Installer } from "@floodgate/floodgate";
     export const install: Installer = (engine, router) => {
       router.get("/same", (c) => c.text(String(engine instanceof Engine)));
     };`,
  );
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", "--install", "./mine.ts"],
    { cwd: folder.path },
  );
  await daemon.open();
  const answer = await fetch(`http://127.0.0.1:${await daemon.port()}/same`);
  assertEquals(await answer.text(), "true");
  assertEquals(await daemon.end(), 0);
});

Deno.test("main disposes what installers returned, the last first, while jobs still run", async () => {
  await using folder = await TempFolder.make();
  const modules = ["store", "api"].map((name) => {
    const path = `${folder.path}/${name}.ts`;
    const dispose = name === "store" ? "[Symbol.dispose]" : "async [Symbol.asyncDispose]";
    Deno.writeTextFileSync(
      path,
      `export function install(engine) {
        engine.register("${name}", () => console.log("job ${name}"));
        return { name: "${name}", ${dispose}() {
          console.log("end of " + this.name);
          engine.job("store").run();
        } };
      }`,
    );
    return path;
  });
  await using daemon = Daemon.start([
    ...["-H", `unix://${folder.path}/s`],
    ...modules.flatMap((module) => ["--install", module]),
  ]);
  await daemon.open();
  assertEquals(await daemon.end(), 0);
  assertMatch(daemon.stdout, /\nend of api\njob store\nend of store\njob store\n$/);
});

Deno.test("main runs the reload handlers at SIGHUP, and a failure leaves all as it was", async () => {
  await using folder = await TempFolder.make();
  const file = `${folder.path}/name`;
  await Deno.writeTextFile(file, "old");
  await using daemon = Daemon.start([
    ...["-H", `unix://${folder.path}/s`, "--install"],
    installer(`
      let name = "none";
      engine.onReload(() => {
        const read = Deno.readTextFileSync(${JSON.stringify(file)});
        return () => console.log(name = read);
      });
      engine.onReload(() => {
        if (Deno.readTextFileSync(${JSON.stringify(file)}) === "bad") throw new Error("bad name");
      });
    `),
  ]);
  await daemon.open();
  daemon.kill("SIGHUP");
  await daemon.says(/^old$/m);
  await Deno.writeTextFile(file, "bad");
  daemon.kill("SIGHUP");
  await daemon.says(/ERROR SIGHUP: nothing was reloaded: bad name$/m);
  await Deno.writeTextFile(file, "new");
  daemon.kill("SIGHUP");
  await daemon.says(/^new$/m);
  assertEquals(daemon.stdout.includes("bad"), false);
});

Deno.test("main with --health reports the boot to curl while clients are held", {
  ignore: NO_CURL,
}, async () => {
  await using folder = await TempFolder.make();
  const health = `${folder.path}/health.sock`;
  const boot = `engine.progress("container 40 of 200"); ${untilThere(`${folder.path}/go`)}`;
  await using daemon = Daemon.start([
    ...["-H", `unix://${folder.path}/s`, "--health", `unix://${health}`],
    ...["--health", "tcp://127.0.0.1:0", "--install", installer(boot)],
  ]);
  await daemon.says(/40 of 200/);
  const curl = async (path: string) =>
    JSON.parse(
      (await run("curl", ["-sS", "-m", "60", "--unix-socket", health, `http://localhost${path}`]))
        .stdout,
    );
  const { state, progress } = await curl("/readyz");
  assertEquals([state, progress], ["booting", "container 40 of 200"]);
  await Deno.writeTextFile(`${folder.path}/go`, "");
  await daemon.open();
  assertEquals((await curl("/readyz")).state, "ready");
  const [, url] = await daemon.says(/^health on tcp:.*, try: curl (http:.*readyz)$/m);
  assertEquals((await (await fetch(url!)).json()).state, "ready");
  assertEquals(await daemon.end(), 0);
  assertEquals(folder.names(), ["go"]);
});
