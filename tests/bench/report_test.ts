import { assertEquals, assertThrows } from "@std/assert";
import { median, ratios, show, showSpread, spread } from "../../bench/report.ts";

Deno.test("spread gives the median and the quartiles, between two numbers if need be", () => {
  assertEquals(spread([5]), { low: 5, median: 5, high: 5 });
  assertEquals(spread([9, 1, 3, 7, 5]), { low: 3, median: 5, high: 7 });
  assertEquals(spread([4, 1, 2, 3]), { low: 1.75, median: 2.5, high: 3.25 });
  assertEquals(median([10, 9]), 9.5);
});

Deno.test("ratios are of pairs, and refuse what is none", () => {
  assertEquals(ratios([2, 9], [4, 3]), [0.5, 3]);
  assertThrows(() => ratios([1, 2], [1]), RangeError, "2 numbers beside 1");
});

Deno.test("show has as many decimals as are worth reading", () => {
  assertEquals([0.954, 17.26, 123.4, 51_277.2, 1_048_576].map(show), [
    "0.95",
    "17.3",
    "123",
    "51 277",
    "1 048 576",
  ]);
  assertEquals(showSpread({ low: 1, median: 1, high: 1 }), "1");
  assertEquals(showSpread({ low: 0.9, median: 1.05, high: 1.2 }), "1.05 (0.90 – 1.20)");
});
