import { createConnection } from "node:net";
import { connect as connectTls } from "node:tls";
import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Authority, type Pair } from "../support/certificates.ts";
import { Client, PING } from "../support/client.ts";
import { Daemon, project, run, TempFolder, until } from "../support/daemon.ts";
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

Deno.test("serveapi with TlsVerify tells handlers and the log who the client is", async () => {
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

Deno.test(
  "serveapi with TlsVerify refuses every client without a good certificate in the handshake",
  async (t) => {
    await using authority = await Authority.make();
    await using other = await Authority.make();
    const server = await authority.server();
    await using served = await Served.open(settings(server, authority.ca));
    const usage = "extendedKeyUsage=serverAuth";
    const cases: [name: string, pair: Pair | undefined, reason: RegExp][] = [
      ["no certificate", undefined, /has presented no certificate/],
      [
        "a foreign authority's",
        await other.client(),
        /issuer "CN=Test Authority" is not known \(UNABLE_TO_GET_ISSUER_CERT\)/,
      ],
      [
        "a self-signed one",
        await authority.selfSigned("self", "/CN=alice"),
        /issuer "CN=alice" is not known \(UNABLE_TO_GET_ISSUER_CERT\)/,
      ],
      [
        "an expired one",
        await authority.client("old", "/CN=alice", -1),
        /expired on .* GMT \(CERT_HAS_EXPIRED\)/,
      ],
      [
        "a daemon's",
        await authority.signed("purpose", "/CN=alice", usage),
        /not for clients, .* \(INVALID_PURPOSE\)/,
      ],
      ["an old one", await authority.signed("v1", "/CN=alice", ""), /X\.509 v1, expected v3/],
    ];
    for (const [name, pair, reason] of cases) {
      await t.step(name, async () => {
        const { requests } = await served.stats();
        for (const tls of ["--tls-max=1.2", "--tlsv1.3"]) {
          const [flag, value] = tls.split("=");
          const args = [flag!, ...value ? [value] : [], ...pair ? showing(pair) : []];
          const answer = await curl(authority, `${urlOf(served)}/_ping`, ...args);
          assert([35, 52, 56, 98].includes(answer.code), `${answer.code} ${answer.stderr}`);
          assertEquals(answer.stdout, "");
        }
        // openssl sends its request even if it is refused, and gets no answer.
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
    // Clients with a valid certificate are not affected.
    const good = await curl(
      authority,
      `${urlOf(served)}/_ping`,
      ...showing(await authority.client()),
    );
    assertEquals(good.stdout, "OK", good.stderr);
  },
);

Deno.test("serveapi with TlsVerify passes on bodies of any size, both ways", async () => {
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

for (const version of ["TLSv1.2", "TLSv1.3"]) {
  Deno.test(
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

Deno.test(
  "serveapi with TlsVerify tells a client without a certificate that it takes one",
  async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(settings(await authority.server(), authority.ca));
    for (let i = 0; i < 10; i++) {
      for (const version of [["--tlsv1.3"], ["--tls-max", "1.2"]]) {
        const { code, stderr } = await curl(authority, `${urlOf(served)}/_ping`, ...version);
        assert(code !== 0);
        assertStringIncludes(stderr, "alert certificate required");
      }
    }
    assertEquals((await served.stats()).requests, 0);
  },
);

Deno.test("serveapi with TlsVerify tells a client without TLS that it takes that", async (t) => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server(), authority.ca));
  const { port } = served.target as Deno.ConnectOptions;
  for (let i = 0; i < 10; i++) {
    // The answer arrives even if the body is never read.
    const body = ["--data-binary", "x".repeat(100_000)];
    const { stdout, stderr } = await run("curl", [
      ...["-sS", "-m", "60", "-w", "%{http_code}", `http://localhost:${port}/_ping`],
      ...i % 2 ? body : [],
    ]);
    assertEquals(
      stdout,
      '{"message":"Client sent an HTTP request to an HTTPS server."}\n400',
      stderr,
    );
  }
  assertEquals(served.lines.filter((line) => /^info .*without TLS/.test(line)).length, 10);
  await t.step("by the docker CLI", async () => {
    const { code, stderr } = await run("docker", ["-H", `tcp://localhost:${port}`, "ps"])
      // None.
      .catch(() => ({ code: 1, stderr: "Client sent an HTTP request to an HTTPS server" }));
    assert(code !== 0);
    assertStringIncludes(stderr, "Client sent an HTTP request to an HTTPS server");
  });
  await until(async () => (await served.stats()).open === 0);
});

Deno.test(
  "serveapi with TlsVerify releases a client that half-closes and leaves",
  async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(settings(await authority.server(), authority.ca));
    let length = 0;
    served.engine.register("count", async (job) => {
      length = 0;
      for await (const chunk of job.stdin.readable) length += chunk.length;
    });
    served.router.job({ method: "POST", path: "/count", job: "count", body: "stdin" });
    const { cert, key } = await authority.client();
    for (const size of [10, 1_000_000]) {
      for (let i = 0; i < 4; i++) {
        const { requests } = await served.stats();
        // A FIN follows the last byte, without TLS's close_notify.
        const raw = createConnection((served.target as Deno.ConnectOptions).port, "127.0.0.1");
        const client = connectTls({
          socket: raw,
          servername: "localhost",
          ca: Deno.readTextFileSync(authority.ca),
          cert: Deno.readTextFileSync(cert),
          key: Deno.readTextFileSync(key),
        });
        client.on("error", () => {});
        await new Promise((resolve) => client.on("secureConnect", resolve));
        client.write(
          `POST /count HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${size}\r\n\r\n` +
            "x".repeat(size),
          () => raw.end(),
        );
        await until(async () => (await served.stats()).requests === requests + 1);
        await until(async () => (await served.stats()).open === 0);
        assertEquals(length, size);
        client.destroy();
      }
    }
  },
);

Deno.test(
  "reload of another authority ends running answers, and serves no more requests there",
  async () => {
    await using authority = await Authority.make();
    await using other = await Authority.make();
    const ca = authority.path("changing.pem");
    await Deno.copyFile(authority.ca, ca);
    await using served = await Served.open(settings(await authority.server(), ca));
    const go = Promise.withResolvers<void>();
    served.router.get("/wait", async () => {
      await go.promise;
      return new Response("waited for");
    });
    const pair = await authority.client();
    const connect = async (request: string) => {
      const client = new Client(
        await Deno.connectTls({
          ...served.target as Deno.ConnectOptions,
          caCerts: [Deno.readTextFileSync(authority.ca)],
          cert: Deno.readTextFileSync(pair.cert),
          key: Deno.readTextFileSync(pair.key),
        }),
      );
      await client.send(request);
      return client;
    };
    const get = (path: string) => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
    using listener = await connect(get("/events"));
    await listener.sees(/\r\n\r\n/);
    using busy = await connect(get("/wait"));
    using idle = await connect(PING);
    await idle.answer();
    await until(async () => (await served.stats()).requests === 3);
    await Deno.copyFile(other.ca, ca);
    await served.engine.job("reload").run();
    // The idle one ends at once, the active one after its answer, even with further requests.
    assertEquals(await idle.ended(), "");
    await busy.send(PING.repeat(5));
    go.resolve();
    assertEquals((await busy.answer()).body, "waited for");
    assertEquals(await busy.ended(), "");
    // An endless stream is cut.
    const started = performance.now();
    await listener.ended();
    const took = performance.now() - started;
    assert(took < 10_000, `the stream went on for ${took} ms`);
    assertEquals((await served.stats()).requests, 3);
  },
);

Deno.test("serveapi with TlsVerify resumes no session of another authority's clients", async () => {
  await using authority = await Authority.make();
  await using other = await Authority.make();
  const { cert, key } = await authority.client();
  // In one process, because the runtime shares sessions between listeners.
  await using here = await Served.open(settings(await authority.server(), authority.ca));
  await using there = await Served.open(settings(await authority.server("there"), other.ca));
  const { connect } = await import("node:tls");
  const ask = (served: Served, session?: Uint8Array) =>
    new Promise<{ answer: string; session: Uint8Array | undefined; reused: boolean }>((resolve) => {
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

Deno.test("serveapi with TlsVerify notices that a client was killed", async () => {
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
  await until(async () => (await served.stats()).open === 0);
  await reader.cancel();
});

Deno.test("main with --tlsverify serves the docker CLI", async (t) => {
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
      project("examples/containers.ts"),
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

Deno.test("main with --tlsverify leaves no file behind", async () => {
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

Deno.test("main with --tlsverify and few descriptors serves many clients", async () => {
  await using authority = await Authority.make();
  const pair = await authority.client();
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", ...flags(await authority.server(), authority.ca)],
    { descriptors: 128 },
  );
  const url = `https://localhost:${await daemon.port()}/_ping`;
  await daemon.open();
  const clients = Array.from({ length: 60 }, () => clientOf(authority, pair));
  // On a busy machine a handshake can take longer than the second that it has while others wait.
  const ask = async (client: Deno.HttpClient, tries = 5): Promise<string> => {
    try {
      return await (await fetch(url, { client })).text();
    } catch (error) {
      if (tries === 1) throw error;
      return await ask(client, tries - 1);
    }
  };
  const answers = await Promise.all(clients.map((client) => ask(client)));
  clients.forEach((client) => client.close());
  assertEquals(answers, Array(60).fill("OK"));
  assertEquals(daemon.stderr.match(/ERROR/g), null, daemon.stderr);
  assertEquals(await daemon.end(), 0);
});
