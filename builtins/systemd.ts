/**
 * What systemd asks of a daemon.
 *
 * @module
 */

import { type Logger, messageOf } from "../engine.ts";

/**
 * Tells systemd about the daemon's state, where systemd asked for it by NOTIFY_SOCKET (sd_notify(3)).
 * What goes wrong is logged: a daemon is not worse for it.
 *
 * @param state Such as `READY=1` or `STOPPING=1`.
 */
export async function notify(state: string, log: Logger): Promise<void> {
  const allowed = Deno.permissions.querySync({ name: "env", variable: "NOTIFY_SOCKET" });
  // A daemon that may not look is not told to: nobody should be asked for that.
  const socket = allowed.state === "granted" ? Deno.env.get("NOTIFY_SOCKET") : undefined;
  if (!socket) return;
  try {
    if (typeof Deno.listenDatagram === "function") {
      // A leading @ stands for the zero byte of an abstract name (unix(7)).
      const path = socket.replace(/^@/, "\0");
      const own = await Deno.makeTempDir({ prefix: "floodgate-" });
      try {
        const datagrams = Deno.listenDatagram({ transport: "unixpacket", path: `${own}/notify` });
        await datagrams.send(new TextEncoder().encode(state), { transport: "unixpacket", path })
          .finally(() => datagrams.close());
      } finally {
        await Deno.remove(own, { recursive: true });
      }
      return;
    }
    // Datagrams are unstable in Deno, and a program that is run from a URL has not asked for them.
    const { success, stderr } = await new Deno.Command("systemd-notify", {
      args: [`--pid=${Deno.pid}`, state],
    }).output();
    if (!success) throw new Error(new TextDecoder().decode(stderr).trim());
  } catch (error) {
    log("warn", `cannot tell systemd ${state}: ${messageOf(error)}`);
  }
}
