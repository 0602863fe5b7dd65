/**
 * The tables of settings in the documents, generated from the settings. Run as a program, it prints
 * them:
 *
 * ```sh
 * deno run -A tests/support/tables.ts
 * ```
 *
 * @module
 */

import { ALL } from "../../builtins/settings.ts";
import { meaning } from "../../cli/settings.ts";

/** A table: its rows of cells, beginning with the header. */
export type Table = string[][];

/** The flags, for docs/operating.md. */
export function flagsTable(): Table {
  const rows = ALL.flatMap(([, setting]) => {
    const { flag, letter, takes } = setting;
    if (flag === undefined) return [];
    const names = [...letter ? [`-${letter}`] : [], `--${flag}${takes ? ` ${takes}` : ""}`];
    return [[names.map((name) => `\`${name}\``).join(", "), meaning(setting)]];
  });
  return [["flag", "meaning"], ...rows];
}

/** The variables of `serveapi`, for docs/daemon.md. */
export function variablesTable(): Table {
  const rows = ALL.flatMap(([, setting]) => {
    const { variable, flag, list } = setting;
    if (variable === undefined) return [];
    return [[
      `\`${variable}\`${list ? " (a JSON list)" : ""}`,
      flag ? `\`--${flag}\`` : "",
      meaning(setting),
    ]];
  });
  return [["variable", "flag", "meaning"], ...rows];
}

/** The rows of the first table in a text after a line. */
export function tableIn(text: string, after: string): Table {
  const lines = text.slice(text.indexOf(`\n${after}\n`)).split("\n");
  const start = lines.findIndex((line) => line.startsWith("|"));
  const end = lines.findIndex((line, i) => i > start && !line.startsWith("|"));
  return lines.slice(start, end).filter((_, i) => i !== 1)
    .map((line) => line.split(/(?<!\\)\|/).slice(1, -1).map((cell) => cell.trim()));
}

if (import.meta.main) {
  for (const table of [flagsTable(), variablesTable()]) {
    for (const [i, row] of table.entries()) {
      console.log(`| ${row.join(" | ")} |`);
      if (i === 0) console.log(row.map(() => "| --- ").join("") + "|");
    }
    console.log();
  }
}
