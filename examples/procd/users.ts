/**
 * Users and groups of this machine (passwd(5), group(5)).
 *
 * @module
 */

import { failure } from "./daemon.ts";
import { notThere } from "./files.ts";

/** The user that a program runs as. */
export interface User {
  uid: number;
  gid: number;
  /** The home directory. */
  home: string;
}

/** The lines of such a file, split into fields. */
function entries(path: string): string[][] {
  try {
    return Deno.readTextFileSync(path).split("\n").map((line) => line.split(":"));
  } catch (error) {
    return notThere(error) ?? []; // A machine without the file has numbers only.
  }
}

/**
 * Resolves `USER[:GROUP]`, each a name or a number, to a user; the daemon's own if it is empty.
 *
 * @throws {TypedError} ("bad parameter") If there is no such user, or the daemon may not switch to
 * it.
 */
export function userOf(text: string): User {
  const self = Deno.uid() ?? 0;
  const [name = "", group] = text.split(":");
  const passwd = entries("/etc/passwd");
  const wanted = name === "" ? String(self) : name;
  const entry = passwd.find(([each]) => each === wanted) ??
    passwd.find(([, , uid]) => uid === wanted);
  if (!entry && !/^\d+$/.test(wanted)) {
    throw failure(
      "bad parameter",
      `unable to find user ${wanted}: no matching entries in passwd file`,
    );
  }
  const uid = Number(entry?.[2] ?? wanted);
  let gid = Number(entry?.[3] ?? (uid === self ? Deno.gid() : uid));
  if (group) {
    const found = entries("/etc/group").find(([each, , number]) =>
      each === group || number === group
    );
    if (!found && !/^\d+$/.test(group)) {
      throw failure(
        "bad parameter",
        `unable to find group ${group}: no matching entries in group file`,
      );
    }
    gid = Number(found?.[2] ?? group);
  }
  if (self !== 0 && (uid !== self || gid !== Deno.gid())) {
    throw failure(
      "bad parameter",
      `cannot run as user ${text}: the daemon is user ${self}, expected that or a daemon that is root`,
    );
  }
  return { uid, gid, home: entry?.[5] || "/" };
}

/** Whether a user can enter a folder: all folders on its path have to allow it. */
export function reaches({ uid, gid }: User, folder: string): boolean {
  if (uid === 0) return true;
  for (let end = folder.length; end > 0; end = folder.lastIndexOf("/", end - 1)) {
    const info = Deno.statSync(folder.slice(0, end));
    const bit = info.uid === uid ? 0o100 : info.gid === gid ? 0o010 : 0o001;
    if ((info.mode! & bit) === 0) return false;
  }
  return true;
}
