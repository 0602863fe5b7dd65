import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { Hono } from "npm:hono@4.13.19";
import { cors } from "npm:hono@4.13.19/cors";
import { Engine, TypedError } from "../engine.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import { createRouter } from "../router.ts";
import { settle, until } from "./support/daemon.ts";
import {
  ask,
  asking,
  assertJsonError,
  assertTextError,
  echo,
  header,
  make,
  serve,
} from "./support/router.ts";

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
        ...method === "HEAD" && { "content-length": "2" },
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
  assertMatch(head!, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\n$/);
  assertMatch(head!, /^api-version: 1\.47\r$/im);
  assertMatch(get!, /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nOK$/);
});

Deno.test("createRouter answers /version, /info and /debug/vars with a JSON object", async () => {
  const { router } = make();
  for (const prefix of PREFIXES) {
    for (
      const [path, key] of [
        ["/version", "ApiVersion"],
        ["/info", "NEventsListener"],
        ["/debug/vars", "uptime"],
      ] as const
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
      assertEquals([JSON.parse(line!).id, line!.split("\n").length], [id, 2]);
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
  assertEquals([JSON.parse(lines[0]!).id, lines.slice(1)], ["two", [""]]);
  const bad = await router.request("/events?since=yesterday");
  assertEquals(bad.status, 400);
  assertStringIncludes((await bad.json()).message, 'since="yesterday" is not a time');
});

Deno.test("createRouter refuses HEAD for a stream, which would have no end", async () => {
  const { router } = make();
  const response = await router.request("/events", { method: "HEAD" });
  assertEquals([response.status, response.headers.get("allow")], [405, "GET"]);
});

Deno.test("createRouter runs the job containers for /containers/json, if registered", async () => {
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

// Methods and paths.

Deno.test("Router answers an unknown path with 404, as JSON or text", async () => {
  const { router } = make();
  for (const method of ["GET", "POST", "DELETE"]) {
    for (const prefix of ["", "/v1.24", "/v1.47"]) {
      const response = await router.request(`${prefix}/nope`, { method });
      await assertJsonError(response, 404, "page not found: /nope");
    }
    for (const prefix of ["/v1.23", "/v1.12"]) {
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

Deno.test("Router refuses methods without a handler, whatever they are", async () => {
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

Deno.test("Router with cors sends CORS headers with every answer", async () => {
  const { router } = make({ cors: "*" });
  router.get("/throws", () => {
    throw new Error("boom");
  });
  // Immutable headers, as those of a fetched response.
  router.get("/redirect", () => Response.redirect("http://example.com/"));
  for (
    const [method, path, status] of [
      ["GET", "/_ping", 200],
      ["GET", "/v1.24/version", 200],
      ["OPTIONS", "/version", 204],
      ["OPTIONS", "/nope", 204],
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
    assertEquals([path, headers.get("access-control-allow-origin")], [path, "*"]);
    if (method !== "OPTIONS") continue;
    assertStringIncludes(headers.get("access-control-allow-headers")!, "Authorization");
    assertEquals(
      headers.get("access-control-allow-methods"),
      "GET,HEAD,POST,PUT,PATCH,DELETE",
    );
  }
});

Deno.test("Router with several origins answers each with its own, and Vary", async () => {
  const origins = ["https://one.example", "https://two.example"];
  for (const cors of [origins, "https://one.example"]) {
    const { router } = make({ cors });
    for (const origin of [...origins, "https://evil.example"]) {
      const allowed = [cors].flat().includes(origin) ? origin : null;
      for (const method of ["GET", "OPTIONS"]) {
        const { headers } = await router.request("/_ping", { method, headers: { Origin: origin } });
        assertEquals(headers.get("access-control-allow-origin"), allowed);
        assertStringIncludes(headers.get("vary")!, "Origin");
      }
    }
  }
});

Deno.test("Router gives OPTIONS to the middleware and the handlers that are there for it", async () => {
  const { router } = make();
  router.use("/api/*", cors({ origin: "https://one.example", allowHeaders: ["X-Mine"] }));
  router.get("/api/x", (c) => c.text("x"));
  router.all("/all", (c) => c.text(`all ${c.req.method}`));
  router.options("/own", (c) => c.text("own", 200, { "Access-Control-Allow-Origin": "mine" }));
  router.get("/own", (c) => c.text("x"));
  const ask = (path: string) =>
    router.request(path, {
      method: "OPTIONS",
      headers: { "Origin": "https://one.example", "Access-Control-Request-Method": "GET" },
    });
  const preflight = await ask("/v1.24/api/x");
  assertEquals(preflight.status, 204);
  assertEquals(preflight.headers.get("access-control-allow-origin"), "https://one.example");
  assertEquals(preflight.headers.get("access-control-allow-headers"), "X-Mine");
  assertEquals(await (await ask("/all")).text(), "all OPTIONS");
  const own = await ask("/own");
  assertEquals([own.headers.get("access-control-allow-origin"), await own.text()], ["mine", "own"]);
});

Deno.test("Router without cors sends no CORS headers", async () => {
  const { router } = make();
  for (
    const [method, path] of [["GET", "/_ping"], ["OPTIONS", "/version"], ["GET", "/nope"]] as const
  ) {
    const { headers } = await router.request(path, {
      method,
      headers: { Origin: "https://example.com" },
    });
    const names = [...headers.keys()].filter((name) => name.startsWith("access-control-"));
    assertEquals(names, []);
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
    ] as const
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

Deno.test("Router.job refuses a row that cannot be, and says which and why", () => {
  const { router } = make();
  const row = { method: "GET", path: "/x", job: "x" } as const;
  const refused = (wrong: Record<string, unknown>, problem: string) =>
    assertThrows(() => router.job({ ...row, ...wrong } as never), TypeError, problem);
  for (const status of [99, 600]) {
    refused({ status }, "row GET /x: ");
    refused({ answers: { [status]: {} } }, "row GET /x: ");
  }
  refused({ contentType: "text/plain\nX-Other: 1" }, "row GET /x: ");
  refused(
    { method: "FETCH" },
    'row FETCH /x: the method is "FETCH", expected one of GET, HEAD, POST, ',
  );
  refused({ method: "get" }, 'row get /x: the method is "get", expected one of ');
  refused({ body: "xml" }, 'row GET /x: body is "xml", expected "stdin", "env" or "form"');
  refused({ bodyLimit: -1 }, "row GET /x: bodyLimit is -1, expected a number of bytes");
  refused({ job: "" }, "row GET /x: the job is missing");
  refused({ path: "/:id{[}" }, "row GET /:id{[}: Invalid regular expression");
  refused({ path: "/:id/:id" }, 'row GET /:id/:id: the variable "id" occurs twice, expected once');
  // A refused row leaves nothing behind.
  router.job(row);
  for (const path of ["/x", "/things/:id"]) {
    if (path !== "/x") router.job({ ...row, path });
    refused({ path }, `row GET ${path}: another row matches these requests already`);
  }
  refused({ path: "/things/:name" }, "row GET /things/:name: another row matches these requests");
  router.job({ ...row, method: "POST" });
  router.job({ ...row, path: "/things/:id{[0-9]+}" });
});

Deno.test("Router.job names rows whose jobs no module has registered, when the gate opens", async () => {
  const { engine, router, lines } = make();
  engine.register("here", () => {});
  router.job({ method: "GET", path: "/here", job: "here" });
  router.basePath("/api").job({ method: "POST", path: "/there/:id", job: "missing" });
  assertEquals(lines, []);
  await engine.job("acceptconnections").run();
  assertEquals(lines.filter((line) => line.startsWith("warn ")), [
    "warn no such job registered: missing, for the row POST /api/there/:id",
  ]);
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
    for (const path of ["/throws", "/late", "/plain/throws", "/plain/late", "/plain/odd"]) {
      assertEquals([path, (await get(path))[0]], [path, 500]);
    }
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

Deno.test("Router logs requests with logging, and not without", async () => {
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

Deno.test("Router logs how long an answer took, that of a job which ends at once too", async () => {
  const logged: Record<string, unknown>[] = [];
  const engine = new Engine({
    log: (_level, message, fields = {}) => message.startsWith("GET") && logged.push(fields),
  });
  engine.register("spin", () => {
    for (const end = performance.now() + 20; performance.now() < end;);
  });
  const router = createRouter(engine, { logging: true });
  router.job({ method: "GET", path: "/spin", job: "spin" });
  await router.request("/spin");
  const [{ ms, ...more } = {}] = logged;
  assertEquals([logged.length, more], [1, {}]);
  assert(Number(ms) >= 20 && Number(ms) < 60_000, `${ms} ms`);
});
