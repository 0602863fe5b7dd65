/**
 * Whether an API serves raw upgrades: whether its routes ask for them, and whether this process may
 * peek at its connections.
 *
 * @module
 */

import { messageOf } from "../engine/errors.ts";
import { descriptorsProblem } from "../platform/descriptors.ts";
import { nativeServe, type Serve } from "../platform/http.ts";
import type { Upgradable } from "../router/upgradable.ts";
import type { Fetcher } from "./handler.ts";

/** The raw upgrades of an API. */
export class RawUpgrades {
  /** Why this process may not peek at connections, if it may not. */
  #problem: string | undefined;
  /** Loaded once the addresses are bound, and before it is known whether a route asks for it. */
  #module?: typeof import("./upgrades.ts");
  #pathsOf?: (app: Fetcher) => Upgradable;
  #loaded: Promise<void>;
  /** The upgradable paths; undefined until the app is known. */
  #paths: Upgradable | undefined;

  /** Loads what they need. */
  constructor() {
    // Now, because later there may be no descriptors left to find out with.
    this.#problem = descriptorsProblem();
    this.#loaded = this.#load();
  }

  async #load(): Promise<void> {
    try {
      const { Upgrades } = await import("../router/upgradable.ts");
      this.#pathsOf = (app) => app.upgrades ?? new Upgrades(app);
      if (this.#problem !== undefined) return;
      this.#module = await import("./upgrades.ts");
      this.#problem = this.#module.peekProblem();
    } catch (error) {
      this.#problem = messageOf(error); // Held clients may have all the descriptors.
    }
  }

  /** Whether routes ask for them. */
  get wanted(): boolean {
    return this.#paths !== undefined && this.#paths.size > 0;
  }

  /** Whether connections are peeked at; until the app is known, they are if they may be. */
  get peeks(): boolean {
    return this.#problem === undefined && (this.#paths === undefined || this.wanted);
  }

  /**
   * Why none are served at an address, if none are.
   *
   * @param tls Whether clients have certificates, where the address has TLS.
   */
  problemOf(tls: { readonly verifies: boolean } | undefined): string | undefined {
    return tls?.verifies === false
      ? "over TLS they need client certificates, --tlsverify (TlsVerify)"
      : this.#problem;
  }

  /**
   * Finds the descriptor of a connection that was just accepted: later it cannot be told from
   * others.
   */
  accepted(conn: Deno.Conn): void {
    if (this.peeks) this.#module?.findDescriptor(conn);
  }
  /** The same for a connection inside of another one, which counts if it is not peeked at, too. */
  acceptedInner(conn: Deno.Conn): void {
    if (this.peeks) this.#module?.findDescriptor(conn);
    else this.#module?.skipDescriptor();
  }

  /** Serves HTTP on connections, and the raw upgrades of an app. */
  async serving(app: Fetcher): Promise<Serve> {
    await this.#loaded;
    const paths = this.#paths = this.#pathsOf?.(app) ?? app.upgrades;
    const native = nativeServe();
    return this.#module?.upgrading(native, () => this.peeks ? paths : undefined) ?? native;
  }
}
