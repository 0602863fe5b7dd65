/**
 * The HTTP side of an engine: a Hono app in which every route runs a job.
 *
 * ```ts
 * import { Engine } from "./engine.ts";
 * import { createRouter } from "./router.ts";
 *
 * const engine = new Engine();
 * engine.register("greet", (job) => job.print(`{"hello": "${job.args[0]}"}\n`));
 * const router = createRouter(engine);
 * router.job({ method: "GET", path: "/greet/:name", job: "greet" });
 * console.log(await (await router.request("/v1.24/greet/world")).json());
 * ```
 *
 * @module
 */

import { type Context, Hono } from "npm:hono@4.13.19";
import { cors } from "npm:hono@4.13.19/cors";
import { basePath, matchedRoutes } from "npm:hono@4.13.19/route";
import type { MiddlewareHandler, Next } from "npm:hono@4.13.19/types";
import { mergePath } from "npm:hono@4.13.19/utils/url";
import type { Engine, Job } from "./engine.ts";
import { messageOf, Status, TypedError } from "./engine/errors.ts";
import { after, turn } from "./engine/time.ts";
import { API_VERSION, VERSION } from "./engine/version.ts";
import { addHeaders, staticBody } from "./platform/http.ts";
import { Answer } from "./router/answer.ts";
import type { Bindings } from "./router/bindings.ts";
import type { BodyLimits, LimitedBody } from "./router/body.ts";
import { DOCKER_API } from "./router/dockerapi.ts";
import { noSuchPage, toHttp, type Told } from "./router/errors.ts";
import { attachFramed } from "./router/frames.ts";
import { type Around, type Found, Matcher } from "./router/matcher.ts";
import { type Parent, RequestBindings } from "./router/request.ts";
import { BODIES_LIMIT, BODY_TIMEOUT, JSON_LIMIT, SEND_TIMEOUT } from "./router/limits.ts";
import { endingAt, respond } from "./router/respond.ts";
import type { Route } from "./router/route.ts";
import { isForAll, Row } from "./router/row.ts";
import type { Reading } from "./router/validation.ts";
import type { Telemetry } from "./platform/telemetry.ts";
import { compareVersions, versionProblem } from "./router/versions.ts";

export type {
  Bindings,
  ClientCertificate,
  Upgrade,
  UpgradedConnection,
} from "./router/bindings.ts";
export { DOCKER_API, type DockerInput, type DockerJob } from "./router/dockerapi.ts";
export type {
  AnswerKind,
  AnswerSpec,
  Body,
  BodyKind,
  Fields,
  InputOf,
  JsonSchema,
  Parameter,
  ParameterKind,
  ParameterOptions,
  Route,
  SchemaIssue,
  SchemaResult,
  StandardSchema,
} from "./router/route.ts";

/** What {@linkcode createRouter} can be told. */
export interface RouterOptions {
  /** The version that the `Server` header names. Default: Floodgate's own. */
  version?: string;
  /**
   * Which built-in routes there are: all (the default), none, or those of these paths and below them,
   * such as `["/_ping", "/containers"]`.
   */
  builtins?: boolean | readonly string[];
  /** The origins whose pages may read answers, such as `https://pages.example`, or `*`. Default: none. */
  cors?: string | readonly string[];
  /** The longest request body in bytes, unless a route lifts it. Default 16 MiB. */
  bodyLimit?: number;
  /** The longest JSON body of a route that has `body: "env"`, in bytes. Default 1 MiB. */
  jsonLimit?: number;
  /**
   * How many bytes the request bodies that are being read may have together, of those with a limit.
   * Beyond it requests are answered 503. Default 256 MiB, or `bodyLimit` where that is more.
   */
  bodiesLimit?: number;
  /**
   * How long a client may send nothing of a body it has announced, in milliseconds; default 60 000. In
   * each stretch of that length it has to send 500 bytes a second, unless its route lifts the limit of
   * its length.
   */
  bodyTimeout?: number;
  /** How long a client may take nothing of an answer that is ready, in ms. Default 300 000. */
  sendTimeout?: number;
  /** Whether each request is logged, at level info. Default false. */
  logging?: boolean;
}

/** The rows that every daemon has, besides `/_ping` and the description. */
const BUILTINS: readonly Route[] = [
  ...Object.entries(DOCKER_API).flatMap(([noun, rows]) =>
    rows.map((row): Route => ({ ...row, tags: [noun] }))
  ),
  {
    method: "GET",
    path: "/debug/vars",
    job: "stats",
    summary: "Counts connections, errors, jobs and memory",
    tags: ["system"],
  },
];
const PING = "/_ping";
const DESCRIPTION = "/openapi.json";

/**
 * A Hono app whose routes may run jobs. All routes answer with and without `/vMAJOR.MINOR`. Its `job`
 * adds a row to the route table; what Hono's methods give is a router too.
 *
 * @typeParam E The env of its handlers, such as `{ Variables: { user: string } }`.
 */
// By way of an index, because deno doc --lint would have all of Hono's types documented here.
export type Router<E extends AppEnv = Record<never, never>> =
  ((typeof import("./router/types.ts"))["kind"] & { E: E })["router"];

/** What handlers find in `c.var`, besides what `c.env` has. */
export interface AppEnv {
  /** The variables, by their names. */
  Variables?: object;
}

/**
 * A router for this engine's jobs. The built-in routes come after all that is added to it.
 *
 * @typeParam E The env of its handlers: `{ Variables: { user: string } }` for `c.set("user", ...)`.
 */
export function createRouter(engine: Engine, options?: RouterOptions): Router;
/** A router whose handlers have an env of the program's own. */
export function createRouter<E extends AppEnv>(
  engine: Engine,
  options?: RouterOptions,
): Router<E>;
export function createRouter(engine: Engine, options: RouterOptions = {}): Router {
  return new Dispatcher(engine, options).router;
}

const METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
/** What pages of other origins may send, and read, besides what browsers let them (Fetch, 2.2.2). */
const CORS = {
  allowMethods: METHODS,
  allowHeaders: [
    "Accept",
    "Authorization",
    "Content-Type",
    "X-Registry-Auth",
    "X-Registry-Config",
    "X-Request-Id",
    "X-Requested-With",
  ],
  exposeHeaders: [
    "Api-Version",
    "Content-Length",
    "Ostype",
    "Retry-After",
    "Server",
    "X-Request-Id",
  ],
};
/** From this version on errors are JSON; before, they are text. */
const JSON_ERRORS = [1, 24];

type App = ReturnType<typeof newApp>;
type Fetch = App["fetch"];
type C = Context<{ Bindings: Bindings }>;

/** Whether an answer is one that a client reads events from for as long as it likes. */
function isEventStream(response: Response): boolean {
  return staticBody(response) === undefined && response.status === 200 &&
    (response.headers.get("content-type") ?? "").startsWith("text/event-stream");
}

/** Between Hono, which finds the route, and the engine, which runs its job. */
class Dispatcher {
  readonly router: Router;
  #engine: Engine;
  #options: RouterOptions;
  #app: App;
  /** Hono's own. */
  #dispatch: Fetch;
  #matcher: Matcher;
  /** The rows by their handlers: those that every daemon has are made ready when they are asked for. */
  #rows = new Map<Found[0], () => Row>();
  /** The rows that were added, by the shapes of their paths. */
  #added = new Map<string, Row[]>();
  /** The first segments of the paths that may be upgraded. */
  #upgrades = new Set<string>();
  #limits: BodyLimits;
  /** Headers of all answers. */
  #headers: Record<string, string>;
  #headerList: [string, string][];
  #wanted: (path: string) => boolean;
  #sealed = false;
  /** Where OpenTelemetry is on. */
  #spans?: Telemetry;

  constructor(engine: Engine, options: RouterOptions) {
    this.#engine = engine;
    this.#options = options;
    if (Symbol.for("opentelemetry.js.api.1") in globalThis) {
      import("./platform/telemetry.ts").then(({ telemetry }) => {
        const spans = telemetry(VERSION);
        if (spans) this.#spans = spans;
      });
    }
    this.#limits = {
      timeout: options.bodyTimeout ?? BODY_TIMEOUT,
      together: options.bodiesLimit ?? Math.max(BODIES_LIMIT, options.bodyLimit ?? 0),
      held: 0,
    };
    this.#headers = {
      "Server": `Floodgate/${options.version ?? VERSION} (${Deno.build.os})`,
      "Api-Version": API_VERSION,
      "Ostype": Deno.build.os,
    };
    this.#headerList = Object.entries(this.#headers)
      .map(([name, value]) => [name.toLowerCase(), value]);
    this.#wanted = builtinsOf(options.builtins);
    this.#matcher = new Matcher((request, found) => this.#around(request, found));
    const app = this.#app = newApp(this.#matcher);
    this.#dispatch = app.fetch;
    app.notFound((c) => this.#notFound(c));
    app.onError((error, c) => this.#failed(error, c.env as RequestBindings, c));
    this.router = this.#equip(app, "/");
    // For an app that this one is routed in: it copies the routes, and asks for nothing else of ours.
    app.routes.push({ basePath: "/", path: "/*", method: "ALL", handler: this.#routed });
    if (options.cors !== undefined) {
      const any = [options.cors].flat().includes("*");
      // Those that there are at the moment: the options may be changed.
      const allowed = (origin: string) =>
        [options.cors ?? []].flat().includes(origin) ? origin : null;
      app.use(cors({ ...CORS, origin: any ? "*" : allowed }));
    }
    const stop = engine.onJob((job, phase) => {
      if (job.name === "acceptconnections" && phase === "start") this.#mayUpgradeBuiltins();
      if (job.name !== "acceptconnections" || phase !== "end" || job.status !== Status.OK) return;
      stop();
      this.#opened();
    });
  }

  /** Makes a Hono app, or what its `basePath` gives, one of ours. */
  #equip(app: App, base: string): Router {
    const { basePath } = app;
    const { notFound, onError } = this.#app;
    return Object.assign(app, {
      fetch: this.#fetch,
      job: (route: Route) => {
        this.#add(app, mergePath(base, route.path), route);
        return app;
      },
      upgradable: (path: string) => (this.#mayUpgrade(mergePath(base, path)), app),
      upgrades: this.#upgrades as ReadonlySet<string>,
      rows: () => [
        ...[...this.#added.values()].flat().map(({ route }) => route),
        ...BUILTINS.filter(({ path, job }) => this.#wanted(path) && this.#engine.has(job)),
      ],
      basePath: (path: string) =>
        this.#equip(basePath.call(app, path) as unknown as App, mergePath(base, path)),
      // With a path before its routes, it is the same app.
      notFound: (handler: Parameters<App["notFound"]>[0]) => (notFound(handler), app),
      onError: (handler: Parameters<App["onError"]>[0]) => (onError(handler), app),
    }) as unknown as Router;
  }

  #add(app: App, path: string, route: Route): void {
    const row = new Row({ ...route, path }, path, this.#headers, this.#jsonLimit);
    const { shape } = row;
    const rows = this.#added.get(shape);
    if (rows?.some((other) => other.clashes(row))) {
      throw new TypeError(`row ${route.method} ${path}: there is one for these requests already`);
    }
    if (rows) rows.push(row);
    else this.#added.set(shape, [row]);
    if (route.upgrade === "tcp") this.#mayUpgrade(path);
    this.#handle(app, route, () => row);
  }

  #handle(app: App, route: Route, rowOf: () => Row): void {
    const { method, path } = route;
    // One that takes every request has no use for what comes next, which need not be looked for.
    const handler = isForAll(route)
      ? (c: C) => this.#run(c, rowOf())
      : (c: C, next: Next) => this.#run(c, rowOf(), next);
    this.#rows.set(handler as Found[0], rowOf);
    // HEAD comes to Hono's handlers as GET.
    app.on(method === "HEAD" ? "GET" : method, [path], handler as MiddlewareHandler);
  }

  #mayUpgrade(path: string): void {
    const segment = path.split("/")[1] ?? "";
    this.#upgrades.add(/^[\w.~-]+$/.test(segment) ? segment : "*");
  }

  /** The jobs of Docker's rows are known once the gate is about to open. */
  #mayUpgradeBuiltins(): void {
    for (const { path, job, upgrade } of BUILTINS) {
      if (upgrade === "tcp" && this.#wanted(path) && this.#engine.has(job)) this.#mayUpgrade(path);
    }
  }

  get #jsonLimit(): number {
    const { bodyLimit = Infinity, jsonLimit = JSON_LIMIT } = this.#options;
    return Math.min(bodyLimit, jsonLimit);
  }

  /** Adds the built-in routes, once all others are there. */
  #seal(): void {
    this.#sealed = true;
    this.#matcher.last(() => {
      for (const route of BUILTINS) {
        if (!this.#wanted(route.path)) continue;
        let row: Row | undefined;
        this.#handle(
          this.#app,
          route,
          () => row ??= new Row(route, route.path, this.#headers, this.#jsonLimit),
        );
      }
      if (this.#wanted(DESCRIPTION)) this.#app.get(DESCRIPTION, (c) => this.#describe(c));
    });
    if (this.#wanted(PING)) this.#ping();
  }

  async #describe(c: C): Promise<Response> {
    const { describe } = await import("./router/openapi.ts");
    const about = { title: "Floodgate", version: this.#options.version ?? VERSION };
    return c.json(describe(this.router.rows(), about, c.env.version));
  }

  #ping(): void {
    const pong = new Response("OK", {
      headers: {
        "Content-Type": "text/plain; charset=utf-8",
        ...this.#headers,
        "Docker-Experimental": "false",
        "Cache-Control": "no-cache, no-store, must-revalidate",
        "Pragma": "no-cache",
      },
    });
    this.#app.get(PING, (c) => {
      const env = c.env as RequestBindings;
      // Seven headers take the runtime longer to check than all else about a request. A copy has them.
      return env.alone ? env.made = pong.clone() : c.newResponse("OK", pong as never);
    });
  }

  /** The gate has opened. */
  #opened(): void {
    if (!this.#sealed) this.#seal();
    const missing = [...this.#added.values()].flat()
      .filter(({ route }) => !this.#engine.has(route.job));
    for (const { path, route: { method, job } } of missing) {
      this.#engine.log("warn", `no such job registered: ${job}, of the row ${method} ${path}`);
    }
  }

  #fetch: Fetch = (request, info, context) => this.#take(request, info, context);

  #take(
    request: Request,
    info: object | undefined,
    context: Parameters<Fetch>[2],
    routed?: { path: string; parent: Parent },
  ): Response | Promise<Response> {
    if (!this.#sealed) this.#seal();
    const env = new RequestBindings(request, info, this.#options.bodyLimit, routed);
    const started = this.#options.logging ? performance.now() : 0;
    let answer: unknown;
    try {
      const limited = env.limited(this.#limits);
      if (routed) routed.parent.c.req.raw = limited;
      answer = this.#dispatch(limited, env, context);
      // This far, it has the span that the runtime made for the request.
      if (this.#spans && env.route !== undefined) {
        const span = this.#spans.activeSpan();
        span?.setAttribute("http.route", env.route);
        span?.updateName(`${env.method} ${env.route}`);
      }
    } catch (error) {
      answer = this.#failed(error, env);
    }
    if (!(answer instanceof Promise)) return this.#finish(env, answer, started);
    return answer.then(
      (response) => this.#finish(env, response, started),
      (error) => this.#finish(env, this.#failed(error, env), started),
    );
  }

  /**
   * What an app runs for all requests below the path that this one is routed at, in place of the copies
   * of our routes that it has: here they have versions, limits and errors as they do at the top.
   */
  #routed: MiddlewareHandler = async (c, next) => {
    const path = c.req.path.slice(basePath(c).replace(/\/$/, "").length) || "/";
    let context: Parameters<Fetch>[2];
    try {
      context = c.executionCtx;
    } catch {
      // There is none, which Hono tells by throwing.
    }
    const response = await this.#take(c.req.raw, c.env, context, { path, parent: { c, next } });
    if (!c.finalized) return c.newResponse(response.body, response as never);
    c.res = undefined;
    c.res = response;
  };

  /** What goes around the handlers of a request that is out of the ordinary. */
  #around(env: RequestBindings, found: readonly Found[]): Around {
    if (env.body !== undefined) {
      // Before any middleware reads it.
      const query = (name: string) =>
        URL.parse(env.request.url)?.searchParams.get(name) ?? undefined;
      for (const [handler] of found) {
        const row = this.#rows.get(handler)?.();
        if (row?.bodyLimit === undefined || !row.takes(env.method, env.version, { query })) {
          continue;
        }
        env.bodyLimit = row.bodyLimit;
      }
    }
    const first: MiddlewareHandler[] = [];
    if (env.method === "HEAD") first.push(withoutBody);
    if (env.parent !== undefined) first.push(inherit);
    const { problem } = env;
    if (problem === undefined) return { first };
    return {
      first,
      instead: () => {
        throw new TypedError("bad parameter", problem);
      },
    };
  }

  #run(c: C, row: Row, next?: Next): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const { route } = row;
    if (next !== undefined && !row.takes(env.method, env.version, c.req)) {
      if (route.method !== "HEAD" || env.method === "HEAD") env.conditions.push(row.condition);
      return next() as Promise<never>; // What comes next answers.
    }
    if (env.method === "HEAD" && route.method === "GET") {
      const head = this.#headOf(row);
      if (head !== undefined) return this.#run(c, head);
      if (row.stream || route.upgrade) return this.#notAllowed(c, ["GET"]);
    }
    if (!this.#engine.has(route.job)) throw row.missing;
    const reading = row.reader.read(c.req, env.version);
    const hasBody = env.body !== undefined;
    if (reading instanceof Promise || row.turns !== undefined || row.readsBody(hasBody)) {
      return this.#prepare(c, row, reading);
    }
    return this.#start(c, row, reading);
  }

  /** The row for HEAD that was added behind one for GET. */
  #headOf({ shape, path }: Row): Row | undefined {
    return this.#added.get(shape)?.find((row) => row.route.method === "HEAD" && row.path === path);
  }

  /** Waits for what a job needs: its body, what a schema says, its turn. */
  async #prepare(
    c: C,
    row: Row,
    given: Reading | undefined | Promise<Reading>,
  ): Promise<Response> {
    const env = c.env as RequestBindings;
    const reading = await given ?? row.reader.nothing();
    await row.readBody(c, env.body !== undefined, reading);
    // By way of what Hono has kept of the body, where other handlers have read it.
    const kept = row.reader.body?.type === "stdin" && Object.keys(c.req.bodyCache).length > 0
      ? await c.req.bytes()
      : undefined;
    await row.turns?.take(env.signal);
    return this.#start(c, row, reading, kept);
  }

  #start(
    c: C,
    row: Row,
    reading: Reading | undefined,
    kept?: Uint8Array,
  ): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const job = this.#engine.job(row.route.job, ...row.reader.args(c.req, reading));
    job.quiet = true;
    env.context = c;
    job.onBehalfOf(env);
    job.abortWith(() => env.signal);
    if (reading !== undefined) {
      for (const [name, value] of reading.env) job.setenv(name, value);
      job.input = reading.input;
    }
    env.job = job;
    if (row.route.upgrade !== undefined) return this.#upgrade(c, job, row, kept);
    if (row.reader.body?.type === "stdin" && env.body !== undefined) {
      if (kept !== undefined) job.stdin.add(kept);
      else if (c.req.raw.body) job.stdin.add(c.req.raw.body);
    }
    return this.#answer(c, job, row);
  }

  /** Runs a job that is to have its client's connection. */
  async #upgrade(c: C, job: Job, row: Row, kept?: Uint8Array): Promise<Response> {
    const env = c.env as RequestBindings;
    const { runRaw, runWebSocket } = await import("./router/upgrade.ts");
    const run = row.route.upgrade === "tcp" ? runRaw : runWebSocket;
    // A body that was made variables of is no input.
    const { type = "stdin" } = row.reader.body ?? {};
    const body = type === "stdin" && env.body !== undefined ? c.req.raw.body : null;
    const cancel = row.timeout && after(row.timeout.ms, () => {
      const message = `job ${job.name} took longer than ${row.timeout!.ms} ms`;
      job.abort(new TypedError(row.timeout!.kind, message));
    });
    return await run({
      job,
      env,
      request: c.req.raw,
      body: kept === undefined ? body : new Blob([kept as Uint8Array<ArrayBuffer>]).stream(),
      contentType: row.route.contentType,
      sendTimeout: this.#options.sendTimeout ?? SEND_TIMEOUT,
      failed: (error) => {
        if (env.signal.aborted) return; // The client went first, and the job failed of that.
        this.#engine.log("warn", `job ${job.name} failed in its answer: ${messageOf(error)}`, {
          error,
        });
      },
      ended: () => {
        cancel?.();
        row.turns?.give();
      },
    });
  }

  #answer(c: C, job: Job, row: Row): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const answer = new Answer(c, job, row, this.#options.sendTimeout ?? SEND_TIMEOUT);
    env.answer = answer;
    let flush: (() => void) | undefined;
    if (row.inFrames) flush = attachFramed(job, answer);
    else job.stdout.add(answer);
    const running = answer.ended = job.run();
    // A job that has ended already is answered in the same go: no promise, and the fast way through
    // the runtime, which is there for handlers that return a response at once.
    if (job.status === Status.OK) {
      row.turns?.give();
      flush?.();
      const response = answer.end();
      if (response !== undefined) return response;
    }
    if (row.turns !== undefined || row.timeout !== undefined) {
      this.#bound(job, row, running, answer);
    }
    running.then(() => {
      flush?.();
      answer.resolve();
    }, (error) => {
      if (answer.fail(error)) return;
      // The status line is out: all that is left is to cut the answer short, and to say why here.
      this.#engine.log("warn", `job ${job.name} failed in its answer: ${messageOf(error)}`, {
        error,
      });
    });
    // What fails before it has waited for anything is answered with a status; then the stream begins.
    if (row.eager) turn().then(() => answer.begin());
    return answer.response;
  }

  /** Bounds how long a job runs, and how many do. */
  #bound(job: Job, { turns, timeout }: Row, running: Promise<void>, answer: Answer): void {
    if (job.status === Status.OK) return;
    const cancel = timeout && after(timeout.ms, () => {
      const message = `job ${job.name} took longer than ${timeout.ms} ms`;
      answer.giveUp(new TypedError(timeout.kind, message));
    });
    const end = () => {
      cancel?.();
      turns?.give();
    };
    running.then(end, end);
  }

  async #notFound(c: C): Promise<Response> {
    const env = c.env as RequestBindings;
    if (env.conditions.length > 0) {
      const problem = `${env.method} ${env.path} ${env.conditions.join(" or ")}`;
      return this.#failed(new TypedError("bad parameter", problem), env, c);
    }
    const methods = METHODS.filter((method) => this.#handles(method, env.path));
    const asked = env.method === "HEAD" ? "GET" : env.method;
    // A handler may say "not found" of a path that it does handle.
    if (methods.length > 0 && !methods.includes(asked)) {
      if (env.method !== "OPTIONS") return this.#notAllowed(c, methods);
      return c.body(null, 200, { ...this.#headers, Allow: [...methods, "OPTIONS"].join(", ") });
    }
    if (methods.length === 0) {
      const { parent, oddVersion } = env;
      if (parent !== undefined && this.#goesOn(parent)) {
        await parent.next();
        return parent.c.res;
      }
      const problem = oddVersion === undefined ? undefined : versionProblem(oddVersion);
      if (problem !== undefined) {
        return this.#failed(new TypedError("bad parameter", problem), env, c);
      }
    }
    return this.#failed(noSuchPage(env.path), env, c);
  }

  /** Whether an app that this one is routed in has further handlers for the request, of its own. */
  #goesOn({ c }: Parent): boolean {
    const ours = new Set(this.#app.routes.map(({ handler }) => handler));
    return matchedRoutes(c).slice(c.req.routeIndex + 1).some(({ handler }) => {
      const { __COMPOSED_HANDLER: composed } = handler as { __COMPOSED_HANDLER?: typeof handler };
      return !ours.has(composed ?? handler);
    });
  }

  #notAllowed(c: C, methods: string[]): Response {
    const env = c.env as RequestBindings;
    const allow = methods.join(", ");
    const message = `method ${env.method} is not allowed for ${env.path}, expected ${allow}`;
    return this.#text(env, { status: 405, message }, { Allow: allow }, c);
  }

  /** Whether a path has a handler for just this method: middleware is for all of them. */
  #handles(method: string, path: string): boolean {
    const seen = method === "HEAD" ? "GET" : method;
    return this.#matcher.match(seen, path)[0].some(([[handler, route]]) =>
      route.method === seen && (this.#rows.get(handler)?.().route.method ?? seen) === method
    );
  }

  /** The answer to a request that failed, for which the log has the whole error, and the client its id. */
  #failed(error: unknown, env: RequestBindings, c?: C): Response {
    let told: Told = toHttp(error);
    env.told = told.cause;
    const { response } = told;
    if (response) return c ? c.newResponse(response.body, response as never) : response;
    const headers: Record<string, string> = {};
    if (told.retryAfter !== undefined) headers["Retry-After"] = String(told.retryAfter);
    if (told.status === 500) {
      env.context ??= c;
      const id = headers["X-Request-Id"] = env.requestId;
      const { method, path, job } = env;
      this.#engine.log("error", `${method} ${path}: ${messageOf(error)}`, {
        method,
        path,
        ...job && { job: job.name },
        request: id,
        error,
      });
      told = { ...told, message: told.message ?? `internal error, request ${id}` };
    }
    return this.#text(env, told, headers, c);
  }

  #text(
    env: RequestBindings,
    { status, message = "" }: Told,
    extra: Record<string, string>,
    c?: C,
  ): Response {
    const old = env.version !== undefined && compareVersions(env.version, JSON_ERRORS) < 0;
    const headers = {
      ...this.#headers,
      "Content-Type": old ? "text/plain; charset=utf-8" : "application/json",
      ...extra,
    };
    return respond(c, old ? message + "\n" : JSON.stringify({ message }), { status, headers });
  }

  #finish(env: RequestBindings, answer: unknown, started: number): Response {
    let response: Response;
    if (answer instanceof Response) response = answer;
    else response = this.#failed(new TypeError(`${this.#nameOf(env)} returned no Response`), env);
    env.answer?.answered(response);
    if (env.body !== undefined) response = this.#finishBody(env, env.body, response);
    if (env.answer === undefined && response !== env.made && isEventStream(response)) {
      // As jobs do, it goes on until the daemon stops.
      response = endingAt(this.#engine.stopping, response);
    }
    if (response !== env.made) addHeaders(response, this.#headerList);
    const id = env.toldId;
    if (id !== undefined) addHeaders(response, [["x-request-id", id]]);
    if (this.#options.logging) {
      this.#engine.log("info", `${env.method} ${env.path} ${response.status}`, {
        ms: Math.round((performance.now() - started) * 10) / 10,
        ...env.client && { user: env.client.subject },
      });
    }
    return response;
  }

  #finishBody(env: RequestBindings, body: LimitedBody, response: Response): Response {
    const { problem } = body;
    // Whatever has caught the error on the way, and taken it for another.
    if (problem !== undefined && env.told !== problem) {
      const headers = new Headers(response.headers);
      for (const name of OF_A_BODY) headers.delete(name);
      response.body?.cancel();
      const told = this.#failed(problem, env);
      for (const [name, value] of told.headers) headers.set(name, value);
      response = new Response(told.body, { status: told.status, headers });
    }
    const { completed } = env;
    if (staticBody(response) !== undefined) env.release();
    else if (completed) completed.then(() => env.release(), () => env.release());
    return response;
  }

  #nameOf({ method, path }: RequestBindings): string {
    const found = this.#matcher.match(method === "HEAD" ? "GET" : method, path)[0];
    const [[, route]] = found.at(-1)!;
    return `the handler of ${route.method} ${route.path}`;
  }
}

/** What every answer of Hono's to HEAD leaves open: the body that GET has, unread. */
const withoutBody: MiddlewareHandler = async (c, next) => {
  await next();
  if (!c.finalized) return; // To look at c.res would make an answer.
  const { res } = c;
  const body = staticBody(res);
  const headers = new Headers(res.headers);
  if (body != null && !headers.has("content-length")) {
    const { length } = typeof body === "string" ? encoder.encode(body) : body;
    headers.set("Content-Length", String(length));
  }
  // A job whose answer it is may take its time to end.
  res.body?.cancel().catch(() => {});
  c.res = undefined;
  c.res = new Response(null, { status: res.status, statusText: res.statusText, headers });
};

/** What middleware of an app has set and read is there in the app that is routed in it, and back. */
const inherit: MiddlewareHandler = async (c, next) => {
  const { c: parent } = (c.env as RequestBindings).parent!;
  c.req.bodyCache = parent.req.bodyCache;
  for (const [name, value] of Object.entries(parent.var)) c.set(name, value);
  await next();
  for (const [name, value] of Object.entries(c.var)) parent.set(name, value);
};

const encoder = new TextEncoder();

/** What describes a body, and not the answer that has it. */
const OF_A_BODY = ["content-length", "content-type", "content-encoding", "content-range", "etag"];

/**
 * Which built-in routes there are to be, by their paths.
 *
 * @throws {TypeError} If a path is none of theirs, nor the beginning of one.
 */
function builtinsOf(wanted: boolean | readonly string[] = true): (path: string) => boolean {
  if (typeof wanted === "boolean") return () => wanted;
  const covers = (list: readonly string[], path: string) =>
    list.some((one) => path === one || path.startsWith(`${one.replace(/\/$/, "")}/`));
  const paths = [PING, DESCRIPTION, ...BUILTINS.map(({ path }) => path)];
  const unknown = wanted.find((one) =>
    !one.startsWith("/") || !paths.some((path) => covers([one], path))
  );
  if (unknown !== undefined) {
    const beginnings = new Set(paths.map((path) => path.split("/", 2).join("/")));
    throw new TypeError(
      `builtins has "${unknown}", expected paths such as ${[...beginnings].join(", ")}`,
    );
  }
  return (path) => covers(wanted, path);
}

/** A Hono app that finds its handlers by a {@linkcode RequestBindings}, which is its env. */
function newApp(matcher: Matcher): Hono<{ Bindings: Bindings }> {
  return new Hono({
    router: matcher,
    getPath: (_request, given) => (matcher.request = given!.env as RequestBindings).path,
  });
}
