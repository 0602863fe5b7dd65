import { assertEquals } from "@std/assert";
import { BOUNDS, Exposition, Histogram } from "../../builtins/exposition.ts";

function written(format: "text" | "openmetrics"): string[] {
  const out = new Exposition(format);
  out.gauge("a_bytes", "Of a.", [[{}, 1.5], [{ b: 'say "\\"\n' }, 2], [{ b: "none" }, undefined]]);
  out.gauge("unknown", "Nothing of it is known.", [[{}, undefined]]);
  out.counter("b_total", "Of b.", [[{ x: 1, y: "z" }, 3]]);
  out.info("c_info", "Of c.", { version: "1" });
  return out.toString().split("\n");
}

Deno.test("Exposition writes Prometheus' text format", () => {
  assertEquals(written("text"), [
    "# TYPE a_bytes gauge",
    "# HELP a_bytes Of a.",
    "a_bytes 1.5",
    'a_bytes{b="say \\"\\\\\\"\\n"} 2',
    "# TYPE b_total counter",
    "# HELP b_total Of b.",
    'b_total{x="1",y="z"} 3',
    "# TYPE c_info gauge",
    "# HELP c_info Of c.",
    'c_info{version="1"} 1',
    "",
  ]);
});

Deno.test("Exposition writes OpenMetrics: families without suffixes, units, an end", () => {
  assertEquals(written("openmetrics"), [
    "# TYPE a_bytes gauge",
    "# UNIT a_bytes bytes",
    "# HELP a_bytes Of a.",
    "a_bytes 1.5",
    'a_bytes{b="say \\"\\\\\\"\\n"} 2',
    "# TYPE b counter",
    "# HELP b Of b.",
    'b_total{x="1",y="z"} 3',
    "# TYPE c info",
    "# HELP c Of c.",
    'c_info{version="1"} 1',
    "# EOF",
    "",
  ]);
});

Deno.test("Exposition.histogram writes buckets that add up, their sum and count", () => {
  const histogram = new Histogram();
  for (const seconds of [0.0004, 0.0005, 0.3, 99]) histogram.observe(seconds);
  const out = new Exposition("text");
  out.histogram("d_seconds", "Of d.", [[{ job: "x" }, histogram]]);
  const lines = out.toString().split("\n").slice(2, -1);
  const bucket = (le: string) =>
    Number(
      lines.find((line) => line.startsWith(`d_seconds_bucket{job="x",le="${le}"} `))?.split(" ")[1],
    );
  assertEquals(
    ["0.0005", "0.001", "0.25", "0.5", "1.0", "10.0", "+Inf"].map(bucket),
    [2, 2, 2, 3, 3, 3, 4],
  );
  assertEquals(lines.length, BOUNDS.length + 3);
  assertEquals(lines.slice(-2), ['d_seconds_sum{job="x"} 99.3009', 'd_seconds_count{job="x"} 4']);
});

Deno.test("Histogram.observe counts what was not timed as what was timed before it", () => {
  const histogram = new Histogram();
  histogram.observe(0.3);
  histogram.observe();
  histogram.observe(20);
  histogram.observe();
  const { counts, sum } = histogram;
  assertEquals([counts[9], counts[BOUNDS.length], sum], [2, 2, 40.6]);
});
