import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Hono, type MiddlewareHandler } from "npm:hono@4.13.19";
import { bodyLimit } from "npm:hono@4.13.19/body-limit";
import { HTTPException } from "npm:hono@4.13.19/http-exception";
import { proxy } from "npm:hono@4.13.19/proxy";
import { validator } from "npm:hono@4.13.19/validator";
import http2 from "node:http2";
import { Authority } from "../support/certificates.ts";
import { Client } from "../support/client.ts";
import { FakeClock } from "../support/clock.ts";
import { isPending, settle, until } from "../support/daemon.ts";
import {
  ask,
  asking,
  assertJsonError,
  assertTextError,
  echo,
  header,
  KIB,
  make,
  serve,
  soon,
} from "../support/router.ts";
import { Served } from "../support/served.ts";
import { clientOf, settings } from "../support/tls.ts";

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
    const response = await router.request("/echo", {
      method: "POST",
      ...body !== undefined && { body },
    });
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

Deno.test('Router.job with body "stdin" lets the job read while the client sends', async () => {
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

Deno.test("Router.job with a row without a body gives the job none", async () => {
  const { router } = echo({ method: "POST" });
  const response = await router.request("/echo", { method: "POST", body: '{"a":1}' });
  assertEquals(await response.json(), { args: [], env: {}, stdin: "" });
});

// How long a body may be, and how slow.

/** A body of so many pieces, each of which comes so many milliseconds after the one before. */
function slowly(
  pieces: number,
  ms: number,
  piece: string,
): ReadableStream<Uint8Array<ArrayBuffer>> {
  return new ReadableStream({
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, ms));
      controller.enqueue(new TextEncoder().encode(piece));
      if (--pieces === 0) controller.close();
    },
  });
}

Deno.test("Router refuses a body with too large a Content-Length, unread", async () => {
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

Deno.test("Router refuses too long a body over a connection, by length and by chunks", async () => {
  await using server = await serve(({ router }) => {
    router.post("/plain", async (c) => c.text(await c.req.text()));
  }, { bodyLimit: 10 });
  for (
    const [header, body] of [
      ["Content-Length: 1000000", ""],
      ["Content-Length: 11", "x".repeat(11)],
      ["Transfer-Encoding: chunked", "b\r\n" + "x".repeat(11) + "\r\n"],
      ["Transfer-Encoding: chunked", "6\r\nxxxxxx\r\n".repeat(2)],
    ] as const
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

Deno.test("Router limits the body that a Hono handler reads, unless the handler lifts the limit", async () => {
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

Deno.test("Router limits a body to 16 MiB by default, and JSON of a row to 1 MiB", async () => {
  for (const [body, limit] of [["stdin", 16 * KIB * KIB], ["env", KIB * KIB]] as const) {
    const { router } = echo({ method: "POST", body });
    const response = await router.request("/echo", {
      method: "POST",
      headers: { "Content-Length": `${limit + 1}` },
      body: "{}",
    });
    await assertJsonError(response, 413, `the request body is longer than ${limit} bytes`);
  }
});

Deno.test("Router answers 408 to a body that stops", async () => {
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

Deno.test("Router waits for a slow body", async () => {
  using clock = new FakeClock();
  const { router } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 2_000 });
  const body = slowly(50, 200, "x".repeat(200));
  const response = router.request("/echo", { method: "POST", body });
  await clock.pass(50 * 200);
  assertMatch((await (await response).json()).stdin, /^x{10000}$/);
});

Deno.test("Router answers 408 to a body that trickles, unless its route lifts the limit", async () => {
  using clock = new FakeClock();
  const { router, engine } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 100 });
  engine.register("long", (job) => job.stdin.text().then((text) => job.print(text)));
  router.job({ method: "POST", path: "/long", job: "long", body: "stdin", bodyLimit: Infinity });
  for (const [path, status] of [["/echo", 408], ["/long", 200]] as const) {
    const response = router.request(path, { method: "POST", body: slowly(40, 10, "x") });
    await clock.pass(40 * 10);
    assertEquals((await response).status, status);
    await (await response).body?.cancel();
  }
});

Deno.test("Router answers 408 to a body that stops after it came fast", async () => {
  using clock = new FakeClock();
  const { router } = echo({ method: "POST", body: "stdin" }, { bodyTimeout: 60_000 });
  const body = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start: (controller) => controller.enqueue(new Uint8Array(15 * KIB * KIB)),
    async pull(controller) {
      await new Promise((resolve) => setTimeout(resolve, 55_000));
      controller.enqueue(new Uint8Array(1));
    },
  });
  const response = Promise.resolve(router.request("/echo", { method: "POST", body }));
  // What came at once pays for the minute in which it came, and for no other.
  await clock.pass(119_999);
  assert(await isPending(response));
  await clock.pass(1);
  const message = "the request body comes too slowly, or no more";
  await assertJsonError(await response, 408, message);
});

Deno.test("Router counts only time in which it waits for the client", async () => {
  using clock = new FakeClock();
  const { engine, router } = make({ bodyTimeout: 1_000 });
  engine.register("slow", async (job) => {
    let size = 0;
    for await (const chunk of job.stdin.readable) {
      size += chunk.length;
      await new Promise((resolve) => setTimeout(resolve, 900));
    }
    await job.print(`${size}`);
  });
  router.job({ method: "POST", path: "/slow", job: "slow", body: "stdin" });
  const body = ReadableStream.from(Array.from({ length: 10 }, () => new Uint8Array(10)));
  const response = router.request("/slow", { method: "POST", body });
  await clock.pass(9_000);
  assertEquals(await (await response).text(), "100");
});

Deno.test("Router bounds the bytes of all bodies in memory", async () => {
  const { engine, router } = make({ bodyLimit: 1_000, bodiesLimit: 2_000 });
  const go = Promise.withResolvers<void>();
  engine.register("hold", async (job) => {
    const text = await job.stdin.text();
    await go.promise;
    await job.print(`${text.length}`);
  });
  engine.register("pass", async (job) => job.print(`${(await job.stdin.text()).length}`));
  router.job({ method: "POST", path: "/hold", job: "hold", body: "stdin" });
  router.job({ method: "POST", path: "/pass", job: "pass", body: "stdin", bodyLimit: Infinity });
  const post = (path: string, size: number) =>
    router.request(path, { method: "POST", body: "x".repeat(size) });
  const held = [post("/hold", 900), post("/hold", 900)];
  await until(() => engine.stats.running === 2);
  await settle();
  const refused = await post("/hold", 300);
  assertEquals(refused.headers.get("retry-after"), "1");
  await assertJsonError(refused, 503, "too many request bodies at once");
  // One that may be of any length is not kept, and does not count.
  assertEquals(await (await post("/pass", 5_000)).text(), "5000");
  go.resolve();
  for (const answer of held) assertEquals(await (await answer).text(), "900");
  assertEquals(await (await post("/hold", 1_000)).text(), "1000");
});

// What becomes of a body after the handler.

for (const way of ["tcp", "HTTP/2"]) {
  Deno.test(`Router keeps a body until its answer is complete, over ${way}`, async () => {
    await using stack = new AsyncDisposableStack();
    const authority = stack.use(await Authority.make());
    const secure = way === "HTTP/2" ? settings(await authority.server()) : {};
    const served = stack.use(await Served.bind(secure));
    const { engine, router } = served;
    engine.register("copy", async (job) => {
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    });
    router.post("/echo", (c) => c.body(c.req.raw.body!));
    router.post("/clone", (c) => c.body(c.req.raw.clone().body!));
    router.post("/pipe", (c) => {
      const job = engine.job("copy");
      job.quiet = true;
      job.stdin.add(c.req.raw.body!);
      const out = job.stdout.addPipe();
      job.run();
      return c.body(out as ReadableStream<Uint8Array<ArrayBuffer>>);
    });
    router.post("/later", (c) => {
      const { body } = c.req.raw;
      return c.body(
        new ReadableStream({
          async start(controller) {
            await settle();
            for await (const chunk of body!) controller.enqueue(chunk);
            controller.close();
          },
        }),
      );
    });
    router.mount("/mounted", (request: Request) => new Response(request.body));
    router.route("/sub", new Hono().post("/echo", (c) => c.body(c.req.raw.body!)));
    router.job({ method: "POST", path: "/job", job: "copy", body: "stdin", stream: true });
    await served.accept();
    const { port } = served.target as Deno.NetAddr;
    using client = way === "HTTP/2" ? clientOf(authority) : Deno.createHttpClient({});
    const url = `${way === "HTTP/2" ? "https" : "http"}://localhost:${port}`;
    const upstream = new Hono().post(
      "/proxy",
      (c) => proxy(`${url}/echo`, { ...c.req, client } as never),
    );
    const text = "some text, of which there is more than one chunk\n".repeat(5_000);
    for (
      const path of [
        "/echo",
        "/clone",
        "/pipe",
        "/later",
        "/mounted/x",
        "/sub/echo",
        "/job",
        "/v1.24/echo",
      ]
    ) {
      const response = await fetch(url + path, { method: "POST", body: text, client });
      const got = await response.text();
      assertEquals([path, response.status, got.length], [path, 200, text.length]);
      assert(got === text, path);
    }
    const proxied = await upstream.request("/proxy", { method: "POST", body: text });
    assert(await proxied.text() === text);
  });
}

Deno.test("Router rejects reads of a body after the answer is complete", async () => {
  const late = Promise.withResolvers<unknown>();
  const go = Promise.withResolvers<void>();
  await using server = await serve(({ router }) => {
    router.post("/text", (c) => {
      go.promise.then(() => c.req.text()).then(late.resolve, late.reject);
      return c.text("before");
    });
  });
  using client = await asking(server.port, "POST /text", "Content-Length: 4");
  await client.send("body");
  await client.sees(/before$/);
  go.resolve();
  await assertRejects(
    () => late.promise,
    TypeError,
    "the request was answered: its body is gone",
  );
  // And the connection is in step.
  client.rest = "";
  await client.send(header("GET /_ping"));
  await client.sees(/\r\n\r\nOK$/);
});

Deno.test("Router rejects reads of a body that its stream has not read", async () => {
  const late = Promise.withResolvers<unknown>();
  await using server = await serve(({ router }) => {
    router.post("/stream", (c) => {
      const body = ReadableStream.from([new TextEncoder().encode("streamed")]);
      c.env.signal.addEventListener("abort", () => {});
      setTimeout(async () => {
        // The answer is on the wire by then.
        await answered.promise;
        await until(async () =>
          (await ask(server.engine, "stats")).apis[0].listeners[0].active === 0
        );
        c.req.text().then(late.resolve, late.reject);
      });
      return c.body(body);
    });
  });
  const answered = Promise.withResolvers<void>();
  using client = await asking(server.port, "POST /stream", "Content-Length: 4");
  await client.send("body");
  await client.sees(/streamed[^]*\r\n0\r\n\r\n$/);
  answered.resolve();
  await assertRejects(() => late.promise, TypeError, "its body is gone");
});

Deno.test("Router keeps a connection whose request's body no handler has read, or not yet", async () => {
  await using server = await serve(({ router }) => {
    router.post("/ignored", (c) => c.text("ignored"));
    router.post("/touched", (c) => c.text(`touched ${c.req.raw.body !== null}`));
  });
  for (const path of ["/ignored", "/touched"]) {
    using client = await Client.to({ hostname: "127.0.0.1", port: server.port });
    // The first go beyond what the loop reads of a new connection at once.
    for (const size of [1_500, 60_000, 10, 1_500]) {
      await client.send(header(`POST ${path}`, `Content-Length: ${size}`) + "x".repeat(size));
      const { status, last } = await client.answer();
      assertEquals([path, size, status, last], [path, size, 200, false]);
    }
  }
});

// Limits that hold whatever reads the body.

const TOO_LONG = "the request body is longer than 10 bytes";

Deno.test("Router limits bodies of every method", async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("never", () => {});
    router.job({ method: "GET", path: "/row", job: "never" });
    router.all("/text", async (c) => c.text(`${c.req.method} ${(await c.req.text()).length}`));
    router.options("/own", async (c) => c.text(await c.req.text()));
  }, { bodyLimit: 10 });
  // deno-fmt-ignore
  for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "FOO", "PROPFIND", "TRACE", "post"]) {
    const ask = async (length: number) => {
      using client = await asking(
        server.port,
        `${method} /text`,
        `Content-Length: ${length}`,
        "Connection: close",
      );
      await client.send("x".repeat(length));
      return await client.ended();
    };
    assertMatch(await ask(10), new RegExp(`^HTTP/1.1 200 [^]*\r\n\r\n${method} 10$`), method);
    assertMatch(await ask(11), new RegExp(`^HTTP/1.1 413 [^]*${TOO_LONG}"\\}$`), method);
  }
  assertEquals(server.lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router answers 413 to too long a body, even if a handler catches the error", async () => {
  const { engine, router } = make({ bodyLimit: 10, jsonLimit: 10 });
  engine.register("args", (job) => job.print("{}"));
  router.use("*", async (c, next) => {
    c.header("X-Before", "1");
    await next();
  });
  router.post("/json", validator("json", (value) => value), (c) => c.text("read"));
  router.post("/form", validator("form", (value) => value), (c) => c.text("read"));
  router.post("/caught", async (c) => {
    const json = await c.req.json().catch(() => ({}));
    return c.json(json);
  });
  router.post("/exception", async (c) => {
    try {
      return c.text(await c.req.text());
    } catch (cause) {
      throw new HTTPException(422, { message: "unreadable", cause });
    }
  });
  router.post("/response", async (c) => {
    await c.req.text().catch(() => {}); // As handlers do that hide the error of too long a body.
    throw new HTTPException(422, { res: new Response("gzip?", { headers: { ETag: "x" } }) });
  });
  router.use("/row", validator("json", (value) => value));
  router.job({ method: "POST", path: "/row", job: "args", body: "env" });
  const json = { "Content-Type": "application/json" };
  const form = { "Content-Type": "application/x-www-form-urlencoded" };
  for (const path of ["/json", "/form", "/caught", "/exception", "/response", "/row"]) {
    const headers = path === "/form" ? form : json;
    const body = path === "/form" ? "a=".padEnd(20, "b") : JSON.stringify("x".repeat(20));
    for (const prefix of ["", "/v1.23"]) {
      const response = await router.request(prefix + path, { method: "POST", headers, body });
      assertEquals([path, response.headers.get("x-before")], [path, "1"]);
      assertEquals(response.headers.has("etag"), false);
      if (prefix) await assertTextError(response, 413, TOO_LONG);
      else await assertJsonError(response, 413, TOO_LONG);
    }
  }
  const broken = await router.request("/json", { method: "POST", headers: json, body: "{" });
  assertEquals(broken.status, 400);
});

Deno.test("Router.job reads what other handlers have read of a body", async () => {
  const { engine, router } = make();
  engine.register("echo", async (job) => {
    await job.print(JSON.stringify([job.env.toObject(), await job.stdin.text()]));
  });
  const readers: [string, MiddlewareHandler][] = [
    ["json", validator("json", (value) => value)],
    ["json2", async (c, next) => (await c.req.json(), await next())],
    ["text", async (c, next) => (await c.req.text(), await next())],
    ["bytes", async (c, next) => (await c.req.arrayBuffer(), await next())],
    ["blob", async (c, next) => (await c.req.blob(), await next())],
    ["none", (_c, next) => next()],
    ["limit", bodyLimit({ maxSize: 1_000 })],
  ];
  for (const [name, reader] of readers) {
    for (const body of ["env", "stdin"] as const) {
      router.use(`/${name}/${body}`, reader);
      router.job({ method: "POST", path: `/${name}/${body}`, job: "echo", body });
    }
  }
  const headers = { "Content-Type": "application/json" };
  const body = '{"a": "b"}';
  for (const [name] of readers) {
    const env = await router.request(`/${name}/env`, { method: "POST", headers, body });
    assertEquals([name, await env.json()], [name, [{ a: "b" }, ""]]);
    const stdin = await router.request(`/${name}/stdin`, { method: "POST", headers, body });
    assertEquals([name, JSON.parse((await stdin.json())[1])], [name, { a: "b" }]);
  }
});

Deno.test("Router lifts a row's limit for the middleware before it, too", async () => {
  const { engine, router } = make({ bodyLimit: 10 });
  engine.register("size", async (job) => job.print(`${(await job.stdin.text()).length}`));
  router.use("/any", async (c, next) => {
    await c.req.text();
    await next();
  });
  router.job({ method: "POST", path: "/any", job: "size", body: "stdin", bodyLimit: Infinity });
  const ask = (body: string) => router.request("/any", { method: "POST", body });
  assertEquals(await (await ask("x".repeat(1_000))).text(), "1000");
});

const WEEK = 7 * 24 * 3_600_000;

Deno.test("Router with Infinity as its timeouts waits for ever", async () => {
  using clock = new FakeClock();
  const options = { bodyTimeout: Infinity, sendTimeout: Infinity };
  const { engine, router } = echo({ method: "POST", body: "stdin" }, options);
  engine.register("big", (job) => job.stdout.write(new Uint8Array(200 * KIB)));
  router.job({ method: "GET", path: "/big", job: "big" });
  const response = router.request("/echo", { method: "POST", body: slowly(1, WEEK, "x") });
  await clock.pass(WEEK);
  assertEquals((await (await response).json()).stdin, "x");
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
    { idleTimeout: 1_000 },
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

Deno.test(
  "Router over HTTP/2 waits at most bodyTimeout for the end of a body that has arrived whole",
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

// Requests of a connection, whose bodies are read by the native loop.

/** Ways to read a body, and what each makes of a text. */
const READERS: Record<string, (request: Request) => Promise<string>> = {
  text: (request) => request.text(),
  json: (request) => request.json().then((value) => JSON.stringify(value)),
  arrayBuffer: (request) => request.arrayBuffer().then((all) => new TextDecoder().decode(all)),
  bytes: (request) => request.bytes().then((all) => new TextDecoder().decode(all)),
  blob: (request) => request.blob().then((blob) => blob.text()),
  clone: (request) => request.clone().text(),
  copy: (request) => new Request(request).text(),
  stream: async (request) => await new Response(request.body).text(),
};

Deno.test("Router limits a body, whatever reads it and however it comes", async () => {
  await using server = await serve(({ router }) => {
    router.post("/read/:how", async (c) => {
      const { raw } = c.req;
      const read = READERS[c.req.param("how")]!(raw);
      return c.json([await read, raw.bodyUsed, raw.signal.aborted]);
    });
    router.post("/lowered/:how", async (c) => {
      assertEquals(c.req.raw.bodyUsed, false);
      c.env.bodyLimit = 10;
      return c.text(await READERS[c.req.param("how")]!(c.req.raw));
    });
    router.post("/lifted/:how", async (c) => {
      assertEquals(c.req.raw.bodyUsed, false);
      c.env.bodyLimit = Infinity;
      return c.text(await READERS[c.req.param("how")]!(c.req.raw));
    });
  }, { bodyLimit: 200_000 });
  const { port } = server;
  const text = (size: number) => JSON.stringify("x".repeat(size - 2));
  for (const how of Object.keys(READERS)) {
    using client = await Client.to({ hostname: "127.0.0.1", port });
    // At once, in two pieces, as chunks; the second time by the buffer that the first has left.
    for (const way of ["whole", "whole", "pieces", "chunks", "whole"]) {
      for (const size of [10, 1_500, 100_000, 200_000, 200_001]) {
        const body = text(size);
        const head = way === "chunks" ? "Transfer-Encoding: chunked" : `Content-Length: ${size}`;
        const bytes = way === "chunks" ? `${size.toString(16)}\r\n${body}\r\n0\r\n\r\n` : body;
        const start = header(`POST /read/${how}`, head);
        using other = await Client.to({ hostname: "127.0.0.1", port });
        const by = size > 200_000 ? other : client;
        // It may be refused before all is sent.
        if (way === "whole") by.send(start + bytes).catch(() => {});
        else {
          await by.send(start + bytes.slice(0, 5));
          await settle();
          by.send(bytes.slice(5)).catch(() => {});
        }
        const answer = await by.answer();
        const expected = size > 200_000
          ? '{"message":"the request body is longer than 200000 bytes"}'
          : JSON.stringify([body, how !== "clone", false]);
        assert(answer.body === expected, `${how} ${way} ${size}: ${answer.body.slice(0, 80)}`);
        assertEquals(answer.last, size > 200_000 && answer.last);
      }
    }
    for (const [path, size, status] of [["lowered", 10, 200], ["lowered", 11, 413]] as const) {
      await client.send(
        header(`POST /${path}/${how}`, `Content-Length: ${size}`) + text(size),
      );
      assertEquals([how, size, (await client.answer()).status], [how, size, status]);
      client.rest = "";
      if (status === 413) break;
    }
    using last = await asking(port, `POST /lifted/${how}`, "Content-Length: 300000");
    last.send(text(300_000));
    assertEquals((await last.answer()).body.length, 300_000);
  }
  assertEquals(server.lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router passes on the very request that came, with its client's signal", async () => {
  const signals: AbortSignal[] = [];
  const left = Promise.withResolvers<unknown>();
  const began = Promise.withResolvers<void>();
  await using server = await serve(({ router }) => {
    router.post("/answered", async (c) => {
      signals.push(c.req.raw.signal);
      return c.text(await c.req.text());
    });
    router.post("/wait", async (c) => {
      c.req.raw.signal.addEventListener("abort", () => left.resolve(c.req.raw.signal.reason));
      began.resolve();
      await left.promise;
      return c.text("");
    });
  });
  const { router } = make();
  router.post("/same", (c) => c.json(c.req.raw === request));
  const request = new Request("http://localhost/same", { method: "POST", body: "x" });
  assertEquals(await (await router.fetch(request)).json(), true);
  using client = await asking(server.port, "POST /answered", "Content-Length: 4");
  await client.send("body");
  await client.sees(/body$/);
  await client.send(header("POST /wait", "Content-Length: 4") + "body");
  await soon(began.promise);
  client[Symbol.dispose]();
  assertEquals((await soon(left.promise) as Error).name, "AbortError");
  // The loop aborts the signals of its own requests after complete answers, too.
  assertEquals(signals.map(({ aborted }) => aborted), [false]);
});

Deno.test("Router stops counting a body once its request is answered, even if it is still read", async () => {
  const { router } = make({ bodyLimit: 2_000, bodiesLimit: 2_000 });
  const read: Promise<string>[] = [];
  router.post("/behind", (c) => {
    read.push(c.req.text());
    return c.text("early");
  });
  router.post("/text", async (c) => c.text(`${(await c.req.text()).length}`));
  for (let i = 0; i < 5; i++) {
    const { readable, writable } = new TransformStream<Uint8Array<ArrayBuffer>>();
    const writer = writable.getWriter();
    const answer = router.request("/behind", { method: "POST", body: readable });
    await writer.write(new Uint8Array(500));
    assertEquals(await (await answer).text(), "early");
    await writer.write(new Uint8Array(500));
    await writer.close();
    assertEquals((await read[i]!).length, 1_000);
  }
  const all = await router.request("/text", { method: "POST", body: "x".repeat(2_000) });
  assertEquals(await all.text(), "2000");
});

Deno.test("Bodies checks for slow ones at each sweep, and sets no timer then", async () => {
  using clock = new FakeClock();
  const { router } = make({ bodyTimeout: 10_000 });
  router.post("/text", async (c) => c.text(await c.req.text()));
  const looks = new Set<() => void>();
  const ask = (onSweep?: (look: () => void) => void) => {
    const body = new ReadableStream<Uint8Array<ArrayBuffer>>();
    const request = new Request("http://localhost/text", { method: "POST", body });
    return Promise.resolve(router.fetch(request, { ...onSweep && { onSweep } }));
  };
  const swept = ask((look) => looks.add(look));
  await settle();
  assertEquals([clock.timers, looks.size], [0, 1]);
  await clock.pass(9_999);
  for (const look of looks) look();
  assert(await isPending(swept));
  await clock.pass(1);
  for (const look of looks) look();
  assertEquals((await swept).status, 408);
  // One timer for all others.
  const timed = [ask(), ask(), ask()];
  await settle();
  assertEquals(clock.timers, 1);
  await clock.pass(10_000);
  assertEquals((await Promise.all(timed)).map(({ status }) => status), [408, 408, 408]);
  assertEquals(clock.timers, 0);
});

Deno.test("Router gives handlers a body that a reader with a buffer of its own can read", async () => {
  await using served = await Served.open();
  served.router.post("/", async (c) => {
    const reader = c.req.raw.body!.getReader({ mode: "byob" });
    let length = 0;
    for (;;) {
      const { value, done } = await reader.read(new Uint8Array(1_000));
      if (done) return c.text(`${length}`);
      length += value.length;
    }
  });
  const post = `POST / HTTP/1.1\r\nHost: localhost\r\n`;
  using client = await Client.to(served.target);
  for (const size of [5, 200_000]) {
    const body = "x".repeat(size);
    await client.send(`${post}Content-Length: ${size}\r\n\r\n${body}`);
    assertEquals((await client.answer()).body, `${size}`);
    await client.send(
      `${post}Transfer-Encoding: chunked\r\n\r\n${size.toString(16)}\r\n${body}\r\n0\r\n\r\n`,
    );
    assertEquals((await client.answer()).body, `${size}`);
  }
  // A body that did not come over a connection may have chunks without a byte.
  const chunk = new Uint8Array(7);
  const body = ReadableStream.from([new Uint8Array(), chunk, new Uint8Array()]);
  const response = await served.router.request("/", { method: "POST", body });
  assertEquals(await response.text(), "7");
  assertEquals(chunk.length, 7); // It stays its owner's.
});
