import { assertEquals } from "@std/assert";
import { denoProblem, OLDEST_DENO } from "../../platform/deno.ts";
import { project, run, TempFolder } from "../support/daemon.ts";

Deno.test("denoProblem says how to get a newer Deno, and is undefined for a supported one", () => {
  for (const version of ["2.9.6", "2.9.6+abc1234", "2.9.10", "2.10.0-rc.1", "3.0.0", undefined]) {
    assertEquals([version, denoProblem(version)], [version, undefined]);
  }
  for (const version of ["1.46.3", "2.0.0", "2.8.10", "2.9.5", "2.9.5+abc1234"]) {
    assertEquals(
      denoProblem(version),
      `Deno ${version} is too old, expected ${OLDEST_DENO} or newer: ` +
        `run \`deno upgrade\`, or \`npx -y deno@${OLDEST_DENO}\` in place of deno`,
    );
  }
});

Deno.test("main on an older Deno says in one line how to get a newer one, and binds nothing", async () => {
  await using folder = await TempFolder.make();
  const old = "2.9.5";
  const install = await run("npm", [
    ...["install", "--silent", "--no-audit", "--no-fund", "--prefix", folder.path, `deno@${old}`],
    ...["--fetch-timeout=60000", "--fetch-retries=1"], // By default a dead registry takes 15 minutes.
  ]).catch((error) => ({ code: 1, stderr: String(error) }));
  if (install.code !== 0) {
    console.log(`Skipped: main on Deno ${old} (npm cannot install it: ${install.stderr})`);
    return;
  }
  const path = `${folder.path}/api.sock`;
  const { code, stdout, stderr } = await run(`${folder.path}/node_modules/.bin/deno`, [
    ...["run", "-A", project("mod.ts"), "-H", `unix://${path}`],
  ], { env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" } });
  assertEquals([code, stdout, stderr], [2, "", `floodgate: ${denoProblem(old)}\n`]);
  assertEquals(folder.names().includes("api.sock"), false);
});
