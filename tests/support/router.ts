/**
 * Shared by the tests of the router and its parts: a router with its engine, in process or served
 * on a port.
 *
 * @module
 */

import { assertEquals, assertMatch } from "@std/assert";
import { registerBuiltins } from "../../builtins/builtins.ts";
import { serve as serveOn } from "../../builtins/serveapi.ts";
import type { ServeSettings } from "../../builtins/settings.ts";
import { Engine, type LogLevel } from "../../engine.ts";
import { within } from "../../engine/time.ts";
import { createRouter, type Router, type RouterOptions } from "../../router.ts";
import { Client } from "./client.ts";
import { portOf } from "./served.ts";

export interface App {
  engine: Engine;
  router: Router;
  /** The lines of the engine's log: the level and the message. */
  lines: string[];
  /** The same with the fields. */
  logged: { level: LogLevel; message: string; fields?: Record<string, unknown> | undefined }[];
}

/** A router whose engine has the built-in jobs. */
export function make(options: RouterOptions = {}): App {
  const lines: string[] = [];
  const logged: App["logged"] = [];
  const engine = new Engine({
    log: (level, message, fields) => {
      lines.push(`${level} ${message}`);
      logged.push({ level, message, fields });
    },
  });
  const router = createRouter(engine, options);
  registerBuiltins(engine, { router });
  return { engine, router, lines, logged };
}

/** A router that is served on a port. */
export async function serve(
  setup: (app: App) => void = () => {},
  options: RouterOptions = {},
  settings: ServeSettings = {},
): Promise<App & AsyncDisposable & { port: number }> {
  const app = make(options);
  setup(app);
  const { addresses: [address], finished } = await serveOn(app.engine, {
    ...settings,
    addresses: ["tcp://127.0.0.1:0"],
  });
  await app.engine.job("acceptconnections").run();
  return {
    ...app,
    port: portOf(address),
    async [Symbol.asyncDispose]() {
      await app.engine.shutdown();
      await finished;
    },
  };
}

/** A request's header. */
export function header(...lines: string[]): string {
  return [lines[0] + " HTTP/1.1", "Host: localhost", ...lines.slice(1), "", ""].join("\r\n");
}
/** A client that has sent a request's header. */
export async function asking(port: number, ...lines: string[]): Promise<Client> {
  const client = await Client.to({ hostname: "127.0.0.1", port });
  await client.send(header(...lines));
  return client;
}

/** A promise with its resolvers. */
export async function soon<T>(promise: Promise<T>): Promise<T> {
  if (!await within(60_000, promise)) throw new Error("not so after 60 s");
  return await promise;
}

/** The JSON output of a job. */
export async function ask(engine: Engine, name: "stats" | "info") {
  // deno-lint-ignore no-explicit-any -- JSON, whose every use is an assertion
  return await engine.job(name).json() as any;
}

export async function assertJsonError(response: Response, status: number, message: string) {
  assertEquals(response.headers.get("content-type"), "application/json");
  assertEquals([response.status, await response.json()], [status, { message }]);
}
/** Checks that an answer is a 500 with only the request's id, and returns the id. */
export async function assertInternal(response: Response): Promise<string> {
  const text = await response.text();
  const id = response.headers.get("x-request-id")!;
  const json = response.headers.get("content-type") === "application/json";
  const message = json ? JSON.parse(text).message : text.replace(/\n$/, "");
  assertEquals([response.status, message], [500, `internal error, request ${id}`]);
  assertMatch(id, /^[\w.-]+$/);
  return id;
}
export async function assertTextError(response: Response, status: number, message: string) {
  assertEquals(response.headers.get("content-type"), "text/plain; charset=utf-8");
  assertEquals([response.status, await response.text()], [status, message + "\n"]);
}

/** A router with one route, whose job prints its input. */
export function echo(route: Partial<Parameters<Router["job"]>[0]>, options?: RouterOptions): App {
  const app = make(options);
  app.engine.register("echo", async (job) => {
    await job.print(
      JSON.stringify({ args: job.args, env: job.env.toObject(), stdin: await job.stdin.text() }),
    );
  });
  app.router.job({ method: "GET", path: "/echo", job: "echo", ...route });
  return app;
}

export const KIB = 1_024;
