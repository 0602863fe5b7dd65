import { assertEquals, assertMatch, assertNotEquals, assertThrows } from "@std/assert";
import { lookup } from "node:dns/promises";
import { TypedError } from "../../engine.ts";
import { isLocal, parseAddress, parseAddresses } from "../../serve/addresses.ts";
import { assertRefused, assertTyped, bound } from "../support/bind.ts";
import { Client, get, PING } from "../support/client.ts";
import { Daemon, exchange, TempFolder } from "../support/daemon.ts";

/** Whether the name of this machine resolves to an address that others can reach, or not at all. */
const NO_ALIAS = !await lookup(Deno.hostname(), { all: true })
  .then((all) => all.every(({ address }) => /^(127\.|::1$)/.test(address)), () => false);

Deno.test("parseAddress reads tcp and unix addresses", () => {
  const tcp = (host: string, port: number) => ({ proto: "tcp" as const, host, port });
  const unix = (path: string) => ({ proto: "unix" as const, path });
  for (
    const [text, expected] of [
      ["tcp://127.0.0.1:2375", tcp("127.0.0.1", 2375)],
      ["tcp://0.0.0.0:0", tcp("0.0.0.0", 0)],
      ["tcp://localhost:65535", tcp("localhost", 65_535)],
      ["tcp://example.com:080", tcp("example.com", 80)],
      ["tcp://[::1]:0", tcp("::1", 0)],
      ["tcp://[::ffff:127.0.0.1]:1", tcp("::ffff:127.0.0.1", 1)],
      ["unix:///run/api.sock", unix("/run/api.sock")],
      ["unix:///s", unix("/s")],
      ["unix:///a b/ü:1", unix("/a b/ü:1")],
    ] as const
  ) assertEquals(parseAddress(text), expected);
});

Deno.test("parseAddress refuses what it cannot read, and says what is right", () => {
  const tcp = "expected tcp://HOST:PORT";
  const unix = "expected unix:// and the absolute path of a socket, such as unix:///run/api.sock";
  for (
    const [text, ...parts] of [
      ["", tcp, "unix:///path"],
      ["127.0.0.1:80", tcp, "unix:///path"],
      ["/run/api.sock", tcp, "unix:///path"],
      ["http://127.0.0.1:80", tcp, "unix:///path"],
      ["tcp:127.0.0.1:80", tcp, "unix:///path"],
      [" tcp://127.0.0.1:80", tcp, "unix:///path"],
      ["tcp://", tcp, "tcp://[::1]:0"],
      ["tcp://:80", tcp],
      ["tcp://127.0.0.1", tcp],
      ["tcp://127.0.0.1:", tcp],
      ["tcp://127.0.0.1:http", tcp],
      ["tcp://127.0.0.1:-1", tcp],
      ["tcp://127.0.0.1:1.5", tcp],
      ["tcp://127.0.0.1:80/", tcp],
      ["tcp://127.0.0.1:80 ", tcp],
      ["tcp://127.0.0.1:80\n", tcp],
      ["tcp://::1:80", tcp, "tcp://[::1]:0"],
      ["tcp://[::1]", tcp],
      ["tcp://[::1:80", tcp],
      ["tcp://[localhost]:80", tcp],
      ["tcp://two words:80", tcp],
      ["tcp://127.0.0.1:65536", "port 65536 is out of range, expected 0 to 65535"],
      ["tcp://127.0.0.1:99999999999999999999", "out of range, expected 0 to 65535"],
      ["unix://", unix],
      ["unix://api.sock", unix],
      ["unix://./api.sock", unix],
      ["unix:///", unix],
      ["unix:///run/", unix],
      ["unix:///a\0b", "zero byte"],
    ] as const
  ) {
    const error = assertThrows(() => parseAddress(text), TypedError);
    assertTyped(error, "bad parameter", `address "${text}": `, ...parts);
  }
});

Deno.test("parseAddress counts the bytes of a socket's path: 107 fit", () => {
  assertEquals(parseAddress(`unix:///${"x".repeat(106)}`).proto, "unix");
  assertEquals(parseAddress(`unix:///${"ü".repeat(53)}`).proto, "unix");
  for (const name of ["x".repeat(107), "ü".repeat(53) + "x"]) {
    assertTyped(
      assertThrows(() => parseAddress(`unix:///${name}`), TypedError),
      "bad parameter",
      "a path of 108 bytes, expected at most 107",
    );
  }
});

Deno.test("isLocal is true for addresses that only this machine can reach", () => {
  const local = [
    "unix:///run/api.sock",
    "tcp://127.0.0.1:1",
    "tcp://127.8.9.10:1",
    "tcp://localhost:1",
    "tcp://LOCALHOST:1",
    "tcp://[::1]:1",
    "tcp://[::ffff:127.0.0.1]:1",
    "tcp://[::FFFF:127.0.0.1]:1",
  ];
  const open = [
    "tcp://0.0.0.0:1",
    "tcp://[::]:1",
    "tcp://10.0.0.1:1",
    "tcp://128.0.0.1:1",
    "tcp://example.com:1",
    "tcp://localhost.example.com:1",
    "tcp://127.0.0.1.example.com:1",
    "tcp://127.example.com:1",
    "tcp://[::2]:1",
    "tcp://[::ffff:10.0.0.1]:1",
  ];
  for (const text of local) assertEquals([text, isLocal(parseAddress(text))], [text, true]);
  for (const text of open) assertEquals([text, isLocal(parseAddress(text))], [text, false]);
});

Deno.test("bind on tcp port 0 takes a free port and returns it", async () => {
  const { listener, address, ...place } = await bound("tcp://127.0.0.1:0");
  using _ = listener;
  const { port } = listener.addr as Deno.NetAddr;
  assertNotEquals(port, 0);
  assertEquals(address, `tcp://127.0.0.1:${port}`);
  const [client, server] = await Promise.all([Deno.connect({ port }), listener.accept()]);
  client.close();
  server.close();
  // It has no file, and all methods can be called.
  await place.publish();
  await place.unpublish();
  place.unpublishNow();
});

Deno.test("bind writes an IPv6 address with brackets", { ignore: !hasIPv6() }, async () => {
  const { listener, address } = await bound("tcp://[::1]:0");
  using _ = listener;
  assertEquals(address, `tcp://[::1]:${(listener.addr as Deno.NetAddr).port}`);
  assertEquals(parseAddress(address).proto, "tcp");
});

function hasIPv6(): boolean {
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return true;
  } catch {
    return false;
  }
}

Deno.test("bind on a tcp port in use is a conflict that names the address", async () => {
  const { listener, address } = await bound("tcp://127.0.0.1:0");
  using _ = listener;
  await assertRefused(
    () => bound(address),
    "conflict",
    `cannot listen on ${address}: the port is in use`,
    "expected a free one, or 0 for any",
  );
});

Deno.test("bind with reusePort shares a port with those that ask for the same", async () => {
  const { listener, address } = await bound("tcp://127.0.0.1:0", { reusePort: true });
  using _first = listener;
  const second = await bound(address, { reusePort: true });
  using _second = second.listener;
  assertEquals(second.address, address);
  await assertRefused(() => bound(address), "conflict", "the port is in use");
});

Deno.test("bind with reusePort on a port that is not shared is a conflict", async () => {
  const { listener, address } = await bound("tcp://127.0.0.1:0");
  using _ = listener;
  await assertRefused(
    () => bound(address, { reusePort: true }),
    "conflict",
    address,
    "in use by a process that does not share it",
  );
});

Deno.test("bind on a tcp address that this machine does not have names it", async () => {
  // 192.0.2.0/24 is reserved for documentation (RFC 5737).
  await assertRefused(
    () => bound("tcp://192.0.2.1:0"),
    "bad parameter",
    "cannot listen on tcp://192.0.2.1:0: ",
  );
});

const EXPOSED = [
  "0.0.0.0:0",
  "[::]:0",
  "192.0.2.1:0",
  "[::ffff:192.0.2.1]:0",
  "0:0",
];
for (const flags of [[], ["--tls", "--tlscert", "/no/cert", "--tlskey", "/no/key"]]) {
  const how = flags[0] ?? "plain tcp";
  Deno.test(`main refuses ${how} where other machines can reach it, in one line`, async () => {
    for (const where of EXPOSED) {
      await using daemon = Daemon.start([
        "-H",
        "tcp://127.0.0.1:0",
        "-H",
        `tcp://${where}`,
        ...flags,
      ]);
      assertEquals((await daemon.status).code, 2);
      assertEquals(
        daemon.stderr,
        `floodgate: address "tcp://${where}": clients on other machines could use the API, ` +
          "expected a local address, --tlsverify (TlsVerify), or --insecure (Insecure)\n",
      );
      assertEquals(daemon.stdout, "");
    }
  });
}

Deno.test("main says first that a host does not resolve", async () => {
  // RFC 2606 reserves this name: it never resolves.
  const problem =
    'the host "api.invalid" does not resolve, expected a name or number of this machine';
  await using local = Daemon.start(["-H", "tcp://api.invalid:0"]);
  assertEquals((await local.status).code, 2);
  assertEquals(local.stderr, `floodgate: address "tcp://api.invalid:0": ${problem}\n`);
  await using exposed = Daemon.start(["-H", "tcp://api.invalid:0", "--insecure"]);
  assertEquals((await exposed.status).code, 1);
  assertEquals(exposed.stderr, `floodgate: cannot listen on tcp://api.invalid:0: ${problem}\n`);
});

Deno.test(
  "main serves a name that is one of this machine for itself",
  { ignore: NO_ALIAS },
  async () => {
    await using daemon = Daemon.start(["-H", `tcp://${Deno.hostname()}:0`]);
    const client = await Client.to({ hostname: "127.0.0.1", port: await daemon.port() });
    client.close();
    assertEquals(await daemon.end(), 0);
  },
);

Deno.test("parseAddresses refuses an address that is there twice, however it is written", async () => {
  await using temp = await TempFolder.make();
  const folder = temp.path;
  Deno.mkdirSync(`${folder}/real`);
  Deno.symlinkSync("real", `${folder}/link`);
  Deno.symlinkSync(folder, `${folder}/to`);
  Deno.symlinkSync("/", `${folder}/root`);
  const twice: string[][] = [
    ["unix:///tmp/s", "unix:///tmp/s"],
    ["unix:///tmp/s", "unix:///tmp//./s"],
    ["tcp://127.0.0.1:2375", "unix:///tmp/s", "tcp://127.0.0.1:2375"],
    ["tcp://[::1]:2375", "tcp://[0:0:0:0:0:0:0:1]:2375"],
    ["tcp://LOCALHOST:2375", "tcp://localhost:2375"],
    ["fd://3", "fd://3"],
    [`unix://${folder}/s`, `unix://${folder}/real/../s`],
    [`unix://${folder}/real/s`, `unix://${folder}/link/s`],
    [`unix://${folder}/link/s`, `unix://${folder}/to/link/s`],
    ["unix:///s", `unix://${folder}/root/s`],
  ];
  for (const texts of twice) {
    assertThrows(
      () => parseAddresses(texts),
      TypedError,
      `address "${texts.at(-1)}": it is given twice, expected once`,
    );
  }
  const different = [
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:0",
    "tcp://127.0.0.1:1",
    "unix:///S",
    "unix:///s",
  ];
  assertEquals(parseAddresses(different), different.map(parseAddress));
});

Deno.test("main --insecure warns of each address that other machines can reach, and of no other", async () => {
  const hosts = ["tcp://0.0.0.0:0", "tcp://127.0.0.1:0"].flatMap((host) => ["-H", host]);
  await using daemon = Daemon.start([...hosts, "--insecure"]);
  await daemon.open();
  assertMatch(
    await exchange({ hostname: "127.0.0.1", port: await daemon.port() }, get("/_ping")),
    /OK$/,
  );
  assertEquals(await daemon.end(), 0);
  const warnings = daemon.stderr.split("\n").filter((line) => line.includes(" WARN "));
  assertEquals(warnings.length, 1);
  assertMatch(
    warnings[0]!,
    /tcp:\/\/0\.0\.0\.0:\d+: whoever reaches this port from any machine may do all that the daemon can/,
  );
});

Deno.test("main --reuse-port lets two daemons share a port", async () => {
  await using first = Daemon.start(["-H", "tcp://127.0.0.1:0", "--reuse-port"]);
  const target = { hostname: "127.0.0.1", port: await first.port() };
  await first.open();
  await using second = Daemon.start(["-H", `tcp://127.0.0.1:${target.port}`, "--reuse-port"]);
  await second.open();
  assertEquals(await first.end(), 0);
  const client = await Client.to(target);
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  assertEquals(await second.end(), 0);
});
