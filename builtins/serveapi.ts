/**
 * The jobs `serveapi`, which binds addresses and serves an API on them, and `acceptconnections`,
 * which opens the gate.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { type Logger, stderr } from "../engine/log.ts";
import { lightly, START } from "../engine/time.ts";
import { Activation, ConnectionLimit } from "../listenbuffer.ts";
import { HEADER_TIMEOUT, IDLE_TIMEOUT, SEND_TIMEOUT } from "../router/limits.ts";
import { denoProblem } from "../platform/deno.ts";
import { descriptorLimit, DESCRIPTORS, permittedEnv } from "../platform/descriptors.ts";
import { bind, formatAddress, parseAddresses } from "../serve/addresses.ts";
import type { Bound } from "../serve/bound.ts";
import type { Fetcher, Inner } from "../serve/handler.ts";
import type { ApiStats, Listeners, ListenersSettings, Place } from "../serve/listeners.ts";
import type { RequestObserver } from "../serve/observe.ts";
import type { Takeover } from "../serve/takeover.ts";
import type { Tls } from "../serve/tls.ts";
import {
  checkedSettings,
  given,
  originsOf,
  readVariables,
  type ServeSettings,
  serveSettings,
} from "./settings.ts";

/** The app that is served, or what makes it once the addresses are bound. */
export type RouterSource = Fetcher | Promise<Fetcher> | (() => Fetcher | Promise<Fetcher>);

/** What {@linkcode serve} can be told. */
export interface ServeOptions extends ServeSettings {
  /** Where to listen: `tcp://HOST:PORT`, `unix:///path`, or `fd://` and what systemd has passed. */
  addresses: readonly string[];
  /**
   * The app to serve: what `createRouter` gives, or any Hono app. A function is called once the
   * addresses are bound, so that what it loads keeps no client waiting for a socket. Default: what
   * `registerBuiltins` was told.
   */
  router?: RouterSource;
}

/** An API that is being served. */
export interface Serving {
  /** Where clients reach it, with real ports: `tcp://HOST:PORT` and `unix:///path`. */
  readonly addresses: readonly string[];
  /**
   * Resolves when it has ended by the engine's shutdown, and rejects with a {@linkcode JobError}
   * where the boot has failed. It need not be awaited.
   */
  readonly finished: Promise<void>;
  /**
   * Puts other settings in the place of those that it was told: timeouts, `maxConnections`,
   * `allowedHosts` and `cors`, for all connections. What else is different stays as it was.
   *
   * @throws {TypedError} ("bad parameter") If a value is none that its setting can have.
   */
  change(settings: ServeSettings): void;
}

/** What {@linkcode registerServeapi} needs. */
export interface ServeapiOptions {
  /** The gate that `acceptconnections` opens. */
  activation: Activation;
  /** The app to serve where `serve` is told of none; asked for once the addresses are bound. */
  router: (settings: ServeSettings) => Fetcher | Promise<Fetcher>;
  /** What asks about requests, at each moment. */
  observers: readonly RequestObserver[];
}

/**
 * What a job `serveapi` was made to do by {@linkcode serve}, in place of its arguments and
 * variables.
 */
interface Call {
  options: ServeOptions;
  bound: (api: Api) => void;
}
const calls = new WeakMap<Job, Call>();

/**
 * Binds addresses and serves an API on them: the job `serveapi`, for programs. Clients are held
 * until the job `acceptconnections` has run.
 *
 * ```ts
 * import { Engine, registerBuiltins, serve } from "./mod.ts";
 *
 * const engine = new Engine();
 * registerBuiltins(engine);
 * const { addresses, finished } = await serve(engine, {
 *   addresses: ["tcp://127.0.0.1:0"],
 *   headerTimeout: 5_000,
 * });
 * await engine.job("acceptconnections").run();
 * console.log(addresses);
 * await engine.shutdown();
 * await finished;
 * ```
 *
 * @param engine One that {@linkcode registerBuiltins} has seen.
 * @returns A promise that resolves once all addresses are bound, or the engine's shutdown has
 * begun.
 * @throws {JobError} If an address or a setting is wrong, or an address cannot be bound; then none
 * is. Its `cause` is a {@linkcode TypedError}.
 * @throws {TypeError} If the engine has no job `serveapi`.
 */
export async function serve(engine: Engine, options: ServeOptions): Promise<Serving> {
  if (!engine.has("serveapi")) {
    throw new TypeError("the engine has no job serveapi, expected registerBuiltins(engine) before");
  }
  // A router that cannot be made fails serveapi, which may not have come to wait for it yet.
  if (options.router instanceof Promise) options.router.catch(() => {});
  const job = engine.job("serveapi", ...options.addresses);
  const bound = Promise.withResolvers<Api>();
  calls.set(job, { options, bound: bound.resolve });
  const finished = job.run();
  finished.catch(() => {}); // The caller may not want to know.
  const api = await Promise.race([bound.promise, finished.then(() => undefined)]);
  return {
    addresses: api?.addresses ?? [],
    finished,
    change: (settings) => api?.change(checkedSettings(settings)),
  };
}

/**
 * Registers `serveapi`, `acceptconnections` and `reload`.
 *
 * @returns A function that tells the counts of each running `serveapi`.
 */
export function registerServeapi(engine: Engine, options: ServeapiOptions): () => ApiStats[] {
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
    const call = calls.get(job);
    const settings = call
      ? checkedSettings(call.options)
      : serveSettings(readVariables(job.env), ({ variable }) => variable!);
    if (activation.state === "failed") await activation.opened;
    const api = new Api(job, settings, activation, limit, options.observers);
    apis.add(api);
    try {
      await api.bind();
      await job.print(api.addresses.map((address) => address + "\n").join(""));
      call?.bound(api);
      const router = await api.boot(theRouter(call?.options.router ?? options.router, settings));
      if (router) await api.serve(router);
    } finally {
      await api.close();
      apis.delete(api);
    }
  });

  engine.register("acceptconnections", async () => {
    if (activation.state === "failed") await activation.opened;
    for (const api of apis) await api.publish();
    activation.open();
    const untaken = passed?.untakenSockets();
    if (untaken) engine.log("warn", `no address uses what systemd has passed: ${untaken}`);
    // Before the predecessor ends, whose end systemd would take for the service's.
    await tellSystemd(engine.predecessor ? `MAINPID=${Deno.pid}\n${READY}` : READY, engine.log);
    for (const api of apis) await api.succeed();
    if (!watched && permittedEnv("WATCHDOG_USEC")) {
      watched = true;
      const { startWatchdog } = await loadNotify();
      engine.onShutdown(startWatchdog(() => runTrue(engine), engine.log), {
        name: "of WATCHDOG_USEC",
      });
    }
  });

  engine.register("reload", async (job) => {
    if (activation.state === "open" && permittedEnv("NOTIFY_SOCKET")) {
      const { notifyReloading } = await loadNotify();
      await notifyReloading(engine.log);
    }
    try {
      await engine.reload(async () => {
        for (const api of apis) await api.reload((line) => job.print(line + "\n"));
      });
    } finally {
      // A daemon that could not take the new certificates goes on with the old ones.
      if (activation.state === "open") await tellSystemd(READY, engine.log);
    }
  });

  // A boot may tell of its progress more often than it can be sent: the last word is what counts.
  let word: string | undefined;
  let telling = false;
  engine.onProgress(async ({ text, within = PROGRESS_WITHIN }) => {
    if (activation.state !== "shut") return;
    // Each line of a message is a word of its own to systemd.
    word = `STATUS=${text.replace(/\s+/g, " ")}\nEXTEND_TIMEOUT_USEC=${Math.ceil(within * 1_000)}`;
    if (telling) return;
    telling = true;
    while (word !== undefined && activation.state === "shut") {
      const state: string = word;
      word = undefined;
      await tellSystemd(state, engine.log);
    }
    telling = false;
  });

  let told: Promise<void> | undefined;
  engine.stopping.addEventListener("abort", () => {
    // The service does not stop: it is another process from now on.
    if (![...apis].some((api) => api.takenOver)) told = tellSystemd(STOPPING, engine.log);
  }, { once: true });
  // Where there is nothing to drain the process would end before the word is out.
  engine.onShutdown(() => told, { name: "of STOPPING=1" });

  return () => [...apis].flatMap((api) => api.stats ?? []);
}

/** Tells systemd, where it wants to hear (NOTIFY_SOCKET); only there is loaded what does so. */
async function tellSystemd(state: string, log: Logger): Promise<void> {
  if (!permittedEnv("NOTIFY_SOCKET")) return;
  const { notify } = await loadNotify();
  await notify(state, log);
}

/**
 * Loaded where systemd wants to hear. By one import for all: of two, Deno may resolve the later one
 * first, and the progress of a boot would be told after its end.
 */
let loadingNotify: Promise<typeof import("../platform/notify.ts")> | undefined;
const loadNotify = () => loadingNotify ??= import("../platform/notify.ts");

/** What systemd has passed, once it was received. It is the process's, as its environment is. */
let passed: typeof import("../platform/activation.ts") | undefined;

/** Receives what systemd has passed, and keeps it from the programs that this process starts. */
async function receiveSockets(): Promise<void> {
  if (!permittedEnv("LISTEN_PID") && !permittedEnv("LISTEN_FDS")) return;
  passed = await import("../platform/activation.ts");
  passed.receiveSockets();
}

/** The settings that can change while an API is served. */
function listenersSettings(settings: ServeSettings): ListenersSettings {
  const { headerTimeout, idleTimeout, sendTimeout, maxConnections, allowedHosts = [] } = settings;
  return {
    timeouts: {
      header: headerTimeout ?? HEADER_TIMEOUT,
      idle: idleTimeout ?? IDLE_TIMEOUT,
      send: sendTimeout ?? SEND_TIMEOUT,
    },
    maxConnections,
    allowedHosts,
    cors: originsOf(settings),
  };
}

async function theRouter(
  source: RouterSource | ServeapiOptions["router"],
  settings: ServeSettings,
): Promise<Fetcher> {
  return await (typeof source === "function" ? source(settings) : source);
}

/**
 * Whether a job can run. A daemon that is told to stop takes no new ones, and is alive all the
 * same.
 */
async function runTrue(engine: Engine): Promise<void> {
  if (engine.stopping.aborted) return;
  const job = engine.job("true");
  job.quiet = true; // It is no event, and nothing to fill a log with.
  await job.run();
}

/** How much time systemd gives a boot for the next word of progress, in milliseconds. */
const PROGRESS_WITHIN = 30_000;
const READY = "READY=1\nSTATUS=Accepting connections";
const STOPPING = "STOPPING=1\nSTATUS=Draining connections";

type ServingModule = typeof import("../serve/serving.ts");

/** One run of `serveapi`. */
class Api {
  #job: Job;
  #settings: ServeSettings;
  #observers: readonly RequestObserver[];
  /** The engine's gate, and the one that our listeners are behind: the same if they are. */
  #gate: Activation;
  #activation: Activation;
  #bound: Place[] = [];
  /** Loaded once all is bound. */
  #serving?: ServingModule;
  /** Those of all that is bound. */
  #listeners?: Listeners;
  #commonLimit: () => ConnectionLimit | undefined;
  #tls?: Tls;
  #ended = Promise.withResolvers<void>();
  #stopped = false;
  /** What takes another daemon's place, and gives ours up; loaded only where it is wanted. */
  #takeover?: Takeover;
  #cancelAfterStart = () => {};
  #afterStart = () => {
    const ports = this.addresses.flatMap((address) => /^tcp:.*:(\d+)$/.exec(address)?.[1] ?? []);
    this.#serving?.setTcpOptions(new Set(ports.map(Number)));
  };
  #failure?: { reason: unknown };
  /** Deno.exit calls this; a daemon that is ended at once leaves no socket file either. */
  #unload = () => {
    const places = this.#bound.map(({ place }) => place);
    if (this.#takeover) places.push(this.#takeover.place);
    for (const place of places) {
      try {
        place.unpublishNow();
      } catch (error) {
        this.#couldNotRemove(place, error);
      }
    }
  };

  constructor(
    job: Job,
    settings: ServeSettings,
    activation: Activation,
    limit: () => ConnectionLimit | undefined,
    observers: readonly RequestObserver[],
  ) {
    this.#job = job;
    this.#observers = observers;
    this.#settings = settings;
    this.#gate = this.#activation = activation;
    if (settings.bufferRequests === false) {
      this.#activation = new Activation();
      this.#activation.open();
      // There is nothing to wait for, yet a boot that fails ends this one too.
      activation.opened.catch((reason) => this.#abandon(reason));
    }
    this.#commonLimit = limit;
    job.onStop((drain) => this.#stop(drain));
    globalThis.addEventListener("unload", this.#unload);
  }

  /** Whether another process has taken the place of this one. */
  get takenOver(): boolean {
    return this.#takeover?.takenOver ?? false;
  }

  get addresses(): string[] {
    return this.#bound.map(({ place }) => place.address);
  }

  /** Undefined until it serves. */
  get stats(): ApiStats | undefined {
    return this.#listeners?.stats;
  }

  /** Binds all addresses, or throws with those that were bound left to `close`. */
  async bind(): Promise<void> {
    const job = this.#job;
    // Sockets that systemd has passed are not inherited by programs that the boot starts.
    await receiveSockets();
    // Malformed addresses are reported before anything is bound.
    const { group, takeover, handover, reusePort, insecure, tls: files } = this.#settings;
    const addresses = parseAddresses(job.args);
    if (takeover && handover === undefined && !addresses.some(({ proto }) => proto === "unix")) {
      job.engine.log(
        "warn",
        "--takeover (Takeover) does nothing here: no address is a unix socket, expected --handover (Handover) or --pidfile as the other daemon has it",
      );
    }
    if (files) {
      // Loaded only where it is wanted.
      const { Tls } = await import("../serve/tls.ts");
      const inner: Inner = {
        serve: (...given) => this.#listeners!.serve(...given),
        // Before there are listeners, its check of this Deno makes one, too.
        accepted: (conn) => this.#listeners?.accepted(conn),
      };
      this.#tls = await Tls.load(files, inner, job.engine.log);
    }
    const tls = this.#tls;
    await this.#prepareTakeover();
    for (const address of addresses) {
      if (this.#stopped) return;
      const handed = this.#takeover?.socketsFor(formatAddress(address)) ?? [];
      const places = await bind(address, {
        ...group && { group },
        takeover: takeover ?? false,
        reusePort: reusePort ?? false,
        exposed: tls?.verifies || (insecure ?? false),
        ...tls && { listenTls: (where) => tls.listen(where) },
        given: handed,
      });
      // As long as the predecessor serves, the clients in their common queue are for it.
      const hold = handed.length > 0 ? 0 : this.#settings.hold;
      this.#bound.push(...places.map((place) => ({ place, address, hold })));
    }
    // Only now, because clients may wait for the sockets; those that come are in the kernel's
    // queue.
    this.#serving = await import("../serve/serving.ts");
    if (this.#stopped) return;
    stderr.ready = this.#serving.writability(this.#serving.STDERR);
    const { maxRequests, maxConnectionRequests } = this.#settings;
    this.#listeners = new this.#serving.Listeners({
      gate: this.#gate,
      activation: this.#activation,
      settings: listenersSettings(this.#settings),
      workload: given({ maxRequests, maxConnectionRequests }),
      tls,
      commonLimit: this.#commonLimit(),
      observers: this.#observers,
      log: job.engine.log,
    });
    for (const place of this.#bound) this.#listeners.listen(place);
    this.#takeover?.bound();
    // acceptconnections may have run before, or while we were at it.
    this.#gate.opened.then(() => this.publish()).catch((error) => {
      if (this.#gate.state === "open") job.engine.log("error", messageOf(error));
    });
  }

  async #prepareTakeover(): Promise<void> {
    const { handover, takeover = false, shutdownTimeout: drain } = this.#settings;
    if (handover === undefined) return;
    const { engine } = this.#job;
    const { Takeover } = await import("../serve/takeover.ts");
    this.#takeover = await Takeover.prepare({
      path: handover.startsWith("/") ? handover : `${Deno.cwd()}/${handover}`,
      takeover,
      listening: () => this.#listeners?.all ?? [],
      ...this.#tls && { tls: this.#tls },
      end: () => engine.shutdown(given({ drain })),
      log: engine.log,
    });
    if (this.#takeover.predecessor) engine.predecessor = this.#takeover.predecessor;
  }

  /** Tells the predecessor, if there is one, that this process serves in its place. */
  async succeed(): Promise<void> {
    await this.#takeover?.succeed();
  }

  /** What of other settings can be put in place while it serves. */
  change(settings: ServeSettings): void {
    this.#listeners?.change(listenersSettings(settings));
  }

  /** Reads the certificates anew, for connections from now on. Tells what was done. */
  async reload(tell: (line: string) => Promise<void>): Promise<void> {
    if (!this.#tls || this.#stopped) return;
    const { cert, otherAuthorities } = this.#tls.renew();
    // A client that was let in by another authority has to show a certificate again.
    if (otherAuthorities) this.#listeners?.retire();
    await tell(`certificates: ${cert}`);
  }

  /** Waits for a step of the boot; undefined if the engine's shutdown comes first. */
  boot<T>(step: Promise<T>): Promise<T | void> {
    const failed = new Promise<never>((_, reject) => this.#gate.opened.catch(reject));
    return Promise.race([step, this.#ended.promise, failed]);
  }

  /** Serves until the listeners have ended, by the engine's shutdown or a gate that failed. */
  async serve(router: Fetcher): Promise<void> {
    const listeners = this.#listeners!;
    await listeners.prepare(router);
    this.#cancelAfterStart = lightly(START, this.#afterStart);
    if (this.#stopped) await this.close();
    await listeners.run();
    if (this.#failure) throw this.#failure.reason;
    if (this.#stopped) await this.#ended.promise;
  }

  async publish(): Promise<void> {
    this.#listeners?.warnOfUpgrades();
    for (const { place } of this.#bound) await place.publish();
  }

  async #stop(drain: number): Promise<void> {
    this.#stopped = true;
    const deadline = performance.now() + drain;
    await this.#listeners?.drain(drain, (place) => this.#unpublish(place), this.takenOver);
    await this.#takeover?.drain(deadline - performance.now());
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

  #abandon(reason: unknown): void {
    this.#failure = { reason };
    this.#listeners?.close();
  }

  async close(): Promise<void> {
    this.#listeners?.close();
    // Those that were bound before another could not be.
    const unused = this.#bound.slice(this.#listeners?.all.length ?? 0);
    for (const { place } of unused) place.listener.close();
    for (const { place } of this.#bound) await this.#unpublish(place);
    this.#listeners?.cutAll();
    await this.#takeover?.close();
    this.#tls?.close();
    globalThis.removeEventListener("unload", this.#unload);
    this.#cancelAfterStart();
  }
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
