import { assert, assertEquals, assertRejects } from "@std/assert";
import { freePort, missing, project, run, TempFolder } from "./support/daemon.ts";
import { type Block, blocksOf, nameOf, runDocument, type Skipped } from "./support/docs.ts";
import { flagsTable, tableIn, variablesTable } from "./support/tables.ts";

const DOCUMENTS = [
  "README.md",
  "SECURITY.md",
  "CONTRIBUTING.md",
  ...["docs", "docs/decisions"].flatMap((folder) =>
    [...Deno.readDirSync(project(folder))].filter(({ isFile }) => isFile)
      .map(({ name }) => `${folder}/${name}`).sort()
  ),
];
const TEXTS = new Map(DOCUMENTS.map((name) => [name, Deno.readTextFileSync(project(name))]));
const BLOCKS = new Map([...TEXTS].map(([name, text]) => [name, blocksOf(name, text)]));

/** Commands that are not run, with the reason. Each has to occur in a document. */
const NEVER: Skipped = [
  [
    /^deno task (compile|bundle)|dist\/bundle/,
    "tests/build/build_test.ts runs it, as far as the network lets it",
  ],
  [/^deno (task |test .*\btests\/)/, "takes minutes, or runs this test"],
  [
    /^sudo /,
    "needs root and a running systemd; tests/examples/systemd_test.ts boots one with these units",
  ],
];

/** The programs that documents use besides Deno and a shell. */
const TOOLS: [tool: string, ...args: string[]][] = [
  ["curl", "--version"],
  ["docker", "--version"],
  ["go", "version"],
  ["openssl", "version"],
  ["systemd-socket-activate", "--version"],
];

/**
 * What documents name, and what stands for it here, so that they can run at the same time as each
 * other and as a real daemon.
 */
function rewriter(folder: string): (text: string) => string {
  const places = new Map([
    ["/tmp/", `${folder}/`],
    ["/run/user/1000", folder],
    ["2375", String(freePort())],
    ["2376", String(freePort())],
  ]);
  return (text) => text.replace(/\/tmp\/|\/run\/user\/1000|\b237[56]\b/g, (it) => places.get(it)!);
}

/** Makes a folder look like a clone of this repository. */
async function cloneInto(folder: string): Promise<void> {
  const names = [...Deno.readDirSync(project(""))].map(({ name }) => name)
    .filter((name) => ![".git", "coverage", "dist", "node_modules"].includes(name));
  // Not links, because Deno's permissions resolve them.
  const { code, stderr } = await run("cp", ["-r", ...names.map(project), folder]);
  assertEquals(code, 0, stderr);
}

Deno.test("documents do what they say", async (t) => {
  await using clone = await TempFolder.make();
  await cloneInto(clone.path);
  await using bin = await TempFolder.make();
  await Deno.symlink(Deno.execPath(), `${bin.path}/deno`);

  const skipped = [...NEVER];
  for (const [tool, ...args] of TOOLS) {
    if (await missing(tool, args)) skipped.push([new RegExp(`\\b${tool} `), `no ${tool} here`]);
  }
  if (await missing("nginx", ["-v"])) skipped.push([/nginx |proxied|proxy\.pid/, "no nginx here"]);
  // They run at the same time, and what one has open would be taken for what another has left.
  const step = (name: string, fn: () => Promise<void>) =>
    t.step({ name, fn, sanitizeOps: false, sanitizeResources: false, sanitizeExit: false });
  // In parallel, because they mostly wait.
  await Promise.all([
    step("their programs type-check", checkPrograms),
    ...[...BLOCKS].map(([name, blocks]) =>
      step(name, async () => {
        await using folder = await TempFolder.make();
        await runDocument(blocks, {
          cwd: clone.path,
          folder: folder.path,
          env: {
            PATH: `${bin.path}:${Deno.env.get("PATH")}`,
            NO_COLOR: "1",
            DENO_NO_UPDATE_CHECK: "1",
            XDG_RUNTIME_DIR: folder.path,
            PPROF_TMPDIR: folder.path,
            DEBUG: "",
          },
          skipped,
          rewrite: rewriter(folder.path),
        });
      })
    ),
  ]);
});

async function checkPrograms(): Promise<void> {
  await using clone = await TempFolder.make();
  await cloneInto(clone.path);
  const programs = [...BLOCKS.values()].flat().filter(({ language }) => language === "ts");
  const names = programs.map(nameOf);
  // They share a folder, here and where documents are run.
  assertEquals(names.toSorted(), [...new Set(names)].toSorted());
  for (const [i, { lines }] of programs.entries()) {
    await Deno.writeTextFile(`${clone.path}/${names[i]}`, lines.join("\n") + "\n");
  }
  const paths = names.map((name) => `${clone.path}/${name}`);
  const { code, stderr } = await run(Deno.execPath(), ["check", "--quiet", ...paths]);
  assertEquals(code, 0, stderr);
}

Deno.test("runDocument fails on a false claim", async () => {
  const wrong: [language: string, text: string, problem: string][] = [
    ["console", "$ echo one\ntwo", "should say\ntwo\nand says\none"],
    ["console", "$ echo one two\none", "should say\none\nand says\none two"],
    ["console", "$ false", "false: status 1"],
    ["console", "$ exit", "exit: ended the shell"],
    ["sh", "true\ntest -e /no/such/file", "/no/such/file: status 1"],
    ["ts", "// alone.ts", "no command runs alone.ts"],
    ["ts", "export {};", "no name such as // greet.ts"],
    ["js", "", "expected console, sh, ts or text"],
  ];
  await using folder = await TempFolder.make();
  const { path } = folder;
  const options = { cwd: path, folder: path, env: {}, skipped: [], rewrite: (it: string) => it };
  for (const [language, text, problem] of wrong) {
    const blocks = blocksOf("x.md", `\`\`\`${language}\n${text}\n\`\`\`\n`);
    await assertRejects(() => runDocument(blocks, options), Error, problem);
  }
  const right = "$ echo one two three; echo four\none … three\n…\n$ sleep 60 &\n";
  await runDocument(blocksOf("x.md", `\`\`\`console\n${right}\`\`\`\n`), options);
});

Deno.test("documents have every block that is skipped", () => {
  const lines = [...BLOCKS.values()].flat().flatMap((block: Block) => block.lines);
  for (const [pattern] of NEVER) {
    assert(lines.some((line) => pattern.test(line.replace(/^\$ /, ""))), `${pattern}`);
  }
});

Deno.test("documents link to existing targets", async () => {
  const anchors = (text: string) =>
    [...text.matchAll(/^#+ (.*)$/gm)].map(([, title = ""]) =>
      title.toLowerCase().replace(/[^\w\s-]/g, "").replaceAll(" ", "-")
    );
  for (const [name, text] of TEXTS) {
    for (const [, test] of text.matchAll(/`(?:tests\/)?([\w\/]+_test\.ts)`/g)) {
      assert(Deno.statSync(project(`tests/${test}`)).isFile, `${name} names ${test}`);
    }
    for (const [, target = ""] of text.matchAll(/\]\((?!https?:)([^)\s]+)\)/g)) {
      const [path, anchor] = target.split("#");
      const url = new URL(path || name.split("/").pop()!, new URL(name, "file:///"));
      const file = project(decodeURIComponent(url.pathname.slice(1)));
      await Deno.stat(file).catch(() => {
        throw new Error(`${name} links to ${target}, which is not there`);
      });
      if (anchor === undefined) continue;
      const there = anchors(await Deno.readTextFile(file));
      assert(
        there.includes(anchor),
        `${name} links to ${target}, and there is ${there.join(", ")}`,
      );
    }
  }
});

Deno.test("documents have the tables that tests/support/tables.ts prints", () => {
  assertEquals(tableIn(TEXTS.get("docs/operating.md")!, "### Flags"), flagsTable());
  const [, variables] = TEXTS.get("docs/daemon.md")!.split("Variables of `serveapi`");
  assertEquals(tableIn(variables!, ""), variablesTable());
});
