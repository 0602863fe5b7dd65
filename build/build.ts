/**
 * Makes what can be handed out, in `dist/`: a binary for each target, or JavaScript with all it needs.
 *
 * ```sh
 * deno run -A build/build.ts compile [--target TARGET | --target all] [--output PATH]
 * deno run -A build/build.ts bundle [--output FOLDER]
 * ```
 *
 * @module
 */

import { cp, rm } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "../offline/parse_args.ts";

const ROOT = fileURLToPath(new URL("..", import.meta.url)).replace(/\/$/, "");

/** Where there are unix sockets, and a Deno to compile for. */
const TARGETS = [
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-apple-darwin",
  "aarch64-apple-darwin",
];

const USAGE = `usage: build/build.ts compile [--target TARGET]... [--output PATH], or
       build/build.ts bundle [--output FOLDER]; a TARGET is "all" or one of
       ${TARGETS.join(", ")}`;

/** A build that cannot be made, and why, in a line. */
class BuildError extends Error {}

/**
 * Copies what the package consists of (`publish.include` of `deno.json`) into a folder, with the
 * commit and the time in it. Built is the copy, so that the tree stays as it is.
 */
async function stage(folder: string): Promise<void> {
  const { publish } = JSON.parse(await Deno.readTextFile(join(ROOT, "deno.json")));
  for (const name of ["deno.json", ...publish.include]) {
    await cp(join(ROOT, name), join(folder, name), { recursive: true });
  }
  const build = { commit: await commit(), time: buildTime() };
  await Deno.writeTextFile(
    join(folder, "engine/build.ts"),
    `export const BUILD: { commit?: string; time?: string } = ${JSON.stringify(build)};\n`,
  );
}

/** The commit of the tree, if it is one of git's. */
async function commit(): Promise<string | undefined> {
  const git = async (...args: string[]) => {
    const env = {
      // Not the repository that an unpacked archive happens to lie in.
      GIT_CEILING_DIRECTORIES: dirname(ROOT),
      GIT_OPTIONAL_LOCKS: "0",
    };
    const { success, stdout } = await new Deno.Command("git", { args, env, cwd: ROOT }).output();
    return success ? new TextDecoder().decode(stdout).trim() : undefined;
  };
  try {
    const head = await git("rev-parse", "--short", "HEAD");
    return head && head + (await git("status", "--porcelain") ? "-dirty" : "");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined; // There is no git here.
    throw error;
  }
}

/** Now, or the time that is to stand for it: https://reproducible-builds.org/specs/source-date-epoch */
function buildTime(): string {
  const epoch = Deno.env.get("SOURCE_DATE_EPOCH");
  return (epoch ? new Date(Number(epoch) * 1_000) : new Date()).toISOString();
}

/** Runs a subcommand of this Deno on the copy, and gives what it wrote. */
async function deno(cwd: string, args: string[]): Promise<{ success: boolean; stderr: string }> {
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args,
    cwd,
    stdin: "null",
    stdout: "inherit",
  }).output();
  return { success, stderr: new TextDecoder().decode(stderr) };
}

async function compile(folder: string, output: string, target?: string): Promise<void> {
  const { success, stderr } = await deno(folder, [
    "compile",
    "--allow-all",
    // Deno sees what the program imports; these it imports only when told to.
    "--include=examples/",
    `--output=${output}`,
    ...target ? [`--target=${target}`] : [],
    "mod.ts",
  ]);
  const download = /https?:\/\/\S+\/denort-\S+\.zip/.exec(stderr);
  if (!success && download) {
    throw new BuildError(
      `cannot download what a binary runs on, ${download[0]}: compile where that can be reached, ` +
        "or name an unpacked one in DENORT_BIN",
    );
  }
  if (!success) throw new BuildError(stderr.trimEnd());
  console.error(stderr.trimEnd());
}

async function bundle(folder: string, output: string): Promise<void> {
  const { success, stderr } = await deno(folder, [
    "bundle",
    "--platform=deno",
    // So that what binding does not need is still loaded after it.
    "--code-splitting",
    // The packages are those that were tried, to the byte.
    `--lock=${join(ROOT, "deno.lock")}`,
    "--frozen",
    `--outdir=${output}`,
    "mod.ts",
  ]);
  if (!success) throw new BuildError(stderr.trimEnd());
  await sum(output);
  console.error(stderr.trimEnd());
}

/** Writes the hashes of a folder's files, as `sha256sum --check` reads them. */
async function sum(folder: string): Promise<void> {
  const names = [...Deno.readDirSync(folder)].filter(({ isFile, name }) => isFile && name !== SUMS)
    .map(({ name }) => name);
  const lines = await Promise.all(
    names.sort().map(async (name) => {
      const hash = await crypto.subtle.digest("SHA-256", await Deno.readFile(join(folder, name)));
      return `${new Uint8Array(hash).toHex()}  ${name}\n`;
    }),
  );
  await Deno.writeTextFile(join(folder, SUMS), lines.join(""));
}

const SUMS = "SHA256SUMS";

async function main(args: string[]): Promise<void> {
  const { _: [what, ...more], ...given } = parseArgs(args, {
    string: ["target", "output"],
    collect: ["target"],
    unknown: (arg, key) => {
      if (key !== undefined) throw new BuildError(`unknown flag ${arg}\n${USAGE}`);
    },
  });
  const { target, output } = given as { target: string[]; output?: string };
  const targets = target.includes("all") ? TARGETS : target;
  const unknown = targets.find((target) => !TARGETS.includes(target));
  if (unknown !== undefined) throw new BuildError(`unknown target "${unknown}"\n${USAGE}`);
  const bundling = what === "bundle" && targets.length === 0;
  if (!bundling && what !== "compile" || more.length > 0 || output && targets.length > 1) {
    throw new BuildError(USAGE);
  }
  const path = (name: string) => output ? resolve(output) : join(ROOT, "dist", name);

  const folder = await Deno.makeTempDir({ prefix: "floodgate-build-" });
  try {
    await stage(folder);
    await Deno.mkdir(dirname(path("floodgate")), { recursive: true });
    // The names of the parts change with what is in them.
    if (bundling && !output) await rm(path("bundle"), { recursive: true, force: true });
    if (bundling) await bundle(folder, path("bundle"));
    else if (targets.length === 0) await compile(folder, path("floodgate"));
    for (const target of targets) await compile(folder, path(`floodgate-${target}`), target);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

try {
  await main(Deno.args);
} catch (error) {
  if (!(error instanceof BuildError)) throw error;
  console.error(`build: ${error.message}`);
  Deno.exit(1);
}
