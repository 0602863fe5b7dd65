/**
 * What a request asks for, by its target and its Host alone (RFC 9112, 3.2 and 3.3). The native
 * loop joins the two unchecked, so that a Host with a slash in it would change the path.
 *
 * @module
 */

import { API_VERSION, VERSION } from "../engine/version.ts";
import { headerOf, setUrl, staticBody, urlOf, withBody } from "../platform/http.ts";
import { hostname } from "./addresses.ts";
import type { RequestHandler } from "./handler.ts";

/** A listener, as the URLs of its requests and the checks on them depend on it. */
export interface Entrance {
  /** The scheme of its URLs. */
  readonly scheme: "http" | "https";
  /** Whether it is a unix socket: some of its clients send its path as Host. */
  readonly unix: boolean;
  /**
   * Why a request is refused, with 403; undefined if it is not.
   *
   * @param host Its Host, or the authority of its target; null where it has neither.
   */
  readonly problemOf?: (request: Request, host: string | null) => string | undefined;
}

/** A handler that refuses bad requests and passes the others to `handler`, with their true URLs. */
export function admit(handler: RequestHandler, entrance: Entrance): RequestHandler {
  const { scheme, unix, problemOf } = entrance;
  // Nearly all requests to a daemon have the same Host: the last one is not parsed again.
  let lastHost: string | undefined;
  let lastStart = "";
  let lastBase = "";
  return (request, info) => {
    const host = headerOf(request, "host");
    const url = urlOf(request);
    if (host !== null && host === lastHost && url.startsWith(lastStart)) {
      const problem = problemOf?.(request, host);
      if (problem !== undefined) return refuse(403, problem);
      // The start ends in the "/" that the target begins with.
      if (lastStart !== lastBase) setUrl(request, lastBase + url.slice(lastStart.length));
      return handler(request, info);
    }
    const target = readTarget(url, host, unix);
    if (target.problem !== undefined) return refuse(400, target.problem);
    const problem = problemOf?.(request, target.host);
    if (problem !== undefined) return refuse(403, problem);
    const base = `${scheme}://${target.host ?? "localhost"}/`;
    if (base + target.rest !== url) setUrl(request, base + target.rest);
    if (host !== null && target.start.endsWith(`//${host}/`)) {
      lastHost = host;
      lastStart = target.start;
      lastBase = base;
    }
    return handler(request, info);
  };
}

/** The target of a request, in parts. */
interface Target {
  /** The authority that it is for; null where the client names none. */
  host: string | null;
  /** The path and the query, without the "/" that the path begins with. */
  rest: string;
  /** What stands before `rest` in the URL of the native loop. */
  start: string;
  problem?: undefined;
}

function readTarget(url: string, host: string | null, unix: boolean): Target | { problem: string } {
  const bad = (problem: string) => ({ problem });
  const afterScheme = url.indexOf("://") + 3;
  if (host !== null && host !== "" && !isHost(host)) {
    // Docker's clients of 2015 send the path of the socket, as it was given to them.
    if (!unix || !/^(?:\/|%2f)[^?#]*$/i.test(host)) {
      return bad(`host "${host}" is malformed, expected a name or a number, and perhaps a port`);
    }
    const start = url.slice(0, afterScheme) + host + "/";
    if (!url.startsWith(start)) return bad("the target of the request is malformed");
    return { host: null, rest: url.slice(start.length), start };
  }
  const end = url.slice(afterScheme).search(/[/?#]/);
  const authority = end < 0 ? url.slice(afterScheme) : url.slice(afterScheme, afterScheme + end);
  const given = end < 0 ? "" : url.slice(afterScheme + end);
  // A target that is a whole URL, or came by HTTP/2, has an authority of its own, which goes before
  // the Host (RFC 9112, 3.2.2).
  const own = authority !== host;
  const scheme = url.slice(0, afterScheme - 3);
  // Deno puts an address of the listener there where the client names no host.
  const filled = host === "" || host === null && scheme === NATIVE_UNIX;
  const schemes = own && !filled ? SCHEMES : [...SCHEMES, NATIVE_UNIX];
  if (end < 0 || !schemes.includes(scheme) || own && !filled && !isHost(authority)) {
    return bad("the target of the request is malformed, expected a path");
  }
  const rest = given.startsWith("/") ? given.slice(1) : given;
  const start = url.slice(0, url.length - rest.length);
  if (!own) return { host, rest, start };
  return { host: filled ? null : authority, rest, start };
}

const NATIVE_UNIX = "http+unix";
const SCHEMES = ["http", "https"];

/**
 * Whether a text is a Host (RFC 9110, 7.2), and a URL with it has it as its host and nothing else.
 */
function isHost(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text) && !text.includes("@") && hostname(text) !== undefined;
}

/**
 * A handler whose answers are checked: one that is no Response throws here, where the error can
 * name the request, and HEAD gets no length that differs from that of GET (RFC 9110, 8.6).
 */
export function checkAnswers(
  handler: (...args: Parameters<RequestHandler>) => unknown,
): RequestHandler {
  return (request, info) => {
    const answer = handler(request, info);
    if (answer instanceof Response && request.method !== "HEAD") return answer;
    return answer instanceof Promise
      ? answer.then((response) => checked(request, response))
      : checked(request, answer);
  };
}

function checked(request: Request, answer: unknown): Response {
  if (!(answer instanceof Response)) {
    throw new TypeError(`${request.method} ${request.url}: the handler returned no Response`);
  }
  const bare = request.method === "HEAD" && staticBody(answer) === null &&
    !answer.headers.has("content-length");
  // For an answer without a body the native loop sends `Content-Length: 0`, for a stream no length.
  return bare && !BODYLESS.includes(answer.status)
    ? withBody(answer, new ReadableStream({ start: (controller) => controller.close() }))
    : answer;
}

/** Statuses whose answers have neither a body (Fetch, 2.2.3) nor a length. */
const BODYLESS: readonly number[] = [101, 204, 205, 304];

/** An answer that the daemon gives before any handler runs, as `{"message"}`. */
export function refuse(
  status: number,
  message: string,
  headers: Record<string, string> = {},
): Response {
  return Response.json({ message }, {
    status,
    headers: {
      "Server": `Floodgate/${VERSION} (${Deno.build.os})`,
      "Api-Version": API_VERSION,
      "Ostype": Deno.build.os,
      ...headers,
    },
  });
}
