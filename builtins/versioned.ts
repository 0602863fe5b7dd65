/**
 * API versions: a Hono app that routes by a path without its version.
 *
 * @module
 */

import { Hono } from "npm:hono@^4.13";
import { UnsupportedPathError } from "npm:hono@^4.13/router";
import { RegExpRouter } from "npm:hono@^4.13/router/reg-exp-router";
import { SmartRouter } from "npm:hono@^4.13/router/smart-router";
import { TrieRouter } from "npm:hono@^4.13/router/trie-router";
import { getPath } from "npm:hono@^4.13/utils/url";
import type { ClientCertificate } from "./connections.ts";
import { API_VERSION } from "./version.ts";

/** What handlers find in `c.env`. */
export interface Bindings {
  /** The path without its version. */
  readonly path: string;
  /** The API version asked for, such as `1.24`. Undefined in a path without one. */
  readonly version?: string;
  /** How long this request's body may be, in bytes. A handler may change it before reading. */
  bodyLimit: number;
  /** Where the client is; undefined where the request did not come over a socket. */
  readonly remoteAddr?: Deno.Addr;
  /** The certificate that the client has shown; undefined where clients need none. */
  readonly client?: ClientCertificate;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Ends the connection at once, whatever it has not sent yet. */
  cut(): void;
}

/** What the connection passes on; nothing where a request did not come over one. */
type Connected = Partial<Pick<Bindings, "remoteAddr" | "client" | "signal" | "cut">>;

/** A Hono app that takes the path to route by from its env, which is a {@linkcode RequestBindings}. */
export function versionedApp(): Hono<{ Bindings: Bindings }> {
  return new Hono({
    getPath: (_request, given) => (given?.env as Bindings).path,
    // Hono's own choice, but for the number of routes.
    router: new SmartRouter({ routers: [new FewRoutes(), new TrieRouter()] }),
  });
}

/** With more routes than this, one regular expression of them all is slower than a tree. */
const FEW = 250;

/** Leaves many routes to the next router, as it does routes that it cannot express. */
class FewRoutes<T> extends RegExpRouter<T> {
  #routes = 0;
  override add(method: string, path: string, handler: T): void {
    if (++this.#routes > FEW) throw new UnsupportedPathError();
    super.add(method, path, handler);
  }
}

/** Splits the version off a request's path, and passes on what the connection told of the client. */
export class RequestBindings implements Bindings {
  readonly path: string;
  readonly version?: string;
  readonly method: string;
  bodyLimit: number;
  /** Whether a job reads the body, perhaps after the answer has begun. */
  bodyAttached = false;
  #request: Request;
  #info: Connected | undefined;

  constructor(request: Request, info: object | undefined, bodyLimit: number) {
    const path = getPath(request);
    this.#request = request;
    this.method = request.method;
    this.#info = info as Connected | undefined;
    this.bodyLimit = bodyLimit;
    const code = path.charCodeAt(2);
    // /v1 and the like; /version and /volumes are no versions.
    if (path.charCodeAt(1) === 0x76 && code >= 0x30 && code <= 0x39) {
      const end = path.indexOf("/", 2);
      this.version = path.slice(2, end < 0 ? undefined : end);
      this.path = end < 0 ? "/" : path.slice(end);
    } else {
      this.path = path;
    }
  }
  get remoteAddr(): Deno.Addr | undefined {
    return this.#info?.remoteAddr;
  }
  get client(): ClientCertificate | undefined {
    return this.#info?.client;
  }
  get signal(): AbortSignal {
    return this.#info?.signal ?? this.#request.signal;
  }
  cut(): void {
    this.#info?.cut?.();
  }
}

const [MAX_MAJOR, MAX_MINOR] = API_VERSION.split(".").map(Number);

/** What is wrong with the version of a path, if anything. */
export function versionProblem(version: string | undefined): string | undefined {
  if (version === undefined) return undefined;
  if (!/^\d{1,4}\.\d{1,4}$/.test(version)) {
    return `malformed version "v${version}", expected vMAJOR.MINOR such as v${API_VERSION}`;
  }
  if (compareVersions(version, [MAX_MAJOR, MAX_MINOR]) > 0) {
    return `client version ${version} is too new. Maximum supported API version is ${API_VERSION}`;
  }
}

/** Below 0 if the version is older than the other, 0 if it is the same, else above 0. */
export function compareVersions(version: string, other: readonly number[]): number {
  const [major, minor] = version.split(".").map(Number);
  return major - other[0] || minor - other[1];
}
