import { Hono } from "hono";
import { routes } from "./app.js";

const app = routes(new Hono(), process.env.VERSION_TEXT);
const options = {
  fetch(request, server) {
    if (request.headers.has("upgrade") && server.upgrade(request)) return;
    return app.fetch(request);
  },
  websocket: { message: (socket, data) => void socket.send(data) },
};
Bun.serve({ unix: process.argv[2], ...options });
const server = Bun.serve({ hostname: "127.0.0.1", port: 0, ...options });
console.log(`port ${server.port}`);
