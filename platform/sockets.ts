/**
 * Sockets that another process has made, and what Deno has no option for: listening on a given
 * descriptor, a longer queue, and ending a connection whatever its client does.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import {
  DESCRIPTORS,
  descriptors,
  descriptorsProblem,
  foreignFunctionsProblem,
  requireDescriptors,
} from "./descriptors.ts";
import {
  AF_INET,
  AF_INET6,
  AF_UNIX,
  formatTcp,
  formatUnix,
  Libc,
  SO_ACCEPTCONN,
  SO_TYPE,
  SOCK_STREAM,
  type Watch,
} from "./libc.ts";

/** A listening socket, by its descriptor. */
export interface ListeningSocket {
  /** Its number. */
  readonly fd: number;
  /** What kind of address it has. */
  readonly proto: "tcp" | "unix";
  /** The address, as `tcp://HOST:PORT` or `unix:///path`; an abstract name begins with an @. */
  readonly address: string;
}

/** What Deno makes to accept from. */
export type AnyListener = Deno.Listener | Deno.TlsListener;
/** A listener, and its descriptor where that can be had. It is the listener's to close. */
export interface Observed<L extends AnyListener> {
  readonly listener: L;
  readonly fd?: number;
}

/** More than any kernel's net.core.somaxconn: as many as it allows. */
export const BACKLOG = 65_535;

/**
 * Lets the kernel queue as many clients of a unix listener as it can (net.core.somaxconn, 4 096 on
 * most systems) in place of the 1 024 that Deno asks for and offers no option about: past the queue a
 * client that does not block is refused with EAGAIN. listen(2) on a socket that listens already
 * changes nothing but that number. Only where foreign functions are allowed, and no prompt asks.
 */
export function deepenQueue(listener: Deno.UnixListener): void {
  if (descriptorsProblem()) return;
  using libc = new Libc();
  const fd = descriptorOf(libc, listener);
  if (fd !== undefined) libc.listen(fd, BACKLOG);
}

/**
 * What a descriptor that this process was started with is.
 *
 * @throws {TypedError} ("bad parameter") If it is not a listening stream socket of a kind that can be
 * served, or this process may not look.
 */
export function inspectSocket(fd: number): ListeningSocket {
  requireDescriptors();
  using libc = new Libc();
  const problem = listeningProblem(libc, fd);
  if (problem) throw new TypedError("bad parameter", `descriptor ${fd} is ${problem}`);
  const { family, address } = libc.nameOf(fd);
  return { fd, proto: family === AF_UNIX ? "unix" : "tcp", address };
}

/**
 * Makes a listener that was just bound listen on another socket instead, of the same kind, and lets go
 * of its own. Deno can make no listener of a descriptor (denoland/deno issue 14006); what it can make
 * is put behind one of its own by dup3(2). The event loop, which watches the old socket, has to be told:
 * epoll forgets a socket that is closed, so the new one is registered under the same token.
 *
 * @param listen Binds a listener for a moment, anywhere, of the kind of the socket.
 * @param fd The socket to listen on. It stays open, and may be closed.
 * @returns The listener, whose `addr` is still that of its own socket, and its new descriptor.
 * @throws {TypedError} ("bad parameter") If this process may not do so; {Error} if this Deno is made
 * differently. The listener is closed then.
 */
export function adopt<L extends AnyListener>(listen: () => L, fd: number): Required<Observed<L>> {
  requireDescriptors();
  using libc = new Libc();
  const { listener, fd: own } = observeBy(libc, listen);
  try {
    if (own === undefined) throw new Error("its descriptor was not found");
    const watches = watchesOf(own);
    libc.replace(own, fd);
    // An epoll instance can be known by several descriptors; the first that takes it is enough.
    if (!watches.some((watch) => libc.watch(watch, own))) {
      throw new Error("the event loop does not watch it with epoll");
    }
    return { listener, fd: own };
  } catch (error) {
    listener.close();
    throw new Error(
      `Deno ${Deno.version.deno} cannot listen on a given socket: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** Binds a listener, and finds its descriptor where that can be had. */
export function observe<L extends AnyListener>(listen: () => L): Observed<L> {
  if (descriptorsProblem()) return { listener: listen() };
  using libc = new Libc();
  return observeBy(libc, listen);
}

/** Keeps descriptors of which Deno knows nothing from the programs that this process starts. */
export function closeOnExec(descriptors: readonly number[]): void {
  if (foreignFunctionsProblem()) return; // Then nothing can be done with them here, either.
  using libc = new Libc();
  for (const fd of descriptors) libc.closeOnExec(fd);
}

/** Closes a descriptor of which Deno knows nothing. */
export function closeDescriptor(fd: number): void {
  using libc = new Libc();
  libc.close(fd);
}

/** What a connection is known by: the addresses of both its ends. */
export function endsOf({ localAddr, remoteAddr }: Deno.Conn): string {
  return `${formatTcp(localAddr as Deno.NetAddr)} ${formatTcp(remoteAddr as Deno.NetAddr)}`;
}

/**
 * Ends tcp connections, whoever holds them: shutdown(2). Does nothing where this process may not do so.
 *
 * @param ends What they are known by, as {@linkcode endsOf} tells it.
 */
export function shutConnections(ends: ReadonlySet<string>): void {
  if (descriptorsProblem()) return;
  using libc = new Libc();
  const ports = new Set([...ends].map((each) => Number(each.slice(each.lastIndexOf(":") + 1))));
  for (const { name } of Deno.readDirSync(DESCRIPTORS)) {
    const fd = Number(name);
    // There may be thousands, and to write out an address takes longer than to look at its port.
    if (!ports.has(libc.peerPortOf(fd) ?? -1)) continue;
    if (ends.has(`${libc.nameOf(fd).address} ${libc.peerOf(fd)}`)) libc.shutdown(fd);
  }
}

/** CLOCK_MONOTONIC in microseconds, which systemd compares times by; undefined where it can't be had. */
export function monotonicMicroseconds(): bigint | undefined {
  if (foreignFunctionsProblem()) return undefined;
  using libc = new Libc();
  return libc.monotonic();
}

/** Who watches a descriptor, as proc_pid_fdinfo(5) tells it. */
function watchesOf(fd: number): Watch[] {
  const row = new RegExp(`^tfd: *${fd} events: *([\\da-f]+) data: *([\\da-f]+)`, "m");
  return descriptors().filter(({ target }) => target === "anon_inode:[eventpoll]")
    .flatMap(({ fd: epoll }) => {
      const match = row.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${epoll}`));
      if (!match) return [];
      return [{ epoll, events: parseInt(match[1], 16), data: BigInt(`0x${match[2]}`) }];
    });
}

/** Where a listener is bound that is about to {@linkcode adopt} another socket. */
export const ANYWHERE = { hostname: "127.0.0.1", port: 0 };

/** What keeps a descriptor from being a socket to accept from, if anything. */
function listeningProblem(libc: Libc, fd: number): string | undefined {
  const type = libc.option(fd, SO_TYPE);
  if (type === undefined) return "not open, or no socket";
  if (type !== SOCK_STREAM || libc.option(fd, SO_ACCEPTCONN) !== 1) {
    return "not a listening stream socket";
  }
  const { family } = libc.nameOf(fd);
  if (![AF_UNIX, AF_INET, AF_INET6].includes(family)) {
    return `a socket of address family ${family}, expected an internet or a unix one`;
  }
}

/** Binds a listener, and finds which of the descriptors is new, and its own. */
function observeBy<L extends AnyListener>(libc: Libc, listen: () => L): Observed<L> {
  const before = new Set(descriptors().map(({ target }) => target));
  const listener = listen();
  return { listener, fd: descriptorOf(libc, listener, before) };
}

/** The descriptor of a listener, which is none of those that point to `others`. */
function descriptorOf(
  libc: Libc,
  listener: AnyListener,
  others: Set<string> = new Set(),
): number | undefined {
  const addr = listener.addr as Deno.NetAddr | { path: string | null };
  const own = (address: string) => {
    if (!("path" in addr)) return address === formatTcp(addr);
    // An abstract name, of which there is one more since.
    return addr.path === null ? address.startsWith("unix://@") : address === formatUnix(addr.path);
  };
  return descriptors().find(({ fd, target }) =>
    target.startsWith("socket:") && !others.has(target) &&
    !listeningProblem(libc, fd) && own(libc.nameOf(fd).address)
  )?.fd;
}
