/**
 * Runs the tests on several releases of Deno, and prints the results, and which part of platform/ a
 * release has broken:
 *
 * ```sh
 * deno task matrix                # the oldest that is supported, and the newest there is
 * deno task matrix 2.9.6 2.10.0   # these
 * ```
 *
 * The releases come from npm, into a temporary folder; with FLOODGATE_DENOS set, into that one,
 * where they stay. Types are not checked: the declarations of another Deno are not those that this
 * is written against.
 *
 * Exit status: 0 if all passed, 1 if one did not, or could not be installed.
 *
 * @module
 */

import { OLDEST_DENO } from "../../platform/deno.ts";
import { OFFLINE_FLAGS } from "../../offline/flags.ts";
import { project, run } from "./daemon.ts";

/** How long the tests may take on one release, in seconds. */
const TIMEOUT = 300;

/** The path of the Deno of a version. */
async function install(version: string, folder: string): Promise<string> {
  const prefix = `${folder}/${version}`;
  const wrapper = `${prefix}/node_modules/.bin/deno`;
  try {
    Deno.statSync(wrapper);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    await must(
      "npm",
      "install",
      "--silent",
      "--no-audit",
      "--no-fund",
      "--prefix",
      prefix,
      `deno@${version}`,
    );
  }
  // npm's own script does not forward signals.
  return await must(wrapper, "eval", "console.log(Deno.execPath())");
}

/** The output of a command. Throws if it fails. */
async function must(command: string, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(command, args);
  if (code !== 0) throw new Error(`${command} ${args[0]}: ${stderr.trim()}`);
  return stdout.trim();
}

/** The summary of `deno test` as columns of the table; undefined without one. */
function counts(output: string): string[] | undefined {
  const match =
    /^(?:ok|FAILED) \| (\d+) passed.*? \| (\d+) failed(?: \| (\d+) ignored)?.* \((.*)\)$/m
      .exec(output);
  return match?.slice(1).map((count) => count ?? "0");
}

/** The failed tests of platform/, one for each undocumented thing. */
function broken(output: string): string[] {
  const failures = output.slice(output.lastIndexOf("\n FAILURES \n"));
  return failures.matchAll(/^(.*) => .*tests\/platform\/(.*)_test\.ts/gm)
    .map(([, test, file]) => `platform/${file}.ts: ${test}`).toArray();
}

/** Runs the tests; their output goes to `log` if not all pass. */
async function test(
  deno: string,
  log: string,
): Promise<{ passed: boolean; columns: string[]; broken: string[] }> {
  const [importMap] = OFFLINE_FLAGS;
  const { code, stdout, stderr } = await run("timeout", [
    // This ends the daemons of the tests as well.
    ...["--kill-after=5", String(TIMEOUT), deno],
    ...["test", "-A", "--parallel", "--no-check", "--no-lock", importMap, project("tests/")],
  ], { env: { NO_COLOR: "1", DENO_NO_UPDATE_CHECK: "1" } });
  if (code !== 0) Deno.writeTextFileSync(log, stdout + stderr);
  return {
    passed: code === 0,
    columns: counts(stdout) ?? [`no end within ${TIMEOUT} s`],
    broken: broken(stdout),
  };
}

const folder = Deno.env.get("FLOODGATE_DENOS") ?? await Deno.makeTempDir({ prefix: "floodgate-" });
const versions = Deno.args.length > 0
  ? Deno.args
  : new Set([OLDEST_DENO, await must("npm", "view", "deno", "version")]);
let failed = false;
const row = (...cells: string[]) =>
  console.log(cells.map((cell) => cell.padEnd(8)).join(" ").trim());
row("deno", "passed", "failed", "skipped", "time");
for (const version of versions) {
  const log = `${folder}/${version}.log`;
  try {
    const { passed, columns, broken } = await test(await install(version, folder), log);
    row(version, ...columns, ...passed ? [] : [`see ${log}`]);
    for (const problem of broken) console.log(`  ${problem}`);
    failed ||= !passed;
  } catch (error) {
    row(version, String(error));
    failed = true;
  }
}
if (!failed && !Deno.env.has("FLOODGATE_DENOS")) await Deno.remove(folder, { recursive: true });
Deno.exit(failed ? 1 : 0);
