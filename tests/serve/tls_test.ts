import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import http2 from "node:http2";
import type { Context } from "npm:hono@^4.13";
import { answersEarly, denoIsFrom } from "../../platform/deno.ts";
import type { Bindings } from "../../router.ts";
import { VERIFYING_DENO } from "../../serve/client_certificates.ts";
import { Authority, type Pair } from "../support/certificates.ts";
import { Daemon, project, run, TempFolder, testWhere, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

// That a Deno that cannot is refused is tested by itself.
const verifies = denoIsFrom(VERIFYING_DENO);
const http2Test = testWhere(denoIsFrom("2.7.14"), "an HTTP/2 client that trusts our authority");
const verifyTest = testWhere(verifies, "what needs client certificates");
const duplexTest = testWhere(
  verifies && answersEarly(),
  "client certificates and an answer that begins before the request has ended",
);

/** The settings of a serveapi with TLS. */
function settings(server: Pair, ca?: string): Record<string, string> {
  return {
    Tls: "1",
    TlsCert: server.cert,
    TlsKey: server.key,
    ...ca === undefined ? {} : { TlsVerify: "1", TlsCa: ca },
  };
}
/** The same as flags. */
function flags(server: Pair, ca?: string): string[] {
  return [
    ...ca === undefined ? ["--tls"] : ["--tlsverify", "--tlscacert", ca],
    ...["--tlscert", server.cert, "--tlskey", server.key],
  ];
}

/** Where a daemon in this process is. */
function urlOf({ target }: Served): string {
  return `https://localhost:${(target as Deno.ConnectOptions).port}`;
}

function curl(authority: Authority, url: string, ...args: string[]) {
  return run("curl", ["-sS", "-m", "10", "--cacert", authority.ca, ...args, url]);
}
function showing({ cert, key }: Pair): string[] {
  return ["--cert", cert, "--key", key];
}

/** A client for fetch, that shows a certificate if it has one. */
function clientOf(authority: Authority, pair?: Pair, kept = true): Deno.HttpClient {
  return Deno.createHttpClient({
    caCerts: [Deno.readTextFileSync(authority.ca)],
    ...pair && { cert: Deno.readTextFileSync(pair.cert), key: Deno.readTextFileSync(pair.key) },
    poolMaxIdlePerHost: kept ? 8 : 0,
  });
}

/** Adds a route, `/wait`, whose answer begins and does not end; resolves when its client has left. */
function untilLeft(served: Served): Promise<void> {
  const left = Promise.withResolvers<void>();
  served.engine.register("wait", async (job) => {
    await job.print("begun\n");
    job.signal.addEventListener("abort", () => left.resolve());
    await left.promise;
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait", stream: true });
  return left.promise;
}

/** A route that tells who asks. */
function whoami(served: Served): void {
  served.engine.register("whoami", (job) => job.print(job.user ?? "nobody"));
  served.router.job({ method: "GET", path: "/whoami", job: "whoami", contentType: "text/plain" });
  served.router.get(
    "/fingerprint",
    (c: Context<{ Bindings: Bindings }>) => c.text(c.env.client?.fingerprint ?? "none"),
  );
}

Deno.test("serveapi with Tls speaks HTTP/1.1 and HTTP/2, as the client likes", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server()));
  for (const [flag, version] of [["--http1.1", "1.1"], ["--http2", "2"]]) {
    const ping = await curl(authority, `${urlOf(served)}/_ping`, flag, "-w", " %{http_version}");
    assertEquals([ping.code, ping.stdout], [0, `OK ${version}`], ping.stderr);
  }
  // A client that does not know the authority goes away, and in the clear there is nothing.
  assertEquals((await run("curl", ["-sS", `${urlOf(served)}/_ping`])).code, 60);
  const plain = await run("curl", ["-sS", `${urlOf(served).replace("https", "http")}/_ping`]);
  assert(plain.code !== 0 && plain.stdout === "", plain.stdout);
});

verifyTest("serveapi with Tls leaves unix sockets in the clear", async () => {
  await using authority = await Authority.make();
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using _ = await Served.open(settings(await authority.server(), authority.ca), [
    `unix://${path}`,
  ]);
  const ping = await run("curl", ["-sS", "--unix-socket", path, "http://localhost/_ping"]);
  assertEquals(ping.stdout, "OK", ping.stderr);
});

Deno.test("serveapi with Tls knows nobody by a certificate", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server()));
  whoami(served);
  const client = await authority.client();
  const answer = await curl(authority, `${urlOf(served)}/whoami`, ...showing(client));
  assertEquals(answer.stdout, "nobody", answer.stderr);
});

verifyTest("serveapi with TlsVerify tells handlers and the log who the client is", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(
    settings(await authority.server(), authority.ca),
    ["tcp://127.0.0.1:0"],
    { logging: true },
  );
  whoami(served);
  const client = await authority.client("odd", '/O=Ops, "Inc"/OU=a/OU=b/CN=alice\\+1');
  const who = await curl(authority, `${urlOf(served)}/whoami`, ...showing(client));
  // deno-fmt-ignore
  const named = await run("openssl", ["x509", "-in", client.cert, "-noout", "-subject", "-nameopt", "RFC2253"]);
  assertEquals(`subject=${who.stdout}`, named.stdout.trim(), who.stderr);
  const print = await run("openssl", [
    ...["x509", "-in", client.cert, "-noout", "-fingerprint", "-sha256"],
  ]);
  const { stdout } = await curl(authority, `${urlOf(served)}/fingerprint`, ...showing(client));
  assertEquals(stdout, print.stdout.trim().split("=")[1]);
  assert(
    served.fields.some(({ user }) => String(user).startsWith("CN=alice")),
    served.lines.join(),
  );
});

verifyTest(
  "serveapi with TlsVerify refuses every client without a good certificate in the handshake",
  async (t) => {
    await using authority = await Authority.make();
    await using other = await Authority.make();
    const server = await authority.server();
    await using served = await Served.open(settings(server, authority.ca));
    const usage = "extendedKeyUsage=serverAuth";
    const cases: [name: string, pair: Pair | undefined, reason: RegExp][] = [
      ["no certificate", undefined, /has shown no certificate/],
      ["a foreign authority's", await other.client(), /not valid/],
      ["a self-signed one", await authority.selfSigned("self", "/CN=alice"), /not valid/],
      ["an expired one", await authority.client("old", "/CN=alice", -1), /CERT_HAS_EXPIRED/],
      ["a daemon's", await authority.signed("purpose", "/CN=alice", usage), /not valid/],
    ];
    for (const [name, pair, reason] of cases) {
      await t.step(name, async () => {
        const { requests } = await served.stats();
        for (const tls of ["--tls-max=1.2", "--tlsv1.3"]) {
          const [flag, value] = tls.split("=");
          const args = [flag, ...value ? [value] : [], ...pair ? showing(pair) : []];
          const answer = await curl(authority, `${urlOf(served)}/_ping`, ...args);
          assert([35, 52, 56].includes(answer.code), `${answer.code} ${answer.stderr}`);
          assertEquals(answer.stdout, "");
        }
        // openssl sends its request whatever the server thinks of it, and gets nothing for it.
        const args = pair ? ["-cert", pair.cert, "-key", pair.key] : [];
        const { port } = served.target as Deno.ConnectOptions;
        const command = new Deno.Command("openssl", {
          args: [
            ...["s_client", "-quiet", "-no_ign_eof", "-CAfile", authority.ca],
            ...["-connect", `127.0.0.1:${port}`, ...args],
          ],
          stdin: "piped",
          stdout: "piped",
          stderr: "null",
        }).spawn();
        const stdin = command.stdin.getWriter();
        // It may have been refused before it could write.
        await stdin.write(new TextEncoder().encode("GET /_ping HTTP/1.0\r\n\r\n")).catch(() => {});
        assertEquals(new TextDecoder().decode((await command.output()).stdout), "");
        await stdin.close().catch(() => {});
        assertEquals((await served.stats()).requests, requests);
        assertMatch(served.lines.findLast((line) => line.includes("refused")) ?? "", reason);
      });
    }
    // Whoever has a good one is none the worse for it.
    const good = await curl(
      authority,
      `${urlOf(served)}/_ping`,
      ...showing(await authority.client()),
    );
    assertEquals(good.stdout, "OK", good.stderr);
  },
);

duplexTest("serveapi with TlsVerify passes on bodies of any size, both ways", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server(), authority.ca));
  served.engine.register("echo", async (job) => {
    for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
  });
  served.router.job({
    method: "POST",
    path: "/echo",
    job: "echo",
    body: "stdin",
    stream: true,
    bodyLimit: Infinity,
  });
  using client = clientOf(authority, await authority.client());
  const block = crypto.getRandomValues(new Uint8Array(65_536));
  for (const blocks of [0, 1, 160]) {
    const sent = new Uint8Array(blocks * block.length);
    for (let i = 0; i < blocks; i++) sent.set(block, i * block.length);
    const response = await fetch(`${urlOf(served)}/echo`, { method: "POST", body: sent, client });
    assert(response.ok);
    const got = new Uint8Array(await response.arrayBuffer());
    assertEquals(got.length, sent.length);
    assert(got.every((byte, i) => byte === sent[i]));
  }
  assertEquals((await served.stats()).cut, 0);
});

http2Test(
  "Router over HTTP/2 waits no longer than bodyTimeout for the end of a body that has all come",
  async () => {
    await using authority = await Authority.make();
    const settled = settings(await authority.server());
    await using served = await Served.open(settled, ["tcp://127.0.0.1:0"], { bodyTimeout: 100 });
    served.router.post("/length", async (c) => c.text(String((await c.req.text()).length)));
    const { port } = served.target as Deno.NetAddr;
    const session = http2.connect(`https://localhost:${port}`, {
      ca: Deno.readTextFileSync(authority.ca),
    });
    const status = async (end: boolean) => {
      const stream = session.request({
        ":method": "POST",
        ":path": "/length",
        "content-length": "5",
      });
      const answered = Promise.withResolvers<unknown>();
      stream.on("response", (headers) => answered.resolve(headers[":status"]));
      stream.on("error", answered.reject);
      stream.write("12345");
      if (end) stream.end();
      return await answered.promise;
    };
    assertEquals(await status(true), 200);
    assertEquals(await status(false), 408);
    const closed = Promise.withResolvers<void>();
    session.destroy();
    session.on("close", () => closed.resolve());
    await closed.promise;
  },
);

/** The beginning of a ClientHello: a record of 512 bytes is announced. */
const HALF_HELLO = new Uint8Array([0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]);

for (const verify of [false, true]) {
  const mode = verify ? "TlsVerify" : "Tls";
  const test = verify ? verifyTest : Deno.test;

  test(`serveapi with ${mode} hears when a client leaves, and frees all it had`, async () => {
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
    await until(async () => (await served.stats()).active === 0);
    await until(() => descriptors() <= before + (verify ? 1 : 0)); // The pairs' listener stays.
  });

  test(`serveapi with ${mode} is rid of a client that does not take its answer`, async () => {
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
    await until(async () => (await served.stats()).active === 0);
    await until(() => descriptors() <= before + (verify ? 2 : 1)); // The client's own.
  });

  test(`serveapi with ${mode} ends a client that does not finish its handshake`, async () => {
    await using authority = await Authority.make();
    await using served = await Served.open({
      ...settings(await authority.server(), verify ? authority.ca : undefined),
      HeaderTimeout: "0.2",
    });
    const silent = await Deno.connect(served.target as Deno.ConnectOptions);
    const half = await Deno.connect(served.target as Deno.ConnectOptions);
    await half.write(HALF_HELLO);
    // One that sends the same, and is gone.
    const gone = await Deno.connect(served.target as Deno.ConnectOptions);
    await gone.write(HALF_HELLO);
    gone.close();
    for (const conn of [silent, half]) {
      const end = await conn.read(new Uint8Array(1)).catch(() => null);
      assertEquals(end, null);
      conn.close();
    }
    await until(async () => (await served.stats()).active === 0);
    assertEquals((await served.stats()).timedOut, 2);
  });

  test(`shutdown with ${mode} ends idle clients, handshakes, and lets a busy one finish`, async () => {
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
    // Nobody had to be cut, so it did not take the whole of the drain.
    assertEquals(served.lines.filter((line) => line.startsWith("error")), []);
  });

  test(`main with --${mode.toLowerCase()} takes a renewed certificate at SIGHUP, under load, and loses no request`, async () => {
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

for (const version of ["TLSv1.2", "TLSv1.3"]) {
  verifyTest(
    `reload of another authority locks out who was let in before, by ${version} sessions too`,
    async () => {
      await using authority = await Authority.make();
      await using other = await Authority.make();
      const { cert, key } = await authority.client();
      const ca = authority.path("authorities.pem");
      await Deno.copyFile(authority.ca, ca);
      await using daemon = Daemon.start([
        ...["-H", "tcp://127.0.0.1:0"],
        ...flags(await authority.server(), ca),
      ]);
      const port = String(await daemon.port());
      await daemon.open();
      await using client = new Deno.Command("node", {
        args: [
          project("tests/support/fixtures/resume.mjs"),
          port,
          authority.ca,
          cert,
          key,
          version,
        ],
        stdin: "piped",
        stdout: "piped",
      }).spawn();
      const lines = client.stdout.pipeThrough(new TextDecoderStream()).pipeThrough(
        new TransformStream<string, string>({
          transform: (text, out) =>
            text.split("\n").filter(Boolean).forEach((it) => out.enqueue(it)),
        }),
      )[Symbol.asyncIterator]();
      const next = async () => (await lines.next()).value;
      assertEquals(await next(), "kept: HTTP/1.1 200 OK");
      assertEquals(await next(), "new: HTTP/1.1 200 OK, resumed: true");
      await Deno.copyFile(other.ca, ca);
      daemon.kill("SIGHUP");
      await daemon.says(/-job reload\(\) = OK/);
      const stdin = client.stdin.getWriter();
      await stdin.write(new TextEncoder().encode("\n"));
      assertEquals(await next(), "kept: ended");
      assertMatch(await next() ?? "", /^new: ended/);
      await daemon.says(/refused: it resumes a session/);
      await stdin.close();
      assertEquals(await daemon.end(), 0);
    },
  );
}

verifyTest("serveapi with TlsVerify knows no session of another authority's clients", async () => {
  await using authority = await Authority.make();
  await using other = await Authority.make();
  const { cert, key } = await authority.client();
  // In one process, whose sessions the runtime keeps together.
  await using here = await Served.open(settings(await authority.server(), authority.ca));
  await using there = await Served.open(settings(await authority.server("there"), other.ca));
  const { connect } = await import("node:tls");
  const ask = (served: Served, session?: Uint8Array) =>
    new Promise<{ answer: string; session?: Uint8Array; reused: boolean }>((resolve) => {
      const { port } = served.target as Deno.ConnectOptions;
      const socket = connect({
        ...{ host: "127.0.0.1", port, servername: "localhost", maxVersion: "TLSv1.2" },
        ...{ ca: Deno.readTextFileSync(authority.ca) },
        ...session
          ? { session: session as never }
          : { cert: Deno.readTextFileSync(cert), key: Deno.readTextFileSync(key) },
      });
      let answer = "";
      socket.on("data", (data: Uint8Array) => answer += new TextDecoder().decode(data));
      socket.on("error", () => {});
      const request = "GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
      socket.on("secureConnect", () => socket.write(request));
      socket.on("close", () => {
        const known = socket.getSession() as Uint8Array | undefined;
        resolve({ answer, session: known, reused: socket.isSessionReused() });
      });
    });
  const first = await ask(here);
  assertStringIncludes(first.answer, "200 OK");
  const second = await ask(there, first.session);
  assertEquals(second.answer, "");
  assertEquals((await there.stats()).requests, 0);
});

verifyTest("serveapi with TlsVerify hears of a client that was killed", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server(), authority.ca));
  const left = untilLeft(served);
  const pair = await authority.client();
  await using client = new Deno.Command("curl", {
    args: ["-sSN", "--cacert", authority.ca, ...showing(pair), `${urlOf(served)}/wait`],
    stdout: "piped",
  }).spawn();
  const reader = client.stdout.getReader();
  await reader.read();
  client.kill("SIGKILL"); // It says nothing of TLS on its way out.
  await left;
  await until(async () => (await served.stats()).active === 0);
  await reader.cancel();
});

Deno.test("reload keeps the certificates it has where the new ones are no good", async () => {
  await using authority = await Authority.make();
  const server = await authority.server();
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...flags(server)]);
  const url = `https://localhost:${await daemon.port()}/_ping`;
  await daemon.open();
  await Deno.copyFile((await authority.client()).key, server.key);
  daemon.kill("SIGHUP");
  await daemon.says(/ERROR SIGHUP: nothing was reloaded: TLS key .* is not that of/);
  assertEquals((await curl(authority, url)).stdout, "OK");
  assertEquals(await daemon.end(), 0);
});

verifyTest("main with --tlsverify serves the docker CLI", async (t) => {
  if ((await run("docker", ["--version"]).catch(() => ({ code: 1 }))).code !== 0) {
    console.log("Skipped: docker --tlsverify (there is no docker CLI)");
    return;
  }
  await using authority = await Authority.make();
  await using daemon = Daemon.start([
    ...[
      "-H",
      "tcp://127.0.0.1:0",
      "--install",
      new URL("../../examples/containers.ts", import.meta.url).href,
    ],
    ...flags(await authority.server(), authority.ca),
  ]);
  const host = `tcp://localhost:${await daemon.port()}`;
  await daemon.open();
  const { cert, key } = await authority.client();
  const docker = (args: string[], ...shown: string[]) =>
    run("docker", ["-H", host, "--tlsverify", "--tlscacert", authority.ca, ...shown, ...args]);
  const shown = ["--tlscert", cert, "--tlskey", key];
  await t.step("with a certificate", async () => {
    const ps = await docker(["ps", "--all", "--format", "{{.Names}}"], ...shown);
    assertEquals([ps.code, ps.stdout.trim().split("\n")], [0, ["web", "db"]], ps.stderr);
    const created = await docker(["create", "--name", "it", "busybox"], ...shown);
    assertEquals(created.code, 0, created.stderr);
    const missing = await docker(["start", "nosuch"], ...shown);
    assertEquals(missing.code, 1);
    assertStringIncludes(missing.stderr, "nosuch");
  });
  await t.step("without", async () => {
    const refused = await docker(["ps"]);
    assertEquals([refused.code, refused.stdout], [1, ""]);
  });
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
  const cases: [name: string, args: string[], code: number, message: RegExp][] = [
    ["no certificate", ["--tls"], 2, /^floodgate: --tls needs --tlscert/],
    ["no authority", flags(server).with(0, "--tlsverify"), 2, /--tlsverify needs --tlscacert/],
    ["an authority for nobody", [...flags(server), "--tlscacert", ca], 2, /without --tlsverify/],
    ["files for nothing", ["--tlscert", server.cert], 2, /of no use without --tls/],
    [
      "no such file",
      flags({ ...server, key: "/nosuch" }),
      1,
      /TLS key \/nosuch: .*[Nn]o such file/,
    ],
    ["an encrypted key", flags({ ...server, key: encrypted }), 1, /is encrypted, expected/],
    ["another's key", flags({ ...server, key: client.key }), 1, /is not that of the certificate/],
    ["no key in the file", flags({ ...server, key: server.cert }), 1, /expected one in PEM/],
    ["no certificate in the file", flags({ ...server, cert: empty }), 1, /expected one in PEM/],
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
  await daemon.says(/WARN .*everyone on this machine can read it/);
  await daemon.says(/WARN .*it expired on/);
  assertEquals(await daemon.end(), 0);
});

verifyTest("main leaves nothing of --tlsverify behind", async () => {
  await using authority = await Authority.make();
  await using folder = await TempFolder.make();
  const pair = await authority.client();
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", ...flags(await authority.server(), authority.ca)],
    { env: { TMPDIR: folder.path } },
  );
  const url = `https://localhost:${await daemon.port()}/_ping`;
  await daemon.open();
  assertEquals((await curl(authority, url, ...showing(pair))).stdout, "OK");
  assertEquals(folder.names().length, 1);
  assertEquals(Deno.statSync(`${folder.path}/${folder.names()[0]}`).mode! & 0o777, 0o700);
  assertEquals(await daemon.end(), 0);
  assertEquals(folder.names(), []);
});

verifyTest("main with --tlsverify and few descriptors serves many clients", async () => {
  await using authority = await Authority.make();
  const pair = await authority.client();
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", ...flags(await authority.server(), authority.ca)],
    { descriptors: 128 },
  );
  const url = `https://localhost:${await daemon.port()}/_ping`;
  await daemon.open();
  const clients = Array.from({ length: 60 }, () => clientOf(authority, pair));
  const answers = await Promise.all(
    clients.map(async (client) => (await fetch(url, { client })).text()),
  );
  clients.forEach((client) => client.close());
  assertEquals(answers, Array(60).fill("OK"));
  assertEquals(daemon.stderr.match(/ERROR/g), null, daemon.stderr);
  assertEquals(await daemon.end(), 0);
});

Deno.test("main with --tlsverify does not start on a Deno that lets everyone in", async () => {
  await using authority = await Authority.make();
  await using folder = await TempFolder.make();
  const install = await run("npm", [
    ...["install", "--silent", "--no-audit", "--no-fund", "--prefix", folder.path, "deno@2.6.0"],
  ]).catch((error) => ({ code: 1, stderr: String(error) }));
  if (install.code !== 0) {
    console.log(`Skipped: --tlsverify on Deno 2.6.0 (npm cannot install it: ${install.stderr})`);
    return;
  }
  const deno = `${folder.path}/node_modules/.bin/deno`;
  const server = await authority.server();
  const { code, stdout, stderr } = await run(deno, [
    ...["run", "-A", new URL("../../mod.ts", import.meta.url).pathname, "-H", "tcp://127.0.0.1:0"],
    ...flags(server, authority.ca),
  ], { env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" } });
  assertEquals([code, stdout], [1, ""], stderr);
  assertMatch(
    stderr,
    /^floodgate: Deno 2\.6\.0 lets clients in that have no certificate, expected/m,
  );
});
