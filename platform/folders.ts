/**
 * Folders by their descriptors, so that no other user can put another in their place.
 *
 * @module
 */

import { DESCRIPTORS, requireDescriptors } from "./descriptors.ts";
import { Libc } from "./libc.ts";

/** A folder that stays the same one, whatever its name comes to mean. */
export interface OpenFolder extends Disposable {
  /** A path to it, of some 16 bytes, for as long as it is open (proc_pid_fd(5)). */
  readonly path: string;
  /** Opens a folder in it that is no symbolic link; undefined if there is none of that name. */
  open(name: string): OpenFolder | undefined;
}

/**
 * Opens a folder, by whatever links.
 *
 * @throws {TypedError} ("bad parameter") Where {@linkcode descriptorsProblem} is.
 */
export function openFolder(path: string): OpenFolder | undefined {
  requireDescriptors();
  using libc = new Libc();
  return opened(libc.openFolder(path));
}

function opened(fd: number | undefined): OpenFolder | undefined {
  if (fd === undefined) return undefined;
  let open = true;
  return {
    path: `${DESCRIPTORS}/${fd}`,
    open(name) {
      using libc = new Libc();
      return opened(libc.openFolder(name, fd));
    },
    [Symbol.dispose]() {
      using libc = new Libc();
      // Once only: later the number may be another's.
      if (open) libc.close(fd);
      open = false;
    },
  };
}
