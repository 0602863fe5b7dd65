import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertMatch,
  assertRejects,
  assertStrictEquals,
  assertThrows,
} from "@std/assert";
import {
  createLogger,
  Engine,
  Env,
  type ErrorKind,
  type Handler,
  Input,
  type Job,
  JobError,
  type LoggerOptions,
  Output,
  type Sink,
  Status,
  tail,
  TypedError,
} from "../engine.ts";
import { messageOf } from "../engine/errors.ts";
import { within } from "../engine/time.ts";
import { FakeClock } from "./support/clock.ts";
import { isPending, settle } from "./support/daemon.ts";

const HUGE = "123456789012345678901234567890";

/** An engine whose log lines are kept, each after its level. */
function logged(): { engine: Engine; lines: string[] } {
  const lines: string[] = [];
  const engine = new Engine({ log: (level, message) => void lines.push(`${level} ${message}`) });
  return { engine, lines };
}
/** A job with this handler, in an engine of its own that logs nowhere. */
function jobOf(handler: Handler, ...args: string[]): Job {
  const engine = new Engine({ log: () => {} });
  engine.register("test", handler);
  return engine.job("test", ...args);
}
/** What a job that has to fail rejects with. */
const failureOf = (job: Job) => assertRejects(() => job.run(), JobError);

/** An Env with these keys. */
function envOf(settings: Record<string, string>): Env {
  const env = new Env();
  for (const [key, value] of Object.entries(settings)) env.set(key, value);
  return env;
}

/** A destination that keeps what it is given. */
class Recorder implements Sink {
  chunks: string[] = [];
  closes = 0;
  get text(): string {
    return this.chunks.join("");
  }
  write(chunk: Uint8Array): void {
    this.chunks.push(decoded(chunk));
  }
  close(): void {
    this.closes++;
  }
}
/** What an output is written from now on. */
function recorded(out: Output): Recorder {
  const recorder = new Recorder();
  out.add(recorder);
  return recorder;
}
/** A destination that takes as long as the test wants: each write waits for a `finish`. */
class SlowRecorder extends Recorder {
  #pending: (() => void)[] = [];
  override write(chunk: Uint8Array): Promise<void> {
    super.write(chunk);
    return new Promise((resolve) => this.#pending.push(resolve));
  }
  async finish(): Promise<void> {
    this.#pending.shift()!();
    await settle();
  }
}
/** Destinations that fail to write, each in its own way, always with this error. */
const failing = (error: Error): Record<string, WritableStream<Uint8Array> | Sink> => ({
  "a sink that throws": {
    write() {
      throw error;
    },
  },
  "a sink that rejects": { write: () => Promise.reject(error) },
  "a stream that errors": new WritableStream({
    write() {
      throw error;
    },
  }),
});

const encoded = (text: string) => new TextEncoder().encode(text);
const decoded = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const streamOf = (...chunks: (Uint8Array | string)[]) =>
  ReadableStream.from(chunks.map((chunk) => typeof chunk === "string" ? encoded(chunk) : chunk));
/** Writes a text a byte at a time, which splits whatever can be split. */
async function writeBytewise(out: Output, text: string): Promise<void> {
  for (const byte of encoded(text)) await out.write(Uint8Array.of(byte));
}

// Engine: registering and finding handlers

Deno.test("Engine.register sets the handler of a name", async () => {
  const { engine } = logged();
  const ran: string[] = [];
  engine.register("a", () => void ran.push("a"));
  engine.register("b", () => void ran.push("b"));
  await engine.job("b").run();
  assertEquals(ran, ["b"]);
});

Deno.test("Engine.register throws where a name has a handler, and keeps that handler", async () => {
  const { engine } = logged();
  const ran: string[] = [];
  engine.register("greet", () => void ran.push("first"));
  assertThrows(() => engine.register("greet", () => void ran.push("second")), TypeError, "greet");
  assertThrows(() => engine.register("commands", () => {}), TypeError, "commands");
  await engine.job("greet").run();
  assertEquals(ran, ["first"]);
});

Deno.test("Engine.register throws on an empty name", () => {
  assertThrows(() => logged().engine.register("", () => {}), TypeError, "without a name");
});

Deno.test("Engine.registerCatchall takes the names that have no handler, and no others", async () => {
  const { engine } = logged();
  const caught: string[] = [];
  let greeted = 0;
  engine.register("greet", () => void greeted++);
  engine.registerCatchall((job) => void caught.push(`${job}`));
  await engine.job("greet", "a").run();
  await engine.job("unheard", "b").run();
  await engine.job("constructor").run();
  assertEquals(caught, ["unheard(b)", "constructor()"]);
  assertEquals(greeted, 1);
});

Deno.test("Engine.registerCatchall does not take the empty name", async () => {
  const { engine } = logged();
  engine.registerCatchall(() => {});
  const error = await failureOf(engine.job(""));
  assertEquals(error.status, Status.NotFound);
});

Deno.test("Engine.registerCatchall replaces an earlier one", async () => {
  const { engine } = logged();
  const ran: string[] = [];
  engine.registerCatchall(() => void ran.push("first"));
  engine.registerCatchall(() => void ran.push("second"));
  await engine.job("any").run();
  assertEquals(ran, ["second"]);
});

Deno.test("Engine.has tells whether a job would find a handler", () => {
  const { engine } = logged();
  engine.register("greet", () => {});
  assertEquals(["greet", "commands", "toString", ""].map((name) => engine.has(name)), [
    true,
    true,
    false,
    false,
  ]);
  engine.registerCatchall(() => {});
  assertEquals(["greet", "toString", ""].map((name) => engine.has(name)), [true, true, false]);
});

Deno.test("The job commands prints the names of all jobs, sorted, a line each", async () => {
  const { engine } = logged();
  engine.register("zip", () => {});
  engine.register("attach", () => {});
  engine.registerCatchall(() => {});
  const job = engine.job("commands");
  const out = recorded(job.stdout);
  await job.run();
  assertEquals(out.text, "attach\ncommands\nzip\n");
});

Deno.test("Engine.job makes a job with a name, arguments, an empty env, and no end yet", () => {
  const { engine } = logged();
  const job = engine.job("greet", "a", "b c");
  assertStrictEquals(job.engine, engine);
  assertEquals(job.name, "greet");
  assertEquals(job.args, ["a", "b c"]);
  assertEquals(job.env.size, 0);
  assertEquals(job.status, undefined);
  assertEquals(job.endTime, undefined);
  assertEquals(engine.stats.started, 0);
});

// Engine.parseJob

Deno.test("Engine.parseJob gives KEY=VALUE words to the env, the others are name and arguments", () => {
  const job = logged().engine.parseJob("VERBOSE=1 echo hello LEVEL=a=b world");
  assertEquals(job.name, "echo");
  assertEquals(job.args, ["hello", "world"]);
  assertEquals([...job.env], [["VERBOSE", "1"], ["LEVEL", "a=b"]]);
});

Deno.test("Engine.parseJob splits on any white space", () => {
  const job = logged().engine.parseJob(" \t echo\n one \r\n  two ");
  assertEquals([job.name, ...job.args], ["echo", "one", "two"]);
});

Deno.test("Engine.parseJob takes a key's last value, an empty one, and __proto__", () => {
  const job = logged().engine.parseJob("A=1 A=2 EMPTY= __proto__=x echo");
  assertEquals([...job.env], [["A", "2"], ["EMPTY", ""], ["__proto__", "x"]]);
});

Deno.test("Engine.parseJob leaves words whose part before the = is no key to the arguments", () => {
  const job = logged().engine.parseJob("get http://host/?a=b =c 1=2");
  assertEquals([job.name, ...job.args], ["get", "http://host/?a=b", "=c", "1=2"]);
  assertEquals(job.env.size, 0);
});

Deno.test("Engine.parseJob throws where no name is left", () => {
  const { engine } = logged();
  for (const line of ["", "  ", "A=1 B=2"]) {
    assertThrows(() => engine.parseJob(line), TypeError, `no job in "${line}"`);
  }
});

Deno.test("Engine.parseJob makes a job that runs", async () => {
  const { engine } = logged();
  engine.register("echo", (job) => job.print(job.getenv("WORD") + job.args.join()));
  const job = engine.parseJob("WORD=hello echo a b");
  const out = recorded(job.stdout);
  await job.run();
  assertEquals(out.text, "helloa,b");
});

// Job.run: statuses

Deno.test("Job.run makes the status 0 where the handler returns nothing or 0", async () => {
  const handlers: Handler[] = [() => {}, async () => {}, () => 0, () => Promise.resolve(Status.OK)];
  for (const handler of handlers) {
    const job = jobOf(handler);
    assertEquals(await job.run(), undefined);
    assertEquals(job.status, 0);
  }
});

Deno.test("Job.run gives the handler its job", async () => {
  let given: Job | undefined;
  const job = jobOf((job) => void (given = job));
  await job.run();
  assertStrictEquals(given, job);
});

Deno.test("Job.run sets the time the job ended at, after its handler", async () => {
  let returned = 0;
  const job = jobOf((job) => {
    assertEquals(job.endTime, undefined);
    returned = Date.now();
  });
  await job.run();
  assertInstanceOf(job.endTime, Date);
  assert(job.endTime.getTime() >= returned && job.endTime.getTime() <= Date.now());
});

Deno.test("Job.run rejects with the status of any integer but 0", async () => {
  for (const status of [1, 2, 3, 127, 255, 256, -1]) {
    for (const handler of [() => status, () => Promise.resolve(status)]) {
      const job = jobOf(handler);
      assertEquals((await failureOf(job)).status, status);
      assertEquals(job.status, status);
      assertInstanceOf(job.endTime, Date);
    }
  }
});

Deno.test("Job.run makes a status that is no integer a failure that says so", async () => {
  for (const status of [1.5, NaN, Infinity, "0", true, {}]) {
    const error = await failureOf(jobOf(() => status as Status));
    assertEquals(error.status, Status.Err);
    assertEquals(error.message, `test returned ${status}, expected an integer exit status`);
  }
});

Deno.test("Job.run writes the message of what the handler throws to stderr, with status 1", async () => {
  const problem = new RangeError("no space left");
  const handlers: Handler[] = [
    () => {
      throw problem;
    },
    () => Promise.reject(problem),
  ];
  for (const handler of handlers) {
    const job = jobOf(handler);
    const stderr = recorded(job.stderr);
    const error = await failureOf(job);
    assertEquals(stderr.text, "no space left\n");
    assertEquals(error.message, "no space left");
    assertEquals(error.status, 1);
    assertEquals(job.status, 1);
    assertStrictEquals(error.cause, problem);
  }
});

Deno.test("Job.run takes what the handler throws that is no Error as text", async () => {
  const error = await failureOf(jobOf(() => {
    throw "only words";
  }));
  assertEquals([error.message, error.status, error.cause], ["only words", 1, "only words"]);
});

Deno.test("Job.run says command not found, status 127, where there is no handler", async () => {
  const job = logged().engine.job("unheard", "a");
  const stderr = recorded(job.stderr);
  const error = await failureOf(job);
  assertEquals(stderr.text, "unheard: command not found\n");
  assertEquals([error.name, error.status, error.message], [
    "unheard",
    127,
    "unheard: command not found",
  ]);
  assertEquals(job.status, Status.NotFound);
});

Deno.test("Job.run refuses a job that has run, and leaves its result alone", async () => {
  let runs = 0;
  const job = jobOf(() => void runs++);
  await job.run();
  const { endTime } = job;
  await assertRejects(() => job.run(), TypeError, "job test has run already");
  assertEquals([runs, job.status, job.endTime], [1, 0, endTime]);
  assertEquals(job.engine.stats, { started: 1, failed: 0, running: 0 });
});

Deno.test("Job.run refuses a job that still runs, and one that failed", async () => {
  const end = Promise.withResolvers<Status>();
  const job = jobOf(() => end.promise);
  const running = failureOf(job);
  await assertRejects(() => job.run(), TypeError, "has run already");
  end.resolve(3);
  assertEquals((await running).status, 3);
  await assertRejects(() => job.run(), TypeError, "has run already");
});

// JobError

Deno.test("JobError has the job's name, its status, and the last line of stderr", async () => {
  const job = jobOf(async (job) => {
    await job.stderr.write("reading\nlooking");
    await job.stderr.write(" on\nno such ");
    await job.stderr.write("thing\n");
    return 3;
  });
  const error = await failureOf(job);
  assertInstanceOf(error, Error);
  assertEquals([error.name, error.status, error.message], ["test", 3, "no such thing"]);
  assertEquals(error.cause, undefined);
  assertEquals(`${error}`, "test: no such thing");
});

Deno.test("JobError takes a last line of stderr that has no newline", async () => {
  const error = await failureOf(jobOf(async (job) => {
    await job.stderr.write("first\nsecond");
    return 1;
  }));
  assertEquals(error.message, "second");
});

Deno.test("JobError says the status where stderr is empty", async () => {
  assertEquals((await failureOf(jobOf(() => 3))).message, "test: exit status 3");
});

// Job.print, Job.error

Deno.test("Job.print writes to stdout", async () => {
  const job = jobOf(async (job) => {
    await job.print("a\n");
    await job.print("é\n");
  });
  const [stdout, stderr] = [recorded(job.stdout), recorded(job.stderr)];
  await job.run();
  assertEquals([stdout.text, stderr.text], ["a\né\n", ""]);
});

Deno.test("Job.error writes a line to stderr and gives status 1", async () => {
  const problem = new TypedError("not found", "no such thing");
  for (const given of ["no such thing", problem]) {
    const job = jobOf((job) => job.error(given));
    const [stdout, stderr] = [recorded(job.stdout), recorded(job.stderr)];
    const error = await failureOf(job);
    assertEquals([stdout.text, stderr.text], ["", "no such thing\n"]);
    assertEquals([error.status, error.message], [1, "no such thing"]);
    assertStrictEquals(error.cause, given === problem ? problem : undefined);
  }
});

// Job: streams at the end

Deno.test("Job.run closes the job's streams at the end, stderr last", async () => {
  const closed: string[] = [];
  const noting = (name: string): Sink => ({ write() {}, close: () => void closed.push(name) });
  for (const status of [0, 3]) {
    const job = jobOf(() => {
      assertEquals(closed, []);
      return status;
    });
    job.stdout.add(noting("stdout"));
    job.stderr.add(noting("stderr"));
    job.stdin.add(new ReadableStream({ cancel: () => void closed.push("stdin") }));
    await job.run().catch(() => {}); // Which of the two it is is said by the status.
    assertEquals(job.status, status);
    assertEquals(closed, ["stdout", "stdin", "stderr"]);
    closed.length = 0;
  }
});

Deno.test("Job.run ends only when what was written has arrived", async () => {
  const job = jobOf((job) => void job.print("late"));
  const slow = new SlowRecorder();
  job.stdout.add(slow);
  const running = job.run();
  assert(await isPending(running));
  assertEquals([slow.text, slow.closes, job.status], ["late", 0, undefined]);
  await slow.finish();
  await running;
  assertEquals([slow.closes, job.status], [1, 0]);
});

Deno.test("Job.print after the end reaches nobody and does no harm", async () => {
  const job = jobOf((job) => job.print("in time"));
  const out = recorded(job.stdout);
  await job.run();
  await job.print("too late");
  assertEquals(out.text, "in time");
});

Deno.test("Job.run fails a job whose output could not be delivered, awaited or not", async () => {
  const problem = new Error("disk full");
  const handlers: Handler[] = [
    (job) => job.print("x"),
    async (job) => {
      job.print("x");
      await settle(); // A rejection that nobody handles would end the process here.
    },
    (job) => job.print("x").catch(() => Status.OK),
  ];
  for (const handler of handlers) {
    for (const [name, destination] of Object.entries(failing(problem))) {
      const job = jobOf(handler);
      job.stdout.add(destination);
      const other = recorded(job.stdout);
      const error = await failureOf(job);
      assertEquals([error.status, error.message, other.text], [1, "disk full", "x"], name);
      assertStrictEquals(error.cause, problem, name);
    }
  }
});

Deno.test("Job.run takes what a destination fails with that is no Error as text", async () => {
  const job = jobOf((job) => void job.print("x"));
  job.stdout.add({ write: () => Promise.reject("only words") });
  const error = await failureOf(job);
  assertEquals([error.message, error.status, error.cause], ["only words", 1, "only words"]);
});

Deno.test("Job.run keeps the handler's status where output fails as well", async () => {
  const job = jobOf((job) => {
    job.print("x");
    return 3;
  });
  job.stdout.add({ write: () => Promise.reject(new Error("disk full")) });
  const error = await failureOf(job);
  assertEquals([error.status, error.message], [3, "disk full"]);
});

Deno.test("Job.run logs that stderr could not be delivered, and does not fail for it", async () => {
  for (const [name, destination] of Object.entries(failing(new Error("disk full")))) {
    const { engine, lines } = logged();
    engine.register("warn", (job) => void job.stderr.write("careful\n"));
    const job = engine.job("warn");
    job.stderr.add(destination);
    await job.run();
    assertEquals(lines[1], "warn stderr of job warn: disk full", name);
    assertEquals(job.status, 0);
  }
});

// Job: the log, observers, counts

Deno.test("Job.run logs a job's start and its end at level info", async () => {
  const { engine, lines } = logged();
  engine.register("greet", () => {
    assertEquals(lines, ["info +job greet(a, b)"]);
  });
  await engine.job("greet", "a", "b").run();
  assertEquals(lines, ["info +job greet(a, b)", "info -job greet(a, b) = OK (0)"]);
});

Deno.test("Job.run logs a failed job's status and the last line of stderr", async () => {
  const { engine, lines } = logged();
  engine.register("mute", () => 3);
  engine.register("loud", (job) => job.error("one\ntwo"));
  for (const name of ["mute", "loud", "unheard"]) await failureOf(engine.job(name));
  assertEquals(lines, [
    "info +job mute()",
    "info -job mute() = Err (3)",
    "info +job loud()",
    "info -job loud() = Err (1): two",
    "info +job unheard()",
    "info -job unheard() = NotFound (127): unheard: command not found",
  ]);
});

Deno.test("Job.quiet moves a job's log lines to level debug", async () => {
  const { engine, lines } = logged();
  engine.register("mute", () => 3);
  const job = engine.job("mute");
  job.quiet = true;
  await failureOf(job);
  assertEquals(lines, ["debug +job mute()", "debug -job mute() = Err (3)"]);
});

Deno.test("Engine.onJob hears of a job's start, and of its end with its status", async () => {
  const { engine } = logged();
  const heard: unknown[] = [];
  engine.register("mute", () => {
    heard.push("runs");
    return 3;
  });
  engine.onJob((job, phase) => heard.push(phase, job.name, job.status, job.endTime !== undefined));
  await failureOf(engine.job("mute"));
  assertEquals(heard, ["start", "mute", undefined, false, "runs", "end", "mute", 3, true]);
});

Deno.test("Engine.onJob gives what ends it, which may be called while others are told", async () => {
  const { engine } = logged();
  const heard: string[] = [];
  const end = engine.onJob((_job, phase) => {
    heard.push(`first ${phase}`);
    end();
    end();
  });
  engine.onJob((_job, phase) => heard.push(`second ${phase}`));
  await engine.job("commands").run();
  assertEquals(heard, ["first start", "second start", "second end"]);
});

Deno.test("Engine.onJob logs an observer that throws, and the others and the job go on", async () => {
  const { engine, lines } = logged();
  const heard: string[] = [];
  engine.onJob((_job, phase) => heard.push(`first ${phase}`));
  engine.onJob((_job, phase) => {
    throw new Error(`no ${phase}`);
  });
  engine.onJob((_job, phase) => heard.push(`last ${phase}`));
  const job = engine.job("commands");
  await job.run();
  assertEquals(heard, ["first start", "last start", "first end", "last end"]);
  assertEquals(lines.filter((line) => line.startsWith("error")), [
    "error observer of job commands: no start",
    "error observer of job commands: no end",
  ]);
});

Deno.test("Engine.running and Engine.handlers tell of jobs and of handlers", async () => {
  const { engine } = logged();
  const gate = Promise.withResolvers<void>();
  const handler = () => gate.promise;
  engine.register("wait", handler);
  engine.registerCatchall(() => {});
  assertEquals(engine.handlers.get("wait"), handler);
  assertEquals([...engine.handlers.keys()], ["commands", "wait"]);
  const first = engine.job("wait");
  const second = engine.job("wait");
  const runs = [first.run(), second.run()];
  assertEquals(engine.running, [first, second]);
  gate.resolve();
  await Promise.all(runs);
  assertEquals(engine.running, []);
});

Deno.test("Engine.wrapHandlers calls the handlers of jobs that start from then on", async () => {
  const { engine } = logged();
  engine.register("say", async (job) => {
    await job.print("said");
    return 7;
  });
  const wrapped: string[] = [];
  engine.wrapHandlers((job, handler) => {
    wrapped.push(job.name);
    return handler(job);
  });
  const job = engine.job("say");
  const said = job.stdout.addTail(1);
  await assertRejects(() => job.run(), JobError);
  assertEquals([said.text, job.status, wrapped], ["said", 7, ["say"]]);
  // There is no handler to call for a job that is not there.
  await assertRejects(() => engine.job("missing").run(), JobError, "command not found");
  assertEquals(wrapped, ["say"]);
});

Deno.test("Input.reading and Output.pending tell what a job is waiting for", async () => {
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const input = new Input();
  assertEquals(input.reading, false);
  input.add(readable);
  assertEquals(input.reading, false);
  const text = input.text();
  assertEquals(input.reading, true);
  await writable.close();
  await text;
  assertEquals(input.reading, false);
  const other = new Input();
  other.add("some");
  const reader = other.readable.getReader();
  assertEquals(other.reading, true);
  reader.releaseLock();
  assertEquals(other.reading, false);

  const output = new Output();
  const taken = Promise.withResolvers<void>();
  output.add({ write: () => taken.promise });
  assertEquals(output.pending, false);
  const written = output.write("x");
  assertEquals(output.pending, true);
  taken.resolve();
  await written;
  await output.close();
  assertEquals(output.pending, false);
});

Deno.test("Engine.stats counts the jobs that started, that failed, and that run", async () => {
  const { engine } = logged();
  const end = Promise.withResolvers<void>();
  engine.register("wait", () => end.promise);
  engine.register("fail", () => 1);
  assertEquals(engine.stats, { started: 0, failed: 0, running: 0 });
  const waiting = engine.job("wait").run();
  await failureOf(engine.job("fail"));
  await failureOf(engine.job("unheard"));
  assertEquals(engine.stats, { started: 3, failed: 2, running: 1 });
  end.resolve();
  await waiting;
  assertEquals(engine.stats, { started: 3, failed: 2, running: 0 });
});

// Job.signal

Deno.test("Job.abort aborts the signal with the reason, looked at before or after", () => {
  const { engine } = logged();
  const reason = new Error("client left");
  const [before, after] = [engine.job("a"), engine.job("b")];
  const { signal } = before;
  assertEquals(signal.aborted, false);
  for (const job of [before, after]) {
    job.abort(reason);
    assertEquals(job.signal.aborted, true);
    assertStrictEquals(job.signal.reason, reason);
  }
  assertStrictEquals(before.signal, signal);
});

Deno.test("Job.abort lets the handler go on until it returns", async () => {
  const end = Promise.withResolvers<void>();
  const job = jobOf(async (job) => {
    await end.promise;
    await job.print(`aborted: ${job.signal.aborted}`);
  });
  const out = recorded(job.stdout);
  const running = job.run();
  job.abort();
  assert(await isPending(running));
  end.resolve();
  await running;
  assertEquals([out.text, job.status], ["aborted: true", 0]);
});

Deno.test("Job.abortWith makes the signal follow another, asked for only when it is needed", () => {
  const { engine } = logged();
  const client = new AbortController();
  let asked = 0;
  const [early, late, never] = ["early", "late", "never"].map((name) => engine.job(name));
  for (const job of [early, late, never]) {
    job.abortWith(() => {
      asked++;
      return client.signal;
    });
  }
  assertEquals(asked, 0);
  assertEquals(early.signal.aborted, false);
  const reason = new Error("client left");
  client.abort(reason);
  for (const job of [early, late]) assertStrictEquals(job.signal.reason, reason);
  assertEquals(asked, 2);
});

// Job: short forms of Env

Deno.test("Job has short forms of every getter and setter of its env", () => {
  const job = logged().engine.job("a");
  assertEquals(job.getenv("unset"), "");
  job.setenv("string", "a");
  job.setenvBool("bool", true);
  job.setenvInt("int", -7);
  job.setenvList("list", ["a", "b"]);
  job.setenvJson("json", { a: [1] });
  job.setenvSubEnv("sub", envOf({ key: "value" }));
  assertEquals(job.env.toObject(), {
    string: "a",
    bool: "1",
    int: "-7",
    list: '["a","b"]',
    json: '{"a":[1]}',
    sub: '{"key":"value"}',
  });
  assertEquals(job.getenv("string"), "a");
  assertEquals(job.getenvBool("bool"), true);
  assertEquals(job.getenvInt("int"), -7);
  assertEquals(job.getenvList("list"), ["a", "b"]);
  assertEquals(job.getenvJson("json"), { a: [1] });
  assertEquals(job.getenvSubEnv("sub")?.toObject(), { key: "value" });
});

// Env

Deno.test("Env.get gives the last value set, and nothing where unset", () => {
  const env = new Env();
  env.set("a", "1");
  env.set("a", "2");
  assertEquals([env.get("a"), env.get("b"), env.get("toString")], ["2", "", ""]);
});

Deno.test("Env.has tells an empty value from none", () => {
  const env = envOf({ empty: "" });
  assertEquals(["empty", "unset", "toString"].map((key) => env.has(key)), [true, false, false]);
});

Deno.test("Env.size counts keys", () => {
  const env = new Env();
  assertEquals(env.size, 0);
  env.set("a", "1");
  env.set("a", "2");
  env.set("b", "");
  assertEquals(env.size, 2);
});

Deno.test("Env keeps the order in which the keys were first set, numbers among them", () => {
  const env = new Env();
  for (const key of ["b", "2", "a", "1", "b"]) env.set(key, `${env.size}`);
  assertEquals([...env], [["b", "4"], ["2", "1"], ["a", "2"], ["1", "3"]]);
  assertEquals(env.encode(), '{"b":4,"2":1,"a":2,"1":3}');
});

Deno.test('Env.getBool is false for "", 0, no, false and none in any case, and where unset', () => {
  const env = new Env();
  assertEquals(env.getBool("unset"), false);
  for (const value of ["", "0", "no", "No", "false", "FALSE", "none", "nOnE", " no "]) {
    env.set("a", value);
    assertEquals(env.getBool("a"), false, value);
  }
  for (const value of ["1", "yes", "true", "2", "00", "off", "nope", "null"]) {
    env.set("a", value);
    assertEquals(env.getBool("a"), true, value);
  }
});

Deno.test("Env.setBool sets 1 or 0", () => {
  const env = new Env();
  for (const [value, text] of [[true, "1"], [false, "0"]] as const) {
    env.setBool("a", value);
    assertEquals([env.get("a"), env.getBool("a")], [text, value]);
  }
});

Deno.test("Env.getInt gives the integer", () => {
  const env = new Env();
  const cases: [string, number][] = [
    ["0", 0],
    ["-0", 0],
    ["42", 42],
    ["-42", -42],
    ["+42", 42],
    ["007", 7],
    [" 8 ", 8],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
    ["-9007199254740991", Number.MIN_SAFE_INTEGER],
  ];
  for (const [text, value] of cases) {
    env.set("a", text);
    assertStrictEquals(env.getInt("a"), value, text);
  }
});

Deno.test("Env.getInt gives 0 where the value is not a number", () => {
  const env = new Env();
  assertEquals(env.getInt("unset"), 0);
  for (const text of ["", "abc", "12abc", "1.5", "1e3", "0x10", "1 2", "--1", "NaN", "Infinity"]) {
    env.set("a", text);
    assertEquals(env.getInt("a"), 0, text);
  }
});

Deno.test("Env.getInt throws a RangeError that names an integer it cannot hold", () => {
  const env = new Env();
  for (const text of ["9007199254740992", "-9007199254740992", HUGE]) {
    env.set("a", text);
    assertThrows(() => env.getInt("a"), RangeError, `a=${text} is out of range`);
    assertEquals(env.get("a"), text);
  }
});

Deno.test("Env.setInt sets the digits, of a bigint all of them", () => {
  const env = new Env();
  for (const value of [0, -7, Number.MAX_SAFE_INTEGER, BigInt(HUGE)]) {
    env.setInt("a", value);
    assertEquals(env.get("a"), `${value}`);
  }
});

Deno.test("Env.setInt throws on what is no safe integer, and sets nothing", () => {
  const env = new Env();
  for (const value of [1.5, NaN, Infinity, 2 ** 53]) {
    assertThrows(() => env.setInt("a", value), RangeError, `cannot set a to ${value}`);
  }
  assertEquals(env.has("a"), false);
});

Deno.test("Env.getList gives a JSON array, or a single string, or nothing", () => {
  const env = envOf({
    array: '["a","b"]',
    empty: "[]",
    string: "a,b",
    object: '{"a":1}',
    none: "",
  });
  assertEquals(env.getList("array"), ["a", "b"]);
  assertEquals(env.getList("empty"), []);
  assertEquals(env.getList("string"), ["a,b"]);
  assertEquals(env.getList("object"), ['{"a":1}']);
  assertEquals(env.getList("none"), []);
  assertEquals(env.getList("unset"), []);
});

Deno.test("Env.getList gives elements that are no strings as their JSON text, digit for digit", () => {
  const env = envOf({ a: `["x", 1, ${HUGE}, 1.0, null, true, {"b": [${HUGE}]}]` });
  const expected = ["x", "1", HUGE, "1.0", "null", "true", `{"b":[${HUGE}]}`];
  assertEquals(env.getList("a"), expected);
});

Deno.test("Env.setList sets what getList gives back", () => {
  const env = new Env();
  for (const list of [[], ["a"], ["", "null", '"', "[]", HUGE, "é\n"]]) {
    env.setList("a", list);
    assertEquals(env.getList("a"), list);
  }
});

Deno.test("Env.getJson gives the parsed value, and undefined where unset", () => {
  const env = envOf({ a: '{"b": [1, "c", null]}', n: "null" });
  assertEquals(env.getJson("a"), { b: [1, "c", null] });
  assertEquals(env.getJson("n"), null);
  assertEquals(env.getJson("unset"), undefined);
});

Deno.test("Env.getJson throws a SyntaxError that names the key where the value is not JSON", () => {
  const env = envOf({ a: "{", empty: "" });
  assertInstanceOf(assertThrows(() => env.getJson("a"), SyntaxError, "a is not JSON").cause, Error);
  assertThrows(() => env.getJson("empty"), SyntaxError, "empty is not JSON");
});

Deno.test("Env.setJson sets the JSON text, of a bigint all digits", () => {
  const env = new Env();
  for (
    const [value, text] of [
      ["a", '"a"'],
      [null, "null"],
      [[1, { b: true }], '[1,{"b":true}]'],
      [{ a: [BigInt(HUGE)] }, `{"a":[${HUGE}]}`],
    ]
  ) {
    env.setJson("a", value);
    assertEquals(env.get("a"), text);
  }
});

Deno.test("Env.setJson throws on what has no JSON text, and sets nothing", () => {
  const env = new Env();
  const cycle: unknown[] = [];
  cycle.push(cycle);
  for (const value of [undefined, () => {}, Symbol(), cycle]) {
    assertThrows(() => env.setJson("a", value), TypeError);
  }
  assertEquals(env.has("a"), false);
});

Deno.test("Env.getSubEnv gives a JSON object as an Env, and undefined for anything else", () => {
  const env = envOf({ a: `{"b": "c", "d": ${HUGE}}`, array: "[1]", n: "null", i: HUGE, s: "{" });
  assertEquals(env.getSubEnv("a")?.toObject(), { b: "c", d: HUGE });
  for (const key of ["array", "n", "i", "s", "unset"]) {
    assertEquals(env.getSubEnv(key), undefined, key);
  }
});

Deno.test("Env.setSubEnv sets what getSubEnv gives back", () => {
  const env = new Env();
  env.setSubEnv("a", envOf({ text: "b", int: HUGE }));
  assertEquals(env.get("a"), `{"text":"b","int":${HUGE}}`);
  assertEquals(env.getSubEnv("a")?.toObject(), { text: "b", int: HUGE });
});

Deno.test("Env.setAuto drops null, keeps strings as they are, and sets the rest as JSON", () => {
  const env = new Env();
  env.setAuto("null", null);
  env.setAuto("undefined", undefined);
  env.setAuto("string", '"a"');
  env.setAuto("number", 1.5);
  env.setAuto("bool", false);
  env.setAuto("object", { a: [1] });
  env.setAuto("bigint", BigInt(HUGE));
  assertEquals([...env], [
    ["string", '"a"'],
    ["number", "1.5"],
    ["bool", "false"],
    ["object", '{"a":[1]}'],
    ["bigint", HUGE],
  ]);
});

Deno.test("Env.setAuto leaves a key that is set as it is where the value is null", () => {
  const env = envOf({ a: "1" });
  env.setAuto("a", null);
  assertEquals(env.toMultiMap(), new Map([["a", ["1"]]]));
});

Deno.test("Env.toObject gives the last value of each key", () => {
  const env = envOf({ b: "1", a: "2" });
  env.set("b", "3");
  assertEquals(Object.entries(env.toObject()), [["b", "3"], ["a", "2"]]);
});

Deno.test("Env.toMultiMap gives every value of each key, and is a copy", () => {
  const env = envOf({ b: "1", a: "2" });
  env.set("b", "3");
  const map = env.toMultiMap();
  assertEquals([...map], [["b", ["1", "3"]], ["a", ["2"]]]);
  map.get("b")!.push("4");
  map.delete("a");
  assertEquals([...env], [["b", "3"], ["a", "2"]]);
});

Deno.test("Env takes __proto__ as a key like any other", () => {
  const env = Env.decode('{"__proto__":{"__proto__":"a"},"b":1}');
  assertEquals([...env], [["__proto__", '{"__proto__":"a"}'], ["b", "1"]]);
  assertEquals(env.encode(), '{"__proto__":{"__proto__":"a"},"b":1}');
  assertEquals(env.getSubEnv("__proto__")?.get("__proto__"), "a");
  const object = env.toObject();
  assertEquals(Object.keys(object), ["__proto__", "b"]);
  assertStrictEquals(Object.getPrototypeOf(object), Object.prototype);
  assertStrictEquals(Object.getPrototypeOf(env.getJson("__proto__")), Object.prototype);
});

Deno.test("Env.encode writes values that are JSON as JSON, and the others as strings", () => {
  const env = envOf({
    s: "text",
    n: "1.50",
    t: "true",
    o: '{ "a": [1, 2] }',
    q: '"q"',
    e: "",
    l: "[",
  });
  env.set("n\n", "null");
  assertEquals(
    env.encode(),
    '{"s":"text","n":1.50,"t":true,"o":{"a":[1,2]},"q":"q","e":"","l":"[","n\\n":null}',
  );
  assertEquals(new Env().encode(), "{}");
});

Deno.test("Env.encode writes one line and leaves strings within JSON alone", () => {
  const env = envOf({ a: '{\n\t"b c" : "d  \\" e" ,\r\n"\\\\" : [ " " ] }' });
  assertEquals(env.encode(), '{"a":{"b c":"d  \\" e","\\\\":[" "]}}');
});

Deno.test("Env.encode and Env.decode take strings of megabytes", () => {
  const text = '{"a":["' + "x\\n".repeat(5_000_000) + '"]}';
  assert(Env.decode(text).encode() === text);
});

Deno.test("Env.decode sets the members of an object as setAuto does", () => {
  const env = Env.decode(
    ' {"s":"a","n":1,"f":false,"o":{"a":null},"l":[1, "b"],"gone":null,"e":""} ',
  );
  assertEquals([...env], [
    ["s", "a"],
    ["n", "1"],
    ["f", "false"],
    ["o", '{"a":null}'],
    ["l", '[1,"b"]'],
    ["e", ""],
  ]);
});

Deno.test("Env.decode throws a SyntaxError on anything but a JSON object", () => {
  for (
    const text of ["", "{", "null", "[]", '["a"]', '"a"', "1", "1.0", HUGE, "true", "{}{}", "a"]
  ) {
    assertThrows(() => Env.decode(text), SyntaxError, "expected a JSON object", text);
  }
});

Deno.test("Env.decode and Env.encode keep numbers digit for digit, nested too", () => {
  const text =
    `{"a":${HUGE},"b":-${HUGE},"c":[${HUGE},{"d":${HUGE}}],"e":9007199254740993,"f":1.0}`;
  const env = Env.decode(text);
  assertEquals(env.get("a"), HUGE);
  assertEquals(env.get("c"), `[${HUGE},{"d":${HUGE}}]`);
  assertEquals(env.encode(), text);
  assertEquals(Env.decode(env.encode()).encode(), text);
  assertThrows(() => env.getInt("a"), RangeError);
});

// Input

Deno.test("Input takes a stream, bytes or a string", async () => {
  for (const source of [() => streamOf("hé", "llo"), () => encoded("héllo"), () => "héllo"]) {
    const [text, readable] = [new Input(), new Input()];
    text.add(source());
    assertEquals(await text.text(), "héllo");
    readable.add(source());
    const chunks = await Array.fromAsync(readable.readable);
    assertEquals(decoded(new Uint8Array(chunks.flatMap((chunk) => [...chunk]))), "héllo");
  }
});

Deno.test("Input.readable gives the stream that was added", () => {
  const input = new Input();
  const source = streamOf("a");
  input.add(source);
  assertStrictEquals(input.readable, source);
});

Deno.test("Input.add throws where there is a source, be it empty, and keeps that source", async () => {
  for (const first of ["first", ""]) {
    const input = new Input();
    input.add(first);
    for (const second of ["second", encoded("second"), streamOf("second")]) {
      assertThrows(() => input.add(second), TypeError, "has a source already");
    }
    assertEquals(await input.text(), first);
  }
});

Deno.test("Input.used tells whether a source is attached", () => {
  const input = new Input();
  assertEquals([input.used, input.readable.locked, input.used], [false, false, false]);
  input.add("");
  assertEquals(input.used, true);
});

Deno.test("Input without a source reads as end of file", async () => {
  assertEquals(await new Input().text(), "");
  assertEquals(await new Input().readable.getReader().read(), { done: true, value: undefined });
});

Deno.test("Input.text decodes UTF-8 that is split over chunks", async () => {
  const input = new Input();
  input.add(streamOf(...[...encoded("né€😀")].map((byte) => Uint8Array.of(byte))));
  assertEquals(await input.text(), "né€😀");
});

Deno.test("Input.text rejects with the error of a source that breaks", async () => {
  const input = new Input();
  input.add(
    new ReadableStream({
      pull() {
        throw new Error("connection reset");
      },
    }),
  );
  await assertRejects(() => input.text(), Error, "connection reset");
});

Deno.test("Input.text rejects where the source has been read", async () => {
  for (const source of ["a", streamOf("a")]) {
    const input = new Input();
    input.add(source);
    await input.text();
    await assertRejects(() => input.text(), TypeError);
    await assertRejects(() => input.json(), TypeError);
  }
});

Deno.test("Input.json gives the parsed value, and rejects with a SyntaxError on anything else", async () => {
  const good = new Input();
  good.add(streamOf('{"a":', " [1]}"));
  assertEquals(await good.json(), { a: [1] });
  const bad = new Input();
  bad.add("{");
  await assertRejects(() => bad.json(), SyntaxError);
  await assertRejects(() => new Input().json(), SyntaxError);
});

Deno.test("Input.close cancels a source that nobody reads, and leaves one that is read", async () => {
  for (const locked of [false, true]) {
    let cancelled = false;
    const input = new Input();
    input.add(new ReadableStream({ cancel: () => void (cancelled = true) }));
    if (locked) input.readable.getReader();
    await input.close();
    assertEquals(cancelled, !locked);
  }
});

Deno.test("Input.close takes no source, and one that broke", async () => {
  await new Input().close();
  const broken = new Input();
  broken.add(
    new ReadableStream({
      start: (controller) => controller.error(new Error("connection reset")),
    }),
  );
  await broken.close();
  await assertRejects(() => broken.text(), TypeError);
});

// Output: many destinations

Deno.test("Output.write gives every destination the data, bytes or string, in order", async () => {
  const out = new Output();
  const streamed: string[] = [];
  const recorder = recorded(out);
  out.add(new WritableStream({ write: (chunk) => void streamed.push(decoded(chunk)) }));
  await out.write("hé");
  await out.write(encoded("llo"));
  assertEquals(recorder.chunks, ["hé", "llo"]);
  assertEquals(streamed, ["hé", "llo"]);
});

Deno.test("Output without a destination discards what is written", async () => {
  const out = new Output();
  assertEquals(out.used, false);
  await out.write("gone");
  const late = recorded(out);
  await out.write("here");
  await out.close();
  assertEquals(late.chunks, ["here"]);
  await new Output().close();
});

Deno.test("Output.used tells whether anything is attached", () => {
  const attach: ((out: Output) => void)[] = [
    (out) => out.add(new Recorder()),
    (out) => out.set(new Recorder()),
    (out) => out.addPipe(),
    (out) => out.addTail(1),
    (out) => out.addEnv(),
    (out) => out.addTable(),
  ];
  for (const add of attach) {
    const out = new Output();
    assertEquals(out.used, false);
    add(out);
    assertEquals(out.used, true);
  }
});

Deno.test("Output.set makes a destination the only one, and closes none before it", async () => {
  const out = new Output();
  const [before, only] = [new Recorder(), new Recorder()];
  out.add(before);
  await out.write("a");
  out.set(only);
  await out.write("b");
  await out.close();
  assertEquals([before.text, before.closes], ["a", 0]);
  assertEquals([only.text, only.closes], ["b", 1]);
});

// Output: destinations that fail

Deno.test("Output.write rejects with the error after the others got the data, each time", async () => {
  for (const [name, destination] of Object.entries(failing(new Error("disk full")))) {
    const out = new Output();
    const before = recorded(out);
    out.add(destination);
    const after = recorded(out);
    await assertRejects(() => out.write("a"), Error, "disk full", name);
    await assertRejects(() => out.write("b"), Error, "disk full", name);
    assertEquals([before.text, after.text], ["ab", "ab"], name);
    await assertRejects(() => out.close(), Error, "disk full", name);
    assertEquals([before.closes, after.closes], [1, 1], name);
  }
});

Deno.test("Output.write reports the first error of several", async () => {
  const first = new Error("first");
  for (const one of Object.keys(failing(first))) {
    for (const [other, destination] of Object.entries(failing(new Error("second")))) {
      const out = new Output();
      out.add(failing(first)[one]);
      out.add(destination);
      const error = await assertRejects(() => out.write("a"));
      assertStrictEquals(error, first, `${one}, ${other}`);
    }
  }
});

Deno.test("Output.write of which nobody awaits the failure is reported by close", async () => {
  for (const [name, destination] of Object.entries(failing(new Error("disk full")))) {
    const out = new Output();
    out.add({ async write() {} });
    out.add(destination);
    const other = recorded(out);
    out.write("a");
    out.write("b");
    await settle(); // A rejection that nobody handles would end the process here.
    await assertRejects(() => out.close(), Error, "disk full", name);
    assertEquals(other.chunks, ["a", "b"], name);
  }
});

Deno.test("Output.close reports the first error of all writes, though later ones succeed", async () => {
  const out = new Output();
  let writes = 0;
  out.add({
    write() {
      if (++writes < 3) throw new Error(`failure ${writes}`);
    },
  });
  for (const text of ["a", "b", "c"]) out.write(text);
  await assertRejects(() => out.close(), Error, "failure 1");
  assertEquals(writes, 3);
});

// Output: back-pressure

Deno.test("Output.write waits for a destination before it writes to the next", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(slow);
  const next = recorded(out);
  const written = out.write("a");
  assert(await isPending(written));
  assertEquals([slow.text, next.text], ["a", ""]);
  await slow.finish();
  await written;
  assertEquals(next.text, "a");
});

Deno.test("Output.write starts the next write when the last destination is done with this", async () => {
  const out = new Output();
  const [first, last] = [new Recorder(), new SlowRecorder()];
  out.add(first);
  out.add(last);
  const writes = ["a", "b", "c"].map((text) => out.write(text));
  for (const text of ["a", "ab", "abc"]) {
    await settle();
    assertEquals([first.text, last.text], [text, text]);
    assert(await isPending(writes[text.length - 1]));
    await last.finish();
    await writes[text.length - 1];
  }
});

Deno.test("Output.write waits for a stream that is slow", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(new WritableStream({ write: (chunk) => slow.write(chunk) }));
  const writes = [out.write("a"), out.write("b")];
  assert(await isPending(writes[0]));
  assertEquals(slow.text, "a");
  await slow.finish();
  await writes[0];
  assertEquals(slow.text, "ab");
  assert(await isPending(writes[1]));
  await slow.finish();
  await writes[1];
});

Deno.test("Output.write waits for all earlier writes, not only for some", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  out.add(slow);
  const writes = [out.write("a"), out.write("b")];
  await slow.finish();
  await writes[0];
  writes.push(out.write("c"));
  await settle();
  assertEquals(slow.text, "ab");
  await slow.finish();
  await writes[1];
  assertEquals(slow.text, "abc");
  await slow.finish();
  await writes[2];
});

Deno.test("Output.write keeps the order of writes that nobody awaits", async () => {
  const out = new Output();
  const [quick, delaying] = [new Recorder(), new Recorder()];
  out.add(quick);
  out.add({
    async write(chunk) {
      // The later the quicker, so that only waiting keeps the order.
      for (let i = Number(decoded(chunk)); i < 10; i++) await Promise.resolve();
      delaying.write(chunk);
    },
  });
  for (let i = 0; i < 10; i++) out.write(`${i}`);
  await out.close();
  assertEquals([quick.text, delaying.text], ["0123456789", "0123456789"]);
});

// Output.close

Deno.test("Output.close waits for what is being written, then closes every destination", async () => {
  const out = new Output();
  const slow = new SlowRecorder();
  let streamClosed = false;
  out.add(slow);
  out.add(new WritableStream({ close: () => void (streamClosed = true) }));
  out.write("a");
  out.write("b");
  const closed = out.close();
  await slow.finish();
  assert(await isPending(closed));
  assertEquals([slow.text, slow.closes, streamClosed], ["ab", 0, false]);
  await slow.finish();
  await closed;
  assertEquals([slow.closes, streamClosed], [1, true]);
});

Deno.test("Output.close waits for a destination to close", async () => {
  const out = new Output();
  const closing = Promise.withResolvers<void>();
  out.add({ write() {}, close: () => closing.promise });
  const closed = out.close();
  assert(await isPending(closed));
  closing.resolve();
  await closed;
});

Deno.test("Output.close closes once, however often it is called", async () => {
  const out = new Output();
  const recorder = recorded(out);
  assertStrictEquals(out.close(), out.close());
  await out.close();
  assertEquals(recorder.closes, 1);
});

Deno.test("Output.close rejects with the first error of closing after all are closed", async () => {
  const closes: Sink["close"][] = [
    () => {
      throw new Error("no space");
    },
    () => Promise.reject(new Error("no space")),
  ];
  for (const close of closes) {
    const out = new Output();
    const other = new Recorder();
    out.add({ write() {}, close });
    out.add({ write() {}, close: () => Promise.reject(new Error("later")) });
    out.add(other);
    await assertRejects(() => out.close(), Error, "no space");
    assertEquals(other.closes, 1);
  }
});

Deno.test("Output.write after close is accepted and reaches nobody", async () => {
  const out = new Output();
  const [slow, streamed] = [new SlowRecorder(), new Recorder()];
  out.add(slow);
  out.add(new WritableStream({ write: (chunk) => streamed.write(chunk) }));
  out.write("a");
  const closed = out.close();
  await out.write("while it closes");
  await slow.finish();
  await closed;
  await out.write("when it is closed");
  assertEquals([slow.text, streamed.text], ["a", "a"]);
});

// Output.addPipe

Deno.test("Output.addPipe gives a stream of what is written, which ends with the output", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  assertInstanceOf(pipe, ReadableStream);
  await out.write("hé");
  await out.write("llo");
  await out.close();
  assertEquals((await Array.fromAsync(pipe)).map(decoded), ["hé", "llo"]);
});

Deno.test("Output.addPipe waits for the reader once it holds 64 KiB", async () => {
  const out = new Output();
  const reader = out.addPipe().getReader();
  await out.write(new Uint8Array(64 * 1024 - 1));
  await out.write("b");
  const waiting = out.write("c");
  assert(await isPending(waiting));
  assertEquals((await reader.read()).value?.length, 64 * 1024 - 1);
  await waiting;
  assertEquals(decoded((await reader.read()).value!), "b");
  assertEquals(decoded((await reader.read()).value!), "c");
});

Deno.test("Output.addPipe holds 64 KiB of small writes", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  const kibibyte = new Uint8Array(1024);
  for (let i = 0; i < 64; i++) await out.write(kibibyte);
  const waiting = out.write("more");
  assert(await isPending(waiting));
  const closed = out.close();
  assertEquals((await Array.fromAsync(pipe)).length, 65);
  await Promise.all([waiting, closed]);
});

Deno.test("Output.addPipe whose reader cancels fails what is written, the rest gets it", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  const other = recorded(out);
  await out.write("a");
  await pipe.cancel(new Error("reader left"));
  await assertRejects(() => out.write("b"), Error, "reader left");
  await assertRejects(() => out.close(), Error, "reader left");
  assertEquals([other.text, other.closes], ["ab", 1]);
});

Deno.test("Output.addPipe whose reader cancels ends a write that waits for it", async () => {
  const out = new Output();
  const pipe = out.addPipe();
  await out.write(new Uint8Array(64 * 1024));
  const waiting = out.write("more");
  assert(await isPending(waiting));
  await pipe.cancel(new Error("reader left"));
  await assertRejects(() => waiting, Error, "reader left");
});

// Output.addTail, tail

Deno.test("Output.addTail keeps the last lines without the final newline", async () => {
  const out = new Output();
  const [one, two, many] = [1, 2, 9].map((n) => out.addTail(n));
  assertEquals(one.text, "");
  await out.write("a\nb\nc");
  await out.write("c\n");
  await out.close();
  assertEquals([one.text, two.text, many.text], ["cc", "b\ncc", "a\nb\ncc"]);
});

Deno.test("Output.addTail keeps no lines where there are to be none", async () => {
  const out = new Output();
  const [none, negative] = [out.addTail(0), out.addTail(-1)];
  await out.write("a\nb\n");
  assertEquals([none.text, negative.text], ["", ""]);
});

Deno.test("Output.addTail decodes UTF-8 that is split over chunks", async () => {
  const out = new Output();
  const lines = out.addTail(1);
  await writeBytewise(out, "é\n€😀\n");
  assertEquals(lines.text, "€😀");
});

Deno.test("Output.addTail keeps the last lines of far more than it holds on to", async () => {
  for (const end of ["", "\n"]) {
    const out = new Output();
    const lines = out.addTail(3);
    for (let i = 0; i < 20_000; i++) await out.write(`line ${i}${i < 19_999 ? "\n" : end}`);
    assertEquals(lines.text, "line 19997\nline 19998\nline 19999");
    await out.write("x\n".repeat(100_000) + `y${end}`);
    await out.write("z\n");
    assertEquals(lines.text, end ? "x\ny\nz" : "x\nx\nyz");
  }
});

Deno.test("tail gives the last lines without the final newline", () => {
  const cases: [string, number, string][] = [
    ["", 1, ""],
    ["\n", 1, ""],
    ["a", 1, "a"],
    ["a\n", 1, "a"],
    ["a\nb", 1, "b"],
    ["a\nb\n", 1, "b"],
    ["a\nb\nc\n", 2, "b\nc"],
    ["a\nb\n", 2, "a\nb"],
    ["a\nb\n", 9, "a\nb"],
    ["a\n\n", 1, ""],
    ["a\n\n", 2, "a\n"],
    ["\n\na", 2, "\na"],
    ["\n\na", 3, "\n\na"],
    ["\na\n", 2, "\na"],
  ];
  for (const [text, n, expected] of cases) {
    assertEquals(tail(text, n), expected, JSON.stringify([text, n]));
  }
});

Deno.test('tail is "" where n is 0 or less', () => {
  for (const n of [0, -1, -Infinity]) assertEquals(tail("a\nb\n", n), "");
});

// Output.addEnv, Output.addTable

Deno.test("Output.addEnv gives the last JSON object written, once closed", async () => {
  const out = new Output();
  const env = out.addEnv();
  await out.write('{"a":"1","b":"2"}\n{"a":');
  await out.write(`${HUGE},"c":null}`);
  assertEquals(env.size, 0);
  await out.close();
  assertEquals([...env], [["a", HUGE]]);
});

Deno.test("Output.addEnv is empty where nothing is written", async () => {
  const out = new Output();
  const env = out.addEnv();
  await out.close();
  assertEquals(env.size, 0);
});

Deno.test("Output.addTable gives every JSON object written, with or without space between", async () => {
  const out = new Output();
  const table = out.addTable();
  await out.write(`{"a":1}{"a":{"b":[${HUGE}]}} \r\n\t{}\n`);
  await out.close();
  assertEquals(table.map((env) => env.encode()), ['{"a":1}', `{"a":{"b":[${HUGE}]}}`, "{}"]);
});

Deno.test("Output.addTable takes objects and UTF-8 that are split anywhere", async () => {
  const out = new Output();
  const table = out.addTable();
  await writeBytewise(out, '{"é":"€😀"}\n{"a":["\\"}{","\\\\"]} {"b":{"}":[{}]}}');
  await out.close();
  assertEquals(table.map((env) => env.encode()), [
    '{"é":"€😀"}',
    '{"a":["\\"}{","\\\\"]}',
    '{"b":{"}":[{}]}}',
  ]);
});

Deno.test("Output.addTable takes braces, brackets and quotes within strings", async () => {
  const out = new Output();
  const table = out.addTable();
  await out.write('{"a":"}{"}{"b":"]["}{"c\\"":"\\\\"}{"d":"\\\\\\""}');
  await out.close();
  assertEquals(table.map((env) => env.toObject()), [
    { a: "}{" },
    { b: "][" },
    { 'c"': "\\" },
    { d: '\\"' },
  ]);
});

Deno.test("Output.addEnv and Output.addTable make close reject on anything but objects", async () => {
  const add: ((out: Output) => unknown)[] = [(out) => out.addEnv(), (out) => out.addTable()];
  for (const attach of add) {
    for (
      const text of ["word", "1", '{"a":1},{}', "[{}]", "}", '{"a":}', "{]", '{"a":1', '{"a":"}']
    ) {
      const out = new Output();
      attach(out);
      const other = recorded(out);
      out.write(text);
      await assertRejects(() => out.close(), SyntaxError, "JSON object", text);
      assertEquals([other.text, other.closes], [text, 1]);
    }
  }
});

Deno.test("Output.addTable keeps the objects that came before malformed text", async () => {
  const out = new Output();
  const table = out.addTable();
  await assertRejects(() => out.write('{"a":1} {"a":2} oops'), SyntaxError, "got oops");
  await assertRejects(() => out.close(), SyntaxError, "got oops");
  assertEquals(table.map((env) => env.get("a")), ["1", "2"]);
});

// Engine.shutdown: jobs

Deno.test("Engine.shutdown refuses new jobs", async () => {
  const { engine, lines } = logged();
  let runs = 0;
  engine.register("greet", () => void runs++);
  const [made, during, after] = ["greet", "greet", "unheard"].map((name) => engine.job(name));
  const down = engine.shutdown();
  for (const job of [made, during]) {
    const error = await assertRejects(() => job.run(), TypedError, "the engine is shut down");
    assertEquals(error.kind, "unavailable");
  }
  await down;
  await assertRejects(() => after.run(), TypedError, "the engine is shut down");
  assertEquals([runs, made.status, made.endTime], [0, undefined, undefined]);
  assertEquals(engine.stats, { started: 0, failed: 0, running: 0 });
  assertEquals(lines, []);
});

Deno.test("Engine.shutdown aborts engine.stopping when it begins", async () => {
  const { engine } = logged();
  assertEquals(engine.stopping.aborted, false);
  const down = engine.shutdown();
  assertEquals(engine.stopping.aborted, true);
  assertInstanceOf(engine.stopping.reason, TypedError);
  assertEquals(engine.stopping.reason.kind, "unavailable");
  await down;
});

Deno.test("Engine.shutdown waits for a running job, then runs the shutdown handlers", async () => {
  const { engine } = logged();
  const end = Promise.withResolvers<void>();
  const events: string[] = [];
  engine.register("wait", async (job) => {
    await end.promise;
    await job.print("done");
    events.push(`job, aborted: ${job.signal.aborted}`);
  });
  engine.onShutdown(() => void events.push("handler"));
  const job = engine.job("wait");
  const running = job.run();
  const down = engine.shutdown();
  assert(await isPending(down));
  assertEquals(events, []);
  end.resolve();
  await down;
  assertEquals(events, ["job, aborted: false", "handler"]);
  await running;
  assertEquals(job.status, 0);
});

Deno.test("Engine.shutdown waits for a running job that fails", async () => {
  const { engine, lines } = logged();
  const end = Promise.withResolvers<Status>();
  engine.register("wait", () => end.promise);
  const failure = failureOf(engine.job("wait"));
  const down = engine.shutdown();
  assert(await isPending(down));
  end.resolve(3);
  await down;
  assertEquals((await failure).status, 3);
  assertEquals(lines, ["info +job wait()", "info -job wait() = Err (3)"]);
});

Deno.test("Engine.shutdown aborts a job that still runs after 5 s, and goes on", async () => {
  using clock = new FakeClock();
  const { engine, lines } = logged();
  const end = Promise.withResolvers<void>();
  const handled: string[] = [];
  engine.register("hang", () => end.promise);
  engine.onShutdown(() => void handled.push("handler"));
  const job = engine.job("hang");
  const running = job.run();
  const down = engine.shutdown();
  await clock.pass(4_999);
  assertEquals([job.signal.aborted, handled], [false, []]);
  await clock.pass(1);
  assertStrictEquals(job.signal.reason, engine.stopping.reason);
  assertEquals(handled, ["handler"]);
  assertEquals(lines[1], "warn job hang still runs at shutdown");
  await down;
  assertEquals(job.status, undefined);
  end.resolve();
  await running;
});

Deno.test("Engine.shutdown called twice is one call", async () => {
  const { engine } = logged();
  let handled = 0;
  engine.onShutdown(() => handled++);
  const down = engine.shutdown();
  assertStrictEquals(engine.shutdown({ drain: 1 }), down);
  await down;
  assertStrictEquals(engine.shutdown(), down);
  await down;
  assertEquals(handled, 1);
});

Deno.test("Engine.shutdown may be called by a job, which then ends", async () => {
  const { engine } = logged();
  let down: Promise<void> | undefined;
  engine.register("stop", () => void (down = engine.shutdown()));
  await engine.job("stop").run();
  await down;
  assertEquals(engine.stopping.aborted, true);
});

// Engine.shutdown: services

/** An engine with a running service, of which the test says when it ends. */
function serving(stop: (drain: number) => unknown = () => {}) {
  const { engine, lines } = logged();
  const ended = Promise.withResolvers<void>();
  engine.register("serve", (job) => {
    job.onStop(stop);
    return ended.promise;
  });
  const job = engine.job("serve");
  return { engine, lines, job, running: job.run(), end: ended.resolve };
}

Deno.test("Job.onStop is called when the engine shuts down, with the time the service has", async () => {
  for (const [options, expected] of [[undefined, 10_000], [{ drain: 7 }, 7]] as const) {
    const told: number[] = [];
    const service = serving((drain) => {
      told.push(drain);
      service.end();
    });
    await settle();
    assertEquals(told, []);
    await service.engine.shutdown(options);
    assertEquals(told, [expected]);
    await service.running;
    assertEquals(service.job.signal.aborted, false);
  }
});

Deno.test("Job.onStop of a service that has ended is not called", async () => {
  let told = 0;
  const { engine, running, end } = serving(() => told++);
  end();
  await running;
  await engine.shutdown();
  assertEquals(told, 0);
});

Deno.test("Job.onStop may be given several functions, and all are called", async () => {
  const { engine } = logged();
  const told: string[] = [];
  const ended = Promise.withResolvers<void>();
  engine.register("serve", (job) => {
    job.onStop(() => void told.push("first"));
    job.onStop(() => {
      told.push("second");
      ended.resolve();
    });
    return ended.promise;
  });
  const running = engine.job("serve").run();
  await engine.shutdown();
  await running;
  assertEquals(told, ["first", "second"]);
});

Deno.test("Engine.shutdown runs the jobs of a service until that has ended", async () => {
  const { engine, running, end } = serving();
  let handled = 0;
  engine.register("request", (job) => job.print(`stopping: ${engine.stopping.aborted}`));
  engine.onShutdown(() => handled++);
  const down = engine.shutdown();
  const job = engine.job("request");
  const out = recorded(job.stdout);
  await job.run();
  assertEquals([out.text, handled], ["stopping: true", 0]);
  assert(await isPending(down));
  end();
  await down;
  await running;
  assertEquals(handled, 1);
  await assertRejects(() => engine.job("request").run(), TypedError, "shut down");
});

Deno.test("Engine.shutdown waits for the jobs that a service leaves behind", async () => {
  const { engine, running, end } = serving();
  const request = Promise.withResolvers<void>();
  engine.register("request", () => request.promise);
  const down = engine.shutdown();
  const job = engine.job("request").run();
  end();
  await running;
  assert(await isPending(down));
  await assertRejects(() => engine.job("request").run(), TypedError, "shut down");
  request.resolve();
  await Promise.all([job, down]);
});

Deno.test("Engine.shutdown gives a service its drain time, and not only the 5 s of a job", async () => {
  using clock = new FakeClock();
  const { engine, lines, job, running, end } = serving();
  let handled = 0;
  engine.onShutdown(() => handled++);
  const down = engine.shutdown({ drain: 60_000 });
  await clock.pass(60_000);
  assertEquals([handled, job.signal.aborted], [0, false]);
  end();
  await clock.pass(0);
  assertEquals(handled, 1);
  await Promise.all([down, running]);
  assertEquals(lines.filter((line) => line.startsWith("warn")), []);
});

Deno.test("Engine.shutdown logs a stop function that fails, and goes on", async () => {
  const stops: (() => unknown)[] = [
    () => {
      throw new Error("will not");
    },
    () => Promise.reject(new Error("will not")),
  ];
  for (const stop of stops) {
    const { engine, lines, running, end } = serving(stop);
    const down = engine.shutdown();
    end();
    await Promise.all([down, running]);
    assertEquals(lines[1], "error shutdown handler: will not");
  }
});

Deno.test("Engine.shutdown returns within 15 s whatever does not end", async () => {
  using clock = new FakeClock();
  const { engine, lines, job, running, end } = serving();
  const handler = Promise.withResolvers<void>();
  let handled = 0;
  engine.onShutdown(() => {
    handled++;
    return handler.promise;
  });
  const down = engine.shutdown();
  await clock.pass(14_000);
  assertEquals([handled, job.signal.aborted], [1, true]);
  assert(await isPending(down));
  await clock.pass(1_000);
  assertEquals(await isPending(down), false);
  assertEquals(lines.slice(1), [
    "warn job serve still runs at shutdown",
    "warn shutdown handlers took too long",
  ]);
  handler.resolve();
  end();
  await running;
});

Deno.test("Engine.shutdown returns within 5 s more than a drain time longer than 10 s", async () => {
  using clock = new FakeClock();
  const { engine, running, end } = serving();
  const handler = Promise.withResolvers<void>();
  engine.onShutdown(() => handler.promise);
  const down = engine.shutdown({ drain: 30_000 });
  await clock.pass(34_000);
  assert(await isPending(down));
  await clock.pass(1_000);
  assertEquals(await isPending(down), false);
  handler.resolve();
  end();
  await running;
});

// Engine.onShutdown

Deno.test("Engine.onShutdown handlers run all at once, and are waited for", async () => {
  const { engine } = logged();
  const gates = [1, 2, 3].map(() => Promise.withResolvers<void>());
  let started = 0;
  let ended = 0;
  for (const gate of gates) {
    engine.onShutdown(async () => {
      started++;
      await gate.promise;
      ended++;
    });
  }
  const down = engine.shutdown();
  assert(await isPending(down));
  assertEquals([started, ended], [3, 0]);
  gates[2].resolve();
  gates[1].resolve();
  assert(await isPending(down));
  assertEquals(ended, 2);
  gates[0].resolve();
  await down;
  assertEquals(ended, 3);
});

Deno.test("Engine.onShutdown handlers that fail are logged and do not hinder the others", async () => {
  const { engine, lines } = logged();
  const handled: string[] = [];
  engine.onShutdown(() => {
    throw new Error("cannot unmount");
  });
  engine.onShutdown(() => Promise.reject(new Error("cannot flush")));
  engine.onShutdown(() => void handled.push("sync"));
  engine.onShutdown(async () => {
    await settle();
    handled.push("async");
  });
  await engine.shutdown();
  assertEquals(handled, ["sync", "async"]);
  assertEquals(lines, [
    "error shutdown handler: cannot unmount",
    "error shutdown handler: cannot flush",
  ]);
});

Deno.test("Engine.onShutdown handlers that do not end are logged after 15 s", async () => {
  using clock = new FakeClock();
  const { engine, lines } = logged();
  const handler = Promise.withResolvers<void>();
  engine.onShutdown(() => handler.promise);
  const down = engine.shutdown();
  await clock.pass(14_999);
  assertEquals(lines, []);
  await clock.pass(1);
  await down;
  assertEquals(lines, ["warn shutdown handlers took too long"]);
  handler.resolve();
});

// Several engines in one process

Deno.test("Engine shares nothing with other engines", async () => {
  const [one, two] = [logged(), logged()];
  const ran: string[] = [];
  const ended = Promise.withResolvers<void>();
  one.engine.register("greet", () => void ran.push("one"));
  two.engine.register("greet", () => void ran.push("two"));
  two.engine.register("wait", () => ended.promise);
  two.engine.onShutdown(() => void ran.push("shutdown of two"));
  two.engine.onJob(() => void ran.push("job of two"));
  assertEquals(one.engine.has("wait"), false);
  const waiting = two.engine.job("wait").run();
  ran.length = 0;

  await one.engine.job("greet").run();
  await one.engine.shutdown();
  assertEquals(ran, ["one"]);
  assertEquals(one.engine.stats, { started: 1, failed: 0, running: 0 });
  assertEquals(one.lines, ["info +job greet()", "info -job greet() = OK (0)"]);

  assertEquals(two.engine.stopping.aborted, false);
  assertEquals(two.engine.stats, { started: 1, failed: 0, running: 1 });
  assertEquals(two.lines, ["info +job wait()"]);
  ended.resolve();
  await waiting;
  ran.length = 0;
  await two.engine.job("greet").run();
  assertEquals(ran, ["job of two", "two", "job of two"]);
});

// createLogger

/** The lines of a logger that is given a line of each level. */
function linesOf(options: LoggerOptions): string[] {
  const lines: string[] = [];
  const log = createLogger({ ...options, write: (line) => lines.push(line) });
  for (const level of ["debug", "info", "warn", "error"] as const) log(level, `${level} it`);
  return lines;
}

Deno.test("createLogger writes a line of text: time, level, message, fields", () => {
  const lines: string[] = [];
  const log = createLogger({ write: (line) => lines.push(line) });
  const before = Date.now();
  log("warn", "disk is full", { path: '/a "b"\n', free: 0, kept: true, none: undefined });
  log("error", "no fields");
  const [time, ...rest] = lines[0].split(" ");
  assertMatch(time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
  assert(Date.parse(time) >= before && Date.parse(time) <= Date.now());
  assertEquals(
    rest.join(" "),
    'WARN  disk is full path="/a \\"b\\"\\n" free=0 kept=true none=undefined\n',
  );
  assertEquals(lines[1].slice(time.length), " ERROR no fields\n");
});

Deno.test("createLogger writes a JSON object a line", () => {
  const lines: string[] = [];
  const log = createLogger({ format: "json", write: (line) => lines.push(line) });
  log("warn", "disk is\nfull", { path: "/a", free: 0 });
  assertMatch(lines[0], /^[^\n]*\n$/);
  const { time, ...rest } = JSON.parse(lines[0]);
  assertEquals(new Date(time).toISOString(), time);
  assertEquals(rest, { level: "warn", message: "disk is\nfull", path: "/a", free: 0 });
});

Deno.test("createLogger leaves out what is less urgent than its level, which is info", () => {
  const levels = (options: LoggerOptions) =>
    linesOf(options).map((line) => /(\w+) it/.exec(line)?.[1]);
  for (const format of ["text", "json"] as const) {
    assertEquals(levels({ format }), ["info", "warn", "error"]);
    assertEquals(levels({ format, level: "debug" }), ["debug", "info", "warn", "error"]);
    assertEquals(levels({ format, level: "info" }), ["info", "warn", "error"]);
    assertEquals(levels({ format, level: "warn" }), ["warn", "error"]);
    assertEquals(levels({ format, level: "error" }), ["error"]);
  }
});

/** Stands in for writing to standard error until the end of the block. */
function stubStderr(writeSync: (bytes: Uint8Array) => number): Disposable {
  Deno.stderr.writeSync = writeSync;
  return {
    [Symbol.dispose]() {
      // What it had before was inherited.
      delete (Deno.stderr as { writeSync?: unknown }).writeSync;
    },
  };
}

Deno.test("Engine logs to standard error from level info on unless told otherwise", async () => {
  let written = "";
  const engine = new Engine();
  const [loud, quiet] = [engine.job("commands"), engine.job("commands")];
  quiet.quiet = true;
  {
    // As a pipe that is nearly full does, it takes a few bytes at a time.
    using _stderr = stubStderr((bytes) => {
      written += decoded(bytes.subarray(0, 5));
      return Math.min(5, bytes.length);
    });
    await quiet.run();
    await loud.run();
  }
  assertMatch(written, /^\S+ INFO +\+job commands\(\)\n\S+ INFO +-job commands\(\) = OK \(0\)\n$/);
});

Deno.test("createLogger goes on where nobody reads standard error any more", () => {
  let tries = 0;
  using _stderr = stubStderr(() => {
    tries++;
    throw new Deno.errors.BrokenPipe("nobody reads");
  });
  const log = createLogger();
  log("error", "one");
  log("error", "two");
  assertEquals(tries, 2);
});

// Errors and what is small

Deno.test("TypedError has a kind, a message and a cause", () => {
  const cause = new Error("ENOENT");
  const kind: ErrorKind = "not found";
  const error = new TypedError(kind, "no such thing", { cause });
  assertInstanceOf(error, Error);
  assertEquals([error.name, error.kind, error.message], ["TypedError", kind, "no such thing"]);
  assertStrictEquals(error.cause, cause);
});

Deno.test("messageOf gives an error's message, or its name, or what was thrown as text", () => {
  assertEquals(
    [new Error("a"), new RangeError(), "b", 3, null, undefined].map(messageOf),
    ["a", "RangeError", "b", "3", "null", "undefined"],
  );
});

Deno.test("within tells whether a promise settled in time, and leaves no timer", async () => {
  using clock = new FakeClock();
  const { promise, resolve } = Promise.withResolvers<void>();
  const [early, late] = [within(10, promise), within(20, promise)];
  await clock.pass(10);
  assertEquals(await early, false);
  resolve();
  assertEquals(await late, true);
  assertEquals(clock.timers, 0);
  await assertRejects(() => within(10, Promise.reject(new Error("no"))), Error, "no");
  assertEquals(clock.timers, 0);
});

Deno.test("within waits as long as it is told, also longer than a timer of Deno's can", async () => {
  using clock = new FakeClock();
  const ms = 2 ** 32;
  const waiting = within(ms, new Promise(() => {}));
  await clock.pass(ms - 1);
  assert(await isPending(waiting));
  await clock.pass(1);
  assertEquals(await waiting, false);
  assertEquals(clock.timers, 0);
});

Deno.test("Job.onStop that comes late is called at once, and what it throws is logged", async () => {
  const logged = Promise.withResolvers<string>();
  const engine = new Engine({
    log: (level, message) => level === "error" && logged.resolve(message),
  });
  const drained = Promise.withResolvers<void>();
  engine.register("service", async (job) => {
    const stopped = Promise.withResolvers<void>();
    job.onStop(() => stopped.resolve());
    await stopped.promise;
    await drained.promise;
  });
  engine.register("late", (job) => {
    job.onStop(() => {
      throw new Error("not now");
    });
  });
  const service = engine.job("service").run();
  const shutdown = engine.shutdown({ drain: 30_000 });
  await engine.job("late").run();
  assertEquals(await logged.promise, "shutdown handler: not now");
  drained.resolve();
  await service;
  await shutdown;
});

Deno.test("Engine.onShutdown calls who comes after the shutdown at once", async () => {
  const engine = new Engine({ log: () => {} });
  await engine.shutdown();
  let called = false;
  engine.onShutdown(() => called = true);
  assert(called);
});

Deno.test("Engine.wrapHandlers puts who wraps later further outside, and drops nobody", async () => {
  const engine = new Engine({ log: () => {} });
  const seen: string[] = [];
  for (const name of ["inner", "outer"]) {
    engine.wrapHandlers((job, handler) => {
      seen.push(name);
      return handler(job);
    });
  }
  engine.register("job", () => void seen.push("job"));
  await engine.job("job").run();
  assertEquals(seen, ["outer", "inner", "job"]);
});

Deno.test("Engine.wrapHandlers gives what ends it, and leaves the others", async () => {
  const engine = new Engine({ log: () => {} });
  let seen: string[] = [];
  const ends = ["inner", "middle", "outer"].map((name) =>
    engine.wrapHandlers((job, handler) => {
      seen.push(name);
      return handler(job);
    })
  );
  engine.register("job", () => void seen.push("job"));
  const orders: string[][] = [];
  for (const end of [ends[1], ends[2], ends[2], ends[0]]) {
    end();
    await engine.job("job").run();
    orders.push(seen);
    seen = [];
  }
  assertEquals(orders, [["outer", "inner", "job"], ["inner", "job"], ["inner", "job"], ["job"]]);
});
