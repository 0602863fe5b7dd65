// The stand-ins do what stands here, and so do the originals where JSR answers.
import { deepStrictEqual, doesNotThrow, throws } from "node:assert/strict";
import * as assertions from "../../offline/assert.ts";
import { jsrTrouble } from "../../offline/flags.ts";
import { parseArgs } from "../../offline/parse_args.ts";

const bad = () => JSON.parse("{");
// deno-fmt-ignore
const VERDICTS: [passes: boolean, name: string, ...args: unknown[]][] = [
  [true, "assertEquals", { a: [1, new Map([["b", 2]])] }, { a: [1, new Map([["b", 2]])] }],
  [true, "assertEquals", 0, -0], [true, "assertEquals", NaN, NaN],
  [false, "assertEquals", { a: undefined }, {}], [false, "assertEquals", [1], ["1"]],
  [false, "assertNotEquals", [1], [1]], [false, "assertStrictEquals", [1], [1]],
  [true, "assertObjectMatch", { a: 1, b: { c: 2, d: 3 } }, { b: { c: 2 } }],
  [false, "assertObjectMatch", { a: 1 }, { a: 1, b: 2 }],
  [true, "assertArrayIncludes", [1, { a: 2 }], [{ a: 2 }]],
  [false, "assertArrayIncludes", [1], [2]], [false, "assertMatch", "abc", /d/],
  [true, "assertThrows", bad, SyntaxError, "JSON"], [false, "assertThrows", bad, TypeError],
  [false, "assertThrows", bad, Error, "no"], [false, "assertThrows", () => {}], [false, "fail"],
  [false, "assertExists", null],
];
const PARSED = { _: ["d"], debug: true, host: ["a", "b"], pidfile: "p" };
const ARGS = ["--host=a", "--debug", "d", "--host", "b", "--pidfile=p"];
const OPTIONS = { boolean: ["debug"], string: ["host", "pidfile"], collect: ["host"] };

function hold(what: string, std: Record<string, unknown>, parse: typeof parseArgs) {
  Deno.test(`${what} decide and parse alike`, () => {
    for (const [passes, name, ...args] of VERDICTS) {
      const check = std[name] as (...args: unknown[]) => void;
      (passes ? doesNotThrow : throws)(() => check(...args), `${name} of ${Deno.inspect(args)}`);
    }
    deepStrictEqual({ ...parse(ARGS, OPTIONS) }, PARSED);
  });
}

hold("the stand-ins", assertions, parseArgs);
const trouble = await jsrTrouble();
if (trouble) {
  console.log(`Skipped: @std/assert and @std/cli themselves (${trouble})`);
} else {
  const { parseArgs } = await import(`jsr:${"@std/cli@^1/parse-args"}`);
  hold("@std/assert and @std/cli", await import(`jsr:${"@std/assert@^1"}`), parseArgs);
}
