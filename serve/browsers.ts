/**
 * Keeps web pages away from a daemon on tcp. Any page in a browser of this machine can send
 * requests to a port of this machine; all that the browser prevents is that the page reads the
 * answers. A page whose own name resolves to this machine can even read them (DNS rebinding).
 *
 * @module
 */

import { headerOf } from "../platform/http.ts";
import { hostname, readHost } from "./addresses.ts";

/** The requests that are accepted. */
export interface BrowserRules {
  /** The scheme of the daemon's own origin. */
  scheme: "http" | "https";
  /**
   * The names and IP addresses that a request's Host may have. `0.0.0.0` and `::` stand for any IP
   * address: the page of another site cannot have one of this machine. Undefined: any host, where
   * the certificate proves the name.
   */
  hosts?: readonly string[];
  /** The origins whose pages are accepted, or `*` for all. Default: only our own. */
  cors?: readonly string[];
}

/**
 * Returns why a request is refused, if a page of another site has sent it; else undefined.
 *
 * @param host The request's Host, or the authority of its target; null if it has neither.
 */
export type Judge = (request: Request, host: string | null) => string | undefined;

/** Makes the judge of requests by these rules. */
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
    // An HTTP/1.0 request may have no Host; no browser speaks HTTP/1.0.
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
      // Behind a proxy that terminates TLS, browsers use another scheme and perhaps another port.
      const theirs = URL.parse(origin)?.host;
      const own = theirs && (hosts === undefined ? theirs === host : known(theirs));
      if (own && headerOf(request, "sec-fetch-site") === "same-origin") return undefined;
      return `pages of ${origin} may not use this daemon, expected the origin given to --api-cors-header (CorsHeaders)`;
    }
    // Browsers set this for requests without an Origin: images, forms, links.
    const site = headerOf(request, "sec-fetch-site");
    if (site === null || site === "same-origin" || site === "none") return undefined;
    return "pages of other sites may not use this daemon";
  };
}

const LOOPBACK = /^(localhost|127(\.\d+){3}|\[::1\]|\[::ffff:7f[\da-f]{2}:[\da-f]+\])$/;
const NUMBER = /^(\d+(\.\d+){3}|\[.*\])$/;
