/**
 * Word of how the daemon is, for systemd (sd_notify(3)).
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { LONGEST } from "../engine/time.ts";
import { permittedEnv } from "./descriptors.ts";
import { monotonicMicroseconds } from "./sockets.ts";

/**
 * Tells systemd about the daemon's state, where systemd asked for it by NOTIFY_SOCKET
 * (sd_notify(3)). What goes wrong is logged, once for each thing that is wrong: a daemon is not
 * worse for it.
 *
 * @param state Such as `READY=1`; several are separated by line ends. They arrive in the order in
 * which they were given.
 */
export function notify(state: string, log: Logger): Promise<void> {
  const socket = permittedEnv("NOTIFY_SOCKET");
  if (!socket) return Promise.resolve();
  return last = last.then(() => send(socket, state, log));
}

/** The message that was given last. It never rejects. */
let last = Promise.resolve();

async function send(socket: string, state: string, log: Logger): Promise<void> {
  try {
    if (typeof Deno.listenDatagram === "function") await sendDatagram(socket, state);
    else await runSystemdNotify(state);
  } catch (error) {
    // Deno names the path, of which ours is another each time.
    const problem = error instanceof Deno.errors.NotCapable
      ? `cannot tell systemd: this needs the permissions --allow-net --allow-write=${socket}`
      : `cannot tell systemd: ${messageOf(error)}`;
    if (complaints.has(problem)) return;
    complaints.add(problem);
    log("warn", problem);
  }
}

/** What has been complained of. A process has one NOTIFY_SOCKET, whatever runs in it. */
const complaints = new Set<string>();

async function sendDatagram(socket: string, state: string): Promise<void> {
  // A leading @ stands for the zero byte of an abstract name, which needs no folder (unix(7)).
  const path = socket.replace(/^@/, "\0");
  const datagrams = Deno.listenDatagram({
    transport: "unixpacket",
    path: `\0floodgate-${crypto.randomUUID()}`,
  });
  try {
    await datagrams.send(new TextEncoder().encode(state), { transport: "unixpacket", path });
  } finally {
    datagrams.close();
  }
}

/** Datagrams are unstable in Deno, and a program that is run from a URL has not asked for them. */
async function runSystemdNotify(state: string): Promise<void> {
  const hint = "run with --unstable-net";
  let result: Deno.CommandOutput;
  try {
    result = await new Deno.Command("systemd-notify", {
      args: [`--pid=${Deno.pid}`, ...state.split("\n")],
    }).output();
  } catch (error) {
    throw new Error(`${messageOf(error)} (${hint}, or install systemd-notify)`, { cause: error });
  }
  if (!result.success) {
    throw new Error(`${new TextDecoder().decode(result.stderr).trim()} (${hint})`);
  }
}

/** Tells systemd that the daemon reads its configuration anew, until it says READY=1 again. */
export function notifyReloading(log: Logger): Promise<void> {
  // Type=notify-reload tells an answer to this reload from an older one by the time.
  const now = monotonicMicroseconds();
  return notify("RELOADING=1" + (now === undefined ? "" : `\nMONOTONIC_USEC=${now}`), log);
}

/**
 * Tells systemd twice in each WATCHDOG_USEC that the daemon is alive, where systemd has asked for
 * that (sd_watchdog_enabled(3)): if the event loop turns, and `alive` resolves.
 *
 * @returns What ends it.
 */
export function startWatchdog(alive: () => Promise<void>, log: Logger): () => void {
  const microseconds = Number(permittedEnv("WATCHDOG_USEC"));
  const pid = permittedEnv("WATCHDOG_PID");
  if (!(microseconds > 0) || (pid !== undefined && Number(pid) !== Deno.pid)) return () => {};
  const interval = setInterval(async () => {
    try {
      await alive();
      await notify("WATCHDOG=1", log);
    } catch (error) {
      log("error", `watchdog: no job can run: ${messageOf(error)}`);
    }
  }, Math.min(microseconds / 2_000, LONGEST));
  return () => clearInterval(interval);
}
