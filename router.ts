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
import { getPath } from "npm:hono@^4.13/utils/url";
import {
  API_VERSION,
  type Engine,
  Env,
  type ErrorKind,
  type Job,
  JobError,
  messageOf,
  type Sink,
  Status,
  TypedError,
  VERSION,
  within,
} from "./engine.ts";

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

/** What handlers find in `c.env`. */
export interface Bindings {
  /** The path without its version. */
  readonly path: string;
  /** The API version asked for, such as `1.24`. Undefined in a path without one. */
  readonly version?: string;
  /** How long this request's body may be, in bytes. A handler may change it before reading. */
  bodyLimit: number;
  /** Where the client is; undefined where the request did not come over a socket. */
  readonly remoteAddr?: Deno.Addr;
  /** The certificate that the client has shown; undefined where clients need none. */
  readonly client?: ClientCertificate;
  /** Aborted when the client leaves before its answer is complete. */
  readonly signal: AbortSignal;
  /** Ends the connection at once, whatever it has not sent yet. */
  cut(): void;
}

/** A client's certificate, which one of the daemon's authorities has signed. */
export interface ClientCertificate {
  /** Whose it is, as RFC 4514 writes it: `CN=alice,O=Ops`. The fingerprint, where it names nobody. */
  readonly subject: string;
  /** SHA-256 of the certificate, in hexadecimal with colons. */
  readonly fingerprint: string;
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
const BODY_LIMIT = 16 * 1024 * 1024;
const BODY_TIMEOUT = 60_000;
const SEND_TIMEOUT = 300_000;
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

/** What the connection passes on; nothing where a request did not come over one. */
type Connected = Partial<Pick<Bindings, "remoteAddr" | "client" | "signal" | "cut">>;

/**
 * Where a request of Deno's has its signal, for `signal` as for `fetch`. tests/runtime_test.ts says if that
 * changes.
 */
const SIGNAL = Object.getOwnPropertySymbols(Request.prototype)
  .find(({ description }) => description === "signal");

/**
 * A request whose signal is asked for when somebody wants it. To ask the native loop for one costs more than
 * all else about a small body: it aborts after complete answers too, with an error and its stack.
 */
class LimitedRequest extends Request {
  #env: Bindings;

  constructor(env: Bindings, url: string, init: RequestInit) {
    super(url, SIGNAL ? init : { ...init, signal: env.signal });
    this.#env = env;
  }
  get [SIGNAL ?? Symbol("signal")](): AbortSignal {
    return this.#env.signal;
  }
}

/** Splits the version off a request's path, and passes on what the connection told of the client. */
class RequestBindings implements Bindings {
  readonly path: string;
  readonly version?: string;
  readonly method: string;
  bodyLimit: number;
  /** Whether a job reads the body, perhaps after the answer has begun. */
  bodyAttached = false;
  #request: Request;
  #info: Connected | undefined;

  constructor(request: Request, info: object | undefined, bodyLimit: number) {
    const path = getPath(request);
    this.#request = request;
    this.method = request.method;
    this.#info = info as Connected | undefined;
    this.bodyLimit = bodyLimit;
    const code = path.charCodeAt(2);
    // /v1 and the like; /version and /volumes are no versions.
    if (path.charCodeAt(1) === 0x76 && code >= 0x30 && code <= 0x39) {
      const end = path.indexOf("/", 2);
      this.version = path.slice(2, end < 0 ? undefined : end);
      this.path = end < 0 ? "/" : path.slice(end);
    } else {
      this.path = path;
    }
  }
  get remoteAddr(): Deno.Addr | undefined {
    return this.#info?.remoteAddr;
  }
  get client(): ClientCertificate | undefined {
    return this.#info?.client;
  }
  get signal(): AbortSignal {
    return this.#info?.signal ?? this.#request.signal;
  }
  cut(): void {
    this.#info?.cut?.();
  }
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

const [MAX_MAJOR, MAX_MINOR] = API_VERSION.split(".").map(Number);

/** What is wrong with the version of a path, if anything. */
function versionProblem(version: string | undefined): string | undefined {
  if (version === undefined) return undefined;
  if (!/^\d{1,4}\.\d{1,4}$/.test(version)) {
    return `malformed version "v${version}", expected vMAJOR.MINOR such as v${API_VERSION}`;
  }
  if (compareVersions(version, [MAX_MAJOR, MAX_MINOR]) > 0) {
    return `client version ${version} is too new. Maximum supported API version is ${API_VERSION}`;
  }
}

/** Below 0 if the version is older than the other, 0 if it is the same, else above 0. */
function compareVersions(version: string, other: readonly number[]): number {
  const [major, minor] = version.split(".").map(Number);
  return major - other[0] || minor - other[1];
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
  // What the innermost job threw, where jobs run jobs; its last words, where it only said them.
  let cause = error;
  while (cause instanceof JobError && cause.cause instanceof Error) cause = cause.cause;
  if (cause instanceof Error && !(cause instanceof JobError)) {
    // By its kind and not its class, which a module that was loaded twice has twice.
    const { kind } = cause as Partial<TypedError>;
    if (kind !== undefined && Object.hasOwn(STATUS_OF, kind)) {
      return { status: STATUS_OF[kind], message: cause.message };
    }
  }
  const text = messageOf(cause).trimStart().split("\n", 1)[0];
  const message = /^at .*:\d+\)?$/.test(text) ? "internal error" : withoutPaths(text);
  // "No such file or directory" is the system's wording about our files, not ours about the client's.
  const lower = isSystemError(cause) ? "" : message.toLowerCase();
  return { status: WORDING.find(([words]) => lower.includes(words))?.[1] ?? 500, message };
}

function isSystemError(error: unknown): boolean {
  return Object.values(Deno.errors).some((kind) => error instanceof kind) ||
    typeof (error as { code?: unknown } | undefined)?.code === "string";
}

/** Hono's own error with a status, without the module that it is in. */
function isHttpException(error: unknown): error is Error & { status: number; res?: Response } {
  return error instanceof Error && "getResponse" in error && "status" in error;
}

/** A message nobody wrote for a client may name files of the host; those are nobody's business. */
function withoutPaths(message: string): string {
  // In quotes, after a scheme without a host, or by itself; not the path of a URL or of an image.
  return message.replace(
    /(?<=(["'`]))\/(?=.*\1)(?:(?!\1).)*|(?:\b[a-z][\w+.-]*:\/\/(?=\/)|(?<![\w./:-])|(?<=:)(?!\/\/))\/[^\s'"`,:;()[\]]+(?::\d+)*/gi,
    "(path)",
  );
}

/** Decodes a request's body, a JSON object, into a job's env. */
async function bodyToEnv(request: Request, job: Job): Promise<void> {
  const text = await request.text();
  if (text.trim() === "") return;
  let env: Env;
  try {
    env = Env.decode(text);
  } catch (error) {
    throw new TypedError("bad parameter", `request body: ${messageOf(error)}`);
  }
  for (const [key, value] of env) job.setenv(key, value);
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

function tooLarge(source: ReadableStreamDefaultReader, limit: number): TypedError {
  letGo(source);
  return new TypedError("too large", `the request body is longer than ${limit} bytes`);
}

/** Reads no further. A body that broke is let go of already, which is all that can go wrong. */
function letGo(source: ReadableStreamDefaultReader): void {
  source.cancel().catch(() => {});
}

/** Drops a body as Hono does for HEAD, so that no job waits for somebody who reads it. */
async function withoutBody(answer: Response | Promise<Response>): Promise<Response> {
  const response = await answer;
  response.body?.cancel();
  return response;
}

const encoder = new TextEncoder();
/**
 * An answer of more than this is sent as it is written, so that no job can fill the memory. No more than
 * what builtins/runtime.ts calls small, or its connection would wait for --send-timeout.
 */
const BUFFER = 65_536;

/** A job's stdout as a response: whole when the job has ended, or a stream as soon as it must be. */
class Answer implements Sink {
  #env: Bindings;
  #job: Job;
  #init: ResponseInit;
  #timeout: number;
  #streams: boolean;
  /** An answer that is one short text, as most are, is never taken apart into bytes here. */
  #text?: string;
  #chunks?: Uint8Array[];
  #size = 0;
  #response?: PromiseWithResolvers<Response>;
  #controller?: ReadableStreamDefaultController<Uint8Array>;
  #gone?: { reason: unknown };
  #taken?: PromiseWithResolvers<void>;

  constructor(
    job: Job,
    init: ResponseInit,
    streams: boolean,
    timeout: number,
    env: Bindings,
  ) {
    this.#env = env;
    this.#job = job;
    this.#init = init;
    this.#streams = streams;
    this.#timeout = timeout;
  }

  get response(): Promise<Response> {
    return this.#promise.promise;
  }

  get #promise(): PromiseWithResolvers<Response> {
    return this.#response ??= Promise.withResolvers();
  }

  writeText(text: string): void | Promise<void> {
    // A text has at most three bytes a unit.
    const whole = !this.#streams && this.#size === 0 && this.#text === undefined &&
      text.length <= BUFFER / 3;
    if (!whole || this.#gone) return this.write(encoder.encode(text));
    if (text !== "") this.#text = text;
  }

  write(chunk: Uint8Array): void | Promise<void> {
    if (this.#gone) throw this.#gone.reason;
    if (this.#controller) return this.#send(chunk);
    if (this.#text !== undefined) {
      this.#keep(encoder.encode(this.#text));
      this.#text = undefined;
    }
    this.#keep(chunk);
    if (this.#streams || this.#size > BUFFER) return this.#start();
  }

  #keep(chunk: Uint8Array): void {
    (this.#chunks ??= []).push(chunk);
    this.#size += chunk.length;
  }

  /** The job has succeeded. The answer, unless it has begun to be sent as a stream. */
  end(): Response | undefined {
    if (this.#controller) {
      if (!this.#gone) this.#controller.close();
      return undefined;
    }
    if (this.#text !== undefined) return new Response(this.#text, this.#init);
    if (!this.#chunks || this.#size === 0) return new Response(null, { status: 204 });
    const body = joined(this.#chunks, this.#size);
    return new Response(body as Uint8Array<ArrayBuffer>, this.#init);
  }

  /** The same for whoever waits for {@linkcode Answer.response}. */
  resolve(): void {
    const response = this.end();
    if (response) this.#promise.resolve(response);
  }

  /** The job has failed. False if it is too late to answer so. */
  fail(error: unknown): boolean {
    this.#promise.reject(error);
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
    this.#promise.resolve(
      new Response(body as ReadableStream<Uint8Array<ArrayBuffer>>, this.#init),
    );
    const begun = joined(this.#chunks!, this.#size);
    this.#chunks = undefined;
    return this.#send(begun);
  }

  #send(chunk: Uint8Array): void | Promise<void> {
    if (chunk.length > 0) this.#controller!.enqueue(chunk);
    if (this.#controller!.desiredSize! <= 0) return this.#room();
  }

  /** Waits for the client to take what is there, as long as that goes forward. */
  async #room(): Promise<void> {
    while (!this.#gone && this.#controller!.desiredSize! <= 0) {
      this.#taken = Promise.withResolvers();
      if (await within(this.#timeout, this.#taken.promise)) continue;
      const error = new TypedError("timeout", "the client does not take its answer");
      this.#leave(error);
      this.#controller!.error(error);
      this.#env.cut();
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
  if (chunks.length === 1) return chunks[0];
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
