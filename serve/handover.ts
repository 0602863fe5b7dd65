/**
 * The protocol of a takeover: a new process gets the listening sockets themselves of the daemon
 * that it takes over from, so that there is one queue, and no moment in which no process listens.
 *
 * The two communicate over a unix socket of the daemon that only its own user may connect to. The
 * daemon serves until its successor reports that it is ready, and for ever if the successor never
 * does.
 *
 * ```text
 * successor: {"takeover":1}
 * daemon:    {"pid":7,"sockets":[{"asked":"tcp://localhost:1","address":"tcp://127.0.0.1:1"}]}
 *            and their descriptors, or {"error":"..."}
 *                       the successor boots, and opens its gate
 * successor: {"ready":1}
 * daemon:    {"held":[{"address":"tcp://127.0.0.1:1"}]}
 *            and their descriptors, where it was booting itself
 * daemon:    {"draining":1}
 * daemon:    {"released":1}, or the end of the connection, once its jobs have ended
 * ```
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import { AcceptedPassage, ConnectedPassage, MOST_DESCRIPTORS } from "../platform/passing.ts";
import { closeDescriptor } from "../platform/sockets.ts";
import type { GivenSocket } from "./bound.ts";

/** How long the other process may take to answer, in milliseconds. */
const ANSWER_TIMEOUT = 5_000;

/** A held client that is handed over. */
export interface OfferedClient {
  /** The address that it connected to. */
  readonly address: string;
  /** Its connection's descriptor. */
  readonly fd: number;
  /** The client's address, if the descriptor is one end of a pair that leads to it. */
  readonly remoteAddr?: Deno.NetAddr;
}

/** The daemon's part in being taken over. */
export interface Succession {
  /** The sockets it listens on. They stay open here. */
  sockets(): GivenSocket[];
  /**
   * Stops accepting, because the successor accepts now.
   *
   * @returns The held clients, and a function that discards them here once they are handed over.
   */
  surrender(): Promise<{ clients: OfferedClient[]; release(): void }>;
  /** Drains and ends the daemon, once the successor serves. Resolves when its jobs have ended. */
  end(pid: number): Promise<void>;
}

/** Listens for a successor of this daemon. */
export class Successors {
  #listener: Deno.UnixListener;
  #succession: Succession;
  #log: Logger;
  #successor: number | undefined;

  /** Listens at a unix socket that only the daemon's user may connect to. */
  constructor(listener: Deno.UnixListener, succession: Succession, log: Logger) {
    this.#listener = listener;
    this.#succession = succession;
    this.#log = log;
    this.#accept();
  }

  async #accept(): Promise<void> {
    while (true) {
      let passage: AcceptedPassage;
      try {
        passage = await AcceptedPassage.accept(this.#listener);
      } catch (error) {
        if (error instanceof Deno.errors.BadResource) return; // It was closed.
        this.#log("warn", `takeover: ${messageOf(error)}`);
        // A pause, so that a persistent error does not keep the daemon busy.
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      this.#answer(passage).catch((error) =>
        this.#log("warn", `takeover by process ${passage.peer.pid}: ${messageOf(error)}`)
      ).finally(() => passage[Symbol.dispose]());
    }
  }

  async #answer(passage: AcceptedPassage): Promise<void> {
    const { pid } = passage.peer;
    requireOwn(passage);
    const asked = await receiveLine(passage);
    if (asked === undefined) return; // It only checked whether a process listens here.
    if (asked.takeover !== 1) throw new Error("its request is not known, expected a takeover");
    if (this.#successor !== undefined) {
      sendLine(passage, { error: `process ${this.#successor} is taking over already` });
      return;
    }
    this.#successor = pid;
    try {
      const sockets = this.#succession.sockets();
      sendLine(
        passage,
        { pid: Deno.pid, sockets: sockets.map(({ asked, address }) => ({ asked, address })) },
        sockets.map(({ fd }) => fd),
      );
      this.#log("info", `process ${pid} takes over: serving until it is ready`);
      // No limit on the successor's boot. If it ends before it is ready, nothing changes here.
      const line = await readLine(passage.conn);
      if (line?.ready !== 1) {
        this.#log("warn", `process ${pid} has ended before it took over: serving on`);
        return;
      }
      await this.#handOver(passage);
      await this.#succession.end(pid);
      sendLine(passage, { released: 1 });
    } finally {
      this.#successor = undefined;
    }
  }

  async #handOver(passage: AcceptedPassage): Promise<void> {
    const { clients, release } = await this.#succession.surrender();
    try {
      for (let at = 0; at < clients.length; at += MOST_DESCRIPTORS) {
        const some = clients.slice(at, at + MOST_DESCRIPTORS);
        const held = some.map(({ address, remoteAddr }) => ({ address, remoteAddr }));
        sendLine(passage, { held }, some.map(({ fd }) => fd));
      }
    } finally {
      release();
    }
    sendLine(passage, { draining: 1 });
  }

  /** Stops listening for successors. */
  close(): void {
    try {
      this.#listener.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

/** The daemon that this process takes over from. */
export class Predecessor implements Disposable {
  /** Its process id. */
  readonly pid: number;
  /** The sockets that it handed over. */
  sockets: readonly GivenSocket[];
  #passage: ConnectedPassage;
  #released = Promise.withResolvers<void>();
  /** Whether {@linkcode Predecessor.ready} was called. */
  notified = false;

  private constructor(passage: ConnectedPassage, pid: number, sockets: GivenSocket[]) {
    this.#passage = passage;
    this.pid = pid;
    this.sockets = sockets;
  }

  /**
   * Requests the sockets of the daemon that listens for successors at `path`.
   *
   * @returns Undefined if no process listens there.
   * @throws {TypedError} ("conflict") If another process is taking over; ("forbidden") if the
   * process that listens there is of another user; {Error} if its answer is malformed.
   */
  static async ask(path: string): Promise<Predecessor | undefined> {
    const passage = await ConnectedPassage.connect(path);
    if (!passage) return undefined;
    try {
      requireOwn(passage);
      sendLine(passage, { takeover: 1 });
      const { message, fds } = await passage.receive(ANSWER_TIMEOUT);
      const answer = parseLine(message);
      if (typeof answer.error === "string") throw new TypedError("conflict", answer.error);
      const sockets = answer.sockets as { asked: string; address: string }[];
      if (!Array.isArray(sockets) || sockets.length !== fds.length) {
        fds.forEach(closeDescriptor);
        throw new Error(
          `process ${passage.peer.pid} sent ${fds.length} sockets, not those of its list`,
        );
      }
      return new Predecessor(
        passage,
        passage.peer.pid,
        sockets.map(({ asked, address }, i) => ({ asked, address, fd: fds[i]! })),
      );
    } catch (error) {
      passage[Symbol.dispose]();
      throw error;
    }
  }

  /** The sockets for an address: those asked for by this address, or else those bound to it. */
  socketsFor(address: string): GivenSocket[] {
    const asked = this.sockets.filter((socket) => socket.asked === address);
    return asked.length > 0 ? asked : this.sockets.filter((socket) => socket.address === address);
  }

  /** Closes the descriptors, once listeners have duplicated them. */
  closeSockets(): void {
    this.sockets.forEach(({ fd }) => closeDescriptor(fd));
    this.sockets = [];
  }

  /** Resolves when the daemon's jobs, or its process, have ended. */
  get released(): Promise<void> {
    return this.#released.promise;
  }

  /**
   * Tells the daemon that this process serves now.
   *
   * @returns The clients that it held, if it was still booting; the caller closes their
   * descriptors.
   * @throws {Error} If the daemon has ended in the meantime: its held clients are lost.
   */
  async ready(): Promise<OfferedClient[]> {
    const clients: OfferedClient[] = [];
    this.notified = true;
    try {
      sendLine(this.#passage, { ready: 1 });
      while (true) {
        const { message, fds } = await this.#passage.receive(ANSWER_TIMEOUT);
        // Following lines without descriptors may be in the same message.
        const [first] = new TextDecoder().decode(message).split("\n", 1);
        const line = parseLine(first!);
        if (line.draining === 1) break;
        const held = line.held as Omit<OfferedClient, "fd">[];
        held.forEach((client, i) => clients.push({ ...client, fd: fds[i]! }));
      }
    } catch (error) {
      this.#end();
      if (clients.length === 0) throw error;
      return clients;
    }
    // "released", or the end of the connection, which means the same.
    this.#passage.receive().catch(() => {}).then(() => this.#end());
    return clients;
  }

  #end(): void {
    this.#passage[Symbol.dispose]();
    this.#released.resolve();
  }

  /**
   * Closes the connection. The daemon goes on serving, unless this process has said that it is
   * ready.
   */
  [Symbol.dispose](): void {
    this.closeSockets();
    this.#end();
  }
}

/** Refuses a process of a user other than this one and root. */
function requireOwn({ peer }: Pick<AcceptedPassage, "peer">): void {
  if (peer.uid === Deno.uid() || peer.uid === 0) return;
  throw new TypedError(
    "forbidden",
    `process ${peer.pid} is of user ${peer.uid}, expected ${Deno.uid()} or root`,
  );
}

type Line = Record<string, unknown>;

function sendLine(
  passage: Pick<AcceptedPassage, "send">,
  line: Line,
  fds: readonly number[] = [],
): void {
  passage.send(new TextEncoder().encode(JSON.stringify(line) + "\n"), fds);
}

function parseLine(message: Uint8Array | string): Line {
  const text = typeof message === "string" ? message : new TextDecoder().decode(message);
  let parsed: unknown;
  try {
    parsed = JSON.parse(text);
  } catch {
    // Said below.
  }
  if (typeof parsed === "object" && parsed !== null) return parsed as Line;
  const sent = Deno.inspect(text.trim(), { strAbbreviateSize: 40 });
  throw new Error(`the other process is no daemon: it sent ${sent}, expected a JSON object`);
}

async function receiveLine(passage: AcceptedPassage): Promise<Line | undefined> {
  const line = readLine(passage.conn);
  if (!await within(ANSWER_TIMEOUT, line)) {
    throw new Error(`it sent nothing within ${ANSWER_TIMEOUT} ms`);
  }
  return await line;
}

/** Reads a line without descriptors; undefined if the other process has gone. */
async function readLine(conn: Deno.Conn): Promise<Line | undefined> {
  const bytes = new Uint8Array(1_024);
  let length = 0;
  while (bytes[length - 1] !== NEWLINE) {
    if (length === bytes.length) throw new Error("a line is too long");
    // A connection that was reset, or closed here, has ended as well.
    const count = await conn.read(bytes.subarray(length)).catch(() => null);
    if (count === null) return undefined;
    length += count;
  }
  return parseLine(bytes.subarray(0, length));
}

const NEWLINE = 0x0a;
