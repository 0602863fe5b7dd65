import { assert, assertEquals, assertLess, assertThrows } from "@std/assert";
import { Env } from "../../engine/env.ts";
import { compactJson, elementsOf, membersOf } from "../../engine/json.ts";
import { project, run } from "../support/daemon.ts";
import { assertLinear } from "../support/engine.ts";

/** Numbers between 0 and 1, the same ones each time (mulberry32). */
function random(seed: number): () => number {
  return () => {
    seed = seed + 0x6d2b79f5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
}

// deno-fmt-ignore
const PARTS = [
  ..."{}[]:,\"\\/ \n\t0123456789-+.eEtrufalsn",
  ...['""', '"a"', '"\\u00e9"', '"\\ud800"', "true", "null", "1e9", "-0.5", "[]", "{}", '"k":', "é", "\u2028"],
];

Deno.test("compactJson takes what JSON.parse takes, and nothing else", () => {
  const next = random(7);
  // deno-fmt-ignore
  const samples = [
    "", " ", "1", "01", "-", "-0", "1.", ".5", "1e", "1e+", "1E-07", "+1", "0x1", "NaN", '"', '"\\x"', '"\\u12"',
    '"\\u12G4"', '"a\nb"', '"\x7f"', "[1,]", "[,1]", "{,}", '{"a"}', '{"a":}', '{"a":1,}', "{'a':1}", "[1 2]",
    "tru", "truex", "nul", '{"a":1}}', "[[]", "]", "\ufeff1", "1\u00a0", '"\u2028"', '{"":{"":[{}]}}',
  ];
  for (let i = 0; i < 20_000; i++) {
    let text = "";
    for (let parts = next() * 12; parts > 0; parts--) {
      text += PARTS[Math.floor(next() * PARTS.length)];
    }
    samples.push(text);
  }
  // Valid texts with one character changed.
  const value = (depth: number): unknown => {
    const kind = Math.floor(next() * (depth > 3 ? 4 : 6));
    if (kind === 0) return next() * 1e6 - 5e5;
    if (kind === 1) return PARTS[Math.floor(next() * PARTS.length)] + '\u0001é"\\';
    if (kind === 2) return [true, false, null][Math.floor(next() * 3)];
    if (kind === 3) return Math.floor(next() * 9);
    const values = Array.from({ length: next() * 4 }, () => value(depth + 1));
    return kind === 4 ? values : Object.fromEntries(values.map((v, i) => [`k${i}"`, v]));
  };
  for (let i = 0; i < 3_000; i++) {
    const text = JSON.stringify(value(0), undefined, next() < 0.5 ? "\t" : undefined);
    const at = Math.floor(next() * text.length);
    samples.push(
      text,
      text.slice(0, at) + PARTS[Math.floor(next() * PARTS.length)] + text.slice(at + 1),
    );
  }
  let good = 0;
  for (const text of samples) {
    let parsed: unknown;
    try {
      parsed = JSON.parse(text);
    } catch {
      assertEquals([text, compactJson(text)], [text, undefined]);
      continue;
    }
    good++;
    const compact = compactJson(text);
    assert(compact !== undefined, text);
    assertEquals(JSON.parse(compact), parsed);
    // White space is kept inside of strings only.
    assertEquals(compact.replace(/"(?:[^"\\]|\\.)*"/g, "").match(/\s/), null);
    if (!/[\d.]/.test(text) && !/\\/.test(text)) assertEquals(compact, JSON.stringify(parsed));
  }
  assert(good > 3_000, `${good} good ones`);
});

Deno.test("membersOf gives the members as they are written", () => {
  const text =
    ` { "b" : 1.50, "2": [ 1 , {"x" : " y " } ], "a\\n": "\\u0041", "b" : 1e3, "": null } `;
  assertEquals([...membersOf(text)], [
    ["b", "1e3"],
    ["2", '[1,{"x":" y "}]'],
    ["a\n", '"\\u0041"'],
    ["", "null"],
  ]);
  assertEquals([...membersOf("{ }")], []);
  for (
    const [text, problem] of [
      ["", 'expected a JSON object: expected "{" at character 1, got the end of the text'],
      ["[1]", 'expected a JSON object: expected "{" at character 1, got [1]'],
      ['{"a" 1}', 'expected a JSON object: expected ":" at character 6, got 1}'],
      ["{} x", "expected a JSON object: expected the end at character 4, got x"],
      ['{"a":tru}', "expected a JSON object: expected a value at character 6, got tru}"],
      ['{"a":1', 'expected a JSON object: expected "," or "}" at character 7, got the end'],
    ] as const
  ) assertThrows(() => membersOf(text), SyntaxError, problem);
});

Deno.test("membersOf bounds the number of members and their depth", () => {
  const many = (count: number) =>
    `{${Array.from({ length: count }, (_, i) => `"${i}":0`).join(",")}}`;
  assertEquals(membersOf(many(100_000)).size, 100_000);
  assertThrows(() => membersOf(many(100_001)), SyntaxError, "more than 100000 members");
  const deep = (depth: number) => `{"a":${"[".repeat(depth)}${"]".repeat(depth)}}`;
  assertEquals(membersOf(deep(10_001)).size, 1);
  assertThrows(() => membersOf(deep(10_002)), SyntaxError, "nested more than 10000 deep");
  assertThrows(() => membersOf("[".repeat(5_000_000)), SyntaxError, "expected a JSON object");
});

Deno.test("elementsOf gives the elements of an array, and undefined of anything else", () => {
  assertEquals(elementsOf(' [ 1.0 , "a b" , [ ] , { "x" : 1 } ] '), [
    "1.0",
    '"a b"',
    "[]",
    '{"x":1}',
  ]);
  assertEquals(elementsOf("[]"), []);
  for (const text of ["", "{}", "1", "[1", "[1,]", "[1]]"]) {
    assertEquals(elementsOf(text), undefined);
  }
});

const MIB = 2 ** 20;
/** The most expensive bodies of several kinds, of about this size in bytes. */
const WORST: Record<string, (size: number) => string> = {
  "zeros": (size) => `{"a":[${"0,".repeat(size / 2)}0]}`,
  "zeros with spaces": (size) => `{"a":[${"0 ,\n".repeat(size / 4)}0]}`,
  "empty strings": (size) => `{"a":[0,${'"",'.repeat(size / 3)}""]}`,
  "empty objects": (size) => `{"a":[${"{},".repeat(size / 3)}{}]}`,
  "empty objects with spaces": (size) => `{"a":[${"{ },".repeat(size / 4)}{}]}`,
  "escapes": (size) => `{"a":["${"\\n".repeat(size / 2)}"]}`,
  "one string": (size) => `{"a":"${"x".repeat(size)}"}`,
  "one number": (size) => `{"a":${"1".repeat(size)}}`,
  "white space": (size) => `{"a":${" ".repeat(size)}1}`,
  "no object": (size) => `[${"0 ,".repeat(size / 3)}0]`,
  "no end": (size) => `{"a":[${"[],".repeat(size / 3)}`,
  "members": (size) => `{${'"aaaaaaaa":0,'.repeat(size / 13)}"b":0}`,
};

for (const [what, make] of Object.entries(WORST)) {
  Deno.test(`Env.decode takes time in proportion to the text: ${what}`, async () => {
    await assertLinear(MIB / 4, (size) => {
      const text = make(size);
      return () => {
        try {
          Env.decode(text).encode();
        } catch (error) {
          if (!(error instanceof SyntaxError)) throw error;
        }
      };
    });
  });
}

Deno.test("Env.decode takes 16 MiB in less than a second and eight times the memory", async () => {
  const cases = Object.entries(WORST).map(([name, make]) => `${JSON.stringify(name)}: ${make}`);
  const program = `
    import { cpuUsage } from "node:process";
    import { Env } from ${JSON.stringify(project("engine/env.ts"))};
    for (const [what, make] of Object.entries({ ${cases} })) {
      const text = new TextDecoder().decode(new TextEncoder().encode(make(${16 * MIB})));
      gc();
      const before = Deno.memoryUsage().heapUsed;
      const started = cpuUsage();
      let env;
      try {
        env = Env.decode(text);
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error;
      }
      const { user } = cpuUsage(started);
      console.log(JSON.stringify([what, user / 1_000, Deno.memoryUsage().heapUsed - before, env?.size]));
    }`;
  // With more memory than that, this and the text together, the process ends.
  const { code, stdout, stderr } = await run(Deno.execPath(), [
    "eval",
    "--no-lock",
    "--v8-flags=--expose-gc,--max-heap-size=176",
    program,
  ], { env: { NO_COLOR: "1" } });
  assertEquals([code, stderr], [0, ""]);
  const lines = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assertEquals(lines.length, cases.length);
  for (const [what, ms, heap] of lines) {
    // A second of CPU time; other load on the machine makes it longer.
    assertLess(ms, 3_000, what);
    assertLess(heap, 8 * 16 * MIB, what);
  }
});
