/**
 * The jobs `serveapi`, which binds addresses and serves an API on them, and `acceptconnections`,
 * which opens the gate.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { type Logger, stderr } from "../engine/log.ts";
import {
  Activation,
  ConnectionLimit,
  ListenBuffer,
  type ListenBufferStats,
} from "../listenbuffer.ts";
import { HEADER_TIMEOUT, IDLE_TIMEOUT, SEND_TIMEOUT } from "../router/limits.ts";
import type { Upgradable } from "../router/upgradable.ts";
import { denoProblem } from "../platform/deno.ts";
import {
  descriptorLimit,
  DESCRIPTORS,
  descriptorsProblem,
  permittedEnv,
} from "../platform/descriptors.ts";
import type { Serve } from "../platform/http.ts";
import {
  type Address,
  bind,
  formatAddress,
  isLocal,
  parseAddress,
  parseAddresses,
} from "../serve/addresses.ts";
import type { Bound } from "../serve/bound.ts";
import type { BrowserRules, Judge } from "../serve/browsers.ts";
import type { Connections, ConnectionStats, Timeouts } from "../serve/connections.ts";
import type { RequestHandler } from "../serve/handler.ts";
import type { RequestObserver } from "../serve/observe.ts";
import type { Held, Takeover } from "../serve/takeover.ts";
import type { Tls } from "../serve/tls.ts";
import type { Workload } from "../serve/workload.ts";
import {
  checkedSettings,
  given,
  originsOf,
  readVariables,
  type ServeSettings,
  serveSettings,
} from "./settings.ts";

/** Something with the `fetch` of a Hono app. */
export interface Fetcher {
  /** Answers a request; `env` is what the app finds in its context's `env`. */
  fetch(request: Request, env?: unknown): Response | Promise<Response>;
  /**
   * The first segments of the paths with raw upgrades, as in the `upgrades` of a router. Default: those
   * of the routers that are part of a Hono app by `route`.
   */
  readonly upgrades?: Pick<ReadonlySet<string>, "size" | "has">;
}

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
   * Resolves when it has ended by the engine's shutdown, and rejects with a {@linkcode JobError} where
   * the boot has failed. It need not be awaited.
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

/** What a job `serveapi` was made to do by {@linkcode serve}, in place of its arguments and variables. */
interface Call {
  options: ServeOptions;
  bound: (api: Api) => void;
}
const calls = new WeakMap<Job, Call>();

/**
 * Binds addresses and serves an API on them: the job `serveapi`, for programs. Clients are held until
 * the job `acceptconnections` has run.
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
 * @returns A promise that resolves once all addresses are bound, or the engine's shutdown has begun.
 * @throws {JobError} If an address or a setting is wrong, or an address cannot be bound; then none is.
 * Its `cause` is a {@linkcode TypedError}.
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
  /** What its connections have in work together: requests, and bytes of answers that wait for clients. */
  work: { requests: number; maxRequests: number; held: number };
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
      const { startWatchdog } = await import("../platform/notify.ts");
      engine.onShutdown(startWatchdog(() => runTrue(engine), engine.log), {
        name: "of WATCHDOG_USEC",
      });
    }
  });

  engine.register("reload", async (job) => {
    if (activation.state === "open" && permittedEnv("NOTIFY_SOCKET")) {
      const { notifyReloading } = await import("../platform/notify.ts");
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

  return { stats: () => [...apis].flatMap((api) => api.stats ?? []) };
}

/** Tells systemd, where it wants to hear (NOTIFY_SOCKET); only there is loaded what does so. */
async function tellSystemd(state: string, log: Logger): Promise<void> {
  if (!permittedEnv("NOTIFY_SOCKET")) return;
  const { notify } = await import("../platform/notify.ts");
  await notify(state, log);
}

/** What systemd has passed, once it was received. It is the process's, as its environment is. */
let passed: typeof import("../platform/activation.ts") | undefined;

/** Receives what systemd has passed, and keeps it from the programs that this process starts. */
async function receiveSockets(): Promise<void> {
  if (!permittedEnv("LISTEN_PID") && !permittedEnv("LISTEN_FDS")) return;
  passed = await import("../platform/activation.ts");
  passed.receiveSockets();
}

function timeoutsOf(settings: ServeSettings): Timeouts {
  const { headerTimeout, idleTimeout, sendTimeout } = settings;
  return {
    header: headerTimeout ?? HEADER_TIMEOUT,
    idle: idleTimeout ?? IDLE_TIMEOUT,
    send: sendTimeout ?? SEND_TIMEOUT,
  };
}

async function theRouter(
  source: RouterSource | ServeapiOptions["router"],
  settings: ServeSettings,
): Promise<Fetcher> {
  return await (typeof source === "function" ? source(settings) : source);
}

/** Whether a job can run. A daemon that is told to stop takes no new ones, and is alive all the same. */
async function runTrue(engine: Engine): Promise<void> {
  if (engine.stopping.aborted) return;
  const job = engine.job("true");
  job.quiet = true; // It is no event, and nothing to fill a log with.
  await job.run();
}

/** For how long after the gate has opened nothing is done that can wait, in milliseconds. */
const START = 1_000;
/** How much time systemd gives a boot for the next word of progress, in milliseconds. */
const PROGRESS_WITHIN = 30_000;
const READY = "READY=1\nSTATUS=Accepting connections";
const STOPPING = "STOPPING=1\nSTATUS=Draining connections";

type ServingModule = typeof import("../serve/serving.ts");

/** An address that is bound, as it was asked for, and how many clients are held there. */
interface Placed {
  place: Bound;
  address: Address;
  hold: number | undefined;
}

/** An address, who comes there, and who is served. */
interface Listening extends Held {
  connections: Connections;
  /** Judges again by the settings that there are now. */
  renew(): void;
}

/** One run of `serveapi`. */
class Api {
  #job: Job;
  #settings: ServeSettings;
  #observers: readonly RequestObserver[];
  /** The engine's gate, and the one that our listeners are behind: the same if they are. */
  #gate: Activation;
  #activation: Activation;
  /** What is bound, and what of that is listened on, in the same order. */
  #bound: Placed[] = [];
  #listening: Listening[] = [];
  /** Loaded once all is bound. */
  #serving?: ServingModule;
  #defaultLimit: () => ConnectionLimit | undefined;
  /** Known once an address is bound. */
  #limit: ConnectionLimit | undefined;
  #sharedWorkload?: Workload;
  #router?: Fetcher;
  /** Its paths with raw upgrades. */
  #upgradable?: Upgradable | undefined;
  #upgradesOf?: (app: Fetcher) => Upgradable;
  #native?: Serve | undefined;
  #upgrades?: typeof import("../serve/upgrades.ts");
  #loaded?: Promise<void>;
  #warned = false;
  /** Why this process may not look at what clients send, if it may not. */
  #peekProblem: string | undefined;
  /** How many connections there are descriptors for. */
  #defaultMax?: number;
  #tls?: Tls;
  #handler: RequestHandler = () => new Response(null, { status: 503 });
  #ended = Promise.withResolvers<void>();
  /** How many listeners have clients that wait for a place. */
  #pressure = 0;
  #stopped = false;
  /** What takes another daemon's place, and gives ours up; loaded only where it is wanted. */
  #takeover?: Takeover;
  /** Aborts once the start is over, and what can wait is done. */
  #started?: AbortSignal;
  #afterStart = () => {
    const ports = this.addresses.flatMap((address) => /^tcp:.*:(\d+)$/.exec(address)?.[1] ?? []);
    this.#serving?.keepAlive(new Set(ports.map(Number)));
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
    this.#defaultLimit = limit;
    job.onStop((drain) => this.#stop(drain));
    globalThis.addEventListener("unload", this.#unload);
  }

  /** Shared by the listeners; made once one is bound, because to look at memory takes a while. */
  get #workload(): Workload {
    return this.#sharedWorkload ??= new this.#serving!.Workload(this.#settings);
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
    if (!this.#serving) return undefined;
    const listeners = this.#listening.map(({ place, buffer, connections }) => {
      // Active there are those that are held, too; here each is in one state.
      const { active: _, ...accepting } = buffer.stats;
      return { address: place.address, ...accepting, ...connections.stats };
    });
    const { requests, maxRequests, held } = this.#workload;
    return {
      gate: this.#activation.state,
      ...this.#limit && { maxConnections: this.#limit.max },
      work: { requests, maxRequests, held },
      listeners,
    };
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
      const inner = { serve: this.#serve, accepted: this.#accepted };
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
    // Only now, because clients may wait for the sockets; those that come are in the kernel's queue.
    this.#serving = await import("../serve/serving.ts");
    if (this.#stopped) return;
    stderr.ready = this.#serving.writability(this.#serving.STDERR);
    for (const each of this.#bound) this.#listen(each, this.#serving);
    this.#takeover?.bound();
    this.#loaded = this.#loadUpgrades();
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
      listening: this.#listening,
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

  #listen({ place, address, hold }: Placed, serving: ServingModule): void {
    const { admit, Connections, deepenQueue, judgePages, observed, Peers, tellRefused } = serving;
    const job = this.#job;
    if (place.hides) deepenQueue(place.listener as Deno.UnixListener);
    const tcp = place.address.startsWith("tcp:");
    const tls = tcp ? this.#tls : undefined;
    if (tcp && !tls?.verifies && !isLocal(parseAddress(place.address))) {
      job.engine.log(
        "warn",
        `${place.address}: whoever reaches this port from any machine may do all that the daemon can; nothing asks who they are`,
      );
    }
    this.#limit ??= this.#findLimit();
    const handler: RequestHandler = (request, info) => this.#handler(request, info);
    const judging = () => tcp ? judgePages(this.#browserRules(place, address)) : () => undefined;
    let judge: Judge = judging();
    const peers = tcp ? undefined : new Peers();
    const connections = new Connections({
      handler: observed(
        admit(handler, {
          scheme: tls ? "https" : "http",
          unix: !tcp,
          ...tcp && { problemOf: (request, host) => judge(request, host) },
        }),
        this.#observers,
      ),
      onRefused: (...refused) => tellRefused(this.#observers, ...refused),
      timeouts: timeoutsOf(this.#settings),
      workload: this.#workload,
      pressed: () => this.#pressure > 0 || (this.#limit?.full ?? false),
      serve: tls?.serve ?? this.#serve,
      upgradeProblem: () =>
        `no raw upgrade is served here: ${
          this.#upgradeProblem(place) ?? "the path was not given to router.upgradable"
        }`,
      ...peers && { peers },
      log: job.engine.log,
    });
    const buffer = new ListenBuffer(place.listener, this.#activation, {
      // Unix connections have to be found as they are accepted: later they cannot be told apart.
      onAccept: (conn) => {
        if (peers) peers.accepted(conn, this.#looks);
        else if (this.#looks) this.#upgrades?.findDescriptor(conn);
      },
      ...given({ hold, maxConnections: this.#limit }),
      onPressure: (pressed) => {
        this.#pressure += pressed ? 1 : -1;
        // A client of one address may take the place of an idle client of another.
        if (pressed) this.#each((connections) => connections.makeRoom());
      },
      log: (level, message) => job.engine.log(level, `${place.address}: ${message}`),
    });
    const renew = () => void (judge = judging());
    const asked = formatAddress(address);
    this.#listening.push({ place, asked, buffer, connections, renew });
  }

  /** What of other settings can be put in place while it serves. */
  change(settings: ServeSettings): void {
    this.#settings = settings;
    for (const { connections, renew } of this.#listening) {
      connections.timeouts = timeoutsOf(settings);
      renew();
    }
    this.#setMax();
  }

  /** At how many connections accepting pauses; asked once bound, because to look takes a while. */
  #findLimit(): ConnectionLimit | undefined {
    const { maxConnections } = this.#settings;
    const limit = this.#defaultLimit();
    if (maxConnections === undefined && !this.#tls?.verifies) return limit;
    this.#gate.opened.then(() => this.#setMax(), () => {});
    return new ConnectionLimit(this.#max);
  }

  #setMax(): void {
    if (this.#limit) this.#limit.max = this.#max;
  }

  /**
   * How many connections there may be. While the daemon boots some descriptors are left to it, whatever
   * the setting says: it loads modules, and Deno ends with a panic where it has none left for that.
   */
  get #max(): number {
    const { maxConnections = Infinity } = this.#settings;
    if (maxConnections !== Infinity && this.#gate.state === "open") return maxConnections;
    this.#defaultMax ??= this.#findMax();
    return Math.min(maxConnections, this.#defaultMax);
  }

  /** As many connections as there are descriptors for. */
  #findMax(): number {
    const max = this.#defaultLimit()?.max ?? Infinity;
    return Math.max(1, Math.floor(max / (this.#tls?.descriptors ?? 1)));
  }

  /** Whether connections are looked at, for raw upgrades; nothing is known of that before the boot. */
  get #looks(): boolean {
    if (this.#router && !this.#upgradable?.size) return false;
    return this.#peekProblem === undefined;
  }

  /** Why raw upgrades are not served at a place, if they are not. */
  #upgradeProblem(place: Bound): string | undefined {
    const tls = place.address.startsWith("tcp:") && this.#tls;
    return tls && !tls.verifies
      ? "over TLS they need client certificates, --tlsverify (TlsVerify)"
      : this.#peekProblem;
  }

  /** Says so, once, where routes ask for them. */
  #warnOfUpgrades(): void {
    if (this.#warned || !this.#upgradable?.size) return;
    this.#warned = true;
    const places = Map.groupBy(this.#listening, ({ place }) => this.#upgradeProblem(place));
    places.delete(undefined);
    for (const [problem, listening] of places) {
      const addresses = listening.map(({ place }) => place.address).join(", ");
      this.#job.engine.log("warn", `${addresses}: no raw upgrades are served: ${problem}`);
    }
  }

  /** Told of each connection inside of another as it is accepted: later they cannot be told apart. */
  readonly #accepted = (conn: Deno.Conn): void => {
    if (this.#looks) this.#upgrades?.findDescriptor(conn);
    else this.#upgrades?.skipDescriptor();
  };

  readonly #serve: Serve = (...given) => (this.#native ??= this.#serving!.nativeServe())(...given);

  /** Loads what looks at connections: once bound, and before it is known whether a route asks for it. */
  async #loadUpgrades(): Promise<void> {
    // Now, because later there may be no descriptors left to find out with.
    this.#peekProblem = descriptorsProblem();
    try {
      const { Upgrades } = await import("../router/upgradable.ts");
      this.#upgradesOf = (app) => new Upgrades(app);
      if (this.#peekProblem !== undefined) return;
      this.#upgrades = await import("../serve/upgrades.ts");
      this.#peekProblem = this.#upgrades.peekProblem();
    } catch (error) {
      this.#peekProblem = messageOf(error); // Held clients may have all the descriptors.
    }
  }

  #browserRules(place: Bound, asked: Address): BrowserRules {
    const { host } = parseAddress(place.address) as Address & { proto: "tcp" };
    const { allowedHosts = [] } = this.#settings;
    return given<BrowserRules>({
      scheme: this.#tls ? "https" : "http",
      // No other server's page can have a name that is in our certificate.
      hosts: this.#tls ? undefined : [
        host,
        ...asked.proto === "tcp" ? [asked.host] : [],
        ...allowedHosts,
      ],
      cors: originsOf(this.#settings),
    });
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
  async serve(router: Fetcher): Promise<void> {
    const { checkAnswers, nativeServe } = this.#serving!;
    this.#handler = checkAnswers((request, info) => router.fetch(request, info));
    await this.#loaded;
    this.#router = router;
    this.#upgradable = router.upgrades ?? this.#upgradesOf?.(router);
    this.#native = this.#upgrades?.upgrading(
      nativeServe(),
      () => this.#looks ? this.#upgradable : undefined,
    );
    this.#each((connections) => connections.prepare());
    this.#started = AbortSignal.timeout(START);
    this.#started.addEventListener("abort", this.#afterStart);
    if (this.#stopped) await this.close();
    await Promise.all(this.#listening.map(({ buffer, connections }) => {
      const release = () => buffer.release();
      return buffer.forEach((connection) => connections.serve(connection, release));
    }));
    if (this.#failure) throw this.#failure.reason;
    if (this.#stopped) await this.#ended.promise;
  }

  async publish(): Promise<void> {
    this.#warnOfUpgrades();
    for (const { place } of this.#bound) await place.publish();
  }

  async #stop(drain: number): Promise<void> {
    this.#stopped = true;
    const deadline = performance.now() + drain;
    // A client that is in the kernel's queue was let in: it is accepted and served. Those that we
    // hold behind a gate that never opened cannot be.
    const accepted = Promise.all(this.#listening.map(async ({ place, buffer }) => {
      await this.#unpublish(place);
      // No client finds a socket whose path is gone, so there it is safe to wait a little.
      const quiet = place.hides ? 20 : 0;
      if (this.#activation.state === "open") await buffer.drain({ quiet, limit: drain });
      else buffer.close();
    }));
    const drained = () =>
      Promise.all(
        this.#listening.map(({ connections }) =>
          connections.drain(deadline - performance.now(), this.takenOver)
        ),
      );
    // Only then, because a client that is told to close comes back at once; but where there is no
    // room, those who wait can be let in only when others go.
    if (this.#limit?.full) await drained();
    await accepted;
    await drained();
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

  #each(step: (connections: Connections) => void): void {
    for (const { connections } of this.#listening) step(connections);
  }

  #abandon(reason: unknown): void {
    this.#failure = { reason };
    for (const { buffer } of this.#listening) buffer.close();
  }

  async close(): Promise<void> {
    for (const { buffer } of this.#listening) buffer.close();
    for (const { place } of this.#bound.slice(this.#listening.length)) place.listener.close();
    for (const { place } of this.#bound) await this.#unpublish(place);
    this.#each((connections) => connections.cutAll());
    await this.#takeover?.close();
    this.#tls?.close();
    globalThis.removeEventListener("unload", this.#unload);
    // While something listens to it, it keeps the process alive.
    this.#started?.removeEventListener("abort", this.#afterStart);
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
