/**
 * Which releases of Deno the daemon runs on, what Deno's cache has, and whether OpenTelemetry is
 * on.
 *
 * @module
 */

/** The oldest Deno that the daemon runs on. Those before stall some requests, or lose some. */
export const OLDEST_DENO = "2.9.6";

/**
 * What is wrong with a release of Deno, by default this one, if anything, and how to get another.
 */
export function denoProblem(version = Deno.version.deno): string | undefined {
  if (isFrom(OLDEST_DENO, version)) return undefined;
  return `Deno ${version} is too old, expected ${OLDEST_DENO} or newer: ` +
    `run \`deno upgrade\`, or \`npx -y deno@${OLDEST_DENO}\` in place of deno`;
}

function isFrom(release: string, version: string): boolean {
  const given = version.split(".");
  for (const [i, wanted] of release.split(".").entries()) {
    // A canary's has a + and its commit behind the last number, where parseInt stops.
    const difference = parseInt(given[i] ?? "0") - parseInt(wanted);
    if (difference !== 0) return difference > 0;
  }
  return true;
}

/** The name of a file in Deno's cache: the SHA-256 of its path on JSR, `/@std/cli/meta.json`. */
const STD_CLI = "d28345c0850ac020d03e4341e629d574a81a47929c0f2bd6da0196822f1c9134";

/**
 * Whether Deno's cache knows @std/cli; undefined where this process may not look. To import what is
 * not there is no way to find out: as long as a registry does not answer, each import of what is
 * not in the module graph waits for it, that of `--install` too.
 */
export function stdCliIsCached(): boolean | undefined {
  // One question for all variables: each costs 0.1 ms of a start.
  for (const name of ["env", "read"] as const) {
    if (Deno.permissions.querySync({ name }).state !== "granted") return undefined;
  }
  const jsr = Deno.env.get("JSR_URL");
  const { protocol, host } = jsr ? new URL(jsr) : { protocol: "https:", host: "jsr.io" };
  const path = `${cacheFolder()}/remote/${protocol.slice(0, -1)}/${host.replace(":", "_PORT")}`;
  try {
    return Deno.statSync(`${path}/${STD_CLI}`).isFile;
  } catch (error) {
    // What keeps us from seeing it keeps Deno from having it.
    return error instanceof Deno.errors.NotFound ? false : undefined;
  }
}

/** Where Deno keeps what it downloads (`deno info`). */
function cacheFolder(): string {
  const home = Deno.env.get("HOME");
  const caches = Deno.build.os === "darwin" ? `${home}/Library/Caches` : `${home}/.cache`;
  return Deno.env.get("DENO_DIR") || `${Deno.env.get("XDG_CACHE_HOME") || caches}/deno`;
}

/** Whether OpenTelemetry is on: whether `@opentelemetry/api` has what Deno, or a user, gives it. */
export function telemetryIsOn(): boolean {
  return TELEMETRY in globalThis;
}

/** Where `@opentelemetry/api` keeps it. */
export const TELEMETRY: symbol = Symbol.for("opentelemetry.js.api.1");
