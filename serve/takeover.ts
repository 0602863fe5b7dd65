/**
 * The two takeovers of a daemon: of its predecessor at the start, and by its successor later. It
 * decides when {@linkcode Predecessor} and {@linkcode Successors} act.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import type { ListenBuffer } from "../listenbuffer.ts";
import {
  adoptConnection,
  closeCopies,
  closeDescriptor,
  connectedPair,
  connectionDescriptors,
  descriptorOfListener,
  endsOf,
} from "../platform/sockets.ts";
import { skipDescriptor } from "../platform/peek.ts";
import { bind } from "./addresses.ts";
import type { Bound, GivenSocket } from "./bound.ts";
import { type OfferedClient, Predecessor, type Succession, Successors } from "./handover.ts";
import type { Tls } from "./tls.ts";

/** A bound address and its listen buffer. */
export interface Held {
  place: Bound;
  /** The address in the daemon's settings. */
  asked: string;
  buffer: ListenBuffer;
}

/** Options of {@linkcode Takeover.prepare}. */
export interface TakeoverOptions {
  /** The handover socket, at which the predecessor listens now and this daemon will. */
  path: string;
  /** Whether to take over from the daemon that listens there. */
  takeover: boolean;
  /** The addresses of this daemon; none until they are bound. */
  listening: () => readonly Held[];
  /** The TLS of tcp addresses, if they have it. */
  tls?: Tls;
  /** Drains and ends this daemon. Resolves when its jobs have ended. */
  end(): Promise<void>;
  /** Where log lines go. */
  log: Logger;
}

/** Only the daemon's own user may take over from it. */
const MODE = 0o600;

/** The part of a daemon in takeovers: of its predecessor, and by its successor. */
export class Takeover implements Succession {
  /** The daemon that this one takes over from, if there is one. */
  readonly predecessor: Predecessor | undefined;
  /** Whether a successor has taken over. */
  takenOver = false;
  #options: TakeoverOptions;
  #place: Bound;
  #successors: Successors;
  /** Clients of Deno's TLS that a successor serves through this process. */
  #forwarded: Promise<unknown>[] = [];

  private constructor(options: TakeoverOptions, place: Bound, predecessor?: Predecessor) {
    this.#options = options;
    this.#place = place;
    this.predecessor = predecessor;
    this.#successors = new Successors(place.listener as Deno.UnixListener, this, options.log);
  }

  /**
   * Requests the predecessor's sockets, if this is a takeover, and listens for a successor.
   *
   * @throws What {@linkcode Predecessor.ask} and {@linkcode bind} throw.
   */
  static async prepare(options: TakeoverOptions): Promise<Takeover> {
    const { path, takeover, log } = options;
    const predecessor = takeover ? await Predecessor.ask(path) : undefined;
    try {
      // Bound beside the predecessor's socket, whose file it replaces later.
      const [place] = await bind({ proto: "unix", path }, { mode: MODE, takeover });
      if (predecessor) {
        log("info", `taking over from process ${predecessor.pid} once the gate is open`);
      } else if (takeover) {
        log("info", `no daemon listens at ${path}: there is none to take over from`);
      }
      return new Takeover(options, place!, predecessor);
    } catch (error) {
      predecessor?.[Symbol.dispose]();
      throw error;
    }
  }

  /** The predecessor's sockets for an address. */
  socketsFor(address: string): GivenSocket[] {
    return this.predecessor?.socketsFor(address) ?? [];
  }

  /** Closes the predecessor's descriptors, once all addresses are bound. */
  bound(): void {
    this.predecessor?.closeSockets();
  }

  /** With the gate open: tells the predecessor, and takes its held clients. Never rejects. */
  async succeed(): Promise<void> {
    const { predecessor } = this;
    if (!predecessor || predecessor.notified) return;
    const { log } = this.#options;
    try {
      await this.#place.publish();
      for (const client of await predecessor.ready()) await this.#take(client);
    } catch (error) {
      log("warn", `takeover from process ${predecessor.pid}: ${messageOf(error)}`);
    }
  }

  async #take({ address, fd, remoteAddr }: OfferedClient): Promise<void> {
    const { listening, log } = this.#options;
    try {
      const { buffer } = listening().find(({ place }) => place.address === address) ?? {};
      const conn = await adoptConnection(fd, remoteAddr);
      skipDescriptor(); // Or it would be taken for that of the next accepted connection.
      if (buffer) buffer.take(conn);
      else conn.close();
    } catch (error) {
      log("info", `a client that was held at ${address}: ${messageOf(error)}`);
    } finally {
      closeDescriptor(fd);
    }
  }

  sockets(): GivenSocket[] {
    return this.#options.listening().map(({ place, asked }) => {
      const { listener } = place;
      const fd = "fd" in listener ? listener.fd as number : descriptorOfListener(listener);
      if (fd === undefined) throw new Error(`${place.address}: its descriptor was not found`);
      return { asked, address: place.address, fd };
    });
  }

  async surrender(): Promise<{ clients: OfferedClient[]; release(): void }> {
    this.takenOver = true;
    this.#place.handOver();
    const clients: OfferedClient[] = [];
    const conns: Deno.Conn[] = [];
    const pairs: number[] = [];
    for (const { place, buffer } of this.#options.listening()) {
      place.handOver();
      const held = buffer.handOver();
      if (held.length === 0) continue;
      const { address } = place;
      if (this.#options.tls?.verifies === false && address.startsWith("tcp:")) {
        // Their TLS handshakes have begun in this process, which has to go on with them.
        for (const conn of held) {
          const { conn: near, fd } = await connectedPair();
          clients.push({ address, fd, remoteAddr: conn.remoteAddr as Deno.NetAddr });
          pairs.push(fd);
          this.#forwarded.push(forward(conn, near));
        }
        continue;
      }
      const known = connectionDescriptors();
      for (const conn of held) {
        const fd = known.get(endsOf(conn))?.pop();
        if (fd === undefined) continue;
        clients.push({ address, fd });
        conns.push(conn);
      }
    }
    const own = clients.map(({ fd }) => fd).filter((fd) => !pairs.includes(fd));
    const release = () => {
      if (conns.length > 0) closeCopies(conns, own);
      pairs.forEach(closeDescriptor);
    };
    return { clients, release };
  }

  async end(pid: number): Promise<void> {
    this.#options.log("info", `process ${pid} has taken over: draining`);
    await this.#options.end();
  }

  /** Waits up to `limit` milliseconds for the clients served through this process. */
  async drain(limit: number): Promise<void> {
    if (this.#forwarded.length > 0) await within(limit, Promise.all(this.#forwarded));
  }

  /** The handover socket. */
  get place(): Bound {
    return this.#place;
  }

  /** Stops listening for successors. A predecessor that was not told to end serves on. */
  async close(): Promise<void> {
    this.#successors.close();
    await this.#place.unpublish();
    if (!this.predecessor?.notified) this.predecessor?.[Symbol.dispose]();
  }
}

/** Forwards both directions until both have ended or one has failed. Never rejects. */
async function forward(one: Deno.Conn, other: Deno.Conn): Promise<void> {
  await Promise.allSettled([
    one.readable.pipeTo(other.writable),
    other.readable.pipeTo(one.writable),
  ]);
}
