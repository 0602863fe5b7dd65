import { messageOf } from "./errors.ts";

/** How urgent a log line is, from the least to the most. */
export type LogLevel = "debug" | "info" | "warn" | "error";

/** Takes one log line: its level, its text, and what a machine may want to know besides. */
export interface Logger {
  (level: LogLevel, message: string, fields?: Record<string, unknown>): void;
  /** The least urgent level that it writes, if it says so: lines below are not even made. */
  readonly level?: LogLevel;
}

/** The levels, from the least urgent to the most. */
export const LEVELS: readonly LogLevel[] = ["debug", "info", "warn", "error"];

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
  const write = options.write ?? writeToStderr;
  const json = options.format === "json";
  const log: Logger = (level, message, fields) => {
    if (LEVELS.indexOf(level) < least) return;
    const time = new Date().toISOString();
    if (json) {
      write(JSON.stringify({ time, level, message, ...fields }, jsonField) + "\n");
      return;
    }
    // One event is one line, whatever a client has put into it.
    let line = `${time} ${level.toUpperCase().padEnd(5)} ${printable(message)}`;
    for (const [key, value] of Object.entries(fields ?? {})) {
      line += ` ${key}=${
        typeof value === "string" ? JSON.stringify(value) : printable(String(value))
      }`;
    }
    write(line + "\n");
  };
  return Object.assign(log, { level: lowest });
}

/** Text whose control characters are spelled out. */
function printable(text: string): string {
  // deno-lint-ignore no-control-regex -- they are what this is about
  return text.replace(/[\0-\x1f\x7f]/g, (char) => JSON.stringify(char).slice(1, -1));
}

function jsonField(_key: string, value: unknown): unknown {
  if (value instanceof Error) return value.stack ?? messageOf(value);
  return typeof value === "bigint" ? String(value) : value;
}

const encoder = new TextEncoder();

/** Writes a line to standard error, at once, and never throws. */
export function writeToStderr(line: string): void {
  const bytes = encoder.encode(line);
  for (let sent = 0; sent < bytes.length;) {
    try {
      sent += Deno.stderr.writeSync(bytes.subarray(sent));
    } catch {
      // Whoever read our log has gone, or its pipe is full and does not block. A daemon must not
      // die of that, and there is nowhere left to say it.
      return;
    }
  }
}
