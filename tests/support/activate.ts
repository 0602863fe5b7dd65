/**
 * Daemons that systemd-socket-activate starts.
 *
 * @module
 */

import { Daemon, type DaemonOptions, freePort, missing } from "./daemon.ts";

/** Whether there is none; that is said, then. */
export const NO_ACTIVATE = await missing("systemd-socket-activate", ["--version"]);

/** systemd-socket-activate passes no variables on but those that it is told. */
export const PASSED: string[] = [
  "HOME",
  "PATH",
  "TMPDIR",
  "DENO_DIR",
  "JSR_URL",
  "NO_COLOR",
  "DENO_NO_UPDATE_CHECK",
]
  .flatMap((name) => ["-E", name]);

/**
 * A daemon that the real systemd-socket-activate starts at the first connection. It takes no port
 * 0, so such a port is replaced by one that is free.
 */
export async function activate(
  sockets: string[],
  args: string[],
  options: DaemonOptions & { activator?: string[] } = {},
): Promise<Daemon> {
  for (;;) {
    const listen = sockets.map((socket) => {
      const [, hostname] = /^\[?(.*?)\]?:0$/.exec(socket) ?? [];
      if (hostname === undefined) return socket;
      return socket.replace(/0$/, String(freePort(hostname)));
    });
    const daemon = Daemon.start(args, {
      ...options,
      through: [
        "systemd-socket-activate",
        ...PASSED,
        ...options.activator ?? [],
        ...listen.flatMap((socket) => ["-l", socket]),
      ],
    });
    const last = new RegExp(`^Listening on .* as ${2 + sockets.length}\\.$|in use`, "m");
    const [said] = await daemon.says(last);
    if (said !== "in use") return daemon;
    await daemon.status; // Another process was faster.
  }
}
