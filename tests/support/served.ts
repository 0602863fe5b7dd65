/**
 * A daemon in the test's own process.
 *
 * @module
 */

import { Engine, type JobError, type LogLevel } from "../../engine.ts";
import { type Builtins, registerBuiltins } from "../../builtins/builtins.ts";
import type { DaemonStats } from "../../builtins/info.ts";
import { serve } from "../../builtins/serveapi.ts";
import type { ApiStats, ListenerStats } from "../../serve/listeners.ts";
import { readVariables, type ServeSettings, serveSettings } from "../../builtins/settings.ts";
import { Env } from "../../engine/env.ts";
import type { ConnectionStats } from "../../serve/connections.ts";
import { createRouter, type Router, type RouterOptions } from "../../router.ts";
import type { Target } from "./client.ts";

/** An engine that serves in this process. */
export class Served implements AsyncDisposable {
  /** The lines of its log, each with its level. */
  readonly lines: string[] = [];
  /** The fields of those lines. */
  readonly fields: Record<string, unknown>[] = [];
  readonly engine: Engine;
  readonly router: Router;
  readonly builtins: Builtins;
  addresses: readonly string[] = [];
  /** The result of serveapi: it never rejects. */
  ended!: Promise<JobError | undefined>;

  private constructor(options: RouterOptions) {
    this.engine = new Engine({
      log: (level: LogLevel, message: string, fields: Record<string, unknown> = {}) => {
        this.lines.push(`${level} ${message}`);
        this.fields.push(fields);
      },
    });
    this.router = createRouter(this.engine, options);
    this.builtins = registerBuiltins(this.engine, { router: this.router });
  }

  /**
   * Binds, with the gate still shut.
   *
   * @param settings Settings of `serve`; or, with capital names, variables of `serveapi`.
   */
  static async bind(
    settings: ServeSettings | Record<Capitalize<string>, string> = {},
    addresses: string[] = ["tcp://127.0.0.1:0"],
    options: RouterOptions = {},
  ): Promise<Served> {
    const served = new Served(options);
    const { addresses: bound, finished } = await serve(served.engine, {
      ...settingsOf(settings),
      addresses,
    });
    served.addresses = bound;
    served.ended = finished.then(() => undefined, (error) => error);
    return served;
  }

  /** Binds and opens the gate. */
  static async open(...options: Parameters<typeof Served.bind>): Promise<Served> {
    const served = await Served.bind(...options);
    await served.accept();
    return served;
  }

  /** A second serveapi on the same engine, with an open gate. */
  async another(): Promise<{ target: Target; ended: Promise<void> }> {
    const { addresses: [address], finished } = await serve(this.engine, {
      addresses: ["tcp://127.0.0.1:0"],
    });
    return {
      target: { hostname: "127.0.0.1", port: portOf(address) },
      ended: finished,
    };
  }

  async accept(): Promise<void> {
    await this.engine.job("acceptconnections").run();
  }

  get target(): Target {
    return { hostname: "127.0.0.1", port: portOf(this.addresses[0]) };
  }

  /** The counts of the only serveapi: the sums over its listeners, and those of each. */
  async stats(): Promise<Total> {
    const job = this.engine.job("stats");
    job.quiet = true;
    const { apis } = await job.json() as DaemonStats;
    const { listeners, work } = apis[0]!;
    const sum = (key: keyof ConnectionStats) =>
      listeners.reduce((sum, listener) => sum + listener[key], 0);
    return {
      listeners: listeners as Total["listeners"],
      work,
      open: sum("open"),
      new: sum("new"),
      active: sum("active"),
      idle: sum("idle"),
      hijacked: sum("hijacked"),
      closing: sum("closing"),
      requests: sum("requests"),
      timedOut: sum("timedOut"),
      shed: sum("shed"),
      overload: sum("overload"),
      cut: sum("cut"),
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.engine.shutdown({ drain: 100 });
    await this.ended;
  }
}

/** The counts of each listener, and their sums. */
type Total = ConnectionStats & Pick<ApiStats, "work"> & {
  listeners: [ListenerStats, ...ListenerStats[]];
};

/** The port of a tcp address. */
export function portOf(address = ""): number {
  return Number(/:(\d+)$/.exec(address)![1]);
}

function settingsOf(given: ServeSettings | Record<Capitalize<string>, string>): ServeSettings {
  const isVariable = ([key]: [string, unknown]) => /^[A-Z]/.test(key);
  if (!Object.entries(given).some(isVariable)) return given as ServeSettings;
  const env = new Env();
  for (const [key, value] of Object.entries(given)) env.set(key, value);
  return serveSettings(readVariables(env), ({ variable }) => variable!);
}
