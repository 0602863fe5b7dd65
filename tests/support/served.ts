/**
 * A daemon in the test's own process.
 *
 * @module
 */

import { Engine, type JobError, type LogLevel } from "../../engine.ts";
import { type Builtins, registerBuiltins } from "../../builtins/builtins.ts";
import { createRouter, type Router, type RouterOptions } from "../../router.ts";
import type { Target } from "./client.ts";
import { until } from "./daemon.ts";

/** An engine that serves, in this process. */
export class Served implements AsyncDisposable {
  /** What it logged, each line after its level. */
  readonly lines: string[] = [];
  /** The fields of those lines. */
  readonly fields: Record<string, unknown>[] = [];
  readonly engine: Engine;
  readonly router: Router;
  readonly builtins: Builtins;
  addresses: string[] = [];
  /** What became of serveapi: it never rejects. */
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

  /** Binds, with the gate still shut. */
  static async bind(
    settings: Record<string, string> = {},
    addresses: string[] = ["tcp://127.0.0.1:0"],
    options: RouterOptions = {},
  ): Promise<Served> {
    const served = new Served(options);
    const job = served.engine.job("serveapi", ...addresses);
    for (const [key, value] of Object.entries(settings)) job.setenv(key, value);
    const bound = Promise.withResolvers<string[]>();
    job.stdout.add({
      write: (chunk) => bound.resolve(new TextDecoder().decode(chunk).trim().split("\n")),
    });
    served.ended = job.run().then(() => undefined, (error) => error);
    served.addresses = await Promise.race([
      bound.promise,
      served.ended.then((error) => {
        throw error;
      }),
    ]);
    return served;
  }

  /** Binds and opens the gate. */
  static async open(...options: Parameters<typeof Served.bind>): Promise<Served> {
    const served = await Served.bind(...options);
    await served.accept();
    return served;
  }

  /** A second serveapi on the same engine, whose gate is open. */
  async another(): Promise<{ target: Target; ended: Promise<void> }> {
    const job = this.engine.job("serveapi", "tcp://127.0.0.1:0");
    const out = job.stdout.addTail(1);
    const ended = job.run();
    await until(() => out.text !== "");
    return { target: { hostname: "127.0.0.1", port: Number(out.text.split(":")[2]) }, ended };
  }

  async accept(): Promise<void> {
    await this.engine.job("acceptconnections").run();
  }

  get target(): Target {
    const [, port] = /:(\d+)$/.exec(this.addresses[0])!;
    return { hostname: "127.0.0.1", port: Number(port) };
  }

  /** The counts of the only serveapi, added up over its listeners, and those of each. */
  // deno-lint-ignore no-explicit-any -- JSON, whose every use is an assertion
  async stats(): Promise<any> {
    const job = this.engine.job("stats");
    job.quiet = true;
    const out = job.stdout.addTail(1);
    await job.run();
    const { listeners } = JSON.parse(out.text).apis[0];
    const all: Record<string, unknown> = { listeners };
    for (
      const key of [
        "open",
        "new",
        "active",
        "idle",
        "closing",
        "requests",
        "timedOut",
        "shed",
        "cut",
      ]
    ) {
      all[key] = listeners.reduce((sum: number, of: Record<string, number>) => sum + of[key], 0);
    }
    return all;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.engine.shutdown({ drain: 100 });
    await this.ended;
  }
}
