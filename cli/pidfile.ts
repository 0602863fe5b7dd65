/**
 * The pidfile: it has the daemon's process id, and its lock keeps a second daemon from starting.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import { complain, oneLine } from "./process.ts";

/** The longest pidfile, in bytes: a number and a line end. */
const LONGEST = 16;

/**
 * Writes the pidfile, and locks it (flock(2)) for as long as the process lives. It is written under
 * another name and linked into place, so that it is never there in part, and one of two daemons
 * that start at once gets it. A file that is no pidfile is neither read to its end, nor followed,
 * nor changed.
 *
 * @param takeover Take the place of a process that lives.
 * @returns A function that removes it, if it is still ours.
 * @throws {TypedError} ("conflict") If another process has it, or another kind of file is there;
 * {Error} if it cannot be written.
 */
export function writePidfile(path: string, takeover: boolean): () => void {
  const cut = path.lastIndexOf("/") + 1;
  const random = crypto.randomUUID().slice(0, 8);
  const temporary = `${path.slice(0, cut)}.${path.slice(cut)}.${random}`;
  let file: Deno.FsFile | undefined;
  let own: Deno.FileInfo;
  try {
    file = Deno.openSync(temporary, { createNew: true, write: true, mode: 0o644 });
    own = file.statSync();
    file.tryLockSync(true); // It is ours alone, so this does not fail.
    write(file, `${Deno.pid}\n`);
    while (!put(temporary, path, own, takeover));
  } catch (error) {
    if (file) Deno.removeSync(temporary);
    file?.close();
    if (error instanceof TypedError) {
      throw new TypedError(error.kind, `--pidfile ${path}: ${error.message}`);
    }
    throw new Error(`cannot write --pidfile ${path}: ${oneLine(error)}`, { cause: error });
  }
  const held = file;
  const remove = () => {
    globalThis.removeEventListener("unload", remove);
    try {
      if (isSame(lstat(path), own)) Deno.removeSync(path);
    } catch (error) {
      complain(`cannot remove --pidfile ${path}: ${messageOf(error)}`);
    }
    held.close(); // Which unlocks it.
  };
  globalThis.addEventListener("unload", remove);
  return remove;
}

function write(file: Deno.FsFile, text: string): void {
  for (let bytes = new TextEncoder().encode(text); bytes.length > 0;) {
    bytes = bytes.subarray(file.writeSync(bytes));
  }
}

/** Moves our file to its path. False if the file there has changed meanwhile. */
function put(temporary: string, path: string, own: Deno.FileInfo, takeover: boolean): boolean {
  try {
    Deno.linkSync(temporary, path);
    Deno.removeSync(temporary);
    return true;
  } catch (error) {
    if (!(error instanceof Deno.errors.AlreadyExists)) throw error;
  }
  const conflict = (problem: string) => new TypedError("conflict", problem);
  const found = lstat(path);
  if (found === undefined) return false;
  // To open a fifo(7) can block for ever, and another user may change a file that passed the check.
  if (!found.isFile) throw conflict("something that is no file is there, and was left alone");
  if (found.uid !== own.uid && found.uid !== 0) {
    throw conflict(`a file of user ${found.uid} is there, and was left alone`);
  }
  using other = Deno.openSync(path);
  if (!isSame(other.statSync(), found)) return false;
  const pid = found.size > LONGEST ? undefined : /^(\d{1,10})\s*$/.exec(read(other))?.[1];
  if (pid === undefined) {
    throw conflict(
      "what is there holds no process id, and was left alone; remove it if it is of no use",
    );
  }
  if (!takeover) {
    // A running daemon has its file locked, and so has one that is about to replace it.
    const free = other.tryLockSync(true);
    const running = isRunning(pid);
    if (!free) {
      if (!isSame(lstat(path), found)) return false;
      throw conflict(`process ${pid} runs already, and holds the file`);
    }
    if (running === undefined) {
      throw conflict(
        `process ${pid} may run, which is seen with --allow-all only; remove the file if not`,
      );
    }
    if (running) {
      throw conflict(
        `process ${pid}${running} runs, and does not hold the file; if it is no daemon of this file, remove the file`,
      );
    }
  }
  if (!isSame(lstat(path), found)) return false;
  Deno.renameSync(temporary, path);
  return true;
}

function read(file: Deno.FsFile): string {
  const bytes = new Uint8Array(LONGEST);
  return new TextDecoder().decode(bytes.subarray(0, file.readSync(bytes) ?? 0));
}

function isSame(a: Deno.FileInfo | undefined, b: Deno.FileInfo): boolean {
  return a?.dev === b.dev && a.ino === b.ino;
}

function lstat(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/**
 * The name of the program that runs as this process, in brackets; false if none runs, undefined
 * without the permission to read /proc.
 */
function isRunning(pid: string): string | false | undefined {
  if (Number(pid) === Deno.pid) return false;
  try {
    return ` (${Deno.readTextFileSync(`/proc/${pid}/comm`).trim()})`;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.NotCapable) return undefined;
    throw error;
  }
}
