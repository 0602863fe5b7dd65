/**
 * How fast, against whom: `deno task bench`. It measures each contender in short turns with the
 * others and writes `bench/results.md`, `bench/results.svg`, `bench/expected.json` and a table in
 * README.md, in less than ten minutes. Needs Go (Debian: golang-go), which its client is written
 * in; contenders that cannot be had are left out, and it says why.
 *
 *     deno task bench --only start,memory   measures these parts, each in less than two minutes
 *     deno task bench --quick               prints the page, and writes nothing
 *     deno task bench --check               compares with bench/expected.json; two minutes
 *
 * @module
 */

import { project } from "../tests/support/daemon.ts";
import { killAll, WORKSHOP } from "./contenders.ts";
import { type Effort, measure } from "./measure.ts";
import { fits, foundOf, type Measured, pageOf, publish, type Results } from "./page.ts";
import { GOALS, LOADS, type Part, PARTS } from "./plan.ts";
import { show, showSpread, type Spread, table } from "./report.ts";

const EFFORTS: Record<"full" | "quick" | "check", Effort> = {
  full: { turns: 15, lives: 3, starts: 21, rounds: 3, check: false },
  quick: { turns: 2, lives: 1, starts: 3, rounds: 1, check: false },
  check: { turns: 20, lives: 5, starts: 11, rounds: 2, check: true },
};
const EXPECTED = project("bench/expected.json");

/**
 * The least that a figure has to be worse before `--check` says so, whatever its spread was: two
 * runs differ by more than their turns do, because their processes differ.
 */
const TOLERANCE = 0.15;

function usage(problem: string): never {
  console.error(`bench: ${problem}; there are --check, --quick and --only ${PARTS.join(",")}`);
  Deno.exit(2);
}

const args = [...Deno.args];
let how: keyof typeof EFFORTS = "full";
let parts: readonly Part[] | undefined;
while (args.length > 0) {
  const [flag, inline] = args.shift()!.split("=", 2);
  if (flag === "--check" || flag === "--quick") {
    if (how !== "full") usage("--check and --quick exclude each other");
    how = flag === "--check" ? "check" : "quick";
  } else if (flag === "--only") {
    const names = (inline ?? args.shift() ?? "").split(",");
    const wrong = names.find((name) => !PARTS.some((part) => part === name));
    if (wrong !== undefined) usage(`there is no part ${JSON.stringify(wrong)}`);
    parts = PARTS.filter((part) => names.includes(part));
  } else usage(`unknown argument ${JSON.stringify(flag)}`);
}
const effort = EFFORTS[how];
const LOADED = new Set(LOADS.map(({ part }) => part));
const checked = new Set(GOALS.filter(({ check }) => check).map(({ part }) => part));
parts ??= how === "check" ? PARTS.filter((part) => checked.has(part)) : PARTS;

for (const signal of ["SIGINT", "SIGTERM"] as const) {
  Deno.addSignalListener(signal, () => {
    killAll();
    Deno.exit(1);
  });
}
const expected: Record<string, Spread> = how === "check" ? await expectations() : {};
const began = performance.now();
const results: Results = {};
// What is checked of the loads is so little that the same processes do for all parts.
const groups = how === "check"
  ? Object.values(Object.groupBy(parts, (part) => LOADED.has(part) ? "loads" : part))
  : parts.map((part) => [part]);
for (const group of groups) {
  const from = performance.now();
  console.error(`${group!.join(", ")} …`);
  const found = await measure(group!, effort);
  for (const line of found.skipped) console.error(`left out: ${line}`);
  const seconds = Math.round((performance.now() - from) / 1_000);
  const when = new Date().toISOString().slice(0, 16).replace("T", " ");
  const turns = Object.values(found.samples)[0]?.length ?? 0;
  for (const part of group!) results[part] = { when, seconds, turns, ...found };
}
console.error(`took ${show((performance.now() - began) / 60_000)} minutes`);
if (how === "check") Deno.exitCode = check();
else if (how === "quick") console.log(pageOf(results));
else await keep();

/**
 * Keeps what was found, and once all parts have been measured on this machine writes the page from
 * them, with what is expected of the next.
 */
async function keep(): Promise<void> {
  const all: Results = {};
  for (const part of PARTS) {
    const file = `${WORKSHOP}/${part}.json`;
    if (results[part]) await Deno.writeTextFile(file, JSON.stringify(results[part]));
    try {
      all[part] = JSON.parse(await Deno.readTextFile(file)) as Measured;
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }
  const missing = PARTS.filter((part) => !all[part]);
  if (missing.length > 0) {
    console.log(pageOf(all));
    console.error(`nothing is written before these are measured too: ${missing.join(", ")}`);
    return;
  }
  for (const goal of GOALS) {
    const found = goal.check && foundOf(goal, all);
    if (found) expected[goal.what] = rounded(found);
  }
  await Deno.writeTextFile(EXPECTED, JSON.stringify(expected, null, 2) + "\n");
  await publish(all as Required<Results>);
  for (const goal of GOALS) {
    const found = foundOf(goal, all);
    if (found && goal.bound !== undefined && !fits(goal, found.median, goal.bound)) {
      console.error(`missed: ${goal.what}: ${show(found.median)}, not ${goal.bound}`);
    }
  }
}

function rounded(spread: Spread): Spread {
  const round = (value: number) => Number(value.toPrecision(4));
  return { low: round(spread.low), median: round(spread.median), high: round(spread.high) };
}

/** What the last whole run found. */
async function expectations(): Promise<Record<string, Spread>> {
  try {
    return JSON.parse(await Deno.readTextFile(EXPECTED));
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    usage("there is no bench/expected.json to compare with, which a run of all parts writes");
  }
}

/** Compares with what is expected; gives the exit status. */
function check(): number {
  const rows: string[][] = [];
  const worse: string[] = [];
  for (const goal of GOALS.filter(({ check, part }) => check && parts!.includes(part))) {
    const found = foundOf(goal, results);
    const wanted = expected[goal.what];
    if (!wanted) continue;
    if (!found) {
      worse.push(`not measured: ${goal.what}`);
      continue;
    }
    const { better } = goal;
    const margin = Math.max(
      TOLERANCE * wanted.median,
      better === "more" ? wanted.median - wanted.low : wanted.high - wanted.median,
    );
    const bound = wanted.median + (better === "more" ? -margin : margin);
    rows.push([goal.what, showSpread(found), showSpread(wanted)]);
    if (!fits(goal, found.median, bound)) {
      const sign = better === "more" ? "at least" : "at most";
      worse.push(`worse: ${goal.what}: ${show(found.median)}, expected ${sign} ${show(bound)}`);
    }
  }
  console.log(table(["", "found", "expected"], rows));
  for (const line of worse) console.error(line);
  return worse.length > 0 ? 1 : 0;
}
