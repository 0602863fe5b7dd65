import { assert, assertEquals, assertRejects } from "@std/assert";
import { lightly, within } from "../../engine/time.ts";
import { FakeClock } from "../support/clock.ts";
import { isPending } from "../support/daemon.ts";

Deno.test("within tells whether a promise settled in time, and leaves no timer", async () => {
  using clock = new FakeClock();
  const { promise, resolve } = Promise.withResolvers<void>();
  const [early, late] = [within(10, promise), within(20, promise)];
  await clock.pass(10);
  assertEquals(await early, false);
  resolve();
  assertEquals(await late, true);
  assertEquals(clock.timers, 0);
  await assertRejects(() => within(10, Promise.reject(new Error("no"))), Error, "no");
  assertEquals(clock.timers, 0);
});

Deno.test("within waits longer than a timer of Deno's can", async () => {
  using clock = new FakeClock();
  const ms = 2 ** 32;
  const waiting = within(ms, new Promise(() => {}));
  await clock.pass(ms - 1);
  assert(await isPending(waiting));
  await clock.pass(1);
  assertEquals(await waiting, false);
  assertEquals(clock.timers, 0);
});

Deno.test("lightly calls back in time, and not once it is cancelled", async () => {
  const called: string[] = [];
  const cancel = lightly(0, () => called.push("cancelled"));
  cancel();
  const last = Promise.withResolvers<void>();
  lightly(0, () => called.push("first"));
  lightly(1, last.resolve);
  await last.promise;
  assertEquals(called, ["first"]);
  cancel(); // It may be over.
});
