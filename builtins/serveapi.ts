/**
 * The jobs `serveapi`, which binds addresses and serves an API on them, and `acceptconnections`,
 * which opens the gate.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import {
  Activation,
  ConnectionLimit,
  ListenBuffer,
  type ListenBufferStats,
} from "../listenbuffer.ts";
import { receiveSockets, untakenSockets } from "../platform/activation.ts";
import { denoProblem } from "../platform/deno.ts";
import { descriptorLimit, DESCRIPTORS } from "../platform/descriptors.ts";
import { notify, notifyReloading, startWatchdog } from "../platform/notify.ts";
import { type Address, bind, exposureProblem, parseAddress } from "../serve/addresses.ts";
import type { Bound } from "../serve/bound.ts";
import { type BrowserRules, readHost, readOrigin, refusePages } from "../serve/browsers.ts";
import { Connections, type ConnectionStats, type Timeouts } from "../serve/connections.ts";
import type { RequestHandler } from "../serve/handler.ts";
import type { Tls } from "../serve/tls.ts";

/** Something with the `fetch` of a Hono app. */
export interface Fetcher {
  /** Answers a request; `env` is what the app finds in its context's `env`. */
  fetch(request: Request, env?: unknown): Response | Promise<Response>;
}

/** What {@linkcode registerServeapi} needs. */
export interface ServeapiOptions {
  /** The gate that `acceptconnections` opens. */
  activation: Activation;
  /** The app to serve; asked for once the addresses are bound. */
  router: (job: Job) => Promise<Fetcher>;
}

/** What runs, for the stats. */
export interface Apis {
  /** The counts of each running `serveapi`. */
  stats(): ApiStats[];
}

/** The counts of a running `serveapi`. */
export interface ApiStats {
  /** Where its gate stands. */
  gate: Activation["state"];
  /** At how many connections accepting pauses; undefined if at none. */
  maxConnections?: number;
  /** Those of each address. */
  listeners: ListenerStats[];
}

/** The counts of an address: what was accepted there, and what is served. */
export type ListenerStats =
  & { address: string }
  & Omit<ListenBufferStats, "active">
  & ConnectionStats;

/** Registers `serveapi`, `acceptconnections` and `reload`. */
export function registerServeapi(engine: Engine, options: ServeapiOptions): Apis {
  const { activation } = options;
  const apis = new Set<Api>();
  // All that is left of the process's descriptors, shared by those that are not told otherwise.
  const limit = lazily(defaultLimit);
  let watched = false;

  engine.register("serveapi", async (job) => {
    const outdated = denoProblem();
    if (outdated) throw new TypedError("unavailable", outdated);
    if (job.args.length === 0) {
      throw new TypedError("bad parameter", "serveapi: no address, expected PROTO://ADDR ...");
    }
    if (activation.state === "failed") await activation.opened;
    const api = new Api(job, activation, limit);
    apis.add(api);
    try {
      await api.bind();
      await job.print(api.addresses.map((address) => address + "\n").join(""));
      const router = await api.boot(options.router(job));
      if (router) await api.serve((request, info) => router.fetch(request, info));
    } finally {
      await api.close();
      apis.delete(api);
    }
  });

  engine.register("acceptconnections", async () => {
    if (activation.state === "failed") await activation.opened;
    for (const api of apis) await api.publish();
    activation.open();
    const untaken = untakenSockets();
    if (untaken) engine.log("warn", `no address uses what systemd has passed: ${untaken}`);
    await notify(READY, engine.log);
    if (!watched) engine.onShutdown(startWatchdog(() => runTrue(engine), engine.log));
    watched = true;
  });

  engine.register("reload", async (job) => {
    if (activation.state === "open") await notifyReloading(engine.log);
    try {
      for (const api of apis) await api.reload((line) => job.print(line + "\n"));
    } finally {
      // A daemon that could not take the new certificates goes on with the old ones.
      if (activation.state === "open") await notify(READY, engine.log);
    }
  });

  let told: Promise<void> | undefined;
  engine.stopping.addEventListener("abort", () => told = notify(STOPPING, engine.log), {
    once: true,
  });
  // Where there is nothing to drain the process would end before the word is out.
  engine.onShutdown(() => told);

  return { stats: () => [...apis].map((api) => api.stats) };
}

/** Whether a job can run. A daemon that is told to stop takes no new ones, and is alive all the same. */
async function runTrue(engine: Engine): Promise<void> {
  if (engine.stopping.aborted) return;
  const job = engine.job("true");
  job.quiet = true; // It is no event, and nothing to fill a log with.
  await job.run();
}

const READY = "READY=1\nSTATUS=Accepting connections";
const STOPPING = "STOPPING=1\nSTATUS=Draining connections";

/** An address, who comes there, and who is served. */
interface Listening {
  place: Bound;
  buffer: ListenBuffer;
  connections: Connections;
}

/** One run of `serveapi`. */
class Api {
  #job: Job;
  /** The engine's gate, and the one that our listeners are behind: the same if they are. */
  #gate: Activation;
  #activation: Activation;
  #listening: Listening[] = [];
  #limit?: ConnectionLimit;
  #timeouts: Timeouts;
  #tls?: Tls;
  #allowedHosts: string[] = [];
  #cors?: string;
  #handler: RequestHandler = () => new Response(null, { status: 503 });
  #ended = Promise.withResolvers<void>();
  /** How many listeners have clients that wait for a place. */
  #pressure = 0;
  #stopped = false;
  #failure?: { reason: unknown };
  /** Deno.exit calls this; a daemon that is ended at once leaves no socket file either. */
  #unload = () => {
    for (const { place } of this.#listening) {
      try {
        place.unpublishNow();
      } catch (error) {
        this.#couldNotRemove(place, error);
      }
    }
  };

  constructor(job: Job, activation: Activation, limit: () => ConnectionLimit | undefined) {
    this.#job = job;
    this.#gate = this.#activation = activation;
    if (job.getenv("BufferRequests") !== "" && !job.getenvBool("BufferRequests")) {
      this.#activation = new Activation();
      this.#activation.open();
      // There is nothing to wait for, yet a boot that fails ends this one too.
      activation.opened.catch((reason) => this.#abandon(reason));
    }
    this.#timeouts = {
      header: milliseconds(number(job, "HeaderTimeout")),
      idle: milliseconds(number(job, "IdleTimeout")),
      send: milliseconds(number(job, "SendTimeout")),
    };
    const max = number(job, "MaxConnections");
    this.#limit = max ? new ConnectionLimit(max) : limit();
    job.onStop((drain) => this.#stop(drain));
    globalThis.addEventListener("unload", this.#unload);
  }

  get addresses(): string[] {
    return this.#listening.map(({ place }) => place.address);
  }

  get stats(): ApiStats {
    const listeners = this.#listening.map(({ place, buffer, connections }) => {
      // Active there are those that are held, too; here each is in one state.
      const { active: _, ...accepting } = buffer.stats;
      return { address: place.address, ...accepting, ...connections.stats };
    });
    return { gate: this.#activation.state, maxConnections: this.#limit?.max, listeners };
  }

  /** Binds all addresses, or throws with those that were bound left to `close`. */
  async bind(): Promise<void> {
    const job = this.#job;
    // What systemd has passed is not for the programs that the boot may start, whoever uses it.
    receiveSockets();
    // What is badly written is found before anything is bound.
    const addresses = job.args.map(parseAddress);
    this.#allowedHosts = job.getenvList("AllowedHosts").map(readHost);
    this.#cors = corsOf(job);
    const tls = this.#tls = await loadTls(job);
    if (tls?.verifies && this.#limit && !number(job, "MaxConnections")) {
      this.#limit = new ConnectionLimit(
        Math.max(1, Math.floor(this.#limit.max / tls.descriptors)),
      );
    }
    for (const address of addresses) {
      if (this.#stopped) return;
      const places = await bind(address, {
        group: job.getenv("SocketGroup"),
        takeover: job.getenvBool("Takeover"),
        reusePort: job.getenvBool("ReusePort"),
        exposed: tls?.verifies || job.getenvBool("Insecure"),
        listenTls: tls && ((where) => tls.listen(where)),
      });
      for (const place of places) this.#listen(place, address);
    }
    // acceptconnections may have run before, or while we were at it.
    this.#gate.opened.then(() => this.publish()).catch((error) => {
      if (this.#gate.state === "open") job.engine.log("error", messageOf(error));
    });
  }

  #listen(place: Bound, asked: Address): void {
    const job = this.#job;
    const tcp = place.address.startsWith("tcp:");
    const tls = tcp ? this.#tls : undefined;
    if (tcp && !tls?.verifies && exposureProblem(parseAddress(place.address))) {
      job.engine.log(
        "warn",
        `${place.address}: whoever reaches this port from any machine may do all that the daemon can; nothing asks who they are`,
      );
    }
    const handler: RequestHandler = (request, info) => this.#handler(request, info);
    const connections = new Connections({
      handler: tcp ? refusePages(handler, this.#browserRules(place, asked)) : handler,
      timeouts: this.#timeouts,
      pressed: () => this.#pressure > 0 || (this.#limit?.full ?? false),
      serve: tls?.serve,
      log: job.engine.log,
    });
    const buffer = new ListenBuffer(place.listener, this.#activation, {
      hold: number(job, "Hold"),
      maxConnections: this.#limit,
      onPressure: (pressed) => {
        this.#pressure += pressed ? 1 : -1;
        // Whoever comes to one address may have the place of somebody who is idle at another.
        if (pressed) this.#each((connections) => connections.makeRoom());
      },
      log: (level, message) => job.engine.log(level, `${place.address}: ${message}`),
    });
    this.#listening.push({ place, buffer, connections });
  }

  #browserRules(place: Bound, asked: Address): BrowserRules {
    const { host } = parseAddress(place.address) as Address & { proto: "tcp" };
    return {
      scheme: this.#tls ? "https" : "http",
      // Nobody else's page can have a name that is in our certificate.
      hosts: this.#tls ? undefined : [
        host,
        ...asked.proto === "tcp" ? [asked.host] : [],
        ...this.#allowedHosts,
      ],
      cors: this.#cors,
    };
  }

  /** Reads the certificates anew, for connections from now on. Tells what was done. */
  async reload(tell: (line: string) => Promise<void>): Promise<void> {
    if (!this.#tls || this.#stopped) return;
    const { cert, otherAuthorities } = this.#tls.renew();
    // A client that was let in by another authority has to show a certificate again.
    if (otherAuthorities) {
      for (const { place, connections } of this.#listening) {
        if (place.address.startsWith("tcp:")) connections.retire();
      }
    }
    await tell(`certificates: ${cert}`);
  }

  /** Waits for a step of the boot; undefined if the engine's shutdown comes first. */
  boot<T>(step: Promise<T>): Promise<T | void> {
    const failed = new Promise<never>((_, reject) => this.#gate.opened.catch(reject));
    return Promise.race([step, this.#ended.promise, failed]);
  }

  /** Serves until the listeners have ended, by the engine's shutdown or a gate that failed. */
  async serve(handler: RequestHandler): Promise<void> {
    this.#handler = handler;
    this.#each((connections) => connections.prepare());
    if (this.#stopped) await this.close();
    await Promise.all(this.#listening.map(async ({ buffer, connections }) => {
      for await (const connection of buffer) {
        connections.serve(connection).then(() => buffer.release()); // It never rejects.
      }
    }));
    if (this.#failure) throw this.#failure.reason;
    if (this.#stopped) await this.#ended.promise;
  }

  async publish(): Promise<void> {
    for (const { place } of this.#listening) await place.publish();
  }

  async #stop(drain: number): Promise<void> {
    this.#stopped = true;
    const deadline = performance.now() + drain;
    // A client that is in the kernel's queue was let in: it is accepted and served. Those that we
    // hold behind a gate that never opened cannot be.
    const accepted = Promise.all(this.#listening.map(async ({ place, buffer }) => {
      await this.#unpublish(place);
      // Nobody can come to a socket whose path is gone, so there it is safe to wait a little.
      const quiet = place.hides ? 20 : 0;
      if (this.#activation.state === "open") await buffer.drain({ quiet, limit: drain });
      else buffer.close();
    }));
    const drained = () =>
      Promise.all(
        this.#listening.map(({ connections }) => connections.drain(deadline - performance.now())),
      );
    // Only then, because a client that is told to close comes back at once; but where there is no
    // room, those who wait can be let in only when others go.
    if (this.#limit?.full) await drained();
    await accepted;
    await drained();
    this.#ended.resolve();
  }

  /** Whatever is wrong with one address's file must not keep the others from ending. */
  async #unpublish(place: Bound): Promise<void> {
    try {
      await place.unpublish();
    } catch (error) {
      this.#couldNotRemove(place, error);
    }
  }

  #couldNotRemove({ address }: Bound, error: unknown): void {
    this.#job.engine.log("warn", `${address}: cannot remove the file: ${messageOf(error)}`);
  }

  #each(step: (connections: Connections) => void): void {
    for (const { connections } of this.#listening) step(connections);
  }

  #abandon(reason: unknown): void {
    this.#failure = { reason };
    for (const { buffer } of this.#listening) buffer.close();
  }

  async close(): Promise<void> {
    for (const { place, buffer } of this.#listening) {
      buffer.close();
      await this.#unpublish(place);
    }
    this.#each((connections) => connections.cutAll());
    this.#tls?.close();
    globalThis.removeEventListener("unload", this.#unload);
  }
}

/** The TLS that a `serveapi` is told to use, if any; loaded only then. */
async function loadTls(job: Job): Promise<Tls | undefined> {
  const verify = job.getenvBool("TlsVerify");
  if (!verify && !job.getenvBool("Tls")) return undefined;
  const file = (key: string) => {
    const path = job.getenv(key);
    if (path) return path;
    throw new TypedError("bad parameter", `TLS needs ${key}, expected the path of a PEM file`);
  };
  const { Tls } = await import("../serve/tls.ts");
  return await Tls.load({
    cert: file("TlsCert"),
    key: file("TlsKey"),
    ca: verify ? file("TlsCa") : undefined,
  }, job.engine.log);
}

/**
 * The origin that `serveapi` is told to let in, as it stands in Access-Control-Allow-Origin. Throws what
 * {@linkcode readOrigin} does.
 */
export function corsOf(job: Job): string | undefined {
  const origin = job.getenv("CorsHeaders") || (job.getenvBool("EnableCors") ? "*" : undefined);
  return origin && readOrigin(origin);
}

/** A setting that is a number of at least 0; undefined where it is not set. */
export function number(job: Job, key: string): number | undefined {
  const text = job.getenv(key).trim();
  if (text === "") return undefined;
  const value = Number(text);
  if (!(value >= 0)) {
    throw new TypedError("bad parameter", `${key}=${text}: expected a number of at least 0`);
  }
  return value;
}

/** A time in seconds as milliseconds, where 0 means that there is no limit. */
export function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === 0 ? Infinity : seconds && seconds * 1_000;
}

/**
 * As many connections as there are descriptors left, less a reserve for the boot and for what jobs
 * open. Undefined where the system does not tell.
 */
function defaultLimit(): ConnectionLimit | undefined {
  const descriptors = descriptorLimit();
  if (descriptors === undefined) return undefined;
  const used = [...Deno.readDirSync(DESCRIPTORS)].length;
  const reserve = Math.min(Math.max(descriptors / 8, 32), 512);
  return new ConnectionLimit(Math.max(1, Math.floor(descriptors - used - reserve)));
}

function lazily<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => (made ??= { value: make() }).value;
}
