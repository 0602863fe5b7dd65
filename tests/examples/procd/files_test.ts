import { assertEquals, assertRejects, assertThrows } from "@std/assert";
import { TypedError } from "../../../engine.ts";
import { instructionsOf } from "../../../examples/procd/build.ts";
import { signalOf } from "../../../examples/procd/containers.ts";
import { referenceOf } from "../../../examples/procd/images.ts";
import { applied } from "../../../examples/procd/instructions.ts";
import { LogReader, LogWriter, segmentPath, segments } from "../../../examples/procd/logs.ts";
import { runs, statOf } from "../../../examples/procd/procfs.ts";
import { Store } from "../../../examples/procd/store.ts";
import { detachKeys } from "../../../examples/procd/streams.ts";
import { headerBytes, padding, readTar, TAR_END } from "../../../examples/procd/tar.ts";
import { TempFolder } from "../../support/daemon.ts";

const encoder = new TextEncoder();
const decoder = new TextDecoder();

async function written(folder: string): Promise<string[]> {
  using reader = new LogReader(folder);
  const found: string[] = [];
  for (let record; (record = await reader.next());) found.push(decoder.decode(record.data));
  return found;
}

Deno.test("LogReader gives what LogWriter wrote, while it writes and across segments", async () => {
  await using folder = await TempFolder.make();
  using writer = new LogWriter(folder.path, { maxSize: 4_000, maxFiles: 1_000 });
  using reader = new LogReader(folder.path);
  let last = 0n;
  for (let i = 0; i < 200; i++) {
    writer.write(i % 2 === 0 ? 1 : 2, encoder.encode(`record ${i} `.repeat(i + 1)));
    const record = (await reader.next())!;
    assertEquals(decoder.decode(record.data), `record ${i} `.repeat(i + 1));
    assertEquals(record.stream, i % 2 === 0 ? 1 : 2);
    assertEquals(record.time > last, true);
    last = record.time;
    assertEquals(await reader.next(), undefined);
  }
  assertEquals((await written(folder.path)).length, 200);
});

Deno.test("LogWriter cuts long records, at the ends of lines where there are some", async () => {
  await using folder = await TempFolder.make();
  using writer = new LogWriter(folder.path, { maxSize: 100, maxFiles: 100 });
  const text = "a line\n".repeat(20) + "x".repeat(200);
  writer.write(1, encoder.encode(text));
  const records = await written(folder.path);
  assertEquals(records.join(""), text);
  assertEquals(records.every((record) => record.length <= 84), true);
  assertEquals(records[0], "a line\n".repeat(12));
});

Deno.test("LogWriter goes on after whole records, where one before was killed", async () => {
  await using folder = await TempFolder.make();
  const limits = { maxSize: 1_000, maxFiles: 2 };
  {
    using writer = new LogWriter(folder.path, limits);
    writer.write(1, encoder.encode("one"));
    writer.write(1, encoder.encode("two"));
  }
  const path = segmentPath(folder.path, 1);
  const bytes = await Deno.readFile(path);
  await Deno.writeFile(path, bytes.subarray(0, -1));
  using writer = new LogWriter(folder.path, limits);
  writer.write(1, encoder.encode("three"));
  assertEquals(await written(folder.path), ["one", "three"]);
});

Deno.test("LogWriter keeps as many segments as it may", async () => {
  await using folder = await TempFolder.make();
  using writer = new LogWriter(folder.path, { maxSize: 100, maxFiles: 2 });
  for (let i = 0; i < 100; i++) writer.write(1, encoder.encode(`record ${i}`));
  assertEquals(segments(folder.path).length, 2);
  assertEquals((await written(folder.path)).at(-1), "record 99");
});

Deno.test("readTar reads what headerBytes writes, and what tar writes", async () => {
  const name = "ä/" + "long/".repeat(40) + "file";
  const body = encoder.encode("content");
  const header = { mode: 0o640, mtime: 1, uid: 1, gid: 2, target: "" };
  const archive = new Blob([
    headerBytes({ ...header, name, type: "file", size: body.length }),
    body,
    padding(body.length),
    headerBytes({ ...header, name: "link", type: "symlink", size: 0, target: name }),
    TAR_END,
  ]);
  const found: unknown[] = [];
  for await (const { name, type, mode, target, body } of readTar(archive.stream())) {
    const text = await new Response(ReadableStream.from(body)).text();
    found.push({ name, type, mode, target, text });
  }
  assertEquals(found, [
    { name, type: "file", mode: 0o640, target: "", text: "content" },
    { name: "link", type: "symlink", mode: 0o640, target: name, text: "" },
  ]);

  await using folder = await TempFolder.make();
  await Deno.writeTextFile(`${folder.path}/${"n".repeat(150)}`, "x".repeat(1_000));
  for (const format of ["gnu", "pax", "ustar"]) {
    const args = ["-C", folder.path, "--format", format, "-c", "."];
    const { stdout, success } = await new Deno.Command("tar", { args, stderr: "null" }).output();
    if (!success) continue; // ustar has no such name.
    const names: string[] = [];
    for await (const { name, size } of readTar(new Blob([stdout]).stream())) {
      names.push(`${name} ${size}`); // What is in it is skipped.
    }
    assertEquals(names, ["./ 0", `./${"n".repeat(150)} 1000`]);
  }
});

Deno.test("readTar refuses what is no archive, and one that breaks off", async () => {
  const read = async (bytes: Uint8Array<ArrayBuffer>) => {
    for await (const { body } of readTar(new Blob([bytes]).stream())) for await (const _ of body);
  };
  await assertRejects(() => read(encoder.encode("x".repeat(600))), TypedError, "not a tar");
  const header = {
    mode: 0,
    mtime: 0,
    uid: 0,
    gid: 0,
    target: "",
    name: "a",
    type: "file",
  } as const;
  await assertRejects(() => read(headerBytes({ ...header, size: 10 })), TypedError, "breaks off");
});

Deno.test("runs knows a process by its start time, so that no later one is taken for it", () => {
  const { startTime } = statOf(Deno.pid)!;
  assertEquals(runs(Deno.pid, startTime), true);
  assertEquals(runs(Deno.pid, startTime + 1), false);
});

Deno.test("Store refuses a file of a newer program, and takes back a change that failed", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/state.db`;
  const store = new Store(path);
  assertThrows(
    () =>
      store.transaction(() => {
        store.setMeta("key", "value");
        throw new Error("no");
      }),
    Error,
    "no",
  );
  assertEquals(store.meta("key"), undefined);
  store.own(false);
  assertEquals(store.owned, true);
  store.run("PRAGMA user_version = 99");
  store.close();
  assertThrows(() => new Store(path), Error, "schema 99, expected 1");
});

Deno.test("referenceOf gives names in the form that people use", () => {
  assertEquals(referenceOf("docker.io/library/host"), "host:latest");
  assertEquals(referenceOf("docker.io/me/box", "2"), "me/box:2");
  assertEquals(referenceOf("registry.example:5000/me/box"), "registry.example:5000/me/box:latest");
  for (const wrong of ["", "A", "a b", "a:b:c", "-a", "a/"]) {
    assertThrows(() => referenceOf(wrong), TypedError, "invalid reference format");
  }
});

Deno.test("signalOf knows signals by name and number", () => {
  for (const text of ["HUP", "SIGHUP", "sighup", "1"]) assertEquals(signalOf(text), "SIGHUP");
  for (const wrong of ["", "0", "99", "NO"]) assertThrows(() => signalOf(wrong), TypedError);
});

Deno.test("detachKeys reads keys as terminals send them", () => {
  assertEquals(detachKeys(""), [16, 17]);
  assertEquals(detachKeys("ctrl-a,b"), [1, 98]);
  assertThrows(() => detachKeys("ctrl-,"), TypedError, "invalid detach keys");
});

Deno.test("instructionsOf joins lines and leaves comments out", () => {
  const text = "# a\nFROM host\n\nRUN a \\\n  # b\n  && c\nCMD x";
  assertEquals(instructionsOf(text), ["FROM host", "RUN a   && c", "CMD x"]);
});

Deno.test("applied changes an image's config as an instruction says", () => {
  const config = { Env: ["A=1", "B=2"], Cmd: ["x"] };
  assertEquals(applied(config, 'ENV A="3 4" C=5').Env, ["B=2", "A=3 4", "C=5"]);
  assertEquals(applied(config, "ENTRYPOINT run it"), {
    Env: config.Env,
    Entrypoint: ["/bin/sh", "-c", "run it"],
    Cmd: null,
  });
  assertEquals(applied(config, "HEALTHCHECK --interval=2s CMD true").Healthcheck, {
    Interval: 2e9,
    Test: ["CMD-SHELL", "true"],
  });
  assertThrows(() => applied(config, "COPY a b"), TypedError, "not a valid change command");
});
