import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { missing, run, TempFolder, until } from "../support/daemon.ts";
import { BUSY, lineOf, profiled, under, untilProfiled } from "../support/profiler.ts";

const NO_GO = await missing("go", ["version"]);
if (NO_GO) console.log("skipped: there is no go here, whose pprof would read the profiles");
const NO_CURL = await missing("curl", ["--version"]);
if (NO_CURL) console.log("skipped: there is no curl here, which would fetch from a unix socket");

/** Runs `go tool pprof`, which may write only below the folder. */
async function pprof(folder: TempFolder, ...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run("go", ["tool", "pprof", ...args], {
    env: { PPROF_TMPDIR: folder.path },
  });
  assertEquals(code, 0, stderr);
  return stdout;
}

async function ofUnixSocket(folder: TempFolder, sock: string, path: string): Promise<string> {
  const file = `${folder.path}/${crypto.randomUUID()}`;
  const curl = ["-sS", "--fail", "--unix-socket", sock, "-o", file, `http://localhost${path}`];
  const { code, stderr } = await run("curl", curl);
  assertEquals(code, 0, stderr);
  return file;
}

/** The rows of `-top`: the share of the whole that each function has by itself, the most first. */
function rows(top: string): { flat: number; name: string }[] {
  return [...top.matchAll(/^ *\S+ +([\d.]+)% +[\d.]+% +\S+ +[\d.]+% +(.+)$/gm)]
    .map(([, flat, name]) => ({ flat: Number(flat), name: name! }));
}

Deno.test("profile: the hot function is on top by name, file and line, with its job", {
  ignore: NO_GO || NO_CURL,
}, async () => {
  await using folder = await TempFolder.make();
  const path = "/debug/pprof/profile?seconds=1";
  const proto = `${folder.path}/cpu.pb.gz`;
  const hot = lineOf("// the hot line");
  const ways: ((url: string, sock: string) => Promise<string>)[] = [
    (url) => pprof(folder, "-proto", `-output=${proto}`, url + path).then(() => proto),
    (_, sock) => ofUnixSocket(folder, sock, path),
  ];
  for (const take of ways) {
    let source = "";
    let top = "";
    let list = "";
    let lines: { ms: number; line: number; text: string }[] = [];
    const total = () => lines.reduce((sum, { ms }) => sum + ms, 0);
    // While other processes run, V8 counts the time for the function that was about to run.
    await untilProfiled(folder, async ({ url, sock }) => {
      source = await under(`${url}/burn`, () => take(url, sock));
      top = await pprof(folder, "-top", source);
      const [first] = rows(top);
      if (first?.name !== "burnTheCpu" || !(first.flat >= 80)) return false;
      list = await pprof(folder, "-list", "^burnTheCpu$", source);
      lines = [...list.matchAll(/^ *([\d.]+)(ms|s) +\S+ +(\d+):(.*)$/gm)]
        .map(([, time, unit, line, text]) => ({
          ms: Number(time) * (unit === "s" ? 1_000 : 1),
          line: Number(line),
          text: text!,
        })).sort((a, b) => b.ms - a.ms);
      // And it knows the lines only of code that it compiled while profiling.
      return (lines[0]?.ms ?? 0) > total() * 0.8 && lines[0]!.line === hot;
    });
    assertMatch(top, /^File: mod\.ts$/m);
    assertMatch(top, /^Type: cpu$/m);
    assertMatch(top, /^Duration: 1\.\d+s, Total samples = /m);

    assertStringIncludes(list, `ROUTINE ======================== burnTheCpu in ${BUSY}\n`);
    assertMatch(lines[0]!.text, /the hot line/); // pprof found the source, too.

    // Part of the handler's work is done after an await of its own.
    const [, share] = /\(([\d.]+)%\): burn$/m.exec(await pprof(folder, "-tags", source))!;
    assert(Number(share) > 80, share);
    const raw = await pprof(folder, "-raw", source);
    assertMatch(raw, /^PeriodType: cpu nanoseconds\nPeriod: 1000000$/m);
    assertMatch(raw, /^samples\/count cpu\/nanoseconds$/m);
  }
});

Deno.test("heap and allocs: the planted leak is on top, and the planted garbage", {
  ignore: NO_GO || NO_CURL,
}, async () => {
  await using folder = await TempFolder.make();
  const { daemon, url, sock } = await profiled(folder);
  await using _ = daemon;
  for (let i = 0; i < 4; i++) await (await fetch(`${url}/keep`)).text();
  await (await fetch(`${url}/waste`)).text();
  const heap = "/debug/pprof/heap?gc=1";
  const proto = `${folder.path}/heap.pb.gz`;
  await pprof(folder, "-proto", `-output=${proto}`, url + heap);
  for (const source of [proto, await ofUnixSocket(folder, sock, heap)]) {
    const top = await pprof(folder, "-top", source);
    assertMatch(top, /^Type: inuse_space$/m);
    const { flat, name } = rows(top)[0]!;
    assertEquals(name, "keepMemory");
    assert(flat >= 80, top);
    const list = await pprof(folder, "-list", "^keepMemory$", source);
    assertStringIncludes(list, `keepMemory in ${BUSY}\n`);
    // V8 reports the function that allocated, but not the line.
    assertMatch(list, new RegExp(` ${lineOf("function keepMemory")}:function keepMemory`));
    assertMatch(await pprof(folder, "-tags", source), /: keep$/m);
    assertMatch(
      await pprof(folder, "-raw", source),
      /^PeriodType: space bytes\nPeriod: 524288$[^]*^samples\/count inuse_space\/bytes/m,
    );
  }
  const allocs = "/debug/pprof/allocs?seconds=1";
  const ways = [
    () => pprof(folder, "-top", url + allocs),
    async () => await pprof(folder, "-top", await ofUnixSocket(folder, sock, allocs)),
  ];
  for (const take of ways) {
    // On a busy machine none of the requests may come in a second.
    await until(async () => {
      const top = await under(`${url}/waste`, take);
      assertMatch(top, /^Type: alloc_space$/m);
      const first = rows(top)[0];
      return first?.name === "makeGarbage" && first.flat >= 80;
    });
  }
  // Afterwards the heap is watched again.
  await (await fetch(`${url}/keep`)).text();
  assertEquals(rows(await pprof(folder, "-top", url + heap))[0]!.name, "keepMemory");
});
