import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import { Input, Output, type Sink, tail } from "../../engine/streams.ts";
import { isPending, settle } from "../support/daemon.ts";
import {
  decoded,
  encoded,
  failing,
  HUGE,
  recorded,
  Recorder,
  SlowRecorder,
} from "../support/engine.ts";

const streamOf = (...chunks: (Uint8Array | string)[]) =>
  ReadableStream.from(chunks.map((chunk) => typeof chunk === "string" ? encoded(chunk) : chunk));
/** Writes a text byte by byte, which splits all that can be split. */
async function writeBytewise(out: Output, text: string): Promise<void> {
  for (const byte of encoded(text)) await out.write(Uint8Array.of(byte));
}

// Input

Deno.test("Input and Output refuse what is no source and no destination, and take one then", async () => {
  for (const wrong of [null, undefined, 5, {}, [1], new Blob(["lost"]), () => "text"]) {
    const input = new Input();
    assertThrows(
      () => input.add(wrong as never),
      TypeError,
      "expected a text, a Uint8Array, a Rea",
    );
    assertEquals(input.used, false);
    input.add("right");
    assertEquals(await input.text(), "right");

    const output = new Output();
    assertThrows(
      () => output.add(wrong as never),
      TypeError,
      "expected a WritableStream, or an ob",
    );
    assertEquals(output.used, false);
  }
});

Deno.test("Input takes a stream, bytes or a string", async () => {
  for (const source of [() => streamOf("hé", "llo"), () => encoded("héllo"), () => "héllo"]) {
    const [text, readable] = [new Input(), new Input()];
    text.add(source());
    assertEquals(await text.text(), "héllo");
    readable.add(source());
    const chunks = await Array.fromAsync(readable.readable);
    assertEquals(decoded(new Uint8Array(chunks.flatMap((chunk) => [...chunk]))), "héllo");
  }
});

Deno.test("Input.readable gives the stream that was added", () => {
  const input = new Input();
  const source = streamOf("a");
  input.add(source);
  assertStrictEquals(input.readable, source);
});

Deno.test("Input.add throws if there is a source, even an empty one, and keeps that", async () => {
  for (const first of ["first", ""]) {
    const input = new Input();
    input.add(first);
    for (const second of ["second", encoded("second"), streamOf("second")]) {
      assertThrows(() => input.add(second), TypeError, "has a source already");
    }
    assertEquals(await input.text(), first);
  }
});

Deno.test("Input.used tells whether a source is attached", () => {
  const input = new Input();
  assertEquals([input.used, input.readable.locked, input.used], [false, false, false]);
  input.add("");
  assertEquals(input.used, true);
});

Deno.test("Input without a source reads as end of file", async () => {
  assertEquals(await new Input().text(), "");
  assertEquals<unknown>(await new Input().readable.getReader().read(), {
    done: true,
    value: undefined,
  });
});

Deno.test("Input.text decodes UTF-8 that is split over chunks", async () => {
  const input = new Input();
  input.add(streamOf(...[...encoded("né€😀")].map((byte) => Uint8Array.of(byte))));
  assertEquals(await input.text(), "né€😀");
});

Deno.test("Input.text rejects with the error of a source that breaks", async () => {
  const input = new Input();
  input.add(
    new ReadableStream({
      pull() {
        throw new Error("connection reset");
      },
    }),
  );
  await assertRejects(() => input.text(), Error, "connection reset");
});

Deno.test("Input.text rejects if the source has been read", async () => {
  for (const source of ["a", streamOf("a")]) {
    const input = new Input();
    input.add(source);
    await input.text();
    await assertRejects(() => input.text(), TypeError);
    await assertRejects(() => input.json(), TypeError);
  }
});

Deno.test("Input.json gives the parsed value, and rejects with a SyntaxError on anything else", async () => {
  const good = new Input();
  good.add(streamOf('{"a":', " [1]}"));
  assertEquals(await good.json(), { a: [1] });
  const bad = new Input();
  bad.add("{");
  await assertRejects(() => bad.json(), SyntaxError);
  await assertRejects(() => new Input().json(), SyntaxError);
});

Deno.test("Input.close cancels a source without a reader, and leaves one that is read", async () => {
  for (const locked of [false, true]) {
    let cancelled = false;
    const input = new Input();
    input.add(new ReadableStream({ cancel: () => void (cancelled = true) }));
    if (locked) input.readable.getReader();
    await input.close();
    assertEquals(cancelled, !locked);
  }
});

Deno.test("Input.close takes no source, and one that broke", async () => {
  await new Input().close();
  const broken = new Input();
  broken.add(
    new ReadableStream({
      start: (controller) => controller.error(new Error("connection reset")),
    }),
  );
  await broken.close();
  await assertRejects(() => broken.text(), TypeError);
});

// Output: many destinations

Deno.test("Output.write gives every destination the data, bytes or string, in order", async () => {
  const out = new Output();
  const streamed: string[] = [];
  const recorder = recorded(out);
  out.add(new WritableStream({ write: (chunk) => void streamed.push(decoded(chunk)) }));
  await out.write("hé");
  await out.write(encoded("llo"));
  assertEquals(recorder.chunks, ["hé", "llo"]);
  assertEquals(streamed, ["hé", "llo"]);
});

Deno.test("Output without a destination discards what is written", async () => {
  const out = new Output();
  assertEquals(out.used, false);
  await out.write("gone");
  const late = recorded(out);
  await out.write("here");
  await out.close();
  assertEquals(late.chunks, ["here"]);
  await new Output().close();
});

Deno.test("Output.used tells whether anything is attached", () => {
  const attach: ((out: Output) => void)[] = [
    (out) => out.add(new Recorder()),
    (out) => out.set(new Recorder()),
    (out) => out.addPipe(),
    (out) => out.addTail(1),
    (out) => out.addEnv(),
    (out) => out.addTable(),
  ];
  for (const add of attach) {
    const out = new Output();
    assertEquals(out.used, false);
    add(out);
    assertEquals(out.used, true);
  }
});

Deno.test("Output.set makes a destination the only one, and closes none before it", async () => {
  const out = new Output();
  const [before, only] = [new Recorder(), new Recorder()];
  out.add(before);
  await out.write("a");
  out.set(only);
  await out.write("b");
  await out.close();
  assertEquals([before.text, before.closes], ["a", 0]);
  assertEquals([only.text, only.closes], ["b", 1]);
});

// Output: destinations that fail

Deno.test("Output.write rejects with the error after the others got the data, each time", async () => {
  for (const [name, destination] of Object.entries(failing(new Error("disk full")))) {
    const out = new Output();
    const before = recorded(out);
    out.add(destination);
    const after = recorded(out);
    await assertRejects(() => out.write("a"), Error, "disk full", name);
    await assertRejects(() => out.write("b"), Error, "disk full", name);
    assertEquals([before.text, after.text], ["ab", "ab"], name);
    await assertRejects(() => out.close(), Error, "disk full", name);
    assertEquals([before.closes, after.closes], [1, 1], name);
  }
});

Deno.test("Output.write reports the first error of several", async () => {
  const first = new Error("first");
  for (const one of Object.keys(failing(first))) {
    for (const [other, destination] of Object.entries(failing(new Error("second")))) {
      const out = new Output();
      out.add(failing(first)[one]!);
      out.add(destination);
      const error = await assertRejects(() => out.write("a"));
      assertStrictEquals(error, first, `${one}, ${other}`);
    }
  }
});

Deno.test("Output.close reports the failure of a write that was not awaited", async () => {
  for (const [name, destination] of Object.entries(failing(new Error("disk full")))) {
    const out = new Output();
    out.add({ async write() {} });
    out.add(destination);
    const other = recorded(out);
    out.write("a");
    out.write("b");
    await settle(); // An unhandled rejection would end the process here.
    await assertRejects(() => out.close(), Error, "disk full", name);
    assertEquals(other.chunks, ["a", "b"], name);
  }
});

Deno.test("Output.close reports the first error of all writes, though later ones succeed", async () => {
  const out = new Output();
  let writes = 0;
  out.add({
    write() {
      if (++writes < 3) throw new Error(`failure ${writes}`);
    },
  });
  for (const text of ["a", "b", "c"]) out.write(text);
  await assertRejects(() => out.close(), Error, "failure 1");
  assertEquals(writes, 3);
});

// Output: back-pressure

Deno.test("Output.write waits for a destination before it writes to the next", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(slow);
  const next = recorded(out);
  const written = out.write("a");
  assert(await isPending(written));
  assertEquals([slow.text, next.text], ["a", ""]);
  await slow.finish();
  await written;
  assertEquals(next.text, "a");
});

Deno.test("Output.write starts the next write when the last destination has taken this one", async () => {
  const out = new Output();
  const [first, last] = [new Recorder(), new SlowRecorder()];
  out.add(first);
  out.add(last);
  const writes = ["a", "b", "c"].map((text) => out.write(text));
  for (const text of ["a", "ab", "abc"]) {
    await settle();
    assertEquals([first.text, last.text], [text, text]);
    assert(await isPending(writes[text.length - 1]!));
    await last.finish();
    await writes[text.length - 1];
  }
});

Deno.test("Output.write waits for a stream that is slow", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(new WritableStream({ write: (chunk) => slow.write(chunk) }));
  const writes = [out.write("a"), out.write("b")];
  assert(await isPending(writes[0]!));
  assertEquals(slow.text, "a");
  await slow.finish();
  await writes[0];
  assertEquals(slow.text, "ab");
  assert(await isPending(writes[1]!));
  await slow.finish();
  await writes[1];
});

Deno.test("Output.write waits for all earlier writes, not only for some", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(slow);
  const writes = [out.write("a"), out.write("b")];
  await slow.finish();
  await writes[0];
  writes.push(out.write("c"));
  await settle();
  assertEquals(slow.text, "ab");
  await slow.finish();
  await writes[1];
  assertEquals(slow.text, "abc");
  await slow.finish();
  await writes[2];
});

Deno.test("Output.write keeps the order of writes that are not awaited", async () => {
  const out = new Output();
  const [quick, delaying] = [new Recorder(), new Recorder()];
  out.add(quick);
  out.add({
    async write(chunk) {
      // Later writes are quicker, so that only awaiting keeps the order.
      for (let i = Number(decoded(chunk)); i < 10; i++) await Promise.resolve();
      delaying.write(chunk);
    },
  });
  for (let i = 0; i < 10; i++) out.write(`${i}`);
  await out.close();
  assertEquals([quick.text, delaying.text], ["0123456789", "0123456789"]);
});

// Output.close

Deno.test("Output.close waits for what is being written, then closes every destination", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  let streamClosed = false;
  out.add(slow);
  out.add(new WritableStream({ close: () => void (streamClosed = true) }));
  out.write("a");
  out.write("b");
  const closed = out.close();
  await slow.finish();
  assert(await isPending(closed));
  assertEquals([slow.text, slow.closes, streamClosed], ["ab", 0, false]);
  await slow.finish();
  await closed;
  assertEquals([slow.closes, streamClosed], [1, true]);
});

Deno.test("Output.close waits for a destination to close", async () => {
  const out = new Output();
  const closing = Promise.withResolvers<void>();
  out.add({ write() {}, close: () => closing.promise });
  const closed = out.close();
  assert(await isPending(closed));
  closing.resolve();
  await closed;
});

Deno.test("Output.close closes once, however often it is called", async () => {
  const out = new Output();
  const recorder = recorded(out);
  assertStrictEquals(out.close(), out.close());
  await out.close();
  assertEquals(recorder.closes, 1);
});

Deno.test("Output.close rejects with the first error of closing after all are closed", async () => {
  const closes: NonNullable<Sink["close"]>[] = [
    () => {
      throw new Error("no space");
    },
    () => Promise.reject(new Error("no space")),
  ];
  for (const close of closes) {
    const out = new Output();
    const other = new Recorder();
    out.add({ write() {}, close });
    out.add({ write() {}, close: () => Promise.reject(new Error("later")) });
    out.add(other);
    await assertRejects(() => out.close(), Error, "no space");
    assertEquals(other.closes, 1);
  }
});

Deno.test("Output.write after close is accepted and discarded", async () => {
  const out = new Output();
  const [slow, streamed] = [new SlowRecorder(), new Recorder()];
  out.add(slow);
  out.add(new WritableStream({ write: (chunk) => streamed.write(chunk) }));
  out.write("a");
  const closed = out.close();
  await out.write("while it closes");
  await slow.finish();
  await closed;
  await out.write("when it is closed");
  assertEquals([slow.text, streamed.text], ["a", "a"]);
});

// Output.addPipe

Deno.test("Output.addPipe gives a stream of what is written, which ends with the output", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  assertInstanceOf(pipe, ReadableStream);
  await out.write("hé");
  await out.write("llo");
  await out.close();
  assertEquals((await Array.fromAsync(pipe)).map(decoded), ["hé", "llo"]);
});

Deno.test("Output.addPipe waits for the reader once it holds 64 KiB", async () => {
  const out = new Output();
  const reader = out.addPipe().getReader();
  await out.write(new Uint8Array(64 * 1024 - 1));
  await out.write("b");
  const waiting = out.write("c");
  assert(await isPending(waiting));
  assertEquals((await reader.read()).value?.length, 64 * 1024 - 1);
  await waiting;
  assertEquals(decoded((await reader.read()).value!), "b");
  assertEquals(decoded((await reader.read()).value!), "c");
});

Deno.test("Output.addPipe holds 64 KiB of small writes", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  const kibibyte = new Uint8Array(1024);
  for (let i = 0; i < 64; i++) await out.write(kibibyte);
  const waiting = out.write("more");
  assert(await isPending(waiting));
  const closed = out.close();
  assertEquals((await Array.fromAsync(pipe)).length, 65);
  await Promise.all([waiting, closed]);
});

Deno.test("Output.addPipe whose reader cancels fails what is written, the rest gets it", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  const other = recorded(out);
  await out.write("a");
  await pipe.cancel(new Error("reader left"));
  await assertRejects(() => out.write("b"), Error, "reader left");
  await assertRejects(() => out.close(), Error, "reader left");
  assertEquals([other.text, other.closes], ["ab", 1]);
});

Deno.test("Output.addPipe whose reader cancels ends a write that waits for it", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  await out.write(new Uint8Array(64 * 1024));
  const waiting = out.write("more");
  assert(await isPending(waiting));
  await pipe.cancel(new Error("reader left"));
  await assertRejects(() => waiting, Error, "reader left");
});

// Output.addTail, tail

Deno.test("Output.addTail keeps the last lines without the final newline", async () => {
  const out = new Output();
  const [one, two, many] = [1, 2, 9].map((n) => out.addTail(n));
  assertEquals(one!.text, "");
  await out.write("a\nb\nc");
  await out.write("c\n");
  await out.close();
  assertEquals([one!.text, two!.text, many!.text], ["cc", "b\ncc", "a\nb\ncc"]);
});

Deno.test("Output.addTail keeps no lines for 0", async () => {
  const out = new Output();
  const [none, negative] = [out.addTail(0), out.addTail(-1)];
  await out.write("a\nb\n");
  assertEquals([none.text, negative.text], ["", ""]);
});

Deno.test("Output.addTail decodes UTF-8 that is split over chunks", async () => {
  const out = new Output();
  const lines = out.addTail(1);
  await writeBytewise(out, "é\n€😀\n");
  assertEquals(lines.text, "€😀");
});

Deno.test("Output.addTail keeps the last lines of far more text than it buffers", async () => {
  for (const end of ["", "\n"]) {
    const out = new Output();
    const lines = out.addTail(3);
    for (let i = 0; i < 20_000; i++) await out.write(`line ${i}${i < 19_999 ? "\n" : end}`);
    assertEquals(lines.text, "line 19997\nline 19998\nline 19999");
    await out.write("x\n".repeat(100_000) + `y${end}`);
    await out.write("z\n");
    assertEquals(lines.text, end ? "x\ny\nz" : "x\nx\nyz");
  }
});

Deno.test("tail gives the last lines without the final newline", () => {
  const cases: [string, number, string][] = [
    ["", 1, ""],
    ["\n", 1, ""],
    ["a", 1, "a"],
    ["a\n", 1, "a"],
    ["a\nb", 1, "b"],
    ["a\nb\n", 1, "b"],
    ["a\nb\nc\n", 2, "b\nc"],
    ["a\nb\n", 2, "a\nb"],
    ["a\nb\n", 9, "a\nb"],
    ["a\n\n", 1, ""],
    ["a\n\n", 2, "a\n"],
    ["\n\na", 2, "\na"],
    ["\n\na", 3, "\n\na"],
    ["\na\n", 2, "\na"],
  ];
  for (const [text, n, expected] of cases) {
    assertEquals(tail(text, n), expected, JSON.stringify([text, n]));
  }
});

Deno.test('tail is "" where n is 0 or less', () => {
  for (const n of [0, -1, -Infinity]) assertEquals(tail("a\nb\n", n), "");
});

// Output.addEnv, Output.addTable

Deno.test("Output.addEnv gives the last JSON object written, once closed", async () => {
  const out = new Output();
  const env = out.addEnv();
  await out.write('{"a":"1","b":"2"}\n{"a":');
  await out.write(`${HUGE},"c":null}`);
  assertEquals(env.size, 0);
  await out.close();
  assertEquals([...env], [["a", HUGE]]);
});

Deno.test("Output.addEnv is empty if nothing is written", async () => {
  const out = new Output();
  const env = out.addEnv();
  await out.close();
  assertEquals(env.size, 0);
});

Deno.test("Output.addTable gives every JSON object written, with or without space between", async () => {
  const out = new Output();
  const table = out.addTable();
  await out.write(`{"a":1}{"a":{"b":[${HUGE}]}} \r\n\t{}\n`);
  await out.close();
  assertEquals(table.map((env) => env.encode()), ['{"a":1}', `{"a":{"b":[${HUGE}]}}`, "{}"]);
});

Deno.test("Output.addTable takes objects and UTF-8 that are split anywhere", async () => {
  const out = new Output();
  const table = out.addTable();
  await writeBytewise(out, '{"é":"€😀"}\n{"a":["\\"}{","\\\\"]} {"b":{"}":[{}]}}');
  await out.close();
  assertEquals(table.map((env) => env.encode()), [
    '{"é":"€😀"}',
    '{"a":["\\"}{","\\\\"]}',
    '{"b":{"}":[{}]}}',
  ]);
});

Deno.test("Output.addTable takes braces, brackets and quotes within strings", async () => {
  const out = new Output();
  const table = out.addTable();
  await out.write('{"a":"}{"}{"b":"]["}{"c\\"":"\\\\"}{"d":"\\\\\\""}');
  await out.close();
  assertEquals(table.map((env) => env.toObject()), [
    { a: "}{" },
    { b: "][" },
    { 'c"': "\\" },
    { d: '\\"' },
  ]);
});

Deno.test("Output.addEnv and Output.addTable make close reject on anything but objects", async () => {
  const add: ((out: Output) => unknown)[] = [(out) => out.addEnv(), (out) => out.addTable()];
  for (const attach of add) {
    for (
      const text of ["word", "1", '{"a":1},{}', "[{}]", "}", '{"a":}', "{]", '{"a":1', '{"a":"}']
    ) {
      const out = new Output();
      attach(out);
      const other = recorded(out);
      out.write(text);
      await assertRejects(() => out.close(), SyntaxError, "JSON object", text);
      assertEquals([other.text, other.closes], [text, 1]);
    }
  }
});

Deno.test("Output.addTable keeps the objects that came before malformed text", async () => {
  const out = new Output();
  const table = out.addTable();
  await assertRejects(() => out.write('{"a":1} {"a":2} oops'), SyntaxError, "got oops");
  await assertRejects(() => out.close(), SyntaxError, "got oops");
  assertEquals(table.map((env) => env.get("a")), ["1", "2"]);
});

Deno.test("Input.reading and Output.pending tell what a job is waiting for", async () => {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const input = new Input();
  assertEquals(input.reading, false);
  input.add(readable);
  assertEquals(input.reading, false);
  const text = input.text();
  assertEquals(input.reading, true);
  await writable.close();
  await text;
  assertEquals(input.reading, false);
  const other = new Input();
  other.add("some");
  const reader = other.readable.getReader();
  assertEquals(other.reading, true);
  reader.releaseLock();
  assertEquals(other.reading, false);

  const output = new Output();
  const taken = Promise.withResolvers<void>();
  output.add({ write: () => taken.promise });
  assertEquals(output.pending, false);
  const written = output.write("x");
  assertEquals(output.pending, true);
  taken.resolve();
  await written;
  await output.close();
  assertEquals(output.pending, false);
});
