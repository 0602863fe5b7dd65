import { assert, assertEquals, assertMatch } from "@std/assert";
import { Daemon, run, TempFolder } from "./daemon.ts";

const NO_GO = await new Deno.Command("go", { args: ["version"], stdout: "null", stderr: "null" })
  .output().then(({ success }) => !success, () => true);
if (NO_GO) console.log("skipped: there is no go here, whose pprof would read the profiles");

/** A daemon with a route that keeps one function busy, and one that keeps memory. */
const INSTALL = "data:text/javascript," + encodeURIComponent(
  `const kept = [];
  function burnTheCpu(ms) {
    let n = 0;
    for (const end = performance.now() + ms; performance.now() < end;) n += Math.sqrt(n + 1);
    return n;
  }
  function keepMemory() {
    for (let i = 0; i < 200_000; i++) kept.push({ i, s: "x" + i });
  }
  export function install(engine, router) {
    router.get("/burn", (c) => c.text(String(burnTheCpu(50))));
    router.get("/keep", (c) => { keepMemory(); return c.text("kept"); });
  }`,
);

Deno.test("attachProfiler serves CPU and heap profiles that go tool pprof reads", {
  ignore: NO_GO,
}, async () => {
  await using folder = await TempFolder.make();
  await using daemon = Daemon.start(["-D", "-H", "tcp://127.0.0.1:0", "--install", INSTALL]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  const profiled = fetch(`${url}/debug/pprof/profile?seconds=1`);
  let busy = true;
  const burning = (async () => {
    while (busy) await (await fetch(url + "/burn")).text();
  })();
  await Deno.writeFile(`${folder.path}/cpu`, await (await profiled).bytes());
  busy = false;
  await burning;
  const cpu = await run("go", ["tool", "pprof", "-top", `${folder.path}/cpu`]);
  assertEquals(cpu.code, 0, cpu.stderr);
  assertMatch(cpu.stdout, /^Type: cpu$/m);
  const [, share] = /([\d.]+)%\s+burnTheCpu$/m.exec(cpu.stdout)!;
  assert(Number(share) > 30, cpu.stdout);

  await (await fetch(url + "/keep")).text();
  await Deno.writeFile(
    `${folder.path}/heap`,
    await (await fetch(`${url}/debug/pprof/heap`)).bytes(),
  );
  const heap = await run("go", ["tool", "pprof", "-top", `${folder.path}/heap`]);
  assertEquals(heap.code, 0, heap.stderr);
  assertMatch(heap.stdout, /^Type: inuse_space$/m);
  assertMatch(heap.stdout, /keepMemory$/m);
});

Deno.test("attachProfiler refuses a bad duration, and a second CPU profile at once", async () => {
  await using daemon = Daemon.start(["-D", "-H", "tcp://127.0.0.1:0"]);
  const url = `http://127.0.0.1:${await daemon.port()}/debug/pprof/profile`;
  for (const seconds of ["0", "-1", "soon", "1000"]) {
    const answer = await fetch(`${url}?seconds=${seconds}`);
    assertEquals(answer.status, 400);
    assertMatch((await answer.json()).message, /expected a number above 0, and at most 300/);
  }
  const leaving = new AbortController();
  const first = fetch(`${url}?seconds=300`, { signal: leaving.signal }).catch(() => {});
  await daemon.says(/\+job cpuprofile\(\)\n(?![^]*-job cpuprofile)/);
  let second = await fetch(`${url}?seconds=0.01`);
  // The first may not have got that far; then the second was the only one.
  while (second.status === 200) {
    await second.body?.cancel();
    second = await fetch(`${url}?seconds=0.01`);
  }
  assertEquals([second.status, (await second.json()).message], [
    409,
    "a CPU profile is being taken already",
  ]);
  // A client that leaves ends its profile.
  leaving.abort();
  await first;
  for (let status = 409; status !== 200;) {
    const again = await fetch(`${url}?seconds=0.01`);
    status = again.status;
    await again.body?.cancel();
  }
});

Deno.test("main serves no profiles without --debug", async () => {
  await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0"]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  for (const path of ["profile?seconds=1", "heap"]) {
    const answer = await fetch(`${url}/debug/pprof/${path}`);
    assertEquals(answer.status, 404);
    await answer.body?.cancel();
  }
});
