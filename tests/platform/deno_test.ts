import { assertEquals, assertThrows } from "@std/assert";
import { answersEarly, denoIsFrom, requireProfiler, runtimeFault } from "../../platform/deno.ts";

Deno.test("denoIsFrom compares the numbers of releases", () => {
  const versions = ["2.4.0", "2.7.14", "2.8.0", "2.8.10+abc1234", "2.10.0-rc.1", "3.0.0"];
  const from = (release: string) => versions.map((version) => denoIsFrom(release, version));
  assertEquals(from("2.4.0"), [true, true, true, true, true, true]);
  assertEquals(from("2.8.0"), [false, false, true, true, true, true]);
  assertEquals(from("2.8.3"), [false, false, false, true, true, true]);
});

Deno.test("runtimeFault names what an operator should know, and nothing on a good release", () => {
  const faults = ["2.1.14", "2.2.0", "2.8.2", "2.8.3", "2.9.5", "2.9.6", "2.10.0"]
    .map((version) => runtimeFault(version)?.replace(/^Deno (\S+) (\S+).*/, "$1 $2"));
  assertEquals(faults, [
    "2.1.14 is",
    undefined,
    undefined,
    "2.8.3 stalls",
    "2.9.5 stalls",
    undefined,
    undefined,
  ]);
  assertEquals(["2.8.2", "2.8.3", "2.9.6"].map(answersEarly), [true, false, true]);
});

Deno.test("requireProfiler refuses a Deno that cannot load the profiler", () => {
  assertThrows(
    () => requireProfiler("2.7.14"),
    Error,
    "Deno 2.7.14 cannot load the profiler, expected Deno 2.8.0 or newer",
  );
  requireProfiler("2.8.0");
});
