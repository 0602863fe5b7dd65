/**
 * TLS: the certificates of a daemon, and listeners that take new ones.
 *
 * @module
 */

import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from "node:crypto";
import { messageOf, TypedError } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import type { Acceptor } from "../listenbuffer.ts";
import type { Serve, Served } from "../platform/http.ts";
import { adopt, ANYWHERE, endsOf, observe, shutConnections } from "../platform/sockets.ts";

/** The files of a daemon's certificates, all in PEM. */
export interface CertificateFiles {
  /** The daemon's certificate, followed by those between it and its authority. */
  cert: string;
  /** Its private key. */
  key: string;
  /** The authorities of whose certificates clients have to show one. Default: clients need none. */
  ca?: string;
}

/** The certificates of a daemon, as they are in their files. */
export class Certificates {
  readonly files: CertificateFiles;
  #log: Logger;
  #now: { cert: string; key: string; ca?: string };

  /**
   * Reads and checks the files.
   *
   * @throws {TypedError} ("bad parameter") With a message that names the file and what is wrong with it.
   */
  constructor(files: CertificateFiles, log: Logger) {
    this.files = files;
    this.#log = log;
    this.#now = this.#read();
  }
  /** What the files held when they were last read. */
  get now(): { readonly cert: string; readonly key: string; readonly ca?: string } {
    return this.#now;
  }
  /** Reads the files anew. Throws as the constructor does, and keeps what was there. */
  reload(): void {
    this.#now = this.#read();
  }

  #read(): { cert: string; key: string; ca?: string } {
    const { files } = this;
    const cert = readPem("certificate", files.cert);
    const key = readPem("key", files.key);
    const ca = files.ca === undefined ? undefined : readPem("certificate authority", files.ca);
    const certificate = parsed("certificate", files.cert, () => new X509Certificate(cert));
    if (ca !== undefined) {
      parsed("certificate authority", files.ca!, () => new X509Certificate(ca));
    }
    // PKCS #8 says so in its header, and what came before it in a header of its own (RFC 1421).
    if (/^(-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: *4,ENCRYPTED)/m.test(key)) {
      throw new TypedError(
        "bad parameter",
        `TLS key ${files.key}: it is encrypted, expected one without a passphrase`,
      );
    }
    const publicKey = parsed("key", files.key, () => createPublicKey(createPrivateKey(key)));
    // Not checkPrivateKey(), which Deno 2.6 has not.
    if (!derOf(publicKey).equals(derOf(certificate.publicKey))) {
      throw new TypedError(
        "bad parameter",
        `TLS key ${files.key}: it is not that of the certificate ${files.cert}`,
      );
    }
    if (new Date(certificate.validTo) < new Date()) {
      this.#log("warn", `TLS certificate ${files.cert}: it expired on ${certificate.validTo}`);
    }
    const { mode } = Deno.statSync(files.key);
    if (mode !== null && (mode & 0o004) !== 0) {
      this.#log(
        "warn",
        `TLS key ${files.key}: everyone on this machine can read it, try chmod o-r`,
      );
    }
    return { cert, key, ca };
  }
}

function derOf(key: KeyObject) {
  return key.export({ type: "spki", format: "der" });
}

function readPem(what: string, path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    throw new TypedError("bad parameter", `TLS ${what} ${path}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}

function parsed<T>(what: string, path: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw new TypedError("bad parameter", `TLS ${what} ${path}: expected one in PEM`, {
      cause: error,
    });
  }
}

/** What clients are offered, the best first (RFC 7301). */
const PROTOCOLS = ["h2", "http/1.1"];

/** A listener for TLS on tcp that can be given new certificates while it listens. */
export class TlsListener implements Acceptor<Deno.Conn, Deno.Addr> {
  #certificates: Certificates;
  #listener: Deno.TlsListener;
  #fd?: number;

  /**
   * Listens.
   *
   * @param where An address to bind, or the descriptor of a socket that listens already.
   * @throws What `Deno.listenTls` and {@linkcode adopt} throw.
   */
  constructor(
    certificates: Certificates,
    where: Deno.TcpListenOptions | number,
  ) {
    this.#certificates = certificates;
    const { listener, fd } = typeof where === "number"
      ? adopt(() => this.#listen(ANYWHERE), where)
      : observe(() => this.#listen(where));
    this.#listener = listener;
    this.#fd = fd;
  }
  get addr(): Deno.Addr {
    return this.#listener.addr;
  }
  async accept(): Promise<Deno.Conn> {
    while (true) {
      const listener = this.#listener;
      try {
        return await listener.accept();
      } catch (error) {
        // It was replaced while we waited.
        if (listener === this.#listener) throw error;
      }
    }
  }
  close(): void {
    this.#fd = undefined; // It will be another's.
    this.#listener.close();
  }
  ref(): void {
    this.#listener.ref();
  }
  unref(): void {
    this.#listener.unref();
  }
  /**
   * Takes the certificates' new contents for connections from now on. The socket stays the same, so
   * that nobody in its queue is lost.
   *
   * @throws {TypedError} Where foreign functions are not to be had; then the old ones stay.
   */
  renew(): void {
    // What adopt() needs is what finding the descriptor needed; it says best what is missing.
    const { listener, fd } = adopt(() => this.#listen(ANYWHERE), this.#fd ?? -1);
    const old = this.#listener;
    this.#listener = listener;
    this.#fd = fd;
    old.close();
  }
  #listen(where: Deno.TcpListenOptions): Deno.TlsListener {
    const { cert, key } = this.#certificates.now;
    return Deno.listenTls({ ...where, cert, key, alpnProtocols: PROTOCOLS });
  }
}

/** How long a client may take to go once its connection has ended, in milliseconds. */
const LINGER = 1_000;

/**
 * Serves connections of a {@linkcode TlsListener}. Deno does not let go of a TLS connection that has
 * ended before its client has gone, which may be never: in the middle of a handshake, or of an answer
 * that the client does not take. So those who stay too long are shown out.
 */
export class TlsServer {
  #serve: Serve;
  /** When each connection ended; never, as long as it is served. */
  #connections = new Map<string, { ended: number }>();
  #timer?: ReturnType<typeof setInterval>;

  /** Serves with the native loop. */
  constructor(serve: Serve) {
    this.#serve = serve;
  }
  /** Serves a connection, as the native loop does. */
  readonly serve: Serve = (conn, ...rest): Served => {
    const connection = { ended: Infinity };
    // If there was one before between the same ports, it is gone, even if we have not heard of it yet.
    this.#connections.set(endsOf(conn), connection);
    const served = this.#serve(conn, ...rest);
    const finished = served.finished.finally(() => {
      connection.ended = performance.now();
      this.#timer ??= setInterval(() => this.#sweep(), LINGER);
    });
    return { finished, shutdown: () => served.shutdown() };
  };
  /** Shows everybody out. */
  close(): void {
    this.#show([...this.#connections.keys()]);
  }
  #sweep(): void {
    const now = performance.now();
    const late = [...this.#connections].filter(([, { ended }]) => now - ended >= LINGER);
    this.#show(late.map(([ends]) => ends));
  }
  #show(late: string[]): void {
    if (late.length > 0) shutConnections(new Set(late));
    for (const ends of late) this.#connections.delete(ends);
    if (this.#connections.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
