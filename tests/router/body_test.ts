import { assert, assertEquals, assertMatch } from "@std/assert";
import http2 from "node:http2";
import { Authority } from "../support/certificates.ts";
import { FakeClock } from "../support/clock.ts";
import { isPending } from "../support/daemon.ts";
import {
  asking,
  assertJsonError,
  assertTextError,
  echo,
  KIB,
  make,
  serve,
} from "../support/router.ts";
import { Served } from "../support/served.ts";
import { settings } from "../support/tls.ts";

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

Deno.test("Router.job without body gives the job none", async () => {
  const { router } = echo({ method: "POST" });
  const response = await router.request("/echo", { method: "POST", body: '{"a":1}' });
  assertEquals(await response.json(), { args: [], env: {}, stdin: "" });
});

// How long a body may be, and how slow.

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
