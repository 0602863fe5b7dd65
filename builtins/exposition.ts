/**
 * The formats in which Prometheus reads metrics: its text format 0.0.4, and OpenMetrics 1.0
 * (prometheus.io/docs/instrumenting/exposition_formats, openmetrics.io).
 *
 * @module
 */

/** One of the two formats. */
export type Format = "text" | "openmetrics";

/** The labels of a series. Values are escaped, names are not. */
export type Labels = Readonly<Record<string, string | number>>;

/** The media type of each format. */
export const MEDIA_TYPE: Readonly<Record<Format, string>> = {
  text: "text/plain; version=0.0.4; charset=utf-8",
  openmetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8",
};

/** Upper bounds of the buckets of a {@linkcode Histogram}, in seconds; the last bucket has none. */
export const BOUNDS: readonly number[] = [
  ...[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10],
];

/** A histogram of durations, with buckets by {@linkcode BOUNDS}. */
export class Histogram {
  /** The count of each bucket, not cumulative; one more than there are bounds. */
  readonly counts: number[] = new Array(BOUNDS.length + 1).fill(0);
  /** The sum of all durations, in seconds. */
  sum = 0;
  #last = 0;
  #bucket = 0;

  /**
   * Counts a duration.
   *
   * @param seconds The duration. Default: that of the observation before, for an unmeasured one.
   */
  observe(seconds?: number): void {
    if (seconds !== undefined) {
      let bucket = 0;
      while (bucket < BOUNDS.length && seconds > BOUNDS[bucket]!) bucket++;
      this.#last = seconds;
      this.#bucket = bucket;
    }
    this.counts[this.#bucket]!++;
    this.sum += this.#last;
  }
}

/** Values by their labels, or the one without labels. What is undefined is left out. */
export type Series = number | undefined | Iterable<[Labels, number | undefined]>;

/** The head of a family of metrics. */
interface Family {
  readonly name: string;
  readonly type: "gauge" | "counter" | "info" | "histogram";
  readonly help: string;
}

/** Writes metrics, one family after another. */
export class Exposition {
  #format: Format;
  #lines: string[] = [];

  /** Writes in this format. */
  constructor(format: Format) {
    this.#format = format;
  }

  /** Writes values that can go up and down. */
  gauge(name: string, help: string, series: Series): void {
    this.#family({ name, type: "gauge", help }, name, series);
  }

  /** Writes values that only go up. The name has to end with `_total`. */
  counter(name: string, help: string, series: Series): void {
    // OpenMetrics names the family, and a sample by its suffix.
    const family = this.#format === "text" ? name : name.replace(/_total$/, "");
    this.#family({ name: family, type: "counter", help }, name, series);
  }

  /** Writes constants, as labels. The name has to end with `_info`. */
  info(name: string, help: string, labels: Labels): void {
    if (this.#format === "text") return this.gauge(name, help, [[labels, 1]]);
    const family = name.replace(/_info$/, "");
    this.#family({ name: family, type: "info", help }, name, [[labels, 1]]);
  }

  /** Writes durations. The name has to end with `_seconds`. */
  histogram(name: string, help: string, series: Iterable<[Labels, Histogram]>): void {
    this.#head({ name, type: "histogram", help });
    for (const [labels, { counts, sum }] of series) {
      let count = 0;
      for (const [i, each] of counts.entries()) {
        count += each;
        this.#sample(`${name}_bucket`, { ...labels, le: formatBound(BOUNDS[i]) }, count);
      }
      this.#sample(`${name}_sum`, labels, sum);
      this.#sample(`${name}_count`, labels, count);
    }
  }

  /** The whole exposition. */
  toString(): string {
    const end = this.#format === "text" ? [] : ["# EOF"];
    return [...this.#lines, ...end, ""].join("\n");
  }

  #family(family: Family, sample: string, series: Series): void {
    const all: Iterable<[Labels, number | undefined]> = typeof series === "object"
      ? series
      : [[{}, series]];
    const known = [...all].filter(([, value]) => value !== undefined);
    if (known.length === 0) return;
    this.#head(family);
    for (const [labels, value] of known) this.#sample(sample, labels, value!);
  }

  #head({ name, type, help }: Family): void {
    this.#lines.push(`# TYPE ${name} ${type}`);
    if (this.#format === "openmetrics") {
      const [, unit] = /_(seconds|bytes)$/.exec(name) ?? [];
      if (unit) this.#lines.push(`# UNIT ${name} ${unit}`);
    }
    this.#lines.push(`# HELP ${name} ${help}`);
  }

  #sample(name: string, labels: Labels, value: number): void {
    const pairs = Object.entries(labels).map(([label, text]) => `${label}="${escape(text)}"`);
    this.#lines.push(`${name}${pairs.length > 0 ? `{${pairs.join(",")}}` : ""} ${value}`);
  }
}

function escape(text: string | number): string {
  return String(text).replace(/[\\"\n]/g, (char) => char === "\n" ? "\\n" : `\\${char}`);
}

/** OpenMetrics requires a decimal point in a bound. */
function formatBound(bound: number | undefined): string {
  if (bound === undefined) return "+Inf";
  return Number.isInteger(bound) ? `${bound}.0` : String(bound);
}
