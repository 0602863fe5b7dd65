import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { TypedError } from "../../engine.ts";
import { type OfferedClient, Predecessor } from "../../serve/handover.ts";
import type { GivenSocket } from "../../serve/bound.ts";
import { type Succession, Successors } from "../../serve/handover.ts";
import { closeDescriptor, inspectSocket, observe } from "../../platform/sockets.ts";
import { Authority } from "../support/certificates.ts";
import { Client, get, Load, type Target } from "../support/client.ts";
import {
  Daemon as Process,
  exchange,
  freePort,
  installer,
  isPending,
  run,
  TempFolder,
  until,
} from "../support/daemon.ts";
import { flags } from "../support/tls.ts";
import { foreignTest } from "../support/platform.ts";

/** A daemon with one tcp socket that listens for successors, and its log. */
class Daemon implements Disposable {
  readonly log: string[] = [];
  readonly released = Promise.withResolvers<void>();
  successor?: number;
  held: OfferedClient[] = [];
  readonly #tcp = observe(() => Deno.listen({ hostname: "127.0.0.1", port: 0 }));
  readonly #successors: Successors;

  constructor(path: string, sockets?: () => GivenSocket[]) {
    const listener = Deno.listen({ transport: "unix", path }) as Deno.UnixListener;
    const succession: Succession = {
      sockets: sockets ??
        (() => [{ asked: "tcp://localhost:0", address: this.address, fd: this.#tcp.fd! }]),
      surrender: () => Promise.resolve({ clients: this.held, release: () => {} }),
      end: (pid) => {
        this.successor = pid;
        return this.released.promise;
      },
    };
    this.#successors = new Successors(
      listener,
      succession,
      (level, message) => void this.log.push(`${level} ${message}`),
    );
  }
  get address(): string {
    return `tcp://127.0.0.1:${this.#tcp.listener.addr.port}`;
  }
  [Symbol.dispose](): void {
    this.#successors.close();
    this.#tcp.listener.close();
  }
}

foreignTest("Predecessor.ask gets the daemon's listening sockets", async () => {
  await using folder = await TempFolder.make();
  using daemon = new Daemon(`${folder.path}/handover.sock`);
  using predecessor = await Predecessor.ask(`${folder.path}/handover.sock`);
  const { sockets, pid } = predecessor!;
  assertEquals(pid, Deno.pid);
  assertEquals(sockets.map(({ asked, address }) => [asked, address]), [[
    "tcp://localhost:0",
    daemon.address,
  ]]);
  const [{ fd }] = sockets as [GivenSocket];
  assertEquals(inspectSocket(fd), { fd, proto: "tcp", address: daemon.address });
  closeDescriptor(fd);
});

foreignTest("Predecessor.ask finds no daemon where none listens", async () => {
  await using folder = await TempFolder.make();
  assertEquals(await Predecessor.ask(`${folder.path}/none.sock`), undefined);
  const path = `${folder.path}/stale.sock`;
  const listener = Deno.listen({ transport: "unix", path: `${folder.path}/bound.sock` });
  await Deno.rename(`${folder.path}/bound.sock`, path); // So that closing leaves it.
  listener.close();
  await Deno.writeTextFile(`${folder.path}/file`, "");
  assertEquals(await Predecessor.ask(path), undefined);
  assertEquals(await Predecessor.ask(`${folder.path}/file`), undefined);
});

foreignTest("Predecessor.ready makes the daemon drain, and released says when it has", async () => {
  await using folder = await TempFolder.make();
  using daemon = new Daemon(`${folder.path}/handover.sock`);
  using predecessor = await Predecessor.ask(`${folder.path}/handover.sock`);
  predecessor!.sockets.forEach(({ fd }) => closeDescriptor(fd));
  assertEquals(daemon.successor, undefined);
  assertEquals(await predecessor!.ready(), []);
  await until(() => daemon.successor === Deno.pid);
  assert(await isPending(predecessor!.released));
  daemon.released.resolve();
  await predecessor!.released;
});

foreignTest("Successors goes on where the successor ends before it is ready", async () => {
  await using folder = await TempFolder.make();
  using daemon = new Daemon(`${folder.path}/handover.sock`);
  for (let i = 0; i < 2; i++) {
    const predecessor = await Predecessor.ask(`${folder.path}/handover.sock`);
    predecessor!.sockets.forEach(({ fd }) => closeDescriptor(fd));
    predecessor![Symbol.dispose]();
    await until(() => daemon.log.filter((line) => line.includes("serving on")).length === i + 1);
  }
  assertEquals(daemon.successor, undefined);
});

foreignTest("Successors refuses a second successor while there is one", async () => {
  await using folder = await TempFolder.make();
  using _daemon = new Daemon(`${folder.path}/handover.sock`);
  using predecessor = await Predecessor.ask(`${folder.path}/handover.sock`);
  predecessor!.sockets.forEach(({ fd }) => closeDescriptor(fd));
  const error = await assertRejects(
    () => Predecessor.ask(`${folder.path}/handover.sock`),
    TypedError,
    `process ${Deno.pid} is taking over already`,
  );
  assertEquals(error.kind, "conflict");
});

foreignTest("Successors takes a connection that says something else for no successor", async () => {
  await using folder = await TempFolder.make();
  using daemon = new Daemon(`${folder.path}/handover.sock`);
  for (const text of ["GET / HTTP/1.1\r\n\r\n", "null\n", "{}\n", "x".repeat(2_000)]) {
    const seen = daemon.log.length;
    const conn = await Deno.connect({ transport: "unix", path: `${folder.path}/handover.sock` });
    await conn.write(new TextEncoder().encode(text));
    // It reads the end of the connection, or a reset.
    assertEquals(await conn.read(new Uint8Array(1)).catch(() => null), null);
    conn.close();
    await until(() => daemon.log.length > seen);
  }
  using predecessor = await Predecessor.ask(`${folder.path}/handover.sock`);
  predecessor!.sockets.forEach(({ fd }) => closeDescriptor(fd));
});

foreignTest("Predecessor.ask refuses a daemon that does not hand over what it says", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/handover.sock`;
  using listener = Deno.listen({ transport: "unix", path });
  const answered = (async () => {
    using conn = await listener.accept();
    await conn.read(new Uint8Array(100));
    await conn.write(new TextEncoder().encode('{"pid":1,"sockets":[{"address":"x"}]}\n'));
  })();
  await assertRejects(() => Predecessor.ask(path), Error, "not those of its list");
  await answered;
});

/** A daemon's arguments, and how clients connect to it. */
interface Place {
  name: string;
  args: (folder: TempFolder, authority: Authority) => Promise<[string[], Target]>;
}

const tcp = () => {
  const port = freePort();
  return { address: ["-H", `tcp://127.0.0.1:${port}`], target: { hostname: "127.0.0.1", port } };
};
const tls = async (authority: Authority, verify: boolean): Promise<[string[], Target]> => {
  const { address, target } = tcp();
  const client = await authority.client();
  const caCerts = [await Deno.readTextFile(authority.ca)];
  const own = { cert: Deno.readTextFileSync(client.cert), key: Deno.readTextFileSync(client.key) };
  return [
    [...address, ...flags(await authority.server(), verify ? authority.ca : undefined)],
    { ...target, hostname: "localhost", caCerts, ...verify && own },
  ];
};
const PLACES: Place[] = [
  {
    name: "tcp",
    args: () => {
      const { address, target } = tcp();
      return Promise.resolve([address, target]);
    },
  },
  {
    name: "a unix socket",
    args: ({ path }) =>
      Promise.resolve([["-H", `unix://${path}/s`], { transport: "unix", path: `${path}/s` }]),
  },
  { name: "tcp with --tls", args: (_, authority) => tls(authority, false) },
  { name: "tcp with --tlsverify", args: (_, authority) => tls(authority, true) },
];

for (const { name, args } of PLACES) {
  foreignTest(`main --takeover with --handover loses no client on ${name}`, async () => {
    await using folder = await TempFolder.make();
    await using authority = await Authority.make();
    const [address, target] = await args(folder, authority);
    const given = [...address, "--handover", `${folder.path}/handover`];
    await using daemons = new AsyncDisposableStack();
    let current = daemons.use(Process.start(given));
    await current.open();
    const load = new Load(target, 3, 3);
    for (let i = 0; i < 3; i++) {
      const enough = load.tally.ok + 50;
      await until(() => load.tally.ok > enough);
      const next = daemons.use(Process.start([...given, "--takeover"]));
      await next.says(new RegExp(`^serving in place of process ${current.pid}$`, "m"));
      assertEquals((await current.status).code, 0, current.stderr);
      current = next;
    }
    const enough = load.tally.ok + 50;
    await until(() => load.tally.ok > enough);
    const { failed } = await load.stop();
    assertEquals([...failed], []);
    assertEquals(await current.end(), 0);
    assertEquals(folder.names(), []);
  });

  foreignTest(
    `main --takeover takes the clients on ${name} that a booting daemon holds`,
    async () => {
      await using folder = await TempFolder.make();
      await using authority = await Authority.make();
      const [address, target] = await args(folder, authority);
      const given = [...address, "--handover", `${folder.path}/handover`];
      await using booting = Process.start([
        ...given,
        "--install",
        installer("await new Promise(() => {});"),
      ]);
      await booting.says(/listening on/);
      using waiting = await Client.to(target);
      // Over TLS this waits for the daemon's part of the handshake.
      const sent = waiting.send(get("/version"));
      using late = await Client.to(target);
      await using next = Process.start([...given, "--takeover"]);
      await next.says(/^serving in place of/m);
      await sent;
      assertEquals((await waiting.answer()).status, 200);
      assertEquals((await late.ask(get("/version"))).status, 200);
      assertEquals((await booting.status).code, 0);
      assertEquals(await next.end(), 0);
    },
  );
}

foreignTest(
  "main --takeover whose boot fails leaves the daemon its clients, and its sockets",
  async () => {
    await using folder = await TempFolder.make();
    const { address, target } = tcp();
    const given = [...address, "--handover", `${folder.path}/handover`];
    await using current = Process.start(given);
    await current.open();
    for (let i = 0; i < 2; i++) {
      await using failing = Process.start([
        ...given,
        "--takeover",
        "--install",
        installer('throw new Error("no store");'),
      ]);
      assertEquals((await failing.status).code, 1);
      assert(failing.stderr.endsWith("no store\n"), failing.stderr);
      assert((await exchange(target, get("/version"))).startsWith("HTTP/1.1 200"));
    }
    await using next = Process.start([...given, "--takeover"]);
    await next.says(/serving in place of/);
    assertEquals((await current.status).code, 0);
  },
);

foreignTest("main --takeover refuses to be the second at the same time, in one line", async () => {
  await using folder = await TempFolder.make();
  const { address } = tcp();
  const given = [...address, "--handover", `${folder.path}/handover`];
  await using current = Process.start(given);
  await current.open();
  const boot = installer("await new Promise(() => {});");
  await using first = Process.start([...given, "--takeover", "--install", boot]);
  await first.says(/listening on/);
  await using second = Process.start([...given, "--takeover"]);
  assertEquals((await second.status).code, 1);
  assertEquals(second.stderr, `floodgate: process ${first.pid} is taking over already\n`);
});

foreignTest("main --takeover survives kill -9 of either process at every step", async () => {
  const steps: [which: "old" | "new" | "both", when: "boots" | "serves"][] = [
    ["old", "boots"],
    ["new", "boots"],
    ["both", "boots"],
    ["old", "serves"],
    ["new", "serves"],
    ["both", "serves"],
  ];
  for (const [which, when] of steps) {
    await using folder = await TempFolder.make();
    const { address, target } = tcp();
    const path = `${folder.path}/s`;
    const given = [...address, "-H", `unix://${path}`, "--handover", `${folder.path}/handover`];
    await using old = Process.start(given);
    await old.open();
    const go = `${folder.path}/go`;
    await using next = Process.start([
      ...given,
      "--takeover",
      "--install",
      installer(`while (true) {
        try { Deno.statSync(${JSON.stringify(go)}); break; } catch { /* not yet */ }
        await new Promise((resolve) => setTimeout(resolve, 10));
      }`),
    ]);
    await next.says(/listening on/);
    if (when === "serves") {
      await Deno.writeTextFile(go, "");
      await next.says(/serving in place of/);
    }
    if (which !== "new" && when === "boots") await old.end("SIGKILL");
    if (which !== "old") await next.end("SIGKILL");
    const living = which === "both" || (which === "new" && when === "serves")
      ? undefined
      : which === "new"
      ? old
      : next;
    if (living === next) await Deno.writeTextFile(go, "");
    for (const each of [target, { transport: "unix", path } as const]) {
      const name = `${which} killed while the new one ${when}`;
      if (living) {
        assert((await exchange(each, get("/version"))).startsWith("HTTP/1.1 200"), name);
      } else {
        await assertRejects(() => exchange(each, get("/version")), Error, undefined, name);
      }
    }
    if (living) assertEquals(await living.end(), 0, living.stderr);
    await old.status;
    // What is left does not prevent a plain start.
    await using after = Process.start(given);
    await after.open();
    assert((await exchange(target, get("/version"))).startsWith("HTTP/1.1 200"));
    assertEquals(await after.end(), 0);
  }
});

Deno.test({
  name: "Successors gives another user nothing",
  ignore: Deno.uid() !== 0 && (console.log("skipped: only root can be another user"), true),
  async fn() {
    await using folder = await TempFolder.make();
    const { address, target } = tcp();
    const path = `${folder.path}/handover`;
    await using daemon = Process.start([...address, "--handover", path]);
    await daemon.open();
    assertEquals(Deno.statSync(path).mode! & 0o777, 0o600);
    // Even if an operator has opened the permissions of the socket.
    await Deno.chmod(folder.path, 0o777);
    await Deno.chmod(path, 0o777);
    // It says how many bytes it was given: descriptors come with bytes only. The daemon may be the
    // first to close.
    const script = `use Socket; $SIG{PIPE} = "IGNORE"; socket(my $s, AF_UNIX, SOCK_STREAM, 0);
      connect($s, sockaddr_un($ARGV[0])) or die $!; syswrite($s, "{\\"takeover\\":1}\\n");
      print sysread($s, my $data, 1000) // $!;`;
    const { stdout, stderr } = await run("setpriv", [
      ...["--reuid=65534", "--clear-groups", "perl", "-e", script, path],
    ]);
    assertMatch(stdout, /^(0|Connection reset by peer)$/, stderr);
    await daemon.says(/takeover by process \d+: .* is of user 65534, expected 0 or root/);
    assert((await exchange(target, get("/version"))).startsWith("HTTP/1.1 200"));
  },
});

foreignTest("main says so where what it is to take over from is no daemon", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/other`;
  using listener = Deno.listen({ transport: "unix", path });
  const answering = listener.accept().then(async (conn) => {
    await conn.write(new TextEncoder().encode("220 mail ready\n"));
    await new Response(conn.readable).bytes().catch(() => {});
  });
  await using daemon = Process.start([
    "-H",
    `unix://${folder.path}/api.sock`,
    "--handover",
    path,
    "--takeover",
  ]);
  assertEquals((await daemon.status).code, 1);
  await daemon.says(
    /the other process is no daemon: it sent "220 mail ready", expected a JSON obj/,
  );
  assertEquals(folder.names(), ["other"]);
  await answering;
});
