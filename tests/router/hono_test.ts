import { assert, assertEquals } from "@std/assert";
import { createRoute, OpenAPIHono, z } from "npm:@hono/zod-openapi@1.6.3";
import { zValidator } from "npm:@hono/zod-validator@0.9.1";
import { Hono } from "npm:hono@4.13.19";
import { basicAuth } from "npm:hono@4.13.19/basic-auth";
import { bearerAuth } from "npm:hono@4.13.19/bearer-auth";
import { bodyLimit } from "npm:hono@4.13.19/body-limit";
import { cache } from "npm:hono@4.13.19/cache";
import { every, except } from "npm:hono@4.13.19/combine";
import { compress } from "npm:hono@4.13.19/compress";
import { contextStorage, getContext } from "npm:hono@4.13.19/context-storage";
import { getCookie, getSignedCookie, setCookie, setSignedCookie } from "npm:hono@4.13.19/cookie";
import { cors } from "npm:hono@4.13.19/cors";
import { csrf } from "npm:hono@4.13.19/csrf";
import { getConnInfo, serveStatic } from "npm:hono@4.13.19/deno";
import { etag } from "npm:hono@4.13.19/etag";
import { createFactory } from "npm:hono@4.13.19/factory";
import { html } from "npm:hono@4.13.19/html";
import { HTTPException } from "npm:hono@4.13.19/http-exception";
import { ipRestriction } from "npm:hono@4.13.19/ip-restriction";
import { jwt, sign } from "npm:hono@4.13.19/jwt";
import { languageDetector } from "npm:hono@4.13.19/language";
import { logger } from "npm:hono@4.13.19/logger";
import { methodOverride } from "npm:hono@4.13.19/method-override";
import { poweredBy } from "npm:hono@4.13.19/powered-by";
import { prettyJSON } from "npm:hono@4.13.19/pretty-json";
import { requestId } from "npm:hono@4.13.19/request-id";
import { matchedRoutes, routePath } from "npm:hono@4.13.19/route";
import { secureHeaders } from "npm:hono@4.13.19/secure-headers";
import { stream, streamSSE, streamText } from "npm:hono@4.13.19/streaming";
import { timeout } from "npm:hono@4.13.19/timeout";
import { endTime, startTime, timing } from "npm:hono@4.13.19/timing";
import { appendTrailingSlash, trimTrailingSlash } from "npm:hono@4.13.19/trailing-slash";
import { validator } from "npm:hono@4.13.19/validator";
import { Engine } from "../../engine.ts";
import { createRouter } from "../../router.ts";
import { Authority } from "../support/certificates.ts";
import { TempFolder } from "../support/daemon.ts";
import { Served } from "../support/served.ts";
import { clientOf, settings } from "../support/tls.ts";

const SECRET = "it is only a test";

/** An app as its author would write it for Deno.serve, with all that Hono brings. */
function build(app: Hono, files: string, logged: string[]): void {
  app.notFound((c) => c.json({ nothing: c.req.path }, 404));
  app.onError((error, c) => {
    if (error instanceof HTTPException) return error.getResponse();
    return c.json({ failed: error.message }, 500);
  });
  app.use(requestId());
  app.use(poweredBy());
  app.use(contextStorage());
  app.use("/logged/*", logger((line) => logged.push(line.replace(/\d+m?s$/, "N"))));
  app.get("/logged/x", (c) => c.text(`x ${getContext().req.path}`));

  app.get("/text", (c) => c.text("hello"));
  app.get("/json", (c) => c.json({ a: [1, "ä", null] }, 200, { "X-Method": c.req.method }));
  app.get("/html", (c) => c.html(html`<p>${"<&>"}</p>`));
  app.get("/null", (c) => c.body(null, 204));
  app.get("/status", (c) => {
    c.status(418);
    c.header("X-A", "1");
    c.header("X-A", "2", { append: true });
    return c.body("teapot");
  });
  app.get(
    "/raw",
    () => new Response(new Uint8Array([0, 255, 10]), { headers: { "X-Raw": "yes" } }),
  );
  app.get("/redirect", (c) => c.redirect("/text?from=here", 307));
  app.get("/nothing", () => undefined as never);
  app.get("/found", (c) => c.notFound());
  app.get("/throws", () => {
    throw new Error("boom");
  });
  app.get("/rejects", async () => {
    await Promise.resolve();
    throw new HTTPException(409, { message: "taken" });
  });
  app.get("/exception", () => {
    throw new HTTPException(401, {
      res: new Response("who?", { headers: { "WWW-Authenticate": "Test" } }),
    });
  });
  app.get(
    "/params/:a/:b{[0-9]+}/:c?",
    (c) =>
      c.json([
        c.req.param(),
        routePath(c),
        matchedRoutes(c).length > 0,
        c.req.query(),
        c.req.queries(),
      ]),
  );
  app.get("/wild/*", (c) => c.text(c.req.path));
  app.all("/all", async (c) => c.text(`${c.req.method} ${await c.req.text()}`));
  app.on(["PUT", "PURGE"], ["/on1", "/on2"], (c) => c.text(`${c.req.method} ${c.req.path}`));
  app.get("/url", (c) => c.text(new URL(c.req.url).pathname + new URL(c.req.url).search));
  app.get(
    "/headers",
    (c) => c.json([c.req.header("x-mine") ?? null]),
  );
  app.get("/cookies", async (c) => {
    setCookie(c, "plain", "1", { path: "/", httpOnly: true, sameSite: "Lax" });
    await setSignedCookie(c, "signed", "value", SECRET);
    return c.json([
      getCookie(c, "plain") ?? null,
      await getSignedCookie(c, SECRET, "signed") ?? null,
    ]);
  });
  app.post("/form", async (c) => c.json(await c.req.parseBody({ all: true })));
  app.post("/echo", (c) => c.body(c.req.raw.body!, 200, { "Content-Type": "application/x-echo" }));
  app.post("/bytes", async (c) => c.text(String((await c.req.arrayBuffer()).byteLength)));
  app.get("/files/*", serveStatic({ root: files, rewriteRequestPath: (path) => path.slice(6) }));

  // Middleware, each below a path of its own.
  app.use("/basic/*", basicAuth({ username: "me", password: "secret" }));
  app.get("/basic/x", (c) => c.text("in"));
  app.use("/bearer/*", bearerAuth({ token: "tok" }));
  app.get("/bearer/x", (c) => c.text("in"));
  app.use("/limit/*", bodyLimit({ maxSize: 10, onError: (c) => c.text("too much", 413) }));
  app.post("/limit/x", async (c) => c.text(await c.req.text()));
  app.get("/cache/x", cache({ cacheName: `test-${crypto.randomUUID()}`, wait: true }), (c) => {
    c.header("Cache-Control", "max-age=10");
    return c.text("cached");
  });
  app.use("/combine/*", except("/combine/open", every(bearerAuth({ token: "tok" }), csrf())));
  app.get("/combine/open", (c) => c.text("open"));
  app.get("/combine/shut", (c) => c.text("shut"));
  app.use("/compress/*", compress({ threshold: 10 }));
  app.get("/compress/x", (c) => c.text("some text that is long enough ".repeat(100)));
  app.use(
    "/cors/*",
    cors({ origin: ["https://one.example"], allowHeaders: ["X-Mine"], credentials: true }),
  );
  app.get("/cors/x", (c) => c.text("x"));
  app.use("/csrf/*", csrf());
  app.post("/csrf/x", async (c) => c.text(await c.req.text()));
  app.use("/etag/*", etag());
  app.get("/etag/x", (c) => c.text("tagged"));
  app.use("/ip/*", ipRestriction(getConnInfo, { denyList: [], allowList: ["127.0.0.1", "::1"] }));
  app.get("/ip/x", (c) => c.text("near"));
  app.use("/jwt/*", jwt({ secret: SECRET, alg: "HS256" }));
  app.get("/jwt/x", (c) => c.json(c.get("jwtPayload" as never)));
  app.use(
    "/lang/*",
    languageDetector({ supportedLanguages: ["en", "de"], fallbackLanguage: "en" }),
  );
  app.get("/lang/x", (c) => c.text(String(c.get("language" as never))));
  app.use("/override/*", methodOverride({ app }));
  app.post("/override/x", (c) => c.text("posted"));
  app.delete("/override/x", (c) => c.text("deleted"));
  app.use("/pretty/*", prettyJSON());
  app.get("/pretty/x", (c) => c.json({ a: 1 }));
  app.use("/secure/*", secureHeaders());
  app.get("/secure/x", (c) => c.text("secure"));
  app.use("/timeout/*", timeout(20));
  app.get("/timeout/x", async (c) => {
    await new Promise((resolve) => setTimeout(resolve, 60)); // Past the timeout above.
    return c.text("late");
  });
  app.get("/timeout/y", (c) => c.text("in time"));
  app.use("/timing/*", timing());
  app.get("/timing/x", (c) => {
    startTime(c, "step");
    endTime(c, "step");
    return c.text("timed");
  });
  app.use("/trim/*", trimTrailingSlash());
  app.get("/trim/x", (c) => c.text("trimmed"));
  app.use("/append/*", appendTrailingSlash());
  app.get("/append/x/", (c) => c.text("appended"));
  app.post(
    "/validator",
    validator(
      "json",
      (value, c) => typeof value.name === "string" ? value : c.text("no name", 422),
    ),
    (c) => c.json(c.req.valid("json")),
  );

  // Validation with a schema.
  const schema = z.object({ name: z.string().min(2), age: z.coerce.number().int().optional() });
  app.post("/zod/json", zValidator("json", schema), (c) => c.json(c.req.valid("json"), 201));
  app.post("/zod/form", zValidator("form", schema), (c) => c.json(c.req.valid("form")));
  app.get("/zod/query", zValidator("query", schema), (c) => c.json(c.req.valid("query")));
  const described = new OpenAPIHono();
  described.openapi(
    createRoute({
      method: "post",
      path: "/things/{id}",
      request: {
        params: z.object({ id: z.string().openapi({ param: { name: "id", in: "path" } }) }),
        body: { content: { "application/json": { schema } }, required: true },
      },
      responses: { 200: { content: { "application/json": { schema } }, description: "it" } },
    }),
    (c) => c.json({ ...c.req.valid("json"), id: c.req.valid("param").id } as never, 200),
  );
  described.doc31("/doc", { openapi: "3.1.0", info: { title: "things", version: "1" } });
  app.route("/openapi", described);

  // Apps in apps.
  const sub = new Hono().basePath("/v2x").get(
    "/y",
    (c) => c.text(`y ${c.req.path} ${routePath(c)}`),
  );
  sub.onError((_error, c) => c.text("sub failed", 503));
  sub.get("/throws", () => {
    throw new Error("boom");
  });
  app.route("/sub", sub);
  app.mount("/mounted", (request: Request) => new Response(new URL(request.url).pathname));
  const factory = createFactory<{ Variables: { user: string } }>();
  const user = factory.createMiddleware(async (c, next) => {
    c.set("user", "alice");
    await next();
    c.res.headers.set("X-After", "1");
  });
  app.get("/factory", ...factory.createHandlers(user, (c) => c.text(c.var.user)));
  app.basePath("/based").get("/x", (c) => c.text(c.req.path));

  // Streams.
  app.get("/stream", (c) =>
    stream(c, async (out) => {
      await out.write(new Uint8Array([1, 2, 3]));
      await out.pipe(ReadableStream.from([new Uint8Array([4])]));
    }));
  app.get("/stream/text", (c) =>
    streamText(c, async (out) => {
      for (let i = 0; i < 3; i++) {
        await out.writeln(`line ${i}`);
        await out.sleep(1);
      }
    }));
  app.get("/sse", (c) =>
    streamSSE(c, async (out) => {
      for (let id = 0; id < 3; id++) {
        await out.writeSSE({ data: `at ${id}`, event: "tick", id: `${id}` });
      }
    }));
  app.get("/big", (c) => c.body("x".repeat(300_000)));
}

interface Asked {
  path: string;
  init?: RequestInit;
  /** Requests that only make sense where clients have an address. */
  tcp?: boolean;
}

async function requests(): Promise<Asked[]> {
  const json = (path: string, value: unknown, type = "application/json"): Asked => ({
    path,
    init: { method: "POST", headers: { "Content-Type": type }, body: JSON.stringify(value) },
  });
  const form = (path: string, fields: Record<string, string>): Asked => ({
    path,
    init: { method: "POST", body: new URLSearchParams(fields) },
  });
  const bearing = (token: string) => ({ headers: { Authorization: `Bearer ${token}` } });
  const multipart = new FormData();
  multipart.append("a", "1");
  multipart.append("a", "2");
  multipart.append("file", new File(["content"], "x.txt", { type: "text/plain" }));
  const token = await sign({ sub: "alice", exp: 4_000_000_000 }, SECRET, "HS256");
  const gets = [
    "/text",
    "/json",
    "/html",
    "/null",
    "/status",
    "/raw",
    "/redirect",
    "/nothing",
    "/found",
    "/throws",
    "/rejects",
    "/exception",
    "/params/x%20y/7/z?a=1&a=2&b=%C3%A4",
    "/params/%2F/7",
    "/params/x/y",
    "/wild/a/../b",
    "/wild/%E4",
    "/all",
    "/on1",
    "/url?x=%20y",
    "/cookies",
    "/files/hello.txt",
    "/files/none.txt",
    "/files/../../etc/passwd",
    "/basic/x",
    "/bearer/x",
    "/cache/x",
    "/cache/x",
    "/combine/open",
    "/combine/shut",
    "/compress/x",
    "/cors/x",
    "/etag/x",
    "/jwt/x",
    "/lang/x",
    "/logged/x",
    "/pretty/x?pretty",
    "/secure/x",
    "/timeout/x",
    "/timeout/y",
    "/timing/x",
    "/trim/x",
    "/trim/x/",
    "/append/x",
    "/append/x/",
    "/zod/query?name=alice&age=7",
    "/zod/query?name=a",
    "/openapi/doc",
    "/openapi/nope",
    "/sub/v2x/y",
    "/sub/v2x/throws",
    "/sub/v2x/nope",
    "/mounted/a/b",
    "/factory",
    "/based/x",
    "/stream",
    "/stream/text",
    "/sse",
    "/big",
    "/nope",
    "//nope",
    "/",
  ];
  return [
    ...gets.map((path) => ({ path })),
    ...gets.map((path) => ({ path, init: { method: "HEAD" } })),
    { path: "/ip/x", tcp: true },
    ...["/text", "/cors/x", "/all", "/nope"].map((path) => ({
      path,
      init: {
        method: "OPTIONS",
        headers: { "Origin": "https://one.example", "Access-Control-Request-Method": "GET" },
      },
    })),
    ...["PUT", "PURGE", "DELETE", "POST"].flatMap((method) =>
      ["/on2", "/text"].map((path) => ({ path, init: { method } }))
    ),
    { path: "/all", init: { method: "PATCH", body: "patched" } },
    { path: "/headers", init: { headers: { "X-Mine": "a" } } },
    { path: "/cookies", init: { headers: { Cookie: "plain=2; signed=x" } } },
    form("/form", { a: "1", b: "ä" }),
    { path: "/form", init: { method: "POST", body: multipart } },
    { path: "/echo", init: { method: "POST", body: "x".repeat(200_000) } },
    { path: "/echo", init: { method: "POST", body: ReadableStream.from([new Uint8Array(9)]) } },
    { path: "/bytes", init: { method: "POST", body: new Uint8Array(70_000) } },
    { path: "/basic/x", init: { headers: { Authorization: `Basic ${btoa("me:secret")}` } } },
    { path: "/bearer/x", init: bearing("tok") },
    { path: "/bearer/x", init: bearing("wrong") },
    { path: "/combine/shut", init: bearing("tok") },
    { path: "/limit/x", init: { method: "POST", body: "short" } },
    { path: "/limit/x", init: { method: "POST", body: "far too long" } },
    form("/csrf/x", { a: "1" }),
    json("/csrf/x", {}),
    {
      path: "/etag/x",
      init: { headers: { "If-None-Match": '"0cb0a71ba1fb5e3fd4ed8a6a0b7b5d8f"' } },
    },
    { path: "/jwt/x", init: bearing(token) },
    { path: "/lang/x", init: { headers: { "Accept-Language": "de-DE,en" } } },
    form("/override/x", { _method: "DELETE" }),
    form("/override/x", { other: "x" }),
    json("/validator", { name: "x" }),
    json("/validator", { name: 1 }),
    json("/validator", "{"),
    json("/zod/json", { name: "alice", age: "7" }),
    json("/zod/json", { name: "a" }),
    form("/zod/form", { name: "alice" }),
    json("/openapi/things/7", { name: "alice" }),
    json("/openapi/things/7", { name: "a" }),
  ];
}

/** What differs between two runs of the same app. */
const VARIES: Record<string, (value: string) => string> = {
  "x-request-id": (value) => value.replace(/[\da-f-]{36}/, "ID"),
  "server-timing": (value) => value.replace(/dur=[\d.]+/g, "dur=N"),
};
/** What the daemon adds. */
const OURS = ["server", "api-version", "ostype"];
/** Headers about the connection and the time. */
const HOPS = ["date", "connection", "keep-alive", "transfer-encoding"];

/** All of an answer that a client can see. */
async function ask(base: string, client: Deno.HttpClient, { path, init }: Asked) {
  const headers = new Headers(init?.headers);
  // As a page of its own sends it.
  if (path.startsWith("/csrf/")) headers.set("Origin", base);
  const response = await fetch(base + path, { ...init, headers, client, redirect: "manual" });
  const body = new Uint8Array(await response.arrayBuffer());
  const seen: Record<string, string | string[]> = {};
  for (const [name, value] of response.headers) {
    if (HOPS.includes(name)) continue;
    seen[name] = VARIES[name]?.(value) ?? value.replaceAll(base, "BASE");
  }
  // HTTP/2 has another way for this.
  if (body.length === 0) delete seen["content-length"];
  seen["set-cookie"] = response.headers.getSetCookie();
  return {
    status: response.status,
    headers: seen,
    body: new TextDecoder("latin1").decode(body.length > 2_000 ? body.slice(0, 2_000) : body),
    length: body.length,
    told: { length: response.headers.get("content-length") ?? undefined },
  };
}

Deno.test("Router answers as Hono's app does on Deno.serve, over tcp, unix, --tls and --tlsverify", async () => {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await TempFolder.make());
  await Deno.writeTextFile(`${folder.path}/hello.txt`, "hello from a file\n");
  const authority = stack.use(await Authority.make());
  const [server, alice] = await Promise.all([authority.server(), authority.client()]);
  const expectedLog: string[] = [];
  const app = new Hono();
  build(app, folder.path, expectedLog);
  const yardstick = stack.use(
    Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, app.fetch),
  );
  const asked = await requests();
  const base = `http://127.0.0.1:${yardstick.addr.port}`;
  using plain = Deno.createHttpClient({});
  const expected = [];
  for (const request of asked) expected.push(await ask(base, plain, request));

  const path = `${folder.path}/d.sock`;
  for (
    const [way, of, address, client] of [
      ["tcp", {}, "tcp://127.0.0.1:0", Deno.createHttpClient({})],
      ["unix", {}, `unix://${path}`, Deno.createHttpClient({ proxy: { transport: "unix", path } })],
      ["--tls", settings(server), "tcp://127.0.0.1:0", clientOf(authority)],
      [
        "--tlsverify",
        settings(server, authority.ca),
        "tcp://127.0.0.1:0",
        clientOf(authority, alice),
      ],
    ] as const
  ) {
    using _client = client;
    await using served = await Served.bind(
      { CorsHeaders: "https://one.example", ...of },
      [address],
      {
        builtins: false,
      },
    );
    const log: string[] = [];
    build(served.router as unknown as Hono, folder.path, log);
    await served.accept();
    const base = way === "unix"
      ? "http://localhost"
      : way === "tcp"
      ? `http://127.0.0.1:${(served.target as Deno.ConnectOptions).port}`
      : `https://localhost:${(served.target as Deno.ConnectOptions).port}`;
    // Streams can be read once.
    for (const [at, request] of (await requests()).entries()) {
      if (request.tcp && way === "unix") continue;
      const { path, init } = request;
      const what = `${way} ${init?.method ?? "GET"} ${path}`;
      const answer = await ask(base, client, request);
      const wanted = structuredClone(expected[at]!);
      for (const name of OURS) {
        assert(name in answer.headers, `${what} has no ${name}`);
        delete answer.headers[name];
      }
      // Hono drops the body, and Deno sets a length of 0; ours sets that of GET, or none.
      if (init?.method === "HEAD") {
        const get = expected.find((_, i) => asked[i]!.path === path)!;
        const { length } = answer.told;
        // Of what does not depend on the method.
        if (length !== undefined && path !== "/all") {
          assertEquals([what, length], [what, `${get.length}`]);
        }
      }
      for (const each of [answer, wanted]) each.told = { length: undefined };
      assertEquals([what, answer], [what, wanted]);
    }
    assertEquals(log, expectedLog);
    assertEquals(served.lines.filter((line) => line.startsWith("error ")), []);
  }
});

Deno.test("Router answers as Hono's app does on Deno.serve where no middleware runs", async () => {
  await using stack = new AsyncDisposableStack();
  // Answers that `fetch` decodes, one that does not end by itself, and one that it leaves as it is.
  const upstream = stack.use(
    Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, ({ url }) => {
      const text = new Blob(["data: fetched\n\n"]).stream();
      const type = { "Content-Type": url.endsWith("events") ? "text/event-stream" : "text/plain" };
      return url.endsWith("plain") ? new Response(text, { headers: type }) : new Response(
        text.pipeThrough(new CompressionStream("gzip")),
        { headers: { ...type, "Content-Encoding": "gzip" } },
      );
    }),
  );
  const build = (app: Hono) => {
    app.notFound((c) => c.text("nothing here", 404));
    app.get(
      "/fetched/:what",
      (c) => fetch(`http://127.0.0.1:${upstream.addr.port}/${c.req.param("what")}`),
    );
    app.get("/silent", () => undefined as never);
    app.get("/silent/later", () => Promise.resolve(undefined as never));
    app.get("/silent/next", (_c, next) => next());
  };
  const app = new Hono();
  build(app);
  const yardstick = stack.use(
    Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, app.fetch),
  );
  // Observers count bytes as they pass.
  for (const observed of [false, true]) {
    await using served = await Served.bind({}, ["tcp://127.0.0.1:0"], { builtins: false });
    if (observed) served.builtins.observe({ times: () => false, ended() {} });
    build(served.router as unknown as Hono);
    await served.accept();
    const { port } = served.target as Deno.ConnectOptions;
    for (const method of ["GET", "HEAD"]) {
      for (
        const path of [
          "/fetched/gzip",
          "/fetched/events",
          "/fetched/plain",
          "/silent",
          "/silent/later",
          "/silent/next",
        ]
      ) {
        using client = Deno.createHttpClient({});
        const asked = { path, init: { method } };
        const expected = await ask(`http://127.0.0.1:${yardstick.addr.port}`, client, asked);
        const answer = await ask(`http://127.0.0.1:${port}`, client, asked);
        for (const name of OURS) delete answer.headers[name];
        for (const each of [answer, expected]) each.told = { length: undefined };
        // In the copy that Hono makes for HEAD, although GET has none.
        if (method === "HEAD") delete expected.headers["content-encoding"];
        assertEquals([method, path, answer], [method, path, expected]);
      }
    }
  }
});

Deno.test("Router answers as Hono's app does where it is routed in another app", async () => {
  const ask = async (inner: Hono, method: string) => {
    inner.get("/silent", () => undefined as never);
    const outer = new Hono().route("/in", inner).notFound((c) => c.text("nothing here", 404));
    const { status } = await outer.request("/in/silent", { method });
    return status;
  };
  for (const method of ["GET", "HEAD"]) {
    const router = createRouter(new Engine({ log: () => {} }), { builtins: false });
    assertEquals([method, await ask(router as unknown as Hono, method)], [method, 404]);
    assertEquals([method, await ask(new Hono(), method)], [method, 404]);
  }
});
