import { assertEquals, assertMatch } from "@std/assert";
import { Daemon, project, TempFolder } from "../support/daemon.ts";

/**
 * A module of a user's with a configuration of its own beside it, which says what a name stands
 * for.
 */
async function withConfig(folder: TempFolder): Promise<string> {
  const app = `${folder.path}/my app`;
  await Deno.mkdir(`${app}/src`, { recursive: true });
  await Deno.writeTextFile(`${app}/deno.json`, '{"imports": {"greeting": "./greeting.ts"}}');
  await Deno.writeTextFile(`${app}/greeting.ts`, 'export const greeting = "hello";');
  await Deno.writeTextFile(
    `${app}/src/module.ts`,
    'import { greeting } from "greeting"; export const install = () => console.log(greeting);',
  );
  return app;
}

Deno.test("install says how a module's own deno.json counts, in one line", async () => {
  await using folder = await TempFolder.make();
  const app = await withConfig(folder);
  await using daemon = Daemon.start([
    "-H",
    `unix://${folder.path}/s`,
    "--install",
    `${app}/src/module.ts`,
  ]);
  assertEquals((await daemon.status).code, 1);
  const last = daemon.stderr.trim().split("\n").at(-1)!;
  assertMatch(
    last,
    /^floodgate: cannot load --install .*module\.ts, .* "greeting" not a dependency/,
  );
  assertEquals(
    last.split("; ").at(-1),
    `${app}/deno.json counts with deno run --config ${app}/deno.json, or with a main.ts of your own beside it`,
  );
});

Deno.test("install takes a module's own deno.json with --config, and with a main.ts beside it", async () => {
  await using folder = await TempFolder.make();
  const app = await withConfig(folder);
  const args = ["-H", `unix://${folder.path}/s`, "--install", `${app}/src/module.ts`];
  {
    await using daemon = Daemon.start(args, { flags: ["-A", "--config", `${app}/deno.json`] });
    await daemon.open();
    assertMatch(daemon.stdout, /^hello$/m);
    assertEquals(await daemon.end(), 0);
  }
  await Deno.writeTextFile(
    `${app}/main.ts`,
    `import { main } from ${JSON.stringify(`file://${project("mod.ts")}`)};
    Deno.exit(await main(Deno.args));`,
  );
  await using daemon = Daemon.start(args, { program: `${app}/main.ts` });
  await daemon.open();
  assertMatch(daemon.stdout, /^hello$/m);
  assertEquals(await daemon.end(), 0);
});
