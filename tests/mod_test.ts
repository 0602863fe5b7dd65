import { assertEquals, assertStringIncludes } from "@std/assert";
import { project, run, TempFolder } from "./support/daemon.ts";

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
  loaded.delete(`${root}offline/parse_args.ts`); // Only where @std/cli is not in the cache.
  assertEquals([...loaded].sort(), imported.sort(), "loaded, and imported by mod.ts");
});
