import { assert, assertEquals, assertRejects } from "@std/assert";
import { attachProfiler, Engine } from "../../mod.ts";
import { createRouter } from "../../router.ts";
import { Monitor } from "../../profiler/monitor.ts";
import { until } from "../support/daemon.ts";

Deno.test(
  "Monitor lists running jobs with state and age, and times of ended ones",
  async () => {
    const engine = new Engine({ log: () => {} });
    const gates: Record<string, PromiseWithResolvers<void>> = {};
    engine.register("waiting", async (job) => {
      await (gates[job.args[0]!] = Promise.withResolvers()).promise;
    });
    engine.register("reading", async (job) => {
      await job.stdin.text();
      await gates.read!.promise;
    });
    engine.register("writing", (job) => job.print("x"));
    engine.register("outer", (job) => engine.job("waiting", ...job.args).run());
    engine.register("failing", () => 3);
    engine.registerCatchall(() => {});
    const before = engine.job("waiting", "before").run();

    const router = createRouter(engine);
    await attachProfiler(router, engine);
    const jobs = async () => await (await router.request("/debug/pprof/jobs")).json();
    assertEquals((await jobs()).jobs, []); // From here on jobs are watched.
    gates.read = Promise.withResolvers();
    const reading = engine.job("reading");
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
    reading.stdin.add(readable);
    const writing = engine.job("writing");
    const taken = Promise.withResolvers<void>();
    writing.stdout.add({ write: () => taken.promise });
    const runs = [before, reading.run(), writing.run(), engine.job("outer", "inner").run()];
    const wheres = async () => {
      const { running } = await jobs();
      return running.map((
        { name, args, where, parent, older }: Record<string, unknown>,
      ) => [name, args, where, parent, older]);
    };
    assertEquals(await wheres(), [
      ["waiting", ["before"], "in its handler", undefined, true],
      ["reading", [], "reading stdin", undefined, undefined],
      ["writing", [], "writing stdout", undefined, undefined],
      ["outer", ["inner"], "running waiting", undefined, undefined],
      ["waiting", ["inner"], "in its handler", "outer", undefined],
    ]);
    await writable.close();
    await until(async () => (await wheres())[1][2] === "in its handler"); // All is read.
    const started = performance.now();
    await until(() => performance.now() > started + 20);
    const { running } = await jobs();
    for (const { age } of running) assert(age >= 20 && age < 60_000, `${age}`);
    taken.resolve();
    for (const gate of Object.values(gates)) gate.resolve();
    await Promise.all(runs);

    await assertRejects(() => engine.job("failing").run());
    for (let i = 0; i < 300; i++) await engine.job(`name-${i}`).run();
    const after = await jobs();
    assertEquals(after.running, []);
    const of = (name: string) => after.jobs.find((job: { name: string }) => job.name === name);
    assertEquals([of("failing").ended, of("failing").failed], [1, 1]);
    assertEquals([of("waiting").ended, of("waiting").failed], [2, 0]);
    assertEquals(of("waiting").latency.count, 1); // When the other one began was not seen.
    const { latency } = of("outer");
    assertEquals([latency.count, latency.counts.reduce((a: number, b: number) => a + b)], [1, 1]);
    assert(latency.max >= 20 && latency.p50 >= 20, JSON.stringify(latency));
    // Made-up names must not fill the memory.
    assertEquals(after.jobs.length, 201);
    assertEquals(of("(others)").ended > 90, true);
    await engine.shutdown();
  },
);

Deno.test(
  "Monitor counts no jobs while it does not watch them, but knows the age of long ones",
  async () => {
    const engine = new Engine({ log: () => {} });
    engine.register("quick", () => {});
    const gate = Promise.withResolvers<void>();
    engine.register("slow", () => gate.promise);
    const monitor = new Monitor(engine, 100);
    const slow = engine.job("slow").run();
    const quick = async () => {
      await engine.job("quick").run();
      return monitor.counts.find(({ name }) => name === "quick")?.ended;
    };
    assertEquals(await quick(), undefined);
    await until(() => monitor.running[0]!.age >= 100);
    assertEquals(monitor.running[0]!.older, undefined);
    assertEquals(await quick(), undefined);

    monitor.watch();
    assertEquals([await quick(), await quick()], [1, 2]);
    assertEquals(monitor.counts[0]!.latency.count, 2);
    // A trace goes on, however long ago the last request was.
    const stop = monitor.record();
    const end = performance.now() + 300;
    await until(() => performance.now() > end);
    assertEquals(await quick(), 3);
    const spans = stop().map(({ name, end }) => [name, end !== undefined]);
    assertEquals(spans, [["quick", true], ["slow", false]]);
    await until(async () => await quick() === await quick());
    // After a pause only later jobs are counted.
    monitor.watch();
    assertEquals(await quick(), 1);
    monitor.close();
    gate.resolve();
    await slow;
    assertEquals(monitor.counts.length, 1);
  },
);

Deno.test("Monitor measures what blocks the event loop", async () => {
  const engine = new Engine({ log: () => {} });
  const router = createRouter(engine);
  await attachProfiler(router, engine);
  const looked = async () => (await (await router.request("/debug/pprof/eventloop")).json()).delay;
  await until(async () => (await looked()).count > 2);
  const { max: before } = await looked();
  for (const end = performance.now() + before + 400; performance.now() < end;);
  const { count } = await looked();
  await until(async () => (await looked()).count > count);
  const { max, counts } = await looked();
  // A timer of 20 ms was pending within it.
  assert(max >= before + 350, `${max} after ${before}`);
  assert(counts.slice(8).some((count: number) => count > 0), `${counts}`);
  await engine.shutdown();
});
