/**
 * The settings of a daemon, one row each: its flag, its variable of the job `serveapi`, its kind of
 * value, its default and its help. The flags, `--help`, what `serveapi` reads and the tables in
 * docs/ derive from it.
 *
 * Text is parsed here only: in values, times are in milliseconds, sizes in bytes, and `Infinity` is
 * no limit.
 *
 * @module
 */

import { type Env, isTrue } from "../engine/env.ts";
import { TypedError } from "../engine/errors.ts";
import type { LogLevel } from "../engine/log.ts";
import { DRAIN_TIMEOUT } from "../engine/time.ts";
import { HOLD } from "../listenbuffer.ts";
import type { RouterOptions } from "../router.ts";
import {
  BODIES_LIMIT,
  BODY_LIMIT,
  HEADER_TIMEOUT,
  IDLE_TIMEOUT,
  JSON_LIMIT,
  MAX_CONNECTION_REQUESTS,
  SEND_TIMEOUT,
} from "../router/limits.ts";
import { readHost, readOrigins } from "../serve/addresses.ts";
import type { CertificateFiles } from "../serve/tls.ts";

/** The kind of a setting's values. */
export interface Kind<T> {
  /** The accepted texts, in words. */
  readonly expected: string;
  /** Parses a text; undefined if it is not a value. May throw a TypedError that says more. */
  parse(text: string): T | undefined;
  /** All accepted texts, if they are few. */
  readonly choices?: readonly string[];
  /** The text of a value. Default: `String`. */
  format?(value: T): string;
  /** For numbers: the unit in words, the least value, and whether it has to be an integer. */
  readonly number?: { readonly unit: string; readonly least: number; readonly whole?: true };
}

/** One setting. */
export interface Setting<T = unknown> {
  /** The flag, without dashes. Undefined: not a setting of the command line. */
  readonly flag?: string;
  /** The flag's letter. */
  readonly letter?: string;
  /** The placeholder of the value in `--help`. Undefined: the flag is a boolean without a value. */
  readonly takes?: string;
  /** The name in a configuration file. Default: the flag. */
  readonly key?: string;
  /** The variable of `serveapi`. Undefined: a setting of the command line only. */
  readonly variable?: string;
  /** The kind of its values. */
  readonly kind: Kind<T>;
  /** Whether it has any number of values: a repeated flag, a JSON list in a variable. */
  readonly list?: true;
  /** The default value; or, as a text, a description of what happens without one. */
  readonly default?: T | string;
  /** The meaning of 0, if it is special. */
  readonly zero?: string;
  /** The description for `--help` and docs/. Names and values are in backticks. */
  readonly help: string;
}

const boolean: Kind<boolean> = { expected: "1 or 0", parse: isTrue };

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

/** For timeouts: 0 is {@linkcode Infinity}. */
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
      "Serve the daemon's health there, before the boot begins: `/livez`, `/readyz`, `/metrics`; `tcp://` on this machine, or `unix://`; repeatable",
  },
  bootTimeout: {
    flag: "boot-timeout",
    takes: "TIME",
    kind: duration,
    ...UNLIMITED,
    help: "Fail a boot that reports no progress for this long",
  },
  exitIdleTime: {
    flag: "exit-idle-time",
    takes: "TIME",
    kind: duration,
    default: "never",
    help:
      "Exit when no client has been connected and no job has run for this long, for sockets of systemd (`fd://`), which starts the daemon again for the next client",
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
      "Once booted, take over from the daemon that listens at `--handover`, or that answers on a unix socket",
  },
  handover: {
    flag: "handover",
    takes: "PATH",
    variable: "Handover",
    kind: path,
    default: "`PIDFILE.handover`, if there is a pidfile",
    help: "Unix socket at which a daemon that takes over from this one gets its listening sockets",
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
    help: "The authorities that sign clients' certificates (PEM), for `--tlsverify`",
  },
  tlsCert: {
    flag: "tlscert",
    takes: "PATH",
    variable: "TlsCert",
    kind: path,
    help: "The daemon's certificate (PEM), followed by its chain",
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
      "Allow tcp addresses that other machines can reach without `--tlsverify`: any client there may then use the API",
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
      "Allow pages of this origin in browsers, or of several separated by commas, or `*` for any; repeatable",
  },
  enableCors: {
    variable: "EnableCors",
    kind: boolean,
    help: "The same as `CorsHeaders=*`",
  },
  headerTimeout: {
    flag: "header-timeout",
    takes: "TIME",
    variable: "HeaderTimeout",
    kind: duration,
    default: HEADER_TIMEOUT,
    ...UNLIMITED,
    help: "How long a client's first request may take to arrive",
  },
  idleTimeout: {
    flag: "idle-timeout",
    takes: "TIME",
    variable: "IdleTimeout",
    kind: duration,
    default: IDLE_TIMEOUT,
    ...UNLIMITED,
    help: "How long a connection may be idle between requests",
  },
  sendTimeout: {
    flag: "send-timeout",
    takes: "TIME",
    variable: "SendTimeout",
    kind: duration,
    default: SEND_TIMEOUT,
    ...UNLIMITED,
    help:
      "How long a client may take to read a further 64 KiB of an answer, before its connection is closed",
  },
  maxConnections: {
    flag: "max-connections",
    takes: "N",
    variable: "MaxConnections",
    kind: count(1),
    default: "what descriptors allow",
    help: "At this many connections, idle ones are closed and further clients wait",
  },
  maxRequests: {
    flag: "max-requests",
    takes: "N",
    variable: "MaxRequests",
    kind: count(1),
    default: "what memory allows",
    help: "At this many requests in progress, further ones are answered 503",
  },
  maxConnectionRequests: {
    flag: "max-connection-requests",
    takes: "N",
    variable: "MaxConnectionRequests",
    kind: count(1),
    default: MAX_CONNECTION_REQUESTS,
    help: "The same for the requests of one connection, over HTTP/2",
  },
  bodyLimit: {
    flag: "body-limit",
    takes: "SIZE",
    variable: "BodyLimit",
    kind: size,
    default: BODY_LIMIT,
    help: "Longest request body; a longer one is answered 413",
  },
  jsonLimit: {
    flag: "json-limit",
    takes: "SIZE",
    variable: "JsonLimit",
    kind: size,
    default: JSON_LIMIT,
    help:
      "Longest JSON body of a route that reads it into the job's env; a longer one is answered 413",
  },
  bodiesLimit: {
    flag: "bodies-limit",
    takes: "SIZE",
    variable: "BodiesLimit",
    kind: size,
    default: BODIES_LIMIT,
    help: "All request bodies together that are being read; further requests are answered 503",
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
    help:
      "How long requests may take to finish at SIGTERM or SIGINT, or once another daemon has taken over",
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
    help: "Write the log to this file, and reopen it at SIGHUP",
  },
  accessLog: {
    flag: "access-log",
    takes: "FORMAT",
    kind: oneOf<"text" | "json" | "combined">("text", "json", "combined"),
    default: "none",
    help:
      "Log a line for each request, once its answer is complete: `text`, `json`, or Apache's `combined`",
  },
  configFile: {
    flag: "config-file",
    takes: "PATH",
    kind: path,
    help:
      "Read settings from this file too: a JSON object whose keys are the names of the flags, and `hosts` and `allowed-hosts`",
  },
  validate: {
    flag: "validate",
    kind: boolean,
    help: "Check the settings, the certificates and the group, print what is wrong, and exit",
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
    help: "Print this help",
  },
} as const satisfies Record<string, Setting>;

type Table = typeof SETTINGS;
type ValueOf<S> = S extends { kind: Kind<infer T> } ? S extends { list: true } ? T[] : T : never;
/** The name of a setting. */
export type Name = keyof Table;
/** The values of the settings that were given. */
export type Values = { [N in Name]?: ValueOf<Table[N]> };

/** All settings with their names. */
export const ALL = Object.entries(SETTINGS) as [Name, Setting][];

/**
 * Parses the texts of all settings that are given.
 *
 * @param textsOf The texts of a setting: one, or several of a list. Undefined if it is not given.
 * @param written How a setting was given a text, to begin an error with, such as `--hold=x`.
 * @throws {TypedError} ("bad parameter") If a text is not a value of its setting.
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

/** Parses the variables of a job. Throws what {@linkcode readValues} throws. */
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

/** How to serve addresses: the clients that may connect, and the limits of each. */
export interface ServeSettings {
  /** Hold clients until the job `acceptconnections` opens the gate. Default true. */
  bufferRequests?: boolean;
  /** How many clients are held at a shut gate; more wait in the kernel. Default 16 384. */
  hold?: number;
  /** The group, by name or number, that may connect to unix sockets. Default: the process's. */
  group?: string;
  /**
   * Once booted, take over from the daemon that listens at `handover`, or that answers on a unix
   * socket. Default false.
   */
  takeover?: boolean;
  /**
   * The path of a unix socket at which a daemon that takes over from this one gets its listening
   * sockets. Default: none, and only unix sockets can be taken over.
   */
  handover?: string;
  /** How long requests may take after a takeover by another daemon, in ms. Default 10 000. */
  shutdownTimeout?: number;
  /** Share tcp ports with processes that do so too (SO_REUSEPORT, socket(7)). Default false. */
  reusePort?: boolean;
  /** TLS on tcp; with a `ca`, only for clients with a certificate. Default: none. */
  tls?: CertificateFiles;
  /** Allow tcp addresses that other machines reach without certificates. Default false. */
  insecure?: boolean;
  /** Answer requests for these hosts too, on plain tcp. Default: the address, and localhost. */
  allowedHosts?: readonly string[];
  /** The origins whose pages may use the API, or `*` for any. Default: only our own. */
  cors?: string | readonly string[];
  /** How long a client's first request may take, in milliseconds; 0: no limit. Default 10 000. */
  headerTimeout?: number;
  /** How long a connection may be idle, in milliseconds; 0: no limit. Default 60 000. */
  idleTimeout?: number;
  /**
   * How long a client may take to read a further 64 KiB of an answer, or its end, in milliseconds;
   * 0: no limit. Default 300 000.
   */
  sendTimeout?: number;
  /** At this many connections, idle ones are closed. Default: what descriptors allow. */
  maxConnections?: number;
  /** At this many requests in progress, more are answered 503. Default: what memory allows. */
  maxRequests?: number;
  /** The same for the requests of one connection, over HTTP/2. Default 100. */
  maxConnectionRequests?: number;
  /** The longest request body in bytes. Default 16 MiB. Like the next, for the default router. */
  bodyLimit?: number;
  /** The longest JSON body of a route that reads it into the job's env. Default 1 MiB. */
  jsonLimit?: number;
  /** All request bodies together that are being read, in bytes. Default 256 MiB. */
  bodiesLimit?: number;
  /** The version that the `Server` header names. Default: Floodgate's own. */
  serverVersion?: string;
  /** Log each request, at level info. Default false. */
  logging?: boolean;
}

/**
 * The settings of `serve` that values mean, with those of TLS grouped.
 *
 * @param nameOf The names of the settings where the values come from, for errors.
 * @throws {TypedError} ("bad parameter") If a setting needs another that is missing.
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

/** The options of the default router. */
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

/** Options without undefined properties, for exactOptionalPropertyTypes. */
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
      throw bad(`${called(name)} needs ${called("tls")} or ${called("tlsVerify")}`);
    }
  }
  if (ca !== undefined && !tlsVerify) {
    throw bad(
      `${called("tlsCa")} needs ${called("tlsVerify")}: ` +
        "without it clients are not asked for a certificate",
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
 * Checks settings given in code, and normalizes them: 0 becomes `Infinity` where it means no limit.
 *
 * @throws {TypedError} ("bad parameter") If a value is not one of its setting.
 */
export function checkedSettings<T extends ServeSettings>(settings: T): T {
  const checked = { ...settings } as Record<string, unknown>;
  for (const [name, value] of Object.entries(settings)) {
    if (value === undefined || !Object.hasOwn(SETTINGS, name)) continue;
    const setting: Setting = SETTINGS[name as Name];
    const { kind, list } = setting;
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

/** A number in JavaScript's notation; undefined if the text is not one. */
function numberOf(text: string): number | undefined {
  const value = text.trim() === "" ? NaN : Number(text);
  return Number.isNaN(value) ? undefined : value;
}

/** The units of time in milliseconds, the longest first. */
const TIMES: Readonly<Record<string, number>> = { h: 3_600_000, m: 60_000, s: 1_000, ms: 1 };
/** The units of size in bytes (IEC 80000-13). */
const SIZES: Readonly<Record<string, number>> = {
  gib: 2 ** 30,
  mib: 2 ** 20,
  kib: 2 ** 10,
  gb: 1e9,
  mb: 1e6,
  kb: 1e3,
  b: 1,
};

/** A duration such as `1m30s` in milliseconds; undefined if the text is not one. */
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

/** The text of a setting's default, if it has one. */
export function defaultOf({ kind, default: value }: Setting): string | undefined {
  if (value === undefined || value === true) return undefined;
  return typeof value === "string" ? value : kind.format?.(value) ?? String(value);
}

function bad(problem: string): TypedError {
  return new TypedError("bad parameter", problem);
}
