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

import type { Context } from "npm:hono@^4.13";
import {
  type Engine,
  Env,
  type ErrorKind,
  type Job,
  JobError,
  messageOf,
  type Sink,
  TypedError,
} from "./engine.ts";
import { API_VERSION, VERSION } from "./builtins/version.ts";
import {
  type Bindings,
  compareVersions,
  RequestBindings,
  versionedApp,
  versionProblem,
} from "./builtins/versioned.ts";

export type { Bindings };

/** What {@linkcode createRouter} can be told. */
export interface RouterOptions {
  /** The version that the `Server` header names. Default: Floodgate's own. */
  version?: string;
  /** The value of Access-Control-Allow-Origin, such as `*`. Default: no CORS headers. */
  cors?: string;
  /** The longest request body in bytes, unless a route lifts it. Default 16 MiB. */
  bodyLimit?: number;
  /** How long a client may send nothing of a body it has announced, in ms. Default 60 000. */
  bodyTimeout?: number;
  /** How long a client may take nothing of an answer that is ready, in ms. Default 300 000. */
  sendTimeout?: number;
  /** Whether each request is logged, at level info. Default false. */
  logging?: boolean;
}

/** One row of the route table: which requests run which job, and how they map to it. */
export interface Route {
  /** The HTTP method. */
  method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** A Hono pattern, without version. Its variables, in order, become the job's arguments. */
  path: string;
  /** The job's name. */
  job: string;
  /** The query parameters that become variables of the job's env. */
  query?: readonly string[];
  /** The request body: nothing (the default), the job's stdin, or a JSON object into its env. */
  body?: "stdin" | "env";
  /** Whether the answer is sent as the job writes it, and not when it has ended. Default false. */
  stream?: boolean;
  /** The answer's Content-Type. Default `application/json`. */
  contentType?: string;
  /** The answer's status if the job succeeds and has written something. Default 200; else 204. */
  status?: number;
  /** The longest body in bytes, `Infinity` for any. Default: the router's. */
  bodyLimit?: number;
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
  router.get(
    "/_ping",
    (c) => {
      c.env.answersSmall();
      return new Response(c.req.raw.method === "HEAD" ? null : "OK", { headers: ping });
    },
  );
  for (const route of ROUTES) router.job(route);
  return router;
}

/** From this version on errors are JSON; before, they are text. */
const JSON_ERRORS = [1, 24];
const BODY_LIMIT = 16 * 1024 * 1024;
const BODY_TIMEOUT = 60_000;
const SEND_TIMEOUT = 300_000;

/** What a {@linkcode Router} can besides what every Hono app can. */
export interface JobRoutes {
  /** Adds a row to the route table. */
  job(route: Route): Router;
}

/** A Hono app whose routes may run jobs. All routes answer with and without `/vMAJOR.MINOR`. */
export type Router =
  & ReturnType<(typeof import("./builtins/versioned.ts"))["versionedApp"]>
  & JobRoutes;

type Fetch = Router["fetch"];

/** Between Hono, which finds the route, and the engine, which runs its job. */
class Dispatcher {
  readonly router: Router;
  #engine: Engine;
  #options: RouterOptions;

  constructor(engine: Engine, options: RouterOptions) {
    this.#engine = engine;
    this.#options = options;
    const app = versionedApp();
    const dispatch = app.fetch;
    app.fetch = (request, env, context) => this.#fetch(dispatch, request, env, context);
    app.notFound((c) => this.#notFound(c));
    app.onError((error, c) => this.#error(error, c.env));
    this.router = Object.assign(app, { job: (route: Route) => this.#add(route) });
  }

  #add(route: Route): Router {
    const names = [...route.path.matchAll(/:(\w+)/g)].map(([, name]) => name);
    const headers = { "Content-Type": route.contentType ?? "application/json" };
    this.router.on(route.method, route.path, (c) => this.#run(c, route, names, headers));
    return this.router;
  }

  #fetch(
    dispatch: Fetch,
    request: Request,
    info: object | undefined,
    context: Parameters<Fetch>[2],
  ): Response | Promise<Response> {
    const env = new RequestBindings(request, info, this.#options.bodyLimit ?? BODY_LIMIT);
    let answer: Response | Promise<Response>;
    const problem = versionProblem(env.version);
    if (problem) {
      answer = this.#error(new TypedError("bad parameter", problem), env);
    } else if (request.method === "OPTIONS") {
      answer = this.#allow(env);
    } else {
      const { method } = request;
      const bodied = method !== "GET" && method !== "HEAD" && request.body !== null;
      answer = dispatch(bodied ? this.#limited(request, env) : request, env, context);
    }
    if (this.#options.cors === undefined && !this.#options.logging) return answer;
    return this.#finish(request, env, answer);
  }

  async #finish(
    request: Request,
    env: Bindings,
    answer: Response | Promise<Response>,
  ): Promise<Response> {
    const started = performance.now();
    const response = await answer;
    const { cors } = this.#options;
    if (cors !== undefined) {
      response.headers.set("Access-Control-Allow-Origin", cors);
      response.headers.set(
        "Access-Control-Allow-Headers",
        "Origin, X-Requested-With, Content-Type, Accept, X-Registry-Auth",
      );
      response.headers.set(
        "Access-Control-Allow-Methods",
        "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
      );
      if (cors !== "*") response.headers.append("Vary", "Origin");
    }
    if (this.#options.logging) {
      this.#engine.log("info", `${request.method} ${env.path} ${response.status}`, {
        ms: Math.round((performance.now() - started) * 10) / 10,
      });
    }
    return response;
  }

  /** The request with a body that is read no further than it may be, and not for ever. */
  #limited(request: Request, env: Bindings): Request {
    const source = request.body!.getReader();
    const announced = Number(request.headers.get("content-length") ?? 0);
    const timeout = this.#options.bodyTimeout ?? BODY_TIMEOUT;
    let size = 0;
    const body = new ReadableStream<Uint8Array>({
      async pull(controller) {
        // Looked at here and not before, because a handler may lift the limit.
        if (Math.max(announced, size) > env.bodyLimit) throw tooLarge(env.bodyLimit);
        const { promise: late, reject } = Promise.withResolvers<never>();
        const timer = setTimeout(
          () =>
            reject(new TypedError("timeout", `no more of the body came for ${timeout / 1_000} s`)),
          timeout,
        );
        try {
          const { value, done } = await Promise.race([source.read().catch(brokenOff), late]);
          if (done) return controller.close();
          size += value.length;
          if (size > env.bodyLimit) throw tooLarge(env.bodyLimit);
          controller.enqueue(value);
        } finally {
          clearTimeout(timer);
        }
      },
      cancel: (reason) => source.cancel(reason),
    }, { highWaterMark: 0 });
    // Not new Request(request, …): that asks the native request for its signal, of which Deno warns.
    const { method, headers } = request;
    return new Request(request.url, {
      method,
      headers,
      body: body as ReadableStream<Uint8Array<ArrayBuffer>>,
      signal: env.signal,
    });
  }

  #run(
    c: Context<{ Bindings: Bindings }>,
    route: Route,
    names: string[],
    headers: Record<string, string>,
  ): Response | Promise<Response> {
    const request = c.req.raw;
    if (route.stream && c.req.raw.method === "HEAD") return this.#notFound(c);
    c.env.answersSmall();
    if (!this.#engine.has(route.job)) throw notRegistered(route.job);
    const job = this.#engine.job(route.job, ...names.map((name) => c.req.param(name) ?? ""));
    job.quiet = true;
    job.abortWith(() => c.env.signal ?? request.signal);
    if (route.query !== undefined) {
      for (const name of route.query) {
        const value = c.req.query(name);
        if (value !== undefined) job.setenv(name, value);
      }
    }
    if (route.bodyLimit !== undefined) c.env.bodyLimit = route.bodyLimit;
    if (route.body === "env") return this.#runWithEnv(job, request, route, headers);
    if (route.body === "stdin" && request.body) job.stdin.add(request.body);
    return this.#answer(job, route, headers);
  }

  async #runWithEnv(
    job: Job,
    request: Request,
    route: Route,
    headers: Record<string, string>,
  ): Promise<Response> {
    const text = await request.text();
    let env: Env;
    try {
      env = text.trim() === "" ? new Env() : Env.decode(text);
    } catch (error) {
      throw new TypedError("bad parameter", `request body: ${messageOf(error)}`);
    }
    for (const [key, value] of env) job.setenv(key, value);
    return await this.#answer(job, route, headers);
  }

  #answer(job: Job, route: Route, headers: Record<string, string>): Promise<Response> {
    const answer = new Answer(
      job,
      { status: route.status ?? 200, headers },
      route.stream ?? false,
      this.#options.sendTimeout ?? SEND_TIMEOUT,
    );
    job.stdout.add(answer);
    job.run().then(() => answer.end(), (error) => {
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
    const methods = this.#methods(c.env.path);
    if (methods.length === 0) return this.#error(noSuchPage(c.env.path), c.env);
    const allow = methods.join(", ");
    const response = this.#text(
      c.env,
      405,
      `method ${c.req.raw.method} is not allowed for ${c.env.path}, expected ${allow}`,
    );
    response.headers.set("Allow", allow);
    return response;
  }

  /** The methods that a path has handlers for. */
  #methods(path: string): string[] {
    return ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].filter((method) =>
      this.router.router.match(method, path)[0].some(([[, route]]) => route.method === method)
    );
  }

  #error(error: unknown, env: Bindings): Response {
    const { status, message } = toHttp(error);
    if (status === 500) this.#engine.log("error", `${env.path}: ${messageOf(error)}`);
    return this.#text(env, status, message);
  }

  #text(env: Bindings, status: number, message: string): Response {
    env.answersSmall();
    if (env.version !== undefined && compareVersions(env.version, JSON_ERRORS) < 0) {
      return new Response(message + "\n", {
        status,
        headers: { "Content-Type": "text/plain; charset=utf-8" },
      });
    }
    return Response.json({ message }, { status });
  }
}

const STATUS_OF: Record<ErrorKind, number> = {
  "bad parameter": 400,
  "unauthorized": 401,
  "forbidden": 403,
  "not found": 404,
  "not acceptable": 406,
  "timeout": 408,
  "conflict": 409,
  "too large": 413,
  "not implemented": 501,
  "unavailable": 503,
};

/** The wording rules of the original, for errors that have no kind; the first that fits. */
const WORDING: readonly [string, number][] = [
  ["no such", 404],
  ["bad parameter", 400],
  ["conflict", 409],
  ["impossible", 406],
  ["wrong login/password", 401],
  ["hasn't been activated", 403],
];

function toHttp(error: unknown): { status: number; message: string } {
  const cause = error instanceof JobError ? error.cause ?? error : error;
  const kind = (cause as Partial<TypedError> | undefined)?.kind;
  // By its kind and not its class, which a module that was loaded twice has twice.
  if (cause instanceof Error && kind !== undefined && Object.hasOwn(STATUS_OF, kind)) {
    return { status: STATUS_OF[kind], message: cause.message };
  }
  const message = withoutPaths(messageOf(error).split("\n", 1)[0]);
  // "No such file or directory" is the system's wording about our files, not ours about the client's.
  const ours = (cause as { code?: unknown } | undefined)?.code === undefined;
  const lower = message.toLowerCase();
  const rule = ours ? WORDING.find(([words]) => lower.includes(words)) : undefined;
  return { status: rule?.[1] ?? 500, message };
}

/** A message nobody wrote for a client may name files of the host; those are nobody's business. */
function withoutPaths(message: string): string {
  return message.replace(
    /(?:file:\/\/)?(?<![\w.:/-])\/[^\s'"`,:;()]*/g,
    (path) => path.length > 1 ? "(path)" : path,
  );
}

function noSuchPage(path: string): TypedError {
  return new TypedError("not found", `page not found: ${path}`);
}

function notRegistered(job: string): TypedError {
  return new TypedError("not implemented", `no such job registered: ${job}`);
}

/** A body that ends early, or whose chunks are none, is the client's mistake. */
function brokenOff(error: unknown): never {
  throw new TypedError("bad parameter", "the request body broke off or is malformed", {
    cause: error,
  });
}

function tooLarge(limit: number): TypedError {
  return new TypedError("too large", `the request body is longer than ${limit} bytes`);
}

/** An answer of more than this is sent as it is written, so that no job can fill the memory. */
const BUFFER = 65_536;

/** A job's stdout as a response: whole when the job has ended, or a stream as soon as it must be. */
class Answer implements Sink {
  #job: Job;
  #init: ResponseInit;
  #timeout: number;
  #streams: boolean;
  #chunks: Uint8Array[] = [];
  #size = 0;
  #response = Promise.withResolvers<Response>();
  #controller?: ReadableStreamDefaultController<Uint8Array>;
  #gone?: { reason: unknown };
  #taken?: PromiseWithResolvers<void>;

  constructor(job: Job, init: ResponseInit, streams: boolean, timeout: number) {
    this.#job = job;
    this.#init = init;
    this.#streams = streams;
    this.#timeout = timeout;
  }

  get response(): Promise<Response> {
    return this.#response.promise;
  }

  write(chunk: Uint8Array): void | Promise<void> {
    if (this.#gone) throw this.#gone.reason;
    if (this.#controller) return this.#send(chunk);
    this.#chunks.push(chunk);
    this.#size += chunk.length;
    if (this.#streams || this.#size > BUFFER) return this.#start();
  }

  /** The job has succeeded. */
  end(): void {
    if (this.#controller) {
      if (!this.#gone) this.#controller.close();
      return;
    }
    const [first] = this.#chunks;
    const body = this.#chunks.length < 2 ? first : joined(this.#chunks, this.#size);
    this.#response.resolve(
      body === undefined
        ? new Response(null, { status: 204 })
        : new Response(body as Uint8Array<ArrayBuffer>, this.#init),
    );
  }

  /** The job has failed. False if it is too late to answer so. */
  fail(error: unknown): boolean {
    this.#response.reject(error);
    if (!this.#controller) return true;
    if (this.#gone) return true; // The client went first, and the job failed of that.
    this.#controller.error(error);
    return false;
  }

  #start(): void | Promise<void> {
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#taken?.resolve(),
      cancel: () => this.#leave(new DOMException("The client has left.", "AbortError")),
    }, new ByteLengthQueuingStrategy({ highWaterMark: BUFFER }));
    this.#response.resolve(
      new Response(body as ReadableStream<Uint8Array<ArrayBuffer>>, this.#init),
    );
    const chunks = this.#chunks.splice(0);
    return this.#send(chunks.length === 1 ? chunks[0] : joined(chunks, this.#size));
  }

  #send(chunk: Uint8Array): void | Promise<void> {
    if (chunk.length > 0) this.#controller!.enqueue(chunk);
    if (this.#controller!.desiredSize! <= 0) return this.#room();
  }

  /** Waits for the client to take what is there, as long as that goes forward. */
  async #room(): Promise<void> {
    while (!this.#gone && this.#controller!.desiredSize! <= 0) {
      this.#taken = Promise.withResolvers();
      const timer = setTimeout(() => {
        const error = new TypedError("timeout", "the client does not take its answer");
        this.#leave(error);
        this.#controller!.error(error);
      }, this.#timeout);
      await this.#taken.promise;
      clearTimeout(timer);
    }
    if (this.#gone) throw this.#gone.reason;
  }

  #leave(reason: unknown): void {
    this.#gone ??= { reason };
    this.#taken?.resolve();
    this.#job.abort(reason);
  }
}

function joined(chunks: Uint8Array[], size: number): Uint8Array {
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
