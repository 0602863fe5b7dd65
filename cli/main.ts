/**
 * The command line: what it understands, and the daemon it runs.
 *
 * @module
 */

import { registerBuiltins } from "../builtins/builtins.ts";
import { milliseconds } from "../builtins/serveapi.ts";
import { Engine } from "../engine.ts";
import { BUILD } from "../engine/build.ts";
import { Env } from "../engine/env.ts";
import { TypedError } from "../engine/errors.ts";
import { createLogger, type LogLevel } from "../engine/log.ts";
import { API_VERSION, VERSION } from "../engine/version.ts";
import { denoProblem } from "../platform/deno.ts";
import { permittedEnv } from "../platform/descriptors.ts";
import { notify } from "../platform/notify.ts";
import type { Router, RouterOptions } from "../router.ts";
import { exposureProblem, isLocal, parseAddress } from "../serve/addresses.ts";
import { readHost, readOrigin } from "../serve/browsers.ts";
import { listenToSignals, oneLine, surviveErrors, writePidfile } from "./process.ts";

// It names the default and does not look for it, which would take permissions.
const HELP = `Usage: floodgate [FLAGS]

Binds its sockets, boots, and then serves: clients that connect meanwhile are held, not refused.

  -H, --host PROTO://ADDR      Listen there; repeatable. tcp://HOST:PORT, unix:///path, or
                               sockets that systemd has opened: fd:// or fd://* for all, fd://3
                               for a descriptor, fd://NAME (default: floodgate.sock in
                               $XDG_RUNTIME_DIR, or in /run as root, or floodgate-UID.sock in
                               $TMPDIR or /tmp)
      --install MODULE         Boot with this module, a path or URL that exports
                               install(engine, router); repeatable
  -G, --group GROUP            Group of unix sockets, by name or number (default: the process's)
      --takeover               Take the place of the daemon that answers on a unix socket once booted
      --reuse-port             Share tcp ports with other processes that do so too (SO_REUSEPORT)
      --tls                    TLS on tcp, with HTTP/1.1 and HTTP/2
      --tlsverify              TLS, and only for clients with a certificate; implies --tls
      --tlscacert PATH         Who signs clients' certificates (PEM), for --tlsverify
      --tlscert PATH           The daemon's certificate (PEM), its authority's after it
      --tlskey PATH            The daemon's private key (PEM), not encrypted
      --insecure               Allow tcp addresses that other machines can reach without --tlsverify:
                               anyone there may then use the API
      --allowed-host NAME      Also answer requests for this host on plain tcp; repeatable
                               (default: the address, and localhost)
      --api-cors-header VALUE  Allow browsers' requests from this origin, or * for any
      --header-timeout SEC     For a client's first request (default 10; 0: no limit)
      --idle-timeout SEC       Between requests (default 60; 0: no limit)
      --send-timeout SEC       For taking an answer that the daemon cannot see being taken: one of more
                               than 64 KiB that a plain Hono route gives whole (default 300; 0: no
                               limit)
      --max-connections N      At this many idle ones are ended, and clients wait (default: what
                               descriptors allow)
      --body-limit BYTES       Longest request body (default 16777216)
      --shutdown-timeout SEC   For requests to finish at SIGTERM or SIGINT (default 10)
  -p, --pidfile PATH           Write the process id there
  -D, --debug                  Log at level debug, each request too, unless -l says otherwise; serve
                               a profiler under /debug/pprof/, on local addresses only. The same as
                               DEBUG=1 in the environment
  -l, --log-level LEVEL        debug, info, warn or error (default info)
      --log-format FORMAT      text or json (default text)
  -v, --version                Print the version
  -h, --help                   Print this

Signals: SIGTERM and SIGINT drain and end; a second one ends at once. SIGHUP reads certificates anew.
`;

const FLAGS = {
  boolean: ["debug", "insecure", "takeover", "reuse-port", "tls", "tlsverify", "version", "help"],
  string: [
    "host",
    "install",
    "group",
    "pidfile",
    "log-level",
    "log-format",
    "tlscacert",
    "tlscert",
    "tlskey",
    "allowed-host",
    "api-cors-header",
    "shutdown-timeout",
    "header-timeout",
    "idle-timeout",
    "send-timeout",
    "max-connections",
    "body-limit",
  ],
  collect: ["host", "install", "allowed-host"],
  alias: {
    host: "H",
    debug: "D",
    group: "G",
    pidfile: "p",
    "log-level": "l",
    version: "v",
    help: "h",
  },
};

interface Flags {
  hosts: string[];
  install: string[];
  settings: Record<string, string>;
  router: RouterOptions;
  drain: number;
  pidfile?: string;
  logLevel: LogLevel;
  logFormat: "text" | "json";
  takeover: boolean;
  debug: boolean;
  show?: string;
}

/**
 * Runs the daemon as the command line does, until it is told to stop.
 *
 * @param args The command line's arguments.
 * @returns The exit status: 0 after a drain or `--help`, 1 if the boot failed, 2 if the arguments
 * are wrong or Deno is too old. Why is one line on standard error.
 */
export async function main(args: readonly string[]): Promise<number> {
  const complain = (error: unknown) => console.error(`floodgate: ${oneLine(error)}`);
  const outdated = denoProblem();
  if (outdated) return complain(outdated), 2;
  let flags: Flags;
  try {
    flags = await parseFlags(args);
  } catch (error) {
    // Without a permission there may be nothing wrong with the flags.
    if (error instanceof Deno.errors.NotCapable) return complain(error), 1;
    if (!(error instanceof TypedError)) throw error;
    complain(error);
    return 2;
  }
  if (flags.show !== undefined) {
    console.log(flags.show);
    return 0;
  }

  // Until the addresses are bound the log is kept back: if they cannot be, the one line that says
  // so is all there is to say.
  const write = createLogger({ level: flags.logLevel, format: flags.logFormat });
  let early: Parameters<typeof write>[] | undefined = [];
  const log = (...line: Parameters<typeof write>) => early ? early.push(line) : write(...line);
  const engine = new Engine({ log: Object.assign(log, { level: flags.logLevel }) });
  const stop = listenToSignals(engine, flags.drain);
  const surviving = surviveErrors(engine);
  const router = Promise.withResolvers<Router>();
  const { activation } = registerBuiltins(engine, { router: router.promise });
  const stopping = new Promise<void>((resolve) =>
    engine.stopping.addEventListener("abort", () => resolve(), { once: true })
  );

  const api = engine.job("serveapi", ...flags.hosts);
  for (const [key, value] of Object.entries(flags.settings)) api.setenv(key, value);
  const bound = Promise.withResolvers<string[]>();
  api.stdout.add({
    write: (chunk) => bound.resolve(new TextDecoder().decode(chunk).trim().split("\n")),
  });
  const served = api.run();
  served.catch(() => {}); // Awaited below, after the boot.
  let releasePidfile = () => {};
  try {
    // While it boots, a listener that fails and a signal to stop both end the wait.
    const booting = <T>(step: Promise<T>) =>
      Promise.race([step, served.then(() => stopping), stopping]);
    const addresses = await booting(bound.promise);
    // What was inherited is known only now.
    if (flags.debug && !flags.settings.TlsVerify) addresses?.forEach(refuseProfiles);
    early.splice(0).forEach((line) => write(...line));
    early = undefined;
    if (flags.pidfile) releasePidfile = writePidfile(flags.pidfile, flags.takeover);
    for (const address of addresses ?? []) {
      console.log(`listening on ${address}, try: ${tryIt(address, flags.settings)}`);
    }
    await booting((async () => {
      const app = (await import("../router.ts")).createRouter(engine, flags.router);
      if (flags.debug) {
        const { attachProfiler } = await import("../profiler/profiler.ts");
        await attachProfiler(app, engine);
      }
      for (const module of flags.install) {
        await notify(`STATUS=Booting ${module}`, engine.log);
        await install(module, engine, app);
      }
      router.resolve(app);
    })());
    if (!engine.stopping.aborted) await engine.job("acceptconnections").run();
    await served;
    await engine.shutdown();
    return 0;
  } catch (error) {
    activation.fail(error);
    await served.catch(() => {}); // It fails for the same reason.
    await engine.shutdown();
    complain(error);
    return 1;
  } finally {
    surviving();
    stop();
    releasePidfile();
  }
}

/** Reads the command line. Throws a TypedError whose message says what is wrong and what is right. */
async function parseFlags(args: readonly string[]): Promise<Flags> {
  const parseArgs = await loadParseArgs();
  const bad = (problem: string) => new TypedError("bad parameter", problem);
  const given = parseArgs([...args], {
    ...FLAGS,
    unknown(arg: string, key?: string) {
      throw bad(
        key === undefined
          ? `unexpected argument "${arg}", expected only flags (--help lists them)`
          : `unknown flag ${arg.split("=", 1)[0]}, ${suggestion(key)}`,
      );
    },
  }) as Record<string, unknown>;
  for (const name of FLAGS.string) {
    if ([given[name]].flat().includes("")) throw bad(`--${name} needs a value`);
  }
  const text = (name: string) => given[name] as string | undefined;
  const number = (name: string, least: number, whole = false) => {
    const value = text(name) === undefined ? undefined : Number(text(name));
    if (value === undefined || value >= least && (!whole || Number.isInteger(value))) return value;
    const kind = whole ? "a whole number" : "a number of seconds";
    throw bad(`--${name} ${text(name)}: expected ${kind} of at least ${least}`);
  };
  const choice = <T extends string>(name: string, choices: readonly T[]): T | undefined => {
    const value = text(name);
    if (value === undefined || (choices as readonly string[]).includes(value)) return value as T;
    throw bad(`--${name} ${value}: expected one of ${choices.join(", ")}`);
  };

  const show = given.help ? HELP.trimEnd() : given.version ? version() : undefined;
  const allowedHosts = (given["allowed-host"] as string[] | undefined ?? []).map(readHost);
  const cors = text("api-cors-header");
  if (cors !== undefined) readOrigin(cors);
  const debug = given.debug === true || debugFromEnvironment();
  const hosts = given.host as string[] | undefined ?? [];
  if (hosts.length === 0 && show === undefined) hosts.push(defaultHost());
  if (given.tlsverify) given.tls = true;
  for (const name of ["tlscert", "tlskey", ...given.tlsverify ? ["tlscacert"] : []]) {
    if (given.tls && !text(name)) {
      throw bad(
        `--tls${given.tlsverify ? "verify" : ""} needs --${name} and the path of a PEM file`,
      );
    }
    if (!given.tls && text(name)) throw bad(`--${name} is of no use without --tls or --tlsverify`);
  }
  if (text("tlscacert") && !given.tlsverify) {
    throw bad(
      "--tlscacert is of no use without --tlsverify: no client would be asked for a certificate",
    );
  }
  for (const host of hosts) {
    const problem = exposureProblem(parseAddress(host));
    if (problem && !given.insecure && !given.tlsverify) throw bad(`address "${host}": ${problem}`);
    if (debug && !given.tlsverify) refuseProfiles(host);
  }
  const logLevel = choice("log-level", ["debug", "info", "warn", "error"]) ??
    (debug ? "debug" : "info");
  const settings: Record<string, string> = {
    Takeover: given.takeover ? "1" : "",
    ReusePort: given["reuse-port"] ? "1" : "",
    SocketGroup: text("group") ?? "",
    Tls: given.tls ? "1" : "",
    TlsVerify: given.tlsverify ? "1" : "",
    TlsCa: text("tlscacert") ?? "",
    TlsCert: text("tlscert") ?? "",
    TlsKey: text("tlskey") ?? "",
    Insecure: given.insecure ? "1" : "",
    AllowedHosts: JSON.stringify(allowedHosts),
    CorsHeaders: cors ?? "",
    HeaderTimeout: String(number("header-timeout", 0) ?? ""),
    IdleTimeout: String(number("idle-timeout", 0) ?? ""),
    SendTimeout: String(number("send-timeout", 0) ?? ""),
    MaxConnections: String(number("max-connections", 1, true) ?? ""),
  };
  return {
    hosts,
    install: given.install as string[] | undefined ?? [],
    settings,
    router: {
      cors,
      bodyLimit: number("body-limit", 0, true),
      sendTimeout: milliseconds(number("send-timeout", 0)),
      logging: debug && logLevel === "debug",
    },
    drain: (number("shutdown-timeout", 0) ?? 10) * 1_000,
    pidfile: text("pidfile"),
    logLevel,
    logFormat: choice("log-format", ["text", "json"]) ?? "text",
    takeover: given.takeover === true,
    debug,
    show,
  };
}

/** Profiles show what is in memory, and take time: they are not for everybody. */
function refuseProfiles(address: string): void {
  if (isLocal(parseAddress(address))) return;
  throw new TypedError(
    "bad parameter",
    `address "${address}": --debug (or DEBUG) serves profiles, which show what is in memory, expected a local address, --tlsverify, or no --debug`,
  );
}

/** How many turns of the event loop @std/cli gets to load from the cache. It takes about three. */
const CLI_TURNS = 6;

/**
 * The parser of @std/cli where it is in Deno's cache, which takes a millisecond. Where it is not, it is
 * downloaded for the next start, and this one waits for no network: the stand-in, which the tests hold
 * to the same behaviour, does what it would. Some networks do not reach JSR at all.
 */
async function loadParseArgs(): Promise<typeof import("../offline/parse_args.ts")["parseArgs"]> {
  // No literal, because Deno fetches what those name before it runs the first line.
  const specifier = "jsr:@std/cli@^1/parse-args";
  let cli: typeof import("../offline/parse_args.ts") | undefined;
  import(specifier).then((loaded) => cli = loaded, () => {});
  // Writing nothing takes a turn. A timer would take longer to load than all that binds a socket.
  for (let turn = 0; !cli && turn < CLI_TURNS; turn++) await Deno.stderr.write(new Uint8Array(0));
  return (cli ?? await import("../offline/parse_args.ts")).parseArgs;
}

/** Whether DEBUG asks for what --debug does. Who may not look is not told to: nobody is asked. */
function debugFromEnvironment(): boolean {
  const env = new Env();
  env.set("DEBUG", permittedEnv("DEBUG") ?? "");
  return env.getBool("DEBUG");
}

function version(): string {
  const build = BUILD.commit ? `build ${BUILD.commit}, ` : "";
  const time = BUILD.time ? `built ${BUILD.time}, ` : "";
  return `floodgate ${VERSION} (${build}${time}API ${API_VERSION}, Deno ${Deno.version.deno})`;
}

/** The flag that somebody most likely meant. */
function suggestion(key: string): string {
  const names = [...FLAGS.boolean, ...FLAGS.string];
  const [distance, closest] = names.map((name): [number, string] => [editDistance(key, name), name])
    .sort(([a], [b]) => a - b)[0];
  return distance <= 3 && distance < closest.length
    ? `did you mean --${closest}? (--help lists them all)`
    : "expected one of those that --help lists";
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(next[j - 1] + 1, row[j] + 1, row[j - 1] + Number(a[i - 1] !== b[j - 1]));
    }
    row = next;
  }
  return row[b.length];
}

/** Where a daemon listens that was not told: where its user's sockets are. */
function defaultHost(): string {
  const folder = Deno.env.get("XDG_RUNTIME_DIR") || (Deno.uid() === 0 ? "/run" : undefined);
  if (folder) return `unix://${folder.replace(/\/+$/, "")}/floodgate.sock`;
  return `unix://${Deno.env.get("TMPDIR") || "/tmp"}/floodgate-${Deno.uid()}.sock`;
}

function tryIt(address: string, settings: Flags["settings"]): string {
  const socket = /^unix:\/\/(.*)$/.exec(address)?.[1];
  if (socket?.startsWith("@")) {
    return `curl --abstract-unix-socket ${socket.slice(1)} http://localhost/version`;
  }
  if (socket !== undefined) return `curl --unix-socket ${socket} http://localhost/version`;
  if (!settings.Tls) return `curl ${address.replace("tcp:", "http:")}/version`;
  const client = settings.TlsVerify ? ` --cert cert.pem --key key.pem` : "";
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
      `cannot load --install ${module}, expected the path or URL of a module: ${oneLine(error)}`,
      { cause: error },
    );
  }
  if (typeof loaded.install !== "function") {
    throw new Error(`--install ${module} exports no function install(engine, router)`);
  }
  try {
    await loaded.install(engine, router);
  } catch (error) {
    throw new Error(`install of ${module} failed: ${oneLine(error)}`, { cause: error });
  }
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
