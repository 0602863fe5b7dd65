/**
 * The settings of a daemon, each once: its flag, the variable that the job `serveapi` reads, what a
 * value looks like, its default and what it is for. The flags, `--help`, what `serveapi` reads and the
 * tables in docs/ come from here.
 *
 * A text becomes a value here, and nowhere else: times are milliseconds from then on, sizes bytes, and
 * `Infinity` is no limit.
 *
 * @module
 */

import type { Env } from "../engine/env.ts";
import { TypedError } from "../engine/errors.ts";
import type { LogLevel } from "../engine/log.ts";
import { DRAIN_TIMEOUT } from "../engine/time.ts";
import { HOLD } from "../listenbuffer.ts";
import type { RouterOptions } from "../router.ts";
import { BODIES_LIMIT, BODY_LIMIT, JSON_LIMIT, SEND_TIMEOUT } from "../router/limits.ts";
import { readHost, readOrigins } from "../serve/browsers.ts";
import { HEADER_TIMEOUT, IDLE_TIMEOUT } from "../serve/connections.ts";
import type { CertificateFiles } from "../serve/tls.ts";
import { MAX_CONNECTION_REQUESTS } from "../serve/workload.ts";

/** What the values of a setting look like. */
export interface Kind<T> {
  /** What a text has to be, in words. */
  readonly expected: string;
  /** The value of a text; undefined if it is none. May throw a TypedError that says more. */
  parse(text: string): T | undefined;
  /** All texts that are values, where they are few. */
  readonly choices?: readonly string[];
  /** A value as it is written. Default: by `String`. */
  format?(value: T): string;
  /** What a value that is a number has to be, in words, the least that it may be, and if it is whole. */
  readonly number?: { readonly unit: string; readonly least: number; readonly whole?: true };
}

/** One setting. */
export interface Setting<T = unknown> {
  /** Its flag, without the dashes. Undefined: it is not for the command line. */
  readonly flag?: string;
  /** The flag's letter. */
  readonly letter?: string;
  /** What stands for the value in `--help`. Undefined: the flag has none, and is on or off. */
  readonly takes?: string;
  /** Its name in a configuration file. Default: the flag. */
  readonly key?: string;
  /** The variable of `serveapi`. Undefined: it is for the command line only. */
  readonly variable?: string;
  /** What its values look like. */
  readonly kind: Kind<T>;
  /** Whether it has any number of values: a flag that is repeated, a JSON list in a variable. */
  readonly list?: true;
  /** Its value where none is given; or, as a text, what is done then. */
  readonly default?: T | string;
  /** What 0 means, where that is special. */
  readonly zero?: string;
  /** What it is for. Names and values stand in backticks. */
  readonly help: string;
}

// What Env.getBool reads.
const boolean: Kind<boolean> = {
  expected: "1 or 0",
  parse: (text) => !["", "0", "no", "false", "none"].includes(text.trim().toLowerCase()),
};

const text: Kind<string> = { expected: "a text", parse: (text) => text };

const path: Kind<string> = { ...text, expected: "a path" };

const origins: Kind<string> = {
  expected: "origins, or * for any",
  parse: (text) => readOrigins(text).join(","),
};

const host: Kind<string> = { expected: "a name or a number", parse: readHost };

function oneOf<T extends string>(...choices: T[]): Kind<T> {
  return {
    expected: `one of ${choices.join(", ")}`,
    choices,
    parse: (text) => choices.find((choice) => choice === text),
  };
}

function count(least: number): Kind<number> {
  return {
    expected: `a whole number of at least ${least}`,
    parse: (text) => {
      const value = numberOf(text);
      return value !== undefined && value >= least && Number.isInteger(value) ? value : undefined;
    },
    number: { unit: "a whole number", least, whole: true },
  };
}

const duration: Kind<number> = {
  expected: "a number of seconds of at least 0, or a time with its unit such as 500ms, 1.5s or 2m",
  parse(text) {
    const seconds = numberOf(text);
    if (seconds === undefined) return parseDuration(text);
    return seconds >= 0 ? seconds * 1_000 : undefined;
  },
  format: (ms) => withUnit(ms, TIMES),
  number: { unit: "a number of milliseconds", least: 0 },
};

const size: Kind<number> = {
  expected: "a number of bytes of at least 0, or a size with its unit such as 64kB, 10MB or 16MiB",
  parse: parseSize,
  format: (bytes) => withUnit(bytes, { MiB: 1 << 20, KiB: 1 << 10, B: 1 }),
  number: { unit: "a number of bytes", least: 0 },
};

/** For times: 0 is {@linkcode Infinity}. */
const UNLIMITED = { zero: "no limit" } as const;

/** All settings by the names of their values, in the order of `--help`. */
export const SETTINGS = {
  hosts: {
    flag: "host",
    letter: "H",
    key: "hosts",
    takes: "PROTO://ADDR",
    kind: text,
    list: true,
    default:
      "`floodgate.sock` in `$XDG_RUNTIME_DIR`, or in `/run` as root, or `floodgate-UID.sock` in `$TMPDIR` or `/tmp`",
    help:
      "Listen there; repeatable. `tcp://HOST:PORT`, `unix:///path`, or sockets that systemd has opened: `fd://` or `fd://*` for all, `fd://3` for a descriptor, `fd://NAME`",
  },
  install: {
    flag: "install",
    takes: "MODULE",
    kind: text,
    list: true,
    help: "Boot with this module, a path or URL that exports `install(engine, router)`; repeatable",
  },
  health: {
    flag: "health",
    takes: "PROTO://ADDR",
    kind: text,
    list: true,
    help:
      "Tell of the daemon's health there, from the first moment on: `/livez`, `/readyz`, `/metrics`; `tcp://` on this machine, or `unix://`; repeatable",
  },
  bootTimeout: {
    flag: "boot-timeout",
    takes: "TIME",
    kind: duration,
    ...UNLIMITED,
    help: "Fail a boot that makes no progress for so long",
  },
  exitIdleTime: {
    flag: "exit-idle-time",
    takes: "TIME",
    kind: duration,
    default: "never",
    help:
      "End when no client has been connected and no job has run for so long, for sockets of systemd (`fd://`), which starts the daemon again for the next client",
  },
  bufferRequests: {
    variable: "BufferRequests",
    kind: boolean,
    default: true,
    help: "Hold clients until `acceptconnections` opens the gate; `0`: no gate",
  },
  hold: {
    variable: "Hold",
    kind: count(0),
    default: HOLD,
    help: "How many clients are held while the gate is shut; more wait in the kernel's queue",
  },
  group: {
    flag: "group",
    letter: "G",
    takes: "GROUP",
    variable: "SocketGroup",
    kind: text,
    default: "the process's",
    help: "Group of unix sockets, by name or number",
  },
  takeover: {
    flag: "takeover",
    variable: "Takeover",
    kind: boolean,
    help:
      "Take the place of the daemon that listens at `--handover`, or answers on a unix socket, once booted",
  },
  handover: {
    flag: "handover",
    takes: "PATH",
    variable: "Handover",
    kind: path,
    default: "`PIDFILE.handover`, if there is a pidfile",
    help: "Unix socket at which the daemon that takes the place of this one gets its sockets",
  },
  reusePort: {
    flag: "reuse-port",
    variable: "ReusePort",
    kind: boolean,
    help: "Share tcp ports with other processes that do so too (`SO_REUSEPORT`)",
  },
  tls: {
    flag: "tls",
    variable: "Tls",
    kind: boolean,
    help: "TLS on tcp, with HTTP/1.1 and HTTP/2",
  },
  tlsVerify: {
    flag: "tlsverify",
    variable: "TlsVerify",
    kind: boolean,
    help: "TLS, and only for clients with a certificate; implies `--tls`",
  },
  tlsCa: {
    flag: "tlscacert",
    takes: "PATH",
    variable: "TlsCa",
    kind: path,
    help: "Who signs clients' certificates (PEM), for `--tlsverify`",
  },
  tlsCert: {
    flag: "tlscert",
    takes: "PATH",
    variable: "TlsCert",
    kind: path,
    help: "The daemon's certificate (PEM), its authority's after it",
  },
  tlsKey: {
    flag: "tlskey",
    takes: "PATH",
    variable: "TlsKey",
    kind: path,
    help: "The daemon's private key (PEM), not encrypted",
  },
  insecure: {
    flag: "insecure",
    variable: "Insecure",
    kind: boolean,
    help:
      "Allow tcp addresses that other machines can reach without `--tlsverify`: anyone there may then use the API",
  },
  allowedHosts: {
    flag: "allowed-host",
    key: "allowed-hosts",
    takes: "NAME",
    variable: "AllowedHosts",
    kind: host,
    list: true,
    default: "the address, and `localhost`",
    help: "Also answer requests for this host on plain tcp; repeatable",
  },
  cors: {
    flag: "api-cors-header",
    takes: "VALUE",
    variable: "CorsHeaders",
    kind: origins,
    list: true,
    help:
      "Allow browsers' requests from this origin, or from several with commas between them, or `*` for any; repeatable",
  },
  enableCors: {
    variable: "EnableCors",
    kind: boolean,
    help: "As `CorsHeaders=*`",
  },
  headerTimeout: {
    flag: "header-timeout",
    takes: "TIME",
    variable: "HeaderTimeout",
    kind: duration,
    default: HEADER_TIMEOUT,
    ...UNLIMITED,
    help: "For a client's first request",
  },
  idleTimeout: {
    flag: "idle-timeout",
    takes: "TIME",
    variable: "IdleTimeout",
    kind: duration,
    default: IDLE_TIMEOUT,
    ...UNLIMITED,
    help: "Between requests",
  },
  sendTimeout: {
    flag: "send-timeout",
    takes: "TIME",
    variable: "SendTimeout",
    kind: duration,
    default: SEND_TIMEOUT,
    ...UNLIMITED,
    help: "For taking some 64 KiB more of an answer; a client that takes longer is cut",
  },
  maxConnections: {
    flag: "max-connections",
    takes: "N",
    variable: "MaxConnections",
    kind: count(1),
    default: "what descriptors allow",
    help: "At this many idle ones are ended, and clients wait",
  },
  maxRequests: {
    flag: "max-requests",
    takes: "N",
    variable: "MaxRequests",
    kind: count(1),
    default: "what memory allows",
    help: "At this many in work, more are answered 503",
  },
  maxConnectionRequests: {
    flag: "max-connection-requests",
    takes: "N",
    variable: "MaxConnectionRequests",
    kind: count(1),
    default: MAX_CONNECTION_REQUESTS,
    help: "The same for those of one connection, which takes HTTP/2",
  },
  bodyLimit: {
    flag: "body-limit",
    takes: "SIZE",
    variable: "BodyLimit",
    kind: size,
    default: BODY_LIMIT,
    help: "Longest request body; more is 413",
  },
  jsonLimit: {
    flag: "json-limit",
    takes: "SIZE",
    variable: "JsonLimit",
    kind: size,
    default: JSON_LIMIT,
    help: "Longest JSON body of a route that takes its members for variables; more is 413",
  },
  bodiesLimit: {
    flag: "bodies-limit",
    takes: "SIZE",
    variable: "BodiesLimit",
    kind: size,
    default: BODIES_LIMIT,
    help: "All request bodies together that are being read; more is 503",
  },
  serverVersion: {
    variable: "Version",
    kind: text,
    default: "Floodgate's own",
    help: "The version that the `Server` header names",
  },
  logging: {
    variable: "Logging",
    kind: boolean,
    help: "Log each request, at level info",
  },
  shutdownTimeout: {
    flag: "shutdown-timeout",
    takes: "TIME",
    variable: "ShutdownTimeout",
    kind: duration,
    default: DRAIN_TIMEOUT,
    help: "For requests to finish at SIGTERM or SIGINT, or once another daemon has taken over",
  },
  pidfile: {
    flag: "pidfile",
    letter: "p",
    takes: "PATH",
    kind: path,
    help: "Write the process id there",
  },
  debug: {
    flag: "debug",
    letter: "D",
    kind: boolean,
    help:
      "Log at level debug, each request too, unless `-l` says otherwise; serve a profiler under `/debug/pprof/` and the routes under `/debug/routes`, on local addresses only. The same as `DEBUG=1` in the environment",
  },
  logLevel: {
    flag: "log-level",
    letter: "l",
    takes: "LEVEL",
    kind: oneOf<LogLevel>("debug", "info", "warn", "error"),
    default: "info",
    help: "`debug`, `info`, `warn` or `error`",
  },
  logFormat: {
    flag: "log-format",
    takes: "FORMAT",
    kind: oneOf("text", "json"),
    default: "text",
    help: "`text` or `json`",
  },
  logFile: {
    flag: "log-file",
    takes: "PATH",
    kind: path,
    default: "standard error",
    help: "Write the log there, and open it again at SIGHUP",
  },
  accessLog: {
    flag: "access-log",
    takes: "FORMAT",
    kind: oneOf<"text" | "json" | "combined">("text", "json", "combined"),
    default: "none",
    help:
      "Write a line for each request to the log, once its answer is complete: `text`, `json`, or `combined` as Apache does",
  },
  configFile: {
    flag: "config-file",
    takes: "PATH",
    kind: path,
    help:
      "Read settings from this file too: a JSON object with the names of the flags, and `hosts` and `allowed-hosts`",
  },
  validate: {
    flag: "validate",
    kind: boolean,
    help: "Check the settings and the certificates, say what is wrong, and end",
  },
  version: {
    flag: "version",
    letter: "v",
    kind: boolean,
    help: "Print the version",
  },
  help: {
    flag: "help",
    letter: "h",
    kind: boolean,
    help: "Print this",
  },
} as const satisfies Record<string, Setting>;

type Table = typeof SETTINGS;
type ValueOf<S> = S extends { kind: Kind<infer T> } ? S extends { list: true } ? T[] : T : never;
/** The name of a setting. */
export type Name = keyof Table;
/** The values of the settings that were given. */
export type Values = { [N in Name]?: ValueOf<Table[N]> };

/** All settings with their names, as what they have in common. */
export const ALL = Object.entries(SETTINGS) as [Name, Setting][];

/**
 * The values of all settings that have texts.
 *
 * @param textsOf The texts of a setting: one, or several of a list. Undefined where it is not given.
 * @param written How a setting was given such a text, to begin an error with.
 * @throws {TypedError} ("bad parameter") If a text is no value of its setting.
 */
export function readValues(
  textsOf: (setting: Setting) => readonly string[] | undefined,
  written: (setting: Setting, text: string) => string,
): Values {
  const values: Partial<Record<Name, unknown>> = {};
  for (const [name, setting] of ALL) {
    const parsed = textsOf(setting)?.map((text) => {
      const value = setting.kind.parse(text);
      if (value !== undefined) return orUnlimited(setting, value);
      throw bad(`${written(setting, text)}: expected ${setting.kind.expected}`);
    });
    if (parsed) values[name] = setting.list ? parsed : parsed.at(-1);
  }
  return values as Values;
}

/** The values that a job's variables have. Throws what {@linkcode readValues} throws. */
export function readVariables(env: Env): Values {
  return readValues(
    ({ variable, list }) => {
      if (variable === undefined || env.get(variable) === "") return undefined;
      return list ? env.getList(variable) : [env.get(variable)];
    },
    ({ variable }, text) => `${variable}=${text}`,
  );
}

function orUnlimited({ zero }: Setting, value: unknown): unknown {
  return value === 0 && zero === UNLIMITED.zero ? Infinity : value;
}

/** Which addresses to serve, to which clients, and what each of them may cost. */
export interface ServeSettings {
  /** Hold clients until the job `acceptconnections` opens the gate. Default true. */
  bufferRequests?: boolean;
  /** How many clients are held while the gate is shut; more wait in the kernel's queue. Default 16 384. */
  hold?: number;
  /** The group, by name or number, that may connect to unix sockets. Default: the process's. */
  group?: string;
  /**
   * Take the place of the daemon that listens at `handover`, or answers on a unix socket, once booted.
   * Default false.
   */
  takeover?: boolean;
  /**
   * The path of a unix socket at which the daemon that takes the place of this one gets its listening
   * sockets. Default: none, and only unix sockets can be taken over.
   */
  handover?: string;
  /** For requests to finish once another daemon has taken over, in milliseconds. Default 10 000. */
  shutdownTimeout?: number;
  /** Share tcp ports with other processes that do so too (SO_REUSEPORT, socket(7)). Default false. */
  reusePort?: boolean;
  /** TLS on tcp; with a `ca`, only for clients with a certificate. Default: none. */
  tls?: CertificateFiles;
  /** Allow tcp addresses that other machines can reach, without client certificates. Default false. */
  insecure?: boolean;
  /** Answer requests for these hosts too, on plain tcp. Default: the address, and localhost. */
  allowedHosts?: readonly string[];
  /** The origins whose pages may use the API, or `*` for any. Default: only our own. */
  cors?: string | readonly string[];
  /** For a client's first request, in milliseconds; 0: no limit. Default 10 000. */
  headerTimeout?: number;
  /** Between requests, in milliseconds; 0: no limit. Default 60 000. */
  idleTimeout?: number;
  /** For taking some 64 KiB more of an answer, or its end, in milliseconds; 0: no limit. Default 300 000. */
  sendTimeout?: number;
  /** At this many connections idle ones are ended, and clients wait. Default: what descriptors allow. */
  maxConnections?: number;
  /** At this many requests in work, more are answered 503. Default: what memory allows. */
  maxRequests?: number;
  /** The same for the requests of one connection, which takes HTTP/2. Default 100. */
  maxConnectionRequests?: number;
  /** The longest request body in bytes. Default 16 MiB. For the default router, as are those below. */
  bodyLimit?: number;
  /** The longest JSON body of a route that takes its members for variables. Default 1 MiB. */
  jsonLimit?: number;
  /** All request bodies together that are being read, in bytes. Default 256 MiB. */
  bodiesLimit?: number;
  /** The version that the `Server` header names. Default: Floodgate's own. */
  serverVersion?: string;
  /** Log each request, at level info. Default false. */
  logging?: boolean;
}

/**
 * What `serve` is told by values: what belongs together is put together.
 *
 * @param nameOf How the settings are called where the values come from.
 * @throws {TypedError} ("bad parameter") If one is of no use without another.
 */
export function serveSettings(values: Values, nameOf: (setting: Setting) => string): ServeSettings {
  const { tls, tlsVerify, tlsCa, tlsCert, tlsKey, enableCors, ...settings } = values;
  const files = tlsFiles({ tls, tlsVerify, tlsCa, tlsCert, tlsKey }, nameOf);
  return {
    ...enableCors && { cors: "*" },
    ...settings,
    ...files && { tls: files },
  };
}

/** What the default router is told by settings. */
export function routerOptions(settings: ServeSettings): RouterOptions {
  const { serverVersion, bodyLimit, jsonLimit, bodiesLimit, sendTimeout, logging } = settings;
  return given({
    version: serverVersion,
    cors: originsOf(settings),
    bodyLimit,
    jsonLimit,
    bodiesLimit,
    sendTimeout,
    logging,
  });
}

/** The origins whose pages may use the API; undefined for none. */
export function originsOf({ cors }: ServeSettings): string[] | undefined {
  return cors === undefined ? undefined : readOrigins([cors].flat().join(","));
}

/** Options without those that have no value: TypeScript tells the two apart. */
export function given<T extends object>(options: { [K in keyof T]: T[K] | undefined }): T {
  return Object.fromEntries(
    Object.entries(options).filter(([, value]) => value !== undefined),
  ) as T;
}

function tlsFiles(
  values: { [N in "tls" | "tlsVerify" | "tlsCa" | "tlsCert" | "tlsKey"]: Values[N] | undefined },
  nameOf: (setting: Setting) => string,
): CertificateFiles | undefined {
  const called = (name: Name) => nameOf(SETTINGS[name]);
  const { tls, tlsVerify, tlsCa: ca, tlsCert: cert, tlsKey: key } = values;
  for (const name of ["tlsCert", "tlsKey"] as const) {
    if (values[name] !== undefined && !tls && !tlsVerify) {
      throw bad(`${called(name)} is of no use without ${called("tls")} or ${called("tlsVerify")}`);
    }
  }
  if (ca !== undefined && !tlsVerify) {
    throw bad(
      `${called("tlsCa")} is of no use without ${called("tlsVerify")}: ` +
        "no client would be asked for a certificate",
    );
  }
  if (!tls && !tlsVerify) return undefined;
  const need = (name: Name): never => {
    const wanting = called(tlsVerify ? "tlsVerify" : "tls");
    throw bad(`${wanting} needs ${called(name)} and the path of a PEM file`);
  };
  return {
    cert: cert ?? need("tlsCert"),
    key: key ?? need("tlsKey"),
    ...tlsVerify && { ca: ca ?? need("tlsCa") },
  };
}

/**
 * Settings in code, as they are meant: 0 is no limit where it is so in a text.
 *
 * @throws {TypedError} ("bad parameter") If a value is none that its setting can have.
 */
export function checkedSettings<T extends ServeSettings>(settings: T): T {
  const checked = { ...settings } as Record<string, unknown>;
  for (const [name, setting] of ALL) {
    const { kind, list } = setting;
    const value = checked[name];
    if (value === undefined) continue;
    if (kind.number) {
      const { unit, least, whole } = kind.number;
      if (typeof value !== "number" || !(value >= least) || whole && !Number.isInteger(value)) {
        throw bad(`${name}: ${value}, expected ${unit} of at least ${least}`);
      }
      checked[name] = orUnlimited(setting, value);
    } else if (list && Array.isArray(value)) {
      checked[name] = value.map((each) => kind.parse(each));
    } else if (typeof value === "string") {
      checked[name] = kind.parse(value);
    }
  }
  return checked as unknown as T;
}

/** A number as JavaScript reads it; undefined if it is none. */
function numberOf(text: string): number | undefined {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isNaN(value) ? undefined : value;
}

/** What the units of a time are in milliseconds, the longest first. */
const TIMES: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };
/** What the units of a size are in bytes (IEC 80000-13). */
const SIZES: Readonly<Record<string, number>> = {
  gib: 2 ** 30,
  mib: 2 ** 20,
  kib: 2 ** 10,
  gb: 1e9,
  mb: 1e6,
  kb: 1e3,
  b: 1,
};

/** A time whose parts have units, such as `1m30s`, in milliseconds; undefined if it is none. */
export function parseDuration(text: string): number | undefined {
  if (!/^(?:\d{1,12}(?:\.\d{1,9})?(?:ms|s|m|h))+$/.test(text)) return undefined;
  let ms = 0;
  for (const [, amount, unit] of text.matchAll(/([\d.]+)(ms|s|m|h)/g)) {
    ms += Number(amount) * TIMES[unit!]!;
  }
  return ms;
}

function parseSize(text: string): number | undefined {
  const [, digits = text, unit = "B"] = /^(\d+(?:\.\d+)?) ?([kmg]?i?b)$/i.exec(text.trim()) ?? [];
  const factor = SIZES[unit.toLowerCase()];
  const bytes = (numberOf(digits) ?? NaN) * (factor ?? NaN);
  return bytes >= 0 && Number.isInteger(bytes) ? bytes : undefined;
}

/** A value in the largest unit of which it is a multiple. */
function withUnit(value: number, units: Readonly<Record<string, number>>): string {
  const [unit, factor] = Object.entries(units).find(([, factor]) => value % factor === 0) ??
    ["", 1];
  return `${value / factor}${unit}`;
}

/** The default of a setting as it is written, if it has one. */
export function defaultOf({ kind, default: value }: Setting): string | undefined {
  if (value === undefined || value === true) return undefined;
  return typeof value === "string" ? value : kind.format?.(value) ?? String(value);
}

function bad(problem: string): TypedError {
  return new TypedError("bad parameter", problem);
}
