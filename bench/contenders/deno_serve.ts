/** The yardstick: `Deno.serve` with the same Hono app. */

import { Hono } from "npm:hono@4.13.19";
import { copy, echo, routes } from "./app.js";

const [path] = Deno.args;
const app = routes(new Hono(), Deno.env.get("VERSION_TEXT") ?? "", copy);
app.get("/websocket", (c: { req: { raw: Request } }) => echo(c.req.raw));
const onListen = () => {};
const { addr } = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen }, app.fetch);
Deno.serve({ path: path!, onListen }, app.fetch);
console.log(`port ${addr.port}`);
