/**
 * What handles requests, and what it is told: types only.
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import type { Serve, Served } from "../platform/http.ts";
import type { ClientCertificate, Described, Upgrade } from "../router/bindings.ts";

/** What a request handler is told besides the request. */
export interface RequestInfo {
  /** Where the client is. */
  readonly remoteAddr: Deno.Addr;
  /** The certificate that the client has shown, where clients have to. */
  readonly client?: ClientCertificate | undefined;
  /** The client's process, at a unix socket, where it can be known. */
  readonly peer?: Peer | undefined;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Resolves when the answer is complete, or when the client has left. */
  readonly completed: Promise<void>;
  /** Whether the client has left before its answer was complete. */
  readonly left: boolean;
  /** What is to be told of the request, where something asks: a router describes it there. */
  exchange?: { described?: Described | undefined; readonly identified: boolean };
  /** Ends the connection at once, whatever it has not sent yet, unless the answer is complete. */
  cut(): void;
  /** Takes the connection over, as `c.env.upgrade` does. */
  upgrade(headers?: HeadersInit): Upgrade;
}

/** A served connection whose requests' handlers may take it over. */
export interface Upgrading extends Served {
  /** Takes it over, for the handler of the request that is being answered. */
  upgrade?: ((headers?: HeadersInit) => Upgrade) | undefined;
  /** Whether its next answer should be its last, because of what may be asked for then. */
  readonly once?: boolean;
}

/** What serves connections inside of others. */
export interface Inner {
  /** Serves HTTP on a connection. */
  serve: Serve;
  /** Told of each connection as it is accepted. */
  accepted?(conn: Deno.Conn): void;
}

/** Answers a request. */
export type RequestHandler = (request: Request, info: RequestInfo) => Response | Promise<Response>;
