/**
 * A row of the route table, checked and compiled.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { type ErrorKind, messageOf, TypedError } from "../engine/errors.ts";
import { answers } from "../platform/http.ts";
import { type Form, formsOf } from "./answers.ts";
import { notRegistered } from "./errors.ts";
import { streamType } from "./frames.ts";
import { patternProblem, shapeOf, variablesOf } from "./patterns.ts";
import type { RequestBindings } from "./request.ts";
import { BODYLESS, type Init, type RequestContext, respond } from "./respond.ts";
import type { Route } from "./route.ts";
import { Semaphore } from "./semaphore.ts";
import { checkMembers, type Members, type Reading, RowReader, type Sent } from "./validation.ts";
import { isWithin, overlap, type VersionRange, versionRange } from "./versions.ts";

/** The methods that a row may have. */
export const METHODS: readonly string[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const MEMBERS: Members<Route> = {
  method: 1,
  path: 1,
  job: 1,
  params: 1,
  query: 1,
  headers: 1,
  args: 1,
  body: 1,
  bodyLimit: 1,
  stream: 1,
  contentType: 1,
  status: 1,
  answers: 1,
  errors: 1,
  since: 1,
  until: 1,
  when: 1,
  unavailable: 1,
  timeout: 1,
  concurrency: 1,
  upgrade: 1,
  summary: 1,
  tags: 1,
};
const UPGRADES: readonly unknown[] = [undefined, "tcp", "websocket"];

function isWhole(body: unknown): body is string | Uint8Array {
  return typeof body === "string" || body instanceof Uint8Array;
}

/** The status, headers and form of an answer. */
interface FormInit extends Init {
  readonly type: Form["type"];
}

/** A checked row. */
export class Row {
  readonly route: Route;
  /** The full path, including the base path of the app that it was added to. */
  readonly path: string;
  readonly reader: RowReader;
  /** Whether the default answer is a stream. */
  readonly stream: boolean;
  /** Whether the stream's headers are sent before the job writes. */
  readonly eager: boolean;
  /** Whether stdout and stderr are sent in frames. */
  readonly inFrames: boolean;
  /** The longest body in bytes; undefined for the router's. */
  readonly bodyLimit: number | undefined;
  /** Limits how many jobs run at once; undefined for no limit. */
  readonly semaphore: Semaphore | undefined;
  readonly timeout: { readonly ms: number; readonly kind: ErrorKind } | undefined;
  readonly #versions: VersionRange;
  /** The answers by status. */
  readonly #inits = new Map<number, FormInit>();
  /** The answer of a job that sets no outcome. */
  readonly #usual: FormInit;
  /** Makes a response quickly, where no middleware takes part in it. */
  readonly #make?: (body: string | Uint8Array) => Response;
  /** The answer of a job that has written nothing. */
  readonly #unwritten: FormInit;

  /**
   * Checks a row.
   *
   * @param path Its full path.
   * @param shared Headers of all answers.
   * @param jsonLimit The longest JSON body in bytes, unless the row has its own limit.
   * @throws {TypeError} If the row is invalid: the message names the row and what is wrong with it.
   */
  constructor(route: Route, path: string, shared: Record<string, string>, jsonLimit: number) {
    this.route = route;
    this.path = path;
    try {
      checkMembers("a row", route, MEMBERS);
      checkEnds(route, path);
      this.reader = new RowReader(route, variablesOf(path));
      this.#versions = versionRange(route);
      this.semaphore = semaphoreOf(route.concurrency);
      this.timeout = timeoutOf(route.timeout);
      const forms = formsOf(route);
      for (const { status, type, contentType } of forms) {
        const hasType = contentType !== undefined && type !== "none";
        const headers = { ...hasType && { "Content-Type": contentType }, ...shared };
        // Throws for invalid headers now, and not at the first request.
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
      const declared = (route.status ?? route.answers?.[usual.status]) !== undefined;
      this.#unwritten = { status: declared ? usual.status : 204, type: "none", headers: shared };
    } catch (error) {
      throw new TypeError(`row ${route.method} ${path}: ${messageOf(error)}`, { cause: error });
    }
    this.bodyLimit = route.bodyLimit ??
      (this.reader.body?.type === "env" ? jsonLimit : undefined);
  }

  /** The path without the names of its variables: rows for the same paths have the same shape. */
  get shape(): string {
    return shapeOf(this.path);
  }

  /**
   * Whether the row matches a request of its path: by the method (Hono's GET handlers get HEAD
   * too), the version, and the query.
   */
  takes(method: string, version: string | undefined, sent: Pick<Sent, "query">): boolean {
    const { route } = this;
    return (route.method !== "HEAD" || method === "HEAD") && isWithin(this.#versions, version) &&
      (route.when === undefined || !!sent.query(route.when));
  }

  /** Whether some request matches both this row and another of its shape. */
  clashes(other: Row): boolean {
    return this.route.method === other.route.method && this.route.when === other.route.when &&
      overlap(this.#versions, other.#versions);
  }

  /** What the row requires of a request besides its method and path, in words. */
  get condition(): string {
    const { since, until, when } = this.route;
    return [
      since && `requires API version ${since} or newer`,
      until && `requires API version ${until} or older`,
      when && `requires the query parameter ${when}`,
    ].filter(Boolean).join(", ");
  }

  /** The error for a request whose job is not registered. */
  get missing(): TypedError {
    const { job, unavailable } = this.route;
    return unavailable === undefined
      ? notRegistered(job)
      : new TypedError("unavailable", unavailable);
  }

  /** Whether the body, or its absence, has to be checked before the job can run. */
  readsBody(hasBody: boolean): boolean {
    const { body } = this.reader;
    if (body === undefined) return false;
    return hasBody || (body.type !== "stdin" && typeof this.route.body !== "string");
  }

  /**
   * Reads the body into `reading`, unless it is for the job's stdin.
   *
   * @throws {TypedError} ("unsupported media type") For another Content-Type; ("bad parameter") If
   * the body is malformed or not what the row declares.
   */
  async readBody({ req }: RequestContext, hasBody: boolean, reading: Reading): Promise<void> {
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
      throw new TypedError("bad parameter", "the request body is malformed, expected a form", {
        cause: error,
      });
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

  /** The response of a job that has succeeded, or that begins to stream. */
  respond(
    c: RequestContext,
    job: Job,
    body: string | Uint8Array | ReadableStream<Uint8Array> | null,
  ): Response {
    let init = body === null ? this.#unwritten : this.#usual;
    const { outcome } = job;
    if (outcome !== undefined) init = this.#chosen(outcome, init, body === null);
    if (this.inFrames && init === this.#usual) init = this.#typed(c, job, init);
    if (init.type === "none") body = null;
    const env = c.env as RequestBindings;
    // Without middleware no header can have been set: then this is three times as fast.
    if (env.alone && init === this.#usual && isWhole(body) && this.#make) {
      return env.made = this.#make(body);
    }
    return respond(c, body as BodyInit | null, init);
  }

  /** The Content-Type of a stream depends on the job's terminal and on the API version. */
  #typed(c: RequestContext, job: Job, init: FormInit): FormInit {
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

/** Whether a row matches every request of its path and of its method, as Hono sees it. */
export function isForAll({ method, since, until, when }: Route): boolean {
  return method !== "HEAD" && (since ?? until ?? when) === undefined;
}

function checkEnds({ method, job, bodyLimit, upgrade }: Route, path: string): void {
  if (!METHODS.includes(method)) {
    throw new TypeError(`the method is "${method}", expected one of ${METHODS.join(", ")}`);
  }
  const problem = patternProblem(path);
  if (problem !== undefined) throw new TypeError(problem);
  if (typeof job !== "string" || job === "") {
    throw new TypeError("the job is missing, expected a job's name");
  }
  if (!UPGRADES.includes(upgrade)) {
    throw new TypeError(`upgrade is ${JSON.stringify(upgrade)}, expected "tcp" or "websocket"`);
  }
  if (upgrade === "websocket" && method !== "GET") {
    throw new TypeError('upgrade is "websocket", expected the method GET');
  }
  if (bodyLimit !== undefined && !(bodyLimit >= 0)) {
    throw new TypeError(`bodyLimit is ${bodyLimit}, expected a number of bytes`);
  }
}

function semaphoreOf(concurrency: Route["concurrency"]): Semaphore | undefined {
  if (concurrency === undefined) return undefined;
  if (typeof concurrency === "number") return new Semaphore(concurrency);
  return new Semaphore(concurrency.running, concurrency.waiting);
}

function timeoutOf(timeout: Route["timeout"]): Row["timeout"] {
  if (timeout === undefined) return undefined;
  const limit = typeof timeout === "number"
    ? { ms: timeout, kind: "deadline exceeded" as const }
    : timeout;
  if (limit.ms > 0) return limit;
  throw new TypeError(`timeout is ${limit.ms}, expected a number of milliseconds above 0`);
}
