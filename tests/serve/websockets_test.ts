import { assert, assertEquals } from "@std/assert";
import { Browser, CHROMIUM } from "../support/browser.ts";
import type { Client, Target } from "../support/client.ts";
import { testWhere, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";
import { Doors, handshakeOf, openSocket, upgrade } from "../support/upgrades.ts";

/** The handler of WebSockets on both servers. */
function echo(request: Request): Response {
  const { response, socket } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
}

const chromiumTest = testWhere(CHROMIUM !== undefined, "Chromium");

chromiumTest("a page in Chromium has a WebSocket", async () => {
  await using served = await Served.open();
  served.router.get("/ws", (c) => echo(c.req.raw));
  served.router.get("/", (c) => c.html("<title>x</title>"));
  const { port } = served.target as Deno.ConnectOptions;
  await using browser = await Browser.start();
  await browser.open(`http://127.0.0.1:${port}/`);
  const heard = await browser.evaluate(`new Promise((resolve) => {
    const socket = new WebSocket("ws://" + location.host + "/ws");
    const heard = [];
    socket.onopen = () => { socket.send("text"); socket.send("x".repeat(200000)); };
    socket.onmessage = ({ data }) => {
      heard.push(data.length);
      if (heard.length === 2) socket.close(3000, "done");
    };
    socket.onclose = ({ code, reason, wasClean }) => resolve([...heard, code, reason, wasClean]);
    socket.onerror = () => heard.push("error");
  })`);
  assertEquals(heard, [4, 200_000, 3000, "done", true]);
  await until(async () => (await served.stats()).hijacked === 0);
});

Deno.test("Deno's own WebSocket works as a client", async () => {
  await using served = await Served.open();
  served.router.get("/ws", (c) => echo(c.req.raw));
  const { port } = served.target as Deno.ConnectOptions;
  const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`);
  socket.binaryType = "arraybuffer";
  await new Promise((resolve) => socket.onopen = resolve);
  const sent = crypto.getRandomValues(new Uint8Array(50_000));
  socket.send(sent);
  const { data } = await new Promise<MessageEvent>((resolve) => socket.onmessage = resolve);
  assertEquals(new Uint8Array(data), sent);
  const closed = new Promise<CloseEvent>((resolve) => socket.onclose = resolve);
  socket.close(1000, "bye");
  const { code, reason, wasClean } = await closed;
  assertEquals([code, reason, wasClean], [1000, "bye", true]);
});

Deno.test("a hundred WebSockets at once each get what they have sent", async () => {
  await using doors = await Doors.open();
  doors.served.router.get("/ws", (c) => echo(c.req.raw));
  for (const { url } of doors.doors) {
    const sockets = await Promise.all(Array.from({ length: 100 }, () => openSocket(`${url}/ws`)));
    await Promise.all(
      sockets.map((socket: Awaited<ReturnType<typeof openSocket>>, i: number) =>
        new Promise<void>((resolve) => {
          let got = 0;
          socket.on("message", (data: Uint8Array) => {
            assertEquals(new TextDecoder().decode(data), `${i}: ${got}`);
            if (++got === 20) return resolve();
            socket.send(`${i}: ${got}`);
          });
          socket.send(`${i}: 0`);
        })
      ),
    );
    assertEquals((await doors.served.stats()).hijacked, 100);
    for (const socket of sockets) socket.close();
    await doors.empty();
  }
});

const encoder = new TextEncoder();

/** A frame of RFC 6455, 5.2, masked as a client's, unless `mask` is false. */
function frame(
  first: number,
  payload: Uint8Array,
  { mask = true, length = payload.length, form }: {
    mask?: boolean;
    length?: number;
    form?: 126 | 127;
  } = {},
): Uint8Array {
  const kind = form ?? (length > 65_535 ? 127 : length > 125 ? 126 : length);
  const extended = kind === 127 ? 8 : kind === 126 ? 2 : 0;
  const bytes = new Uint8Array(2 + extended + (mask ? 4 : 0) + payload.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = first;
  bytes[1] = (mask ? 0x80 : 0) | kind;
  if (extended === 2) view.setUint16(2, length);
  if (extended === 8) view.setBigUint64(2, BigInt(length));
  let at = 2 + extended;
  const key = mask ? [1, 2, 3, 4] : [0, 0, 0, 0];
  if (mask) {
    bytes.set(key, at);
    at += 4;
  }
  payload.forEach((byte, i) => bytes[at + i] = byte ^ key[i % 4]!);
  return bytes;
}

const text = (value: string) => encoder.encode(value);
const bytes = (...values: number[]) => new Uint8Array(values);
const code = (value: number, reason = "") => {
  const all = new Uint8Array([value >> 8, value & 255, ...encoder.encode(reason)]);
  return all;
};
const FIN = 0x80;
const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10] as const;

/**
 * What clients may send and should not, after the parts of RFC 6455: each a name, and the frames.
 * They end with a close, so that the server has said all when the connection ends.
 */
function cases(): [string, Uint8Array[]][] {
  const close = frame(FIN | CLOSE, code(1000));
  const all: [string, Uint8Array[]][] = [];
  const add = (name: string, ...frames: Uint8Array[]) => all.push([name, [...frames, close]]);
  // Framing: lengths at the borders of their forms.
  for (const size of [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000]) {
    add(`text of ${size}`, frame(FIN | TEXT, new Uint8Array(size).fill(0x61)));
    add(`binary of ${size}`, frame(FIN | BINARY, new Uint8Array(size).fill(0xfe)));
  }
  add("a short length in 2 bytes", frame(FIN | TEXT, text("abc"), { form: 126 }));
  add("a short length in 8 bytes", frame(FIN | TEXT, text("abc"), { form: 127 }));
  add("not masked", frame(FIN | TEXT, text("abc"), { mask: false }));
  // Pings and pongs.
  for (const size of [0, 1, 125, 126]) {
    add(`ping of ${size}`, frame(FIN | PING, bytes(...Array(size).fill(7))));
  }
  add("pong that was not asked for", frame(FIN | PONG, text("x")), frame(FIN | TEXT, text("y")));
  add("ten pings", ...Array.from({ length: 10 }, (_, i) => frame(FIN | PING, bytes(i))));
  add("a ping in fragments", frame(PING, text("a")), frame(FIN | CONTINUATION, text("b")));
  // Reserved bits and opcodes.
  for (const bit of [0x40, 0x20, 0x10, 0x70]) {
    add(`reserved bit ${bit}`, frame(FIN | bit | TEXT, text("x")));
  }
  for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) {
    add(`reserved opcode ${opcode}`, frame(FIN | opcode, text("x")));
  }
  // Fragments.
  add("two fragments", frame(TEXT, text("ab")), frame(FIN | CONTINUATION, text("cd")));
  add(
    "fragments with a ping between",
    ...[frame(BINARY, bytes(1)), frame(FIN | PING, text("p")), frame(CONTINUATION, bytes(2))],
    frame(FIN | CONTINUATION, bytes(3)),
  );
  add(
    "empty fragments",
    frame(TEXT, text("")),
    frame(CONTINUATION, text("")),
    frame(FIN, text("")),
  );
  add("a continuation of nothing", frame(FIN | CONTINUATION, text("x")));
  add("a message in a message", frame(TEXT, text("a")), frame(FIN | TEXT, text("b")));
  add(
    "fifty fragments",
    ...Array.from({ length: 50 }, (_, i) => frame(i === 0 ? TEXT : 0, text(`${i}`))),
    frame(FIN, text("end")),
  );
  // UTF-8.
  for (
    const [name, value] of [
      ["of two, three and four bytes", text("ü€\u{1f600}")],
      ["cut short", bytes(0xe2, 0x82)],
      ["overlong", bytes(0xc0, 0xaf)],
      ["a surrogate", bytes(0xed, 0xa0, 0x80)],
      ["above U+10FFFF", bytes(0xf4, 0x90, 0x80, 0x80)],
      ["a lone continuation byte", bytes(0x80)],
    ] as const
  ) add(`UTF-8 ${name}`, frame(FIN | TEXT, value));
  add("UTF-8 cut by fragments", frame(TEXT, bytes(0xe2)), frame(FIN, bytes(0x82, 0xac)));
  // Closes.
  for (
    const value of [
      1000,
      1001,
      1003,
      1007,
      1011,
      3000,
      4999,
      0,
      999,
      1004,
      1005,
      1006,
      1015,
      2999,
      5000,
    ]
  ) {
    all.push([`close ${value}`, [frame(FIN | CLOSE, code(value, "why"))]]);
  }
  all.push(["close without a code", [frame(FIN | CLOSE, bytes())]]);
  all.push(["close with half a code", [frame(FIN | CLOSE, bytes(3))]]);
  all.push(["close with a reason that is no UTF-8", [frame(FIN | CLOSE, bytes(3, 232, 0xff))]]);
  all.push(["close of 126 bytes", [frame(FIN | CLOSE, code(1000, "x".repeat(124)))]]);
  all.push(["text after a close", [frame(FIN | CLOSE, code(1000)), frame(FIN | TEXT, text("x"))]]);
  return all;
}

/** All data of a server after its handshake, until the connection ends. */
async function answers(target: Target, frames: Uint8Array[]): Promise<string> {
  using client = await upgrade(target, handshakeOf("/ws"));
  assert(client.head.startsWith("HTTP/1.1 101 "));
  try {
    for (const each of frames) await client.send(each);
  } catch (error) {
    if (
      !(error instanceof Deno.errors.BrokenPipe || error instanceof Deno.errors.ConnectionReset)
    ) {
      throw error;
    }
  }
  return await rest(client);
}

async function rest(client: Client): Promise<string> {
  const all = await client.ended();
  // For long payloads the length is enough.
  return all.length > 300 ? `${all.slice(0, 20)}… ${all.length}` : all;
}

Deno.test("WebSockets answer what clients send as those of Deno.serve do, frame by frame", async (t) => {
  await using doors = await Doors.open();
  doors.served.router.get("/ws", (c) => echo(c.req.raw));
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, echo);
  const theirs: Target = { hostname: "127.0.0.1", port: server.addr.port };
  for (const [name, frames] of cases()) {
    await t.step(name, async () => {
      const expected = await answers(theirs, frames);
      for (const { target } of doors.doors) assertEquals(await answers(target, frames), expected);
    });
  }
  await doors.empty();
});
