/**
 * The jobs `log`, which records an event, and `events`, which tells of them.
 *
 * @module
 */

import { parseDuration } from "./settings.ts";
import type { Engine, Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import { after, turn } from "../engine/time.ts";

/** How many events a late listener can still ask for. */
const HISTORY = 1_024;
/** How many events are looked at in one go. */
const WALK = 64;
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
    if (since !== undefined && until !== undefined && since > until) {
      throw new TypedError(
        "bad parameter",
        `since="${job.getenv("since")}" is later than until="${job.getenv("until")}"`,
      );
    }
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
        for (let event, looked = 1; (event = queue.shift()); looked++) {
          if (wanted(event)) await print(job, event);
          // Others have their turn between, since a client may want what takes long to find.
          if (looked % WALK === 0) await turn();
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

/** The filters of dockerd. The last ones are the types of events that an ID or a name chooses among. */
const FILTERS = [
  "type",
  "event",
  "image",
  "label",
  "scope",
  "config",
  "container",
  "daemon",
  "network",
  "node",
  "plugin",
  "secret",
  "service",
  "volume",
];
/** How many values all filters of a listener may have together. */
const VALUES = 1_000;
/** Actions that have more after a colon, such as `exec_create: ls`. */
const BEGINNINGS = ["health_status", "exec_create", "exec_start"];

type Test = (event: Event) => boolean;

/** Which events a listener wants: those that fit each of its filters. */
function parseFilters(text: string): Test {
  const tests = readFilters(text).filter(({ values }) => values.length > 0)
    .map(({ name, values }) => compile(name, values));
  return (event) => tests.every((test) => test(event));
}

/** `{"type": ["daemon"]}` as the docker CLI has sent it, and `{"type": {"daemon": true}}` as it does. */
function readFilters(text: string): { name: string; values: string[] }[] {
  if (text === "") return [];
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
  let count = 0;
  return Object.entries(parsed).map(([name, given]) => {
    if (!FILTERS.includes(name)) {
      throw bad(`"${name.slice(0, 40)}" is unknown, expected one of ${FILTERS.join(", ")}`);
    }
    if (typeof given !== "object" || given === null) throw bad(`"${name}" has no list of values`);
    const values = Array.isArray(given)
      ? given
      : Object.entries(given).filter(([, on]) => on).map(([value]) => value);
    count += values.length;
    if (count > VALUES) throw bad(`more than ${VALUES} values`);
    if (!values.every((value) => typeof value === "string")) {
      throw bad(`"${name}" has a value that is no text`);
    }
    return { name, values: [...new Set(values)] };
  });
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
      const matches = values.some((value) => BEGINNINGS.includes(value)) ? begins : exact;
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

/** An image's name as the docker CLI shows it: without tag, digest, and the registry that is the default. */
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
