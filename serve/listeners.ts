/**
 * The bound addresses of an API: how clients are accepted there, who is refused, and how their
 * connections are served and ended.
 *
 * @module
 */

import type { Logger } from "../engine/log.ts";
import {
  type Activation,
  ConnectionLimit,
  ListenBuffer,
  type ListenBufferStats,
} from "../listenbuffer.ts";
import { nativeServe, type Serve } from "../platform/http.ts";
import { Peers } from "../platform/peers.ts";
import { deepenQueue } from "../platform/sockets.ts";
import { type Address, formatAddress, isLocal, parseAddress } from "./addresses.ts";
import type { Bound } from "./bound.ts";
import { type BrowserRules, judgePages } from "./browsers.ts";
import { Connections, type ConnectionStats, type Timeouts } from "./connections.ts";
import type { Fetcher, Inner, RequestHandler } from "./handler.ts";
import { observed, type RequestObserver, tellRefused } from "./observe.ts";
import { RawUpgrades } from "./raw_upgrades.ts";
import { admit, checkAnswers } from "./requests.ts";
import type { Held } from "./takeover.ts";
import type { Tls } from "./tls.ts";
import { Workload, type WorkloadOptions } from "./workload.ts";

/** The counts of an address: what was accepted there, and what is served. */
export type ListenerStats =
  & { address: string }
  & Omit<ListenBufferStats, "active">
  & ConnectionStats;

/** The counts of a running `serveapi`. */
export interface ApiStats {
  /** Where its gate stands. */
  gate: Activation["state"];
  /** At how many connections accepting pauses; undefined if at none. */
  maxConnections?: number;
  /**
   * What its connections have in work together: requests, and bytes of answers that wait for
   * clients.
   */
  work: { requests: number; maxRequests: number; held: number };
  /** Those of each address. */
  listeners: ListenerStats[];
}

/** The settings of {@linkcode Listeners} that can change while they serve. */
export interface ListenersSettings {
  /** How long clients may take. */
  timeouts: Timeouts;
  /** At how many connections accepting pauses, at most. Default: what descriptors allow. */
  maxConnections?: number | undefined;
  /** The hosts of which requests are for this API, on plain tcp, besides the address. */
  allowedHosts: readonly string[];
  /** The origins whose pages may use the API. Default: only our own. */
  cors?: readonly string[] | undefined;
}

/** Options of {@linkcode Listeners}. */
export interface ListenersOptions {
  /** The daemon's gate. */
  gate: Activation;
  /** The gate that clients are held at: the same, or one that is open. */
  activation: Activation;
  /** Settings that can change. */
  settings: ListenersSettings;
  /** What connections may have in work. */
  workload: WorkloadOptions;
  /** The TLS of tcp addresses, if they have it. */
  tls: Tls | undefined;
  /**
   * The limit of all connections of the process that are under none of their own, if it is known.
   */
  commonLimit: ConnectionLimit | undefined;
  /** Who is told of requests. */
  observers: readonly RequestObserver[];
  /** Where log lines go. */
  log: Logger;
}

/** An address that is bound, as it was asked for. */
export interface Place {
  place: Bound;
  address: Address;
  /** How many clients are held there. Default: that of {@linkcode ListenBuffer}. */
  hold: number | undefined;
}

/** An address and those who are served there. */
interface Listening extends Held {
  connections: Connections;
  /** Judges by the settings that there are now. */
  renew(): void;
}

/** The listeners of an API. */
export class Listeners implements Inner {
  #options: ListenersOptions;
  #settings: ListenersSettings;
  #all: Listening[] = [];
  #workload: Workload;
  #upgrades = new RawUpgrades();
  #native: Serve | undefined;
  #handler: RequestHandler = () => new Response(null, { status: 503 });
  #limit: ConnectionLimit | undefined;
  /** How many connections there are descriptors for. */
  #most: number;
  /** At how many addresses clients wait for a place. */
  #pressure = 0;
  #warned = false;

  /** There are none yet. */
  constructor(options: ListenersOptions) {
    const { settings, tls, commonLimit, gate } = this.#options = options;
    this.#settings = settings;
    this.#workload = new Workload(options.workload);
    this.#most = Math.max(1, Math.floor((commonLimit?.max ?? Infinity) / (tls?.descriptors ?? 1)));
    this.#limit = commonLimit;
    if (settings.maxConnections !== undefined || tls?.verifies) {
      this.#limit = new ConnectionLimit(this.#max);
      gate.opened.then(() => this.#setMax(), () => {});
    }
  }

  /** Their addresses and listen buffers. */
  get all(): readonly Held[] {
    return this.#all;
  }

  /** Counts for an operator. */
  get stats(): ApiStats {
    const { requests, maxRequests, held } = this.#workload;
    return {
      gate: this.#options.activation.state,
      ...this.#limit && { maxConnections: this.#limit.max },
      work: { requests, maxRequests, held },
      listeners: this.#all.map(({ place, buffer, connections }) => {
        // Active there are those that are held, too; here each is in one state.
        const { active: _, ...accepting } = buffer.stats;
        return { address: place.address, ...accepting, ...connections.stats };
      }),
    };
  }

  /** Listens at a bound address. */
  listen({ place, address, hold }: Place): void {
    const { activation, log, observers } = this.#options;
    if (place.hides) deepenQueue(place.listener as Deno.UnixListener);
    const tcp = place.address.startsWith("tcp:");
    const tls = this.#tlsOf(place);
    if (tcp && !tls?.verifies && !isLocal(parseAddress(place.address))) {
      log(
        "warn",
        `${place.address}: whoever reaches this port from any machine may do all that the daemon can; nothing asks who they are`,
      );
    }
    const judging = () => tcp ? judgePages(this.#browserRules(place, address)) : () => undefined;
    let judge = judging();
    const handler: RequestHandler = (request, info) => this.#handler(request, info);
    const peers = tcp ? undefined : new Peers();
    const connections = new Connections({
      handler: observed(
        admit(handler, {
          scheme: tls ? "https" : "http",
          unix: !tcp,
          ...tcp && { problemOf: (request, host) => judge(request, host) },
        }),
        observers,
      ),
      onRefused: (...refused) => tellRefused(observers, ...refused),
      timeouts: this.#settings.timeouts,
      workload: this.#workload,
      pressed: () => this.#pressure > 0 || (this.#limit?.full ?? false),
      serve: tls?.serve ?? this.serve,
      upgradeProblem: () =>
        `no raw upgrade is served here: ${
          this.#upgrades.problemOf(tls) ?? "the path was not given to router.upgradable"
        }`,
      ...peers && { peers },
      log,
    });
    const buffer = new ListenBuffer(place.listener, activation, {
      onAccept: (conn) => {
        if (peers) peers.accepted(conn, this.#upgrades.peeks);
        else this.#upgrades.accepted(conn);
      },
      ...hold !== undefined && { hold },
      ...this.#limit && { maxConnections: this.#limit },
      onPressure: (pressed) => {
        this.#pressure += pressed ? 1 : -1;
        // A client of one address may take the place of an idle client of another.
        if (pressed) this.#each((connections) => connections.makeRoom());
      },
      log: (level, message) => log(level, `${place.address}: ${message}`),
    });
    const renew = () => void (judge = judging());
    this.#all.push({ place, asked: formatAddress(address), buffer, connections, renew });
  }

  #tlsOf(place: Bound): Tls | undefined {
    return place.address.startsWith("tcp:") ? this.#options.tls : undefined;
  }

  #browserRules(place: Bound, asked: Address): BrowserRules {
    const { host } = parseAddress(place.address) as Address & { proto: "tcp" };
    const { allowedHosts, cors } = this.#settings;
    const { tls } = this.#options;
    return {
      scheme: tls ? "https" : "http",
      // No other server's page can have a name that is in our certificate.
      ...!tls && { hosts: [host, ...asked.proto === "tcp" ? [asked.host] : [], ...allowedHosts] },
      ...cors && { cors },
    };
  }

  /** Has other settings from now on. */
  change(settings: ListenersSettings): void {
    this.#settings = settings;
    for (const { connections, renew } of this.#all) {
      connections.timeouts = settings.timeouts;
      renew();
    }
    this.#setMax();
  }

  #setMax(): void {
    if (this.#limit) this.#limit.max = this.#max;
  }

  /**
   * How many connections there may be. While the daemon boots some descriptors are left to it,
   * whatever the setting says: it loads modules, and Deno ends with a panic where it has none left
   * for that.
   */
  get #max(): number {
    const { maxConnections = Infinity } = this.#settings;
    if (maxConnections !== Infinity && this.#options.gate.state === "open") return maxConnections;
    return Math.min(maxConnections, this.#most);
  }

  /** Serves HTTP on an accepted connection, or on one inside of that. */
  readonly serve: Serve = (...given) => (this.#native ??= nativeServe())(...given);
  /** Told of each connection inside of another as it is accepted. */
  readonly accepted = (conn: Deno.Conn): void => this.#upgrades.acceptedInner(conn);

  /** Gets ready to serve an app. */
  async prepare(app: Fetcher): Promise<void> {
    this.#handler = checkAnswers((request, info) => app.fetch(request, info));
    this.#native = await this.#upgrades.serving(app);
    this.#each((connections) => connections.prepare());
  }

  /** Serves until the listeners are closed. */
  async run(): Promise<void> {
    await Promise.all(this.#all.map(({ buffer, connections }) => {
      const release = () => buffer.release();
      return buffer.forEach((connection) => connections.serve(connection, release));
    }));
  }

  /** Says, once, where no raw upgrades are served though routes ask for them. */
  warnOfUpgrades(): void {
    if (this.#warned || !this.#upgrades.wanted) return;
    this.#warned = true;
    const places = Map.groupBy(
      this.#all,
      ({ place }) => this.#upgrades.problemOf(this.#tlsOf(place)),
    );
    places.delete(undefined);
    for (const [problem, listening] of places) {
      const addresses = listening.map(({ place }) => place.address).join(", ");
      this.#options.log("warn", `${addresses}: no raw upgrades are served: ${problem}`);
    }
  }

  /** Ends the connections of tcp addresses that there are now, after their answers. */
  retire(): void {
    for (const { place, connections } of this.#all) {
      if (place.address.startsWith("tcp:")) connections.retire();
    }
  }

  /**
   * Ends all connections, quiet ones soon and busy ones after their answers, within `limit`
   * milliseconds.
   *
   * @param unpublish Keeps new clients from finding an address.
   * @param patient Whether WebSockets and raw streams may go on until then.
   */
  async drain(
    limit: number,
    unpublish: (place: Bound) => Promise<void>,
    patient: boolean,
  ): Promise<void> {
    const deadline = performance.now() + limit;
    // A client that is in the kernel's queue was let in: it is accepted and served. Those that we
    // hold behind a gate that never opened cannot be.
    const accepted = Promise.all(this.#all.map(async ({ place, buffer }) => {
      await unpublish(place);
      // No client finds a socket whose path is gone, so there it is safe to wait a little.
      const quiet = place.hides ? 20 : 0;
      if (this.#options.activation.state === "open") await buffer.drain({ quiet, limit });
      else buffer.close();
    }));
    const drained = () =>
      Promise.all(
        this.#all.map(({ connections }) =>
          connections.drain(deadline - performance.now(), patient)
        ),
      );
    // Only then, because a client that is told to close comes back at once; but where there is no
    // room, those who wait can be let in only when others go.
    if (this.#limit?.full) await drained();
    await accepted;
    await drained();
  }

  /** Accepts no more clients; those that are held leave. */
  close(): void {
    for (const { buffer } of this.#all) buffer.close();
  }

  /** Ends all connections at once. */
  cutAll(): void {
    this.#each((connections) => connections.cutAll());
  }

  #each(step: (connections: Connections) => void): void {
    for (const { connections } of this.#all) step(connections);
  }
}
