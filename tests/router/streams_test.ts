import { assert, assertEquals, assertLess } from "@std/assert";
import { createHash } from "node:crypto";
import { Daemon, project, until } from "../support/daemon.ts";

const MIB = 1 << 20;
/**
 * What goes through, and what it may take of memory: far less than that, and than a reader would
 * keep.
 */
const SIZE = 384 * MIB;
const ROOM = 192 * MIB;

async function start(): Promise<{ daemon: Daemon; url: string }> {
  const install = project("tests/support/fixtures/docker.ts");
  const daemon = Daemon.start(["-H", "tcp://127.0.0.1:0", "--install", install, "-l", "info"]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  await daemon.open();
  return { daemon, url };
}

/** How many bytes of memory a process holds, and the most it has held (proc(5)). */
async function memory(pid: number): Promise<{ now: number; most: number }> {
  const status = await Deno.readTextFile(`/proc/${pid}/status`);
  const bytes = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)![1]) * 1_024;
  return { now: bytes("VmRSS"), most: bytes("VmHWM") };
}

/** How much more memory a process uses during some work, in bytes. */
async function growth(pid: number, during: () => Promise<void>): Promise<number> {
  await Deno.writeTextFile(`/proc/${pid}/clear_refs`, "5"); // The most begins anew.
  const { now } = await memory(pid);
  await during();
  return (await memory(pid)).most - now;
}

/** A stream of so many zeros, on demand. */
function zeros(size: number): ReadableStream<Uint8Array<ArrayBuffer>> {
  let left = size;
  return new ReadableStream({
    pull: (controller) => {
      const chunk = new Uint8Array(Math.min(left, 1 << 16));
      left -= chunk.length;
      if (chunk.length > 0) controller.enqueue(chunk);
      else controller.close();
    },
  }, { highWaterMark: 0 });
}

const digest = (size: number) => {
  const hash = createHash("sha256");
  const chunk = new Uint8Array(MIB);
  for (let at = 0; at < size; at += MIB) hash.update(chunk);
  return hash.digest("hex");
};

const linux = { ignore: Deno.build.os !== "linux" };

Deno.test("Job.stdin takes an upload of any length in constant memory", linux, async () => {
  const { daemon, url } = await start();
  await using _ = daemon;
  const send = async (path: string, size: number) => {
    const response = await fetch(`${url}${path}`, {
      method: "POST",
      headers: { "Content-Type": "application/x-tar" },
      body: zeros(size),
    });
    assertEquals(response.status, 200);
    return (await response.json()).stream;
  };
  await send("/images/load", MIB);
  for (const path of ["/images/load?quiet=1", "/build?t=a"]) {
    const grown = await growth(daemon.pid, async () => {
      assertEquals(await send(path, SIZE), `${SIZE} ${digest(SIZE)}`);
    });
    assertLess(grown, ROOM);
  }
});

Deno.test("Job.stdout sends an answer of any length in constant memory", linux, async () => {
  const { daemon, url } = await start();
  await using _ = daemon;
  const take = async (size: number) => {
    const response = await fetch(`${url}/images/get?names=${size}`);
    assertEquals(response.headers.get("content-type"), "application/x-tar");
    let taken = 0;
    for await (const chunk of response.body!) taken += chunk.length;
    return taken;
  };
  await take(MIB);
  const grown = await growth(daemon.pid, async () => assertEquals(await take(SIZE), SIZE));
  assertLess(grown, ROOM);
});

Deno.test("a client that stops reading stops the job's writes, and one that leaves aborts it", async () => {
  const { daemon, url } = await start();
  await using _ = daemon;
  const told = async () => await (await fetch(`${url}/images/x/history`)).json();
  const response = await fetch(`${url}/images/get?names=${1_024 * MIB}`);
  const reader = response.body!.getReader();
  await reader.read();
  // The job stops when the buffers in between are full.
  let before = -1;
  let looks = 0;
  await until(async () => {
    const { written } = await told();
    looks = written === before ? looks + 1 : 0;
    before = written;
    return looks === 50;
  });
  assertLess(before, 64 * MIB);
  for (let taken = 0; taken < 16 * MIB;) taken += (await reader.read()).value!.length;
  await until(async () => (await told()).written > before);
  assert(!(await told()).aborted);
  await reader.cancel();
  await until(async () => (await told()).aborted);
});
