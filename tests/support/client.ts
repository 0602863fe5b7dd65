/**
 * A plain HTTP/1.1 client on a raw socket: it sees what a real client sees, a cut answer included,
 * and does nothing by itself, such as trying again.
 *
 * @module
 */

/** Where to connect to. */
export type Target = Deno.ConnectOptions | Deno.UnixConnectOptions | TlsTarget;
/** The same with TLS, and a certificate of the client's own if it has one. */
export type TlsTarget =
  & Deno.ConnectTlsOptions
  & { caCerts: string[] }
  & Partial<
    Deno.TlsCertifiedKeyPem
  >;

/** An answer that arrived whole. */
export interface Answer {
  /** The status. */
  status: number;
  /** The header, in lower case, with its status line. */
  header: string;
  /** The body. */
  body: string;
  /** Whether the connection is at its end. */
  last: boolean;
}

/** A request for `/_ping`, after whose answer the connection is kept. */
export const PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\n\r\n";

/** A request for a path, after whose answer the daemon closes the connection. */
export function get(path: string): string {
  return `GET ${path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n`;
}

const encoder = new TextEncoder();

/** Connects. */
export function connect(target: Target): Promise<Deno.Conn> {
  if ("caCerts" in target) return Deno.connectTls(target);
  return "path" in target ? Deno.connect(target) : Deno.connect(target);
}

/** One connection. */
export class Client implements Disposable {
  /** Bytes that came, as Latin-1, and belong to no answer yet. */
  rest = "";
  #buffer = new Uint8Array(16_384);
  #decoder = new TextDecoder("latin1");

  /** Takes over a connection. */
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

  /** More bytes; false at the end. */
  async more(): Promise<boolean> {
    const n = await this.conn.read(this.#buffer);
    if (n === null) return false;
    this.rest += this.#decoder.decode(this.#buffer.subarray(0, n));
    return true;
  }

  /** Reads until what has come matches. */
  async sees(pattern: RegExp): Promise<RegExpExecArray> {
    for (;;) {
      const match = pattern.exec(this.rest);
      if (match) return match;
      if (!await this.more()) throw new Error(`no ${pattern} in ${JSON.stringify(this.rest)}`);
    }
  }

  /** Reads until the other side has ended the connection, or cut it, and gives what came. */
  async ended(): Promise<string> {
    const cut = (error: unknown) => {
      // The latter is what TLS says of it.
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

  /** The next answer. Throws if the connection ends before it is whole. */
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

  /** Sends a request and gives its answer. */
  async ask(request: string): Promise<Answer> {
    await this.send(request);
    return await this.answer();
  }

  /** Closes it. */
  close(): void {
    try {
      this.conn.close();
    } catch (error) {
      // It was closed already.
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
  /** Closes it. */
  [Symbol.dispose](): void {
    this.close();
  }
}

/** All that comes until the other side closes, and after how many milliseconds that was. */
export async function rest(client: Client): Promise<{ text: string; after: number }> {
  const started = performance.now();
  const text = await client.ended();
  client.close();
  return { text, after: performance.now() - started };
}

/** What a {@linkcode Load} counted. */
export interface Tally {
  /** Requests answered 200, whole. */
  ok: number;
  /** By what went wrong, how often. */
  failed: Map<string, number>;
}

/** Requests without end, from connections that are new each time and from ones that are kept. */
export class Load {
  /** What happened so far. */
  readonly tally: Tally = { ok: 0, failed: new Map() };
  #stopped = false;
  #workers: Promise<void>[];

  /**
   * @param target Where to.
   * @param fresh How many clients connect anew for each request.
   * @param kept How many keep their connection.
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
    // Each answer names the path asked for, so that one that belongs to another is found out.
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

  /** Ends it. */
  async stop(): Promise<Tally> {
    this.#stopped = true;
    await Promise.all(this.#workers);
    return this.tally;
  }
}
