/**
 * Keeping web pages away from a daemon on tcp. Any page that a user of this machine looks at can send
 * requests to a port of this machine; a browser then keeps the page from reading answers, and from
 * little else. A page can even read them if its own name resolves to this machine (DNS rebinding).
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { headerOf } from "../platform/http.ts";

/** Whose requests are let through. */
export interface BrowserRules {
  /** How browsers reach the daemon. */
  scheme: "http" | "https";
  /**
   * The names and numbers that a request's Host may have. `0.0.0.0` and `::` stand for all numbers: a
   * page of another's cannot have one of ours. Undefined: any, where a certificate proves the name.
   */
  hosts?: readonly string[];
  /** The origins whose pages are let through, or `*` for all. Default: only our own. */
  cors?: readonly string[];
}

/**
 * Reads the name or number that a Host may have, and gives it the way URLs write it. A port is left out,
 * since whoever reaches us under another one is not another.
 *
 * @throws {TypedError} ("bad parameter") If it is none.
 */
export function readHost(text: string): string {
  // An IPv6 address may come without the brackets that a URL has around it.
  const host = hostname(text) ?? hostname(`[${text}]`);
  if (host !== undefined && /^(\[.*\]|[\w.-]+)$/.test(host)) return host;
  throw new TypedError(
    "bad parameter",
    `host "${text}": expected a name or a number, such as api.example or 192.0.2.1`,
  );
}

/**
 * Reads the origins of pages, with commas or spaces between them, or `*` for all (RFC 6454).
 *
 * @throws {TypedError} ("bad parameter") If no browser would name one this way.
 */
export function readOrigins(text: string): string[] {
  const origins = text.split(/[\s,]+/).filter((origin) => origin !== "");
  const wrong = origins.length === 0 ? text : origins.find((origin) => {
    const { origin: own, protocol, host } = URL.parse(origin) ?? {};
    // Schemes that URLs know no origin of are those of browsers' extensions.
    return origin !== (own === "null" && host ? `${protocol}//${host}` : own) &&
      (origin !== "*" || origins.length > 1);
  });
  if (wrong === undefined) return origins;
  throw new TypedError(
    "bad parameter",
    `origin "${wrong}": expected one as browsers write it, such as https://pages.example, or * for any`,
  );
}

/**
 * What keeps a request out, if anything: a page of another's has sent it.
 *
 * @param host Whom the request is for: its Host, or the authority of its target; null where it names none.
 */
export type Judge = (request: Request, host: string | null) => string | undefined;

/** Judges requests by whose pages may send them. */
export function judgePages({ scheme, hosts, cors = [] }: BrowserRules): Judge {
  const names = new Set(hosts?.map(readHost));
  const numbers = names.has("0.0.0.0") || names.has("[::]");
  for (const name of [...names]) {
    if (LOOPBACK.test(name)) ["127.0.0.1", "[::1]"].forEach((number) => names.add(number));
  }
  names.add("localhost");
  const known = (host: string) => {
    const name = hostname(host);
    return name !== undefined && (names.has(name) || numbers && NUMBER.test(name));
  };
  const all = cors.includes("*");
  // Nearly all requests to a daemon are for the same host.
  let last: string | undefined;
  return (request, host) => {
    // HTTP/1.0 has none, and no browser speaks that.
    if (hosts !== undefined && host !== null && host !== last) {
      if (!known(host)) {
        return `host "${host}" is not a name of this daemon, expected its address, localhost, or one given to --allowed-host (AllowedHosts)`;
      }
      last = host;
    }
    if (all) return undefined;
    const origin = headerOf(request, "origin");
    if (origin !== null) {
      if (origin === `${scheme}://${host}` || cors.includes(origin)) return undefined;
      // What ends TLS in front of us speaks another scheme with browsers, and perhaps at another port.
      const theirs = URL.parse(origin)?.host;
      const own = theirs && (hosts === undefined ? theirs === host : known(theirs));
      if (own && headerOf(request, "sec-fetch-site") === "same-origin") return undefined;
      return `pages of ${origin} may not use this daemon, expected the origin given to --api-cors-header (CorsHeaders)`;
    }
    // Set by browsers where a page makes a request that names no origin: an image, a form, a link.
    const site = headerOf(request, "sec-fetch-site");
    if (site === null || site === "same-origin" || site === "none") return undefined;
    return "pages of other sites may not use this daemon";
  };
}

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\]|\[::ffff:7f[\da-f]{2}:[\da-f]+\])$/;
const NUMBER = /^(\d+(\.\d+){3}|\[.*\])$/;

/** The host of a Host header, the way URLs write it; undefined if it is none. */
export function hostname(host: string): string | undefined {
  // What else a URL may have would be read as if it were there.
  if (/[\s/\\?#@]/.test(host)) return undefined;
  return URL.parse(`http://${host}`)?.hostname.replace(/\.$/, "");
}
