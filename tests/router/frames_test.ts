import { assertEquals } from "@std/assert";
import { Engine, type Job } from "../../engine.ts";
import { TypedError } from "../../engine/errors.ts";
import { createRouter } from "../../router.ts";

const encoder = new TextEncoder();

/** The frames of a body: of which stream, and what. */
function framesOf(bytes: Uint8Array): [number, string][] {
  const frames: [number, string][] = [];
  for (let at = 0; at < bytes.length;) {
    const header = new DataView(bytes.buffer, bytes.byteOffset + at, 8);
    assertEquals([header.getUint8(1), header.getUint16(2)], [0, 0]);
    const end = at + 8 + header.getUint32(4);
    frames.push([header.getUint8(0), new TextDecoder().decode(bytes.subarray(at + 8, end))]);
    at = end;
  }
  return frames;
}

async function logs(handler: (job: Job) => Promise<void>, prefix = "") {
  const engine = new Engine({ log: () => {} });
  engine.register("logs", handler);
  const router = createRouter(engine);
  const response = await router.request(`${prefix}/containers/x/logs?stdout=1&stderr=1`);
  return { response, type: response.headers.get("content-type") };
}

Deno.test("attachFramed keeps stdout and stderr apart, in order", async () => {
  const write = async (job: Job) => {
    await job.print("one\n");
    await job.stderr.write("two\n");
    await job.stdout.write(encoder.encode("ü\n"));
  };
  const { response, type } = await logs(write);
  assertEquals(type, "application/vnd.docker.multiplexed-stream");
  assertEquals(framesOf(await response.bytes()), [[1, "one\n"], [2, "two\n"], [1, "ü\n"]]);
  const old = await logs(write, "/v1.41");
  assertEquals(old.type, "application/vnd.docker.raw-stream");
  assertEquals(framesOf(await old.response.bytes()).length, 3);
});

Deno.test("attachFramed writes no frames for a job with a terminal", async () => {
  const { response, type } = await logs(async (job) => {
    job.setenvBool("Tty", true);
    await job.print("one\n");
    await job.stderr.write("two\n");
  });
  assertEquals(type, "application/vnd.docker.raw-stream");
  assertEquals(await response.text(), "one\ntwo\n");
});

Deno.test("attachFramed begins the answer at the job's first write, even an empty one", async () => {
  const gate = Promise.withResolvers<void>();
  const { response } = await logs(async (job) => {
    await job.stdout.write("");
    await gate.promise;
    await job.print("one\n");
  });
  gate.resolve();
  assertEquals(framesOf(await response.bytes()), [[1, "one\n"]]);
});

Deno.test("attachFramed leaves its status to a job that fails before it writes to stdout", async () => {
  const { response } = await logs(async (job) => {
    await job.stderr.write("on the way\n");
    throw new TypedError("not found", "no container x");
  });
  assertEquals([response.status, await response.json()], [404, { message: "no container x" }]);
});

Deno.test("attachFramed sends what a job has written to stderr alone", async () => {
  const { response } = await logs(async (job) => {
    await job.stderr.write("one\n");
  });
  assertEquals(framesOf(await response.bytes()), [[2, "one\n"]]);
});
