/**
 * OpenTelemetry where it is on, as with OTEL_DENO=true: by way of what is registered for
 * `@opentelemetry/api`, which is the user's own and is not loaded here.
 *
 * @module
 */

import type { Logger, LogLevel } from "../engine/log.ts";
import { TELEMETRY } from "./deno.ts";

/** What is used of a span. */
export interface Span {
  setAttribute(name: string, value: string | number): unknown;
  updateName(name: string): unknown;
  setStatus(status: { code: number; message?: string }): unknown;
  spanContext(): { traceId: string; spanId: string; traceFlags: number };
  end(): void;
}
/** The code of a status that is an error: SpanStatusCode of `@opentelemetry/api`. */
export const ERROR = 2;

/** What `@opentelemetry/api` 1.x keeps in the global object for all copies of itself. */
interface Registered {
  trace?: {
    getTracer(name: string, version?: string): {
      startActiveSpan<T>(name: string, fn: (span: Span) => T): T;
    };
  };
  context?: { active(): { getValue(key: symbol): unknown } };
}
const SPAN = Symbol.for("OpenTelemetry Context Key SPAN");

/** Spans, where they are recorded. */
export interface Telemetry {
  /** Calls back in a span of this name, which is the child of the one it is called in. */
  inSpan<T>(name: string, fn: (span: Span) => T): T;
  /** The span that this is called in, if there is one. */
  activeSpan(): Span | undefined;
}

/** Undefined where OpenTelemetry is off. */
export function telemetry(version: string): Telemetry | undefined {
  const { trace, context } =
    (globalThis as unknown as Record<symbol, Registered | undefined>)[TELEMETRY] ?? {};
  if (!trace || !context) return undefined;
  const tracer = trace.getTracer("floodgate", version);
  return {
    inSpan: (name, fn) => tracer.startActiveSpan(name, fn),
    activeSpan: () => context.active().getValue(SPAN) as Span | undefined,
  };
}

const LEVELS: Record<LogLevel, number> = { debug: 0, info: 1, warn: 2, error: 3 };

/**
 * What exports a line of the log, with the span that it is called in. Deno exports what is written
 * by `console` only, of which the lower levels go to standard output.
 *
 * @returns Undefined where OpenTelemetry is off, or this Deno has no such thing.
 */
export function logExport(): Logger | undefined {
  const spans = telemetry("");
  const deno = Deno as unknown as
    & { internal: symbol }
    & Record<
      symbol,
      { core?: { ops?: ExportOps } }
    >;
  const ops = deno[deno.internal]?.core?.ops;
  if (!spans || typeof ops?.op_otel_log_foreign !== "function") return undefined;
  return (level, message, fields) => {
    let line = message;
    for (const [key, value] of Object.entries(fields ?? {})) {
      line += ` ${key}=${value instanceof Error ? value.stack : JSON.stringify(value)}`;
    }
    const { traceId, spanId, traceFlags } = spans.activeSpan()?.spanContext() ?? NONE;
    ops.op_otel_log_foreign(line, LEVELS[level], traceId, spanId, traceFlags);
  };
}

/** What console calls, where it is called in a span that Deno has not made. */
interface ExportOps {
  op_otel_log_foreign(
    line: string,
    level: number,
    traceId: string,
    spanId: string,
    traceFlags: number,
  ): void;
}
/** The ids of no span (INVALID_SPAN_CONTEXT of `@opentelemetry/api`). */
const NONE = { traceId: "0".repeat(32), spanId: "0".repeat(16), traceFlags: 0 };
