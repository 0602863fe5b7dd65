import { assertEquals, assertInstanceOf, assertMatch, assertStrictEquals } from "@std/assert";
import type { Job } from "../../engine.ts";
import { type ErrorKind, messageOf, TypedError } from "../../engine/errors.ts";
import { failureOf, jobOf } from "../support/engine.ts";

Deno.test("JobError has the job's name, its status, and the last line of stderr", async () => {
  const job = jobOf(async (job) => {
    await job.stderr.write("reading\nlooking");
    await job.stderr.write(" on\nno such ");
    await job.stderr.write("thing\n");
    return 3;
  });
  const error = await failureOf(job);
  assertInstanceOf(error, Error);
  assertEquals([error.name, error.status, error.message], ["test", 3, "no such thing"]);
  assertEquals(error.cause, undefined);
  assertEquals(`${error}`, "test: no such thing");
});

Deno.test("JobError takes a last line of stderr that has no newline", async () => {
  const error = await failureOf(jobOf(async (job) => {
    await job.stderr.write("first\nsecond");
    return 1;
  }));
  assertEquals(error.message, "second");
});

Deno.test("JobError names the status if stderr is empty", async () => {
  assertEquals((await failureOf(jobOf(() => 3))).message, "test: exit status 3");
});

Deno.test("TypedError has a kind, a message and a cause", () => {
  const cause = new Error("ENOENT");
  const kind: ErrorKind = "not found";
  const error = new TypedError(kind, "no such thing", { cause });
  assertInstanceOf(error, Error);
  assertEquals([error.name, error.kind, error.message], ["TypedError", kind, "no such thing"]);
  assertStrictEquals(error.cause, cause);
});

Deno.test("messageOf gives an error's message, or its name, or what was thrown as text", () => {
  assertEquals(
    [new Error("a"), new RangeError(), "b", 3, null, undefined].map(messageOf),
    ["a", "RangeError", "b", "3", "null", "undefined"],
  );
});

/** A revoked Proxy. */
function revoked(target: object): unknown {
  const { proxy, revoke } = Proxy.revocable(target, {});
  revoke();
  return proxy;
}

/** Makers of values that can be thrown and have no text. */
const SHAPELESS: Record<string, () => unknown> = {
  "an object without a prototype": () => Object.create(null),
  "an object whose toString throws": () => ({
    toString: () => {
      throw new Error("no");
    },
  }),
  "an object whose toString gives an object": () => ({ toString: () => ({}), valueOf: () => ({}) }),
  "an object whose Symbol.toPrimitive throws": () => ({
    [Symbol.toPrimitive]: () => {
      throw new Error("no");
    },
  }),
  "an error whose message cannot be had": () =>
    Object.defineProperty(new Error(), "message", {
      get: () => {
        throw new Error("no");
      },
    }),
  "an error whose message is such an object": () =>
    Object.assign(new Error(), { message: Object.create(null) }),
  "an error whose name throws": () =>
    Object.defineProperty(new Error(), "name", {
      get: () => {
        throw new Error("no");
      },
    }),
  "a Proxy that is revoked": () => revoked({}),
  "a Proxy of an error that is revoked": () => revoked(new Error()),
  "a Proxy whose traps throw": () =>
    new Proxy({}, {
      get: () => {
        throw new Error("no");
      },
      getPrototypeOf: () => {
        throw new Error("no");
      },
    }),
};

for (const [name, make] of Object.entries(SHAPELESS)) {
  Deno.test(`messageOf gives a text for ${name}, and a job that throws it ends`, async () => {
    const text = "cannot be shown as text";
    assertMatch(messageOf(make()), new RegExp(text));
    const jobs = {
      throws: () => {
        throw make();
      },
      rejects: () => Promise.reject(make()),
      complains: (job: Job) => job.error(make()),
    };
    for (const [way, handler] of Object.entries(jobs)) {
      const job = jobOf(handler);
      const error = await failureOf(job);
      assertEquals([error.status, job.engine.stats.running], [1, 0], way);
      assertMatch(error.message, new RegExp(text), way);
    }
  });
}

Deno.test("messageOf gives text for a symbol, and for an error whose message is none", () => {
  assertEquals(messageOf(Symbol("s")), "Symbol(s)");
  assertEquals(messageOf(Object.assign(new Error(), { message: 3 })), "3");
});

Deno.test("Job.run ends a job whose arguments have no text", async () => {
  const job = jobOf(() => {}, Object.create(null));
  await job.run();
  assertEquals(job.engine.stats.running, 0);
});
