/**
 * The addresses a daemon listens on: how they are written, and how each is bound so that nobody
 * who should not get in ever can, and no other process's socket is harmed.
 *
 * @module
 */

import { messageOf, TypedError, within } from "../engine.ts";
import type { Acceptor } from "../listenbuffer.ts";
import {
  adopt,
  ANYWHERE,
  BACKLOG,
  deepenQueue,
  formatTcp,
  inspectSocket,
  requireDescriptors,
} from "./runtime.ts";
import { takeInherited } from "./systemd.ts";

/** An address as it was asked for. */
export type Address =
  | { readonly proto: "tcp"; readonly host: string; readonly port: number }
  | { readonly proto: "unix"; readonly path: string }
  | { readonly proto: "fd"; readonly which: string };

/** sockaddr_un holds 108 bytes, the last of which is a zero (unix(7)). */
const MAX_PATH = 107;

const EXPECTED = "tcp://HOST:PORT, unix:///path or fd://";

/**
 * Reads `tcp://HOST:PORT`, `unix:///path`, or `fd://` with nothing, `*`, a number or a name after it.
 *
 * @throws {TypedError} ("bad parameter") With a message that says what was wrong and what is right.
 */
export function parseAddress(text: string): Address {
  const bad = (problem: string) => new TypedError("bad parameter", `address "${text}": ${problem}`);
  const [, proto, rest] = /^([a-z]+):\/\/(.*)$/s.exec(text) ?? [];
  switch (proto) {
    case "tcp": {
      const [, v6, name, digits] = /^(?:\[([\da-fA-F:.]+)\]|([^:[\]/\s]+)):(\d+)$/.exec(rest) ?? [];
      const host = v6 ?? name;
      if (host === undefined) {
        throw bad("expected tcp://HOST:PORT, such as tcp://127.0.0.1:2375 or tcp://[::1]:0");
      }
      const port = Number(digits);
      if (port > 65_535) throw bad(`port ${digits} is out of range, expected 0 to 65535`);
      return { proto, host, port };
    }
    case "unix": {
      if (!rest.startsWith("/") || rest.endsWith("/")) {
        throw bad(
          "expected unix:// and the absolute path of a socket, such as unix:///run/api.sock",
        );
      }
      const length = new TextEncoder().encode(rest).length;
      if (length > MAX_PATH) {
        throw bad(`a path of ${length} bytes, expected at most ${MAX_PATH} for a socket`);
      }
      if (rest.includes("\0")) throw bad("the path has a zero byte");
      return { proto, path: rest };
    }
    case "fd":
      // systemd.socket(5): a name has at most 255 characters, and no colon.
      if (!/^[\x21-\x7e]{0,255}$/.test(rest) || rest.includes(":")) {
        throw bad("expected fd://, fd://*, fd://3 for a descriptor, or fd://NAME");
      }
      return { proto, which: rest };
    default:
      throw bad(`expected ${EXPECTED}`);
  }
}

/**
 * Whether an address can be reached from this machine only. What a descriptor is, is known only once
 * it is looked at.
 */
export function isLocal(address: Address): boolean {
  return address.proto !== "tcp" ||
    /^(localhost|127(\.\d{1,3}){3}|::1|::ffff:(127(\.\d{1,3}){3}|7f[\da-f]{2}:[\da-f]{1,4}))$/i
      .test(address.host);
}

/** What is wrong with serving an address to whoever comes, if anything. */
export function exposureProblem(address: Address): string | undefined {
  if (isLocal(address)) return undefined;
  return "other machines can reach it and could do as they like, expected a local one, --tlsverify (TlsVerify), or --insecure (Insecure)";
}

/** How {@linkcode bind} binds. */
export interface BindOptions {
  /** The group, by name or number, that may connect to a unix socket. Default: the process's own. */
  group?: string;
  /** Bind beside the process that answers on a unix socket, and take its place on `publish`. */
  takeover?: boolean;
  /** Share a tcp port with other processes that ask for the same (SO_REUSEPORT, socket(7)). */
  reusePort?: boolean;
  /** Allow tcp addresses that other machines can reach. */
  exposed?: boolean;
  /** Listens for TLS on tcp, at an address or on a socket. Default: no TLS. */
  listenTls?: (where: Deno.TcpListenOptions | number) => Acceptor<Deno.Conn, Deno.Addr>;
}

/** An address that is bound. */
export interface Bound {
  /** What listens there. */
  readonly listener: Acceptor<Deno.Conn, Deno.Addr>;
  /** The address with the real port, `tcp:` or `unix:`. */
  readonly address: string;
  /** Whether clients can find it no more after `unpublish`, as it is with a socket file of our own. */
  readonly hides: boolean;
  /**
   * Takes a living process's place, where `takeover` bound beside it; else it is there already. What
   * systemd has passed is from here on nobody else's.
   */
  publish(): Promise<void>;
  /**
   * Lets no new client find it: removes the socket file, if it is still ours. What systemd has passed
   * can be had again, unless it was published.
   */
  unpublish(): Promise<void>;
  /** The same at once, for a process that is about to end. */
  unpublishNow(): void;
}

/**
 * Binds an address.
 *
 * @returns What is bound: several with `fd://`, if systemd has passed several.
 * @throws {TypedError} ("conflict") If it is in use, or something else is in the socket's place;
 * ("bad parameter") if it cannot be bound as asked. The message names the address.
 */
export async function bind(address: Address, options: BindOptions = {}): Promise<Bound[]> {
  const name = formatAddress(address);
  try {
    if (!options.exposed) refuseExposed(address);
    switch (address.proto) {
      case "tcp":
        return [bindTcp(address, options)];
      case "unix":
        return [await bindUnix(address.path, options)];
      case "fd":
        return bindInherited(address.which, options);
    }
  } catch (error) {
    if (error instanceof TypedError) {
      throw new TypedError(error.kind, `cannot listen on ${name}: ${error.message}`);
    }
    throw new TypedError("bad parameter", `cannot listen on ${name}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function refuseExposed(address: Address): void {
  const problem = exposureProblem(address);
  if (problem) throw new TypedError("bad parameter", problem);
}

function formatAddress(address: Address): string {
  switch (address.proto) {
    case "tcp":
      return formatTcp({ hostname: address.host, port: address.port });
    case "unix":
      return `unix://${address.path}`;
    case "fd":
      return `fd://${address.which}`;
  }
}

function bindTcp(address: Address & { proto: "tcp" }, options: BindOptions): Bound {
  const where = {
    hostname: address.host,
    port: address.port,
    reusePort: options.reusePort ?? false,
    // The kernel takes as many of these as net.core.somaxconn allows: a boot that blocks the
    // event loop has nothing but this queue.
    tcpBacklog: BACKLOG,
  };
  let listener: Acceptor<Deno.Conn, Deno.Addr>;
  try {
    listener = options.listenTls?.(where) ?? Deno.listen(where);
  } catch (error) {
    if (error instanceof Deno.errors.AddrInUse) {
      throw new TypedError(
        "conflict",
        options.reusePort
          ? "the port is in use by a process that does not share it"
          : "the port is in use, expected a free one, or 0 for any",
      );
    }
    throw error;
  }
  const bound = formatTcp(listener.addr as Deno.NetAddr);
  // A name, localhost too, is what the system says it is.
  const problem = !options.exposed && exposureProblem(parseAddress(bound));
  if (problem) {
    listener.close();
    throw new TypedError("bad parameter", `it is ${bound}: ${problem}`);
  }
  return unlisted(listener, bound);
}

/** Something bound that has no file of ours. */
function unlisted(listener: Acceptor<Deno.Conn, Deno.Addr>, address: string): Bound {
  return {
    listener,
    address,
    hides: false,
    publish: () => Promise.resolve(),
    unpublish: () => Promise.resolve(),
    unpublishNow: () => {},
  };
}

/** Listens on sockets that the process was started with: all of them, or none. */
function bindInherited(which: string, { exposed, listenTls }: BindOptions): Bound[] {
  // Without the permissions we may not even see that something was passed.
  requireDescriptors();
  const taken = takeInherited(which);
  const bound: Bound[] = [];
  try {
    // What is wrong with one is found before anything is done to another.
    const sockets = taken.map((socket) => ({ socket, ...inspectSocket(socket.fd) }));
    for (const { fd, proto, address } of sockets) {
      const problem = proto === "tcp" && !exposed && exposureProblem(parseAddress(address));
      if (problem) {
        throw new TypedError("bad parameter", `descriptor ${fd} is ${address}: ${problem}`);
      }
    }
    for (const { socket, fd, proto, address } of sockets) {
      // It has a descriptor of its own.
      const listener = proto === "unix"
        ? adopt(listenAbstract, fd).listener
        : listenTls?.(fd) ?? adopt(() => Deno.listen(ANYWHERE), fd).listener;
      bound.push({
        ...unlisted(listener, address),
        publish: () => Promise.resolve(socket.close()),
        unpublish: () => Promise.resolve(socket.giveBack()),
      });
    }
    return bound;
  } catch (error) {
    bound.forEach(({ listener }) => listener.close());
    taken.forEach((socket) => socket.giveBack());
    throw error;
  }
}

function listenAbstract(): Deno.UnixListener {
  return Deno.listen({ transport: "unix", path: `\0floodgate-${crypto.randomUUID()}` });
}

/** Owner and group may connect, as dockerd has it. */
const MODE = 0o660;
/** A gid has 32 bits, all of which set mean "leave it as it is" (chown(2)). */
const MAX_GID = 2 ** 32 - 2;

async function bindUnix(path: string, options: BindOptions): Promise<Bound> {
  const folder = path.slice(0, path.lastIndexOf("/")) || "/";
  const gid = options.group ? await groupId(options.group) : undefined;
  return await locked(folder, async () => {
    const beside = await occupied(path);
    if (beside && !options.takeover) {
      throw new TypedError(
        "conflict",
        "a living process answers there; stop it first, or take its place with --takeover (Takeover)",
      );
    }
    await sweepTemporaries(folder);
    const temporary = temporaryName(folder, path);
    // Nobody but us can connect before the group and the mode are right: the file is born without
    // rights for others, and under a name that nobody knows.
    const umask = Deno.umask(0o177);
    let listener: Deno.UnixListener;
    try {
      listener = Deno.listen({ transport: "unix", path: temporary });
    } finally {
      Deno.umask(umask);
    }
    let current = temporary;
    try {
      if (gid !== undefined) giveTo(temporary, gid, options.group);
      Deno.chmodSync(temporary, MODE);
      const { dev, ino } = Deno.lstatSync(temporary);
      let unpublished = false;
      const unpublishNow = () => {
        // Once only: when the listener is closed, another's new file may get our file's number.
        if (unpublished) return;
        unpublished = true;
        const found = lstat(current);
        if (found?.dev === dev && found.ino === ino) Deno.removeSync(current);
      };
      const publish = () => {
        if (current === path) return;
        refuseOthers(path);
        Deno.renameSync(current, path);
        current = path;
      };
      if (!beside) publish();
      // After all else, because somebody may wait for the file.
      deepenQueue(listener);
      return {
        listener,
        address: `unix://${path}`,
        hides: true,
        // The folder is locked for each step that looks first and acts then, so that of two daemons
        // that start, end, or take over at once none removes the other's file.
        publish: async () => {
          if (current !== path) await locked(folder, publish);
        },
        unpublish: async () => {
          // Whoever removed the folder has removed the file.
          if (!unpublished && lstat(folder)) await locked(folder, unpublishNow);
        },
        unpublishNow,
      };
    } catch (error) {
      listener.close();
      if (lstat(current)) Deno.removeSync(current);
      throw error;
    }
  });
}

/** How the names begin under which sockets are bound before they are renamed into place. */
const TEMPORARY = ".floodgate-";

/** Removes what daemons left behind that were killed between binding and taking their place. */
async function sweepTemporaries(folder: string): Promise<void> {
  for (const { name } of [...Deno.readDirSync(folder)]) {
    if (!name.startsWith(TEMPORARY)) continue;
    const path = `${folder}/${name}`;
    if (!lstat(path)?.isSocket || await answers(path)) continue;
    try {
      Deno.removeSync(path);
    } catch {
      // It is another user's, in a folder such as /tmp, and does us no harm.
    }
  }
}

/** A name beside `path` that nobody else has, and that is no longer than a socket's may be. */
function temporaryName(folder: string, path: string): string {
  const prefix = folder === "/" ? "/" : folder + "/";
  const room = MAX_PATH - new TextEncoder().encode(prefix).length;
  // In a folder whose own path is nearly as long as can be there are few such names.
  for (let tries = 0; tries < 1_000; tries++) {
    const random = crypto.randomUUID().slice(0, 8);
    const name = prefix + (TEMPORARY + random).slice(-Math.min(room, TEMPORARY.length + 8));
    if (name !== path && !lstat(name)) return name;
  }
  throw new TypedError("conflict", `no temporary name is free in ${folder}`);
}

/** Whether a living process answers at `path`. Removes nothing: a stale file is renamed over. */
async function occupied(path: string): Promise<boolean> {
  refuseOthers(path);
  return lstat(path) !== undefined && await answers(path);
}

function refuseOthers(path: string): void {
  if (lstat(path)?.isSocket === false) {
    throw new TypedError("conflict", "something that is no socket is there, and was left alone");
  }
}

/** Whether somebody listens at a socket. */
async function answers(path: string): Promise<boolean> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.ConnectionRefused) return false; // Nobody listens any more.
    if (error instanceof Deno.errors.NotFound) return false;
    if (error instanceof Deno.errors.NotCapable) throw error;
    return true; // A full queue (EAGAIN), or rights that we lack: somebody is there.
  }
}

function lstat(path: string): Deno.FileInfo | undefined {
  try {
    return Deno.lstatSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** How long to wait for somebody else's lock, and between two looks at it, in milliseconds. */
const LOCK = { timeout: 500, interval: 5 };

/**
 * Runs `step` while no other floodgate does anything in the folder (flock(2)). Anybody who can read
 * a folder can lock it for ever; so after a while it is done all the same.
 */
async function locked<T>(folder: string, step: () => T | Promise<T>): Promise<T> {
  let handle: Deno.FsFile;
  try {
    handle = Deno.openSync(folder);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) {
      throw new TypedError("bad parameter", `the directory ${folder} does not exist`);
    }
    throw error;
  }
  try {
    await take(handle);
    return await step();
  } finally {
    handle.close(); // Which unlocks it.
  }
}

/** Locks a folder, or gives up after a while. */
async function take(folder: {
  lock(exclusive: boolean): Promise<void>;
  // Deno before 2.7 has only lock(), which nothing can call off: it goes on waiting, for no one.
  tryLockSync?(exclusive: boolean): boolean;
}): Promise<void> {
  if (folder.tryLockSync === undefined) {
    await within(LOCK.timeout, folder.lock(true));
    return;
  }
  const deadline = performance.now() + LOCK.timeout;
  while (!folder.tryLockSync(true) && performance.now() < deadline) {
    await new Promise((resolve) => setTimeout(resolve, LOCK.interval));
  }
}

function giveTo(path: string, gid: number, group?: string): void {
  try {
    Deno.chownSync(path, null, gid);
  } catch (error) {
    if (!(error instanceof Deno.errors.PermissionDenied)) throw error;
    throw new TypedError(
      "bad parameter",
      `the socket cannot be given to group "${group}", expected one that this user is in`,
      { cause: error },
    );
  }
}

async function groupId(group: string): Promise<number> {
  if (/^\d+$/.test(group) && Number(group) <= MAX_GID) return Number(group);
  const lines = await groups(group);
  for (const line of lines.split("\n")) {
    const [name, , gid] = line.split(":");
    if (name === group) return Number(gid);
  }
  throw new TypedError("bad parameter", `there is no group "${group}"`);
}

/** Lines of group(5), that of this group among them if there is one. */
async function groups(group: string): Promise<string> {
  try {
    // It asks whatever the system keeps its groups in.
    const { stdout } = await new Deno.Command("getent", {
      args: ["group", group],
      stderr: "null",
    }).output();
    return new TextDecoder().decode(stdout);
  } catch (error) {
    // A system without it has the file and nothing else. Whoever may not run it may be let read that.
    if (error instanceof Deno.errors.NotFound || error instanceof Deno.errors.NotCapable) {
      return await Deno.readTextFile("/etc/group");
    }
    throw error;
  }
}
