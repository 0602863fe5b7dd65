/**
 * Which releases of Deno the daemon runs on.
 *
 * @module
 */

/** The oldest Deno that the daemon runs on. Those before stall some requests, or lose some. */
export const OLDEST_DENO = "2.9.6";

/** What is wrong with a release of Deno, by default this one, if anything, and how to get another. */
export function denoProblem(version = Deno.version.deno): string | undefined {
  if (isFrom(OLDEST_DENO, version)) return undefined;
  return `Deno ${version} is too old, expected ${OLDEST_DENO} or newer: ` +
    `run \`deno upgrade\`, or \`npx -y deno@${OLDEST_DENO}\` in place of deno`;
}

function isFrom(release: string, version: string): boolean {
  // A canary's has a + and its commit behind the numbers.
  const given = version.replace(/[-+].*/, "").split(".").map(Number);
  for (const [i, wanted] of release.split(".").map(Number).entries()) {
    const number = given[i] ?? 0;
    if (number !== wanted) return number > wanted;
  }
  return true;
}
