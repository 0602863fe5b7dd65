import { assert, assertEquals, assertMatch } from "@std/assert";
import { TempFolder } from "../support/daemon.ts";
import { type Call, under, untilProfiled } from "../support/profiler.ts";

/** An event of the Trace Event format. */
interface TraceEvent {
  name: string;
  cat: string;
  ph: string;
  ts: number;
  pid: number;
  tid: number;
  id?: string;
  dur?: number;
  s?: string;
  // deno-lint-ignore no-explicit-any -- each kind of event has its own
  args: any;
}

/** The requirements of the format, of the Performance panel, and of Perfetto's importer. */
function assertTrace(events: TraceEvent[], pid: number): void {
  for (const event of events) {
    const said = JSON.stringify(event).slice(0, 200);
    for (const key of ["name", "cat", "ph"] as const) {
      assert(typeof event[key] === "string" && event[key] !== "", said);
    }
    // Of the main thread, and in whole microseconds: Perfetto reads the start of a profile as such.
    assertEquals([event.pid, event.tid], [pid, pid], said);
    assert(Number.isSafeInteger(event.ts) && event.ts >= 0, said);
    assertEquals(typeof event.args, "object", said);
  }
  const of = (ph: string) => events.filter((event) => event.ph === ph);
  assertEquals(new Set(events.map(({ ph }) => ph)), new Set(["M", "I", "X", "P", "b", "e"]));
  assertEquals(of("M").map(({ name, args }) => [name, args.name]), [
    ["process_name", "floodgate"],
    ["thread_name", "main"],
  ]);
  const [page] = of("I");
  assertEquals([page!.name, page!.s], ["TracingStartedInBrowser", "t"]);
  assertEquals(page!.args.data.frames[0].processId, pid);

  const [begin, chunk] = of("P");
  assertEquals([begin!.name, chunk!.name, chunk!.id], ["Profile", "ProfileChunk", begin!.id]);
  assertEquals(begin!.args.data.startTime, begin!.ts);
  const { cpuProfile: { nodes, samples }, timeDeltas, endTime } = chunk!.args.data;
  assertEquals(samples.length, timeDeltas.length);
  const seen = new Set<number>();
  for (const { id, parent, callFrame } of nodes) {
    assert(parent === undefined ? seen.size === 0 : seen.has(parent), `${id} before ${parent}`);
    assertEquals(typeof callFrame.functionName, "string");
    seen.add(id);
  }
  for (const id of samples) assert(seen.has(id), `sample of ${id}`);
  const [task] = of("X");
  assertEquals([task!.ts, task!.ts + task!.dur!], [begin!.ts, endTime]);

  // Each span has a beginning and an end, in this order, and an id of its own.
  const begins = of("b");
  const ends = of("e");
  assertEquals(begins.map(({ id }) => id), ends.map(({ id }) => id));
  assertEquals(new Set(begins.map(({ id }) => id)).size, begins.length);
  begins.forEach(({ id, name, cat, ts }, i) => {
    assertMatch(id!, /^0x[0-9a-f]+$/);
    assertEquals([ends[i]!.name, ends[i]!.cat], [name, cat]);
    assert(begin!.ts <= ts && ts <= ends[i]!.ts && ends[i]!.ts <= endTime, `${name} ${id}`);
  });
}

Deno.test(
  "trace: jobs and samples on one clock, as the Performance panel and Perfetto read them",
  async () => {
    await using folder = await TempFolder.make();
    let burns: number[][] = [];
    let hits: number[] = [];
    // On a busy machine few of the requests may come in a second.
    await untilProfiled(folder, async ({ daemon, url }) => {
      const answer = await under(`${url}/burn`, () => fetch(`${url}/debug/pprof/trace?seconds=1`));
      const events: TraceEvent[] = (await answer.json()).traceEvents;
      assertTrace(events, daemon.pid);
      const { args: { data: chunk } } = events.find(({ name }) => name === "ProfileChunk")!;
      const hot = new Set(
        chunk.cpuProfile.nodes.filter(({ callFrame }: { callFrame: Call }) =>
          callFrame.functionName === "burnTheCpu"
        ).map(({ id }: { id: number }) => id),
      );
      const ends = new Map(events.filter(({ ph }) => ph === "e").map(({ id, ts }) => [id, ts]));
      burns = events.filter(({ name, ph }) => name === "burn" && ph === "b")
        .map(({ id, ts }) => [ts, ends.get(id)!]);
      let at = events.find(({ name }) => name === "Profile")!.ts;
      hits = chunk.cpuProfile.samples.flatMap((id: number, i: number) => {
        at += chunk.timeDeltas[i];
        return hot.has(id) ? [at] : [];
      });
      return burns.length >= 3 && hits.length >= 30;
    });
    // Each job takes 50 ms; the samples of its function are within such a span.
    const within = hits.filter((at) =>
      burns.some(([start, end]) => start! - 500 <= at && at <= end! + 500)
    );
    assert(within.length > hits.length * 0.95, `${within.length} of ${hits.length} samples`);
  },
);
