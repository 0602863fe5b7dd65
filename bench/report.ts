/**
 * What the bench found, as a page of tables and as a chart.
 *
 * @module
 */

/** The middle of some numbers: the median, and the quartiles around it. */
export interface Spread {
  /** A quarter of the numbers is less. */
  low: number;
  /** The median. */
  median: number;
  /** A quarter of the numbers is more. */
  high: number;
}

/** What so large a part of at least one number is less than, between the two nearest if need be. */
function quantile(values: number[], part: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (sorted.length - 1) * part;
  const [below, above] = [sorted[Math.floor(at)]!, sorted[Math.ceil(at)]!];
  return below + (above - below) * (at % 1);
}

/** The median of at least one number. */
export function median(values: number[]): number {
  return quantile(values, 0.5);
}

/** The spread of at least one number. */
export function spread(values: number[]): Spread {
  const [low, median, high] = [0.25, 0.5, 0.75].map((part) => quantile(values, part));
  return { low: low!, median: median!, high: high! };
}

/**
 * The ratios of what was measured side by side. Throws a RangeError if the numbers are not pairs.
 */
export function ratios(values: number[], others: number[]): number[] {
  if (values.length !== others.length) {
    throw new RangeError(`${values.length} numbers beside ${others.length}`);
  }
  return values.map((value, i) => value / others[i]!);
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
export function showSpread({ low, median, high }: Spread): string {
  return low === high ? show(median) : `${show(median)} (${show(low)} – ${show(high)})`;
}

/** A Markdown table. The first column is text, the others are numbers. */
export function table(head: string[], rows: string[][]): string {
  const line = (cells: string[]) => `| ${cells.join(" | ")} |\n`;
  const rule = head.map((_, column) => column === 0 ? "---" : "---:");
  return line(head) + line(rule) + rows.map(line).join("");
}

/** Some bars under one title, to a scale of their own. */
export interface Bars {
  /** What they show. */
  title: string;
  /** Name and value of each. */
  bars: { name: string; value: number }[];
}

/** A chart of horizontal bars, ours marked, in columns. Reads on light and on dark ground. */
export function chart(title: string, note: string, columns: Bars[][], ours: string): string {
  const [width, left, room] = [440, 130, 235];
  let height = 0;
  let body = "";
  for (const [column, groups] of columns.entries()) {
    const x = 16 + column * width;
    let y = 58;
    for (const { title, bars } of groups) {
      const most = Math.max(...bars.map(({ value }) => value));
      body += `<text x="${x}" y="${y}" class="group">${escape(title)}</text>\n`;
      y += 10;
      for (const { name, value } of bars) {
        const length = Math.max(1, value / most * room).toFixed(1);
        body += `<text x="${x + left - 8}" y="${y + 13}" class="name">${escape(name)}</text>` +
          `<rect x="${x + left}" y="${y}" width="${length}" height="17" rx="2"` +
          `${name === ours ? ' class="ours"' : ""}/>` +
          `<text x="${x + left + Number(length) + 6}" y="${y + 13}">${show(value)}</text>\n`;
        y += 22;
      }
      y += 26;
    }
    height = Math.max(height, y);
  }
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${
    columns.length * width
  } ${height}" role="img" aria-label="${escape(title)}">
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
${body}<text x="16" y="${height - 8}">${escape(note)}</text>
</svg>
`;
}

function escape(text: string): string {
  return text.replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
}
