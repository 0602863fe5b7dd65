import { assert, assertEquals, assertMatch } from "@std/assert";
import { Engine } from "../../engine.ts";
import { createLogger, type LoggerOptions } from "../../engine/log.ts";
import { decoded } from "../support/engine.ts";

/** The lines of a logger that is given a line of each level. */
function linesOf(options: LoggerOptions): string[] {
  const lines: string[] = [];
  const log = createLogger({ ...options, write: (line) => lines.push(line) });
  for (const level of ["debug", "info", "warn", "error"] as const) log(level, `${level} it`);
  return lines;
}

Deno.test("createLogger writes a line of text: time, level, message, fields", () => {
  const lines: string[] = [];
  const log = createLogger({ write: (line) => lines.push(line) });
  const before = Date.now();
  log("warn", "disk is full", { path: '/a "b"\n', free: 0, kept: true, none: undefined });
  log("error", "no fields");
  const [time, ...rest] = lines[0].split(" ");
  assertMatch(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert(Date.parse(time) >= before && Date.parse(time) <= Date.now());
  assertEquals(
    rest.join(" "),
    'WARN  disk is full path="/a \\"b\\"\\n" free=0 kept=true none=undefined\n',
  );
  assertEquals(lines[1].slice(time.length), " ERROR no fields\n");
});

Deno.test("createLogger writes a JSON object a line", () => {
  const lines: string[] = [];
  const log = createLogger({ format: "json", write: (line) => lines.push(line) });
  log("warn", "disk is\nfull", { path: "/a", free: 0 });
  assertMatch(lines[0], /^[^\n]*\n$/);
  const { time, ...rest } = JSON.parse(lines[0]);
  assertEquals(new Date(time).toISOString(), time);
  assertEquals(rest, { level: "warn", message: "disk is\nfull", path: "/a", free: 0 });
});

Deno.test("createLogger leaves out what is less urgent than its level, which is info", () => {
  const levels = (options: LoggerOptions) =>
    linesOf(options).map((line) => /(\w+) it/.exec(line)?.[1]);
  for (const format of ["text", "json"] as const) {
    assertEquals(levels({ format }), ["info", "warn", "error"]);
    assertEquals(levels({ format, level: "debug" }), ["debug", "info", "warn", "error"]);
    assertEquals(levels({ format, level: "info" }), ["info", "warn", "error"]);
    assertEquals(levels({ format, level: "warn" }), ["warn", "error"]);
    assertEquals(levels({ format, level: "error" }), ["error"]);
  }
});

/** Stands in for writing to standard error until the end of the block. */
function stubStderr(writeSync: (bytes: Uint8Array) => number): Disposable {
  Deno.stderr.writeSync = writeSync;
  return {
    [Symbol.dispose]() {
      // What it had before was inherited.
      delete (Deno.stderr as { writeSync?: unknown }).writeSync;
    },
  };
}

Deno.test("Engine logs to standard error from level info on unless told otherwise", async () => {
  let written = "";
  const engine = new Engine();
  const [loud, quiet] = [engine.job("commands"), engine.job("commands")];
  quiet.quiet = true;
  {
    // As a pipe that is nearly full does, it takes a few bytes at a time.
    using _stderr = stubStderr((bytes) => {
      written += decoded(bytes.subarray(0, 5));
      return Math.min(5, bytes.length);
    });
    await quiet.run();
    await loud.run();
  }
  assertMatch(written, /^\S+ INFO +\+job commands\(\)\n\S+ INFO +-job commands\(\) = OK \(0\)\n$/);
});

Deno.test("createLogger goes on where nobody reads standard error any more", () => {
  let tries = 0;
  using _stderr = stubStderr(() => {
    tries++;
    throw new Deno.errors.BrokenPipe("nobody reads");
  });
  const log = createLogger();
  log("error", "one");
  log("error", "two");
  assertEquals(tries, 2);
});
