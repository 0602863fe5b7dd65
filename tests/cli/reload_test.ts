import { assert, assertEquals, assertMatch } from "@std/assert";
import { Client, get, PING } from "../support/client.ts";
import { Daemon, exchange, installer, TempFolder, until } from "../support/daemon.ts";

/** A daemon with a file of settings, which can be changed. */
class Configured implements AsyncDisposable {
  static async start(settings: unknown, ...args: string[]): Promise<Configured> {
    const folder = await TempFolder.make();
    const path = `${folder.path}/daemon.json`;
    await Deno.writeTextFile(path, JSON.stringify(settings));
    const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--config-file", path, ...args]);
    const port = await daemon.port();
    await daemon.open();
    return new Configured(folder, path, daemon, port);
  }
  private constructor(
    readonly folder: TempFolder,
    readonly path: string,
    readonly daemon: Daemon,
    readonly port: number,
  ) {}
  /** Changes the file, and waits for what the daemon says of it. */
  async change(settings: unknown, says: RegExp): Promise<string> {
    const before = this.daemon.stderr.length;
    await Deno.writeTextFile(
      this.path,
      typeof settings === "string" ? settings : JSON.stringify(settings),
    );
    this.daemon.kill("SIGHUP");
    await until(() => says.test(this.daemon.stderr.slice(before)));
    return this.daemon.stderr.slice(before);
  }
  get target() {
    return { hostname: "127.0.0.1", port: this.port };
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    await this.folder[Symbol.asyncDispose]();
  }
}

Deno.test("SIGHUP applies what can change, and names what takes a restart", async () => {
  const module = installer('router.post("/read", async (c) => c.text(await c.req.text()))');
  await using it = await Configured.start(
    { "idle-timeout": 60, "log-level": "info", "api-cors-header": ["https://old.example"] },
    "--install",
    module,
  );
  const { daemon, target } = it;
  const host = (name: string) => exchange(target, get("/_ping").replace("localhost", name));
  assertMatch(await host("api.example"), /^HTTP\/1.1 403 /);
  const idle = await Client.to(target);
  await idle.send(PING);
  await idle.sees(/OK$/);
  const said = await it.change({
    "idle-timeout": "100ms",
    "log-level": "debug",
    "allowed-hosts": ["api.example"],
    "body-limit": 3,
    "max-connections": 2,
    "api-cors-header": ["https://pages.example"],
    pidfile: "/tmp/none",
    "log-format": "json",
  }, /restart/);
  assertMatch(said, /INFO {2}changed: --.*\n/);
  const flagsIn = (pattern: RegExp) => pattern.exec(said)![1]!.split(", ").sort();
  assertEquals(flagsIn(/ changed: (.*)/), [
    ...["--allowed-host", "--api-cors-header", "--body-limit", "--idle-timeout", "--log-level"],
    "--max-connections",
  ]);
  assertEquals(flagsIn(/ WARN {2}changed, but this takes a restart: (.*)/), [
    "--handover", // It follows from the pidfile.
    "--log-format",
    "--pidfile",
  ]);
  const changed = performance.now();
  await idle.ended(); // It was idle for longer than may be now.
  assert(performance.now() - changed < 30_000, "it was kept for longer than 100 ms");
  assertMatch(await host("api.example"), /^HTTP\/1.1 200 /);
  const page = get("/_ping").replace("\r\n\r\n", "\r\nOrigin: https://pages.example\r\n\r\n");
  assertMatch(
    await exchange(target, page),
    /^HTTP\/1.1 200 [^]*access-control-allow-origin: https:\/\/pages\.example\r\n/i,
  );
  // Each on a connection of its own: one that was kept may be ended just now, as it was idle.
  const post = (body: string) =>
    exchange(
      target,
      get("/read").replace("GET", "POST").replace(
        "\r\n\r\n",
        `\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      ),
    );
  assertMatch(
    await post("four"),
    /^HTTP\/1.1 413 [^]*"the request body is longer than 3 bytes"/,
  );
  await exchange(target, get("/version"));
  await daemon.says(/DEBUG -job version/);

  // Back to the defaults.
  await it.change({ "log-level": "info" }, /changed: /);
  assertMatch(await host("api.example"), /^HTTP\/1.1 403 /);
  assertMatch(await post("four"), /^HTTP\/1.1 200 [^]*\r\n\r\nfour$/);
  assertEquals(await daemon.end(), 0);
});

Deno.test("SIGHUP changes nothing where the file cannot be understood, and says so", async () => {
  await using it = await Configured.start({ "allowed-hosts": ["api.example"] });
  for (
    const [wrong, problem] of [["{", "this is not JSON"], [
      { "idle-timeout": "soon" },
      "expected a number of seconds",
    ]] as const
  ) {
    const said = await it.change(wrong, /ERROR SIGHUP.*\n/);
    assertMatch(said, /ERROR SIGHUP: nothing was reloaded: --config-file /);
    assert(said.includes(problem), said);
    const answer = await exchange(it.target, get("/_ping").replace("localhost", "api.example"));
    assertMatch(answer, /^HTTP\/1.1 200 /);
  }
  assertEquals(await it.daemon.end(), 0);
});
