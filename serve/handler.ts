/**
 * Types only: the handlers of requests, and their information about a request.
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import type { Serve, Served, Transferred } from "../platform/http.ts";
import type { ClientCertificate, Described, Upgrade } from "../router/bindings.ts";

/** A request handler's information about a request and its connection. */
export interface RequestInfo {
  /** The client's address. */
  readonly remoteAddr: Deno.Addr;
  /** The client's certificate, where clients need one. */
  readonly client?: ClientCertificate | undefined;
  /** The client's process, for a unix socket, if it is known. */
  readonly peer?: Peer | undefined;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Resolves when the answer is complete, or when the client has left. */
  readonly completed: Promise<void>;
  /** Calls `look` at least every second while any connection is open. */
  readonly onSweep?: (look: () => void) => void;
  /** Whether the client has left before its answer was complete. */
  readonly left: boolean;
  /** The bytes sent over the hijacked connection that the request has become, if that is known. */
  readonly transferred?: Transferred | undefined;
  /** Where a router describes the request to observers (access log, metrics), if there are any. */
  exchange?: {
    described?: Described | undefined;
    readonly identified: boolean;
    status: number;
    bytes: number;
  };
  /** Closes the connection at once, even with data unsent, unless the answer is complete. */
  cut(): void;
  /** Hijacks the connection, as `c.env.upgrade` does. */
  upgrade(headers?: HeadersInit): Upgrade;
}

/** An upgrade that a handler has asked for. */
export interface PendingUpgrade extends Upgrade {
  /** Called when there will be no connection. Without effect where there is one. */
  refuse(reason: unknown): void;
}

/** A served connection that the handlers of its requests may hijack. */
export interface Upgrading extends Served {
  /** Hijacks the connection, for the handler of the current request. */
  upgrade?: ((request: Request, headers?: HeadersInit) => PendingUpgrade) | undefined;
  /** Whether its next answer has to be its last, because the request after it may be an upgrade. */
  readonly once?: boolean;
}

/** Serves the connections inside of TLS connections. */
export interface Inner {
  /** Serves HTTP on a connection. */
  serve: Serve;
  /** Called for each inner connection as it is accepted. */
  accepted?(conn: Deno.Conn): void;
}

/** Something with the `fetch` of a Hono app. */
export interface Fetcher {
  /** Answers a request; `env` is what the app finds in its context's `env`. */
  fetch(request: Request, env?: unknown): Response | Promise<Response>;
  /**
   * The first segments of the paths with raw upgrades, as in the `upgrades` of a router. Default:
   * those of the routers that are part of a Hono app by `route`.
   */
  readonly upgrades?: Pick<ReadonlySet<string>, "size" | "has">;
}

/** Answers a request. */
export type RequestHandler = (request: Request, info: RequestInfo) => Response | Promise<Response>;
