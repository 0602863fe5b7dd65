import { assertEquals } from "@std/assert";
import { PARTS } from "../../bench/plan.ts";
import { project, run } from "../support/daemon.ts";

Deno.test("bench says in one line what it cannot do", async () => {
  const can = `there are --check, --quick and --only ${PARTS.join(",")}`;
  for (
    const [args, problem] of [
      [["--only", "start,nothing"], 'there is no part "nothing"'],
      [["--only"], 'there is no part ""'],
      [["--fast"], 'unknown argument "--fast"'],
      [["--check", "--quick"], "--check and --quick exclude each other"],
    ] as const
  ) {
    const { code, stdout, stderr } = await run(
      Deno.execPath(),
      ["run", "-A", project("bench/bench.ts"), ...args],
    );
    assertEquals([code, stdout, stderr], [2, "", `bench: ${problem}; ${can}\n`]);
  }
});
