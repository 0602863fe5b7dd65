/**
 * The index page of the profiler, as HTML. Its live parts are rendered here too, and sent to the
 * page one by one.
 *
 * @module
 */

import style from "./page.css" with { type: "text" };
import icon from "./icon.svg" with { type: "text" };
import script from "./page.js" with { type: "text" };
import type { ApiStats } from "../serve/listeners.ts";
import type { EngineStats } from "../engine.ts";
import { HONO } from "../router/hono.ts";
import {
  BOUNDS,
  type Histogram,
  type JobCounts,
  type Resources,
  type RunningJob,
} from "./monitor.ts";

const { html, raw } = await import(`${HONO}/html`) as typeof import("npm:hono@4.13.19/html");

/** Only resources of this daemon are loaded, and no inline script is run. */
export const CONTENT_SECURITY_POLICY =
  "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/** The resources of the page, by name. */
export const ASSETS: Readonly<Record<string, { contentType: string; text: string }>> = {
  "page.css": { contentType: "text/css; charset=utf-8", text: style },
  "page.js": { contentType: "text/javascript; charset=utf-8", text: script },
  "icon.svg": { contentType: "image/svg+xml", text: icon },
};

/** The statistics of one moment. */
export interface Snapshot {
  /** Milliseconds by `performance.now()`. */
  time: number;
  memory: Deno.MemoryUsage;
  totals: EngineStats;
  running: RunningJob[];
  counts: JobCounts[];
  eventLoop: Histogram;
  /** The longest delay of the last second, in milliseconds. */
  recentDelay: number;
  resources?: Resources | undefined;
  apis: ApiStats[];
}

/**
 * The live parts of the page, as HTML by the id of their element.
 *
 * @param before An earlier snapshot, for rates. Default: no rates.
 */
export function renderParts(now: Snapshot, before?: Snapshot): Record<string, string> {
  return {
    tiles: String(tiles(now, before)),
    running: String(running(now.running)),
    listeners: String(listeners(now.apis)),
    jobs: String(jobs(now.counts)),
    eventloop: String(eventLoop(now.eventLoop)),
    resources: String(resources(now.resources)),
  };
}

function tiles(
  { memory, totals, recentDelay, eventLoop, resources, time }: Snapshot,
  before?: Snapshot,
) {
  const rate = before && (totals.started - before.totals.started) / ((time - before.time) / 1_000);
  const tile = (key: string, title: string, value: string, note: string, number: number) =>
    html`
      <div class="tile">
        <h3>${title}</h3>
        <p class="value">${value}</p>
        <p class="note">${note}</p>
        <svg class="spark" viewBox="0 0 60 16" preserveAspectRatio="none" aria-hidden="true"
          data-key="${key}" data-value="${number}"></svg>
      </div>
    `;
  return html`
    ${tile(
      "rate",
      "Jobs",
      rate === undefined ? integer(totals.started) : `${integer(Math.round(rate))}/s`,
      `${integer(totals.running)} running, ${integer(totals.failed)} of ${
        integer(totals.started)
      } failed`,
      rate ?? 0,
    )}
    ${tile(
      "delay",
      "Event loop",
      `${duration(recentDelay)} late`,
      `at worst in the last second; p99 ${atMost(eventLoop, 0.99)}, max ${duration(eventLoop.max)}`,
      recentDelay,
    )}
    ${tile(
      "heap",
      "Heap",
      bytes(memory.heapUsed),
      `of ${bytes(memory.heapTotal)}; resident ${bytes(memory.rss)}, external ${
        bytes(memory.external)
      }`,
      memory.heapUsed,
    )}
    ${resources
      ? tile(
        "open",
        "Open files",
        integer(resources.open),
        resources.limit === undefined ? "no limit" : `of ${integer(resources.limit)} at most`,
        resources.open,
      )
      : ""}
  `;
}

/** A table with these columns, by title and class, and a line in the place of no rows. */
function table(
  columns: readonly [title: string, kind?: string][],
  rows: readonly ReturnType<typeof html>[],
  none = "",
) {
  return html`
    <table>
      <thead>
        <tr>
          ${columns.map(([title, kind = ""]) => html`<th class="${kind}">${title}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows}
        ${rows.length === 0 && none !== ""
          ? html`
            <tr>
              <td colspan="${columns.length}" class="note">${none}</td>
            </tr>
          `
          : ""}
      </tbody>
    </table>
  `;
}

function running(list: RunningJob[]) {
  const rows = list.slice(0, MAX_ROWS).map(({ name, args, age, older, parent, where }) =>
    html`
      <tr>
        <td><b>${name}</b><span class="args">(${args.join(", ")})</span>${parent
          ? html`<span class="note"> by ${parent}</span>`
          : ""}</td>
        <td class="n">${older ? "over " : ""}${duration(age)}</td>
        <td>${where}</td>
      </tr>
    `
  );
  const columns: [string, string?][] = [["Job"], ["Age", "n"], ["Where"]];
  return html`${table(columns, rows, "Nothing runs.")}${more(list.length)}`;
}

function listeners(apis: ApiStats[]) {
  const rows = apis.flatMap(({ gate, listeners }) =>
    listeners.map((row) =>
      html`
        <tr>
          <td class="address">${row.address}</td>
          <td><span class="gate ${gate}">${gate}</span></td>
          <td class="n">${integer(row.held)}</td>
          <td class="n">${integer(row.open)}</td>
          <td class="n wide">${integer(row.accepted)}</td>
          <td class="n">${integer(row.requests)}</td>
          <td class="n wide">${integer(row.acceptErrors)}</td>
        </tr>
      `
    )
  );
  return table(
    [
      ...[["Address"], ["Gate"], ["Held", "n"], ["Open", "n"]] as [string, string?][],
      ...[["Accepted", "n wide"], ["Requests", "n"], ["Errors", "n wide"]] as [string, string][],
    ],
    rows,
    "No serveapi runs.",
  );
}

function jobs(counts: JobCounts[]) {
  const rows = counts.slice(0, MAX_ROWS).map(({ name, ended, failed, latency }) =>
    html`
      <tr>
        <td><b>${name}</b></td>
        <td class="n">${integer(ended)}</td>
        <td class="n wide ${failed > 0 ? "bad" : ""}">${integer(failed)}</td>
        <td class="n wide">${atMost(latency, 0.5)}</td>
        <td class="n">${atMost(latency, 0.99)}</td>
        <td class="n wide">${ended ? duration(latency.max) : "–"}</td>
        <td>${bars(latency, `Latency of ${name}`, 20)}</td>
      </tr>
    `
  );
  const columns: [string, string?][] = [
    ...[["Job"], ["Ended", "n"], ["Failed", "n wide"], ["p50", "n wide"]] as [string, string?][],
    ...[["p99", "n"], ["Max", "n wide"], ["Latency"]] as [string, string?][],
  ];
  return html`${table(columns, rows)}${more(counts.length)}`;
}

function eventLoop(delay: Histogram) {
  return html`
    ${bars(delay, "Event-loop delay", 72)}
    <p class="scale">${BOUNDS.map((bound) =>
      html`<span>${scale(bound)}</span>`
    )}<span>more</span></p>
  `;
}

/** A bar per bucket, on a logarithmic scale: one slow job among a million is visible. */
function bars({ counts }: Histogram, title: string, height: number) {
  const most = Math.log1p(Math.max(...counts));
  const said = counts.map((count, i) =>
    `${i < BOUNDS.length ? `up to ${duration(BOUNDS[i]!)}` : `more`}: ${integer(count)}`
  ).filter((_, i) => counts[i]! > 0).join("; ");
  return html`
    <svg class="bars" viewBox="0 0 ${counts.length * 10} ${height}" preserveAspectRatio="none"
      height="${height}" role="img" aria-label="${title}: ${said || "none yet"}">
      <title>${title}: ${said || "none yet"}</title>
      ${counts.map((count, i) => {
        const tall = most === 0
          ? 0
          : Math.max(count > 0 ? 2 : 0, Math.log1p(count) / most * height);
        return html`<rect class="${i > SLOW ? "slow" : ""}" x="${i * 10 + 0.5}" y="${
          height - tall
        }" width="9" height="${tall}"></rect>`;
      })}
      <path d="M0 ${height - 0.5}H${counts.length * 10}"></path>
    </svg>
  `;
}

function resources(found?: Resources) {
  if (found === undefined) return html`<p class="note">Not available on this system.</p>`;
  return html`<ul class="kinds">${
    Object.entries(found.kinds).map(([kind, count]) =>
      html`<li><b>${integer(count)}</b> ${kind}</li>`
    )
  }</ul>`;
}

/** Further rows of a table are only counted, because the page is sent each second. */
const MAX_ROWS = 50;
/** Buckets after this one are for more than 100 ms. */
const SLOW = BOUNDS.indexOf(100);

function more(count: number) {
  return count > MAX_ROWS ? html`<p class="note">and ${integer(count - MAX_ROWS)} more</p>` : "";
}

function integer(value: number): string {
  return value.toLocaleString("en").replaceAll(",", "\u202f");
}

function bytes(value: number): string {
  return value < 2 ** 30
    ? `${(value / 2 ** 20).toFixed(value < 10 * 2 ** 20 ? 1 : 0)} MiB`
    : `${(value / 2 ** 30).toFixed(1)} GiB`;
}

function duration(ms: number): string {
  if (ms === 0) return "0";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  const s = ms / 1_000;
  if (s < 120) return `${s.toFixed(s < 10 ? 1 : 0)} s`;
  return s < 7_200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3_600)} h`;
}

/** A percentile, as exactly as the buckets allow. */
function atMost(latency: Histogram, share: number): string {
  return latency.count === 0 ? "–" : `≤ ${duration(latency.below(share))}`;
}

function scale(ms: number): string {
  return ms < 1_000 ? String(ms) : `${ms / 1_000} s`;
}

/** Links to profiles, with their formats. Relative, so that a version in the path is kept. */
const LINKS: readonly [href: string, name: string, says: string, others: [string, string][]][] = [
  ["profile?seconds=30", "profile", "where CPU time goes, for 30 s", [
    ["profile?seconds=30&format=cpuprofile", ".cpuprofile"],
  ]],
  ["heap", "heap", "what was allocated since the start and is still there; ?gc=1 collects first", [
    ["heap?format=heapprofile", ".heapprofile"],
    ["heap?format=heapsnapshot", ".heapsnapshot"],
  ]],
  ["allocs?seconds=10", "allocs", "what is allocated within 10 s; heap restarts after it", [
    ["allocs?seconds=10&format=heapprofile", ".heapprofile"],
  ]],
  [
    "trace?seconds=5",
    "trace",
    "jobs and samples in time, for Chrome's Performance panel or Perfetto",
    [],
  ],
  ["jobs", "jobs", "running jobs and latencies, JSON", []],
  ["resources", "resources", "open files by kind, JSON", []],
  ["eventloop", "eventloop", "histogram of the event loop's delay, JSON", []],
  ["cmdline", "cmdline", "the command line", []],
  ["../vars", "vars", "all counts, JSON", []],
];

/** The whole page. Its script updates the live parts. */
export function renderPage(now: Snapshot): string {
  const parts = renderParts(now);
  const part = (id: string, title: string) =>
    html`
      <section aria-labelledby="${id}-title">
        <h2 id="${id}-title">${title}</h2>
        <div id="${id}" class="scroll" tabindex="0" role="region"
          aria-labelledby="${id}-title">${raw(parts[id])}</div>
      </section>
    `;
  return String(html`
    <!DOCTYPE html>
    <html lang="en">
      <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>Floodgate: profiler</title>
        <link rel="icon" href="icon.svg">
        <link rel="stylesheet" href="page.css">
        <script src="page.js" type="module"></script>
      </head>
      <body>
        <header>
          <h1>Profiler</h1>
          <p>process ${Deno.pid}, Deno ${Deno.version.deno}</p>
          <p id="state" role="status">as of when this page was loaded</p>
        </header>
        <main>
          <div id="tiles" aria-label="Now" role="region">${raw(parts.tiles)}</div>
          <section aria-labelledby="flame-title" class="flame">
            <h2 id="flame-title">Flame graph</h2>
            <form id="take">
              <label>Sample
                <select name="what">
                  <option value="profile">CPU time</option>
                  <option value="allocs">allocations</option>
                  <option value="heap">live heap</option>
                </select>
              </label>
              <label>for
                <select name="seconds">
                  <option value="1">1 s</option>
                  <option value="5" selected>5 s</option>
                  <option value="10">10 s</option>
                  <option value="30">30 s</option>
                </select>
              </label>
              <button type="submit">Take it</button>
              <label class="search">Find <input type="search" name="find" placeholder="function" autocomplete="off"></label>
            </form>
            <p id="progress" role="status">Nothing is sampled until you ask for it.</p>
            <div id="graph" tabindex="0" role="application" aria-label="Flame graph" aria-describedby="keys" hidden><div id="stack"></div></div>
            <p id="details" aria-live="polite"></p>
            <p id="keys" class="note" hidden>Click a frame to zoom. Keys: arrows move, Enter zooms, Escape shows all.</p>
          </section>
          ${part("running", "Running now")}
          ${part("jobs", "Jobs that ended while watched")}
          ${part("listeners", "Listeners")}
          <div class="pair">
            ${part("eventloop", "Event-loop delay, ms")}
            ${part("resources", "Open files")}
          </div>
          <section aria-labelledby="links-title">
            <h2 id="links-title">Profiles</h2>
            <dl class="links">
              ${LINKS.map(([href, name, says, others]) =>
                html`
                  <dt><a href="${href}">${name}</a></dt>
                  <dd>${says}${others.map(([href, name]) =>
                    html`
                      <a href="${href}" class="format">${name}</a>
                    `
                  )}</dd>
                `
              )}
            </dl>
            <p>For the shell: <code id="command">go tool pprof -http=: http://HOST:PORT/debug/pprof/profile?seconds=30</code></p>
          </section>
        </main>
      </body>
    </html>
  `);
}
