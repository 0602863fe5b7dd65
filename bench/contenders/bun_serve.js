import { Hono } from "hono";
import { routes } from "./app.js";

const { fetch } = routes(new Hono(), process.env.VERSION_TEXT);
Bun.serve({ unix: process.argv[2], fetch });
const server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch });
console.log(`port ${server.port}`);
