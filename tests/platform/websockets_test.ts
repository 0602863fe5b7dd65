import { assertEquals, assertRejects } from "@std/assert";
import { nativeServe, type Served } from "../../platform/http.ts";
import { isWebSocket, markServed } from "../../platform/websockets.ts";
import { connect, type Target } from "../support/client.ts";
import { TempFolder, until } from "../support/daemon.ts";
import { needs } from "../support/platform.ts";
import { handshakeOf } from "../support/upgrades.ts";

const HANDSHAKE = handshakeOf("/");
/** A text of three letters, masked with zeros, as clients have to mask. */
const MESSAGE = new Uint8Array([0x81, 0x83, 0, 0, 0, 0, 0x61, 0x62, 0x63]);

/** What serving one connection of a listener gives, with an echo on it. */
async function echo(
  listener: Deno.Listener | Deno.UnixListener,
  target: Target,
  test: (client: Deno.Conn, served: Served, socket: () => WebSocket) => Promise<void>,
): Promise<void> {
  using client = await connect(target);
  let socket: WebSocket | undefined;
  const served: Served = nativeServe()(
    await listener.accept(),
    { addEventListener() {} },
    async (request) => {
      markServed(request);
      const upgrade = Deno.upgradeWebSocket(request);
      socket = upgrade.socket;
      socket.onmessage = ({ data }) => socket!.send(data);
      assertEquals(isWebSocket(request), true);
      await served.hijack!(upgrade.response, request)!.answerable;
      return upgrade.response;
    },
    (error) => new Response(String(error), { status: 500 }),
    () => {},
  );
  served.finished.catch(() => {}); // Tests that are about it await it.
  await client.write(new TextEncoder().encode(HANDSHAKE));
  await test(client, served, () => socket!);
}

async function reads(conn: Deno.Conn, end: string): Promise<string> {
  let text = "";
  const buffer = new Uint8Array(1_024);
  while (!text.includes(end)) {
    const count = await conn.read(buffer);
    if (count === null) throw new Error(`ended after ${JSON.stringify(text)}`);
    text += new TextDecoder().decode(buffer.subarray(0, count));
  }
  return text;
}

async function assertKept(client: Deno.Conn, served: Served, socket: () => WebSocket) {
  await reads(client, "\r\n\r\n");
  for (let i = 0; i < 20; i++) {
    await client.write(MESSAGE);
    await reads(client, "abc");
    // The loop has long ended the serving of the connection by then.
    await new Promise((resolve) => setTimeout(resolve));
  }
  assertEquals(socket().readyState, WebSocket.OPEN);
  let finished = false;
  served.finished.then(() => finished = true);
  client.close();
  await until(() => finished);
  assertEquals(socket().readyState, WebSocket.CLOSED);
}

needs(
  "a WebSocket lives on when the context of its connection has its closing",
  "WebSockets get 501, or end as soon as they are open",
  async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    await echo(listener, { ...listener.addr, transport: "tcp" }, assertKept);
  },
);

needs(
  "Deno.upgradeWebSocket takes a request from a unix socket that was served by itself",
  "there are no WebSockets on unix sockets",
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    using listener = Deno.listen({ transport: "unix", path });
    await echo(listener, { transport: "unix", path }, assertKept);
  },
);

needs(
  "a WebSocket's resource can be closed",
  "WebSockets cannot be cut",
  async () => {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    using client = await connect({ ...listener.addr, transport: "tcp" });
    let hijacked: ReturnType<NonNullable<Served["hijack"]>>;
    const served: Served = nativeServe()(
      await listener.accept(),
      { addEventListener() {} },
      async (request) => {
        markServed(request);
        const { response } = Deno.upgradeWebSocket(request);
        hijacked = served.hijack!(response, request);
        await hijacked!.answerable;
        return response;
      },
      (error) => new Response(String(error), { status: 500 }),
      () => {},
    );
    await client.write(new TextEncoder().encode(HANDSHAKE));
    await reads(client, "\r\n\r\n");
    hijacked!.cut();
    await served.finished;
    await assertRejects(() => reads(client, "\0never"));
  },
);
