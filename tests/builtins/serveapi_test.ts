import {
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { registerBuiltins } from "../../builtins/builtins.ts";
import { serve } from "../../builtins/serveapi.ts";
import type { Fetcher } from "../../serve/handler.ts";
import { Engine, JobError, TypedError } from "../../engine.ts";
import { createRouter } from "../../router.ts";
import { Client, PING, rest } from "../support/client.ts";
import { isPending, settle, TempFolder, until } from "../support/daemon.ts";
import { portOf, Served } from "../support/served.ts";

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

Deno.test("serve returns the bound addresses, makes its router only then, and ends with the engine", async () => {
  await using folder = await TempFolder.make();
  const lines: string[] = [];
  const engine = new Engine({ log: (_level, message) => void lines.push(message) });
  registerBuiltins(engine);
  const wanted = Promise.withResolvers<Fetcher>();
  const { addresses, finished } = await serve(engine, {
    addresses: ["tcp://127.0.0.1:0", `unix://${folder.path}/s`],
    router: () => wanted.promise,
  });
  assertMatch(addresses[0]!, /^tcp:\/\/127\.0\.0\.1:[1-9]\d*$/);
  assertEquals(addresses.slice(1), [`unix://${folder.path}/s`]);
  // A client is held, and the gate's opening is not enough while there is no router.
  const client = await Client.to({
    hostname: "127.0.0.1",
    port: portOf(addresses[0]),
  });
  const answer = client.ask(PING);
  await engine.job("acceptconnections").run();
  assertEquals(await isPending(answer), true);
  wanted.resolve({ fetch: () => new Response("mine") });
  assertEquals((await answer).body, "mine");
  client.close();
  await engine.shutdown();
  assertEquals([await finished, folder.names()], [undefined, []]);
  assertMatch(lines[0]!, /^\+job serveapi\(tcp:\/\/127\.0\.0\.1:0, unix:/);
});

Deno.test("serve passes settings on to its default router", async () => {
  const engine = new Engine({ log: () => {} });
  registerBuiltins(engine);
  const { addresses: [address], finished } = await serve(engine, {
    addresses: ["tcp://127.0.0.1:0"],
    serverVersion: "9.8.7",
    cors: "*",
  });
  await engine.job("acceptconnections").run();
  const { headers, body } = await fetch(address!.replace("tcp:", "http:") + "/_ping");
  await body?.cancel();
  assertMatch(headers.get("server")!, /^Floodgate\/9\.8\.7 /);
  assertEquals(headers.get("access-control-allow-origin"), "*");
  await engine.shutdown({ drain: 100 });
  await finished;
});

Deno.test("serve rejects with the reason, leaves nothing bound, and causes no unhandled rejection", async () => {
  await using folder = await TempFolder.make();
  const engine = new Engine({ log: () => {} });
  await assertRejects(
    () => serve(engine, { addresses: [] }),
    TypeError,
    "registerBuiltins(engine)",
  );
  const { activation } = registerBuiltins(engine);
  const addresses = [`unix://${folder.path}/s`];
  const wrong: [Parameters<typeof serve>[1], string][] = [
    [{ addresses: [] }, "no address"],
    [{ addresses: [...addresses, "x"] }, '"x"'],
    [{ addresses: [...addresses, ...addresses] }, "given twice"],
    [{ addresses, idleTimeout: -1 }, "idleTimeout: -1, expected a number of milliseconds"],
    [{ addresses, tls: { cert: "/no/cert", key: "/no/key" } }, "TLS certificate /no/cert"],
  ];
  for (const [options, problem] of wrong) {
    const { cause } = await assertRejects(() => serve(engine, options), JobError, problem);
    assertInstanceOf(cause, TypedError);
  }
  assertEquals(folder.names(), []);
  const { finished } = await serve(engine, { addresses });
  activation.fail(new Error("no quorum"));
  await until(() => folder.names().length === 0);
  await settle(); // It would be an uncaught error by now.
  await assertRejects(() => finished, JobError, "no quorum");
});

Deno.test("serveapi warns that Takeover does nothing without a unix socket", async () => {
  await using folder = await TempFolder.make();
  const warnings = async (...addresses: string[]) => {
    await using served = await Served.open({ takeover: true }, addresses);
    return served.lines.filter((line) => line.startsWith("warn"));
  };
  assertEquals(await warnings("tcp://127.0.0.1:0"), [
    "warn --takeover (Takeover) does nothing here: no address is a unix socket, " +
    "expected --handover (Handover) or --pidfile as the other daemon has it",
  ]);
  assertEquals(await warnings("tcp://127.0.0.1:0", `unix://${folder.path}/s`), []);
});

Deno.test("serveapi reads its variables before it binds anything", async () => {
  await using folder = await TempFolder.make();
  const engine = new Engine({ log: () => {} });
  registerBuiltins(engine);
  const job = engine.job("serveapi", `unix://${folder.path}/s`);
  job.setenv("IdleTimeout", "soon");
  await assertRejects(() => job.run(), JobError, "IdleTimeout=soon: expected a number of seconds");
  assertEquals(folder.names(), []);
  const printed = engine.job("serveapi", `unix://${folder.path}/s`);
  const lines = printed.stdout.addPipe().getReader();
  const ended = printed.run();
  const { value } = await lines.read();
  assertEquals(new TextDecoder().decode(value), `unix://${folder.path}/s\n`);
  await engine.shutdown({ drain: 100 });
  await ended;
});

Deno.test("serveapi without an address, and with a bad one, fails before it binds anything", async () => {
  await using folder = await TempFolder.make();
  await assertRejects(() => Served.bind({}, []), JobError, "expected PROTO://ADDR");
  await assertRejects(() => Served.bind({}, [`unix://${folder.path}/a`, "x"]), JobError, '"x"');
  await assertRejects(() => Served.bind({ idleTimeout: -1 }), JobError, "idleTimeout: -1");
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
    return listeners.every(({ held }) => held === 1);
  });
  assertEquals((await served.stats()).requests, 0);
  await served.accept();
  for (const client of clients) {
    assertEquals((await client.answer()).body, "OK");
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
  await assertRejects(() => next.accept(), JobError, "not a socket");
  assertEquals(await Deno.readTextFile(path), "precious");
});
