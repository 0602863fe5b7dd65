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
} from "@std/assert";
import { timeout } from "npm:hono@4.13.19/timeout";
import { type Job, TypedError } from "../../engine.ts";
import { FakeClock } from "../support/clock.ts";
import { isPending, settle, until } from "../support/daemon.ts";
import {
  ask,
  asking,
  assertInternal,
  assertJsonError,
  echo,
  KIB,
  make,
  serve,
  soon,
} from "../support/router.ts";

Deno.test("Router.job answers with the status and the content type that it was given", async () => {
  const { router } = echo({ status: 201, contentType: "text/plain" });
  const response = await router.request("/echo");
  assertEquals([response.status, response.headers.get("content-type")], [201, "text/plain"]);
  assertStringIncludes(await response.text(), '"args":[]');
  const plain = await echo({}).router.request("/echo");
  assertEquals([plain.status, plain.headers.get("content-type")], [200, "application/json"]);
  await plain.body!.cancel();
});

Deno.test("Router.job answers 204, or its row's status, if the job has written nothing", async () => {
  for (const stream of [false, true]) {
    for (const status of [undefined, 201, 204, 205, 304, 404]) {
      for (const handler of [() => {}, (job: Job) => stream ? undefined : job.print("")]) {
        const { engine, router } = make();
        engine.register("quiet", handler);
        router.job({
          method: "GET",
          path: "/quiet",
          job: "quiet",
          stream,
          ...status !== undefined && { status },
        });
        const response = await router.request("/quiet");
        assertEquals([response.status, response.body], [status ?? 204, null]);
        assertEquals(response.headers.has("content-type"), false);
      }
    }
  }
});

Deno.test("Router.job discards the output of a job whose status has no body", async () => {
  for (const status of [204, 205, 304]) {
    const { router } = echo({ status });
    const response = await router.request("/echo");
    assertEquals([response.status, response.body], [status, null]);
  }
});

Deno.test("Router.job answers with the outcome that the job chose", async () => {
  const { engine, router } = make();
  engine.register("start", async (job) => {
    if (job.args[1] === "late") await settle();
    if (job.args[0] !== "usual") {
      job.outcome = { status: Number(job.args[0]), headers: { "X-Was": "running" } };
    }
    await job.print("{}");
  });
  router.job({
    method: "POST",
    path: "/start/:status/:when",
    job: "start",
    status: 201,
    answers: { 202: {}, 304: {} },
  });
  for (const when of ["now", "late"]) {
    for (const status of [202, 304]) {
      const response = await router.request(`/start/${status}/${when}`, { method: "POST" });
      const body = status === 304 ? "" : "{}";
      assertEquals([response.status, await response.text()], [status, body]);
      assertEquals(response.headers.get("x-was"), "running");
    }
    const usual = await router.request(`/start/usual/${when}`, { method: "POST" });
    assertEquals([usual.status, await usual.json()], [201, {}]);
    await assertInternal(await router.request(`/start/418/${when}`, { method: "POST" }));
  }
});

Deno.test("Router.job aborts the job when a handler cancels its answer", async () => {
  const { engine, router } = make();
  const aborted = Promise.withResolvers<unknown>();
  engine.register("slow", (job) =>
    new Promise((resolve) => {
      job.signal.addEventListener("abort", () => {
        aborted.resolve(job.signal.reason);
        resolve();
      });
    }));
  router.use("/slow", timeout(10));
  router.job({ method: "GET", path: "/slow", job: "slow" });
  await assertJsonError(await router.request("/slow"), 504, "Gateway Timeout");
  const reason = await soon(aborted.promise);
  assertInstanceOf(reason, DOMException);
  assertEquals(reason.name, "AbortError");
  await until(() => engine.stats.running === 0);
});

Deno.test("Router.job aborts the job when middleware replaces its stream", async () => {
  const { engine, router } = make();
  engine.register("ticks", async (job) => {
    while (!job.signal.aborted) await job.print("tick\n");
  });
  router.use("/ticks", async (c, next) => {
    await next();
    c.res = undefined;
    c.res = c.text("instead");
  });
  router.job({ method: "GET", path: "/ticks", job: "ticks", stream: true });
  assertEquals(await (await router.request("/ticks")).text(), "instead");
  await until(() => engine.stats.running === 0);
});

Deno.test("Router.job begins a stream before the job writes, unless it fails at once", async () => {
  const release = Promise.withResolvers<void>();
  await using server = await serve(({ engine, router }) => {
    engine.register("wait", async (job) => {
      if (job.args[0] === "missing") {
        throw new TypedError("not found", "No such container: missing");
      }
      await release.promise;
      await job.print("0");
    });
    router.job({ method: "POST", path: "/:name/wait", job: "wait", stream: true });
  });
  const url = `http://127.0.0.1:${server.port}`;
  const response = await fetch(`${url}/web/wait`, { method: "POST" });
  assertEquals(response.status, 200);
  release.resolve();
  assertEquals(await response.text(), "0");
  const missing = await fetch(`${url}/missing/wait`, { method: "POST" });
  await assertJsonError(missing, 404, "No such container: missing");
});

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
    // Not awaited: the answer is not read yet.
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

Deno.test("Router.job copies the bytes that a job writes", async () => {
  for (const stream of [false, true]) {
    const { engine, router } = make();
    engine.register("copy", async (job) => {
      // As a loop that reads a file into one buffer.
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

Deno.test("Router.job cuts the answer of a job that fails after it began, and logs why", async () => {
  for (const stream of [false, true]) {
    const { engine, router, lines } = make();
    engine.register("big", async (job) => {
      const written = job.print("x".repeat(stream ? 10 : 70 * KIB));
      await settle();
      written.catch(() => {}); // The job fails by what it throws itself.
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

Deno.test("Router.job sends no regular end of an answer that failed", async () => {
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

Deno.test("Router.job cuts an answer that the client does not read", async () => {
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

Deno.test("Router.job waits for a client that reads its answer slowly", async () => {
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
  // The daemon holds nothing of it any more, whatever the client does.
  await until(async () => (await ask(engine, "stats")).apis[0].listeners[0].open === 0);
  assertNotMatch(await client.ended(), /\r\n0\r\n\r\n$/);
});

Deno.test("Router.job rejects the writes of a job whose client has left", async () => {
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
  // The client caused it, so there is no warning.
  assertEquals(lines.filter((line) => /^(warn|error) /.test(line)), []);
});
