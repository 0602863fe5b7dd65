import { assertEquals, assertMatch, assertNotMatch, assertStringIncludes } from "@std/assert";
import { basicAuth } from "npm:hono@^4.13/basic-auth";
import { HTTPException } from "npm:hono@^4.13/http-exception";
import { type ErrorKind, type Handler, type Job, TypedError } from "../../engine.ts";
import { type App, assertJsonError, assertTextError, make } from "../support/router.ts";

/** Makes a router with two routes that fail so: in a job, and in a handler of Hono's. */
function failing(fail: (job?: Job) => unknown): App & { paths: string[] } {
  const app = make();
  app.engine.register("fail", (job) => fail(job) as ReturnType<Handler>);
  app.router.job({ method: "GET", path: "/job", job: "fail" });
  app.router.get("/plain", async (c) => {
    await fail();
    return c.text("not reached");
  });
  return { ...app, paths: ["/job", "/plain"] };
}
function thrower(error: () => unknown): App & { paths: string[] } {
  return failing(() => {
    throw error();
  });
}

const STATUS_OF: Record<ErrorKind, number> = {
  "bad parameter": 400,
  "unauthorized": 401,
  "forbidden": 403,
  "not found": 404,
  "not acceptable": 406,
  "timeout": 408,
  "conflict": 409,
  "too large": 413,
  "not implemented": 501,
  "unavailable": 503,
};

for (const [kind, status] of Object.entries(STATUS_OF) as [ErrorKind, number][]) {
  Deno.test(`Router answers an error of kind "${kind}" with ${status}`, async () => {
    // A message that the wording rules would take for something else, were it not for the kind.
    const message = "no such conflict is impossible, see /etc/motd";
    const { router, paths } = thrower(() => new TypedError(kind, message));
    for (const path of paths) {
      await assertJsonError(await router.request(path), status, message);
      await assertJsonError(await router.request(`/v1.24${path}`), status, message);
      await assertTextError(await router.request(`/v1.23${path}`), status, message);
    }
  });
}

Deno.test("Router knows the kind of an error that came from a module loaded twice", async () => {
  const { router, paths } = thrower(() => Object.assign(new Error("taken"), { kind: "conflict" }));
  for (const path of paths) await assertJsonError(await router.request(path), 409, "taken");
});

Deno.test("Router takes a kind that it does not know for none", async () => {
  for (const kind of ["toString", "teapot"]) {
    const { router, paths } = thrower(() => Object.assign(new Error("hm"), { kind }));
    for (const path of paths) await assertJsonError(await router.request(path), 500, "hm");
  }
});

Deno.test("Router knows the kind of an error that a job reports and does not throw", async () => {
  const { engine, router } = make();
  engine.register("fail", (job) => job.error(new TypedError("conflict", "taken")));
  router.job({ method: "GET", path: "/job", job: "fail" });
  await assertJsonError(await router.request("/job"), 409, "taken");
});

Deno.test("Router knows the kind of an error in a job that another job runs", async () => {
  const { engine, router } = make();
  engine.register("inner", () => {
    throw new TypedError("conflict", "taken");
  });
  engine.register("outer", (job) => job.engine.job("inner").run());
  router.job({ method: "GET", path: "/job", job: "outer" });
  await assertJsonError(await router.request("/job"), 409, "taken");
});

const WORDING: [string, number][] = [
  ["No such container: web", 404],
  ["NO SUCH image: library/busybox:latest", 404],
  ["Bad parameter limit", 400],
  ["Conflict, the name is taken", 409],
  ["Impossible to attach", 406],
  ["Wrong login/password, try again", 401],
  ["This account hasn't been activated", 403],
  // The first rule that fits.
  ["impossible: bad parameter and conflict", 400],
  ["conflict: no such thing", 404],
  ["hasn't been activated: wrong login/password", 401],
  // And none.
  ["nosuch thing, badparameter", 500],
  ["the disk is full", 500],
];

Deno.test("Router finds the status of an error without a kind by its wording", async () => {
  for (const [message, status] of WORDING) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) {
      await assertJsonError(await router.request(path), status, message);
      await assertTextError(await router.request(`/v1.23${path}`), status, message);
    }
    const { engine, router: other } = make();
    engine.register("fail", (job) => job.error(message));
    other.job({ method: "GET", path: "/job", job: "fail" });
    await assertJsonError(await other.request("/job"), status, message);
  }
});

Deno.test("Router answers the other errors with 500 and logs them", async () => {
  for (
    const [error, message] of [
      [new Error("boom"), "boom"],
      [new RangeError(""), "RangeError"],
    ] as const
  ) {
    const { router, paths, lines } = thrower(() => error);
    for (const path of paths) {
      await assertJsonError(await router.request(path), 500, message);
      assertStringIncludes(lines.join("\n"), `error ${path}: ${message}`);
    }
  }
  const { router, lines } = thrower(() => new TypedError("not found", "nothing there"));
  assertEquals((await router.request("/job")).status, 404);
  assertEquals(lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router answers 500 when what a job threw is no Error", async () => {
  for (const [thrown, message] of [["boom", "boom"], [{}, "[object Object]"]] as const) {
    const { router } = thrower(() => thrown);
    await assertJsonError(await router.request("/job"), 500, message);
  }
});

Deno.test("Router answers 500 for a job that ends with a status and no word", async () => {
  const { engine, router } = make();
  engine.register("three", () => 3);
  engine.register("half", () => 0.5);
  router.job({ method: "GET", path: "/three", job: "three" });
  router.job({ method: "GET", path: "/half", job: "half" });
  await assertJsonError(await router.request("/three"), 500, "three: exit status 3");
  await assertJsonError(
    await router.request("/half"),
    500,
    "half returned 0.5, expected an integer exit status",
  );
});

Deno.test("Router answers an HTTPException of Hono's with its status and message", async () => {
  const { router } = make();
  router.get("/plain", () => {
    throw new HTTPException(418, { message: "short and stout" });
  });
  await assertJsonError(await router.request("/plain"), 418, "short and stout");
  await assertTextError(await router.request("/v1.23/plain"), 418, "short and stout");
});

Deno.test("Router answers an HTTPException of Hono's with the answer that it brings", async () => {
  const { router } = make();
  router.use("/guarded/*", basicAuth({ username: "me", password: "secret" }));
  router.get("/guarded/x", (c) => c.text("hello"));
  const refused = await router.request("/guarded/x");
  assertEquals(refused.status, 401);
  assertMatch(refused.headers.get("www-authenticate")!, /^Basic /);
  await refused.body!.cancel();
  const headers = { Authorization: `Basic ${btoa("me:secret")}` };
  assertEquals(await (await router.request("/guarded/x", { headers })).text(), "hello");
});

Deno.test("Router answers 404 where a handler of Hono's finds nothing", async () => {
  const { router } = make();
  router.get("/things/:id", (c) => c.notFound());
  for (const method of ["GET", "HEAD"]) {
    const response = await router.request("/v1.24/things/7", { method });
    assertEquals([response.status, response.headers.has("allow")], [404, false]);
    if (method === "GET") {
      assertEquals(await response.json(), { message: "page not found: /things/7" });
    }
  }
});

/** Expects an answer that says nothing about the host's files or the program's inside. */
async function assertDiscreet(response: Response, status: number): Promise<string> {
  const text = await response.text();
  assertEquals([response.status, text], [status, text]);
  assertNotMatch(text, /secret|file:|shadow|\.ts\b|\bat \w+ \(|:\d+:\d+/);
  return text;
}

Deno.test("Router names no file of the host and shows no stack in an error", async () => {
  for (
    const message of [
      "cannot open /secret: denied",
      "cannot open /secret/shadow.ts: denied\n at foo (file:///a/b.ts:1:2)",
      "cannot open '/secret/shadow': denied",
      'cannot open "/secret/shadow": denied',
      "cannot open (/secret/shadow)",
      "cannot open [/secret/shadow]",
      "cannot open:/secret/shadow",
      "file=/secret/shadow",
      "/secret/shadow",
      "Module not found file:///secret/shadow.ts",
      'Module not found "file:///secret/shadow.ts".',
      "no module at file:///secret/shadow.ts:1:2",
      "cannot listen on unix:///secret/shadow",
      "cannot open '/srv/my own secret/shadow': denied",
    ]
  ) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) {
      await assertDiscreet(await router.request(path), 500);
      await assertDiscreet(await router.request(`/v1.23${path}`), 500);
    }
  }
});

Deno.test("Router leaves names and URLs with slashes in an error", async () => {
  for (
    const message of [
      "cannot pull http://example.com/v2/busybox:1.2: refused",
      "library/busybox:latest is of no use here",
      "localhost:5000/busybox, 1/2 done, and/or / so",
    ]
  ) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) await assertJsonError(await router.request(path), 500, message);
  }
});

Deno.test("Router answers with the first line of an error's message", async () => {
  const { router, paths } = thrower(() =>
    new Error("cannot open /etc/shadow: denied\n at foo (file:///a/b.ts:1:2)")
  );
  for (const path of paths) {
    const { message } = JSON.parse(await assertDiscreet(await router.request(path), 500));
    assertEquals(message, "cannot open (path): denied");
  }
});

Deno.test("Router shows no stack that a job wrote to its stderr", async () => {
  const { engine, router } = make();
  engine.register("fail", async (job) => {
    await job.stderr.write(`${new Error("boom").stack}\n`);
    return 1;
  });
  router.job({ method: "GET", path: "/job", job: "fail" });
  await assertDiscreet(await router.request("/job"), 500);
});

Deno.test("Router takes the system's errors for its own, whatever their wording", async () => {
  // "No such file or directory" is not what the client asked for.
  const { router, paths } = failing(() => Deno.readTextFile("/secret/shadow.ts"));
  for (const path of paths) await assertDiscreet(await router.request(path), 500);
  const { engine, router: other } = make();
  engine.register("inner", async () => void await Deno.readTextFile("/secret/shadow.ts"));
  engine.register("outer", (job) => job.engine.job("inner").run());
  other.job({ method: "GET", path: "/job", job: "outer" });
  await assertDiscreet(await other.request("/job"), 500);
});

Deno.test("Router answers 501 for a route whose job has no handler", async () => {
  const { router } = make();
  router.job({ method: "POST", path: "/x", job: "missing" });
  for (const prefix of ["", "/v1.24"]) {
    await assertJsonError(
      await router.request(`${prefix}/x`, { method: "POST", body: "unread" }),
      501,
      "no such job registered: missing",
    );
  }
});
