import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { Hono } from "npm:hono@4.13.19";
import { basicAuth } from "npm:hono@4.13.19/basic-auth";
import { setCookie } from "npm:hono@4.13.19/cookie";
import { etag } from "npm:hono@4.13.19/etag";
import { requestId } from "npm:hono@4.13.19/request-id";
import { Engine } from "../../engine.ts";
import { createRouter } from "../../router.ts";
import { attachProfiler } from "../../profiler/profiler.ts";
import { Daemon, missing, project, TempFolder } from "../support/daemon.ts";
import { assertJsonError, make } from "../support/router.ts";

const BUILTINS = [
  "/_ping",
  "/version",
  "/info",
  "/events?until=0s",
  "/containers/json",
  "/debug/vars",
];

Deno.test("createRouter adds the built-in routes after a module's middleware", async () => {
  const { engine, router } = make();
  engine.register("containers", (job) => job.print("[]"));
  router.use("*", basicAuth({ username: "me", password: "secret" }));
  await attachProfiler(router, engine);
  router.get("/mine", (c) => c.text("mine"));
  const paths = [...BUILTINS, "/mine", "/nope", "/debug/pprof/heap", "/debug/pprof/"];
  const headers = { Authorization: `Basic ${btoa("me:secret")}` };
  for (const path of paths) {
    for (const prefix of ["", "/v1.24", "/v9.9", "//v1.24"]) {
      for (const method of ["GET", "HEAD", "POST", "OPTIONS", "DELETE", "PURGE"]) {
        const response = await router.request(`http://localhost${prefix}${path}`, { method });
        await response.body?.cancel();
        assertEquals([method, prefix + path, response.status], [method, prefix + path, 401]);
      }
    }
  }
  for (const path of BUILTINS) {
    const response = await router.request(path, { headers });
    await response.body?.cancel();
    assertEquals([path, response.ok], [path, true]);
  }
  await engine.shutdown();
});

Deno.test("createRouter gives a module's route precedence over a built-in one", async () => {
  const { engine, router } = make();
  engine.register("mine", (job) => job.print('"mine"'));
  router.job({ method: "GET", path: "/info", job: "mine" });
  router.get("/version", (c) => c.text("mine"));
  router.get("/_ping", (c) => c.text("pong"));
  router.get("/debug/*", (c) => c.text("all of mine"));
  assertEquals(await (await router.request("/v1.24/info")).json(), "mine");
  assertEquals(await (await router.request("/version")).text(), "mine");
  assertEquals(await (await router.request("/_ping")).text(), "pong");
  assertEquals(await (await router.request("/debug/vars")).text(), "all of mine");
  assertEquals((await router.request("/events?until=0s")).status, 200);
});

Deno.test("createRouter leaves out the built-in routes that are not wanted", async () => {
  const paths = (builtins: boolean | string[]) => {
    const { router } = make({ builtins });
    return Promise.all(BUILTINS.map(async (path) => {
      const response = await router.request(path);
      await response.body?.cancel();
      return response.status !== 404;
    }));
  };
  assertEquals(await paths(true), [true, true, true, true, true, true]);
  assertEquals(await paths(false), [false, false, false, false, false, false]);
  assertEquals(await paths([]), [false, false, false, false, false, false]);
  assertEquals(await paths(["/_ping", "/version"]), [true, true, false, false, false, false]);
  assertEquals(await paths(["/containers", "/debug/"]), [false, false, false, false, true, true]);
  for (const wrong of ["/nope", "/cont", "version", ""]) {
    assertThrows(
      () => createRouter(new Engine(), { builtins: [wrong] }),
      TypeError,
      `builtins has "${wrong}", expected paths such as /_ping, `,
    );
  }
});

Deno.test("Router keeps headers that middleware sets before next()", async () => {
  const { engine, router } = make();
  engine.register("whole", (job) => job.print("{}"));
  engine.register("late", async (job) => {
    await job.engine.job("true").run();
    await job.print("{}");
  });
  engine.register("quiet", () => {});
  engine.register("stream", (job) => job.print("{}"));
  engine.register("fails", () => {
    throw new Error("boom");
  });
  router.use(requestId());
  router.use("*", async (c, next) => {
    setCookie(c, "a", "1");
    setCookie(c, "b", "2");
    c.header("Cache-Control", "no-store");
    await next();
    c.header("X-After", "1");
  });
  for (const job of ["whole", "late", "quiet", "stream", "fails", "missing"]) {
    router.job({ method: "GET", path: `/${job}`, job, stream: job === "stream" });
  }
  router.get("/throws", () => {
    throw new Error("boom");
  });
  router.get("/redirect", (c) => c.redirect("/whole"));
  for (
    const [path, status] of [
      ["/whole", 200],
      ["/late", 200],
      ["/quiet", 204],
      ["/stream", 200],
      ["/fails", 500],
      ["/missing", 501],
      ["/throws", 500],
      ["/redirect", 302],
      ["/nope", 404],
      ["/v9.9/whole", 400],
      ["/v1x/whole", 400],
      ["/_ping", 200],
    ] as const
  ) {
    for (const method of ["GET", "HEAD", ...path === "/whole" ? ["DELETE", "OPTIONS"] : []]) {
      if (method === "HEAD" && path === "/stream") continue;
      const response = await router.request(path, { method });
      await response.body?.cancel();
      const { headers } = response;
      const expected = method === "DELETE" ? 405 : method === "OPTIONS" ? 200 : status;
      assertEquals([method, path, response.status], [method, path, expected]);
      assertEquals(headers.getSetCookie(), ["a=1; Path=/", "b=2; Path=/"]);
      assertEquals([path, headers.get("x-after")], [path, "1"]);
      assertMatch(headers.get("x-request-id")!, /^[\da-f-]{36}$/);
      if (path !== "/_ping") assertEquals([path, headers.get("cache-control")], [path, "no-store"]);
    }
  }
});

Deno.test("Router names itself and its API on every answer", async () => {
  const { engine, router } = make({ version: "9.8.7" });
  engine.register("fails", () => {
    throw new Error("boom");
  });
  router.job({ method: "GET", path: "/fails", job: "fails" });
  router.get("/text", (c) => c.text("x"));
  router.get("/own", (c) => c.text("x", 200, { Server: "mine" }));
  router.get("/redirect", () => Response.redirect("http://localhost/"));
  router.get("/odd", () => "odd" as never);
  router.mount("/m", () => new Response("mounted"));
  // deno-fmt-ignore
  const paths = ["/version", "/_ping", "/fails", "/text", "/own", "/redirect", "/odd", "/m/x", "/nope", "/v9.9/text",
    "/v1x", "/containers/json"];
  for (const path of paths) {
    for (const method of ["GET", "HEAD", "DELETE", "OPTIONS"]) {
      const { body, headers } = await router.request(path, { method });
      await body?.cancel();
      const server = path === "/own" && ["GET", "HEAD"].includes(method)
        ? "mine"
        : `Floodgate/9.8.7 (${Deno.build.os})`;
      assertEquals([path, headers.get("server")], [path, server]);
      assertEquals(headers.get("api-version"), "1.47");
      assertEquals(headers.get("ostype"), Deno.build.os);
    }
  }
});

Deno.test("Router gives variables to its jobs as Hono's grammar names them", async () => {
  const { engine, router } = make();
  engine.register("args", (job) => job.print(JSON.stringify(job.args)));
  const cases: [pattern: string, path: string, args: string[]][] = [
    ["/users/:user-id", "/users/7", ["7"]],
    ["/pets/:kind{(?:cat|dog)}/:id", "/pets/cat/7", ["cat", "7"]],
    ["/img/:ref{[a-z]+:latest}/json", "/img/nginx:latest/json", ["nginx:latest"]],
    ["/images/:name{.+}/json", "/images/a/b:c/json", ["a/b:c"]],
    ["/code/:code{[0-9]{3}}", "/code/404", ["404"]],
    ["/file/:name.json", "/file/x.json", ["x.json"]],
    ["/opt/:one/:two?", "/opt/1", ["1", ""]],
    ["/opt2/:one/:two{[0-9]+}?", "/opt2/1/2", ["1", "2"]],
    ["/all/*", "/all/x/y", []],
    ["/:a/mid/:b", "/1/mid/2", ["1", "2"]],
  ];
  for (const [path] of cases) router.job({ method: "GET", path, job: "args" });
  for (const [, path, args] of cases) {
    assertEquals([path, await (await router.request(`/v1.24${path}`)).json()], [path, args]);
  }
});

Deno.test("Router gives a job all values of a query parameter", async () => {
  const { engine, router } = make();
  engine.register("query", (job) =>
    job.print(JSON.stringify([
      job.getenvList("names"),
      job.env.toMultiMap().get("names") ?? null,
      job.getenv("names"),
    ])));
  router.job({ method: "GET", path: "/query", job: "query", query: ["names"] });
  for (
    const [query, ...expected] of [
      ["names=a&names=b", ["a", "b"], ["a", "b"], "b"],
      ["names=a&other=c", ["a"], ["a"], "a"],
      ["names=a%2Cb&names=", ["a,b", ""], ["a,b", ""], ""],
      ['names=["x","y"]', ["x", "y"], ['["x","y"]'], '["x","y"]'],
      ["other=1", [], null, ""],
    ] as const
  ) {
    const response = await router.request(`/query?${query}`);
    assertEquals([query, await response.json()], [query, expected] as unknown[]);
  }
});

Deno.test("Router.basePath gives a router whose rows, limits, versions and errors are as at the top", async () => {
  const { engine, router } = make({ jsonLimit: 100 });
  engine.register("args", (job) => job.print(JSON.stringify([job.args, job.env.toObject()])));
  const api = router.basePath("/api");
  api.job({ method: "POST", path: "/things/:id", job: "args", body: "env" });
  api.basePath("/deep").get("/x", (c) => c.text(`${c.env.path} ${c.env.version}`));
  assertThrows(
    () => router.job({ method: "POST", path: "/api/things/:name", job: "args" }),
    TypeError,
    "another row matches these requests already",
  );
  for (const app of [router, api]) {
    const post = (path: string, body: string) => app.request(path, { method: "POST", body });
    const good = await post("/v1.24/api/things/7", '{"a":"b"}');
    assertEquals(await good.json(), [["7"], { a: "b" }]);
    const long = await post("/api/things/7", JSON.stringify({ a: "x".repeat(100) }));
    await assertJsonError(long, 413, "the request body is longer than 100 bytes");
    assertEquals(await (await app.request("/v1.24/api/deep/x")).text(), "/api/deep/x 1.24");
    await assertJsonError(await app.request("/api/nope"), 404, "page not found: /api/nope");
    assertEquals((await app.request("/v9.9/api/deep/x")).status, 400);
    assertEquals((await app.request("/_ping")).status, 200);
  }
});

Deno.test("Router in another app of Hono's has its versions, limits and errors there", async () => {
  const { engine, router } = make({ jsonLimit: 100, bodyLimit: 1_000 });
  engine.register("args", (job) => job.print(JSON.stringify([job.args, job.env.toObject()])));
  engine.register("fails", () => {
    throw new Error("boom");
  });
  engine.register("size", async (job) => {
    await job.print(String((await job.stdin.text()).length));
  });
  router.job({ method: "POST", path: "/things/:id", job: "args", body: "env" });
  router.job({ method: "GET", path: "/fails", job: "fails" });
  router.job({ method: "PUT", path: "/any", job: "size", body: "stdin", bodyLimit: Infinity });
  router.post("/text", async (c) => c.text(String((await c.req.text()).length)));
  router.get("/user", (c) => {
    c.set("answered" as never, "yes" as never);
    return c.json([c.get("user" as never), c.env.path, c.env.version ?? null]);
  });
  const seen: unknown[] = [];
  const parent = new Hono<{ Variables: { user: string; answered?: string } }>()
    .use("*", async (c, next) => {
      c.set("user", "alice");
      c.header("X-Outer", "1");
      await next();
      seen.push(c.get("answered"));
    })
    .route("/d", router)
    .route("/:tenant/e/", router)
    .mount("/m", router.fetch)
    .get("/d/mine", (c) => c.text("mine"))
    .get("/d/user", (c) => c.text("never"));
  const twice = make();
  twice.router.mount("/m", router.fetch);
  twice.router.route("/d", router);
  for (
    const [app, base] of [
      [parent, "/d"],
      [parent, "/acme/e"],
      [parent, "/m"],
      [twice.router, "/m"],
      [twice.router, "/d"],
    ] as const
  ) {
    const ask = (path: string, init: RequestInit = {}) => app.request(base + path, init);
    const post = (path: string, body: string, method = "POST") => ask(path, { method, body });
    const good = await post("/v1.24/things/7", '{"a":"b"}');
    assertEquals([base, await good.json()], [base, [["7"], { a: "b" }]]);
    const json = JSON.stringify({ a: "x".repeat(100) });
    await assertJsonError(
      await post("/things/7", json),
      413,
      "the request body is longer than 100 bytes",
    );
    for (const method of ["POST", "FOO", "QUERY", "OPTIONS"]) {
      if (method !== "POST") continue;
      const long = await post("/text", "x".repeat(1_001), method);
      await assertJsonError(long, 413, "the request body is longer than 1000 bytes");
    }
    assertEquals(await (await post("/any", "x".repeat(20_000), "PUT")).text(), "20000");
    const failed = await ask("/v1.23/fails");
    assertEquals(failed.status, 500);
    assertMatch(await failed.text(), /^internal error, request [\w-]+\n$/);
    assertEquals((await ask("/v9.9/user")).status, 400);
    const nope = await ask("/nope");
    assertStringIncludes(nope.headers.get("server")!, "Floodgate/");
    await assertJsonError(nope, 404, "page not found: /nope");
    const head = await ask("/user", { method: "HEAD" });
    assertEquals([head.status, Number(head.headers.get("content-length")) > 0], [200, true]);
    const user = await (await ask("/v1.30/user")).json();
    assertEquals(user, [app === parent && base !== "/m" ? "alice" : null, "/user", "1.30"]);
  }
  assertEquals((await parent.request("/d/user")).headers.get("x-outer"), "1");
  assertEquals(seen.at(-1), "yes");
  assertEquals(await (await parent.request("/d/mine")).text(), "mine");
});

Deno.test("Router lets ETags and the like see job answers", async () => {
  const { engine, router } = make();
  engine.register("text", (job) => job.print("some text"));
  router.use("*", etag());
  router.job({ method: "GET", path: "/text", job: "text" });
  const first = await router.request("/text");
  assertEquals(await first.text(), "some text");
  const headers = { "If-None-Match": first.headers.get("etag")! };
  assertEquals((await router.request("/text", { headers })).status, 304);
});

Deno.test("Router ends Hono's streamSSE when the daemon stops, and its loop with it", {
  ignore: await missing("curl", ["--version"]),
}, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const module = project("tests/support/fixtures/clock.ts");
  await using daemon = Daemon.start([
    ...["-H", `unix://${path}`, "--install", module, "--shutdown-timeout", "60"],
  ]);
  await daemon.open();
  const curl = new Deno.Command("curl", {
    args: ["-sS", "--no-buffer", "--unix-socket", path, "http://localhost/clock"],
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  const reader = curl.stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("data: 2")) text += (await reader.read()).value;
  const started = performance.now();
  assertEquals(await daemon.end(), 0);
  assert(performance.now() - started < 20_000, "it waited for the stream");
  for (let part; (part = (await reader.read()).value) !== undefined;) text += part;
  await curl.stderr.cancel();
  assertEquals((await curl.status).code, 0); // The stream has an end: it was not cut.
  assertEquals(daemon.stdout.includes("the loop has ended"), true);
});
