/**
 * A package registry on this machine that has Hono, and answers when it is told to.
 *
 * @module
 */

import { HONO } from "../../router/hono.ts";
import { run } from "./daemon.ts";

const [, VERSION = ""] = /@(.*)$/.exec(HONO) ?? [];

/** Takes all requests, and answers none before {@linkcode SilentRegistry.answer}. */
export class SilentRegistry implements AsyncDisposable {
  /** The paths that it was asked for, in order. */
  readonly asked: string[] = [];
  #answering = Promise.withResolvers<void>();
  #server: Deno.HttpServer<Deno.NetAddr>;

  /** Starts one. */
  constructor() {
    this.#server = Deno.serve(
      { hostname: "127.0.0.1", port: 0, onListen() {} },
      async (request) => {
        const { pathname } = new URL(request.url);
        this.asked.push(pathname);
        await this.#answering.promise;
        if (pathname === "/hono") return Response.json(await this.#metadata());
        if (pathname === TARBALL) return new Response(await tarball());
        return new Response(null, { status: 404 });
      },
    );
  }

  /**
   * What Deno is told so that it asks here, and has nothing in its cache, which is to be in
   * `folder`.
   */
  env(folder: string): Record<string, string> {
    const url = `http://127.0.0.1:${this.#server.addr.port}/`;
    return {
      DENO_DIR: `${folder}/cache`,
      HOME: folder, // And so no .npmrc of the user's.
      JSR_URL: url,
      NPM_CONFIG_REGISTRY: url,
    };
  }

  /** Answers from now on, what was asked before as well. */
  answer(): void {
    this.#answering.resolve();
  }

  async #metadata(): Promise<unknown> {
    const hash = await crypto.subtle.digest("SHA-512", await tarball());
    const dist = {
      tarball: `http://127.0.0.1:${this.#server.addr.port}${TARBALL}`,
      integrity: `sha512-${new Uint8Array(hash).toBase64()}`,
    };
    return {
      name: "hono",
      "dist-tags": { latest: VERSION },
      versions: { [VERSION]: { name: "hono", version: VERSION, dist } },
    };
  }

  /** Leaves no request without an answer. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.answer();
    await this.#server.shutdown();
  }
}

const TARBALL = `/hono/-/hono-${VERSION}.tgz`;

/** Hono, packed of what is in the cache of the Deno that runs the tests. */
async function tarball(): Promise<Uint8Array<ArrayBuffer>> {
  const { npmCache } = JSON.parse((await run(Deno.execPath(), ["info", "--json"])).stdout);
  const folder = [...Deno.readDirSync(npmCache)].map(({ name }) => `${npmCache}/${name}/hono`)
    .find((folder) => {
      try {
        return Deno.statSync(`${folder}/${VERSION}/package.json`).isFile;
      } catch {
        return false; // Another registry's.
      }
    });
  if (folder === undefined) throw new Error(`there is no ${HONO} in ${npmCache}`);
  const { success, stdout } = await new Deno.Command("tar", {
    args: ["-cz", "-C", folder, `--transform=s,^${VERSION},package,`, VERSION],
    env: { GZIP: "-n" },
  }).output();
  if (!success) throw new Error("tar failed");
  return stdout;
}
