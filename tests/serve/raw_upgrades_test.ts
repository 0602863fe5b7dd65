import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Authority } from "../support/certificates.ts";
import { Client } from "../support/client.ts";
import { Daemon, installer, TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { Served } from "../support/served.ts";
import { curl, flags as tlsFlags, settings, urlOf } from "../support/tls.ts";
import { closed, Doors, message, openSocket, sendBack, upgradeOf } from "../support/upgrades.ts";

/** Adds `/echo`, which sends back what it gets. */
function echo({ router }: Served): void {
  router.upgradable("/echo");
  router.post("/echo", (c) => {
    const { response, connection } = c.env.upgrade();
    sendBack(connection);
    return response;
  });
}

foreignTest("RawUpgrades peeks at no connection if no route asks for raw upgrades", async () => {
  await using doors = await Doors.open();
  for (const { target } of doors.doors) {
    using client = await Client.to(target);
    // As the native loop has it.
    assertEquals((await client.ask(upgradeOf("/_ping"))).status, 400);
  }
});

foreignTest(
  "RawUpgrades serves none over TLS without client certificates, and says so",
  async () => {
    await using authority = await Authority.make();
    await using served = await Served.bind(settings(await authority.server()));
    echo(served);
    await served.accept();
    await until(() => served.lines.some((line) => line.startsWith("warn tcp:")));
    const line = served.lines.find((line) => line.startsWith("warn tcp:"));
    assertMatch(
      line!,
      /no raw upgrades are served: over TLS they need client certificates, --tlsverify/,
    );
    const asked = ["--http1.1", "-H", "Connection: Upgrade", "-H", "Upgrade: tcp", "-X", "POST"];
    const { stdout } = await curl(authority, `${urlOf(served)}/echo`, "-i", ...asked);
    assertMatch(stdout, /^HTTP\/1\.1 501 /);
    assertStringIncludes(stdout, "over TLS they need client certificates");
  },
);

Deno.test("RawUpgrades serves none without foreign functions, says so, and WebSockets work", async () => {
  await using folder = await TempFolder.make();
  await using authority = await Authority.make();
  const install = installer(`
    engine.register("cat", async (job) => {
      job.setenvBool("Tty", true);
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    });
    router.job({ method: "GET", path: "/ws", job: "cat", upgrade: "websocket" });
    router.job({ method: "POST", path: "/cat", job: "cat", upgrade: "tcp" });`);
  const path = `${folder.path}/s`;
  const some = ["net", "read", "write", "env", "sys"].map((name) => `--allow-${name}`);
  for (const flags of [["-A", "--deny-ffi"], some]) {
    for (const tls of [[], tlsFlags(await authority.server())]) {
      await using daemon = Daemon.start([
        ...["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`, "--install", install, ...tls],
      ], { flags });
      await daemon.open();
      const port = await daemon.port();
      const ca = Deno.readTextFileSync(authority.ca);
      const sockets = [
        await openSocket(`${tls.length > 0 ? "wss" : "ws"}://localhost:${port}/ws`, [], { ca }),
        await openSocket(`ws+unix://${path}:/ws`),
      ];
      for (const socket of sockets) {
        const got = message(socket);
        socket.send("hello");
        assertEquals(await got, "hello");
      }
      using client = await Client.to({ transport: "unix", path });
      const { status, body } = await client.ask(
        upgradeOf("/cat").replace(/Content-Length: 0\r\n/, ""),
      );
      assertEquals(status, 501);
      const problem = "this needs the permission --allow-ffi";
      assertStringIncludes(body, `no raw upgrade is served here: ${problem}`);
      const ends = Promise.all(sockets.map(closed));
      assertEquals(await daemon.end(), 0);
      for (const { code } of await ends) assertEquals(code, 1001);
      const warnings = daemon.stderr.split("\n").filter((line) => line.includes("raw upgrades"));
      const tcp = `tcp://127.0.0.1:${port}`;
      assertEquals(
        warnings.map((line) => line.replace(/^.*?(?=tcp:|unix:)/, "")),
        tls.length > 0
          ? [
            `${tcp}: no raw upgrades are served: over TLS they need client certificates, --tlsverify (TlsVerify)`,
            `unix://${path}: no raw upgrades are served: ${problem}`,
          ]
          : [`${tcp}, unix://${path}: no raw upgrades are served: ${problem}`],
      );
    }
  }
});
