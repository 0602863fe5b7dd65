import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { parseFlags } from "../../cli/settings.ts";
import { TypedError } from "../../engine.ts";
import { Authority } from "../support/certificates.ts";
import { Daemon, TempFolder } from "../support/daemon.ts";

/** The settings of these flags, and of a file with this in it. */
async function parsed(file: unknown, ...flags: string[]) {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/daemon.json`;
  await Deno.writeTextFile(path, typeof file === "string" ? file : JSON.stringify(file));
  const settings = await parseFlags(["--config-file", path, ...flags]).catch((error) => {
    if (error instanceof TypedError) error.message = error.message.replaceAll(folder.path, "DIR");
    throw error;
  });
  if (typeof settings === "string") throw new Error(settings);
  return settings;
}

Deno.test("--config-file has dockerd's names, and those of the other flags", async () => {
  const settings = await parsed({
    hosts: ["unix:///a", "tcp://127.0.0.1:1"],
    debug: true,
    "log-level": "warn",
    "log-format": "json",
    group: "wheel",
    pidfile: "/p",
    tlsverify: true,
    tlscacert: "/ca",
    tlscert: "/cert",
    tlskey: "/key",
    "shutdown-timeout": 15,
    "max-connections": 7,
    "body-limit": "10MB",
    "allowed-hosts": ["api.example"],
    install: ["./a.ts"],
    takeover: false,
  });
  assertEquals(settings.addresses, ["unix:///a", "tcp://127.0.0.1:1"]);
  assertEquals([settings.debug, settings.logLevel, settings.logFormat], [true, "warn", "json"]);
  assertEquals([settings.pidfile, settings.drain, settings.install], ["/p", 15_000, ["./a.ts"]]);
  assertEquals(settings.serve, {
    group: "wheel",
    takeover: false,
    handover: "/p.handover",
    shutdownTimeout: 15_000,
    tls: { cert: "/cert", key: "/key", ca: "/ca" },
    maxConnections: 7,
    bodyLimit: 10_000_000,
    allowedHosts: ["api.example"],
  });
});

Deno.test("--config-file may begin with a byte order mark", async () => {
  assertEquals((await parsed('\uFEFF{"log-level": "warn"}')).logLevel, "warn");
});

Deno.test("--config-file given twice is the last, as any other flag is", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/last.json`;
  await Deno.writeTextFile(path, '{"log-level": "error"}');
  assertEquals((await parsed({ debug: true }, "--config-file", path)).logLevel, "error");
});

Deno.test("--config-file and flags add up, and may say the same", async () => {
  const settings = await parsed(
    { "idle-timeout": "1m", "log-level": "warn" },
    "--idle-timeout",
    "60",
  );
  assertEquals([settings.serve.idleTimeout, settings.logLevel], [60_000, "warn"]);
});

for (
  const [what, file, flags, message] of [
    [
      "that it is not there",
      undefined,
      ["--config-file", "/no/such"],
      /\/no\/such: it cannot be read: No such file/,
    ],
    ["what is not JSON", "{", [], /daemon\.json: this is not JSON: /],
    ["what is no object", [], [], /expected a JSON object, such as/],
    [
      "a name that is none",
      { "log-levle": "info" },
      [],
      /"log-levle" is no setting, did you mean "log-level"\?/,
    ],
    [
      "what only a flag can say",
      { validate: true },
      [],
      /"validate" is no setting, expected one of those that/,
    ],
    ["a value of another type", { debug: "yes" }, [], /"debug": "yes": expected true or false$/],
    [
      "a list that is none",
      { hosts: "unix:///a" },
      [],
      /"hosts": "unix:\/\/\/a": expected a list of texts$/,
    ],
    ["a null", { "idle-timeout": null }, [], /"idle-timeout": null: expected a number of seconds/],
    [
      "a value that is none",
      { "log-level": "loud" },
      [],
      /: "log-level": "loud": expected one of debug, info/,
    ],
    [
      "a flag that says otherwise",
      { "log-level": "info" },
      ["-l", "warn"],
      /daemon\.json: "log-level" is "info" there, and not so by --log-level warn, expected one of them$/,
    ],
    [
      "other hosts by flag",
      { hosts: ["unix:///a"] },
      ["-H", "unix:///b"],
      /"hosts" is "unix:\/\/\/a" there/,
    ],
  ] as const
) {
  Deno.test(`--config-file: ${what} is said in one line`, async () => {
    const error = await assertRejects(
      () => file === undefined ? parseFlags(flags) : parsed(file, ...flags),
      TypedError,
    );
    assertMatch(error.message, message);
    assertEquals(error.message.includes("\n"), false);
  });
}

Deno.test("main takes each flag from the environment, if the command line lacks it", async () => {
  await using folder = await TempFolder.make();
  const file = `${folder.path}/daemon.json`;
  await Deno.writeTextFile(file, JSON.stringify({ "shutdown-timeout": 3 }));
  await using daemon = Daemon.start(["-l", "info"], {
    env: {
      FLOODGATE_HOST: `unix://${folder.path}/a unix://${folder.path}/b`,
      FLOODGATE_LOG_FORMAT: "json",
      FLOODGATE_LOG_LEVEL: "error",
      FLOODGATE_DEBUG: "0",
      FLOODGATE_CONFIG_FILE: file,
    },
  });
  await daemon.says(/"message":"-job acceptconnections/);
  assertMatch(daemon.stdout, /\/a,.*\n.*\/b,/);
  assertEquals(await daemon.end(), 0);
  await using wrong = Daemon.start([], { env: { FLOODGATE_LOG_LEVEL: "loud" } });
  assertEquals((await wrong.status).code, 2);
  assertEquals(
    wrong.stderr,
    "floodgate: FLOODGATE_LOG_LEVEL=loud: expected one of debug, info, warn, error\n",
  );
});

Deno.test("main warns of a variable that is nearly that of a flag, and of no other", async () => {
  await using folder = await TempFolder.make();
  const env = {
    FLOODGATE_LOGLEVEL: "debug",
    FLOODGATE_HOSTS: "unix:///none",
    FLOODGATE_TLS_CERT: "none",
    FLOODGATE_MAX_CONECTION: "1",
    // Those of services, and of modules.
    FLOODGATE_PORT: "tcp://10.0.0.1:2375",
    FLOODGATE_PORT_2375_TCP_ADDR: "10.0.0.1",
    FLOODGATE_SERVICE_HOST: "10.0.0.1",
    FLOODGATE_SERVICE_PORT: "2375",
    FLOODGATE_SERVICE_PORT_API: "2375",
    FLOODGATE_WEB_SERVICE_HOST: "10.0.0.1",
    FLOODGATE_STATE: "/tmp",
    FLOODGATE_CONTAINER: "a",
    FLOODGATE_NAME: "a",
  };
  const said = (text: string) =>
    [...text.matchAll(/(\w+) is no variable.* mean (\w+)/g)]
      .map(([, ...names]) => names.join(" "))
      .sort();
  const expected = [
    "FLOODGATE_HOSTS FLOODGATE_HOST",
    "FLOODGATE_LOGLEVEL FLOODGATE_LOG_LEVEL",
    "FLOODGATE_MAX_CONECTION FLOODGATE_MAX_CONNECTIONS",
    "FLOODGATE_TLS_CERT FLOODGATE_TLSCERT",
  ];
  const args = ["-H", `unix://${folder.path}/s`];
  await using daemon = Daemon.start(args, { env });
  await daemon.open();
  assertEquals(said(daemon.stderr), expected);
  assertMatch(daemon.stderr, /Z WARN +FLOODGATE_HOSTS is no variable of a flag, did you mean/);
  assertEquals(await daemon.end(), 0);
  await using validating = Daemon.start([...args, "--validate"], { env });
  assertEquals((await validating.status).code, 0);
  assertEquals(said(validating.stderr), expected);
});

Deno.test("--validate checks settings and certificates, and ends", async () => {
  await using folder = await TempFolder.make();
  await using authority = await Authority.make();
  const { cert, key } = await authority.selfSigned("server", "/CN=localhost");
  const other = await authority.selfSigned("other", "/CN=localhost");
  const path = `${folder.path}/daemon.json`;
  const validate = async (config: unknown) => {
    await Deno.writeTextFile(path, JSON.stringify(config));
    await using daemon = Daemon.start(["--validate", "--config-file", path]);
    return [(await daemon.status).code, daemon.stdout, daemon.stderr] as const;
  };
  const tls = { hosts: [`unix://${folder.path}/s`], tls: true, tlscert: cert };
  assertEquals(await validate({ ...tls, tlskey: key }), [0, "configuration OK\n", ""]);
  await Deno.chmod(key, 0o644);
  const warned = await validate({ ...tls, tlskey: key });
  assertEquals(warned.slice(0, 2), [0, "configuration OK\n"]);
  assertMatch(warned[2], /^floodgate: warning: TLS key .*every user .* can read it, .*\n$/);
  const [code, stdout, stderr] = await validate({ ...tls, tlskey: other.key });
  assertEquals([code, stdout], [2, ""]);
  assertMatch(stderr, /^floodgate: .*key.*\n$/);
  assertEquals((await validate({ ...tls, tlskey: key, hosts: ["unix://a"] }))[0], 2);
  assertEquals(
    await validate({ hosts: tls.hosts, group: "no such" }),
    [2, "", 'floodgate: there is no group "no such"\n'],
  );
  assertEquals(folder.names().includes("s"), false);
});
