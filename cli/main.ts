/**
 * The command line: what it understands, and the daemon it runs.
 *
 * @module
 */

import { registerBuiltins } from "../builtins/builtins.ts";
import { serve } from "../builtins/serveapi.ts";
import type { ServeSettings } from "../builtins/settings.ts";
import { Engine } from "../engine.ts";
import { BUILD } from "../engine/build.ts";
import { isError, TypedError } from "../engine/errors.ts";
import { createLogger } from "../engine/log.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import { denoProblem } from "../platform/deno.ts";
import type { Router } from "../router.ts";
import {
  complain,
  flush,
  listenToSignals,
  listJobsAtUserSignal,
  oneLine,
  say,
  surviveErrors,
} from "./process.ts";
import { fetchStdCli, help, parseFlags, refuseProfiles } from "./settings.ts";

/**
 * Runs the daemon as the command line does, until it is told to stop.
 *
 * @param args The command line's arguments.
 * @returns The exit status: 0 after a drain or `--help`, 1 if the boot failed, 2 if the arguments
 * are wrong. Why is one line on standard error.
 */
export async function main(args: readonly string[]): Promise<number> {
  const listJobsOf = listJobsAtUserSignal();
  const outdated = denoProblem();
  if (outdated) return complain(outdated), 2;
  let flags: Awaited<ReturnType<typeof parseFlags>>;
  try {
    flags = await parseFlags(args);
  } catch (error) {
    // Without a permission there may be nothing wrong with the flags.
    if (error instanceof Deno.errors.NotCapable) return complain(error), 1;
    if (!(error instanceof TypedError)) throw error;
    return complain(error), 2;
  }
  if (typeof flags === "string") {
    say(flags === "help" ? help() : version());
    await flush();
    return 0;
  }

  // Until the addresses are bound the log is kept back: if they cannot be, the one line that says
  // so is all there is to say.
  const write = createLogger({ level: flags.logLevel, format: flags.logFormat });
  const json = flags.logFormat === "json";
  let early: Parameters<typeof write>[] | undefined = [];
  const log = (...line: Parameters<typeof write>) => early ? early.push(line) : write(...line);
  const engine = new Engine({ log: Object.assign(log, { level: flags.logLevel }) });
  listJobsOf(engine);
  const stop = listenToSignals(engine, flags.drain);
  const surviving = surviveErrors(engine);
  const router = Promise.withResolvers<Router>();
  const { activation } = registerBuiltins(engine);
  const stopping = new Promise<void>((resolve) =>
    engine.stopping.addEventListener("abort", () => resolve(), { once: true })
  );

  let served: Promise<void> | undefined;
  let releasePidfile = () => {};
  try {
    const { addresses, finished } = await serve(engine, {
      ...flags.serve,
      addresses: flags.addresses,
      router: () => router.promise,
    });
    served = finished;
    // What was inherited is known only now.
    if (flags.debug && !flags.serve.tls?.ca) addresses.forEach(refuseProfiles);
    early.splice(0).forEach((line) => write(...line));
    early = undefined;
    if (flags.pidfile) {
      const { writePidfile } = await import("./pidfile.ts");
      releasePidfile = writePidfile(flags.pidfile, flags.serve.takeover ?? false);
    }
    for (const address of addresses) {
      say(`listening on ${address}, try: ${tryIt(address, flags.serve.tls)}`);
    }
    const boot = async () => {
      const app = (await import("../router.ts")).createRouter(engine, flags.router);
      for (const module of flags.install) {
        engine.progress(`installing ${module}`);
        await install(module, engine, app);
      }
      if (flags.debug) {
        // Behind the modules' middleware, as are the other built-in routes.
        const { attachProfiler } = await import("../profiler/profiler.ts");
        await attachProfiler(app, engine);
        const { attachRoutes } = await import("../router/page.ts");
        attachRoutes(app);
      }
      router.resolve(app);
    };
    // A listener that fails and a signal to stop both end the wait.
    await Promise.race([boot(), finished.then(() => stopping), stopping]);
    if (!engine.stopping.aborted) await engine.job("acceptconnections").run();
    fetchStdCli();
    // What a script that deploys waits for.
    if (engine.predecessor) console.log(`serving in place of process ${engine.predecessor.pid}`);
    await finished;
    await engine.shutdown();
    return 0;
  } catch (error) {
    activation.fail(error);
    await served?.catch(() => {}); // It fails for the same reason.
    await engine.shutdown();
    if (json) write("error", oneLine(error));
    else complain(error);
    return 1;
  } finally {
    surviving();
    stop();
    releasePidfile();
    await flush();
  }
}

function version(): string {
  const build = BUILD.commit ? `build ${BUILD.commit}, ` : "";
  const time = BUILD.time ? `built ${BUILD.time}, ` : "";
  return `floodgate ${VERSION} (${build}${time}API ${API_VERSION}, Deno ${Deno.version.deno})`;
}

function tryIt(address: string, tls: ServeSettings["tls"]): string {
  const socket = /^unix:\/\/(.*)$/.exec(address)?.[1];
  if (socket?.startsWith("@")) {
    return `curl --abstract-unix-socket ${socket.slice(1)} http://localhost/version`;
  }
  if (socket !== undefined) return `curl --unix-socket ${socket} http://localhost/version`;
  if (!tls) return `curl ${address.replace("tcp:", "http:")}/version`;
  const client = tls.ca ? ` --cert cert.pem --key key.pem` : "";
  return `curl --cacert ca.pem${client} ${address.replace("tcp:", "https:")}/version`;
}

async function install(module: string, engine: Engine, router: Router): Promise<void> {
  // A binary has the examples in it, and a host of the program has them beside it.
  const url = /^[a-z][a-z\d+.-]+:/i.test(module)
    ? module
    : module.startsWith("examples/") && !exists(module)
    ? new URL(`../${module}`, import.meta.url).href
    : urlOf(module);
  let loaded: { install?: unknown };
  try {
    loaded = await import(url);
  } catch (error) {
    throw new Error(
      `cannot load --install ${module}, expected the path or URL of a module: ` +
        withPlace(error),
      { cause: error },
    );
  }
  if (typeof loaded.install !== "function") {
    throw new Error(`--install ${module} exports no function install(engine, router)`);
  }
  let installed: Partial<Disposable & AsyncDisposable> | undefined;
  try {
    installed = await loaded.install(engine, router);
  } catch (error) {
    throw new Error(`install of ${module} failed: ${withPlace(error)}`, { cause: error });
  }
  if (installed?.[Symbol.asyncDispose] || installed?.[Symbol.dispose]) {
    engine.onShutdown(
      () => (installed[Symbol.asyncDispose] ?? installed[Symbol.dispose])!.call(installed),
      { name: `of ${module}` },
    );
  }
}

/** The first line of an error's message, with the file and the line of its author. */
function withPlace(error: unknown): string {
  const line = oneLine(error);
  const { message = "", stack = "" } = isError(error) ? error : {};
  // Of a syntax error they are in the message, below the code that is meant.
  const places = `${message}\n${stack}`.matchAll(/(?:file|https?):\/\/[^\s()]+:\d+:\d+/g);
  const place = [...places].map(([place]) => place)
    .find((place) => !place.startsWith(import.meta.url));
  return place === undefined || line.includes(place) ? line : `${line}, at ${place}`;
}

// Not by node:fs and node:url, whose loading would add 40 ms to a boot, and 10 MiB to the daemon.
function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false; // Whatever keeps us from seeing it, to import it will say better.
  }
}

function urlOf(path: string): string {
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  return new URL(`file://${encodeURI(absolute).replace(/[?#]/g, encodeURIComponent)}`).href;
}
