/**
 * What a request asks for, by its target and its Host alone (RFC 9112, 3.2 and 3.3). The native loop
 * puts the two together without a look at either, and so a Host could change the path.
 *
 * @module
 */

import { API_VERSION, VERSION } from "../engine/version.ts";
import { headerOf, setUrl, staticBody, urlOf, withBody } from "../platform/http.ts";
import { hostname } from "./addresses.ts";
import type { RequestHandler } from "./handler.ts";

/** How clients reach a listener. */
export interface Entrance {
  /** The scheme of its URLs. */
  readonly scheme: "http" | "https";
  /** Whether clients come by a unix socket: some give its path as Host. */
  readonly unix: boolean;
  /**
   * Says why a request may not come in, if so.
   *
   * @param host Whom it is for: its Host, or the authority of its target; null where it names none.
   */
  readonly problemOf?: (request: Request, host: string | null) => string | undefined;
}

/** A handler that gives `handler` the requests that may come in, with the URLs that they ask for. */
export function admit(handler: RequestHandler, entrance: Entrance): RequestHandler {
  const { scheme, unix, problemOf } = entrance;
  // Nearly all requests to a daemon are for the same host.
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

/** What a request is for: whom, and what of it, from after the first "/" on. */
interface Target {
  host: string | null;
  rest: string;
  /** What came before the rest in the URL of the native loop. */
  start: string;
  problem?: undefined;
}

function readTarget(url: string, host: string | null, unix: boolean): Target | { problem: string } {
  const bad = (problem: string) => ({ problem });
  const afterScheme = url.indexOf("://") + 3;
  if (host !== null && host !== "" && !isHost(host)) {
    // What clients of 2015 send: what they were told to connect to.
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
  // Of the target itself, where that is a whole URL or came by HTTP/2; else what Deno has of the Host.
  const own = authority !== host;
  const scheme = url.slice(0, afterScheme - 3);
  // Deno fills in an address of its own where the client names no host.
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

/** Whether a text is a Host (RFC 9110, 7.2): a URL can have it, and nothing of it is read as something else. */
function isHost(text: string): boolean {
  return /^[\x21-\x7e]+$/.test(text) && !text.includes("@") && hostname(text) !== undefined;
}

/**
 * A handler whose answers are some: what is no Response is found out here, where the request is still
 * known, and HEAD is told no length that GET may not have (RFC 9110, 8.6).
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
  // The native loop says that no body is one of no bytes. Of a stream it says nothing.
  return bare && !BODYLESS.includes(answer.status)
    ? withBody(answer, new ReadableStream({ start: (controller) => controller.close() }))
    : answer;
}

/** Statuses whose answers have no body (Fetch, 2.2.3), nor its length. */
const BODYLESS: readonly number[] = [101, 204, 205, 304];

/** An answer that a client gets before any handler. */
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
