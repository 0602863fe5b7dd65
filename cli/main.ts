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
import { TypedError } from "../engine/errors.ts";
import { createLogger, isLogged, type Logger, stderr } from "../engine/log.ts";
import { lightly, START } from "../engine/time.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import { denoProblem, telemetryIsOn } from "../platform/deno.ts";
import type { Router } from "../router.ts";
import type { LogFile } from "./log_file.ts";
import {
  complain,
  flush,
  listenToSignals,
  oneLine,
  say,
  surviveErrors,
  UserSignal,
  writeAtOnce,
} from "./process.ts";
import {
  fetchStdCli,
  FLAGS,
  help,
  misspelt,
  parseFlags,
  type ProgramSettings,
  refuseProfiles,
} from "./settings.ts";

/**
 * Runs the daemon as the command line does, until it is told to stop.
 *
 * @param args The command line's arguments.
 * @returns The exit status: 0 after a drain or `--help`, 1 if the boot failed, 2 if the arguments
 * are wrong. Why is one line on standard error.
 */
export async function main(args: readonly string[]): Promise<number> {
  const userSignal = new UserSignal();
  const outdated = denoProblem();
  if (outdated) return complain(outdated), 2;
  const flags = await readFlags(args);
  if (typeof flags === "number") return flags;
  if (flags.validate) return await validate(flags.serve);

  // Until the addresses are bound the log is kept back: if they cannot be, the one line that says
  // so is all there is to say.
  let logFile: LogFile | undefined;
  try {
    if (flags.logFile !== undefined) {
      logFile = new (await import("./log_file.ts")).LogFile(flags.logFile);
    }
  } catch (error) {
    return complain(error), 1;
  }
  const toFile = logFile && { write: (line: string) => logFile.write(line) };
  const write = createLogger({ level: "debug", format: flags.logFormat, ...toFile });
  // Where OpenTelemetry is on. Deno exports what goes through console, of which info is for stdout.
  const exportLine = telemetryIsOn()
    ? (await import("../platform/telemetry.ts")).logExport()
    : undefined;
  let early: Parameters<typeof write>[] | undefined = [];
  const log: Logger = Object.defineProperties(
    (...line: Parameters<typeof write>) => {
      if (!isLogged(log, line[0])) return;
      exportLine?.(...line);
      if (early) early.push(line);
      else write(...line);
    },
    // The level may change.
    { level: { get: () => flags.logLevel }, plain: { value: write.plain } },
  );
  const engine = new Engine({ log });
  userSignal.engine = engine;
  const stop = listenToSignals(engine, () => flags.drain);
  const surviving = surviveErrors(engine);
  const router = Promise.withResolvers<Router>();
  const { activation, stats, observe } = registerBuiltins(engine);
  const stopping = new Promise<void>((resolve) =>
    engine.stopping.addEventListener("abort", () => resolve(), { once: true })
  );

  let served: Promise<void> | undefined;
  let releasePidfile = () => {};
  let cancelFetch = () => {};
  try {
    const serving = await serve(engine, {
      ...flags.serve,
      addresses: flags.addresses,
      router: () => router.promise,
    });
    const { addresses, finished } = serving;
    served = finished;
    await Promise.all([userSignal.divert(), writeAtOnce()]);
    if (logFile) engine.onReload(() => logFile.reopen());
    if (flags.accessLog !== undefined) {
      const { AccessLog } = await import("../builtins/access_log.ts");
      observe(new AccessLog(flags.accessLog, toFile?.write ?? ((line) => stderr.write(line))));
    }
    engine.onReload(async () => {
      const next = await parseFlags(args);
      const { change } = await import("./reload.ts");
      return () => change(flags, next as ProgramSettings, serving, engine.log);
    });
    for (const warning of misspelt()) log("warn", warning);
    // What was inherited is known only now.
    if (flags.debug && !flags.serve.tls?.ca) addresses.forEach(refuseProfiles);
    early.splice(0).forEach((line) => write(...line));
    early = undefined;
    if (flags.pidfile) {
      const { writePidfile } = await import("./pidfile.ts");
      releasePidfile = writePidfile(flags.pidfile, flags.serve.takeover ?? false);
    }
    for (const address of addresses) {
      say(`listening on ${address}, try: ${tryIt(address, "version", flags.serve.tls)}`);
    }
    if (flags.health.length > 0) {
      const health = engine.job("servehealth", ...flags.health);
      health.setenv("SocketGroup", flags.serve.group ?? "");
      health.setenvBool("Insecure", flags.serve.insecure ?? false);
      for (const address of (await health.text()).trim().split("\n")) {
        say(`health on ${address}, try: ${tryIt(address, "readyz")}`);
      }
    }
    const { bootTimeout, exitIdleTime } = flags;
    const hanging = bootTimeout === Infinity
      ? undefined
      : (await import("./lifetime.ts")).hangingBoot(engine, bootTimeout);
    // A listener that fails, a boot that hangs and a signal to stop all end the wait.
    const ends = [finished.then(() => stopping), stopping, ...hanging ? [hanging.failed] : []];
    // Not by then, by which V8 finds what waits for the router, and puts it into an error's stack.
    const booting = async () => router.resolve(await boot(engine, flags));
    await Promise.race([booting(), ...ends]);
    hanging?.cancel();
    if (!engine.stopping.aborted) await engine.job("acceptconnections").run();
    cancelFetch = lightly(START, fetchStdCli);
    // What a script that deploys waits for.
    if (engine.predecessor) console.log(`serving in place of process ${engine.predecessor.pid}`);
    if (exitIdleTime !== undefined) {
      const { whenIdle } = await import("./lifetime.ts");
      whenIdle(engine, stats, exitIdleTime, () => {
        engine.log("info", `no client for ${exitIdleTime / 1_000} s: ending`);
        engine.shutdown({ drain: flags.drain });
      });
    }
    await finished;
    await engine.shutdown();
    return 0;
  } catch (error) {
    activation.fail(error);
    await served?.catch(() => {}); // It fails for the same reason.
    await engine.shutdown();
    if (flags.logFormat === "json") write("error", oneLine(error));
    else complain(error);
    return 1;
  } finally {
    cancelFetch();
    surviving();
    stop();
    releasePidfile();
    await flush();
  }
}

/** The settings; or the exit status, where the arguments are wrong or only ask for a text. */
async function readFlags(args: readonly string[]): Promise<ProgramSettings | number> {
  try {
    let text: string;
    if (args[0] === "completion") {
      const { completion } = await import("./completion.ts");
      text = completion(args[1], FLAGS).trimEnd();
    } else {
      const parsed = await parseFlags(args);
      if (typeof parsed !== "string") return parsed;
      text = parsed === "help" ? help() : version();
    }
    say(text);
    await flush();
    return 0;
  } catch (error) {
    // Without a permission there may be nothing wrong with the flags.
    if (error instanceof Deno.errors.NotCapable) return complain(error), 1;
    if (!(error instanceof TypedError)) throw error;
    return complain(error), 2;
  }
}

/** Makes the router, and boots with the modules that are to be installed. */
async function boot(engine: Engine, flags: ProgramSettings): Promise<Router> {
  const router = (await import("../router.ts")).createRouter(engine, flags.router);
  if (flags.install.length > 0) {
    const { install } = await import("./install.ts");
    for (const module of flags.install) {
      engine.progress(`installing ${module}`);
      await install(module, engine, router);
    }
  }
  if (flags.debug) {
    // Behind the modules' middleware, as are the other built-in routes.
    const { attachProfiler } = await import("../profiler/profiler.ts");
    await attachProfiler(router, engine);
    const { attachRoutes } = await import("../router/page.ts");
    attachRoutes(router);
  }
  return router;
}

function version(): string {
  const build = BUILD.commit ? `build ${BUILD.commit}, ` : "";
  const time = BUILD.time ? `built ${BUILD.time}, ` : "";
  return `floodgate ${VERSION} (${build}${time}API ${API_VERSION}, Deno ${Deno.version.deno})`;
}

/**
 * Checks what parsing has not: whether the certificates can be used, and whether the group exists.
 */
async function validate({ tls, group }: ServeSettings): Promise<number> {
  for (const warning of misspelt()) complain(`warning: ${warning}`);
  try {
    if (group !== undefined) await (await import("../serve/unix.ts")).groupId(group);
    if (tls) {
      const { Tls } = await import("../serve/tls.ts");
      const { nativeServe } = await import("../platform/http.ts");
      const warn: Logger = (_level, message) => complain(`warning: ${message}`);
      (await Tls.load(tls, { serve: nativeServe() }, warn)).close();
    }
  } catch (error) {
    return complain(error), 2;
  }
  say("configuration OK"); // In the words of dockerd.
  await flush();
  return 0;
}

function tryIt(address: string, path: string, tls?: ServeSettings["tls"]): string {
  const socket = /^unix:\/\/(.*)$/.exec(address)?.[1];
  if (socket?.startsWith("@")) {
    return `curl --abstract-unix-socket ${socket.slice(1)} http://localhost/${path}`;
  }
  if (socket !== undefined) return `curl --unix-socket ${socket} http://localhost/${path}`;
  if (!tls) return `curl ${address.replace("tcp:", "http:")}/${path}`;
  const client = tls.ca ? ` --cert cert.pem --key key.pem` : "";
  return `curl --cacert ca.pem${client} ${address.replace("tcp:", "https:")}/${path}`;
}
