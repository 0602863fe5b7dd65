/**
 * Who is at the other end of a unix connection, as the kernel knew it when the client connected: no
 * client can say it is another (SO_PEERCRED and SO_PEERGROUPS of unix(7)).
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import { foreignFunctionsProblem } from "./descriptors.ts";
import { Libc } from "./libc.ts";
import {
  type Descriptor,
  descriptorOf,
  findDescriptor,
  peekProblem,
  skipDescriptor,
} from "./peek.ts";

/** Kept once it is needed: to load it takes longer than all else here. */
let library: Libc | undefined;
const libc = () => library ??= new Libc();

/**
 * The clients of a unix listener. Which descriptor a connection has can be found out when it is
 * accepted, for some 10 us, and that is done only from the time on that something wants to know a
 * client.
 */
export class Peers {
  // Not later, when there may be no descriptors left to find out with.
  #possible = peekProblem() === undefined;
  #wanted = false;
  /** Where its connections say that they are. */
  #local?: Deno.Addr;

  /**
   * Told of each connection as it is accepted.
   *
   * @param sought Whether its descriptor is wanted for something else.
   */
  accepted(conn: Deno.Conn, sought = false): void {
    if (!this.#possible) return;
    this.#local ??= conn.localAddr;
    if (this.#wanted || sought) findDescriptor(conn);
    else skipDescriptor();
  }

  /**
   * Finds out, at the first time that something wants to know it, which descriptor the listener's
   * only connection has. From then on each is found as it is accepted.
   *
   * @param alone Whether there is no other.
   */
  find(alone: boolean): Descriptor | undefined {
    const first = this.#possible && !this.#wanted;
    this.#wanted = true;
    if (!first || !this.#local) return undefined;
    const stand = { localAddr: this.#local } as Deno.Conn;
    // Of several it finds none, and takes none of them for one that comes later.
    findDescriptor(stand);
    return alone ? descriptorOf(stand) : undefined;
  }
}

/**
 * The client at the other end of a connection.
 *
 * @returns Undefined where the connection is none of a unix socket, or has ended: its descriptor
 * may be another's by then.
 */
export function peerOf({ fd, cookie }: Descriptor): Peer | undefined {
  const isSame = () => cookie !== undefined && libc().cookie(fd) === cookie;
  if (!isSame()) return undefined;
  const credentials = libc().peerCredentials(fd);
  const groups = libc().peerGroups(fd);
  return credentials && isSame() ? { ...credentials, groups } : undefined;
}

/** The names of users that were looked for. There are not many, and they do not change. */
const names = new Map<number, string | undefined>();

/**
 * The name of a user by its number; undefined where the system knows none, or this process may not
 * look.
 */
export function userName(uid: number): string | undefined {
  if (!names.has(uid)) {
    if (foreignFunctionsProblem()) return undefined;
    names.set(uid, libc().userName(uid));
  }
  return names.get(uid);
}
