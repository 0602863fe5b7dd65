/**
 * Passing descriptors from one process to another over a unix socket (SCM_RIGHTS of unix(7)).
 *
 * @module
 */

import { descriptors, requireDescriptors } from "./descriptors.ts";
import { type Credentials, Libc, SO_ACCEPTCONN } from "./libc.ts";
import { formatUnix } from "./net.ts";

/** SCM_MAX_FD, the most that one message carries. */
export const MOST_DESCRIPTORS = 253;
/** The longest message, in bytes: far less than a socket takes at once. */
const MOST_BYTES = 65_536;

/** One end of a unix connection over which descriptors can be passed. */
class Passage {
  /** The process at the other end, as the kernel knows it. */
  readonly peer: Credentials;
  protected readonly fd: number;
  protected readonly libc: Libc;

  protected constructor(libc: Libc, fd: number) {
    const peer = libc.peerCredentials(fd);
    if (peer === undefined) throw new Error("the other end of a unix socket is not known");
    this.peer = peer;
    this.libc = libc;
    this.fd = fd;
  }

  /**
   * Sends a message, and descriptors with it, which stay open here.
   *
   * @throws {Error} If the other process does not take it.
   */
  send(message: Uint8Array, fds: readonly number[] = []): void {
    if (!this.libc.sendDescriptors(this.fd, message, fds)) {
      throw new Error(`process ${this.peer.pid} does not take what it is given`);
    }
  }
}

/** The end of the process that has accepted. */
export class AcceptedPassage extends Passage implements Disposable {
  /** To read from: no descriptors come this way. */
  readonly conn: Deno.Conn;

  private constructor(libc: Libc, fd: number, conn: Deno.Conn) {
    super(libc, fd);
    this.conn = conn;
  }

  /**
   * Accepts from a listener, which has no other accept pending.
   *
   * @throws What `accept` throws; {TypedError} ("bad parameter") where this process may not look at
   * its descriptors.
   */
  static async accept(listener: Deno.UnixListener): Promise<AcceptedPassage> {
    requireDescriptors();
    const known = connectionsOf(listener);
    const conn = await listener.accept();
    const libc = new Libc();
    try {
      const own = connectionsOf(listener);
      const [fd] = [...own].flatMap(([socket, fd]) => known.has(socket) ? [] : [fd]);
      if (fd === undefined) throw new Error("the descriptor of a unix connection was not found");
      return new AcceptedPassage(libc, fd, conn);
    } catch (error) {
      libc[Symbol.dispose]();
      conn.close();
      throw error;
    }
  }

  /** Closes the connection. */
  [Symbol.dispose](): void {
    this.libc[Symbol.dispose]();
    this.conn.close();
  }
}

/** The end of the process that has connected. */
export class ConnectedPassage extends Passage implements Disposable {
  #waiting: Promise<unknown> = Promise.resolve();
  #closed = false;

  /**
   * Connects to a unix socket. Undefined where no process listens there, or this one may not
   * connect.
   */
  static async connect(path: string): Promise<ConnectedPassage | undefined> {
    requireDescriptors();
    // Not by Deno, which does not tell the descriptor of a unix connection.
    const libc = new Libc();
    const fd = await libc.connectUnix(path);
    if (fd !== undefined) return new ConnectedPassage(libc, fd);
    libc[Symbol.dispose]();
    return undefined;
  }

  /**
   * Receives one message, and the descriptors that came with it, which are the caller's to close.
   *
   * @param timeout How long to wait, in milliseconds. Default: for ever.
   * @throws {Error} If none comes in time, or the other process has closed.
   */
  async receive(timeout = -1): Promise<{ message: Uint8Array; fds: number[] }> {
    const readable = this.libc.readable(this.fd, timeout);
    this.#waiting = readable;
    if (!await readable) {
      throw new Error(`process ${this.peer.pid} does not answer within ${timeout} ms`);
    }
    const bytes = new Uint8Array(MOST_BYTES);
    const received = this.libc.receiveDescriptors(this.fd, bytes, MOST_DESCRIPTORS);
    if (received === undefined || received[0] === 0) {
      throw new Error(`process ${this.peer.pid} has closed the connection`);
    }
    return { message: bytes.subarray(0, received[0]), fds: received[1] };
  }

  /** Closes the connection. A second call does nothing. */
  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    // Which ends a wait on another thread; before that the number must not become another's.
    this.libc.shutdown(this.fd);
    this.#waiting.finally(() => {
      this.libc.close(this.fd);
      this.libc[Symbol.dispose]();
    });
  }
}

/** The descriptors of the connections that a unix listener has accepted, by their sockets. */
function connectionsOf(listener: Deno.UnixListener): Map<string, number> {
  using libc = new Libc();
  const name = formatUnix(listener.addr.path);
  return new Map(
    descriptors().filter(({ fd, target }) =>
      target.startsWith("socket:") && libc.option(fd, SO_ACCEPTCONN) === 0 &&
      libc.nameOf(fd).address === name
    ).map(({ fd, target }) => [target, fd]),
  );
}
