/**
 * Binding a unix socket so that no client that should not get in ever can, and no other process's
 * socket is harmed.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { deepenQueue, descriptorOfListener } from "../platform/sockets.ts";
import type { BindOptions, Bound } from "./bound.ts";

/** sockaddr_un holds 108 bytes, the last of which is a zero (unix(7)). */
export const MAX_PATH = 107;

/** Owner and group may connect, as dockerd has it. */
const MODE = 0o660;
/** A gid has 32 bits, all of which set mean "leave it as it is" (chown(2)). */
const MAX_GID = 2 ** 32 - 2;

/** Binds a unix socket, with its rights from the first moment. */
export async function bindUnix(path: string, options: BindOptions): Promise<Bound> {
  const folder = folderOf(path);
  const gid = options.group ? await groupId(options.group) : undefined;
  return await locked(folder, async () => {
    const beside = await occupied(path);
    if (beside && !options.takeover) {
      throw new TypedError(
        "conflict",
        "a living process answers there; stop it first, or take its place with --takeover (Takeover)",
      );
    }
    await sweepTemporaries(folder);
    const temporary = temporaryName(folder, path);
    // Nobody but us can connect before the group and the mode are right: the file is born without
    // rights for others, and under a name that nobody knows.
    const umask = Deno.umask(0o177);
    let listener: Deno.UnixListener;
    try {
      listener = Deno.listen({ transport: "unix", path: temporary });
    } finally {
      Deno.umask(umask);
    }
    let current = temporary;
    try {
      if (gid !== undefined) giveTo(temporary, gid, options.group);
      Deno.chmodSync(temporary, options.mode ?? MODE);
      const file = new SocketFile(temporary);
      const publish = () => {
        if (current === path) return;
        refuseOthers(path);
        file.rename(path);
        current = path;
      };
      if (!beside) publish();
      // After all else, because somebody may wait for the file.
      deepenQueue(listener);
      return {
        listener,
        address: `unix://${path}`,
        hides: true,
        // The folder is locked for each step that looks first and acts then, so that of two daemons
        // that start, end, or take over at once none removes the other's file.
        publish: async () => {
          if (current !== path) await locked(folder, publish);
        },
        unpublish: () => file.remove(),
        unpublishNow: () => file.removeNow(),
        descriptor: () => descriptorOfListener(listener),
        handOver: () => file.handOver(),
      };
    } catch (error) {
      listener.close();
      if (lstat(current)) Deno.removeSync(current);
      throw error;
    }
  });
}

/** The file of a socket, as long as it is this process's to remove. */
export class SocketFile {
  #path: string;
  #file?: { dev: number; ino: number | null };

  /** The file that is at `path` now. */
  constructor(path: string) {
    this.#path = path;
    const { dev, ino } = Deno.lstatSync(path);
    this.#file = { dev, ino };
  }
  rename(path: string): void {
    Deno.renameSync(this.#path, path);
    this.#path = path;
  }
  /** Removes the file, if it is still there. */
  async remove(): Promise<void> {
    const folder = folderOf(this.#path);
    // Whoever removed the folder has removed the file.
    if (this.#file && lstat(folder)) await locked(folder, () => this.removeNow());
  }
  /** The same at once, for a process that is about to end. */
  removeNow(): void {
    const file = this.#file;
    // Once only: when the listener is closed, another's new file may get our file's number.
    this.#file = undefined;
    const found = file && lstat(this.#path);
    if (!found || !file) return;
    if (found.dev === file.dev && found.ino === file.ino) Deno.removeSync(this.#path);
  }
  /** Leaves it to the process that the socket was handed over to. */
  handOver(): void {
    this.#file = undefined;
  }
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}

/** How the names begin under which sockets are bound before they are renamed into place. */
const TEMPORARY = ".floodgate-";

/** Removes what daemons left behind that were killed between binding and taking their place. */
async function sweepTemporaries(folder: string): Promise<void> {
  for (const { name } of [...Deno.readDirSync(folder)]) {
    if (!name.startsWith(TEMPORARY)) continue;
    const path = `${folder}/${name}`;
    if (!lstat(path)?.isSocket || await answers(path)) continue;
    try {
      Deno.removeSync(path);
    } catch {
      // It is another user's, in a folder such as /tmp, and does us no harm.
    }
  }
}

/** A name beside `path` that nobody else has, and that is no longer than a socket's may be. */
function temporaryName(folder: string, path: string): string {
  const prefix = folder === "/" ? "/" : folder + "/";
  const room = MAX_PATH - new TextEncoder().encode(prefix).length;
  // In a folder whose own path is nearly as long as can be there are few such names.
  for (let tries = 0; tries < 1_000; tries++) {
    const random = crypto.randomUUID().slice(0, 8);
    const name = prefix + (TEMPORARY + random).slice(-Math.min(room, TEMPORARY.length + 8));
    if (name !== path && !lstat(name)) return name;
  }
  throw new TypedError("conflict", `no temporary name is free in ${folder}`);
}

/** Whether a living process answers at `path`. Removes nothing: a stale file is renamed over. */
async function occupied(path: string): Promise<boolean> {
  refuseOthers(path);
  return lstat(path) !== undefined && await answers(path);
}

function refuseOthers(path: string): void {
  if (lstat(path)?.isSocket === false) {
    throw new TypedError("conflict", "something that is no socket is there, and was left alone");
  }
}

/** Whether somebody listens at a socket. */
async function answers(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false; // Nobody listens any more.
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.NotCapable) throw error;
    return true; // A full queue (EAGAIN), or rights that we lack: somebody is there.
  }
}

function lstat(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** How long to wait for somebody else's lock, and between two looks at it, in milliseconds. */
const LOCK = { timeout: 500, interval: 5 };

/**
 * Runs `step` while no other floodgate does anything in the folder (flock(2)). Anybody who can read
 * a folder can lock it for ever; so after a while it is done all the same.
 */
async function locked<T>(folder: string, step: () => T | Promise<T>): Promise<T> {
  let handle: Deno.FsFile;
  try {
    handle = Deno.openSync(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new TypedError("bad parameter", `the directory ${folder} does not exist`);
    }
    throw error;
  }
  try {
    await take(handle);
    return await step();
  } finally {
    handle.close(); // Which unlocks it.
  }
}

/** Locks a folder, or gives up after a while. */
async function take(folder: Deno.FsFile): Promise<void> {
  const deadline = performance.now() + LOCK.timeout;
  while (!folder.tryLockSync(true) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, LOCK.interval));
  }
}

function giveTo(path: string, gid: number, group?: string): void {
  try {
    Deno.chownSync(path, null, gid);
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
    throw new TypedError(
      "bad parameter",
      `the socket cannot be given to group "${group}", expected one that this user is in`,
      { cause: error },
    );
  }
}

async function groupId(group: string): Promise<number> {
  if (/^\d+$/.test(group) && Number(group) <= MAX_GID) return Number(group);
  const lines = await groups(group);
  for (const line of lines.split("\n")) {
    const [name, , gid] = line.split(":");
    if (name === group) return Number(gid);
  }
  throw new TypedError("bad parameter", `there is no group "${group}"`);
}

/** Lines of group(5), that of this group among them if there is one. */
async function groups(group: string): Promise<string> {
  try {
    // It asks whatever the system keeps its groups in.
    const { stdout } = await new Deno.Command("getent", {
      args: ["group", group],
      stderr: "null",
    }).output();
    return new TextDecoder().decode(stdout);
  } catch (error) {
    // A system without it has the file and nothing else. Whoever may not run it may be let read that.
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) {
      return await Deno.readTextFile("/etc/group");
    }
    throw error;
  }
}
