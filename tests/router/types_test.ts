import { assertEquals } from "@std/assert";
import { Hono } from "npm:hono@4.13.19";
import { hc } from "npm:hono@4.13.19/client";
import { createMiddleware } from "npm:hono@4.13.19/factory";
import { validator } from "npm:hono@4.13.19/validator";
import { Engine } from "../../engine.ts";
import { createRouter, type Router } from "../../router.ts";

// What does not type-check here fails the check of the tests.

function chained() {
  const engine = new Engine({ log: () => {} });
  engine.register("args", (job) => job.print(JSON.stringify([job.args, job.env.toObject()])));
  const router = createRouter<{ Variables: { user: string } }>(engine);
  router.use("*", async (c, next) => {
    c.set("user", "alice");
    await next();
  });
  const count = createMiddleware<{ Variables: { n: number } }>(async (c, next) => {
    c.set("n", 7);
    await next();
  });
  return router
    .get("/a/:id", (c) => c.json({ id: c.req.param("id"), user: c.var.user }))
    .job({ method: "GET", path: "/users/:user-id", job: "args", query: ["all"] })
    .post(
      "/p",
      validator("json", (value) => ({ name: String(value.name) })),
      count,
      (c) => c.json({ name: c.req.valid("json").name, n: c.var.n, user: c.var.user }, 201),
    )
    .job({ method: "POST", path: "/env", job: "args", body: "env" })
    .use("/x/*", count)
    .on("GET", "/on", (c) => c.text("on"))
    .all("/all", (c) => c.text("all"))
    .route("/sub", new Hono().get("/y", (c) => c.text("y")))
    .mount("/m", () => new Response("mounted"))
    .notFound((c) => c.text("nothing there", 404))
    .onError((error, c) => c.text(error.message, 500))
    .basePath("/api")
    .get("/b", (c) => c.text(c.env.version ?? "none"))
    .job({ method: "DELETE", path: "/c/:d", job: "args" });
}

// What has to fail the check: each line below a comment that expects it.
export function mistaken(router: Router) {
  // @ts-expect-error -- no member of a row
  router.job({ method: "GET", path: "/a", job: "a", streaming: true });
  // @ts-expect-error -- no answer
  router.get("/a", () => "text");
  // @ts-expect-error -- no answer
  router.post("/a", async (c) => await c.req.text());
  // @ts-expect-error -- no answer, behind middleware
  router.put("/a", (_c, next) => next(), () => ({ a: 1 }));
  // @ts-expect-error -- no answer
  router.on("GET", "/a", () => 1);
}

Deno.test("Router chains, with the types of its routes, variables and rows", async () => {
  const app = chained();
  const client = hc<typeof app>("http://localhost", {
    fetch: (input: RequestInfo | URL, init?: RequestInit) => app.request(`${input}`, init),
  });
  const a: { id: string; user: string } = await (await client.a[":id"].$get({ param: { id: "1" } }))
    .json();
  assertEquals(a, { id: "1", user: "alice" });
  const p = await client.p.$post({ json: { name: "x" } } as never);
  const made: { name: string; n: number; user: string } = await p.json();
  assertEquals([p.status, made], [201, { name: "x", n: 7, user: "alice" }]);
  const user = client.users[":user-id"];
  const got = await user.$get({ param: { "user-id": "1" }, query: { all: "1" } });
  assertEquals(await got.json(), [["1"], { all: "1" }]);
  const env = await client.env.$post({ json: { a: "b" } });
  assertEquals(await env.json(), [[], { a: "b" }]);
  assertEquals(await (await client.api.b.$get()).text(), "none");
  assertEquals(await (await client.sub.y.$get()).text(), "y");
  const removed = await client.api.c[":d"].$delete({ param: { d: "x" } });
  assertEquals(await removed.json(), [["x"], {}]);
  assertEquals(await (await app.request("/m/x")).text(), "mounted");
  assertEquals(await (await app.request("/nope")).text(), "nothing there");
  // @ts-expect-error There is no such route.
  void client.nope;
  // @ts-expect-error The variable has another name.
  void ((param: { id: string }) => user.$get({ param, query: {} }));
});

Deno.test("Router is what an installer and another app of Hono's take", () => {
  const plain: Router = createRouter(new Engine({ log: () => {} }));
  const row = { method: "PUT", body: "stdin" } as const;
  plain.job({ ...row, path: "/files/:name", job: "x" });
  new Hono().route("/d", plain).mount("/e", plain.fetch);
});
