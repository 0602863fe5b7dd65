import { createConnection } from "node:net";
import { assert, assertEquals } from "@std/assert";
import { Authority } from "../support/certificates.ts";
import { Client, PING } from "../support/client.ts";
import { settle, TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";
import { settings } from "../support/tls.ts";

Deno.test("serveapi closes held clients that left before the gate opened, without a line in the log", async () => {
  await using served = await Served.bind();
  const leavers = await Promise.all(Array.from({ length: 20 }, () => Client.to(served.target)));
  await Promise.all(leavers.map((client, i) => client.send(i % 2 ? PING : "GET /_pi")));
  const stayer = await Client.to(served.target);
  await stayer.send(PING);
  await until(async () => (await served.stats()).listeners[0].held === 21);
  leavers.forEach((client) => client.close());
  await served.accept();
  assertEquals((await stayer.answer()).status, 200);
  stayer.close();
  await until(async () => (await served.stats()).open === 0);
  assertEquals((await served.stats()).listeners[0].held, 0);
  assertEquals(served.lines.filter((line) => /^(warn|error)/.test(line)), []);
});

Deno.test("serveapi accepts at once after a thousand clients that have reset in the queue", async (t) => {
  await using authority = await Authority.make();
  const server = await authority.server("server");
  const cases: [string, Record<string, string>][] = [
    ["in the clear", {}],
    ["with Tls", settings(server)],
    ["with TlsVerify", settings(server, authority.ca)],
  ];
  for (const [name, tls] of cases) {
    await t.step(name, async () => {
      // Nothing is accepted before the gate opens, so that all of them reset unaccepted.
      await using served = await Served.bind({ Hold: "0", ...tls });
      const { port } = served.target as Deno.ConnectOptions;
      const reset = () => {
        const client = createConnection(port, "127.0.0.1");
        client.on("connect", () => client.resetAndDestroy());
        return new Promise((resolve) => client.on("close", resolve));
      };
      for (let i = 0; i < 20; i++) await Promise.all(Array.from({ length: 50 }, reset));
      using _next = await Deno.connect({ hostname: "127.0.0.1", port });
      // Of some kinds of listener they are accepted all the same, and end at once.
      const accepted = async () => {
        const [{ accepted, acceptErrors }] = (await served.stats()).listeners;
        return accepted + acceptErrors;
      };
      const started = performance.now();
      await served.accept();
      await until(async () => await accepted() === 1_001);
      const took = performance.now() - started;
      // It is some 60 ms, of which Deno takes most, and took 1 000 s with a wait for each.
      assert(took < 10_000, `the next client was accepted after ${took} ms`);
      assert(served.lines.filter((line) => line.includes("accept:")).length <= 1);
    });
  }
});

Deno.test("serveapi holds at most Hold clients", async () => {
  await using served = await Served.bind({ Hold: "3" });
  const clients = await Promise.all(Array.from({ length: 8 }, () => Client.to(served.target)));
  await Promise.all(clients.map((client) => client.send(PING)));
  await until(async () => (await served.stats()).listeners[0].held === 3);
  await served.accept();
  for (const client of clients) {
    assertEquals((await client.answer()).status, 200);
    client.close();
  }
});

Deno.test("shutdown serves the clients in the queue of a unix socket", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const served = await Served.open({}, [`unix://${path}`]);
  const clients = await Promise.all(
    Array.from({ length: 200 }, () => Client.to({ transport: "unix", path })),
  );
  const shutdown = served.engine.shutdown();
  await Promise.all(clients.map(async (client) => {
    assertEquals((await client.ask(PING)).status, 200);
    client.close();
  }));
  await shutdown;
  assertEquals(folder.names(), []);
});

Deno.test("shutdown serves the clients that wait for a connection to end", async () => {
  const served = await Served.open({ MaxConnections: "1" });
  const go = Promise.withResolvers<void>();
  served.engine.register("wait", (job) => go.promise.then(() => job.print("done")));
  served.router.job({ method: "GET", path: "/wait", job: "wait" });
  const busy = await Client.to(served.target);
  await busy.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).requests === 1);
  const waiting = await Client.to(served.target);
  await waiting.send(PING);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  // Time to look at the queue, and to find it empty, were it looked at wrongly.
  for (let turn = 0; turn < 10; turn++) await settle();
  go.resolve();
  assertEquals((await busy.answer()).body, "done");
  assertEquals((await waiting.answer()).status, 200);
  busy.close();
  waiting.close();
  await shutdown;
});

Deno.test("serveapi jobs of one engine share the limit of descriptors", async () => {
  await using served = await Served.open();
  const { target, ended } = await served.another();
  const client = await Client.to(target);
  const { body } = await client.ask("GET /debug/vars HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const [a, b] = JSON.parse(body).apis;
  assert(a.maxConnections > 0);
  assertEquals(a.maxConnections, b.maxConnections);
  client.close();
  await served.engine.shutdown({ drain: 100 });
  await ended;
});
