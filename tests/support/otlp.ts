/**
 * A receiver for OpenTelemetry's exports: OTLP over HTTP, in JSON
 * (opentelemetry.io/docs/specs/otlp).
 *
 * @module
 */

/** The parts of a span that tests check. */
export interface Span {
  name: string;
  traceId: string;
  spanId: string;
  parentSpanId: string;
  attributes: Record<string, string>;
  /** 2 for an error. */
  code: number;
  message: string;
}
/** A log record. */
export interface LogRecord {
  severity: string;
  body: string;
  traceId: string;
  spanId: string;
}

interface Value {
  stringValue?: string;
  intValue?: string;
  doubleValue?: number;
}
interface Attribute {
  key: string;
  value: Value;
}
// deno-lint-ignore no-explicit-any -- JSON, whose every use is an assertion
type Json = any;

/** Receives on a local port. */
export class Receiver implements AsyncDisposable {
  readonly spans: Span[] = [];
  readonly logs: LogRecord[] = [];
  #server: Deno.HttpServer<Deno.NetAddr>;

  constructor() {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      async (request) => {
        const body = await request.json();
        if (new URL(request.url).pathname === "/v1/traces") this.#takeSpans(body);
        if (new URL(request.url).pathname === "/v1/logs") this.#takeLogs(body);
        return Response.json({});
      },
    );
  }

  /** Environment variables with which a program exports to here, without delay. */
  get env(): Record<string, string> {
    return {
      OTEL_DENO: "true",
      OTEL_EXPORTER_OTLP_PROTOCOL: "http/json",
      OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${this.#server.addr.port}`,
      OTEL_BSP_SCHEDULE_DELAY: "50",
      OTEL_BLRP_SCHEDULE_DELAY: "50",
    };
  }

  /** The only span of this name. */
  span(name: string): Span {
    const found = this.spans.filter((span) => span.name === name);
    if (found.length === 1) return found[0]!;
    throw new Error(`${found.length} of ${name} in ${this.spans.map((span) => span.name)}`);
  }

  #takeSpans({ resourceSpans }: Json): void {
    for (const { scopeSpans } of resourceSpans) {
      for (const { spans } of scopeSpans) {
        for (const { attributes, status, ...span } of spans) {
          const values = (attributes as Attribute[]).map(({ key, value }): [string, string] => [
            key,
            String(Object.values(value)[0]),
          ]);
          this.spans.push({
            ...span,
            attributes: Object.fromEntries(values),
            code: status.code,
            message: status.message,
          });
        }
      }
    }
  }

  #takeLogs({ resourceLogs }: Json): void {
    for (const { scopeLogs } of resourceLogs) {
      for (const { logRecords } of scopeLogs) {
        for (const { severityText, body, traceId, spanId } of logRecords) {
          this.logs.push({ severity: severityText, body: body.stringValue, traceId, spanId });
        }
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server.shutdown();
  }
}
