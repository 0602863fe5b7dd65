import { isError, messageOf, reportOf } from "./errors.ts";
import { LineWriter } from "./lines.ts";

/** How urgent a log line is, from the least to the most. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Takes one log line: its level, its text, and what a machine may want to know besides. */
export interface Logger {
  (level: LogLevel, message: string, fields?: Record<string, unknown>): void;
  /** The least urgent level that it writes, if it says so: lines below are not even made. */
  readonly level?: LogLevel;
  /** Whether it writes for people: what a message tells is then not given as fields again. */
  readonly plain?: boolean;
}

/** The levels, from the least urgent to the most. */
export const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

const RANKS: Readonly<Record<LogLevel, number>> = { debug: 0, info: 1, warn: 2, error: 3 };

/** Whether a logger wants lines of this level; one that does not say wants all. */
export function isLogged({ level: least = "debug" }: Logger, level: LogLevel): boolean {
  return RANKS[level] >= RANKS[least];
}

/** What {@linkcode createLogger} can be told. */
export interface LoggerOptions {
  /** The least urgent level that is written. Default `"info"`. */
  level?: LogLevel;
  /** One line of text, or one JSON object a line. Default `"text"`. */
  format?: "text" | "json";
  /** Where a line goes, its newline included. Default: standard error. */
  write?: (line: string) => void;
}

/** A {@linkcode Logger} that writes a line an event: time, level, message, fields. */
export function createLogger(options: LoggerOptions = {}): Logger {
  const { level: lowest = "info" } = options;
  const least = LEVELS.indexOf(lowest);
  const format = options.format === "json" ? toJson : toText;
  const notice = (lost: number) => format("warn", lostLines(lost));
  const log: Logger = (level, message, fields) => {
    if (LEVELS.indexOf(level) < least) return;
    if (options.write) options.write(format(level, message, fields));
    else stderr.write(() => format(level, message, fields), notice);
  };
  return Object.assign(log, { level: lowest, plain: options.format !== "json" });
}

// One event is one line, whatever a client has put into it, and the lines of an error below it.

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
    // A field with a circle in it, or whose getter or toJSON throws.
    const entries = Object.entries(record).map(([key, value]) => [key, tellable(value)]);
    line = JSON.stringify(Object.fromEntries(entries), jsonField);
  }
  // Whatever is spelled out stands in a string, where JSON has the same spelling.
  return printable(line) + "\n";
}

function tellable(value: unknown): unknown {
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
 * Text in which every character that is not printable is spelled out as in JSON: controls, marks of
 * direction, what has no width, all separators but the space, lone surrogates, and code points that
 * are private or not assigned. So what a client sends cannot look like a line of its own, move a
 * terminal's cursor, or hide.
 */
export function printable(text: string): string {
  if (!/[^ -~]/.test(text)) return text;
  // Not a constant: to look all of Unicode up takes 0.7 ms of a start that may never need it.
  return text.replace(/[[\p{C}\p{Z}\p{Default_Ignorable_Code_Point}]--[ ]]/gv, (char) => {
    const short = JSON.stringify(char).slice(1, -1);
    if (short !== char) return short;
    return [...Array(char.length).keys()]
      .map((i) => "\\u" + char.charCodeAt(i).toString(16).padStart(4, "0")).join("");
  });
}

function lostLines(lost: number): string {
  return `lines of the log that are lost, because they could not be written: ${lost}`;
}

/** The process's standard error. */
export const stderr = new LineWriter({
  write: (data) => Deno.stderr.write(data),
  writeSync: (data) => Deno.stderr.writeSync(data),
});
// Deno.exit calls this, and whatever else ends the program.
globalThis.addEventListener("unload", () => stderr.flushNow());

/** Writes a line to standard error, and never throws. */
export function writeToStderr(line: string): void {
  stderr.write(line);
}
