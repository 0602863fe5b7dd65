/**
 * The jobs a daemon starts with.
 *
 * @module
 */

import { registerEvents } from "./events.ts";
import { registerInfo } from "./info.ts";
import type { ApiStats } from "../serve/listeners.ts";
import { registerServeapi, type RouterSource } from "./serveapi.ts";
import { routerOptions } from "./settings.ts";
import type { Metrics } from "./metrics.ts";
import type { Engine } from "../engine.ts";
import { stderr } from "../engine/log.ts";
import { Activation } from "../listenbuffer.ts";
import { telemetryIsOn } from "../platform/deno.ts";
import type { RequestObserver } from "../serve/observe.ts";

/** Options of {@linkcode registerBuiltins}. */
export interface BuiltinsOptions {
  /**
   * The app that `serveapi` serves: a router of `createRouter`, or any Hono app; or a promise of
   * one, or a function that makes one. It is awaited or called after the addresses are bound.
   * Default: a router with the built-in routes only, made from the settings of `serveapi`.
   */
  router?: RouterSource;
}

/** The result of {@linkcode registerBuiltins}. */
export interface Builtins {
  /** The engine's gate. `acceptconnections` opens it; `fail` is for a daemon whose boot fails. */
  readonly activation: Activation;
  /** The counts of each running `serveapi`. */
  stats(): ApiStats[];
  /** @internal Calls `observer` for each request from now on, when its answer is complete. */
  observe(observer: RequestObserver): void;
}

/**
 * Registers `serveapi`, `acceptconnections`, `reload`, `servehealth`, `version`, `info`, `stats`,
 * `metrics`, `events`, `log`, and `true`, which does nothing, successfully.
 *
 * @throws {TypeError} If the engine has a job of one of these names already.
 */
export function registerBuiltins(engine: Engine, options: BuiltinsOptions = {}): Builtins {
  // A stalled reader of its log must not stop a daemon. Until serveapi has loaded what tells
  // whether a write would block, a thread writes.
  stderr.ready = () => undefined;
  const activation = new Activation();
  engine.register("true", () => {});
  // If OpenTelemetry is on (@opentelemetry/api). Loaded asynchronously, so that serveapi, which may
  // start meanwhile, gets no span: it would last as long as the daemon.
  if (telemetryIsOn()) {
    import("./traces.ts").then(({ traceJobs }) => traceJobs(engine));
  }
  // A router that cannot be made fails serveapi, which may not be awaiting it yet.
  if (options.router instanceof Promise) options.router.catch(() => {});
  const listeners = registerEvents(engine);
  const observers: RequestObserver[] = [];
  const stats = registerServeapi(engine, {
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
  const sources = { gate: activation, listeners, apis: stats };
  registerInfo(engine, sources);
  // Loaded at the first use, to keep the start short.
  let metrics: Promise<Metrics> | undefined;
  const loadMetrics = () =>
    metrics ??= import("./metrics.ts").then(({ Metrics }) => {
      const counts = new Metrics(engine, sources);
      observers.push(counts);
      return counts;
    });
  engine.register("metrics", async (job) => {
    const format = job.getenvBool("OpenMetrics") ? "openmetrics" : "text";
    await job.print((await loadMetrics()).expose(format).body);
  });
  engine.register("servehealth", async (job) => {
    const { serveHealth } = await import("./health.ts");
    await serveHealth(job, sources, await loadMetrics());
  });
  return { activation, stats, observe: (observer) => void observers.push(observer) };
}
