import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Client, PING } from "../support/client.ts";
import { freePort, missing, TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { Served } from "../support/served.ts";
import { Doors, openSocket, upgrade, upgradeOf } from "../support/upgrades.ts";

const NO_PROMTOOL = await missing("promtool", ["--version"]);
const NO_PROMETHEUS = await missing("prometheus", ["--version"]);

/** What the job `metrics` prints. */
async function exposed(served: Served, settings: Record<string, string> = {}): Promise<string> {
  const job = served.engine.job("metrics");
  for (const [key, value] of Object.entries(settings)) job.setenv(key, value);
  let text = "";
  const decoder = new TextDecoder();
  job.stdout.add({ write: (chunk) => void (text += decoder.decode(chunk)) });
  await job.run();
  return text;
}
/** The value of a series, written as it is exposed. */
async function valueOf(served: Served, series: string): Promise<number | undefined> {
  const line = (await exposed(served)).split("\n").find((each) => each.startsWith(`${series} `));
  return line === undefined ? undefined : Number(line.slice(series.length));
}

Deno.test(
  "metrics pass promtool check metrics",
  { ignore: NO_PROMTOOL },
  async () => {
    await using served = await Served.open();
    await exposed(served);
    using client = await Client.to(served.target);
    await client.send(PING);
    await client.sees(/OK$/);
    await served.engine.job("true").run();
    const check = new Deno.Command("promtool", {
      args: ["check", "metrics"],
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const input = check.stdin.getWriter();
    await input.write(new TextEncoder().encode(await exposed(served)));
    await input.close();
    const { code, stdout, stderr } = await check.output();
    assertEquals(
      [code, new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr)],
      [0, ""],
    );
  },
);

Deno.test("metrics count connections by listener and state", async () => {
  await using served = await Served.bind();
  const listener = served.addresses[0];
  const inState = (state: string) =>
    valueOf(served, `floodgate_connections{listener="${listener}",state="${state}"}`);
  const accepted = () =>
    valueOf(served, `floodgate_connections_accepted_total{listener="${listener}"}`);
  const ended = (reason: string) =>
    valueOf(served, `floodgate_connections_ended_total{listener="${listener}",reason="${reason}"}`);
  assertEquals([await accepted(), await valueOf(served, "floodgate_ready")], [0, 0]);
  const one = await Client.to(served.target);
  const other = await Client.to(served.target);
  await until(async () => await inState("held") === 2);
  await served.accept();
  assertEquals(await valueOf(served, "floodgate_ready"), 1);
  await until(async () => await inState("new") === 2);
  await one.send(PING);
  await one.sees(/OK$/);
  await until(async () => await inState("idle") === 1);
  assertEquals([await inState("held"), await inState("new"), await accepted()], [0, 1, 2]);
  one[Symbol.dispose]();
  other[Symbol.dispose]();
  await until(async () => await inState("new") === 0 && await inState("idle") === 0);
  assertEquals([await ended("timed_out"), await ended("refused")], [0, 0]);
});

Deno.test("metrics count jobs by name and outcome, and no unregistered names", async () => {
  await using served = await Served.open();
  await exposed(served);
  const { engine } = served;
  // 20 ms, which the metrics have to count.
  engine.register("good", () => new Promise((resolve) => setTimeout(resolve, 20)));
  engine.register("bad", () => 3);
  engine.registerCatchall(() => {});
  for (let i = 0; i < 3; i++) await engine.job("good").run();
  await assertRejects(() => engine.job("bad").run());
  for (let i = 0; i < 10; i++) await engine.job(`made up ${i}`).run();
  const text = await exposed(served);
  const series = (job: string, outcome: string) =>
    Number(
      new RegExp(
        `^floodgate_job_duration_seconds_count\\{job="${job}",outcome="${outcome}"\\} (.*)$`,
        "m",
      )
        .exec(text)?.[1],
    );
  assertEquals(series("good", "ok"), 3);
  assertEquals(series("bad", "failed"), 1);
  assertEquals(series("\\(other\\)", "ok"), 10);
  assertEquals(text.includes("made up"), false);
  const [, sum] = /^floodgate_job_duration_seconds_sum\{job="good",outcome="ok"\} (.*)$/m.exec(
    text,
  )!;
  assert(Number(sum) >= 0.055 && Number(sum) < 5, sum);
});

Deno.test("metrics describe the process and its build", async () => {
  await using served = await Served.open();
  const text = await exposed(served);
  const value = (name: string) => Number(new RegExp(`^${name} (.*)$`, "m").exec(text)?.[1]);
  assert(value("process_resident_memory_bytes") > 10e6);
  assert(value("process_open_fds") > 3 && value("process_open_fds") < value("process_max_fds"));
  assert(value("process_cpu_seconds_total") > 0.05);
  const age = Date.now() / 1_000 - value("process_start_time_seconds");
  assert(age > 0 && age < 3_600, String(age));
  assertMatch(text, new RegExp(`^floodgate_build_info\\{.*deno="${Deno.version.deno}"`, "m"));
  await until(async () => (await valueOf(served, "floodgate_event_loop_delay_seconds_count"))! > 0);
});

Deno.test(
  "metrics are scraped by Prometheus, as OpenMetrics",
  { ignore: NO_PROMETHEUS },
  async () => {
    await using folder = await TempFolder.make();
    await using served = await Served.open();
    const job = served.engine.job("servehealth", "tcp://127.0.0.1:0");
    const out = job.stdout.addTail(1);
    await job.run();
    const asked = await fetch(out.text.replace("tcp:", "http:") + "/metrics", {
      headers: { accept: "application/openmetrics-text;version=1.0.0,text/plain;q=0.5" },
    });
    assertEquals(
      asked.headers.get("content-type"),
      "application/openmetrics-text; version=1.0.0; charset=utf-8",
    );
    assertMatch(await asked.text(), /\n# EOF\n$/);
    await Deno.writeTextFile(
      `${folder.path}/prometheus.yml`,
      JSON.stringify({
        global: { scrape_interval: "100ms", scrape_timeout: "100ms" },
        scrape_configs: [{
          job_name: "floodgate",
          static_configs: [{ targets: [out.text.replace("tcp://", "")] }],
        }],
      }),
    );
    const port = freePort();
    const process = new Deno.Command("prometheus", {
      args: [
        `--config.file=${folder.path}/prometheus.yml`,
        `--storage.tsdb.path=${folder.path}/data`,
        `--web.listen-address=127.0.0.1:${port}`,
      ],
      stdout: "null",
      stderr: "null",
    }).spawn();
    try {
      const query = async (text: string) => {
        const answer = await fetch(
          `http://127.0.0.1:${port}/api/v1/query?query=${encodeURIComponent(text)}`,
        ).catch(() => undefined); // Prometheus does not listen yet.
        return answer?.ok ? (await answer.json()).data.result : (await answer?.body?.cancel(), []);
      };
      await until(async () => (await query("floodgate_ready"))[0]?.value[1] === "1");
      // It is 0 after a scrape that took too long.
      await until(async () => (await query("up"))[0]?.value[1] === "1");
      const [{ metric }] = await query("floodgate_build_info");
      assertEquals(metric.deno, Deno.version.deno);
    } finally {
      process.kill("SIGKILL");
      await process.status;
    }
  },
);

Deno.test("metrics count requests by route, method and status, and no client's own values", async () => {
  await using served = await Served.open();
  await exposed(served);
  const { router, engine } = served;
  engine.register("greet", (job) => job.print(`{"hello":"wörld"}`));
  engine.register("long", async (job) => {
    await job.print("begun\n");
    await new Promise((resolve) => setTimeout(resolve, 30)); // Which the metrics have to count.
    await job.print("done\n");
  });
  router.job({ method: "GET", path: "/greet/:name", job: "greet" });
  router.job({
    method: "GET",
    path: "/long",
    job: "long",
    stream: true,
    contentType: "text/plain",
  });
  router.get("/plain/*", (c) => c.text("plain", 201));
  const { port } = served.target as Deno.ConnectOptions;
  const url = `http://127.0.0.1:${port}`;
  const get = async (path: string, init?: RequestInit) => (await fetch(url + path, init)).text();
  for (let i = 0; i < 5; i++) await get(`/v1.40/greet/${crypto.randomUUID()}`);
  await get("/long");
  await get("/plain/x");
  await get(`/none/${crypto.randomUUID()}`);
  await get("/greet/x", { method: "DELETE" });
  await get("/version", { method: "MADEUP" });
  await get("/_ping");
  const labels = (route: string, method: string, status: number | string) =>
    `{route="${route}",method="${method}",status="${status}"}`;
  const count = (...args: Parameters<typeof labels>) =>
    valueOf(served, `floodgate_http_request_duration_seconds_count${labels(...args)}`);
  assertEquals(await count("/greet/:name", "GET", 200), 5);
  await until(async () => await count("/long", "GET", 200) === 1);
  assertEquals(await count("/plain/*", "GET", 201), 1);
  assertEquals(await count("", "GET", 404), 1);
  assertEquals(await count("", "DELETE", 405), 1);
  assertEquals(await count("", "(other)", 405), 1);
  assertEquals(await count("/_ping", "GET", 200), 1);
  const bytes = (...args: Parameters<typeof labels>) =>
    valueOf(served, `floodgate_http_response_body_bytes_total${labels(...args)}`);
  assertEquals(await bytes("/greet/:name", "GET", 200), 5 * 18);
  assertEquals(await bytes("/long", "GET", 200), 11);
  const took = await valueOf(
    served,
    `floodgate_http_request_duration_seconds_sum${labels("/long", "GET", 200)}`,
  );
  assert(took! >= 0.029 && took! < 5, `${took}`);
  assertEquals(/\/none\/|MADEUP/.test(await exposed(served)), false);
});

Deno.test("metrics count requests that are refused, and those whose clients leave", async () => {
  await using served = await Served.open();
  await exposed(served);
  served.engine.register("wait", async (job) => {
    await job.print("begun\n");
    await new Promise((resolve) => job.signal.addEventListener("abort", resolve));
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait", stream: true });
  const leaver = await Client.to(served.target);
  await leaver.send("GET /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await leaver.sees(/begun/);
  leaver[Symbol.dispose]();
  await until(async () => await valueOf(served, "floodgate_http_requests_broken_off_total") === 1);
  const stranger = await Client.to(served.target);
  await stranger.send("GET /version HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
  await stranger.ended();
  assertEquals(
    await valueOf(
      served,
      'floodgate_http_request_duration_seconds_count{route="",method="GET",status="403"}',
    ),
    1,
  );
});

foreignTest(
  "metrics tell of upgraded connections while they are open and when they have ended",
  async () => {
    await using doors = await Doors.open();
    const { served } = doors;
    await exposed(served);
    served.engine.register("cat", async (job) => {
      job.setenvBool("Tty", true);
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    });
    served.router.job({ method: "POST", path: "/raw/:id", job: "cat", upgrade: "tcp" });
    served.router.job({ method: "GET", path: "/ws/:id", job: "cat", upgrade: "websocket" });
    const sum = async (name: string, labels: string) => {
      const lines = (await exposed(served)).split("\n");
      return lines.filter((line) => line.startsWith(`${name}{`) && line.includes(labels))
        .reduce((sum, line) => sum + Number(line.split(" ").at(-1)), 0);
    };
    const hijacked = () => sum("floodgate_connections", 'state="hijacked"');
    const counted = (labels: string) =>
      sum("floodgate_http_request_duration_seconds_count", labels);
    const ended = async () => [
      await counted('route="/raw/:id",method="POST",status="101"'),
      await counted('route="/ws/:id",method="GET",status="101"'),
    ];
    const raws = await Promise.all(
      doors.doors.map(({ target }) => upgrade(target, upgradeOf("/raw/1"))),
    );
    const sockets = await Promise.all(doors.doors.map(({ url }) => openSocket(`${url}/ws/1`)));
    assertEquals(await hijacked(), 4);
    assertEquals(await ended(), [0, 0]);
    for (const raw of raws) {
      await raw.send("hello");
      await raw.conn.closeWrite();
      assertEquals(await raw.ended(), "hello");
      raw.close();
    }
    for (const socket of sockets) socket.terminate();
    await doors.empty();
    assertEquals([await hijacked(), await ended()], [0, [2, 2]]);
    assertEquals(
      await sum("floodgate_http_response_body_bytes_total", 'route="/raw/:id"'),
      10,
    );
    assertEquals(await valueOf(served, "floodgate_http_requests_broken_off_total"), 0);
  },
);

Deno.test("metrics count requests that are refused because too much is in work", async () => {
  await using served = await Served.open({ MaxRequests: "1" });
  await exposed(served);
  const go = Promise.withResolvers<void>();
  served.engine.register("wait", () => go.promise);
  served.router.job({ method: "POST", path: "/wait", job: "wait" });
  using first = await Client.to(served.target);
  const waiting = first.ask("POST /wait HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await until(async () => (await served.stats()).work.requests === 1);
  for (let i = 0; i < 3; i++) {
    using refused = await Client.to(served.target);
    assertEquals((await refused.ask(PING)).status, 503);
  }
  const count = 'floodgate_http_request_duration_seconds_count{route="",method="GET",status="503"}';
  assertEquals(await valueOf(served, count), 3);
  const overload = `floodgate_http_requests_overload_total{listener="${served.addresses[0]}"}`;
  assertEquals(await valueOf(served, overload), 3);
  go.resolve();
  assertEquals((await waiting).status, 204);
});
