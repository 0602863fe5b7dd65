/**
 * The addresses a daemon listens on: how they are written, and how each is bound so that nobody
 * who should not get in ever can, and no other process's socket is harmed.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import type { Acceptor } from "../listenbuffer.ts";
import { takeInherited } from "../platform/activation.ts";
import { requireDescriptors } from "../platform/descriptors.ts";
import { formatTcp } from "../platform/libc.ts";
import {
  adopt,
  ANYWHERE,
  BACKLOG,
  descriptorOfListener,
  inspectSocket,
  listenAbstract,
} from "../platform/sockets.ts";
import type { BindOptions, Bound, GivenSocket } from "./bound.ts";
import { bindUnix, MAX_PATH, SocketFile } from "./unix.ts";

/** An address as it was asked for. */
export type Address =
  | { readonly proto: "tcp"; readonly host: string; readonly port: number }
  | { readonly proto: "unix"; readonly path: string }
  | { readonly proto: "fd"; readonly which: string };

const EXPECTED = "tcp://HOST:PORT, unix:///path or fd://";

/**
 * Reads `tcp://HOST:PORT`, `unix:///path`, or `fd://` with nothing, `*`, a number or a name after it.
 *
 * @throws {TypedError} ("bad parameter") With a message that says what was wrong and what is right.
 */
export function parseAddress(text: string): Address {
  const bad = (problem: string) => new TypedError("bad parameter", `address "${text}": ${problem}`);
  const [, proto, rest = ""] = /^([a-z]+):\/\/(.*)$/s.exec(text) ?? [];
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
 * Reads addresses.
 *
 * @throws {TypedError} ("bad parameter") What {@linkcode parseAddress} throws; or if one is there twice.
 */
export function parseAddresses(texts: readonly string[]): Address[] {
  const seen = new Set<string>();
  return texts.map((text) => {
    const address = parseAddress(text);
    const name = canonical(address);
    // Any number of them may be given any port.
    const twice = seen.has(name) && !(address.proto === "tcp" && address.port === 0);
    seen.add(name);
    if (!twice) return address;
    throw new TypedError("bad parameter", `address "${text}": it is given twice, expected once`);
  });
}

/** An address in the form that it has in common with others that are the same. */
function canonical(address: Address): string {
  if (address.proto !== "unix") return formatAddress(address).toLowerCase();
  return formatAddress({ ...address, path: address.path.replace(/\/(?:\.?\/)+/g, "/") });
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

/**
 * What is wrong with serving an address to any client, if anything. A name is looked up: it may be one
 * of this machine for itself, or of none.
 */
export async function exposureProblem(address: Address): Promise<string | undefined> {
  if (isLocal(address)) return undefined;
  const { host } = address as Address & { proto: "tcp" };
  if (isName(host)) {
    const numbers = await lookUp(host);
    if (numbers?.length === 0) return unresolved(host);
    if (numbers?.every((host) => isLocal({ ...address, host } as Address))) return undefined;
  }
  return EXPOSED;
}

const EXPOSED =
  "other machines can reach it and could do as they like, expected a local one, --tlsverify (TlsVerify), or --insecure (Insecure)";

function unresolved(host: string): string {
  return `the host "${host}" does not resolve, expected a name or number of this machine`;
}

function isName(host: string): boolean {
  return !host.includes(":") && !/^[\d.]+$/.test(host);
}

/** The numbers that the system has for a name. Undefined where we may not ask. */
async function lookUp(host: string): Promise<string[] | undefined> {
  if (Deno.permissions.querySync({ name: "net", host }).state !== "granted") return undefined;
  // Loaded here, because few addresses are names, and it takes 30 ms.
  const { lookup } = await import("node:dns/promises");
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return []; // Whatever keeps the system from an answer, it has none.
  }
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
    if (!options.exposed) await refuseExposed(address);
    if (options.given?.length) return bindGiven(options.given, options);
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
    const host = address.proto === "tcp" && isName(address.host) ? address.host : undefined;
    const problem = host !== undefined && (await lookUp(host))?.length === 0
      ? unresolved(host)
      : messageOf(error);
    throw new TypedError("bad parameter", `cannot listen on ${name}: ${problem}`, { cause: error });
  }
}

async function refuseExposed(address: Address): Promise<void> {
  const problem = await exposureProblem(address);
  if (problem) throw new TypedError("bad parameter", problem);
}

/** The address as it is written. */
export function formatAddress(address: Address): string {
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
  if (!options.exposed && !isLocal(parseAddress(bound))) {
    listener.close();
    throw new TypedError("bad parameter", `it is ${bound}: ${EXPOSED}`);
  }
  return unlisted(listener, bound);
}

/** Listens on the sockets that the predecessor has handed over: all of them, or none. */
function bindGiven(sockets: readonly GivenSocket[], options: BindOptions): Bound[] {
  for (const { address } of sockets) {
    if (address.startsWith("tcp:") && !options.exposed && !isLocal(parseAddress(address))) {
      throw new TypedError("bad parameter", `it is ${address}: ${EXPOSED}`);
    }
  }
  const bound: Bound[] = [];
  try {
    for (const { fd, asked, address } of sockets) {
      const listener = address.startsWith("unix:")
        ? adopt(listenAbstract, fd).listener
        : options.listenTls?.(fd) ?? adopt(() => Deno.listen(ANYWHERE), fd).listener;
      const each = unlisted(listener, address);
      // The file of a socket that systemd has passed is systemd's.
      const own = asked.startsWith("unix:") && parseAddress(asked);
      bound.push(own && own.proto === "unix" ? withFile(own.path, each) : each);
    }
    return bound;
  } catch (error) {
    bound.forEach(({ listener }) => listener.close());
    throw error;
  }
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
    descriptor: () => "fd" in listener ? listener.fd as number : descriptorOfListener(listener),
    handOver: () => {},
  };
}

/** The file of a socket that was handed over is this process's, as if it had bound it. */
function withFile(path: string, bound: Bound): Bound {
  const file = SocketFile.at(path);
  return {
    ...bound,
    hides: true,
    unpublish: () => file.remove(),
    unpublishNow: () => file.removeNow(),
    handOver: () => file.handOver(),
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
      if (proto === "tcp" && !exposed && !isLocal(parseAddress(address))) {
        throw new TypedError("bad parameter", `descriptor ${fd} is ${address}: ${EXPOSED}`);
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
