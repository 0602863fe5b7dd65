/**
 * What handles requests, and what it is told: types only.
 *
 * @module
 */

import type { ClientCertificate } from "../router/bindings.ts";

/** What a request handler is told besides the request. */
export interface RequestInfo {
  /** Where the client is. */
  readonly remoteAddr: Deno.Addr;
  /** The certificate that the client has shown, where clients have to. */
  readonly client?: ClientCertificate;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Resolves when the answer is complete, or when the client has left. */
  readonly completed: Promise<void>;
  /** Ends the connection at once, whatever it has not sent yet, unless the answer is complete. */
  cut(): void;
}

/** Answers a request. */
export type RequestHandler = (request: Request, info: RequestInfo) => Response | Promise<Response>;
