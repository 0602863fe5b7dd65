import { createServer } from "node:http";
import { WebSocketServer } from "ws";

function listen(...where) {
  const server = createServer();
  new WebSocketServer({ server }).on("connection", (socket) => {
    socket.on("message", (data, isBinary) => socket.send(data, { binary: isBinary }));
  });
  return server.listen(...where);
}
listen(process.argv[2]);
const server = listen(0, "127.0.0.1", () => console.log(`port ${server.address().port}`));
