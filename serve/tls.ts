/**
 * TLS: the certificates of a daemon, listeners whose certificates can be renewed, and the server of
 * their connections.
 *
 * @module
 */

import { createPrivateKey, createPublicKey, type KeyObject, X509Certificate } from "node:crypto";
import { messageOf, TypedError } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import type { Acceptor } from "../listenbuffer.ts";
import { nativeServe, type Serve, type Served, type ServedInfo } from "../platform/http.ts";
import type { ClientCertificate } from "../router/bindings.ts";
import { adopt, ANYWHERE, endsOf, observe, shutConnections } from "../platform/sockets.ts";
import type { Verifier } from "./client_certificates.ts";
import type { Inner } from "./handler.ts";

/** The files of a daemon's certificates, all in PEM. */
export interface CertificateFiles {
  /** The daemon's certificate, followed by its chain. */
  cert: string;
  /** Its private key. */
  key: string;
  /** The authorities that sign clients' certificates. Default: clients need no certificate. */
  ca?: string;
}

/** TLS for the tcp addresses of an API: listens, serves, renews its certificates, and closes. */
export class Tls {
  /** Whether clients have to present a certificate. */
  readonly verifies: boolean;
  /** How many descriptors a connection takes: with client certificates a socket pair besides. */
  readonly descriptors: number;
  /** Serves a connection that was accepted from a listener of {@linkcode listen}. */
  readonly serve: Serve<ServedInfo & { client?: ClientCertificate }>;
  #certificates: Certificates;
  #server: { close(): void };
  #listeners: TlsListener[] = [];

  private constructor(certificates: Certificates, server: Verifier | TlsServer) {
    this.verifies = certificates.files.ca !== undefined;
    this.descriptors = this.verifies ? 3 : 1;
    this.serve = server.serve;
    this.#certificates = certificates;
    this.#server = server;
  }

  /**
   * Reads and checks the certificates, and, with client certificates, this runtime.
   *
   * @param inner Serves the plaintext connections of verified clients.
   * @throws {TypedError} ("bad parameter") If a file is missing or invalid; {Error} if this release
   * of Deno cannot verify clients.
   */
  static async load(files: CertificateFiles, inner: Inner, log: Logger): Promise<Tls> {
    const certificates = new Certificates(files, log);
    if (files.ca === undefined) return new Tls(certificates, new TlsServer(nativeServe()));
    // Loaded here, because node:tls is slow to load.
    const { Verifier } = await import("./client_certificates.ts");
    const verifier = new Verifier(certificates, inner, log);
    await verifier.check();
    return new Tls(certificates, verifier);
  }

  /**
   * Listens.
   *
   * @param where An address to bind, or the descriptor of a listening socket.
   * @throws What `Deno.listen` and {@linkcode adopt} throw.
   */
  listen(where: Deno.TcpListenOptions | number): Acceptor<Deno.Conn, Deno.Addr> {
    if (this.verifies) {
      // Deno's own TLS listener cannot request a certificate: node:tls handshakes when it is
      // served.
      return typeof where === "number"
        ? adopt(() => Deno.listen(ANYWHERE), where).listener
        : Deno.listen(where);
    }
    const listener = new TlsListener(this.#certificates, where);
    this.#listeners.push(listener);
    return listener;
  }

  /**
   * Reads the certificates again, for new connections.
   *
   * @returns The file of the daemon's certificate, and whether the authorities of clients have
   * changed.
   * @throws {TypedError} ("bad parameter") If a file is missing or invalid, or a listener cannot be
   * renewed.
   */
  renew(): { cert: string; otherAuthorities: boolean } {
    const { ca } = this.#certificates.now;
    this.#certificates.reload();
    for (const listener of this.#listeners) listener.renew();
    return {
      cert: this.#certificates.files.cert,
      otherAuthorities: this.#certificates.now.ca !== ca,
    };
  }

  /** Closes the connections that are still open. */
  close(): void {
    this.#server.close();
  }
}

/** The certificates of a daemon, read from their files. */
export class Certificates {
  readonly files: CertificateFiles;
  #log: Logger;
  #now: { cert: string; key: string; ca?: string | undefined };

  /**
   * Reads and checks the files.
   *
   * @throws {TypedError} ("bad parameter") If a file is missing or invalid; the message names it.
   */
  constructor(files: CertificateFiles, log: Logger) {
    this.files = files;
    this.#log = log;
    this.#now = this.#read();
  }
  /** The contents of the files when they were last read. */
  get now(): { readonly cert: string; readonly key: string; readonly ca?: string | undefined } {
    return this.#now;
  }
  /** Reads the files again. Throws like the constructor, and then keeps the old contents. */
  reload(): void {
    this.#now = this.#read();
  }

  #read(): { cert: string; key: string; ca?: string | undefined } {
    const { files } = this;
    const cert = readPem("certificate", files.cert);
    const key = readPem("key", files.key);
    const ca = files.ca === undefined ? undefined : readPem("certificate authority", files.ca);
    const certificate = parsed("certificate", files.cert, () => new X509Certificate(cert));
    if (!isVersion3(certificate.raw)) {
      throw new TypedError(
        "bad parameter",
        `TLS certificate ${files.cert}: it is of X.509 version 1, expected version 3: ` +
          "sign it with a subjectAltName (openssl x509 -req -extfile)",
      );
    }
    if (ca !== undefined) {
      parsed("certificate authority", files.ca!, () => new X509Certificate(ca));
    }
    // Encryption is marked in the PEM label (PKCS #8) or in a header (RFC 1421).
    if (/^(-----BEGIN ENCRYPTED PRIVATE KEY-----|Proc-Type: *4,ENCRYPTED)/m.test(key)) {
      throw new TypedError(
        "bad parameter",
        `TLS key ${files.key}: it is encrypted, expected one without a passphrase`,
      );
    }
    const publicKey = parsed("key", files.key, () => createPublicKey(createPrivateKey(key)));
    if (!derOf(publicKey).equals(derOf(certificate.publicKey))) {
      throw new TypedError(
        "bad parameter",
        `TLS key ${files.key}: it does not match the certificate ${files.cert}`,
      );
    }
    if (new Date(certificate.validFrom) > new Date()) {
      this.#log("warn", `TLS certificate ${files.cert}: it is valid from ${certificate.validFrom}`);
    }
    if (new Date(certificate.validTo) < new Date()) {
      this.#log("warn", `TLS certificate ${files.cert}: it expired on ${certificate.validTo}`);
    }
    const { mode } = Deno.statSync(files.key);
    if (mode !== null && (mode & 0o004) !== 0) {
      this.#log(
        "warn",
        `TLS key ${files.key}: every user of this machine can read it, try chmod o-r`,
      );
    }
    return { cert, key, ca };
  }
}

/** Whether a certificate tells its version (RFC 5280, 4.1), as those of version 1 do not. */
function isVersion3(der: Uint8Array): boolean {
  // The length of what a tag begins is in one byte, or in as many more as its lower bits tell.
  const inside = (at: number) => at + 2 + (der[at + 1]! < 0x80 ? 0 : der[at + 1]! & 0x7f);
  return der[inside(inside(0))] === 0xa0;
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

/** The protocols offered by ALPN (RFC 7301), the preferred first. */
const PROTOCOLS = ["h2", "http/1.1"];

/** A listener for TLS on tcp whose certificates can be renewed while it listens. */
export class TlsListener implements Acceptor<Deno.Conn, Deno.Addr> {
  #certificates: Certificates;
  #listener: Deno.TlsListener;
  #fd: number | undefined;

  /**
   * Listens.
   *
   * @param where An address to bind, or the descriptor of a listening socket.
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
  /** The descriptor of the socket; undefined if it cannot be found. */
  get fd(): number | undefined {
    return this.#fd;
  }
  async accept(): Promise<Deno.Conn> {
    while (true) {
      const listener = this.#listener;
      try {
        return await listener.accept();
      } catch (error) {
        // renew() replaced the listener meanwhile.
        if (listener === this.#listener) throw error;
      }
    }
  }
  close(): void {
    this.#fd = undefined; // The kernel may reuse the number.
    this.#listener.close();
  }
  ref(): void {
    this.#listener.ref();
  }
  unref(): void {
    this.#listener.unref();
  }
  /**
   * Uses the certificates' new contents for new connections. The socket stays the same, so that no
   * client in its queue is lost.
   *
   * @throws {TypedError} Without permission for foreign functions; then the old certificates stay.
   */
  renew(): void {
    // Without a descriptor adopt() throws, and its message says which permission is missing.
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

/** How long a client may take to read the end of its connection, in milliseconds. */
const LINGER = 1_000;

/**
 * Serves connections of a {@linkcode TlsListener}. Deno keeps an ended TLS connection open until
 * its client closes it, which may be never: in the middle of a handshake, or of an answer that the
 * client does not read. So connections that linger are shut down.
 */
export class TlsServer {
  #serve: Serve;
  /** When each connection ended; Infinity while it is served. */
  #connections = new Map<string, { ended: number }>();
  #timer: ReturnType<typeof setInterval> | undefined;

  /** Serves with the native loop. */
  constructor(serve: Serve) {
    this.#serve = serve;
  }
  /** Serves a connection, as the native loop does. */
  readonly serve: Serve = (conn, ...rest): Served => {
    const connection = { ended: Infinity };
    // An earlier connection between the same ports is gone, even if its end was not reported yet.
    this.#connections.set(endsOf(conn), connection);
    const served = this.#serve(conn, ...rest);
    const finished = served.finished.finally(() => {
      connection.ended = performance.now();
      this.#timer ??= setInterval(() => this.#sweep(), LINGER);
    });
    return {
      finished,
      shutdown: () => served.shutdown(),
      hijack: (response, request) => served.hijack?.(response, request),
    };
  };
  /** Shuts down the connections that are left. */
  close(): void {
    this.#shut([...this.#connections.keys()]);
  }
  #sweep(): void {
    const now = performance.now();
    const late = [...this.#connections].filter(([, { ended }]) => now - ended >= LINGER);
    this.#shut(late.map(([ends]) => ends));
  }
  #shut(late: string[]): void {
    if (late.length > 0) shutConnections(new Set(late));
    for (const ends of late) this.#connections.delete(ends);
    if (this.#connections.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }
}
