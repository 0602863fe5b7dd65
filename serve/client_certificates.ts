/**
 * TLS for clients that have to present a certificate.
 *
 * @module
 */

import { X509Certificate } from "node:crypto";
import { Duplex } from "node:stream";
import { connect, createSecureContext, type SecureContext, type TLSSocket } from "node:tls";
import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import type { Serve, ServedInfo } from "../platform/http.ts";
import { ANYWHERE } from "../platform/sockets.ts";
import { beginHandshake } from "../platform/tls.ts";
import type { ClientCertificate } from "../router/bindings.ts";
import { readNames } from "./distinguished_name.ts";
import type { Inner, Upgrading } from "./handler.ts";
import type { Certificates } from "./tls.ts";

/** A request of a client whose certificate was verified. */
export interface VerifiedInfo extends ServedInfo {
  readonly client: ClientCertificate;
}

/** How long each handshake of {@linkcode Verifier.check} may take, in milliseconds. */
const CHECK_TIMEOUT = 5_000;

/**
 * Serves clients that have to present a certificate. Deno's own TLS listener cannot request one, so
 * node:tls terminates TLS here, and a socket pair carries the plaintext to the native HTTP loop. So
 * there is one way of serving HTTP, and one of ending connections.
 */
export class Verifier {
  #certificates: Certificates;
  #serve: Serve;
  #accepted: (conn: Deno.Conn) => void;
  #pairs: SocketPairs | undefined;
  #log: Logger;
  #known = new KnownClients();

  /** Passes clients that have a valid certificate on to `inner`. */
  constructor(certificates: Certificates, inner: Inner, log: Logger) {
    this.#certificates = certificates;
    this.#serve = inner.serve;
    this.#accepted = inner.accepted ?? (() => {});
    this.#log = log;
  }

  /**
   * Checks that this runtime refuses a client without a valid certificate, and that others can be
   * served. Some releases of Deno accepted the options and let every client in (denoland/deno PR
   * 33439); a daemon with --tlsverify must not run on such a release.
   *
   * @throws {Error} If the runtime lets such a client in, or a socket pair cannot be made.
   */
  async check(): Promise<void> {
    await this.#checkRefusal();
    const { near, far } = await this.#pair();
    near.close();
    far.close();
  }

  async #pair(): Promise<{ near: Deno.Conn; far: Deno.Conn }> {
    try {
      return await (this.#pairs ??= new SocketPairs(this.#accepted)).make();
    } catch (error) {
      // Another process may have removed the temporary folder: the next client gets a new one.
      this.close();
      throw new Error(
        `client certificates need a unix socket in the temporary folder: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  /** Tries to connect without a certificate, and with one of an unknown authority. */
  async #checkRefusal(): Promise<void> {
    const { cert, key } = this.#certificates.now;
    const strict = createSecureContext({ cert, key, ca: STRANGER });
    for (const shown of [{}, { cert, key }]) {
      using listener = Deno.listen(ANYWHERE);
      const client = connect({
        host: listener.addr.hostname,
        port: listener.addr.port,
        rejectUnauthorized: false, // The server is what is tested.
        ...shown,
      });
      client.on("error", () => {}); // It expects to be refused.
      const raw = new RawConnection(await listener.accept());
      const refused = this.#handshake(raw, strict).then(
        () => false,
        (error) => error instanceof Refused,
      );
      try {
        if (await within(CHECK_TIMEOUT, refused) && await refused) continue;
        throw new Error(
          `Deno ${Deno.version.deno} lets clients in that have no valid certificate, expected a release that refuses them, for --tlsverify (TlsVerify)`,
        );
      } finally {
        client.destroy();
        raw.cut();
      }
    }
  }

  /** Serves a connection, as the native loop does, once its client's certificate is verified. */
  readonly serve: Serve<VerifiedInfo> = (conn, signal, handler, onError, onListen): Upgrading => {
    let native: Upgrading | undefined;
    const raw = new RawConnection(conn);
    let cut = () => raw.cut();
    signal.addEventListener("abort", () => cut());
    const run = async () => {
      const { socket, client } = await this.#verified(raw, conn.remoteAddr as Deno.NetAddr);
      const { near, far } = await this.#pair().catch((error) => {
        this.#log("error", messageOf(error));
        throw error;
      });
      let cancel = () => {};
      cut = () => {
        raw.cut();
        socket.destroy();
        cancel();
      };
      const piped = pipe(socket, near, raw.passed);
      native = this.#serve(
        far,
        { addEventListener: (_type, listener) => cancel = listener },
        (request, { completed, refused }) =>
          handler(request, { completed, client, ...refused && { refused } }),
        onError,
        onListen,
      );
      // The end of an answer may still be in the pair when the loop has ended.
      await native.finished.finally(() => piped);
    };
    return {
      finished: run().finally(() => {
        raw.stream.destroy();
        return raw.closed;
      }),
      shutdown: () => native?.shutdown() ?? Promise.resolve(cut()),
      hijack: (response, request) => native?.hijack?.(response, request),
      get upgrade() {
        const served = native;
        return served?.upgrade &&
          ((request: Request, headers?: HeadersInit) => served.upgrade!(request, headers));
      },
      get once() {
        return native?.once ?? false;
      },
    };
  };

  close(): void {
    this.#pairs?.close();
    this.#pairs = undefined;
  }

  async #verified(
    raw: RawConnection,
    { hostname, port }: Deno.NetAddr,
  ): Promise<{ socket: TLSSocket; client: ClientCertificate }> {
    try {
      const socket = await this.#handshake(raw, this.#context);
      try {
        const certificate = socket.getPeerCertificate();
        this.#known.check(socket, this.#certificates.now.ca);
        return { socket, client: describe(certificate.raw, certificate.fingerprint256) };
      } catch (error) {
        await raw.end(socket);
        throw error;
      }
    } catch (error) {
      if (error instanceof Refused) {
        this.#log("info", `TLS client ${hostname}:${port} refused: ${error.message}`);
      }
      throw error;
    }
  }

  /** The TLS context of the current certificates. */
  get #context(): SecureContext {
    const { now } = this.#certificates;
    if (now !== this.#made?.of) this.#made = { of: now, context: createSecureContext(now) };
    return this.#made.context;
  }
  #made?: { of: Certificates["now"]; context: SecureContext };

  /** Resolves once the client has presented a valid certificate. */
  async #handshake(raw: RawConnection, context: SecureContext): Promise<TLSSocket> {
    const { socket, done } = beginHandshake(raw.stream, context, (alert) => raw.closing = alert);
    let problem: string;
    try {
      problem = await done;
    } catch (error) {
      if (raw.plain) throw new Refused("it speaks HTTP without TLS");
      throw (error as { code?: string }).code === "ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE"
        ? new Refused("it has presented no certificate")
        : error;
    }
    const { raw: certificate } = socket.getPeerCertificate() ?? {};
    if (problem === "" && certificate) return socket;
    await raw.end(socket);
    throw new Refused(
      certificate
        ? `its certificate is not valid: ${
          whyInvalid(certificate, this.#certificates.now.ca, problem)
        }`
        : "it has presented no certificate",
    );
  }
}

/** An authority that has signed nothing, so that every certificate has to be refused. */
const STRANGER = `-----BEGIN CERTIFICATE-----
MIIBfTCCASOgAwIBAgIUF14V/W67dSCApLZU6TLATKqyD6UwCgYIKoZIzj0EAwIw
EzERMA8GA1UEAwwIc3RyYW5nZXIwIBcNMjYxMTI3MjEyNDUzWhgPMjEyNjExMDMy
MTI0NTNaMBMxETAPBgNVBAMMCHN0cmFuZ2VyMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEcY6X/wWzNkAI5A7v5Yy+MlktK4BC/ZrrVLjpCQh+eAc8FwE33qAVUC0P
f5qRCI4rzb93t4O1ZbzaH9yYmTMOzaNTMFEwHQYDVR0OBBYEFJEX29hhXbTabkNL
ik2/VJGkPPFvMB8GA1UdIwQYMBaAFJEX29hhXbTabkNLik2/VJGkPPFvMA8GA1Ud
EwEB/wQFMAMBAf8wCgYIKoZIzj0EAwIDSAAwRQIhAIXNvJheyvFa3PzWEnRb31oE
5HTK1PltaQmcKviJTzT2AiArcT6UMw0XLll6mhejZKZmprLkbKsdW9u698O2Vz96
6g==
-----END CERTIFICATE-----`;

/** A client is refused. */
class Refused extends Error {}

/** The extended key usages of a client's certificate (RFC 5280, 4.2.1.12). */
const CLIENT_AUTH = "1.3.6.1.5.5.7.3.2";
const ANY_USAGE = "2.5.29.37.0";

/**
 * What is wrong with a client's certificate, with OpenSSL's code for it. node:tls has one code for
 * most problems (UNABLE_TO_VERIFY_LEAF_SIGNATURE), which helps no operator.
 *
 * @param code The code of node:tls.
 */
function whyInvalid(der: Uint8Array, ca: string | undefined, code: string): string {
  let certificate: X509Certificate;
  let usages: readonly string[] | undefined;
  try {
    const names = readNames(der);
    usages = names.usages;
    if (names.version < 3) return `it is X.509 v${names.version}, expected v3`;
    certificate = new X509Certificate(der);
  } catch (error) {
    return `${messageOf(error)} (${code})`;
  }
  const { validFrom, validTo, issuer } = certificate;
  const now = Date.now();
  if (Date.parse(validTo) < now) return `it expired on ${validTo} (CERT_HAS_EXPIRED)`;
  if (Date.parse(validFrom) > now) {
    return `it is not valid before ${validFrom} (CERT_NOT_YET_VALID)`;
  }
  if (usages && !usages.includes(CLIENT_AUTH) && !usages.includes(ANY_USAGE)) {
    return "it is not for clients, expected the extended key usage clientAuth (INVALID_PURPOSE)";
  }
  const from = `its issuer ${JSON.stringify(issuer?.replaceAll("\n", ", ") ?? "")}`;
  return authoritiesIn(ca ?? "").some((authority) => certificate.checkIssued(authority))
    ? `${from} has not signed it (CERT_SIGNATURE_FAILURE)`
    : `${from} is not known (UNABLE_TO_GET_ISSUER_CERT)`;
}

function authoritiesIn(pem: string): X509Certificate[] {
  return (pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g) ?? [])
    .map((text) => new X509Certificate(text));
}

/** How many clients are remembered; a forgotten one has to present its certificate again. */
const KNOWN = 65_536;

/**
 * The clients whose certificates were verified under the current authorities. A client that resumes
 * a session (RFC 8446, 2.2) presents none: Deno trusts its ticket, even if the certificate was
 * verified by another listener of this process, under other authorities, or has expired since.
 */
class KnownClients {
  #ca: string | undefined;
  /** The expiry of their certificates, by fingerprint. */
  #expiries = new Map<string, number>();

  /** Remembers a client; throws Refused if it resumes a session and is not remembered. */
  check(socket: TLSSocket, ca: string | undefined): void {
    if (ca !== this.#ca) this.#expiries.clear();
    this.#ca = ca;
    const { fingerprint256, valid_to } = socket.getPeerCertificate();
    if (!socket.isSessionReused()) {
      if (this.#expiries.size >= KNOWN) this.#expiries.clear();
      this.#expiries.set(fingerprint256, Date.parse(valid_to));
      return;
    }
    const expiry = this.#expiries.get(fingerprint256);
    // False for NaN too.
    if (expiry !== undefined && Date.now() <= expiry) return;
    throw new Refused("it resumes a session, and its certificate has expired or was not checked");
  }
}

function describe(der: Uint8Array, fingerprint: string): ClientCertificate {
  return { subject: readNames(der).subject || fingerprint, fingerprint };
}

/** The most bytes of content in a TLS record (RFC 8446, 5.1). */
const RECORD = 16_384;
/** How long a refused client may take to read why, in milliseconds. */
const LINGER = 1_000;
/** Input has ended after this many checks without data, at this interval in milliseconds. */
const QUIET = 5;
const QUIET_TURNS = 3;
const PLAIN_HTTP = new TextEncoder().encode(plainHttp());

/** The answer to a client that speaks HTTP without TLS, worded as in Go's net/http. */
function plainHttp(): string {
  const body = JSON.stringify({ message: "Client sent an HTTP request to an HTTPS server." }) +
    "\n";
  return "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n" +
    `Content-Length: ${body.length}\r\n\r\n${body}`;
}

/** A connection as a stream that node:tls can use. */
class RawConnection {
  readonly stream: Duplex;
  /** Resolves when the connection is closed, some time after the stream is destroyed. */
  readonly closed: Promise<void>;
  /** What is still sent to the client when the stream is destroyed. */
  closing?: Uint8Array;
  /** Whether the client speaks HTTP without TLS. */
  plain = false;
  /** How many decrypted chunks were read, and whether one is being forwarded. */
  readonly passed = { chunks: 0, busy: false };
  #conn: Deno.Conn;
  #cut = false;

  constructor(conn: Deno.Conn) {
    this.#conn = conn;
    if ("setNoDelay" in conn) (conn as Deno.TcpConn).setNoDelay();
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    const buffer = new Uint8Array(RECORD);
    const settle = (step: Promise<unknown>, done: (error?: Error | null) => void) =>
      step.then(() => done(), done);
    let first = true;
    this.stream = new Duplex({
      read: () => {
        conn.read(buffer).then((count) => {
          if (count === null) return this.#finish();
          // A handshake record begins with 22 (RFC 8446, 5.1), an HTTP request with a capital
          // letter.
          if (first && buffer[0]! >= 0x41 && buffer[0]! <= 0x5a) {
            this.plain = true;
            this.closing = PLAIN_HTTP;
            return this.stream.destroy(new Error("HTTP without TLS"));
          }
          first = false;
          this.stream.push(buffer.slice(0, count));
        }, (error) => this.stream.destroy(error));
      },
      write: (chunk: Uint8Array, _encoding, done) => settle(writeAll(conn, chunk), done),
      final: (done) => settle(conn.closeWrite(), done),
      destroy: (error, done) => {
        done(error);
        this.#close(buffer).finally(resolve);
      },
    });
    this.stream.on("error", () => {}); // The TLS socket reports it.
  }

  /**
   * Passes the client's end of input on to TLS once all received data is decrypted: node:tls drops
   * what it has not decrypted when the end comes, and its reader waits for ever.
   */
  #finish(quiet = 0): void {
    const { chunks } = this.passed;
    setTimeout(() => {
      if (this.passed.busy || this.passed.chunks !== chunks) this.#finish();
      // Several checks, because one may come late.
      else if (quiet < QUIET_TURNS) this.#finish(quiet + 1);
      else this.stream.push(null);
    }, QUIET);
  }

  /** Closes TLS with an alert, and lets the client read it. */
  async end(socket: TLSSocket): Promise<void> {
    this.closing = new Uint8Array(0);
    await within(LINGER, new Promise<void>((resolve) => socket.end(resolve)));
    this.stream.destroy();
  }

  /** Closes the connection at once. */
  cut(): void {
    this.#cut = true;
    closeQuietly(this.#conn);
    this.stream.destroy();
  }

  /**
   * Closes once the client has read the closing data. Closing with unread input would reset the
   * connection, and the client would lose what it has not read.
   */
  async #close(buffer: Uint8Array): Promise<void> {
    try {
      if (this.closing === undefined || this.#cut) return;
      const read = async () => {
        await writeAll(this.#conn, this.closing!);
        await this.#conn.closeWrite();
        while (await this.#conn.read(buffer) !== null);
      };
      // Fails if the client has gone.
      await within(LINGER, read().catch(() => {}));
    } finally {
      closeQuietly(this.#conn);
    }
  }
}

/** Forwards both directions until both have ended. Never rejects. */
async function pipe(
  socket: TLSSocket,
  conn: Deno.Conn,
  passed: RawConnection["passed"],
): Promise<void> {
  const inwards = async () => {
    // The client may half-close and still read, so the end of its input must not destroy the
    // socket.
    for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
      passed.chunks++;
      passed.busy = true;
      await writeAll(conn, chunk);
      passed.busy = false;
    }
    await conn.closeWrite();
  };
  const outwards = async () => {
    const buffer = new Uint8Array(RECORD);
    for (let count; (count = await conn.read(buffer)) !== null;) {
      await new Promise<void>((resolve, reject) =>
        socket.write(buffer.slice(0, count!), (error) => error ? reject(error) : resolve())
      );
    }
    await new Promise<void>((resolve) => socket.end(resolve));
  };
  // A broken client is broken in both directions: closing the pair tells the native loop.
  const inwardsEnded = inwards().catch(() => closeQuietly(conn));
  // Once the server has sent everything, or either side has failed, what the client still sends is
  // discarded.
  await outwards().catch(() => {});
  socket.destroy();
  closeQuietly(conn);
  await inwardsEnded;
}

async function writeAll(conn: Deno.Conn, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length;) at += await conn.write(chunk.subarray(at));
}

/** socketpair(2), which Deno lacks, by a listener in a private folder. */
class SocketPairs {
  #folder = Deno.makeTempDirSync({ prefix: "floodgate-" }); // Mode 0700.
  #path = `${this.#folder}/pair`;
  #listener: Deno.UnixListener;
  #last: Promise<unknown> = Promise.resolve();
  #accepted: (conn: Deno.Conn) => void;

  /** Calls `accepted` with each connection that it accepts. */
  constructor(accepted: (conn: Deno.Conn) => void) {
    this.#accepted = accepted;
    try {
      this.#listener = Deno.listen({ transport: "unix", path: this.#path });
    } catch (error) {
      Deno.removeSync(this.#folder);
      throw error;
    }
  }

  /** Makes a connected pair. */
  make(): Promise<{ near: Deno.Conn; far: Deno.Conn }> {
    const made = this.#last.then(() => this.#make());
    this.#last = made.catch(() => {}); // The caller gets the error; the next pair is made anyway.
    return made;
  }
  close(): void {
    this.#listener.close();
    try {
      Deno.removeSync(this.#folder, { recursive: true });
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  async #make(): Promise<{ near: Deno.Conn; far: Deno.Conn }> {
    const near = await Deno.connect({ transport: "unix", path: this.#path });
    try {
      const token = crypto.getRandomValues(new Uint8Array(16));
      await near.write(token);
      while (true) {
        const far = await this.#listener.accept();
        this.#accepted(far);
        // Without the token it is of an attempt that failed, or of another process.
        const got = new Uint8Array(token.length);
        if (await far.read(got) === token.length && got.every((byte, i) => byte === token[i])) {
          return { near, far };
        }
        far.close();
      }
    } catch (error) {
      near.close();
      throw error;
    }
  }
}

function closeQuietly(conn: { close(): void }): void {
  try {
    conn.close();
  } catch (error) {
    // Closed already.
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}
