/**
 * Reading the settings again while the daemon runs: what can be changed is, and what cannot is
 * said.
 *
 * @module
 */

import type { Serving } from "../builtins/serveapi.ts";
import { type Name, type Setting, SETTINGS } from "../builtins/settings.ts";
import type { Logger } from "../engine/log.ts";
import type { ProgramSettings } from "./settings.ts";

/** What changes without a restart, besides the log's level: of `serve`, and of the router. */
const OF_SERVE = [
  ...["shutdownTimeout", "headerTimeout", "idleTimeout", "sendTimeout", "maxConnections"] as const,
  ...["bodyLimit", "allowedHosts", "cors"] as const,
];
const OF_ROUTER = ["bodyLimit", "sendTimeout", "cors", "logging"] as const;
const CHANGEABLE: ReadonlySet<Name> = new Set<Name>(["logLevel", ...OF_SERVE]);

/**
 * Puts settings in the place of others, as far as that can be done, and tells of both in the log.
 *
 * @param now Those that the program goes by, which become the new ones.
 */
export function change(
  now: ProgramSettings,
  next: ProgramSettings,
  api: Serving,
  log: Logger,
): void {
  const [before, after] = [flat(now), flat(next)];
  const changed = [...new Set([...before.keys(), ...after.keys()])]
    // What has no flag follows from another.
    .filter((name) => (SETTINGS[name] as Setting).flag !== undefined)
    .filter((name) => JSON.stringify(before.get(name)) !== JSON.stringify(after.get(name)));
  const flags = (names: Name[]) =>
    names.map((name) => `--${(SETTINGS[name] as Setting).flag}`).join(", ");
  // A router that lets no origin in, or any, has nothing that looks at origins.
  const someOrigins = now.router.cors !== undefined && ![now.router.cors].flat().includes("*");
  const can = (name: Name) => CHANGEABLE.has(name) && (name !== "cors" || someOrigins);
  const possible = changed.filter(can);
  const impossible = changed.filter((name) => !can(name));
  const { logLevel, drain, serve, router } = next;
  Object.assign(now, { logLevel, drain });
  copy(serve, now.serve, OF_SERVE);
  copy(router, now.router, OF_ROUTER); // The router has this very object.
  api.change(now.serve);
  if (possible.length > 0) log("info", `changed: ${flags(possible)}`);
  if (impossible.length > 0) log("warn", `changed, but this takes a restart: ${flags(impossible)}`);
}

function copy<T extends object>(from: T, to: T, names: readonly (keyof T)[]): void {
  for (const name of names) {
    if (from[name] === undefined) delete to[name];
    else to[name] = from[name];
  }
}

/** The settings by the names that they have in the table. */
function flat(settings: ProgramSettings): Map<Name, unknown> {
  const { addresses, drain, router: _, serve: { tls, ...serve }, ...rest } = settings;
  const named = {
    ...rest,
    ...serve,
    hosts: addresses,
    shutdownTimeout: drain,
    tlsCert: tls?.cert,
    tlsKey: tls?.key,
    tlsCa: tls?.ca,
  };
  // `Infinity` is nothing in JSON.
  return new Map(
    Object.entries(named).filter(([, value]) => value !== undefined)
      .map(([name, value]) => [name as Name, value === Infinity ? "no limit" : value]),
  );
}
