import { assert, assertEquals, assertMatch } from "@std/assert";
import { descriptorsProblem } from "../../platform/descriptors.ts";
import { Client, PING } from "../support/client.ts";
import { Daemon, installer, missing, project, run, TempFolder, until } from "../support/daemon.ts";

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

Deno.test("main survives late rejections and uncaught errors of handlers", async () => {
  const body = `
    router.get("/late", (c) => {
      Promise.reject(new Error("not awaited"));
      setTimeout(() => { throw new Error("not caught"); });
      return c.text("answered");
    });`;
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", installer(body)]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  assertEquals(await (await fetch(url + "/late")).text(), "answered");
  await daemon.says(/unhandled rejection: Error: not awaited/);
  await daemon.says(/uncaught error: Error: not caught/);
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

for (const [signal, number] of [["SIGUSR2", 12], ["SIGALRM", 14], ["SIGQUIT", 3]] as const) {
  Deno.test(`main ends at once at ${signal}, and leaves neither socket file nor pidfile`, async () => {
    await using folder = await TempFolder.make();
    await using daemon = Daemon.start([
      "-H",
      `unix://${folder.path}/api.sock`,
      "--pidfile",
      `${folder.path}/pid`,
    ]);
    await daemon.says(/listening on/);
    assertEquals(await daemon.end(signal), 128 + number);
    assertEquals(folder.names(), []);
    assertMatch(daemon.stderr, new RegExp(`${signal}: ended at once`));
  });
}

Deno.test({
  name: "main goes on where its log file may not be longer",
  ignore: await missing("prlimit", ["--version"]),
  async fn() {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    const log = `${folder.path}/log`;
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--debug", "--log-file", log]);
    await daemon.says(/listening on/);
    // From now on: Deno writes files of its own when it starts.
    await run("prlimit", ["--pid", `${daemon.pid}`, "--fsize=20000"]);
    using client = await Client.to({ transport: "unix", path });
    const version = "GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    for (let asked = 0; asked < 300; asked++) {
      assertEquals((await client.ask(version)).status, 200);
    }
    await until(async () => (await Deno.stat(log)).size === 20_000);
    assertEquals(await daemon.end("SIGTERM"), 0);
  },
});

/** How many sockets of the process listen for tcp, by /proc. */
function listening(pid: number): number {
  const inodes = new Set(
    [...Deno.readDirSync(`/proc/${pid}/fd`)].map(({ name }) => {
      try {
        return Deno.readLinkSync(`/proc/${pid}/fd/${name}`);
      } catch {
        return ""; // It was closed meanwhile.
      }
    }),
  );
  return ["tcp", "tcp6"].flatMap((table) =>
    Deno.readTextFileSync(`/proc/${pid}/net/${table}`).split("\n").slice(1)
  ).map((line) => line.trim().split(/ +/))
    .filter(([, , , state, , , , , , inode]) => state === "0A" && inodes.has(`socket:[${inode}]`))
    .length;
}

Deno.test({
  name: "main lists its running jobs at SIGUSR1, from the first moment, and Deno opens no debugger",
  ignore: descriptorsProblem() !== undefined,
  async fn() {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    const install = installer(`
      engine.register("wait", () => new Promise((resolve) => engine.stopping.onabort = () => resolve()));
      engine.job("wait", "for", "ever").run();
      // The time itself matters: the boot lasts until Deno would listen for the signal.
      await new Promise((resolve) => setTimeout(resolve, 700));`);
    const began = performance.now();
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", install]);
    await until(() => folder.names().includes("api.sock"));
    // Deno listens for the signal from half a second after its start on, so signals are sent at
    // intervals until long after.
    let sent = 0;
    for (; performance.now() < began + 1_500 || sent < 10; sent++) {
      daemon.kill("SIGUSR1");
      assertEquals(listening(daemon.pid), 0);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await daemon.open();
    // Where it took long to boot, all others may have come before the job.
    daemon.kill("SIGUSR1");
    await daemon.says(
      /SIGUSR1: running jobs: 2\n.*SIGUSR1: serveapi\(.*\n.*SIGUSR1: wait\(for, ever\)/,
    );
    assert(!daemon.stderr.includes("Debugger"), daemon.stderr);
    assertEquals(listening(daemon.pid), 0);
    assertEquals(await daemon.end("SIGINT"), 0);
    assertEquals(folder.names(), []);
  },
});

Deno.test("main closes Deno's debugger at SIGUSR1 where it may not call foreign functions", async () => {
  await using folder = await TempFolder.make();
  const path = folder.path;
  await using daemon = Daemon.start(["-H", `unix://${path}/api.sock`], {
    flags: [
      ...["--no-prompt", "--allow-net", "--allow-sys", "--allow-import", `--allow-read=${path}`],
      `--allow-write=${path}`,
    ],
  });
  await daemon.open();
  // Until Deno listens for the signal, half a second after its start, nothing has to be closed.
  await until(() => {
    daemon.kill("SIGUSR1");
    // Another process may have its port.
    return /Debugger listening|Failed to start inspector/.test(daemon.stderr);
  });
  await until(() => listening(daemon.pid) === 0);
  await daemon.says(/WARN +SIGUSR1: Deno opened its debugger on 127.0.0.1:9229 for a moment/);
  assertEquals(await daemon.end(), 0);
});

for (const allowed of ["all", "no foreign functions"]) {
  Deno.test(`main goes on when the reader of its log stalls, and ends at SIGTERM, with ${allowed}`, async () => {
    await using folder = await TempFolder.make();
    const [path, log] = [`${folder.path}/s`, `${folder.path}/log`];
    await run("mkfifo", [log]);
    await using daemon = Daemon.start(["-H", `unix://${path}`, "--debug"], {
      // It has its own log open for reading, so it is not without a reader.
      through: ["sh", "-c", 'exec 3<>"$0"; exec "$@" 2>"$0"', log],
      flags: allowed === "all" ? undefined : [
        ...["--no-prompt", "--allow-net", "--allow-sys", "--allow-import"],
        ...[`--allow-read=${project("")},${folder.path}`, `--allow-write=${folder.path}`],
      ],
    });
    await daemon.says(/listening on/);
    const client = await Client.to({ transport: "unix", path });
    const ask = `GET /${"x".repeat(800)} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
    // Some 4 MB of lines: more than a pipe and the queue take.
    for (let i = 0; i < 8_000; i++) assertEquals((await client.ask(ask)).status, 404);

    // The reader is back. What was dropped is told of once there is something to say.
    let text = "";
    using reader = await Deno.open(log);
    const reading = (async () => {
      const decoder = new TextDecoder();
      for await (const chunk of reader.readable) text += decoder.decode(chunk, { stream: true });
    })();
    reading.catch(() => {}); // Awaited below, if all goes well.
    await until(async () => {
      await client.ask(PING);
      return text.includes("log lines lost because");
    });
    client.close();
    // Deno tells of a module that it looks for by itself.
    const lines = text.split("\n").slice(0, -1).filter((line) => !line.startsWith("Download "));
    for (const line of lines) assertMatch(line, /^\d{4}-\S+ [A-Z]+ +\S/);
    const times = lines.map((line) => line.split(" ", 1)[0]);
    assertEquals(times, times.toSorted());
    assertEquals(await daemon.end(), 0);
    await reading;
    assertMatch(text, /-job serveapi\(.*\) = OK \(0\)\n$/);
  });
}

Deno.test("main ends at SIGTERM while the reader of its log stalls, whatever else it is told", async () => {
  await using folder = await TempFolder.make();
  const [path, log] = [`${folder.path}/s`, `${folder.path}/log`];
  await run("mkfifo", [log]);
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--debug"], {
    through: ["sh", "-c", 'exec 3<>"$0"; exec "$@" 2>"$0"', log],
  });
  await daemon.says(/listening on/);
  const client = await Client.to({ transport: "unix", path });
  const ask = `GET /${"x".repeat(800)} HTTP/1.1\r\nHost: localhost\r\n\r\n`;
  for (let i = 0; i < 300; i++) await client.ask(ask);
  client.close();
  daemon.kill("SIGTERM");
  // It waits for the reader for a second, after all else.
  await until(() => {
    try {
      daemon.kill("SIGHUP");
      if (Deno.build.os === "linux") daemon.kill("SIGXFSZ");
      return false;
    } catch {
      return true; // It has ended.
    }
  });
  assertEquals((await daemon.status).code, 0);
});

Deno.test("main starts and serves where standard output and error are on a full disk", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--debug"], {
    through: ["sh", "-c", 'exec "$@" >/dev/full 2>/dev/full', "sh"],
  });
  await until(() => folder.names().includes("s"));
  const client = await Client.to({ transport: "unix", path });
  assertEquals((await client.ask(PING)).status, 200);
  client.close();
  assertEquals(await daemon.end(), 0);
});
