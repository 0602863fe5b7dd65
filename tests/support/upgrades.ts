/**
 * Daemons whose connections become raw streams or WebSockets, and their clients.
 *
 * @module
 */

import WebSocketClient from "npm:ws@8.18.0";
import type { UpgradedConnection } from "../../router.ts";
import { Client, type Target } from "./client.ts";
import { TempFolder, until } from "./daemon.ts";
import { Served } from "./served.ts";

/** The docker CLI's request to attach, for another path, with a body if given. */
export function upgradeOf(path: string, body = "", ...headers: string[]): string {
  return [
    `POST ${path} HTTP/1.1`,
    "Host: localhost",
    ...headers,
    "Content-Type: text/plain",
    "Connection: Upgrade",
    "Upgrade: tcp",
    `Content-Length: ${body.length}`,
    "",
    body,
  ].join("\r\n");
}

/** The header of a browser's WebSocket, and nothing else. */
export function handshakeOf(path: string, ...headers: string[]): string {
  return [
    `GET ${path} HTTP/1.1`,
    "Host: localhost",
    ...headers,
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "",
    "",
  ].join("\r\n");
}

/** A daemon on tcp and on a unix socket. */
export class Doors implements AsyncDisposable {
  private constructor(readonly served: Served, readonly folder: TempFolder) {}
  static async open(settings: Record<string, string> = {}): Promise<Doors> {
    const folder = await TempFolder.make();
    const addresses = ["tcp://127.0.0.1:0", `unix://${folder.path}/s`];
    return new Doors(await Served.open(settings, addresses), folder);
  }
  /** Its addresses, and their URLs for `ws`. */
  get doors(): { target: Target; url: string }[] {
    const path = `${this.folder.path}/s`;
    const { target } = this.served;
    return [
      { target, url: `ws://127.0.0.1:${(target as Deno.ConnectOptions).port}` },
      { target: { transport: "unix", path }, url: `ws+unix://${path}:` },
    ];
  }
  /** Waits until no connection is open. */
  async empty(): Promise<void> {
    await until(async () => (await this.served.stats()).open === 0);
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.served[Symbol.asyncDispose]();
    await this.folder[Symbol.asyncDispose]();
  }
}

/** Requests a raw upgrade, and returns the connection once the answer's header has come. */
export async function upgrade(target: Target, request: string): Promise<Client & { head: string }> {
  const client = await Client.to(target);
  await client.send(request);
  const [head] = await client.sees(/^[^]*?\r\n\r\n/);
  client.rest = client.rest.slice(head.length);
  return Object.assign(client, { head });
}

/** An open WebSocket. */
export function openSocket(
  url: string,
  protocols: string[] = [],
  options: Record<string, unknown> = {},
): Promise<WebSocketClient> {
  const socket = new WebSocketClient(url, protocols, options);
  return new Promise((resolve, reject) => {
    socket.on("open", () => resolve(socket));
    socket.on("error", reject);
  });
}

/** The next message. Rejects if the socket closes before. */
export function message(socket: WebSocketClient): Promise<string> {
  return new Promise((resolve, reject) => {
    const closed = (code: number) => reject(new Error(`closed with ${code} before a message`));
    socket.once("close", closed);
    socket.once("message", (data: Uint8Array) => {
      socket.off("close", closed);
      resolve(new TextDecoder().decode(data));
    });
  });
}

/** The close event of a WebSocket. */
export function closed(socket: WebSocketClient): Promise<{ code: number; reason: string }> {
  return new Promise((resolve) => {
    socket.once(
      "close",
      (code: number, reason: Uint8Array) =>
        resolve({ code, reason: new TextDecoder().decode(reason) }),
    );
  });
}

/** Sends back what a raw connection gets. */
export function sendBack(connection: Promise<UpgradedConnection>): void {
  connection.then(({ readable, writable }) => readable.pipeTo(writable)).catch(() => {
    // The connection was cut, or the upgrade not given: tests about that see it at the client.
  });
}
