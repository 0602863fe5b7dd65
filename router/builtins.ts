/**
 * The built-in routes, and which of them a router has.
 *
 * @module
 */

import { DOCKER_API } from "./dockerapi.ts";
import type { Route } from "./route.ts";

/** The path of the health check. */
export const PING = "/_ping";
/** The path of the OpenAPI description. */
export const DESCRIPTION = "/openapi.json";

/** The built-in rows, besides `/_ping` and the description. */
export const BUILTINS: readonly Route[] = [
  ...Object.entries(DOCKER_API).flatMap(([noun, rows]) =>
    rows.map((row): Route => ({ ...row, tags: [noun] }))
  ),
  {
    method: "GET",
    path: "/debug/vars",
    job: "stats",
    summary: "Counts connections, errors, jobs and memory",
    tags: ["system"],
  },
];

/**
 * Makes the test for the paths of built-in routes that a router has.
 *
 * @param wanted All, none, or those of these paths and below them.
 * @throws {TypeError} If a path is neither that of a built-in route nor the beginning of one.
 */
export function builtinsOf(wanted: boolean | readonly string[] = true): (path: string) => boolean {
  if (typeof wanted === "boolean") return () => wanted;
  const covers = (list: readonly string[], path: string) =>
    list.some((one) => path === one || path.startsWith(`${one.replace(/\/$/, "")}/`));
  const paths = [PING, DESCRIPTION, ...BUILTINS.map(({ path }) => path)];
  const unknown = wanted.find((one) =>
    !one.startsWith("/") || !paths.some((path) => covers([one], path))
  );
  if (unknown !== undefined) {
    const beginnings = new Set(paths.map((path) => path.split("/", 2).join("/")));
    throw new TypeError(
      `builtins has "${unknown}", expected paths such as ${[...beginnings].join(", ")}`,
    );
  }
  return (path) => covers(wanted, path);
}
