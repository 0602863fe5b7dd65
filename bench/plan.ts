/**
 * What is measured, and what the figures should be: tables of data. `measure.ts` measures,
 * `page.ts` shows.
 *
 * @module
 */

import { nameOf, type Who } from "./contenders.ts";
import { show } from "./report.ts";

/** A part of the bench, which can be run by itself in less than two minutes. */
export type Part = typeof PARTS[number];

/** The parts, in the order of the page. */
export const PARTS = [
  "peers",
  "kept",
  "fresh",
  "bodies",
  "upgrades",
  "start",
  "gate",
  "memory",
  "streams",
  "jobs",
] as const;

/**
 * `http` on kept connections, `fresh` with a connection a request, or what a connection becomes.
 */
type Kind = "http" | "fresh" | "websocket" | "raw";
type Proto = "tcp" | "unix";

/** Some way to load several contenders in turn. */
export interface Load {
  /** The part of the bench that has it. */
  part: Part;
  /** What is done. */
  kind: Kind;
  /** The contenders. The first is compared with the second. */
  who: Who[];
  /** What is asked for. */
  path: string;
  /** By what. */
  proto: Proto;
  /** How many connections there are at a time. */
  clients: number;
  /** The bytes of a body or a message. Default: no body. */
  size?: number;
  /** What part of the turns it gets. Default: 1. */
  share?: number;
}

/** Loads that differ in one thing or two. */
interface Loads extends Pick<Load, "part" | "kind" | "who" | "share"> {
  paths: string[];
  protos?: Proto[];
  clients: number[];
  sizes?: number[];
}

const PEERS: Who[] = ["ours", "serve", "limit", "go", "node", "fastify", "bun"];
const LIMIT: Who[] = ["ours", "serve", "limit"];
const SOCKETS: Who[] = ["handler", "serve", "job", "ws", "bun", "gorilla"];
const STREAMS: Who[] = ["handler", "pipe", "job", "go"];
const GO: Who[] = [...LIMIT, "go"];
const DOORS: Proto[] = ["tcp", "unix"];

const TABLE: Loads[] = [
  {
    ...{ part: "peers", kind: "http", who: PEERS, clients: [32], share: 0.8 },
    paths: ["/_ping", "/things/web", "/version"],
  },
  {
    ...{ part: "peers", kind: "http", who: PEERS, clients: [32] },
    ...{ paths: ["/plain/web"], protos: ["tcp"], share: 0.5 },
  },
  { part: "kept", kind: "http", who: LIMIT, clients: [1, 256], paths: ["/_ping", "/things/web"] },
  {
    ...{ part: "kept", kind: "http", who: LIMIT, clients: [2_048] },
    ...{ paths: ["/_ping", "/things/web"], share: 0.5 },
  },
  { part: "fresh", kind: "fresh", who: [...GO, "raw"], clients: [32], paths: ["/_ping"] },
  {
    ...{ part: "bodies", kind: "http", who: GO, clients: [32] },
    ...{ paths: ["/upload"], sizes: [100, 1_000, 100_000] },
  },
  {
    ...{ part: "bodies", kind: "http", who: GO, clients: [32] },
    ...{ paths: ["/json"], protos: ["tcp"], sizes: [1_000] },
  },
  {
    ...{ part: "upgrades", kind: "websocket", who: SOCKETS, clients: [1, 32, 1_000] },
    ...{ paths: ["/websocket"], protos: ["tcp"], sizes: [64], share: 0.5 },
  },
  {
    ...{ part: "upgrades", kind: "websocket", who: SOCKETS, clients: [1, 32] },
    ...{ paths: ["/websocket"], protos: ["tcp"], sizes: [65_536], share: 0.5 },
  },
  {
    ...{ part: "upgrades", kind: "websocket", who: SOCKETS, clients: [1_000] },
    ...{ paths: ["/websocket"], protos: ["tcp"], sizes: [65_536], share: 0.2 },
  },
  {
    ...{ part: "upgrades", kind: "raw", who: STREAMS, clients: [1, 32] },
    ...{ paths: ["/raw"], protos: ["unix"], sizes: [64, 65_536], share: 0.5 },
  },
];

/** All loads. */
export const LOADS: Load[] = TABLE.flatMap((
  { paths, protos = DOORS, clients, sizes = [undefined], ...rest },
) =>
  paths.flatMap((path) =>
    protos.flatMap((proto) =>
      sizes.flatMap((size) =>
        clients.map((clients) => ({
          ...{ ...rest, path, proto, clients },
          ...size !== undefined && { size },
        }))
      )
    )
  )
);

/** What a load is called. */
export function titleOf({ kind, path, proto, clients, size }: Load): string {
  const what = { http: "kept", fresh: "fresh", websocket: "WebSockets", raw: "raw streams" }[kind];
  const bytes = size === undefined ? "" : `, ${show(size)} B`;
  return `${kind === "http" || kind === "fresh" ? `${path}${bytes}, ` : ""}${proto}, ${
    show(clients)
  } ${what}${kind === "http" || kind === "fresh" ? "" : bytes}`;
}

/** The loads whose processor time `--check` looks at. */
const CHECKED = new Set([
  "/_ping, unix, 32 kept",
  "/things/web, tcp, 32 kept",
  "/things/web, tcp, 256 kept",
  "/things/web, unix, 256 kept",
  "/version, tcp, 32 kept",
  "/_ping, tcp, 32 fresh",
  "/_ping, unix, 32 fresh",
  "/upload, 100 B, tcp, 32 kept",
  "/upload, 100 000 B, tcp, 32 kept",
  "tcp, 32 WebSockets, 64 B",
]);

/** Whether `--check` looks at a load. */
export const isChecked = (load: Load): boolean => CHECKED.has(titleOf(load));

/**
 * What is measured of a load: microseconds of the server's processor time, answers a second,
 * latencies.
 */
export type Metric = "cpu" | "rate" | "p50" | "p99";

/** The name of a sample. */
export const sampleOf = (load: Load, who: Who, metric: Metric): string =>
  `${titleOf(load)} | ${who} | ${metric}`;

/** A figure to look at: a sample, or its ratio to another that was measured side by side. */
export interface Goal {
  /** What it is. */
  what: string;
  /** The part that measures it. */
  part: Part;
  /** The sample. */
  of: string;
  /** What it is divided by. */
  by?: string;
  /** Whether more or less is better. */
  better: "more" | "less";
  /** What it should be. None: only listed. */
  bound?: number;
  /** What the least program reaches that does the same: a sample, divided by the same. */
  limit?: string;
  /** Whether `--check` looks at it. */
  check?: boolean | undefined;
}

/** What is wanted of a load. */
function goalsOf(load: Load): Goal[] {
  const { part, kind, path, clients, who: [first, base], who } = load;
  const title = titleOf(load);
  const goal = (metric: Metric, name: string, bound?: number, other = base!): Goal => ({
    ...{ part, what: `${title}: ${name}, of ${nameOf(other)}`, better: "less" },
    ...metric === "rate" && { better: "more" },
    ...{ of: sampleOf(load, first!, metric), by: sampleOf(load, other, metric) },
    ...bound !== undefined && { bound },
    ...who.includes("limit") && { limit: sampleOf(load, "limit", metric) },
  });
  const cpu = {
    ...goal("cpu", "CPU a request", clients === 256 ? 1.05 : undefined),
    check: isChecked(load),
  };
  const p99 = clients === 32 || clients === 256 ? [goal("p99", "p99", 1.1)] : [];
  if (kind === "websocket" || kind === "raw") {
    return [{ ...cpu, what: `${title}: CPU a message, of ${nameOf(base!)}` }, goal("rate", "rate")];
  }
  if (part === "bodies") return [cpu, goal("rate", "rate", 0.9)];
  if (part === "fresh") {
    const raw = goal("cpu", "CPU a request with a raw route", undefined, "ours");
    delete raw.limit;
    return [cpu, goal("rate", "rate", 0.9), { ...raw, of: sampleOf(load, "raw", "cpu") }];
  }
  if (path === "/plain/web") return [cpu, goal("rate", "rate")];
  if (path === "/version") return [cpu, goal("rate", "rate", 0.85)];
  return [cpu, goal("rate", "rate", 0.97), ...p99];
}

/** All goals. */
export const GOALS: Goal[] = [
  ...LOADS.flatMap(goalsOf),
  ...[
    { what: "exec to socket, of a bare `Deno.listen`", of: "ours connect", by: "bare connect" },
    {
      what: "exec to socket with @std/cli in Deno's cache, of a bare `Deno.listen`",
      of: "cached connect",
      by: "bare connect",
    },
    { what: "exec to READY=1, of Deno.serve's socket", of: "ours ready", by: "serve connect" },
  ].map(({ what, of, by }, i): Goal => ({
    ...{ part: "start", what, of, by, better: "less", bound: 1.25, check: i !== 1 },
    ...i < 2 && { limit: "imports connect" },
  })),
  {
    ...{ part: "start", what: "exec to the first answer, of Deno.serve's", bound: 1 },
    ...{ of: "ours answer", by: "serve answer", better: "less", check: true },
  },
  ...DOORS.map((proto): Goal => ({
    ...{ part: "gate", what: `10 000 held, ${proto}: of as many at an open gate` },
    ...{ of: `held ${proto}`, by: `open ${proto}`, better: "less", bound: 1.25 },
    limit: `cold ${proto}`,
  })),
  {
    ...{ part: "memory", what: "idle memory, of Deno.serve", bound: 1.15, check: true },
    ...{ of: "ours idle", by: "serve idle", better: "less", limit: "limit idle" },
  },
  {
    ...{
      part: "memory",
      what: "idle memory with @std/cli in Deno's cache, of Deno.serve",
      bound: 1.15,
    },
    ...{ of: "cached idle", by: "serve idle", better: "less", limit: "limit idle" },
  },
  {
    ...{ part: "memory", what: "an idle connection, KiB", bound: 24, check: true },
    ...{ of: "ours connection", better: "less", limit: "limit connection" },
  },
  {
    ...{ part: "memory", what: "an idle WebSocket, of Deno.serve" },
    ...{ of: "handler websocket", by: "serve websocket", better: "less" },
  },
  {
    ...{ part: "streams", what: "an answer of 1 GiB, MiB/s, of Deno.serve", bound: 0.9 },
    ...{ of: "ours stream", by: "serve stream", better: "more" },
  },
  { part: "jobs", what: "a job, ns", of: "ours job", better: "less", bound: 500 },
  {
    ...{ part: "jobs", what: "a job, times as fast as Go's", bound: 2 },
    ...{ of: "go job", by: "ours job", better: "more" },
  },
];

/** What samples that are no load's are called on the page, in its order. */
export const OTHERS: Partial<Record<Part, Record<string, string>>> = {
  start: {
    "bare connect": "bare `Deno.listen`: exec to socket, ms",
    "imports connect": "the same, importing our modules besides, ms",
    "ours connect": "Floodgate: exec to socket, ms",
    "cached connect": "Floodgate with @std/cli in Deno's cache: exec to socket, ms",
    "serve connect": "Deno.serve with Hono: exec to socket, ms",
    "ours ready": "Floodgate: exec to READY=1, ms",
    "ours answer": "Floodgate: exec to the first answer, ms",
    "serve answer": "Deno.serve with Hono: exec to the first answer, ms",
  },
  gate: Object.fromEntries(
    DOORS.flatMap((proto) => [
      [`held ${proto}`, `10 000 held clients, ${proto}: gate to last answer, ms`],
      [`open ${proto}`, "as many at an open gate: first connect to last answer, ms"],
      [`kept ${proto}`, "again, on the connections they have, ms"],
      [`cold ${proto}`, "as many at the open gate of a daemon that has not been asked yet, ms"],
      [`serve ${proto}`, "the same at Deno.serve, once, ms"],
    ]),
  ),
  memory: Object.fromEntries(
    (["ours", "serve", "limit", "go", "handler", "ws", "bun", "gorilla"] as const).flatMap((
      who,
    ) => [
      [`${who} idle`, `${nameOf(who)}: idle, MiB`],
      ...who === "ours"
        ? [["cached idle", "the same with @std/cli in Deno's cache: idle, MiB"]]
        : [],
      [`${who} connection`, `${nameOf(who)}: an idle connection, KiB`],
      [`${who} websocket`, `${nameOf(who)}: an idle WebSocket, KiB`],
    ]),
  ),
  streams: {
    "ours stream": "Floodgate: an answer of 1 GiB, MiB/s",
    "serve stream": "Deno.serve: the same",
    "go stream": "Go net/http: the same",
  },
  jobs: {
    "ours job": "Floodgate: a job that writes a line, ns",
    "ours bytes": "Floodgate: what it allocates, bytes",
    "go job": "Go, the engine of 2014: a job that writes a line, ns",
  },
};
