/**
 * What several parts do with files. It loads nothing, so that the supervisor stays small.
 *
 * @module
 */

/** Passes over the error of a file that is not there, and over no other. */
export function notThere(error: unknown): undefined {
  if (error instanceof Deno.errors.NotFound) return undefined;
  throw error;
}

/** The size of a folder's files in bytes, without following links. */
export async function sizeOf(folder: string): Promise<number> {
  let size = 0;
  try {
    for await (const { name, isDirectory } of Deno.readDir(folder)) {
      const path = `${folder}/${name}`;
      size += isDirectory ? await sizeOf(path) : (await Deno.lstat(path)).size;
    }
  } catch (error) {
    // The folder was removed meanwhile, or is not readable for this user.
    if (!(error instanceof Deno.errors.PermissionDenied)) notThere(error);
  }
  return size;
}
