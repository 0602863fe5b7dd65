import { assert, assertEquals } from "@std/assert";
import { Client, PING, rest } from "../support/client.ts";
import { until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

Deno.test("serveapi aborts the job of a client that leaves, and no other", async () => {
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
  await until(async () => (await served.stats()).open === 0);
  // `stats` itself runs.
  await until(() => served.engine.stats.running <= 2);
});

Deno.test("serveapi ends connections whose request body no handler reads, and frees their sockets", async () => {
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
