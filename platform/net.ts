/**
 * What Deno's sockets and those of the C library have in common: how addresses are written, and how
 * long a queue may be.
 *
 * @module
 */

/** More than any kernel's net.core.somaxconn: as many as it allows. */
export const BACKLOG = 65_535;

/**
 * The path of a unix socket as `unix:///path`, or `unix://@name` for an abstract name (unix(7)).
 */
export function formatUnix(path: string): string {
  // Only an abstract name begins with a zero byte, and it may have more of them; a path ends with
  // one.
  const name = path.startsWith("\0") ? path.replaceAll("\0", "@") : path.replace(/\0.*/s, "");
  return `unix://${name}`;
}

/** An internet address as `tcp://HOST:PORT`, an IPv6 host in its short form. */
export function formatTcp({ hostname, port }: { hostname: string; port: number }): string {
  const host = hostname.includes(":") ? new URL(`http://[${hostname}]`).hostname : hostname;
  return `tcp://${host}:${port}`;
}
