/**
 * WebSockets on connections that the native HTTP loop serves one by one. The loop has no way for them:
 * once it has handed a socket over the serving of its connection has ended, and what ends with it is
 * each WebSocket that came by it (serveHttpOn in ext/http/00_serve.ts, op_http_close). A Deno that
 * changes any of this breaks this file, and tests/platform/websockets_test.ts says which part.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import type { Hijacked, Serve, Served } from "./http.ts";

/** The part of Deno's core that is needed here. Its resources have numbers, each above the last. */
interface Core {
  createCancelHandle(): number;
  tryClose(resource: number): void;
  resources(): Record<number, string>;
}
const deno = Deno as unknown as { internal: symbol } & Record<symbol, { core?: Core }>;
const core = deno[deno.internal]?.core;

/** Why WebSockets cannot be served, if they cannot. */
let problem: string | undefined;
/** Whether the first connection's resource was where it is looked for. */
let checked = false;

/** The resource of the connection that the native loop was given just now; below 0 if it is not known. */
function lastServed(): number {
  if (problem) return -1;
  const next = core?.createCancelHandle?.() ?? -1;
  if (next >= 0) core!.tryClose(next);
  if (!checked && core?.resources?.()[next - 1] !== "http") {
    problem = "does not tell the resource of a connection that is served";
  }
  checked = true;
  return next - 1;
}

const symbols: Record<string, symbol | undefined> = {};
/** What the runtime keeps in an object under a symbol of this description. */
function internalOf(object: object, description: string): unknown {
  const symbol = symbols[description] ??= Object.getOwnPropertySymbols(object)
    .find((symbol) => symbol.description === description);
  return symbol && (object as Record<symbol, unknown>)[symbol];
}

/** Marks the requests whose answers are told here; those of `Deno.serve` are not. */
const SERVED = Symbol("served by Floodgate");

/** Told of each request before its handler is. */
export function markServed(request: Request): void {
  const native = internalOf(request, "request") as Native | undefined;
  if (native) native[SERVED] = true;
}

/** What the runtime keeps of a request that the native loop has read. */
interface Native {
  [SERVED]?: true;
  /** Takes the socket once the request is answered with 101, and gives the WebSocket's resource. */
  _wantsUpgrade(type: string): Promise<number>;
  /** Calls back when the client leaves: in the next microtask, if it has left. */
  onCancel(callback: () => void): void;
}
/** That of a request; undefined of one that was made or served elsewhere. */
function nativeOf(request: Request): Native | undefined {
  const native = internalOf(request, "request") as Partial<Native> | undefined;
  if (!native?.[SERVED] || typeof native._wantsUpgrade !== "function") return undefined;
  return native as Native;
}

/** The WebSockets that requests are to become, or have become. */
const sockets = new WeakMap<Native, KeptSocket>();
/** How many of them wait for their answer. */
let waiting = 0;
let prepared = false;

/** Makes `Deno.upgradeWebSocket` wait for the answer, and tell of the socket. */
function prepare(): void {
  if (prepared) return;
  prepared = true;
  const { upgradeWebSocket } = Deno;
  try {
    Deno.upgradeWebSocket = (request, options) => {
      const native = nativeOf(request);
      if (native === undefined) return upgradeWebSocket(request, options);
      if (problem) {
        throw new TypedError(
          "not implemented",
          `WebSockets cannot be served: Deno ${Deno.version.deno} ${problem}`,
        );
      }
      if (sockets.has(native)) throw new Deno.errors.Http("Already upgraded");
      const start = Promise.withResolvers<number>();
      replace(native, "_wantsUpgrade", () => start.promise);
      try {
        const upgrade = upgradeWebSocket(request, options);
        sockets.set(native, new KeptSocket(native, upgrade.socket, start));
        return upgrade;
      } finally {
        delete (native as Partial<Native>)._wantsUpgrade; // Only ours: what it hides is the class's.
      }
    };
  } catch (error) {
    problem = `has an upgradeWebSocket that cannot be replaced (${messageOf(error)})`;
  }
}

function replace(object: object, name: string, value: unknown): void {
  Object.defineProperty(object, name, { configurable: true, value });
}

function left(): DOMException {
  return new DOMException("The client has left.", "AbortError");
}

/**
 * Whether a request has become a WebSocket. Its own signal aborts then, though its client has not left.
 */
export function isWebSocket(request: Request): boolean {
  const native = nativeOf(request);
  return native !== undefined && sockets.has(native);
}

/** Told of a request that was answered, whatever its handler has asked for before. */
export function settleUpgrade(request: Request): void {
  if (waiting === 0) return;
  const native = nativeOf(request);
  if (native) sockets.get(native)?.decline();
}

/** A way to serve whose WebSockets live as long as they are open. */
export function keepingWebSockets(serve: Serve): Serve {
  prepare();
  return (...given) => new Kept(serve(...given));
}

/** A connection whose end is that of its WebSocket, if it has become one. */
class Kept implements Served {
  readonly finished: Promise<void>;
  /** That of the runtime, which needs no `this`: the object it comes in holds 0.6 KiB more. */
  readonly shutdown: () => Promise<void>;
  readonly #resource: number;
  #socket: KeptSocket | undefined;

  constructor({ finished, shutdown }: Served) {
    this.shutdown = shutdown;
    this.#resource = lastServed();
    const over = () => {
      this.#socket?.abandon(); // Unless it is open by now.
      return this.#socket?.ended;
    };
    this.finished = finished.then(over, (error) => {
      over();
      throw error;
    });
  }
  hijack(_response: Response, request: Request): Hijacked | undefined {
    const native = nativeOf(request);
    const socket = native && sockets.get(native);
    socket?.begin(this.#resource);
    return this.#socket = socket;
  }
}

/** RFC 6455, 7.4.1. */
const GOING_AWAY = 1001;
/** After so many of them it is known whether a client has left. */
const MICROTASKS = 3;

class KeptSocket implements Hijacked {
  readonly ended: Promise<void>;
  answerable?: Promise<void>;
  readonly #native: Native;
  readonly #socket: WebSocket;
  readonly #start: PromiseWithResolvers<number>;
  #end!: () => void;
  #state: "waiting" | "begun" | "open" | "abandoned" = "waiting";
  #leaving = false;

  constructor(native: Native, socket: WebSocket, start: PromiseWithResolvers<number>) {
    this.#native = native;
    this.#socket = socket;
    this.#start = start;
    this.ended = new Promise((resolve) => this.#end = resolve);
    waiting++;
    // Before the handler's own listeners, which may stop an event.
    socket.addEventListener("close", () => this.#end(), { capture: true });
  }

  /** The request is about to be answered with 101. */
  begin(served: number): void {
    if (this.#state !== "waiting") return;
    this.#state = "begun";
    waiting--;
    this.answerable = this.#begin(served);
  }
  async #begin(served: number): Promise<void> {
    // What asks for the socket of a client that has left waits for ever, and holds its descriptor (in
    // `Deno.serve` too). So the loop is let look for that; once it is known, no time passes until all
    // is done.
    await new Promise((resolve) => setTimeout(resolve));
    let gone = false;
    this.#native.onCancel(() => gone = true); // It calls when all has gone well, too; but later.
    for (let i = 0; i < MICROTASKS; i++) await undefined;
    if (gone) return this.abandon();
    // It is asked for, of no use, and throws on a unix socket.
    replace(this.#native, "remoteAddr", undefined);
    this.#native._wantsUpgrade("upgradeWebSocket").then((resource) => {
      // With this resource gone the loop finds nothing to end when it hears, in a moment, that its
      // connection has ended.
      core!.tryClose(served);
      if (this.#state === "abandoned") return core!.tryClose(resource);
      this.#state = "open";
      this.#start.resolve(resource);
      if (this.#leaving) this.#socket.addEventListener("open", () => this.leave(), { once: true });
    }, () => this.abandon());
  }
  /** The request was answered otherwise. */
  decline(): void {
    if (this.#state === "waiting") this.abandon();
  }
  /** It will not open: an error event tells its handler. */
  abandon(): void {
    if (this.#state === "open" || this.#state === "abandoned") return;
    if (this.#state === "waiting") waiting--;
    this.#state = "abandoned";
    this.#start.reject(left());
    this.#end();
  }
  leave(): void {
    this.#leaving = true;
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.close(GOING_AWAY, "Going Away");
  }
  cut(): void {
    const resource = internalOf(this.#socket, "[[rid]]");
    if (this.#state !== "open") this.abandon();
    else if (typeof resource === "number") core!.tryClose(resource);
    this.#end();
  }
}
