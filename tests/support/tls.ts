/**
 * Daemons with TLS, with or without client certificates, and their clients.
 *
 * @module
 */

import type { Context } from "npm:hono@4.13.19";
import type { Bindings } from "../../router.ts";
import type { Authority, Pair } from "./certificates.ts";
import { run } from "./daemon.ts";
import type { Served } from "./served.ts";

/** The settings of a serveapi with TLS. */
export function settings(server: Pair, ca?: string): Record<string, string> {
  return {
    Tls: "1",
    TlsCert: server.cert,
    TlsKey: server.key,
    ...ca === undefined ? {} : { TlsVerify: "1", TlsCa: ca },
  };
}
/** The same settings as flags. */
export function flags(server: Pair, ca?: string): string[] {
  return [
    ...ca === undefined ? ["--tls"] : ["--tlsverify", "--tlscacert", ca],
    ...["--tlscert", server.cert, "--tlskey", server.key],
  ];
}

/** The address of a daemon in this process. */
export function urlOf({ target }: Served): string {
  return `https://localhost:${(target as Deno.ConnectOptions).port}`;
}

export function curl(authority: Authority, url: string, ...args: string[]) {
  return run("curl", ["-sS", "-m", "60", "--cacert", authority.ca, ...args, url]);
}
export function showing({ cert, key }: Pair): string[] {
  return ["--cert", cert, "--key", key];
}

/** A client for fetch, with a certificate if given. */
export function clientOf(authority: Authority, pair?: Pair, kept = true): Deno.HttpClient {
  return Deno.createHttpClient({
    caCerts: [Deno.readTextFileSync(authority.ca)],
    ...pair && { cert: Deno.readTextFileSync(pair.cert), key: Deno.readTextFileSync(pair.key) },
    poolMaxIdlePerHost: kept ? 8 : 0,
  });
}

/** Adds a route, `/wait`, whose answer does not end; resolves when its client has left. */
export function untilLeft(served: Served): Promise<void> {
  const left = Promise.withResolvers<void>();
  served.engine.register("wait", async (job) => {
    await job.print("begun\n");
    job.signal.addEventListener("abort", () => left.resolve());
    await left.promise;
  });
  served.router.job({ method: "GET", path: "/wait", job: "wait", stream: true });
  return left.promise;
}

/** Adds a route that answers with the user's name. */
export function whoami(served: Served): void {
  served.engine.register("whoami", (job) => job.print(job.user ?? "none"));
  served.router.job({ method: "GET", path: "/whoami", job: "whoami", contentType: "text/plain" });
  served.router.get(
    "/fingerprint",
    (c: Context<{ Bindings: Bindings }>) => c.text(c.env.client?.fingerprint ?? "none"),
  );
}
