import { assert, assertEquals, assertMatch } from "@std/assert";
import { Engine } from "../../engine.ts";
import { createLogger, type LoggerOptions } from "../../engine/log.ts";
import { decoded } from "../support/engine.ts";

/** The output of a logger after a line of each level. */
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
  const [time, ...rest] = lines[0]!.split(" ");
  assertMatch(time!, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert(Date.parse(time!) >= before && Date.parse(time!) <= Date.now());
  assertEquals(
    rest.join(" "),
    'WARN  disk is full path="/a \\"b\\"\\n" free=0 kept=true none=undefined\n',
  );
  assertEquals(lines[1]!.slice(time!.length), " ERROR no fields\n");
});

Deno.test("createLogger writes an error in full, indented below the line, or as a field", () => {
  const error = new Error("two\nlines", { cause: new RangeError("\u001b[31mred") });
  const entry = (format: "text" | "json") => {
    const lines: string[] = [];
    createLogger({ format, write: (line) => lines.push(line) })("error", "it failed", {
      path: "/x",
      error,
      odd: Object.defineProperty(new Error("x"), "stack", {
        get() {
          throw new Error("none");
        },
      }),
    });
    return lines.join("");
  };
  const [first, ...below] = entry("text").slice(0, -1).split("\n");
  assertMatch(first!, /Z ERROR it failed path="\/x"$/);
  assertEquals(below.filter((line) => !line.startsWith("    ")), []);
  assertEquals(below.slice(0, 2), ["    Error: two", "    lines"]);
  assertMatch(below.join("\n"), /log_test\.ts:\d+/);
  assertMatch(below.join("\n"), /\[cause\]: RangeError: \\u001b\[31mred\n/);
  const json = JSON.parse(entry("json"));
  assertMatch(json.error, /^Error: two\nlines\n {4}at [^]*\[cause\]: RangeError: /);
  assertEquals(json.path, "/x");
});

Deno.test("createLogger writes a JSON object a line", () => {
  const lines: string[] = [];
  const log = createLogger({ format: "json", write: (line) => lines.push(line) });
  log("warn", "disk is\nfull", { path: "/a", free: 0 });
  assertMatch(lines[0]!, /^[^\n]*\n$/);
  const { time, ...rest } = JSON.parse(lines[0]!);
  assertEquals(new Date(time).toISOString(), time);
  assertEquals(rest, { level: "warn", message: "disk is\nfull", path: "/a", free: 0 });
});

Deno.test("createLogger omits lines less urgent than its level, by default info", () => {
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

/** Replaces writes to standard error until the end of the block. */
function stubStderr(writeSync: (bytes: Uint8Array) => number): Disposable {
  Deno.stderr.writeSync = writeSync;
  return {
    [Symbol.dispose]() {
      // The method was inherited before.
      delete (Deno.stderr as { writeSync?: unknown }).writeSync;
    },
  };
}

Deno.test("Engine logs to standard error from level info on by default", async () => {
  let written = "";
  const engine = new Engine();
  const [loud, quiet] = [engine.job("commands"), engine.job("commands")];
  quiet.quiet = true;
  {
    // Takes a few bytes at a time, like a pipe that is nearly full.
    using _stderr = stubStderr((bytes) => {
      written += decoded(bytes.subarray(0, 5));
      return Math.min(5, bytes.length);
    });
    await quiet.run();
    await loud.run();
  }
  assertMatch(written, /^\S+ INFO +\+job commands\(\)\n\S+ INFO +-job commands\(\) = OK \(0\)\n$/);
});

Deno.test("createLogger survives the end of standard error's reader", () => {
  let tries = 0;
  using _stderr = stubStderr(() => {
    tries++;
    throw new Deno.errors.BrokenPipe("no reader");
  });
  const log = createLogger();
  log("error", "one");
  log("error", "two");
  assertEquals(tries, 2);
});

/** Characters that are not printable, or that look like others. */
const UNPRINTABLE = [
  ..."\0\x07\x1b\r\n\t\x7f\x80\x85\x9b\u00a0\u00ad",
  ..."\u034f\u061c\u115f\u1680\u180e\u200b\u200c\u200d\u200e\u200f",
  ..."\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069",
  ..."\u3000\u3164\ufe0f\ufeff\uffa0\ufff9\uffff\ue000",
  "\ud800",
  "\udc00",
  ..."\u{1d173}\u{e0001}\u{e0041}\u{e0100}\u{f0000}\u{10ffff}",
];
const PRINTABLE = '~ aZ09 "quoted" \\ ä é e\u0301 ß 日本語 Ελληνικά עברית العربية 🎉 − …';

for (const format of ["text", "json"] as const) {
  Deno.test(`createLogger spells out every character that is not printable, in ${format}`, () => {
    const lines: string[] = [];
    const log = createLogger({ format, write: (line) => lines.push(line) });
    for (const char of UNPRINTABLE) {
      const name = JSON.stringify([...char].map((c) => c.codePointAt(0)!.toString(16)));
      log("info", `<${char}>`, { field: `<${char}>`, other: new Error(`<${char}>`) });
      const all = lines.pop()!;
      // In text an error follows on lines of its own.
      const [line, ...below] = all.slice(0, -1).split("\n");
      for (const each of [line!, ...below]) {
        assert(!each.includes(char), `${name} is in ${each}`);
      }
      assertMatch(line!, /<\\(u[\da-f]{4}|[bfnrt])(\\u[\da-f]{4})?>.*<\\/, name);
      const error = format === "json" ? line! : below[0]!;
      // A newline in its message stays one.
      if (char !== "\n") assertMatch(error, /Error: <[\\\ufffd]/, name);
      if (format === "json") {
        const { message, field } = JSON.parse(all);
        assertEquals([message, field], [`<${char}>`, `<${char}>`], name);
      }
    }
  });

  Deno.test(`createLogger leaves printable characters as they are, in ${format}`, () => {
    const lines: string[] = [];
    createLogger({ format, write: (line) => lines.push(line) })("info", PRINTABLE);
    if (format === "json") assertEquals(JSON.parse(lines[0]!).message, PRINTABLE);
    assert(lines[0]!.includes("日本語 Ελληνικά עברית العربية 🎉 − …"), lines[0]);
  });

  Deno.test(`createLogger writes a line whatever a field is, in ${format}`, () => {
    const circle: Record<string, unknown> = {};
    circle.self = circle;
    const fields = {
      circle,
      bare: Object.create(null),
      thrower: {
        toString: () => {
          throw new Error();
        },
        toJSON: () => {
          throw new Error();
        },
      },
      symbol: Symbol("s"),
      large: 1n,
      last: "here",
    };
    const lines: string[] = [];
    createLogger({ format, write: (line) => lines.push(line) })("warn", "odd", fields);
    assertMatch(lines[0]!, /odd.*cannot be shown as text.*here.*\n$/);
    if (format === "json") JSON.parse(lines[0]!);
  });
}
