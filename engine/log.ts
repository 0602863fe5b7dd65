import { isError, messageOf, reportOf } from "./errors.ts";
import { LineWriter } from "./lines.ts";

/** How urgent a log line is, from the least to the most. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Takes one log line: its level, its text, and structured fields. */
export interface Logger {
  (level: LogLevel, message: string, fields?: Record<string, unknown>): void;
  /** The least urgent level that it writes; lines below are not even built. Default: all levels. */
  readonly level?: LogLevel;
  /** Whether it writes for people: fields that repeat the message are then left out. */
  readonly plain?: boolean;
}

const RANKS: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

/** Whether a logger takes lines of this level; one without a level takes all. */
export function isLogged({ level: least = "debug" }: Logger, level: LogLevel): boolean {
  return RANKS[level] >= RANKS[least];
}

/** Options of {@linkcode createLogger}. */
export interface LoggerOptions {
  /** The least urgent level that is written. Default `"info"`. */
  level?: LogLevel;
  /** One line of text, or one JSON object a line. Default `"text"`. */
  format?: "text" | "json";
  /** Where a line goes, its newline included. Default: standard error. */
  write?: (line: string) => void;
}

/** Makes a {@linkcode Logger} that writes one line per event: time, level, message, fields. */
export function createLogger(options: LoggerOptions = {}): Logger {
  const { level: lowest = "info" } = options;
  const format = options.format === "json" ? toJson : toText;
  const notice = (lost: number) =>
    format("warn", `log lines lost because they could not be written: ${lost}`);
  const log: Logger = (level, message, fields) => {
    if (RANKS[level] < RANKS[lowest]) return;
    if (options.write) options.write(format(level, message, fields));
    else stderr.write(() => format(level, message, fields), notice);
  };
  return Object.assign(log, { level: lowest, plain: options.format !== "json" });
}

// One event is one line, even if a client's input holds newlines; an error follows on indented
// lines.

function toText(level: LogLevel, message: string, fields: Record<string, unknown> = {}): string {
  let line = `${new Date().toISOString()} ${level.toUpperCase().padEnd(5)} ${printable(message)}`;
  let below = "";
  for (const [key, value] of Object.entries(fields)) {
    if (isError(value)) {
      for (const part of reportOf(value).split("\n")) below += `    ${printable(part)}\n`;
    } else {
      const text = typeof value === "string" ? JSON.stringify(value) : messageOf(value);
      line += ` ${key}=${printable(text)}`;
    }
  }
  return `${line}\n${below}`;
}

function toJson(level: LogLevel, message: string, fields?: Record<string, unknown>): string {
  const record = { time: new Date().toISOString(), level, message, ...fields };
  let line: string;
  try {
    line = JSON.stringify(record, jsonField);
  } catch {
    // A field with a cycle in it, or whose getter or toJSON throws.
    const entries = Object.entries(record).map(([key, value]) => [key, serializable(value)]);
    line = JSON.stringify(Object.fromEntries(entries), jsonField);
  }
  // Characters that are not printable occur only inside JSON strings, where the escapes are the
  // same.
  return printable(line) + "\n";
}

function serializable(value: unknown): unknown {
  try {
    JSON.stringify(value, jsonField);
    return value;
  } catch {
    return messageOf(value);
  }
}

function jsonField(_key: string, value: unknown): unknown {
  if (isError(value)) return reportOf(value);
  return typeof value === "bigint" ? String(value) : value;
}

/**
 * Escapes, as JSON does, every character that is not printable: controls, directional marks,
 * characters without width, all separators but the space, lone surrogates, and private or
 * unassigned code points. So a client's input cannot forge a log line, move a terminal's cursor, or
 * hide.
 */
export function printable(text: string): string {
  if (!/[^ -~]/.test(text)) return text;
  // Not a constant: compiling the Unicode classes takes 0.7 ms, which most starts never need.
  return text.replace(/[[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]--[ ]]/gv, (char) => {
    const short = JSON.stringify(char).slice(1, -1);
    if (short !== char) return short;
    return [...Array(char.length).keys()]
      .map((i) => "\\u" + char.charCodeAt(i).toString(16).padStart(4, "0")).join("");
  });
}

/** The process's standard error. */
export const stderr = new LineWriter({
  write: (data) => Deno.stderr.write(data),
  writeSync: (data) => Deno.stderr.writeSync(data),
});
// Deno.exit dispatches "unload" too.
globalThis.addEventListener("unload", () => stderr.flushNow());
