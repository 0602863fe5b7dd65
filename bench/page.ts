/**
 * What the bench found, as a page, as a chart, and as a table in the README.
 *
 * @module
 */

import { project } from "../tests/support/daemon.ts";
import { nameOf, run, type Who } from "./contenders.ts";
import type { Found } from "./measure.ts";
import {
  type Goal,
  GOALS,
  type Load,
  LOADS,
  type Metric,
  OTHERS,
  type Part,
  PARTS,
  sampleOf,
  titleOf,
} from "./plan.ts";
import { chart, median, ratios, show, showSpread, type Spread, spread, table } from "./report.ts";

/** A part that was measured. */
export interface Measured extends Found {
  /** When, as `2026-11-25 20:10` in UTC. */
  when: string;
  /** How long it took, in seconds. */
  seconds: number;
  /** How many numbers there are of each figure: turns or rounds. */
  turns: number;
}

/** The parts that were measured. */
export type Results = Partial<Record<Part, Measured>>;

/** What was found of a goal, or nothing if one side of it was not measured. */
export function foundOf(goal: Goal, results: Results): Spread | undefined {
  const samples = results[goal.part]?.samples ?? {};
  return divided(samples[goal.of], goal.by === undefined ? undefined : samples[goal.by], goal);
}

function divided(of: number[] | undefined, by: number[] | undefined, { by: name }: Goal) {
  if (!of || name !== undefined && !by) return undefined;
  return spread(by ? ratios(of, by) : of);
}

/** Whether a value is good enough. */
export function fits({ better }: Goal, value: number, bound: number): boolean {
  return better === "more" ? value >= bound : value <= bound;
}

function goalRows(results: Results): string[][] {
  return GOALS.flatMap((goal) => {
    const found = foundOf(goal, results);
    if (!found) return [];
    const { bound, better } = goal;
    const samples = results[goal.part]!.samples;
    const limit = goal.limit && divided(samples[goal.limit], samples[goal.by ?? ""], goal);
    return [[
      goal.what,
      showSpread(found),
      bound === undefined ? "" : `${better === "more" ? "≥" : "≤"} ${bound}`,
      bound === undefined ? "" : fits(goal, found.median, bound) ? "yes" : "**no**",
      limit ? showSpread(limit) : "",
    ]];
  });
}

const METRICS: [metric: Metric, title: string][] = [
  ["cpu", "Processor time of the server for an answer, in µs"],
  ["rate", "Answers a second"],
  ["p99", "Latency in µs: median / p99"],
];

const TITLES: Partial<Record<Part, [title: string, note?: string]>> = {
  peers: ["Kept connections, beside peers"],
  kept: ["Kept connections, from one to many"],
  fresh: ["A connection a request"],
  bodies: ["Requests with a body", "`/upload` reads it as bytes, `/json` as JSON."],
  upgrades: [
    "Upgraded connections",
    "A message is sent back, and then the next is sent. Sixteen messages of 65 536 B are 1 MiB each way.",
  ],
};

/** The tables of a part that has loads. */
function loadTables(part: Part, { samples }: Measured): string {
  const loads = LOADS.filter((load) => load.part === part);
  // WebSockets and raw streams have other contenders.
  const kinds = new Set(loads.map(({ kind }) => kind));
  const [heading, note] = TITLES[part]!;
  let text = `## ${heading}\n\n${note === undefined ? "" : `${note}\n\n`}`;
  for (const [metric, title] of METRICS) {
    text += `${title}:\n\n`;
    for (const kind of kinds) {
      const these = loads.filter((load) => load.kind === kind);
      const who = [...new Set(these.flatMap(({ who }) => who))].filter((who) =>
        these.some((load) => samples[sampleOf(load, who, metric)])
      );
      const cell = (load: Load, who: Who) => {
        const found = samples[sampleOf(load, who, metric)];
        if (!found) return "";
        if (metric !== "p99") return showSpread(spread(found));
        return `${show(median(samples[sampleOf(load, who, "p50")]!))} / ${show(median(found))}`;
      };
      text += table(
        ["", ...who.map(nameOf)],
        these.map((load) => [titleOf(load), ...who.map((who) => cell(load, who))]),
      ) + "\n";
    }
  }
  return text;
}

function machine(): string {
  const memory = show(Deno.systemMemoryInfo().total / 2 ** 30);
  return `${navigator.hardwareConcurrency} cores, ${memory} GiB`;
}

/** All of it, in Markdown. */
export function pageOf(results: Results): string {
  const all = PARTS.flatMap((part) => results[part] ? [[part, results[part]] as const] : []);
  const versions: Record<string, string> = {};
  for (const [, part] of all) Object.assign(versions, part.versions);
  const skipped = new Set(all.flatMap(([, { skipped }]) => skipped));
  const others = PARTS.flatMap((part) =>
    Object.entries(OTHERS[part] ?? {}).flatMap(([name, what]) => {
      const found = results[part]?.samples[name];
      return found ? [[what, showSpread(spread(found))]] : [];
    })
  );
  const growth = (results.jobs?.growth ?? []).map(({ what, count, setup, step, us }) => [
    `${show(count)} ${what}`,
    show(setup),
    step,
    show(us),
  ]);
  return `# Results of \`deno task bench\`

${machine()}, ${Deno.build.os} ${
    Deno.osRelease().split("-")[0]
  }; client and server share the machine.
Medians, with the quartiles in brackets. Ratios are of what was measured within the same half second.
How it is done, and what cannot be trusted, is in [README.md](README.md). Written by \`bench/bench.ts\`.

${
    table(
      ["part", "measured (UTC)", "took", "turns or rounds"],
      all.map(([part, { when, seconds, turns }]) => [part, when, `${show(seconds)} s`, `${turns}`]),
    )
  }
${Object.entries(versions).map(([name, version]) => `- ${name}: ${version}\n`).join("")}${
    [...skipped].map((line) => `- left out: ${line}\n`).join("")
  }
All contenders put the headers \`Server\`, \`Api-Version\` and \`Ostype\` on their answers, as Floodgate
does, which on Deno costs as much as all else in a small handler; on \`/plain/web\` the others put
none, and Floodgate still does. \`/_ping\` has seven headers, \`/things/web\` is JSON from a Hono route
with a parameter, and \`/version\` runs a job here and in Go and is a constant elsewhere.

![What a request costs](results.svg)

## Goals

Of ratios, the limit is what the least program reaches that does the same thing: a bare accept loop, a
script that only imports our modules, or, for clients that were held, as many at the open gate of a
daemon that has not been asked anything yet. What has nothing wanted is listed only.

${table(["goal", "found", "wanted", "met", "limit"], goalRows(results))}
${
    all.filter(([part]) => TITLES[part]).map(([part, measured]) => loadTables(part, measured)).join(
      "",
    )
  }${
    others.length ? `## Start, gate, memory, streams, jobs\n\n${table(["", "found"], others)}` : ""
  }${
    growth.length
      ? `\n## How cost grows\n\n${table(["of", "to set up, ms", "a step", "takes, µs"], growth)}`
      : ""
  }`;
}

/** Where the README and the chart take their figures from: 32 kept connections over tcp. */
const SHOWN = LOADS.filter(({ part, proto, path }) =>
  part === "peers" && proto === "tcp" && path !== "/plain/web"
);
const PEERS = SHOWN[0]!.who.filter((who) => who !== "limit");

function chartOf(peers: Measured): string {
  const column = (metric: Metric, unit: string) =>
    SHOWN.map((load) => ({
      title: `${load.path}: ${unit}`,
      bars: PEERS.flatMap((who) => {
        const found = peers.samples[sampleOf(load, who, metric)];
        return found ? [{ name: nameOf(who), value: median(found) }] : [];
      }),
    }));
  return chart(
    "What a request costs, and how many a second: 32 kept connections over tcp",
    `${
      peers.when.slice(0, 10)
    }, ${machine()}. /version: a job here and in Go, a constant elsewhere. Go uses both cores.`,
    [column("cpu", "CPU, µs (less is better)"), column("rate", "answers a second")],
    nameOf("ours"),
  );
}

function readmeTable(peers: Measured): string {
  const rows = SHOWN.flatMap((load) =>
    ([["cpu", "CPU a request, µs"], ["rate", "answers a second"]] as const).map((
      [metric, unit],
    ) => [
      `\`${load.path}\`: ${unit}`,
      ...PEERS.map((who) => {
        const found = peers.samples[sampleOf(load, who, metric)];
        return found ? show(median(found)) : "";
      }),
    ])
  );
  return `${table(["", ...PEERS.map(nameOf)], rows)}
Medians of ${peers.turns} turns, 32 kept connections over tcp; ${
    peers.when.slice(0, 10)
  }, ${machine()}.`;
}

/** Writes the page, the chart, and the table in the README. */
export async function publish(results: Required<Results>): Promise<void> {
  await Deno.writeTextFile(project("bench/results.md"), pageOf(results));
  await Deno.writeTextFile(project("bench/results.svg"), chartOf(results.peers));
  const path = project("README.md");
  const text = await Deno.readTextFile(path);
  const [before, after] = ["<!-- bench -->\n", "<!-- /bench -->"];
  const [start, end] = [text.indexOf(before) + before.length, text.indexOf(after)];
  if (start < before.length || end < start) throw new Error(`no ${before.trim()} in README.md`);
  const inside = `\n${readmeTable(results.peers)}\n\n`;
  await Deno.writeTextFile(path, text.slice(0, start) + inside + text.slice(end));
  const files = ["bench/results.md", "bench/results.svg", "bench/expected.json", "README.md"];
  await run(Deno.execPath(), ["fmt", "--quiet", ...files], { cwd: project(".") });
}
