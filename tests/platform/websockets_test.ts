import { assert, assertEquals, assertRejects } from "@std/assert";
import { TypedError } from "../../engine/errors.ts";
import { nativeServe, type Served } from "../../platform/http.ts";
import { isWebSocket, lost, markServed } from "../../platform/websockets.ts";
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

Deno.test({
  name: "Deno.upgradeWebSocket is refused once too many clients have left at their answers",
  // What Deno keeps of them is what this is about.
  sanitizeOps: false,
  sanitizeResources: false,
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const upgrade = async (leave: boolean) => {
      const client = await connect({ ...listener.addr, transport: "tcp" });
      const outcome = Promise.withResolvers<unknown>();
      const signal = { addEventListener() {} };
      const served: Served = nativeServe()(
        await listener.accept(),
        signal,
        async (request) => {
          markServed(request);
          try {
            const { response } = Deno.upgradeWebSocket(request);
            const hijacked = served.hijack!(response, request)!;
            await hijacked.answerable;
            if (leave) {
              client.close();
              await ended; // The loop has noticed.
            }
            hijacked.ended.then(() => outcome.resolve("ended"));
            return response;
          } catch (error) {
            outcome.resolve(error);
            return new Response(null, { status: 503 });
          }
        },
        () => new Response(null, { status: 500 }),
        () => {},
      );
      const ended = served.finished.catch(() => {}); // It rejects where the client has left.
      await client.write(new TextEncoder().encode(HANDSHAKE));
      if (!leave) {
        await reads(client, "\r\n\r\n");
        client.close();
      }
      return await outcome.promise;
    };
    assertEquals(await upgrade(false), "ended");
    assertEquals(lost.sockets, 0);
    assertEquals(await upgrade(true), "ended");
    assertEquals(lost.sockets, 1);
    assertEquals(await upgrade(false), "ended");
    lost.most = 1;
    try {
      const error = await upgrade(false);
      assert(error instanceof TypedError && error.kind === "unavailable", String(error));
    } finally {
      lost.most = undefined;
      lost.sockets = 0;
    }
  },
});
