import { assert, assertEquals } from "@std/assert";
import { type ClientHttp2Session, connect } from "node:http2";
import { Client, PING } from "../support/client.ts";
import { TempFolder, until } from "../support/daemon.ts";
import { Workload } from "../../serve/workload.ts";
import { Served } from "../support/served.ts";

const MIB = 1_024 * 1_024;

/** Routes of all kinds of answers. */
function answers(served: Served, size: number): string[] {
  served.engine.register("dump", (job) => {
    // It waits for no client, and has ended before its client has taken anything.
    job.stdout.write(new Uint8Array(size))?.catch(() => {}); // Cutting the client fails it.
  });
  served.router.job({ method: "GET", path: "/ended-job", job: "dump" });
  served.router.job({ method: "GET", path: "/stream-job", job: "dump", stream: true });
  served.router.get("/whole", () => new Response(new Uint8Array(size)));
  const text = "\u20ac".repeat(size / 3);
  served.router.get("/text", () => new Response(text));
  served.router.get("/stream", () => new Response(endless()));
  return ["/ended-job", "/stream-job", "/whole", "/text", "/stream"];
}

function endless(cancel?: () => void | Promise<void>): ReadableStream<Uint8Array> {
  return new ReadableStream({
    pull: (controller) => controller.enqueue(new Uint8Array(100_000)),
    ...cancel !== undefined && { cancel },
  });
}

/** An HTTP/2 session in the clear, whose streams take so many bytes by themselves. */
function session(served: Served, initialWindowSize?: number): ClientHttp2Session {
  const { port } = served.target as Deno.ConnectOptions;
  const made = connect(`http://localhost:${port}`, {
    settings: { enablePush: false, ...initialWindowSize !== undefined && { initialWindowSize } },
  });
  made.on("error", () => {}); // That it is cut is what tests look for.
  return made;
}

/** The statuses that requests get, each as soon as its header is there, and how often. */
function statuses(of: ClientHttp2Session, path: string, count: number) {
  const seen = new Map<number, number>();
  for (let i = 0; i < count; i++) {
    const stream = of.request({ ":path": path });
    stream.on(
      "response",
      ({ ":status": status }) => seen.set(status!, (seen.get(status!) ?? 0) + 1),
    );
    stream.on("error", () => {});
  }
  return seen;
}

Deno.test("serveapi cuts clients that do not read their answers, whatever makes those, and serves the next", async (t) => {
  for (const proto of ["tcp", "unix"]) {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await using served = await Served.open(
      { SendTimeout: "0.4", IdleTimeout: "0.3", MaxConnections: "10" },
      [proto === "tcp" ? "tcp://127.0.0.1:0" : `unix://${path}`],
    );
    const target = proto === "tcp" ? served.target : { transport: "unix" as const, path };
    for (const answer of answers(served, 12 * MIB)) { // More than the kernel keeps.
      await t.step(`${proto} ${answer}`, async () => {
        const { requests } = await served.stats();
        using clients = new DisposableStack();
        for (let i = 0; i < 10; i++) {
          const client = clients.use(await Client.to(target));
          await client.send(`GET ${answer} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
        }
        await until(async () => (await served.stats()).requests >= requests + 10);
        using next = await Client.to(target);
        assertEquals((await next.ask(PING)).status, 200);
        next.close();
        await until(async () => (await served.stats()).open === 0);
      });
    }
  }
});

Deno.test("serveapi sends whole answers of every kind to a client that reads on", async (t) => {
  const size = 24 * MIB;
  await using served = await Served.open({ SendTimeout: "2.5", IdleTimeout: "2.5" });
  served.router.get("/whole", () => new Response(new Uint8Array(size)));
  served.engine.register("print", async (job) => {
    for (let i = 0; i < 24; i++) await job.stdout.write(new Uint8Array(MIB));
  });
  served.router.job({ method: "GET", path: "/job", job: "print" });
  served.engine.register("dump", (job) => {
    job.stdout.write(new Uint8Array(size))?.catch(() => {}); // It has ended before all is taken.
  });
  served.router.job({ method: "GET", path: "/ended-job", job: "dump" });
  await Promise.all(["/whole", "/job", "/ended-job"].map((path) =>
    t.step({
      name: path,
      sanitizeOps: false, // The two go side by side.
      sanitizeResources: false,
      sanitizeExit: false,
      fn: async () => {
        using client = await Client.to(served.target);
        await client.send(`GET ${path} HTTP/1.1\r\nHost: localhost\r\n\r\n`);
        await client.sees(/\r\n\r\n/);
        // It takes longer than the timeout, in steps.
        let taken = 0;
        for (const started = performance.now(); taken < size;) {
          taken += client.rest.length;
          client.rest = "";
          const due = started + taken / (size / 4_500);
          await new Promise((resolve) => setTimeout(resolve, Math.max(0, due - performance.now())));
          if (taken < size && !await client.more()) break;
        }
        assert(taken >= size, `${taken} bytes came`);
      },
    })
  ));
});

Deno.test("deliver keeps status, headers and length of an answer that it sends in pieces", async () => {
  await using served = await Served.open();
  const text = "\u20ac\u{1f600}x".repeat(50_000);
  served.router.get("/text", (c) => c.text(text, 201, { "X-Kept": "yes" }));
  const { port } = served.target as Deno.ConnectOptions;
  const response = await fetch(`http://127.0.0.1:${port}/text`);
  assertEquals(response.status, 201);
  assertEquals(response.headers.get("x-kept"), "yes");
  assertEquals(response.headers.get("content-length"), "400000");
  assert(await response.text() === text);
  // The connection goes on, after a HEAD too.
  const client = await Client.to(served.target);
  await client.send("HEAD /text HTTP/1.1\r\nHost: localhost\r\n\r\n" + PING);
  await client.sees(/^HTTP\/1\.1 201 [^]*\r\n\r\nHTTP\/1\.1 200 /);
  client.close();
});

Deno.test("serveapi ends an HTTP/2 connection that reads nothing, and bounds the bytes that wait for it", async (t) => {
  // All 150 have to begin within it, on a busy machine as well.
  await using served = await Served.open({ SendTimeout: "0.8", IdleTimeout: "0.5" });
  served.router.get("/mib", () => new Response(new Uint8Array(MIB)));
  served.router.get("/8k", () => new Response(new Uint8Array(8_192)));
  for (const path of [...answers(served, MIB), "/mib", "/8k", "/_ping"]) {
    await t.step(path, async () => {
      const client = session(served, 0);
      const seen = statuses(client, path, 150);
      await until(() => [...seen.values()].reduce((a, b) => a + b, 0) === 150);
      // No more answers are kept than one connection may have.
      const most = new Workload().maxConnectionHeld / MIB;
      if (path === "/mib") assert(seen.get(200)! <= most && seen.get(503)! >= 150 - most);
      await until(async () => (await served.stats()).open === 0);
      client.destroy();
    });
  }
});

Deno.test("serveapi gives up an HTTP/2 answer that is not read, and leaves its neighbours alone", async () => {
  await using served = await Served.open({ SendTimeout: "0.3", IdleTimeout: "60" });
  const cancelled = Promise.withResolvers<void>();
  served.router.get("/stream", () => new Response(endless(() => cancelled.resolve())));
  const client = session(served);
  const listener = client.request({ ":path": "/events" });
  let events = "";
  listener.on("data", (chunk) => events += chunk);
  await until(async () => (await served.stats()).requests === 1);
  const stalled = client.request({ ":path": "/stream" });
  stalled.on("error", () => {}).pause();
  await cancelled.promise;
  assertEquals((await served.stats()).cut, 1);
  // The neighbour goes on, and others begin.
  await served.engine.job("log", "start", "abc").run();
  await until(() => events.includes('"Action":"start"'));
  const ping = client.request({ ":path": "/_ping" });
  const answered = new Promise((resolve) => ping.on("response", (h) => resolve(h[":status"])));
  assertEquals(await answered, 200);
  // Once nothing else is in work there, the connection ends: its client has room for no more.
  listener.close();
  await until(async () => (await served.stats()).open === 0);
  assertEquals((await served.stats()).cut, 1);
  client.destroy();
});

Deno.test("serveapi cuts a closing connection whose client reads nothing", async (t) => {
  for (const drain of [300, 20_000]) {
    await t.step(`shutdown with a drain of ${drain} ms`, async () => {
      await using served = await Served.open({ SendTimeout: "0.5", IdleTimeout: "60" });
      // 60 KB an answer, and more requests at once than the buffers between us can hold answers.
      served.router.get("/small", () => new Response("x".repeat(20_000)));
      const client = await Client.to(served.target);
      const request = "GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n";
      const sent = client.send(request.repeat(2_000)).catch(() => {}); // It is reset in the middle.
      let seen = -1;
      await until(async () => {
        // The window is full once no further request is taken for a while.
        const { requests } = await served.stats();
        await new Promise((resolve) => setTimeout(resolve, 50));
        return seen === (seen = requests);
      });
      const started = performance.now();
      await served.engine.shutdown({ drain });
      await served.ended;
      assert(performance.now() - started < 10_000);
      assertEquals((await served.stats().catch(() => ({ open: 0 }))).open, 0);
      client.close();
      await sent;
    });
  }
});
