import { assertEquals } from "@std/assert";
import { Client, PING } from "../support/client.ts";
import { Daemon, installer, TempFolder } from "../support/daemon.ts";

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  Deno.test(`main ends with status 0 and without a socket file at ${signal}`, async () => {
    await using folder = await TempFolder.make();
    await using daemon = Daemon.start([
      "-H",
      `unix://${folder.path}/api.sock`,
      "--pidfile",
      `${folder.path}/pid`,
    ]);
    await daemon.open();
    assertEquals(folder.names(), ["api.sock", "pid", "pid.handover"]);
    assertEquals((await Deno.readTextFile(`${folder.path}/pid`)).trim(), String(daemon.pid));
    assertEquals(await daemon.end(signal), 0);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main survives what a handler leaves behind: late rejections and uncaught errors", async () => {
  const body = `
    router.get("/late", (c) => {
      Promise.reject(new Error("nobody awaits me"));
      setTimeout(() => { throw new Error("nobody catches me"); });
      return c.text("answered");
    });`;
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", installer(body)]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  assertEquals(await (await fetch(url + "/late")).text(), "answered");
  await daemon.says(/unhandled rejection: Error: nobody awaits me/);
  await daemon.says(/uncaught error: Error: nobody catches me/);
  assertEquals(await (await fetch(url + "/_ping")).text(), "OK");
  assertEquals(await daemon.end(), 0);
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
