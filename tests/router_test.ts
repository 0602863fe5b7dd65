import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertNotMatch,
  assertRejects,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Hono } from "npm:hono@^4.13";
import { basicAuth } from "npm:hono@^4.13/basic-auth";
import { HTTPException } from "npm:hono@^4.13/http-exception";
import { registerBuiltins } from "../builtins/builtins.ts";
import { Engine, type ErrorKind, type Handler, type Job, TypedError } from "../engine.ts";
import { within } from "../engine/time.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import { answersEarly } from "../platform/deno.ts";
import { createRouter, type Router, type RouterOptions } from "../router.ts";
import { Client } from "./support/client.ts";
import { FakeClock } from "./support/clock.ts";
import { isPending, settle, testWhere, until } from "./support/daemon.ts";

interface App {
  engine: Engine;
  router: Router;
  /** What the engine has logged, a line each: the level and the message. */
  lines: string[];
}

/** A router whose engine has the built-in jobs. */
function make(options: RouterOptions = {}): App {
  const lines: string[] = [];
  const engine = new Engine({ log: (level, message) => void lines.push(`${level} ${message}`) });
  const router = createRouter(engine, options);
  registerBuiltins(engine, { router });
  return { engine, router, lines };
}

/** The same, served on a port. */
async function serve(
  setup: (app: App) => void = () => {},
  options: RouterOptions = {},
  settings: Record<string, string> = {},
): Promise<App & AsyncDisposable & { port: number }> {
  const app = make(options);
  setup(app);
  const api = app.engine.job("serveapi", "tcp://127.0.0.1:0");
  for (const [key, value] of Object.entries(settings)) api.setenv(key, value);
  const bound = Promise.withResolvers<number>();
  api.stdout.add({
    write: (chunk) => bound.resolve(Number(/:(\d+)\n$/.exec(new TextDecoder().decode(chunk))![1])),
  });
  const run = api.run();
  run.catch(bound.reject);
  const port = await bound.promise;
  await app.engine.job("acceptconnections").run();
  return {
    ...app,
    port,
    async [Symbol.asyncDispose]() {
      await app.engine.shutdown();
      await run;
    },
  };
}

/** A request's header. */
function header(...lines: string[]): string {
  return [lines[0] + " HTTP/1.1", "Host: localhost", ...lines.slice(1), "", ""].join("\r\n");
}
/** A client that has sent a request's header. */
async function asking(port: number, ...lines: string[]): Promise<Client> {
  const client = await Client.to({ hostname: "127.0.0.1", port });
  await client.send(header(...lines));
  return client;
}

/** A promise that is to settle. */
async function soon<T>(promise: Promise<T>): Promise<T> {
  if (!await within(20_000, promise)) throw new Error("not so after 20 s");
  return await promise;
}

/** What a job of the engine prints, as JSON. */
async function ask(engine: Engine, name: "stats" | "info") {
  const job = engine.job(name);
  const tail = job.stdout.addTail(1);
  await job.run();
  return JSON.parse(tail.text);
}

async function assertJsonError(response: Response, status: number, message: string) {
  assertEquals(response.headers.get("content-type"), "application/json");
  assertEquals([response.status, await response.json()], [status, { message }]);
}
async function assertTextError(response: Response, status: number, message: string) {
  assertEquals(response.headers.get("content-type"), "text/plain; charset=utf-8");
  assertEquals([response.status, await response.text()], [status, message + "\n"]);
}

const PREFIXES = ["", "/v1.12", "/v1.23", "/v1.24", `/v${API_VERSION}`];

// The built-in routes.

Deno.test("createRouter answers /_ping with what clients negotiate on", async () => {
  const { router } = make({ version: "9.8.7" });
  for (const prefix of PREFIXES) {
    for (const method of ["GET", "HEAD"]) {
      const response = await router.request(`${prefix}/_ping`, { method });
      assertEquals([response.status, await response.text()], [200, method === "GET" ? "OK" : ""]);
      assertEquals(Object.fromEntries(response.headers), {
        "api-version": "1.47",
        "cache-control": "no-cache, no-store, must-revalidate",
        "content-type": "text/plain; charset=utf-8",
        "docker-experimental": "false",
        "ostype": Deno.build.os,
        "pragma": "no-cache",
        "server": `Floodgate/9.8.7 (${Deno.build.os})`,
      });
    }
  }
});

Deno.test("createRouter names Floodgate's own version in the Server header by default", async () => {
  const response = await make().router.request("/_ping");
  assertEquals(await response.text(), "OK");
  assertStringIncludes(response.headers.get("server")!, `Floodgate/${VERSION} (`);
});

Deno.test("createRouter answers HEAD /_ping over a connection without a body", async () => {
  await using server = await serve();
  using client = await asking(server.port, "HEAD /v1.24/_ping");
  await client.send(header("GET /_ping", "Connection: close"));
  const [head, get, ...more] = (await client.ended()).split(/(?=HTTP\/1\.1 )/);
  assertEquals(more, []);
  assertMatch(head, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/);
  assertMatch(head, /^api-version: 1\.47\r$/im);
  assertMatch(get, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nOK$/);
});

Deno.test("createRouter answers /version, /info and /debug/vars with a JSON object", async () => {
  const { router } = make();
  for (const prefix of PREFIXES) {
    for (
      const [path, key] of [
        ["/version", "ApiVersion"],
        ["/info", "NEventsListener"],
        ["/debug/vars", "uptime"],
      ]
    ) {
      const response = await router.request(prefix + path);
      assertEquals(response.status, 200);
      assertEquals(response.headers.get("content-type"), "application/json");
      const text = await response.text();
      assert(text.endsWith("}\n"), text);
      assert(key in JSON.parse(text), `no ${key} in ${text}`);
      const head = await router.request(prefix + path, { method: "HEAD" });
      assertEquals([head.status, await head.text()], [200, ""]);
    }
  }
  assertEquals((await (await router.request("/version")).json()).ApiVersion, "1.47");
});

for (const prefix of ["", "/v1.24"]) {
  Deno.test(`createRouter streams ${prefix}/events, and stops when the client goes`, async () => {
    await using server = await serve();
    const { engine } = server;
    const listeners = async () =>
      [await ask(engine, "info"), await ask(engine, "stats")]
        .map((answer) => answer.NEventsListener ?? answer.events.listeners);
    using client = await asking(
      server.port,
      `GET ${prefix}/events?filters=${encodeURIComponent('{"type":["container"]}')}`,
    );
    await client.sees(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n/);
    assertMatch(client.rest, /^content-type: application\/json\r$/im);
    assertMatch(client.rest, /^transfer-encoding: chunked\r$/im);
    assertMatch(client.rest, /\r\n\r\n$/);
    assertEquals(await listeners(), [1, 1]);
    for (const id of ["one", "two", "three"]) {
      await engine.job("log", "start", id).run();
      const [, line] = await client.sees(/\r\n(\{[^\r]*\}\n)\r\n$/);
      assertEquals([JSON.parse(line).id, line.split("\n").length], [id, 2]);
      client.rest = "";
    }
    client[Symbol.dispose]();
    await until(async () => `${await listeners()}` === "0,0");
  });
}

Deno.test("createRouter ends /events cleanly when the engine shuts down", async () => {
  const server = await serve();
  using client = await asking(server.port, "GET /events");
  await client.sees(/\r\n\r\n$/);
  await server[Symbol.asyncDispose]();
  assertMatch(await client.ended(), /\r\n\r\n0\r\n\r\n$/);
});

Deno.test("createRouter gives /events its query: since, until and filters", async () => {
  const { engine, router } = make();
  await engine.job("log", "start", "one").run();
  await engine.job("log", "stop", "two").run();
  const query = new URLSearchParams({
    since: "0",
    until: new Date(Date.now() + 5).toISOString(),
    filters: '{"event":["stop"]}',
  });
  const lines = (await (await router.request(`/events?${query}`)).text()).split("\n");
  assertEquals([JSON.parse(lines[0]).id, lines.slice(1)], ["two", [""]]);
  const bad = await router.request("/events?since=yesterday");
  assertEquals(bad.status, 400);
  assertStringIncludes((await bad.json()).message, 'since="yesterday" is no time');
});

Deno.test("createRouter refuses HEAD for a stream, which would have no end", async () => {
  const { router } = make();
  const response = await router.request("/events", { method: "HEAD" });
  assertEquals([response.status, response.headers.get("allow")], [405, "GET"]);
});

Deno.test("createRouter runs the job containers for /containers/json where there is one", async () => {
  const { engine, router } = make();
  await assertJsonError(
    await router.request("/containers/json"),
    501,
    "no such job registered: containers",
  );
  engine.register("containers", (job) => job.print(JSON.stringify(job.env.toObject())));
  const response = await router.request("/v1.24/containers/json?all=1&limit=5&other=6");
  assertEquals(await response.json(), { all: "1", limit: "5" });
});

Deno.test("createRouter makes routers that know nothing of each other", async () => {
  const [one, two] = [make(), make()];
  one.engine.register("hi", (job) => job.print("1"));
  one.router.job({ method: "GET", path: "/hi", job: "hi" });
  assertEquals((await one.router.request("/hi")).status, 200);
  assertEquals((await two.router.request("/hi")).status, 404);
});

// Versions.

Deno.test("Router refuses a version that is too new", async () => {
  const { router } = make();
  for (const version of ["1.48", "1.100", "2.0", "9999.9999"]) {
    await assertJsonError(
      await router.request(`/v${version}/_ping`),
      400,
      `client version ${version} is too new. Maximum supported API version is 1.47`,
    );
  }
  for (const version of ["0.0", "1.0", "1.9", "1.47"]) {
    assertEquals([version, (await router.request(`/v${version}/_ping`)).status], [version, 200]);
  }
});

Deno.test("Router refuses a malformed version for every method", async () => {
  const { router } = make();
  for (const version of ["1", "1.", "1.x", "1.2.3", "1.24x", "1.-2", "1.12345", "12345.1"]) {
    for (const [method, path] of [["GET", "/_ping"], ["POST", "/nope"], ["OPTIONS", ""]]) {
      const response = await router.request(`/v${version}${path}`, { method });
      assertEquals([version, response.status], [version, 400]);
      // As JSON or text: there is no telling which of the two such a client would read.
      assertStringIncludes(
        (await response.text()).replaceAll("\\", ""),
        `malformed version "v${version}", expected vMAJOR.MINOR such as v1.47`,
      );
    }
  }
});

Deno.test("Router takes no path that only begins with v for a version", async () => {
  const { router } = make();
  for (const path of ["/v", "/vx", "/vx.y/version", "/v.1/version", "/volumes", "/V1.24/version"]) {
    await assertJsonError(await router.request(path), 404, `page not found: ${path}`);
  }
  const own = make().router;
  own.get("/volumes/:name", (c) => c.text(`${c.req.param("name")} ${c.env.version}`));
  assertEquals(await (await own.request("/volumes/v1")).text(), "v1 undefined");
  assertEquals(await (await own.request("/v1.24/volumes/v1")).text(), "v1 1.24");
});

Deno.test("Router takes one version off a path, and the rest is the path", async () => {
  const { router } = make();
  for (
    const [path, rest] of [
      ["/v1.24/v1.24/version", "/v1.24/version"],
      ["/v1.24", "/"],
      ["/v1.24/", "/"],
      ["/v1.30/nope?x=1", "/nope"],
    ]
  ) await assertJsonError(await router.request(path), 404, `page not found: ${rest}`);
});

// Methods and paths.

Deno.test("Router answers an unknown path with 404, as JSON or text", async () => {
  const { router } = make();
  for (const method of ["GET", "POST", "DELETE"]) {
    for (const prefix of ["", "/v1.24", "/v1.47"]) {
      const response = await router.request(`${prefix}/nope`, { method });
      await assertJsonError(response, 404, "page not found: /nope");
    }
    for (const prefix of ["/v1.23", "/v1.9", "/v0.99"]) {
      const response = await router.request(`${prefix}/nope`, { method });
      await assertTextError(response, 404, "page not found: /nope");
    }
  }
});

Deno.test("Router answers a wrong method with 405 and the right ones", async () => {
  const { router } = make();
  router.job({ method: "POST", path: "/things/:id", job: "x" });
  router.delete("/things/:id", (c) => c.text(""));
  for (const prefix of ["", "/v1.24"]) {
    const response = await router.request(`${prefix}/things/1`, { method: "PUT" });
    assertEquals(response.headers.get("allow"), "POST, DELETE");
    await assertJsonError(
      response,
      405,
      "method PUT is not allowed for /things/1, expected POST, DELETE",
    );
  }
  const response = await router.request("/v1.23/version", { method: "POST", body: "x" });
  assertEquals(response.headers.get("allow"), "GET");
  await assertTextError(response, 405, "method POST is not allowed for /version, expected GET");
});

Deno.test("Router refuses methods that nobody handles, whatever they are", async () => {
  await using server = await serve();
  for (const method of ["TRACE", "TRACK", "PURGE", "get"]) {
    using client = await asking(server.port, `${method} /version`, "Connection: close");
    const text = await client.ended();
    assertMatch(text, /^HTTP\/1\.1 405 /);
    assertMatch(text, /^allow: GET\r$/im);
    assertMatch(text, /\r\n\r\n\{"message":"method [^"]* is not allowed for \/version, [^"]*"\}$/);
  }
  assertEquals(server.lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router answers OPTIONS with the methods of a path", async () => {
  const { router } = make();
  router.job({ method: "POST", path: "/things/:id", job: "x" });
  router.delete("/things/:id", (c) => c.text(""));
  for (const prefix of ["", "/v1.23", "/v1.24"]) {
    for (
      const [path, allow] of [
        ["/things/1", "POST, DELETE, OPTIONS"],
        ["/version", "GET, OPTIONS"],
        ["/events", "GET, OPTIONS"],
      ]
    ) {
      const response = await router.request(prefix + path, { method: "OPTIONS" });
      assertEquals([response.status, response.headers.get("allow")], [200, allow]);
      assertEquals(await response.text(), "");
      assertEquals(response.headers.has("access-control-allow-origin"), false);
    }
  }
});

Deno.test("Router answers OPTIONS of an unknown path with 404", async () => {
  const { router } = make();
  for (const prefix of ["", "/v1.24"]) {
    const response = await router.request(`${prefix}/nope`, { method: "OPTIONS" });
    await assertJsonError(response, 404, "page not found: /nope");
  }
  await assertTextError(
    await router.request("/v1.23/nope", { method: "OPTIONS" }),
    404,
    "page not found: /nope",
  );
  await assertJsonError(
    await router.request("/v1.48/version", { method: "OPTIONS" }),
    400,
    "client version 1.48 is too new. Maximum supported API version is 1.47",
  );
});

Deno.test("Router sends CORS headers where it was told to, with every answer", async () => {
  const { router } = make({ cors: "*" });
  router.get("/throws", () => {
    throw new Error("boom");
  });
  // Headers that cannot be changed, as those of every answer that was fetched.
  router.get("/redirect", () => Response.redirect("http://example.com/"));
  for (
    const [method, path, status] of [
      ["GET", "/_ping", 200],
      ["GET", "/v1.24/version", 200],
      ["OPTIONS", "/version", 200],
      ["OPTIONS", "/nope", 404],
      ["GET", "/nope", 404],
      ["PUT", "/version", 405],
      ["GET", "/v9.9/version", 400],
      ["GET", "/containers/json", 501],
      ["GET", "/throws", 500],
      ["GET", "/redirect", 302],
    ] as const
  ) {
    const response = await router.request(path, { method });
    await response.body?.cancel();
    assertEquals([path, response.status], [path, status]);
    const { headers } = response;
    assertEquals(headers.get("access-control-allow-origin"), "*");
    assertEquals(
      headers.get("access-control-allow-headers"),
      "Origin, X-Requested-With, Content-Type, Accept, X-Registry-Auth",
    );
    assertEquals(
      headers.get("access-control-allow-methods"),
      "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    );
    assertEquals(headers.has("vary"), false);
  }
});

Deno.test("Router says that answers for one origin are no others'", async () => {
  const { router } = make({ cors: "https://example.com" });
  const { headers } = await router.request("/_ping", { headers: { Origin: "https://evil.com" } });
  assertEquals(headers.get("access-control-allow-origin"), "https://example.com");
  assertEquals(headers.get("vary"), "Origin");
});

Deno.test("Router sends no CORS headers unless it was told to", async () => {
  const { router } = make();
  for (const [method, path] of [["GET", "/_ping"], ["OPTIONS", "/version"], ["GET", "/nope"]]) {
    const { headers } = await router.request(path, {
      method,
      headers: { Origin: "https://example.com" },
    });
    const names = [...headers.keys()].filter((name) => name.startsWith("access-control-"));
    assertEquals(names, []);
  }
});

// Errors.

/** Makes a router with two routes that fail so: in a job, and in a handler of Hono's. */
function failing(fail: (job?: Job) => unknown): App & { paths: string[] } {
  const app = make();
  app.engine.register("fail", (job) => fail(job) as ReturnType<Handler>);
  app.router.job({ method: "GET", path: "/job", job: "fail" });
  app.router.get("/plain", async (c) => {
    await fail();
    return c.text("not reached");
  });
  return { ...app, paths: ["/job", "/plain"] };
}
function thrower(error: () => unknown): App & { paths: string[] } {
  return failing(() => {
    throw error();
  });
}

const STATUS_OF: Record<ErrorKind, number> = {
  "bad parameter": 400,
  "unauthorized": 401,
  "forbidden": 403,
  "not found": 404,
  "not acceptable": 406,
  "timeout": 408,
  "conflict": 409,
  "too large": 413,
  "not implemented": 501,
  "unavailable": 503,
};

for (const [kind, status] of Object.entries(STATUS_OF) as [ErrorKind, number][]) {
  Deno.test(`Router answers an error of kind "${kind}" with ${status}`, async () => {
    // A message that the wording rules would take for something else, were it not for the kind.
    const message = "no such conflict is impossible, see /etc/motd";
    const { router, paths } = thrower(() => new TypedError(kind, message));
    for (const path of paths) {
      await assertJsonError(await router.request(path), status, message);
      await assertJsonError(await router.request(`/v1.24${path}`), status, message);
      await assertTextError(await router.request(`/v1.23${path}`), status, message);
    }
  });
}

Deno.test("Router knows the kind of an error that came from a module loaded twice", async () => {
  const { router, paths } = thrower(() => Object.assign(new Error("taken"), { kind: "conflict" }));
  for (const path of paths) await assertJsonError(await router.request(path), 409, "taken");
});

Deno.test("Router takes a kind that it does not know for none", async () => {
  for (const kind of ["toString", "teapot"]) {
    const { router, paths } = thrower(() => Object.assign(new Error("hm"), { kind }));
    for (const path of paths) await assertJsonError(await router.request(path), 500, "hm");
  }
});

Deno.test("Router knows the kind of an error that a job reports and does not throw", async () => {
  const { engine, router } = make();
  engine.register("fail", (job) => job.error(new TypedError("conflict", "taken")));
  router.job({ method: "GET", path: "/job", job: "fail" });
  await assertJsonError(await router.request("/job"), 409, "taken");
});

Deno.test("Router knows the kind of an error in a job that another job runs", async () => {
  const { engine, router } = make();
  engine.register("inner", () => {
    throw new TypedError("conflict", "taken");
  });
  engine.register("outer", (job) => job.engine.job("inner").run());
  router.job({ method: "GET", path: "/job", job: "outer" });
  await assertJsonError(await router.request("/job"), 409, "taken");
});

const WORDING: [string, number][] = [
  ["No such container: web", 404],
  ["NO SUCH image: library/busybox:latest", 404],
  ["Bad parameter limit", 400],
  ["Conflict, the name is taken", 409],
  ["Impossible to attach", 406],
  ["Wrong login/password, try again", 401],
  ["This account hasn't been activated", 403],
  // The first rule that fits.
  ["impossible: bad parameter and conflict", 400],
  ["conflict: no such thing", 404],
  ["hasn't been activated: wrong login/password", 401],
  // And none.
  ["nosuch thing, badparameter", 500],
  ["the disk is full", 500],
];

Deno.test("Router finds the status of an error without a kind by its wording", async () => {
  for (const [message, status] of WORDING) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) {
      await assertJsonError(await router.request(path), status, message);
      await assertTextError(await router.request(`/v1.23${path}`), status, message);
    }
    const { engine, router: other } = make();
    engine.register("fail", (job) => job.error(message));
    other.job({ method: "GET", path: "/job", job: "fail" });
    await assertJsonError(await other.request("/job"), status, message);
  }
});

Deno.test("Router answers the other errors with 500 and logs them", async () => {
  for (
    const [error, message] of [
      [new Error("boom"), "boom"],
      [new RangeError(""), "RangeError"],
    ] as const
  ) {
    const { router, paths, lines } = thrower(() => error);
    for (const path of paths) {
      await assertJsonError(await router.request(path), 500, message);
      assertStringIncludes(lines.join("\n"), `error ${path}: ${message}`);
    }
  }
  const { router, lines } = thrower(() => new TypedError("not found", "nothing there"));
  assertEquals((await router.request("/job")).status, 404);
  assertEquals(lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router answers 500 when what a job threw is no Error", async () => {
  for (const [thrown, message] of [["boom", "boom"], [{}, "[object Object]"]] as const) {
    const { router } = thrower(() => thrown);
    await assertJsonError(await router.request("/job"), 500, message);
  }
});

Deno.test("Router answers 500 for a job that ends with a status and no word", async () => {
  const { engine, router } = make();
  engine.register("three", () => 3);
  engine.register("half", () => 0.5);
  router.job({ method: "GET", path: "/three", job: "three" });
  router.job({ method: "GET", path: "/half", job: "half" });
  await assertJsonError(await router.request("/three"), 500, "three: exit status 3");
  await assertJsonError(
    await router.request("/half"),
    500,
    "half returned 0.5, expected an integer exit status",
  );
});

Deno.test("Router answers an HTTPException of Hono's with its status and message", async () => {
  const { router } = make();
  router.get("/plain", () => {
    throw new HTTPException(418, { message: "short and stout" });
  });
  await assertJsonError(await router.request("/plain"), 418, "short and stout");
  await assertTextError(await router.request("/v1.23/plain"), 418, "short and stout");
});

Deno.test("Router answers an HTTPException of Hono's with the answer that it brings", async () => {
  const { router } = make();
  router.use("/guarded/*", basicAuth({ username: "me", password: "secret" }));
  router.get("/guarded/x", (c) => c.text("hello"));
  const refused = await router.request("/guarded/x");
  assertEquals(refused.status, 401);
  assertMatch(refused.headers.get("www-authenticate")!, /^Basic /);
  await refused.body!.cancel();
  const headers = { Authorization: `Basic ${btoa("me:secret")}` };
  assertEquals(await (await router.request("/guarded/x", { headers })).text(), "hello");
});

Deno.test("Router answers 404 where a handler of Hono's finds nothing", async () => {
  const { router } = make();
  router.get("/things/:id", (c) => c.notFound());
  for (const method of ["GET", "HEAD"]) {
    const response = await router.request("/v1.24/things/7", { method });
    assertEquals([response.status, response.headers.has("allow")], [404, false]);
    if (method === "GET") {
      assertEquals(await response.json(), { message: "page not found: /things/7" });
    }
  }
});

/** Expects an answer that says nothing about the host's files or the program's inside. */
async function assertDiscreet(response: Response, status: number): Promise<string> {
  const text = await response.text();
  assertEquals([response.status, text], [status, text]);
  assertNotMatch(text, /secret|file:|shadow|\.ts\b|\bat \w+ \(|:\d+:\d+/);
  return text;
}

Deno.test("Router names no file of the host and shows no stack in an error", async () => {
  for (
    const message of [
      "cannot open /secret: denied",
      "cannot open /secret/shadow.ts: denied\n at foo (file:///a/b.ts:1:2)",
      "cannot open '/secret/shadow': denied",
      'cannot open "/secret/shadow": denied',
      "cannot open (/secret/shadow)",
      "cannot open [/secret/shadow]",
      "cannot open:/secret/shadow",
      "file=/secret/shadow",
      "/secret/shadow",
      "Module not found file:///secret/shadow.ts",
      'Module not found "file:///secret/shadow.ts".',
      "no module at file:///secret/shadow.ts:1:2",
      "cannot listen on unix:///secret/shadow",
      "cannot open '/srv/my own secret/shadow': denied",
    ]
  ) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) {
      await assertDiscreet(await router.request(path), 500);
      await assertDiscreet(await router.request(`/v1.23${path}`), 500);
    }
  }
});

Deno.test("Router leaves names and URLs with slashes in an error", async () => {
  for (
    const message of [
      "cannot pull http://example.com/v2/busybox:1.2: refused",
      "library/busybox:latest is of no use here",
      "localhost:5000/busybox, 1/2 done, and/or / so",
    ]
  ) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) await assertJsonError(await router.request(path), 500, message);
  }
});

Deno.test("Router answers with the first line of an error's message", async () => {
  const { router, paths } = thrower(() =>
    new Error("cannot open /etc/shadow: denied\n at foo (file:///a/b.ts:1:2)")
  );
  for (const path of paths) {
    const { message } = JSON.parse(await assertDiscreet(await router.request(path), 500));
    assertEquals(message, "cannot open (path): denied");
  }
});

Deno.test("Router shows no stack that a job wrote to its stderr", async () => {
  const { engine, router } = make();
  engine.register("fail", async (job) => {
    await job.stderr.write(`${new Error("boom").stack}\n`);
    return 1;
  });
  router.job({ method: "GET", path: "/job", job: "fail" });
  await assertDiscreet(await router.request("/job"), 500);
});

Deno.test("Router takes the system's errors for its own, whatever their wording", async () => {
  // "No such file or directory" is not what the client asked for.
  const { router, paths } = failing(() => Deno.readTextFile("/secret/shadow.ts"));
  for (const path of paths) await assertDiscreet(await router.request(path), 500);
  const { engine, router: other } = make();
  engine.register("inner", async () => void await Deno.readTextFile("/secret/shadow.ts"));
  engine.register("outer", (job) => job.engine.job("inner").run());
  other.job({ method: "GET", path: "/job", job: "outer" });
  await assertDiscreet(await other.request("/job"), 500);
});

Deno.test("Router answers 501 for a route whose job has no handler", async () => {
  const { router } = make();
  router.job({ method: "POST", path: "/x", job: "missing" });
  for (const prefix of ["", "/v1.24"]) {
    await assertJsonError(
      await router.request(`${prefix}/x`, { method: "POST", body: "unread" }),
      501,
      "no such job registered: missing",
    );
  }
});

Deno.test("Router runs the catch-all for a route whose job has no handler", async () => {
  const { engine, router } = make();
  router.job({ method: "GET", path: "/x/:id", job: "missing" });
  engine.registerCatchall((job) => job.print(`${job}`));
  assertEquals(await (await router.request("/x/1")).text(), "missing(1)");
  assertEquals(await (await router.request("/containers/json")).text(), "containers()");
});

// How a request maps to a job.

/** A router with one route whose job prints what it was given. */
function echo(route: Partial<Parameters<Router["job"]>[0]>, options?: RouterOptions): App {
  const app = make(options);
  app.engine.register("echo", async (job) => {
    await job.print(
      JSON.stringify({ args: job.args, env: job.env.toObject(), stdin: await job.stdin.text() }),
    );
  });
  app.router.job({ method: "GET", path: "/echo", job: "echo", ...route });
  return app;
}

Deno.test("Router.job gives a path's variables to the job, in order", async () => {
  const { router } = echo({ path: "/a/:one/b/:two{[0-9]+}" });
  for (
    const [path, ...args] of [
      ["/a/x/b/1", "x", "1"],
      ["/v1.24/a/x/b/1?one=z", "x", "1"],
      ["/a/x%20y/b/1", "x y", "1"],
      ["/a/x%2Fy/b/1", "x/y", "1"],
      ["/a/%C3%A4/b/1", "ä", "1"],
      ["/a/ä/b/1", "ä", "1"],
      ["/a/100%25/b/1", "100%", "1"],
      ["/a/%2541/b/1", "%41", "1"],
      ["/a/x+y/b/1", "x+y", "1"],
      ["/a/%3F%23/b/1", "?#", "1"],
      ["/a/v1.24/b/1", "v1.24", "1"],
    ]
  ) assertEquals([path, (await (await router.request(path)).json()).args], [path, args]);
  assertEquals((await router.request("/a/x/b/y")).status, 404);
});

Deno.test("Router.job gives an optional variable that is missing as an empty argument", async () => {
  const { router } = echo({ path: "/a/:one/:two?" });
  assertEquals((await (await router.request("/a/x/y")).json()).args, ["x", "y"]);
  assertEquals((await (await router.request("/a/x")).json()).args, ["x", ""]);
});

Deno.test("Router.job gives the listed query parameters to the env, and no others", async () => {
  const { router } = echo({ query: ["all", "filters", "empty"] });
  const query = "all=1&other=2&filters=%7B%22a%22%3A%5B%22b%20c%22%5D%7D&empty=&PATH=x";
  const { env } = await (await router.request(`/echo?${query}`)).json();
  assertEquals(env, { all: "1", filters: '{"a":["b c"]}', empty: "" });
  assertEquals((await (await echo({}).router.request("/echo?all=1")).json()).env, {});
});

Deno.test('Router.job with body "env" sets what the JSON object has', async () => {
  const { router } = echo({ method: "POST", body: "env", query: ["name"] });
  const body = '{"Image":"busybox","Memory":12345678901234567890,"Tty":true,"Cmd":["a","b"],' +
    '"Host":{"x":1},"none":null}';
  const response = await router.request("/echo?name=web", { method: "POST", body });
  assertEquals(await response.json(), {
    args: [],
    env: {
      name: "web",
      Image: "busybox",
      Memory: "12345678901234567890",
      Tty: "true",
      Cmd: '["a","b"]',
      Host: '{"x":1}',
    },
    stdin: "",
  });
});

Deno.test('Router.job with body "env" takes an empty body for an empty object', async () => {
  const { router } = echo({ method: "POST", body: "env" });
  for (const body of [undefined, "", " \n", "{}"]) {
    const response = await router.request("/echo", { method: "POST", body });
    assertEquals((await response.json()).env, {});
  }
});

Deno.test('Router.job with body "env" refuses what is no JSON object', async () => {
  const { engine, router } = echo({ method: "POST", body: "env" });
  for (const body of ["{", "[]", "null", "7", '"x"', "{a:1}", '{"a":1} x']) {
    const response = await router.request("/echo", { method: "POST", body });
    assertEquals([body, response.status], [body, 400]);
    assertMatch((await response.json()).message, /^request body: expected a JSON object/);
  }
  const old = await router.request("/v1.23/echo", { method: "POST", body: "{" });
  assertEquals(old.headers.get("content-type"), "text/plain; charset=utf-8");
  assertMatch(await old.text(), /^request body: expected a JSON object.*\n$/);
  assertEquals(engine.stats.started, 0);
});

Deno.test('Router.job with body "stdin" gives the body to the job as it is', async () => {
  const { router } = echo({ method: "PUT", body: "stdin" });
  const response = await router.request("/echo", { method: "PUT", body: '{"a": 1}\n' });
  assertEquals(await response.json(), { args: [], env: {}, stdin: '{"a": 1}\n' });
  const empty = await router.request("/echo", { method: "PUT" });
  assertEquals((await empty.json()).stdin, "");
});

const duplexTest = testWhere(
  answersEarly(),
  "an answer that begins before the request has ended",
);
duplexTest('Router.job with body "stdin" lets the job read while the client sends', async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("upper", async (job) => {
      for await (const chunk of job.stdin.readable) {
        await job.print(new TextDecoder().decode(chunk).toUpperCase());
      }
    });
    router.job({ method: "POST", path: "/upper", job: "upper", body: "stdin", stream: true });
  });
  using client = await asking(
    server.port,
    "POST /upper",
    "Transfer-Encoding: chunked",
    "Connection: close",
  );
  for (const word of ["one", "two", "six"]) {
    await client.send(`3\r\n${word}\r\n`);
    await client.sees(new RegExp(`${word.toUpperCase()}\r\n$`));
  }
  await client.send("0\r\n\r\n");
  assertMatch(await client.ended(), /SIX\r\n0\r\n\r\n$/);
});

Deno.test("Router.job without body gives the job none", async () => {
  const { router } = echo({ method: "POST" });
  const response = await router.request("/echo", { method: "POST", body: '{"a":1}' });
  assertEquals(await response.json(), { args: [], env: {}, stdin: "" });
});

Deno.test("Router.job answers with the status and the content type that it was given", async () => {
  const { router } = echo({ status: 201, contentType: "text/plain" });
  const response = await router.request("/echo");
  assertEquals([response.status, response.headers.get("content-type")], [201, "text/plain"]);
  assertStringIncludes(await response.text(), '"args":[]');
  const plain = await echo({}).router.request("/echo");
  assertEquals([plain.status, plain.headers.get("content-type")], [200, "application/json"]);
  await plain.body!.cancel();
});

Deno.test("Router.job answers 204 where the job has written nothing", async () => {
  for (const stream of [false, true]) {
    for (const status of [undefined, 201]) {
      for (const handler of [() => {}, (job: Job) => stream ? undefined : job.print("")]) {
        const { engine, router } = make();
        engine.register("quiet", handler);
        router.job({ method: "GET", path: "/quiet", job: "quiet", stream, status });
        const response = await router.request("/quiet");
        assertEquals([response.status, response.body], [204, null]);
        assertEquals(response.headers.has("content-type"), false);
      }
    }
  }
});

Deno.test("Router.job refuses a route whose answers could not be sent", () => {
  const { router } = make();
  const route = { method: "GET", path: "/x", job: "x" } as const;
  for (const status of [99, 204, 304, 600]) assertThrows(() => router.job({ ...route, status }));
  assertThrows(() => router.job({ ...route, contentType: "text/plain\nX-Other: 1" }));
});

Deno.test("Router.job marks its jobs as quiet and keeps them out of the events", async () => {
  const { engine, router, lines } = echo({});
  await (await router.request("/echo")).text();
  assertEquals(lines, ["debug +job echo()", "debug -job echo() = OK (0)"]);
  const job = engine.job("events");
  job.setenv("since", "0");
  job.abort();
  const told = job.stdout.addTail(9);
  await job.run();
  assertEquals(told.text, "");
});

Deno.test("Router.job gives each request a job of its own", async () => {
  const { router } = echo({ path: "/echo/:id", query: ["q"] });
  const answers = await Promise.all(
    Array.from({ length: 50 }, async (_, i) => await router.request(`/echo/${i}?q=${i}`)),
  );
  for (const [i, answer] of answers.entries()) {
    assertEquals(await answer.json(), { args: [`${i}`], env: { q: `${i}` }, stdin: "" });
  }
});

// Long answers.

const KIB = 1_024;

Deno.test("Router.job keeps an answer of 64 KiB until the job has ended", async () => {
  const { engine, router } = make();
  engine.register("big", async (job) => {
    for (let i = 0; i < 64; i++) await job.print("x".repeat(KIB));
    if (job.args[0] === "fail") throw new TypedError("conflict", "after all");
  });
  router.job({ method: "GET", path: "/big/:how", job: "big" });
  assertEquals((await (await router.request("/big/well")).text()).length, 64 * KIB);
  await assertJsonError(await router.request("/big/fail"), 409, "after all");
});

Deno.test("Router.job sends an answer of more than 64 KiB before the job has ended", async () => {
  const { engine, router } = make();
  const go = Promise.withResolvers<void>();
  engine.register("big", async (job) => {
    await job.print("a".repeat(40 * KIB));
    // Not waited for: nobody has read any of it yet.
    const written = job.print("b".repeat(40 * KIB));
    await go.promise;
    await written;
    await job.print("c");
  });
  router.job({ method: "GET", path: "/big", job: "big", status: 203, contentType: "text/plain" });
  const response = await router.request("/big");
  assertEquals([response.status, response.headers.get("content-type")], [203, "text/plain"]);
  assertEquals(engine.stats.running, 1);
  go.resolve();
  const text = await response.text();
  assert(text === "a".repeat(40 * KIB) + "b".repeat(40 * KIB) + "c", `${text.length} bytes`);
  await until(() => engine.stats.running === 0);
});

Deno.test("Router.job sends a long answer in full over a connection", async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("big", async (job) => {
      for (let i = 0; i < 3_000; i++) await job.print(`${i}`.padStart(KIB - 1) + "\n");
    });
    router.job({ method: "GET", path: "/big", job: "big" });
  });
  const response = await fetch(`http://127.0.0.1:${server.port}/big`);
  const lines = (await response.text()).split("\n");
  assertEquals(lines.length, 3_001);
  assert(lines.slice(0, -1).every((line, i) => line === `${i}`.padStart(KIB - 1)));
});

Deno.test("Router.job takes what a job writes as it is when it is written", async () => {
  for (const stream of [false, true]) {
    const { engine, router } = make();
    engine.register("copy", async (job) => {
      // As a loop does that reads a file into one buffer.
      const buffer = new Uint8Array(1);
      for (const byte of new TextEncoder().encode("abc")) {
        buffer[0] = byte;
        await job.stdout.write(buffer);
      }
    });
    router.job({ method: "GET", path: "/copy", job: "copy", stream });
    assertEquals([stream, await (await router.request("/copy")).text()], [stream, "abc"]);
  }
});

Deno.test("Router.job lets a job write no faster than the client reads", async () => {
  const { engine, router } = make();
  let written = 0;
  engine.register("big", async (job) => {
    for (let i = 0; i < 100; i++) {
      await job.stdout.write(new Uint8Array(64 * KIB));
      written++;
    }
  });
  router.job({ method: "GET", path: "/big", job: "big" });
  const response = await router.request("/big");
  await settle();
  assertLess(written, 4);
  const reader = response.body!.getReader();
  let size = 0;
  for (let i = 0; i < 10; i++) size += (await reader.read()).value!.length;
  await settle();
  assertLess(written, 14);
  for (let part; !(part = await reader.read()).done;) size += part.value.length;
  assertEquals([size, written], [6_400 * KIB, 100]);
});

Deno.test("Router.job cuts the answer of a job that fails in it, and logs why", async () => {
  for (const stream of [false, true]) {
    const { engine, router, lines } = make();
    engine.register("big", async (job) => {
      const written = job.print("x".repeat(stream ? 10 : 70 * KIB));
      await settle();
      written.catch(() => {});
      throw new Error("no such luck");
    });
    router.job({ method: "GET", path: "/big", job: "big", stream });
    const response = await router.request("/big");
    assertEquals(response.status, 200);
    await assertRejects(() => response.text());
    assertEquals(lines.filter((line) => line.startsWith("warn ")), [
      "warn job big failed in its answer: no such luck",
    ]);
  }
});

Deno.test("Router.job cuts a failed answer on the wire, where no end is to be seen", async () => {
  const arrived = Promise.withResolvers<void>();
  await using server = await serve(({ engine, router }) => {
    engine.register("fails", async (job) => {
      await job.print("so far\n");
      await arrived.promise;
      throw new TypedError("conflict", "so good");
    });
    router.job({ method: "GET", path: "/fails", job: "fails", stream: true });
  });
  using client = await asking(server.port, "GET /fails");
  await client.sees(/so far\n/);
  arrived.resolve();
  const text = await client.ended();
  assertMatch(text, /^HTTP\/1\.1 200 OK\r\n/);
  assertNotMatch(text, /\r\n0\r\n/);
  assertNotMatch(text, /so good/);
  const fetched = await fetch(`http://127.0.0.1:${server.port}/fails`).then((r) => r.text())
    .catch((error) => error);
  assertInstanceOf(fetched, Error);
  using next = await asking(server.port, "GET /_ping", "Connection: close");
  assertMatch(await next.ended(), /\r\n\r\nOK$/);
});

Deno.test("Router.job answers HEAD without a body, and its job does not wait for a reader", async () => {
  const { engine, router } = make();
  engine.register("big", async (job) => {
    for (let i = 0; i < 100; i++) await job.print("x".repeat(64 * KIB));
  });
  router.job({ method: "GET", path: "/big", job: "big" });
  const response = await router.request("/big", { method: "HEAD" });
  assertEquals([response.status, response.body], [200, null]);
  await until(() => engine.stats.running === 0);
});

// What a request may cost.

Deno.test("Router refuses a body that is announced as too long, unread", async () => {
  for (const route of [{ body: "stdin" }, { body: "env" }] as const) {
    const { router } = echo({ method: "POST", ...route }, { bodyLimit: 10 });
    let pulled = 0;
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      pull: (controller) => {
        pulled++;
        controller.enqueue(new Uint8Array(11));
      },
    }, { highWaterMark: 0 });
    const response = await router.request("/echo", {
      method: "POST",
      headers: { "Content-Length": "11" },
      body,
    });
    await assertJsonError(response, 413, "the request body is longer than 10 bytes");
    assertEquals(pulled, 0);
  }
});

Deno.test("Router refuses a body of unknown length once it is too long", async () => {
  const { router } = echo({ method: "POST", body: "stdin" }, { bodyLimit: 10 });
  const send = (...sizes: number[]) =>
    router.request("/echo", {
      method: "POST",
      body: ReadableStream.from(sizes.map((size) => new Uint8Array(size).fill(0x78))),
    });
  assertEquals((await (await send(5, 5)).json()).stdin, "x".repeat(10));
  for (const sizes of [[11], [5, 6], [10, 1]]) {
    await assertJsonError(await send(...sizes), 413, "the request body is longer than 10 bytes");
  }
});

Deno.test("Router refuses a body over a connection that is too long, by length and by chunks", async () => {
  await using server = await serve(({ router }) => {
    router.post("/plain", async (c) => c.text(await c.req.text()));
  }, { bodyLimit: 10 });
  for (
    const [header, body] of [
      ["Content-Length: 1000000", ""],
      ["Content-Length: 11", "x".repeat(11)],
      ["Transfer-Encoding: chunked", "b\r\n" + "x".repeat(11) + "\r\n"],
      ["Transfer-Encoding: chunked", "6\r\nxxxxxx\r\n".repeat(2)],
    ]
  ) {
    using client = await asking(server.port, "POST /plain", header);
    await client.send(body);
    await client.sees(
      /^HTTP\/1\.1 413 [^]*\r\n\r\n\{"message":"the request body is longer than 10 bytes"\}/,
    );
  }
  using client = await asking(server.port, "POST /plain", "Content-Length: 10");
  await client.send("x".repeat(10));
  await client.sees(/^HTTP\/1\.1 200 [^]*\r\n\r\nx{10}$/);
});

Deno.test("Router lets a route lift the limit, or lower it", async () => {
  const options = { bodyLimit: 10 };
  const body = "x".repeat(1_000);
  const lifted = echo({ method: "POST", body: "stdin", bodyLimit: Infinity }, options).router;
  const response = await lifted.request("/echo", { method: "POST", body });
  assertEquals((await response.json()).stdin, body);
  const lowered = echo({ method: "POST", body: "stdin", bodyLimit: 5 }, options).router;
  await assertJsonError(
    await lowered.request("/echo", { method: "POST", body: "xxxxxx" }),
    413,
    "the request body is longer than 5 bytes",
  );
});

Deno.test("Router limits the body that a handler of Hono's reads, unless that lifts it", async () => {
  const { router } = make({ bodyLimit: 10 });
  router.post("/text", async (c) => c.text(await c.req.text()));
  router.post("/json", async (c) => c.json(await c.req.json()));
  router.post("/lifted", async (c) => {
    c.env.bodyLimit = Infinity;
    return c.text(await c.req.text());
  });
  const body = JSON.stringify("x".repeat(20));
  for (const path of ["/text", "/json"]) {
    await assertJsonError(
      await router.request(path, { method: "POST", body }),
      413,
      "the request body is longer than 10 bytes",
    );
    await assertTextError(
      await router.request(`/v1.23${path}`, { method: "POST", body }),
      413,
      "the request body is longer than 10 bytes",
    );
  }
  const lifted = await router.request("/lifted", { method: "POST", body });
  assertEquals(await lifted.text(), body);
});

Deno.test("Router limits a body to 16 MiB by default", async () => {
  const { router } = echo({ method: "POST", body: "env" });
  const response = await router.request("/echo", {
    method: "POST",
    headers: { "Content-Length": `${16 * KIB * KIB + 1}` },
    body: "{}",
  });
  await assertJsonError(response, 413, "the request body is longer than 16777216 bytes");
});

Deno.test("Router gives up on a body that stops coming", async () => {
  using clock = new FakeClock();
  const { router } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 60_000 });
  router.post("/plain", async (c) => c.text(await c.req.text()));
  for (const path of ["/echo", "/plain"]) {
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      start: (controller) => controller.enqueue(new Uint8Array(3)),
    });
    const response = Promise.resolve(router.request(path, { method: "POST", body }));
    await clock.pass(59_999);
    assert(await isPending(response));
    await clock.pass(1);
    const message = "the request body comes too slowly, or no more";
    await assertJsonError(await response, 408, message);
  }
});

Deno.test("Router waits for a body that comes slowly", async () => {
  using clock = new FakeClock();
  const { router } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 2_000 });
  let left = 50;
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      if (left-- === 0) return controller.close();
      await new Promise((resolve) => setTimeout(resolve, 200));
      controller.enqueue(new TextEncoder().encode("x".repeat(200)));
    },
  });
  const response = router.request("/echo", { method: "POST", body });
  await clock.pass(50 * 200);
  assertMatch((await (await response).json()).stdin, /^x{10000}$/);
});

Deno.test("Router gives up on a body that trickles, unless its route lifts the limit", async () => {
  using clock = new FakeClock();
  const { router, engine } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 100 });
  engine.register("long", (job) => job.stdin.text().then((text) => job.print(text)));
  router.job({ method: "POST", path: "/long", job: "long", body: "stdin", bodyLimit: Infinity });
  for (const [path, status] of [["/echo", 408], ["/long", 200]] as const) {
    let left = 40;
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
      async pull(controller) {
        await new Promise((resolve) => setTimeout(resolve, 10));
        if (left-- === 0) controller.close();
        else controller.enqueue(new TextEncoder().encode("x"));
      },
    });
    const response = router.request(path, { method: "POST", body });
    await clock.pass(41 * 10);
    assertEquals((await response).status, status);
    await (await response).body?.cancel();
  }
});

const WEEK = 7 * 24 * 3_600_000;

Deno.test("Router waits for ever where it was told to", async () => {
  using clock = new FakeClock();
  const options = { bodyTimeout: Infinity, sendTimeout: Infinity };
  const { engine, router } = echo({ method: "POST", body: "stdin" }, options);
  engine.register("big", (job) => job.stdout.write(new Uint8Array(200 * KIB)));
  router.job({ method: "GET", path: "/big", job: "big" });
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, WEEK));
      controller.close();
    },
  });
  const response = router.request("/echo", { method: "POST", body });
  await clock.pass(WEEK);
  assertEquals((await (await response).json()).stdin, "");
  const big = await router.request("/big");
  await clock.pass(WEEK);
  assertEquals((await big.arrayBuffer()).byteLength, 200 * KIB);
});

Deno.test("Router answers 408 over a connection whose client sends half a body", async () => {
  await using server = await serve(
    ({ engine, router }) => {
      engine.register("read", async (job) => void await job.stdin.text());
      router.job({ method: "POST", path: "/read", job: "read", body: "stdin" });
      // After which old releases end it.
    },
    { bodyTimeout: 50 },
    { IdleTimeout: "1" },
  );
  using client = await asking(server.port, "POST /read", "Content-Length: 10");
  await client.send("half");
  await client.sees(
    /^HTTP\/1\.1 408 [^]*\r\n\r\n\{"message":"the request body comes too slowly, or no more"\}/,
  );
  assertEquals(server.engine.stats.running, 1);
  // What the client sends from now on is no request.
  await client.ended();
});

Deno.test("Router.job cuts an answer that the client does not take", async () => {
  using clock = new FakeClock();
  const { engine, router, lines } = make({ sendTimeout: 300_000 });
  const failed = Promise.withResolvers<unknown>();
  const signal = Promise.withResolvers<AbortSignal>();
  engine.register("big", async (job) => {
    signal.resolve(job.signal);
    try {
      for (;;) await job.stdout.write(new Uint8Array(64 * KIB));
    } catch (error) {
      failed.resolve(error);
      throw error;
    }
  });
  router.job({ method: "GET", path: "/big", job: "big" });
  const response = await router.request("/big");
  await clock.pass(299_999);
  assert(await isPending(failed.promise));
  await clock.pass(1);
  const error = await failed.promise;
  assertInstanceOf(error, TypedError);
  assertEquals([error.kind, error.message], ["timeout", "the client does not take its answer"]);
  assertStrictEquals((await signal.promise).reason, error);
  await assertRejects(() => response.text());
  await until(() => engine.stats.running === 0);
  assertEquals(lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router.job waits for a client that takes its answer slowly", async () => {
  using clock = new FakeClock();
  const { engine, router } = make({ sendTimeout: 2_000 });
  engine.register("big", async (job) => {
    for (let i = 0; i < 12; i++) await job.stdout.write(new Uint8Array(64 * KIB));
  });
  router.job({ method: "GET", path: "/big", job: "big" });
  const reader = (await router.request("/big")).body!.getReader();
  let size = 0;
  for (let part; !(part = await reader.read()).done;) {
    size += part.value.length;
    await clock.pass(1_900);
  }
  assertEquals(size, 768 * KIB);
});

Deno.test("Router.job cuts a client that reads nothing of a big answer", async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("endless", async (job) => {
      for (;;) await job.stdout.write(new Uint8Array(256 * KIB).fill(0x78));
    });
    router.job({ method: "GET", path: "/endless", job: "endless" });
  }, { sendTimeout: 100 });
  const { engine } = server;
  using client = await asking(server.port, "GET /endless");
  await until(() => engine.stats.failed === 1);
  // The daemon has nothing of it any more, whatever the client does.
  await until(async () => (await ask(engine, "stats")).apis[0].listeners[0].active === 0);
  assertNotMatch(await client.ended(), /\r\n0\r\n\r\n$/);
});

// Clients that leave, and handlers that misbehave.

Deno.test("Router.job aborts the job when the client leaves before the answer", async () => {
  const aborted = Promise.withResolvers<unknown>();
  const began = Promise.withResolvers<void>();
  await using server = await serve(({ engine, router }) => {
    engine.register("wait", async (job) => {
      job.signal.addEventListener("abort", () => aborted.resolve(job.signal.reason));
      began.resolve();
      await aborted.promise;
    });
    router.job({ method: "GET", path: "/wait", job: "wait" });
  });
  using client = await asking(server.port, "GET /wait");
  await soon(began.promise);
  client[Symbol.dispose]();
  const reason = await soon(aborted.promise);
  assertInstanceOf(reason, DOMException);
  assertEquals([reason.name, reason.message], ["AbortError", "The client has left."]);
  await until(() => server.engine.stats.running === 1);
});

Deno.test("Router.job aborts the job when the client leaves in the middle of a stream", async () => {
  const aborted = Promise.withResolvers<unknown>();
  const ended = Promise.withResolvers<unknown>();
  await using server = await serve(({ engine, router }) => {
    engine.register("tick", async (job) => {
      job.signal.addEventListener("abort", () => aborted.resolve(job.signal.reason));
      await job.print("first\n");
      await aborted.promise;
      // What is written from now on reaches nobody, and the job is told so.
      await job.print("second\n").then(ended.resolve, ended.resolve);
    });
    router.job({ method: "GET", path: "/tick", job: "tick", stream: true });
  });
  using client = await asking(server.port, "GET /tick");
  await client.sees(/first\n/);
  client[Symbol.dispose]();
  const reason = await soon(aborted.promise);
  assertInstanceOf(reason, DOMException);
  assertEquals(reason.name, "AbortError");
  await soon(ended.promise);
  await until(() => server.engine.stats.running === 1);
});

Deno.test("Router.job fails the writes of a job whose client has left the stream", async () => {
  const { engine, router, lines } = make();
  const failed = Promise.withResolvers<unknown>();
  engine.register("tick", async (job) => {
    await job.print("first\n");
    await new Promise<void>((resolve) => job.signal.addEventListener("abort", () => resolve()));
    try {
      await job.print("second\n");
    } catch (error) {
      failed.resolve(error);
      throw error;
    }
  });
  router.job({ method: "GET", path: "/tick", job: "tick", stream: true });
  const reader = (await router.request("/tick")).body!.getReader();
  await reader.read();
  await reader.cancel();
  assertInstanceOf(await soon(failed.promise), DOMException);
  await until(() => engine.stats.running === 0);
  // It is the client's doing, and no fault to warn of.
  assertEquals(lines.filter((line) => /^(warn|error) /.test(line)), []);
});

Deno.test("Router.job aborts the job with the request's own signal", async () => {
  for (const init of [{ method: "GET" }, { method: "POST" }, { method: "POST", body: "x" }]) {
    const { engine, router } = make();
    const began = Promise.withResolvers<void>();
    engine.register("wait", (job) =>
      new Promise((resolve) => {
        job.signal.addEventListener("abort", () => resolve(job.error(job.signal.reason)));
        began.resolve();
      }));
    router.job({ method: init.method as "GET" | "POST", path: "/wait", job: "wait" });
    const leaving = new AbortController();
    const answer = router.request("/wait", { ...init, signal: leaving.signal });
    await began.promise;
    leaving.abort(new Error("enough"));
    assertEquals(await (await soon(Promise.resolve(answer))).json(), { message: "enough" });
  }
});

Deno.test("a request with a body asks for its client's signal when a handler does, or a fetch", async () => {
  const { router } = make();
  const asked: string[] = [];
  const leaving = new AbortController();
  const info = {
    get signal() {
      asked.push("signal");
      return leaving.signal;
    },
  };
  router.post("/text", async (c) => c.text(await c.req.text()));
  router.post("/signal", (c) => c.json([c.req.raw.signal.aborted, c.env.signal.aborted]));
  router.post("/copy", (c) => c.json(new Request(c.req.raw).signal.aborted));
  const ask = async (path: string) => {
    const request = new Request(`http://localhost${path}`, { method: "POST", body: "a body" });
    return await (await router.fetch(request, info)).text();
  };
  assertEquals(await ask("/text"), "a body");
  assertEquals(asked, []);
  assertEquals(await ask("/signal"), "[false,false]");
  leaving.abort();
  assertEquals(await ask("/signal"), "[true,true]");
  assertEquals(await ask("/copy"), "true");
});

Deno.test("Router.job leaves the signal of an answered request alone", async () => {
  const signals: AbortSignal[] = [];
  await using server = await serve(({ engine, router }) => {
    engine.register("keep", (job) => {
      signals.push(job.signal);
      return job.print("{}");
    });
    router.job({ method: "GET", path: "/keep", job: "keep" });
  });
  using client = await asking(server.port, "GET /keep");
  await client.sees(/\{\}$/);
  client[Symbol.dispose]();
  await until(async () => (await ask(server.engine, "stats")).apis[0].listeners[0].active === 0);
  assertEquals(signals.map(({ aborted }) => aborted), [false]);
});

Deno.test("Router answers others while a handler waits for ever or fails", async () => {
  const release = Promise.withResolvers<void>();
  await using server = await serve(({ engine, router }) => {
    engine.register("never", () => release.promise);
    engine.register("throws", () => {
      throw new Error("boom");
    });
    engine.register("late", async (job) => {
      await settle();
      await job.print("a part of it");
      throw new Error("late boom");
    });
    for (const name of ["never", "throws", "late"]) {
      router.job({ method: "GET", path: `/${name}`, job: name });
    }
    router.get("/plain/never", async (c) => {
      await release.promise;
      return c.text("at last");
    });
    router.get("/plain/throws", () => {
      throw new Error("boom");
    });
    router.get("/plain/odd", () => {
      throw "no Error";
    });
    router.get("/plain/late", async () => {
      await settle();
      throw new Error("late boom");
    });
  });
  const url = `http://127.0.0.1:${server.port}`;
  const get = async (path: string) => {
    const response = await fetch(url + path);
    return [response.status, await response.text()];
  };
  using never = await asking(server.port, "GET /never", "Connection: close");
  using plain = await asking(server.port, "GET /plain/never", "Connection: close");
  await until(async () => (await ask(server.engine, "stats")).apis[0].listeners[0].requests === 2);
  for (let i = 0; i < 3; i++) {
    assertEquals(await get("/throws"), [500, '{"message":"boom"}']);
    assertEquals(await get("/late"), [500, '{"message":"late boom"}']);
    assertEquals(await get("/plain/throws"), [500, '{"message":"boom"}']);
    assertEquals(await get("/plain/late"), [500, '{"message":"late boom"}']);
    assertEquals((await get("/plain/odd"))[0], 500);
    assertEquals(await get("/_ping"), [200, "OK"]);
  }
  release.resolve();
  assertMatch(await never.ended(), /^HTTP\/1\.1 204 /);
  assertMatch(await plain.ended(), /^HTTP\/1\.1 200 [^]*at last$/);
});

// What a program adds.

Deno.test("Router answers the routes that a program adds, with and without a version", async () => {
  const { router } = make();
  router.get("/own/:id", (c) => c.json([c.req.param("id"), c.env.version ?? null, c.env.path]));
  router.post("/own", async (c) => c.text(await c.req.text(), 201));
  assertEquals(await (await router.request("/own/7")).json(), ["7", null, "/own/7"]);
  assertEquals(await (await router.request("/v1.24/own/7")).json(), ["7", "1.24", "/own/7"]);
  const posted = await router.request("/v1.24/own", { method: "POST", body: "hello" });
  assertEquals([posted.status, await posted.text()], [201, "hello"]);
});

Deno.test("Router runs middleware around jobs, and mounts other apps of Hono's", async () => {
  const { engine, router } = make();
  engine.register("hi", (job) => job.print("hi"));
  router.use("/guarded/*", async (c, next) => {
    if (c.req.header("authorization") !== "yes") throw new TypedError("unauthorized", "who?");
    await next();
    c.header("X-Seen", "1");
  });
  router.job({ method: "GET", path: "/guarded/hi", job: "hi" });
  router.route("/sub", new Hono().get("/x", (c) => c.text("sub x")));
  await assertJsonError(await router.request("/guarded/hi"), 401, "who?");
  const response = await router.request("/v1.24/guarded/hi", { headers: { authorization: "yes" } });
  assertEquals([await response.text(), response.headers.get("x-seen")], ["hi", "1"]);
  assertEquals(await (await router.request("/v1.24/sub/x")).text(), "sub x");
});

Deno.test("Router tells a handler where the client is, and whether it is there", async () => {
  let signal: AbortSignal | undefined;
  const began = Promise.withResolvers<void>();
  const release = Promise.withResolvers<void>();
  await using server = await serve(({ router }) => {
    router.get("/where", (c) => c.json(c.env.remoteAddr as Deno.NetAddr));
    router.get("/wait", async (c) => {
      signal = c.env.signal;
      began.resolve();
      await release.promise;
      return c.text("");
    });
  });
  using client = await asking(server.port, "GET /v1.24/where");
  const [, json] = await client.sees(/\r\n\r\n(\{.*\})$/);
  assertEquals(JSON.parse(json).hostname, "127.0.0.1");
  await client.send(header("GET /wait"));
  await soon(began.promise);
  assertEquals(signal!.aborted, false);
  client[Symbol.dispose]();
  await until(() => signal!.aborted);
  release.resolve();
  const { router } = make();
  router.get("/where", (c) => c.text(`${c.env.remoteAddr} ${c.env.signal.aborted}`));
  assertEquals(await (await router.request("/where")).text(), "undefined false");
});

Deno.test("Router logs requests where it was told to, and only there", async () => {
  const logged = (lines: string[]) => lines.filter((line) => line.startsWith("info "));
  const { router, lines } = make({ logging: true });
  await (await router.request("/v1.24/version?x=1")).text();
  await (await router.request("/nope", { method: "POST" })).text();
  await (await router.request("/version", { method: "OPTIONS" })).text();
  assertEquals(logged(lines), [
    "info GET /version 200",
    "info POST /nope 404",
    "info OPTIONS /version 200",
  ]);
  const quiet = make();
  await (await quiet.router.request("/version")).text();
  assertEquals(logged(quiet.lines), []);
});

Deno.test("Router logs how long an answer took", async () => {
  const fields: unknown[] = [];
  const engine = new Engine({ log: (_level, _message, more) => void fields.push(more) });
  const router = createRouter(engine, { logging: true });
  await router.request("/_ping");
  assertEquals(fields.length, 1);
  const { ms, ...more } = fields[0] as { ms: number };
  assertEquals(more, {});
  assert(ms >= 0 && ms < 60_000, `${ms}`);
});

Deno.test("Router gives OPTIONS to whoever handles it", async () => {
  const router = createRouter(new Engine({ log: () => {} }));
  router.options("/mine", (c) => c.text("mine"));
  assertEquals(await (await router.request("/mine", { method: "OPTIONS" })).text(), "mine");
  const { headers } = await router.request("/version", { method: "OPTIONS" });
  assertEquals(headers.get("allow"), "GET, OPTIONS");
});

Deno.test("createRouter with logging counts the time that a job takes at once", async () => {
  const times: unknown[] = [];
  const engine = new Engine({
    log: (_level, message, fields) => message.startsWith("GET") && times.push(fields?.ms),
  });
  engine.register("spin", () => {
    for (const end = performance.now() + 20; performance.now() < end;);
  });
  const router = createRouter(engine, { logging: true });
  router.job({ method: "GET", path: "/spin", job: "spin" });
  await router.request("/spin");
  assert(Number(times[0]) >= 20, `${times[0]} ms`);
});
