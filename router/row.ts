/**
 * A row of the route table, checked and ready to answer.
 *
 * @module
 */

import type { Context } from "npm:hono@^4.13";
import type { Job } from "../engine.ts";
import { answers } from "../platform/http.ts";
import type { Bindings } from "./bindings.ts";
import { patternProblem, variablesOf } from "./patterns.ts";
import type { RequestBindings } from "./request.ts";
import { BODYLESS, type Init, respond } from "./respond.ts";
import type { Route } from "./route.ts";

const METHODS: readonly string[] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];
const BODIES: readonly unknown[] = [undefined, "stdin", "env"];

function isWhole(body: unknown): body is string | Uint8Array {
  return typeof body === "string" || body instanceof Uint8Array;
}

/** A row that was checked. */
export class Row {
  readonly route: Route;
  /** Its path, with that of the app that it was added to. */
  readonly path: string;
  /** The names of its path's variables, in order. */
  readonly variables: readonly string[];
  readonly query: readonly string[];
  readonly stream: boolean;
  /** The longest body in bytes; undefined for the router's. */
  readonly bodyLimit?: number;
  /** How answers begin, by their status, of jobs that have written something. */
  #inits = new Map<number, Init>();
  #written: Init;
  /** Makes an answer of what a job has written, where no other has a part in it. */
  #make?: (body: string | Uint8Array) => Response;
  #unwritten: Init;

  /**
   * Checks a row.
   *
   * @param path Its whole path.
   * @param shared Headers of all answers.
   * @param jsonLimit The longest JSON body in bytes, unless the row has its own.
   * @throws {TypeError} If the row cannot be: it names the row and what is wrong with it.
   */
  constructor(route: Route, path: string, shared: Record<string, string>, jsonLimit: number) {
    const wrong = (problem: string) => new TypeError(`row ${route.method} ${path}: ${problem}`);
    if (!METHODS.includes(route.method)) {
      throw wrong(`the method is none of ${METHODS.join(", ")}`);
    }
    const problem = patternProblem(path);
    if (problem !== undefined) throw wrong(problem);
    if (typeof route.job !== "string" || route.job === "") {
      throw wrong("it has no job, expected a job's name");
    }
    if (!BODIES.includes(route.body)) {
      throw wrong(`body is ${JSON.stringify(route.body)}, expected "stdin" or "env"`);
    }
    if (route.bodyLimit !== undefined && !(route.bodyLimit >= 0)) {
      throw wrong(`bodyLimit is ${route.bodyLimit}, expected bytes`);
    }
    this.route = route;
    this.path = path;
    this.variables = variablesOf(path);
    this.query = route.query ?? [];
    this.stream = route.stream ?? false;
    this.bodyLimit = route.bodyLimit ?? (route.body === "env" ? jsonLimit : undefined);
    const headers = { "Content-Type": route.contentType ?? "application/json", ...shared };
    const statuses = [route.status ?? 200, ...Object.keys(route.answers ?? {}).map(Number)];
    try {
      for (const status of statuses) {
        // Throws now, and not at the first request, if it can't be answered so.
        new Response(null, { status, headers });
        this.#inits.set(status, { status, headers });
      }
      if (!BODYLESS.includes(statuses[0]!)) {
        this.#make = answers(statuses[0]!, Object.entries(headers));
      }
    } catch (error) {
      throw wrong(error instanceof Error ? error.message : String(error));
    }
    this.#written = this.#inits.get(statuses[0])!;
    this.#unwritten = { status: route.status ?? 204, headers: shared };
  }

  /** The answer of a job that has succeeded, or goes on writing it. */
  respond(
    c: Context<{ Bindings: Bindings }>,
    job: Job,
    body: string | Uint8Array | ReadableStream<Uint8Array> | null,
  ): Response {
    let init = body === null ? this.#unwritten : this.#written;
    const { outcome } = job;
    if (outcome !== undefined) init = this.#chosen(outcome, init, body === null);
    const env = c.env as RequestBindings;
    // No middleware that could have set a header: this is three times as fast.
    if (env.alone && init === this.#written && isWhole(body) && this.#make) {
      return env.made = this.#make(body);
    }
    return respond(c, body as BodyInit | null, init);
  }

  #chosen(outcome: NonNullable<Job["outcome"]>, usual: Init, empty: boolean): Init {
    const { status = usual.status, headers } = outcome;
    const init = status === usual.status ? usual : this.#inits.get(status);
    if (init === undefined) {
      const known = [...this.#inits.keys()].join(", ");
      throw new TypeError(
        `job ${this.route.job} chose the status ${status}, expected one of the row's: ${known}`,
      );
    }
    return { status, headers: { ...empty ? this.#unwritten.headers : init.headers, ...headers } };
  }
}
