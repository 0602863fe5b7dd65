/**
 * The jobs a daemon starts with.
 *
 * @module
 */

import { registerEvents } from "./events.ts";
import { registerInfo } from "./info.ts";
import { type ApiStats, registerServeapi, type RouterSource } from "./serveapi.ts";
import { routerOptions } from "./settings.ts";
import type { Metrics } from "./metrics.ts";
import type { Engine } from "../engine.ts";
import { stderr } from "../engine/log.ts";
import { Activation } from "../listenbuffer.ts";
import { STDERR, writability } from "../platform/descriptors.ts";
import type { RequestObserver } from "../serve/observe.ts";

/** What {@linkcode registerBuiltins} can be told. */
export interface BuiltinsOptions {
  /**
   * The app that `serveapi` serves: what `createRouter` gives, or any Hono app. It is waited for, and a
   * function is called, after the addresses are bound. Default: a router with no routes but the
   * built-in ones, made from the settings of `serveapi`.
   */
  router?: RouterSource;
}

/** What {@linkcode registerBuiltins} gives. */
export interface Builtins {
  /** The engine's gate. A daemon whose boot fails calls its `fail`; `acceptconnections` opens it. */
  readonly activation: Activation;
  /** The counts of each running `serveapi`. */
  stats(): ApiStats[];
  /** @internal Lets something hear of each request from now on, when its answer is complete. */
  observe(observer: RequestObserver): void;
}

/**
 * Registers `serveapi`, `acceptconnections`, `reload`, `servehealth`, `version`, `info`, `stats`,
 * `metrics`, `events`, `log`, and `true`, which does nothing, successfully.
 */
export function registerBuiltins(engine: Engine, options: BuiltinsOptions = {}): Builtins {
  // This is going to be a daemon: whoever reads its log, and stalls, must not stop it.
  stderr.ready = writability(STDERR);
  const activation = new Activation();
  engine.register("true", () => {});
  // Where OpenTelemetry is on (@opentelemetry/api). By the time that this is loaded serveapi may have
  // begun, whose span would be as long as the daemon's life.
  if (Symbol.for("opentelemetry.js.api.1") in globalThis) {
    import("./traces.ts").then(({ traceJobs }) => traceJobs(engine));
  }
  // A router that cannot be made fails serveapi, which may not have come to wait for it yet.
  if (options.router instanceof Promise) options.router.catch(() => {});
  const events = registerEvents(engine);
  const observers: RequestObserver[] = [];
  const apis = registerServeapi(engine, {
    activation,
    observers,
    router: async (settings) => {
      const { router } = options;
      if (router !== undefined) return typeof router === "function" ? router() : router;
      // Hono is loaded after the sockets are bound.
      const { createRouter } = await import("../router.ts");
      return createRouter(engine, routerOptions(settings));
    },
  });
  const sources = { gate: activation, listeners: () => events.listeners, apis: apis.stats };
  registerInfo(engine, sources);
  // Loaded by those who ask: a start has no time for it.
  let metrics: Promise<Metrics> | undefined;
  const counting = () =>
    metrics ??= import("./metrics.ts").then(({ Metrics }) => {
      const counts = new Metrics(engine, sources);
      observers.push(counts);
      return counts;
    });
  engine.register("metrics", async (job) => {
    const { body } = (await counting()).expose(
      job.getenvBool("OpenMetrics") ? "openmetrics" : "text",
    );
    await job.print(body);
  });
  engine.register("servehealth", async (job) => {
    const { serveHealth } = await import("./health.ts");
    await serveHealth(job, sources, await counting());
  });
  return {
    activation,
    stats: apis.stats,
    observe: (observer) => void observers.push(observer),
  };
}
