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
 * import { Engine, registerBuiltins, serve } from "./mod.ts";
 *
 * const engine = new Engine();
 * registerBuiltins(engine);
 * const { finished } = await serve(engine, { addresses: ["tcp://127.0.0.1:0"] });
 * // ... boot, as long as it takes: clients that connect are held ...
 * await engine.job("acceptconnections").run();
 * await engine.shutdown();
 * await finished;
 * ```
 *
 * `createRouter` is in `router.ts`, which loads Hono: see {@linkcode ServeOptions.router}.
 *
 * Importing this module does nothing by itself, and needs nothing from JSR.
 *
 * @module
 */

import { main } from "./cli/main.ts";
import type { Engine } from "./engine.ts";
import type { Router } from "./router.ts";

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
  type Peer,
  type Progress,
  type Provided,
  type Provisions,
  type ReloadHandler,
  type Requester,
  type ShutdownOptions,
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
export { type RouterSource, serve, type ServeOptions, type Serving } from "./builtins/serveapi.ts";
export type { ServeSettings } from "./builtins/settings.ts";
export type { DaemonStats } from "./builtins/info.ts";
export type { CertificateFiles } from "./serve/tls.ts";
export type { ConnectionStats } from "./serve/connections.ts";
export type { Fetcher } from "./serve/handler.ts";
export type { ApiStats, ListenerStats } from "./serve/listeners.ts";
export type {
  AnswerKind,
  AnswerSpec,
  Bindings,
  Body,
  BodyKind,
  ClientCertificate,
  DOCKER_API,
  DockerInput,
  DockerJob,
  Fields,
  InputOf,
  JsonSchema,
  Parameter,
  ParameterKind,
  ParameterOptions,
  Route,
  Router,
  RouterOptions,
  SchemaIssue,
  SchemaResult,
  StandardSchema,
  Upgrade,
  UpgradedConnection,
} from "./router.ts";

/**
 * What a module given to `--install` exports as `install`. It runs after the addresses are bound
 * and before the gate opens: it boots what the daemon needs, registers jobs and adds routes. What
 * it throws ends the daemon. What it returns is disposed of in {@linkcode Engine.shutdown}, as if
 * {@linkcode Engine.onShutdown} had been told to at that moment.
 */
export type Installer = (
  engine: Engine,
  router: Router,
) => Installed | Promise<Installed>;

/** What an {@linkcode Installer} may return: what ends it, such as an `AsyncDisposableStack`. */
export type Installed = void | Disposable | AsyncDisposable;

/**
 * Adds `/debug/pprof/`: a page that tells what the daemon is at, profiles that `go tool pprof` and
 * Chrome's DevTools read (`profile`, `heap`, `allocs`, `trace`), and the jobs behind them. The
 * command line does so with `--debug` only: a client sees what is in the program's memory by them,
 * and can slow it down.
 */
export async function attachProfiler(router: Router, engine: Engine): Promise<void> {
  const profiler = await import("./profiler/profiler.ts");
  await profiler.attachProfiler(router, engine);
}

// What else is loaded before a socket is bound, by name. For each import that brings a module in,
// Deno looks up in the source map of its file where it stands: with all of them here it reads one
// map in place of ten, and sockets are bound 4 % sooner. A module more costs 0.4 ms.
import "./builtins/events.ts";
import "./builtins/info.ts";
import "./builtins/settings.ts";
import "./cli/process.ts";
import "./cli/settings.ts";
import "./engine/build.ts";
import "./engine/env.ts";
import "./engine/errors.ts";
import "./engine/json.ts";
import "./engine/lines.ts";
import "./engine/log.ts";
import "./engine/streams.ts";
import "./engine/time.ts";
import "./engine/version.ts";
import "./offline/parse_args.ts";
import "./platform/deno.ts";
import "./platform/descriptors.ts";
import "./platform/net.ts";
import "./router/limits.ts";
import "./serve/addresses.ts";
import "./serve/unix.ts";

// Not awaited: a module that main installs may import this one, which is loaded only when its own
// top level is done.
if (import.meta.main) main(Deno.args).then(Deno.exit);
