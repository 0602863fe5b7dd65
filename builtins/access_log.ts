/**
 * The access log: a line for each request, once its answer is complete.
 *
 * @module
 */

import { createLogger, printable } from "../engine/log.ts";
import { secondsSince } from "../engine/time.ts";
import { headerOf, urlOf } from "../platform/http.ts";
import { userName } from "../platform/peers.ts";
import type { Exchange, RequestObserver } from "../serve/observe.ts";

/** The format of the lines: the log's text, JSON, or Apache's and nginx's (combined). */
export type AccessLogFormat = "text" | "json" | "combined";

/** Writes a line for each request. */
export class AccessLog implements RequestObserver {
  readonly identifies = true;
  #write: (line: string) => void;
  #log?: ReturnType<typeof createLogger>;
  #said = new WeakMap<Exchange, Said>();

  /** @param write Takes a line, with its newline. */
  constructor(format: AccessLogFormat, write: (line: string) => void) {
    this.#write = write;
    if (format !== "combined") this.#log = createLogger({ format, write });
  }

  times(): boolean {
    return true;
  }

  began(exchange: Exchange): void {
    const { request, info } = exchange;
    const url = urlOf(request);
    this.#said.set(exchange, {
      user: info.client?.subject ?? (info.peer && userName(info.peer.uid)),
      path: url.slice(url.indexOf("/", url.indexOf("://") + 3)),
      // HTTP/2 has no Host header. Deno does not say which of HTTP/1.0 and 1.1 a request has.
      protocol: headerOf(request, "host") === null ? "HTTP/2" : "HTTP/1.1",
      userAgent: headerOf(request, "user-agent"),
      referer: headerOf(request, "referer"),
    });
  }

  ended(exchange: Exchange): void {
    const said = this.#said.get(exchange)!;
    const fields = fieldsOf(exchange, said);
    if (!this.#log) return this.#write(combined(fields, said.referer));
    // In text, the fields do not repeat the message.
    const { method, path, status, ...rest } = fields;
    const message = `${method} ${path} ${status}`;
    this.#log("info", message, this.#log.plain ? { ...rest } : { ...fields });
  }
}

/** The client, and parts of the request's header. */
interface Said {
  readonly user: string | undefined;
  readonly path: string;
  readonly protocol: string;
  readonly userAgent: string | null;
  readonly referer: string | null;
}

/** The fields of a line. Undefined ones are left out. */
interface Fields {
  readonly method: string;
  /** With version and query, as the client wrote it. */
  readonly path: string;
  readonly status: number;
  /** In seconds. */
  readonly duration: number;
  /** Of the answer's body, or sent on a hijacked connection; not known of a WebSocket. */
  readonly bytes?: number;
  /** Received on a hijacked connection. */
  readonly received?: number;
  readonly protocol: string;
  /** `HOST:PORT`, or `unix`. */
  readonly client: string;
  readonly user?: string;
  readonly route?: string;
  readonly request?: string;
  readonly userAgent?: string;
  /** The client left before the answer was complete. */
  readonly brokenOff?: true;
}

function fieldsOf(exchange: Exchange, { user, path, protocol, userAgent }: Said): Fields {
  const { method, info, status, bytes, transferred, brokenOff, described, started } = exchange;
  const { remoteAddr } = info;
  return {
    method,
    path,
    status,
    duration: secondsSince(started!),
    ...(status !== SWITCHING_PROTOCOLS || transferred) && { bytes },
    ...transferred && { received: transferred.received },
    protocol,
    client: "hostname" in remoteAddr ? hostPort(remoteAddr) : "unix",
    ...user !== undefined && { user },
    ...described?.route !== undefined && { route: described.route },
    ...described && { request: described.requestId },
    ...userAgent !== null && { userAgent },
    ...brokenOff && { brokenOff },
  };
}

/** RFC 9110, 15.2.2. */
const SWITCHING_PROTOCOLS = 101;

function hostPort({ hostname, port }: Deno.NetAddr): string {
  return `${hostname.includes(":") ? `[${hostname}]` : hostname}:${port}`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** Apache's combined log format: host, identity, user, time, request, status, bytes, and so on. */
function combined(fields: Fields, referer: string | null): string {
  const { method, path, protocol, status, bytes, client, user, userAgent } = fields;
  const iso = new Date().toISOString();
  const [, year, month, day, time] = /^(\d+)-(\d+)-(\d+)T([\d:]+)/.exec(iso)!;
  const date = `${day}/${MONTHS[Number(month) - 1]}/${year}:${time} +0000`;
  const host = client.replace(/:\d+$/, "").replace(/^\[|\]$/g, "");
  const who = user === undefined ? "-" : user.replace(/\s/g, "_");
  const request = quoted(`${method} ${path} ${protocol}`);
  return `${host} - ${printable(who)} [${date}] ${request} ${status} ${bytes || "-"} ` +
    `${quoted(referer)} ${quoted(userAgent)}\n`;
}

function quoted(text: string | null | undefined): string {
  return text ? `"${printable(text).replace(/"/g, '\\"')}"` : '"-"';
}
