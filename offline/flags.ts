/**
 * Prints the flags with which `deno test`, `deno check` and `deno run` do without JSR where it does
 * not answer, and nothing where it does:
 *
 * ```sh
 * deno test $(deno run -A offline/flags.ts) -A
 * ```
 *
 * @module
 */

/**
 * The flags that put the stand-ins in place, for use in the project's root. An import map given on
 * the command line replaces the imports of `deno.json`. The lock file holds what comes from npm; it
 * can hold nothing of JSR, so it is used only here, and nothing may change it by the way.
 */
export const OFFLINE_FLAGS: readonly string[] = [
  "--import-map=offline/import_map.json",
  "--lock=deno.lock",
  "--frozen",
];

/** Says why the registry cannot be used, or `undefined` if it answers within `timeout` ms. */
export async function jsrTrouble(
  registry: string = Deno.env.get("JSR_URL") || "https://jsr.io/",
  timeout: number = 3000,
): Promise<string | undefined> {
  try {
    const url = new URL("@std/assert/meta.json", registry.replace(/\/*$/, "/"));
    const response = await fetch(url, { signal: AbortSignal.timeout(timeout) });
    if (response.status !== 200) {
      await response.body?.cancel();
      return `${url} answers with status ${response.status}`;
    }
    // Some networks answer every request with a page of their own.
    const text = await response.text();
    return isPackage(text) ? undefined : `${url} does not answer with a package's metadata`;
  } catch (error) {
    if (!(error instanceof Error)) return `${error}`;
    if (error.name === "TimeoutError") return `${registry} does not answer within ${timeout} ms`;
    // What fetch throws says only that it failed; what went wrong is the cause.
    return error.cause instanceof Error ? error.cause.message : error.message;
  }
}

function isPackage(text: string): boolean {
  try {
    return typeof JSON.parse(text).versions === "object";
  } catch {
    return false;
  }
}

if (import.meta.main) {
  const trouble = await jsrTrouble();
  if (trouble !== undefined) {
    console.error(`JSR can't be reached, the stand-ins in offline/ are used: ${trouble}`);
    console.log(OFFLINE_FLAGS.join(" "));
  }
}
