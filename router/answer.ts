/**
 * What a job writes, as the answer to a request.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import type { Sink } from "../engine/streams.ts";
import { within } from "../engine/time.ts";
import type { Bindings } from "./bindings.ts";
import type { Row } from "./row.ts";

const encoder = new TextEncoder();
/**
 * An answer of more than this is sent as it is written, so that no job can fill the memory. No more than
 * what platform/http.ts calls small, or its connection would wait for --send-timeout.
 */
const BUFFER = 65_536;

/** A job's stdout as a response: whole when the job has ended, or a stream as soon as it must be. */
export class Answer implements Sink {
  /** Settles when the job has ended. */
  ended?: Promise<unknown>;
  #c: Context<{ Bindings: Bindings }>;
  #job: Job;
  #row: Row;
  #timeout: number;
  /** An answer that is one short text, as most are, is never taken apart into bytes here. */
  #text?: string | undefined;
  #chunks?: Uint8Array[] | undefined;
  #size = 0;
  #response?: PromiseWithResolvers<Response>;
  #settled = false;
  #body?: ReadableStream<Uint8Array>;
  #controller?: ReadableStreamDefaultController<Uint8Array>;
  #gone?: { reason: unknown };
  #taken?: PromiseWithResolvers<void>;

  constructor(c: Context<{ Bindings: Bindings }>, job: Job, row: Row, timeout: number) {
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
    // A text has at most three bytes a unit.
    const whole = !this.#row.stream && this.#size === 0 && this.#text === undefined &&
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
    if (this.#row.stream || this.#size > BUFFER) return this.begin();
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
    this.#settled = true;
    const body = this.#text ??
      (this.#size === 0 ? null : joined(this.#chunks!, this.#size));
    return this.#row.respond(this.#c, this.#job, body);
  }

  /** The same for whoever waits for {@linkcode Answer.response}. */
  resolve(): void {
    if (this.#gone && !this.#controller) return; // It was given up.
    try {
      const response = this.end();
      if (response) this.#promise.resolve(response);
    } catch (error) {
      this.#promise.reject(error);
    }
  }

  /** The job has failed. False if it is too late to answer so. */
  fail(error: unknown): boolean {
    this.#settled = true;
    this.#promise.reject(error);
    if (!this.#controller) return true;
    if (this.#gone) return true; // The client went first, and the job failed of that.
    this.#controller.error(error);
    return false;
  }

  /** Answers with an error in the job's place, and aborts that; unless a stream has begun. */
  giveUp(error: unknown): void {
    if (this.#settled) return;
    this.#settled = true;
    this.#promise.reject(error);
    this.#leave(error);
  }

  /** Begins the answer as a stream, with what there is of it, unless it has begun or ended. */
  begin(): void | Promise<void> {
    if (this.#settled) return;
    this.#settled = true;
    this.#body = new ReadableStream<Uint8Array>({
      start: (controller) => {
        this.#controller = controller;
      },
      pull: () => this.#taken?.resolve(),
      cancel: () => {
        this.#leave(new DOMException("The client has left.", "AbortError"));
        // Until it has ended, the job is in work.
        return this.ended?.then(() => {}, () => {});
      },
    }, new ByteLengthQueuingStrategy({ highWaterMark: BUFFER }));
    this.#promise.resolve(this.#row.respond(this.#c, this.#job, this.#body));
    if (this.#size === 0) return;
    const begun = joined(this.#chunks!, this.#size);
    this.#chunks = undefined;
    return this.#send(begun);
  }

  /**
   * The request was answered with this response. Where that is not made of this answer, because a handler
   * has given it up, there is no use in the job any more.
   */
  answered(response: Response): void {
    const unused = this.#body !== undefined && !this.#body.locked && response.body !== this.#body;
    if (!this.#settled || unused) {
      this.#leave(new DOMException("The request was answered without the job.", "AbortError"));
    }
  }
  #send(chunk: Uint8Array): void | Promise<void> {
    // In pieces, because of what is read as one it cannot be seen how much of it the client takes.
    for (let at = 0; at < chunk.length; at += BUFFER) {
      this.#controller!.enqueue(chunk.subarray(at, at + BUFFER));
    }
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
      this.#c.env.cut();
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
  if (chunks.length === 1) return chunks[0]!;
  const all = new Uint8Array(size);
  let at = 0;
  for (const chunk of chunks) {
    all.set(chunk, at);
    at += chunk.length;
  }
  return all;
}
