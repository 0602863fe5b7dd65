/**
 * A takeover: a new process gets the listening sockets themselves of the daemon whose place it takes,
 * so that there is one queue, and no moment in which no process listens.
 *
 * The two talk over a unix socket of the daemon's that only its own user may connect to. The daemon
 * goes on serving until its successor says that it is ready, and for ever if that never comes.
 *
 * ```text
 * successor: {"takeover":1}
 * daemon:    {"pid":7,"sockets":[{"asked":"tcp://localhost:2375","address":"tcp://127.0.0.1:2375"}]}
 *            and their descriptors, or {"error":"..."}
 *                       the successor boots, and opens its gate
 * successor: {"ready":1}
 * daemon:    {"held":[{"address":"tcp://127.0.0.1:2375"}]} and their descriptors, where it was booting itself
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

/** A client that waits at a gate which is shut. */
export interface OfferedClient {
  /** The address it came to. */
  readonly address: string;
  /** Its connection's descriptor. */
  readonly fd: number;
  /** Where it is, where its connection leads elsewhere. */
  readonly remoteAddr?: Deno.NetAddr;
}

/** What a daemon does about its succession. */
export interface Succession {
  /** The sockets it listens on. They stay open here. */
  sockets(): GivenSocket[];
  /**
   * Stops accepting, since the successor does.
   *
   * @returns The clients that wait at a gate which is shut, and what lets go of them.
   */
  surrender(): Promise<{ clients: OfferedClient[]; release(): void }>;
  /** The successor serves: the daemon drains, and ends. Resolves when its jobs have ended. */
  end(pid: number): Promise<void>;
}

/** Listens for a successor, on behalf of the daemon that may be succeeded. */
export class Successors {
  #listener: Deno.UnixListener;
  #succession: Succession;
  #log: Logger;
  #successor: number | undefined;

  /** Listens at a unix socket that was bound for this, and that only the daemon's user may use. */
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
        // Whatever it was, to try at once would keep the daemon busy with nothing else.
        await new Promise((resolve) => setTimeout(resolve, 100));
        continue;
      }
      this.#converse(passage).catch((error) =>
        this.#log("warn", `takeover by process ${passage.peer.pid}: ${messageOf(error)}`)
      ).finally(() => passage[Symbol.dispose]());
    }
  }

  async #converse(passage: AcceptedPassage): Promise<void> {
    const { pid } = passage.peer;
    requireOwn(passage);
    const asked = await receiveLine(passage);
    if (asked === undefined) return; // It only looked whether a process listens here.
    if (asked.takeover !== 1) throw new Error("it does not ask for a takeover that is known here");
    if (this.#successor !== undefined) {
      sendLine(passage, { error: `process ${this.#successor} takes over already` });
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
      // It boots for as long as it takes. If it ends meanwhile nothing has happened here.
      const line = await readLine(passage.conn);
      if (line?.ready !== 1) {
        this.#log("warn", `process ${pid} has not taken over: going on`);
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

  /** Lets no further successor in. */
  close(): void {
    try {
      this.#listener.close();
    } catch (error) {
      if (!(error instanceof Deno.errors.BadResource)) throw error;
    }
  }
}

/** The daemon whose place this process takes. */
export class Predecessor implements Disposable {
  /** Its process. */
  readonly pid: number;
  /** The sockets it has handed over. */
  sockets: readonly GivenSocket[];
  #passage: ConnectedPassage;
  #released = Promise.withResolvers<void>();
  /** Whether it was told that this process is ready. */
  told = false;

  private constructor(passage: ConnectedPassage, pid: number, sockets: GivenSocket[]) {
    this.#passage = passage;
    this.pid = pid;
    this.sockets = sockets;
  }

  /**
   * Asks the daemon that listens for successors at `path` for its sockets.
   *
   * @returns Undefined where no process listens there.
   * @throws {TypedError} ("conflict") If another process takes over at this moment; ("forbidden") if
   * the process that listens there is another user's; {Error} if it does not answer as it should.
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
        throw new Error(`process ${passage.peer.pid} has not handed over what it says`);
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

  /** The sockets for an address: by what it was asked for, or else by what it is. */
  socketsFor(address: string): GivenSocket[] {
    const asked = this.sockets.filter((socket) => socket.asked === address);
    return asked.length > 0 ? asked : this.sockets.filter((socket) => socket.address === address);
  }

  /** Closes the sockets, for a process that has others of the same by now. */
  closeSockets(): void {
    this.sockets.forEach(({ fd }) => closeDescriptor(fd));
    this.sockets = [];
  }

  /** Resolves when the daemon's jobs have ended, or it has. */
  get released(): Promise<void> {
    return this.#released.promise;
  }

  /**
   * Tells the daemon that this process serves in its place.
   *
   * @returns The clients that it held, where it was still booting; the caller closes their descriptors.
   * @throws {Error} If it has ended in the meantime, which loses nothing but those clients.
   */
  async ready(): Promise<OfferedClient[]> {
    const clients: OfferedClient[] = [];
    this.told = true;
    try {
      sendLine(this.#passage, { ready: 1 });
      while (true) {
        const { message, fds } = await this.#passage.receive(ANSWER_TIMEOUT);
        // What follows, and comes without descriptors, may have come with it.
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
    // The word that it has, or its end, which says the same.
    this.#passage.receive().catch(() => {}).then(() => this.#end());
    return clients;
  }

  #end(): void {
    this.#passage[Symbol.dispose]();
    this.#released.resolve();
  }

  /** Leaves the daemon its place, unless this process has told it that it is ready. */
  [Symbol.dispose](): void {
    this.closeSockets();
    this.#end();
  }
}

/** Whoever is no process of this user's, or root's, gets nothing, and gives nothing. */
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
  const parsed: unknown = JSON.parse(text);
  if (typeof parsed === "object" && parsed !== null) return parsed as Line;
  throw new Error("the other process does not speak this protocol");
}

async function receiveLine(passage: AcceptedPassage): Promise<Line | undefined> {
  const line = readLine(passage.conn);
  if (!await within(ANSWER_TIMEOUT, line)) throw new Error("it says nothing");
  return await line;
}

/** A line without descriptors; undefined where the other process has gone. */
async function readLine(conn: Deno.Conn): Promise<Line | undefined> {
  const bytes = new Uint8Array(1_024);
  let length = 0;
  while (bytes[length - 1] !== NEWLINE) {
    if (length === bytes.length) throw new Error("a line is too long");
    // A connection that was reset, or that was closed here, is at its end as well.
    const count = await conn.read(bytes.subarray(length)).catch(() => null);
    if (count === null) return undefined;
    length += count;
  }
  return parseLine(bytes.subarray(0, length));
}

const NEWLINE = 0x0a;
