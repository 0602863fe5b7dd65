import { assert, assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { type } from "npm:arktype@2.2.9";
import * as v from "npm:valibot@1.5.0";
import * as z from "npm:zod@4.6.7";
import type { Job } from "../../engine.ts";
import type { InputOf, Route } from "../../router/route.ts";
import { FakeClock } from "../support/clock.ts";
import { isPending, settle, until } from "../support/daemon.ts";
import { assertJsonError, assertTextError, make, serve } from "../support/router.ts";

const JSON_TYPE = { "Content-Type": "application/json" };

/** A router with a row whose jobs are kept. */
function shop(route: Partial<Route> = {}) {
  const app = make();
  const jobs: Job[] = [];
  app.engine.register("order", async (job) => {
    jobs.push(job);
    await job.print(JSON.stringify(job.input ?? null));
  });
  app.router.job({ method: "POST", path: "/shops/:shop/orders", job: "order", ...route });
  const order = (query = "", body?: BodyInit, headers: HeadersInit = JSON_TYPE, prefix = "") =>
    app.router.request(`${prefix}/shops/north/orders?${query}`, {
      method: "POST",
      headers,
      ...body !== undefined && { body },
    });
  return { ...app, jobs, order };
}

// What a job gets.

Deno.test("Router.job gives a job what was validated, typed by its row", async () => {
  const route = {
    method: "POST",
    path: "/shops/:shop/orders/:number{[0-9]+}",
    job: "typed",
    params: { number: { type: "integer", maximum: 9 } },
    query: {
      dry: "boolean",
      limit: { type: "integer", default: 5 },
      by: { type: "string", enum: ["name", "price"] },
      tags: "list",
      filters: "filters",
    },
    headers: { "X-Count": "integer" },
    body: {
      type: "env",
      fields: { item: { type: "string", required: true }, count: "integer" },
    },
  } as const satisfies Route;
  const { engine, router } = make();
  let got: unknown;
  engine.register("typed", (job) => {
    const { params, query, headers, body } = job.input as InputOf<typeof route>;
    // Each of these lines is a type as well.
    const shop: string = params.shop;
    const number: number = params.number;
    const dry: boolean = query.dry;
    const limit: number = query.limit;
    const by: "name" | "price" | undefined = query.by;
    const tags: readonly string[] = query.tags;
    const names: readonly string[] | undefined = query.filters?.name;
    const more: number | undefined = headers["X-Count"];
    const item: string = body.item;
    const count: number | undefined = body.count;
    got = { shop, number, dry, limit, by, tags, names, more, item, count };
  });
  router.job(route);
  const path = "/shops/north/orders/7?dry=1&by=price&tags=a&tags=b&filters=" +
    encodeURIComponent('{"name":{"x":true}}');
  const response = await router.request(path, {
    method: "POST",
    headers: { ...JSON_TYPE, "x-count": "3" },
    body: '{"item":"pear"}',
  });
  assertEquals(response.status, 204);
  assertEquals(got, {
    shop: "north",
    number: 7,
    dry: true,
    limit: 5,
    by: "price",
    tags: ["a", "b"],
    names: ["x"],
    more: 3,
    item: "pear",
    count: undefined,
  });
});

Deno.test("Router.job types the variables of a path that its row declares nothing of", async () => {
  const route = { method: "GET", path: "/a/:x/:y?", job: "typed", query: ["q"] } as const;
  const { engine, router } = make();
  engine.register("typed", (job) => {
    const { params, query } = job.input as InputOf<typeof route>;
    const x: string = params.x;
    const q: string | undefined = query.q;
    // @ts-expect-error -- no variable of the path
    params.z;
    return job.print(`${x} ${params.y} ${q}`);
  });
  router.job(route);
  assertEquals(await (await router.request("/a/1/2?q=3")).text(), "1 2 3");
});

Deno.test("Router.job gives no input to a job whose row declares none", async () => {
  const { jobs, order } = shop();
  await (await order("dry=1")).text();
  const job = jobs[0]!;
  assertEquals([job.input, job.args, job.env.size], [undefined, ["north"], 0]);
});

Deno.test("Router.job refuses wrong input in one line, and runs no job", async () => {
  const { jobs, order, router } = shop({
    params: { shop: { type: "string", enum: ["north", "south"] } },
    query: { count: "integer" },
    headers: { "X-Count": "integer" },
    body: { type: "env", fields: { item: "string" } },
  });
  for (
    const [response, message] of [
      [order("count=x"), 'query parameter count is "x", expected an integer'],
      [
        order("", "{}", { ...JSON_TYPE, "X-Count": "x" }),
        'header X-Count is "x", expected an integer',
      ],
      [order("", '{"item":1}'), "body field item is 1, expected a string"],
      [
        router.request("/shops/west/orders", { method: "POST" }),
        'path parameter shop is "west", expected one of north, south',
      ],
    ] as const
  ) await assertJsonError(await response, 400, message);
  await assertTextError(
    await order("count=x", undefined, {}, "/v1.23"),
    400,
    'query parameter count is "x", expected an integer',
  );
  assertEquals(jobs, []);
});

Deno.test("Router.job refuses a body with another Content-Type", async () => {
  const json = shop({ body: { type: "env" } });
  const text = { "Content-Type": "text/plain" };
  const wanted = "expected application/json";
  await assertJsonError(
    await json.order("", "{}", text),
    415,
    `Content-Type is "text/plain", ${wanted}`,
  );
  const none = new Uint8Array([123, 125]);
  await assertJsonError(await json.order("", none, {}), 415, `Content-Type is missing, ${wanted}`);
  assertEquals((await json.order("", undefined, {})).status, 200);
  assertEquals(
    (await json.order("", "{}", { "Content-Type": "application/json;charset=utf-8" })).status,
    200,
  );
  const docker = shop({ body: { type: "env", mismatch: 400 } });
  await assertJsonError(
    await docker.order("", "{}", text),
    400,
    `Content-Type is "text/plain", ${wanted}`,
  );
  const tar = shop({ body: { type: "stdin", contentTypes: ["application/x-tar"] } });
  assertEquals((await tar.order("", "{}", text)).status, 415);
  assertEquals((await tar.order("", "{}", { "Content-Type": "application/x-tar" })).status, 200);
  assertEquals(json.jobs.length + docker.jobs.length, 2);
});

Deno.test("Router.job takes forms of both kinds", async () => {
  const { jobs, order } = shop({ body: { type: "form", fields: { count: "integer" } } });
  const multipart = new FormData();
  multipart.set("item", "pear");
  multipart.set("count", "3");
  for (const body of [new URLSearchParams("item=pear&count=3"), multipart]) {
    const response = await order("", body, {});
    assertEquals((await response.json()).body, { item: "pear", count: 3 });
    assertEquals(jobs.pop()!.env.toObject(), { item: "pear", count: "3" });
  }
  await assertJsonError(
    await order("", new URLSearchParams("count=x"), {}),
    400,
    'form field count is "x", expected an integer',
  );
  assertEquals((await order("", "{}")).status, 415);
  const broken = { "Content-Type": "multipart/form-data; boundary=x" };
  await assertJsonError(
    await order("", "--y", broken),
    400,
    "the request body is malformed, expected a form",
  );
});

Deno.test("Router.job takes schemas of zod, valibot and arktype, for bodies and queries", async () => {
  const libraries = {
    zod: [
      z.object({ item: z.string(), count: z.number().int().default(1) }),
      z.object({ dry: z.stringbool().default(false) }),
    ],
    valibot: [
      v.object({ item: v.string(), count: v.optional(v.pipe(v.number(), v.integer()), 1) }),
      v.object({ dry: v.optional(v.pipe(v.string(), v.transform((text) => text === "1")), "0") }),
    ],
    arktype: [
      type({ item: "string", count: "number.integer = 1" }),
      type({ dry: type("string").pipe((text) => text === "1").default("0") }),
    ],
  } as const;
  for (const [library, [body, query]] of Object.entries(libraries)) {
    const { jobs, order } = shop({ body, query });
    const good = await order("dry=1&more=x", '{"item":"pear","count":3}');
    assertEquals([library, await good.json()], [library, {
      params: { shop: "north" },
      query: { dry: true, ...library === "arktype" && { more: "x" } },
      headers: {},
      body: { item: "pear", count: 3 },
    }]);
    const job = jobs[0]!;
    assertEquals([job.getenv("item"), job.getenvInt("count"), job.getenv("dry")], ["pear", 3, "1"]);
    const less = await (await order("", '{"item":"pear"}')).json();
    assertEquals([less.query, less.body], [{ dry: false }, { item: "pear", count: 1 }]);
    for (
      const [text, part] of [
        ['{"item":"pear","count":1.5}', "body field count is 1.5: "],
        ['{"count":1}', "body field item is missing: "],
        ["[]", ""],
        ["", ""],
        ["{", "request body: expected JSON: "],
      ] as const
    ) {
      const response = await order("", text);
      assertEquals([library, text, response.status], [library, text, 400]);
      assertStringIncludes((await response.json()).message, part);
    }
    assertEquals(
      (await order("", '{"item":"pear"}', { "Content-Type": "text/plain" })).status,
      415,
    );
  }
});

// Which row it is.

Deno.test("Router.job runs the row of the requested API version", async () => {
  const { engine, router } = make();
  for (const job of ["old", "middle", "new"]) engine.register(job, (it) => it.print(it.name));
  router.job({ method: "GET", path: "/x", job: "old", until: "1.23" });
  router.job({ method: "GET", path: "/x", job: "middle", since: "1.24", until: "1.29" });
  router.job({ method: "GET", path: "/x", job: "new", since: "1.30" });
  const answers = await Promise.all(
    ["/v1.12", "/v1.23", "/v1.24", "/v1.29", "/v1.30", "/v1.47", ""].map(async (prefix) =>
      await (await router.request(`${prefix}/x`)).text()
    ),
  );
  assertEquals(answers, ["old", "old", "middle", "middle", "new", "new", "new"]);
});

Deno.test("Router.job names the API versions of a row that the requested one lacks", async () => {
  const { router } = make();
  router.job({ method: "GET", path: "/late", job: "x", since: "1.30" });
  router.job({ method: "GET", path: "/early", job: "x", until: "1.30" });
  await assertJsonError(
    await router.request("/v1.29/late"),
    400,
    "GET /late requires API version 1.30 or newer",
  );
  await assertJsonError(
    await router.request("/early"),
    400,
    "GET /early requires API version 1.30 or older",
  );
  assertEquals((await router.request("/early", { method: "PUT" })).status, 405);
});

Deno.test("Router.job runs the row whose parameter the request has", async () => {
  const { engine, router } = make();
  for (const job of ["pull", "import"]) engine.register(job, (it) => it.print(`${it}`));
  const route = { method: "POST", path: "/create", args: ["from"], query: ["from"] } as const;
  router.job({ ...route, job: "pull", when: "from" });
  router.job({ ...route, job: "import" });
  const create = async (query: string) =>
    await (await router.request(`/create${query}`, { method: "POST" })).text();
  assertEquals(
    [await create("?from=a"), await create("?from="), await create("")],
    ["pull(a)", "import()", "import()"],
  );
});

Deno.test("Router.job takes a row for HEAD beside that for GET", async () => {
  for (const methods of [["HEAD", "GET"], ["GET", "HEAD"]] as const) {
    const { engine, router } = make();
    const ran: string[] = [];
    engine.register("stat", () => void ran.push("stat"));
    engine.register("get", (job) => {
      ran.push("get");
      return job.print("text");
    });
    for (const method of methods) {
      router.job({ method, path: "/file", job: method === "HEAD" ? "stat" : "get" });
    }
    await router.request("/file", { method: "HEAD" });
    assertEquals(await (await router.request("/file")).text(), "text");
    assertEquals(ran, ["stat", "get"]);
  }
});

Deno.test("Router.job refuses a row that another one hides", () => {
  const { router } = make();
  const route = { method: "GET", path: "/x", job: "x" } as const;
  router.job({ ...route, until: "1.23" }).job({ ...route, since: "1.24", when: "a" });
  for (
    const range of [{}, { until: "1.12" }, { since: "1.23" }, { since: "1.20", until: "1.30" }]
  ) {
    assertThrows(() => router.job({ ...route, ...range }), TypeError, "GET /x");
  }
  router.job({ ...route, since: "1.24" });
  router.job({ ...route, method: "POST" });
  // Built-in rows do not conflict with those of a module.
  router.job({ method: "GET", path: "/containers/json", job: "mine" });
});

Deno.test("Router.job refuses a row that contradicts itself", () => {
  const { router } = make();
  for (
    const [route, message] of [
      [{ query: { a: "text" } }, 'query parameter a is "text", expected one of string, integer'],
      [{ params: { y: "string" } }, 'params has "y", expected one of x'],
      [{ body: "xml" }, "body is"],
      [{ streaming: true }, 'a row has no "streaming", expected answers, args, body, bodyLimit, '],
      [
        { query: { a: { type: "string", minimum: 1 } } },
        'query parameter a, a string, has no "minimum", expected default, description, enum, env, ',
      ],
      [
        { params: { x: { type: "integer", min: 1 } } },
        'path parameter x, an integer, has no "min"',
      ],
      [
        { body: { type: "env", field: {} } },
        'body has no "field", expected contentTypes, fields, ',
      ],
      [{ answers: { 200: { kind: "json" } } }, 'answer 200 has no "kind", expected contentType, '],
      [{ answers: { 600: "json" } }, "answer 600 is not a status, expected 200 to 599"],
      [{ answers: { 204: "json" } }, 'answer 204 is "json", expected none'],
      [{ answers: { 200: "xml" } }, 'answer 200 is "xml", expected one of json, lines'],
      [{ since: "1" }, 'since is "1", expected MAJOR.MINOR'],
      [{ concurrency: 0 }, "concurrency is 0, expected an integer from 1 on"],
      [{ timeout: 0 }, "timeout is 0, expected a number of milliseconds above 0"],
      [{ timeout: NaN }, "timeout is NaN, expected a number of milliseconds above 0"],
    ] as const
  ) {
    const { message: said } = assertThrows(
      () => router.job({ method: "GET", path: "/a/:x", job: "x", ...route as Partial<Route> }),
      TypeError,
    );
    assertStringIncludes(said, "row GET /a/:x: ");
    assertStringIncludes(said, message);
  }
});

// How long, and how many.

Deno.test("Router.job answers 504 after the row's timeout, and aborts the job", async () => {
  using clock = new FakeClock();
  const { engine, router } = make();
  const reasons: unknown[] = [];
  engine.register("slow", async (job) => {
    await new Promise((resolve) => job.signal.addEventListener("abort", resolve));
    reasons.push(job.signal.reason);
    await job.print("late");
  });
  router.job({ method: "GET", path: "/slow", job: "slow", timeout: 1_000 });
  const timeout = { ms: 1_000, kind: "unavailable" } as const;
  router.job({ method: "GET", path: "/busy", job: "slow", timeout });
  for (const [path, status] of [["/slow", 504], ["/busy", 503]] as const) {
    const response = Promise.resolve(router.request(path));
    await clock.pass(999);
    assert(await isPending(response));
    await clock.pass(1);
    await assertJsonError(await response, status, "job slow took longer than 1000 ms");
  }
  await until(() => engine.stats.running === 0);
  assertEquals(reasons.map((reason) => (reason as Error).message), [
    "job slow took longer than 1000 ms",
    "job slow took longer than 1000 ms",
  ]);
});

Deno.test("Router.job lets a stream that has begun go on past its timeout", async () => {
  using clock = new FakeClock();
  const { engine, router } = make();
  const gate = Promise.withResolvers<void>();
  engine.register("ticks", async (job) => {
    await job.print("one\n");
    await gate.promise;
    await job.print(`two ${job.signal.aborted}\n`);
  });
  router.job({ method: "GET", path: "/ticks", job: "ticks", timeout: 1_000, stream: true });
  const response = await router.request("/ticks");
  await clock.pass(5_000);
  gate.resolve();
  assertEquals(await response.text(), "one\ntwo false\n");
});

Deno.test("Router.job sets no timer for a job that ends in time", async () => {
  using clock = new FakeClock();
  const { engine, router } = make();
  engine.register("quick", (job) => job.print("done"));
  engine.register("later", async (job) => {
    await settle();
    await job.print("done");
  });
  for (const job of ["quick", "later"]) {
    router.job({ method: "GET", path: `/${job}`, job, timeout: 1_000 });
  }
  for (const job of ["quick", "later"]) {
    assertEquals(await (await router.request(`/${job}`)).text(), "done");
    await settle();
    assertEquals(clock.timers, 0);
  }
});

Deno.test("Router.job with concurrency runs and queues so many, and answers 503 to the others", async () => {
  const { engine, router } = make();
  const gates: PromiseWithResolvers<void>[] = [];
  engine.register("work", async (job) => {
    const gate = Promise.withResolvers<void>();
    gates.push(gate);
    await gate.promise;
    await job.print("done");
  });
  router.job({
    method: "GET",
    path: "/work",
    job: "work",
    concurrency: { running: 2, waiting: 1 },
  });
  engine.register("fails", () => Promise.reject(new Error("no")));
  router.job({ method: "GET", path: "/fails", job: "fails", concurrency: 1 });
  const work = () => Promise.resolve(router.request("/work"));
  const first = [work(), work(), work()];
  await until(() => gates.length === 2);
  const refused = await work();
  assertEquals(refused.headers.get("retry-after"), "1");
  await assertJsonError(refused, 503, "too many requests at once: 2 run and 1 wait");
  gates[0]!.resolve();
  await until(() => gates.length === 3);
  for (const gate of gates) gate.resolve();
  for (const each of first) assertEquals(await (await each).text(), "done");
  // A job that fails releases the semaphore too.
  for (let i = 0; i < 3; i++) assertEquals((await router.request("/fails")).status, 500);
});

Deno.test("Router.job drops a queued request whose client leaves", async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("work", (job) =>
      new Promise((resolve) => {
        job.signal.addEventListener("abort", () => resolve());
      }));
    const concurrency = { running: 1, waiting: 1 };
    router.job({ method: "GET", path: "/work", job: "work", concurrency });
  });
  const url = `http://127.0.0.1:${server.port}/work`;
  // A request that is aborted rejects: that is how its client leaves.
  const leave = new AbortController();
  const first = fetch(url, { signal: leave.signal }).catch(() => {});
  await until(() => server.engine.stats.running === 2); // serveapi is the other.
  const leaveToo = new AbortController();
  const second = fetch(url, { signal: leaveToo.signal }).catch(() => {});
  await until(async () => {
    const third = await fetch(url, { signal: AbortSignal.timeout(200) }).catch(() => undefined);
    await third?.body?.cancel();
    return third?.status === 503;
  });
  leaveToo.abort();
  await second;
  // Its place in the queue is free: another waits there, and runs when the first has ended.
  const leaveLast = new AbortController();
  await until(async () => {
    const asked = fetch(url, { signal: leaveLast.signal }).catch(() => undefined);
    return await isPending(asked) || (await asked)?.status !== 503;
  });
  leave.abort();
  await first;
  await until(() => server.engine.stats.running === 2);
  leaveLast.abort();
  await until(() => server.engine.stats.running === 1);
});

// What it is described by.

Deno.test("Router serves the OpenAPI description of its rows", async () => {
  const { engine, router } = make();
  router.job({ method: "GET", path: "/mine/:id", job: "mine", summary: "Mine" });
  const describe = async (
    prefix = "",
  ) => (await (await router.request(`${prefix}/openapi.json`)).json());
  const before = await describe();
  assertEquals(Object.keys(before.paths), [
    "/mine/{id}",
    "/events",
    "/info",
    "/version",
    "/debug/vars",
  ]);
  engine.register("containers_prune", () => {});
  assert("/containers/prune" in (await describe()).paths);
  assert(!("/containers/prune" in (await describe("/v1.24")).paths));
  assertEquals((await describe("/v1.24")).servers, [{ url: "/v1.24" }]);
});
