/**
 * What systemd gives a daemon, and asks of it: sockets that it has opened (sd_listen_fds(3)), and
 * word of how it is (sd_notify(3)).
 *
 * @module
 */

import { type Engine, type Logger, LONGEST, messageOf, TypedError } from "../engine.ts";
import {
  closeDescriptor,
  closeOnExec,
  knowsAbstractNames,
  monotonicMicroseconds,
  permittedEnv,
} from "./runtime.ts";

/** The first descriptor that is passed: SD_LISTEN_FDS_START. */
const FIRST = 3;

/** A socket that the process was started with. */
interface Inherited {
  readonly fd: number;
  readonly name: string;
  taken: boolean;
}

/**
 * The sockets that this process was started with. They are the process's and not an engine's: there
 * is one environment, from which they are removed once they are known.
 */
let inherited: { sockets: Inherited[]; problem?: string } | undefined;

/** A passed socket, for whoever has taken it. */
export interface Taken {
  readonly fd: number;
  /** Closes the descriptor, for somebody who has another of the same socket. Then nobody else gets it. */
  close(): void;
  /** Leaves it to others, unless it was closed. */
  giveBack(): void;
}

/**
 * Takes the sockets that systemd has passed and that fit `which`, so that nobody else does.
 *
 * @param which As it is written after `fd://`: nothing or `*` for all that nobody has taken, the number
 * of a descriptor, or a name (FileDescriptorName= of systemd.socket(5)), which several may have.
 * @throws {TypedError} ("bad parameter") If there are none that fit; ("conflict") if they are taken.
 */
export function takeInherited(which: string): Taken[] {
  const { sockets, problem } = receiveSockets();
  if (problem) throw new TypedError("bad parameter", problem);
  const fitting = sockets.filter(({ fd, name }) =>
    which === "" || which === "*" || (/^\d+$/.test(which) ? fd === Number(which) : name === which)
  );
  if (fitting.length === 0) {
    throw new TypedError("bad parameter", `no such socket was passed, there are ${list(sockets)}`);
  }
  const free = fitting.filter(({ taken }) => !taken);
  if (free.length === 0) {
    throw new TypedError("conflict", "another address has taken what was passed");
  }
  return free.map((socket) => {
    // Either is done once: after it the number, or the socket, may be another's.
    let held = true;
    socket.taken = true;
    return {
      fd: socket.fd,
      close() {
        if (held) closeDescriptor(socket.fd);
        held = false;
      },
      giveBack() {
        if (held) socket.taken = false;
        held = false;
      },
    };
  });
}

/** Finds out, once, what was passed, and keeps it from the programs that this process starts. */
export function receiveSockets(): NonNullable<typeof inherited> {
  return inherited ??= receive();
}

/** What was passed and no address has taken, in words; undefined if there is nothing. */
export function untakenSockets(): string | undefined {
  const untaken = receiveSockets().sockets.filter(({ taken }) => !taken);
  return untaken.length > 0 ? list(untaken) : undefined;
}

function list(sockets: Inherited[]): string {
  return sockets.map(({ fd, name }) => `fd://${fd}` + (name && ` (fd://${name})`)).join(", ");
}

/** What systemd says of the sockets; the last is of newer releases, and of no use here. */
const VARIABLES = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/** Reads what systemd says of the sockets, and keeps it and them from our children: none is meant. */
function receive(): NonNullable<typeof inherited> {
  const [pid, count, names] = VARIABLES.map((name) => {
    const value = permittedEnv(name);
    if (value !== undefined) Deno.env.delete(name);
    return value;
  });
  const none = (problem: string) => ({ sockets: [], problem });
  if (pid === undefined || count === undefined) {
    return none(
      "no sockets were passed (LISTEN_FDS and LISTEN_PID): a systemd .socket unit does so",
    );
  }
  if (Number(pid) !== Deno.pid) {
    return none(`the sockets were passed to process ${pid} (LISTEN_PID), and this is ${Deno.pid}`);
  }
  // No process can have a million descriptors on an ordinary system (fs.nr_open).
  if (!/^[1-9]\d{0,5}$/.test(count)) {
    return none(`LISTEN_FDS is "${count}", expected the number of sockets that were passed`);
  }
  const labels = names?.split(":") ?? [];
  const sockets = Array.from({ length: Number(count) }, (_, i) => ({
    fd: FIRST + i,
    // What systemd calls a socket that nobody has named.
    name: labels[i] === "unknown" ? "" : labels[i] ?? "",
    taken: false,
  }));
  closeOnExec(sockets.map(({ fd }) => fd));
  return { sockets };
}

/**
 * Tells systemd about the daemon's state, where systemd asked for it by NOTIFY_SOCKET (sd_notify(3)).
 * What goes wrong is logged, once for each thing that is wrong: a daemon is not worse for it.
 *
 * @param state Such as `READY=1`; several are separated by line ends.
 */
export async function notify(state: string, log: Logger): Promise<void> {
  const socket = permittedEnv("NOTIFY_SOCKET");
  if (!socket) return;
  try {
    if (typeof Deno.listenDatagram === "function") await sendDatagram(socket, state);
    else await runSystemdNotify(state);
  } catch (error) {
    // Deno names the path, of which ours is another each time.
    const problem = error instanceof Deno.errors.NotCapable
      ? `cannot tell systemd: this needs the permissions ${notifyFlags(socket)}`
      : `cannot tell systemd: ${messageOf(error)}`;
    if (complaints.has(problem)) return;
    complaints.add(problem);
    log("warn", problem);
  }
}

/** What `deno run` needs to be told for {@linkcode notify}. */
function notifyFlags(socket: string): string {
  return knowsAbstractNames() ? `--allow-net --allow-write=${socket}` : "--allow-all";
}

/** What has been complained of. A process has one NOTIFY_SOCKET, whatever runs in it. */
const complaints = new Set<string>();

async function sendDatagram(socket: string, state: string): Promise<void> {
  // A leading @ stands for the zero byte of an abstract name, which needs no folder (unix(7)).
  const path = socket.replace(/^@/, "\0");
  const folder = knowsAbstractNames()
    ? undefined
    : await Deno.makeTempDir({ prefix: "floodgate-" });
  const own = folder ? `${folder}/notify` : `\0floodgate-${crypto.randomUUID()}`;
  try {
    const datagrams = Deno.listenDatagram({ transport: "unixpacket", path: own });
    try {
      await datagrams.send(new TextEncoder().encode(state), { transport: "unixpacket", path });
    } finally {
      datagrams.close();
    }
  } finally {
    if (folder) await Deno.remove(folder, { recursive: true });
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
 * Tells systemd twice in each WATCHDOG_USEC that the daemon is alive, where systemd has asked for that
 * (sd_watchdog_enabled(3)): if the event loop turns, and a job can run.
 *
 * @returns What ends it.
 */
export function startWatchdog(engine: Engine): () => void {
  const microseconds = Number(permittedEnv("WATCHDOG_USEC"));
  const pid = permittedEnv("WATCHDOG_PID");
  if (!(microseconds > 0) || (pid !== undefined && Number(pid) !== Deno.pid)) return () => {};
  const interval = setInterval(async () => {
    try {
      // A daemon that is told to stop takes no new jobs, and is alive all the same.
      if (!engine.stopping.aborted) {
        const job = engine.job("true");
        job.quiet = true; // It is no event, and nothing to fill a log with.
        await job.run();
      }
      await notify("WATCHDOG=1", engine.log);
    } catch (error) {
      engine.log("error", `watchdog: no job can run: ${messageOf(error)}`);
    }
  }, Math.min(microseconds / 2_000, LONGEST));
  return () => clearInterval(interval);
}
