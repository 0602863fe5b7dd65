/**
 * A request as the router passes it on: without the version in its path, and with its client.
 *
 * @module
 */

import { getPath } from "npm:hono@^4.13/utils/url";
import type { Bindings, ClientCertificate } from "./bindings.ts";

/** What the connection passes on; nothing where a request did not come over one. */
type Connected = Partial<Pick<Bindings, "remoteAddr" | "client" | "signal" | "cut">>;

/**
 * Where a request of Deno's has its signal, for `signal` as for `fetch`.
 * tests/platform/http_test.ts says if that changes.
 */
const SIGNAL = Object.getOwnPropertySymbols(Request.prototype)
  .find(({ description }) => description === "signal");

/**
 * A request whose signal is asked for when somebody wants it. To ask the native loop for one costs more than
 * all else about a small body: it aborts after complete answers too, with an error and its stack.
 */
export class LimitedRequest extends Request {
  #env: Bindings;

  constructor(env: Bindings, url: string, init: RequestInit) {
    super(url, SIGNAL ? init : { ...init, signal: env.signal });
    this.#env = env;
  }
  get [SIGNAL ?? Symbol("signal")](): AbortSignal {
    return this.#env.signal;
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
