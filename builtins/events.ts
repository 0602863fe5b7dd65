/**
 * The jobs `log`, which records an event, and `events`, which tells of them.
 *
 * @module
 */

import { parseDuration } from "./settings.ts";
import type { Engine, Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import { after } from "../engine/time.ts";

/** How many events a late listener can still ask for. */
const HISTORY = 1_024;
/** How many events a listener may fall behind before it is let go. */
const BACKLOG = 1_024;

/** An event in the form that the docker CLI reads, with the names it had in 2014 beside it. */
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
  /** None of the above but all of it, as it is sent: made once, for the first who is told. */
  line?: string;
}

/** What the other built-in jobs may know of the events. */
export interface Events {
  /** How many `events` jobs listen. */
  readonly listeners: number;
}

/**
 * Registers `log ACTION ID [FROM]` (env: `Type`, default "container"; `Attributes`, a JSON object)
 * and `events` (env: `since`, `until`, `filters`), and records starts and ends of the engine's jobs.
 */
export function registerEvents(engine: Engine): Events {
  const history: Event[] = [];
  const listeners = new Set<(event: Event) => void>();
  let last = 0n;

  function record(
    type: string,
    action: string,
    id: string,
    attributes: Record<string, string>,
    from = "",
  ): void {
    // Milliseconds are what the clock gives; events of the same one still get an order.
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
    for (const tell of listeners) tell(event);
  }

  engine.onJob((job, phase) => {
    // Jobs that requests run are not of interest: a listener would hear of its own listening.
    if (job.quiet || job.name === "log" || job.name === "events") return;
    const attributes: Record<string, string> = { name: job.name };
    if (phase === "end") attributes.exitCode = String(job.status);
    record("daemon", phase === "start" ? "start" : "die", job.name, attributes);
  });

  engine.register("log", (job) => {
    const [action, id, from = ""] = job.args;
    if (!action || id === undefined || job.args.length > 3) {
      throw new TypedError("bad parameter", `usage: log ACTION ID [FROM]`);
    }
    const attributes = job.env.getSubEnv("Attributes")?.toObject() ?? {};
    if (from) attributes.image ??= from;
    record(job.getenv("Type") || "container", action, id, attributes, from);
  });

  engine.register("events", async (job) => {
    const now = Date.now();
    const since = parseTime("since", job.getenv("since"), now);
    const until = parseTime("until", job.getenv("until"), now);
    const matches = parseFilters(job.getenv("filters"));
    const wanted = (event: Event) =>
      (until === undefined || event.timeNano <= until) && matches(event);

    const queue = since === undefined ? [] : history.filter((event) => event.timeNano >= since);
    let over = false;
    const overrun = Promise.withResolvers<never>();
    let wake = () => {};
    const end = () => {
      over = true;
      wake();
    };
    const listener = (event: Event) => {
      if (queue.length >= BACKLOG + HISTORY) {
        overrun.reject(
          new TypedError("unavailable", "the listener did not keep up with the events"),
        );
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
    const tell = async () => {
      // The client learns at once that it is listening, even if nothing happens for hours.
      await job.stdout.write("");
      for (;;) {
        for (let event; (event = queue.shift());) {
          if (wanted(event)) await print(job, event);
        }
        if (over) return;
        await new Promise<void>((resolve) => wake = resolve);
      }
    };
    try {
      // A client that takes nothing keeps an event waiting for long, and is let go before that is over.
      await Promise.race([tell(), overrun.promise]);
    } finally {
      cancel?.();
      listeners.delete(listener);
      stop.removeEventListener("abort", end);
    }
  });

  return {
    get listeners() {
      return listeners.size;
    },
  };
}

function print(job: Job, event: Event): Promise<void> {
  return job.print(event.line ??= encode(event));
}

function encode({ timeNano, ...rest }: Event): string {
  return JSON.stringify(rest).slice(0, -1) + `,"timeNano":${timeNano}}\n`;
}

/** Seconds since 1970 with up to nine decimals, RFC 3339, or a duration before now; in nanoseconds. */
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
      `${name}="${text}" is no time, expected seconds since 1970, RFC 3339 or a duration such as 10m`,
    );
  }
  return BigInt(date) * 1_000_000n;
}

const FILTERS = ["type", "event", "container", "image", "label", "daemon", "scope"];

/** `{"type": ["daemon"]}` as the docker CLI has sent it, and `{"type": {"daemon": true}}` as it does. */
function parseFilters(text: string): (event: Event) => boolean {
  if (text === "") return () => true;
  const bad = (problem: string) => new TypedError("bad parameter", `filters: ${problem}`);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    throw bad("not JSON");
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw bad('expected a JSON object such as {"type": ["daemon"]}');
  }
  const filters = Object.entries(parsed).map(([name, given]): [string, string[]] => {
    if (!FILTERS.includes(name)) {
      throw bad(`"${name}" is unknown, expected one of ${FILTERS.join(", ")}`);
    }
    if (Array.isArray(given)) return [name, given.map(String)];
    if (typeof given !== "object" || given === null) throw bad(`"${name}" has no list of values`);
    return [name, Object.entries(given).filter(([, on]) => on).map(([value]) => value)];
  });
  return (event) =>
    filters.every(([name, values]) => values.some((value) => fits(event, name, value)));
}

function fits(event: Event, name: string, value: string): boolean {
  const { ID, Attributes } = event.Actor;
  switch (name) {
    case "type":
      return event.Type === value;
    case "event":
      return event.Action === value;
    case "scope":
      return event.scope === value;
    case "label": {
      const [, key, wanted] = /^([^=]*)(?:=(.*))?$/s.exec(value)!;
      return Object.hasOwn(Attributes, key) && (wanted === undefined || Attributes[key] === wanted);
    }
    case "image":
      return event.Type === "image" ? ID === value : Attributes.image === value;
    default: // container, daemon: by ID, the beginning of one, or name
      return event.Type === name && (ID.startsWith(value) || Attributes.name === value);
  }
}
