/**
 * The settings of the program, as its arguments give them, and how `--help` tells of them.
 *
 * @module
 */

import {
  ALL,
  defaultOf,
  readValues,
  routerOptions,
  type ServeSettings,
  serveSettings,
  type Setting,
} from "../builtins/settings.ts";
import { Env } from "../engine/env.ts";
import { TypedError } from "../engine/errors.ts";
import type { LogLevel } from "../engine/log.ts";
import { DRAIN_TIMEOUT } from "../engine/time.ts";
import { stdCliIsCached } from "../platform/deno.ts";
import { descriptorsProblem, permittedEnv } from "../platform/descriptors.ts";
import type { RouterOptions } from "../router.ts";
import { exposureProblem, isLocal, parseAddress, parseAddresses } from "../serve/addresses.ts";

/** What the program is told. */
export interface ProgramSettings {
  addresses: string[];
  install: string[];
  serve: ServeSettings;
  router: RouterOptions;
  /** How long requests may take to finish when it ends, in milliseconds. */
  drain: number;
  pidfile?: string;
  logLevel: LogLevel;
  logFormat: "text" | "json";
  debug: boolean;
}

/** The settings that have a flag, by it and by its letter. */
const BY_FLAG = new Map<string, Setting & { flag: string }>();
for (const [, setting] of ALL) {
  const { flag, letter } = setting;
  if (flag === undefined) continue;
  BY_FLAG.set(flag, { ...setting, flag });
  if (letter !== undefined) BY_FLAG.set(letter, { ...setting, flag });
}
const FLAGS = [
  ...new Map([...BY_FLAG.values()].map((setting) => [setting.flag, setting])).values(),
];

/**
 * Reads the command line.
 *
 * @returns The settings, or which of `help` and `version` is asked for in their place.
 * @throws {TypedError} ("bad parameter") With a message that says what is wrong and what is right.
 */
export async function parseFlags(
  args: readonly string[],
): Promise<ProgramSettings | "help" | "version"> {
  const given = await parse(args);
  const values = readValues(
    ({ flag }) => flag === undefined ? undefined : given.get(flag),
    ({ flag }, text) => `--${flag} ${text}`,
  );
  const { hosts, install = [], pidfile, ...rest } = values;
  const { help, version, debug = debugFromEnvironment(), logFormat = "text", ...serving } = rest;
  const { logLevel = debug ? "debug" : "info", ...settings } = serving;
  const serve = serveSettings(
    {
      ...pidfile !== undefined && !descriptorsProblem() && { handover: `${pidfile}.handover` },
      ...settings,
    },
    ({ flag }) => `--${flag}`,
  );
  const addresses = hosts ?? (help || version ? [] : [defaultHost()]);
  parseAddresses(addresses);
  for (const address of serve.tls?.ca ? [] : addresses) {
    const problem = serve.insecure ? undefined : await exposureProblem(parseAddress(address));
    if (problem) throw bad(`address "${address}": ${problem}`);
    if (debug) refuseProfiles(address);
  }
  if (help) return "help";
  if (version) return "version";
  const logging = debug && logLevel === "debug";
  return {
    addresses,
    install,
    serve,
    router: { ...routerOptions(serve), logging },
    drain: serve.shutdownTimeout ?? DRAIN_TIMEOUT,
    ...pidfile !== undefined && { pidfile },
    logLevel,
    logFormat,
    debug,
  };
}

/** Profiles show what is in memory, and take time: they are for this machine, or for known clients. */
export function refuseProfiles(address: string): void {
  if (isLocal(parseAddress(address))) return;
  throw bad(
    `address "${address}": --debug (or DEBUG) serves profiles, which show what is in memory, ` +
      "expected a local address, --tlsverify, or no --debug",
  );
}

/** The texts that were given, by flag. */
async function parse(args: readonly string[]): Promise<Map<string, string[]>> {
  const parseArgs = await loadParseArgs();
  const named = (takes: boolean) =>
    FLAGS.filter((setting) => (setting.takes !== undefined) === takes).map(({ flag }) => flag);
  const texts = named(true);
  const parsed = parseArgs(canonical(args), {
    boolean: named(false),
    string: texts,
    collect: texts,
    unknown(arg: string, key?: string) {
      throw bad(
        key === undefined
          ? `unexpected argument "${arg}", expected only flags (--help lists them)`
          : `unknown flag ${arg.split("=", 1)[0]}, ${suggestion(key)}`,
      );
    },
  }) as Record<string, unknown>;
  const given = new Map<string, string[]>();
  for (const { flag } of FLAGS) {
    const value = parsed[flag] as string[] | boolean;
    const values = Array.isArray(value) ? value : value ? ["1"] : [];
    if (values.includes("")) throw bad(`--${flag} needs a value`);
    if (values.length > 0) given.set(flag, values);
  }
  const [argument] = parsed._ as unknown[];
  if (argument !== undefined) {
    throw bad(`unexpected argument "${argument}", expected only flags (--help lists them)`);
  }
  return given;
}

/**
 * The arguments in the one form in which parsers differ in nothing: `--flag` and `--flag=VALUE`. A value
 * that begins with a dash, as a number may, is a value, and letters may stand together: `-Dl warn`.
 */
function canonical(args: readonly string[]): string[] {
  const written: string[] = [];
  const rest = [...args];
  for (let arg; (arg = rest.shift()) !== undefined;) {
    if (arg === "--") return [...written, arg, ...rest];
    const [, flag, attached] = /^--([^=]+)(?:=([^]*))?$/.exec(arg) ?? [];
    if (flag !== undefined) {
      written.push(BY_FLAG.has(flag) && flag.length > 1 ? one(flag, attached, rest) : arg);
      continue;
    }
    let letters = /^-([^-][^]*)$/.exec(arg)?.[1];
    if (letters === undefined) written.push(arg);
    while (letters) {
      const letter = letters.slice(0, 1);
      letters = letters.slice(1);
      const takes = BY_FLAG.get(letter)?.takes !== undefined;
      const value = takes && letters !== "" ? letters.replace(/^=/, "") : undefined;
      written.push(BY_FLAG.has(letter) ? one(letter, value, rest) : `-${letter}`);
      if (takes) break;
    }
  }
  return written;
}

/** A flag with its value, which may be the next argument. */
function one(name: string, attached: string | undefined, rest: string[]): string {
  const { flag, takes } = BY_FLAG.get(name)!;
  if (takes === undefined) {
    if (attached === undefined || attached === "true") return `--${flag}`;
    if (attached === "false") return `--${flag}=false`;
    throw bad(`--${flag}=${attached}: expected --${flag} by itself, or true or false`);
  }
  const value = attached ?? rest.shift() ?? "";
  // What looks like a flag is one that follows, unless it is a number.
  if (attached === undefined && /^-(?![\d.])/.test(value)) {
    throw bad(`--${flag} needs a value, expected one before ${value}`);
  }
  return `--${flag}=${value}`;
}

// No literal, because Deno fetches what those name before it runs the first line.
const STD_CLI = "jsr:@std/cli@^1/parse-args";

/** How long @std/cli may take to load from the cache, in milliseconds. It takes 2. */
const PATIENCE = 1_000;

/**
 * The parser of @std/cli where it is in Deno's cache. Where it is not, no start waits for a network, which
 * may not reach JSR at all: the stand-in, which the tests hold to the same behaviour, does what it would.
 */
async function loadParseArgs(): Promise<typeof import("../offline/parse_args.ts")["parseArgs"]> {
  const cli = stdCliIsCached() ? await loadStdCli() : undefined;
  return (cli ?? await import("../offline/parse_args.ts")).parseArgs;
}

/** @std/cli; undefined where its download broke off, and Deno asks for the rest. */
function loadStdCli(): Promise<typeof import("../offline/parse_args.ts") | undefined> {
  return new Promise((resolve) => {
    import(STD_CLI).then(resolve, () => resolve(undefined));
    // Not by setTimeout, which takes longer to load than all that binds a socket.
    AbortSignal.timeout(PATIENCE).addEventListener("abort", () => resolve(undefined));
  });
}

/** How long JSR may take to answer, in milliseconds. */
const JSR_PATIENCE = 10_000;

/** Downloads @std/cli for the next start, where it is not in the cache. For after the boot. */
export async function fetchStdCli(): Promise<void> {
  // A binary has no other modules than those that it was compiled with.
  if (Deno.build.standalone || stdCliIsCached() !== false) return;
  const url = new URL("@std/cli/meta.json", Deno.env.get("JSR_URL") || "https://jsr.io/");
  if (Deno.permissions.querySync({ name: "net", host: url.host }).state !== "granted") return;
  try {
    // Asked first, because other imports wait for one that waits for the network.
    await (await fetch(url, { signal: AbortSignal.timeout(JSR_PATIENCE) })).body?.cancel();
    await import(STD_CLI);
  } catch {
    // Some networks do not reach JSR. The stand-in does as well.
  }
}

/** Whether DEBUG asks for what --debug does, where we may look. */
function debugFromEnvironment(): boolean {
  const env = new Env();
  env.set("DEBUG", permittedEnv("DEBUG") ?? "");
  return env.getBool("DEBUG");
}

/** Where a daemon listens that was not told: where its user's sockets are. */
function defaultHost(): string {
  const folder = Deno.env.get("XDG_RUNTIME_DIR") || (Deno.uid() === 0 ? "/run" : undefined);
  if (folder) return `unix://${folder.replace(/\/+$/, "")}/floodgate.sock`;
  return `unix://${Deno.env.get("TMPDIR") || "/tmp"}/floodgate-${Deno.uid()}.sock`;
}

/** The flag that was most likely meant. */
function suggestion(key: string): string {
  const [distance, closest] = FLAGS
    .map(({ flag }): [number, string] => [editDistance(key, flag), flag])
    .reduce((best, each) => each[0] < best[0] ? each : best);
  return distance <= 3 && distance < closest.length
    ? `did you mean --${closest}? (--help lists them all)`
    : "expected one of those that --help lists";
}

/** How many letters have to be put in, left out or changed (Levenshtein). */
function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (const [i, letter] of [...a].entries()) {
    let [diagonal = 0, left] = [row[0], i + 1];
    row = row.map((above, j) => {
      if (j > 0) left = Math.min(left + 1, above + 1, diagonal + Number(letter !== b[j - 1]));
      diagonal = above;
      return left;
    });
  }
  return row.at(-1)!;
}

/** Where `--help` tells what a flag is for, and how wide it is. */
const COLUMN = 31;
const WIDTH = 100;

/** What `--help` prints. It names the default address and does not look for it, which takes permissions. */
export function help(): string {
  const lines = FLAGS.map((setting) => {
    const { flag, letter, takes } = setting;
    const name = `  ${letter ? `-${letter},` : "   "} --${flag}${takes ? ` ${takes}` : ""} `;
    const text = wrap(meaning(setting).replaceAll("`", ""), WIDTH - COLUMN);
    const first = name.length <= COLUMN ? name.padEnd(COLUMN) + text.shift() : name;
    return [first, ...text.map((line) => " ".repeat(COLUMN) + line)].join("\n");
  });
  return `Usage: floodgate [FLAGS]

Binds its sockets, boots, and then serves: clients that connect meanwhile are held, not refused.

${lines.join("\n")}

TIME is in seconds, or has a unit: 500ms, 1.5s, 2m, 1h. SIZE is in bytes, or has a unit: 64kB, 10MB
(10 000 000 bytes), 16MiB (16 777 216 bytes).

Signals: SIGTERM and SIGINT drain and end, a second one at once. SIGHUP reads certificates anew,
SIGUSR1 writes the running jobs to the log.`;
}

/** What a setting is for, with its default. */
export function meaning(setting: Setting): string {
  const value = defaultOf(setting);
  const notes = [
    ...value === undefined ? [] : [`default: ${value}`],
    ...setting.zero === undefined ? [] : [`0: ${setting.zero}`],
  ];
  return setting.help + (notes.length > 0 ? ` (${notes.join("; ")})` : "");
}

function wrap(text: string, width: number): string[] {
  const lines = [""];
  for (const word of text.split(" ")) {
    const line = lines.at(-1)!;
    if (line !== "" && line.length + 1 + word.length > width) lines.push(word);
    else lines[lines.length - 1] = line === "" ? word : `${line} ${word}`;
  }
  return lines;
}

function bad(problem: string): TypedError {
  return new TypedError("bad parameter", problem);
}
