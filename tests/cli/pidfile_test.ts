import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { writePidfile } from "../../cli/pidfile.ts";
import { TypedError } from "../../engine.ts";
import { Daemon, missing, run, TempFolder } from "../support/daemon.ts";

/** Expects that the pidfile is refused with these words, and that nothing is left behind. */
function assertLeft(folder: TempFolder, path: string, takeover: boolean, ...words: string[]): void {
  const before = folder.names();
  const error = assertThrows(() => writePidfile(path, takeover), TypedError);
  assertEquals(error.kind, "conflict");
  for (const word of [`--pidfile ${path}: `, ...words]) assertStringIncludes(error.message, word);
  assertEquals(folder.names(), before);
}

Deno.test("writePidfile writes the process id, and removes it again", async () => {
  await using folder = await TempFolder.make();
  const remove = writePidfile(`${folder.path}/pid`, false);
  assertEquals(folder.names(), ["pid"]);
  assertEquals(await Deno.readTextFile(`${folder.path}/pid`), `${Deno.pid}\n`);
  assertEquals(Deno.lstatSync(`${folder.path}/pid`).mode! & 0o7777, 0o644 & ~Deno.umask());
  remove();
  assertEquals(folder.names(), []);
});

Deno.test("writePidfile replaces the file of a process that has ended, or whose id is ours", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/pid`;
  const gone = await new Deno.Command("sh", { args: ["-c", "echo $$"] }).output();
  for (const text of [new TextDecoder().decode(gone.stdout), `${Deno.pid}`, `${Deno.pid} \n`]) {
    await Deno.writeTextFile(path, text);
    const remove = writePidfile(path, false);
    assertEquals(await Deno.readTextFile(path), `${Deno.pid}\n`);
    remove();
    assertEquals(folder.names(), []);
  }
});

Deno.test("writePidfile refuses the file that a process has locked, and replaces it with takeover", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/pid`;
  // What is ours by its number is held all the same.
  const first = writePidfile(path, false);
  assertLeft(folder, path, false, `process ${Deno.pid} runs already, and holds the file`);
  const second = writePidfile(path, true);
  first(); // It is not its file any more.
  assertEquals(folder.names(), ["pid"]);
  assertLeft(folder, path, false, "holds the file");
  second();
  assertEquals(folder.names(), []);
});

Deno.test("writePidfile names another program that has the process id, and says what to do", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/pid`;
  const sleep = new Deno.Command("sleep", { args: ["1000"] }).spawn();
  await Deno.writeTextFile(path, `${sleep.pid}\n`);
  assertLeft(
    folder,
    path,
    false,
    `process ${sleep.pid} (sleep) runs`,
    "does not hold the file",
    "remove the file",
  );
  assertEquals(await Deno.readTextFile(path), `${sleep.pid}\n`);
  sleep.kill();
  await sleep.status;
  writePidfile(path, false)();
});

Deno.test("writePidfile leaves another kind of file alone, with takeover as well", async () => {
  await using folder = await TempFolder.make();
  await using elsewhere = await TempFolder.make();
  const files: Record<string, string> = {
    empty: "",
    words: "precious\n",
    mixed: "12a\n",
    lines: "1\n2\n",
    negative: "-1\n",
    long: "1".repeat(17),
    large: "9".repeat(100_000),
  };
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(`${folder.path}/${name}`, text);
  }
  await Deno.writeTextFile(`${elsewhere.path}/pid`, "4000000\n");
  await Deno.mkdir(`${folder.path}/folder`);
  await Deno.symlink(`${elsewhere.path}/pid`, `${folder.path}/link`);
  await Deno.symlink(`${elsewhere.path}/none`, `${folder.path}/dangling`);
  await run("mkfifo", [`${folder.path}/fifo`]);
  using socket = Deno.listen({ transport: "unix", path: `${folder.path}/socket` });
  socket.unref();
  for (const takeover of [false, true]) {
    for (const [name, text] of Object.entries(files)) {
      assertLeft(folder, `${folder.path}/${name}`, takeover, "no process id", "left alone");
      assertEquals(await Deno.readTextFile(`${folder.path}/${name}`), text);
    }
    for (const name of ["folder", "link", "dangling", "fifo", "socket"]) {
      assertLeft(folder, `${folder.path}/${name}`, takeover, "no file", "left alone");
    }
  }
  assertEquals(elsewhere.names(), ["pid"]);
  assertEquals(await Deno.readTextFile(`${elsewhere.path}/pid`), "4000000\n");
});

Deno.test(
  "writePidfile leaves another user's file alone",
  { ignore: Deno.uid() !== 0 },
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/pid`;
    await Deno.writeTextFile(path, "4000000\n");
    await Deno.chown(path, 65_534, 65_534);
    assertLeft(folder, path, false, "a file of user 65534 is there", "left alone");
  },
);

Deno.test("writePidfile says what keeps it from writing, and leaves nothing behind", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/missing/pid`;
  const error = assertThrows(
    () => writePidfile(path, false),
    Error,
    `cannot write --pidfile ${path}: `,
  );
  assert(!(error instanceof TypedError));

  const file = `${folder.path}/pid`;
  const { openSync } = Deno;
  Deno.openSync = (path, options) => {
    const opened = openSync(path, options);
    opened.writeSync = () => {
      throw new Error("No space left on device");
    };
    return opened;
  };
  try {
    assertThrows(
      () => writePidfile(file, false),
      Error,
      `cannot write --pidfile ${file}: No space left`,
    );
  } finally {
    Deno.openSync = openSync;
  }
  assertEquals(folder.names(), []);
});

Deno.test("main does not start on a pidfile on a full disk, and leaves no part of it", {
  ignore: Deno.uid() !== 0 || await missing("unshare", ["--version"]),
}, async () => {
  await using folder = await TempFolder.make();
  const script =
    `mount -t tmpfs -o size=4k,mode=755 none "$0" && head -c 8192 /dev/zero > "$0/full"; "$@"; status=$?; ls -A "$0"; exit $status`;
  await using daemon = Daemon.start(
    ["-H", "tcp://127.0.0.1:0", "--pidfile", `${folder.path}/pid`],
    {
      through: ["unshare", "--mount", "sh", "-c", script, folder.path],
    },
  );
  const { code } = await daemon.status;
  assertEquals(code, 1, daemon.stderr);
  assertMatch(daemon.stderr, /cannot write --pidfile .*\/pid: No space left on device/);
  assertEquals(daemon.stdout, "full\n");
});

Deno.test("main started several times at once with one pidfile runs once", async () => {
  for (const stale of [false, true]) {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/pid`;
    if (stale) await Deno.writeTextFile(path, "4000000\n");
    const daemons = Array.from(
      { length: 4 },
      () => Daemon.start(["-H", "tcp://127.0.0.1:0", "--pidfile", path]),
    );
    const outcomes = await Promise.all(daemons.map((daemon) =>
      Promise.race([
        daemon.says(/-job acceptconnections/).then(() => "runs", () => "ended"),
        daemon.status.then(() => "ended"),
      ])
    ));
    assertEquals(outcomes.toSorted(), ["ended", "ended", "ended", "runs"]);
    const winner = daemons[outcomes.indexOf("runs")]!;
    assertEquals(await Deno.readTextFile(path), `${winner.pid}\n`);
    for (const daemon of daemons.filter((each) => each !== winner)) {
      assertEquals((await daemon.status).code, 1);
      assertMatch(
        daemon.stderr,
        // The second is the socket that a daemon with a pidfile hands over by.
        /(--pidfile .*: process \d+ runs already, and holds the file|pid\.handover: a living process answers there.*)\n$/,
      );
    }
    assertEquals(await winner.end(), 0);
    assertEquals(folder.names(), []);
  }
});
