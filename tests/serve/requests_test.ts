import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Authority } from "../support/certificates.ts";
import { Client, type Target } from "../support/client.ts";
import { TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";
import { clientOf, settings } from "../support/tls.ts";

/** A way to a daemon, and what it has in front of it. */
interface Way {
  name: string;
  served: Served;
  connect(): Promise<Client>;
  scheme: string;
  unix: boolean;
}

/** Daemons on tcp, on a unix socket, and with TLS, each with a way to ask them. */
async function ways(stack: AsyncDisposableStack): Promise<Way[]> {
  const folder = stack.use(await TempFolder.make());
  const authority = stack.use(await Authority.make());
  const [server, alice] = await Promise.all([
    authority.server(),
    authority.client(),
  ]);
  const open = async (of: Record<string, string>, address: string) => {
    const served = stack.use(await Served.bind(of, [address]));
    served.engine.register("echo", (job) => job.print(`ran ${job.args[0]}`));
    served.router.get("/url", (c) => c.text(`${c.req.url} ${c.req.raw.clone().url} ${c.env.path}`));
    served.router.post("/url", async (c) => c.text(`${c.req.url} ${await c.req.text()}`));
    served.router.job({ method: "DELETE", path: "/containers/:name", job: "echo" });
    await served.accept();
    return served;
  };
  const path = `${folder.path}/d.sock`;
  const tcp = await open({}, "tcp://127.0.0.1:0");
  const unix = await open({}, `unix://${path}`);
  const tls = await open(settings(server), "tcp://127.0.0.1:0");
  const verified = await open(settings(server, authority.ca), "tcp://127.0.0.1:0");
  const caCerts = [await Deno.readTextFile(authority.ca)];
  const secure = ({ target }: Served, shown: { cert?: string; key?: string }) => () =>
    Client.to({ ...target as Deno.ConnectOptions, hostname: "localhost", caCerts, ...shown });
  const certificate = {
    cert: await Deno.readTextFile(alice.cert),
    key: await Deno.readTextFile(alice.key),
  };
  const plain = (target: Target) => () => Client.to(target);
  return [
    { name: "tcp", served: tcp, connect: plain(tcp.target), scheme: "http", unix: false },
    {
      name: "unix",
      served: unix,
      connect: plain({ path, transport: "unix" }),
      scheme: "http",
      unix: true,
    },
    { name: "--tls", served: tls, connect: secure(tls, {}), scheme: "https", unix: false },
    {
      name: "--tlsverify",
      served: verified,
      connect: secure(verified, certificate),
      scheme: "https",
      unix: false,
    },
  ];
}

/** The status and the body of an answer to a request line with these headers. */
async function ask(way: Way, line: string, ...headers: string[]): Promise<[number, string]> {
  using client = await way.connect();
  const text = [`${line} HTTP/1.1`, ...headers, "Connection: close", "", ""].join("\r\n");
  // As Latin-1, so that a header can have any byte.
  await client.send(Uint8Array.from(text, (char) => char.charCodeAt(0)));
  const { status, body } = await client.answer();
  return [status, body];
}

Deno.test("admit routes by the target of a request, whatever its Host is", async () => {
  await using stack = new AsyncDisposableStack();
  for (const way of await ways(stack)) {
    const { name, scheme, unix } = way;
    const is = async (line: string, hosts: string[], status: number, body: string | RegExp) => {
      const headers = hosts.map((host) => `Host: ${host}`);
      const [got, text] = await ask(way, line, ...headers);
      assertEquals([name, line, hosts, got], [name, line, hosts, status], text);
      if (typeof body === "string") assertEquals([name, line, text], [name, line, body]);
      else assertMatch(text, body);
    };
    const url = (host: string, rest = "/url") => `${scheme}://${host}${rest}`;
    const whole = (host: string) => `${url(host)} ${url(host)} /url`;
    const malformed = /^\{"message":"(host \\?".*\\?" is malformed|the target of the request)/;
    for (let twice = 0; twice < 2; twice++) {
      await is("GET /url", ["localhost"], 200, whole("localhost"));
    }
    await is("GET /url", ["LocalHost:99"], 200, whole("LocalHost:99"));
    await is("GET /v1.24/url?a=b", ["[::1]:1"], unix || scheme === "https" ? 200 : 200, / \/url$/);
    // What would change the path, or the query.
    for (
      const host of [
        "localhost/containers",
        "localhost/url?",
        "localhost?x",
        "localhost#",
        "x/version?",
        "localhost\\url",
        "a b",
        "[::1",
        "u:p@localhost",
        "localhost:99999",
        "localhost, localhost",
        "h\xe9",
        "\xff",
      ]
    ) {
      await is("GET /json", [host], 400, malformed);
      await is("DELETE /_ping", [host + "/containers/db?"], 400, malformed);
    }
    await is("DELETE /_ping", ["x/containers/db?"], 400, malformed);
    await is("PUT s://]x/", ["localhost"], 400, malformed);
    await is("GET s://localhost/url", ["localhost"], 400, malformed);
    await is("GET http://u:p@localhost/url", ["localhost"], 400, malformed);
    // Whole URLs are targets too, and then Host says nothing (RFC 9112, 3.2.2).
    await is("GET http://localhost:5/url", ["127.0.0.1"], 200, whole("localhost:5"));
    await is("GET https://localhost?x", ["127.0.0.1"], 404, /page not found: \/"/);
    // No host, and what clients of 2015 call it.
    await is("GET /url", [""], 200, whole("localhost"));
    const old = unix ? 200 : 400;
    for (const host of ["/var/run/docker.sock", "%2Fvar%2Frun%2Fdocker.sock", "/"]) {
      await is("GET /url", [host], old, unix ? whole("localhost") : malformed);
    }
    await is("GET /url?x", ["/version?"], 400, malformed);
  }
});

Deno.test("admit answers a malformed Host with 400, also with a body", async () => {
  await using stack = new AsyncDisposableStack();
  for (const way of await ways(stack)) {
    using client = await way.connect();
    const post = (target: string, host: string) =>
      client.ask(`POST ${target} HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 4\r\n\r\nbody`);
    assertEquals((await post("/url", "a b")).status, 400);
    // The connection is as good as before.
    const good = await post("/url", "localhost");
    assertEquals([good.status, good.body], [200, `${way.scheme}://localhost/url body`]);
    using other = await way.connect();
    const bad = await other.ask("PUT s://]x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody");
    assertEquals(bad.status, 400);
    for (const name of ["server: floodgate/", "api-version: 1.47", `ostype: ${Deno.build.os}`]) {
      assertStringIncludes(bad.header, name);
    }
    assertEquals(way.served.lines.filter((line) => line.startsWith("error ")), []);
  }
});

Deno.test("admit gives an HTTP/2 request the URL that its client requested", async () => {
  await using authority = await Authority.make();
  const server = await authority.server();
  await using served = await Served.bind(settings(server));
  served.router.get("/url", (c) => c.text(c.req.url));
  await served.accept();
  using client = clientOf(authority);
  const { port } = served.target as Deno.ConnectOptions;
  const url = `https://localhost:${port}/url?x=y`;
  assertEquals(await (await fetch(url, { client })).text(), url);
});

Deno.test("admit judges an HTTP/2 request without a Host by its authority", async () => {
  await using served = await Served.open();
  const { hostname, port } = served.target as Deno.ConnectOptions;
  const ask = async (authority: string) => {
    const { code, stdout } = await new Deno.Command("curl", {
      args: [
        "-sS",
        "--http2-prior-knowledge",
        "--connect-to",
        `::${hostname}:${port}`,
        "-w",
        " %{http_code} %{http_version}",
        `http://${authority}/_ping`,
      ],
    }).output();
    assertEquals(code, 0);
    return new TextDecoder().decode(stdout);
  };
  assertEquals(await ask("localhost:2375"), "OK 200 2");
  assertMatch(await ask("evil.example"), /^\{"message":"host .*evil.* 403 2$/);
});

Deno.test("checkAnswers answers 500 for what is no Response, and leaks no connection", async () => {
  await using served = await Served.bind({ MaxConnections: "3" });
  const odd = [undefined, null, "text", 42, {}, { status: 200 }, Promise.resolve("late"), []];
  for (const [at, answer] of odd.entries()) {
    served.router.get(`/odd/${at}`, () => answer as never);
    served.router.get(`/late/${at}`, async () => await answer as never);
  }
  await served.accept();
  // The first answers of the process are the odd ones.
  for (const [at, answer] of odd.entries()) {
    for (const path of [`/odd/${at}`, `/late/${at}`]) {
      using client = await Client.to(served.target);
      const { status } = await client.ask(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
      // As with Deno's own server: Hono finds nothing in nothing.
      assertEquals([path, status], [path, answer === undefined || answer === null ? 404 : 500]);
      await until(async () => (await served.stats()).active === 0);
      const pong = await client.ask("GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n");
      assertEquals([pong.status, pong.body], [200, "OK"]);
    }
  }
  assert(served.lines.some((line) => line.includes("GET /odd/2 returned no Response")));
});

Deno.test("checkAnswers gives HEAD the length of GET, or none", async () => {
  await using served = await Served.bind();
  served.engine.register("text", (job) => job.print("hällo"));
  served.engine.register("long", async (job) => {
    for (let i = 0; i < 100; i++) await job.print("x".repeat(1_000));
  });
  served.router.job({ method: "GET", path: "/job", job: "text" });
  served.router.job({ method: "GET", path: "/long", job: "long" });
  served.router.get("/text", (c) => c.text("hällo"));
  served.router.get("/empty", (c) => c.body(null));
  served.router.get("/own", (c) => c.body(null, 200, { "Content-Length": "7" }));
  served.router.get("/none", (c) => c.body(null, 204));
  const file = await Deno.makeTempFile();
  served.router.get("/file", async (c) => c.body((await Deno.open(file)).readable));
  await served.accept();
  using client = await Client.to(served.target);
  const lengths: Record<string, string | undefined> = {};
  for (const path of ["/job", "/long", "/text", "/empty", "/own", "/none", "/file", "/version"]) {
    await client.send(`HEAD ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
    const [header] = await client.sees(/\r\n\r\n/).then(() => [client.rest]);
    client.rest = "";
    lengths[path] = /^content-length: (\d+)\r$/im.exec(header!)?.[1];
  }
  const { version, ...others } = { version: lengths["/version"], ...lengths };
  const json = await (await served.router.request("/version")).text();
  assertEquals(version, String(json.length));
  delete (others as Record<string, unknown>)["/version"];
  assertEquals(others, {
    "/job": "6",
    "/long": undefined,
    "/text": "6",
    "/empty": undefined,
    "/own": "7",
    "/none": undefined,
    "/file": undefined,
  });
  // The connection is in step, and the file is closed.
  assertEquals((await client.ask("GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")).body, "OK");
  await until(() =>
    ![...Deno.readDirSync("/proc/self/fd")].some(({ name }) => linkOf(name) === file)
  );
  await Deno.remove(file);
});

function linkOf(descriptor: string): string | undefined {
  try {
    return Deno.readLinkSync(`/proc/self/fd/${descriptor}`);
  } catch {
    return undefined; // It was closed since.
  }
}
