/**
 * Types only: the options and the result of binding an address of any kind.
 *
 * @module
 */

import type { Acceptor } from "../listenbuffer.ts";

/** Options of {@linkcode bind}. */
export interface BindOptions {
  /** The group, by name or number, that may connect to a unix socket. Default: the process's. */
  group?: string;
  /** Bind beside a listening unix socket, and replace its file on `publish`. Default false. */
  takeover?: boolean;
  /** Sockets that the predecessor handed over, to use in place of new ones. Default: none. */
  given?: readonly GivenSocket[];
  /** The mode of a unix socket. Default 0o660: owner and group may connect. */
  mode?: number;
  /** Share a tcp port with processes that do so too (SO_REUSEPORT, socket(7)). Default false. */
  reusePort?: boolean;
  /** Allow tcp addresses that other machines can reach. Default false. */
  exposed?: boolean;
  /** Listens for TLS on tcp, at an address or on a descriptor. Default: no TLS. */
  listenTls?: (
    where: Deno.TcpListenOptions | number,
  ) => (Acceptor<Deno.Conn, Deno.Addr> & { readonly fd?: number }) | undefined;
}

/** A listening socket that another process has handed over. */
export interface GivenSocket {
  /** Its descriptor, which stays open. */
  readonly fd: number;
  /** The address in the other process's settings, such as `tcp://localhost:0` or `fd://`. */
  readonly asked: string;
  /** The address that it is bound to, `tcp:` or `unix:`. */
  readonly address: string;
}

/** A bound address. */
export interface Bound {
  /** Its listener. */
  readonly listener: Acceptor<Deno.Conn, Deno.Addr>;
  /** The address with the real port, `tcp:` or `unix:`. */
  readonly address: string;
  /** Whether `unpublish` keeps new clients from connecting, as with a socket file of our own. */
  readonly hides: boolean;
  /**
   * Makes the socket reachable at its address: with `takeover`, replaces the file of the other
   * process; else it is reachable already. Keeps a socket of systemd's from being given back.
   */
  publish(): Promise<void>;
  /**
   * Keeps new clients from finding the socket: removes its file, if it is still ours. Gives a
   * socket of systemd's back, unless it was published.
   */
  unpublish(): Promise<void>;
  /** Like `unpublish`, synchronously, for a process that is about to end. */
  unpublishNow(): void;
  /** Leaves the file to the process that the socket was handed over to: it is not removed here. */
  handOver(): void;
}
