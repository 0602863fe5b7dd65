/**
 * Floodgate: a daemon front end that binds its sockets first, boots at its own pace, and loses no
 * client meanwhile.
 *
 * As a program:
 *
 * ```sh
 * deno run -A mod.ts -H tcp://127.0.0.1:2375 -H unix:///run/floodgate.sock
 * ```
 *
 * As a library:
 *
 * ```ts
 * import { createRouter, Engine, registerBuiltins } from "./mod.ts";
 *
 * const engine = new Engine();
 * registerBuiltins(engine, { router: createRouter(engine) });
 * const served = engine.job("serveapi", "tcp://127.0.0.1:0").run();
 * // ... boot, as long as it takes: clients that connect are held ...
 * await engine.job("acceptconnections").run();
 * await engine.shutdown();
 * await served;
 * ```
 *
 * Importing this module does nothing by itself, and needs nothing from JSR.
 *
 * @module
 */

import { main } from "./cli/main.ts";
import type { Engine } from "./engine.ts";
import type { Router, RouterOptions } from "./router.ts";

export {
  createLogger,
  Engine,
  type EngineOptions,
  type EngineStats,
  Env,
  type ErrorKind,
  type Handler,
  Input,
  Job,
  JobError,
  type JobPhase,
  type Logger,
  type LoggerOptions,
  type LogLevel,
  Output,
  type Sink,
  Status,
  type Tail,
  tail,
  TypedError,
} from "./engine.ts";
export {
  type Acceptor,
  Activation,
  ConnectionLimit,
  ListenBuffer,
  type ListenBufferOptions,
  type ListenBufferStats,
} from "./listenbuffer.ts";
export { type Builtins, type BuiltinsOptions, registerBuiltins } from "./builtins/builtins.ts";
export { main };
export type { Fetcher } from "./builtins/serveapi.ts";
export type { Bindings, ClientCertificate, Route, Router, RouterOptions } from "./router.ts";

/**
 * What a module given to `--install` exports as `install`. It runs after the addresses are bound and
 * before the gate opens: it boots what the daemon needs, registers jobs and adds routes. What it
 * throws ends the daemon.
 */
export type Installer = (engine: Engine, router: Router) => void | Promise<void>;

/**
 * Makes the router of an engine, with the built-in routes. It is a Hono app, so `get`, `use` and the
 * rest add to it, and `router.job` adds a route that runs a job.
 *
 * A promise, because Hono is loaded when it is first wanted and not before the sockets are bound;
 * `router.ts` exports the same function without it.
 */
export async function createRouter(engine: Engine, options?: RouterOptions): Promise<Router> {
  const router = await import("./router.ts");
  return router.createRouter(engine, options);
}

/**
 * Adds `/debug/pprof/`: a page that tells what the daemon is at, profiles that `go tool pprof` and
 * Chrome's DevTools read (`profile`, `heap`, `allocs`, `trace`), and the jobs behind them. The command
 * line does so with `--debug` only: whoever reaches them sees what is in the program's memory, and can
 * slow it down.
 */
export async function attachProfiler(router: Router, engine: Engine): Promise<void> {
  const profiler = await import("./profiler/profiler.ts");
  await profiler.attachProfiler(router, engine);
}

// Not awaited: a module that main installs may import this one, which is loaded only when its own
// top level is done.
if (import.meta.main) main(Deno.args).then(Deno.exit);
