/**
 * Holds the stand-ins in `offline/` to results that stand here, and, where JSR answers, to what the
 * originals give for the same input.
 */

import { assertEquals, assertStringIncludes } from "@std/assert";
// What judges the stand-in's assertions has to be something else than those assertions.
import { deepStrictEqual, ok, strictEqual } from "node:assert/strict";
import { inspect } from "node:util";
import * as standIn from "../../offline/assert.ts";
import { jsrTrouble, OFFLINE_FLAGS } from "../../offline/flags.ts";
import { parseArgs, type ParseOptions } from "../../offline/parse_args.ts";

type Std = typeof standIn;

/** Loads the originals, the specifiers being variables so that this module loads without them. */
async function loadOriginals(): Promise<{ std: Std; parse: typeof parseArgs }> {
  const [std, cli] = ["jsr:@std/assert@^1", "jsr:@std/cli@^1/parse-args"];
  return { std: await import(std), parse: (await import(cli)).parseArgs };
}

let trouble = await jsrTrouble();
let originals: Awaited<ReturnType<typeof loadOriginals>> | undefined;
if (trouble === undefined) {
  originals = await loadOriginals().catch((error) => {
    trouble = error.message;
    return undefined;
  });
}
if (!originals) {
  console.log(`Skipped: the comparison of the stand-ins with the originals on JSR (${trouble})`);
}

/** Registers a test that holds the stand-ins to the originals. */
function compare(name: string, check: (real: NonNullable<typeof originals>) => unknown) {
  Deno.test({ name, ignore: !originals, fn: async () => void await check(originals!) });
}

// --- parseArgs ---------------------------------------------------------------------------------

interface Vector {
  does: string;
  args: string[];
  options?: ParseOptions;
  /** What the `unknown` callback returns; without it there is no callback. */
  keep?: boolean;
  result: Record<string, unknown>;
  unknown?: unknown[][];
}

const hosts: ParseOptions = {
  boolean: ["D"],
  string: ["host"],
  collect: ["host"],
  alias: { host: "H" },
};

const vectors: Vector[] = [
  {
    does: "gives nothing for nothing but the defaults of its kinds",
    args: [],
    options: hosts,
    result: { _: [], D: false, host: [], H: [] },
  },
  {
    does: "collects a repeated option",
    args: ["-H", "a", "--host=b", "--host", "c", "d"],
    options: hosts,
    result: { _: ["d"], D: false, host: ["a", "b", "c"], H: ["a", "b", "c"] },
  },
  {
    does: "takes a group of letters apart, the last of which has a value",
    args: ["-DH", "x"],
    options: hosts,
    result: { _: [], D: true, host: ["x"], H: ["x"] },
  },
  {
    does: "takes what starts with no letter, or ends in a digit, as the value of the letter before",
    args: ["-Htcp://[::1]:80", "-H=v", "-H/x", "-H1"],
    options: hosts,
    result: {
      _: [],
      D: false,
      host: ["tcp://[::1]:80", "v", "/x", "1"],
      H: ["tcp://[::1]:80", "v", "/x", "1"],
    },
  },
  {
    does: "takes letters after a letter as further options",
    args: ["-Hv"],
    options: hosts,
    result: { _: [], D: false, host: [""], H: [""], v: true },
  },
  {
    does: "gives a string option without a value an empty one",
    args: ["--a", "-b", "--c=", "--d", "--", "x"],
    options: { string: ["a", "b", "c", "d"] },
    result: { _: ["x"], a: "", b: "", c: "", d: "" },
  },
  {
    does: "leaves a string option that is not given out",
    args: [],
    options: { string: ["a"] },
    result: { _: [] },
  },
  {
    does: "lets the last of a repeated option win",
    args: ["--a", "x", "--a=y", "-b", "1", "-b2"],
    result: { _: [], a: "y", b: 2 },
  },
  {
    does: "lets a boolean option take nothing but true and false",
    args: ["--a", "x", "--b", "false", "-c", "true", "--d=false", "--e=0"],
    options: { boolean: ["a", "b", "c", "d", "e", "f"] },
    result: { _: ["x"], a: true, b: false, c: true, d: false, e: true, f: false },
  },
  {
    does: "makes every long option a boolean one if told so",
    args: ["--a", "x", "--b", "false", "--c=y", "-d", "z"],
    options: { boolean: true },
    result: { _: ["x"], a: true, b: false, c: "y", d: "z" },
  },
  {
    does: "sets an option under all its names",
    args: ["-q", "--port", "5"],
    options: { boolean: ["quiet"], string: ["p"], alias: { quiet: ["q", "silent"], p: "port" } },
    result: { _: [], quiet: true, q: true, silent: true, p: "5", port: "5" },
  },
  {
    does: "makes numbers of what looks like them, except of string options",
    args: ["1", "0x1F", "1e3", ".5", "v1", "--a=2", "--b=2", "--c", "", "-n-5"],
    options: { string: ["b"] },
    result: { _: [1, 31, 1000, 0.5, "v1", ""], a: 2, b: "2", c: true, n: -5 },
  },
  {
    does: "keeps positional arguments strings if told so",
    args: ["1", "--a", "2", "3"],
    options: { string: ["_"] },
    result: { _: ["1", "3"], a: 2 },
  },
  {
    does: "takes a dash as positional, or as a letter's value",
    args: ["-", "--a", "-", "-b", "-", "-c-"],
    result: { _: ["-", "-"], a: true, b: "-", c: "-" },
  },
  {
    does: "takes what looks like an option as one and not as a value",
    args: ["--a", "-1", "--b", "--c", "-d", "--e"],
    result: { _: [], a: true, 1: true, b: true, c: true, d: true, e: true },
  },
  {
    does: "keeps all of a value that has signs in it",
    args: ["--a=x=y", "-b=x=y", "--c", "x=y", "-eA=B"],
    result: { _: [], a: "x=y", b: "x=y", c: "x=y", e: "B" },
  },
  {
    does: "gives defaults, under all names, to what is not given",
    args: ["--b", "2"],
    options: { string: ["a"], default: { a: 1, b: 1, c: undefined }, alias: { a: "A", b: "B" } },
    result: { _: [], a: 1, A: 1, b: 2, B: 2, c: undefined },
  },
  {
    does: "puts what is collected in place of the default",
    args: ["--a", "x"],
    options: { collect: ["a", "b"], string: ["a", "b"], default: { a: ["d"], b: ["d"] } },
    result: { _: [], a: ["x"], b: ["d"] },
  },
  {
    does: "has no empty array for what is collected but of no declared kind",
    args: ["--a", "1"],
    options: { collect: ["a", "b"] },
    result: { _: [], a: [1] },
  },
  {
    does: "takes an option that starts with no- as any other, unless its value is attached",
    args: ["--no-a", "--no-b=x"],
    result: { _: [], "no-a": true, b: "x" },
  },
  {
    does: "takes nothing after an equals sign as an empty value",
    args: ["--a=", "-b=", "-cd="],
    result: { _: [], a: "", b: "", c: true, d: "" },
  },
  {
    does: "adds what follows a double dash to the positional arguments as it is",
    args: ["1", "--a", "--", "2", "--b", "--"],
    result: { _: [1, "2", "--b", "--"], a: true },
  },
  {
    does: "keeps what follows a double dash apart if told so",
    args: ["1", "--", "2", "--b"],
    options: { "--": true },
    result: { _: [1], "--": ["2", "--b"] },
  },
  {
    does: "stops at the first positional argument if told so",
    args: ["-a", "x", "run", "-b", "1", "--", "y"],
    options: { stopEarly: true },
    result: { _: ["run", "-b", "1", "y"], a: "x" },
  },
  {
    does: "makes objects of dotted names",
    args: ["--a.b", "1", "--a.c=x"],
    options: { boolean: ["a.d"], alias: { "a.c": "c" } },
    result: { _: [], a: { b: 1, c: "x", d: false }, c: "x" },
  },
  {
    does: "leaves the prototypes of objects alone",
    args: ["--__proto__.x", "1", "--constructor.prototype.x", "1", "--toString", "1"],
    result: { _: [], toString: 1 },
  },
  {
    does: "tells of what it does not know, with the values as they are given",
    args: ["--known", "--a", "1", "-bc", "x", "pos", "5", "--d=e", "-H=1", "--", "rest"],
    options: { ...hosts, boolean: ["known"], default: { d: "" } },
    keep: true,
    result: {
      _: ["pos", 5, "rest"],
      known: true,
      a: 1,
      b: true,
      c: "x",
      d: "e",
      host: ["1"],
      H: ["1"],
    },
    unknown: [["--a", "a", "1"], ["-bc", "b", true], ["-bc", "c", "x"], ["pos"], ["5"], [
      "--d=e",
      "d",
      "e",
    ]],
  },
  {
    does: "leaves out what the callback turns down",
    args: ["--known", "--a", "1", "-b", "pos", "pos", "--", "rest"],
    options: { boolean: ["known"] },
    keep: false,
    result: { _: ["rest"], known: true },
    unknown: [["--a", "a", "1"], ["-b", "b", "pos"], ["pos"]],
  },
];

/** What an implementation makes of a vector, in the form in which a vector says it. */
function parsed(parse: typeof parseArgs, { args, options, keep }: Vector) {
  const calls: unknown[][] = [];
  const unknown = (...call: unknown[]) => (calls.push(call), keep);
  const result = parse([...args], keep === undefined ? options : { ...options, unknown });
  return { result: result as Record<string, unknown>, unknown: calls };
}

for (const vector of vectors) {
  Deno.test(`parseArgs ${vector.does}`, () => {
    assertEquals(parsed(parseArgs, vector), {
      result: vector.result,
      unknown: vector.unknown ?? [],
    });
  });
}

Deno.test("parseArgs has types for the options it is told of", () => {
  const flags = parseArgs(["-H", "a", "--debug"], {
    boolean: ["debug"],
    string: ["pidfile", "host"],
    collect: ["host"],
    alias: { host: "H" },
  });
  const debug: boolean = flags.debug;
  const pidfile: string | undefined = flags.pidfile;
  const host: string[] = flags.H;
  const rest: (string | number)[] = flags._;
  assertEquals({ debug, pidfile, host, rest }, {
    debug: true,
    pidfile: undefined,
    host: ["a"],
    rest: [],
  });
});

compare("parseArgs gives what the original gives", ({ parse }) => {
  for (const vector of vectors) {
    assertEquals(parsed(parse, vector), parsed(parseArgs, vector), `parseArgs ${vector.does}`);
  }
});

// --- equal -------------------------------------------------------------------------------------

class Point {
  constructor(public x: number) {}
}
class Spot {
  constructor(public x: number) {}
}
class Celsius {
  #degrees: number;
  constructor(degrees: number) {
    this.#degrees = degrees;
  }
  get degrees() {
    return this.#degrees;
  }
}

function circular(value: number): unknown {
  const object: Record<string, unknown> = { value };
  object.self = object;
  return object;
}

function withoutPrototype(object: object): unknown {
  return Object.assign(Object.create(null), object);
}

/** An error the stack of which says the same wherever it is made. */
function failure(message: string, options?: ErrorOptions): unknown {
  return Object.defineProperty(new Error(message, options), "stack", { value: "" });
}

const symbol = Symbol("symbol");

const pairs: [what: string, a: unknown, b: unknown, equal: boolean][] = [
  ["a number and the same", 1, 1, true],
  ["a number and its digits", 1, "1", false],
  ["NaN and NaN", NaN, NaN, true],
  ["zero and negative zero", 0, -0, true],
  ["nested zeros", { a: [0] }, { a: [-0] }, true],
  ["null and undefined", null, undefined, false],
  ["symbols of the same description", Symbol("a"), Symbol("a"), false],
  ["nested objects", { a: { b: [1, { c: 2 }] } }, { a: { b: [1, { c: 2 }] } }, true],
  ["nested objects that differ", { a: { b: [1, { c: 2 }] } }, { a: { b: [1, { c: 3 }] } }, false],
  ["keys in another order", { a: 1, b: 2 }, { b: 2, a: 1 }, true],
  ["an undefined key and none", { a: 1, b: undefined }, { a: 1 }, false],
  ["different undefined keys", { a: undefined }, { b: undefined }, false],
  ["symbol keys", { [symbol]: 1 }, { [symbol]: 1 }, true],
  ["symbol keys that differ", { [symbol]: 1 }, { [symbol]: 2 }, false],
  ["arrays in another order", [1, 2], [2, 1], false],
  ["a hole and undefined", [, 1], [undefined, 1], false],
  ["an array and an object", [], {}, false],
  ["objects with and without a prototype", { a: 1 }, withoutPrototype({ a: 1 }), true],
  ["instances of a class", new Point(1), new Point(1), true],
  ["instances of different classes", new Point(1), new Spot(1), false],
  ["an instance and an object", new Point(1), { x: 1 }, false],
  ["instances whose accessors agree", new Celsius(1), new Celsius(1), true],
  ["instances whose accessors differ", new Celsius(1), new Celsius(2), false],
  ["dates", new Date(0), new Date(0), true],
  ["dates that differ", new Date(0), new Date(1), false],
  ["regular expressions", /a/g, /a/g, true],
  ["regular expressions with other flags", /a/g, /a/, false],
  ["URLs", new URL("http://a"), new URL("http://a/"), true],
  ["URLs that differ", new URL("http://a/b"), new URL("http://a/c"), false],
  ["query strings that differ", new URLSearchParams("a=1"), new URLSearchParams("a=2"), false],
  ["headers that differ", new Headers({ a: "1" }), new Headers({ a: "2" }), false],
  ["errors", failure("a"), failure("a"), true],
  ["errors with other messages", failure("a"), failure("b"), false],
  ["errors with other causes", failure("a", { cause: 1 }), failure("a", { cause: 2 }), false],
  ["maps in another order", new Map([[1, 2], [3, 4]]), new Map([[3, 4], [1, 2]]), true],
  ["maps with objects as keys", new Map([[{ a: 1 }, 1]]), new Map([[{ a: 1 }, 1]]), true],
  ["maps with other values", new Map([["a", 1]]), new Map([["a", 2]]), false],
  ["sets in another order", new Set([1, 2]), new Set([2, 1]), true],
  ["sets of objects", new Set([{ a: 1 }]), new Set([{ a: 1 }]), true],
  ["sets of objects that differ", new Set([{ a: 1 }]), new Set([{ a: 2 }]), false],
  ["a set and a map", new Set(), new Map(), false],
  ["bytes", new Uint8Array([1, 2]), new Uint8Array([1, 2]), true],
  ["bytes that differ", new Uint8Array([1, 2]), new Uint8Array([1, 3]), false],
  ["bytes and numbers", new Uint8Array([1]), [1], false],
  ["buffers that differ", new Uint8Array([1]).buffer, new Uint8Array([2]).buffer, false],
  ["functions", () => 1, () => 1, false],
  ["circular objects", circular(1), circular(1), true],
  ["circular objects that differ", circular(1), circular(2), false],
];

for (const [what, a, b, expected] of pairs) {
  Deno.test(`equal tells ${what} ${expected ? "equal" : "unequal"}`, () => {
    strictEqual(standIn.equal(a, b), expected);
    strictEqual(standIn.equal(b, a), expected);
  });
}

compare("equal judges as the original does", ({ std }) => {
  for (const [what, a, b, expected] of pairs) {
    strictEqual(std.equal(a, b), expected, what);
    strictEqual(std.equal(b, a), expected, what);
  }
});

// --- The assertions ----------------------------------------------------------------------------

const none = (): void => {};
const thrower = (error: unknown) => (): never => {
  throw error;
};
const rejecter = (error: unknown) => () => Promise.reject(error);

/** The fourth column is how the message starts, or `null` where the assertion holds. */
const claims: [symbol: keyof Std, does: string, (std: Std) => unknown, string | null][] = [
  ["assert", "takes what is truthy", (s) => s.assert("x"), null],
  ["assert", "fails for what is falsy", (s) => s.assert(0, "why"), "why"],
  ["assertFalse", "takes what is falsy", (s) => s.assertFalse(""), null],
  ["assertFalse", "fails for what is truthy", (s) => s.assertFalse([], "why"), "why"],
  ["assertEquals", "takes equal values", (s) => s.assertEquals({ a: 1 }, { a: 1 }), null],
  ["assertEquals", "fails for others", (s) => s.assertEquals(1, 2), "Values are not equal."],
  [
    "assertEquals",
    "shows the lines that differ",
    (s) => s.assertEquals([1, 2, 3], [1, 4, 3], "why"),
    "Values are not equal: why\n\n\n    [Diff] Actual / Expected\n\n\n" +
    "    [\n      1,\n-     2,\n+     4,\n      3,\n    ]\n",
  ],
  ["assertNotEquals", "takes different values", (s) => s.assertNotEquals([1], [2]), null],
  [
    "assertNotEquals",
    "fails for equal ones",
    (s) => s.assertNotEquals("a", "a"),
    'Expected actual: "a" not to be: "a".',
  ],
  ["assertStrictEquals", "takes the same value", (s) => s.assertStrictEquals(NaN, NaN), null],
  [
    "assertStrictEquals",
    "fails for another",
    (s) => s.assertStrictEquals(0, -0),
    "Values are not strictly equal.",
  ],
  [
    "assertStrictEquals",
    "fails for an equal object",
    (s) => s.assertStrictEquals([], []),
    "Values have the same structure but are not reference-equal.\n\n    []\n",
  ],
  ["assertNotStrictEquals", "takes equal objects", (s) => s.assertNotStrictEquals([], []), null],
  [
    "assertNotStrictEquals",
    "fails for the same value",
    (s) => s.assertNotStrictEquals(1, 1),
    'Expected "actual" to not be strictly equal to: 1.\n',
  ],
  ["assertExists", "takes what is there", (s) => s.assertExists(0), null],
  [
    "assertExists",
    "fails for null",
    (s) => s.assertExists(null, "why"),
    'Expected actual: "null" to not be null or undefined: why',
  ],
  ["assertInstanceOf", "takes an instance", (s) => s.assertInstanceOf([], Array), null],
  [
    "assertInstanceOf",
    "fails for an instance of another class",
    (s) => s.assertInstanceOf(new Map(), Date),
    'Expected object to be an instance of "Date" but was "Map".',
  ],
  [
    "assertInstanceOf",
    "fails for what is no object",
    (s) => s.assertInstanceOf(1, Date),
    'Expected object to be an instance of "Date" but was "number".',
  ],
  ["assertNotInstanceOf", "takes others", (s) => s.assertNotInstanceOf({}, Date), null],
  [
    "assertNotInstanceOf",
    "fails for an instance",
    (s) => s.assertNotInstanceOf(new Date(), Date),
    "Expected object to not be an instance of",
  ],
  ["assertMatch", "takes a string that matches", (s) => s.assertMatch("abc", /b/), null],
  [
    "assertMatch",
    "fails for another",
    (s) => s.assertMatch("abc", /x/),
    'Expected actual: "abc" to match: "/x/".',
  ],
  ["assertNotMatch", "takes another string", (s) => s.assertNotMatch("abc", /x/), null],
  [
    "assertNotMatch",
    "fails for one that matches",
    (s) => s.assertNotMatch("abc", /b/),
    'Expected actual: "abc" to not match: "/b/".',
  ],
  ["assertStringIncludes", "takes a part", (s) => s.assertStringIncludes("abc", "bc"), null],
  [
    "assertStringIncludes",
    "fails for what is no part",
    (s) => s.assertStringIncludes("abc", "x"),
    'Expected actual: "abc" to contain: "x".',
  ],
  [
    "assertArrayIncludes",
    "takes equal items",
    (s) => s.assertArrayIncludes([{ a: 1 }, { a: 2 }], [{ a: 2 }]),
    null,
  ],
  [
    "assertArrayIncludes",
    "tells what is missing",
    (s) => s.assertArrayIncludes([1], [1, 2], "why"),
    'Expected actual: "[\n  1,\n]" to include: "[\n  1,\n  2,\n]": why\nmissing: [\n  2,\n]',
  ],
  [
    "assertObjectMatch",
    "takes an object that has more",
    (s) => s.assertObjectMatch({ a: 1, b: { c: [{ d: 1, e: 2 }, 3] } }, { b: { c: [{ d: 1 }] } }),
    null,
  ],
  [
    "assertObjectMatch",
    "takes an instance for its properties",
    (s) => s.assertObjectMatch({ a: new Point(1) }, { a: { x: 1 } }),
    null,
  ],
  [
    "assertObjectMatch",
    "takes maps and sets that have more",
    (s) =>
      s.assertObjectMatch(
        { a: new Map([["x", { y: 1, z: 2 }], ["w", { y: 3, z: 4 }]]), b: new Set([1, 2]) },
        { a: new Map([["x", { y: 1 }]]), b: new Set([2]) },
      ),
    null,
  ],
  [
    "assertObjectMatch",
    "fails for another value",
    (s) => s.assertObjectMatch({ a: { b: 1 } }, { a: { b: 2 } }, "why"),
    "Values are not equal: why",
  ],
  [
    "assertObjectMatch",
    "fails for a key that is missing, though undefined is expected",
    (s) => s.assertObjectMatch({ a: 1 }, { b: undefined }),
    "Values are not equal.",
  ],
  [
    "assertObjectMatch",
    "fails for an array that is shorter",
    (s) => s.assertObjectMatch({ a: [1] }, { a: [1, 2] }),
    "Values are not equal.",
  ],
  [
    "assertObjectMatch",
    "fails for another date",
    (s) => s.assertObjectMatch({ a: new Date(0) }, { a: new Date(1) }),
    "Values are not equal.",
  ],
  ["assertGreater", "takes more", (s) => s.assertGreater(2, 1), null],
  ["assertGreater", "fails for as much", (s) => s.assertGreater(1, 1), "Expect 1 > 1"],
  ["assertGreaterOrEqual", "takes as much", (s) => s.assertGreaterOrEqual(1, 1), null],
  [
    "assertGreaterOrEqual",
    "fails for less",
    (s) => s.assertGreaterOrEqual("a", "b"),
    'Expect "a" >= "b"',
  ],
  ["assertLess", "takes less", (s) => s.assertLess(1, 2), null],
  ["assertLess", "fails with the message given", (s) => s.assertLess(1, 1, "why"), "why"],
  ["assertLessOrEqual", "takes as much", (s) => s.assertLessOrEqual(1, 1), null],
  ["assertLessOrEqual", "fails for NaN", (s) => s.assertLessOrEqual(NaN, 1), "Expect NaN <= 1"],
  ["assertAlmostEquals", "takes what is close", (s) => s.assertAlmostEquals(0.1 + 0.2, 0.3), null],
  ["assertAlmostEquals", "takes a tolerance", (s) => s.assertAlmostEquals(1, 1.5, 0.5), null],
  [
    "assertAlmostEquals",
    "fails for what is not close",
    (s) => s.assertAlmostEquals(1, 1.5, 0.25),
    'Expected actual: "1" to be close to "1.5e+0": delta "5e-1" is greater than "2.5e-1".',
  ],
  [
    "assertIsError",
    "takes an error whose message matches",
    (s) => s.assertIsError(new TypeError("abc"), Error, /b/),
    null,
  ],
  [
    "assertIsError",
    "fails for another message",
    (s) => s.assertIsError(new Error("abc"), Error, /x/),
    'Expected error message to include /x/, but got "abc".',
  ],
  [
    "assertIsError",
    "fails for what is no error",
    (s) => s.assertIsError("abc"),
    'Expected "error" to be an Error object.',
  ],
  [
    "assertThrows",
    "takes an error of the class, whose message includes what it should",
    (s) => s.assertThrows(thrower(new TypeError("abc")), Error, "b"),
    null,
  ],
  ["assertThrows", "takes whatever is thrown", (s) => s.assertThrows(thrower("x")), null],
  [
    "assertThrows",
    "fails if nothing is thrown",
    (s) => s.assertThrows(none, "why"),
    "Expected function to throw: why",
  ],
  [
    "assertThrows",
    "fails for an error of another class",
    (s) => s.assertThrows(thrower(new Error("abc")), TypeError, "b", "why"),
    'Expected error to be instance of "TypeError", but was "Error": why',
  ],
  [
    "assertThrows",
    "fails for another message",
    (s) => s.assertThrows(thrower(new Error("abc")), Error, "x"),
    'Expected error message to include "x", but got "abc".',
  ],
  [
    "assertThrows",
    "fails for what is no error if one is expected",
    (s) => s.assertThrows(thrower("x"), Error),
    "A non-Error object was thrown.",
  ],
  [
    "assertRejects",
    "takes an error of the class, whose message includes what it should",
    (s) => s.assertRejects(rejecter(new TypeError("abc")), Error, "b"),
    null,
  ],
  [
    "assertRejects",
    "fails if the promise is fulfilled",
    (s) => s.assertRejects(() => Promise.resolve(), "why"),
    "Expected function to reject: why",
  ],
  [
    "assertRejects",
    "fails for another message",
    (s) => s.assertRejects(rejecter(new Error("abc")), Error, "x", "why"),
    'Expected error message to include "x", but got "abc": why',
  ],
  [
    "assertRejects",
    "fails if the function throws",
    (s) => s.assertRejects(thrower(new Error("abc")), Error, "abc"),
    "Function throws when expected to reject.",
  ],
  ["fail", "fails", (s) => s.fail("why"), "Failed assertion: why"],
  ["unimplemented", "fails", (s) => s.unimplemented(), "Unimplemented."],
  ["unreachable", "fails", (s) => s.unreachable(), "Unreachable."],
];

/** The message of the failed assertion, or `null` if it holds. */
async function verdict(std: Std, claim: (std: Std) => unknown): Promise<string | null> {
  try {
    await claim(std);
    return null;
  } catch (error) {
    ok(error instanceof std.AssertionError, `${error} is no AssertionError`);
    strictEqual(error.name, "AssertionError");
    return error.message;
  }
}

for (const [symbol, does, claim, expected] of claims) {
  Deno.test(`${symbol} ${does}`, async () => {
    const message = await verdict(standIn, claim);
    const agrees = expected === null ? message === null : message?.startsWith(expected);
    ok(agrees, `${inspect(message)} instead of ${inspect(expected)}`);
  });
}

Deno.test("assertThrows returns what was thrown", () => {
  const error = new RangeError("abc");
  const caught: RangeError = standIn.assertThrows(thrower(error), RangeError);
  strictEqual(caught, error);
  strictEqual(standIn.assertThrows(thrower("x"), "why"), "x");
});

Deno.test("assertRejects returns a promise of the reason", async () => {
  const error = new RangeError("abc");
  const caught: RangeError = await standIn.assertRejects(rejecter(error), RangeError);
  strictEqual(caught, error);
  strictEqual(await standIn.assertRejects(rejecter("x"), "why"), "x");
});

Deno.test("equal refuses to compare what cannot be looked into", () => {
  let message = "";
  try {
    standIn.equal(new WeakSet(), new WeakSet());
  } catch (error) {
    message = `${error}`;
  }
  strictEqual(message, "TypeError: Cannot compare WeakSet instances");
});

compare("The assertions hold and fail where the originals do", async ({ std }) => {
  // Not a word of the messages: they are the originals' to change.
  for (const [symbol, does, claim, expected] of claims) {
    strictEqual(await verdict(std, claim) === null, expected === null, `${symbol} ${does}`);
  }
});

compare("The stand-in for @std/assert has nothing that the original lacks", ({ std }) => {
  deepStrictEqual(Object.keys(standIn).filter((symbol) => !(symbol in std)), []);
});

// --- offline/flags.ts and offline/import_map.json ----------------------------------------------

/** Runs `use` with the address of a server on this machine in place of JSR. */
async function withRegistry(
  handler: Deno.ServeHandler,
  use: (registry: string) => Promise<void>,
): Promise<void> {
  const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen: none }, handler);
  try {
    await use(`http://127.0.0.1:${server.addr.port}`);
  } finally {
    await server.shutdown();
  }
}

/** What `deno run offline/flags.ts` prints with that registry. */
async function printed(registry: string): Promise<{ stdout: string; stderr: string }> {
  const command = new Deno.Command(Deno.execPath(), {
    args: ["run", "--allow-net", "--allow-env", "--no-lock", "offline/flags.ts"],
    cwd: new URL("../..", import.meta.url),
    env: { JSR_URL: registry },
  });
  const { stdout, stderr } = await command.output();
  const decoder = new TextDecoder();
  return { stdout: decoder.decode(stdout), stderr: decoder.decode(stderr) };
}

const metadata = () => Response.json({ scope: "std", name: "assert", versions: {} });

Deno.test("jsrTrouble finds none where the package's metadata are served", async () => {
  const paths: string[] = [];
  const handler = (request: Request) => (paths.push(new URL(request.url).pathname), metadata());
  await withRegistry(handler, async (registry) => {
    assertEquals(await jsrTrouble(registry), undefined);
    assertEquals(await jsrTrouble(`${registry}/mirror/`), undefined);
  });
  assertEquals(paths, ["/@std/assert/meta.json", "/mirror/@std/assert/meta.json"]);
});

Deno.test("jsrTrouble tells of an answer that is an error", async () => {
  await withRegistry(() => new Response("no", { status: 503 }), async (registry) => {
    assertStringIncludes(`${await jsrTrouble(registry)}`, "answers with status 503");
  });
});

Deno.test("jsrTrouble tells of an answer that is not from a registry", async () => {
  await withRegistry(() => new Response("<p>Please log in"), async (registry) => {
    assertStringIncludes(`${await jsrTrouble(registry)}`, "does not answer with a package's");
  });
});

Deno.test("jsrTrouble does not wait for longer than it is told to", async () => {
  const answer = Promise.withResolvers<Response>();
  await withRegistry(() => answer.promise, async (registry) => {
    const trouble = await jsrTrouble(registry, 1);
    answer.resolve(metadata());
    assertEquals(trouble, `${registry} does not answer within 1 ms`);
  });
});

Deno.test("offline/flags.ts prints nothing where JSR answers", async () => {
  await withRegistry(metadata, async (registry) => {
    assertEquals(await printed(registry), { stdout: "", stderr: "" });
  });
});

Deno.test("offline/flags.ts prints the flags, and why, where JSR does not answer", async () => {
  await withRegistry(() => new Response("no", { status: 503 }), async (registry) => {
    const { stdout, stderr } = await printed(registry);
    assertEquals(stdout, `${OFFLINE_FLAGS.join(" ")}\n`);
    assertStringIncludes(stderr, "JSR can't be reached, the stand-ins in offline/ are used: ");
    assertEquals(stderr.trim().split("\n").length, 1);
  });
});

Deno.test("offline/import_map.json replaces every import of deno.json", async () => {
  const imports = async (path: string): Promise<Record<string, string>> =>
    JSON.parse(await Deno.readTextFile(new URL(path, import.meta.url))).imports;
  const replaced = Object.keys(await imports("../../offline/import_map.json"));
  const missing = Object.keys(await imports("../../deno.json")).filter((k) =>
    !replaced.includes(k)
  );
  // Flags that put an import map in place leave nothing of these imports.
  assertEquals(missing, []);
});
