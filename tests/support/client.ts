/**
 * A plain HTTP/1.1 client on a raw socket. It sees what a real client sees, including a truncated
 * answer, and does nothing on its own, such as a retry.
 *
 * @module
 */

/** An address to connect to. */
export type Target = Deno.ConnectOptions | Deno.UnixConnectOptions | TlsTarget;
/** An address with TLS, and the client's certificate if it has one. */
export type TlsTarget =
  & Deno.ConnectTlsOptions
  & { caCerts: string[] }
  & Partial<
    Deno.TlsCertifiedKeyPem
  >;

/** A complete answer. */
export interface Answer {
  /** The status. */
  status: number;
  /** The header with its status line, in lower case. */
  header: string;
  /** The body. */
  body: string;
  /** Whether the connection has ended. */
  last: boolean;
}

/** A request for `/_ping`, after whose answer the connection is kept. */
export const PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** A request for a path, after whose answer the daemon closes the connection. */
export function get(path: string): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;
}

/** The beginning of an answer with status 200. */
export const ANSWERED = /^HTTP\/1\.1 200 OK\r\n/;

const encoder = new TextEncoder();

/** Connects. */
export async function connect(target: Target): Promise<Deno.Conn> {
  if (!("caCerts" in target)) {
    return await ("path" in target ? Deno.connect(target) : Deno.connect(target));
  }
  // Only so it can show a certificate. Its first request is 40 ms late then: the kernel keeps it
  // back until the daemon's has acknowledged the end of the handshake.
  if (target.cert !== undefined) return await Deno.connectTls(target);
  const conn = await Deno.connect({ hostname: target.hostname ?? "127.0.0.1", port: target.port });
  conn.setNoDelay();
  return await Deno.startTls(conn, target);
}

/** One connection. */
export class Client implements Disposable {
  /** Received bytes that are not part of an answer yet, as Latin-1. */
  rest = "";
  #buffer = new Uint8Array(16_384);
  #decoder = new TextDecoder("latin1");

  /** Uses an open connection. */
  constructor(readonly conn: Deno.Conn) {}

  /** Connects. */
  static async to(target: Target): Promise<Client> {
    return new Client(await connect(target));
  }

  /** Sends text. */
  async send(text: string | Uint8Array): Promise<void> {
    const bytes = typeof text === "string" ? encoder.encode(text) : text;
    for (let sent = 0; sent < bytes.length;) sent += await this.conn.write(bytes.subarray(sent));
  }

  /** Reads more bytes; false at the end. */
  async more(): Promise<boolean> {
    const n = await this.conn.read(this.#buffer);
    if (n === null) return false;
    this.rest += this.#decoder.decode(this.#buffer.subarray(0, n));
    return true;
  }

  /** Reads until the received text matches. */
  async sees(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.rest);
      if (match) return match;
      if (!await this.more()) throw new Error(`no ${pattern} in ${JSON.stringify(this.rest)}`);
    }
  }

  /** Reads until the connection ends or is cut, and returns all that came. */
  async ended(): Promise<string> {
    const cut = (error: unknown) => {
      // The latter is TLS's error for it.
      if (error instanceof Deno.errors.ConnectionReset) return false;
      if (error instanceof Deno.errors.UnexpectedEof) return false;
      throw error;
    };
    while (await this.more().catch(cut));
    return this.rest;
  }

  async #upTo(length: number): Promise<void> {
    while (this.rest.length < length) {
      if (!await this.more()) throw new Error(`cut after ${this.rest.length} of ${length} bytes`);
    }
  }

  #take(length: number): string {
    const taken = this.rest.slice(0, length);
    this.rest = this.rest.slice(length);
    return taken;
  }

  async #line(): Promise<string> {
    for (;;) {
      const end = this.rest.indexOf("\r\n");
      if (end >= 0) return this.#take(end + 2).slice(0, -2);
      if (!await this.more()) throw new Error("cut in a line");
    }
  }

  /** The next answer. Throws if the connection ends within it. */
  async answer(): Promise<Answer> {
    let end: number;
    while ((end = this.rest.indexOf("\r\n\r\n")) < 0) {
      if (!await this.more()) {
        throw new Error(this.rest ? "cut in the header" : "closed without an answer");
      }
    }
    const header = this.#take(end + 4).toLowerCase();
    const status = Number(/^http\/1\.[01] (\d{3}) /.exec(header)?.[1]);
    if (!status) throw new Error(`no status in ${JSON.stringify(header.slice(0, 60))}`);
    let body = "";
    if (/\r\ntransfer-encoding: chunked\r\n/.test(header)) {
      for (;;) {
        const size = parseInt(await this.#line(), 16);
        await this.#upTo(size + 2);
        body += this.#take(size);
        this.#take(2);
        if (size === 0) break;
      }
    } else {
      const length = Number(/\r\ncontent-length: (\d+)\r\n/.exec(header)?.[1] ?? 0);
      await this.#upTo(length);
      body = this.#take(length);
    }
    return { status, header, body, last: /\r\nconnection: close\r\n/.test(header) };
  }

  /** Sends a request and returns its answer. */
  async ask(request: string): Promise<Answer> {
    await this.send(request);
    return await this.answer();
  }

  /** Closes it. */
  close(): void {
    try {
      this.conn.close();
    } catch (error) {
      // Closed already.
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
  /** Closes it. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** All that comes until the other side closes, and how many milliseconds that took. */
export async function rest(client: Client): Promise<{ text: string; after: number }> {
  const started = performance.now();
  const text = await client.ended();
  client.close();
  return { text, after: performance.now() - started };
}

/** The counts of a {@linkcode Load}. */
export interface Tally {
  /** Requests with a complete answer of 200. */
  ok: number;
  /** Counts by the kind of failure. */
  failed: Map<string, number>;
}

/** Sends requests continuously, over new connections and over kept ones. */
export class Load {
  /** The counts so far. */
  readonly tally: Tally = { ok: 0, failed: new Map() };
  #stopped = false;
  #workers: Promise<void>[];

  /**
   * @param target The address.
   * @param fresh How many clients use a new connection for each request.
   * @param kept How many clients keep their connection.
   * @param refusals Whether "connection refused" and the like count as failures.
   */
  constructor(readonly target: Target, fresh: number, kept: number, readonly refusals = true) {
    this.#workers = [
      ...Array.from({ length: fresh }, () => this.#work(true)),
      ...Array.from({ length: kept }, () => this.#work(false)),
    ];
  }

  async #work(fresh: boolean): Promise<void> {
    let client: Client | undefined;
    // Each answer has the path of its request, so that a mixed-up answer is detected.
    for (let i = 0; !this.#stopped; i++) {
      const token = `${fresh ? "f" : "k"}${i}x${Math.random().toString(36).slice(2)}`;
      try {
        client ??= await Client.to(this.target);
      } catch (error) {
        if (!this.refusals) return;
        this.#failed(`connecting: ${(error as Error).message}`);
        await new Promise((resolve) => setTimeout(resolve, 5));
        continue;
      }
      try {
        const answer = await client.ask(
          `GET /${token} HTTP/1.1\r\nHost: localhost\r\n${
            fresh ? "Connection: close\r\n" : ""
          }\r\n`,
        );
        if (answer.status !== 404 || !answer.body.includes(`/${token}"`)) {
          this.#failed(`wrong answer: ${answer.status} ${answer.body}`);
        } else this.tally.ok++;
        if (answer.last) {
          client.close();
          client = undefined;
        }
      } catch (error) {
        this.#failed(`${fresh ? "fresh" : "kept"}: ${(error as Error).message}`);
        client?.close();
        client = undefined;
      }
    }
    client?.close();
  }

  #failed(why: string): void {
    this.tally.failed.set(why, (this.tally.failed.get(why) ?? 0) + 1);
  }

  /** Stops the load. */
  async stop(): Promise<Tally> {
    this.#stopped = true;
    await Promise.all(this.#workers);
    return this.tally;
  }
}
