/**
 * What the daemon needs of the runtime and Deno either has without documenting it or does not have:
 * serving HTTP on a connection, and sockets that somebody else has made. And what differs between the
 * releases it runs on. All of it is here, but for where a request has its signal (router.ts), so that a
 * Deno that changes any of it breaks one file, and tests/runtime_test.ts says which part.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine.ts";

/** The oldest Deno that the daemon was seen to serve on. */
export const OLDEST_DENO = "2.2.0";

/** Whether a Deno, by default this one, is of that release or a newer one. */
export function denoIsFrom(release: string, version = Deno.version.deno): boolean {
  // A canary's has a + and its commit behind the numbers.
  const numbers = (text: string) => text.split(/[-+]/, 1)[0].split(".").map(Number);
  const [wanted, given] = [numbers(release), numbers(version)];
  const different = wanted.findIndex((number, i) => number !== given[i]);
  return different === -1 || given[different] > wanted[different];
}

/**
 * Whether an answer can begin before the request's body has ended. From 2.8.3 to 2.9.5 both stall then
 * (denoland/deno issue 36624), here and with `Deno.serve`.
 */
export function answersEarly(version = Deno.version.deno): boolean {
  return !denoIsFrom("2.8.3", version) || denoIsFrom("2.9.6", version);
}

/**
 * Whether this Deno knows abstract names of unix sockets (unix(7)). Before 2.8.3 it does not tell the name
 * of a listener that has one, and can bind and send no datagrams with one.
 */
export function knowsAbstractNames(version = Deno.version.deno): boolean {
  return denoIsFrom("2.8.3", version);
}

/** Whether to close a connection ends it even if a read is pending. With 2.8.3 its client hears of nothing. */
export function closeEndsReads(version = Deno.version.deno): boolean {
  return version !== "2.8.3";
}

/** Whether modules of type "text" can be imported, of which the profiler's page is made. */
export function importsText(version = Deno.version.deno): boolean {
  return denoIsFrom("2.8.0", version);
}

/**
 * Makes sure that this Deno can load the profiler.
 *
 * @throws {Error} If it cannot.
 */
export function requireProfiler(version = Deno.version.deno): void {
  if (!importsText(version)) {
    throw new Error(`Deno ${version} cannot load the profiler, expected Deno 2.8.0 or newer`);
  }
}

/** What an operator should know of this Deno, if anything. */
export function runtimeFault(version = Deno.version.deno): string | undefined {
  if (!denoIsFrom(OLDEST_DENO, version)) {
    return `Deno ${version} is untested, expected ${OLDEST_DENO} or newer`;
  }
  if (!answersEarly(version)) {
    return `Deno ${version} stalls where an answer begins before the request's body has ended, expected 2.9.6`;
  }
}

/** A connection that is being served. */
export interface Served {
  /** Resolves when it has ended, rejects if it ended badly. */
  readonly finished: Promise<void>;
  /** Ends it once its answers are sent: at once where there are none. */
  shutdown(): Promise<void>;
}
/** What the server tells of a request besides itself. */
export interface ServedInfo {
  /** Resolves when the answer is complete, rejects if the client left before. */
  readonly completed: Promise<void>;
}
/** Serves HTTP on a connection. */
export type Serve<Info extends ServedInfo = ServedInfo> = (
  connection: Deno.Conn,
  // Of an AbortSignal only this is called, so each connection is spared the real thing.
  signal: { addEventListener(type: "abort", listener: () => void): void },
  handler: (request: Request, info: Info) => Response | Promise<Response>,
  onError: (error: unknown) => Response,
  onListen: () => void,
) => Served;

/**
 * The native HTTP loop for one connection. Deno's own tests use it, its documentation does not name
 * it; there is no other way to serve a connection at the speed of `Deno.serve`.
 *
 * @throws {Error} If this Deno has none.
 */
export function nativeServe(): Serve {
  const deno = Deno as unknown as { internal: symbol } & Record<symbol, Record<string, unknown>>;
  const serve = deno[deno.internal]?.serveHttpOnConnection;
  if (typeof serve !== "function") {
    throw new Error(
      `Deno ${Deno.version.deno} cannot serve HTTP on a connection, expected Deno ${OLDEST_DENO} or newer`,
    );
  }
  return serve as Serve;
}

/** What the runtime keeps in its objects, under symbols that are known by their descriptions. */
type Innards = Record<symbol, unknown>;
/** Those symbols, once looked for: they are the same in all objects of a class. */
const symbols: Record<"request" | "response" | "lazy static body", symbol | undefined> = {
  "request": undefined,
  "response": undefined,
  "lazy static body": undefined,
};

function innardOf(object: Request | Response, name: keyof typeof symbols): unknown {
  const symbol = symbols[name] ??=
    Object.getOwnPropertySymbols(object).find(({ description }) => description === name) ??
      Symbol(name);
  return (object as unknown as Innards)[symbol];
}

/**
 * One header of a request that the native loop has made. To look at `request.headers` makes the loop
 * copy them all and answer by way of a promise, which is a sixth of all that a small request takes;
 * Deno from 2.8.3 on can be asked for just one.
 *
 * @param name In lower case.
 */
export function headerOf(request: Request, name: string): string | null {
  const inner = innardOf(request, "request") as { header?: unknown } | undefined;
  return typeof inner?.header === "function" ? inner.header(name) : request.headers.get(name);
}

/** The longest answer that the buffers of a socket take at once, whatever its client does, in bytes. */
const SMALL = 65_536;

/**
 * How it can be known when a client has taken an answer. A `small` one counts as taken when it is given.
 * Of a `stream` {@linkcode ServedInfo.completed} tells. A `long` one is given to the native loop whole,
 * and nothing tells.
 */
export function bodyKind(response: Response): "small" | "stream" | "long" {
  const inner = innardOf(response, "response") as {
    body?: { streamOrStatic?: { body?: unknown } } | null;
  } | undefined;
  const held = inner?.body?.streamOrStatic;
  const body = innardOf(response, "lazy static body") ?? held?.body;
  // A unit of a text is at most three bytes.
  if (typeof body === "string") return body.length <= SMALL / 3 ? "small" : "long";
  if (body instanceof Uint8Array) return body.length <= SMALL ? "small" : "long";
  if (held instanceof ReadableStream) return "stream";
  // To look at a body makes a stream of it, where there is one.
  return inner?.body === null && response.body === null ? "small" : "long";
}

const legacyAbort = "Deno.serve: request.signal aborts on successful responses";
let silenced = false;

/**
 * Deno warns, once a process, that a request's signal aborts after a complete answer as well. Here
 * nobody is misled by that, and a user who never called Deno.serve would be puzzled.
 */
export function silenceLegacyAbort(): void {
  if (silenced) return;
  silenced = true;
  const { warn } = console;
  const filter = (...args: unknown[]) => {
    if (!String(args[0]).startsWith(legacyAbort)) return warn.apply(console, args);
    if (console.warn === filter) console.warn = warn;
  };
  console.warn = filter;
}

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
  const fd = libc.descriptorOf(listener);
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
  const problem = libc.listeningProblem(fd);
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
  const { listener, fd: own } = libc.observe(listen);
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
  return libc.observe(listen);
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

/** Why foreign functions cannot be called, if they cannot. Asks nobody. */
export function foreignFunctionsProblem(): string | undefined {
  if (Deno.build.os !== "linux") return `this works on Linux, not on ${Deno.build.os}`;
  if (Deno.permissions.querySync({ name: "ffi" }).state !== "granted") {
    return "this needs the permission --allow-ffi";
  }
}

/**
 * Why the process's descriptors cannot be looked at, if they cannot. They are listed in /proc, which Deno
 * lets nobody read who may not do everything. Asks nobody.
 */
export function descriptorsProblem(): string | undefined {
  const problem = foreignFunctionsProblem();
  if (problem) return problem;
  const missing = "this needs all permissions, --allow-all: to look into /proc";
  if (Deno.permissions.querySync({ name: "read" }).state !== "granted") return missing;
  try {
    // Deno before 2.8.3 lets anyone look at what is there, and nobody else read it.
    Deno.readTextFileSync(LIMITS);
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) return missing;
    return `this needs /proc: ${messageOf(error)}`;
  }
}

/**
 * Makes sure that sockets which somebody else has made can be looked at and listened on.
 *
 * @throws {TypedError} ("bad parameter") If this process may not do so.
 */
export function requireDescriptors(): void {
  const problem = descriptorsProblem();
  if (problem) throw new TypedError("bad parameter", problem);
}

/** The process's descriptors, by their numbers (proc_pid_fd(5)). */
export const DESCRIPTORS = "/proc/self/fd";
const LIMITS = "/proc/self/limits";

/** How many descriptors the process may have; undefined where {@linkcode descriptorsProblem} is. */
export function descriptorLimit(): number | undefined {
  if (descriptorsProblem()) return undefined;
  const [, soft] = /^Max open files +(\d+)/m.exec(Deno.readTextFileSync(LIMITS)) ?? [];
  return soft === undefined ? undefined : Number(soft);
}

/** A variable of the environment, where we may look: nobody should be asked for the permission. */
export function permittedEnv(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) : undefined;
}

/** A registration of a descriptor with an epoll instance: epoll_event of epoll_ctl(2). */
interface Watch {
  epoll: number;
  events: number;
  data: bigint;
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

/** The process's descriptors and where they point; not that of the listing itself. */
function descriptors(): { fd: number; target: string }[] {
  return [...Deno.readDirSync(DESCRIPTORS)].flatMap(({ name }) => {
    try {
      return [{ fd: Number(name), target: Deno.readLinkSync(`${DESCRIPTORS}/${name}`) }];
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return [];
      throw error;
    }
  });
}

const AF_UNIX = 1;
const AF_INET = 2;
const AF_INET6 = 10;
const SOL_SOCKET = 1;
const SO_TYPE = 3;
const SO_ACCEPTCONN = 30;
const SOCK_STREAM = 1;
const SHUT_RDWR = 2;
const EPOLL_CTL_ADD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4_000;
const O_CLOEXEC = 0o2_000_000;
const CLOCK_MONOTONIC = 1;
/** sockaddr_un, the longest of the addresses here. */
const SOCKADDR_LENGTH = 110;

/**
 * An int that Deno takes for a structure with an int in it. To the C library they are the same (the ABIs of
 * x86-64 and AArch64 pass both in one register), and to Deno not: for functions of mere numbers it loads a
 * compiler and makes machine code of its own, which takes 3 ms and 2.5 MiB, for a handful of calls.
 */
const INT = { struct: ["i32"] } as const;
const int = (value: number) => Int32Array.of(value);

const SYMBOLS = {
  listen: { parameters: [INT, "i32"], result: "i32" },
  close: { parameters: [INT], result: "i32" },
  dup3: { parameters: [INT, "i32", "i32"], result: "i32" },
  fcntl: { parameters: [INT, "i32", "i32"], result: "i32" },
  shutdown: { parameters: [INT, "i32"], result: "i32" },
  getsockname: { parameters: [INT, "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: [INT, "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: [INT, "i32", "i32", "buffer", "buffer"], result: "i32" },
  epoll_ctl: { parameters: [INT, "i32", "i32", "buffer"], result: "i32" },
  clock_gettime: { parameters: [INT, "buffer"], result: "i32" },
} as const;

/** The C library's calls, for as long as they are needed. */
class Libc {
  // Every Deno for Linux is linked with this one.
  #library = Deno.dlopen("libc.so.6", SYMBOLS);

  listen(fd: number, backlog: number): void {
    this.#library.symbols.listen(int(fd), backlog);
  }
  close(fd: number): void {
    this.#library.symbols.close(int(fd));
  }
  closeOnExec(fd: number): void {
    this.#library.symbols.fcntl(int(fd), F_SETFD, FD_CLOEXEC);
  }
  /** Puts a socket in the place of another, which is closed by that. */
  replace(fd: number, by: number): void {
    const { dup3, fcntl } = this.#library.symbols;
    if (dup3(int(by), fd, O_CLOEXEC) < 0) throw new Error("dup3 failed");
    fcntl(int(fd), F_SETFL, fcntl(int(fd), F_GETFL, 0) | O_NONBLOCK);
  }
  /** Whether an epoll instance took a descriptor. */
  watch({ epoll, events, data }: Watch, fd: number): boolean {
    // struct epoll_event is packed on x86-64, and on no other architecture.
    const offset = Deno.build.arch === "x86_64" ? 4 : 8;
    const event = new DataView(new ArrayBuffer(offset + 8));
    event.setUint32(0, events, true);
    event.setBigUint64(offset, data, true);
    return this.#library.symbols.epoll_ctl(int(epoll), EPOLL_CTL_ADD, fd, event) === 0;
  }
  monotonic(): bigint {
    const time = new BigInt64Array(2);
    this.#library.symbols.clock_gettime(int(CLOCK_MONOTONIC), time);
    return time[0] * 1_000_000n + time[1] / 1_000n;
  }
  /** What keeps a descriptor from being a socket to accept from, if anything. */
  listeningProblem(fd: number): string | undefined {
    const type = this.#option(fd, SO_TYPE);
    if (type === undefined) return "not open, or no socket";
    if (type !== SOCK_STREAM || this.#option(fd, SO_ACCEPTCONN) !== 1) {
      return "not a listening stream socket";
    }
    const { family } = this.nameOf(fd);
    if (![AF_UNIX, AF_INET, AF_INET6].includes(family)) {
      return `a socket of address family ${family}, expected an internet or a unix one`;
    }
  }
  /** Binds a listener, and finds which of the descriptors is new, and its own. */
  observe<L extends AnyListener>(listen: () => L): Observed<L> {
    const before = new Set(descriptors().map(({ target }) => target));
    const listener = listen();
    return { listener, fd: this.descriptorOf(listener, before) };
  }
  /** The descriptor of a listener, which is none of those that point to `others`. */
  descriptorOf(listener: AnyListener, others: Set<string> = new Set()): number | undefined {
    const addr = listener.addr as Deno.NetAddr | { path: string | null };
    const own = (address: string) => {
      if (!("path" in addr)) return address === formatTcp(addr);
      // An abstract name, of which there is one more since.
      return addr.path === null
        ? address.startsWith("unix://@")
        : address === formatUnix(addr.path);
    };
    return descriptors().find(({ fd, target }) =>
      target.startsWith("socket:") && !others.has(target) &&
      !this.listeningProblem(fd) && own(this.nameOf(fd).address)
    )?.fd;
  }
  shutdown(fd: number): void {
    this.#library.symbols.shutdown(int(fd), SHUT_RDWR);
  }
  /** The port of a tcp socket's other end, if it is one and has one. */
  peerPortOf(fd: number): number | undefined {
    const name = this.#name("getpeername", fd);
    return name && name.getUint16(0, true) !== AF_UNIX ? name.getUint16(2) : undefined;
  }
  /** The address of a socket's other end, if it is a socket and has one. */
  peerOf(fd: number): string | undefined {
    const name = this.#name("getpeername", fd);
    return name && this.#address(name).address;
  }
  /** The family and address of a socket. */
  nameOf(fd: number): { family: number; address: string } {
    const name = this.#name("getsockname", fd);
    if (name === undefined) throw new Error(`getsockname of descriptor ${fd} failed`);
    return this.#address(name);
  }
  #name(call: "getsockname" | "getpeername", fd: number): DataView | undefined {
    const name = new Uint8Array(SOCKADDR_LENGTH);
    const length = new Uint32Array([SOCKADDR_LENGTH]);
    if (this.#library.symbols[call](int(fd), name, length) !== 0) return undefined;
    return new DataView(name.buffer, 0, Math.min(length[0], SOCKADDR_LENGTH));
  }
  #address(name: DataView): { family: number; address: string } {
    const family = name.getUint16(0, true);
    const bytes = new Uint8Array(name.buffer, 0, name.byteLength);
    switch (family) {
      case AF_INET: {
        const hostname = bytes.subarray(4, 8).join(".");
        return { family, address: formatTcp({ hostname, port: name.getUint16(2) }) };
      }
      case AF_INET6: {
        const groups = Array.from({ length: 8 }, (_, i) => name.getUint16(8 + 2 * i).toString(16));
        return {
          family,
          address: formatTcp({ hostname: groups.join(":"), port: name.getUint16(2) }),
        };
      }
      default: {
        const path = new TextDecoder().decode(bytes.subarray(2));
        return { family, address: formatUnix(path) };
      }
    }
  }
  [Symbol.dispose](): void {
    this.#library.close();
  }

  #option(fd: number, option: number): number | undefined {
    const value = new Int32Array(1);
    const length = new Uint32Array([value.byteLength]);
    const result = this.#library.symbols.getsockopt(int(fd), SOL_SOCKET, option, value, length);
    return result === 0 ? value[0] : undefined;
  }
}

/** Where a listener is bound that is about to {@linkcode adopt} another socket. */
export const ANYWHERE = { hostname: "127.0.0.1", port: 0 };

/** The path of a unix socket as `unix:///path`, or `unix://@name` for an abstract name (unix(7)). */
function formatUnix(path: string): string {
  // Only an abstract name begins with a zero byte, and it may have more of them; a path ends with one.
  const name = path.startsWith("\0") ? path.replaceAll("\0", "@") : path.replace(/\0.*/s, "");
  return `unix://${name}`;
}

/** An internet address as `tcp://HOST:PORT`, an IPv6 host in its short form. */
export function formatTcp({ hostname, port }: { hostname: string; port: number }): string {
  const host = hostname.includes(":") ? new URL(`http://[${hostname}]`).hostname : hostname;
  return `tcp://${host}:${port}`;
}
