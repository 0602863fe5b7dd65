/**
 * The routes with raw upgrades, for which a server has to peek at its connections.
 *
 * @module
 */

import { unwrapped } from "./hono.ts";

/** The first segments of the upgradable paths; `*` for any. It changes as routes are added. */
export type Upgradable = Pick<ReadonlySet<string>, "size" | "has">;

/** The part of a Hono app that is used here. */
interface App {
  readonly routes: readonly { readonly path: string; readonly handler: object }[];
}

/** The upgradable paths of routers, by the functions that other apps have of them. */
const routed = new WeakMap<object, Upgradable>();

/** The upgradable paths of an app: its own, and those of routers that it contains. */
export class Upgrades implements Upgradable {
  readonly #app: Partial<App>;
  readonly #own = new Set<string>();
  readonly #mounted: Inner[] = [];
  #inner: Inner[] = [];
  /** How many of the app's routes were searched. */
  #seen = 0;

  /** @param app A Hono app; other apps contain no routers. */
  constructor(app: object) {
    this.#app = app;
  }

  /** Adds a path, without version. */
  add(path: string): void {
    this.#own.add(segmentOf(path));
  }
  /** Registers a function by which other apps contain this one: a handler, or its `fetch`. */
  isOf(handler: object): void {
    routed.set(handler, this);
  }
  /** Adds the router of a `fetch`, if it is one, below a path. */
  mount(path: string, fetch: object): void {
    const upgrades = routed.get(fetch);
    if (upgrades) this.#mounted.push({ segment: segmentOf(path), upgrades });
  }

  get size(): number {
    let { size } = this.#own;
    // Asked for each connection.
    for (const { upgrades } of this.#all) size += upgrades.size;
    return size;
  }
  has(segment: string): boolean {
    return this.#own.has(segment) ||
      this.#all.some(({ segment: at, upgrades }) =>
        at === "" ? upgrades.has(segment) : at === segment && upgrades.size > 0
      );
  }

  get #all(): readonly Inner[] {
    const { routes = [] } = this.#app;
    if (this.#seen !== routes.length) {
      this.#seen = routes.length;
      this.#inner = [...this.#mounted, ...routes.flatMap((route) => this.#in(route))];
    }
    return this.#inner;
  }

  #in({ path, handler }: App["routes"][number]): Inner[] {
    for (const each of unwrapped(handler)) {
      const upgrades = routed.get(each);
      if (upgrades === this) return [];
      if (upgrades) return [{ segment: segmentOf(path.replace(/\*$/, "")), upgrades }];
    }
    return [];
  }
}

/** A router below a path with this first segment; `""` for `/`. */
interface Inner {
  readonly segment: string;
  readonly upgrades: Upgradable;
}

function segmentOf(path: string): string {
  const segment = path.split("/")[1] ?? "";
  return /^[\w.~-]*$/.test(segment) ? segment : "*";
}
