import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertLess,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { registerEvents } from "../../builtins/events.ts";
import { Engine, type Job, JobError, TypedError } from "../../engine.ts";
import { Client } from "../support/client.ts";
import { FakeClock } from "../support/clock.ts";
import { Served } from "../support/served.ts";
import { isPending, settle, until } from "../support/daemon.ts";

/** An engine with the jobs, whose log goes nowhere. */
function make(): { engine: Engine; count: () => number } {
  const engine = new Engine({ log: () => {} });
  return { engine, count: registerEvents(engine) };
}

interface Told {
  Type: string;
  Action: string;
  Actor: { ID: string; Attributes: Record<string, string> };
  scope: string;
  time: number;
  status: string;
  id: string;
  from: string;
  /** The digits, as they were written. */
  timeNano: string;
}

function parse(text: string): Told[] {
  return text.split("\n").slice(0, -1).map((line) => ({
    ...JSON.parse(line),
    timeNano: /"timeNano":(\d+)\}$/.exec(line)![1],
  }));
}

/** Collects what a job prints. */
function collect(job: Job): { readonly events: Told[]; readonly ids: string[] } {
  const decoder = new TextDecoder();
  let text = "";
  job.stdout.add({ write: (chunk) => void (text += decoder.decode(chunk)) });
  return {
    get events() {
      return parse(text);
    },
    get ids() {
      return parse(text).map(({ id }) => id);
    },
  };
}

async function log(engine: Engine, args: string[], env: Record<string, string> = {}) {
  const job = engine.job("log", ...args);
  for (const [key, value] of Object.entries(env)) job.setenv(key, value);
  await job.run();
}

function listen(engine: Engine, env: Record<string, string> = {}) {
  const job = engine.job("events");
  for (const [key, value] of Object.entries(env)) job.setenv(key, value);
  const told = collect(job);
  return { job, told, run: job.run() };
}

/** The past events that a job prints, without waiting for new ones. */
async function past(engine: Engine, env: Record<string, string> = {}): Promise<Told[]> {
  const job = engine.job("events");
  for (const [key, value] of Object.entries({ since: "0", ...env })) job.setenv(key, value);
  const told = collect(job);
  job.abort();
  await job.run();
  return told.events;
}
async function pastIds(engine: Engine, env: Record<string, string> = {}): Promise<string[]> {
  return (await past(engine, env)).map(({ id }) => id);
}

/** A time in nanoseconds as seconds with all decimals. */
function seconds(nanos: string): string {
  return `${nanos.slice(0, -9)}.${nanos.slice(-9)}`;
}

async function assertBadParameter(engine: Engine, env: Record<string, string>, part: string) {
  const { run } = listen(engine, env);
  const error = await assertRejects(() => run, JobError);
  assertInstanceOf(error.cause, TypedError);
  assertEquals(error.cause.kind, "bad parameter");
  assertStringIncludes(error.message, part);
}

Deno.test("log records an event in the form that the docker CLI reads", async () => {
  const { engine } = make();
  const before = Date.now();
  await log(engine, ["start", "abc", "busybox"], { Attributes: '{"name":"web","exitCode":0}' });
  const after = Date.now();
  const [first, ...more] = await past(engine);
  const { time, timeNano, ...event } = first!;
  assertEquals(more, []);
  assertEquals(event, {
    Type: "container",
    Action: "start",
    Actor: { ID: "abc", Attributes: { name: "web", exitCode: "0", image: "busybox" } },
    scope: "local",
    status: "start",
    id: "abc",
    from: "busybox",
  });
  const ms = Number(timeNano.slice(0, -6));
  assert(before <= ms && ms <= after, `${before} <= ${ms} <= ${after}`);
  assertEquals(time, Math.floor(ms / 1_000));
});

Deno.test("log takes its type from the env, and an event needs no image or attributes", async () => {
  const { engine } = make();
  await log(engine, ["create", "v1"], { Type: "volume" });
  await log(engine, ["stop", "c1", "busybox"], { Attributes: '{"image":"other"}' });
  await log(engine, ["die", ""]);
  const events = await past(engine);
  assertEquals(
    events.map(({ Type, Actor, from }) => [Type, Actor.ID, Actor.Attributes, from]),
    [
      ["volume", "v1", {}, ""],
      ["container", "c1", { image: "other" }, "busybox"],
      ["container", "", {}, ""],
    ],
  );
});

Deno.test("log with the wrong arguments says how it is used and records nothing", async () => {
  const { engine } = make();
  for (const args of [[], ["start"], ["", "abc"], ["start", "abc", "busybox", "more"]]) {
    const error = await assertRejects(() => log(engine, args), JobError);
    assertInstanceOf(error.cause, TypedError);
    assertEquals(error.cause.kind, "bad parameter");
    assertEquals(error.message, "usage: log ACTION ID [FROM]");
  }
  assertEquals(await past(engine), []);
});

Deno.test("events gives each event a time of its own, exact and in order", async () => {
  const { engine } = make();
  // More events than the clock can distinguish in a millisecond.
  for (let i = 0; i < 500; i++) await log(engine, ["tick", `${i}`]);
  const events = await past(engine);
  assertEquals(events.map(({ id }) => id), Array.from({ length: 500 }, (_, i) => `${i}`));
  for (const { timeNano, time } of events) {
    assertMatch(timeNano, /^\d{19}$/);
    assertEquals(`${time}`, timeNano.slice(0, 10));
  }
  const times = events.map(({ timeNano }) => BigInt(timeNano));
  for (let i = 1; i < times.length; i++) {
    assert(times[i]! > times[i - 1]!, `${times[i]} > ${times[i - 1]}`);
  }
});

Deno.test("events prints what happens while it listens, and nothing from before", async () => {
  const { engine, count } = make();
  await log(engine, ["start", "before"]);
  const { job, told, run } = listen(engine);
  assertEquals(count(), 1);
  await log(engine, ["start", "one"]);
  await until(() => told.ids.length === 1);
  await log(engine, ["start", "two"]);
  await log(engine, ["start", "three"]);
  await until(() => told.ids.length === 3);
  job.abort();
  await run;
  await log(engine, ["start", "after"]);
  assertEquals([told.ids, count()], [["one", "two", "three"], 0]);
});

Deno.test("events with since prints the past, then the present, each event once", async () => {
  const { engine } = make();
  await log(engine, ["start", "one"]);
  await log(engine, ["start", "two"]);
  const { job, told, run } = listen(engine, { since: "0" });
  await log(engine, ["start", "three"]);
  await until(() => told.ids.length >= 3);
  await log(engine, ["start", "four"]);
  await until(() => told.ids.length >= 4);
  job.abort();
  await run;
  assertEquals(told.ids, ["one", "two", "three", "four"]);
});

Deno.test("events prints to several listeners at once, each by its filters", async () => {
  const { engine, count } = make();
  const all = listen(engine);
  const stops = listen(engine, { filters: '{"event":["stop"]}' });
  assertEquals(count(), 2);
  await log(engine, ["start", "one"]);
  await log(engine, ["stop", "two"]);
  await until(() => all.told.ids.length === 2 && stops.told.ids.length === 1);
  stops.job.abort();
  await stops.run;
  assertEquals(count(), 1);
  await log(engine, ["stop", "three"]);
  await until(() => all.told.ids.length === 3);
  all.job.abort();
  await all.run;
  assertEquals([all.told.ids, stops.told.ids], [["one", "two", "three"], ["two"]]);
});

Deno.test("events writes at once, before anything has happened", async () => {
  const { engine } = make();
  const job = engine.job("events");
  const written: number[] = [];
  job.stdout.add({ write: (chunk) => void written.push(chunk.length) });
  const run = job.run();
  await until(() => written.length > 0);
  assertEquals(written, [0]);
  job.abort();
  await run;
});

Deno.test("events with since and until takes both ends in, to the nanosecond", async () => {
  const { engine } = make();
  for (const id of ["a", "b", "c", "d"]) await log(engine, ["start", id]);
  const [a, b, c] = (await past(engine)).map(({ timeNano }) => timeNano);
  assertEquals(await pastIds(engine, { since: seconds(b!) }), ["b", "c", "d"]);
  assertEquals(await pastIds(engine, { until: seconds(c!) }), ["a", "b", "c"]);
  assertEquals(await pastIds(engine, { since: seconds(b!), until: seconds(c!) }), ["b", "c"]);
  const next = (nanos: string, by: bigint) => seconds(`${BigInt(nanos) + by}`);
  assertEquals(await pastIds(engine, { since: next(a!, 1n), until: next(c!, -1n) }), ["b"]);
});

Deno.test("events reads times as seconds, RFC 3339 and durations", async () => {
  const { engine } = make();
  await log(engine, ["start", "a"]);
  const { time, timeNano } = (await past(engine))[0]!;
  const ms = Number(timeNano.slice(0, -6));
  const iso = (ms: number) => new Date(ms).toISOString();
  const elsewhere = (ms: number) => iso(ms + 5_400_000).replace("Z", "+01:30");
  const before = [
    "0",
    `${time}`,
    `${time}.0`,
    `${time - 1}.999999999`,
    "1970-01-01",
    "1970-01-01T00:00:00Z",
    iso(ms),
    elsewhere(ms),
    iso(ms).replace("Z", "000000Z"),
    "1h",
    "10m",
    "90000s",
    "600000ms",
    "1h30m",
    "1.5h",
    "1h0m0.5s",
  ];
  const after = [
    `${time + 1}`,
    `${time}.${timeNano.slice(10, 13)}${"9".repeat(6)}`,
    "999999999999",
    "2286-11-20",
    iso(ms + 1),
    elsewhere(ms + 1),
  ];
  for (const since of before) {
    assertEquals([since, await pastIds(engine, { since })], [since, ["a"]]);
  }
  for (const since of after) assertEquals([since, await pastIds(engine, { since })], [since, []]);
  for (const until of after) {
    assertEquals([until, await pastIds(engine, { until })], [until, ["a"]]);
  }
  for (const until of ["0", `${time - 1}.999999999`, "1970-01-01", iso(ms - 1), "1h", "1.5h"]) {
    assertEquals([until, await pastIds(engine, { until })], [until, []]);
  }
});

Deno.test("events refuses a malformed time, and does not listen", async () => {
  const { engine, count } = make();
  for (
    const text of [
      "yesterday",
      "-1",
      "+1",
      "1e9",
      "0x10",
      "1.",
      ".5",
      "1.0000000001",
      "1234567890123",
      " 1",
      "1 h",
      "h",
      "1d",
      "1h1",
      "1.2.3s",
      "-1h",
      "9".repeat(400) + "h",
      "2024-13-01",
      "2024-01-01T25:00:00Z",
      "2024-01-01x",
      "01/02/2024",
    ]
  ) {
    for (const name of ["since", "until"]) {
      await assertBadParameter(
        engine,
        { [name]: text },
        `${name}="${text}" is not a time, expected seconds since 1970, RFC 3339 or a duration such as 10m`,
      );
    }
  }
  assertEquals(count(), 0);
});

Deno.test("events with until in the past ends by itself", async () => {
  const { engine, count } = make();
  await log(engine, ["start", "a"]);
  await log(engine, ["start", "b"]);
  const [a] = await past(engine);
  for (const [until, ids] of [[seconds(a!.timeNano), ["a"]], ["1s", []]] as const) {
    const { told, run } = listen(engine, { since: "0", until });
    await run;
    assertEquals([until, told.ids, count()], [until, ids, 0]);
  }
});

for (const days of [1, 24.8, 24.9, 100]) {
  Deno.test(`events with until listens up to it and no longer, ${days} days`, async () => {
    using clock = new FakeClock();
    const { engine, count } = make();
    const ms = days * 24 * 3_600_000;
    const { told, run } = listen(engine, { until: new Date(Date.now() + ms).toISOString() });
    await clock.pass(ms - 1);
    await log(engine, ["start", "a"]);
    assert(await isPending(run));
    await clock.pass(1);
    await run;
    assertEquals([told.ids, count(), clock.timers], [["a"], 0, 0]);
  });
}

Deno.test("events keeps the last 1024 events for later listeners", async () => {
  const { engine } = make();
  for (let i = 0; i < 1_034; i++) await log(engine, ["tick", `${i}`]);
  const ids = await pastIds(engine);
  assertEquals([ids.length, ids[0], ids.at(-1)], [1_024, "10", "1033"]);
});

const EVENTS: [string[], Record<string, string>?][] = [
  [["start", "c1a2b3", "busybox"], { Attributes: '{"name":"web","color":"red","cmd":"a=b=c"}' }],
  [["stop", "c1ffff", "alpine"], { Attributes: '{"name":"db","color":"blue"}' }],
  [["pull", "busybox"], { Type: "image" }],
  [["reload", "d1"], { Type: "daemon", Attributes: '{"name":"web"}' }],
];
/** Further events, for other filters. */
const MORE: typeof EVENTS = [
  [["exec_create: ls -l", "c1exec", "nginx:1.27"]],
  [["pull", "docker.io/library/nginx:1.27"], { Type: "image" }],
  [["tag", "sha256:ab"], { Type: "image", Attributes: '{"name":"localhost:5000/a/b:c"}' }],
  [["create", "n1"], { Type: "network", Attributes: '{"name":"front"}' }],
  [["create", "n2"], { Type: "network", Attributes: '{"name":"backend"}' }],
  [["create", "data1"], { Type: "volume" }],
  [["create", "cfg1"], { Type: "config" }],
  [["enable", "p1"], { Type: "plugin" }],
];

const FILTERED: [string, Record<string, string[]>, string[]][] = [
  ["type", { type: ["image"] }, ["busybox"]],
  ["several values of a filter: any of them", { type: ["image", "daemon"] }, ["busybox", "d1"]],
  ["event", { event: ["stop"] }, ["c1ffff"]],
  ["container by ID", { container: ["c1a2b3"] }, ["c1a2b3"]],
  ["container by the beginning of an ID", { container: ["c1"] }, ["c1a2b3", "c1ffff"]],
  ["container by name, which is no daemon's", { container: ["web"] }, ["c1a2b3"]],
  ["image: a container's and its own", { image: ["busybox"] }, ["c1a2b3", "busybox"]],
  ["label by key", { label: ["color"] }, ["c1a2b3", "c1ffff"]],
  ["label by key and value", { label: ["color=red"] }, ["c1a2b3"]],
  ["label by a value with = in it", { label: ["cmd=a=b=c"] }, ["c1a2b3"]],
  ["label by a part of a value", { label: ["cmd=a=b"] }, []],
  ["label by an inherited name", { label: ["toString"] }, []],
  ["daemon by name", { daemon: ["web"] }, ["d1"]],
  ["daemon by ID", { daemon: ["d"] }, ["d1"]],
  ["scope", { scope: ["local"] }, ["c1a2b3", "c1ffff", "busybox", "d1"]],
  ["scope that is another", { scope: ["swarm"] }, []],
  ["several filters: all of them", { event: ["stop", "pull"], type: ["container"] }, ["c1ffff"]],
  ["no filter", {}, ["c1a2b3", "c1ffff", "busybox", "d1"]],
  ["a filter without values is none", { type: [], event: ["stop"] }, ["c1ffff"]],
  ["event that has more after a colon, by its beginning", { event: ["exec_create"] }, ["c1exec"]],
  ["event by a beginning that is none of those", { event: ["exec_cre"] }, []],
  ["image by its name without the tag", { image: ["nginx"] }, [
    "c1exec",
    "docker.io/library/nginx:1.27",
  ]],
  ["image with its tag", { image: ["nginx:1.27"] }, ["c1exec"]],
  ["image by its name with a registry", { image: ["localhost:5000/a/b"] }, ["sha256:ab"]],
  ["labels: all of them", { label: ["color", "name=web"] }, ["c1a2b3"]],
  ["labels of which one does not fit", { label: ["color", "name=x"] }, []],
  ["container by the beginning of a name", { container: ["d"] }, ["c1ffff"]],
  ["network, by ID or name", { network: ["n1", "back"] }, ["n1", "n2"]],
  ["volume", { volume: ["data"] }, ["data1"]],
  ["config", { config: ["cfg"] }, ["cfg1"]],
  ["plugin", { plugin: ["p"] }, ["p1"]],
];

for (const [what, filter, expected] of FILTERED) {
  Deno.test(`events filters, in both forms: ${what}`, async () => {
    const { engine } = make();
    const old = EVENTS.map(([[, id]]) => id);
    const both = expected.some((id) => !old.includes(id)) || expected.length === 0;
    for (const [args, env] of [...EVENTS, ...both ? MORE : []]) await log(engine, args, env);
    const lists = JSON.stringify(filter);
    const maps = JSON.stringify(
      Object.fromEntries(
        Object.entries(filter).map((
          [name, values],
        ) => [name, Object.fromEntries(values.map((value) => [value, true]))]),
      ),
    );
    assertEquals(await pastIds(engine, { filters: lists }), expected);
    assertEquals(await pastIds(engine, { filters: maps }), expected);
  });
}

Deno.test("events refuses a time to begin that is later than the time to end", async () => {
  const { engine, count } = make();
  await assertBadParameter(
    engine,
    { since: "2000", until: "1999.999999999" },
    'since="2000" is later than until="1999.999999999"',
  );
  await assertBadParameter(engine, { since: "1m", until: "2m" }, "is later than until");
  assertEquals(count(), 0);
  assertEquals(await pastIds(engine, { since: "2000", until: "2000" }), []);
});

Deno.test("events yields to the event loop while it filters the past", async () => {
  const { engine } = make();
  for (let i = 0; i < 1_024; i++) {
    await log(engine, ["tick", `${i}`], { Attributes: '{"1":"1"}' });
  }
  const label = Array.from({ length: 999 }, (_, i) => `1=${i === 998 ? "x" : "1"}${" ".repeat(i)}`);
  const job = engine.job("events");
  job.setenv("since", "0");
  job.setenv("until", new Date(Date.now() + 5).toISOString());
  job.setenv("filters", JSON.stringify({ label: ["1=1", ...label] }));
  let turns = 0;
  let last = performance.now();
  let longest = 0;
  let over = false;
  const run = job.run().then(() => over = true);
  while (!over) {
    await settle();
    turns++;
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
  }
  await run;
  assert(turns >= 1_024 / 64, `${turns} turns`);
  assertLess(longest, 1_000);
});

Deno.test("events bounds how many values filters have", async () => {
  const { engine } = make();
  const many = (count: number) => JSON.stringify({ label: Array(count).fill("1") });
  assertEquals(await pastIds(engine, { filters: many(1_000) }), []);
  await assertBadParameter(
    engine,
    { filters: many(1_001) },
    "filters has 1001 values, expected at most 1000",
  );
  const spread = JSON.stringify({ label: Array(600).fill("1"), event: Array(600).fill("x") });
  await assertBadParameter(
    engine,
    { filters: spread },
    "filters has 1200 values, expected at most 1000",
  );
});

Deno.test("events ignores filter values that are false", async () => {
  const { engine } = make();
  for (const [args, env] of EVENTS) await log(engine, args, env);
  assertEquals(
    await pastIds(engine, { filters: '{"type":{"image":true,"container":false}}' }),
    ["busybox"],
  );
});

Deno.test("events refuses malformed filters, and does not listen", async () => {
  const { engine, count } = make();
  const form = 'expected a JSON object of lists such as {"label": ["a"]}';
  for (
    const [filters, message] of [
      ["type=image", `filters is "type=image", ${form}`],
      ["{", `filters is "{", ${form}`],
      ["[]", form],
      ["null", form],
      ['"type"', form],
      ["1", form],
      ['{"colour":["red"]}', 'filters has "colour", expected names among type, event, '],
      ['{"toString":["red"]}', 'filters has "toString", expected names among type, event, '],
      ['{"type":"image"}', form],
      ['{"type":true}', form],
      ['{"label":[1,1]}', form],
      ['{"label":[null]}', form],
    ] as const
  ) await assertBadParameter(engine, { filters }, message);
  assertEquals(count(), 0);
});

Deno.test("events ends when the engine shuts down, and the engine does not wait", async () => {
  const { engine, count } = make();
  const { job, told, run } = listen(engine);
  await log(engine, ["start", "a"]);
  const started = performance.now();
  await engine.shutdown();
  // A job that has to be waited for costs 5 s.
  assertLess(performance.now() - started, 4_000);
  await run;
  assertEquals([told.ids, job.status, count()], [["a"], 0, 0]);
});

Deno.test("events ends a listener that falls too far behind, and no other", async () => {
  const { engine, count } = make();
  const slow = engine.job("events");
  const stuck = Promise.withResolvers<void>();
  slow.stdout.add({ write: (chunk) => chunk.length > 0 ? stuck.promise : undefined });
  const run = slow.run();
  const { job, told, run: quick } = listen(engine);
  assertEquals(count(), 2);
  // One is being written, 2 048 are queued, and the next is too many.
  for (let i = 0; i < 2_050; i++) await log(engine, ["tick", `${i}`]);
  stuck.resolve();
  const error = await assertRejects(() => run, JobError);
  assertInstanceOf(error.cause, TypedError);
  assertEquals(error.cause.kind, "unavailable");
  await until(() => told.ids.length === 2_050);
  assertEquals(count(), 1);
  job.abort();
  await quick;
});

Deno.test("events ends a client that reads nothing, once it is 2 048 events behind", async () => {
  await using served = await Served.open();
  const client = await Client.to(served.target);
  await client.send("GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n");
  await client.sees(/\r\n\r\n/);
  const listeners = async () => {
    const stats = served.engine.job("stats");
    stats.quiet = true;
    const out = stats.stdout.addTail(1);
    await stats.run();
    return JSON.parse(out.text).events.listeners;
  };
  assertEquals(await listeners(), 1);
  // The buffers in between take some events before the queue fills.
  const from = "x".repeat(16_384);
  let events = 0;
  for (; await listeners() === 1 && events < 5_000; events += 50) {
    for (let i = 0; i < 50; i++) await served.engine.job("log", "start", "id", from).run();
  }
  assert(events > 2_048 && events < 4_000, `let go after ${events}`);
  client.close();
});

Deno.test("events whose output fails ends and listens no more", async () => {
  const { engine, count } = make();
  const job = engine.job("events");
  job.stdout.add({
    write(chunk) {
      if (chunk.length > 0) throw new Error("the pipe broke");
    },
  });
  const run = job.run();
  assertEquals(count(), 1);
  await log(engine, ["start", "a"]);
  assertEquals((await assertRejects(() => run, JobError)).message, "the pipe broke");
  assertEquals(count(), 0);
});

Deno.test("events records the engine's jobs, except quiet ones and its own", async () => {
  const { engine } = make();
  engine.register("good", () => {});
  engine.register("bad", (job) => job.error("no"));
  await engine.job("good").run();
  await assertRejects(() => engine.job("bad").run());
  await assertRejects(() => engine.job("missing").run());
  const quiet = engine.job("good");
  quiet.quiet = true;
  await quiet.run();
  await past(engine);
  await log(engine, ["start", "c1"]);
  assertEquals(
    (await past(engine)).map(({ Type, Action, id, Actor }) => [
      Type,
      Action,
      id,
      Actor.ID,
      Actor.Attributes,
    ]),
    [
      ["daemon", "start", "good", "good", { name: "good" }],
      ["daemon", "die", "good", "good", { name: "good", exitCode: "0" }],
      ["daemon", "start", "bad", "bad", { name: "bad" }],
      ["daemon", "die", "bad", "bad", { name: "bad", exitCode: "1" }],
      ["daemon", "start", "missing", "missing", { name: "missing" }],
      ["daemon", "die", "missing", "missing", { name: "missing", exitCode: "127" }],
      ["container", "start", "c1", "c1", {}],
    ],
  );
});

Deno.test("registerEvents keeps the events of one engine from another", async () => {
  const [one, two] = [make(), make()];
  await log(one.engine, ["start", "a"]);
  assertEquals([await pastIds(one.engine), await pastIds(two.engine)], [["a"], []]);
});
