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
import { isTrue } from "../engine/env.ts";
import { TypedError } from "../engine/errors.ts";
import type { LogLevel } from "../engine/log.ts";
import { DRAIN_TIMEOUT, lightly } from "../engine/time.ts";
import { stdCliIsCached } from "../platform/deno.ts";
import { parseArgs } from "../offline/parse_args.ts";
import { descriptorsProblem, permittedEnv } from "../platform/descriptors.ts";
import type { RouterOptions } from "../router.ts";
import { exposureProblem, isLocal, parseAddress, parseAddresses } from "../serve/addresses.ts";

/** The settings of the program. */
export interface ProgramSettings {
  addresses: string[];
  install: string[];
  serve: ServeSettings;
  router: RouterOptions;
  /** How long requests may take to finish when it ends, in milliseconds. */
  drain: number;
  /** The addresses of `/livez`, `/readyz` and `/metrics`. */
  health: string[];
  /** How long a boot may make no progress, in milliseconds. */
  bootTimeout: number;
  /** After how long without a client it ends, in milliseconds. */
  exitIdleTime?: number;
  /** Only check the settings. */
  validate: boolean;
  pidfile?: string;
  logLevel: LogLevel;
  logFormat: "text" | "json";
  /** Where the log goes, if not to standard error. */
  logFile?: string;
  /** How lines about requests look, if there are any. */
  accessLog?: "text" | "json" | "combined";
  debug: boolean;
}

/** The settings that have a flag, in the order of `--help`. */
export const FLAGS: readonly (Setting & { flag: string })[] = ALL.map(([, setting]) => setting)
  .filter((setting): setting is Setting & { flag: string } => setting.flag !== undefined);
/** The same by their flags and by their letters. */
const BY_FLAG: ReadonlyMap<string, Setting & { flag: string }> = new Map([
  ...FLAGS.map((setting) => [setting.flag, setting] as const),
  ...FLAGS.map((setting) => [setting.letter ?? setting.flag, setting] as const),
]);
/** Flags that say what the program is to do, and not how the daemon is. */
const COMMANDS = ["help", "version", "validate"];

/** What a setting was given. */
interface Given {
  readonly texts: readonly string[];
  /** How such a text is written where it was given, to begin an error with. */
  written(text: string): string;
}

/**
 * Reads the command line.
 *
 * @returns The settings, or which of `help` and `version` is asked for in their place.
 * @throws {TypedError} ("bad parameter") With a message that says what is wrong and what is right.
 */
export async function parseFlags(
  args: readonly string[],
): Promise<ProgramSettings | "help" | "version"> {
  const given = await gather(await parse(args));
  const values = readValues(
    ({ flag }) => flag === undefined ? undefined : given.get(flag)?.texts,
    ({ flag }, text) => given.get(flag!)!.written(text),
  );
  const { hosts, install = [], pidfile, help, version, ...rest } = values;
  const { debug = isTrue(permittedEnv("DEBUG") ?? ""), health = [], ...other } = rest;
  const { bootTimeout = Infinity, exitIdleTime, validate = false, configFile: _, ...more } = other;
  const { logLevel = debug ? "debug" : "info", logFormat = "text", ...logged } = more;
  const { logFile, accessLog, ...settings } = logged;
  const serve = serveSettings(
    {
      ...pidfile !== undefined && !descriptorsProblem() && { handover: `${pidfile}.handover` },
      ...settings,
    },
    ({ flag }) => `--${flag}`,
  );
  // Its handover socket is bound first, whose error would not be of what was given.
  const folder = pidfile?.includes("/") ? pidfile.replace(/[^/]*$/, "") : ".";
  if (pidfile !== undefined && !help && !version && !isFolder(folder)) {
    throw bad(`--pidfile ${pidfile}: the directory ${folder} does not exist`);
  }
  const addresses = hosts ?? (help || version ? [] : [defaultHost()]);
  parseAddresses(addresses);
  for (const address of serve.tls?.ca ? [] : addresses) {
    const problem = serve.insecure ? undefined : await exposureProblem(parseAddress(address));
    if (problem) throw bad(`address "${address}": ${problem}`);
    if (debug) refuseProfiles(address);
  }
  for (const [i, address] of parseAddresses(health).entries()) {
    const problem = serve.insecure ? undefined : await exposureProblem(address);
    if (problem) throw bad(`--health ${health[i]}: ${problem}`);
  }
  if (help) return "help";
  if (version) return "version";
  if (exitIdleTime !== undefined && !addresses.some((address) => address.startsWith("fd:"))) {
    throw bad(
      "--exit-idle-time is for sockets that systemd has opened, expected -H fd://: " +
        "the daemon would not be started again for the next client",
    );
  }
  const logging = debug && logLevel === "debug";
  return {
    addresses,
    install,
    serve,
    router: { ...routerOptions(serve), logging },
    drain: serve.shutdownTimeout ?? DRAIN_TIMEOUT,
    health,
    bootTimeout,
    ...exitIdleTime !== undefined && { exitIdleTime },
    validate,
    ...pidfile !== undefined && { pidfile },
    logLevel,
    logFormat,
    ...logFile !== undefined && { logFile },
    ...accessLog !== undefined && { accessLog },
    debug,
  };
}

/** Refuses `--debug` at addresses that clients without a certificate can reach from elsewhere. */
export function refuseProfiles(address: string): void {
  if (isLocal(parseAddress(address))) return;
  throw bad(
    `address "${address}": --debug (or DEBUG) serves profiles, which show what is in memory, ` +
      "expected a local address, --tlsverify, or no --debug",
  );
}

/** What the variables of the environment begin with that stand for flags. */
const PREFIX = "FLOODGATE_";

/** The variable of the environment that stands for a flag. */
export function variableOf(flag: string): string {
  return PREFIX + flag.toUpperCase().replaceAll("-", "_");
}

/**
 * The variables that may stand for flags; undefined where permissions do not allow to list them.
 */
function variables(): string[] | undefined {
  if (Deno.permissions.querySync({ name: "env" }).state !== "granted") return undefined;
  return Object.keys(Deno.env.toObject()).filter((name) => name.startsWith(PREFIX));
}

/** What Kubernetes and Docker set in a container for a service of our name. */
const SERVICE = /_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT|PORT_\d+_\w+)$/;

/** A warning for each variable that is nearly that of a flag. Any other may be a module's own. */
export function misspelt(): string[] {
  const names = variables() ?? [];
  if (names.length === 0) return []; // As of most starts, which need no more than that.
  const known = FLAGS.filter(({ flag }) => !COMMANDS.includes(flag))
    .map(({ flag }) => variableOf(flag));
  return names.flatMap((name) => {
    if (known.includes(name) || SERVICE.test(name)) return [];
    const [distance, closest] = closestOf(name, known);
    // A letter in four at most: FLOODGATE_STATE is no misspelt FLOODGATE_HOST.
    const near = distance <= 2 && 4 * distance <= closest.length - PREFIX.length;
    return near ? [`${name} is no variable of a flag, did you mean ${closest}?`] : [];
  });
}

/**
 * All settings that were given, by flag. The command line goes before the environment, which is
 * read where permissions allow, and that before the file.
 *
 * @throws {TypedError} ("bad parameter") If the file disagrees with a flag or a variable.
 */
async function gather(args: ReadonlyMap<string, string[]>): Promise<ReadonlyMap<string, Given>> {
  const given = new Map<string, Given>();
  for (const [flag, texts] of args) {
    given.set(flag, { texts, written: (text) => `--${flag} ${text}` });
  }
  // Most starts have none, and spare asking for each.
  for (const { flag, list } of variables()?.length === 0 ? [] : FLAGS) {
    if (given.has(flag) || COMMANDS.includes(flag)) continue;
    const name = variableOf(flag);
    const value = permittedEnv(name)?.trim();
    if (!value) continue;
    const texts = list ? value.split(/\s+/) : [value];
    given.set(flag, { texts, written: (text) => `${name}=${text}` });
  }
  const path = given.get("config-file")?.texts.at(-1);
  if (path === undefined) return given;
  const keys = new Map(
    FLAGS.filter(({ flag }) => !COMMANDS.includes(flag) && flag !== "config-file")
      .map((setting) => [setting.key ?? setting.flag, setting]),
  );
  const { readConfigFile } = await import("./config_file.ts");
  const suggest = (key: string) => suggestion(key, [...keys.keys()], (name) => `"${name}"`);
  for (const [key, texts] of await readConfigFile(path, keys, suggest)) {
    const setting = keys.get(key)!;
    const other = given.get(setting.flag);
    if (!other) {
      const written = (text: string) => `--config-file ${path}: "${key}": ${JSON.stringify(text)}`;
      given.set(setting.flag, { texts, written });
    } else if (!agree(setting, texts, other.texts)) {
      const there = JSON.stringify(texts.join(" "));
      const elsewhere = other.texts.map((text) => other.written(text)).join(" ");
      throw bad(
        `--config-file ${path}: "${key}" is ${there} there, and not so by ${elsewhere}, ` +
          "expected one of them",
      );
    }
  }
  return given;
}

/** Whether texts are the same value, however they are written. */
function agree({ kind }: Setting, some: readonly string[], others: readonly string[]): boolean {
  return some.length === others.length &&
    some.every((text, i) => kind.parse(text) === kind.parse(others[i]!));
}

/** The texts that were given, by flag. */
async function parse(args: readonly string[]): Promise<Map<string, string[]>> {
  const parseArgs = await loadParseArgs();
  const written = canonical(args);
  // The parser is told of those flags only that are there: a start has few of them.
  const flags = [...new Set(written.map((arg) => arg.split("=", 1)[0]!.slice(2)))]
    .flatMap((name) => BY_FLAG.get(name) ?? []);
  const unexpected = (argument: unknown) =>
    bad(`unexpected argument "${argument}", expected only flags (--help lists them)`);
  const named = (takes: boolean) =>
    flags.filter((setting) => (setting.takes !== undefined) === takes).map(({ flag }) => flag);
  const texts = named(true);
  const parsed = parseArgs(written, {
    boolean: named(false),
    string: texts,
    collect: texts,
    unknown(arg: string, key?: string) {
      if (key === undefined) throw unexpected(arg);
      const meant = suggestion(key, FLAGS.map(({ flag }) => flag), (flag) => `--${flag}`);
      throw bad(`unknown flag ${arg.split("=", 1)[0]}, ${meant}`);
    },
  }) as Record<string, unknown>;
  const given = new Map<string, string[]>();
  for (const { flag } of flags) {
    const value = parsed[flag] as string[] | boolean;
    const values = Array.isArray(value) ? value : value ? ["1"] : [];
    if (values.includes("")) throw bad(`--${flag} needs a value`);
    if (values.length > 0) given.set(flag, values);
  }
  const [argument] = parsed._ as unknown[];
  if (argument !== undefined) throw unexpected(argument);
  return given;
}

/**
 * The arguments as `--flag` and `--flag=VALUE` only, which every parser reads alike. A value may
 * begin with a dash, as a number does, and letters may stand together: `-Dl warn`.
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
 * The parser of @std/cli if it is in Deno's cache, else the stand-in: a start must not wait for a
 * network, and some do not reach JSR. Tests hold both to the same behaviour.
 */
async function loadParseArgs(): Promise<typeof parseArgs> {
  const cli = stdCliIsCached() ? await loadStdCli() : undefined;
  return cli?.parseArgs ?? parseArgs;
}

/** @std/cli; undefined if it does not load in time, as where an earlier download broke off. */
function loadStdCli(): Promise<{ parseArgs: typeof parseArgs } | undefined> {
  return new Promise((resolve) => {
    import(STD_CLI).then(resolve, () => resolve(undefined));
    lightly(PATIENCE, () => resolve(undefined));
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
    // A connection first: where there is none, it spares Deno's network client, which takes 2 MiB.
    const port = Number(url.port) || (url.protocol === "http:" ? 80 : 443);
    const hostname = url.hostname.replace(/^\[(.*)\]$/, "$1");
    if (!behindProxy()) (await Deno.connect({ hostname, port })).close();
    // Then an answer, because other imports wait for one that waits for the network.
    await (await fetch(url, { signal: AbortSignal.timeout(JSR_PATIENCE) })).body?.cancel();
    await import(STD_CLI);
  } catch {
    // Some networks do not reach JSR. The stand-in is used there.
  }
}

/** Whether downloads go through a proxy, which may reach what we do not. */
function behindProxy(): boolean {
  return ["ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY"]
    .some((name) => Deno.env.get(name) || Deno.env.get(name.toLowerCase()));
}

/** The address without `--host`: where the sockets of the daemon's user are. */
function defaultHost(): string {
  const folder = Deno.env.get("XDG_RUNTIME_DIR") || (Deno.uid() === 0 ? "/run" : undefined);
  if (folder) return `unix://${folder.replace(/\/+$/, "")}/floodgate.sock`;
  return `unix://${Deno.env.get("TMPDIR") || "/tmp"}/floodgate-${Deno.uid()}.sock`;
}

/** What the user most likely meant by an unknown name. */
function suggestion(
  name: string,
  names: readonly string[],
  write: (name: string) => string,
): string {
  const [distance, closest] = closestOf(name, names);
  return distance <= 3 && distance < closest.length
    ? `did you mean ${write(closest)}? (--help lists them all)`
    : "expected one of those that --help lists";
}

/** Which of some names is most like a name, and by how many letters it differs. */
function closestOf(name: string, names: readonly string[]): [distance: number, closest: string] {
  return names
    .map((each): [number, string] => [editDistance(name, each), each])
    .reduce((best, each) => each[0] < best[0] ? each : best);
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

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch (error) {
    return !(error instanceof Deno.errors.NotFound); // Binding reports any other problem.
  }
}

/** The column in which `--help` describes flags, and its width. */
const COLUMN = 30;
const WIDTH = 80;
/** Its headings, by the first flag below each. */
const HEADINGS: Readonly<Record<string, string>> = {
  host: "Addresses and boot",
  group: "Sockets",
  tls: "TLS",
  insecure: "Clients",
  "header-timeout": "Limits",
  pidfile: "Process and log",
  "config-file": "Settings",
};

/** What `--help` prints. It describes the default address: to find it takes permissions. */
export function help(): string {
  const lines = FLAGS.map((setting) => {
    const { flag, letter, takes } = setting;
    const name = `  ${letter ? `-${letter},` : "   "} --${flag}${takes ? ` ${takes}` : ""}`;
    const text = wrap(meaning(setting).replaceAll("`", ""), WIDTH - COLUMN);
    const first = name.length < COLUMN ? name.padEnd(COLUMN) + text.shift() : name;
    const heading = HEADINGS[flag] === undefined ? [] : ["", `${HEADINGS[flag]}:`];
    return [...heading, first, ...text.map((line) => " ".repeat(COLUMN) + line)].join("\n");
  });
  const paragraphs = [
    "Binds its sockets, boots, and then serves: clients that connect meanwhile are held, not refused.",
    "TIME is in seconds, or has a unit: 500ms, 1.5s, 2m, 1h. SIZE is in bytes, or has a unit: 64kB, " +
    "10MB (10 000 000 bytes), 16MiB (16 777 216 bytes).",
    "Each flag can also be given by the environment, as FLOODGATE_LOG_LEVEL for --log-level.",
    "Signals: SIGTERM and SIGINT drain and end, a second one at once. SIGHUP reads certificates and " +
    "settings again, SIGUSR1 writes the running jobs to the log.",
    "Exit status: 0 if it drained, 1 if the boot failed, 2 for wrong flags, 128 + N if a signal N " +
    "ended it at once.",
  ];
  const [begin, ...end] = paragraphs.map((text) => wrap(text, WIDTH).join("\n"));
  const usage = "Usage: floodgate [FLAGS]\n       floodgate completion bash|zsh|fish";
  return [usage, `${begin}\n${lines.join("\n")}`, ...end].join("\n\n");
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
