/**
 * Looking at what a connection's client has sent without taking it, and taking a connection back
 * from the native HTTP loop. Both need the connection's descriptor, which Deno tells of a tcp
 * connection, without documenting it, and of a unix one does not. A Deno that changes any of this
 * breaks this file, and tests/platform/peek_test.ts says which part.
 *
 * @module
 */

import { DESCRIPTORS, descriptorsProblem } from "./descriptors.ts";
import { closeDescriptor, endsAt, endsOf } from "./sockets.ts";

/** The part of Deno's core that is needed here. */
interface Core {
  internalRidSymbol: symbol;
  internalFdSymbol: symbol;
  read(resource: number, buffer: Uint8Array): Promise<number>;
  write(resource: number, bytes: Uint8Array): Promise<number>;
  shutdown(resource: number): Promise<void>;
  close(resource: number): void;
}
const deno = Deno as unknown as { internal: symbol } & Record<symbol, { core?: Core }>;
const core = deno[deno.internal]?.core as Core;

/** What is read from, written to and closed; every `Deno.Conn` is one. */
export type Stream = Pick<Deno.Conn, "read" | "write" | "closeWrite" | "close">;

// By numbers, and not as in libc.ts: each connection takes some of these calls, and the machine
// code that Deno makes for them is worth its 3 ms.
const SYMBOLS = {
  recv: { parameters: ["i32", "pointer", "usize", "i32"], result: "i32" },
  poll: { parameters: ["pointer", "usize", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getsockname: { parameters: ["i32", "pointer", "pointer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "pointer", "pointer"], result: "i32" },
} as const;
/** Memory that the C library is told of. */
interface Memory {
  /** Kept, because a call with a buffer, which is looked up each time, takes twice as long. */
  readonly pointer: Deno.PointerValue;
  /** A call with a number takes half as long again. */
  readonly length: bigint;
}
function memoryOf(bytes: Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): Memory {
  return { pointer: Deno.UnsafePointer.of(bytes), length: BigInt(bytes.byteLength) };
}

/**
 * The library, and memory for what it tells. Of buffers, because V8 moves small arrays that have
 * none.
 */
class Libc {
  readonly #calls = Deno.dlopen("libc.so.6", SYMBOLS).symbols;
  readonly #numbers = new Uint32Array(new ArrayBuffer(8));
  readonly #length = new Uint32Array(new ArrayBuffer(4));
  readonly #name = new Uint8Array(new ArrayBuffer(SOCKADDR_UN));
  readonly #numbersAt = memoryOf(this.#numbers).pointer;
  readonly #lengthAt = memoryOf(this.#length).pointer;
  readonly #nameAt = memoryOf(this.#name).pointer;

  /** The number that the kernel gave a socket; 0 if it is none. */
  cookieOf(fd: number): number {
    if (!this.#option(fd, SO_COOKIE, 8)) return 0;
    return this.#numbers[0]! + this.#numbers[1]! * 2 ** 32;
  }
  listens(fd: number): boolean {
    return this.#option(fd, SO_ACCEPTCONN, 4) && this.#numbers[0] !== 0;
  }
  /** Reads an option of a socket, of so many bytes. False if the descriptor is no socket. */
  #option(fd: number, option: number, size: number): boolean {
    this.#length[0] = size;
    return this.#calls.getsockopt(fd, SOL_SOCKET, option, this.#numbersAt, this.#lengthAt) === 0;
  }
  /** Whether a descriptor is that of a socket with this name. */
  isNamed(fd: number, name: Uint8Array): boolean {
    this.#length[0] = SOCKADDR_UN;
    if (this.#calls.getsockname(fd, this.#nameAt, this.#lengthAt) !== 0) return false;
    if (this.#length[0] !== name.length) return false;
    for (let i = 0; i < name.length; i++) if (this.#name[i] !== name[i]) return false;
    return true;
  }
  isOpen(fd: number): boolean {
    return this.#calls.fcntl(fd, F_GETFD, 0) >= 0;
  }
  /** Another descriptor of the same; below 0 if there are none left. */
  duplicate(fd: number): number {
    return this.#calls.fcntl(fd, F_DUPFD_CLOEXEC, 0);
  }
  peek(fd: number, { pointer, length }: Memory): number {
    return this.#calls.recv(fd, pointer, length, MSG_PEEK | MSG_DONTWAIT);
  }
  /** Whether the other end of a socket sends no more, whatever is still to be read. */
  hasEnded(fd: number): boolean {
    // struct pollfd: an int, and two shorts, of which the second is the result.
    this.#numbers[0] = fd;
    this.#numbers[1] = POLLRDHUP;
    return this.#calls.poll(this.#numbersAt, 1n, 0) > 0;
  }
}
let library: Libc | undefined;
const libc = () => library ??= new Libc();

const MSG_PEEK = 0x02;
const MSG_DONTWAIT = 0x40;
/** Its neighbours POLLERR and POLLHUP are told without being asked for (poll(2)). */
const POLLRDHUP = 0x2000;
const F_GETFD = 1;
const F_DUPFD_CLOEXEC = 1030;
const SOL_SOCKET = 1;
const SO_ACCEPTCONN = 30;
const SO_COOKIE = 57;
const AF_UNIX = 1;
/** Where sun_path is in sockaddr_un, and how long that is (unix(7)). */
const SUN_PATH = 2;
const SOCKADDR_UN = 110;

/** Why this process cannot look at what its clients send, if it cannot. Asks for no permission. */
export function peekProblem(): string | undefined {
  return descriptorsProblem() ??
    (core?.internalFdSymbol && core.internalRidSymbol
      ? undefined
      : `Deno ${Deno.version.deno} does not tell the descriptors of connections`);
}

/** Whether there is what {@linkcode peek} needs: to load it takes a descriptor. */
export function canPeek(): boolean {
  try {
    libc();
    return true;
  } catch {
    return false;
  }
}

const FOUND = Symbol("descriptor");
const FD = core?.internalFdSymbol;
/** What is known of the descriptor of a connection. */
export interface Descriptor {
  readonly fd: number;
  /** The number that the kernel gave its socket, where that had to be asked for. */
  readonly cookie?: number | undefined;
}

/** The descriptor of a connection; of a unix one, if {@linkcode findDescriptor} has found it. */
export function descriptorOf(conn: Deno.Conn): Descriptor | undefined {
  const known = conn as unknown as Record<symbol, unknown>;
  const fd = known[FD];
  return typeof fd === "number" ? { fd } : known[FOUND] as Descriptor | undefined;
}

/**
 * Finds the descriptor of a unix connection. To be called when it was just accepted, before its
 * listener accepts another. Where there are no descriptors left to look with, it stays unknown. To
 * be called with tcp connections, too, whose descriptors are known and would be guessed at in vain.
 */
export function findDescriptor(conn: Deno.Conn): void {
  const known = descriptorOf(conn);
  if (known) return finder.occupy(known.fd);
  const { path } = conn.localAddr as Deno.UnixAddr;
  if (!path) return;
  try {
    (conn as unknown as Record<symbol, unknown>)[FOUND] = finder.find(path);
  } catch {
    finder.skip();
  }
}

/** Told of the end of a connection whose descriptor was known: it is free for another. */
export function releaseDescriptor(descriptor: Descriptor): void {
  finder.release(descriptor);
}

/**
 * Told of a connection that {@linkcode findDescriptor} is not told of, and may take for another.
 */
export function skipDescriptor(): void {
  finder.skip();
}

/** How the descriptors of unix connections were found, for the tests. */
export function findings(): Readonly<typeof finder.counts> {
  return finder.counts;
}

/** What is thought of a descriptor. */
const OTHER = 0; // It is that of a connection that was found and looked at since, or of something else.
const OPEN = 32; // It is that of a connection. Less by one for each look that it was still the same.
const FREE = 255; // It was that of one that has ended.

/**
 * Finds the descriptors of the connections that unix listeners accept. A descriptor is the lowest
 * number that was free at that time; which one has to be guessed, and a guess can be checked: an
 * accepted socket has the listener's name, and the kernel gives each socket a number that no other
 * ever has (SO_COOKIE of socket(7)). So the one that has the name and was not known is the newest.
 */
class Finder {
  /** The cookies of the sockets that were found, by descriptor; 0 of others. */
  #cookies = new Float64Array(64);
  /** What is thought of each descriptor. */
  #states = new Uint8Array(64);
  #highest = 2;
  /** None below it is free. */
  #lowest = 0;
  /** Behind the last that was found: those of one turn of the event loop ascend. */
  #hand = 0;
  /** Whether the last one was that of a connection of whose end we had not been told. */
  #late = false;
  /** The listeners, by path. */
  #listeners = new Map<string, UnixListener>();
  #last: UnixListener | undefined;
  /**
   * How many were asked for, looks that took, and how often all descriptors were looked through.
   */
  readonly counts = { asked: 0, looks: 0, all: 0 };

  find(path: string): Descriptor | undefined {
    // Most come to the same as the last, and to look it up takes longer than to compare.
    const listener = path === this.#last?.path ? this.#last : this.#last = this.#listenerAt(path);
    const { name } = listener;
    this.counts.asked++;
    const fd = listener.current ? this.#guess(name) : this.#onlyOne(name);
    listener.current = true;
    if (fd === undefined) return undefined;
    this.#hand = fd + 1;
    return { fd, cookie: this.#cookies[fd] };
  }

  #listenerAt(path: string): UnixListener {
    let listener = this.#listeners.get(path);
    if (listener === undefined) {
      this.#listeners.set(path, listener = { path, name: nameOf(path), current: false });
    }
    return listener;
  }

  skip(): void {
    for (const listener of this.#listeners.values()) listener.current = false;
  }

  /** A tcp connection has it, or another one that was found: it is not to be found again. */
  occupy(fd: number, cookie = 0): void {
    this.#set(fd, OTHER, cookie);
  }

  release({ fd, cookie = 0 }: Descriptor): void {
    // Another may have it already, because what has ended is told later than it ends. Or its socket
    // may be open for a while yet, as that of a WebSocket is: it is none that comes later.
    if (this.#cookies[fd] === cookie) this.#set(fd, FREE, cookie);
  }

  #set(fd: number, state: number, cookie: number): void {
    if (fd > this.#highest) this.#highest = fd;
    if (fd >= this.#states.length) this.#grow(2 * fd);
    this.#states[fd] = state;
    this.#cookies[fd] = cookie;
    if (state === FREE && fd < this.#lowest) this.#lowest = fd;
  }
  #grow(length: number): void {
    const [cookies, states] = [this.#cookies, this.#states];
    this.#cookies = new Float64Array(length);
    this.#cookies.set(cookies);
    this.#states = new Uint8Array(length);
    this.#states.set(states);
  }

  #guess(name: Uint8Array): number | undefined {
    const start = this.#hand <= this.#lowestFree() ? this.#hand : 0;
    let found: number | undefined;
    // Under load the word that a connection has ended comes after another has its descriptor.
    if (this.#late) found = this.#reused(name, start, this.#lowest);
    if (found === undefined) {
      found = this.#unused(name);
      this.#late = found === undefined;
      found ??= this.#reused(name, start, this.#lowest) ?? this.#reused(name, 0, start);
    }
    return found ?? this.#any(name) ?? this.#onlyOne(name);
  }

  /** The lowest descriptor that is free, as far as we know. */
  #lowestFree(): number {
    const free = this.#states.indexOf(FREE, this.#lowest);
    return this.#lowest = free < 0 ? this.#highest + 1 : free;
  }

  /** It has the lowest one that was free, which is known. */
  #unused(name: Uint8Array): number | undefined {
    while (true) {
      const fd = this.#lowestFree();
      if (this.#isNew(fd, name)) return fd;
      if (!libc().isOpen(fd)) return undefined;
      this.#set(fd, OTHER, this.#cookies[fd]!);
    }
  }

  /** It has a lower one, of a connection that has ended, which is not known yet. */
  #reused(name: Uint8Array, from: number, to: number): number | undefined {
    for (let fd = from; fd < to; fd++) {
      const state = this.#states[fd]!;
      if (state === OTHER) continue;
      if (this.#isNew(fd, name)) return fd;
      // One that stays is looked at no more, in the end.
      this.#states[fd] = state - 1;
      this.#hand = fd + 1;
    }
  }

  /** It has that of one that had stayed. */
  #any(name: Uint8Array): number | undefined {
    for (let fd = 0; fd <= this.#highest; fd++) {
      if (this.#cookies[fd] !== 0 && this.#isNew(fd, name)) return fd;
    }
  }

  /** The one that is not known, if there is just one. */
  #onlyOne(name: Uint8Array): number | undefined {
    this.counts.all++;
    // Only here can it be the listener's own, which is looked for once and known from then on.
    const found = descriptors().filter((fd) => this.#isNew(fd, name) && !libc().listens(fd));
    return found.length === 1 ? found[0] : undefined;
  }

  /** Whether a descriptor is that of a connection which was not known; it is from now on. */
  #isNew(fd: number, name: Uint8Array): boolean {
    this.counts.looks++;
    const cookie = libc().cookieOf(fd);
    if (cookie === 0 || this.#cookies[fd] === cookie || !libc().isNamed(fd, name)) return false;
    this.#set(fd, OPEN, cookie);
    return true;
  }
}
/** A listener, and whether each of its connections is known. */
interface UnixListener {
  readonly path: string;
  /** Its name, as getsockname(2) gives it. */
  readonly name: Uint8Array;
  current: boolean;
}
const finder = new Finder();

/** The sockaddr_un of a path. An abstract name begins with a zero byte, others end with one. */
function nameOf(path: string): Uint8Array {
  const bytes = new TextEncoder().encode(path.startsWith("\0") ? path : path + "\0");
  const name = new Uint8Array(SUN_PATH + bytes.length);
  new DataView(name.buffer).setUint16(0, AF_UNIX, true);
  name.set(bytes, SUN_PATH);
  return name;
}

function descriptors(): number[] {
  return [...Deno.readDirSync(DESCRIPTORS)].map(({ name }) => Number(name));
}

const EMPTY = new Uint8Array(0);

/**
 * Waits until a client has sent something, or can send no more. Takes nothing.
 *
 * @returns A promise that rejects if the connection is broken or was closed.
 */
export function untilReadable(conn: Deno.Conn): Promise<unknown> {
  return core.read((conn as unknown as { [rid: symbol]: number })[core.internalRidSymbol]!, EMPTY);
}

const windows = new WeakMap<Uint8Array, Memory>();

/**
 * Copies what a client has sent into `window`, and leaves it there for the next read.
 *
 * @returns How many bytes there are; 0 if the client can send no more, below 0 if there are none
 * yet, or the connection is broken.
 */
export function peek(fd: number, window: Uint8Array<ArrayBuffer>): number {
  let memory = windows.get(window);
  if (memory === undefined) windows.set(window, memory = memoryOf(window));
  return libc().peek(fd, memory);
}

/** Whether a client sends no more, though there may be more to read. */
export function hasEnded({ fd }: Descriptor): boolean {
  return libc().hasEnded(fd);
}

/** What node:net's handles can that nothing else can: make a resource of a descriptor. */
interface TcpHandle {
  open(fd: number): number;
  takeStream(): number;
  close(done: () => void): void;
}

/**
 * Another descriptor of a connection's socket, as a stream that lives on when the first is closed.
 *
 * @throws {Error} If the connection has ended, there are no descriptors left, or this Deno has no
 * way to do it.
 */
export function duplicate(conn: Deno.Conn, { fd, cookie }: Descriptor): Stream {
  const copy = libc().duplicate(fd);
  if (copy < 0) throw new Error(`fcntl(${fd}, F_DUPFD_CLOEXEC) failed`);
  // What serves the connection may have closed it, and the next client have its descriptor.
  const same = cookie === undefined
    ? endsAt(copy) === endsOf(conn)
    : libc().cookieOf(copy) === cookie;
  if (!same) {
    closeDescriptor(copy);
    throw new Deno.errors.ConnectionReset("the client has left");
  }
  finder.occupy(copy, cookie);
  const { process } = globalThis as unknown as {
    process: { binding(name: "tcp_wrap"): { TCP: new (type: number) => TcpHandle } };
  };
  const handle = new (process.binding("tcp_wrap").TCP)(0);
  const failure = handle.open(copy);
  if (failure !== 0) throw new Error(`opening descriptor ${copy} failed: ${failure}`);
  const stream = new ResourceStream(handle.takeStream(), { fd: copy, cookie });
  handle.close(() => {}); // It has nothing to close any more, but a place in a table.
  return stream;
}

/** A stream by its resource, as `Deno.Conn` is one. */
class ResourceStream implements Stream {
  readonly #resource: number;
  readonly #descriptor: Descriptor;
  constructor(resource: number, descriptor: Descriptor) {
    this.#resource = resource;
    this.#descriptor = descriptor;
  }
  async read(buffer: Uint8Array): Promise<number | null> {
    return await core.read(this.#resource, buffer) || null;
  }
  write(bytes: Uint8Array): Promise<number> {
    return core.write(this.#resource, bytes);
  }
  closeWrite(): Promise<void> {
    return core.shutdown(this.#resource);
  }
  close(): void {
    core.close(this.#resource);
    releaseDescriptor(this.#descriptor);
  }
}
