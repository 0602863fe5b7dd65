import { assert, assertEquals, assertMatch } from "@std/assert";
import { userName } from "../../platform/peers.ts";
import { Client, get, PING } from "../support/client.ts";
import { NO_ACTIVATE } from "../support/activate.ts";
import { Daemon, installer, missing, run, TempFolder } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";

const ROOT = Deno.uid() === 0;
const NO_SETPRIV = !ROOT || await missing("setpriv", ["--version"]);
const NO_CURL = await missing("curl", ["--version"]);

/** Tells who asks, and lets one group stop things. */
const WHO = installer(`
  const STAFF = 2468;
  router.use("/stop", async (c, next) => {
    const { gid, groups } = c.env.peer ?? {};
    if (gid !== STAFF && !groups?.includes(STAFF)) return c.json({ message: "only staff" }, 403);
    await next();
  });
  router.post("/stop", (c) => c.text("stopped"));
  router.get("/who", (c) => c.json(c.env.peer ?? null));
  engine.register("me", (job) => job.print(JSON.stringify({ user: job.user, uid: job.peer?.uid })));
  router.job({ method: "GET", path: "/me", job: "me" });
`);

foreignTest("userName gives names as the system knows them", async () => {
  assertEquals(userName(0), "root");
  const [name, , uid] = (await run("getent", ["passwd", "nobody"])).stdout.split(":");
  assertEquals(userName(Number(uid)), name);
  assertEquals(userName(3_000_000_000), undefined);
});

foreignTest(
  "c.env.peer is nobody, and not another, for clients that came before it was first asked for",
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", WHO]);
    await daemon.open();
    const clients = await Promise.all([1, 2].map(() => Client.to({ transport: "unix", path })));
    for (const client of clients) {
      await client.send(PING);
      await client.sees(/OK$/);
    }
    for (const client of clients) {
      await client.send(get("/who"));
      assertMatch(await client.ended(), /\r\n\r\nnull$/);
    }
    const later = await Client.to({ transport: "unix", path });
    await later.send(get("/who"));
    assertMatch(await later.ended(), new RegExp(`{"pid":${Deno.pid},"uid":`));
  },
);

foreignTest(
  "c.env.peer and job.peer are the process at the other end, for each of many clients",
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start([
      "-H",
      `unix://${path}`,
      "-H",
      "tcp://127.0.0.1:0",
      "--install",
      WHO,
    ]);
    const port = await daemon.port();
    await daemon.open();
    const target = { transport: "unix", path } as const;
    // The first that something wants to know is found, and from then on all are that come.
    const first = await Client.to(target);
    await first.send(get("/who"));
    assertMatch(await first.ended(), new RegExp(`{"pid":${Deno.pid},"uid":`));
    const ours = await Promise.all(Array.from({ length: 20 }, () => Client.to(target)));
    for (const client of ours) {
      await client.send(get("/who"));
      const { pid, uid, gid } = JSON.parse((await client.ended()).split("\r\n\r\n")[1]!);
      assertEquals([pid, uid, gid], [Deno.pid, Deno.uid(), Deno.gid()]);
    }
    const me = await Client.to(target);
    await me.send(get("/me"));
    assertEquals(JSON.parse((await me.ended()).split("\r\n\r\n")[1]!), {
      user: userName(Deno.uid()!),
      uid: Deno.uid(),
    });
    assertEquals(await (await fetch(`http://127.0.0.1:${port}/who`)).json(), null);
  },
);

Deno.test("c.env.peer tells users apart whose connections are open at the same time", {
  ignore: NO_SETPRIV || NO_CURL,
}, async () => {
  await using folder = await TempFolder.make();
  await Deno.chmod(folder.path, 0o755);
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", WHO]);
  await daemon.open();
  await Deno.chmod(path, 0o666);
  const target = { transport: "unix", path } as const;
  const kept = await Client.to(target);
  await kept.send("GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await kept.sees(/"uid":0/);
  const as = async (uid: number, groups: string, ...args: string[]) =>
    (await run("setpriv", [
      ...["--reuid", String(uid), "--regid", "1357", groups, "curl", "-sS", "-m", "60"],
      ...["--unix-socket", path, ...args],
    ])).stdout;
  for (const uid of [1234, 65534, 1235]) {
    const who = JSON.parse(await as(uid, "--groups=2468,99", "http://localhost/who"));
    assertEquals([who.uid, who.gid, who.groups], [uid, 1357, [2468, 99].toSorted((a, b) => a - b)]);
  }
  const stop = ["-X", "POST", "http://localhost/stop"];
  assertEquals(await as(1234, "--clear-groups", ...stop), '{"message":"only staff"}');
  assertEquals(await as(1234, "--groups=2468", ...stop), "stopped");
  await kept.send("GET /who HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await kept.sees(/"uid":0[^]*"uid":0/);
  kept[Symbol.dispose]();
});

Deno.test(
  "c.env.peer works on a socket that systemd has passed",
  { ignore: NO_ACTIVATE },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    await using daemon = Daemon.start(["-H", "fd://", "--install", WHO], {
      through: [
        ...["systemd-socket-activate", "-l", path],
        ...["PATH", "HOME", "DENO_DIR", "NO_COLOR"].flatMap((name) => ["-E", name]),
      ],
    });
    await daemon.says(/Listening on/);
    const client = await Client.to({ transport: "unix", path });
    await client.send(get("/who"));
    assertMatch(await client.ended(), new RegExp(`{"pid":${Deno.pid},"uid":`));
    assert(await daemon.end() === 0);
  },
);
