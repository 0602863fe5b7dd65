import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { attachProfiler, createRouter, Engine } from "../../mod.ts";
import { importsText } from "../../platform/deno.ts";
import { Monitor } from "../../profiler/monitor.ts";
import { Browser, CHROMIUM } from "../support/browser.ts";
import { Daemon, project, run, TempFolder, testWhere, until } from "../support/daemon.ts";

const NO_GO = await run("go", ["version"]).then(({ code }) => code !== 0, () => true);
if (NO_GO) console.log("skipped: there is no go here, whose pprof would read the profiles");
const NO_CURL = await run("curl", ["--version"]).then(({ code }) => code !== 0, () => true);
if (NO_CURL) console.log("skipped: there is no curl here, which would fetch from a unix socket");

const profilerTest = testWhere(importsText(), "the profiler");

const BUSY = project("tests/support/fixtures/busy.ts");
/** Where in the fixture something is, from 1 on. */
const lineOf = (text: string) =>
  Deno.readTextFileSync(BUSY).split("\n").findIndex((line) => line.includes(text)) + 1;

/** A daemon in debug mode with a tcp and a unix address, that does not log each request. */
async function profiled(
  folder: TempFolder,
): Promise<{ daemon: Daemon; url: string; sock: string }> {
  const sock = `${folder.path}/api.sock`;
  const daemon = Daemon.start([
    ...["-D", "-l", "info", "--install", BUSY],
    ...["-H", "tcp://127.0.0.1:0", "-H", `unix://${sock}`],
  ]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  await daemon.open();
  return { daemon, url, sock };
}

/** Asks again and again for as long as the work takes. */
async function under<T>(url: string, work: () => Promise<T>): Promise<T> {
  let busy = true;
  const load = (async () => {
    while (busy) await (await fetch(url)).text();
  })();
  try {
    return await work();
  } finally {
    busy = false;
    await load;
  }
}

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
    .map(([, flat, name]) => ({ flat: Number(flat), name }));
}

profilerTest("profile: the hot function is on top by name, file and line, with its job", {
  ignore: NO_GO || NO_CURL,
}, async () => {
  await using folder = await TempFolder.make();
  const { daemon, url, sock } = await profiled(folder);
  await using _ = daemon;
  const path = "/debug/pprof/profile?seconds=1";
  const proto = `${folder.path}/cpu.pb.gz`;
  const hot = lineOf("// the hot line");
  const ways = [
    () => pprof(folder, "-proto", `-output=${proto}`, url + path).then(() => proto),
    () => ofUnixSocket(folder, sock, path),
  ];
  for (const take of ways) {
    let source = "";
    let top = "";
    let list = "";
    let lines: { ms: number; line: number; text: string }[] = [];
    const total = () => lines.reduce((sum, { ms }) => sum + ms, 0);
    // While others have the processor, V8 counts it for whatever was about to run.
    await until(async () => {
      source = await under(`${url}/burn`, take);
      top = await pprof(folder, "-top", source);
      if (!(rows(top)[0]?.flat >= 80)) return false;
      list = await pprof(folder, "-list", "^burnTheCpu$", source);
      lines = [...list.matchAll(/^ *([\d.]+)(ms|s) +\S+ +(\d+):(.*)$/gm)]
        .map(([, time, unit, line, text]) => ({
          ms: Number(time) * (unit === "s" ? 1_000 : 1),
          line: Number(line),
          text,
        })).sort((a, b) => b.ms - a.ms);
      // And it knows the lines only of what it has compiled since somebody profiles.
      return lines[0]?.ms > total() * 0.8 && lines[0].line === hot;
    });
    assertMatch(top, /^File: mod\.ts$/m);
    assertMatch(top, /^Type: cpu$/m);
    assertMatch(top, /^Duration: 1\.\d+s, Total samples = /m);
    assertEquals(rows(top)[0].name, "burnTheCpu");

    assertStringIncludes(list, `ROUTINE ======================== burnTheCpu in ${BUSY}\n`);
    assertMatch(lines[0].text, /the hot line/); // pprof found the source, too.

    // Part of the handler's work is done after an await of its own.
    const [, share] = /\(([\d.]+)%\): burn$/m.exec(await pprof(folder, "-tags", source))!;
    assert(Number(share) > 80, share);
    const raw = await pprof(folder, "-raw", source);
    assertMatch(raw, /^PeriodType: cpu nanoseconds\nPeriod: 1000000$/m);
    assertMatch(raw, /^samples\/count cpu\/nanoseconds$/m);
  }
});

profilerTest("heap and allocs: the planted leak is on top, and the planted garbage", {
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
    const [{ flat, name }] = rows(top);
    assertEquals(name, "keepMemory");
    assert(flat >= 80, top);
    const list = await pprof(folder, "-list", "^keepMemory$", source);
    assertStringIncludes(list, `keepMemory in ${BUSY}\n`);
    // V8 tells which function allocated, and not on which of its lines.
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
  assertEquals(rows(await pprof(folder, "-top", url + heap))[0].name, "keepMemory");
});

interface Call {
  functionName: string;
  url: string;
  lineNumber: number;
}

profilerTest("profiles come as Chrome's DevTools read them, by format and by Accept", async () => {
  await using folder = await TempFolder.make();
  const { daemon, url } = await profiled(folder);
  await using _ = daemon;
  const pages = `${url}/debug/pprof`;
  const get = async (path: string, accept = "*/*") => {
    const answer = await fetch(`${pages}/${path}`, { headers: { Accept: accept } });
    assertEquals(answer.status, 200);
    return answer;
  };

  for (
    const [path, accept] of [
      ["profile?seconds=0.5&format=cpuprofile", "*/*"],
      ["profile?seconds=0.5", "text/html;q=0.5, application/json"],
    ]
  ) {
    let hot: { callFrame: Call; job: string } | undefined;
    let lengths: number[] = [];
    // On a busy machine none of the requests may come in half a second.
    await until(async () => {
      const answer = await under(`${url}/burn`, () => get(path, accept));
      assertEquals(answer.headers.get("content-type"), "application/json");
      assertMatch(answer.headers.get("content-disposition")!, /filename="profile\.cpuprofile"/);
      const { nodes, samples, timeDeltas } = await answer.json();
      lengths = [samples.length, timeDeltas.length];
      hot = nodes.find(({ callFrame }: { callFrame: Call }) =>
        callFrame.functionName === "burnTheCpu"
      );
      return hot !== undefined;
    });
    assertEquals(hot!.callFrame.lineNumber + 1, lineOf("function burnTheCpu"));
    assertEquals(hot!.job, "burn");
    assertEquals(lengths[0], lengths[1]);
  }

  await (await get("../../keep")).text();
  const heap = await (await get("heap?format=heapprofile")).json();
  interface Node {
    callFrame: Call;
    children: Node[];
  }
  const walk = (node: Node): Node[] => [node, ...node.children.flatMap(walk)];
  const kept = walk(heap.head).find(({ callFrame }) => callFrame.functionName === "keepMemory")!;
  assertEquals(kept.callFrame.lineNumber + 1, lineOf("function keepMemory"));

  const dumped = await get("heap?format=heapsnapshot");
  assertMatch(dumped.headers.get("content-disposition")!, /filename="heap\.heapsnapshot"/);
  const snapshot = await dumped.json();
  assertEquals(
    snapshot.nodes.length,
    snapshot.snapshot.node_count * snapshot.snapshot.meta.node_fields.length,
  );

  for (
    const [path, accept] of [["heap", "*/*"], ["heap", "text/html"], ["allocs?seconds=0.1", ""]]
  ) {
    const answer = await get(path, accept);
    assertEquals(answer.headers.get("content-type"), "application/octet-stream");
    assertEquals([...(await answer.bytes()).subarray(0, 2)], [0x1f, 0x8b]); // gzip
  }
  const refused = await fetch(`${pages}/heap?format=cpuprofile`);
  assertEquals([refused.status, await refused.json()], [400, {
    message: "format=cpuprofile: expected one of pprof, heapprofile, heapsnapshot",
  }]);
  // A look at the headers takes no profile.
  const head = await fetch(`${pages}/profile?seconds=300`, { method: "HEAD" });
  assertEquals([head.status, head.headers.get("content-type")], [200, "application/octet-stream"]);
});

/** An event of the Trace Event format. */
interface TraceEvent {
  name: string;
  cat: string;
  ph: string;
  ts: number;
  pid: number;
  tid: number;
  id?: string;
  dur?: number;
  s?: string;
  // deno-lint-ignore no-explicit-any -- each kind of event has its own
  args: any;
}

/** What the documentation of the format, the Performance panel and Perfetto's importer ask for. */
function assertTrace(events: TraceEvent[], pid: number): void {
  for (const event of events) {
    const said = JSON.stringify(event).slice(0, 200);
    for (const key of ["name", "cat", "ph"] as const) {
      assert(typeof event[key] === "string" && event[key] !== "", said);
    }
    // Of the main thread, and in whole microseconds: Perfetto reads the start of a profile as such.
    assertEquals([event.pid, event.tid], [pid, pid], said);
    assert(Number.isSafeInteger(event.ts) && event.ts >= 0, said);
    assertEquals(typeof event.args, "object", said);
  }
  const of = (ph: string) => events.filter((event) => event.ph === ph);
  assertEquals(new Set(events.map(({ ph }) => ph)), new Set(["M", "I", "X", "P", "b", "e"]));
  assertEquals(of("M").map(({ name, args }) => [name, args.name]), [
    ["process_name", "floodgate"],
    ["thread_name", "main"],
  ]);
  const [page] = of("I");
  assertEquals([page.name, page.s], ["TracingStartedInBrowser", "t"]);
  assertEquals(page.args.data.frames[0].processId, pid);

  const [begin, chunk] = of("P");
  assertEquals([begin.name, chunk.name, chunk.id], ["Profile", "ProfileChunk", begin.id]);
  assertEquals(begin.args.data.startTime, begin.ts);
  const { cpuProfile: { nodes, samples }, timeDeltas, endTime } = chunk.args.data;
  assertEquals(samples.length, timeDeltas.length);
  const seen = new Set<number>();
  for (const { id, parent, callFrame } of nodes) {
    assert(parent === undefined ? seen.size === 0 : seen.has(parent), `${id} before ${parent}`);
    assertEquals(typeof callFrame.functionName, "string");
    seen.add(id);
  }
  for (const id of samples) assert(seen.has(id), `sample of ${id}`);
  const [task] = of("X");
  assertEquals([task.ts, task.ts + task.dur!], [begin.ts, endTime]);

  // Each span has a beginning and an end, in this order, and an id of its own.
  const begins = of("b");
  const ends = of("e");
  assertEquals(begins.map(({ id }) => id), ends.map(({ id }) => id));
  assertEquals(new Set(begins.map(({ id }) => id)).size, begins.length);
  begins.forEach(({ id, name, cat, ts }, i) => {
    assertMatch(id!, /^0x[0-9a-f]+$/);
    assertEquals([ends[i].name, ends[i].cat], [name, cat]);
    assert(begin.ts <= ts && ts <= ends[i].ts && ends[i].ts <= endTime, `${name} ${id}`);
  });
}

profilerTest(
  "trace: jobs and samples on one clock, as the Performance panel and Perfetto read them",
  async () => {
    await using folder = await TempFolder.make();
    const { daemon, url } = await profiled(folder);
    await using _ = daemon;
    let burns: number[][] = [];
    let hits: number[] = [];
    // On a busy machine few of the requests may come in a second.
    await until(async () => {
      const answer = await under(`${url}/burn`, () => fetch(`${url}/debug/pprof/trace?seconds=1`));
      const events: TraceEvent[] = (await answer.json()).traceEvents;
      assertTrace(events, daemon.pid);
      const { args: { data: chunk } } = events.find(({ name }) => name === "ProfileChunk")!;
      const hot = new Set(
        chunk.cpuProfile.nodes.filter(({ callFrame }: { callFrame: Call }) =>
          callFrame.functionName === "burnTheCpu"
        ).map(({ id }: { id: number }) => id),
      );
      const ends = new Map(events.filter(({ ph }) => ph === "e").map(({ id, ts }) => [id, ts]));
      burns = events.filter(({ name, ph }) => name === "burn" && ph === "b")
        .map(({ id, ts }) => [ts, ends.get(id)!]);
      let at = events.find(({ name }) => name === "Profile")!.ts;
      hits = chunk.cpuProfile.samples.flatMap((id: number, i: number) => {
        at += chunk.timeDeltas[i];
        return hot.has(id) ? [at] : [];
      });
      return burns.length >= 3 && hits.length >= 30;
    });
    // Each job takes 50 ms; the samples of its function are within such a span.
    const within = hits.filter((at) =>
      burns.some(([start, end]) => start - 500 <= at && at <= end + 500)
    );
    assert(within.length > hits.length * 0.95, `${within.length} of ${hits.length} samples`);
  },
);

profilerTest(
  "one profile at a time: a second is told when to come back; who leaves ends theirs",
  async () => {
    await using folder = await TempFolder.make();
    const { daemon, url } = await profiled(folder);
    await using _ = daemon;
    const pages = `${url}/debug/pprof`;
    for (const seconds of ["0", "-1", "soon", "1000"]) {
      for (const path of ["profile", "allocs", "trace"]) {
        const answer = await fetch(`${pages}/${path}?seconds=${seconds}`);
        assertEquals(answer.status, 400);
        assertMatch((await answer.json()).message, /expected a number above 0, and at most 300/);
      }
    }
    const running = async (job: string) => {
      const { running } = await (await fetch(`${pages}/jobs`)).json();
      return running.some(({ name }: { name: string }) => name === job);
    };
    for (const [path, job] of [["profile", "cpuprofile"], ["allocs", "allocprofile"]]) {
      const leaving = new AbortController();
      const first = fetch(`${pages}/${path}?seconds=300`, { signal: leaving.signal }).catch(
        () => {},
      );
      await until(() => running(job));
      for (const other of ["profile", "heap", "heap?format=heapsnapshot", "allocs", "trace"]) {
        const second = await fetch(`${pages}/${other}`);
        assertEquals(second.status, 409);
        assertMatch((await second.json()).message, /profile is being taken, come back in \d+ s$/);
        const after = Number(second.headers.get("retry-after"));
        assert(after > 200 && after <= 300, `${after}`);
      }
      leaving.abort();
      await first;
      await until(async () => !(await running(job)));
      const next = await fetch(`${pages}/profile?seconds=0.01`);
      assertEquals(next.status, 200);
      await next.bytes();
    }
  },
);

profilerTest("a drain ends a profile and the page's events", async () => {
  await using folder = await TempFolder.make();
  const { daemon, url } = await profiled(folder);
  await using _ = daemon;
  const live = await fetch(`${url}/debug/pprof/live`);
  assertEquals(live.headers.get("content-type"), "text/event-stream");
  const taken = fetch(`${url}/debug/pprof/profile?seconds=300`);
  await until(async () =>
    (await (await fetch(`${url}/debug/pprof/jobs`)).text()).includes('"cpuprofile"')
  );
  assertEquals(await daemon.end(), 0);
  assertMatch(await live.text(), /^data: \{.*\}\n\n/);
  assertEquals((await taken).status, 200);
  assert((await (await taken).bytes()).length > 100);
});

profilerTest("the small routes are what Go's clients expect", async () => {
  await using folder = await TempFolder.make();
  const { daemon, url } = await profiled(folder);
  await using _ = daemon;
  const get = async (path: string, init?: RequestInit) => {
    const answer = await fetch(url + path, init);
    return [answer.status, await answer.text()] as const;
  };
  assertEquals(await get("/debug/pprof/symbol"), [200, "num_symbols: 1\n"]);
  assertEquals(await get("/debug/pprof/symbol", { method: "POST", body: "0x1+0x2" }), [
    200,
    "num_symbols: 1\n",
  ]);
  const [, cmdline] = await get("/debug/pprof/cmdline");
  assertEquals(cmdline.split("\0").slice(2, 5), ["-D", "-l", "info"]);
  const [status, index] = await get("/v1.41/debug/pprof");
  assertEquals(status, 200);
  assertMatch(index, /<title>Floodgate: profiler<\/title>/);
  const moved = await fetch(`${url}/v1.41/debug/pprof`, { redirect: "manual" });
  assertEquals([moved.status, moved.headers.get("location")], [302, "pprof/"]);
  const [, vars] = await get("/debug/vars");
  assertEquals(JSON.parse(vars).apis[0].gate, "open");
  const [, open] = await get("/debug/pprof/resources");
  const { kinds, open: count } = JSON.parse(open);
  assert(kinds.socket >= 3, open);
  assert(count > kinds.socket && count < 200, open);
});

profilerTest(
  "pages from elsewhere may link to profiles, and load none, even where they may use the API",
  async () => {
    const engine = new Engine({ log: () => {} });
    const router = await createRouter(engine, { cors: "*" });
    await attachProfiler(router, engine);
    const cross = { "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors" };
    const loaded = await router.request("/debug/pprof/heap", { headers: cross });
    assertEquals(loaded.status, 403);
    assertEquals(await loaded.json(), { message: "profiles are not for pages from elsewhere" });
    const link = { ...cross, "Sec-Fetch-Mode": "navigate" };
    assertEquals((await router.request("/debug/pprof/", { headers: link })).status, 200);
    await engine.shutdown();
  },
);

profilerTest(
  "jobs: where those that run are, how old they are, and how long those were that ended",
  async () => {
    const engine = new Engine({ log: () => {} });
    const gates: Record<string, PromiseWithResolvers<void>> = {};
    engine.register("waiting", async (job) => {
      await (gates[job.args[0]] = Promise.withResolvers()).promise;
    });
    engine.register("reading", async (job) => {
      await job.stdin.text();
      await gates.read.promise;
    });
    engine.register("writing", (job) => job.print("x"));
    engine.register("outer", (job) => engine.job("waiting", ...job.args).run());
    engine.register("failing", () => 3);
    engine.registerCatchall(() => {});
    const before = engine.job("waiting", "before").run();

    const router = await createRouter(engine);
    await attachProfiler(router, engine);
    const jobs = async () => await (await router.request("/debug/pprof/jobs")).json();
    assertEquals((await jobs()).jobs, []); // From here on somebody looks.
    gates.read = Promise.withResolvers();
    const reading = engine.job("reading");
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    reading.stdin.add(readable);
    const writing = engine.job("writing");
    const taken = Promise.withResolvers<void>();
    writing.stdout.add({ write: () => taken.promise });
    const runs = [before, reading.run(), writing.run(), engine.job("outer", "inner").run()];
    const wheres = async () => {
      const { running } = await jobs();
      return running.map((
        { name, args, where, parent, older }: Record<string, unknown>,
      ) => [name, args, where, parent, older]);
    };
    assertEquals(await wheres(), [
      ["waiting", ["before"], "in its handler", undefined, true],
      ["reading", [], "reading stdin", undefined, undefined],
      ["writing", [], "writing stdout", undefined, undefined],
      ["outer", ["inner"], "running waiting", undefined, undefined],
      ["waiting", ["inner"], "in its handler", "outer", undefined],
    ]);
    await writable.close();
    await until(async () => (await wheres())[1][2] === "in its handler"); // All is read.
    const started = performance.now();
    await until(() => performance.now() > started + 20);
    const { running } = await jobs();
    for (const { age } of running) assert(age >= 20 && age < 60_000, `${age}`);
    taken.resolve();
    for (const gate of Object.values(gates)) gate.resolve();
    await Promise.all(runs);

    await engine.job("failing").run().catch(() => {});
    for (let i = 0; i < 300; i++) await engine.job(`name-${i}`).run();
    const after = await jobs();
    assertEquals(after.running, []);
    const of = (name: string) => after.jobs.find((job: { name: string }) => job.name === name);
    assertEquals([of("failing").ended, of("failing").failed], [1, 1]);
    assertEquals([of("waiting").ended, of("waiting").failed], [2, 0]);
    assertEquals(of("waiting").latency.count, 1); // When the other one began was not seen.
    const { latency } = of("outer");
    assertEquals([latency.count, latency.counts.reduce((a: number, b: number) => a + b)], [1, 1]);
    assert(latency.max >= 20 && latency.p50 >= 20, JSON.stringify(latency));
    // Clients must not fill the memory with names that they make up.
    assertEquals(after.jobs.length, 201);
    assertEquals(of("(others)").ended > 90, true);
    await engine.shutdown();
  },
);

profilerTest(
  "jobs that end while nobody looks are not watched, and long ones have an age all the same",
  async () => {
    const engine = new Engine({ log: () => {} });
    engine.register("quick", () => {});
    const gate = Promise.withResolvers<void>();
    engine.register("slow", () => gate.promise);
    const monitor = new Monitor(engine, 100);
    const slow = engine.job("slow").run();
    const quick = async () => {
      await engine.job("quick").run();
      return monitor.counts.find(({ name }) => name === "quick")?.ended;
    };
    assertEquals(await quick(), undefined);
    await until(() => monitor.running[0].age >= 100);
    assertEquals(monitor.running[0].older, undefined);
    assertEquals(await quick(), undefined);

    monitor.watch();
    assertEquals([await quick(), await quick()], [1, 2]);
    assertEquals(monitor.counts[0].latency.count, 2);
    // A trace goes on, however long it is that nobody has asked.
    const stop = monitor.record();
    const end = performance.now() + 300;
    await until(() => performance.now() > end);
    assertEquals(await quick(), 3);
    const spans = stop().map(({ name, end }) => [name, end !== undefined]);
    assertEquals(spans, [["quick", true], ["slow", false]]);
    await until(async () => await quick() === await quick());
    // Who looks again sees what happens from then on.
    monitor.watch();
    assertEquals(await quick(), 1);
    monitor.close();
    gate.resolve();
    await slow;
    assertEquals(monitor.counts.length, 1);
  },
);

profilerTest("eventloop: what holds it up is seen", async () => {
  const engine = new Engine({ log: () => {} });
  const router = await createRouter(engine);
  await attachProfiler(router, engine);
  const looked = async () => (await (await router.request("/debug/pprof/eventloop")).json()).delay;
  await until(async () => (await looked()).count > 2);
  const { max: before } = await looked();
  for (const end = performance.now() + before + 400; performance.now() < end;);
  const { count } = await looked();
  await until(async () => (await looked()).count > count);
  const { max, counts } = await looked();
  // A timer of 20 ms was waiting somewhere in it.
  assert(max >= before + 350, `${max} after ${before}`);
  assert(counts.slice(8).some((count: number) => count > 0), `${counts}`);
  await engine.shutdown();
});

/** A module that tells which scripts the process has loaded: V8 lists them to a debugger. */
const LOADED = "data:text/javascript," + encodeURIComponent(
  `import { Session } from "node:inspector/promises";
  export function install(_engine, router) {
    router.get("/loaded", async (c) => {
      const urls = [];
      const session = new Session();
      session.connect();
      session.on("Debugger.scriptParsed", ({ params }) => urls.push(params.url));
      await session.post("Debugger.enable");
      session.disconnect();
      return c.json(urls);
    });
  }`,
);

profilerTest(
  "without --debug every path is 404 and nothing of the profiler is loaded",
  async () => {
    for (
      const [args, env, debug] of [
        [[], {}, false],
        [[], { DEBUG: "0" }, false],
        [[], { DEBUG: "" }, false],
        [[], { DEBUG: "No" }, false],
        [[], { DEBUG: "1" }, true],
        [["-D"], { DEBUG: "0" }, true],
      ] as [string[], Record<string, string>, boolean][]
    ) {
      await using daemon = Daemon.start(
        ["-H", "tcp://127.0.0.1:0", "-l", "info", "--install", LOADED, ...args],
        { env },
      );
      const url = `http://127.0.0.1:${await daemon.port()}`;
      const urls: string[] = await (await fetch(`${url}/loaded`)).json();
      assert(urls.some((url) => url.endsWith("/router.ts")), `${urls}`);
      const root = new URL("../../", import.meta.url).href;
      const loaded = urls.map((url) => url.replace(root, ""))
        .filter((url) => /profiler|pprof|flame/.test(url));
      assertEquals(loaded.length > 0, debug, `${loaded}`);
      const paths = ["", "/", "/page.js", "/live", "/profile?seconds=0.01", "/heap", "/cmdline"];
      paths.push("/allocs?seconds=0.01", "/trace?seconds=0.01", "/symbol", "/jobs");
      paths.push("/resources", "/eventloop");
      for (const path of paths) {
        const answer = await fetch(`${url}/debug/pprof${path}`);
        assertEquals(answer.status, debug ? 200 : 404, path);
        await answer.body?.cancel();
      }
      const vars = await fetch(`${url}/debug/vars`);
      assertEquals(vars.status, 200);
      await vars.body?.cancel();
    }
  },
);

Deno.test("--debug is refused where other machines could ask", async () => {
  for (const [args, env] of [[["-D"], {}], [[], { DEBUG: "yes" }]] as const) {
    await using daemon = Daemon.start(["-H", "tcp://0.0.0.0:0", "--insecure", ...args], { env });
    assertEquals((await daemon.status).code, 2);
    assertEquals(daemon.stdout, "");
    assertMatch(
      daemon.stderr,
      /^floodgate: address "tcp:\/\/0\.0\.0\.0:0": --debug \(or DEBUG\) .*, expected a local address, --tlsverify, or no --debug\n$/,
    );
  }
});

profilerTest(
  "the profiler is there where mod.ts is run from a URL, with lines of its source",
  async () => {
    await using folder = await TempFolder.make();
    await using web = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      async (request) =>
        new Response(await Deno.readTextFile(project(new URL(request.url).pathname.slice(1))), {
          headers: { "Content-Type": "application/typescript" },
        }),
    );
    const base = `http://127.0.0.1:${web.addr.port}`;
    const busy = `${base}/tests/support/fixtures/busy.ts`;
    await using daemon = Daemon.start(
      ["-D", "-l", "info", "-H", "tcp://127.0.0.1:0", "--install", busy],
      { program: `${base}/mod.ts`, cwd: folder.path },
    );
    const url = `http://127.0.0.1:${await daemon.port()}`;
    for (
      const [file, begins] of [
        ["page.js", "// The script"],
        ["page.css", ":root"],
        ["icon.svg", "<svg"],
      ]
    ) {
      assertStringIncludes(await (await fetch(`${url}/debug/pprof/${file}`)).text(), begins);
    }
    let hot: { callFrame: Call } | undefined;
    // On a busy machine none of the requests may come in half a second.
    await until(async () => {
      const path = "/debug/pprof/profile?seconds=0.5&format=cpuprofile";
      const { nodes } = await under(
        `${url}/burn`,
        async () => await (await fetch(url + path)).json(),
      );
      hot = nodes.find(({ callFrame }: { callFrame: Call }) =>
        callFrame.functionName === "burnTheCpu"
      );
      return hot !== undefined;
    });
    assertEquals(
      [hot!.callFrame.url, hot!.callFrame.lineNumber + 1],
      [busy, lineOf("function burnTheCpu")],
    );
  },
);

profilerTest("the page shows what goes on, and a flame graph with the hot function", {
  ignore: !CHROMIUM,
}, async () => {
  await using folder = await TempFolder.make();
  const { daemon, url } = await profiled(folder);
  await using _ = daemon;
  await using browser = await Browser.start();
  const complaints: unknown[] = [];
  const elsewhere: string[] = [];
  browser.on("Runtime.consoleAPICalled", (call) => complaints.push(call.args));
  browser.on("Runtime.exceptionThrown", (thrown) => complaints.push(thrown.exceptionDetails));
  browser.on("Log.entryAdded", ({ entry }) => complaints.push(entry));
  browser.on("Network.requestWillBeSent", ({ request }) => {
    if (!request.url.startsWith(`${url}/`)) elsewhere.push(request.url);
  });
  const text = (id: string) =>
    browser.evaluate(`document.getElementById("${id}").innerText`) as Promise<string>;
  const frames = (): Promise<Record<string, number>> =>
    browser.evaluate(`Object.fromEntries([...document.querySelectorAll("#graph .frame")].map(
      (frame) => [frame.textContent, frame.getBoundingClientRect().width]))`);

  await browser.show(1_000, 900, "light");
  await browser.open(`${url}/debug/pprof/`);
  await until(async () => (await text("state")) === "live");
  assertMatch(await text("listeners"), /tcp:\/\/127\.0\.0\.1:\d+\s+open/);
  assertMatch(await text("running"), /serveapi\(tcp/);
  assertEquals(await browser.evaluate(`document.getElementById("graph").hidden`), true);

  await browser.evaluate(`document.querySelector("[name=seconds]").value = "1"`);
  // On a busy machine few of the requests may come in a second.
  await until(async () => {
    await under(`${url}/burn`, async () => {
      await browser.evaluate(`document.querySelector("#take button").click()`);
      // It is live meanwhile.
      await until(async () => /burn\s+\d+\s+0/.test(await text("jobs")));
      await until(async () => /sampled/.test(await text("progress")));
    });
    if (!/^\d\.\d\d s sampled$|^\d+\.\d ms sampled$/.test(await text("progress"))) return false;
    // The frames grow to their size.
    await until(async () => JSON.stringify(await frames()) === JSON.stringify(await frames()));
    const { all, burnTheCpu, "job burn": job } = await frames();
    return burnTheCpu > all * 0.8 && job >= burnTheCpu;
  });

  // By keyboard: the root, the job, its handler, the hot function; only that is left when zoomed.
  await browser.evaluate(`document.getElementById("graph").focus()`);
  for (let i = 0; i < 4; i++) await browser.press("ArrowDown");
  const hot = new RegExp(`^burnTheCpu: .* \\(${BUSY}:${lineOf("function burnTheCpu")}\\)$`);
  assertMatch(await text("details"), hot);
  await browser.press("Enter");
  await until(async () => {
    const { all, burnTheCpu } = await frames();
    return burnTheCpu === all;
  });
  await browser.press("Escape");
  await browser.press("ArrowUp");
  assertMatch(await text("details"), /^\(anonymous\): /);

  const paper = () => browser.evaluate(`getComputedStyle(document.body).backgroundColor`);
  const light = await paper();
  await browser.show(360, 800, "dark");
  assert(await paper() !== light);
  // Nothing is wider than the window, the graph with it.
  await until(() => browser.evaluate(`document.documentElement.scrollWidth <= innerWidth`));
  await until(async () => (await frames()).all < 360);
  assertEquals(complaints, []);
  assertEquals(elsewhere, []);
});
