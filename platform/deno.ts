/**
 * Which releases of Deno the daemon runs on.
 *
 * @module
 */

/** The oldest Deno that the daemon was seen to serve on. */
export const OLDEST_DENO = "2.2.0";

/** Whether a Deno, by default this one, is of that release or a newer one. */
export function denoIsFrom(release: string, version = Deno.version.deno): boolean {
  // A canary's has a + and its commit behind the numbers.
  const numbers = (text: string) => text.split(/[-+]/, 1)[0].split(".").map(Number);
  const [wanted, given] = [numbers(release), numbers(version)];
  const different = wanted.findIndex((number, i) => number !== given[i]);
  return different === -1 || given[different] > wanted[different];
}

/**
 * Whether an answer can begin before the request's body has ended. From 2.8.3 to 2.9.5 both stall then
 * (denoland/deno issue 36624), here and with `Deno.serve`.
 */
export function answersEarly(version = Deno.version.deno): boolean {
  return !denoIsFrom("2.8.3", version) || denoIsFrom("2.9.6", version);
}

/**
 * Whether this Deno knows abstract names of unix sockets (unix(7)). Before 2.8.3 it does not tell the name
 * of a listener that has one, and can bind and send no datagrams with one.
 */
export function knowsAbstractNames(version = Deno.version.deno): boolean {
  return denoIsFrom("2.8.3", version);
}

/** Whether to close a connection ends it even if a read is pending. With 2.8.3 its client hears of nothing. */
export function closeEndsReads(version = Deno.version.deno): boolean {
  return version !== "2.8.3";
}

/** Whether modules of type "text" can be imported, of which the profiler's page is made. */
export function importsText(version = Deno.version.deno): boolean {
  return denoIsFrom("2.8.0", version);
}

/**
 * Makes sure that this Deno can load the profiler.
 *
 * @throws {Error} If it cannot.
 */
export function requireProfiler(version = Deno.version.deno): void {
  if (!importsText(version)) {
    throw new Error(`Deno ${version} cannot load the profiler, expected Deno 2.8.0 or newer`);
  }
}

/** What an operator should know of this Deno, if anything. */
export function runtimeFault(version = Deno.version.deno): string | undefined {
  if (!denoIsFrom(OLDEST_DENO, version)) {
    return `Deno ${version} is untested, expected ${OLDEST_DENO} or newer`;
  }
  if (!answersEarly(version)) {
    return `Deno ${version} stalls where an answer begins before the request's body has ended, expected 2.9.6`;
  }
}
