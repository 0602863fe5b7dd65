/**
 * The addresses a daemon listens on: how they, and the hosts and origins of its clients, are
 * written; and how each is bound so that no unauthorized client can connect at any moment, and no
 * other process's socket is harmed.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import type { Acceptor } from "../listenbuffer.ts";
import { requireDescriptors } from "../platform/descriptors.ts";
import { BACKLOG, formatTcp } from "../platform/net.ts";
import type { BindOptions, Bound, GivenSocket } from "./bound.ts";
import { bindUnix, MAX_PATH, SocketFile } from "./unix.ts";

/** An address to listen on. */
export type Address =
  | { readonly proto: "tcp"; readonly host: string; readonly port: number }
  | { readonly proto: "unix"; readonly path: string }
  | { readonly proto: "fd"; readonly which: string };

const EXPECTED = "tcp://HOST:PORT, unix:///path or fd://";

/**
 * Parses `tcp://HOST:PORT`, `unix:///path`, or `fd://` followed by nothing, `*`, a number or a
 * name.
 *
 * @throws {TypedError} ("bad parameter") If the text is not an address; the message says what is
 * expected.
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
 * Parses several addresses.
 *
 * @throws {TypedError} ("bad parameter") What {@linkcode parseAddress} throws; or if one is given
 * twice.
 */
export function parseAddresses(texts: readonly string[]): Address[] {
  const seen = new Set<string>();
  return texts.map((text) => {
    const address = parseAddress(text);
    const name = canonical(address, texts.length);
    // Port 0 is a different port each time.
    const twice = seen.has(name) && !(address.proto === "tcp" && address.port === 0);
    seen.add(name);
    if (!twice) return address;
    throw new TypedError("bad parameter", `address "${text}": it is given twice, expected once`);
  });
}

/**
 * A text that is the same for two spellings of one address.
 *
 * @param among How many addresses there are; of a single one the folder is not looked at.
 */
function canonical(address: Address, among: number): string {
  if (address.proto !== "unix") return formatAddress(address).toLowerCase();
  const path = address.path.replace(/\/(?:\.?\/)+/g, "/");
  const end = path.lastIndexOf("/");
  const folder = among > 1 ? realFolder(path.slice(0, end) || "/").replace(/^\/$/, "") : undefined;
  return formatAddress({ ...address, path: (folder ?? path.slice(0, end)) + path.slice(end) });
}

/** A folder by its only path without links, where this process may look. */
function realFolder(path: string): string {
  if (Deno.permissions.querySync({ name: "read", path }).state !== "granted") return path;
  try {
    return Deno.realPathSync(path);
  } catch {
    return path; // What is wrong with it is said when it is bound.
  }
}

/**
 * Whether an address can be reached from this machine only. True for `fd://`: the address of a
 * descriptor is checked when it is bound.
 */
export function isLocal(address: Address): boolean {
  return address.proto !== "tcp" ||
    /^(localhost|127(\.\d{1,3}){3}|::1|::ffff:(127(\.\d{1,3}){3}|7f[\da-f]{2}:[\da-f]{1,4}))$/i
      .test(address.host);
}

/**
 * What is wrong with serving an address without client certificates; undefined if nothing is. A
 * name is resolved: it may be local, or unknown.
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
  "clients on other machines could use the API, expected a local address, --tlsverify (TlsVerify), or --insecure (Insecure)";

function unresolved(host: string): string {
  return `the host "${host}" does not resolve, expected a name or number of this machine`;
}

function isName(host: string): boolean {
  return !host.includes(":") && !/^[\d.]+$/.test(host);
}

/** The IP addresses of a name; empty if it does not resolve, undefined without permission. */
async function lookUp(host: string): Promise<string[] | undefined> {
  if (Deno.permissions.querySync({ name: "net", host }).state !== "granted") return undefined;
  // Loaded here, because it takes 30 ms, and few addresses are names.
  const { lookup } = await import("node:dns/promises");
  try {
    return (await lookup(host, { all: true })).map(({ address }) => address);
  } catch {
    return []; // Whatever the reason, the name does not resolve.
  }
}

/**
 * Normalizes the name or IP address of a Host header to the spelling of URLs. The port is left out:
 * it does not matter through which port a client reaches us.
 *
 * @throws {TypedError} ("bad parameter") If the text is neither.
 */
export function readHost(text: string): string {
  // An IPv6 address may be given without brackets.
  const host = hostname(text) ?? hostname(`[${text}]`);
  if (host !== undefined && /^(\[.*\]|[\w.-]+)$/.test(host)) return host;
  throw new TypedError(
    "bad parameter",
    `host "${text}": expected a name or a number, such as api.example or 192.0.2.1`,
  );
}

/**
 * Parses the origins of pages (RFC 6454), separated by commas or spaces, or `*` for all.
 *
 * @throws {TypedError} ("bad parameter") If one is not spelled as browsers send it.
 */
export function readOrigins(text: string): string[] {
  const origins = text.split(/[\s,]+/).filter((origin) => origin !== "");
  const wrong = origins.length === 0 ? text : origins.find((origin) => {
    const { origin: own, protocol, host } = URL.parse(origin) ?? {};
    // URLs of browser extensions have the origin "null".
    return origin !== (own === "null" && host ? `${protocol}//${host}` : own) &&
      (origin !== "*" || origins.length > 1);
  });
  if (wrong === undefined) return origins;
  throw new TypedError(
    "bad parameter",
    `origin "${wrong}": expected one as browsers write it, such as https://pages.example, or * for any`,
  );
}

/** The host of a Host header, in the spelling of URLs; undefined if it is malformed. */
export function hostname(host: string): string | undefined {
  // URL.parse would accept other parts of a URL here, such as a path.
  if (/[\s/\\?#@]/.test(host)) return undefined;
  return URL.parse(`http://${host}`)?.hostname.replace(/\.$/, "");
}

/**
 * Binds an address.
 *
 * @returns The bound sockets: several for `fd://`, if systemd has passed several.
 * @throws {TypedError} ("conflict") If the address is in use, or its path is not a socket; ("bad
 * parameter") if it cannot be bound for another reason. The message names the address.
 */
export async function bind(address: Address, options: BindOptions = {}): Promise<Bound[]> {
  const name = formatAddress(address);
  try {
    if (!options.exposed) await refuseExposed(address);
    if (options.given?.length) return await bindGiven(options.given, options);
    switch (address.proto) {
      case "tcp":
        return [bindTcp(address, options)];
      case "unix":
        return [await bindUnix(address.path, options)];
      case "fd":
        return await bindInherited(address.which, options);
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

/** The text of an address: the reverse of {@linkcode parseAddress}. */
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
    // The kernel caps it at net.core.somaxconn. While a boot blocks the event loop, clients wait in
    // this queue only.
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
    if (error instanceof Deno.errors.PermissionDenied && address.port > 0 && address.port < 1_024) {
      throw new Error(
        `ports below 1024 are not for this user, expected another one, CAP_NET_BIND_SERVICE, or a ` +
          "socket of systemd (fd://)",
        { cause: error },
      );
    }
    if (error instanceof Deno.errors.AddrNotAvailable) {
      throw new TypedError(
        "bad parameter",
        "this machine does not have the address, expected one of its own, or 0.0.0.0 or [::] for all",
      );
    }
    throw error;
  }
  const bound = formatTcp(listener.addr as Deno.NetAddr);
  // A name, localhost too, may resolve to an address that is not local.
  if (!options.exposed && !isLocal(parseAddress(bound))) {
    listener.close();
    throw new TypedError("bad parameter", `it is ${bound}: ${EXPOSED}`);
  }
  return unlisted(listener, bound);
}

/** Listens on the sockets that the predecessor handed over: all of them, or none. */
async function bindGiven(
  sockets: readonly GivenSocket[],
  options: BindOptions,
): Promise<Bound[]> {
  for (const { address } of sockets) {
    if (address.startsWith("tcp:") && !options.exposed && !isLocal(parseAddress(address))) {
      throw new TypedError("bad parameter", `it is ${address}: ${EXPOSED}`);
    }
  }
  const { adopt, ANYWHERE, listenAbstract } = await import("../platform/sockets.ts");
  const bound: Bound[] = [];
  try {
    for (const { fd, asked, address } of sockets) {
      const listener = address.startsWith("unix:")
        ? adopt(listenAbstract, fd).listener
        : options.listenTls?.(fd) ?? adopt(() => Deno.listen(ANYWHERE), fd).listener;
      const each = unlisted(listener, address);
      // The file of a socket that systemd passed belongs to systemd.
      const own = asked.startsWith("unix:") && parseAddress(asked);
      bound.push(own && own.proto === "unix" ? await withFile(own.path, each) : each);
    }
    return bound;
  } catch (error) {
    bound.forEach(({ listener }) => listener.close());
    throw error;
  }
}

/** A bound socket without a file that is ours to remove. */
function unlisted(listener: Acceptor<Deno.Conn, Deno.Addr>, address: string): Bound {
  return {
    listener,
    address,
    hides: false,
    publish: () => Promise.resolve(),
    unpublish: () => Promise.resolve(),
    unpublishNow: () => {},
    handOver: () => {},
  };
}

/** A socket that was handed over with its file, which this process has to remove. */
async function withFile(path: string, bound: Bound): Promise<Bound> {
  const file = await SocketFile.at(path);
  return {
    ...bound,
    hides: true,
    unpublish: () => file.remove(),
    unpublishNow: () => file.removeNow(),
    handOver: () => file.handOver(),
  };
}

/** Listens on sockets that systemd passed: all of them, or none. */
async function bindInherited(
  which: string,
  { exposed, listenTls }: BindOptions,
): Promise<Bound[]> {
  // Without the permissions we cannot even see whether sockets were passed.
  requireDescriptors();
  // Loaded here, because most daemons make their own sockets.
  const [{ takeInherited }, { adopt, ANYWHERE, inspectSocket, listenAbstract }] = await Promise.all(
    [
      import("../platform/activation.ts"),
      import("../platform/sockets.ts"),
    ],
  );
  const taken = takeInherited(which);
  const bound: Bound[] = [];
  try {
    // All are checked before the first is used.
    const sockets = taken.map((socket) => ({ socket, ...inspectSocket(socket.fd) }));
    for (const { fd, proto, address } of sockets) {
      if (proto === "tcp" && !exposed && !isLocal(parseAddress(address))) {
        throw new TypedError("bad parameter", `descriptor ${fd} is ${address}: ${EXPOSED}`);
      }
    }
    for (const { socket, fd, proto, address } of sockets) {
      // The listener gets a duplicate of the descriptor.
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
