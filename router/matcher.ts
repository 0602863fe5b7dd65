/**
 * The router inside of Hono's app: finds the handlers of a request.
 *
 * @module
 */

import type { Handler, MiddlewareHandler, RouterRoute } from "npm:hono@4.13.19/types";
import type { Result, Router } from "npm:hono@4.13.19/router";
import { RegExpRouter, SmartRouter, TrieRouter, UnsupportedPathError } from "./hono.ts";
import type { RequestBindings } from "./request.ts";
import { type Entries, Table, withMore } from "./table.ts";

/** A handler or middleware, and how it was added. */
export type Found = [Handler | MiddlewareHandler, RouterRoute];

/** Handlers to add to those that were found for a request. */
export interface Around {
  /** Middleware that runs before all other. */
  readonly first: readonly MiddlewareHandler[];
  /** Replaces the handlers, once the middleware before them has run. */
  readonly instead?: Handler;
}

/**
 * Hono's smart router with a limit on the number of routes in one regular expression, and a hook
 * that adds handlers to those found. Hono calls getPath and then match, synchronously: getPath sets
 * `request` for the match that follows.
 */
export class Matcher implements Router<Found> {
  readonly name = "Matcher";
  /** The request of the next match; undefined outside of a dispatch. */
  request?: RequestBindings | undefined;
  #router = new SmartRouter<Found>({ routers: [new FewRoutes<Found>(), new TrieRouter()] });
  /** The routes of {@linkcode Matcher.last}. */
  #table = new Table<Found>();
  #fill?: (() => void) | undefined;
  #isLast = false;
  #around: (request: RequestBindings, found: readonly Found[]) => Around;

  /** Calls `around` for each request that is not {@linkcode RequestBindings.ordinary}. */
  constructor(around: (request: RequestBindings, found: readonly Found[]) => Around) {
    this.#around = around;
  }
  add(method: string, path: string, handler: Found): void {
    if (this.#isLast) this.#table.add(method, path, handler);
    else this.#router.add(method, path, handler);
  }
  /**
   * The routes that `add` adds come after all others, added before or later. `add` is called
   * lazily, at the first request that no other route answers: there are many, and a start should
   * not pay for them.
   */
  last(add: () => void): void {
    this.#fill = add;
  }
  #last(method: string, path: string): Entries<Found> | undefined {
    const fill = this.#fill;
    if (fill !== undefined) {
      this.#fill = undefined;
      this.#isLast = true;
      fill();
      this.#isLast = false;
    }
    return this.#table.match(method, path);
  }
  match(method: string, path: string): Result<Found> {
    const { request } = this;
    const own = this.#router.match(method, path);
    const last = endsIn(own) ? undefined : this.#last(method, path);
    const found = last === undefined ? own : withMore(own, last);
    if (request === undefined) return found;
    this.request = undefined;
    request.found = found[0];
    request.alone = found[0].length === 1;
    if (request.ordinary) return found;
    const { first, instead } = this.#around(request, found[0].map(([handler]) => handler));
    if (first.length === 0 && instead === undefined) return found;
    request.alone = false;
    type Entries = [Found, Record<string, never>][];
    const entries = found[0] as Entries;
    const before = first.map((handler): Entries[0] => [[handler, everywhere(handler)], {}]);
    if (instead === undefined) return withEntries(found, [...before, ...entries]);
    const at = entries.findIndex(([[handler, { method }]]) => !isMiddleware(handler, method));
    const kept = at < 0 ? entries : entries.slice(0, at);
    return withEntries(found, [...before, ...kept, [[instead, everywhere(instead)], {}]]);
  }
}

/** Whether the last handler answers every request: it does not take `next`. */
function endsIn([handlers]: Result<Found>): boolean {
  const last = handlers.at(-1);
  return last !== undefined && last[0][0].length < 2;
}

function withEntries(found: Result<Found>, entries: unknown[]): Result<Found> {
  return [entries, ...found.slice(1)] as unknown as Result<Found>;
}

/** The route of a handler that applies to all paths and methods. */
function everywhere(handler: Handler | MiddlewareHandler): RouterRoute {
  return { basePath: "/", path: "/*", method: "ALL", handler };
}

/** By Hono's own rule: `use` and `all` are for every method, and middleware takes `next`. */
function isMiddleware(handler: Handler | MiddlewareHandler, method: string): boolean {
  return method === "ALL" && handler.length >= 2;
}

/** With more routes than this, one regular expression of them all is slower than a tree. */
const FEW = 250;

/** Refuses further routes beyond FEW, so that SmartRouter falls back to the next router. */
class FewRoutes<T> extends RegExpRouter<T> {
  #routes = 0;
  override add(method: string, path: string, handler: T): void {
    if (++this.#routes > FEW) throw new UnsupportedPathError();
    super.add(method, path, handler);
  }
}
