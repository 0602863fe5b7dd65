/**
 * What the handlers of a router are told of a request besides itself: types only.
 *
 * @module
 */

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
  /** Ends the connection at once, whatever it has not sent yet, unless the answer is complete. */
  cut(): void;
}

/** A client's certificate, which one of the daemon's authorities has signed. */
export interface ClientCertificate {
  /** Whose it is, as RFC 4514 writes it: `CN=alice,O=Ops`. The fingerprint, where it names nobody. */
  readonly subject: string;
  /** SHA-256 of the certificate, in hexadecimal with colons. */
  readonly fingerprint: string;
}
