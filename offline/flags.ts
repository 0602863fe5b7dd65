/**
 * If JSR does not answer, prints the flags with which `deno test`, `deno check` and `deno run` work
 * without it: `deno test $(deno run -A offline/flags.ts) -A`. An import map on the command line
 * replaces the imports of deno.json; the lock file has the packages of npm.
 */
export const OFFLINE_FLAGS = [
  "--import-map=offline/import_map.json",
  "--lock=deno.lock",
  "--frozen",
] as const;

/** Why JSR cannot be used; undefined if it answers. */
export async function jsrTrouble(
  registry: string = Deno.env.get("JSR_URL") || "https://jsr.io/",
): Promise<string | undefined> {
  const url = new URL("@std/assert/meta.json", registry);
  try {
    const response = await fetch(url, { signal: AbortSignal.timeout(3_000) });
    // Captive portals answer every request with a page of their own.
    if (!(await response.json()).versions) return `${url} is not the metadata of a package`;
  } catch (error) {
    return `${url}: ${(error as Error).cause ?? error}`;
  }
}

if (import.meta.main) {
  const trouble = await jsrTrouble();
  if (trouble) {
    console.error(`JSR can't be reached, the stand-ins in offline/ are used: ${trouble}`);
    console.log(OFFLINE_FLAGS.join(" "));
  }
}
