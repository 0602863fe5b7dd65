/**
 * Sockets that systemd has opened and the process was started with (sd_listen_fds(3)).
 *
 * @module
 */

import { TypedError } from "../engine/errors.ts";
import { descriptors, descriptorsProblem, permittedEnv } from "./descriptors.ts";
import { closeDescriptor, closeOnExec } from "./sockets.ts";

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

/** A passed socket, for the listener that has taken it. */
export interface Taken {
  readonly fd: number;
  /**
   * Closes the descriptor, for an owner of another one of the same socket. No other job gets it
   * then.
   */
  close(): void;
  /** Leaves it to others, unless it was closed. */
  giveBack(): void;
}

/**
 * Takes the sockets that systemd has passed and that fit `which`, so that no other job does.
 *
 * @param which As it is written after `fd://`: nothing or `*` for all that are not taken yet, the
 * number of a descriptor, or a name (FileDescriptorName= of systemd.socket(5)), which several may
 * have.
 * @throws {TypedError} ("bad parameter") If there are none that fit; ("conflict") if they are
 * taken.
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

/** The most sockets that are named in a line. */
const MOST_NAMED = 20;

function list(sockets: Inherited[]): string {
  const named = sockets.slice(0, MOST_NAMED)
    .map(({ fd, name }) => `fd://${fd}` + (name && ` (fd://${name})`)).join(", ");
  const more = sockets.length - MOST_NAMED;
  return more > 0 ? `${named}, and ${more} more` : named;
}

/** What systemd says of the sockets; the last is of newer releases, and of no use here. */
const VARIABLES = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

/**
 * Reads what systemd says of the sockets, and keeps it and them from our children: none is meant.
 */
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
  // Where it can be seen, before anything is done to each of them.
  const open = descriptorsProblem() ? Infinity : descriptors().length;
  if (Number(count) > open) {
    return none(`LISTEN_FDS is "${count}", and only ${open} descriptors are open`);
  }
  const labels = names?.split(":") ?? [];
  const sockets = Array.from({ length: Number(count) }, (_, i) => ({
    fd: FIRST + i,
    // What systemd calls a socket that its unit does not name.
    name: labels[i] === "unknown" ? "" : labels[i] ?? "",
    taken: false,
  }));
  closeOnExec(sockets.map(({ fd }) => fd));
  return { sockets };
}
