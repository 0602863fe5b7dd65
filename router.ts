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

import { type Context, Hono } from "npm:hono@^4.13";
import { UnsupportedPathError } from "npm:hono@^4.13/router";
import { RegExpRouter } from "npm:hono@^4.13/router/reg-exp-router";
import { SmartRouter } from "npm:hono@^4.13/router/smart-router";
import { TrieRouter } from "npm:hono@^4.13/router/trie-router";
import type { Engine, Job } from "./engine.ts";
import { messageOf, Status, TypedError } from "./engine/errors.ts";
import { within } from "./engine/time.ts";
import { API_VERSION, VERSION } from "./engine/version.ts";
import { Answer, withoutBody } from "./router/answer.ts";
import type { Bindings } from "./router/bindings.ts";
import { bodyToEnv, brokenOff, letGo, tooLarge } from "./router/body.ts";
import { isHttpException, noSuchPage, notRegistered, toHttp } from "./router/errors.ts";
import { LimitedRequest, RequestBindings } from "./router/request.ts";
import { BODY_LIMIT, BODY_TIMEOUT, SEND_TIMEOUT } from "./router/limits.ts";
import type { Route } from "./router/route.ts";
import { compareVersions, versionProblem } from "./router/versions.ts";

export type { Bindings, ClientCertificate } from "./router/bindings.ts";
export type { Route } from "./router/route.ts";

/** What {@linkcode createRouter} can be told. */
export interface RouterOptions {
  /** The version that the `Server` header names. Default: Floodgate's own. */
  version?: string;
  /** The value of Access-Control-Allow-Origin, such as `*`. Default: no CORS headers. */
  cors?: string;
  /** The longest request body in bytes, unless a route lifts it. Default 16 MiB. */
  bodyLimit?: number;
  /**
   * How long a client may send nothing of a body it has announced, in milliseconds; default 60 000.
   * After that long a body has to come with 500 bytes a second on average, unless its route lifts the
   * limit of its length.
   */
  bodyTimeout?: number;
  /** How long a client may take nothing of an answer that is ready, in ms. Default 300 000. */
  sendTimeout?: number;
  /** Whether each request is logged, at level info. Default false. */
  logging?: boolean;
}

/** The routes that every daemon has. */
const ROUTES: readonly Route[] = [
  { method: "GET", path: "/version", job: "version" },
  { method: "GET", path: "/info", job: "info" },
  {
    method: "GET",
    path: "/events",
    job: "events",
    query: ["since", "until", "filters"],
    stream: true,
  },
  {
    method: "GET",
    path: "/containers/json",
    job: "containers",
    query: ["all", "limit", "size", "filters"],
  },
  { method: "GET", path: "/debug/vars", job: "stats" },
];

/** A router for this engine's jobs, with the built-in routes. */
export function createRouter(engine: Engine, options: RouterOptions = {}): Router {
  const { router } = new Dispatcher(engine, options);
  const ping = {
    "Content-Type": "text/plain; charset=utf-8",
    "Api-Version": API_VERSION,
    "Ostype": Deno.build.os,
    "Docker-Experimental": "false",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Pragma": "no-cache",
    "Server": `Floodgate/${options.version ?? VERSION} (${Deno.build.os})`,
  };
  // Seven headers take the runtime longer to check than all else about a request. A copy has them.
  const pong = new Response("OK", { headers: ping });
  router.get("/_ping", () => pong.clone()); // For HEAD, Hono drops the body.
  for (const route of ROUTES) router.job(route);
  return router;
}

const BODIED = ["POST", "PUT", "PATCH", "DELETE"];
const METHODS = ["GET", "HEAD", ...BODIED];
/** From this version on errors are JSON; before, they are text. */
const JSON_ERRORS = [1, 24];
/** Bytes a second that a body has to come with on average, once its timeout has passed. */
const MIN_RATE = 500;

/** What a {@linkcode Router} can besides what every Hono app can. */
export interface JobRoutes {
  /** Adds a row to the route table. */
  job(route: Route): Router;
}

/** A Hono app whose routes may run jobs. All routes answer with and without `/vMAJOR.MINOR`. */
// By way of a function, because deno doc --lint would have all of Hono's types documented here.
export type Router = ReturnType<(typeof import("./router.ts"))["newApp"]> & JobRoutes;

type Fetch = Router["fetch"];

/** Between Hono, which finds the route, and the engine, which runs its job. */
class Dispatcher {
  readonly router: Router;
  #engine: Engine;
  #options: RouterOptions;

  constructor(engine: Engine, options: RouterOptions) {
    this.#engine = engine;
    this.#options = options;
    const app = newApp();
    const dispatch = app.fetch;
    app.fetch = (request, env, context) => this.#fetch(dispatch, request, env, context);
    app.notFound((c) => this.#notFound(c));
    app.onError((error, c) => this.#error(error, c.env));
    this.router = Object.assign(app, { job: (route: Route) => this.#add(route) });
  }

  #add(route: Route): Router {
    const init = {
      status: route.status ?? 200,
      headers: { "Content-Type": route.contentType ?? "application/json" },
    };
    new Response("", init); // Throws now, and not at the first request, if it can't be answered so.
    const names = [...route.path.matchAll(/:(\w+)/g)].map(([, name]) => name);
    this.router.on(route.method, route.path, (c) => this.#run(c, route, names, init));
    return this.router;
  }

  #fetch(
    dispatch: Fetch,
    request: Request,
    info: object | undefined,
    context: Parameters<Fetch>[2],
  ): Response | Promise<Response> {
    const env = new RequestBindings(request, info, this.#options.bodyLimit ?? BODY_LIMIT);
    const started = this.#options.logging ? performance.now() : 0;
    let answer: Response | Promise<Response>;
    const problem = versionProblem(env.version);
    if (problem) {
      answer = this.#error(new TypedError("bad parameter", problem), env);
    } else if (env.method === "OPTIONS" && !this.#handles("OPTIONS", env.path)) {
      answer = this.#allow(env);
    } else {
      const body = BODIED.includes(env.method) ? request.body : null;
      answer = body === null
        ? dispatch(request, env, context)
        : this.#dispatchBody(dispatch, request, body, env, context);
    }
    if (this.#options.cors === undefined && !this.#options.logging) return answer;
    return this.#finish(request, env, answer, started);
  }

  async #finish(
    request: Request,
    env: Bindings,
    answer: Response | Promise<Response>,
    started: number,
  ): Promise<Response> {
    let response = await answer;
    const { cors } = this.#options;
    if (cors !== undefined) {
      try {
        allowOrigin(response.headers, cors);
      } catch (error) {
        if (!(error instanceof TypeError)) throw error;
        // The headers of a redirect or of a fetched answer cannot be changed.
        response = new Response(response.body, response);
        allowOrigin(response.headers, cors);
      }
    }
    if (this.#options.logging) {
      this.#engine.log("info", `${request.method} ${env.path} ${response.status}`, {
        ms: Math.round((performance.now() - started) * 10) / 10,
        ...env.client && { user: env.client.subject },
      });
    }
    return response;
  }

  /** Dispatches a request whose body is read no further than it may be, and not for ever. */
  async #dispatchBody(
    dispatch: Fetch,
    request: Request,
    body: ReadableStream<Uint8Array>,
    env: RequestBindings,
    context: Parameters<Fetch>[2],
  ): Promise<Response> {
    const source = body.getReader();
    const limited = this.#limited(request, source, env);
    try {
      return await dispatch(limited, env, context);
    } finally {
      // What nobody has read, and no job will, is of no more use. The socket would wait for it.
      if (!env.bodyAttached && limited.body?.locked === false) letGo(source);
    }
  }

  #limited(
    request: Request,
    source: ReadableStreamDefaultReader<Uint8Array>,
    env: Bindings,
  ): Request {
    const announced = Number(request.headers.get("content-length") ?? 0);
    const timeout = this.#options.bodyTimeout ?? BODY_TIMEOUT;
    const started = performance.now();
    let size = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        // Looked at here and not before, because a handler may lift the limit.
        if (Math.max(announced, size) > env.bodyLimit) throw tooLarge(source, env.bodyLimit);
        const read = source.read().catch(brokenOff);
        // A body that may be of any length may take any time, as long as it goes forward.
        const all = env.bodyLimit === Infinity
          ? Infinity
          : timeout + (size / MIN_RATE) * 1_000 - (performance.now() - started);
        if (!await within(Math.min(timeout, all), read)) {
          throw new TypedError("timeout", "the request body comes too slowly, or no more");
        }
        const { value, done } = await read;
        if (done) return controller.close();
        size += value.length;
        if (size > env.bodyLimit) throw tooLarge(source, env.bodyLimit);
        controller.enqueue(value);
      },
      cancel: (reason) => source.cancel(reason),
    }, { highWaterMark: 0 });
    // Not new Request(request, ...): that asks the native request for its signal.
    const { method, headers } = request;
    return new LimitedRequest(env, request.url, {
      method,
      headers,
      body: body as ReadableStream<Uint8Array<ArrayBuffer>>,
    });
  }

  #run(
    c: Context<{ Bindings: Bindings }>,
    route: Route,
    names: string[],
    init: ResponseInit,
  ): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const { method } = env;
    if (route.stream && method === "HEAD") return this.#notAllowed(env, "HEAD", ["GET"]);
    if (!this.#engine.has(route.job)) throw notRegistered(route.job);
    const job = this.#engine.job(route.job, ...names.map((name) => c.req.param(name) ?? ""));
    job.quiet = true;
    job.user = env.client?.subject;
    job.abortWith(() => env.signal);
    if (route.query !== undefined) {
      for (const name of route.query) {
        const value = c.req.query(name);
        if (value !== undefined) job.setenv(name, value);
      }
    }
    if (route.bodyLimit !== undefined) env.bodyLimit = route.bodyLimit;
    let answer: Response | Promise<Response>;
    if (route.body === "env") {
      answer = bodyToEnv(c.req.raw, job).then(() => this.#answer(job, env, route, init));
    } else {
      if (route.body === "stdin" && c.req.raw.body) {
        job.stdin.add(c.req.raw.body);
        env.bodyAttached = true; // The job closes it.
      }
      answer = this.#answer(job, env, route, init);
    }
    return method === "HEAD" ? withoutBody(answer) : answer;
  }

  #answer(
    job: Job,
    env: Bindings,
    { stream = false }: Route,
    init: ResponseInit,
  ): Response | Promise<Response> {
    const answer = new Answer(job, init, stream, this.#options.sendTimeout ?? SEND_TIMEOUT, env);
    job.stdout.add(answer);
    const running = job.run();
    // A job that has ended already is answered in the same go: no promise, and the fast way through
    // the runtime, which is there for handlers that return a response at once.
    if (job.status === Status.OK) return answer.end() ?? answer.response;
    running.then(() => answer.resolve(), (error) => {
      if (answer.fail(error)) return;
      // The status line is out: all that is left is to cut the answer short, and to say why here.
      this.#engine.log("warn", `job ${job.name} failed in its answer: ${messageOf(error)}`);
    });
    return answer.response;
  }

  #allow(env: Bindings): Response {
    const methods = this.#methods(env.path);
    if (methods.length === 0) return this.#error(noSuchPage(env.path), env);
    return new Response(null, {
      status: 200,
      headers: { Allow: [...methods, "OPTIONS"].join(", ") },
    });
  }

  #notFound(c: Context<{ Bindings: Bindings }>): Response {
    const { method } = c.req.raw;
    const methods = this.#methods(c.env.path);
    // A handler may say "not found" of a path that it does handle.
    if (methods.length === 0 || methods.includes(method === "HEAD" ? "GET" : method)) {
      return this.#error(noSuchPage(c.env.path), c.env);
    }
    return this.#notAllowed(c.env, method, methods);
  }

  #notAllowed(env: Bindings, method: string, methods: string[]): Response {
    const allow = methods.join(", ");
    const response = this.#text(
      env,
      405,
      `method ${method} is not allowed for ${env.path}, expected ${allow}`,
    );
    response.headers.set("Allow", allow);
    return response;
  }

  /** The methods that a path has handlers for. */
  #methods(path: string): string[] {
    return METHODS.filter((method) => this.#handles(method, path));
  }

  /** Whether a path has a handler for just this method: middleware is for all of them. */
  #handles(method: string, path: string): boolean {
    return this.router.router.match(method, path)[0].some(([[, route]]) => route.method === method);
  }

  #error(error: unknown, env: Bindings): Response {
    if (isHttpException(error)) {
      return error.res ?? this.#text(env, error.status, error.message);
    }
    const { status, message } = toHttp(error);
    if (status === 500) this.#engine.log("error", `${env.path}: ${messageOf(error)}`);
    return this.#text(env, status, message);
  }

  #text(env: Bindings, status: number, message: string): Response {
    if (env.version !== undefined && compareVersions(env.version, JSON_ERRORS) < 0) {
      return new Response(message + "\n", {
        status,
        headers: { "Content-Type": "text/plain; charset=utf-8" },
      });
    }
    return Response.json({ message }, { status });
  }
}

/** Lets pages of an origin, or of any if it is `*`, read an answer. */
function allowOrigin(headers: Headers, origin: string): void {
  headers.set("Access-Control-Allow-Origin", origin);
  headers.set("Access-Control-Allow-Methods", [...METHODS, "OPTIONS"].join(", "));
  headers.set(
    "Access-Control-Allow-Headers",
    "Origin, X-Requested-With, Content-Type, Accept, X-Registry-Auth",
  );
  if (origin !== "*") headers.append("Vary", "Origin");
}

/** @internal A Hono app that takes the path to route by from its env, which is a {@linkcode RequestBindings}. */
export function newApp(): Hono<{ Bindings: Bindings }> {
  return new Hono({
    getPath: (_request, given) => (given?.env as Bindings).path,
    // Hono's own choice, but for the number of routes.
    router: new SmartRouter({ routers: [new FewRoutes(), new TrieRouter()] }),
  });
}

/** With more routes than this, one regular expression of them all is slower than a tree. */
const FEW = 250;

/** Leaves many routes to the next router, as it does routes that it cannot express. */
class FewRoutes<T> extends RegExpRouter<T> {
  #routes = 0;
  override add(method: string, path: string, handler: T): void {
    if (++this.#routes > FEW) throw new UnsupportedPathError();
    super.add(method, path, handler);
  }
}
