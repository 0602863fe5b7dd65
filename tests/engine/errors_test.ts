import { assertEquals, assertInstanceOf, assertStrictEquals } from "@std/assert";
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

Deno.test("JobError says the status where stderr is empty", async () => {
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
