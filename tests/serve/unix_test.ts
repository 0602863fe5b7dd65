import { assert, assertEquals, assertMatch } from "@std/assert";
import { descriptorsProblem } from "../../platform/descriptors.ts";
import { assertRefused, assertTyped, bound } from "../support/bind.ts";
import { Client, get, Load, PING } from "../support/client.ts";
import { Daemon, exchange, missing, project, TempFolder, until } from "../support/daemon.ts";
import type { Watch } from "../support/fixtures/watch.ts";
import { Served } from "../support/served.ts";

/** Sends each client one letter, until the listener is closed. */
async function greet(listener: Deno.Listener, letter: string): Promise<void> {
  for await (const conn of listener) {
    // A client that only checks whether a process answers has gone by now.
    await conn.write(new TextEncoder().encode(letter)).catch(() => {});
    conn.close();
  }
}
/** The letter of the process that answers at a path. */
async function greeting(path: string): Promise<string> {
  return await new Response((await Deno.connect({ transport: "unix", path })).readable).text();
}

/** Leaves a socket file at `path` on which no process answers. */
function leaveStale(path: string): void {
  const listener = Deno.listen({ transport: "unix", path: path + ".bound" });
  // Under another name, because closing a listener removes its file.
  Deno.renameSync(path + ".bound", path);
  listener.close();
}

/** Replaces a function of the Deno namespace until it is disposed of. */
function replaced<K extends "chmodSync" | "chownSync" | "renameSync" | "lstatSync" | "umask">(
  name: K,
  make: (original: typeof Deno[K]) => typeof Deno[K],
): Disposable {
  const original = Deno[name];
  Object.assign(Deno, { [name]: make(original) });
  return { [Symbol.dispose]: () => void Object.assign(Deno, { [name]: original }) };
}

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

Deno.test("bind on unix admits no client before the group and the mode are set", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const steps: unknown[] = [];
  const workshop = `${folder.path}/.api.sock.floodgate`;
  // No other user can enter the folder of the file, whatever the file's mode.
  const state = (file: string | URL) => [
    file.toString().startsWith(`${workshop}/`),
    Deno.lstatSync(workshop).mode! & 0o777,
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
    ["group", true, 0o700, false, Deno.gid()],
    ["mode", true, 0o700, false, 0o660],
    ["name", true, 0o700, false, path],
  ]);
  assertEquals(folder.names(), ["api.sock"]);
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

Deno.test("bind on unix refuses an unknown group, and leaves no file", async () => {
  await using folder = await TempFolder.make();
  const address = `unix://${folder.path}/api.sock`;
  await assertRefused(
    () => bound(address, { group: "no-such-group-here" }),
    "bad parameter",
    `cannot listen on ${address}: `,
    'there is no group "no-such-group-here"',
  );
  // chown(2) would read the first as "leave it as it is", and the second as another group.
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
    // No other process was there: it is in its place at once.
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

Deno.test("bind on unix leaves a file that is no socket alone, with takeover as well", async () => {
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
        `cannot listen on ${address}: a file that is not a socket is there, and was left alone`,
      );
    }
  }
  assertEquals(folder.names(), before);
  assertEquals(await Deno.readTextFile(`${folder.path}/file`), "precious");
  assert(Deno.lstatSync(`${folder.path}/folder`).isDirectory);
  assertEquals(await Deno.readLink(`${folder.path}/link`), "living");
});

Deno.test("bind on unix names a missing folder", async () => {
  await using folder = await TempFolder.make();
  await assertRefused(
    () => bound(`unix://${folder.path}/missing/api.sock`),
    "bad parameter",
    `cannot listen on unix://${folder.path}/missing/api.sock: `,
    `the directory ${folder.path}/missing does not exist`,
  );
  assertEquals(folder.names(), []);
});

Deno.test("bind on unix names the address if its folder is a file", async () => {
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

Deno.test("bind on one unix path twice at once gives it to one of the two", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const attempts = await Promise.allSettled([bound(`unix://${path}`), bound(`unix://${path}`)]);
  const [won] = attempts.filter((attempt) => attempt.status === "fulfilled");
  const [lost] = attempts.filter((attempt) => attempt.status === "rejected");
  assertTyped(lost!.reason, "conflict", "a living process answers there");
  const greeter = greet(won!.value.listener, "a");
  assertEquals([await greeting(path), folder.names()], ["a", ["api.sock"]]);
  won!.value.listener.close();
  await greeter;
});

Deno.test("Bound.unpublish removes the file once, and keeps the clients", async () => {
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

  await Deno.writeTextFile(path, "precious");
  await place.unpublish();
  assertEquals(await Deno.readTextFile(path), "precious");
});

Deno.test("Bound.unpublish checks once: later, another file may have our file's inode number", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/api.sock`;
  const place = await bound(`unix://${path}`);
  using _ = place.listener;
  // A second link stands for another file with the same inode number.
  await Deno.link(path, `${folder.path}/other`);
  await place.unpublish();
  assertEquals(folder.names(), ["other"]);
  await Deno.rename(`${folder.path}/other`, path);
  await place.unpublish();
  place.unpublishNow();
  assertEquals(folder.names(), ["api.sock"]);
});

Deno.test("Bound.publish replaces a living process's socket, and both end cleanly", async () => {
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

Deno.test("bind on unix removes what a daemon left that was killed while it made its socket", async () => {
  await using folder = await TempFolder.make();
  const workshop = `${folder.path}/.s.floodgate`;
  await Deno.mkdir(workshop, { mode: 0o700 });
  leaveStale(`${workshop}/dead`);
  const first = await bound(`unix://${folder.path}/s`);
  assertEquals(folder.names(), ["s"]);

  // The socket of a living daemon that waits to take over is left alone.
  const second = await bound(`unix://${folder.path}/s`, { takeover: true });
  const third = await bound(`unix://${folder.path}/s`, { takeover: true });
  assertEquals([...Deno.readDirSync(workshop)].length, 2);
  await second.unpublish();
  await third.unpublish();
  await first.unpublish();
  for (const { listener } of [first, second, third]) listener.close();
  assertEquals(folder.names(), []);
});

Deno.test("bind on unix ignores files of others in the folder, and uses another name", async () => {
  await using folder = await TempFolder.make();
  for (let i = 0; i < 1_000; i++) await Deno.symlink("nowhere", `${folder.path}/.floodgate-${i}`);
  await Deno.symlink("/", `${folder.path}/.s.floodgate`);
  const before = folder.names();
  let looks = 0;
  using _ = replaced("lstatSync", (original) => (path) => {
    looks++;
    return original(path);
  });
  const place = await bound(`unix://${folder.path}/s`);
  assert(looks < 20, `${looks} looks`);
  assertEquals(folder.names(), [...before, "s"]);
  await place.unpublish();
  place.listener.close();
  assertEquals(folder.names(), before);
});

Deno.test("bind on unix does not reuse a folder that others can enter", async () => {
  await using folder = await TempFolder.make();
  const planted = `${folder.path}/.s.floodgate`;
  await Deno.mkdir(planted);
  await Deno.chmod(planted, 0o755);
  const place = await bound(`unix://${folder.path}/s`, {});
  assertEquals([...Deno.readDirSync(planted)], []);
  assertEquals(folder.names(), [".s.floodgate", "s"]);
  await place.unpublish();
  place.listener.close();
});

Deno.test("bind on unix leaves the umask alone, which other threads make files with", async () => {
  await using folder = await TempFolder.make();
  using _ = replaced("umask", () => () => {
    throw new Error("the umask is the process's");
  });
  const place = await bound(`unix://${folder.path}/s`);
  await place.unpublish();
  place.listener.close();
});

Deno.test({
  name: "bind on unix in a folder that others can write in changes no file that they swap in",
  ignore: descriptorsProblem() !== undefined,
  async fn() {
    await using folder = await TempFolder.make();
    await using victims = await TempFolder.make();
    const victim = `${victims.path}/shadow`;
    await Deno.writeTextFile(victim, "precious", { mode: 0o600 });
    const shared = `${folder.path}/shared`;
    await Deno.mkdir(shared);
    await Deno.chmod(shared, 0o777);
    const rights = () => {
      const { mode, gid, mtime } = Deno.statSync(victim);
      return [mode! & 0o7777, gid, mtime?.getTime()];
    };
    const before = rights();
    let swaps = 0;
    // Another user can rename what is in the folder, and put links in its place. This one is always
    // in time, and knows every name.
    const swap = () => {
      for (const { name } of [...Deno.readDirSync(shared)]) {
        const path = `${shared}/${name}`;
        const info = Deno.lstatSync(path);
        if (info.isSymlink || name.startsWith("moved")) continue;
        const moved = `${shared}/moved-${swaps++}`;
        const names = info.isDirectory ? [...Deno.readDirSync(path)].map(({ name }) => name) : [];
        Deno.renameSync(path, moved);
        if (!info.isDirectory) {
          Deno.symlinkSync(victim, path);
          continue;
        }
        const trap = `${folder.path}/trap-${swaps}`;
        Deno.mkdirSync(trap);
        for (const name of names) Deno.symlinkSync(victim, `${trap}/${name}`);
        Deno.symlinkSync(trap, path);
      }
    };
    const path = `${shared}/api.sock`;
    {
      const group = GROUP.id;
      const attacked = (["chownSync", "chmodSync", "renameSync"] as const).map((name) =>
        replaced(name, (original) =>
          ((...args: unknown[]) => {
            // By another process.
            if (!busy) {
              busy = true;
              swap();
              busy = false;
            }
            (original as (...args: unknown[]) => void)(...args);
          }) as typeof Deno[typeof name])
      );
      let busy = false;
      const place = await bound(`unix://${path}`, { group });
      assert(swaps > 0);
      assertEquals(rights(), before);
      // It got its own mode all the same, and its path.
      const info = Deno.lstatSync(path);
      assertEquals([info.isSocket, info.mode! & 0o777, `${info.gid}`], [true, 0o660, group]);
      const greeter = greet(place.listener, "a");
      assertEquals(await greeting(path), "a");
      busy = true;
      attacked.forEach((each) => each[Symbol.dispose]());
      await place.unpublish();
      place.listener.close();
      await greeter;
    }
    assertEquals(rights(), before);
  },
});

Deno.test("main refuses a folder that others can write in, without the permission for its descriptor", async () => {
  await using folder = await TempFolder.make();
  const limited = {
    flags: [
      "--no-prompt",
      "--allow-net",
      "--allow-sys",
      `--allow-read=${folder.path}`,
      `--allow-write=${folder.path}`,
    ],
  };
  for (
    const [mode, served] of [[0o777, false], [0o775, false], [0o1777, true], [0o755, true]] as const
  ) {
    await Deno.chmod(folder.path, mode);
    await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`], limited);
    if (served) {
      await daemon.says(/listening on/);
      assertEquals(await daemon.end(), 0);
    } else {
      assertEquals((await daemon.status).code, 1);
      assertMatch(
        daemon.stderr,
        /^floodgate: cannot listen on .*: other users can swap what is in .* \(user \d+'s, mode 0\d+\).*, expected a folder .*--allow-all\)\n$/,
      );
    }
    assertEquals(folder.names(), []);
  }
});

Deno.test("main names a folder that its user may not write in", {
  ignore: Deno.uid() !== 0 || await missing("setpriv", ["--version"]),
}, async () => {
  await using folder = await TempFolder.make();
  await Deno.chmod(folder.path, 0o755);
  await using daemon = Daemon.start(["-H", `unix://${folder.path}/s`], {
    through: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    env: { DENO_DIR: `${folder.path}/none`, HOME: folder.path },
  });
  assertEquals((await daemon.status).code, 1);
  assertEquals(
    daemon.stderr,
    `floodgate: cannot listen on unix://${folder.path}/s: this user may not write in ${folder.path}\n`,
  );
});

Deno.test("main says that a process listens on a socket that its user may not connect to", {
  ignore: Deno.uid() !== 0 || await missing("setpriv", ["--version"]),
}, async () => {
  await using folder = await TempFolder.make();
  await Deno.chmod(folder.path, 0o777);
  await Deno.mkdir(`${folder.path}/cache`);
  await Deno.chmod(`${folder.path}/cache`, 0o777);
  const path = `${folder.path}/s`;
  const other = {
    through: ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"],
    env: { DENO_DIR: `${folder.path}/cache`, HOME: folder.path },
  };
  const attempt = async () => {
    await using daemon = Daemon.start(["-H", `unix://${path}`], other);
    assertEquals((await daemon.status).code, 1);
    return daemon.stderr;
  };
  await using living = Daemon.start(["-H", `unix://${path}`]);
  await living.open();
  const start =
    `floodgate: cannot listen on unix://${path}: a socket of user 0 is there that this user may not connect to, `;
  // It was bound by the folder's descriptor, and under another name.
  assertEquals(await attempt(), start + "and a process listens there; stop it first\n");
  await living.end("SIGKILL");
  assertEquals(
    await attempt(),
    start +
      "and no process is seen to listen there (/proc/net/unix); if it was left behind, remove the file\n",
  );
  Deno.removeSync(path);
  const listener = Deno.listen({ transport: "unix", path });
  Deno.chmodSync(path, 0o600);
  assertEquals(await attempt(), start + "and a process listens there; stop it first\n");
  listener.close();
});

Deno.test({
  name: "bind and unpublish do not wait for ever for a folder that another process keeps locked",
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

/** Watches a folder while `during` runs, and returns the states of the sockets in it. */
async function watch(
  watched: Omit<Watch, "stop">,
  during: () => Promise<void>,
): Promise<string[]> {
  const stop = new SharedArrayBuffer(1);
  const worker = new Worker(new URL("../support/fixtures/watch.ts", import.meta.url), {
    type: "module",
  });
  const message = <T>() =>
    new Promise<T>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
    });
  try {
    const started = message();
    worker.postMessage({ ...watched, stop } satisfies Watch);
    await started;
    const seen = message<string[]>();
    // A failing watcher ends the wait.
    await Promise.race([during(), seen]);
    Atomics.store(new Uint8Array(stop), 0, 1);
    return await seen;
  } finally {
    worker.terminate();
  }
}

/** A group that we may give a socket to, other than our own if possible; root may use any. */
const GROUP = await (async () => {
  const { stdout } = await new Deno.Command("id", { args: ["-G"] }).output();
  const ours = new TextDecoder().decode(stdout).trim().split(" ");
  const groups = Deno.readTextFileSync("/etc/group").trim().split("\n").map((line) => {
    const [name, , id] = line.split(":");
    return { name: name!, id: id! };
  });
  return groups.find(({ id }) =>
    id !== `${Deno.gid()}` && (Deno.uid() === 0 || ours.includes(id))
  ) ?? { name: `${Deno.gid()}`, id: `${Deno.gid()}` };
})();

for (const [how, group] of [["by its name", GROUP.name], ["by its number", GROUP.id]] as const) {
  Deno.test(`a unix socket is open to its group, given ${how}, and never to another user`, async () => {
    await using folder = await TempFolder.make();
    await using steps = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    const options = {
      program: project("tests/support/fixtures/stepwise.ts"),
      env: { STEPS: steps.path },
    };
    const args = ["-H", `unix://${path}`, "-G", group];
    const ask = () => exchange({ transport: "unix", path }, get("/_ping"));

    const states = await watch({ folder: folder.path, steps: steps.path }, async () => {
      await using daemon = Daemon.start(args, options);
      await daemon.open();
      assertMatch(await ask(), /\r\n\r\nOK$/);
      await using successor = Daemon.start([...args, "--takeover"], options);
      await successor.open();
      assertEquals(await daemon.end(), 0);
      assertMatch(await ask(), /\r\n\r\nOK$/);
      assertEquals(await successor.end(), 0);
    });
    assertEquals(states, [`.api.sock.floodgate 700 ${Deno.gid()}`, `api.sock 660 ${GROUP.id}`]);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main refuses an unknown group, in one line, and leaves nothing behind", async () => {
  await using folder = await TempFolder.make();
  const address = `unix://${folder.path}/api.sock`;
  for (const group of ["no-such-group-here", "4294967295", "-1", "--help"]) {
    await using daemon = Daemon.start(["-H", address, `--group=${group}`]);
    assertEquals((await daemon.status).code, 1);
    assertEquals(
      daemon.stderr,
      `floodgate: cannot listen on ${address}: there is no group "${group}"\n`,
    );
    assertEquals(folder.names(), []);
  }
});

Deno.test({
  name: "shutdown ends a serveapi whose folder is gone, or kept locked by another process",
  async fn() {
    for (const harm of ["gone", "locked"]) {
      await using folder = await TempFolder.make();
      const path = `${folder.path}/s`;
      const served = await Served.open({}, [`unix://${path}`, "tcp://127.0.0.1:0"]);
      const lock = await Deno.open(folder.path);
      if (harm === "locked") await lock.lock(true);
      else await Deno.remove(path);
      if (harm === "gone") await Deno.remove(folder.path);
      await served.engine.shutdown({ drain: 5_000 });
      assertEquals(await served.ended, undefined);
      lock.close();
      if (harm === "gone") await Deno.mkdir(folder.path);
      assertEquals(folder.names(), []);
    }
  },
});

Deno.test("main replaces the socket file of a daemon that was killed, and no other", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using killed = Daemon.start(["-H", `unix://${path}`]);
  await killed.open();
  await killed.end("SIGKILL");
  assertEquals(folder.names(), ["s"]);
  await using living = Daemon.start(["-H", `unix://${path}`]);
  await living.open();
  await using refused = Daemon.start(["-H", `unix://${path}`]);
  assertEquals((await refused.status).code, 1);
  assertMatch(
    refused.stderr,
    /^floodgate: .* a living process answers there.*--takeover \(Takeover\)\n$/,
  );
  const client = await Client.to({ transport: "unix", path });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  assertEquals(await living.end(), 0);
  assertEquals(folder.names(), []);
});

Deno.test("main --takeover takes a living daemon's place without losing a request", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using old = Daemon.start(["-H", `unix://${path}`]);
  await old.open();
  const load = new Load({ transport: "unix", path }, 4, 4);
  await using next = Daemon.start(["-H", `unix://${path}`, "--takeover"]);
  await next.open();
  assertEquals(await old.end(), 0);
  assertEquals(folder.names(), ["s"]);
  const before = load.tally.ok;
  await until(() => load.tally.ok > before + 100);
  const { failed } = await load.stop();
  assertEquals([...failed], []);
  assertEquals(await next.end(), 0);
  assertEquals(folder.names(), []);
});

Deno.test("main --takeover whose boot fails leaves the living daemon alone", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using old = Daemon.start(["-H", `unix://${path}`]);
  await old.open();
  await using next = Daemon.start([
    "-H",
    `unix://${path}`,
    "--takeover",
    "--install",
    "data:text/javascript,",
  ]);
  assertEquals((await next.status).code, 1);
  assertEquals(folder.names(), ["s"]);
  const client = await Client.to({ transport: "unix", path });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
});

Deno.test({
  name: "bind on unix leaves no folder where descriptors run out",
  ignore: descriptorsProblem() !== undefined,
  async fn() {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    const install = "data:text/javascript,export function install() { throw new Error('bound') }";
    let short = 0;
    // From where Deno itself cannot start to where the socket is bound.
    for (let descriptors = 12;; descriptors++) {
      await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", install], {
        descriptors,
      });
      await daemon.status;
      assertEquals(folder.names(), [], `with ${descriptors} descriptors`);
      if (/Too many open files|EMFILE/.test(daemon.stderr)) short++;
      if (/listening on/.test(daemon.stdout)) break;
    }
    assert(short > 0);
  },
});
