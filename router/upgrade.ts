/**
 * Rows whose job has the connection: its stdin is what the client sends, and what it writes is what the
 * client gets, on a raw stream or a WebSocket.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import { messageOf, TypedError } from "../engine/errors.ts";
import { after, within } from "../engine/time.ts";
import type { Bindings } from "./bindings.ts";
import { framed, STDERR, STDOUT, streamType } from "./frames.ts";

/** A job, and the request that it is run for. */
export interface UpgradedJob {
  readonly job: Job;
  readonly env: Bindings;
  readonly request: Request;
  /** What the job reads from a request that asks for no upgrade, if anything. */
  readonly body: ReadableStream<Uint8Array> | null;
  /** The answer's Content-Type, where the row names one. */
  readonly contentType: string | undefined;
  /** How long a client may take nothing of what the job writes, in milliseconds. */
  readonly sendTimeout: number;
  /** Told of a job that failed after its request was answered. */
  failed(error: unknown): void;
  /** Told when the job has ended. */
  ended(): void;
}

/** Runs a job on a raw stream, or as an answer that is sent as it is written where none is asked for. */
export function runRaw(upgraded: UpgradedJob): Promise<Response> {
  const { job, env, request, body } = upgraded;
  return new Attachment(upgraded, () => {
    // It may find out what it is attached to before it writes.
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
  if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
    throw new TypedError("bad parameter", "expected a WebSocket (Upgrade: websocket)");
  }
  return new Attachment(upgraded, () => {
    const { response, socket } = Deno.upgradeWebSocket(request);
    return { response, channel: openChannel(socket) };
  }).run();
}

function asksForRaw({ headers }: Request): boolean {
  return headers.has("upgrade") && /\bupgrade\b/i.test(headers.get("connection") ?? "");
}

/** Where a client's bytes come from and go to, once its request is answered. */
interface Channel {
  /** The next bytes; undefined once the client has sent all. */
  read(): Promise<Uint8Array | undefined>;
  /** Reads no more. */
  stopReading(): void;
  /** Sends what the job wrote. Resolves when there is room for more. */
  write(chunk: Uint8Array, from: typeof STDOUT | typeof STDERR): Promise<void>;
  /** The job has ended, with an error unless it succeeded. */
  end(error?: unknown): Promise<void>;
}

/** How long a job may take to refuse a client with an answer of its own, in milliseconds. */
const PATIENCE = 200;

/** A job that is attached to a client. */
class Attachment {
  readonly #upgraded: UpgradedJob;
  readonly #open: () => { response: Response; channel: Promise<Channel> };
  readonly #answer = Promise.withResolvers<Response>();
  #channel?: Promise<Channel>;
  /** What the job complained of before it was attached. */
  #complaints: Uint8Array[] = [];

  constructor(
    upgraded: UpgradedJob,
    open: () => { response: Response; channel: Promise<Channel> },
  ) {
    this.#upgraded = upgraded;
    this.#open = open;
  }

  /**
   * Runs the job. If it fails before its client is answered that gets an error, as from any job. It is
   * answered, and the job attached, when the job reads, writes to stdout, or succeeds; at the latest when
   * it has not failed for a while.
   */
  run(): Promise<Response> {
    const { job, failed, ended } = this.#upgraded;
    const forget = after(PATIENCE, () => void this.#attach());
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
      forget();
      ended();
      if (error !== undefined) {
        if (!this.#channel) return this.#answer.reject(error);
        failed(error);
      }
      await (await this.#attach()).end(error);
    };
    // What goes wrong from here on is the client's going away, of which the job has heard.
    job.run().then(() => end(), end).catch(() => {});
    return this.#answer.promise;
  }

  #attach(): Promise<Channel> {
    return this.#channel ??= this.#begin();
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
      this.#answer.reject(error); // Nothing, if it was answered.
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

/** As much as a pipe of Linux holds (pipe(7)), in bytes. */
const BUFFER = 65_536;

/** Bytes both ways; in frames towards the client, unless there is a terminal. */
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
    this.#writer.closed.catch(() => {}); // Whoever writes hears of it.
    this.#tty = tty;
  }
  async read(): Promise<Uint8Array | undefined> {
    return (await this.#reader?.read())?.value;
  }
  stopReading(): void {
    this.#reader?.cancel().catch(() => {}); // It broke, of which whoever reads hears.
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
/** What a close frame can hold of a reason, in bytes. */
const REASON = 123;
/** The most that a client may have sent and a job not read, in bytes. */
const UNREAD = 16 * 1024 * 1024;
/** How often it is looked whether a WebSocket has sent what was written, in milliseconds. */
const PAUSE = 10;

const encoder = new TextEncoder();

/** Resolves with the channel of a WebSocket that is about to open. */
function openChannel(socket: WebSocket): Promise<Channel> {
  const channel = new WebSocketChannel(socket);
  return new Promise((resolve, reject) => {
    socket.addEventListener("open", () => resolve(channel));
    const left = () => reject(new DOMException("The client has left.", "AbortError"));
    socket.addEventListener("error", left);
    socket.addEventListener("close", left);
  });
}

/** Messages of any kind from the client, binary ones to it. */
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

/** As much of a text as fits a close frame. */
function shortened(text: string): string {
  const bytes = new Uint8Array(REASON);
  return text.slice(0, encoder.encodeInto(text, bytes).read);
}
