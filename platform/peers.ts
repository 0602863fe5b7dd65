/**
 * Who is at the other end of a unix connection, as the kernel knew it when the client connected: no
 * client can say it is another (SO_PEERCRED and SO_PEERGROUPS of unix(7)).
 *
 * @module
 */

import type { Peer } from "../engine.ts";
import { foreignFunctionsProblem } from "./descriptors.ts";
import { Libc } from "./libc.ts";

/**
 * The client at the other end of a socket.
 *
 * @param fd A unix socket that is connected.
 * @returns Undefined where it is something else, or this process may not look.
 */
export function peerOf(fd: number): Peer | undefined {
  if (foreignFunctionsProblem()) return undefined;
  using libc = new Libc();
  const credentials = libc.peerCredentials(fd);
  return credentials && { ...credentials, groups: libc.peerGroups(fd) };
}

/** The names of users that were looked for. There are not many, and they do not change. */
const names = new Map<number, string | undefined>();

/** The name of a user by its number; undefined where the system knows none, or this process may not look. */
export function userName(uid: number): string | undefined {
  if (!names.has(uid)) {
    if (foreignFunctionsProblem()) return undefined;
    using libc = new Libc();
    names.set(uid, libc.userName(uid));
  }
  return names.get(uid);
}
