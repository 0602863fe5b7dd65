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
