/** The project as users get it: from a URL, and as a package. */

import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Daemon, missing, project, run, serveProject, TempFolder } from "./support/daemon.ts";

const ROOT = project("");
const NO_GIT = await missing("git", ["-C", ROOT, "rev-parse"]);
const CONFIG = JSON.parse(await Deno.readTextFile(project("deno.json")));

/** A clean copy of the repository on a web server: the files that git tracks. */
async function serveRepository(): Promise<{ url: string } & AsyncDisposable> {
  const { code, stdout, stderr } = await run("git", ["-C", ROOT, "ls-files", "-z"]);
  assertEquals(code, 0, stderr);
  const server = serveProject(new Set(stdout.split("\0")));
  return {
    url: `http://127.0.0.1:${server.addr.port}`,
    [Symbol.asyncDispose]: () => server.shutdown(),
  };
}

/** An environment with nothing in Deno's cache, in which JSR refuses connections. */
const bare = (folder: TempFolder) => ({
  DENO_DIR: `${folder.path}/cache`,
  JSR_URL: "http://127.0.0.1:9/",
});

Deno.test("a program that imports mod.ts from a URL serves with the permission to listen alone", {
  ignore: NO_GIT,
}, async () => {
  await using web = await serveRepository();
  await using folder = await TempFolder.make();
  const program = `${folder.path}/embed.ts`;
  await Deno.writeTextFile(
    program,
    `import { Engine, registerBuiltins, serve, TypedError } from "${web.url}/mod.ts";
     import { createRouter } from "${web.url}/router.ts";

     const engine = new Engine();
     engine.register("greet", async (job) => {
       if (job.args[0] === "mars") throw new TypedError("not found", "no such planet: mars");
       await job.print("hello " + job.args[0] + "\\n");
     });
     const router = createRouter(engine);
     router.job({ method: "GET", path: "/greet/:name", job: "greet" });
     router.post("/stop", (c) => {
       engine.shutdown();
       return c.text("stopping");
     });
     registerBuiltins(engine);
     const { addresses, finished } = await serve(engine, { addresses: ["tcp://127.0.0.1:0"], router });
     console.log("listening on " + addresses[0]);
     await engine.job("acceptconnections").run();
     await finished;`,
  );
  await using daemon = Daemon.start([], {
    program,
    cwd: folder.path,
    env: bare(folder),
    // The second is for fetching the modules; nothing is asked, and what is not granted fails.
    flags: ["--no-prompt", "--allow-net=127.0.0.1:0", `--allow-import=${new URL(web.url).host}`],
  });
  const url = `http://127.0.0.1:${await daemon.port()}`;
  assertEquals(await (await fetch(`${url}/_ping`)).text(), "OK");
  assertEquals(await (await fetch(`${url}/v1.47/greet/you`)).text(), "hello you\n");
  const missing = await fetch(`${url}/greet/mars`);
  assertEquals([missing.status, await missing.json()], [404, { message: "no such planet: mars" }]);
  assertEquals(await (await fetch(`${url}/stop`, { method: "POST" })).text(), "stopping");
  assertEquals((await daemon.status).code, 0, daemon.stderr);
  assertEquals(folder.names(), ["cache", "embed.ts"]);
});

Deno.test("mod.ts runs from a URL, and installs an example and a module from there", {
  ignore: NO_GIT,
}, async () => {
  await using web = await serveRepository();
  for (const module of ["examples/containers.ts", `${web.url}/examples/containers.ts`]) {
    await using folder = await TempFolder.make();
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", module], {
      program: `${web.url}/mod.ts`,
      cwd: folder.path,
      env: bare(folder),
    });
    await daemon.open();
    const listed = await fetch(`http://127.0.0.1:${await daemon.port()}/containers/json`);
    assertMatch(await listed.text(), /"Names":\["\/web"\]/);
    assertEquals(await daemon.end(), 0);
    assertEquals(folder.names(), ["cache"]);
  }
});

Deno.test("the package can be published, and holds what is exported and no tests", async () => {
  const { code, stderr } = await run(
    Deno.execPath(),
    ["publish", "--dry-run", "--allow-dirty", "--no-check"],
    { cwd: ROOT, env: { NO_COLOR: "1" } },
  );
  assertEquals(code, 0, stderr);
  assertStringIncludes(stderr, "Success Dry run complete");
  const files = stderr.matchAll(/^ +file:\/\/(\S+) \(/gm)
    .map(([, path = ""]) => path.slice(ROOT.length)).toArray();
  const exported = Object.values<string>(CONFIG.exports).map((path) => path.replace("./", ""));
  for (const path of ["deno.json", "README.md", "LICENSE", "offline/parse_args.ts", ...exported]) {
    assertEquals([path, files.includes(path)], [path, true]);
  }
  assertEquals(files.filter((path) => /^(tests|bench|build|dist|\.|offline\/[^p])/.test(path)), []);
});

Deno.test("deno doc writes pages of every export", async () => {
  await using folder = await TempFolder.make();
  const exported = Object.values<string>(CONFIG.exports);
  const env = { NO_COLOR: "1" };
  const lint = await run(Deno.execPath(), ["doc", "--lint", ...exported], { cwd: ROOT, env });
  assertEquals(lint.code, 0, lint.stderr);

  const args = ["doc", "--html", `--output=${folder.path}`, "--name=Floodgate", ...exported];
  const html = await run(Deno.execPath(), args, { cwd: ROOT, env });
  assertEquals(html.code, 0, html.stderr);
  const page = await Deno.readTextFile(`${folder.path}/~/registerBuiltins.html`);
  assertStringIncludes(page, "acceptconnections");
  for (const path of exported.map((path) => path.replace("./", ""))) {
    assertStringIncludes(CONFIG.tasks.check, path);
    assertStringIncludes(CONFIG.tasks.doc, path);
  }
});

Deno.test("comments are no wider than code", { ignore: NO_GIT }, async () => {
  const { stdout } = await run("git", ["-C", ROOT, "ls-files", "*.ts"]);
  const wide: string[] = [];
  for (const path of stdout.trim().split("\n")) {
    // deno fmt breaks code at this width, and leaves comments as they are.
    for (const line of (await Deno.readTextFile(project(path))).split("\n")) {
      if (/^ *(\/\/|\/?\*)/.test(line) && line.length > CONFIG.fmt.lineWidth) wide.push(line);
    }
  }
  assertEquals(wide, []);
});
