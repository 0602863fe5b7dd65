/**
 * The daemon's health, for an orchestrator, a load balancer, or Prometheus, on addresses of its
 * own. They are behind no gate and do not serve the API.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { within } from "../engine/time.ts";
import { Activation, ListenBuffer } from "../listenbuffer.ts";
import { bind, parseAddress } from "../serve/addresses.ts";
import type { Bound } from "../serve/bound.ts";
import { judgePages } from "../serve/browsers.ts";
import { Connections } from "../serve/connections.ts";
import { admit } from "../serve/requests.ts";
import type { Metrics } from "./metrics.ts";
import type { Sources } from "./info.ts";

/** How many clients are served at once at an address. */
const MAX_CONNECTIONS = 16;
/** How long a job that does nothing may take before the daemon counts as dead, in milliseconds. */
const LIVE_TIMEOUT = 5_000;
/** How long pending answers may take at the end of the daemon, in milliseconds. */
const DRAIN = 200;
/** The header, idle and send timeout of a connection, in milliseconds. */
const TIMEOUT = 5_000;
const PATHS: readonly string[] = ["/livez", "/readyz", "/metrics"];

/**
 * Runs `servehealth ADDR ...`: binds the addresses, prints each, and ends. The addresses answer
 * until the last shutdown handler, since the first to register is the last to be called.
 *
 * @throws {TypedError} ("bad parameter") If there is no address, or one is malformed; and what
 * {@linkcode bind} throws.
 */
export async function serveHealth(job: Job, sources: Sources, metrics: Metrics): Promise<void> {
  if (job.args.length === 0) {
    throw new TypedError("bad parameter", "servehealth: no address, expected PROTO://ADDR ...");
  }
  const { engine } = job;
  const health = new Health(engine, sources, metrics);
  engine.onShutdown(() => health.close(), { name: "of servehealth" });
  // All addresses are parsed before the first is bound.
  for (const address of job.args.map(parseAddress)) {
    const places = await bind(address, {
      group: job.getenv("SocketGroup"),
      exposed: job.getenvBool("Insecure"),
    });
    for (const place of places) {
      await health.listen(place, address.proto === "tcp" ? [address.host] : []);
      await job.print(place.address + "\n");
    }
  }
}

/** The state of a daemon, as `/readyz` names it. */
type State = "booting" | "ready" | "draining" | "failed";

class Health {
  #engine: Engine;
  #sources: Sources;
  #metrics: Metrics;
  #listening: { place: Bound; buffer: ListenBuffer; connections: Connections }[] = [];
  #open = new Activation();
  #state: State = "booting";
  #since = new Date();
  #reason?: string;
  #progress?: { text: string; time: Date };

  constructor(engine: Engine, sources: Sources, metrics: Metrics) {
    this.#engine = engine;
    this.#sources = sources;
    this.#metrics = metrics;
    this.#open.open();
    engine.onProgress(({ text }) => this.#progress = { text, time: new Date() });
    sources.gate.opened.then(() => this.#become("ready"), (reason) => {
      this.#reason = messageOf(reason);
      this.#become("failed");
    });
    engine.stopping.addEventListener("abort", () => this.#become("draining"), { once: true });
  }

  #become(state: State): void {
    // A failed boot stays "failed" while the daemon ends because of it.
    if (this.#state === "failed" || this.#state === "draining") return;
    this.#state = state;
    this.#since = new Date();
  }

  async listen(place: Bound, names: string[]): Promise<void> {
    const answer = (request: Request) => this.#answer(request);
    const tcp = /^tcp:\/\/(.*):\d+$/.exec(place.address);
    const connections = new Connections({
      handler: admit(answer, {
        scheme: "http",
        unix: !tcp,
        ...tcp && { problemOf: judgePages({ scheme: "http", hosts: [tcp[1]!, ...names] }) },
      }),
      timeouts: { header: TIMEOUT, idle: TIMEOUT, send: TIMEOUT },
      // Each answer is the last of its connection, so that its place is free for the next client.
      pressed: () => true,
      log: this.#engine.log,
    });
    connections.prepare();
    const buffer = new ListenBuffer(place.listener, this.#open, {
      maxConnections: MAX_CONNECTIONS,
      onPressure: (pressed) => {
        if (pressed) connections.makeRoom();
      },
      log: (level, message) => this.#engine.log(level, `${place.address}: ${message}`),
    });
    this.#listening.push({ place, buffer, connections });
    await place.publish();
    const release = () => buffer.release();
    void buffer.forEach((connection) => connections.serve(connection, release));
  }

  #answer(request: Request): Response | Promise<Response> {
    const path = new URL(request.url).pathname;
    if (!PATHS.includes(path)) {
      return text(404, `page not found, expected ${PATHS.join(", ")}`);
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      return text(405, `method ${request.method} is not allowed, expected GET`, { allow: "GET" });
    }
    if (path === "/livez") return this.#live();
    return path === "/readyz" ? this.#ready() : this.#expose(request);
  }

  /** Checks that a job can run. That there is an answer shows that the event loop turns. */
  async #live(): Promise<Response> {
    const job = this.#engine.job("true");
    job.quiet = true;
    try {
      if (await within(LIVE_TIMEOUT, job.run())) return text(200, "ok");
      return text(503, `no job can run: one that does nothing took ${LIVE_TIMEOUT} ms`);
    } catch (error) {
      return text(503, `no job can run: ${messageOf(error)}`);
    }
  }

  #ready(): Response {
    const listeners = this.#sources.apis().flatMap((api) => api.listeners);
    return Response.json({
      state: this.#state,
      since: this.#since.toISOString(),
      ...this.#reason !== undefined && { reason: this.#reason },
      ...this.#state === "booting" && this.#progress && {
        progress: this.#progress.text,
        progressAt: this.#progress.time.toISOString(),
      },
      held: listeners.reduce((sum, { held }) => sum + held, 0),
    }, { status: this.#state === "ready" ? 200 : 503, headers: NO_STORE });
  }

  #expose(request: Request): Response {
    const open = /\bapplication\/openmetrics-text\b/.test(request.headers.get("accept") ?? "");
    const { type, body } = this.#metrics.expose(open ? "openmetrics" : "text");
    return new Response(body, { headers: { ...NO_STORE, "content-type": type } });
  }

  async close(): Promise<void> {
    await Promise.all(this.#listening.map(async ({ place, buffer, connections }) => {
      await place.unpublish();
      buffer.close();
      await connections.drain(DRAIN);
    }));
  }
}

const NO_STORE = { "cache-control": "no-store" };

function text(status: number, line: string, headers: Record<string, string> = {}): Response {
  return new Response(line + "\n", {
    status,
    headers: { ...NO_STORE, "content-type": "text/plain; charset=utf-8", ...headers },
  });
}
