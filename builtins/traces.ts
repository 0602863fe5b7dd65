/**
 * A span for each job, if OpenTelemetry is on.
 *
 * @module
 */

import type { Engine } from "../engine.ts";
import { messageOf } from "../engine/errors.ts";
import { VERSION } from "../engine/version.ts";
import { ERROR, type Span, telemetry } from "../platform/telemetry.ts";

/** Gives each job that starts from now on a span, a child of the span active at its start. */
export function traceJobs(engine: Engine): void {
  const spans = telemetry(VERSION);
  if (!spans) return;
  engine.wrapHandlers((job, handler) =>
    spans.inSpan(job.name, (span) => {
      span.setAttribute("floodgate.job.name", job.name);
      let result: ReturnType<typeof handler>;
      try {
        result = handler(job);
      } catch (error) {
        failed(span, error);
        throw error;
      }
      if (!(result instanceof Promise)) {
        ended(span, result ?? 0);
        return result;
      }
      return result.then((status) => {
        ended(span, status ?? 0);
        return status;
      }, (error) => {
        failed(span, error);
        throw error;
      });
    })
  );
}

function ended(span: Span, status: number): void {
  span.setAttribute("floodgate.job.status", status);
  if (status !== 0) span.setStatus({ code: ERROR });
  span.end();
}

function failed(span: Span, error: unknown): void {
  span.setAttribute("floodgate.job.status", 1);
  span.setStatus({ code: ERROR, message: messageOf(error) });
  span.end();
}
