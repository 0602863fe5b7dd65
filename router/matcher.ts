/**
 * How Hono finds the handlers of a request.
 *
 * @module
 */

import type { Handler, MiddlewareHandler, RouterRoute } from "npm:hono@4.13.19/types";
import { type Result, type Router, UnsupportedPathError } from "npm:hono@4.13.19/router";
import { RegExpRouter } from "npm:hono@4.13.19/router/reg-exp-router";
import { SmartRouter } from "npm:hono@4.13.19/router/smart-router";
import { TrieRouter } from "npm:hono@4.13.19/router/trie-router";
import type { RequestBindings } from "./request.ts";
import { type Entries, Table, withMore } from "./table.ts";

/** A handler or middleware, and how it was added. */
export type Found = [Handler | MiddlewareHandler, RouterRoute];

/** What goes around the handlers that were found for a request. */
export interface Around {
  /** Middleware that runs before all other. */
  readonly first: readonly MiddlewareHandler[];
  /** What answers in place of all handlers, once the middleware before them has run. */
  readonly instead?: Handler;
}

/**
 * Hono's own choice of a router, but for the number of routes; and a way to put handlers around those
 * that it finds. Hono asks for the path of a request and then for its handlers, in one go: `request` is
 * whose handlers are asked for.
 */
export class Matcher implements Router<Found> {
  readonly name = "Matcher";
  /** Whose handlers are asked for next; undefined where nobody's are. */
  request?: RequestBindings | undefined;
  #router = new SmartRouter<Found>({ routers: [new FewRoutes<Found>(), new TrieRouter()] });
  /** What comes after all that is added by others. */
  #table = new Table<Found>();
  #fill?: (() => void) | undefined;
  #isLast = false;
  #around: (request: RequestBindings, found: readonly Found[]) => Around;

  /** Asks `around` for each request that is not {@linkcode RequestBindings.ordinary}. */
  constructor(around: (request: RequestBindings, found: readonly Found[]) => Around) {
    this.#around = around;
  }
  add(method: string, path: string, handler: Found): void {
    if (this.#isLast) this.#table.add(method, path, handler);
    else this.#router.add(method, path, handler);
  }
  /**
   * What `add` adds comes after all that is added elsewhere, before or later. It is called when a path
   * is asked for that needs it: there is much of it, and a daemon should not wait for that.
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

/** Whether the last of the handlers leaves nothing to others: it does not take what it would call them by. */
function endsIn([handlers]: Result<Found>): boolean {
  const last = handlers.at(-1);
  return last !== undefined && last[0][0].length < 2;
}

function withEntries(found: Result<Found>, entries: unknown[]): Result<Found> {
  return [entries, ...found.slice(1)] as unknown as Result<Found>;
}

/** What Hono knows of a handler that no route has. */
function everywhere(handler: Handler | MiddlewareHandler): RouterRoute {
  return { basePath: "/", path: "/*", method: "ALL", handler };
}

/** As Hono's own tools tell them apart: `use` and `all` are for every method, and middleware takes `next`. */
function isMiddleware(handler: Handler | MiddlewareHandler, method: string): boolean {
  return method === "ALL" && handler.length >= 2;
}

/** With more routes than this, one regular expression of them all is slower than a tree. */
const FEW = 250;

/** Leaves many routes to the next router, as it does routes that it cannot express. */
class FewRoutes<T> extends RegExpRouter<T> {
  #routes = 0;
  override add(method: string, path: string, handler: T): void {
    if (++this.#routes > FEW) throw new UnsupportedPathError();
    super.add(method, path, handler);
  }
}
