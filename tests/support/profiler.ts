/**
 * A daemon in debug mode, with a module that has a known hot function.
 *
 * @module
 */

import { Daemon, project, type TempFolder, until } from "./daemon.ts";

export const BUSY = project("tests/support/fixtures/busy.ts");
/** A position in the fixture, counted from 1. */
export const lineOf = (text: string) =>
  Deno.readTextFileSync(BUSY).split("\n").findIndex((line) => line.includes(text)) + 1;

/** A daemon in debug mode with a tcp and a unix address, which does not log each request. */
export async function profiled(
  folder: TempFolder,
): Promise<{ daemon: Daemon; url: string; sock: string }> {
  const sock = `${folder.path}/api.sock`;
  const daemon = Daemon.start([
    ...["-D", "-l", "info", "--install", BUSY],
    ...["-H", "tcp://127.0.0.1:0", "-H", `unix://${sock}`],
  ]);
  const url = `http://127.0.0.1:${await daemon.port()}`;
  await daemon.open();
  return { daemon, url, sock };
}

/**
 * Tries with a new daemon each time, until it works: what {@linkcode under} says of code that was
 * optimized before is so for all further profiles of a daemon.
 */
export async function untilProfiled(
  folder: TempFolder,
  attempt: (profiled: { daemon: Daemon; url: string; sock: string }) => Promise<boolean>,
): Promise<void> {
  await until(async () => {
    const started = await profiled(folder);
    await using _ = started.daemon;
    return await attempt(started);
  });
}

/**
 * Sends requests continuously while the work has a profile taken, and at no other time: of
 * functions that V8 has optimized before, it knows neither the lines nor what is inlined in them,
 * and takes one for the other as long as that code lives.
 */
export async function under<T>(url: string, work: () => Promise<T>): Promise<T> {
  let busy = true;
  const profiling = async () => {
    const { running } = await (await fetch(new URL("/debug/pprof/jobs", url))).json();
    return running.some(({ name }: { name: string }) => name.endsWith("profile"));
  };
  const load = (async () => {
    while (busy) if (await profiling()) await (await fetch(url)).text();
  })();
  try {
    return await work();
  } finally {
    busy = false;
    await load;
  }
}

export interface Call {
  functionName: string;
  url: string;
  lineNumber: number;
}
