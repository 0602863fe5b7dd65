/**
 * What the handlers of a router are told of a request besides itself: types only.
 *
 * @module
 */

import type { Peer } from "../engine.ts";

/** What handlers find in `c.env`. */
export interface Bindings {
  /** The path without its version. */
  readonly path: string;
  /** The API version asked for, such as `1.24`. Undefined in a path without one. */
  readonly version?: string | undefined;
  /** How long this request's body may be, in bytes. A handler may change it before reading. */
  bodyLimit: number;
  /** Where the client is; undefined where the request did not come over a socket. */
  readonly remoteAddr?: Deno.Addr | undefined;
  /** The certificate that the client has shown; undefined where clients need none. */
  readonly client?: ClientCertificate | undefined;
  /**
   * The client's process, user and groups, at a unix socket: the kernel says so, and no client can say
   * otherwise. Undefined elsewhere; where this process may not look into /proc (`--allow-all`; Linux);
   * and for clients that were there beside others before a handler first asked for this. So let in who
   * is known, and nobody else.
   */
  readonly peer?: Peer | undefined;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Ends the connection at once, whatever it has not sent yet, unless the answer is complete. */
  cut(): void;
  /**
   * Takes the connection over, if its request asks for that (`Connection: Upgrade`, RFC 9110, 7.8): the
   * handler returns `response`, a 101, and has the connection from then on, for bytes of any kind both
   * ways. Until it is closed it counts as one that is served; a drain ends `readable` and aborts
   * `signal`, and cuts it when its time is over. Where middleware answers otherwise, or the handler
   * throws, or returns another response, the client gets that, and `connection` rejects. A handler that
   * neither reads nor writes within 10 s has its connection closed.
   *
   * Paths where a handler calls this have to be told to `router.upgradable`. WebSockets need neither:
   * see `Deno.upgradeWebSocket`, and Hono's `upgradeWebSocket`.
   *
   * @param headers More headers of the answer. Default: `Upgrade: tcp`.
   * @throws {TypedError} ("bad parameter") If the request asks for no upgrade; ("not implemented") if this
   * connection cannot be had: it came by TLS without client certificates, the path was not told, or the
   * process may not look at its descriptors (`--allow-all`; Linux).
   */
  upgrade(headers?: HeadersInit): Upgrade;
}

/** A connection that a handler takes over. */
export interface Upgrade {
  /** What the handler has to return. */
  readonly response: Response;
  /** Resolves with the connection once `response` was sent, and rejects if it was not. */
  readonly connection: Promise<UpgradedConnection>;
}

/** A connection that speaks HTTP no more. */
export interface UpgradedConnection {
  /** What the client sends. It ends when the client has sent all, and may still read. */
  readonly readable: ReadableStream<Uint8Array>;
  /**
   * What the client gets; a write waits until the system has taken it. To close it tells the client
   * that there is no more, which may still send: the connection is closed when both have ended.
   */
  readonly writable: WritableStream<Uint8Array>;
  /** Resolves when the connection has ended, whoever ended it. Never rejects. */
  readonly closed: Promise<void>;
  /** Ends the connection at once, both ways. */
  close(): void;
}

/** A client's certificate, which one of the daemon's authorities has signed. */
export interface ClientCertificate {
  /** Whose it is, as RFC 4514 writes it: `CN=alice,O=Ops`. The fingerprint, where it names nobody. */
  readonly subject: string;
  /** SHA-256 of the certificate, in hexadecimal with colons. */
  readonly fingerprint: string;
}

/** What a router knows of a request, for those who tell of it. */
export interface Described {
  /** The method, as the client wrote it. */
  readonly method: string;
  /** The path of the route whose handler it has, with its variables; undefined where it has none. */
  readonly route: string | undefined;
  /** What the log knows it by: its X-Request-Id, if that is fit for a log; else a new one. */
  readonly requestId: string;
}
