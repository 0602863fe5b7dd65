import { createServer } from "node:http";
import { getRequestListener } from "@hono/node-server";
import { Hono } from "hono";
import { routes } from "./app.js";

const app = routes(new Hono(), process.env.VERSION_TEXT);
const listener = getRequestListener(app.fetch);
createServer(listener).listen(process.argv[2]);
const server = createServer(listener).listen(0, "127.0.0.1", () => {
  console.log(`port ${server.address().port}`);
});
