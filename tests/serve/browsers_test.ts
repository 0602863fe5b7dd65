import { connect } from "node:http2";
import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { TypedError } from "../../engine.ts";
import { readHost, readOrigins } from "../../serve/addresses.ts";
import { type BrowserRules, judgePages } from "../../serve/browsers.ts";
import { Browser, CHROMIUM } from "../support/browser.ts";
import { Client } from "../support/client.ts";
import { Daemon, installer, project, TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

/** The answer to a request with these headers: "OK", or the reason of the refusal. */
function verdict(rules: Partial<BrowserRules>, headers: HeadersInit): string {
  // Not the URL but the headers count.
  const request = new Request("http://url.invalid/x", { headers });
  const judge = judgePages({ scheme: "http", ...rules });
  return judge(request, request.headers.get("host")) ?? "OK";
}

const LOCAL = ["127.0.0.1"];
/** The hosts of a daemon, Hosts that it accepts, and some that it refuses. */
const HOSTS: [string[], string[], string[]][] = [
  [
    LOCAL,
    // deno-fmt-ignore
    ["127.0.0.1", "127.0.0.1:2375", "127.0.0.1.", "localhost", "LocalHost:1", "localhost.:2375", "[::1]",
      "[::1]:2375", "[0:0:0:0:0:0:0:1]:2375", "localhost:"],
    // deno-fmt-ignore
    ["evil.example", "evil.example:2375", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example",
      "127.0.0.2", "0.0.0.0:2375", "[::]:2375", "[::ffff:127.0.0.1]:1", "::1", "192.0.2.1", "x.localhost"],
  ],
  [["127.0.0.2"], ["127.0.0.2:1", "127.0.0.1", "[::1]", "localhost"], ["127.0.0.3"]],
  [["::1"], ["[::1]:2375", "127.0.0.1", "localhost:2375"], ["[::2]", "evil.example", "::1"]],
  [["::ffff:127.0.0.1"], ["[::ffff:127.0.0.1]:1", "[::ffff:7f00:1]", "127.0.0.1:1"], ["10.0.0.1"]],
  [["localhost"], ["localhost", "127.0.0.1:1", "[::1]:1"], ["evil.example"]],
  [["192.0.2.1"], ["192.0.2.1:2375", "localhost"], ["192.0.2.2", "127.0.0.1", "evil.example"]],
  [["[2001:DB8::1]"], ["[2001:db8:0::1]:9"], ["[2001:db8::2]"]],
  // All IP addresses of this machine; no other site's page has one of those.
  [["0.0.0.0"], ["192.0.2.9:2375", "127.0.0.1", "[2001:db8::5]:1"], ["evil.example", "0x7f.evil"]],
  [["::"], ["192.0.2.9:2375", "[2001:db8::5]:1", "localhost"], ["evil.example"]],
  [
    [...LOCAL, "API.example", "bücher.example:80"],
    ["api.example:2375", "API.EXAMPLE.", "xn--bcher-kva.example", "127.0.0.1"],
    ["x.api.example", "api.example.evil.example", "example"],
  ],
];
for (const [hosts, good, bad] of HOSTS) {
  Deno.test(`judgePages at ${hosts.join(" and ")} takes its own names in Host, and no others`, () => {
    for (const host of good) assertEquals([host, verdict({ hosts }, { host })], [host, "OK"]);
    for (const host of bad) {
      const problem = verdict({ hosts }, { host });
      assertStringIncludes(problem, `host "${host}" is not a name of this daemon`);
    }
  });
}

Deno.test("judgePages refuses a Host that only looks like one of its own", () => {
  // deno-fmt-ignore
  const malformed = [":2375", "evil@localhost", "localhost/evil", "localhost#evil", "localhost?evil",
    "localhost\\evil", "localhost:port", "localhost:99999", "localhost evil", "localhost, evil.example",
    "[::1", "::1]:2375", "http://localhost"];
  for (const host of malformed) {
    assertMatch(verdict({ hosts: LOCAL }, { host }), /^host ".*" is not a name/, host);
  }
});

Deno.test("judgePages names the flag and the setting that would allow the request", () => {
  assertMatch(verdict({ hosts: LOCAL }, { host: "x" }), /--allowed-host \(AllowedHosts\)$/);
  const origin = "http://evil.example";
  assertMatch(verdict({}, { origin }), /--api-cors-header \(CorsHeaders\)$/);
});

Deno.test("judgePages takes a request without a Host, which no browser sends", () => {
  assertEquals(verdict({ hosts: LOCAL }, {}), "OK");
  assertMatch(verdict({ hosts: LOCAL }, { origin: "http://evil.example" }), /^pages of http/);
});

Deno.test("judgePages judges a request without a Host by the authority of its URL", async () => {
  await using served = await Served.open();
  const { port } = served.target as Deno.ConnectOptions;
  // HTTP/2 has no Host, without TLS either.
  const session = connect(`http://127.0.0.1:${port}`);
  const status = (authority: string, headers: Record<string, string> = {}) =>
    new Promise((resolve, reject) => {
      const stream = session.request({ ":path": "/_ping", ":authority": authority, ...headers });
      stream.on("response", (header) => resolve(header[":status"])).on("error", reject).resume();
    });
  for (const own of [`127.0.0.1:${port}`, "localhost", `[::1]:${port}`]) {
    assertEquals([own, await status(own)], [own, 200]);
  }
  for (const other of ["evil.example", `evil.example:${port}`, "127.0.0.1.evil.example"]) {
    assertEquals([other, await status(other)], [other, 403]);
  }
  // An origin is ours only if it is that of the authority.
  assertEquals(await status("localhost:1", { origin: "http://localhost:1" }), 200);
  assertEquals(await status("localhost:1", { origin: "http://localhost:2" }), 403);
  session.destroy();
  // HTTP/1.0 need not have one, and no browser speaks it.
  const client = await Client.to(served.target);
  assertEquals((await client.ask("GET /_ping HTTP/1.0\r\n\r\n")).status, 200);
  client.close();
});

Deno.test("judgePages remembers the last Host and no more", () => {
  const judge = judgePages({ scheme: "http", hosts: LOCAL });
  const request = new Request("http://url.invalid/");
  const verdicts = ["evil.example", "localhost", "evil.example", "localhost"]
    .map((host) => judge(request, host) === undefined);
  assertEquals(verdicts, [false, true, false, true]);
});

Deno.test("judgePages leaves the Host alone where a certificate proves it", () => {
  const https = { scheme: "https" } as const;
  assertEquals(verdict(https, { host: "any.example" }), "OK");
  assertEquals(
    verdict(https, { host: "any.example:2376", origin: "https://any.example:2376" }),
    "OK",
  );
  for (const origin of ["http://any.example:2376", "https://any.example", "https://evil.example"]) {
    assertMatch(verdict(https, { host: "any.example:2376", origin }), /^pages of /, origin);
  }
});

const ORIGINS: [string, Partial<BrowserRules>, Record<string, string>, boolean][] = [
  ["its own", {}, { origin: "http://localhost:2375" }, true],
  ["another port", {}, { origin: "http://localhost:8000" }, false],
  ["no port", {}, { origin: "http://localhost" }, false],
  ["another name of its own", {}, { origin: "http://127.0.0.1:2375" }, false],
  ["another scheme", {}, { origin: "https://localhost:2375" }, false],
  ["another site", {}, { origin: "https://evil.example" }, false],
  ["its own in a path", {}, { origin: "https://evil.example/http://localhost:2375" }, false],
  ["a sandbox's", {}, { origin: "null" }, false],
  ["an empty one", {}, { origin: "" }, false],
  ["two", {}, { origin: "http://localhost:2375, http://evil.example" }, false],
  ["the allowed one", { cors: ["https://ui.example"] }, { origin: "https://ui.example" }, true],
  ["one below the allowed", { cors: ["https://ui.example"] }, {
    origin: "https://evil.ui.example",
  }, false],
  ["one that starts like the allowed", { cors: ["https://ui.example"] }, {
    origin: "https://ui.example.evil.example",
  }, false],
  ["its own beside an allowed one", { cors: ["https://ui.example"] }, {
    origin: "http://localhost:2375",
  }, true],
  ["any where all are allowed", { cors: ["*"] }, { origin: "https://evil.example" }, true],
  ["a sandbox's where all are allowed", { cors: ["*"] }, { origin: "null" }, true],
  [
    "the allowed one, which the browser calls another site",
    { cors: ["https://ui.example"] },
    { origin: "https://ui.example", "sec-fetch-site": "cross-site" },
    true,
  ],
];
for (const [what, rules, headers, good] of ORIGINS) {
  Deno.test(`judgePages ${good ? "takes" : "refuses"} an Origin: ${what}`, () => {
    const answer = verdict({ hosts: LOCAL, ...rules }, {
      host: "localhost:2375",
      ...headers,
    });
    if (good) assertEquals(answer, "OK");
    else assertStringIncludes(answer, `pages of ${headers.origin} may not use this daemon`);
  });
}

Deno.test("judgePages takes its own page behind a proxy that ends TLS", () => {
  const hosts = [...LOCAL, "api.example"];
  const from = (origin: string, host: string, site = "same-origin", rules = {}) =>
    verdict({ hosts, ...rules }, { host, origin, "sec-fetch-site": site });
  for (const host of ["api.example", "127.0.0.1:2375"]) {
    for (
      const origin of ["https://api.example", "https://api.example:8443", "http://api.example"]
    ) {
      assertEquals([host, origin, from(origin, host)], [host, origin, "OK"]);
    }
  }
  for (const site of ["cross-site", "same-site", "none", ""]) {
    assertMatch(from("https://api.example", "api.example", site), /^pages of https/);
  }
  for (const origin of ["https://evil.example", "null", "https://x.api.example"]) {
    assertMatch(from(origin, "api.example"), /^pages of /);
  }
  // Where any Host is accepted, because a certificate proves it, the origin has to match it.
  const proven = { scheme: "https", hosts: undefined };
  assertEquals(from("http://any.example", "any.example", "same-origin", proven), "OK");
  assertMatch(from("http://evil.example", "any.example", "same-origin", proven), /^pages of /);
});

Deno.test("judgePages goes by Sec-Fetch-Site where a page's request has no Origin", async () => {
  const of = (site: string, cors?: string) =>
    verdict({ hosts: LOCAL, cors: cors === undefined ? [] : [cors] }, {
      host: "localhost",
      "sec-fetch-site": site,
    });
  for (const site of ["same-origin", "none"]) assertEquals(await of(site), "OK");
  for (const site of ["cross-site", "same-site", "", "SAME-ORIGIN", "none, cross-site"]) {
    assertEquals(await of(site), "pages of other sites may not use this daemon");
    assertMatch(await of(site, "https://ui.example"), /^pages of other sites/);
    assertEquals(await of(site, "*"), "OK");
  }
});

Deno.test("judgePages with all origins allowed still refuses a Host of others", () => {
  const headers = { host: "evil.example", origin: "http://evil.example" };
  assertMatch(verdict({ hosts: LOCAL, cors: ["*"] }, headers), /^host "evil.example"/);
});

Deno.test("readHost and readOrigins refuse what no request can have", () => {
  for (
    const [text, host] of [
      ["Api.Example:80", "api.example"],
      ["::1", "[::1]"],
      ["a_b", "a_b"],
    ] as const
  ) {
    assertEquals(readHost(text), host);
  }
  for (const text of ["", "*", "*.example", "http://api.example", "api.example/", "a b", "a@b"]) {
    const error = assertThrows(() => readHost(text), TypedError, `host "${text}": expected a name`);
    assertEquals(error.kind, "bad parameter");
  }
  for (const text of ["*", "https://ui.example", "http://[::1]:8044", "moz-extension://a-b"]) {
    assertEquals(readOrigins(text), [text]);
  }
  const two = ["https://a.example", "http://b.example:8000"];
  for (const between of [" ", ",", ", "]) assertEquals(readOrigins(two.join(between)), two);
  for (const text of ["https://a.example, ui.example", "* https://a.example"]) {
    assertThrows(() => readOrigins(text), TypedError, "expected one as browsers write it");
  }
  // deno-fmt-ignore
  for (const text of ["", "null", "ui.example", "https://ui.example/", "https://ui.example:443", "https://UI.example",
    "data:text/html"]) {
    const error = assertThrows(() => readOrigins(text), TypedError, `origin "${text}": expected one`);
    assertEquals(error.kind, "bad parameter");
  }
});

Deno.test("main refuses hosts and origins that no request can have, before it binds", async () => {
  await using folder = await TempFolder.make();
  for (
    const [flag, value] of [
      ["allowed-host", "*"],
      ["api-cors-header", "https://ui.example/"],
    ] as const
  ) {
    await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`, `--${flag}`, value]);
    assertEquals((await daemon.status).code, 2);
    assertMatch(daemon.stderr, /^floodgate: (host|origin) ".*": expected .*\n$/);
    assertEquals(folder.names(), []);
  }
});

Deno.test("serveapi refuses a page's upload, and closes its connection", async () => {
  await using served = await Served.open();
  const client = await Client.to(served.target);
  const body = "x".repeat(5_000_000);
  // Not awaited: the server need not read all of it.
  const sent = client.send(
    `POST /containers/create HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example\r\n` +
      `Content-Length: ${body.length}\r\n\r\n${body}`,
  ).catch(() => {}); // The daemon may close the connection before it has read all.
  const { status, header, body: answer } = await client.answer();
  assertEquals(status, 403);
  assertStringIncludes(JSON.parse(answer).message, "pages of http://evil.example may not use");
  assertEquals(/access-control/.test(header), false);
  client.close();
  await sent;
  await until(async () => (await served.stats()).open === 0);
  const next = await Client.to(served.target);
  assertEquals((await next.ask("GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n")).status, 200);
  next.close();
});

/** A web site: an empty page, and a redirect. */
function site(): Deno.HttpServer<Deno.NetAddr> {
  return Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
    const { pathname, searchParams } = new URL(request.url);
    // 307 keeps the method and the body.
    if (pathname === "/to") return Response.redirect(searchParams.get("url")!, 307);
    return new Response("<!doctype html><title>A page</title><body>", {
      headers: { "Content-Type": "text/html" },
    });
  });
}

/**
 * A daemon whose job `/strike/NAME`, with GET or POST, remembers the name, and answers "struck".
 */
class Target implements AsyncDisposable {
  private constructor(
    readonly daemon: Daemon,
    readonly port: number,
    readonly folder: TempFolder,
  ) {}

  static async start(...flags: string[]): Promise<Target> {
    const folder = await TempFolder.make();
    const module = installer(`
      const struck = new Set();
      engine.register("strike", (job) => {
        struck.add(job.args[0]);
        return job.print("struck");
      });
      engine.register("struck", (job) => job.print(JSON.stringify([...struck].sort())));
      router.job({ method: "GET", path: "/strike/:name", job: "strike" });
      router.job({ method: "POST", path: "/strike/:name", job: "strike" });
      router.job({ method: "GET", path: "/struck", job: "struck" });
    `);
    // deno-fmt-ignore
    const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "-H", `unix://${folder.path}/s`,
      "--install", module, ...flags]);
    const port = await daemon.port();
    await daemon.open();
    return new Target(daemon, port, folder);
  }
  /** The names that struck, read over the unix socket, which no page can reach. */
  async struck(): Promise<string[]> {
    const client = await Client.to({ transport: "unix", path: `${this.folder.path}/s` });
    const { body } = await client.ask("GET /struck HTTP/1.1\r\nHost: localhost\r\n\r\n");
    client.close();
    return JSON.parse(body);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.folder[Symbol.asyncDispose]();
  }
}

const ATTACKS = Deno.readTextFileSync(project("tests/support/fixtures/attacks.js"));

/** Makes a page try all attacks on a daemon; `via` maps the job's URL to the one that it uses. */
async function attack(
  browser: Browser,
  page: string,
  daemon: string,
  via: (url: string) => string = (url) => url,
): Promise<Record<string, string>> {
  await browser.open(page);
  const [before, after] = via(`${daemon}/strike/@`).split(/@|%40/).map((part) =>
    JSON.stringify(part)
  );
  return await browser.evaluate(
    `${ATTACKS}; attackAll((name) => ${before} + encodeURIComponent(name) + ${after})`,
  );
}

/** Navigates the window there from a page, and returns what it shows then. */
async function follow(browser: Browser, page: string, url: string): Promise<string> {
  await browser.open(page);
  const loaded = browser.loaded();
  await browser.evaluate(`void (location.href = ${JSON.stringify(url)})`);
  await loaded;
  return await browser.evaluate("document.body.innerText");
}

/** All of them reach the job on a server without protection. */
const ALL = [...ATTACKS.matchAll(/^ {2}"([\w -]+)": /gm)].map(([, name]) => name!).sort();
/** Requests without an Origin. They are GETs, whose answers a page cannot read. */
const ANONYMOUS = ["fetch no-cors", "frame", "image", "image no-referrer", "script", "style"];
/** Requests whose answers a page may read if the daemon allows it. */
const READABLE = ["fetch", "post", "post json"];

function without(names: string[], ...others: string[]): string[] {
  return names.filter((name) => !others.includes(name));
}
function struckBy(...names: string[]): Record<string, string> {
  return Object.fromEntries(names.map((name) => [name, "struck"]));
}

const NAMES = ["evil.example", "other.example", "daemon.example"];
const RESOLVER = NAMES.map((name) => `MAP ${name} 127.0.0.1`).join(",");

Deno.test("a page in Chromium", { ignore: !CHROMIUM }, async (t) => {
  await using web = site(); // Ends last: old releases wait for the browser's connections.
  await using browser = await Browser.start([`--host-resolver-rules=${RESOLVER}`]);
  const neighbour = `http://127.0.0.1:${web.addr.port}`;
  const other = `http://other.example:${web.addr.port}`;
  const redirected = (url: string) => `${other}/to?url=${encodeURIComponent(url)}`;

  // The other pages are refused what this one may do.
  await t.step("reaches everything where all origins are allowed", async () => {
    await using target = await Target.start("--api-cors-header", "*");
    const daemon = `http://127.0.0.1:${target.port}`;
    assertEquals(await attack(browser, other, daemon), struckBy(...READABLE));
    assertEquals(await target.struck(), ALL);
    assertEquals(await follow(browser, other, `${daemon}/strike/x`), "struck");

    await using another = await Target.start("--api-cors-header", "*");
    await attack(browser, other, `http://127.0.0.1:${another.port}`, redirected);
    assertEquals(await another.struck(), without(ALL, "socket"));
  });

  await t.step("neither acts nor reads from another port or site", async () => {
    await using target = await Target.start();
    for (const page of [neighbour, other]) {
      for (const host of ["127.0.0.1", "localhost"]) {
        const daemon = `http://${host}:${target.port}`;
        assertEquals(await attack(browser, page, daemon), {});
        assertStringIncludes(await follow(browser, page, `${daemon}/strike/x`), "pages of other");
        assertEquals([page, host, await target.struck()], [page, host, []]);
      }
    }
  });

  await t.step("neither acts nor reads by a redirect of its own site", async () => {
    await using target = await Target.start();
    assertEquals(await attack(browser, other, `http://127.0.0.1:${target.port}`, redirected), {});
    assertEquals(await target.struck(), []);
  });

  await t.step("neither acts nor reads when its own name leads to the daemon", async () => {
    // As after DNS rebinding: to the browser page and daemon are one origin, and answers can be
    // read.
    for (const flags of [[], ["--api-cors-header", "*"]]) {
      await using target = await Target.start(...flags);
      const daemon = `http://evil.example:${target.port}`;
      const read = await attack(browser, `${daemon}/`, daemon);
      assertEquals(Object.keys(read).sort(), [...READABLE, "fetch no-cors", "post no-cors"].sort());
      for (const text of Object.values(read)) {
        assertStringIncludes(
          text,
          `host \\"evil.example:${target.port}\\" is not a name of this daemon`,
        );
      }
      assertEquals(await target.struck(), []);
    }
  });

  await t.step("acts and reads where its origin is allowed, and no other does", async () => {
    const flags = ["--api-cors-header", other];
    await using target = await Target.start(...flags);
    const daemon = `http://127.0.0.1:${target.port}`;
    assertEquals(await attack(browser, other, daemon), struckBy(...READABLE));
    // A request without an Origin may be of any page.
    assertEquals(await target.struck(), without(ALL, "sandbox", ...ANONYMOUS));
    await using another = await Target.start(...flags);
    assertEquals(await attack(browser, neighbour, `http://127.0.0.1:${another.port}`), {});
    assertEquals(await another.struck(), []);
  });

  await t.step("of the daemon's own acts and reads", async () => {
    for (const host of ["127.0.0.1", "localhost"]) {
      await using target = await Target.start();
      const daemon = `http://${host}:${target.port}`;
      const read = await attack(browser, `${daemon}/_ping`, daemon);
      assertEquals(read, struckBy(...READABLE, "fetch no-cors", "post no-cors"));
      assertEquals(await target.struck(), without(ALL, "sandbox"));
    }
  });

  // Browsers send Sec-Fetch-Site to this machine and over TLS only, so a request with no Origin
  // says nothing there. SECURITY.md tells of it.
  await t.step(
    "sends no more than a GET to a plain address elsewhere, and reads nothing",
    async () => {
      await using target = await Target.start("--allowed-host", "daemon.example");
      const daemon = `http://daemon.example:${target.port}`;
      assertEquals(await attack(browser, other, daemon), {});
      assertEquals(await target.struck(), ANONYMOUS);
    },
  );
});
