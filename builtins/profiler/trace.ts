/**
 * What happened when, in the Trace Event format that Chrome's Performance panel and Perfetto read.
 *
 * @module
 */

import type { CpuProfile } from "./sampler.ts";
import type { Span } from "./monitor.ts";

/** V8's own track of CPU samples, and a span for each job. */
export function toTrace(profile: CpuProfile, started: number, spans: readonly Span[]): string {
  const { nodes, samples, timeDeltas, startTime, endTime } = profile;
  const common = { pid: Deno.pid, tid: 1 };
  const sampled = { ...common, cat: "disabled-by-default-v8.cpu_profiler", ph: "P", id: "0x1" };
  const parents = new Map(nodes.flatMap(({ id, children = [] }) => children.map((c) => [c, id])));
  const events: unknown[] = [
    {
      ...common,
      cat: "__metadata",
      ph: "M",
      ts: 0,
      name: "process_name",
      args: { name: "floodgate" },
    },
    { ...common, cat: "__metadata", ph: "M", ts: 0, name: "thread_name", args: { name: "main" } },
    // The panel shows the samples of a thread that did a task.
    {
      ...common,
      cat: "disabled-by-default-devtools.timeline",
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
            nodes: nodes.map(({ id, callFrame }) => ({ id, callFrame, parent: parents.get(id) })),
            samples,
          },
          timeDeltas,
        },
      },
    },
  ];
  spans.forEach(({ name, start, end, status }, i) => {
    const span = { ...common, cat: "blink.user_timing", name, id: `0x${(i + 2).toString(16)}` };
    const at = (time: number) => Math.round(startTime + (time - started) * 1_000);
    events.push({ ...span, ph: "b", ts: Math.max(startTime, at(start)), args: {} });
    events.push({
      ...span,
      ph: "e",
      ts: end === undefined ? endTime : at(end),
      args: status === undefined ? {} : { status },
    });
  });
  return JSON.stringify({ traceEvents: events });
}
