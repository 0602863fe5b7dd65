import { assertEquals, assertMatch, assertNotMatch, assertStrictEquals } from "@std/assert";
import { basicAuth } from "npm:hono@4.13.19/basic-auth";
import { HTTPException } from "npm:hono@4.13.19/http-exception";
import { requestId } from "npm:hono@4.13.19/request-id";
import { type ErrorKind, type Handler, type Job, TypedError } from "../../engine.ts";
import {
  type App,
  assertInternal,
  assertJsonError,
  assertTextError,
  make,
} from "../support/router.ts";

/** Makes a router with two routes that throw this: in a job, and in a Hono handler. */
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
  "unsupported media type": 415,
  "not implemented": 501,
  "unavailable": 503,
  "deadline exceeded": 504,
};

for (const [kind, status] of Object.entries(STATUS_OF) as [ErrorKind, number][]) {
  Deno.test(`Router answers an error of kind "${kind}" with ${status}`, async () => {
    // The kind takes precedence over the wording.
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

Deno.test("Router answers 500 to an error of an unknown kind", async () => {
  for (const kind of ["toString", "teapot"]) {
    const { router, paths } = thrower(() => Object.assign(new Error("hm"), { kind }));
    for (const path of paths) await assertInternal(await router.request(path));
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
  // The first matching rule wins.
  ["impossible: bad parameter and conflict", 400],
  ["conflict: no such thing", 404],
  ["hasn't been activated: wrong login/password", 401],
  // No rule matches.
  ["nosuch thing, badparameter", 500],
  ["the disk is full", 500],
];

Deno.test("Router takes the status of job.error from its wording", async () => {
  for (const [message, status] of WORDING) {
    const { engine, router } = make();
    engine.register("fail", (job) => job.error(message));
    engine.register("outer", (job) => job.engine.job("fail").run());
    for (const job of ["fail", "outer"]) router.job({ method: "GET", path: `/${job}`, job });
    for (const job of ["fail", "outer"]) {
      await assertJsonError(await router.request(`/${job}`), status, message);
      await assertTextError(await router.request(`/v1.23/${job}`), status, message);
    }
  }
});

Deno.test("Router takes no status from the wording of a thrown error, and hides its message", async () => {
  for (const [message] of [...WORDING, ["pool config conflict", 409] as const]) {
    const { router, paths } = thrower(() => new Error(message));
    for (const path of paths) {
      await assertInternal(await router.request(path));
      await assertInternal(await router.request(`/v1.23${path}`));
    }
    const { engine, router: other } = make();
    engine.register("reports", (job) => job.error(new Error(message)));
    engine.register("says-first", (job) => {
      job.error(message);
      throw new Error("and then");
    });
    engine.register("writes", async (job) => {
      await job.stderr.write(message + "\n");
      return 1;
    });
    const jobs = ["reports", "says-first", "writes"];
    for (const job of jobs) other.job({ method: "GET", path: `/${job}`, job });
    for (const job of jobs) await assertInternal(await other.request(`/${job}`));
  }
});

Deno.test("Router logs internal errors in full, with the request", async () => {
  for (const error of [new Error("boom"), new RangeError("", { cause: new Error("why") })]) {
    const { router, paths, logged } = thrower(() => error);
    for (const path of paths) {
      const headers = { "X-Request-Id": "abc-1" };
      const response = await router.request(`/v1.24${path}`, { headers });
      assertEquals(await assertInternal(response), "abc-1");
      const { level, message, fields } = logged.at(-1)!;
      assertEquals([level, message], ["error", `GET ${path}: ${error.message || error.name}`]);
      const { error: whole, ...rest } = fields!;
      const job = path === "/job" ? { job: "fail" } : {};
      assertEquals(rest, { method: "GET", path, ...job, request: "abc-1" });
      let cause = whole;
      while (cause !== error && cause instanceof Error) cause = cause.cause;
      assertStrictEquals(cause, error);
    }
  }
  const { router, lines } = thrower(() => new TypedError("not found", "nothing there"));
  assertEquals((await router.request("/job")).status, 404);
  assertEquals(lines.filter((line) => line.startsWith("error ")), []);
});

Deno.test("Router makes a request's id where the client gives none that is fit for a log", async () => {
  const { router } = thrower(() => new Error("boom"));
  const ids = new Set<string>();
  for (const id of [undefined, "", "a b", "x".repeat(129), "a\tb", "<b>"]) {
    const headers: Record<string, string> = id === undefined ? {} : { "X-Request-Id": id };
    ids.add(await assertInternal(await router.request("/plain", { headers })));
  }
  assertEquals(ids.size, 6);
  for (const id of ids) assertMatch(id, /^[\da-f-]{36}$/);
});

Deno.test("Router takes the request's id from Hono's middleware requestId", async () => {
  const app = make();
  app.router.use(requestId());
  app.router.get("/plain", () => {
    throw new Error("boom");
  });
  const response = await app.router.request("/plain");
  const id = response.headers.get("x-request-id");
  assertEquals(await assertInternal(response), id);
  assertEquals(app.logged.at(-1)?.fields?.request, id);
});

function fail(): never {
  throw new Error("no text");
}
/** Values to throw that are not Errors, or unusual ones. */
const ODD: readonly (() => unknown)[] = [
  () => "boom",
  () => undefined,
  () => null,
  () => ({}),
  () => Object.create(null),
  () => ({
    toString: fail,
  }),
  () => Object.defineProperty(new Error("x"), "message", { get: () => fail() }),
  () => Object.defineProperty(new Error("x"), "kind", { get: () => fail() }),
  () => Object.assign(new Error("x"), { getResponse: true, status: "teapot" }),
  () => Response.error(),
];

for (const [at, thrown] of ODD.entries()) {
  Deno.test(`Router answers 500 for odd things that were thrown (${at})`, async () => {
    const { engine, router, paths } = thrower(thrown);
    router.get("/sync", () => {
      throw thrown();
    });
    router.use("/around/*", async (_c, next) => await next());
    router.get("/around/x", () => {
      throw thrown();
    });
    for (const path of [...paths, "/sync", "/around/x"]) {
      await assertInternal(await router.request(path));
    }
    assertEquals(engine.stats.running, 0);
  });
}

Deno.test("Router answers 500 for a job that ends with a status and no message", async () => {
  const { engine, router, lines } = make();
  engine.register("three", () => 3);
  engine.register("half", () => 0.5);
  router.job({ method: "GET", path: "/three", job: "three" });
  router.job({ method: "GET", path: "/half", job: "half" });
  for (const path of ["/three", "/half"]) await assertInternal(await router.request(path));
  assertEquals(lines.filter((line) => line.startsWith("error ")), [
    "error GET /three: three: exit status 3",
    "error GET /half: half returned 0.5, expected an integer exit status",
  ]);
});

Deno.test("Router answers an HTTPException of Hono's with its status and message", async () => {
  const { router, paths } = thrower(() => new HTTPException(418, { message: "short and stout" }));
  for (const path of paths) {
    await assertJsonError(await router.request(path), 418, "short and stout");
    await assertTextError(await router.request(`/v1.23${path}`), 418, "short and stout");
  }
});

Deno.test("Router answers an HTTPException of Hono's with its own response", async () => {
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

/** Checks that an answer reveals nothing about files or internals. */
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

Deno.test("Router answers with the first line of job.error, unchanged", async () => {
  for (
    const message of [
      "cannot pull http://example.com/v2/busybox:1.2: refused",
      "library/busybox:latest is of no use here",
      "No such file: /srv/mine",
    ]
  ) {
    const { engine, router } = make();
    engine.register("fail", (job) => job.error(`${message}\nmore of it`));
    router.job({ method: "GET", path: "/job", job: "fail" });
    assertEquals(await (await router.request("/job")).json(), { message });
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

Deno.test("Router answers 500 to errors of the system, whatever their wording", async () => {
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
