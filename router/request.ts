/**
 * A request as the router passes it on: its path without a version, its body bounded, and what the
 * connection says of its client.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { Next, RouterRoute } from "npm:hono@4.13.19/types";
import type { Job, Peer } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import { guardBody, headerOf } from "../platform/http.ts";
import { userName } from "../platform/peers.ts";
import type { Answer } from "./answer.ts";
import type { Bindings, ClientCertificate, Described, Upgrade } from "./bindings.ts";
import { type Bodies, LimitedBody, type OnSweep } from "./body.ts";
import { getPath } from "./hono.ts";
import { BODY_LIMIT } from "./limits.ts";
import { isVersion, versionProblem } from "./versions.ts";

/** What the connection passes on; nothing where a request did not come over one. */
type Connected =
  & Partial<Pick<Bindings, "remoteAddr" | "client" | "peer" | "signal" | "cut" | "upgrade">>
  & {
    completed?: Promise<void>;
    onSweep?: OnSweep;
    exchange?: { described?: Described; readonly identified: boolean };
  };

/** The app in which the router is routed (`app.route`), as its middleware sees the request. */
export interface Parent {
  readonly c: Context;
  readonly next: Next;
}

/** The bindings of a request (`c.env`): its path and version apart, its client, and its job. */
export class RequestBindings implements Bindings, Described {
  readonly path: string;
  readonly version?: string;
  readonly method: string;
  /** The request that came in, before anything was done to it. */
  readonly request: Request;
  /** What is wrong with its version, whatever the path is. */
  readonly problem?: string | undefined;
  /** What the client may have meant as a version, if no route has this path. */
  readonly oddVersion?: string;
  /** Whether it has one handler and no middleware, so that no header was set before that runs. */
  alone = false;
  /** The body that handlers get, where there is one. */
  body?: LimitedBody;
  /** What the rows of its path expect of a request, and this one does not have. */
  readonly conditions: string[] = [];
  /** The job that it runs, and what that writes. */
  job?: Job;
  answer?: Answer;
  /** The response that the row's job made, with all its headers. */
  made?: Response;
  /** Its Hono context, once a handler has it. */
  context?: Context | undefined;
  /** The handlers and middleware that were found for it, and how they were added. */
  found?: readonly (readonly [readonly [unknown, RouterRoute], unknown])[];
  /** The error that the client got, if any. */
  reported?: unknown;
  /** The app in which the router is routed, if any. */
  readonly parent?: Parent | undefined;
  #info: Connected | undefined;
  #outer: RequestBindings | undefined;
  #bodyLimit: number;
  #id?: string;

  /**
   * Makes the bindings of a request.
   *
   * @param info What the connection passes on, or the bindings of the router in which this one is
   * mounted.
   * @param bodyLimit The longest body, in bytes; undefined for that of the outer router, or the
   * default.
   * @param routed The app in which this router is routed, and the path that is left of the
   * request's.
   */
  constructor(
    request: Request,
    info: object | undefined,
    bodyLimit: number | undefined,
    routed?: { path: string; parent: Parent },
  ) {
    let path = routed ? routed.path : getPath(request);
    this.parent = routed?.parent;
    this.request = request;
    this.method = request.method;
    this.#info = info as Connected | undefined;
    this.#outer = info instanceof RequestBindings ? info : undefined;
    const exchange = this.#info?.exchange;
    if (exchange !== undefined) exchange.described = this;
    this.#bodyLimit = bodyLimit ?? BODY_LIMIT;
    if (this.#outer && bodyLimit !== undefined) this.#outer.bodyLimit = bodyLimit;
    // /v1 and the like; /version and /volumes are no versions.
    let code = path.charCodeAt(1);
    if (code === SLASH) {
      // Clients that put a "/" after the address of the daemon send two.
      const rest = path.replace(/^\/+/, "/");
      if (isVersion(firstSegment(rest))) path = rest;
      code = path.charCodeAt(1);
    }
    if (code === 0x76 && isDigit(path.charCodeAt(2))) {
      const first = firstSegment(path);
      if (isVersion(first)) {
        this.version = first.slice(1);
        this.problem = versionProblem(this.version);
        path = path.slice(1 + first.length) || "/";
      } else {
        this.oddVersion = first.slice(1);
      }
    }
    this.path = path;
  }

  /** Whether Hono's handlers are all it needs: no bad version, no body, no HEAD, no outer app. */
  get ordinary(): boolean {
    return this.problem === undefined && this.body === undefined && this.method !== "HEAD" &&
      this.parent === undefined;
  }
  get bodyLimit(): number {
    return this.#outer ? this.#outer.bodyLimit : this.#bodyLimit;
  }
  set bodyLimit(bytes: number) {
    if (this.#outer) this.#outer.bodyLimit = bytes;
    else this.#bodyLimit = bytes;
  }
  get remoteAddr(): Deno.Addr | undefined {
    return this.#info?.remoteAddr;
  }
  get client(): ClientCertificate | undefined {
    return this.#info?.client;
  }
  /** The user of the jobs that the request runs: {@linkcode Job.user}. */
  get user(): string | undefined {
    if (this.client) return this.client.subject;
    const { peer } = this;
    return peer && userName(peer.uid);
  }
  get peer(): Peer | undefined {
    return this.#info?.peer;
  }
  get route(): string | undefined {
    const { found } = this;
    if (found === undefined) return undefined;
    // Hono gives the same list each time for a route, so its path is looked up once.
    let route = routes.get(found);
    if (route === undefined) routes.set(found, route = routeOf(found) ?? "");
    return route || undefined;
  }
  get requestId(): string {
    return this.#id ??= this.#outer?.requestId ?? requestId(this.request, this.context);
  }
  /** The id for the answer to carry: undefined unless a log has it. */
  get loggedId(): string | undefined {
    return this.#info?.exchange?.identified ? this.requestId : this.#id;
  }
  get signal(): AbortSignal {
    return this.#info?.signal ?? this.request.signal;
  }
  /** Resolves when its answer is complete; undefined where the connection does not say. */
  get completed(): Promise<void> | undefined {
    return this.#info?.completed;
  }
  get onSweep(): OnSweep | undefined {
    return this.#info?.onSweep;
  }
  cut(): void {
    this.#info?.cut?.();
  }
  upgrade(headers?: HeadersInit): Upgrade {
    const upgrade = this.#info?.upgrade?.(headers);
    if (upgrade) return upgrade;
    throw new TypedError("not implemented", "the request came over no connection that can be had");
  }

  /** The request for handlers. Its body, where it has one, is bounded from here on. */
  limited(bodies: Bodies): Request {
    const { request, method } = this;
    // Requests of these methods have no body for a handler, whatever the client sends.
    if (method === "GET" || method === "HEAD" || method === "CONNECT") return request;
    if (this.#outer?.body) {
      this.body = this.#outer.body;
      return request;
    }
    // Hono keeps a body that the outer app has read.
    if (this.parent !== undefined && request.bodyUsed) return request;
    const body = new LimitedBody(this, bodies);
    const limited = guardBody(request, body);
    if (limited === undefined) return request;
    this.body = body;
    return limited;
  }

  /**
   * Releases the body, if this router bounded it.
   *
   * @param sent Whether the answer has been sent; if not, it is about to be.
   */
  release(sent = false): void {
    if (this.body !== this.#outer?.body) this.body?.release(sent);
  }
}

const SLASH = 0x2f;

function firstSegment(path: string): string {
  const end = path.indexOf("/", 1);
  return path.slice(1, end < 0 ? undefined : end);
}

function isDigit(code: number): boolean {
  return code >= 0x30 && code <= 0x39;
}

/** The handlers and middleware that were found for a request, and how each was added. */
type AllFound = NonNullable<RequestBindings["found"]>;

const routes = new WeakMap<AllFound, string>();

/** The path of the route that answers: the last one that is no middleware. */
function routeOf(found: AllFound): string | undefined {
  const last = found.findLast(([[, { method }]]) => method !== "ALL") ??
    found.findLast(([[handler]]) => (handler as { length: number }).length < 2);
  return last?.[0][1].path;
}

/** The id that Hono's middleware or the client gave, if it is fit for a log; else a new one. */
function requestId(request: Request, context: Context | undefined): string {
  for (const id of [context?.get("requestId"), headerOf(request, "x-request-id")]) {
    if (typeof id === "string" && /^[\w.:=+/-]{1,128}$/.test(id)) return id;
  }
  return crypto.randomUUID();
}
