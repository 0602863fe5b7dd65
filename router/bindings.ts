/**
 * Types only: what the handlers of a router get in `c.env`.
 *
 * @module
 */

import type { Peer } from "../engine.ts";

/** What handlers find in `c.env`. */
export interface Bindings {
  /** The path without its version. */
  readonly path: string;
  /** The requested API version, such as `1.24`; undefined for a path without a version. */
  readonly version?: string | undefined;
  /** The longest body of this request in bytes. A handler may change it before it reads. */
  bodyLimit: number;
  /** The client's address; undefined for a request that did not come over a socket. */
  readonly remoteAddr?: Deno.Addr | undefined;
  /** The client's verified certificate; undefined where the address asks for none. */
  readonly client?: ClientCertificate | undefined;
  /**
   * The client's process, user and groups, for a request over a unix socket. They come from the
   * kernel, so a client cannot forge them. Undefined for other sockets; without `--allow-all` or
   * off Linux, where this process cannot read /proc; and for clients that were connected, beside
   * others, before a handler first read this property. So authorize known peers, and treat
   * undefined as a refusal.
   */
  readonly peer?: Peer | undefined;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Closes the connection at once, even with data unsent, unless the answer is complete. */
  cut(): void;
  /**
   * Hijacks the connection of a request that asks for an upgrade (`Connection: Upgrade`, RFC 9110,
   * 7.8). The handler returns `response`, a 101, and owns the connection from then on, as a raw
   * byte stream in both directions. It counts as active until it is closed. A drain ends `readable`
   * and aborts `signal`, and closes the connection when the drain time is over. If middleware
   * replaces the response, or the handler throws or returns another one, the client gets that, and
   * `connection` rejects. A connection that its handler neither reads nor writes within 10 s is
   * closed.
   *
   * Declare paths whose handlers call this with `router.upgradable`. WebSockets need neither: see
   * `Deno.upgradeWebSocket`, and Hono's `upgradeWebSocket`.
   *
   * @param headers Further headers of the answer. Default: `Upgrade: tcp`.
   * @throws {TypedError} ("bad parameter") If the request does not ask for an upgrade; ("not
   * implemented") if the connection cannot be hijacked: it uses TLS without client certificates,
   * the path was not declared, or the process may not use its descriptors (`--allow-all`; Linux).
   */
  upgrade(headers?: HeadersInit): Upgrade;
}

/** A connection that a handler hijacks. */
export interface Upgrade {
  /** The response that the handler has to return. */
  readonly response: Response;
  /** Resolves with the connection once `response` was sent; rejects if it was not. */
  readonly connection: Promise<UpgradedConnection>;
}

/** A hijacked connection: a raw byte stream in both directions. */
export interface UpgradedConnection {
  /**
   * The client's data, a byte stream. It ends when the client half-closes; the client may still
   * read then.
   */
  readonly readable: ReadableStream<Uint8Array>;
  /**
   * Data for the client; a write waits until the kernel has taken it. Closing it half-closes the
   * connection: the client may still send. The connection is closed once both directions have
   * ended.
   */
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the connection is closed, by either side. Never rejects. */
  readonly closed: Promise<void>;
  /** Closes the connection at once, in both directions. */
  close(): void;
}

/** A client's certificate, signed by one of the daemon's authorities. */
export interface ClientCertificate {
  /** The subject, as in RFC 4514: `CN=alice,O=Ops`. The fingerprint, if that is empty. */
  readonly subject: string;
  /** SHA-256 of the certificate, in hexadecimal with colons. */
  readonly fingerprint: string;
}

/** A router's description of a request, for logs, metrics and traces. */
export interface Described {
  /** The method, as the client wrote it. */
  readonly method: string;
  /** The pattern of the matched route, such as `/containers/:id`; undefined if no route matched. */
  readonly route: string | undefined;
  /** The request's id in the log: its X-Request-Id, if that is fit for a log; else a new one. */
  readonly requestId: string;
}
