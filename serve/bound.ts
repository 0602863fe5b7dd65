/**
 * What it is to bind an address, whatever its kind: types only.
 *
 * @module
 */

import type { Acceptor } from "../listenbuffer.ts";

/** How {@linkcode bind} binds. */
export interface BindOptions {
  /** The group, by name or number, that may connect to a unix socket. Default: the process's own. */
  group?: string;
  /** Bind beside the process that answers on a unix socket, and take its place on `publish`. */
  takeover?: boolean;
  /** Sockets that the predecessor has handed over, in place of those of our own. Default: none. */
  given?: readonly GivenSocket[];
  /** The mode of a unix socket. Default 0o660: owner and group may connect. */
  mode?: number;
  /** Share a tcp port with other processes that ask for the same (SO_REUSEPORT, socket(7)). */
  reusePort?: boolean;
  /** Allow tcp addresses that other machines can reach. */
  exposed?: boolean;
  /** Listens for TLS on tcp, at an address or on a socket. Default: what is said there is in the clear. */
  listenTls?: (
    where: Deno.TcpListenOptions | number,
  ) => (Acceptor<Deno.Conn, Deno.Addr> & { readonly fd?: number }) | undefined;
}

/** A listening socket that another process has handed over. */
export interface GivenSocket {
  /** Its descriptor, which stays open. */
  readonly fd: number;
  /** The address as the other process was asked for it, such as `tcp://localhost:0` or `fd://`. */
  readonly asked: string;
  /** The address that it is bound to, `tcp:` or `unix:`. */
  readonly address: string;
}

/** An address that is bound. */
export interface Bound {
  /** What listens there. */
  readonly listener: Acceptor<Deno.Conn, Deno.Addr>;
  /** The address with the real port, `tcp:` or `unix:`. */
  readonly address: string;
  /** Whether clients can find it no more after `unpublish`, as it is with a socket file of our own. */
  readonly hides: boolean;
  /**
   * Takes a living process's place, where `takeover` bound beside it; else it is there already. What
   * systemd has passed is from here on nobody else's.
   */
  publish(): Promise<void>;
  /**
   * Lets no new client find it: removes the socket file, if it is still ours. What systemd has passed
   * can be had again, unless it was published.
   */
  unpublish(): Promise<void>;
  /** The same at once, for a process that is about to end. */
  unpublishNow(): void;
  /** The descriptor of the socket; undefined where it cannot be had. */
  descriptor(): number | undefined;
  /** Leaves the file to the process that the socket was handed over to. */
  handOver(): void;
}
