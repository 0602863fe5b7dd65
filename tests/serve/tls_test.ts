import { assert, assertEquals, assertMatch } from "@std/assert";
import { Authority } from "../support/certificates.ts";
import { Client } from "../support/client.ts";
import { Daemon, run, TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { Served } from "../support/served.ts";
import {
  clientOf,
  curl,
  flags,
  settings,
  showing,
  untilLeft,
  urlOf,
  whoami,
} from "../support/tls.ts";

Deno.test("serveapi with Tls speaks HTTP/1.1 or HTTP/2, by ALPN", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server()));
  for (const [flag, version] of [["--http1.1", "1.1"], ["--http2", "2"]] as const) {
    const ping = await curl(authority, `${urlOf(served)}/_ping`, flag, "-w", " %{http_version}");
    assertEquals([ping.code, ping.stdout], [0, `OK ${version}`], ping.stderr);
  }
  // A client that does not know the authority gives up, and one without TLS gets no answer.
  assertEquals((await run("curl", ["-sS", `${urlOf(served)}/_ping`])).code, 60);
  const plain = await run("curl", ["-sS", `${urlOf(served).replace("https", "http")}/_ping`]);
  assert(plain.code !== 0 && plain.stdout === "", plain.stdout);
});

foreignTest("serveapi with Tls sends the body of an answer right after its header", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server()));
  using client = await Client.to({
    ...served.target as Deno.ConnectOptions & { hostname: string },
    hostname: "localhost",
    caCerts: [Deno.readTextFileSync(authority.ca)],
  });
  // A little after the start it holds, for connections of before as well.
  await until(async () => {
    const times: number[] = [];
    for (let i = 0; i < 9; i++) {
      const asked = performance.now();
      assertEquals(
        (await client.ask("GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")).status,
        200,
      );
      times.push(performance.now() - asked);
    }
    // A kernel acknowledges after 40 ms what it has no answer to.
    return times.sort((a, b) => a - b)[4]! < 30;
  });
});

Deno.test("serveapi with Tls leaves unix sockets in the clear", async () => {
  await using authority = await Authority.make();
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using _ = await Served.open(settings(await authority.server(), authority.ca), [
    `unix://${path}`,
  ]);
  const ping = await run("curl", ["-sS", "--unix-socket", path, "http://localhost/_ping"]);
  assertEquals(ping.stdout, "OK", ping.stderr);
});

Deno.test("serveapi with Tls asks for no certificate, and sets no user", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server()));
  whoami(served);
  const client = await authority.client();
  const answer = await curl(authority, `${urlOf(served)}/whoami`, ...showing(client));
  assertEquals(answer.stdout, "none", answer.stderr);
});

/** The beginning of a ClientHello that announces a record of 512 bytes. */
const HALF_HELLO = new Uint8Array([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);

for (const verify of [false, true]) {
  const mode = verify ? "TlsVerify" : "Tls";

  Deno.test(`serveapi with ${mode} hears when a client leaves, and frees all it had`, async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(
      settings(await authority.server(), verify ? authority.ca : undefined),
    );
    const left = untilLeft(served);
    const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = descriptors();
    {
      using client = clientOf(authority, await authority.client());
      const abort = new AbortController();
      const response = await fetch(`${urlOf(served)}/wait`, { client, signal: abort.signal });
      await response.body!.getReader().read();
      abort.abort();
      await left;
    }
    await until(async () => (await served.stats()).open === 0);
    await until(() => descriptors() <= before + (verify ? 1 : 0)); // The pairs' listener stays.
  });

  Deno.test(`serveapi with ${mode} is rid of a client that does not take its answer`, async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(
      { ...settings(await authority.server(), verify ? authority.ca : undefined) },
      ["tcp://127.0.0.1:0"],
      { sendTimeout: 200 },
    );
    served.engine.register("flood", async (job) => {
      const block = new Uint8Array(65_536);
      while (true) await job.stdout.write(block);
    });
    served.router.job({ method: "GET", path: "/flood", job: "flood" });
    const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const before = descriptors();
    const { cert, key } = await authority.client();
    using client = await Deno.connectTls({
      ...served.target as Deno.ConnectOptions & { hostname: string },
      hostname: "localhost",
      caCerts: [Deno.readTextFileSync(authority.ca)],
      cert: Deno.readTextFileSync(cert),
      key: Deno.readTextFileSync(key),
    });
    await client.write(new TextEncoder().encode("GET /flood HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    await until(async () => (await served.stats()).cut === 1);
    await until(async () => (await served.stats()).open === 0);
    await until(() => descriptors() <= before + (verify ? 2 : 1)); // The client's own.
  });

  Deno.test(`serveapi with ${mode} ends a client that does not finish its handshake`, async () => {
    await using authority = await Authority.make();
    await using served = await Served.open({
      ...settings(await authority.server(), verify ? authority.ca : undefined),
      HeaderTimeout: "0.2",
    });
    const silent = await Deno.connect(served.target as Deno.ConnectOptions);
    const half = await Deno.connect(served.target as Deno.ConnectOptions);
    await half.write(HALF_HELLO);
    // A client that sends the same, and leaves.
    const gone = await Deno.connect(served.target as Deno.ConnectOptions);
    await gone.write(HALF_HELLO);
    gone.close();
    for (const conn of [silent, half]) {
      const end = await conn.read(new Uint8Array(1)).catch(() => null);
      assertEquals(end, null);
      conn.close();
    }
    await until(async () => (await served.stats()).open === 0);
    assertEquals((await served.stats()).timedOut, 2);
  });

  Deno.test(`shutdown with ${mode} ends idle clients, handshakes, and lets a busy one finish`, async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(
      settings(await authority.server(), verify ? authority.ca : undefined),
    );
    const go = Promise.withResolvers<void>();
    const waiting = Promise.withResolvers<void>();
    served.router.get("/wait", async (c) => {
      waiting.resolve();
      await go.promise;
      return c.text("done");
    });
    const pair = await authority.client();
    using idle = clientOf(authority, pair);
    assertEquals(await (await fetch(`${urlOf(served)}/_ping`, { client: idle })).text(), "OK");
    using silent = await Deno.connect(served.target as Deno.ConnectOptions);
    using busy = clientOf(authority, pair);
    const answer = fetch(`${urlOf(served)}/wait`, { client: busy }).then((it) => it.text());
    await waiting.promise;
    const ended = served.engine.shutdown({ drain: 10_000 });
    go.resolve();
    assertEquals(await answer, "done");
    assertEquals(await silent.read(new Uint8Array(1)).catch(() => null), null);
    await ended;
    assertEquals(await served.ended, undefined);
    // No connection had to be cut, so it ended before the drain time was over.
    assertEquals(served.lines.filter((line) => line.startsWith("error")), []);
  });

  Deno.test(`main with --${mode.toLowerCase()} takes a renewed certificate at SIGHUP, under load, and loses no request`, async () => {
    await using authority = await Authority.make();
    const server = await authority.server();
    const pair = await authority.client();
    await using daemon = Daemon.start([
      ...["-H", "tcp://127.0.0.1:0"],
      ...flags(server, verify ? authority.ca : undefined),
    ]);
    const url = `https://localhost:${await daemon.port()}/_ping`;
    await daemon.open();
    const clients = [false, false, true, true].map((kept) => clientOf(authority, pair, kept));
    let answered = 0;
    let stop = false;
    const load = clients.map(async (client) => {
      while (!stop) {
        const response = await fetch(url, { client });
        assertEquals(await response.text(), "OK");
        answered++;
      }
    });
    const serial = async () => {
      const { stdout } = await run("sh", [
        "-c",
        'openssl s_client -connect "$0" </dev/null 2>/dev/null | openssl x509 -noout -serial',
        new URL(url).host,
      ]);
      return Number(/serial=(\w+)/.exec(stdout)?.[1]);
    };
    const first = await serial();
    for (let round = 1; round <= 5; round++) {
      const renewed = await authority.server(`renewed${round}`);
      await Deno.rename(renewed.key, server.key);
      await Deno.rename(renewed.cert, server.cert);
      const goal = answered + 50;
      daemon.kill("SIGHUP");
      await until(async () => await serial() > first + round - 1);
      await until(() => answered > goal);
    }
    stop = true;
    await Promise.all(load);
    clients.forEach((client) => client.close());
    assertEquals(await daemon.end(), 0);
  });
}

Deno.test("reload keeps the certificates it has where the new ones are no good", async () => {
  await using authority = await Authority.make();
  const server = await authority.server();
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...flags(server)]);
  const url = `https://localhost:${await daemon.port()}/_ping`;
  await daemon.open();
  await Deno.copyFile((await authority.client()).key, server.key);
  daemon.kill("SIGHUP");
  await daemon.says(
    /ERROR SIGHUP: nothing was reloaded: TLS key .* does not match the certificate/,
  );
  assertEquals((await curl(authority, url)).stdout, "OK");
  assertEquals(await daemon.end(), 0);
});

Deno.test("main says in one line what is wrong with TLS", async (t) => {
  await using authority = await Authority.make();
  const server = await authority.server();
  const client = await authority.client();
  const encrypted = authority.path("encrypted.key");
  await run("openssl", [
    "pkey",
    "-in",
    server.key,
    "-aes256",
    "-passout",
    "pass:x",
    "-out",
    encrypted,
  ]);
  const empty = authority.path("empty");
  await Deno.writeTextFile(empty, "");
  const { ca } = authority;
  const old = await authority.signed("old", "/CN=localhost");
  const cases: [name: string, args: string[], code: number, message: RegExp][] = [
    ["no certificate", ["--tls"], 2, /^floodgate: --tls needs --tlscert/],
    ["no authority", flags(server).with(0, "--tlsverify"), 2, /--tlsverify needs --tlscacert/],
    [
      "an authority without --tlsverify",
      [...flags(server), "--tlscacert", ca],
      2,
      /--tlscacert needs --tlsverify/,
    ],
    ["files for nothing", ["--tlscert", server.cert], 2, /--tlscert needs --tls or --tlsverify/],
    [
      "no such file",
      flags({ ...server, key: "/nosuch" }),
      1,
      /TLS key \/nosuch: .*[Nn]o such file/,
    ],
    ["an encrypted key", flags({ ...server, key: encrypted }), 1, /is encrypted, expected/],
    ["another's key", flags({ ...server, key: client.key }), 1, /does not match the certificate/],
    ["no key in the file", flags({ ...server, key: server.cert }), 1, /expected one in PEM/],
    ["no certificate in the file", flags({ ...server, cert: empty }), 1, /expected one in PEM/],
    ["version 1", flags(old), 1, /of X\.509 version 1, expected version 3: .*subjectAltName/],
    ["no authority in the file", flags(server, empty), 1, /authority .*expected one in PEM/],
  ];
  for (const [name, args, code, message] of cases) {
    await t.step(name, async () => {
      await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...args]);
      assertEquals((await daemon.status).code, code, daemon.stderr);
      assertMatch(daemon.stderr, message);
      assertEquals([daemon.stdout, daemon.stderr.trimEnd().split("\n").length], ["", 1]);
    });
  }
});

Deno.test("main warns of a key that others can read, and of an expired certificate", async () => {
  await using authority = await Authority.make();
  const server = await authority.signed("old", "/CN=localhost", "subjectAltName=DNS:localhost", -1);
  await Deno.chmod(server.key, 0o644);
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...flags(server)]);
  await daemon.says(/WARN .*every user of this machine can read it/);
  await daemon.says(/WARN .*it expired on/);
  assertEquals(await daemon.end(), 0);
});
