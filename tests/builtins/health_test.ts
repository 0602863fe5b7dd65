import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { JobError } from "../../engine.ts";
import { Client, get } from "../support/client.ts";
import { exchange, missing, run, TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

const NO_CURL = await missing("curl", ["--version"]);

/** Serves health on a port beside a daemon, and gives the URL. */
async function healthOf(served: Served, ...addresses: string[]): Promise<string> {
  const job = served.engine.job("servehealth", ...addresses, "tcp://127.0.0.1:0");
  const out = job.stdout.addTail(1);
  await job.run();
  return out.text.replace("tcp:", "http:");
}

async function ready(url: string): Promise<[number, Record<string, unknown>]> {
  const response = await fetch(`${url}/readyz`);
  return [response.status, await response.json()];
}

Deno.test("servehealth answers from the first moment, with the daemon's state, until its end", async () => {
  await using served = await Served.bind();
  const began = Date.now();
  const url = await healthOf(served);
  const [status, { since, ...booting }] = await ready(url);
  assertEquals([status, booting], [503, { state: "booting", held: 0 }]);
  assert(Math.abs(new Date(since as string).getTime() - began) < 10_000, String(since));

  served.engine.progress("container 40 of 200");
  using held = await Client.to(served.target);
  await until(async () => (await ready(url))[1].held === 1);
  const [, { progress, progressAt }] = await ready(url);
  assertEquals(progress, "container 40 of 200");
  assert(Date.parse(progressAt as string) >= Date.parse(since as string));

  await served.accept();
  const [open, { since: opened, ...now }] = await ready(url);
  assertEquals([open, now], [200, { state: "ready", held: 0 }]);
  assert(Date.parse(opened as string) >= Date.parse(since as string));

  // A client that is still served keeps the daemon draining.
  served.engine.register(
    "hang",
    (job) => new Promise((resolve) => void job.onStop(() => drained.then(resolve))),
  );
  let ended = () => {};
  const drained = new Promise<void>((resolve) => ended = resolve);
  const hanging = served.engine.job("hang").run();
  const down = served.engine.shutdown({ drain: 5_000 });
  await until(async () => (await ready(url))[1].state === "draining");
  assertEquals((await ready(url))[0], 503);
  assertEquals(await fetch(`${url}/livez`).then((answer) => answer.text()), "ok\n");
  ended();
  await hanging;
  await down;
  await held.ended();
  await assertRejects(() => fetch(`${url}/readyz`), TypeError);
});

Deno.test("servehealth says why a boot has failed", async () => {
  const served = await Served.bind();
  const url = await healthOf(served);
  served.builtins.activation.fail(new Error("the store is locked"));
  await served.ended;
  const [status, { since: _, ...answer }] = await ready(url);
  assertEquals([status, answer], [503, {
    state: "failed",
    reason: "the store is locked",
    held: 0,
  }]);
  await served.engine.shutdown();
});

Deno.test("servehealth is alive where a job can run, and not where none can", async () => {
  await using served = await Served.bind();
  const url = await healthOf(served);
  const live = async () => {
    const response = await fetch(`${url}/livez`);
    return [response.status, await response.text()];
  };
  assertEquals(await live(), [200, "ok\n"]);
  const end = served.engine.wrapHandlers(() => {
    throw new Error("out of order");
  });
  assertEquals(await live(), [503, "no job can run: out of order\n"]);
  end();
  assertEquals(await live(), [200, "ok\n"]);
});

Deno.test("servehealth serves nothing of the API, and refuses web pages", async () => {
  await using served = await Served.open();
  const url = await healthOf(served);
  const { port } = new URL(url);
  const target = { hostname: "127.0.0.1", port: Number(port) };
  assertMatch(
    await exchange(target, get("/version")),
    /^HTTP\/1.1 404 [^]*expected \/livez, \/readyz, \/metrics\n$/,
  );
  assertMatch(await exchange(target, get("/livez/../version")), /^HTTP\/1.1 404 /);
  assertMatch(await exchange(target, get("/readyz?verbose")), /^HTTP\/1.1 200 /);
  assertMatch(
    await exchange(target, get("/readyz").replace("localhost", "evil.example")),
    /^HTTP\/1.1 403 /,
  );
  const post = await fetch(`${url}/readyz`, { method: "POST", body: "x" });
  assertEquals([post.status, post.headers.get("allow")], [405, "GET"]);
  assertEquals(await post.text(), "method POST is not allowed, expected GET\n");
  assertMatch(await exchange(served.target, get("/livez")), /^HTTP\/1.1 404 /);
});

Deno.test(
  "servehealth on a unix socket answers curl, and leaves no file",
  { ignore: NO_CURL },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/health.sock`;
    {
      await using served = await Served.open();
      await healthOf(served, `unix://${path}`);
      const curl = (...args: string[]) =>
        run("curl", ["-sS", "-m", "60", "--unix-socket", path, ...args]);
      assertEquals((await curl("--fail", "http://localhost/livez")).stdout, "ok\n");
      assertMatch((await curl("--fail", "http://localhost/readyz")).stdout, /^{"state":"ready",/);
      assertMatch(
        (await curl("--head", "http://localhost/metrics")).stdout,
        /^HTTP\/1.1 200 OK\r\n/,
      );
      assertEquals(Deno.statSync(path).mode! & 0o777, 0o660);
    }
    assertEquals(folder.names(), []);
  },
);

Deno.test("servehealth bounds what its clients cost", async () => {
  await using served = await Served.open();
  const url = await healthOf(served);
  const target = { hostname: "127.0.0.1", port: Number(new URL(url).port) };
  // More clients than are served at once, all silent.
  const silent = await Promise.all(Array.from({ length: 20 }, () => Client.to(target)));
  assertEquals((await ready(url))[0], 200);
  for (const client of silent) client[Symbol.dispose]();
});

Deno.test("servehealth says what is wrong with an address, and binds none that others can reach", async () => {
  await using served = await Served.open();
  const fails = (...args: string[]) =>
    assertRejects(() => served.engine.job("servehealth", ...args).run(), JobError);
  assertMatch((await fails()).message, /^servehealth: no address, expected PROTO:\/\/ADDR \.\.\.$/);
  assertMatch(
    (await fails("tcp://localhost")).message,
    /^address "tcp:\/\/localhost": expected tcp/,
  );
  assertMatch(
    (await fails("tcp://0.0.0.0:0")).message,
    /clients on other machines could use the API/,
  );
});
