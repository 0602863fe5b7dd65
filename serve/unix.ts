/**
 * Binding a unix socket so that no client that should not get in ever can, and no other process's
 * socket is harmed.
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { descriptorsProblem } from "../platform/descriptors.ts";
import { foldersProblem, type OpenFolder, openFolder } from "../platform/folders.ts";
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
  const gid = options.group ? await groupId(options.group) : undefined;
  const place = enter(path);
  const { final } = place;
  try {
    return await locked(place.path, async () => {
      const beside = await occupied(final, path, options.takeover ?? false);
      if (beside && !options.takeover) {
        throw new TypedError(
          "conflict",
          "a living process answers there; stop it first, or take its place with --takeover (Takeover)",
        );
      }
      // No client can connect before the group and the mode are right, and no other user can swap
      // what they are given to: the socket is made in a folder that is this user's alone.
      const workshop = await makeWorkshop(place);
      let current = `${workshop.path}/${mark(final)}${crypto.randomUUID().slice(0, 4)}`;
      let listener: Deno.UnixListener | undefined;
      try {
        listener = Deno.listen({ transport: "unix", path: current });
        if (gid !== undefined) giveTo(current, gid, options.group);
        Deno.chmodSync(current, options.mode ?? MODE);
        const file = new SocketFile(place, current, workshop);
        const publish = () => {
          if (current === final) return;
          refuseOthers(final);
          file.rename(final);
          current = final;
        };
        if (!beside) publish();
        // After all else, because a client may wait for the file.
        deepenQueue(listener);
        const bound = listener;
        return {
          listener,
          address: `unix://${path}`,
          hides: true,
          // The folder is locked for each step that looks first and acts then, so that of two daemons
          // that start, end, or take over at once none removes the other's file.
          publish: async () => {
            if (current !== final && !file.gone) await locked(place.path, publish);
          },
          unpublish: () => file.remove(),
          unpublishNow: () => file.removeNow(),
          descriptor: () => descriptorOfListener(bound),
          handOver: () => file.handOver(),
        };
      } catch (error) {
        listener?.close();
        if (lstat(current)) Deno.removeSync(current);
        workshop.leave();
        throw error;
      }
    });
  } catch (error) {
    place.folder?.[Symbol.dispose]();
    throw error;
  }
}

/** The file of a socket, as long as it is this process's to remove. */
export class SocketFile {
  #place: Place;
  #path: string;
  #workshop: Workshop | undefined;
  #file?: { dev: number; ino: number | null } | undefined;

  /** The file that is at `path` in a place now, and where it was made if it is still there. */
  constructor(place: Place, path: string, workshop?: Workshop) {
    this.#place = place;
    this.#path = path;
    this.#workshop = workshop;
    const { dev, ino } = Deno.lstatSync(path);
    this.#file = { dev, ino };
  }
  /** The file at a path that another process has bound and handed over. */
  static at(path: string): SocketFile {
    const place = enter(path);
    try {
      return new SocketFile(place, place.final);
    } catch (error) {
      place.folder?.[Symbol.dispose]();
      throw error;
    }
  }
  /** Whether it is not ours to remove any more. */
  get gone(): boolean {
    return this.#file === undefined;
  }
  rename(path: string): void {
    Deno.renameSync(this.#path, path);
    this.#path = path;
    this.#workshop?.leave();
    this.#workshop = undefined;
  }
  /** Removes the file, if it is still there. */
  async remove(): Promise<void> {
    const folder = this.#place.path;
    // Whoever removed the folder has removed the file.
    if (this.#file && lstat(folder || "/")) await locked(folder, () => this.removeNow());
  }
  /** The same at once, for a process that is about to end. */
  removeNow(): void {
    const file = this.#file;
    if (!file) return;
    // Once only: when the listener is closed, another's new file may get our file's number.
    this.#file = undefined;
    const found = lstat(this.#path);
    if (found?.dev === file.dev && found.ino === file.ino) Deno.removeSync(this.#path);
    this.#leave();
  }
  /** Leaves it to the process that the socket was handed over to. */
  handOver(): void {
    if (this.#file) this.#leave();
    this.#file = undefined;
  }
  #leave(): void {
    this.#workshop?.leave();
    this.#place.folder?.[Symbol.dispose]();
  }
}

/** Where a socket's file is to be: a folder that stays the same until we are done with it. */
interface Place {
  /** What the names in it come after. */
  readonly path: string;
  /** The folder itself, where its name alone does not keep others from putting another in its place. */
  readonly folder?: OpenFolder;
  /** The path of the file in it. */
  readonly final: string;
  /** Its name. */
  readonly name: string;
  /** Who we are. */
  readonly uid: number;
}

/**
 * Finds a way to name things in a folder that no other user can turn elsewhere: its path, if none but
 * this user and root can change what that leads to; else its descriptor. Where there is neither, what
 * is bound could be swapped for a link to any file before it gets its group and mode.
 */
function enter(file: string): Place {
  const cut = file.lastIndexOf("/");
  const folder = file.slice(0, cut) || "/";
  const name = file.slice(cut + 1);
  const uid = Deno.uid()!; // Null on Windows, which has no such sockets.
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
  // Without all permissions we may be let look at no more than what we were told.
  const path = mayRead(real) ? real : folder;
  const problem = interferer(path, uid) ?? lengthProblem(path, name);
  if (problem === undefined) return placed(path === "/" ? "" : path);
  if (foldersProblem()) {
    throw new TypedError("bad parameter", `${problem}, or all permissions (--allow-all)`);
  }
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

/** Which folder, of a path, other users can move or put another in the place of; in words. */
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
        "expected a folder that no one but this user and root can write in, one with the sticky bit";
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

/** How the name of a folder ends in which sockets are made. */
const SUFFIX = ".floodgate";

/** A folder in which a socket is made, and which none but this user can enter. */
interface Workshop {
  readonly path: string;
  /** Removes it, unless others of us use it. */
  leave(): void;
}

/** Makes that folder beside the socket's place, or takes up one that was left there. */
async function makeWorkshop({ path: folder, folder: held, name, uid }: Place): Promise<Workshop> {
  // Another user may have put something under the first name. What we leave behind under the second,
  // should we be killed meanwhile, is not found again.
  for (const stem of [name, crypto.randomUUID().slice(0, 8)]) {
    const own = `.${stem}${SUFFIX}`;
    const path = `${folder}/${own}`;
    try {
      Deno.mkdirSync(path, { mode: 0o700 });
    } catch (error) {
      if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
    }
    const opened = held?.open(own);
    const info = held === undefined ? lstat(path) : opened && Deno.statSync(opened.path);
    if (!info?.isDirectory || info.uid !== uid || (info.mode! & 0o777) !== 0o700) {
      opened?.[Symbol.dispose]();
      continue;
    }
    const workshop = {
      path: opened?.path ?? path,
      leave() {
        opened?.[Symbol.dispose]();
        try {
          Deno.removeSync(path);
        } catch {
          // Another daemon of this user is at work in it, or has removed it; it is empty, or will be.
        }
      },
    };
    await sweep(workshop.path);
    return workshop;
  }
  throw new TypedError(
    "conflict",
    "another user puts something in the place of what is made there",
  );
}

/** Removes what daemons left behind that were killed between binding and taking their place. */
async function sweep(workshop: string): Promise<void> {
  for (const { name } of [...Deno.readDirSync(workshop)]) {
    const path = `${workshop}/${name}`;
    if (lstat(path)?.isSocket && await answers(path) === "no") Deno.removeSync(path);
  }
}

/**
 * Whether a living process answers at `file`. Removes nothing: a stale file is renamed over.
 *
 * @param path How the file was asked for.
 * @param takeover Whether one may be there: then this need not be known for sure.
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
 * How the names begin under which sockets are bound that are then renamed to this file. The kernel goes
 * on calling them so, by whatever way their folder was named then: they are known by the folder itself.
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

/** What is known of the processes that listen at a path, in words. */
function whoListens(file: string, path: string): string {
  let table: string;
  try {
    if (descriptorsProblem()) throw new Error("not to be seen");
    table = Deno.readTextFileSync("/proc/self/net/unix");
  } catch {
    return "and it cannot be seen whether a process listens; if none does, remove the file";
  }
  const ours = mark(file);
  // "Num: RefCount Protocol Flags Type St Inode Path" (proc_net(5)); this flag is SO_ACCEPTCON. A
  // socket is known by the name that it was bound to.
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
    throw new TypedError("conflict", "something that is no socket is there, and was left alone");
  }
}

/** Whether a process listens at a socket; "refused" if this user may not ask. */
async function answers(path: string): Promise<"yes" | "no" | "refused"> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return "yes";
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return "no"; // None listens any more.
    if (error instanceof Deno.errors.NotFound) return "no";
    if (error instanceof Deno.errors.NotCapable) throw error;
    if (error instanceof Deno.errors.PermissionDenied) return "refused";
    return "yes"; // A full queue (EAGAIN): a process is there.
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
    handle = Deno.openSync(folder || "/");
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) throw missing(folder);
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
