/**
 * What Deno's node:tls has without documenting it: a server's handshake over a stream of ours,
 * whose alert reaches the client, and of which it is told why a certificate is not valid.
 *
 * @module
 */

import type { Duplex } from "node:stream";
import { type SecureContext, TLSSocket } from "node:tls";

/** What the runtime keeps behind a socket (TLSWrap of ext/node). */
interface Wrap {
  /** OpenSSL's name of what is wrong with the client's certificate; empty if nothing is. */
  verifyError(): string;
  /** Takes what waits to be sent. */
  drainEncOut?(): Uint8Array;
  onerror(error: Error): void;
}

/** A handshake with a client that has to show a certificate. */
export interface Handshake {
  /** The connection, once the handshake is done. */
  readonly socket: TLSSocket;
  /**
   * Resolves when the handshake is done, with OpenSSL's name of what is wrong with the client's
   * certificate, and with an empty text if nothing is. A client that has none makes it reject.
   */
  readonly done: Promise<string>;
}

/**
 * Begins a handshake as a server that asks for a certificate. A client without one is refused by
 * the runtime; what one that is not valid means is for the caller to say.
 *
 * Not by `tls.createServer`, which destroys the connection before anything can be asked about it,
 * and its alert with it: over a stream that is not its own, Deno queues that and never sends it.
 *
 * @param stream The client, before TLS.
 * @param onAlert Told the last words to the client, to be sent in place of all else, before the
 * stream is destroyed.
 * @throws {Error} If this Deno is made differently.
 */
export function beginHandshake(
  stream: Duplex,
  secureContext: SecureContext,
  onAlert: (words: Uint8Array) => void,
): Handshake {
  const options = {
    secureContext,
    isServer: true,
    requestCert: true,
    rejectUnauthorized: true,
    ALPNProtocols: ["http/1.1"],
    // A client of a raw stream may have sent all, and still read.
    allowHalfOpen: true, // The types do not know it.
  };
  const socket = new TLSSocket(stream, options);
  const { ssl: wrap, _start: start } = socket as unknown as { ssl?: Wrap; _start?: () => void };
  if (typeof wrap?.verifyError !== "function" || typeof start !== "function") {
    throw new Error(`Deno ${Deno.version.deno} cannot verify clients`);
  }
  const { onerror } = wrap;
  wrap.onerror = function (error) {
    const words = wrap.drainEncOut?.();
    if (words?.length) onAlert(words);
    onerror.call(this, error);
  };
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  socket.on("secure", () => resolve(wrap.verifyError()));
  // A client that goes away later is no news; whatever reads or writes hears of it.
  socket.on("error", reject);
  const closed = () => reject(new Error("the connection was closed"));
  socket.on("close", closed);
  // It says nothing of a client that just leaves. Later, so that a better reason comes first.
  stream.on("end", () => setImmediate(closed));
  start.call(socket);
  return { socket, done: promise };
}
