import { assert, assertEquals, assertMatch } from "@std/assert";
import { Client, PING } from "../support/client.ts";
import { memoryLimit } from "../../platform/descriptors.ts";
import { Daemon, installer, run, TempFolder, untilHeld } from "../support/daemon.ts";

Deno.test("memoryLimit is at most the machine's memory, and 1 GiB without permissions", async () => {
  const limit = memoryLimit();
  assert(limit > 2 ** 20 && limit <= Deno.systemMemoryInfo().total, `${limit}`);
  await using folder = await TempFolder.make();
  const module = new URL("../../platform/descriptors.ts", import.meta.url);
  await Deno.writeTextFile(
    `${folder.path}/look.ts`,
    `import { memoryLimit } from "${module}";\nconsole.log(memoryLimit());`,
  );
  const { stdout } = await run(Deno.execPath(), [
    ...["run", "--no-prompt", "--allow-read", `${folder.path}/look.ts`],
  ]);
  assertEquals(stdout, `${2 ** 30}\n`);
});

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

for (const more of [[], ["--max-connections", "10000"]]) {
  Deno.test(`main holds more clients than it may have descriptors, and leaves some for the boot: ${more}`, async () => {
    const install = installer(`
      ${untilHeld(300)}
      for (let i = 0; i < 20; i++) (globalThis.files ??= []).push(Deno.openSync("/dev/null"));
      await import("data:text/typescript,export const a: number = 1;");`);
    const args = ["-H", "tcp://127.0.0.1:0", "--install", install, ...more];
    await using daemon = Daemon.start(args, { descriptors: 100 });
    const target = { hostname: "127.0.0.1", port: await daemon.port() };
    await Promise.all(Array.from({ length: 300 }, async () => {
      const client = await Client.to(target);
      assertEquals((await client.ask(PING)).status, 200);
      client.close();
    }));
  });
}
