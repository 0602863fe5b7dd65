/**
 * Taking the place of another daemon, and giving up one's own: what of {@linkcode Predecessor} and
 * {@linkcode Successors} happens when.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import type { Logger } from "../engine/log.ts";
import { within } from "../engine/time.ts";
import type { ListenBuffer } from "../listenbuffer.ts";
import {
  adoptConnection,
  closeDescriptor,
  connectedPair,
  connectionDescriptors,
  endsOf,
  letGoOf,
} from "../platform/sockets.ts";
import { skipDescriptor } from "../platform/peek.ts";
import { bind } from "./addresses.ts";
import type { Bound, GivenSocket } from "./bound.ts";
import { type OfferedClient, Predecessor, type Succession, Successors } from "./handover.ts";
import type { Tls } from "./tls.ts";

/** An address that is listened on, and the clients that are held there. */
export interface Held {
  place: Bound;
  /** The address as it was asked for. */
  asked: string;
  buffer: ListenBuffer;
}

/** What {@linkcode Takeover.prepare} needs. */
export interface TakeoverOptions {
  /** Where a successor comes to; where the predecessor, if there is one, listens for us. */
  path: string;
  /** Whether to take the place of the daemon that listens there. */
  takeover: boolean;
  /** The addresses of this daemon, once they are bound. */
  listening: readonly Held[];
  /** How tcp addresses are kept secret, if they are. */
  tls?: Tls;
  /** Drains and ends this daemon. Resolves when its jobs have ended. */
  end(): Promise<void>;
  /** Where it is logged. */
  log: Logger;
}

/** Only the daemon's own user may take its place. */
const MODE = 0o600;

/** The part of a daemon in takeovers: of its predecessor, and by its successor. */
export class Takeover implements Succession {
  /** The daemon whose place is taken, if there is one. */
  readonly predecessor: Predecessor | undefined;
  /** Whether a successor has taken the place of this daemon. */
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
   * Asks the daemon whose place is to be taken for its sockets, and listens for the one that will take
   * ours.
   *
   * @throws What {@linkcode Predecessor.ask} and {@linkcode bind} throw.
   */
  static async prepare(options: TakeoverOptions): Promise<Takeover> {
    const { path, takeover, log } = options;
    const predecessor = takeover ? await Predecessor.ask(path) : undefined;
    try {
      // Beside the predecessor's, until its place is taken.
      const [place] = await bind({ proto: "unix", path }, { mode: MODE, takeover });
      if (predecessor) {
        log("info", `taking the place of process ${predecessor.pid} once the gate is open`);
      } else if (takeover) {
        log("info", `no daemon listens at ${path}: there is no place to take`);
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

  /** All addresses are bound: the predecessor's descriptors are of no more use. */
  bound(): void {
    this.predecessor?.closeSockets();
  }

  /** The gate is open: tells the predecessor, and takes the clients that it held. Never rejects. */
  async succeed(): Promise<void> {
    const { predecessor } = this;
    if (!predecessor || predecessor.told) return;
    const { log } = this.#options;
    try {
      await this.#place.publish();
      for (const client of await predecessor.ready()) await this.#take(client);
    } catch (error) {
      log("warn", `process ${predecessor.pid}, whose place was taken: ${messageOf(error)}`);
    }
  }

  async #take({ address, fd, remoteAddr }: OfferedClient): Promise<void> {
    const { listening, log } = this.#options;
    try {
      const { buffer } = listening.find(({ place }) => place.address === address) ?? {};
      const conn = await adoptConnection(fd, remoteAddr);
      skipDescriptor(); // Or it would be taken for the next that is accepted.
      if (buffer) buffer.take(conn);
      else conn.close();
    } catch (error) {
      log("info", `a client that was held at ${address}: ${messageOf(error)}`);
    } finally {
      closeDescriptor(fd);
    }
  }

  sockets(): GivenSocket[] {
    return this.#options.listening.map(({ place, asked }) => {
      const fd = place.descriptor();
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
    for (const { place, buffer } of this.#options.listening) {
      place.handOver();
      const held = buffer.handOver();
      if (held.length === 0) continue;
      const { address } = place;
      if (this.#options.tls?.verifies === false && address.startsWith("tcp:")) {
        // Their handshakes have begun here, and can be ended nowhere else.
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
      if (conns.length > 0) letGoOf(conns, own);
      pairs.forEach(closeDescriptor);
    };
    return { clients, release };
  }

  async end(pid: number): Promise<void> {
    this.#options.log("info", `process ${pid} has taken over: draining`);
    await this.#options.end();
  }

  /** Waits, so many milliseconds at most, for the clients that a successor serves through this process. */
  async drain(limit: number): Promise<void> {
    if (this.#forwarded.length > 0) await within(limit, Promise.all(this.#forwarded));
  }

  /** Where successors ask. */
  get place(): Bound {
    return this.#place;
  }

  /** Lets no successor in any more. A predecessor that was told nothing goes on. */
  async close(): Promise<void> {
    this.#successors.close();
    await this.#place.unpublish();
    if (!this.predecessor?.told) this.predecessor?.[Symbol.dispose]();
  }
}

/** Passes on what comes from either side, until both have ended or one is broken. Never rejects. */
async function forward(one: Deno.Conn, other: Deno.Conn): Promise<void> {
  await Promise.allSettled([
    one.readable.pipeTo(other.writable),
    other.readable.pipeTo(one.writable),
  ]);
}
