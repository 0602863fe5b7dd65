import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { TypedError } from "../../engine/errors.ts";
import { Semaphore } from "../../router/semaphore.ts";
import { isPending } from "../support/daemon.ts";

const stays = new AbortController().signal;

Deno.test("Semaphore lets a number run, a number wait, and refuses further callers", async () => {
  const semaphore = new Semaphore(2, 1);
  assertEquals([semaphore.acquire(stays), semaphore.acquire(stays)], [undefined, undefined]);
  const third = semaphore.acquire(stays)!;
  const error = assertThrows(() => semaphore.acquire(stays), TypedError);
  assertEquals([error.kind, "retryAfter" in error && error.retryAfter], ["unavailable", 1]);
  assertEquals(error.message, "too many requests at once: 2 run and 1 wait");
  assertEquals(await isPending(third), true);
  semaphore.release();
  await third;
  semaphore.release();
  assertEquals(semaphore.acquire(stays), undefined);
});

Deno.test("Semaphore.release lets in the caller that has waited longest", async () => {
  const semaphore = new Semaphore(1, 3);
  semaphore.acquire(stays);
  const order: number[] = [];
  const waiting = [1, 2, 3].map((n) => semaphore.acquire(stays)!.then(() => void order.push(n)));
  for (const each of waiting) {
    semaphore.release();
    await each;
  }
  assertEquals(order, [1, 2, 3]);
});

Deno.test("Semaphore.acquire forgets a caller whose signal is aborted", async () => {
  const semaphore = new Semaphore(1, 1);
  semaphore.acquire(stays);
  const leaver = new AbortController();
  const left = semaphore.acquire(leaver.signal)!;
  leaver.abort(new Error("gone"));
  await assertRejects(() => left, Error, "gone");
  const next = semaphore.acquire(stays)!;
  semaphore.release();
  await next;
  await assertRejects(
    () => semaphore.acquire(AbortSignal.abort(new Error("gone")))!,
    Error,
    "gone",
  );
});

Deno.test("Semaphore refuses counts that are not integers, or too small", () => {
  for (const running of [0, -1, 1.5, NaN]) assertThrows(() => new Semaphore(running), TypeError);
  for (const waiting of [-1, 1.5, NaN]) assertThrows(() => new Semaphore(1, waiting), TypeError);
});
