/**
 * The limit of any server that accepts its connections itself, as one with a gate must: the
 * runtime's own loop on each of them, the same Hono app, and nothing else. It has no timeouts,
 * counts nothing, and dies when descriptors run out.
 */

import { Hono } from "npm:hono@4.13.19";
import { copy, routes } from "./app.js";

type Serve = (
  connection: Deno.Conn,
  signal: { addEventListener(): void },
  handler: (request: Request) => Response | Promise<Response>,
  onError: () => Response,
  onListen: () => void,
) => { finished: Promise<void> };
const deno = Deno as unknown as { internal: symbol } & Record<symbol, Record<string, unknown>>;
const serve = deno[deno.internal]!.serveHttpOnConnection as Serve;
const signal = { addEventListener() {} };
const onError = () => new Response(null, { status: 500 });
const onListen = () => {};

const [path] = Deno.args;
const app = routes(new Hono(), Deno.env.get("VERSION_TEXT") ?? "", copy);
const handler = (request: Request) => app.fetch(request);

async function accept(listener: Deno.Listener): Promise<void> {
  for await (const connection of listener) {
    serve(connection, signal, handler, onError, onListen).finished.catch(() => {});
  }
}
const tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
accept(tcp);
accept(Deno.listen({ transport: "unix", path: path! }));
console.log(`port ${tcp.addr.port}`);
