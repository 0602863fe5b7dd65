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
  Libc,
  SO_ACCEPTCONN,
  SO_TYPE,
  SOCK_STREAM,
  type Watch,
} from "./libc.ts";
import { BACKLOG, formatTcp, formatUnix } from "./net.ts";

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
  readonly fd?: number | undefined;
}

/**
 * Lets the kernel queue as many clients of a unix listener as it can (net.core.somaxconn, 4 096 on
 * most systems) in place of the 1 024 that Deno asks for and offers no option about: past the queue
 * a client that does not block is refused with EAGAIN. listen(2) on a socket that listens already
 * changes nothing but that number. Only where foreign functions are allowed, and no prompt asks.
 */
export function deepenQueue(listener: Deno.UnixListener): void {
  if (descriptorsProblem()) return;
  using libc = new Libc();
  const fd = descriptorOf(libc, listener);
  if (fd !== undefined) libc.listen(fd, BACKLOG);
}

/** As Go does it for every listener: a client that has vanished is found out after 2.5 minutes. */
const KEEP_ALIVE = { idle: 15, interval: 15, count: 9 };

/**
 * Lets the kernel find out which clients have vanished: without that, one that sends nothing and
 * says no goodbye stays for ever. And lets it send at once what is written: without that, what
 * comes after the first part of an answer, which over TLS is its body, waits for the client's
 * kernel to acknowledge that part, which it does after 40 ms. Only where this process may look for
 * the sockets, and no prompt asks. It takes some milliseconds.
 *
 * @param ports Those of tcp listeners. What was accepted there is found as well, and what is
 * accepted from now on has the listener's options.
 */
export function setTcpOptions(ports: ReadonlySet<number>): void {
  if (ports.size === 0 || descriptorsProblem()) return;
  using libc = new Libc();
  const { idle, interval, count } = KEEP_ALIVE;
  for (const { name } of Deno.readDirSync(DESCRIPTORS)) {
    const fd = Number(name);
    if (!ports.has(libc.portOf(fd) ?? -1)) continue;
    libc.keepAlive(fd, idle, interval, count);
    libc.noDelay(fd);
  }
}

/**
 * What a descriptor that this process was started with is.
 *
 * @throws {TypedError} ("bad parameter") If it is not a listening stream socket of a kind that can
 * be served, or this process may not look.
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
 * Makes a listener that was just bound listen on another socket instead, of the same kind, and lets
 * go of its own. Deno can make no listener of a descriptor (denoland/deno issue 14006); what it can
 * make is put behind one of its own by dup3(2). The event loop, which watches the old socket, has
 * to be told: epoll forgets a socket that is closed, so the new one is registered under the same
 * token.
 *
 * @param listen Binds a listener for a moment, anywhere, of the kind of the socket.
 * @param fd The socket to listen on. It stays open, and may be closed.
 * @returns The listener, whose `addr` is still that of its own socket, and its new descriptor.
 * @throws {TypedError} ("bad parameter") If this process may not do so; {Error} if this Deno is
 * made differently. The listener is closed then.
 */
export function adopt<L extends AnyListener>(listen: () => L, fd: number): Required<Observed<L>> {
  requireDescriptors();
  using libc = new Libc();
  const { listener, fd: own } = observeBy(libc, listen);
  try {
    if (own === undefined) throw new Error("its descriptor was not found");
    putBehind(libc, own, fd);
    adopted.set(listener, own);
    return { listener, fd: own };
  } catch (error) {
    listener.close();
    throw new Error(
      `Deno ${Deno.version.deno} cannot listen on a given socket: ${messageOf(error)}`,
      { cause: error },
    );
  }
}

/** Puts a socket in the place of one that Deno has made, which is closed by that. */
function putBehind(libc: Libc, own: number, fd: number): void {
  const watches = watchesOf(own);
  libc.replace(own, fd);
  // An epoll instance can be known by several descriptors; the first that takes it is enough.
  if (!watches.some((watch) => libc.watch(watch, own))) {
    throw new Error("the event loop does not watch it with epoll");
  }
}

/**
 * Makes a connection of a connected socket, as {@linkcode adopt} makes a listener of a listening
 * one.
 *
 * @param fd The socket, of tcp or unix. It stays open, and may be closed.
 * @param remoteAddr Where the client is, if that is not where the socket leads.
 * @throws {Error} If this Deno is made differently, or the socket is not connected any more.
 */
export async function adoptConnection(fd: number, remoteAddr?: Deno.NetAddr): Promise<Deno.Conn> {
  requireDescriptors();
  using libc = new Libc();
  const peer = libc.peerOf(fd);
  if (peer === undefined) throw new Error("the client has left");
  const unix = libc.nameOf(fd).family === AF_UNIX;
  const { conn, own, client } = await (unix ? unixConnection(libc) : tcpConnection(libc));
  // The other end is closed last: the event loop would take its end for that of the socket.
  using _ = client;
  try {
    if (own === undefined) throw new Error("its descriptor was not found");
    putBehind(libc, own, fd);
  } catch (error) {
    conn.close();
    throw error;
  }
  const value = remoteAddr ?? (unix ? undefined : tcpAddress(peer));
  if (value) Object.defineProperty(conn, "remoteAddr", { value });
  return conn;
}

function tcpAddress(text: string): Deno.NetAddr {
  const [, hostname, port] = /^tcp:\/\/\[?(.*?)\]?:(\d+)$/.exec(text)!;
  return { transport: "tcp", hostname: hostname!, port: Number(port) };
}

/**
 * A pair of connected sockets: a connection, and the descriptor of its other end, which is the
 * caller's to close.
 */
export async function connectedPair(): Promise<{ conn: Deno.Conn; fd: number }> {
  requireDescriptors();
  using libc = new Libc();
  const [own, fd] = libc.socketPair();
  try {
    return { conn: await adoptConnection(own), fd };
  } catch (error) {
    libc.close(fd);
    throw error;
  } finally {
    libc.close(own);
  }
}

/** Both ends of a connection of our own, and the descriptor of the accepted one. */
interface Connected {
  conn: Deno.Conn;
  client: Deno.Conn;
  own?: number | undefined;
}

async function tcpConnection(libc: Libc): Promise<Connected> {
  using listener = Deno.listen(ANYWHERE);
  const { hostname, port } = listener.addr;
  const client = await Deno.connect({ hostname, port });
  const conn = await listener.accept();
  const name = formatTcp(client.localAddr);
  return { conn, client, own: connectionOf((fd) => libc.peerOf(fd) === name) };
}

async function unixConnection(libc: Libc): Promise<Connected> {
  const path = abstractName();
  using listener = Deno.listen({ transport: "unix", path });
  const client = await Deno.connect({ transport: "unix", path });
  const conn = await listener.accept();
  const name = formatUnix(path);
  const own = connectionOf((fd) =>
    libc.option(fd, SO_ACCEPTCONN) === 0 && libc.nameOf(fd).address === name
  );
  return { conn, client, own };
}

function connectionOf(fits: (fd: number) => boolean): number | undefined {
  return descriptors().find(({ fd, target }) => target.startsWith("socket:") && fits(fd))?.fd;
}

/** A name for a unix socket that no other process has, and that is in no folder (unix(7)). */
function abstractName(): string {
  return `\0floodgate-${crypto.randomUUID()}`;
}

/** Listens where no client comes, to {@linkcode adopt} another unix socket. */
export function listenAbstract(): Deno.UnixListener {
  return Deno.listen({ transport: "unix", path: abstractName() });
}

/** Binds a listener, and finds its descriptor where that can be had. */
export function observe<L extends AnyListener>(listen: () => L): Observed<L> {
  if (descriptorsProblem()) return { listener: listen() };
  using libc = new Libc();
  return observeBy(libc, listen);
}

/**
 * The descriptors of connections, by the addresses of both their ends as {@linkcode endsOf} tells
 * them; of unix connections, whose clients have no names, by that of the socket they came to.
 */
export function connectionDescriptors(): Map<string, number[]> {
  using libc = new Libc();
  const found = new Map<string, number[]>();
  for (const { fd, target } of descriptors()) {
    if (!target.startsWith("socket:") || libc.option(fd, SO_ACCEPTCONN) !== 0) continue;
    const { family, address } = libc.nameOf(fd);
    const ends = family === AF_UNIX ? address : `${address} ${libc.peerOf(fd)}`;
    const others = found.get(ends);
    if (others) others.push(fd);
    else found.set(ends, [fd]);
  }
  return found;
}

/**
 * Closes this process's copies of connections that another process has received. `close()` alone
 * would shut them down for both processes: Deno calls shutdown(2) first.
 *
 * @param fds Their descriptors, in any order.
 */
export function closeCopies(conns: readonly Deno.Conn[], fds: readonly number[]): void {
  const known = new Set(descriptors().map(({ fd }) => fd));
  using _nothing = Deno.openSync("/dev/null");
  const by = descriptors().find(({ fd, target }) => target === "/dev/null" && !known.has(fd))?.fd;
  if (by === undefined) throw new Error("the descriptor of /dev/null was not found");
  using libc = new Libc();
  for (const fd of fds) libc.replace(fd, by);
  for (const conn of conns) conn.close();
}

/** The descriptors of listeners that have another's socket behind them. */
const adopted = new WeakMap<object, number>();

/** The descriptor of a listener; undefined where it cannot be had. */
export function descriptorOfListener(listener: Pick<AnyListener, "addr">): number | undefined {
  const known = adopted.get(listener);
  if (known !== undefined || descriptorsProblem()) return known;
  using libc = new Libc();
  return descriptorOf(libc, listener);
}

/** Keeps descriptors that Deno did not open from the programs that this process starts. */
export function closeOnExec(descriptors: readonly number[]): void {
  if (foreignFunctionsProblem()) return; // Then nothing can be done with them here, either.
  using libc = new Libc();
  for (const fd of descriptors) libc.closeOnExec(fd);
}

/** Closes a descriptor that Deno did not open. */
export function closeDescriptor(fd: number): void {
  using libc = new Libc();
  libc.close(fd);
}

/** A connection's key in a table: the addresses of both its ends. */
export function endsOf(
  { localAddr, remoteAddr }: Pick<Deno.Conn, "localAddr" | "remoteAddr">,
): string {
  if (localAddr.transport === "unix") return formatUnix(localAddr.path);
  return `${formatTcp(localAddr as Deno.NetAddr)} ${formatTcp(remoteAddr as Deno.NetAddr)}`;
}

/** The same of a descriptor; undefined if it is no connection's. */
export function endsAt(fd: number): string | undefined {
  using libc = new Libc();
  const peer = libc.peerOf(fd);
  return peer && `${libc.nameOf(fd).address} ${peer}`;
}

/**
 * Ends tcp connections by shutdown(2), also those whose `Deno.Conn` other code has. Without the
 * permissions for that it does nothing.
 *
 * @param ends Their addresses, as {@linkcode endsOf} writes them.
 */
export function shutConnections(ends: ReadonlySet<string>): void {
  if (descriptorsProblem()) return;
  using libc = new Libc();
  const ports = new Set([...ends].map((each) => Number(each.slice(each.lastIndexOf(":") + 1))));
  for (const { name } of Deno.readDirSync(DESCRIPTORS)) {
    const fd = Number(name);
    // Of thousands of descriptors, the ports are compared first: to write out an address takes
    // longer.
    if (!ports.has(libc.peerPortOf(fd) ?? -1)) continue;
    if (ends.has(`${libc.nameOf(fd).address} ${libc.peerOf(fd)}`)) libc.shutdown(fd);
  }
}

/** CLOCK_MONOTONIC in microseconds, systemd's clock; undefined without foreign functions. */
export function monotonicMicroseconds(): bigint | undefined {
  if (foreignFunctionsProblem()) return undefined;
  using libc = new Libc();
  return libc.monotonic();
}

/** The epoll instances that watch a descriptor, from proc_pid_fdinfo(5). */
function watchesOf(fd: number): Watch[] {
  const row = new RegExp(`^tfd: *${fd} events: *([\\da-f]+) data: *([\\da-f]+)`, "m");
  return descriptors().filter(({ target }) => target === "anon_inode:[eventpoll]")
    .flatMap(({ fd: epoll }) => {
      const match = row.exec(Deno.readTextFileSync(`/proc/self/fdinfo/${epoll}`));
      if (!match) return [];
      return [{ epoll, events: parseInt(match[1]!, 16), data: BigInt(`0x${match[2]}`) }];
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
  listener: Pick<AnyListener, "addr">,
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
