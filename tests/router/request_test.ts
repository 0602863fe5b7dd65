import { assertEquals, assertInstanceOf } from "@std/assert";
import { settle, until } from "../support/daemon.ts";
import { ask, asking, header, make, serve, soon } from "../support/router.ts";

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
      // What is written from now on reaches no client, and the write may reject.
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

Deno.test("Router.job aborts the job with the request's own signal", async () => {
  for (const init of [{ method: "GET" }, { method: "POST" }, { method: "POST", body: "x" }]) {
    const { engine, router } = make();
    const began = Promise.withResolvers<void>();
    engine.register("wait", (job) =>
      new Promise((resolve) => {
        job.signal.addEventListener("abort", () => resolve(job.error(`${job.signal.reason}`)));
        began.resolve();
      }));
    router.job({ method: init.method as "GET" | "POST", path: "/wait", job: "wait" });
    const leaving = new AbortController();
    const answer = router.request("/wait", { ...init, signal: leaving.signal });
    await began.promise;
    leaving.abort(new Error("enough"));
    assertEquals(await (await soon(Promise.resolve(answer))).json(), { message: "Error: enough" });
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
  await until(async () => (await ask(server.engine, "stats")).apis[0].listeners[0].open === 0);
  assertEquals(signals.map(({ aborted }) => aborted), [false]);
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
  assertEquals(JSON.parse(json!).hostname, "127.0.0.1");
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

Deno.test("Bindings.cut ends the connection for its own request, and for no later one", async () => {
  const cuts: (() => void)[] = [];
  await using server = await serve(({ router }) => {
    router.get("/keep", (c) => {
      cuts.push(() => c.env.cut());
      return c.text("kept");
    });
    router.get("/wait", async (c) => {
      for (const cut of cuts) cut();
      await settle();
      return c.text("answered");
    });
    router.get("/cut", async (c) => {
      c.env.cut();
      await settle();
      return c.text("never");
    });
  });
  using client = await asking(server.port, "GET /keep");
  await client.sees(/kept$/);
  client.rest = "";
  await client.send(header("GET /wait"));
  await client.sees(/answered$/);
  client.rest = "";
  await client.send(header("GET /cut"));
  assertEquals(await client.ended(), "");
});
