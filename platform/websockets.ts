/**
 * WebSockets on connections that the native HTTP loop serves one by one. The loop does not support
 * them: when it has handed a socket over, it ends the serving of that connection, and with it each
 * WebSocket of the connection (serveHttpOn in ext/http/00_serve.ts, op_http_close). A Deno that
 * changes any of this breaks this file, and tests/platform/websockets_test.ts says which part.
 *
 * @module
 */

import { messageOf, TypedError } from "../engine/errors.ts";
import { within } from "../engine/time.ts";
import { descriptorLimit } from "./descriptors.ts";
import {
  type Hijacked,
  innerRequest,
  originalOf,
  partOf,
  type Serve,
  type Served,
} from "./http.ts";

/** The part of Deno's core that is used here. */
interface Core {
  tryClose(resource: number): void;
}
const deno = Deno as unknown as { internal: symbol } & Record<symbol, { core?: Core }>;
const core = deno[deno.internal]?.core;

/** Why WebSockets cannot be served, if so. */
let problem: string | undefined;

/**
 * What the runtime keeps of a connection that is served (CallbackContext in ext/http/00_serve.ts).
 */
interface Context {
  serverRid: number;
  /** What is waited for when the serving ends, in place of closing by force all that came by it. */
  closing: Promise<void> | undefined;
}
/** That of the request whose handler is called next, if it may become a WebSocket. */
let current: Context | undefined;
/** What is looked up on a context, and is not there, before such a handler is called. */
const LOOKED_UP = "asyncContext";

/**
 * Watches for contexts, which the runtime gives to nothing outside: a getter is told of the lookup.
 * It is first on Object.prototype, hidden, because the class cannot be had otherwise, and from the
 * first request on that may become a WebSocket on the prototype of the class.
 */
function watchContexts(): void {
  const see = (object: object) => {
    if (!("serverRid" in object && "closing" in object)) return;
    current = object as Context;
    if (!Object.hasOwn(Object.prototype, LOOKED_UP)) return;
    delete (Object.prototype as Record<string, unknown>)[LOOKED_UP];
    Object.defineProperty(Object.getPrototypeOf(object), LOOKED_UP, watched);
  };
  const watched: PropertyDescriptor = {
    configurable: true,
    get(this: object) {
      see(this);
      return undefined;
    },
    // As if there were none, for any object that gets one of this name.
    set(this: object, value: unknown) {
      const writable = { configurable: true, enumerable: true, writable: true, value };
      Object.defineProperty(this, LOOKED_UP, writable);
    },
  };
  Object.defineProperty(Object.prototype, LOOKED_UP, watched);
}

/** Marks requests whose answers are reported here, unlike those of `Deno.serve`. */
const SERVED = Symbol("served by Floodgate");
const CONTEXT = Symbol("context");

/** To be called with each request before its handler. */
export function markServed(request: Request): void {
  const native = innerRequest(request) as Native | undefined;
  if (native === undefined) return;
  native[SERVED] = true;
  if (current === undefined) return;
  native[CONTEXT] = current;
  current = undefined;
}

/** The internal part of a request of the native loop. */
interface Native {
  [SERVED]?: true;
  [CONTEXT]?: Context;
  /** Takes the socket once the request is answered with 101. Resolves with its resource. */
  _wantsUpgrade(type: string): Promise<number>;
  /** Calls back when the client leaves: in the next microtask, if it has left. */
  onCancel(callback: () => void): void;
}
/** The internal part of a request; undefined if it was made or served elsewhere. */
function nativeOf(request: Request): Native | undefined {
  const native = innerRequest(request) as Partial<Native> | undefined;
  if (!native?.[SERVED] || typeof native._wantsUpgrade !== "function") return undefined;
  return native as Native;
}

/** The WebSockets of requests, pending ones included. */
const sockets = new WeakMap<Native, KeptSocket>();
/** How many of them are pending. */
let waiting = 0;
let prepared = false;

/**
 * Sockets that Deno keeps for ever, with their descriptors, because their clients left at the
 * moment of the answer. Nothing can release them: in ext/http/http_next.rs of Deno, what waits for
 * the socket holds what would end the wait.
 */
export const lost = {
  /** How many there are. */
  sockets: 0,
  /**
   * With how many no request becomes a WebSocket any more. Default: an eighth of the descriptors.
   */
  most: undefined as number | undefined,
  /** Whether there are so many: others need descriptors, too. */
  get tooMany(): boolean {
    // Asked with the first WebSocket: once descriptors run out that cannot be read any more.
    this.most ??= Math.max(8, Math.floor((descriptorLimit() ?? 1_024) / 8));
    return this.sockets >= this.most;
  },
  /** Whether an operator was told. */
  told: false,
};

/**
 * The error for a request that cannot become a WebSocket, which is the client's mistake. It is a
 * TypeError, as Deno's own is, with the interface of Hono's HTTPException.
 */
export class UpgradeRequired extends TypeError {
  readonly status: 426 | 400;
  /** Headers that the status requires. */
  readonly headers: Record<string, string>;

  /** @param status 426 if it does not ask for a WebSocket (RFC 9110, 15.5.22). */
  constructor(message: string, status: 426 | 400) {
    super(message);
    this.status = status;
    this.headers = status === 426 ? { "Connection": "Upgrade", "Upgrade": "websocket" } : {};
  }
  /** The answer, for Hono apps. */
  getResponse(): Response {
    const { status, message, headers } = this;
    return Response.json({ message }, { status, headers });
  }
}

/** The error for a request that does not ask for a WebSocket. */
export function noWebSocket(): UpgradeRequired {
  const expected = "expected a WebSocket (Connection: Upgrade, Upgrade: websocket)";
  return new UpgradeRequired(expected, 426);
}

/**
 * Checks that a request can become a WebSocket, with the subprotocol if one is given.
 *
 * @throws {UpgradeRequired} If it cannot.
 */
export function requireWebSocket(
  { headers }: Request,
  { protocol }: Deno.UpgradeWebSocketOptions = {},
): void {
  const has = (name: string, token: string) =>
    headers.get(name)?.toLowerCase().split(/[\s,]+/).includes(token);
  if (!has("upgrade", "websocket") || !has("connection", "upgrade")) throw noWebSocket();
  if (!headers.has("sec-websocket-key")) {
    throw new UpgradeRequired("expected a WebSocket, which has a Sec-WebSocket-Key", 400);
  }
  const protocols = headers.get("sec-websocket-protocol");
  if (protocol && !protocols?.split(", ").includes(protocol)) {
    const expected = `expected "${protocol}" among the subprotocols (Sec-WebSocket-Protocol)`;
    throw new UpgradeRequired(expected, 400);
  }
}

/** Makes `Deno.upgradeWebSocket` wait for the answer, and register the socket. */
function prepare(): void {
  if (prepared) return;
  prepared = true;
  const { upgradeWebSocket: original } = Deno;
  const upgradeWebSocket: typeof original = (request, options) => {
    try {
      return original(request, options);
    } catch (error) {
      if (error instanceof TypeError) requireWebSocket(request, options);
      throw error;
    }
  };
  try {
    Deno.upgradeWebSocket = (given, options) => {
      const request = originalOf(given);
      const native = nativeOf(request);
      if (native === undefined) return upgradeWebSocket(request, options);
      if (problem || native[CONTEXT] === undefined) {
        requireWebSocket(request, options);
        throw new TypedError(
          "not implemented",
          `WebSockets cannot be served: Deno ${Deno.version.deno} ` +
            (problem ?? `does not look for ${LOOKED_UP} before it calls a handler`),
        );
      }
      if (sockets.has(native)) throw new Deno.errors.Http("Already upgraded");
      if (lost.tooMany) {
        throw new TypedError("unavailable", "no more WebSockets are served before a restart");
      }
      const start = Promise.withResolvers<number>();
      replace(native, "_wantsUpgrade", () => start.promise);
      try {
        const upgrade = upgradeWebSocket(request, options);
        sockets.set(native, new KeptSocket(native, upgrade.socket, start));
        return upgrade;
      } finally {
        delete (native as Partial<Native>)._wantsUpgrade; // The class has its own.
      }
    };
    watchContexts();
  } catch (error) {
    problem = `has what cannot be replaced (${messageOf(error)})`;
  }
}

function replace(object: object, name: string, value: unknown): void {
  Object.defineProperty(object, name, { configurable: true, value });
}

function left(): DOMException {
  return new DOMException("The client has left.", "AbortError");
}

/** Whether a request has become a WebSocket, at which its signal aborts, too. */
export function isWebSocket(request: Request): boolean {
  const native = nativeOf(request);
  return native !== undefined && sockets.has(native);
}

/** To be called with each request that was answered without an upgrade. */
export function settleUpgrade(request: Request): void {
  if (waiting === 0) return;
  const native = nativeOf(request);
  if (native) sockets.get(native)?.decline();
}

/** Wraps `serve` so that WebSockets live as long as they are open. */
export function keepingWebSockets(serve: Serve): Serve {
  prepare();
  return (...given) => new Kept(serve(...given));
}

/** A connection, which ends with its WebSocket if it has become one. */
class Kept implements Served {
  readonly finished: Promise<void>;
  /** That of the runtime, which needs no `this`: the object it comes in holds 0.6 KiB more. */
  readonly shutdown: () => Promise<void>;
  #socket: KeptSocket | undefined;

  constructor({ finished, shutdown }: Served) {
    this.shutdown = shutdown;
    const over = () => this.#socket?.over();
    this.finished = finished.then(over, (error) => {
      void over();
      throw error;
    });
  }
  hijack(_response: Response, request: Request): Hijacked | undefined {
    const native = nativeOf(request);
    this.#socket = native && sockets.get(native);
    this.#socket?.begin();
    return this.#socket;
  }
}

/** RFC 6455, 7.4.1. */
const GOING_AWAY = 1001;
/** How many it takes until the runtime reports a client that has left. */
const MICROTASKS = 3;
/**
 * After this time, in milliseconds, a socket that is not had when its serving is over counts as
 * lost.
 */
const LATE = 250;
/** How much longer it is waited for, in milliseconds: all may be busy. */
const HAND_OVER = 5_000;

class KeptSocket implements Hijacked {
  readonly ended: Promise<void>;
  answerable?: Promise<void>;
  readonly #native: Native;
  readonly #socket: WebSocket;
  readonly #start: PromiseWithResolvers<number>;
  #end!: () => void;
  #state: "waiting" | "begun" | "open" | "abandoned" = "waiting";
  #leaving = false;
  /** Whether Deno was asked for it, and has neither given nor refused it. */
  #asked = false;
  #lost = false;
  /** Resolves when its resource is there, or never will be. */
  #handed = Promise.withResolvers<void>();

  constructor(native: Native, socket: WebSocket, start: PromiseWithResolvers<number>) {
    this.#native = native;
    this.#socket = socket;
    this.#start = start;
    this.ended = new Promise((resolve) => this.#end = resolve);
    waiting++;
    // Before the handler's own listeners, which may stop the event.
    socket.addEventListener("close", () => this.#end(), { capture: true });
  }

  /** To be called before the request is answered with 101. */
  begin(): void {
    if (this.#state !== "waiting") return;
    this.#state = "begun";
    waiting--;
    // The serving of the connection ends as soon as the socket is handed over, or before that is
    // known here if the process is busy.
    this.#native[CONTEXT]!.closing = Promise.resolve();
    this.answerable = this.#begin();
  }
  async #begin(): Promise<void> {
    // Deno waits for ever for the socket of a client that has left, and holds its descriptor (with
    // `Deno.serve` too). So the loop gets a turn to detect that; the rest takes no more time.
    await new Promise((resolve) => setTimeout(resolve));
    let gone = false;
    this.#native.onCancel(() => gone = true); // It calls after a good answer too, but later.
    for (let i = 0; i < MICROTASKS; i++) await undefined;
    if (gone) this.abandon();
    if (this.#state !== "begun") return;
    // Deno reads it without using it, and it throws for a unix socket.
    replace(this.#native, "remoteAddr", undefined);
    this.#asked = true;
    this.#native._wantsUpgrade("upgradeWebSocket").finally(() => {
      this.#asked = false;
      if (this.#lost) lost.sockets--; // It was only late.
    }).then((resource) => {
      if (this.#state === "abandoned") return core!.tryClose(resource);
      this.#state = "open";
      this.#handed.resolve();
      this.#start.resolve(resource);
      if (this.#leaving) this.#socket.addEventListener("open", () => this.leave(), { once: true });
    }, () => this.abandon());
  }
  /** To be called when the request was answered otherwise. */
  decline(): void {
    if (this.#state === "waiting") this.abandon();
  }
  /** Gives it up: the handler gets an error event. */
  abandon(): void {
    if (this.#state === "open" || this.#state === "abandoned") return;
    if (this.#state === "waiting") waiting--;
    this.#state = "abandoned";
    this.#handed.resolve();
    this.#start.reject(left());
    this.#end();
  }
  /**
   * To be called when the serving of its connection has ended, which can be known before the socket
   * is had: in a burst the runtime reports both in any order.
   *
   * @returns Resolves when it has ended.
   */
  async over(): Promise<void> {
    if (this.#state === "begun" && !await within(LATE, this.#handed.promise)) {
      this.#lost = this.#asked;
      if (this.#lost) lost.sockets++;
      await within(HAND_OVER, this.#handed.promise);
    }
    this.abandon(); // Without effect on an open one.
    return this.ended;
  }
  leave(): void {
    this.#leaving = true;
    if (this.#socket.readyState === WebSocket.OPEN) this.#socket.close(GOING_AWAY, "Going Away");
  }
  cut(): void {
    const resource = partOf(this.#socket, "[[rid]]");
    if (this.#state !== "open") this.abandon();
    else if (typeof resource === "number") core!.tryClose(resource);
    this.#end();
  }
}
