import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { TypedError } from "../../engine/errors.ts";
import { Turns } from "../../router/turns.ts";
import { isPending } from "../support/daemon.ts";

const stays = new AbortController().signal;

Deno.test("Turns lets so many run, so many wait, and refuses the others", async () => {
  const turns = new Turns(2, 1);
  assertEquals([turns.take(stays), turns.take(stays)], [undefined, undefined]);
  const third = turns.take(stays)!;
  const error = assertThrows(() => turns.take(stays), TypedError);
  assertEquals([error.kind, "retryAfter" in error && error.retryAfter], ["unavailable", 1]);
  assertEquals(error.message, "too many requests at once: 2 run and 1 wait");
  assertEquals(await isPending(third), true);
  turns.give();
  await third;
  turns.give();
  assertEquals(turns.take(stays), undefined);
});

Deno.test("Turns.give gives a turn to the one that has waited longest", async () => {
  const turns = new Turns(1, 3);
  turns.take(stays);
  const order: number[] = [];
  const waiting = [1, 2, 3].map((n) => turns.take(stays)!.then(() => void order.push(n)));
  for (const each of waiting) {
    turns.give();
    await each;
  }
  assertEquals(order, [1, 2, 3]);
});

Deno.test("Turns.take forgets one that does not want its turn any more", async () => {
  const turns = new Turns(1, 1);
  turns.take(stays);
  const leaver = new AbortController();
  const left = turns.take(leaver.signal)!;
  leaver.abort(new Error("gone"));
  await assertRejects(() => left, Error, "gone");
  const next = turns.take(stays)!;
  turns.give();
  await next;
  await assertRejects(() => turns.take(AbortSignal.abort(new Error("gone")))!, Error, "gone");
});

Deno.test("Turns refuses counts that are none", () => {
  for (const running of [0, -1, 1.5, NaN]) assertThrows(() => new Turns(running), TypeError);
  for (const waiting of [-1, 1.5, NaN]) assertThrows(() => new Turns(1, waiting), TypeError);
});
