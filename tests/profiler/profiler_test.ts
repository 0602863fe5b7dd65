import { pathToFileURL } from "node:url";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { attachProfiler, Engine, JobError, type TypedError } from "../../mod.ts";
import { createRouter } from "../../router.ts";
import { Daemon, project, TempFolder, until } from "../support/daemon.ts";
import { type Call, lineOf, profiled, under } from "../support/profiler.ts";

Deno.test("profiles come as Chrome's DevTools read them, by format and by Accept", async () => {
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
      const answer = await under(`${url}/burn`, () => get(path!, accept));
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
    const answer = await get(path!, accept);
    assertEquals(answer.headers.get("content-type"), "application/octet-stream");
    assertEquals([...(await answer.bytes()).subarray(0, 2)], [0x1f, 0x8b]); // gzip
  }
  const refused = await fetch(`${pages}/heap?format=cpuprofile`);
  assertEquals([refused.status, await refused.json()], [400, {
    message: "format=cpuprofile: expected one of pprof, heapprofile, heapsnapshot",
  }]);
  // A HEAD takes no profile.
  const head = await fetch(`${pages}/profile?seconds=300`, { method: "HEAD" });
  assertEquals([head.status, head.headers.get("content-type")], [200, "application/octet-stream"]);
});

Deno.test(
  "profiler takes one profile at a time: a second gets Retry-After; a client that leaves ends its own",
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
      await until(() => running(job!));
      for (const other of ["profile", "heap", "heap?format=heapsnapshot", "allocs", "trace"]) {
        const second = await fetch(`${pages}/${other}`);
        assertEquals(second.status, 409);
        assertMatch((await second.json()).message, /profile is being taken, come back in \d+ s$/);
        const after = Number(second.headers.get("retry-after"));
        assert(after > 200 && after <= 300, `${after}`);
      }
      leaving.abort();
      await first;
      await until(async () => !(await running(job!)));
      const next = await fetch(`${pages}/profile?seconds=0.01`);
      assertEquals(next.status, 200);
      await next.bytes();
    }
  },
);

Deno.test("profiler ends a profile and the page's events at a drain", async () => {
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

Deno.test("profiler answers the small routes as Go's clients expect", async () => {
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

Deno.test("profiler runs the job of a profile for the client that asked for it", async () => {
  const engine = new Engine({ log: () => {} });
  const router = createRouter(engine);
  await attachProfiler(router, engine);
  const asked: (string | undefined)[] = [];
  engine.onJob((job, phase) => void (phase === "start" && asked.push(job.requestId)));
  const heap = await router.request("/debug/pprof/heap", { headers: { "X-Request-Id": "r-1" } });
  await heap.bytes();
  assertEquals(asked, ["r-1"]);
  await engine.shutdown();
});

Deno.test(
  "profiler lets pages of other sites link to profiles, and load none, whatever CORS allows",
  async () => {
    const engine = new Engine({ log: () => {} });
    const router = createRouter(engine, { cors: "*" });
    await attachProfiler(router, engine);
    const cross = { "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors" };
    const loaded = await router.request("/debug/pprof/heap", { headers: cross });
    assertEquals(loaded.status, 403);
    assertEquals(await loaded.json(), { message: "pages of other sites may not use the profiler" });
    const link = { ...cross, "Sec-Fetch-Mode": "navigate" };
    assertEquals((await router.request("/debug/pprof/", { headers: link })).status, 200);
    await engine.shutdown();
  },
);

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

Deno.test(
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
      const root = pathToFileURL(project("")).href;
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

Deno.test("--debug is refused on addresses that other machines can reach", async () => {
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

Deno.test(
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
      assertStringIncludes(await (await fetch(`${url}/debug/pprof/${file}`)).text(), begins!);
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

Deno.test("livestats collects once a second, for at most 16 clients", async () => {
  const engine = new Engine({ log: () => {} });
  const router = createRouter(engine);
  await attachProfiler(router, engine);
  const { memoryUsage } = Deno;
  let looks = 0;
  Deno.memoryUsage = () => {
    looks++;
    return memoryUsage();
  };
  try {
    const began = performance.now();
    const jobs = Array.from({ length: 16 }, () => engine.job("livestats"));
    const heard = jobs.map((job) => {
      const { promise, resolve } = Promise.withResolvers<void>();
      let texts = 0;
      job.stdout.add({ write: () => void (++texts === 3 && resolve()) });
      return promise;
    });
    const ran = jobs.map((job) => job.run());
    await Promise.all(heard);
    // Three for each client and one shared, plus one for each further second.
    const seconds = (performance.now() - began) / 1_000;
    assert(looks <= 3 + seconds, `${looks} looks in ${seconds} s`);

    const error = await assertRejects(() => engine.job("livestats").run(), JobError, "16 clients");
    assertEquals((error.cause as TypedError).kind, "unavailable");
    const answer = await router.request("/debug/pprof/live");
    assertEquals(answer.status, 503);
    await answer.text();
    jobs[0]!.abort();
    await ran[0];
    const next = engine.job("livestats");
    const again = next.run();
    next.abort();
    await again;
    jobs.forEach((job) => job.abort());
    await Promise.all(ran);
  } finally {
    Deno.memoryUsage = memoryUsage;
    await engine.shutdown();
  }
});
