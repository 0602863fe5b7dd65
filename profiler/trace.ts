/**
 * CPU samples and jobs over time, in the Trace Event format that Chrome's Performance panel and
 * Perfetto read. Times are in microseconds, by V8's clock.
 *
 * @module
 */

import type { Span } from "./monitor.ts";
import { type CpuProfile, parentsOf } from "./sampler.ts";

/** The page that Chrome requires of a trace. */
const PAGE = "file:///floodgate";

/**
 * Makes a trace of V8's CPU samples, with a span for each job.
 *
 * @param started When the profile began, by the clock of the spans.
 */
export function toTrace(profile: CpuProfile, started: number, spans: readonly Span[]): string {
  const { nodes, samples, timeDeltas, startTime, endTime } = profile;
  // The id of a process's main thread is that of the process.
  const common = { pid: Deno.pid, tid: Deno.pid };
  const timeline = { ...common, cat: "disabled-by-default-devtools.timeline" };
  const metadata = { ...common, cat: "__metadata", ph: "M", ts: 0 };
  const sampled = { ...common, cat: "disabled-by-default-v8.cpu_profiler", ph: "P", id: "0x1" };
  const parents = parentsOf(nodes);
  const events: unknown[] = [
    { ...metadata, name: "process_name", args: { name: "floodgate" } },
    { ...metadata, name: "thread_name", args: { name: "main" } },
    // The panel shows jobs only for a page with a URL, and samples only for a thread with a task.
    {
      ...timeline,
      ph: "I",
      s: "t",
      name: "TracingStartedInBrowser",
      ts: startTime,
      args: { data: { frames: [{ frame: "1", name: "", url: PAGE, processId: Deno.pid }] } },
    },
    {
      ...timeline,
      ph: "X",
      name: "RunTask",
      ts: startTime,
      dur: endTime - startTime,
      args: {},
    },
    { ...sampled, name: "Profile", ts: startTime, args: { data: { startTime } } },
    {
      ...sampled,
      name: "ProfileChunk",
      ts: endTime,
      args: {
        data: {
          endTime,
          cpuProfile: {
            // V8 lists parents before their children, as Perfetto requires.
            nodes: nodes.map(({ id, callFrame }) => ({
              id,
              callFrame,
              parent: parents.get(id)?.id,
            })),
            samples,
          },
          timeDeltas,
        },
      },
    },
  ];
  // Jobs run on while the profile is processed.
  const at = (time: number) =>
    Math.min(Math.max(startTime, Math.round(startTime + (time - started) * 1_000)), endTime);
  spans.forEach(({ name, start, end = Infinity, status }, i) => {
    if (at(start) === endTime) return;
    const span = { ...common, cat: "blink.user_timing", name, id: `0x${(i + 2).toString(16)}` };
    events.push({ ...span, ph: "b", ts: at(start), args: {} });
    events.push({ ...span, ph: "e", ts: at(end), args: status === undefined ? {} : { status } });
  });
  return JSON.stringify({ traceEvents: events });
}
