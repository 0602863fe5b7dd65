import { assert, assertEquals } from "@std/assert";
import { type ClientHttp2Session, connect } from "node:http2";
import { Workload } from "../../serve/workload.ts";
import { Client, PING } from "../support/client.ts";
import { until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

/** A job that ends when it is told to, whatever its client does, and how many of it run. */
function deaf(served: Served): { running: number; end: () => void } {
  const go = Promise.withResolvers<void>();
  const state = { running: 0, end: go.resolve };
  const route = (path: string, stream: boolean) => {
    served.engine.register(path.slice(1), async (job) => {
      state.running++;
      if (stream) await job.print("begun\n");
      await go.promise;
      state.running--;
    });
    served.router.job({ method: "GET", path, job: path.slice(1), stream });
  };
  route("/deaf", false);
  route("/deaf-stream", true);
  return state;
}

function session({ target }: Served): ClientHttp2Session {
  return connect(`http://localhost:${(target as Deno.ConnectOptions).port}`);
}

/** Sends so many requests, and resets their streams once those have come. */
async function reset(served: Served, of: ClientHttp2Session, path: string, count: number) {
  const { requests } = await served.stats();
  const streams = Array.from({ length: count }, () => of.request({ ":path": path }));
  const closed = streams.map((stream) => new Promise((resolve) => stream.on("close", resolve)));
  for (const stream of streams) stream.on("error", () => {}).resume();
  await until(async () => (await served.stats()).requests === requests + count);
  for (const stream of streams) stream.close(8); // CANCEL (RFC 9113, 7)
  await Promise.all(closed);
}

function statusOf(of: ClientHttp2Session, path: string): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const stream = of.request({ ":path": path });
    stream.on("response", (header) => resolve([header[":status"], header["retry-after"]]));
    stream.on("error", reject);
  });
}

for (const path of ["/deaf", "/deaf-stream"]) {
  Deno.test(`requests of an HTTP/2 connection that are reset count until their jobs end: ${path}`, async () => {
    await using served = await Served.open({ MaxConnectionRequests: "20" });
    const jobs = deaf(served);
    const client = session(served);
    for (let i = 0; i < 10; i++) await reset(served, client, path, 15);
    await until(() => jobs.running > 0);
    assert(jobs.running <= 20, `${jobs.running} jobs run`);
    assertEquals(await statusOf(client, "/_ping"), [503, "1"]);
    // Others are served.
    const other = await Client.to(served.target);
    assertEquals((await other.ask(PING)).status, 200);
    other.close();
    jobs.end();
    await until(async () => (await served.stats()).work.requests === 0);
    assertEquals(await statusOf(client, "/_ping"), [200, undefined]);
    client.destroy();
  });
}

Deno.test("serveapi answers 503 beyond MaxRequests, however they came, and serves again", async () => {
  await using served = await Served.open({ MaxRequests: "5" });
  const jobs = deaf(served);
  const clients: Client[] = [];
  for (let i = 0; i < 5; i++) {
    clients.push(await Client.to(served.target));
    await clients[i]!.send("GET /deaf HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }
  await until(() => jobs.running === 5);
  // A client that has gone leaves its job behind.
  for (const client of clients) client.close();
  const next = await Client.to(served.target);
  const { status, header, body } = await next.ask(PING);
  assertEquals([status, JSON.parse(body)], [503, { message: "too much is in work, try again" }]);
  assert(header.includes("\r\nretry-after: 1\r\n"));
  jobs.end();
  await until(async () => (await served.stats()).work.requests === 0);
  assertEquals((await next.ask(PING)).status, 200);
  assertEquals((await served.stats()).overload, 1);
  next.close();
});

Deno.test("Workload allows what the memory can take", () => {
  const { maxRequests, maxConnectionRequests, maxHeld } = new Workload();
  assert(maxRequests >= 256 && maxRequests <= 65_536);
  assertEquals(maxConnectionRequests, 100);
  assert(maxHeld >= 64 * 1_024 ** 2 && maxHeld <= 512 * 1_024 ** 2);
  assertEquals(new Workload({ maxRequests: 7 }).maxRequests, 7);
});
