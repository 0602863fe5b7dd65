/**
 * What the bench found, as a page of tables and as a chart.
 *
 * @module
 */

/** The middle one of some numbers, and the least and the greatest. */
export interface Spread {
  /** The median. */
  median: number;
  /** The least. */
  min: number;
  /** The greatest. */
  max: number;
}

/** The median of at least one number. */
export function median(values: number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** The spread of at least one number. */
export function spread(values: number[]): Spread {
  return { median: median(values), min: Math.min(...values), max: Math.max(...values) };
}

/** The ratios of what was measured side by side, a round each. */
export function ratios(values: number[], others: number[]): number[] {
  return values.map((value, round) => value / others[round]!);
}

/** A number with thin spaces between its thousands, and as many decimals as are worth reading. */
export function show(value: number): string {
  const decimals = Number.isInteger(value) || Math.abs(value) >= 100
    ? 0
    : Math.abs(value) >= 10
    ? 1
    : 2;
  const [whole, rest] = value.toFixed(decimals).split(".");
  const grouped = whole!.replace(/\B(?=(\d{3})+$)/g, " ");
  return rest ? `${grouped}.${rest}` : grouped;
}

/** `48 900 (45 000 – 50 200)` */
export function showSpread({ median, min, max }: Spread): string {
  return min === max ? show(median) : `${show(median)} (${show(min)} – ${show(max)})`;
}

/** A Markdown table. The first column is text, the others are numbers. */
export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |\n`;
  const rule = head.map((_, column) => column === 0 ? "---" : "---:");
  return line(head) + line(rule) + rows.map(line).join("");
}

/** Some bars under one title. */
export interface Bars {
  /** What they show. */
  title: string;
  /** Name and value of each. */
  bars: { name: string; value: number }[];
}

/** A chart of horizontal bars, ours first and marked. Reads on light and on dark ground. */
export function chart(title: string, note: string, groups: Bars[], ours: string): string {
  const width = 760;
  const left = 150;
  const room = width - left - 90;
  const most = Math.max(...groups.flatMap(({ bars }) => bars.map(({ value }) => value)));
  let y = 58;
  let body = "";
  for (const { title, bars } of groups) {
    body += `<text x="16" y="${y}" class="group">${escape(title)}</text>\n`;
    y += 10;
    for (const { name, value } of bars) {
      const length = Math.max(1, value / most * room).toFixed(1);
      body += `<text x="${left - 8}" y="${y + 13}" class="name">${escape(name)}</text>` +
        `<rect x="${left}" y="${y}" width="${length}" height="17" rx="2"` +
        `${name === ours ? ' class="ours"' : ""}/>` +
        `<text x="${left + Number(length) + 6}" y="${y + 13}">${show(value)}</text>\n`;
      y += 22;
    }
    y += 26;
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${y}" role="img" aria-label="${
    escape(title)
  }">
<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 16px; font-weight: 600; }
.group { font-weight: 600; }
.name { text-anchor: end; }
rect { fill: #8c959f; }
.ours { fill: #0a7d5a; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } rect { fill: #6e7681; } .ours { fill: #3fb68b; } }
</style>
<text x="16" y="26" class="title">${escape(title)}</text>
${body}<text x="16" y="${y - 8}">${escape(note)}</text>
</svg>
`;
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}
