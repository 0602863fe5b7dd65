/**
 * Clients that have to show a certificate.
 *
 * @module
 */

import { Duplex } from "node:stream";
import {
  connect,
  createServer,
  type PeerCertificate,
  type TlsOptions,
  type TLSSocket,
} from "node:tls";
import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import type { Serve, Served, ServedInfo } from "../platform/http.ts";
import { ANYWHERE } from "../platform/sockets.ts";
import type { ClientCertificate } from "../router/bindings.ts";
import type { Certificates } from "./tls.ts";

/** What is known of a request from a client that has shown its certificate. */
export interface VerifiedInfo extends ServedInfo {
  readonly client: ClientCertificate;
}

/** How long the check of the runtime may take, in milliseconds. */
const CHECK_TIMEOUT = 5_000;

/**
 * Serves clients that have to show a certificate. Deno's own TLS listener cannot ask for one, so TLS
 * ends here, by node:tls, and what is inside goes on over a socket of our own to the native HTTP loop:
 * there is one way of serving HTTP, and one that ends connections.
 */
export class Verifier {
  #certificates: Certificates;
  #serve: Serve;
  #pairs?: SocketPairs;
  #log: Logger;
  #known = new KnownClients();

  /** Lets clients through to `serve` that have a certificate. */
  constructor(certificates: Certificates, serve: Serve, log: Logger) {
    this.#certificates = certificates;
    this.#serve = serve;
    this.#log = log;
  }

  /**
   * Makes sure that this runtime refuses a client without a certificate, and that others can be served.
   * There were releases that took the options and let every client in (denoland/deno PR 33439), and a
   * daemon that is told to verify must not run where that is so again.
   *
   * @throws {Error} If either is not so.
   */
  async check(): Promise<void> {
    await this.#checkRefusal();
    const { near, far } = await this.#pair();
    near.close();
    far.close();
  }

  async #pair(): Promise<{ near: Deno.Conn; far: Deno.Conn }> {
    try {
      return await (this.#pairs ??= new SocketPairs()).make();
    } catch (error) {
      // Somebody may have cleaned up the temporary folder; the next client gets another.
      this.close();
      throw new Error(
        `client certificates take a socket of our own in the temporary folder: ${messageOf(error)}`,
        { cause: error },
      );
    }
  }

  async #checkRefusal(): Promise<void> {
    using listener = Deno.listen(ANYWHERE);
    const client = connect({
      host: listener.addr.hostname,
      port: listener.addr.port,
      rejectUnauthorized: false, // It is the server that is on trial.
    });
    client.on("error", () => {}); // To be refused is what it is for.
    using connection = await listener.accept();
    const refused = this.#handshake(duplexOf(connection)).then(
      () => false,
      (error) => error instanceof Refused && error.message === NO_CERTIFICATE,
    );
    try {
      if (!await within(CHECK_TIMEOUT, refused) || !await refused) {
        throw new Error(
          `Deno ${Deno.version.deno} lets clients in that have no certificate, expected one that refuses them, for --tlsverify (TlsVerify)`,
        );
      }
    } finally {
      client.destroy();
    }
  }

  /** Serves a connection, as the native loop does, once its client has proven who it is. */
  readonly serve: Serve<VerifiedInfo> = (conn, signal, handler, onError, onListen): Served => {
    let native: Served | undefined;
    const stream = duplexOf(conn);
    let cut = () => void stream.destroy();
    signal.addEventListener("abort", () => cut());
    const run = async () => {
      const socket = await this.#verified(stream, conn.remoteAddr as Deno.NetAddr);
      const client = describe(socket.getPeerCertificate());
      const { near, far } = await this.#pair().catch((error) => {
        this.#log("error", messageOf(error));
        throw error;
      });
      let cancel = () => {};
      cut = () => {
        socket.destroy();
        cancel();
      };
      const piped = pipe(socket, near);
      native = this.#serve(
        far,
        { addEventListener: (_type, listener) => cancel = listener },
        (request, { completed }) => handler(request, { completed, client }),
        onError,
        onListen,
      );
      // The last of an answer may still be on its way when the loop has ended.
      await native.finished.finally(() => piped);
    };
    return {
      finished: run().finally(() => stream.destroy()),
      shutdown: () => native?.shutdown() ?? Promise.resolve(cut()),
    };
  };

  close(): void {
    this.#pairs?.close();
    this.#pairs = undefined;
  }

  async #verified(stream: Duplex, { hostname, port }: Deno.NetAddr): Promise<TLSSocket> {
    try {
      return await this.#handshake(stream);
    } catch (error) {
      if (error instanceof Refused) {
        this.#log("info", `TLS client ${hostname}:${port} refused: ${error.message}`);
      }
      throw error;
    }
  }

  #handshake(stream: Duplex): Promise<TLSSocket> {
    const options: TlsOptions = {
      ...this.#certificates.now,
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: ["http/1.1"],
    };
    const { promise, resolve, reject } = Promise.withResolvers<TLSSocket>();
    // One for each connection, because it does not say which one its events are about.
    const server = createServer(options, (socket) => {
      // A client that goes away is no news; whoever reads or writes hears of it.
      socket.on("error", () => {});
      const problem = socket.authorized
        ? this.#known.problem(socket, this.#certificates.now.ca)
        : refusal(socket) ?? new Refused("its certificate was not checked");
      if (problem === undefined) return resolve(socket);
      socket.destroy();
      reject(problem);
    });
    server.on("tlsClientError", (error, socket) => reject(refusal(socket, error) ?? error));
    // Later, so that a better reason comes first. node:tls says nothing of a client that just leaves.
    const over = () => setImmediate(() => reject(new Error("the connection was closed")));
    stream.on("end", over).on("close", over);
    server.emit("connection", stream);
    return promise;
  }
}

/** A client has shown no certificate that is good. */
class Refused extends Error {}
const NO_CERTIFICATE = "it has shown no certificate";

/** Why a client was refused, if that is for its certificate. */
function refusal({ authorizationError }: TLSSocket, error?: Error): Refused | undefined {
  // The code of OpenSSL's verification, such as CERT_HAS_EXPIRED.
  if (authorizationError) {
    return new Refused(`its certificate is not valid (${authorizationError})`);
  }
  const { code } = error as { code?: string } | undefined ?? {};
  if (code === "ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE") return new Refused(NO_CERTIFICATE);
}

/** How many clients are known at most; whoever is forgotten has to show a certificate again. */
const KNOWN = 65_536;

/**
 * The clients whose certificates were checked under the authorities of today. A client that resumes a
 * session (RFC 8446, 2.2) shows none: Deno believes what its ticket says, whoever in this process has
 * checked it, under whichever authorities, and whenever that was.
 */
class KnownClients {
  #ca?: string;
  /** When their certificates expire, by fingerprint. */
  #expiries = new Map<string, number>();

  /** Why a client whose session is good is not let in, if it is not. */
  problem(socket: TLSSocket, ca: string | undefined): Refused | undefined {
    if (ca !== this.#ca) this.#expiries.clear();
    this.#ca = ca;
    const { fingerprint256, valid_to } = socket.getPeerCertificate();
    if (!socket.isSessionReused()) {
      if (this.#expiries.size >= KNOWN) this.#expiries.clear();
      this.#expiries.set(fingerprint256, Date.parse(valid_to));
      return undefined;
    }
    const expiry = this.#expiries.get(fingerprint256);
    // Where there is no number the comparison does not hold.
    if (expiry !== undefined && Date.now() <= expiry) return undefined;
    return new Refused("it resumes a session, and its certificate was not checked by now");
  }
}

/** RFC 4514: what has a meaning in a name has a backslash before it. */
function escaped(value: string): string {
  return value.replace(/[\\,+"<>;=]|^[ #]| $/g, "\\$&").replaceAll("\0", "\\00");
}

function describe({ subject, fingerprint256 }: PeerCertificate): ClientCertificate {
  const names = Object.entries(subject as unknown as Record<string, string | string[]>)
    .flatMap(([type, values]) => [values].flat().map((value) => `${type}=${escaped(value)}`));
  // The certificate has the most general first, and the notation has it last.
  return { subject: names.reverse().join(",") || fingerprint256, fingerprint: fingerprint256 };
}

/** A TLS record has at most this many bytes of content (RFC 8446, 5.1). */
const RECORD = 16_384;

/** A connection as what node:tls can use. */
function duplexOf(conn: Deno.Conn): Duplex {
  if ("setNoDelay" in conn) (conn as Deno.TcpConn).setNoDelay();
  const buffer = new Uint8Array(RECORD);
  const settle = (step: Promise<unknown>, done: (error?: Error | null) => void) =>
    step.then(() => done(), done);
  const stream: Duplex = new Duplex({
    read() {
      conn.read(buffer).then(
        (count) => stream.push(count === null ? null : buffer.slice(0, count)),
        (error) => stream.destroy(error),
      );
    },
    write: (chunk: Uint8Array, _encoding, done) => settle(writeAll(conn, chunk), done),
    final: (done) => settle(conn.closeWrite(), done),
    destroy(error, done) {
      closeQuietly(conn);
      done(error);
    },
  });
  stream.on("error", () => {}); // The TLS socket on top of it tells.
  return stream;
}

/** Passes on what comes from either side, until both have ended. Never rejects: each sees the other end. */
async function pipe(socket: TLSSocket, conn: Deno.Conn): Promise<void> {
  const inwards = async () => {
    for await (const chunk of socket) await writeAll(conn, chunk);
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
  // A client that has died is gone for both directions: the native loop hears of it by the pair's end.
  const inwardsEnded = inwards().catch(() => closeQuietly(conn));
  // Once the server has said all it will, what the client still sends is for nobody.
  await outwards().catch(() => {});
  socket.destroy();
  closeQuietly(conn);
  await inwardsEnded;
}

async function writeAll(conn: Deno.Conn, chunk: Uint8Array): Promise<void> {
  for (let at = 0; at < chunk.length;) at += await conn.write(chunk.subarray(at));
}

/** socketpair(2), which Deno has not. */
class SocketPairs {
  #folder = Deno.makeTempDirSync({ prefix: "floodgate-" }); // With no rights for others.
  #path = `${this.#folder}/pair`;
  #listener: Deno.UnixListener;
  #last: Promise<unknown> = Promise.resolve();

  constructor() {
    try {
      this.#listener = Deno.listen({ transport: "unix", path: this.#path });
    } catch (error) {
      Deno.removeSync(this.#folder);
      throw error;
    }
  }

  /** Two ends of a connection. */
  make(): Promise<{ near: Deno.Conn; far: Deno.Conn }> {
    const made = this.#last.then(() => this.#make());
    this.#last = made.catch(() => {});
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
        // What was left in the queue by an attempt that failed, or somebody else's, is not it.
        const said = new Uint8Array(token.length);
        if (await far.read(said) === token.length && said.every((byte, i) => byte === token[i])) {
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
    // It has ended by itself.
    if (!(error instanceof Deno.errors.BadResource)) throw error;
  }
}
