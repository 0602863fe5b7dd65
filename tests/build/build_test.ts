/** Runs `build/build.ts`. */

import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Buffer } from "node:buffer";
import { existsSync } from "node:fs";
import { Daemon, missing, project, run, TempFolder } from "../support/daemon.ts";

const NO_DOCKER = await missing("docker", ["--version"]);

/** The SOURCE_DATE_EPOCH of builds here. */
const EPOCH = 1_402_272_000;
const BUILT = "2014-06-09T00:00:00.000Z";

function build(args: string[], env: Record<string, string> = {}) {
  return run(Deno.execPath(), ["run", "-A", project("build/build.ts"), ...args], {
    env: { NO_COLOR: "1", SOURCE_DATE_EPOCH: String(EPOCH), ...env },
  });
}

/** The output of git; undefined if the tree is not a git repository. */
async function git(...args: string[]): Promise<string | undefined> {
  const { code, stdout } = await run("git", ["-C", project(""), "--no-optional-locks", ...args])
    .catch(() => ({ code: 1, stdout: "" }));
  return code === 0 ? stdout.trim() : undefined;
}
const status = () => git("status", "--porcelain");
const COMMIT = await git("rev-parse", "--short", "HEAD");

/** The folders of the program, and its examples. */
const FOLDERS = [
  "builtins",
  "cli",
  "engine",
  "examples",
  "platform",
  "profiler",
  "router",
  "serve",
];

/** Whether a module declares types only, so that nothing of it is left at run time. */
function isOfTypes(module: string): boolean {
  return /^export (interface|type) /m.test(module) &&
    !/^export (?!(interface|type|declare) )/m.test(module);
}

/** The files of the program and the examples, whether or not they are imported by name. */
function sources(folders = FOLDERS): string[] {
  return folders.flatMap((folder) =>
    Deno.readDirSync(project(folder)).flatMap(({ name, isDirectory }) =>
      isDirectory ? sources([`${folder}/${name}`]) : [`${folder}/${name}`]
    ).toArray()
  );
}

Deno.test("compile embeds every module of the program, the examples, the packages and the commit", async () => {
  await using folder = await TempFolder.make();
  const before = await status();
  // Stands in for the runtime of binaries, which Deno would download; any program will do.
  const runtime = existsSync("/bin/true") ? "/bin/true" : "/usr/bin/true";
  const output = `${folder.path}/floodgate`;
  const { code, stderr } = await build(["compile", "--output", output], { DENORT_BIN: runtime });
  assertEquals(code, 0, stderr);
  const binary = Buffer.from(await Deno.readFile(output));
  const names = ["mod.ts", "engine.ts", "listenbuffer.ts", "router.ts", "offline/parse_args.ts"];
  for (const path of [...names, ...sources()]) {
    if (path === "engine/build.ts") continue; // The build has one of its own.
    const text = await Deno.readTextFile(project(path));
    if (isOfTypes(text)) continue;
    assert(binary.includes(Buffer.from(text)), `${path} is not in the binary`);
  }
  assert(binary.includes(`"time":"${BUILT}"`));
  if (COMMIT) assert(binary.includes(`"commit":"${COMMIT}`));
  assertMatch(stderr, /\bhono\/\d/);
  assertEquals(await status(), before);
});

Deno.test("compile says in one line that it cannot download the runtime of binaries", async () => {
  await using folder = await TempFolder.make();
  const output = `${folder.path}/floodgate`;
  const { code, stdout, stderr } = await build(
    ["compile", "--target", "aarch64-unknown-linux-gnu", "--output", output],
    {
      DENO_DIR: `${folder.path}/cache`,
      // No server listens on that port, so that the download fails at once wherever this runs; what
      // comes from npm is still got.
      HTTPS_PROXY: "http://127.0.0.1:9",
      NO_PROXY: new URL((await run("npm", ["config", "get", "registry"])).stdout.trim()).host,
    },
  );
  assertEquals(code, 1);
  assertEquals(stdout, "");
  assertMatch(
    stderr,
    /^build: cannot download the runtime of binaries, https:\S+denort-aarch64\S+: compile where it can be reached, or set DENORT_BIN to the path of an unpacked one\n$/,
  );
  assertEquals(folder.names().filter((name) => name !== "cache"), []);
});

for (
  const args of [
    [],
    ["compose"],
    ["compile", "--traget", "x"],
    ["compile", "--target", "z80"],
    ["bundle", "--target", "all"],
  ]
) {
  Deno.test(`build says what is right instead of "${args.join(" ")}"`, async () => {
    const { code, stderr } = await build(args);
    assertEquals(code, 1);
    assertMatch(stderr, /^build: [^]*compile \[--target TARGET\][^]*x86_64-unknown-linux-gnu/);
  });
}

Deno.test("the bundle runs with nothing in Deno's cache and no registry", async () => {
  await using folder = await TempFolder.make();
  const before = await status();
  const { code, stderr } = await build(["bundle", "--output", `${folder.path}/bundle`]);
  assertEquals(code, 0, stderr);
  assertEquals(await status(), before);
  const sums = await run("sha256sum", ["--check", "--strict", "SHA256SUMS"], {
    cwd: `${folder.path}/bundle`,
  });
  assertEquals(sums.code, 0, sums.stderr);
  assertEquals(
    sums.stdout.trimEnd().split("\n").length,
    [...Deno.readDirSync(`${folder.path}/bundle`)].length - 1,
  );
  await Deno.writeTextFile(
    `${folder.path}/mine.ts`,
    `export function install(engine: unknown, router: { get(path: string, handler: unknown): void }) {
       router.get("/mine", (c: { text(text: string): Response }) => c.text("mine\\n"));
     }`,
  );
  const options = {
    program: `${folder.path}/bundle/mod.js`,
    cwd: folder.path,
    env: {
      DENO_DIR: `${folder.path}/cache`,
      JSR_URL: "http://127.0.0.1:9/",
      NPM_CONFIG_REGISTRY: "http://127.0.0.1:9/",
    },
  };
  const built = COMMIT ? `build ${COMMIT}(-dirty)?, built ${BUILT}` : `built ${BUILT}`;
  await using version = Daemon.start(["--version"], options);
  assertEquals((await version.status).code, 0);
  assertMatch(version.stdout, new RegExp(`^floodgate \\d+\\.\\d+\\.\\d+ \\(${built}, API 1`));

  await using daemon = Daemon.start(
    ["-D", "-H", "tcp://127.0.0.1:0", "--install", "./mine.ts"],
    options,
  );
  await daemon.open();
  const url = `http://127.0.0.1:${await daemon.port()}`;
  assertEquals(await (await fetch(`${url}/mine`)).text(), "mine\n");
  const told = await (await fetch(`${url}/version`)).json();
  assertEquals(told.BuildTime, BUILT);
  if (COMMIT) assertStringIncludes(told.GitCommit, COMMIT);
  const heap = await fetch(`${url}/debug/pprof/heap`);
  assertEquals([heap.status, (await heap.bytes()).subarray(0, 2)], [
    200,
    new Uint8Array([0x1f, 0x8b]),
  ]);
  if (!NO_DOCKER) {
    const shown = await run("docker", ["-H", url.replace("http", "tcp"), "version"]);
    if (COMMIT) assertMatch(shown.stdout, new RegExp(`Git commit: +${told.GitCommit}\n`));
    assertMatch(shown.stdout, /Server: Floodgate[^]*Built: +Mon Jun {2}9 00:00:00 2014\n/);
  }
  assertEquals(await daemon.end(), 0);
});
