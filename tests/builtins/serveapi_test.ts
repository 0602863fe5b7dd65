import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { registerBuiltins } from "../../builtins/builtins.ts";
import { Engine, JobError } from "../../engine.ts";
import { createRouter } from "../../router.ts";
import { Client, Load } from "../support/client.ts";
import {
  Daemon,
  installer,
  project,
  run,
  settle,
  TempFolder,
  until,
  untilHeld,
} from "../support/daemon.ts";
import { Served } from "../support/served.ts";

const PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** All that comes until the other side closes, and after how many milliseconds that was. */
async function rest(client: Client): Promise<{ text: string; after: number }> {
  const started = performance.now();
  const text = await client.ended();
  client.close();
  return { text, after: performance.now() - started };
}

Deno.test("serveapi binds all addresses or none, and names the one that failed", async () => {
  await using folder = await TempFolder.make();
  using taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const bad = `tcp://127.0.0.1:${taken.addr.port}`;
  const error = await assertRejects(
    () => Served.bind({}, [`unix://${folder.path}/a`, bad, `unix://${folder.path}/b`]),
    JobError,
  );
  assertStringIncludes(error.message, `cannot listen on ${bad}: `);
  assertEquals(folder.names(), []);
});

Deno.test("serveapi without an address, and with a bad one, fails before it binds anything", async () => {
  await using folder = await TempFolder.make();
  await assertRejects(() => Served.bind({}, []), JobError, "expected PROTO://ADDR");
  await assertRejects(() => Served.bind({}, [`unix://${folder.path}/a`, "x"]), JobError, '"x"');
  await assertRejects(() => Served.bind({ IdleTimeout: "soon" }), JobError, "IdleTimeout=soon");
  assertEquals(folder.names(), []);
});

Deno.test("serveapi holds clients until acceptconnections, on all its addresses", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using served = await Served.bind({}, ["tcp://127.0.0.1:0", `unix://${path}`]);
  const clients = [await Client.to(served.target), await Client.to({ transport: "unix", path })];
  await Promise.all(clients.map((client) => client.send(PING)));
  await until(async () => {
    const { listeners } = await served.stats();
    return listeners[0].held === 1 && listeners[1].held === 1;
  });
  assertEquals((await served.stats()).requests, 0);
  await served.accept();
  for (const client of clients) {
    assertEquals((await client.answer()).body, "OK");
    client.close();
  }
});

Deno.test("serveapi drops held clients quietly that went away before the gate opened", async () => {
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
  await until(async () => (await served.stats()).active === 0);
  assertEquals((await served.stats()).listeners[0].held, 0);
  assertEquals(served.lines.filter((line) => /^(warn|error)/.test(line)), []);
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

Deno.test("serveapi with BufferRequests=0 serves at once", async () => {
  await using served = await Served.bind({ BufferRequests: "0" });
  const client = await Client.to(served.target);
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  served.builtins.activation.fail(new Error("no quorum"));
  assertEquals((await served.ended)?.message, "no quorum");
});

Deno.test("serveapi behind a gate that was opened before serves at once", async () => {
  await using served = await Served.open();
  const { target, ended } = await served.another();
  const client = await Client.to(target);
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  await served.engine.shutdown({ drain: 100 });
  await ended;
});

Deno.test("serveapi ends with the reason when the gate fails: held clients closed, files gone", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using served = await Served.bind({}, [`unix://${path}`]);
  const client = await Client.to({ transport: "unix", path });
  await client.send(PING);
  await until(async () => (await served.stats()).listeners[0].held === 1);
  served.builtins.activation.fail(new Error("no quorum"));
  assertEquals((await rest(client)).text, "");
  assertEquals((await served.ended)?.message, "no quorum");
  assertEquals(folder.names(), []);
});

Deno.test("acceptconnections and serveapi fail with the reason once the gate has failed", async () => {
  await using served = await Served.bind();
  served.builtins.activation.fail(new Error("no quorum"));
  await assertRejects(() => served.accept(), JobError, "no quorum");
  const late = served.engine.job("serveapi", "tcp://127.0.0.1:0");
  await assertRejects(() => late.run(), JobError, "no quorum");
  assertEquals((await served.ended)?.message, "no quorum");
});

Deno.test("serveapi ends a client that sends no whole header within HeaderTimeout", async () => {
  await using served = await Served.open({ HeaderTimeout: "0.3" });
  const silent = await Client.to(served.target);
  const half = await Client.to(served.target);
  await half.send("GET /_ping HTTP/1.1\r\nHo");
  const ended = await Promise.all([rest(silent), rest(half)]);
  for (const { text, after } of ended) {
    assertEquals(text, "");
    assert(after > 150, `ended after ${after} ms already`);
  }
  assertEquals((await served.stats()).timedOut, 2);
});

Deno.test("serveapi ends an idle connection after IdleTimeout, half a second request or not", async () => {
  await using served = await Served.open({ IdleTimeout: "0.3", HeaderTimeout: "60" });
  const clients = [await Client.to(served.target), await Client.to(served.target)];
  for (const client of clients) assertEquals((await client.ask(PING)).status, 200);
  await clients[1].send("GET /_ping HTT");
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
  assertEquals((await rest(idle[0])).text, "");
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

Deno.test("serveapi cuts a client that does not take its answer within SendTimeout", async () => {
  await using served = await Served.open({ SendTimeout: "0.3", IdleTimeout: "0.1" });
  // Plain Hono: one big body that Deno sends by itself, which no stream of ours can watch.
  served.router.get("/big", () => new Response(new Uint8Array(64 * 1024 * 1024)));
  const client = await Client.to(served.target);
  await client.send("GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).cut === 1);
  await until(async () => (await served.stats()).active === 0);
  client.close();
});

Deno.test("serveapi lets a client that takes its answer slowly have all of it", async () => {
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
  // It has begun when nobody is let in any more.
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

Deno.test("shutdown cuts what is not done when the drain is over", async () => {
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

Deno.test("shutdown serves those who wait in the queue of a unix socket", async () => {
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

Deno.test("a request whose client leaves aborts its job and disturbs no other", async () => {
  await using served = await Served.open();
  const gone = Promise.withResolvers<unknown>();
  served.engine.register("wait", async (job) => {
    job.signal.addEventListener("abort", () => gone.resolve(job.signal.reason));
    await gone.promise;
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait" });
  const leaver = await Client.to(served.target);
  await leaver.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  const other = await Client.to(served.target);
  await until(async () => (await served.stats()).requests === 1);
  leaver.close();
  assertEquals((await gone.promise as Error).name, "AbortError");
  assertEquals((await other.ask(PING)).status, 200);
  other.close();
  await until(async () => (await served.stats()).active === 0);
  // `stats` itself runs.
  await until(() => served.engine.stats.running <= 2);
});

Deno.test({
  name: "shutdown ends a serveapi whose folder is gone, or kept locked by somebody",
  // Without tryLock(), which came with Deno 2.7, the lock goes on being waited for.
  sanitizeOps: "tryLock" in Deno.FsFile.prototype,
  async fn() {
    for (const harm of ["gone", "locked"]) {
      await using folder = await TempFolder.make();
      const path = `${folder.path}/s`;
      const served = await Served.open({}, [`unix://${path}`, "tcp://127.0.0.1:0"]);
      const lock = await Deno.open(folder.path);
      if (harm === "locked") await lock.lock(true);
      else await Deno.remove(path);
      if (harm === "gone") await Deno.remove(folder.path);
      await served.engine.shutdown({ drain: 5_000 });
      assertEquals(await served.ended, undefined);
      lock.close();
      if (harm === "gone") await Deno.mkdir(folder.path);
      assertEquals(folder.names(), []);
    }
  },
});

Deno.test("shutdown in the middle of binding leaves nothing bound", async () => {
  await using folder = await TempFolder.make();
  const engine = new Engine({ log: () => {} });
  registerBuiltins(engine, { router: createRouter(engine) });
  const job = engine.job(
    "serveapi",
    ...["a", "b", "c"].map((name) => `unix://${folder.path}/${name}`),
  );
  const ended = job.run();
  await until(() => folder.names().length > 0);
  await engine.shutdown({ drain: 1_000 });
  await ended;
  assertEquals(folder.names(), []);
});

Deno.test("a program that has shut its engine down ends, whatever looked at its connections", async () => {
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(
    `${folder.path}/program.ts`,
    `import { Served } from ${
      JSON.stringify(new URL("../support/served.ts", import.meta.url).href)
    };
    const served = await Served.open({}, ["tcp://127.0.0.1:0"]);
    await (await fetch(served.addresses[0].replace("tcp", "http") + "/_ping")).text();
    await served.engine.shutdown();
    await served.ended;
    // It does not keep the process; if something else does, it is seen.
    Deno.unrefTimer(setTimeout(() => console.log("still there"), 300));`,
  );
  const { code, stdout, stderr } = await run(Deno.execPath(), [
    ...["run", "-A", "--no-check", "--no-lock", "--import-map", project("offline/import_map.json")],
    `${folder.path}/program.ts`,
  ]);
  assertEquals([code, stdout], [0, ""], stderr);
});

Deno.test("serveapi with Takeover behind a gate that is open already takes its place at once", async () => {
  await using folder = await TempFolder.make();
  const address = `unix://${folder.path}/s`;
  const old = await Served.open({}, [address]);
  await using next = await Served.bind({}, ["tcp://127.0.0.1:0"]);
  await next.accept();
  // The old one's file has been replaced when its own end leaves one there.
  const inode = (await Deno.stat(`${folder.path}/s`)).ino;
  const second = next.engine.job("serveapi", address);
  second.setenvBool("Takeover", true);
  const ended = second.run();
  await until(async () => (await Deno.stat(`${folder.path}/s`)).ino !== inode);
  await old[Symbol.asyncDispose]();
  const client = await Client.to({ transport: "unix", path: `${folder.path}/s` });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  await next.engine.shutdown({ drain: 100 });
  await ended;
  assertEquals(folder.names(), []);
});

Deno.test("serveapi with Takeover does not replace a file that came into its place", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const old = await Served.open({}, [`unix://${path}`]);
  await using next = await Served.bind({ Takeover: "1" }, [`unix://${path}`]);
  await old[Symbol.asyncDispose]();
  await Deno.writeTextFile(path, "precious");
  await assertRejects(() => next.accept(), JobError, "no socket");
  assertEquals(await Deno.readTextFile(path), "precious");
});

Deno.test("serveapi at MaxConnections is not blocked for ever by clients that take no answer", async () => {
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
  await until(async () => (await served.stats()).active === 1);
  const shutdown = served.engine.shutdown({ drain: 30_000 });
  await until(() => Client.to(served.target).then((late) => (late.close(), false), () => true));
  await client.send("TP/1.1\r\nHost: localhost\r\n\r\n");
  const answer = await client.answer();
  assertEquals([answer.status, answer.last], [200, true]);
  client.close();
  await shutdown;
});

Deno.test("serveapi ends connections whose request body nobody reads, and frees their sockets", async () => {
  await using served = await Served.open({ IdleTimeout: "0.2" });
  served.engine.register("ignore", (job) => job.print("ignored"));
  served.router.job({ method: "POST", path: "/ignore", job: "ignore" });
  served.router.post("/plain", (c) => c.text("ignored"));
  const sockets = () =>
    [...Deno.readDirSync("/proc/self/fd")].filter(({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`).startsWith("socket:");
      } catch {
        return false; // The descriptor of this very listing.
      }
    }).length;
  const before = sockets();
  const clients: Client[] = [];
  // PURGE stands for the methods that no route has, which may have a body as well.
  for (
    const line of [
      "POST /ignore",
      "POST /plain",
      "POST /nowhere",
      "POST /version",
      "PURGE /version",
    ]
  ) {
    for (let i = 0; i < 5; i++) {
      const client = await Client.to(served.target);
      await client.send(`${line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n`);
      assert((await client.answer()).status > 0);
      clients.push(client);
    }
  }
  for (const { text, after } of await Promise.all(clients.map(rest))) {
    assertEquals(text, "");
    // Left alone they end as well, but only when their sockets are collected, after half a minute.
    assert(after < 10_000, `ended after ${after} ms`);
  }
  await until(() => sockets() <= before);
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

Deno.test("shutdown serves those who wait for a place", async () => {
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

Deno.test("serveapi jobs of one engine share what descriptors allow", async () => {
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

Deno.test("stats counts per listener", async () => {
  await using folder = await TempFolder.make();
  await using served = await Served.open({}, ["tcp://127.0.0.1:0", `unix://${folder.path}/s`]);
  const client = await Client.to(served.target);
  await client.ask(PING);
  const { listeners } = await served.stats();
  assertEquals(
    listeners.map((listener: Record<string, unknown>) => [
      listener.accepted,
      listener.active,
      listener.requests,
    ]),
    [[1, 1, 1], [0, 0, 0]],
  );
  client.close();
  await until(async () => (await served.stats()).listeners[0].active === 0);
});

// What follows needs daemons of their own.

Deno.test("main survives more clients than it may have descriptors", async () => {
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--max-connections", "10000"], {
    descriptors: 80,
  });
  const target = { hostname: "127.0.0.1", port: await daemon.port() };
  await daemon.open();
  const kept: Client[] = [];
  await Promise.all(Array.from({ length: 300 }, async () => {
    const client = await Client.to(target);
    kept.push(client);
    assertEquals((await client.ask(PING)).status, 200);
  }));
  const last = await Client.to(target);
  kept.push(last);
  const vars = await last.ask("GET /debug/vars HTTP/1.1\r\nHost: localhost\r\n\r\n");
  assert(JSON.parse(vars.body).apis[0].listeners[0].acceptErrors > 0);
  assertMatch(daemon.stderr, /accept: Too many open files/);
  kept.forEach((client) => client.close());
});

Deno.test("main holds more clients than it may have descriptors, and leaves some for the boot", async () => {
  const install = installer(`
    ${untilHeld(300)}
    for (let i = 0; i < 20; i++) (globalThis.files ??= []).push(Deno.openSync("/dev/null"));`);
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", install], {
    descriptors: 100,
  });
  const target = { hostname: "127.0.0.1", port: await daemon.port() };
  await Promise.all(Array.from({ length: 300 }, async () => {
    const client = await Client.to(target);
    assertEquals((await client.ask(PING)).status, 200);
    client.close();
  }));
});

Deno.test("main replaces the socket file of a daemon that was killed, and no other", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using killed = Daemon.start(["-H", `unix://${path}`]);
  await killed.open();
  await killed.end("SIGKILL");
  assertEquals(folder.names(), ["s"]);
  await using living = Daemon.start(["-H", `unix://${path}`]);
  await living.open();
  await using refused = Daemon.start(["-H", `unix://${path}`]);
  assertEquals((await refused.status).code, 1);
  assertMatch(
    refused.stderr,
    /^floodgate: .* a living process answers there.*--takeover \(Takeover\)\n$/,
  );
  const client = await Client.to({ transport: "unix", path });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  assertEquals(await living.end(), 0);
  assertEquals(folder.names(), []);
});

Deno.test("main --takeover takes a living daemon's place without losing a request", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using old = Daemon.start(["-H", `unix://${path}`]);
  await old.open();
  const load = new Load({ transport: "unix", path }, 4, 4);
  await using next = Daemon.start(["-H", `unix://${path}`, "--takeover"]);
  await next.open();
  assertEquals(await old.end(), 0);
  assertEquals(folder.names(), ["s"]);
  const before = load.tally.ok;
  await until(() => load.tally.ok > before + 100);
  const { failed } = await load.stop();
  assertEquals([...failed], []);
  assertEquals(await next.end(), 0);
  assertEquals(folder.names(), []);
});

Deno.test("main --takeover whose boot fails leaves the living daemon alone", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using old = Daemon.start(["-H", `unix://${path}`]);
  await old.open();
  await using next = Daemon.start([
    "-H",
    `unix://${path}`,
    "--takeover",
    "--install",
    "data:text/javascript,",
  ]);
  assertEquals((await next.status).code, 1);
  assertEquals(folder.names(), ["s"]);
  const client = await Client.to({ transport: "unix", path });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
});

Deno.test("main --reuse-port lets two daemons share a port", async () => {
  await using first = Daemon.start(["-H", "tcp://127.0.0.1:0", "--reuse-port"]);
  const target = { hostname: "127.0.0.1", port: await first.port() };
  await first.open();
  await using second = Daemon.start(["-H", `tcp://127.0.0.1:${target.port}`, "--reuse-port"]);
  await second.open();
  assertEquals(await first.end(), 0);
  const client = await Client.to(target);
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  assertEquals(await second.end(), 0);
});

Deno.test("main ends at once at the second signal, and leaves no socket file", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const install = installer('router.get("/never", () => new Promise(() => {}));');
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", install]);
  await daemon.open();
  const client = await Client.to({ transport: "unix", path });
  await client.send("GET /never HTTP/1.1\r\nHost: localhost\r\n\r\n");
  // One request that is answered after it shows that the first was taken up.
  const other = await Client.to({ transport: "unix", path });
  await other.ask(PING);
  daemon.kill("SIGTERM");
  await daemon.says(/SIGTERM: draining/);
  assertEquals(await daemon.end("SIGINT"), 130);
  assertEquals(folder.names(), []);
  client.close();
  other.close();
});
