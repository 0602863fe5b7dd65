import { createServer } from "node:http";
import { Readable } from "node:stream";
import fastify from "fastify";
import { ALWAYS, bytes, PING, thing } from "./app.js";

const app = fastify();
app.get("/_ping", (_request, reply) => reply.headers(PING).send("OK"));
app.get(
  "/version",
  (_request, reply) =>
    reply.headers(ALWAYS).header("Content-Type", "application/json").send(process.env.VERSION_TEXT),
);
app.get(
  "/things/:id",
  (request, reply) => reply.headers(ALWAYS).send(thing(request.params.id)),
);
app.get("/plain/:id", (request, reply) => reply.send(thing(request.params.id)));
app.get(
  "/bytes/:mebibytes",
  (request, reply) => reply.send(Readable.fromWeb(bytes(Number(request.params.mebibytes)))),
);
await app.listen({ host: "127.0.0.1", port: 0 });
createServer(app.routing).listen(process.argv[2], () => {
  console.log(`port ${app.server.address().port}`);
});
