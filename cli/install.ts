/**
 * Booting with modules of users.
 *
 * @module
 */

import type { Engine } from "../engine.ts";
import { isError } from "../engine/errors.ts";
import type { Router } from "../router.ts";
import { oneLine } from "./process.ts";

/**
 * Runs a module's `install`. What that returns, if it can be disposed of, is at the engine's
 * shutdown.
 *
 * @throws {Error} If it cannot be loaded, exports no such function, or fails.
 */
export async function install(module: string, engine: Engine, router: Router): Promise<void> {
  // A binary has the examples in it, and a host of the program has them beside it.
  const url = /^[a-z][a-z\d+.-]+:/i.test(module)
    ? module
    : module.startsWith("examples/") && !exists(module)
    ? new URL(`../${module}`, import.meta.url).href
    : urlOf(module);
  let loaded: { install?: unknown };
  try {
    loaded = await import(url);
  } catch (error) {
    throw new Error(
      `cannot load --install ${module}, expected the path or URL of a module: ` +
        withPlace(error) + configHint(error, url),
      { cause: error },
    );
  }
  if (typeof loaded.install !== "function") {
    throw new Error(`--install ${module} exports no function install(engine, router)`);
  }
  let installed: Partial<Disposable & AsyncDisposable> | undefined;
  try {
    installed = await loaded.install(engine, router);
  } catch (error) {
    throw new Error(`install of ${module} failed: ${withPlace(error)}`, { cause: error });
  }
  if (installed?.[Symbol.asyncDispose] || installed?.[Symbol.dispose]) {
    engine.onShutdown(
      () => (installed[Symbol.asyncDispose] ?? installed[Symbol.dispose])!.call(installed),
      { name: `of ${module}` },
    );
  }
}

/** The first line of an error's message, with the file and the line of its author. */
function withPlace(error: unknown): string {
  const line = oneLine(error).replace(/\.$/, "") + reason(error);
  const { message = "", stack = "" } = isError(error) ? error : {};
  // Of a syntax error they are in the message, below the code that is meant.
  const places = `${message}\n${stack}`.matchAll(/(?:file|https?):\/\/[^\s()]+:\d+:\d+/g);
  const place = [...places].map(([place]) => place)
    .find((place) => !place.startsWith(new URL(".", import.meta.url).href));
  return place === undefined || line.includes(place) ? line : `${line}, at ${place}`;
}

/** The innermost reason, of those that Deno lists below a module that cannot be fetched. */
function reason(error: unknown): string {
  const reasons = isError(error) ? [...error.message.matchAll(/^\s+\d+: (.+)$/gm)] : [];
  return reasons.map(([, text]) => `: ${text}`).at(-1) ?? "";
}

/** What Deno says of a name that only the module's own configuration tells the meaning of. */
const UNMAPPED =
  /not a dependency and not in import map|not prefixed with|not find .* in the node_modules/;

/**
 * How a module's own deno.json or package.json is made to count: Deno reads those of the program.
 */
function configHint(error: unknown, url: string): string {
  if (!UNMAPPED.test(oneLine(error))) return "";
  for (let folder = url; /^file:\/\/\/./.test(folder);) {
    folder = folder.slice(0, folder.lastIndexOf("/"));
    for (const name of ["deno.json", "deno.jsonc", "package.json"]) {
      const path = decodeURIComponent(new URL(`${folder}/${name}`).pathname);
      if (!exists(path)) continue;
      if (name === "package.json") return `; ${path} counts with a main.ts of your own beside it`;
      return `; ${path} counts with deno run --config ${path}, or with a main.ts of your own beside it`;
    }
  }
  return "";
}

// Not by node:fs and node:url, whose loading would add 40 ms to a boot, and 10 MiB to the daemon.
function exists(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false; // Whatever keeps us from seeing it, to import it will say better.
  }
}

function urlOf(path: string): string {
  const absolute = path.startsWith("/") ? path : `${Deno.cwd()}/${path}`;
  return new URL(`file://${encodeURI(absolute).replace(/[?#]/g, encodeURIComponent)}`).href;
}
