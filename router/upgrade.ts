/**
 * Rows whose job hijacks the connection: the job's stdin is the client's data, and the client gets
 * what the job writes, on a raw stream or a WebSocket.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { turn, within } from "../engine/time.ts";
import { requireWebSocket } from "../platform/websockets.ts";
import type { Bindings } from "./bindings.ts";
import { framed, STDERR, STDOUT, streamType } from "./frames.ts";

/** A job, and the request that it is run for. */
export interface UpgradedJob {
  readonly job: Job;
  readonly env: Bindings;
  readonly request: Request;
  /** The job's stdin for a request that asks for no upgrade. */
  readonly body: ReadableStream<Uint8Array> | null;
  /** The Content-Type of the row, if it has one. */
  readonly contentType: string | undefined;
  /** How long a client may read nothing of the job's output, in milliseconds. */
  readonly sendTimeout: number;
  /** Whether the client is answered before the job reads or writes. */
  readonly eager: boolean;
  /** Called when the job fails after its request was answered. */
  failed(error: unknown): void;
  /** Called when the job has ended. */
  ended(): void;
}

/** Runs a job on a raw stream, or with a streamed 200 if the client asks for no upgrade. */
export function runRaw(upgraded: UpgradedJob): Promise<Response> {
  const { job, env, request, body } = upgraded;
  return new Attachment(upgraded, () => {
    // The job sets it before it writes.
    const tty = job.getenvBool("Tty");
    const type = upgraded.contentType ?? streamType(env.version, tty);
    const headers = { "Content-Type": type };
    if (asksForRaw(request)) {
      const { response, connection } = env.upgrade(headers);
      const channel = connection.then(({ readable, writable }) =>
        new StreamChannel(readable, writable, tty)
      );
      return { response, channel };
    }
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array<ArrayBuffer>>(
      undefined,
      new ByteLengthQueuingStrategy({ highWaterMark: BUFFER }),
    );
    const response = new Response(readable, { headers });
    return { response, channel: Promise.resolve(new StreamChannel(body, writable, tty)) };
  }).run();
}

/** Runs a job on a WebSocket. */
export function runWebSocket(upgraded: UpgradedJob): Promise<Response> {
  const { request } = upgraded;
  requireWebSocket(request); // Before the job is run.
  return new Attachment(upgraded, () => {
    const { response, socket } = Deno.upgradeWebSocket(request);
    return { response, channel: openChannel(socket) };
  }).run();
}

function asksForRaw({ headers }: Request): boolean {
  return headers.has("upgrade") && /\bupgrade\b/i.test(headers.get("connection") ?? "");
}

/** The client's side of a job, once its request is answered. */
interface Channel {
  /** The next bytes; undefined after the client's half-close. */
  read(): Promise<Uint8Array | undefined>;
  /** Discards what the client sends from now on. */
  stopReading(): void;
  /** Sends the job's output. Resolves when there is room for more. */
  write(chunk: Uint8Array, from: typeof STDOUT | typeof STDERR): Promise<void>;
  /** Ends the stream: with the error of a job that has failed. */
  end(error?: unknown): Promise<void>;
}

/** A job, and the client that it is attached to when it first reads or writes. */
class Attachment {
  readonly #upgraded: UpgradedJob;
  readonly #open: () => { response: Response; channel: Promise<Channel> };
  readonly #answer = Promise.withResolvers<Response>();
  #channel?: Promise<Channel>;
  /** Why the job will not be attached. */
  #refused?: { readonly reason: unknown };
  /** The job's output to stderr before it was attached. */
  #complaints: Uint8Array[] = [];

  constructor(
    upgraded: UpgradedJob,
    open: () => { response: Response; channel: Promise<Channel> },
  ) {
    this.#upgraded = upgraded;
    this.#open = open;
  }

  /**
   * Runs the job. The client gets its upgrade when the job reads, writes to stdout (an empty write
   * will do) or succeeds, and an error if the job fails before. There is no timeout after which the
   * client would get a 101 all the same: the docker CLI shows the message of a 404, however late it
   * comes, and nothing of a connection that closes after a 101. As it starts a container only after
   * the 101 to its attach, an attach job makes an empty write. A row with `stream: true` is
   * answered once its job has waited for anything and not failed.
   */
  run(): Promise<Response> {
    const { job, eager, failed, ended } = this.#upgraded;
    // For jobs that ignore their signal: the row's timeout aborts it.
    job.signal.addEventListener("abort", () => this.#refuse(job.signal.reason), { once: true });
    job.stdout.add({ write: (chunk) => this.#write(chunk, STDOUT) });
    job.stderr.add({
      write: (chunk) => {
        if (this.#channel) return this.#write(chunk, STDERR);
        this.#complaints.push(chunk);
      },
    });
    job.stdin.add(
      new ReadableStream<Uint8Array>({
        pull: async (controller) => {
          const chunk = await (await this.#attach()).read();
          if (chunk) controller.enqueue(chunk);
          else controller.close();
        },
        cancel: async () => (await this.#channel)?.stopReading(),
      }, { highWaterMark: 0 }),
    );
    const end = async (error?: unknown) => {
      ended();
      if (error !== undefined) {
        if (!this.#channel) return this.#refuse(error);
        failed(error);
      }
      await (await this.#attach()).end(error);
    };
    // Errors of both mean that the client has left, which has aborted the job.
    job.run().then(() => end(), end).catch(() => {});
    if (eager) turn().then(() => this.#attach()).catch(() => {});
    return this.#answer.promise;
  }

  #attach(): Promise<Channel> {
    if (this.#refused) return Promise.reject(this.#refused.reason);
    return this.#channel ??= this.#begin();
  }

  /** Answers with an error, unless the request is answered. The job is not attached any more. */
  #refuse(reason: unknown): void {
    if (this.#channel) return;
    this.#refused ??= { reason };
    this.#answer.reject(reason);
  }

  async #begin(): Promise<Channel> {
    const { job } = this.#upgraded;
    try {
      const { response, channel } = this.#open();
      this.#answer.resolve(response);
      const attached = await channel;
      for (const chunk of this.#complaints) await attached.write(chunk, STDERR);
      return attached;
    } catch (error) {
      this.#answer.reject(error); // Without effect if it was answered.
      job.abort(error);
      throw error;
    }
  }

  async #write(chunk: Uint8Array, from: typeof STDOUT | typeof STDERR): Promise<void> {
    const { job, env, sendTimeout } = this.#upgraded;
    const channel = await this.#attach();
    try {
      if (await within(sendTimeout, channel.write(chunk, from))) return;
      env.cut();
      throw new TypedError("timeout", "the client does not take what the job writes");
    } catch (error) {
      job.abort(error);
      throw error;
    }
  }
}

/** The size of a pipe (pipe(7)), in bytes. */
const BUFFER = 65_536;

/** A raw stream; towards the client in frames, unless the job has a terminal. */
class StreamChannel implements Channel {
  readonly #reader?: ReadableStreamDefaultReader<Uint8Array> | undefined;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  readonly #tty: boolean;

  constructor(
    readable: ReadableStream<Uint8Array> | null,
    writable: WritableStream<Uint8Array>,
    tty: boolean,
  ) {
    this.#reader = readable?.getReader();
    this.#writer = writable.getWriter();
    this.#writer.closed.catch(() => {}); // Writes reject, too.
    this.#tty = tty;
  }
  async read(): Promise<Uint8Array | undefined> {
    return (await this.#reader?.read())?.value;
  }
  stopReading(): void {
    this.#reader?.cancel().catch(() => {}); // Reads have rejected if it is broken.
  }
  write(chunk: Uint8Array, from: typeof STDOUT | typeof STDERR): Promise<void> {
    if (chunk.length === 0) return this.#writer.ready;
    return this.#writer.write(this.#tty ? chunk : framed(chunk, from));
  }
  async end(error?: unknown): Promise<void> {
    this.stopReading();
    if (error === undefined) await this.#writer.close();
    else await this.#writer.abort(error);
  }
}

/** RFC 6455, 7.4.1. */
const NORMAL = 1000;
const TOO_BIG = 1009;
const INTERNAL_ERROR = 1011;
/** The longest reason of a close frame, in bytes. */
const REASON = 123;
/** The most data that may wait for the job to read it, in bytes. */
const UNREAD = 16 * 1024 * 1024;
/** The interval for polling `bufferedAmount`, in milliseconds. */
const PAUSE = 10;

const encoder = new TextEncoder();

/** Resolves when a WebSocket is open. */
function openChannel(socket: WebSocket): Promise<Channel> {
  const channel = new WebSocketChannel(socket);
  return new Promise((resolve, reject) => {
    socket.addEventListener("open", () => resolve(channel));
    const left = () => reject(new DOMException("The client has left.", "AbortError"));
    socket.addEventListener("error", left);
    socket.addEventListener("close", left);
  });
}

/** A WebSocket: messages of any kind from the client, binary ones to it. */
class WebSocketChannel implements Channel {
  readonly #socket: WebSocket;
  #unread: Uint8Array[] = [];
  #size = 0;
  #ended = false;
  #stopped = false;
  #wake?: () => void;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("message", ({ data }) => {
      if (this.#stopped) return;
      const chunk = typeof data === "string" ? encoder.encode(data) : new Uint8Array(data);
      this.#size += chunk.length;
      if (this.#size > UNREAD) socket.close(TOO_BIG, "the job does not read what it is sent");
      else this.#unread.push(chunk);
      this.#wake?.();
    });
    const end = () => {
      this.#ended = true;
      this.#wake?.();
    };
    socket.addEventListener("close", end);
    socket.addEventListener("error", end);
  }
  async read(): Promise<Uint8Array | undefined> {
    while (this.#unread.length === 0 && !this.#ended) {
      await new Promise<void>((wake) => this.#wake = wake);
    }
    const chunk = this.#unread.shift();
    this.#size -= chunk?.length ?? 0;
    return chunk;
  }
  stopReading(): void {
    this.#stopped = true;
    this.#unread = [];
  }
  async write(chunk: Uint8Array): Promise<void> {
    if (chunk.length > 0) this.#send(chunk);
    while (this.#socket.bufferedAmount > BUFFER) {
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
  #send(chunk: Uint8Array): void {
    if (this.#socket.readyState !== WebSocket.OPEN) {
      throw new DOMException("The client has left.", "AbortError");
    }
    this.#socket.send(chunk as Uint8Array<ArrayBuffer>);
  }
  end(error?: unknown): Promise<void> {
    this.stopReading();
    if (error === undefined) this.#socket.close(NORMAL);
    else this.#socket.close(INTERNAL_ERROR, shortened(messageOf(error)));
    return Promise.resolve();
  }
}

/** Shortens a text to what fits a close frame. */
function shortened(text: string): string {
  const bytes = new Uint8Array(REASON);
  return text.slice(0, encoder.encodeInto(text, bytes).read);
}
