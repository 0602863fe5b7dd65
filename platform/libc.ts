/**
 * The C library's calls that Deno has nothing for, by FFI.
 *
 * @module
 */

import { formatTcp, formatUnix } from "./net.ts";

export const AF_UNIX = 1;
export const AF_INET = 2;
export const AF_INET6 = 10;
const SOL_SOCKET = 1;
const SO_PEERCRED = 17;
const SO_COOKIE = 57;
const SO_PEERGROUPS = 59;
const SCM_RIGHTS = 1;
const MSG_CMSG_CLOEXEC = 0x4000_0000;
const MSG_NOSIGNAL = 0x4000;
const POLLIN = 1;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
const SO_KEEPALIVE = 9;
const TCP_KEEPIDLE = 4;
const TCP_KEEPINTVL = 5;
const TCP_KEEPCNT = 6;
export const SO_TYPE = 3;
export const SO_ACCEPTCONN = 30;
export const SOCK_STREAM = 1;
const SHUT_RDWR = 2;
const EPOLL_CTL_ADD = 1;
const F_SETFD = 2;
const FD_CLOEXEC = 1;
const F_GETFL = 3;
const F_SETFL = 4;
const O_NONBLOCK = 0o4_000;
const O_CLOEXEC = 0o2_000_000;
const CLOCK_MONOTONIC = 1;
const POLLOUT = 4;
const AT_FDCWD = -100;
const O_DIRECTORY = Deno.build.arch === "x86_64" ? 0o200_000 : 0o40_000;
const O_NOFOLLOW = Deno.build.arch === "x86_64" ? 0o400_000 : 0o100_000;
const O_PATH = 0o10_000_000;
const PROT_READ = 1;
const PROT_WRITE = 2;
const PROT_EXEC = 4;
const MAP_PRIVATE = 2;
const MAP_ANONYMOUS = 32;
/** struct sigaction, of glibc on 64 bits: the handler is its first member. */
const SIGACTION_LENGTH = 152;
/** sockaddr_un, the longest of the addresses here. */
const SOCKADDR_LENGTH = 110;

/**
 * An int that Deno takes for a structure with an int in it. To the C library they are the same (the
 * ABIs of x86-64 and AArch64 pass both in one register), and to Deno not: for functions of mere
 * numbers it loads a compiler and makes machine code of its own, which takes 3 ms and 2.5 MiB, for
 * a handful of calls.
 */
const INT = { struct: ["i32"] } as const;
const int = (value: number) => Int32Array.of(value);
/** The same for a size. */
const SIZE = { struct: ["usize"] } as const;
const size = (value: number) => BigUint64Array.of(BigInt(value));

const SYMBOLS = {
  listen: { parameters: [INT, "i32"], result: "i32" },
  close: { parameters: [INT], result: "i32" },
  dup3: { parameters: [INT, "i32", "i32"], result: "i32" },
  fcntl: { parameters: [INT, "i32", "i32"], result: "i32" },
  shutdown: { parameters: [INT, "i32"], result: "i32" },
  getsockname: { parameters: [INT, "buffer", "buffer"], result: "i32" },
  getpeername: { parameters: [INT, "buffer", "buffer"], result: "i32" },
  getsockopt: { parameters: [INT, "i32", "i32", "buffer", "buffer"], result: "i32" },
  setsockopt: { parameters: [INT, "i32", "i32", "buffer", "u32"], result: "i32" },
  epoll_ctl: { parameters: [INT, "i32", "i32", "buffer"], result: "i32" },
  socket: { parameters: [INT, "i32", "i32"], result: "i32" },
  socketpair: { parameters: [INT, "i32", "i32", "buffer"], result: "i32" },
  connect: { parameters: ["i32", "buffer", "u32"], result: "i32", nonblocking: true },
  sendmsg: { parameters: [INT, "buffer", "i32"], result: "isize" },
  recvmsg: { parameters: [INT, "buffer", "i32"], result: "isize" },
  poll: { parameters: ["buffer", "usize", "i32"], result: "i32", nonblocking: true },
  clock_gettime: { parameters: [INT, "buffer"], result: "i32" },
  sigaction: { parameters: [INT, "buffer", "buffer"], result: "i32" },
  mmap: { parameters: ["pointer", SIZE, "i32", "i32", "i32", "i64"], result: "pointer" },
  openat: { parameters: [INT, "buffer", "i32"], result: "i32" },
  poll_now: { name: "poll", parameters: ["buffer", SIZE, "i32"], result: "i32" },
  mprotect: { parameters: ["pointer", SIZE, "i32"], result: "i32" },
  getpwuid_r: { parameters: [INT, "buffer", "buffer", "usize", "buffer"], result: "i32" },
} as const;

/** A registration of a descriptor with an epoll instance: epoll_event of epoll_ctl(2). */
export interface Watch {
  epoll: number;
  events: number;
  data: bigint;
}

/** A process and its user, as the kernel knows them. */
export interface Credentials {
  pid: number;
  uid: number;
  gid: number;
}

/**
 * A struct msghdr of one struct iovec and one struct cmsghdr, with room for descriptors (cmsg(3)).
 */
class Message {
  readonly header = new BigUint64Array(7);
  #control: DataView<ArrayBuffer>;
  // The kernel is given their addresses, so they have to live as long as this does.
  #kept: unknown[];

  constructor(bytes: Uint8Array, descriptors: number) {
    this.#control = new DataView(new ArrayBuffer(CMSG + Math.ceil(descriptors / 2) * 8));
    const iovec = new BigUint64Array([addressOf(bytes), BigInt(bytes.length)]);
    this.#kept = [bytes, iovec];
    // msg_name and msg_namelen are none.
    this.header.set([addressOf(iovec), 1n], 2);
    this.header.set([addressOf(new Uint8Array(this.#control.buffer))], 4);
    this.header[5] = BigInt(descriptors > 0 ? this.#control.byteLength : 0);
  }
  put(descriptors: readonly number[]): void {
    if (descriptors.length === 0) return;
    this.#control.setBigUint64(0, BigInt(CMSG + 4 * descriptors.length), true);
    this.#control.setInt32(8, SOL_SOCKET, true);
    this.#control.setInt32(12, SCM_RIGHTS, true);
    descriptors.forEach((fd, i) => this.#control.setInt32(CMSG + 4 * i, fd, true));
  }
  take(): number[] {
    void this.#kept;
    if (this.header[5]! < BigInt(CMSG)) return [];
    const count = (Number(this.#control.getBigUint64(0, true)) - CMSG) / 4;
    const rights = this.#control.getInt32(8, true) === SOL_SOCKET &&
      this.#control.getInt32(12, true) === SCM_RIGHTS;
    if (!rights) return [];
    return Array.from({ length: count }, (_, i) => this.#control.getInt32(CMSG + 4 * i, true));
  }
}

/** The length of a struct cmsghdr without its data. */
const CMSG = 16;

function addressOf(bytes: Uint8Array | BigUint64Array): bigint {
  return BigInt(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes as Uint8Array<ArrayBuffer>)));
}

/** What a process does at a signal: sigaction(2). */
export interface SignalAction {
  /** The address of the function that is called; 0 and 1 are SIG_DFL and SIG_IGN. */
  readonly handler: bigint;
  /** The flags, the mask, and what else belongs to it. */
  readonly rest: Uint8Array<ArrayBuffer>;
}

/**
 * The library, from its first use on until the process ends: to look up all symbols takes longer
 * than most calls, and what is used once is used again. Every Deno for Linux is linked with it.
 */
let library: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;

/** The C library's calls. */
export class Libc {
  #library = library ??= Deno.dlopen("libc.so.6", SYMBOLS);

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
  /**
   * A unix socket that is connected to the listener at a path; undefined where none listens there.
   */
  async connectUnix(path: string): Promise<number | undefined> {
    const name = new Uint8Array(SOCKADDR_LENGTH);
    new DataView(name.buffer).setUint16(0, AF_UNIX, true);
    const bytes = new TextEncoder().encode(path);
    name.set(bytes, 2);
    const fd = this.#library.symbols.socket(int(AF_UNIX), SOCK_STREAM | O_CLOEXEC, 0);
    if (fd < 0) throw new Error("there is no descriptor left for a socket");
    // Longer than the path only by the zero byte that ends it.
    if (await this.#library.symbols.connect(fd, name, 2 + bytes.length + 1) === 0) return fd;
    this.close(fd);
    return undefined;
  }
  /** Two unix sockets that are connected to each other (socketpair(2)). */
  socketPair(): [number, number] {
    const pair = new Int32Array(2);
    const { socketpair } = this.#library.symbols;
    if (socketpair(int(AF_UNIX), SOCK_STREAM | O_CLOEXEC, 0, pair) !== 0) {
      throw new Error("there are no descriptors left for a pair of sockets");
    }
    return [pair[0]!, pair[1]!];
  }
  /** Sends bytes, at least one, and descriptors with them. False if the other process took none. */
  sendDescriptors(fd: number, bytes: Uint8Array, descriptors: readonly number[]): boolean {
    const message = new Message(bytes, descriptors.length);
    message.put(descriptors);
    return Number(this.#library.symbols.sendmsg(int(fd), message.header, MSG_NOSIGNAL)) ===
      bytes.length;
  }
  /**
   * Receives what one {@linkcode sendDescriptors} sent, the descriptors closed on exec. Undefined
   * where it fails; no bytes where the other process has closed.
   */
  receiveDescriptors(fd: number, bytes: Uint8Array, most: number): [number, number[]] | undefined {
    const message = new Message(bytes, most);
    const count = this.#library.symbols.recvmsg(int(fd), message.header, MSG_CMSG_CLOEXEC);
    return Number(count) < 0 ? undefined : [Number(count), message.take()];
  }
  /**
   * Waits, on a thread of its own, until something can be read; false after so many milliseconds.
   */
  async readable(fd: number, milliseconds: number): Promise<boolean> {
    const poll = new DataView(new ArrayBuffer(8));
    poll.setInt32(0, fd, true);
    poll.setInt16(4, POLLIN, true);
    return await this.#library.symbols.poll(poll, 1n, milliseconds) > 0;
  }
  /** Which process is at the other end of a unix socket (SO_PEERCRED of unix(7)). */
  peerCredentials(fd: number): Credentials | undefined {
    const value = new Uint32Array(3);
    const length = new Uint32Array([value.byteLength]);
    const { getsockopt } = this.#library.symbols;
    if (getsockopt(int(fd), SOL_SOCKET, SO_PEERCRED, value, length) !== 0) return undefined;
    const [pid, uid, gid] = value as unknown as [number, number, number];
    return { pid, uid, gid };
  }
  /** The other groups that the user of that process is in (SO_PEERGROUPS of unix(7)). */
  peerGroups(fd: number): number[] {
    const { getsockopt } = this.#library.symbols;
    // Few users are in more than the first, and none in more than the second (NGROUPS_MAX).
    for (const most of [64, 65_536]) {
      const groups = new Uint32Array(most);
      const length = new Uint32Array([groups.byteLength]);
      if (getsockopt(int(fd), SOL_SOCKET, SO_PEERGROUPS, groups, length) === 0) {
        return [...groups.subarray(0, length[0]! / 4)];
      }
    }
    return [];
  }
  /** The number that the kernel gave a socket, and gives no other (SO_COOKIE of socket(7)). */
  cookie(fd: number): number | undefined {
    const value = new Uint32Array(2);
    const length = new Uint32Array([value.byteLength]);
    const { getsockopt } = this.#library.symbols;
    if (getsockopt(int(fd), SOL_SOCKET, SO_COOKIE, value, length) !== 0) return undefined;
    return value[0]! + value[1]! * 2 ** 32;
  }
  /** The name of a user, as whatever keeps the system's users has it: getpwuid_r(3). */
  userName(uid: number): string | undefined {
    const [passwd, result] = [new BigUint64Array(6), new BigUint64Array(1)];
    const texts = new Uint8Array(16_384);
    const { getpwuid_r } = this.#library.symbols;
    const failed = getpwuid_r(int(uid), passwd, texts, BigInt(texts.length), result);
    if (failed !== 0 || result[0] === 0n) return undefined;
    // pw_name is its first member, and points into the texts.
    const start = Number(passwd[0]! - addressOf(texts));
    return new TextDecoder().decode(texts.subarray(start, texts.indexOf(0, start)));
  }
  monotonic(): bigint {
    const time = new BigInt64Array(2);
    this.#library.symbols.clock_gettime(int(CLOCK_MONOTONIC), time);
    return time[0]! * 1_000_000n + time[1]! / 1_000n;
  }
  /**
   * Opens a folder as a place to name files in (O_PATH), and gives its descriptor; undefined if
   * there is none. With `within`, a descriptor, it is one in that folder, and no symbolic link is
   * followed.
   */
  openFolder(path: string, within?: number): number | undefined {
    const flags = O_PATH | O_DIRECTORY | O_CLOEXEC | (within === undefined ? 0 : O_NOFOLLOW);
    const name = new TextEncoder().encode(path + "\0");
    const fd = this.#library.symbols.openat(int(within ?? AT_FDCWD), name, flags);
    return fd < 0 ? undefined : fd;
  }
  /** Whether a write to a descriptor would not block, if it is small; or would fail. */
  writable(fd: number): boolean {
    // struct pollfd: an int, and two shorts.
    return this.#library.symbols.poll_now(Int32Array.of(fd, POLLOUT), size(1), 0) !== 0;
  }
  signalAction(signal: number): SignalAction {
    const action = new Uint8Array(SIGACTION_LENGTH);
    if (this.#library.symbols.sigaction(int(signal), null, action) !== 0) {
      throw new Error(`sigaction of signal ${signal} failed`);
    }
    return { handler: new DataView(action.buffer).getBigUint64(0, true), rest: action.slice(8) };
  }
  setSignalAction(signal: number, { handler, rest }: SignalAction): void {
    const action = new Uint8Array(SIGACTION_LENGTH);
    new DataView(action.buffer).setBigUint64(0, handler, true);
    action.set(rest, 8);
    if (this.#library.symbols.sigaction(int(signal), action, null) !== 0) {
      throw new Error(`sigaction of signal ${signal} failed`);
    }
  }
  /**
   * Puts machine code where it can be run, for as long as the process lives, and gives its address.
   * The memory is never writable and executable at once.
   */
  machineCode(code: Uint8Array<ArrayBuffer>): bigint {
    const { mmap, mprotect } = this.#library.symbols;
    const length = size(code.length);
    const page = mmap(null, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0n);
    // MAP_FAILED is no null pointer, but -1.
    if (page === null || Deno.UnsafePointer.value(page) === 2n ** 64n - 1n) {
      throw new Error("mmap failed");
    }
    new Uint8Array(Deno.UnsafePointerView.getArrayBuffer(page, code.length)).set(code);
    if (mprotect(page, length, PROT_READ | PROT_EXEC) !== 0) throw new Error("mprotect failed");
    return Deno.UnsafePointer.value(page);
  }
  shutdown(fd: number): void {
    this.#library.symbols.shutdown(int(fd), SHUT_RDWR);
  }
  /** The port of a tcp socket, if it is one. */
  portOf(fd: number): number | undefined {
    return this.#port("getsockname", fd);
  }
  /** The port of a tcp socket's other end, if it is one and has one. */
  peerPortOf(fd: number): number | undefined {
    return this.#port("getpeername", fd);
  }
  #port(call: "getsockname" | "getpeername", fd: number): number | undefined {
    const name = this.#name(call, fd);
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
    return new DataView(name.buffer, 0, Math.min(length[0]!, SOCKADDR_LENGTH));
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
  /** A socket's option of the level SOL_SOCKET that is an int; undefined where it has none. */
  option(fd: number, option: number): number | undefined {
    const value = new Int32Array(1);
    const length = new Uint32Array([value.byteLength]);
    const result = this.#library.symbols.getsockopt(int(fd), SOL_SOCKET, option, value, length);
    return result === 0 ? value[0] : undefined;
  }
  /**
   * Lets the kernel ask whether the other end of a tcp socket is still there (tcp(7)). What is
   * accepted from a socket that listens has its options. Nothing where that is set already.
   *
   * @param idle After how many seconds in which nothing came.
   * @param interval After how many more without an answer it asks again.
   * @param count After how many questions without an answer the connection ends.
   */
  keepAlive(fd: number, idle: number, interval: number, count: number): void {
    if (this.option(fd, SO_KEEPALIVE) !== 0) return;
    this.#set(fd, IPPROTO_TCP, TCP_KEEPIDLE, idle);
    this.#set(fd, IPPROTO_TCP, TCP_KEEPINTVL, interval);
    this.#set(fd, IPPROTO_TCP, TCP_KEEPCNT, count);
    this.#set(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
  }
  /** Lets a tcp socket send what is written at once; what is accepted from it too. */
  noDelay(fd: number): void {
    this.#set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
  }
  #set(fd: number, level: number, option: number, value: number): void {
    this.#library.symbols.setsockopt(int(fd), level, option, int(value), 4);
  }
  /** Says that it is needed no more. The library stays, for the next. */
  [Symbol.dispose](): void {}
}
