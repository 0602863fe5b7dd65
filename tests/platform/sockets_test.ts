import { assert, assertEquals, assertMatch } from "@std/assert";
import { formatTcp } from "../../platform/net.ts";
import {
  adopt,
  ANYWHERE,
  deepenQueue,
  endsOf,
  inspectSocket,
  observe,
  shutConnections,
} from "../../platform/sockets.ts";
import { ANSWERED, Client, get, PING as PING_KEPT } from "../support/client.ts";
import { Daemon, exchange, TempFolder, testWhere, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";
import { foreign, foreignTest, needs } from "../support/platform.ts";

const PING = get("/_ping");

needs(
  "a listener's descriptor is found in /proc/self/fd by the address it has",
  "certificates cannot be renewed, and the queue of unix sockets is short",
  async () => {
    await using folder = await TempFolder.make();
    const options = { transport: "unix", path: `${folder.path}/s` } as const;
    for (const listen of [() => Deno.listen(ANYWHERE), () => Deno.listen(options)]) {
      const { listener, fd } = observe<Deno.Listener>(listen);
      using _ = listener;
      const { addr } = listener;
      assertEquals(
        inspectSocket(fd!).address,
        "path" in addr ? `unix://${addr.path}` : formatTcp(addr as Deno.NetAddr),
      );
    }
  },
  foreignTest,
);

needs(
  "Deno's event loop watches with epoll, so that a listener accepts from a socket put behind it",
  "fd:// addresses cannot be listened on, and certificates not be renewed",
  async () => {
    const { listener: first, fd } = observe(() => Deno.listen(ANYWHERE));
    const { addr } = first;
    const { listener: second } = adopt(() => Deno.listen(ANYWHERE), fd!);
    using _ = second;
    first.close();
    using client = await Deno.connect({ ...ANYWHERE, port: addr.port });
    using accepted = await second.accept();
    assertEquals(accepted.remoteAddr, client.localAddr);
  },
  foreignTest,
);

/** More clients than Deno's own listener lets wait, and what the kernel allows at most. */
const [CLIENTS, allowed] = [
  1_100,
  foreign ? 0 : Number(Deno.readTextFileSync("/proc/sys/net/core/somaxconn")),
];
needs(
  "listen(2) on a unix listener lengthens its queue",
  "more than 1 024 clients at once are refused during a boot that blocks",
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    using listener = Deno.listen({ transport: "unix", path });
    deepenQueue(listener);
    const clients = await Promise.allSettled(
      Array.from({ length: CLIENTS }, () => Deno.connect({ transport: "unix", path })),
    );
    const connected = clients.flatMap((client) =>
      client.status === "fulfilled" ? [client.value] : []
    );
    connected.forEach((client) => client.close());
    assertEquals(connected.length, CLIENTS);
  },
  testWhere(allowed >= CLIENTS, `a queue of ${CLIENTS}, with net.core.somaxconn at ${allowed}`),
);

needs(
  "shutdown(2) ends a connection that Deno holds",
  "a TLS client that stops in the middle keeps its descriptor",
  async () => {
    using listener = Deno.listen(ANYWHERE);
    using client = await Deno.connect({ ...ANYWHERE, port: listener.addr.port });
    using accepted = await listener.accept();
    shutConnections(new Set([endsOf(accepted)]));
    assertEquals(await client.read(new Uint8Array(1)), null);
  },
  foreignTest,
);

Deno.test("a unix address needs no permission for its long queue", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(["-H", `unix://${path}`], {
    // Foreign functions, but not /proc, which takes all permissions.
    flags: ["--no-prompt", "-A", "--deny-run"],
  });
  await daemon.says(/listening on/);
  assertMatch(await exchange({ transport: "unix", path }, PING), ANSWERED);
  assertEquals(await daemon.end(), 0);
});

foreignTest("serveapi lets the kernel find out which tcp clients have vanished", async () => {
  await using served = await Served.open();
  const before = await Client.to(served.target);
  assertEquals((await before.ask(PING_KEPT)).status, 200);
  const { port } = served.target as Deno.ConnectOptions;
  // The timers of the server's ends, as proc_net_tcp(5) has them: 2 is that of keepalive, and its
  // time is in hundredths of a second.
  const timers = () =>
    Deno.readTextFileSync("/proc/net/tcp").split("\n").map((row) => row.trim().split(/\s+/))
      .filter(([, local, , state]) =>
        state === "01" && parseInt(local?.split(":")[1] ?? "", 16) === port
      )
      .map((row) => row[5]!.split(":").map((number) => parseInt(number, 16)));
  await until(() => timers()[0]?.[0] === 2);
  const after = await Client.to(served.target);
  assertEquals((await after.ask(PING_KEPT)).status, 200);
  // Until the client's kernel says that it has the answer, there is another timer in its place.
  let found: number[][] = [];
  await until(() => (found = timers()).length === 2 && found.every(([timer]) => timer === 2));
  assert(found.every(([, when]) => when! <= 1_500), JSON.stringify(found));
  before.close();
  after.close();
});
