/**
 * A job's stdout as the answer to a request.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import { concat } from "../engine/lines.ts";
import type { Sink } from "../engine/streams.ts";
import { within } from "../engine/time.ts";
import type { RequestContext } from "./respond.ts";
import type { Row } from "./row.ts";

const encoder = new TextEncoder();
/**
 * An answer of more bytes than this is streamed, so that no job can fill the memory. Not more than
 * what platform/http.ts calls small, or its connection would wait for --send-timeout.
 */
const BUFFER = 65_536;

/**
 * A job's stdout as a response: one body once the job has ended, or a stream if the row says so or
 * the output exceeds the buffer.
 */
export class Answer implements Sink {
  /** Settles when the job has ended. */
  ended?: Promise<unknown>;
  #c: RequestContext;
  #job: Job;
  #row: Row;
  #timeout: number;
  /** The answer while it is one short text, as most are: it is never encoded here. */
  #text?: string | undefined;
  #chunks?: Uint8Array[] | undefined;
  #size = 0;
  #response?: PromiseWithResolvers<Response>;
  #settled = false;
  #body?: ReadableStream<Uint8Array>;
  #controller?: ReadableStreamDefaultController<Uint8Array>;
  #cancelled?: { reason: unknown };
  #drained?: PromiseWithResolvers<void>;

  constructor(c: RequestContext, job: Job, row: Row, timeout: number) {
    this.#c = c;
    this.#job = job;
    this.#row = row;
    this.#timeout = timeout;
  }

  get response(): Promise<Response> {
    return this.#promise.promise;
  }

  get #promise(): PromiseWithResolvers<Response> {
    return this.#response ??= Promise.withResolvers();
  }

  writeText(text: string): void | Promise<void> {
    // UTF-8 takes at most three bytes per UTF-16 unit.
    const whole = !this.#row.stream && this.#size === 0 && this.#text === undefined &&
      text.length <= BUFFER / 3;
    if (!whole || this.#cancelled) return this.write(encoder.encode(text));
    if (text !== "") this.#text = text;
  }

  write(chunk: Uint8Array): void | Promise<void> {
    if (this.#cancelled) throw this.#cancelled.reason;
    if (this.#controller) return this.#send(chunk);
    if (this.#text !== undefined) {
      this.#keep(encoder.encode(this.#text));
      this.#text = undefined;
    }
    this.#keep(chunk);
    if (this.#row.stream || this.#size > BUFFER) return this.begin();
  }

  #keep(chunk: Uint8Array): void {
    (this.#chunks ??= []).push(chunk);
    this.#size += chunk.length;
  }

  /** Ends a successful answer. Returns the response, unless a stream has begun already. */
  end(): Response | undefined {
    if (this.#controller) {
      if (!this.#cancelled) this.#controller.close();
      return undefined;
    }
    this.#settled = true;
    const body = this.#text ??
      (this.#size === 0 ? null : concat(this.#chunks!));
    return this.#row.respond(this.#c, this.#job, body);
  }

  /** Like {@linkcode Answer.end}, and settles {@linkcode Answer.response}. */
  resolve(): void {
    if (this.#cancelled && !this.#controller) return;
    try {
      const response = this.end();
      if (response) this.#promise.resolve(response);
    } catch (error) {
      this.#promise.reject(error);
    }
  }

  /** Ends a failed answer. Returns false if the client has the status line already. */
  fail(error: unknown): boolean {
    this.#settled = true;
    this.#promise.reject(error);
    if (!this.#controller) return true;
    if (this.#cancelled) return true; // The client left first, and the job failed because of that.
    this.#controller.error(error);
    return false;
  }

  /** Answers with an error and aborts the job, unless the answer has begun. */
  abort(error: unknown): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#promise.reject(error);
    this.#cancel(error);
  }

  /** Begins the answer as a stream with the output so far, unless it has begun or ended. */
  begin(): void | Promise<void> {
    if (this.#settled) return;
    this.#settled = true;
    this.#body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#drained?.resolve(),
      cancel: () => {
        this.#cancel(new DOMException("The client has left.", "AbortError"));
        // The request occupies its place until the job has ended.
        return this.ended?.then(() => {}, () => {});
      },
    }, new ByteLengthQueuingStrategy({ highWaterMark: BUFFER }));
    this.#promise.resolve(this.#row.respond(this.#c, this.#job, this.#body));
    if (this.#size === 0) return;
    const begun = concat(this.#chunks!);
    this.#chunks = undefined;
    return this.#send(begun);
  }

  /**
   * Aborts the job if the request was answered with a response that is not this answer's, because
   * middleware replaced it.
   */
  answered(response: Response): void {
    const unused = this.#body !== undefined && !this.#body.locked && response.body !== this.#body;
    if (!this.#settled || unused) {
      this.#cancel(new DOMException("The request was answered without the job.", "AbortError"));
    }
  }

  #send(chunk: Uint8Array): void | Promise<void> {
    // In pieces, because the progress of a client is seen only between chunks.
    for (let at = 0; at < chunk.length; at += BUFFER) {
      this.#controller!.enqueue(chunk.subarray(at, at + BUFFER));
    }
    if (this.#controller!.desiredSize! <= 0) return this.#waitForClient();
  }

  /** Waits until the client has read enough of the stream; cuts it if it stalls. */
  async #waitForClient(): Promise<void> {
    while (!this.#cancelled && this.#controller!.desiredSize! <= 0) {
      this.#drained = Promise.withResolvers();
      if (await within(this.#timeout, this.#drained.promise)) continue;
      const error = new TypedError("timeout", "the client does not take its answer");
      this.#cancel(error);
      this.#controller!.error(error);
      this.#c.env.cut();
    }
    if (this.#cancelled) throw this.#cancelled.reason;
  }

  #cancel(reason: unknown): void {
    this.#cancelled ??= { reason };
    this.#drained?.resolve();
    this.#job.abort(reason);
  }
}
