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

import type { Hono as HonoApp } from "npm:hono@4.13.19";
import type { MiddlewareHandler, Next } from "npm:hono@4.13.19/types";
import type { Engine } from "./engine.ts";
import { messageOf, Status, TypedError } from "./engine/errors.ts";
import { API_VERSION, VERSION } from "./engine/version.ts";
import { telemetryIsOn } from "./platform/deno.ts";
import { addHeaders, standFor, staticBody, withBody } from "./platform/http.ts";
import type { Bindings } from "./router/bindings.ts";
import { Bodies, type LimitedBody } from "./router/body.ts";
import { BUILTINS, builtinsOf, DESCRIPTION, PING } from "./router/builtins.ts";
import { type ErrorAnswer, JSON_ERRORS, noSuchPage, toHttp } from "./router/errors.ts";
import { basePath, cors, Hono, matchedRoutes, mergePath, unwrapped } from "./router/hono.ts";
import { type Around, type Found, Matcher } from "./router/matcher.ts";
import { type Parent, RequestBindings } from "./router/request.ts";
import { BODIES_LIMIT, BODY_TIMEOUT, JSON_LIMIT, SEND_TIMEOUT } from "./router/limits.ts";
import { endingAt, type RequestContext, respond } from "./router/respond.ts";
import type { Route } from "./router/route.ts";
import { isForAll, METHODS, Row } from "./router/row.ts";
import { JobRunner } from "./router/run.ts";
import type { Telemetry } from "./platform/telemetry.ts";
import { Upgrades } from "./router/upgradable.ts";
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

/** Options of {@linkcode createRouter}. */
export interface RouterOptions {
  /** The version that the `Server` header names. Default: Floodgate's own. */
  version?: string;
  /**
   * The built-in routes that the router has: all (the default), none, or those of these paths and
   * below them, such as `["/_ping", "/containers"]`.
   */
  builtins?: boolean | readonly string[];
  /**
   * The origins whose pages may read answers, such as `https://pages.example`, or `*`. Default:
   * none.
   */
  cors?: string | readonly string[];
  /** The longest request body in bytes, unless the route has its own limit. Default 16 MiB. */
  bodyLimit?: number;
  /** The longest JSON body of a route that has `body: "env"`, in bytes. Default 1 MiB. */
  jsonLimit?: number;
  /**
   * The bytes of all request bodies together that are being read, among those with a limit. Further
   * requests are answered 503. Default 256 MiB, or `bodyLimit` where that is more.
   */
  bodiesLimit?: number;
  /**
   * How long a client may pause within a body, in milliseconds; default 60 000. In each period of
   * that length it also has to send 500 bytes a second on average, unless the route's `bodyLimit`
   * is `Infinity`.
   */
  bodyTimeout?: number;
  /** How long a client may read nothing of a ready answer, in milliseconds. Default 300 000. */
  sendTimeout?: number;
  /** Whether each request is logged, at level info. Default false. */
  logging?: boolean;
}

/**
 * A Hono app whose routes may run jobs. All routes answer with and without `/vMAJOR.MINOR`. Its
 * method `job` adds a row to the route table. Hono's methods that return the app return a router.
 *
 * @typeParam E The env of its handlers, such as `{ Variables: { user: string } }`.
 */
// An indexed type, because deno doc --lint would ask for documentation of all of Hono's types here.
export type Router<E extends AppEnv = Record<never, never>> =
  ((typeof import("./router/types.ts"))["kind"] & { E: E })["router"];

/** The env of handlers: a program's own variables, in `c.var`. */
export interface AppEnv {
  /** The variables, by their names. */
  Variables?: object;
}

/**
 * Makes a router for an engine's jobs. The built-in routes come after all that are added to it.
 *
 * @typeParam E The env of its handlers: `{ Variables: { user: string } }` for `c.set("user", ...)`.
 */
export function createRouter(engine: Engine, options?: RouterOptions): Router;
/** Makes a router whose handlers have an env of the program's own. */
export function createRouter<E extends AppEnv>(
  engine: Engine,
  options?: RouterOptions,
): Router<E>;
export function createRouter(engine: Engine, options: RouterOptions = {}): Router {
  return new Dispatcher(engine, options).router;
}

/** What pages of allowed origins may send and read, besides what Fetch, 2.2.2 allows any page. */
const CORS = {
  allowMethods: [...METHODS],
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
type App = ReturnType<typeof newApp>;
type Fetch = App["fetch"];
/**
 * A mounted function, which Hono gives a copy of the request: a WebSocket takes the one that came.
 */
function standingFor(fetch: Mounted): Mounted {
  return (request: Request, ...rest: unknown[]) => {
    const [env] = rest;
    if (env instanceof RequestBindings && env.request !== request) standFor(request, env.request);
    return fetch(request, ...rest);
  };
}
type Mounted = Parameters<App["mount"]>[1];
type Mounting = Parameters<App["mount"]> extends [unknown, ...infer Rest] ? Rest : never;

/** Whether a response is a stream of server-sent events, which does not end by itself. */
function isEventStream(response: Response): boolean {
  return staticBody(response) === undefined && response.status === 200 &&
    (response.headers.get("content-type") ?? "").startsWith("text/event-stream");
}

/** Dispatches requests: Hono finds the route, and a runner runs its job on the engine. */
class Dispatcher {
  readonly router: Router;
  #engine: Engine;
  #options: RouterOptions;
  #app: App;
  #runner: JobRunner;
  /** The `fetch` of Hono's app. */
  #dispatch: Fetch;
  #matcher: Matcher;
  /** The rows by their handlers: built-in ones are compiled at their first request. */
  #rows = new Map<Found[0], () => Row>();
  /** The added rows, by the shapes of their paths. */
  #added = new Map<string, Row[]>();
  #upgrades: Upgrades;
  #bodies: Bodies;
  /** Headers of all answers. */
  #headers: Record<string, string>;
  #headerList: [string, string][];
  #hasBuiltin: (path: string) => boolean;
  /** Whether the built-in routes were added. */
  #sealed = false;
  /** Undefined if OpenTelemetry is off. */
  #spans?: Telemetry;

  constructor(engine: Engine, options: RouterOptions) {
    this.#engine = engine;
    this.#options = options;
    if (telemetryIsOn()) {
      import("./platform/telemetry.ts").then(({ telemetry }) => {
        const spans = telemetry(VERSION);
        if (spans) this.#spans = spans;
      });
    }
    this.#bodies = new Bodies(
      options.bodyTimeout ?? BODY_TIMEOUT,
      options.bodiesLimit ?? Math.max(BODIES_LIMIT, options.bodyLimit ?? 0),
    );
    this.#headers = {
      "Server": `Floodgate/${options.version ?? VERSION} (${Deno.build.os})`,
      "Api-Version": API_VERSION,
      "Ostype": Deno.build.os,
    };
    this.#headerList = Object.entries(this.#headers)
      .map(([name, value]) => [name.toLowerCase(), value]);
    this.#runner = new JobRunner(engine, options.sendTimeout ?? SEND_TIMEOUT);
    this.#hasBuiltin = builtinsOf(options.builtins);
    this.#matcher = new Matcher((request, found) => this.#around(request, found));
    const app = this.#app = newApp(this.#matcher);
    this.#dispatch = app.fetch;
    this.#upgrades = new Upgrades(app);
    for (const handler of [this.#routed, this.#fetch]) this.#upgrades.isOf(handler);
    app.notFound((c) => this.#notFound(c));
    app.onError((error, c) => this.#failed(error, c.env as RequestBindings, c));
    this.router = this.#equip(app, "/");
    // For an app that this one is routed in: that copies the routes, and calls nothing else of
    // ours.
    app.routes.push({ basePath: "/", path: "/*", method: "ALL", handler: this.#routed });
    if (options.cors !== undefined) {
      const any = [options.cors].flat().includes("*");
      // Read at each request, because the options may change at a reload.
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

  /** Adds a router's methods to a Hono app, or to what its `basePath` returns. */
  #equip(app: App, base: string): Router {
    const { basePath, mount } = app;
    const { notFound, onError } = this.#app;
    return Object.assign(app, {
      fetch: this.#fetch,
      job: (route: Route) => {
        this.#add(app, mergePath(base, route.path), route);
        return app;
      },
      upgradable: (path: string) => (this.#upgrades.add(mergePath(base, path)), app),
      upgrades: this.#upgrades,
      rows: () => [
        ...[...this.#added.values()].flat().map(({ route }) => route),
        ...BUILTINS.filter(({ path, job }) => this.#hasBuiltin(path) && this.#engine.has(job)),
      ],
      mount: (path: string, ...given: Mounting) => {
        const [fetch, ...rest] = given;
        this.#upgrades.mount(mergePath(base, path), fetch);
        return mount.call(app, path, standingFor(fetch), ...rest);
      },
      basePath: (path: string) =>
        this.#equip(basePath.call(app, path) as unknown as App, mergePath(base, path)),
      // An app with a base path shares these handlers with the app itself.
      notFound: (handler: Parameters<App["notFound"]>[0]) => (notFound(handler), app),
      onError: (handler: Parameters<App["onError"]>[0]) => (onError(handler), app),
    }) as unknown as Router;
  }

  #add(app: App, path: string, route: Route): void {
    const row = new Row({ ...route, path }, path, this.#headers, this.#jsonLimit);
    const { shape } = row;
    const rows = this.#added.get(shape);
    if (rows?.some((other) => other.clashes(row))) {
      throw new TypeError(
        `row ${route.method} ${path}: another row matches these requests already`,
      );
    }
    if (rows) rows.push(row);
    else this.#added.set(shape, [row]);
    if (route.upgrade === "tcp") this.#upgrades.add(path);
    this.#handle(app, route, () => row);
  }

  #handle(app: App, route: Route, rowOf: () => Row): void {
    const { method, path } = route;
    // Without `next` in a row that matches every request, Hono does not prepare it.
    const handler = isForAll(route)
      ? (c: RequestContext) => this.#run(c, rowOf())
      : (c: RequestContext, next: Next) => this.#run(c, rowOf(), next);
    this.#rows.set(handler as Found[0], rowOf);
    // Hono dispatches HEAD as GET.
    app.on(method === "HEAD" ? "GET" : method, [path], handler as MiddlewareHandler);
  }

  /** Declares the built-in rows upgradable whose jobs are registered by the end of the boot. */
  #mayUpgradeBuiltins(): void {
    for (const { path, job, upgrade } of BUILTINS) {
      if (upgrade === "tcp" && this.#hasBuiltin(path) && this.#engine.has(job)) {
        this.#upgrades.add(path);
      }
    }
  }

  get #jsonLimit(): number {
    const { bodyLimit = Infinity, jsonLimit = JSON_LIMIT } = this.#options;
    return Math.min(bodyLimit, jsonLimit);
  }

  /** Adds the built-in routes, after all others. */
  #seal(): void {
    this.#sealed = true;
    this.#matcher.last(() => {
      for (const route of BUILTINS) {
        if (!this.#hasBuiltin(route.path)) continue;
        let row: Row | undefined;
        this.#handle(
          this.#app,
          route,
          () => row ??= new Row(route, route.path, this.#headers, this.#jsonLimit),
        );
      }
      if (this.#hasBuiltin(DESCRIPTION)) this.#app.get(DESCRIPTION, (c) => this.#describe(c));
    });
    if (this.#hasBuiltin(PING)) this.#ping();
  }

  async #describe(c: RequestContext): Promise<Response> {
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
      // A clone, because the runtime takes longer to validate seven headers than for the whole
      // request.
      return env.alone ? env.made = pong.clone() : c.newResponse("OK", pong as never);
    });
  }

  /** Called when the gate has opened: warns of rows without a job. */
  #opened(): void {
    if (!this.#sealed) this.#seal();
    const missing = [...this.#added.values()].flat()
      .filter(({ route }) => !this.#engine.has(route.job));
    for (const { path, route: { method, job } } of missing) {
      this.#engine.log("warn", `no such job registered: ${job}, for the row ${method} ${path}`);
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
    // `mount` of Hono passes on a copy of the request.
    const served = (info as { request?: Request } | undefined)?.request;
    if (served !== undefined && served !== request) standFor(request, served);
    let answer: unknown;
    try {
      const limited = env.limited(this.#bodies);
      if (routed) routed.parent.c.req.raw = limited;
      answer = this.#dispatch(limited, env, context);
      // Only during the synchronous dispatch is the runtime's span of the request the active one.
      if (this.#spans && env.route !== undefined) {
        const span = this.#spans.activeSpan();
        span?.setAttribute("http.route", env.route);
        span?.updateName(`${env.method} ${env.route}`);
      }
    } catch (error) {
      answer = this.#failed(error, env);
    }
    if (!(answer instanceof Promise)) {
      const response = this.#finish(env, answer, started);
      // After an answer that is given at once the native loop closes the connection, while the
      // client is still sending.
      return env.body?.incomplete ? Promise.resolve(response) : response;
    }
    return answer.then(
      (response) => this.#finish(env, response, started),
      (error) => this.#finish(env, this.#failed(error, env), started),
    );
  }

  /**
   * The handler in an app that this one is routed in (`app.route(path, router)`). It runs in place
   * of the copies of our routes, so that versions, limits and errors are as in a router that is
   * served itself.
   */
  #routed: MiddlewareHandler = async (c, next) => {
    const path = c.req.path.slice(basePath(c).replace(/\/$/, "").length) || "/";
    let context: Parameters<Fetch>[2];
    try {
      context = c.executionCtx;
    } catch {
      // Hono throws where there is no execution context.
    }
    const response = await this.#take(c.req.raw, c.env, context, { path, parent: { c, next } });
    if (!c.finalized) return c.newResponse(response.body, response as never);
    c.res = undefined;
    c.res = response;
  };

  /** The handlers to add for a request that is not ordinary: a HEAD, a body, a bad version. */
  #around(env: RequestBindings, found: readonly Found[]): Around {
    if (env.body !== undefined) {
      // The row's limit has to hold before any middleware reads the body.
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
    if (found.length === 1 && first.length > 0) first.push(answered);
    const { problem } = env;
    if (problem === undefined) return { first };
    return {
      first,
      instead: () => {
        throw new TypedError("bad parameter", problem);
      },
    };
  }

  #run(c: RequestContext, row: Row, next?: Next): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const { route } = row;
    if (next !== undefined && !row.takes(env.method, env.version, c.req)) {
      if (route.method !== "HEAD" || env.method === "HEAD") env.conditions.push(row.condition);
      return next() as Promise<never>; // The next handler answers.
    }
    if (env.method === "HEAD" && route.method === "GET") {
      const head = this.#headOf(row);
      if (head !== undefined) return this.#run(c, head);
      if (row.stream || route.upgrade) return this.#notAllowed(c, ["GET"]);
    }
    return this.#runner.run(c, row);
  }

  /** The row for HEAD that was added behind one for GET. */
  #headOf({ shape, path }: Row): Row | undefined {
    return this.#added.get(shape)?.find((row) => row.route.method === "HEAD" && row.path === path);
  }

  async #notFound(c: RequestContext): Promise<Response> {
    const env = c.env as RequestBindings;
    if (env.conditions.length > 0) {
      const problem = `${env.method} ${env.path} ${env.conditions.join(" or ")}`;
      return this.#failed(new TypedError("bad parameter", problem), env, c);
    }
    const methods = METHODS.filter((method) => this.#handles(method, env.path));
    const asked = env.method === "HEAD" ? "GET" : env.method;
    // A handler may call c.notFound() for a path that it does handle.
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

  /** Whether an app that this one is routed in has further handlers of its own for the request. */
  #goesOn({ c }: Parent): boolean {
    const ours = new Set<object>(this.#app.routes.map(({ handler }) => handler));
    return matchedRoutes(c).slice(c.req.routeIndex + 1)
      .some(({ handler }) => !unwrapped(handler).some((each) => ours.has(each)));
  }

  #notAllowed(c: RequestContext, methods: string[]): Response {
    const env = c.env as RequestBindings;
    const allow = methods.join(", ");
    const message = `method ${env.method} is not allowed for ${env.path}, expected ${allow}`;
    return this.#respondError(env, { status: 405, message }, { Allow: allow }, c);
  }

  /** Whether a path has a handler for this very method, other than middleware. */
  #handles(method: string, path: string): boolean {
    const seen = method === "HEAD" ? "GET" : method;
    return this.#matcher.match(seen, path)[0].some(([[handler, route]]) =>
      route.method === seen && (this.#rows.get(handler)?.().route.method ?? seen) === method
    );
  }

  /** The answer to a request that failed. Of an internal error only the log has more than an id. */
  #failed(error: unknown, env: RequestBindings, c?: RequestContext): Response {
    let answer = toHttp(error);
    env.reported = answer.cause;
    const { response } = answer;
    if (response) return c ? c.newResponse(response.body, response as never) : response;
    const headers: Record<string, string> = { ...answer.headers };
    if (answer.retryAfter !== undefined) headers["Retry-After"] = String(answer.retryAfter);
    if (answer.status === 500) {
      env.context ??= c;
      const id = headers["X-Request-Id"] = env.requestId;
      const { method, path, job } = env;
      // A handler that stopped because its client has left has not failed.
      const { aborted, reason } = env.signal;
      const level = aborted && answer.cause === reason ? "debug" : "error";
      this.#engine.log(level, `${method} ${path}: ${messageOf(error)}`, {
        method,
        path,
        ...job && { job: job.name },
        request: id,
        error,
      });
      answer = { ...answer, message: answer.message ?? `internal error, request ${id}` };
    }
    return this.#respondError(env, answer, headers, c);
  }

  #respondError(
    env: RequestBindings,
    { status, message = "" }: ErrorAnswer,
    extra: Record<string, string>,
    c?: RequestContext,
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
      // Ends at shutdown, as the jobs of streams do.
      response = endingAt(this.#engine.stopping, response);
    }
    if (response !== env.made) addHeaders(response, this.#headerList);
    const id = env.loggedId;
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
    // A handler has caught the body's error and answered something else: the client gets the error.
    if (problem !== undefined && env.reported !== problem) {
      const headers = new Headers(response.headers);
      for (const name of CONTENT_HEADERS) headers.delete(name);
      response.body?.cancel();
      const answer = this.#failed(problem, env);
      for (const [name, value] of answer.headers) headers.set(name, value);
      response = new Response(answer.body, { status: answer.status, headers });
    }
    if (staticBody(response) !== undefined) env.release();
    else env.completed?.then(() => env.release(true), () => env.release(true));
    return response;
  }

  #nameOf({ method, path }: RequestBindings): string {
    const found = this.#matcher.match(method === "HEAD" ? "GET" : method, path)[0];
    const [[, route]] = found.at(-1)!;
    return `the handler of ${route.method} ${route.path}`;
  }
}

/** Middleware for HEAD: cancels the body of GET's answer, which Hono would leave unread. */
const withoutBody: MiddlewareHandler = async (c, next) => {
  await next();
  if (!c.finalized) return; // Reading c.res would create a response.
  const { res } = c;
  const body = staticBody(res);
  const head = withBody(res, null);
  if (body != null && !head.headers.has("content-length")) {
    const { length } = typeof body === "string" ? encoder.encode(body) : body;
    head.headers.set("Content-Length", String(length));
  }
  // Not awaited: it resolves when the job that writes the answer has ended. A source that fails as
  // it is cancelled has ended as well.
  res.body?.cancel().catch(() => {});
  c.res = undefined;
  c.res = head;
};

/**
 * Middleware before a handler that Hono would run without any: what does not answer is not found.
 */
const answered: MiddlewareHandler = async (c, next) => {
  await next();
  if (!c.finalized) c.res = await c.notFound();
};

/** Middleware of a routed router: shares variables and the cached body with the outer app. */
const inherit: MiddlewareHandler = async (c, next) => {
  const { c: parent } = (c.env as RequestBindings).parent!;
  c.req.bodyCache = parent.req.bodyCache;
  for (const [name, value] of Object.entries(parent.var)) c.set(name, value);
  await next();
  for (const [name, value] of Object.entries(c.var)) parent.set(name, value);
};

const encoder = new TextEncoder();

/** The headers that describe a body. */
const CONTENT_HEADERS = [
  "content-length",
  "content-type",
  "content-encoding",
  "content-range",
  "etag",
];

/** Makes a Hono app whose env is a {@linkcode RequestBindings}, by which it finds its handlers. */
function newApp(matcher: Matcher): HonoApp<{ Bindings: Bindings }> {
  return new Hono({
    router: matcher,
    getPath: (_request, given) => (matcher.request = given!.env as RequestBindings).path,
  });
}
