import { assert, assertEquals } from "@std/assert";
import { LineWriter } from "../../engine/lines.ts";
import { decoded } from "../support/engine.ts";
import { isPending, settle } from "../support/daemon.ts";

/** A reader that takes as much as the test says, like a pipe. */
class Pipe {
  /** What was read. */
  taken = "";
  /** The error that a write throws now; undefined for none. */
  fault?: Error | undefined;
  /** Whether a write would not block. */
  open = true;
  #waiting:
    | { data: Uint8Array; resolve: (length: number) => void; reject: (e: Error) => void }
    | undefined;

  writeSync = (data: Uint8Array): number => {
    if (this.fault) throw this.fault;
    assert(this.open, "a write that blocks");
    this.taken += decoded(data);
    return data.length;
  };
  write = (data: Uint8Array): Promise<number> => {
    assert(this.#waiting === undefined, "two writes at once");
    const { promise, resolve, reject } = Promise.withResolvers<number>();
    this.#waiting = { data, resolve, reject };
    return promise;
  };
  /** Reads up to so many of the waiting bytes. */
  async take(length = Infinity): Promise<void> {
    const { data, resolve } = this.#waiting!;
    this.#waiting = undefined;
    const part = data.subarray(0, length);
    this.taken += decoded(part);
    resolve(part.length);
    await settle();
  }
  /** Whether a write waits. */
  get waits(): boolean {
    return this.#waiting !== undefined;
  }
  /** Fails the waiting write. */
  async fail(error: Error): Promise<void> {
    const { reject } = this.#waiting!;
    this.#waiting = undefined;
    reject(error);
    await settle();
  }
}

Deno.test("LineWriter.write writes at once as long as that does not block", () => {
  const pipe = new Pipe();
  const lines = new LineWriter(pipe, () => pipe.open);
  lines.write("one\n");
  assertEquals(pipe.taken, "one\n");
  const long = "x".repeat(10_000) + "\n";
  lines.write(long);
  assertEquals(pipe.taken, "one\n" + long);
  assert(!pipe.waits);
});

Deno.test("LineWriter.write queues lines in their order where the reader stalls, even in a line", async () => {
  const pipe = new Pipe();
  let asked = 0;
  const lines = new LineWriter(pipe, () => ++asked === 1 && pipe.open);
  const long = "x".repeat(5_000) + "\n";
  lines.write(long);
  assertEquals(pipe.taken.length, 4_096);
  lines.write("two\n");
  lines.write("three\n");
  await pipe.take(100);
  await pipe.take();
  await pipe.take();
  assertEquals(pipe.taken, long + "two\nthree\n");
  asked = 0;
  lines.write("four\n"); // At once again.
  assertEquals(pipe.taken, long + "two\nthree\nfour\n");
});

Deno.test("LineWriter.write writes on a thread if it is unknown whether a write blocks", async () => {
  const pipe = new Pipe();
  const lines = new LineWriter(pipe, () => undefined);
  lines.write("one\n");
  lines.write("two\n");
  assertEquals(pipe.taken, "");
  await pipe.take();
  await pipe.take();
  assertEquals(pipe.taken, "one\ntwo\n");
});

Deno.test("LineWriter.write drops and counts lines beyond its queue, and reports them once there is room", async () => {
  const pipe = new Pipe();
  pipe.open = false;
  const lines = new LineWriter(pipe, () => pipe.open);
  const notice = (lost: number) => `lost ${lost}\n`;
  const line = "x".repeat(1_023) + "\n";
  // The first is being written, and 1 024 others fit in the queue.
  for (let i = 0; i < 1_500; i++) lines.write(line, notice);
  await pipe.take();
  assertEquals(pipe.taken.length, 1_024);
  lines.write("after\n", notice);
  await pipe.take();
  await pipe.take();
  assertEquals(pipe.taken, line.repeat(1_025) + `lost ${1_500 - 1_025}\nafter\n`);
  pipe.open = true;
  lines.write("last\n", notice);
  assert(pipe.taken.endsWith("after\nlast\n"));
});

Deno.test("LineWriter.write counts lines that fail, and begins a new line after half of one", async () => {
  const pipe = new Pipe();
  const lines = new LineWriter(pipe, () => pipe.open);
  const notice = (lost: number) => `lost ${lost}\n`;
  pipe.fault = new Deno.errors.BrokenPipe();
  for (let i = 0; i < 3; i++) lines.write("gone\n", notice);
  pipe.fault = undefined;
  lines.write("back\n", notice);
  assertEquals(pipe.taken, "lost 3\nback\n");

  pipe.taken = "";
  const { writeSync } = pipe;
  pipe.writeSync = (data) => {
    if (pipe.taken !== "") throw new Error("disk full");
    return writeSync(data.subarray(0, 2));
  };
  lines.write("half\n", notice);
  pipe.writeSync = writeSync;
  lines.write("whole\n", notice);
  assertEquals(pipe.taken, "ha\nlost 1\nwhole\n");

  pipe.taken = "";
  pipe.open = false;
  lines.write("one\n", notice);
  await pipe.fail(new Error("disk full"));
  pipe.open = true;
  lines.write("two\n", notice);
  assertEquals(pipe.taken, "\nlost 1\ntwo\n");
});

Deno.test("LineWriter.flush waits until all is written, or the reader has stalled for so long", async () => {
  const pipe = new Pipe();
  const lines = new LineWriter(pipe, () => false);
  await lines.flush(1_000);
  lines.write("one\n");
  const flushed = lines.flush(60_000);
  assert(await isPending(flushed));
  await pipe.take();
  await flushed;
  lines.write("two\n");
  await lines.flush(1);
  assert(pipe.waits);
  await pipe.take();
});

Deno.test("LineWriter.flushNow writes what is left if that does not block", () => {
  for (const open of [true, false]) {
    const pipe = new Pipe();
    pipe.open = false;
    const lines = new LineWriter(pipe, () => pipe.open);
    lines.write("one\n");
    lines.write("two\n");
    pipe.open = open;
    lines.flushNow();
    assertEquals(pipe.taken, open ? "two\n" : ""); // The first is another thread's.
  }
});
