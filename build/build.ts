/**
 * Builds releases into `dist/`: a binary for each target, or a bundle of JavaScript.
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

/** The targets of `deno compile` that have unix sockets. */
const TARGETS = [
  "x86_64-unknown-linux-gnu",
  "aarch64-unknown-linux-gnu",
  "x86_64-apple-darwin",
  "aarch64-apple-darwin",
];

const USAGE = `usage: build/build.ts compile [--target TARGET]... [--output PATH], or
       build/build.ts bundle [--output FOLDER]; a TARGET is "all" or one of
       ${TARGETS.join(", ")}`;

/** A failed build; its message is one line. */
class BuildError extends Error {}

/**
 * Copies the package (`publish.include` of `deno.json`) to a folder and writes the commit and the
 * time into the copy, which is then built: so the tree is not changed.
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

/** The name that the program imports Hono by. */
async function honoName(folder: string): Promise<string> {
  const [, name] = /^export const HONO = "(npm:[^"]+)";$/m
    .exec(await Deno.readTextFile(join(folder, "router/hono.ts"))) ?? [];
  if (name === undefined) throw new BuildError("router/hono.ts exports no HONO");
  return name;
}

/**
 * Puts that name in its imports as a literal: only what a literal names becomes part of a bundle.
 */
async function spellImports(folder: string): Promise<void> {
  const name = await honoName(folder);
  for (const part of ["router", "profiler"]) {
    for await (const { name: file } of Deno.readDir(join(folder, part))) {
      const path = join(folder, part, file);
      const text = await Deno.readTextFile(path);
      const spelled = text.replace(/\bimport\(`\$\{HONO\}([^`]*)`\)/g, `import("${name}$1")`);
      if (spelled !== text) await Deno.writeTextFile(path, spelled);
    }
  }
}

/** The commit of the tree, if it is a git repository. */
async function commit(): Promise<string | undefined> {
  const git = async (...args: string[]) => {
    const env = {
      // Not a repository above, in which an archive was unpacked.
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
    if (error instanceof Deno.errors.NotFound) return undefined; // git is not installed.
    throw error;
  }
}

/** The build time: SOURCE_DATE_EPOCH (reproducible-builds.org/specs/source-date-epoch), or now. */
function buildTime(): string {
  const epoch = Deno.env.get("SOURCE_DATE_EPOCH");
  return (epoch ? new Date(Number(epoch) * 1_000) : new Date()).toISOString();
}

/** Runs a subcommand of this Deno on the copy, and returns its output. */
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
    "--no-check", // `deno task check` does that, and to check takes several times as long.
    "--allow-all",
    // Modules that the program loads only for a flag, which Deno would leave out.
    "--include=examples/",
    `--include=${await honoName(folder)}`,
    `--output=${output}`,
    ...target ? [`--target=${target}`] : [],
    "mod.ts",
  ]);
  const download = /https?:\/\/\S+\/denort-\S+\.zip/.exec(stderr);
  if (!success && download) {
    throw new BuildError(
      `cannot download the runtime of binaries, ${download[0]}: compile where it can be reached, ` +
        "or set DENORT_BIN to the path of an unpacked one",
    );
  }
  if (!success) throw new BuildError(stderr.trimEnd());
  console.error(stderr.trimEnd());
}

async function bundle(folder: string, output: string): Promise<void> {
  await spellImports(folder);
  const { success, stderr } = await deno(folder, [
    "bundle",
    "--platform=deno",
    // So that modules that binding does not need are still loaded after it.
    "--code-splitting",
    // The very packages that the tests use.
    `--lock=${join(ROOT, "deno.lock")}`,
    "--frozen",
    `--outdir=${output}`,
    "mod.ts",
  ]);
  if (!success) throw new BuildError(stderr.trimEnd());
  await sum(output);
  console.error(stderr.trimEnd());
}

/** Writes the hashes of a folder's files in the format of `sha256sum --check`. */
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
    // The names of chunks contain a hash of their contents.
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
