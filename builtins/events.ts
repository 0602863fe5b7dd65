/**
 * The jobs `log`, which records an event, and `events`, which prints them.
 *
 * @module
 */

import { parseDuration } from "./settings.ts";
import type { Engine, Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import { after, turn } from "../engine/time.ts";

/** How many past events are kept for `since`. */
const HISTORY = 1_024;
/** How many events a listener filters between two turns of the event loop. */
const BATCH = 64;
/** How many events a listener may fall behind before it is dropped. */
const BACKLOG = 1_024;

/** An event in the form that the docker CLI reads, with the members of 2014 beside it. */
interface Event {
  Type: string;
  Action: string;
  Actor: { ID: string; Attributes: Record<string, string> };
  scope: "local";
  /** Seconds since 1970. */
  time: number;
  /** The same in nanoseconds: a bigint, because a number cannot hold them. */
  timeNano: bigint;
  status: string;
  id: string;
  from: string;
  /** The event as a JSON line: built once, for the first listener that it is sent to. */
  line?: string;
}

/**
 * Registers `log ACTION ID [FROM]` (env: `Type`, default "container"; `Attributes`, a JSON object)
 * and `events` (env: `since`, `until`, `filters`), and records starts and ends of the engine's
 * jobs.
 *
 * @returns A function that tells how many `events` jobs listen.
 */
export function registerEvents(engine: Engine): () => number {
  const history: Event[] = [];
  const listeners = new Set<(event: Event) => void>();
  let last = 0n;

  function record({ type, action, id, attributes, from = "" }: {
    type: string;
    action: string;
    id: string;
    attributes: Record<string, string>;
    from?: string;
  }): void {
    // The clock has milliseconds; events of the same one still get distinct, ordered times.
    const now = BigInt(Date.now()) * 1_000_000n;
    last = now > last ? now : last + 1n;
    const event: Event = {
      Type: type,
      Action: action,
      Actor: { ID: id, Attributes: attributes },
      scope: "local",
      time: Number(last / 1_000_000_000n),
      timeNano: last,
      status: action,
      id,
      from,
    };
    history.push(event);
    if (history.length > HISTORY) history.shift();
    for (const listener of listeners) listener(event);
  }

  engine.onJob((job, phase) => {
    // Not for jobs of requests: a listener would get events about its own listening.
    if (job.quiet || job.name === "log" || job.name === "events") return;
    const attributes: Record<string, string> = { name: job.name };
    if (phase === "end") attributes.exitCode = String(job.status);
    const action = phase === "start" ? "start" : "die";
    record({ type: "daemon", action, id: job.name, attributes });
  });

  engine.register("log", (job) => {
    const [action, id, from = ""] = job.args;
    if (!action || id === undefined || job.args.length > 3) {
      throw new TypedError("bad parameter", `usage: log ACTION ID [FROM]`);
    }
    const attributes = job.env.getSubEnv("Attributes")?.toObject() ?? {};
    if (from) attributes.image ??= from;
    record({ type: job.getenv("Type") || "container", action, id, attributes, from });
  });

  engine.register("events", async (job) => {
    const now = Date.now();
    const since = parseTime("since", job.getenv("since"), now);
    const until = parseTime("until", job.getenv("until"), now);
    if (since !== undefined && until !== undefined && since > until) {
      throw new TypedError(
        "bad parameter",
        `since="${job.getenv("since")}" is later than until="${job.getenv("until")}"`,
      );
    }
    const matches = filterOf(job);
    const wanted = (event: Event) =>
      (until === undefined || event.timeNano <= until) && matches(event);

    const queue = since === undefined ? [] : history.filter((event) => event.timeNano >= since);
    let ended = false;
    const overrun = Promise.withResolvers<never>();
    let wake = () => {};
    const end = () => {
      ended = true;
      wake();
    };
    const listener = (event: Event) => {
      if (queue.length >= BACKLOG + HISTORY) {
        const problem = "the client did not keep up with the events";
        overrun.reject(new TypedError("unavailable", problem));
        return end();
      }
      queue.push(event);
      wake();
    };
    listeners.add(listener);
    const stop = AbortSignal.any([job.signal, engine.stopping]);
    stop.addEventListener("abort", end, { once: true });
    if (stop.aborted) end();
    const cancel = until === undefined ? undefined : after(Number(until / 1_000_000n) - now, end);
    const send = async () => {
      // Sends the headers at once, so that the client knows that it is listening before the first
      // event.
      await job.stdout.write("");
      for (;;) {
        for (let event, count = 1; (event = queue.shift()); count++) {
          if (wanted(event)) await job.print(event.line ??= encode(event));
          // A client's filters may be slow: other tasks get a turn in between.
          if (count % BATCH === 0) await turn();
        }
        if (ended) return;
        await new Promise<void>((resolve) => wake = resolve);
      }
    };
    try {
      // A client that reads nothing blocks send() for long; the overrun ends the job before.
      await Promise.race([send(), overrun.promise]);
    } finally {
      cancel?.();
      listeners.delete(listener);
      stop.removeEventListener("abort", end);
    }
  });

  return () => listeners.size;
}

function encode({ timeNano, ...rest }: Event): string {
  return JSON.stringify(rest).slice(0, -1) + `,"timeNano":${timeNano}}\n`;
}

/**
 * Parses a time to nanoseconds since 1970: seconds with up to nine decimals, RFC 3339, or a
 * duration before `now`, which is in milliseconds.
 */
function parseTime(name: string, text: string, now: number): bigint | undefined {
  if (text === "") return undefined;
  const [, seconds, decimals = ""] = /^(\d{1,12})(?:\.(\d{1,9}))?$/.exec(text) ?? [];
  if (seconds !== undefined) {
    return BigInt(seconds) * 1_000_000_000n + BigInt(decimals.padEnd(9, "0"));
  }
  const ago = parseDuration(text);
  if (ago !== undefined) return BigInt(Math.round(now - ago)) * 1_000_000n;
  const date = /^\d{4}-\d\d-\d\d/.test(text) ? Date.parse(text) : NaN;
  if (Number.isNaN(date)) {
    throw new TypedError(
      "bad parameter",
      `${name}="${text}" is not a time, expected seconds since 1970, RFC 3339 or a duration such as 10m`,
    );
  }
  return BigInt(date) * 1_000_000n;
}

/** dockerd's filters. Those from `config` on match the ID or name of an object of that type. */
const FILTERS = [
  ...["type", "event", "image", "label", "scope"],
  ...["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"],
];
/** How many values all filters of a listener may have together. */
const MAX_VALUES = 1_000;
/** Actions with a colon and more after them, such as `exec_create: ls`, match by prefix. */
const PREFIXES = ["health_status", "exec_create", "exec_start"];

type Test = (event: Event) => boolean;

/** The test for the events that match each of a job's filters. */
function filterOf(job: Job): Test {
  const filters = [...job.env.getFilters("filters", FILTERS)];
  const count = filters.reduce((sum, [, values]) => sum + values.length, 0);
  if (count > MAX_VALUES) {
    const problem = `filters has ${count} values, expected at most ${MAX_VALUES}`;
    throw new TypedError("bad parameter", problem);
  }
  const tests = filters.filter(([, values]) => values.length > 0)
    .map(([name, values]) => compile(name, [...new Set(values)]));
  return (event) => tests.every((test) => test(event));
}

function compile(name: string, values: readonly string[]): Test {
  const exact = (text: string | undefined) => text !== undefined && values.includes(text);
  const begins = (text: string | undefined) =>
    text !== undefined && values.some((value) => text.startsWith(value));
  switch (name) {
    case "type":
      return ({ Type }) => exact(Type);
    case "scope":
      return ({ scope }) => exact(scope);
    case "event": {
      const matches = values.some((value) => PREFIXES.includes(value)) ? begins : exact;
      return ({ Action }) => matches(Action);
    }
    case "label": {
      const labels = values.map((value) => {
        const at = value.indexOf("=");
        return at < 0 ? [value] as const : [value.slice(0, at), value.slice(at + 1)] as const;
      });
      return ({ Actor: { Attributes } }) =>
        labels.every(([key, value]) =>
          Object.hasOwn(Attributes, key) && (value === undefined || Attributes[key] === value)
        );
    }
    case "image":
      return ({ Type, Actor: { ID, Attributes } }) =>
        [ID, Type === "image" ? Attributes.name : Attributes.image].some((image) =>
          image !== undefined && (exact(image) || exact(nameOf(image)))
        );
    default:
      return ({ Type, Actor: { ID, Attributes } }) =>
        Type === name && (begins(ID) || begins(Attributes.name));
  }
}

/** An image's name as the docker CLI shows it: without tag, digest, and default registry. */
function nameOf(image: string): string {
  const digest = image.indexOf("@");
  let name = digest < 0 ? image : image.slice(0, digest);
  const tag = name.lastIndexOf(":");
  if (tag > name.lastIndexOf("/")) name = name.slice(0, tag);
  for (const prefix of ["index.docker.io/", "docker.io/", "library/"]) {
    if (name.startsWith(prefix)) name = name.slice(prefix.length);
  }
  return name;
}
