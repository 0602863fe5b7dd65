/**
 * Looking at what a connection's client has sent without taking it, and taking a connection back from
 * the native HTTP loop. Both need the connection's descriptor, which Deno tells of a tcp connection,
 * without documenting it, and of a unix one does not. A Deno that changes any of this breaks this
 * file, and tests/platform/peek_test.ts says which part.
 *
 * @module
 */

import { DESCRIPTORS, descriptorsProblem } from "./descriptors.ts";

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

// By numbers, and not as in libc.ts: each connection takes some of these calls, and the machine code that
// Deno makes for them is worth its 3 ms.
const SYMBOLS = {
  recv: { parameters: ["i32", "pointer", "usize", "i32"], result: "i32" },
  fcntl: { parameters: ["i32", "i32", "i32"], result: "i32" },
  getsockname: { parameters: ["i32", "pointer", "pointer"], result: "i32" },
  getsockopt: { parameters: ["i32", "i32", "i32", "pointer", "pointer"], result: "i32" },
} as const;
let library: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;
const libc = () => (library ??= Deno.dlopen("libc.so.6", SYMBOLS)).symbols;
// A pointer that is kept takes half of the time of a buffer, which is looked up at each call.
const pointers = new WeakMap<Uint8Array | Uint32Array, Deno.PointerValue>();
function pointerTo(buffer: Uint8Array<ArrayBuffer> | Uint32Array<ArrayBuffer>): Deno.PointerValue {
  let pointer = pointers.get(buffer);
  if (pointer === undefined) pointers.set(buffer, pointer = Deno.UnsafePointer.of(buffer));
  return pointer;
}

const MSG_PEEK = 0x02;
const MSG_DONTWAIT = 0x40;
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
    return libc() !== undefined;
  } catch {
    return false;
  }
}

const FOUND = Symbol("descriptor");
/** What is known of the descriptor of a connection. */
export interface Descriptor {
  readonly fd: number;
  /** The number that the kernel gave its socket, where that had to be asked for. */
  readonly cookie?: number | undefined;
}

/** The descriptor of a connection; of a unix one, if {@linkcode findDescriptor} has found it. */
export function descriptorOf(conn: Deno.Conn): Descriptor | undefined {
  const known = conn as unknown as Record<symbol, unknown>;
  const fd = known[core.internalFdSymbol];
  return typeof fd === "number" ? { fd } : known[FOUND] as Descriptor | undefined;
}

/**
 * Finds the descriptor of a unix connection. To be called when it was just accepted, before its listener
 * accepts another. Where there are no descriptors left to look with, it stays unknown. To be called with
 * tcp connections, too, whose descriptors are known and would be guessed at in vain.
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

/** Told of a connection that {@linkcode findDescriptor} is not told of, and may take for another. */
export function skipDescriptor(): void {
  finder.skip();
}

/** How the descriptors of unix connections were found, for the tests. */
export function findings(): Readonly<typeof finder.counts> {
  return finder.counts;
}

/**
 * Finds the descriptors of the connections that unix listeners accept. A descriptor is the lowest number
 * that was free at that time; which one has to be guessed, and a guess can be checked: an accepted socket has the
 * listener's name, and the kernel gives each socket a number that no other ever has (SO_COOKIE of
 * socket(7)). So the one that has the name and was not known is the newest.
 */
class Finder {
  /** The cookies of the sockets that were found, by descriptor; first those longest not looked at. */
  #known = new Map<number, number>();
  /** Descriptors of connections that have ended, in order. */
  #free: number[] = [];
  #highest = 2;
  /** Whether the last one was one that had ended. */
  #late = false;
  /** The names of the listeners, as getsockname(2) gives them, by path. */
  #names = new Map<string, Uint8Array>();
  /** Paths of whose connections each that there is is known. */
  #current = new Set<string>();
  /** How often the first guess was right, others were made, and all descriptors were looked through. */
  readonly counts = { first: 0, more: 0, all: 0 };

  find(path: string): Descriptor | undefined {
    let name = this.#names.get(path);
    if (name === undefined) this.#names.set(path, name = nameOf(path));
    const fd = this.#current.has(path) ? this.#guess(name) : this.#onlyOne(name);
    this.#current.add(path);
    if (fd === undefined) return undefined;
    if (fd > this.#highest) this.#highest = fd;
    return { fd, cookie: this.#known.get(fd) };
  }

  skip(): void {
    this.#current.clear();
  }

  /** A tcp connection has it. */
  occupy(fd: number): void {
    if (fd === this.#free[0]) this.#free.shift();
    else if (fd > this.#highest) this.#highest = fd;
  }

  release({ fd, cookie }: Descriptor): void {
    // Another may have it already, because what has ended is told later than it ends.
    if (this.#known.get(fd) !== cookie) return;
    this.#known.delete(fd);
    const free = this.#free;
    let at = free.length;
    while (at > 0 && free[at - 1]! > fd) at--;
    free.splice(at, 0, fd);
    if (free.length > FREE) free.pop();
  }

  #guess(name: Uint8Array): number | undefined {
    // Under load the word that a connection has ended comes after another has its descriptor.
    const first = this.#late ? this.#reused(name, 1) : this.#lowest(name);
    if (first !== undefined) {
      this.counts.first++;
      return first;
    }
    this.counts.more++;
    this.#late = !this.#late;
    const reused = this.#late ? undefined : this.#lowest(name);
    return reused ?? this.#reused(name, TRIES) ?? this.#onlyOne(name);
  }

  /** It has the lowest of those that are free, as far as we know. */
  #lowest(name: Uint8Array): number | undefined {
    for (let i = 0; i < TRIES; i++) {
      const freed = this.#free.length > 0;
      const lowest = this.#free[0] ?? this.#highest + 1;
      const isNew = this.#isNew(lowest, name);
      if (!isNew && !isOpen(lowest)) return undefined;
      // It is this one's, or no connection's.
      if (freed) this.#free.shift();
      else this.#highest = lowest;
      if (isNew) return lowest;
    }
  }

  /** It has that of one that has ended, of which we have not been told yet: most likely of an old one. */
  #reused(name: Uint8Array, tries: number): number | undefined {
    for (const [fd, cookie] of this.#known) {
      if (this.#isNew(fd, name)) return fd;
      // Next time others come first.
      this.#known.delete(fd);
      this.#known.set(fd, cookie);
      if (--tries === 0) return undefined;
    }
  }

  /** The one that is not known, if there is just one. */
  #onlyOne(name: Uint8Array): number | undefined {
    this.counts.all++;
    // Only here can it be the listener's own, which is looked for once and known from then on.
    const found = descriptors().filter((fd) => this.#isNew(fd, name) && !listens(fd));
    this.#free = this.#free.filter((fd) => !found.includes(fd));
    return found.length === 1 ? found[0] : undefined;
  }

  /** Whether a descriptor is that of a connection which was not known; it is from now on. */
  #isNew(fd: number, name: Uint8Array): boolean {
    const cookie = cookieOf(fd);
    if (cookie === undefined || this.#known.get(fd) === cookie || !isNamed(fd, name)) return false;
    this.#known.delete(fd); // To be last.
    this.#known.set(fd, cookie);
    return true;
  }
}
/** How many free descriptors are remembered, and how many guesses are made of a kind. */
const FREE = 1_024;
const TRIES = 6;
const finder = new Finder();

// Of buffers, because V8 moves small arrays that have none of their own.
const numbers = new Uint32Array(new ArrayBuffer(8));
const length = new Uint32Array(new ArrayBuffer(4));
const sockaddr = new Uint8Array(new ArrayBuffer(SOCKADDR_UN));

/** Reads an option of a socket, of so many bytes, into `numbers`. False if the descriptor is no socket. */
function readOption(fd: number, option: number, size: number): boolean {
  length[0] = size;
  return libc().getsockopt(fd, SOL_SOCKET, option, pointerTo(numbers), pointerTo(length)) === 0;
}

/** The number that the kernel gave a socket; undefined if it is none. */
function cookieOf(fd: number): number | undefined {
  return readOption(fd, SO_COOKIE, 8) ? numbers[0]! + numbers[1]! * 2 ** 32 : undefined;
}

function isOpen(fd: number): boolean {
  return libc().fcntl(fd, F_GETFD, 0) >= 0;
}

/** Whether a descriptor is that of a socket with this name. */
function isNamed(fd: number, name: Uint8Array): boolean {
  length[0] = SOCKADDR_UN;
  if (
    libc().getsockname(fd, pointerTo(sockaddr), pointerTo(length)) !== 0 ||
    length[0] !== name.length
  ) return false;
  for (let i = 0; i < name.length; i++) if (sockaddr[i] !== name[i]) return false;
  return true;
}

function listens(fd: number): boolean {
  return readOption(fd, SO_ACCEPTCONN, 4) && numbers[0] !== 0;
}

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

/**
 * Copies what a client has sent into `window`, and leaves it there for the next read.
 *
 * @returns How many bytes there are; 0 if the client can send no more, below 0 if there are none yet, or the
 * connection is broken.
 */
export function peek(fd: number, window: Uint8Array<ArrayBuffer>): number {
  return libc().recv(fd, pointerTo(window), BigInt(window.length), MSG_PEEK | MSG_DONTWAIT);
}

/** What node:net's handles can that nothing else can: make a resource of a descriptor. */
interface TcpHandle {
  open(fd: number): number;
  takeStream(): number;
  close(done: () => void): void;
}

/**
 * Another descriptor of a socket, as a stream that lives on when the first is closed.
 *
 * @throws {Error} If there are no descriptors left, or this Deno has no way to do it.
 */
export function duplicate(fd: number): Stream {
  const copy = libc().fcntl(fd, F_DUPFD_CLOEXEC, 0);
  if (copy < 0) throw new Error(`fcntl(${fd}, F_DUPFD_CLOEXEC) failed`);
  const { process } = globalThis as unknown as {
    process: { binding(name: "tcp_wrap"): { TCP: new (type: number) => TcpHandle } };
  };
  const handle = new (process.binding("tcp_wrap").TCP)(0);
  const failure = handle.open(copy);
  if (failure !== 0) throw new Error(`opening descriptor ${copy} failed: ${failure}`);
  const stream = new ResourceStream(handle.takeStream());
  handle.close(() => {}); // It has nothing to close any more, but a place in a table.
  return stream;
}

/** A stream by its resource, as `Deno.Conn` is one. */
class ResourceStream implements Stream {
  readonly #resource: number;
  constructor(resource: number) {
    this.#resource = resource;
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
  }
}
