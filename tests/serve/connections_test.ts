import { assert, assertEquals, assertMatch } from "@std/assert";
import { Client, PING, rest } from "../support/client.ts";
import { until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

Deno.test("Connections.stats counts connections by their states", async () => {
  await using served = await Served.open();
  const go = Promise.withResolvers<void>();
  served.router.get("/wait", async () => {
    await go.promise;
    return new Response("done");
  });
  const states = async () => {
    const { open, new: fresh, active, idle, closing } = await served.stats();
    return { open, fresh, active, idle, closing };
  };
  const client = await Client.to(served.target);
  await until(async () => (await states()).fresh === 1);
  await client.ask(PING);
  await until(async () => (await states()).idle === 1);
  assertEquals(await states(), { open: 1, fresh: 0, active: 0, idle: 1, closing: 0 });
  await client.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await states()).active === 1);
  go.resolve();
  await client.answer();
  await until(async () => (await states()).idle === 1);
  client.close();
  await until(async () => (await states()).open === 0);
});

Deno.test("serveapi ends a client that sends no whole header within HeaderTimeout", async () => {
  await using served = await Served.open({ HeaderTimeout: "0.3" });
  const started = performance.now();
  const silent = await Client.to(served.target);
  const half = await Client.to(served.target);
  await half.send("GET /_ping HTTP/1.1\r\nHo");
  await Promise.all([silent, half].map(async (client) => {
    assertEquals((await rest(client)).text, "");
    const after = performance.now() - started;
    assert(after > 150, `ended after ${after} ms already`);
  }));
  assertEquals((await served.stats()).timedOut, 2);
});

Deno.test("serveapi ends an idle connection after IdleTimeout, half a second request or not", async () => {
  await using served = await Served.open({ IdleTimeout: "0.3", HeaderTimeout: "60" });
  const clients = [await Client.to(served.target), await Client.to(served.target)];
  for (const client of clients) assertEquals((await client.ask(PING)).status, 200);
  await clients[1]!.send("GET /_ping HTT");
  for (const { text } of await Promise.all(clients.map(rest))) {
    assertEquals(text.replace("GET /_ping HTT", ""), "");
  }
  assertEquals((await served.stats()).timedOut, 2);
});

Deno.test("serveapi cuts no event stream and no slow job by its timeouts", async () => {
  await using served = await Served.open({ IdleTimeout: "0.1", HeaderTimeout: "0.1" });
  const slow = Promise.withResolvers<void>();
  served.engine.register("slow", async (job) => {
    await slow.promise;
    await job.print("done");
  });
  served.router.job({ method: "GET", path: "/slow", job: "slow" });
  const events = await Client.to(served.target);
  await events.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await events.sees(/\r\n\r\n/);
  const waiting = await Client.to(served.target);
  await waiting.send("GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n");
  // Clients that come later and are timed out show that the time has passed, several times over.
  for (let i = 0; i < 3; i++) await rest(await Client.to(served.target));
  slow.resolve();
  assertEquals((await waiting.answer()).body, "done");
  waiting.close();
  const log = served.engine.job("log", "start", "abc");
  await log.run();
  await events.sees(/"Action":"start"/);
  events.close();
});

Deno.test("serveapi at MaxConnections ends the longest idle connection for the next client", async () => {
  await using served = await Served.open({ MaxConnections: "3" });
  const idle: Client[] = [];
  for (let i = 0; i < 3; i++) {
    const client = await Client.to(served.target);
    assertEquals((await client.ask(PING)).status, 200);
    idle.push(client);
  }
  const next = await Client.to(served.target);
  assertEquals((await next.ask(PING)).status, 200);
  next.close();
  assertEquals((await rest(idle[0]!)).text, "");
  assert((await served.stats()).shed >= 1);
  idle.slice(1).forEach((client) => client.close());
});

Deno.test("serveapi at MaxConnections with nothing idle lets the next client wait for its turn", async () => {
  await using served = await Served.open({ MaxConnections: "2" });
  const go = Promise.withResolvers<void>();
  served.engine.register("wait", async (job) => {
    await go.promise;
    await job.print("done");
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait" });
  const busy = [await Client.to(served.target), await Client.to(served.target)];
  for (const client of busy) await client.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).requests === 2);
  const third = await Client.to(served.target);
  await third.send(PING);
  assertEquals((await served.stats()).listeners[0].accepted, 2);
  go.resolve();
  for (const client of busy) {
    const answer = await client.answer();
    assertEquals([answer.body, answer.last], ["done", true]);
    client.close();
  }
  assertEquals((await third.answer()).status, 200);
  third.close();
});

Deno.test("serveapi cuts a client that does not read its answer within SendTimeout", async () => {
  await using served = await Served.open({ SendTimeout: "0.3", IdleTimeout: "0.1" });
  // Plain Hono: one big body that Deno sends by itself, which no stream of ours can watch.
  served.router.get("/big", () => new Response(new Uint8Array(64 * 1024 * 1024)));
  const client = await Client.to(served.target);
  await client.send("GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).cut === 1);
  await until(async () => (await served.stats()).open === 0);
  client.close();
});

Deno.test("serveapi sends a whole answer to a client that reads slowly", async () => {
  const size = 8 * 1024 * 1024;
  await using served = await Served.open({ IdleTimeout: "0.05" });
  served.router.get("/big", () => new Response(new Uint8Array(size)));
  const client = await Client.to(served.target);
  await client.send("GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await client.more();
  // Others that are timed out meanwhile show that the time has passed.
  for (let i = 0; i < 3; i++) {
    const other = await Client.to(served.target);
    await other.ask(PING);
    await rest(other);
  }
  assertEquals((await client.answer()).body.length, size);
  client.close();
});

Deno.test("shutdown lets a busy request finish, says that the connection closes, and ends idle ones", async () => {
  const served = await Served.open();
  const go = Promise.withResolvers<void>();
  served.engine.register("wait", async (job) => {
    await go.promise;
    await job.print("done");
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait" });
  const idle = await Client.to(served.target);
  await idle.ask(PING);
  const busy = await Client.to(served.target);
  await busy.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).requests === 2);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  assertEquals((await rest(idle)).text, "");
  await until(() => Client.to(served.target).then((late) => (late.close(), false), () => true));
  go.resolve();
  const answer = await busy.answer();
  assertEquals([answer.body, answer.last], ["done", true]);
  assertEquals(answer.header.match(/\r\nconnection: close\r\n/g)?.length, 1);
  assertEquals((await rest(busy)).text, "");
  await shutdown;
  assertEquals(await served.ended, undefined);
});

Deno.test("shutdown lets an upload finish that has begun", async () => {
  const served = await Served.open();
  served.engine.register("length", async (job) => {
    await job.print(String((await job.stdin.text()).length));
  });
  served.router.job({ method: "POST", path: "/length", job: "length", body: "stdin" });
  const client = await Client.to(served.target);
  await client.send("POST /length HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12345");
  await until(async () => (await served.stats()).requests === 1);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  // It has begun when no client is accepted any more.
  await until(() => Client.to(served.target).then((late) => (late.close(), false), () => true));
  await client.send("67890");
  assertEquals((await client.answer()).body, "10");
  client.close();
  await shutdown;
});

Deno.test("shutdown ends event streams cleanly", async () => {
  const served = await Served.open();
  const client = await Client.to(served.target);
  await client.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await client.sees(/\r\n\r\n/);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  assertMatch((await rest(client)).text, /\r\n0\r\n\r\n$/);
  await shutdown;
});

Deno.test("shutdown cuts unfinished answers when the drain time is over", async () => {
  const served = await Served.open();
  const aborted = Promise.withResolvers<void>();
  served.engine.register("never", (job) => {
    job.signal.addEventListener("abort", () => aborted.resolve());
    return aborted.promise;
  });
  served.router.job({ method: "GET", path: "/never", job: "never" });
  const client = await Client.to(served.target);
  await client.send("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).requests === 1);
  const shutdown = served.engine.shutdown({ drain: 200 });
  const { text, after } = await rest(client);
  assertEquals(text, "");
  assert(after > 100, `cut after ${after} ms already`);
  await aborted.promise; // The job heard of it.
  await shutdown;
  assertEquals(await served.ended, undefined);
});

Deno.test("serveapi at MaxConnections is not blocked by clients that read no answer", async () => {
  await using served = await Served.open({ MaxConnections: "2", IdleTimeout: "0.2" });
  served.router.get("/big", () => new Response(new Uint8Array(32 * 1024 * 1024)));
  const stalled: Client[] = [];
  for (let i = 0; i < 2; i++) {
    const client = await Client.to(served.target);
    await client.send("GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stalled.push(client);
  }
  await until(async () => (await served.stats()).requests === 2);
  const next = await Client.to(served.target);
  assertEquals((await next.ask(PING)).status, 200);
  next.close();
  stalled.forEach((client) => client.close());
});

Deno.test("shutdown waits for the rest of a header that has begun", async () => {
  const served = await Served.open();
  const client = await Client.to(served.target);
  await client.send("GET /_ping HT");
  await until(async () => (await served.stats()).open === 1);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  await until(() => Client.to(served.target).then((late) => (late.close(), false), () => true));
  await client.send("TP/1.1\r\nHost: localhost\r\n\r\n");
  const answer = await client.answer();
  assertEquals([answer.status, answer.last], [200, true]);
  client.close();
  await shutdown;
});

Deno.test("shutdown at a full limit ends idle connections as soon as without", async () => {
  const served = await Served.open({ MaxConnections: "2" });
  served.router.get("/plain", (c) => c.text("plain"));
  const clients = [await Client.to(served.target), await Client.to(served.target)];
  for (const client of clients) await client.ask("GET /plain HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const started = performance.now();
  await served.engine.shutdown({ drain: 30_000 });
  const took = performance.now() - started;
  assert(took < 10_000, `the drain took ${took} ms`);
  clients.forEach((client) => client.close());
});
