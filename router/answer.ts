/**
 * What a job writes, as the answer to a request.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { TypedError } from "../engine/errors.ts";
import type { Sink } from "../engine/streams.ts";
import { within } from "../engine/time.ts";
import type { Bindings } from "./bindings.ts";

/** Drops a body as Hono does for HEAD, so that no job waits for somebody who reads it. */
export async function withoutBody(answer: Response | Promise<Response>): Promise<Response> {
  const response = await answer;
  response.body?.cancel();
  return response;
}

const encoder = new TextEncoder();
/**
 * An answer of more than this is sent as it is written, so that no job can fill the memory. No more than
 * what platform/http.ts calls small, or its connection would wait for --send-timeout.
 */
const BUFFER = 65_536;

/** A job's stdout as a response: whole when the job has ended, or a stream as soon as it must be. */
export class Answer implements Sink {
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
