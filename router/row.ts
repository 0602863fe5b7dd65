/**
 * A row of the route table, checked and ready to answer.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { Job } from "../engine.ts";
import { type ErrorKind, messageOf, TypedError } from "../engine/errors.ts";
import { answers } from "../platform/http.ts";
import { type Form, formsOf } from "./answers.ts";
import type { Bindings } from "./bindings.ts";
import { notRegistered } from "./errors.ts";
import { streamType } from "./frames.ts";
import { patternProblem, shapeOf, variablesOf } from "./patterns.ts";
import type { RequestBindings } from "./request.ts";
import { BODYLESS, type Init, respond } from "./respond.ts";
import type { Route } from "./route.ts";
import { Turns } from "./turns.ts";
import { type Reading, RowReader, type Sent } from "./validation.ts";
import { isWithin, overlap, type VersionRange, versionRange } from "./versions.ts";

const METHODS: readonly string[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const UPGRADES: readonly unknown[] = [undefined, "tcp", "websocket"];

function isWhole(body: unknown): body is string | Uint8Array {
  return typeof body === "string" || body instanceof Uint8Array;
}

/** How an answer of some form begins. */
interface FormInit extends Init {
  readonly type: Form["type"];
}

/** A row that was checked. */
export class Row {
  readonly route: Route;
  /** Its path, with that of the app that it was added to. */
  readonly path: string;
  readonly reader: RowReader;
  /** Whether the usual answer is sent as it is written. */
  readonly stream: boolean;
  /** Whether it begins before the job writes. */
  readonly eager: boolean;
  /** Whether what the job writes to stdout and stderr is told apart. */
  readonly inFrames: boolean;
  /** The longest body in bytes; undefined for the router's. */
  readonly bodyLimit: number | undefined;
  /** How many may run at once, if that is limited. */
  readonly turns: Turns | undefined;
  readonly timeout: { readonly ms: number; readonly kind: ErrorKind } | undefined;
  readonly #versions: VersionRange;
  /** How answers begin, by their status. */
  readonly #inits = new Map<number, FormInit>();
  readonly #usual: FormInit;
  /** Makes an answer of what a job has written, where no other has a part in it. */
  readonly #make?: (body: string | Uint8Array) => Response;
  /** How the answer of a job begins that has written nothing. */
  readonly #unwritten: FormInit;

  /**
   * Checks a row.
   *
   * @param path Its whole path.
   * @param shared Headers of all answers.
   * @param jsonLimit The longest JSON body in bytes, unless the row has its own.
   * @throws {TypeError} If the row cannot be: it names the row and what is wrong with it.
   */
  constructor(route: Route, path: string, shared: Record<string, string>, jsonLimit: number) {
    this.route = route;
    this.path = path;
    try {
      checkEnds(route, path);
      this.reader = new RowReader(route, variablesOf(path));
      this.#versions = versionRange(route);
      this.turns = turnsOf(route.concurrency);
      this.timeout = timeoutOf(route.timeout);
      const forms = formsOf(route);
      for (const { status, type, contentType } of forms) {
        const hasType = contentType !== undefined && type !== "none";
        const headers = { ...hasType && { "Content-Type": contentType }, ...shared };
        // Throws now, and not at the first request, if it can't be answered so.
        new Response(null, { status, headers });
        this.#inits.set(status, { status, type, headers });
      }
      const [usual] = forms;
      this.stream = usual.stream;
      this.eager = usual.eager;
      this.inFrames = usual.type === "frames";
      this.#usual = this.#inits.get(usual.status)!;
      if (usual.type !== "none" && !BODYLESS.includes(usual.status)) {
        this.#make = answers(usual.status, Object.entries(this.#usual.headers));
      }
      const said = (route.status ?? route.answers?.[usual.status]) !== undefined;
      this.#unwritten = { status: said ? usual.status : 204, type: "none", headers: shared };
    } catch (error) {
      throw new TypeError(`row ${route.method} ${path}: ${messageOf(error)}`, { cause: error });
    }
    this.bodyLimit = route.bodyLimit ??
      (this.reader.body?.type === "env" ? jsonLimit : undefined);
  }

  /** What it has in common with other rows for the same requests, whatever their variables are called. */
  get shape(): string {
    return shapeOf(this.path);
  }

  /**
   * Whether a request of its path is for it: by its method, which Hono has as GET where it is HEAD, its
   * version, and the parameters of its query.
   */
  takes(method: string, version: string | undefined, sent: Pick<Sent, "query">): boolean {
    const { route } = this;
    return (route.method !== "HEAD" || method === "HEAD") && isWithin(this.#versions, version) &&
      (route.when === undefined || !!sent.query(route.when));
  }

  /** Whether there are requests that both this row and another of its shape take. */
  clashes(other: Row): boolean {
    return this.route.method === other.route.method && this.route.when === other.route.when &&
      overlap(this.#versions, other.#versions);
  }

  /** What a request for it has to have, besides its method and path. */
  get condition(): string {
    const { since, until, when } = this.route;
    return [
      since && `requires API version ${since} or newer`,
      until && `requires API version ${until} or older`,
      when && `requires the query parameter ${when}`,
    ].filter(Boolean).join(", ");
  }

  /** What a client is told where the row's job is not registered. */
  get missing(): TypedError {
    const { job, unavailable } = this.route;
    return unavailable === undefined
      ? notRegistered(job)
      : new TypedError("unavailable", unavailable);
  }

  /** Whether a body, or that there is none, has to be looked at before the job can be run. */
  readsBody(hasBody: boolean): boolean {
    const { body } = this.reader;
    if (body === undefined) return false;
    return hasBody || (body.type !== "stdin" && typeof this.route.body !== "string");
  }

  /**
   * Reads the body into what was read of the rest, unless it is for the job's stdin.
   *
   * @throws {TypedError} ("unsupported media type", or "bad parameter")
   */
  async readBody({ req }: Context, hasBody: boolean, reading: Reading): Promise<void> {
    const { body } = this.reader;
    if (body?.type === "stdin") return this.#checkType(req, false);
    if (body?.type === "env") {
      const text = hasBody ? await req.text() : "";
      this.#checkType(req, text.trim() === "");
      return await this.reader.readJson(text, reading);
    }
    this.#checkType(req, !hasBody);
    let form = new FormData();
    try {
      if (hasBody) form = await req.formData();
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      throw new TypedError("bad parameter", "the request body is no form", { cause: error });
    }
    this.reader.readForm(form, reading);
  }

  #checkType(sent: Sent, empty: boolean): void {
    if (this.reader.contentTypes.length === 0) return;
    const problem = this.reader.typeProblem(sent.header("content-type"), empty);
    if (problem === undefined) return;
    const isBad = this.reader.body?.mismatch === 400;
    throw new TypedError(isBad ? "bad parameter" : "unsupported media type", problem);
  }

  /** The answer of a job that has succeeded, or goes on writing it. */
  respond(
    c: Context<{ Bindings: Bindings }>,
    job: Job,
    body: string | Uint8Array | ReadableStream<Uint8Array> | null,
  ): Response {
    let init = body === null ? this.#unwritten : this.#usual;
    const { outcome } = job;
    if (outcome !== undefined) init = this.#chosen(outcome, init, body === null);
    if (this.inFrames && init === this.#usual) init = this.#typed(c, job, init);
    if (init.type === "none") body = null;
    const env = c.env as RequestBindings;
    // No middleware that could have set a header: this is three times as fast.
    if (env.alone && init === this.#usual && isWhole(body) && this.#make) {
      return env.made = this.#make(body);
    }
    return respond(c, body as BodyInit | null, init);
  }

  /** A stream of Docker's has a type of its own where there is a terminal, and had in old versions. */
  #typed(c: Context<{ Bindings: Bindings }>, job: Job, init: FormInit): FormInit {
    const type = streamType(c.env.version, job.getenvBool("Tty"));
    return { ...init, headers: { ...init.headers, "Content-Type": type } };
  }

  #chosen(outcome: NonNullable<Job["outcome"]>, usual: FormInit, empty: boolean): FormInit {
    const { status = usual.status, headers } = outcome;
    const init = status === usual.status ? usual : this.#inits.get(status);
    if (init === undefined) {
      const known = [...this.#inits.keys()].join(", ");
      throw new TypeError(
        `job ${this.route.job} chose the status ${status}, expected one of the row's: ${known}`,
      );
    }
    const { type } = init;
    const from = empty ? this.#unwritten : init;
    return { status, type, headers: { ...from.headers, ...headers } };
  }
}

/** Whether every request of its method, as Hono sees it, and of its path is for a row. */
export function isForAll({ method, since, until, when }: Route): boolean {
  return method !== "HEAD" && (since ?? until ?? when) === undefined;
}

function checkEnds({ method, job, bodyLimit, upgrade }: Route, path: string): void {
  if (!METHODS.includes(method)) throw new TypeError(`the method is none of ${METHODS.join(", ")}`);
  const problem = patternProblem(path);
  if (problem !== undefined) throw new TypeError(problem);
  if (typeof job !== "string" || job === "") {
    throw new TypeError("it has no job, expected a job's name");
  }
  if (!UPGRADES.includes(upgrade)) {
    throw new TypeError(`upgrade is ${JSON.stringify(upgrade)}, expected "tcp" or "websocket"`);
  }
  if (upgrade === "websocket" && method !== "GET") {
    throw new TypeError("a WebSocket begins with a GET");
  }
  if (bodyLimit !== undefined && !(bodyLimit >= 0)) {
    throw new TypeError(`bodyLimit is ${bodyLimit}, expected bytes`);
  }
}

function turnsOf(concurrency: Route["concurrency"]): Turns | undefined {
  if (concurrency === undefined) return undefined;
  if (typeof concurrency === "number") return new Turns(concurrency);
  return new Turns(concurrency.running, concurrency.waiting);
}

function timeoutOf(timeout: Route["timeout"]): Row["timeout"] {
  if (timeout === undefined) return undefined;
  const limit = typeof timeout === "number"
    ? { ms: timeout, kind: "deadline exceeded" as const }
    : timeout;
  if (limit.ms > 0) return limit;
  throw new TypeError(`timeout is ${limit.ms}, expected milliseconds above 0`);
}
