import { assertEquals, assertStringIncludes } from "@std/assert";
import { Client, PING } from "./support/client.ts";
import {
  Daemon,
  isPending,
  project,
  run,
  serveProject,
  TempFolder,
  until,
} from "./support/daemon.ts";
import { SilentRegistry } from "./support/registry.ts";

Deno.test("mod.ts has no side effects when imported, and needs no JSR", async () => {
  await using folder = await TempFolder.make();
  const program = `${folder.path}/embed.ts`;
  await Deno.writeTextFile(
    program,
    `import * as floodgate from ${JSON.stringify(project("mod.ts"))};
     console.log(Object.keys(floodgate).sort().join(" "));`,
  );
  // Without a permission it can look at nothing, and a registry that nothing answers at gives
  // nothing.
  const { code, stdout, stderr } = await run(
    Deno.execPath(),
    ["run", "--no-prompt", "--no-config", program],
    { env: { JSR_URL: "http://127.0.0.1:9/", NO_COLOR: "1" } },
  );
  assertEquals([code, stderr.replace(/^Download .*\n/gm, "")], [0, ""]);
  for (
    const name of ["Engine", "ListenBuffer", "registerBuiltins", "serve", "main", "tail"]
  ) {
    assertStringIncludes(stdout, name);
  }
  assertEquals(folder.names(), ["embed.ts"]);
});

Deno.test("mod.ts imports by itself all that is loaded before a socket is bound", async () => {
  await using folder = await TempFolder.make();
  const program = `${folder.path}/scripts.ts`;
  // An address that cannot be bound ends main after all that it takes to bind, and before the boot.
  await Deno.writeTextFile(
    program,
    `import { Session } from "node:inspector/promises";
     import { main } from ${JSON.stringify(project("mod.ts"))};
     // No timer is due in the meantime, however slow the machine is: one loads modules.
     performance.now = () => 0;
     const { timeout } = AbortSignal;
     AbortSignal.timeout = (ms) =>
       ms > 0 ? new AbortController().signal : timeout.call(AbortSignal, ms);
     const status = await main(Deno.args);
     const session = new Session();
     session.connect();
     const scripts = [];
     session.on("Debugger.scriptParsed", ({ params }) => scripts.push(params.url));
     await session.post("Debugger.enable");
     console.log(JSON.stringify({ status, scripts }));
     Deno.exit(0);`,
  );
  const { stdout, stderr } = await run(Deno.execPath(), [
    ...["run", "-A", "--no-check", "--no-config", program],
    ...["-H", `unix://${folder.path}/a.sock`, "-H", `unix://${folder.path}/missing/b.sock`],
  ], { env: { NO_COLOR: "1" } });
  const { status, scripts } = JSON.parse(stdout) as { status: number; scripts: string[] };
  assertEquals(status, 1);
  assertStringIncludes(stderr, `unix://${folder.path}/missing/b.sock`);

  const root = new URL("..", import.meta.url).href;
  const graph = JSON.parse(
    (await run(Deno.execPath(), ["info", "--json", "--no-config", project("mod.ts")])).stdout,
  );
  const imported: string[] = graph.modules
    .find(({ specifier }: { specifier: string }) => specifier === `${root}mod.ts`).dependencies
    .filter((each: { code?: unknown; isDynamic?: true }) => each.code && !each.isDynamic)
    .map((each: { code: { specifier: string } }) => each.code.specifier);
  const loaded = new Set(scripts.filter((url) => url.startsWith(root)));
  loaded.delete(`${root}mod.ts`);
  assertEquals([...loaded].sort(), imported.sort(), "loaded, and imported by mod.ts");
});

/** Connects as soon as a socket is there. */
async function first(path: string): Promise<Client> {
  let client: Client | undefined;
  await until(async () => {
    client = await Client.to({ transport: "unix", path }).catch(() => undefined);
    return client !== undefined;
  });
  return client!;
}

/**
 * How many milliseconds a program takes from its start to its socket, with nothing in Deno's cache.
 */
async function bindTime(
  program: string,
  args: (path: string) => string[],
  env: (folder: string) => Record<string, string>,
): Promise<number> {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/a.sock`;
  const began = performance.now();
  await using _daemon = Daemon.start(args(path), { program, env: env(folder.path) });
  using _client = await first(path);
  return performance.now() - began;
}

Deno.test("mod.ts has its socket 200 ms after a bare script, whatever the registry does", async () => {
  await using registry = new SilentRegistry();
  const env = (folder: string) => registry.env(folder);
  const times: string[] = [];
  // A machine that is busy with other tests takes its time, with one of the two more than with the
  // other.
  for (let round = 0; round < 8; round++) {
    const bare = await bindTime(project("bench/contenders/bare_listen.ts"), (path) => [path], env);
    const own = await bindTime(project("mod.ts"), (path) => ["-H", `unix://${path}`], env);
    if (own <= Math.max(bare + 200, 8 * bare)) return;
    times.push(`${own.toFixed()} and ${bare.toFixed()} ms`);
  }
  throw new Error(`from the start to a socket, and of a bare script: ${times.join("; ")}`);
});

for (const where of ["a clone", "a URL"]) {
  Deno.test(`mod.ts of ${where} holds its first client until the registry has answered`, async () => {
    await using web = serveProject();
    await using registry = new SilentRegistry();
    await using folder = await TempFolder.make();
    const path = `${folder.path}/a.sock`;
    const program = where === "a URL"
      ? `http://127.0.0.1:${web.addr.port}/mod.ts`
      : project("mod.ts");
    await using daemon = Daemon.start(["-H", `unix://${path}`], {
      program,
      cwd: folder.path,
      env: registry.env(folder.path),
    });
    using client = await first(path);
    const answer = client.ask(PING);
    await until(() => registry.asked.length > 0);
    assertEquals(registry.asked, ["/hono"]);
    await daemon.says(/listening on unix:/);
    assertEquals(await isPending(answer), true);
    registry.answer();
    assertEquals((await answer).status, 200);
    assertEquals(await daemon.end(), 0);
  });
}
