import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { formsOf } from "../../router/answers.ts";
import { DOCKER_API } from "../../router/dockerapi.ts";
import { attachRoutes, curl, renderRoutes } from "../../router/page.ts";
import type { Route } from "../../router/route.ts";
import { Daemon, missing, run, TempFolder } from "../support/daemon.ts";
import { make, serve } from "../support/router.ts";

const ROWS: readonly Route[] = Object.values(DOCKER_API).flat();

Deno.test("attachRoutes serves a page of the registered rows, and of no others", async () => {
  const { router } = make();
  router.job({
    method: "POST",
    path: "/shops/:shop/orders",
    job: "order",
    query: { limit: { type: "integer", maximum: 9, description: "How <many> & which" } },
    summary: 'Orders "things"',
    since: "1.30",
  });
  attachRoutes(router);
  const response = await router.request("/debug/routes");
  assertMatch(response.headers.get("content-type")!, /^text\/html/);
  assertStringIncludes(response.headers.get("content-security-policy")!, "default-src 'none'");
  const page = await response.text();
  assertStringIncludes(page, "POST /shops/:shop/orders");
  assertStringIncludes(
    page,
    "Orders &quot;things&quot;. Job <code>order</code>, from API version 1.30",
  );
  assertStringIncludes(page, "integer; at most 9; How &lt;many&gt; &amp; which");
  assertStringIncludes(page, "curl -X POST &#39;http://localhost/shops/SHOP/orders&#39;");
  assertStringIncludes(page, "GET /version");
  assert(!page.includes("/containers/prune"));
  assert(page.length < 20_000);
});

Deno.test("renderRoutes has a line for a shell for each row", () => {
  const page = renderRoutes(ROWS, '--unix-socket "$SOCKET" http://localhost');
  assertEquals(page.match(/<pre>curl /g)!.length, ROWS.length);
  assert(page.length < 100_000);
  const row: Route = { method: "GET", path: "/it's", job: "x" };
  assertEquals(
    curl(row, '--unix-socket "$SOCKET" http://localhost'),
    `curl --unix-socket "$SOCKET" 'http://localhost/it'\\''s'`,
  );
});

const ignore = await missing("curl", ["--version"]);

Deno.test("the lines of renderRoutes work in a shell", { ignore }, async () => {
  await using server = await serve(({ engine }) => {
    for (const row of ROWS) {
      if (engine.has(row.job)) continue;
      engine.register(row.job, async (job) => {
        await job.stdin.text();
        if (formsOf(row)[0].type !== "none") await job.print("{}\n");
      });
    }
  });
  await using folder = await TempFolder.make();
  await Deno.writeTextFile(`${folder.path}/FILE`, "bytes");
  const base = `http://127.0.0.1:${server.port}`;
  const rows = ROWS.filter(({ job, path }) => job !== "events" && !path.endsWith("/ws"));
  const lines = rows.map((row) =>
    curl(row, base).replace(/^curl /, "curl -s -o out -w '%{http_code}\\n' ")
  );
  const { stdout } = await run("sh", ["-c", lines.join("\n")], { cwd: folder.path });
  const statuses = stdout.trim().split("\n").map(Number);
  assertEquals(
    rows.map(({ method, path }, i) => `${method} ${path} ${statuses[i]}`),
    rows.map((row) => `${row.method} ${row.path} ${formsOf(row)[0].status}`),
  );
});

Deno.test("main serves the page of routes with --debug only", async () => {
  for (const debug of [true, false]) {
    const flags = debug ? ["--debug", "-l", "info"] : [];
    await using daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", ...flags]);
    const url = `http://127.0.0.1:${await daemon.port()}/debug/routes`;
    await daemon.open();
    const response = await fetch(url);
    assertEquals(response.status, debug ? 200 : 404);
    const text = await response.text();
    if (debug) assertStringIncludes(text, `curl &#39;${new URL(url).origin}/version&#39;`);
  }
});
