/**
 * Runs the job of a request: validates the request by its row, waits for the body and for the row's
 * semaphore, and answers with what the job writes.
 *
 * @module
 */

import type { Engine, Job } from "../engine.ts";
import { messageOf, Status, TypedError } from "../engine/errors.ts";
import { after, turn } from "../engine/time.ts";
import { Answer } from "./answer.ts";
import { attachFramed } from "./frames.ts";
import type { RequestBindings } from "./request.ts";
import type { RequestContext } from "./respond.ts";
import type { Row } from "./row.ts";
import type { Reading } from "./validation.ts";

/** Runs the jobs of requests on an engine. */
export class JobRunner {
  #engine: Engine;
  #sendTimeout: number;

  /** @param sendTimeout How long a client may take nothing of an answer, in milliseconds. */
  constructor(engine: Engine, sendTimeout: number) {
    this.#engine = engine;
    this.#sendTimeout = sendTimeout;
  }

  /**
   * Runs the job of a row for a request that matches it.
   *
   * @throws {TypedError} If the job is not registered, or the request is not what the row declares.
   */
  run(c: RequestContext, row: Row): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    if (!this.#engine.has(row.route.job)) throw row.missing;
    const reading = row.reader.read(c.req, env.version);
    const hasBody = env.body !== undefined;
    if (reading instanceof Promise || row.semaphore !== undefined || row.readsBody(hasBody)) {
      return this.#prepare(c, row, reading);
    }
    return this.#start(c, row, reading);
  }

  /** Waits for what the job needs: its body, the verdict of a schema, its semaphore. */
  async #prepare(
    c: RequestContext,
    row: Row,
    given: Reading | undefined | Promise<Reading>,
  ): Promise<Response> {
    const env = c.env as RequestBindings;
    const reading = await given ?? row.reader.empty();
    await row.readBody(c, env.body !== undefined, reading);
    // From Hono's cache, if other handlers have read the body.
    const cached = row.reader.body?.type === "stdin" && Object.keys(c.req.bodyCache).length > 0
      ? await c.req.bytes()
      : undefined;
    await row.semaphore?.acquire(env.signal);
    return this.#start(c, row, reading, cached);
  }

  #start(
    c: RequestContext,
    row: Row,
    reading: Reading | undefined,
    cached?: Uint8Array,
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
    if (row.route.upgrade !== undefined) return this.#upgrade(c, job, row, cached);
    if (row.reader.body?.type === "stdin" && env.body !== undefined) {
      job.stdin.add(cached ?? c.req.raw);
    }
    return this.#answer(c, job, row);
  }

  /** Runs a job that hijacks its client's connection. */
  async #upgrade(
    c: RequestContext,
    job: Job,
    row: Row,
    cached?: Uint8Array,
  ): Promise<Response> {
    const env = c.env as RequestBindings;
    const { runRaw, runWebSocket } = await import("./upgrade.ts");
    const run = row.route.upgrade === "tcp" ? runRaw : runWebSocket;
    // A body that went into the env is not input.
    const { type = "stdin" } = row.reader.body ?? {};
    const body = type === "stdin" && env.body !== undefined ? c.req.raw.body : null;
    const cancel = startTimeout(job, row, (error) => job.abort(error));
    return await run({
      job,
      env,
      request: c.req.raw,
      body: cached === undefined ? body : new Blob([cached as Uint8Array<ArrayBuffer>]).stream(),
      contentType: row.route.contentType,
      sendTimeout: this.#sendTimeout,
      eager: row.eager,
      failed: (error) => {
        // The client left first, and the job failed because of that.
        if (env.signal.aborted) return;
        this.#logFailure(job, error);
      },
      ended: () => {
        cancel?.();
        row.semaphore?.release();
      },
    });
  }

  #answer(c: RequestContext, job: Job, row: Row): Response | Promise<Response> {
    const env = c.env as RequestBindings;
    const answer = new Answer(c, job, row, this.#sendTimeout);
    env.answer = answer;
    let flush: (() => void) | undefined;
    if (row.inFrames) flush = attachFramed(job, answer);
    else job.stdout.add(answer);
    const running = answer.ended = job.run();
    // A job that has ended already is answered synchronously: no promise, and the runtime's fast
    // path, which is for handlers that return a response at once.
    if (job.status === Status.OK) {
      row.semaphore?.release();
      flush?.();
      const response = answer.end();
      if (response !== undefined) return response;
    } else if (row.semaphore !== undefined || row.timeout !== undefined) {
      const cancel = startTimeout(job, row, (error) => answer.abort(error));
      const end = () => {
        cancel?.();
        row.semaphore?.release();
      };
      running.then(end, end);
    }
    running.then(() => {
      flush?.();
      answer.resolve();
    }, (error) => {
      // Once the status line is sent, all that is left is to cut the answer short and to log why.
      if (!answer.fail(error)) this.#logFailure(job, error);
    });
    // After a turn, so that a job which fails before its first wait still gets an error status.
    if (row.eager) turn().then(() => answer.begin());
    return answer.response;
  }

  #logFailure(job: Job, error: unknown): void {
    this.#engine.log("warn", `job ${job.name} failed in its answer: ${messageOf(error)}`, {
      error,
    });
  }
}

/** Calls `expire` when a row's timeout is over. Returns the cancel; undefined without timeout. */
function startTimeout(
  job: Job,
  { timeout }: Row,
  expire: (error: TypedError) => void,
): (() => void) | undefined {
  return timeout && after(timeout.ms, () => {
    const message = `job ${job.name} took longer than ${timeout.ms} ms`;
    expire(new TypedError(timeout.kind, message));
  });
}
