import {
  assert,
  assertEquals,
  assertNotEquals,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { TypedError } from "../../engine.ts";
import { bind, isLocal, parseAddress } from "../../serve/addresses.ts";
import type { Bound } from "../../serve/bound.ts";
import { TempFolder } from "../support/daemon.ts";

/** What is bound at an address that is no `fd://`: one thing, with a listener of Deno's. */
type One = Bound & { listener: Deno.Listener };

/** Binds an address as it is written. */
async function bound(text: string, options?: Parameters<typeof bind>[1]): Promise<One> {
  const [one] = await bind(parseAddress(text), options);
  return one as One;
}

/** Expects a TypedError of this kind whose message has all these parts. */
function assertTyped(error: TypedError, kind: string, ...parts: string[]): void {
  assertEquals(error.kind, kind);
  for (const part of parts) assertStringIncludes(error.message, part);
}
async function assertRefused(
  attempt: () => Promise<Bound>,
  kind: string,
  ...parts: string[]
): Promise<void> {
  assertTyped(await assertRejects(attempt, TypedError), kind, ...parts);
}

/** Greets whoever connects with one letter, until the listener is closed. */
async function greet(listener: Deno.Listener, letter: string): Promise<void> {
  for await (const conn of listener) {
    // Whoever only looked if somebody answers has gone by now.
    await conn.write(new TextEncoder().encode(letter)).catch(() => {});
    conn.close();
  }
}
/** The letter of whoever answers at a path. */
async function greeting(path: string): Promise<string> {
  return await new Response((await Deno.connect({ transport: "unix", path })).readable).text();
}

/** Leaves a socket file at `path` that nobody answers on. */
function leaveStale(path: string): void {
  const listener = Deno.listen({ transport: "unix", path: path + ".bound" });
  // Under another name, because a listener that is closed removes the file it made.
  Deno.renameSync(path + ".bound", path);
  listener.close();
}

/** Replaces a function of the Deno namespace until it is disposed of. */
function replaced<K extends "chmodSync" | "chownSync" | "renameSync">(
  name: K,
  make: (original: typeof Deno[K]) => typeof Deno[K],
): Disposable {
  const original = Deno[name];
  Object.assign(Deno, { [name]: make(original) });
  return { [Symbol.dispose]: () => void Object.assign(Deno, { [name]: original }) };
}

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
    ]
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

Deno.test("isLocal tells what this machine alone can reach", () => {
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

Deno.test("bind on tcp port 0 takes a free port and tells which", async () => {
  const { listener, address, ...place } = await bound("tcp://127.0.0.1:0");
  using _ = listener;
  const { port } = listener.addr as Deno.NetAddr;
  assertNotEquals(port, 0);
  assertEquals(address, `tcp://127.0.0.1:${port}`);
  const [client, server] = await Promise.all([Deno.connect({ port }), listener.accept()]);
  client.close();
  server.close();
  // There is no file to take care of, and nothing that a daemon must not call.
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
  // 192.0.2.0/24 is for documentation, and nobody's (RFC 5737).
  await assertRefused(
    () => bound("tcp://192.0.2.1:0"),
    "bad parameter",
    "cannot listen on tcp://192.0.2.1:0: ",
  );
});

Deno.test("bind on unix makes a socket file of mode 0660 that answers", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const { listener, address, unpublish } = await bound(`unix://${path}`);
  assertEquals(address, `unix://${path}`);
  const info = Deno.lstatSync(path);
  assertEquals([info.isSocket, info.mode! & 0o7777], [true, 0o660]);
  assertEquals(folder.names(), ["api.sock"]);
  const greeter = greet(listener, "a");
  assertEquals(await greeting(path), "a");
  await unpublish();
  assertEquals(folder.names(), []);
  listener.close();
  await greeter;
});

Deno.test("bind on unix lets nobody in before the group and the mode are right", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const steps: unknown[] = [];
  const state = (file: string | URL) => [
    file !== path && file.toString().startsWith(`${folder.path}/.`),
    Deno.lstatSync(file).mode! & 0o777,
    folder.names().includes("api.sock"),
  ];
  using _own = replaced("chownSync", (original) => (file, uid, gid) => {
    steps.push(["group", ...state(file), gid]);
    original(file, uid, gid);
  });
  using _mode = replaced("chmodSync", (original) => (file, mode) => {
    steps.push(["mode", ...state(file), mode]);
    original(file, mode);
  });
  using _name = replaced("renameSync", (original) => (from, to) => {
    steps.push(["name", ...state(from), to]);
    original(from, to);
  });
  const { listener } = await bound(`unix://${path}`, { group: `${Deno.gid()}` });
  listener.close();
  assertEquals(steps, [
    ["group", true, 0o600, false, Deno.gid()],
    ["mode", true, 0o600, false, 0o660],
    ["name", true, 0o660, false, path],
  ]);
});

Deno.test("bind on unix gives the file the group asked for by number", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const { listener } = await bound(`unix://${path}`, { group: `${Deno.gid()}` });
  using _ = listener;
  const { gid, mode } = Deno.lstatSync(path);
  assertEquals([gid, mode! & 0o7777], [Deno.gid(), 0o660]);
});

Deno.test("bind on unix finds a group by its name", { ignore: ownGroup() === "" }, async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const { listener } = await bound(`unix://${path}`, { group: ownGroup() });
  using _ = listener;
  assertEquals(Deno.lstatSync(path).gid, Deno.gid());
});

/** The name of our own group; empty where the system has none for it. */
function ownGroup(): string {
  const lines = Deno.readTextFileSync("/etc/group").split("\n");
  return lines.map((line) => line.split(":")).find(([, , gid]) => gid === `${Deno.gid()}`)?.[0] ??
    "";
}

Deno.test("bind on unix refuses a group that there is not, and leaves no file", async () => {
  await using folder = await TempFolder.make();
  const address = `unix://${folder.path}/api.sock`;
  await assertRefused(
    () => bound(address, { group: "no-such-group-here" }),
    "bad parameter",
    `cannot listen on ${address}: `,
    'there is no group "no-such-group-here"',
  );
  // The system would take one of these as "leave it as it is", and the other for another group.
  for (const group of ["4294967295", "99999999999"]) {
    await assertRefused(() => bound(address, { group }), "bad parameter", address, `"${group}"`);
  }
  assertEquals(folder.names(), []);
});

Deno.test("bind on unix that fails halfway leaves nothing behind", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  leaveStale(path);
  for (const name of ["chmodSync", "renameSync"] as const) {
    using _ = replaced(name, () => () => {
      throw new Deno.errors.PermissionDenied("not today");
    });
    await assertRefused(
      () => bound(`unix://${path}`),
      "bad parameter",
      `cannot listen on unix://${path}: not today`,
    );
    assertEquals(folder.names(), ["api.sock"]);
  }
});

Deno.test("bind on unix replaces the socket file of a process that was killed", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const process = new Deno.Command(Deno.execPath(), {
    args: [
      "eval",
      "--no-config",
      "const listener = Deno.listen({ transport: 'unix', path: Deno.args[0] });" +
      "console.log('bound'); await listener.accept();",
      path,
    ],
    env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" },
    stdout: "piped",
  }).spawn();
  const reader = process.stdout.getReader();
  assertEquals(new TextDecoder().decode((await reader.read()).value), "bound\n");
  process.kill("SIGKILL");
  await process.status;
  await reader.cancel();
  assertEquals(folder.names(), ["api.sock"]);

  const { listener } = await bound(`unix://${path}`);
  const greeter = greet(listener, "a");
  assertEquals([await greeting(path), folder.names()], ["a", ["api.sock"]]);
  listener.close();
  await greeter;
});

Deno.test("bind on unix replaces a stale file, with takeover as well", async () => {
  await using folder = await TempFolder.make();
  for (const takeover of [false, true]) {
    const path = `${folder.path}/${takeover}.sock`;
    leaveStale(path);
    const { listener, publish } = await bound(`unix://${path}`, { takeover });
    // Nobody was there to wait for: it is in its place at once.
    const greeter = greet(listener, "a");
    assertEquals(await greeting(path), "a");
    await publish();
    assertEquals(await greeting(path), "a");
    listener.close();
    await greeter;
  }
  assertEquals(folder.names(), ["false.sock", "true.sock"]);
});

Deno.test("bind on unix refuses the place of a living process, which goes on", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const living = Deno.listen({ transport: "unix", path });
  const greeter = greet(living, "a");
  await assertRefused(
    () => bound(`unix://${path}`),
    "conflict",
    `cannot listen on unix://${path}: a living process answers there`,
  );
  assertEquals([await greeting(path), folder.names()], ["a", ["api.sock"]]);
  living.close();
  await greeter;
});

Deno.test("bind on unix leaves alone what is no socket, with takeover as well", async () => {
  await using folder = await TempFolder.make();
  const living = Deno.listen({ transport: "unix", path: `${folder.path}/living` });
  using _ = living;
  await Deno.writeTextFile(`${folder.path}/file`, "precious");
  await Deno.mkdir(`${folder.path}/folder`);
  await Deno.symlink("living", `${folder.path}/link`);
  await Deno.symlink("nowhere", `${folder.path}/dangling`);
  const before = folder.names();
  for (const name of ["file", "folder", "link", "dangling"]) {
    const address = `unix://${folder.path}/${name}`;
    for (const takeover of [false, true]) {
      await assertRefused(
        () => bound(address, { takeover }),
        "conflict",
        `cannot listen on ${address}: something that is no socket is there, and was left alone`,
      );
    }
  }
  assertEquals(folder.names(), before);
  assertEquals(await Deno.readTextFile(`${folder.path}/file`), "precious");
  assert(Deno.lstatSync(`${folder.path}/folder`).isDirectory);
  assertEquals(await Deno.readLink(`${folder.path}/link`), "living");
});

Deno.test("bind on unix in a folder that is missing says so", async () => {
  await using folder = await TempFolder.make();
  await assertRefused(
    () => bound(`unix://${folder.path}/missing/api.sock`),
    "bad parameter",
    `cannot listen on unix://${folder.path}/missing/api.sock: `,
    `the directory ${folder.path}/missing does not exist`,
  );
  assertEquals(folder.names(), []);
});

Deno.test("bind on unix in a folder that is a file names the address", async () => {
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(`${folder.path}/file`, "");
  const address = `unix://${folder.path}/file/api.sock`;
  await assertRefused(() => bound(address), "bad parameter", `cannot listen on ${address}: `);
  assertEquals(folder.names(), ["file"]);
});

Deno.test("bind on unix works with a path of 107 bytes, however short the name", async () => {
  await using folder = await TempFolder.make();
  for (const length of [1, 2, 30]) {
    const deep = `${folder.path}/`.padEnd(107 - length - 1, "d");
    await Deno.mkdir(deep);
    const path = `${deep}/${"s".repeat(length)}`;
    assertEquals(path.length, 107);
    const { listener, unpublish } = await bound(`unix://${path}`);
    const greeter = greet(listener, "a");
    assertEquals(await greeting(path), "a");
    await unpublish();
    listener.close();
    await greeter;
    assertEquals([...Deno.readDirSync(deep)], []);
  }
});

Deno.test("bind on unix says so where no temporary name is free", async () => {
  await using folder = await TempFolder.make();
  const deep = `${folder.path}/`.padEnd(105, "d");
  await Deno.mkdir(deep);
  for (const name of "0123456789abcdef") await Deno.writeTextFile(`${deep}/${name}`, "");
  await assertRefused(() => bound(`unix://${deep}/s`), "conflict", deep, "temporary name");
  assertEquals([...Deno.readDirSync(deep)].length, 16);
});

Deno.test("bind on one unix path twice at once gives it to one of the two", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const attempts = await Promise.allSettled([bound(`unix://${path}`), bound(`unix://${path}`)]);
  const [won] = attempts.filter((attempt) => attempt.status === "fulfilled");
  const [lost] = attempts.filter((attempt) => attempt.status === "rejected");
  assertTyped(lost.reason, "conflict", "a living process answers there");
  const greeter = greet(won.value.listener, "a");
  assertEquals([await greeting(path), folder.names()], ["a", ["api.sock"]]);
  won.value.listener.close();
  await greeter;
});

Deno.test("Bound.unpublish removes the file once, and lets the clients stay", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  for (const how of ["unpublish", "unpublishNow"] as const) {
    const place = await bound(`unix://${path}`);
    const client = await Deno.connect({ transport: "unix", path });
    await place[how]();
    assertEquals(folder.names(), []);
    await place[how]();
    const server = await place.listener.accept();
    await server.write(new Uint8Array([7]));
    assertEquals(await client.read(new Uint8Array(1)), 1);
    server.close();
    client.close();
    place.listener.close();
  }
});

Deno.test("Bound.unpublish leaves the file that another process put in its place", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const place = await bound(`unix://${path}`);
  using _ours = place.listener;
  Deno.removeSync(path);
  const other = Deno.listen({ transport: "unix", path });
  const greeter = greet(other, "b");
  place.unpublishNow();
  await place.unpublish();
  assertEquals([await greeting(path), folder.names()], ["b", ["api.sock"]]);
  other.close();
  await greeter;

  if (folder.names().length > 0) Deno.removeSync(path); // Deno before 2.6 leaves it there.
  await Deno.writeTextFile(path, "precious");
  await place.unpublish();
  assertEquals(await Deno.readTextFile(path), "precious");
});

Deno.test("Bound.unpublish looks once: later, another's file may have our file's number", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const place = await bound(`unix://${path}`);
  using _ = place.listener;
  // The same file under a second name stands for one that the system gave the same number.
  await Deno.link(path, `${folder.path}/other`);
  await place.unpublish();
  assertEquals(folder.names(), ["other"]);
  await Deno.rename(`${folder.path}/other`, path);
  await place.unpublish();
  place.unpublishNow();
  assertEquals(folder.names(), ["api.sock"]);
});

Deno.test("Bound.publish takes a living process's place, and both end as they should", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const old = await bound(`unix://${path}`);
  const oldGreeter = greet(old.listener, "a");

  const young = await bound(`unix://${path}`, { takeover: true });
  const youngGreeter = greet(young.listener, "b");
  assertEquals(young.address, `unix://${path}`);
  assertEquals([await greeting(path), folder.names().length], ["a", 2]);

  await young.publish();
  assertEquals([await greeting(path), folder.names()], ["b", ["api.sock"]]);
  assertEquals(Deno.lstatSync(path).mode! & 0o7777, 0o660);
  await young.publish();

  await old.unpublish();
  old.listener.close();
  await oldGreeter;
  old.unpublishNow();
  assertEquals([await greeting(path), folder.names()], ["b", ["api.sock"]]);

  await young.unpublish();
  young.listener.close();
  await youngGreeter;
  assertEquals(folder.names(), []);
});

Deno.test("Bound.unpublish before publish leaves the living process as it was", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const old = await bound(`unix://${path}`);
  const greeter = greet(old.listener, "a");
  const young = await bound(`unix://${path}`, { takeover: true });
  await young.unpublish();
  young.listener.close();
  assertEquals([await greeting(path), folder.names()], ["a", ["api.sock"]]);
  old.listener.close();
  await greeter;
});

Deno.test("bind removes temporary sockets that nobody answers on, and no others", async () => {
  await using folder = await TempFolder.make();
  // Closing a listener removes the path it was bound to; after a rename the file stays, unanswered.
  const dead = Deno.listen({ transport: "unix", path: `${folder.path}/x` });
  await Deno.rename(`${folder.path}/x`, `${folder.path}/.floodgate-dead`);
  dead.close();
  using living = Deno.listen({ transport: "unix", path: `${folder.path}/.floodgate-living` });
  living.unref();
  await Deno.writeTextFile(`${folder.path}/.floodgate-file`, "");
  const place = await bound(`unix://${folder.path}/s`);
  assertEquals(folder.names(), [".floodgate-file", ".floodgate-living", "s"]);
  await place.unpublish();
  place.listener.close();
});

Deno.test({
  name: "bind and unpublish do not wait for ever for a folder that somebody keeps locked",
  // Without tryLock(), which came with Deno 2.7, the lock goes on being waited for.
  sanitizeOps: "tryLock" in Deno.FsFile.prototype,
  async fn() {
    await using folder = await TempFolder.make();
    using lock = await Deno.open(folder.path);
    await lock.lock(true);
    const place = await bound(`unix://${folder.path}/s`);
    assertEquals(folder.names(), ["s"]);
    await place.unpublish();
    assertEquals(folder.names(), []);
    place.listener.close();
  },
});
