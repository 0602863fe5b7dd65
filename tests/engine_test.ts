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
  type Handler,
  type Job,
  JobError,
  type Sink,
  Status,
  TypedError,
} from "../engine.ts";
import { FakeClock } from "./support/clock.ts";
import { isPending, settle } from "./support/daemon.ts";
import {
  envOf,
  failing,
  failureOf,
  jobOf,
  logged,
  recorded,
  SlowRecorder,
} from "./support/engine.ts";

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

Deno.test("Engine.registerCatchall handles the names without a handler, and no others", async () => {
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

Deno.test("commands prints the names of all jobs, sorted, a line each", async () => {
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

Deno.test("Engine.parseJob throws if no name is left", () => {
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

Deno.test("Job.run makes the status 0 if the handler returns nothing or 0", async () => {
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

Deno.test("Job.run fails with a message if the status is no integer", async () => {
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

Deno.test("Job.run takes a thrown value that is no Error as text", async () => {
  const error = await failureOf(jobOf(() => {
    throw "only words";
  }));
  assertEquals([error.message, error.status, error.cause], ["only words", 1, "only words"]);
});

Deno.test("Job.run says command not found, status 127, without a handler", async () => {
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

Deno.test("Job.print after the end is discarded and does no harm", async () => {
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
      await settle(); // An unhandled rejection would end the process here.
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

Deno.test("Job.run takes a destination's failure that is no Error as text", async () => {
  const job = jobOf((job) => void job.print("x"));
  job.stdout.add({ write: () => Promise.reject("only words") });
  const error = await failureOf(job);
  assertEquals([error.message, error.status, error.cause], ["only words", 1, "only words"]);
});

Deno.test("Job.run keeps the handler's status if output fails as well", async () => {
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
    "error -job mute() = Err (3)",
    "info +job loud()",
    "error -job loud() = Err (1): two",
    "info +job unheard()",
    "error -job unheard() = NotFound (127): unheard: command not found",
  ]);
});

Deno.test("Job.run logs the thrown error in full, at its own level", async () => {
  const lines: string[] = [];
  const engine = new Engine({
    log: createLogger({ level: "debug", write: (line) => lines.push(line) }),
  });
  engine.register("fails", () => {
    throw new TypeError("boom", { cause: new Error("the disk") });
  });
  for (const quiet of [false, true]) {
    lines.length = 0;
    const job = engine.job("fails");
    job.quiet = quiet;
    await failureOf(job);
    const text = lines[1]!;
    assertMatch(text, quiet ? / DEBUG -job/ : / ERROR -job fails\(\) = Err \(1\): boom\n/);
    assertMatch(text, /\n {4}TypeError: boom\n {8}at [^\n]*engine_test\.ts:\d+:\d+\)?\n/);
    assertMatch(text, /\n {4,}\[cause\]: Error: the disk\n/);
    // Nothing of it can be mistaken for another log line.
    assertEquals(text.split("\n").slice(1, -1).filter((line) => !line.startsWith("    ")), []);
  }
});

Deno.test("Job.run logs the stderr of a job that succeeded, unless a caller reads it", async () => {
  const { engine, lines } = logged();
  engine.register("warns", async (job) => {
    await job.stderr.write("disk is\nnearly full\n");
  });
  await engine.job("warns").run();
  const quiet = engine.job("warns");
  quiet.quiet = true;
  await quiet.run();
  const told = ["info job warns: disk is", "info job warns: nearly full"];
  assertEquals(lines.filter((line) => line.startsWith("info job")), [...told, ...told]);
  const heard = engine.job("warns");
  const errors = heard.stderr.addTail(2);
  await heard.run();
  assertEquals(errors.text, "disk is\nnearly full");
  assertEquals(lines.filter((line) => line.startsWith("info job")).length, 4);
});

Deno.test("Job.print after the end is logged once", async () => {
  for (const attached of [false, true]) {
    const { engine, lines } = logged();
    let late = () => {};
    engine.register("hasty", (job) => {
      late = () => void job.print("too late\n");
    });
    const job = engine.job("hasty");
    const out = attached ? job.stdout.addTail(1) : undefined;
    await job.run();
    late();
    late();
    assertEquals(lines.filter((line) => line.startsWith("warn")), [
      'warn job hasty has ended, but still writes: "too late\\n"',
    ]);
    assertEquals(out?.text ?? "", "");
  }
});

Deno.test("Job.print refuses a value that is no text, and names it", async () => {
  const { engine } = logged();
  for (
    const [value, text] of [
      [42, "42 (number)"],
      [undefined, "undefined (undefined)"],
      [null, "null (object)"],
      [{ a: 1 }, "{ a: 1 } (object)"],
      [[1, 2], "[ 1, 2 ] (object)"],
    ]
  ) {
    engine.registerCatchall((job) => job.print(value as string));
    for (const attached of [false, true]) {
      const job = engine.job("odd");
      if (attached) job.stdout.addTail(1);
      const { message, cause } = await failureOf(job);
      assertEquals(message, `cannot write ${text}, expected a text or a Uint8Array`);
      assertInstanceOf(cause, TypeError);
    }
    // Not awaited, it fails the job nevertheless, and does not end the process.
    engine.registerCatchall((job) => void job.print(value as string));
    const { message } = await failureOf(engine.job("odd"));
    assertMatch(message, /^cannot write /);
  }
});

Deno.test("JobError.words is the text of Job.error, and nothing else", async () => {
  const { engine } = logged();
  engine.register("says", (job) => job.error("no such thing"));
  engine.register("reports", (job) => job.error(new Error("no such thing")));
  engine.register("throws", (job) => {
    job.error("no such thing");
    throw new Error("boom");
  });
  engine.register("writes", async (job) => {
    await job.stderr.write("no such thing\n");
    return 2;
  });
  const words = async (name: string) => (await failureOf(engine.job(name))).words;
  assertEquals(await words("says"), "no such thing");
  for (const name of ["reports", "throws", "writes", "missing"]) {
    assertEquals([name, await words(name)], [name, undefined]);
  }
});

Deno.test("Job.quiet moves a job's log lines to level debug", async () => {
  const { engine, lines } = logged();
  engine.register("mute", () => 3);
  const job = engine.job("mute");
  job.quiet = true;
  await failureOf(job);
  assertEquals(lines, ["debug +job mute()", "debug -job mute() = Err (3)"]);
});

Deno.test("Job.run logs a job's name, arguments and status as fields", async () => {
  const fields: Record<string, unknown>[] = [];
  const engine = new Engine({ log: (_level, _message, more = {}) => void fields.push(more) });
  engine.register("wait", () => new Promise((resolve) => setTimeout(resolve, 10)));
  engine.register("fail", (job) => job.error("no such thing"));
  await engine.job("wait", "a", "b").run();
  await failureOf(engine.job("fail"));
  const { duration, ...ended } = fields[1]!;
  assertEquals([fields[0], ended], [
    { job: "wait", args: ["a", "b"] },
    { job: "wait", args: ["a", "b"], status: 0 },
  ]);
  assert(Number(duration) >= 0.009 && Number(duration) < 5, `${duration} s`);
  const { duration: _, ...failed } = fields[3]!;
  assertEquals(failed, { job: "fail", args: [], status: 1 });
});

Deno.test("Job.run omits fields that repeat the message in a plain log, but not the request's id", async () => {
  const lines: string[] = [];
  const engine = new Engine({ log: createLogger({ write: (line) => void lines.push(line) }) });
  engine.register("greet", () => {});
  await engine.job("greet", "world").run();
  const job = engine.job("greet");
  job.onBehalfOf({ requestId: "r-1" });
  await job.run();
  assertEquals(lines.map((line) => line.replace(/^\S+ /, "")), [
    "INFO  +job greet(world)\n",
    "INFO  -job greet(world) = OK (0)\n",
    'INFO  +job greet() request="r-1"\n',
    'INFO  -job greet() = OK (0) request="r-1"\n',
  ]);
});

Deno.test("Job.user asks its requester when it is first read", () => {
  const engine = new Engine({ log: () => {} });
  const job = engine.job("greet");
  assertEquals([job.user, job.peer, job.requestId], [undefined, undefined, undefined]);
  let asked = 0;
  job.onBehalfOf({
    requestId: "r-1",
    get user() {
      asked++;
      return "alice";
    },
    peer: { pid: 1, uid: 2, gid: 3, groups: [] },
  });
  assertEquals(asked, 0);
  assertEquals([job.user, job.peer?.uid, job.requestId, asked], ["alice", 2, "r-1", 1]);
  job.user = "bob";
  assertEquals([job.user, asked], ["bob", 1]);
});

Deno.test("Engine.onJob is called at a job's start, and at its end with its status", async () => {
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

Deno.test("Engine.onJob returns a function that ends it, also while observers are called", async () => {
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

Deno.test("Engine.running and Engine.handlers list jobs and handlers", async () => {
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
  // A job without a handler is not wrapped.
  await assertRejects(() => engine.job("missing").run(), JobError, "command not found");
  assertEquals(wrapped, ["say"]);
});

Deno.test("Job.text and Job.json run the job, and return its output", async () => {
  const engine = new Engine({ log: () => {} });
  engine.register("say", async (job) => {
    // In two halves of a character.
    const bytes = new TextEncoder().encode(`{"said": "${job.args[0]}"}\n`);
    for (const byte of bytes) await job.stdout.write(Uint8Array.of(byte));
    return job.args.length - 1;
  });
  const job = engine.job("say", "äöü");
  const tail = job.stdout.addTail(1);
  assertEquals([await job.text(), job.status], ['{"said": "äöü"}\n', 0]);
  assertEquals(tail.text, '{"said": "äöü"}');
  assertEquals(await engine.job("say", "x").json(), { said: "x" });
  await assertRejects(() => engine.job("say", "x", "fails").text(), JobError);
  await assertRejects(() => engine.job("nothing").json(), JobError, "command not found");
  await assertRejects(() => engine.job("say", '"').json(), SyntaxError, "job say printed no JSON");
  await assertRejects(() => job.text(), TypeError, "has run already");
});

Deno.test("Engine.wrapHandlers puts a later wrap outside of earlier ones, and drops none", async () => {
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

Deno.test("Engine.wrapHandlers returns a function that ends it, and leaves the others", async () => {
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
    end!();
    await engine.job("job").run();
    orders.push(seen);
    seen = [];
  }
  assertEquals(orders, [["outer", "inner", "job"], ["inner", "job"], ["inner", "job"], ["job"]]);
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

Deno.test("Job.abort aborts the signal with the reason, read before or after", () => {
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
    job!.abortWith(() => {
      asked++;
      return client.signal;
    });
  }
  assertEquals(asked, 0);
  assertEquals(early!.signal.aborted, false);
  const reason = new Error("client left");
  client.abort(reason);
  for (const job of [early, late]) assertStrictEquals(job!.signal.reason, reason);
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

// Engine.shutdown: jobs

Deno.test("Engine.shutdown refuses new jobs", async () => {
  const { engine, lines } = logged();
  let runs = 0;
  engine.register("greet", () => void runs++);
  const [made, during, after] = ["greet", "greet", "unheard"].map((name) => engine.job(name));
  const down = engine.shutdown();
  for (const job of [made, during]) {
    const error = await assertRejects(() => job!.run(), TypedError, "the engine is shut down");
    assertEquals(error.kind, "unavailable");
  }
  await down;
  await assertRejects(() => after!.run(), TypedError, "the engine is shut down");
  assertEquals([runs, made!.status, made!.endTime], [0, undefined, undefined]);
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
  assertEquals(lines, ["info +job wait()", "error -job wait() = Err (3)"]);
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

for (const [way, jump] of [["on", 1], ["back", -1]] as const) {
  Deno.test(`Engine.shutdown keeps its times when the clock is set ${way} by a year`, async () => {
    using clock = new FakeClock();
    const { engine } = logged();
    const [job, slow] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const times: number[] = [];
    const began = performance.now();
    engine.register("service", (service) => {
      service.onStop(() => {
        clock.jump(jump * 365 * 86_400_000);
        return job.promise;
      });
      return job.promise;
    });
    engine.onShutdown(() => {
      times.push(performance.now() - began);
      return slow.promise;
    });
    const running = engine.job("service").run();
    const down = engine.shutdown({ drain: 2_000 }).then(() =>
      times.push(performance.now() - began)
    );
    await clock.pass(20_000);
    // 1 s more than the drain, 5 s for jobs, and 5 s for a handler.
    assertEquals(times, [8_000, 13_000]);
    job.resolve();
    slow.resolve();
    await Promise.all([running, down]);
  });
}

Deno.test("Engine.shutdown called twice shuts down once", async () => {
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

/** An engine with a running service that ends when the test says so. */
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
  assertEquals(await logged.promise, "stop of job late: not now");
  drained.resolve();
  await service;
  await shutdown;
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
  request.resolve();
  await Promise.all([job, down]);
  await assertRejects(() => engine.job("request").run(), TypedError, "shut down");
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
    assertEquals(lines[1], "error stop of job serve: will not");
  }
});

Deno.test("Engine.shutdown gives services and jobs that do not end 15 s", async () => {
  using clock = new FakeClock();
  const { engine, lines, job, running, end } = serving();
  let handled = 0;
  engine.onShutdown(() => void handled++);
  const down = engine.shutdown();
  await clock.pass(12_999);
  assertEquals([handled, job.signal.aborted], [0, false]);
  await clock.pass(1);
  assertEquals([handled, job.signal.aborted], [1, true]);
  assertEquals(await isPending(down), false);
  assertEquals(lines.slice(1), ["warn job serve still runs at shutdown"]);
  end();
  await running;
});

Deno.test("Engine.shutdown gives services 5 s more than a drain time longer than 10 s", async () => {
  using clock = new FakeClock();
  const { engine, running, end } = serving();
  const down = engine.shutdown({ drain: 30_000 });
  await clock.pass(32_999);
  assert(await isPending(down));
  await clock.pass(1);
  assertEquals(await isPending(down), false);
  end();
  await running;
});

// Engine.onShutdown

Deno.test("Engine.onShutdown handlers run one after another, the last that was registered first", async () => {
  const { engine } = logged();
  const gates = [1, 2, 3].map(() => Promise.withResolvers<void>());
  const events: string[] = [];
  for (const [i, gate] of gates.entries()) {
    engine.onShutdown(async () => {
      events.push(`begins ${i}`);
      await gate.promise;
      events.push(`ends ${i}`);
    });
  }
  const down = engine.shutdown();
  gates[0]!.resolve();
  assert(await isPending(down));
  assertEquals(events, ["begins 2"]);
  gates[2]!.resolve();
  await settle();
  assertEquals(events, ["begins 2", "ends 2", "begins 1"]);
  gates[1]!.resolve();
  await down;
  assertEquals(events.slice(3), ["ends 1", "begins 0", "ends 0"]);
});

Deno.test("Engine.onShutdown handlers that are registered by one of them run next", async () => {
  const { engine } = logged();
  const events: string[] = [];
  engine.onShutdown(() => void events.push("first"));
  engine.onShutdown(() => {
    events.push("last");
    engine.onShutdown(() => void events.push("later"));
  });
  await engine.shutdown();
  assertEquals(events, ["last", "later", "first"]);
});

Deno.test("Engine.onShutdown handlers can run jobs until the engine is closed", async () => {
  const { engine } = logged();
  const flushed: string[] = [];
  engine.register("flush", async (job) => {
    await settle();
    flushed.push(job.args[0]!);
  });
  engine.onShutdown(() => engine.job("flush", "store").run());
  engine.onShutdown(() => engine.job("flush", "cache").run());
  await engine.shutdown();
  assertEquals(flushed, ["cache", "store"]);
  await assertRejects(
    () => engine.job("flush", "late").run(),
    TypedError,
    "the engine is shut down",
  );
});

Deno.test("Engine.onShutdown aborts a job that its handler left behind, once it is closed", async () => {
  const { engine, lines } = logged();
  const end = Promise.withResolvers<void>();
  engine.register("hang", () => end.promise);
  const job = engine.job("hang");
  job.quiet = true;
  engine.onShutdown(() => void job.run());
  await engine.shutdown();
  assert(job.signal.aborted);
  assertEquals(lines, ["debug +job hang()", "warn job hang still runs at shutdown"]);
  end.resolve();
});

Deno.test("Engine.onShutdown handlers that fail are logged and do not hinder the others", async () => {
  const { engine, lines } = logged();
  const handled: string[] = [];
  engine.onShutdown(function unmount() {
    throw new Error("cannot unmount");
  });
  engine.onShutdown(() => Promise.reject(new Error("cannot flush")), { name: "store" });
  engine.onShutdown(() => void handled.push("sync"));
  engine.onShutdown(async () => {
    await settle();
    handled.push("async");
  });
  await engine.shutdown();
  assertEquals(handled, ["async", "sync"]);
  assertEquals(lines, [
    "error shutdown handler store: cannot flush",
    "error shutdown handler unmount: cannot unmount",
  ]);
});

Deno.test("Engine.onShutdown handlers that hang are named after their bound, and the next runs", async () => {
  using clock = new FakeClock();
  const { engine, lines } = logged();
  const never = new Promise<void>(() => {});
  let handled = 0;
  engine.onShutdown(() => void handled++);
  engine.onShutdown(() => never);
  engine.onShutdown(() => never, { name: "store", timeout: 20_000 });
  const down = engine.shutdown();
  await clock.pass(19_999);
  assertEquals(lines, []);
  await clock.pass(1);
  assertEquals(lines, ["warn shutdown handler store still runs after 20000 ms, going on"]);
  await clock.pass(4_999);
  assertEquals([lines.length, handled], [1, 0]);
  await clock.pass(1);
  // A handler without a name is called by the place that registered it.
  assertMatch(
    lines[1]!,
    /^warn shutdown handler at .*engine_test\.ts:\d+:\d+ still runs after 5000 ms, going on$/,
  );
  await down;
  assertEquals(handled, 1);
});

Deno.test("Engine.onShutdown returns a function that removes the handler", async () => {
  const { engine } = logged();
  const handled: string[] = [];
  const end = engine.onShutdown(() => void handled.push("one"));
  engine.onShutdown(() => void handled.push("other"));
  end();
  await engine.shutdown();
  assertEquals(handled, ["other"]);
});

Deno.test("Engine.onShutdown after the shutdown calls the handler at once", async () => {
  const engine = new Engine({ log: () => {} });
  await engine.shutdown();
  let called = false;
  engine.onShutdown(() => called = true);
  assert(called);
});

// Engine.progress

Deno.test("Engine.progress is logged, and calls its observers", () => {
  const { engine, lines } = logged();
  const heard: unknown[] = [];
  const end = engine.onProgress((progress) => void heard.push(progress));
  engine.onProgress(() => {
    throw new Error("deaf");
  });
  engine.progress("opening the store");
  end();
  engine.progress("container 40 of 200", { within: 5 });
  assertEquals(heard, [{ text: "opening the store", within: undefined }]);
  assertEquals(lines, [
    "info progress: opening the store",
    "error observer of progress: deaf",
    "info progress: container 40 of 200",
    "error observer of progress: deaf",
  ]);
});

Deno.test("Engine.progress logs ten lines a second at level info, and the rest at debug", () => {
  const { engine, lines } = logged();
  for (let i = 1; i <= 1_000; i++) engine.progress(`${i} of 1000`);
  const counts = Map.groupBy(lines, (line) => line.split(" ")[0]);
  assert(counts.get("info")!.length < 40, `${counts.get("info")!.length} at level info`);
  assertEquals(lines.length, 1_000);
  assertEquals(lines[0], "info progress: 1 of 1000");
});

// Engine.provide and Engine.require

declare module "../engine.ts" {
  interface Provisions {
    "test-store": Map<string, number>;
    "test-name": string;
  }
}

Deno.test("Engine.require gives what was provided under a name, with its type", () => {
  const { engine } = logged();
  engine.provide("test-store", new Map([["a", 1]]));
  const value: number | undefined = engine.require("test-store").get("a");
  assertEquals(value, 1);
  engine.provide("of no known type", 7);
  assertEquals(engine.require("of no known type"), 7);
  // @ts-expect-error -- what is provided under this name is a text
  logged().engine.provide("test-name", 7);
});

Deno.test("Engine.require names what is missing, and what was provided", () => {
  const { engine } = logged();
  assertThrows(
    () => engine.require("test-store"),
    TypeError,
    'nothing provides "test-store" so far, expected a call of provide("test-store", ...); ' +
      "install the module that provides it before the one that requires it",
  );
  engine.provide("test-name", "a");
  engine.provide("other", 1);
  assertThrows(() => engine.require("test-store"), TypeError, "expected one of test-name, other;");
});

Deno.test("Engine.provide refuses a taken and an empty name", () => {
  const { engine } = logged();
  engine.provide("test-name", "a");
  const taken = 'cannot provide "test-name": something is provided under that name already';
  assertThrows(() => engine.provide("test-name", "b"), TypeError, taken);
  assertThrows(() => engine.provideLazily("test-name", () => "b"), TypeError, taken);
  assertThrows(() => engine.provide("", "b"), TypeError, "cannot provide something without a name");
  assertEquals(engine.require("test-name"), "a");
});

Deno.test("Engine.provideLazily makes a value once, also of what is provided later", () => {
  const { engine } = logged();
  let made = 0;
  engine.provideLazily("test-store", () => {
    made++;
    return new Map([[engine.require("test-name"), made]]);
  });
  engine.provide("test-name", "a");
  assertEquals(made, 0);
  const store = engine.require("test-store");
  assertStrictEquals(engine.require("test-store"), store);
  assertEquals([...store], [["a", 1]]);
});

Deno.test("Engine.require names the cycle of values that require each other", () => {
  const { engine } = logged();
  engine.provideLazily("api", () => engine.require("store"));
  engine.provideLazily("store", () => engine.require("users"));
  engine.provideLazily("users", () => engine.require("store"));
  for (let twice = 0; twice < 2; twice++) {
    assertThrows(
      () => engine.require("api"),
      TypeError,
      '"store" requires itself: store -> users -> store',
    );
  }
});

Deno.test("Engine.require tries again after a failure", () => {
  const { engine } = logged();
  let broken = true;
  engine.provideLazily("test-name", () => {
    if (broken) throw new Error("not yet");
    return "a";
  });
  assertThrows(() => engine.require("test-name"), Error, "not yet");
  broken = false;
  assertEquals(engine.require("test-name"), "a");
});

// Engine.onReload

Deno.test("Engine.reload calls the handlers in order, and then what they returned", async () => {
  const { engine } = logged();
  const events: string[] = [];
  engine.onReload(async () => {
    await settle();
    events.push("reads one");
    return () => void events.push("takes one");
  });
  engine.onReload(() => void events.push("reads two"));
  const end = engine.onReload(() => void events.push("has gone"));
  end();
  await engine.reload(() => {
    events.push("reads last");
    return () => void events.push("takes last");
  });
  assertEquals(events, ["reads one", "reads two", "reads last", "takes one", "takes last"]);
});

Deno.test("Engine.reload changes nothing where a handler fails", async () => {
  const { engine } = logged();
  let state = "old";
  engine.onReload(() => () => state = "new");
  engine.onReload(() => Promise.reject(new Error("no such file")));
  await assertRejects(() => engine.reload(), Error, "no such file");
  assertEquals(state, "old");
});

Deno.test("Engine.reload reports a change that failed, after the others were made", async () => {
  const { engine } = logged();
  let state = "old";
  engine.onReload(() => () => {
    throw new Error("the disk is full");
  });
  engine.onReload(() => () => state = "new");
  await assertRejects(
    () => engine.reload(),
    AggregateError,
    "reloaded in part: the disk is full",
  );
  assertEquals(state, "new");
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
