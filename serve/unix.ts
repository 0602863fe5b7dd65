/**
 * Binds a unix socket so that no unauthorized client can connect at any moment, and no other
 * process's socket is harmed.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { descriptorsProblem } from "../platform/descriptors.ts";
import type { OpenFolder } from "../platform/folders.ts";
import type { BindOptions, Bound } from "./bound.ts";

/** The longest path of a socket in bytes: sockaddr_un has 108, with a final zero (unix(7)). */
export const MAX_PATH = 107;

/** Owner and group may connect, as in dockerd. */
const MODE = 0o660;
/** A gid has 32 bits, all of which set mean "leave it as it is" (chown(2)). */
const MAX_GID = 2 ** 32 - 2;

/**
 * Binds a unix socket that has its group and mode from the first moment.
 *
 * @throws {TypedError} ("conflict") If the socket is in use, or another kind of file is there;
 * ("bad parameter") if its folder is missing or unsafe, or its group unknown.
 */
export async function bindUnix(path: string, options: BindOptions): Promise<Bound> {
  const gid = options.group ? await groupId(options.group) : undefined;
  const place = await enter(path);
  const { final } = place;
  try {
    return await locked(place.path, async () => {
      const beside = await occupied(final, path, options.takeover ?? false);
      if (beside && !options.takeover) {
        throw new TypedError(
          "conflict",
          "a living process answers there; stop it first, or take over from it with --takeover (Takeover)",
        );
      }
      // The socket is made in a private folder, so that no client can connect before its group and
      // mode are set, and no other user can swap the file that they are set on.
      const privateFolder = await makePrivateFolder(place);
      let current = `${privateFolder.path}/${mark(final)}${crypto.randomUUID().slice(0, 4)}`;
      let listener: Deno.UnixListener | undefined;
      try {
        listener = Deno.listen({ transport: "unix", path: current });
        if (gid !== undefined) giveTo(current, gid, options.group);
        Deno.chmodSync(current, options.mode ?? MODE);
        const file = new SocketFile(place, current, privateFolder);
        const publish = () => {
          if (current === final) return;
          refuseOthers(final);
          file.rename(final);
          current = final;
        };
        if (!beside) publish();
        return {
          listener,
          address: `unix://${path}`,
          hides: true,
          // Each step that checks before it acts locks the folder, so that two daemons that start,
          // end, or take over at once do not remove each other's file.
          publish: async () => {
            if (current !== final && !file.gone) await locked(place.path, publish);
          },
          unpublish: () => file.remove(),
          unpublishNow: () => file.removeNow(),
          handOver: () => file.handOver(),
        };
      } catch (error) {
        listener?.close();
        if (lstat(current)) Deno.removeSync(current);
        privateFolder.leave();
        throw error;
      }
    });
  } catch (error) {
    place.folder?.[Symbol.dispose]();
    throw error;
  }
}

/** The file of a socket, while it is this process's to remove. */
export class SocketFile {
  #place: Place;
  #path: string;
  #privateFolder: PrivateFolder | undefined;
  #file?: { dev: number; ino: number | null } | undefined;

  /** The file at `path` in a place; and the private folder, if the file is still in it. */
  constructor(place: Place, path: string, privateFolder?: PrivateFolder) {
    this.#place = place;
    this.#path = path;
    this.#privateFolder = privateFolder;
    const { dev, ino } = Deno.lstatSync(path);
    this.#file = { dev, ino };
  }
  /** The file at a path that another process has bound and handed over. */
  static async at(path: string): Promise<SocketFile> {
    const place = await enter(path);
    try {
      return new SocketFile(place, place.final);
    } catch (error) {
      place.folder?.[Symbol.dispose]();
      throw error;
    }
  }
  /** Whether it was removed, or handed over. */
  get gone(): boolean {
    return this.#file === undefined;
  }
  rename(path: string): void {
    Deno.renameSync(this.#path, path);
    this.#path = path;
    this.#privateFolder?.leave();
    this.#privateFolder = undefined;
  }
  /** Removes the file, if it is still there. */
  async remove(): Promise<void> {
    const folder = this.#place.path;
    // Without the folder there is no file either.
    if (this.#file && lstat(folder || "/")) await locked(folder, () => this.removeNow());
  }
  /** Like `remove`, synchronously, for a process that is about to end. */
  removeNow(): void {
    const file = this.#file;
    if (!file) return;
    // Once only: later another process's file may get the inode number of ours.
    this.#file = undefined;
    const found = lstat(this.#path);
    if (found?.dev === file.dev && found.ino === file.ino) Deno.removeSync(this.#path);
    this.#leave();
  }
  /** Leaves the file to the process that the socket was handed over to. */
  handOver(): void {
    if (this.#file) this.#leave();
    this.#file = undefined;
  }
  #leave(): void {
    this.#privateFolder?.leave();
    this.#place.folder?.[Symbol.dispose]();
  }
}

/** The folder of a socket's file, named so that no other user can replace it meanwhile. */
interface Place {
  /** The path of the folder, or that of its descriptor in /proc. */
  readonly path: string;
  /** The open folder, if its path is not safe. */
  readonly folder?: OpenFolder;
  /** The path of the file in it. */
  readonly final: string;
  /** The name of the file. */
  readonly name: string;
  /** The user of this process. */
  readonly uid: number;
}

/**
 * Opens a socket's folder by a path that no other user can redirect: its own path, if only this
 * user and root can change where that leads; else its descriptor. Otherwise the new socket could be
 * swapped for a link to any file before its group and mode are set.
 */
async function enter(file: string): Promise<Place> {
  const cut = file.lastIndexOf("/");
  const folder = file.slice(0, cut) || "/";
  const name = file.slice(cut + 1);
  const uid = Deno.uid()!; // Null on Windows only, which has no unix sockets in Deno.
  const placed = (path: string, folder?: OpenFolder) => ({
    ...{ path, final: `${path}/${name}`, name, uid },
    ...folder && { folder },
  });
  let real: string;
  try {
    real = Deno.realPathSync(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw missing(folder);
    throw error;
  }
  // With limited permissions only the given path may be readable, and not the real one.
  const path = mayRead(real) ? real : folder;
  const problem = interferer(path, uid) ?? lengthProblem(path, name);
  if (problem === undefined) return placed(path === "/" ? "" : path);
  if (descriptorsProblem()) {
    throw new TypedError("bad parameter", `${problem}, or all permissions (--allow-all)`);
  }
  const { openFolder } = await import("../platform/folders.ts");
  const opened = openFolder(folder);
  if (opened === undefined) throw missing(folder);
  return placed(opened.path, opened);
}

function missing(folder: string): TypedError {
  return new TypedError("bad parameter", `the directory ${folder} does not exist`);
}

function mayRead(path: string): boolean {
  return Deno.permissions.querySync({ name: "read", path }).state === "granted";
}

/** Names the first folder of a path that other users can replace; undefined for none. */
function interferer(path: string, uid: number): string | undefined {
  for (
    let folder = path;
    mayRead(folder);
    folder = folder.slice(0, folder.lastIndexOf("/")) || "/"
  ) {
    const { uid: owner, mode } = Deno.lstatSync(folder);
    const others = (mode! & OTHERS_WRITE) !== 0 && (mode! & STICKY) === 0;
    if (others || (owner !== 0 && owner !== uid)) {
      const rights = `user ${owner}'s, mode ${(mode! & 0o7777).toString(8).padStart(4, "0")}`;
      return `other users can swap what is in ${folder} (${rights}) while the socket gets its rights, ` +
        "expected a folder that only this user and root can write in, or one with the sticky bit";
    }
    if (folder === "/") return undefined;
  }
}

const OTHERS_WRITE = 0o022;
const STICKY = 0o1000;

function lengthProblem(folder: string, name: string): string | undefined {
  const longest = name.length < 8 ? "12345678" : name;
  const length = new TextEncoder().encode(`${folder}/.${longest}${SUFFIX}/12345678-1234`).length;
  if (length <= MAX_PATH) return undefined;
  return `the socket is made in a folder beside it, under a path of ${length} bytes, expected at most ${MAX_PATH}`;
}

/** The suffix of the private folder's name. */
const SUFFIX = ".floodgate";

/** A folder in which a socket is made, and which only this user can enter. */
interface PrivateFolder {
  readonly path: string;
  /** Removes it, unless other daemons of this user use it. */
  leave(): void;
}

/** Makes the private folder beside the socket, or reuses one that was left there. */
async function makePrivateFolder(
  { path: folder, folder: held, name, uid }: Place,
): Promise<PrivateFolder> {
  // The second name is for when another user has occupied the first. If we are killed meanwhile, a
  // folder of the second name stays behind.
  for (const stem of [name, crypto.randomUUID().slice(0, 8)]) {
    const own = `.${stem}${SUFFIX}`;
    const path = `${folder}/${own}`;
    let made = true;
    try {
      Deno.mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      if (error instanceof Deno.errors.PermissionDenied) {
        throw new Error(`this user may not write in ${folder}`, { cause: error });
      }
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
      made = false;
    }
    let opened: ReturnType<NonNullable<typeof held>["open"]>;
    const leave = () => {
      opened?.[Symbol.dispose]();
      try {
        Deno.removeSync(path);
      } catch {
        // Another daemon of this user is using it, or has removed it.
      }
    };
    try {
      opened = held?.open(own);
      const info = held === undefined ? lstat(path) : opened && Deno.statSync(opened.path);
      if (!info?.isDirectory || info.uid !== uid || (info.mode! & 0o777) !== 0o700) {
        opened?.[Symbol.dispose]();
        continue;
      }
      const privateFolder = { path: opened?.path ?? path, leave };
      await sweep(privateFolder.path);
      return privateFolder;
    } catch (error) {
      // Out of descriptors, for example.
      if (made) leave();
      else opened?.[Symbol.dispose]();
      throw error;
    }
  }
  throw new TypedError(
    "conflict",
    "another user occupies the names of the folder that the socket is made in",
  );
}

/** Removes the sockets of daemons that were killed before they had renamed them. */
async function sweep(privateFolder: string): Promise<void> {
  for (const { name } of [...Deno.readDirSync(privateFolder)]) {
    const path = `${privateFolder}/${name}`;
    if (lstat(path)?.isSocket && await answers(path) === "no") Deno.removeSync(path);
  }
}

/**
 * Whether a running process answers at `file`. Removes nothing: the new socket is renamed over a
 * stale one.
 *
 * @param path The path in the daemon's settings.
 * @param takeover Whether a process may answer there: then a socket that we may not connect to is
 * none to refuse.
 */
async function occupied(file: string, path: string, takeover: boolean): Promise<boolean> {
  refuseOthers(file);
  const found = lstat(file);
  if (found === undefined) return false;
  const answer = await answers(file);
  if (answer !== "refused" || takeover) return answer !== "no";
  throw new TypedError(
    "conflict",
    `a socket of user ${found.uid} is there that this user may not connect to, ${
      whoListens(file, path)
    }`,
  );
}

/**
 * The prefix of the names under which sockets are bound before they are renamed to this file. The
 * kernel keeps listing a socket under that name, so it has a hash of the folder's inode and the
 * file's name.
 */
function mark(file: string): string {
  const cut = file.lastIndexOf("/");
  const { dev, ino } = Deno.statSync(file.slice(0, cut) || "/");
  let hash = 0x811c_9dc5; // FNV-1a, of 32 bits.
  for (const byte of new TextEncoder().encode(`${dev} ${ino} ${file.slice(cut + 1)}`)) {
    hash = Math.imul(hash ^ byte, 0x0100_0193);
  }
  return `${(hash >>> 0).toString(16).padStart(8, "0")}-`;
}

/** Whether a process listens at a path, in words. */
function whoListens(file: string, path: string): string {
  let table: string;
  try {
    if (descriptorsProblem()) throw new Error("not to be seen");
    table = Deno.readTextFileSync("/proc/self/net/unix");
  } catch {
    return "and it cannot be seen whether a process listens; if none does, remove the file";
  }
  const ours = mark(file);
  // "Num: RefCount Protocol Flags Type St Inode Path" (proc_net(5)); the flag is SO_ACCEPTCON, the
  // path that which the socket was bound to.
  const listens = table.split("\n").some((line) => {
    const [, , , flags, , , , ...words] = line.split(" ").filter((word) => word !== "");
    const bound = words.join(" ");
    return flags === "00010000" && ([file, path].includes(bound) || bound.includes(`/${ours}`));
  });
  return listens
    ? "and a process listens there; stop it first"
    : "and no process is seen to listen there (/proc/net/unix); if it was left behind, remove the file";
}

function refuseOthers(path: string): void {
  if (lstat(path)?.isSocket === false) {
    throw new TypedError("conflict", "a file that is not a socket is there, and was left alone");
  }
}

/** Whether a process listens at a socket; "refused" if this user may not connect. */
async function answers(path: string): Promise<"yes" | "no" | "refused"> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return "yes";
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return "no";
    if (error instanceof Deno.errors.NotFound) return "no";
    if (error instanceof Deno.errors.NotCapable) throw error;
    if (error instanceof Deno.errors.PermissionDenied) return "refused";
    return "yes"; // A full queue (EAGAIN): a process listens.
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

/** How long to wait for another process's lock, and between two attempts, in milliseconds. */
const LOCK = { timeout: 500, interval: 5 };

/**
 * Runs `step` while no other daemon changes the folder (flock(2)). Any user who can read a folder
 * can lock it for ever; so after a timeout the step runs without the lock.
 */
async function locked<T>(folder: string, step: () => T | Promise<T>): Promise<T> {
  let handle: Deno.FsFile;
  try {
    handle = Deno.openSync(folder || "/");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw missing(folder);
    throw error;
  }
  try {
    await lock(handle);
    return await step();
  } finally {
    handle.close(); // Unlocks it.
  }
}

/** Locks a folder, or gives up after the timeout. */
async function lock(folder: Deno.FsFile): Promise<void> {
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

/**
 * The number of a group.
 *
 * @throws {TypedError} ("bad parameter") If there is no such group.
 */
export async function groupId(group: string): Promise<number> {
  if (/^\d+$/.test(group) && Number(group) <= MAX_GID) return Number(group);
  const lines = await groups(group);
  for (const line of lines.split("\n")) {
    const [name, , gid] = line.split(":");
    if (name === group) return Number(gid);
  }
  throw new TypedError("bad parameter", `there is no group "${group}"`);
}

/** Lines of group(5), including that of this group if it exists. */
async function groups(group: string): Promise<string> {
  try {
    // getent(1) asks every source of groups that nsswitch.conf(5) names.
    const { stdout } = await new Deno.Command("getent", {
      args: ["group", group],
      stderr: "null",
    }).output();
    return new TextDecoder().decode(stdout);
  } catch (error) {
    // A system without getent has only the file; and a process may have permission for just the
    // file.
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) {
      return await Deno.readTextFile("/etc/group");
    }
    throw error;
  }
}
