import { assert, assertEquals } from "@std/assert";
import { Browser, CHROMIUM } from "../support/browser.ts";
import type { Target } from "../support/client.ts";
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

Deno.test("Deno's WebSocket works as a client", async () => {
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
const filled = (size: number, value = 0x61) => new Uint8Array(size).fill(value);
const code = (value: number, reason = "") => bytes(value >> 8, value & 255, ...text(reason));
const FIN = 0x80;
const [CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG] = [0, 1, 2, 8, 9, 10] as const;

/** A message in fragments of so many bytes. */
function fragments(opcode: number, payload: Uint8Array, size: number): Uint8Array[] {
  const count = Math.ceil(payload.length / size);
  return Array.from({ length: count }, (_, i) =>
    frame(
      (i === 0 ? opcode : CONTINUATION) | (i === count - 1 ? FIN : 0),
      payload.subarray(i * size, (i + 1) * size),
    ));
}
/** The same bytes, to be sent in pieces of so many. */
function chopped(frames: Uint8Array[], size: number): Uint8Array[] {
  return frames.flatMap((each) =>
    Array.from(
      { length: Math.ceil(each.length / size) },
      (_, i) => each.subarray(i * size, (i + 1) * size),
    )
  );
}

/** What a client sends, each item by itself. */
type Case = readonly [name: string, frames: readonly Uint8Array[]];

/**
 * What clients send, and some should not, by the parts of RFC 6455. Each case is followed by a
 * close, so that the server ends the connection.
 */
const CHAPTERS: Record<string, () => Case[]> = {
  "framing": () => {
    const lengths = [0, 1, 125, 126, 127, 128, 65_535, 65_536, 200_000];
    const kinds = [["text", TEXT, 0x61], ["binary", BINARY, 0xfe]] as const;
    return [
      ...kinds.flatMap(([kind, opcode, value]) =>
        lengths.flatMap((size): Case[] => {
          const whole = [frame(FIN | opcode, filled(size, value))];
          return [
            [`${kind} of ${size}`, whole],
            [`${kind} of ${size} in pieces`, chopped(whole, size > 1_000 ? 997 : 1)],
          ];
        })
      ),
      ["a short length in 2 bytes", [frame(FIN | TEXT, text("abc"), { form: 126 })]],
      ["a short length in 8 bytes", [frame(FIN | TEXT, text("abc"), { form: 127 })]],
      ["not masked", [frame(FIN | TEXT, text("abc"), { mask: false })]],
      ["a ping that is not masked", [frame(FIN | PING, text("abc"), { mask: false })]],
    ];
  },
  "pings and pongs": () => [
    ...[0, 1, 124, 125, 126, 300].flatMap((size): Case[] => [
      [`ping of ${size}`, [frame(FIN | PING, filled(size, 0xfe))]],
      [`ping of ${size} in pieces`, chopped([frame(FIN | PING, filled(size, 7))], 1)],
      [`pong of ${size} that was not asked for`, [
        frame(FIN | PONG, filled(size)),
        frame(FIN | PING, text("x")),
      ]],
    ]),
    ["ten pings", Array.from({ length: 10 }, (_, i) => frame(FIN | PING, bytes(i)))],
    ["ten pings at once", [
      joined(Array.from({ length: 10 }, (_, i) => frame(FIN | PING, bytes(i)))),
    ]],
    ["a ping in fragments", [frame(PING, text("a")), frame(FIN | CONTINUATION, text("b"))]],
    ["a pong in fragments", [frame(PONG, text("a")), frame(FIN | CONTINUATION, text("b"))]],
  ],
  "reserved bits": () =>
    [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70].flatMap((bits) =>
      [TEXT, BINARY, CLOSE, PING, PONG].map((opcode): Case => [
        `reserved bits ${bits} of opcode ${opcode}`,
        [frame(FIN | TEXT, text("before")), frame(FIN | bits | opcode, code(1000))],
      ])
    ),
  "opcodes": () =>
    [3, 4, 5, 6, 7, 11, 12, 13, 14, 15].flatMap((opcode): Case[] => [
      [`opcode ${opcode}`, [frame(FIN | opcode, bytes())]],
      [`opcode ${opcode} after a text`, [
        frame(FIN | TEXT, text("before")),
        frame(FIN | opcode, text("x")),
        frame(FIN | PING, text("after")),
      ]],
      [`opcode ${opcode} in a message`, [frame(TEXT, text("a")), frame(FIN | opcode, text("x"))]],
    ]),
  "fragments": () => {
    const [first, more] = [frame(TEXT, text("a")), frame(CONTINUATION, text("b"))];
    const [last, ping] = [frame(FIN, text("c")), frame(FIN | PING, text("p"))];
    const orders: Record<string, Uint8Array[]> = {
      "two": [first, last],
      "three": [first, more, last],
      "a ping between": [first, ping, more, ping, last],
      "a pong between": [first, frame(FIN | PONG, text("p")), last],
      "empty ones": [frame(TEXT, bytes()), frame(CONTINUATION, bytes()), frame(FIN, bytes())],
      "empty ones around": [frame(TEXT, bytes()), more, frame(FIN, bytes())],
      "a last one of nothing": [last],
      "a middle one of nothing": [more, last],
      "a last one of nothing, then a text": [last, frame(FIN | TEXT, text("x"))],
      "a last one after a whole text": [frame(FIN | TEXT, text("x")), last],
      "a text in a message": [first, frame(FIN | TEXT, text("b"))],
      "a binary in a text": [first, frame(BINARY, bytes(1)), last],
      "a message after another": [first, last, first, more, last],
      "none after the first": [first],
    };
    return [
      ...Object.entries(orders).flatMap(([name, frames]): Case[] => [
        [name, frames],
        [`${name}, at once`, [joined(frames)]],
        [`${name}, in pieces`, chopped(frames, 1)],
      ]),
      ...[1, 7, 64].map((size): Case => [
        `a message of 500 bytes by ${size}`,
        fragments(BINARY, filled(500), size),
      ]),
    ];
  },
  "UTF-8": () => {
    const good = [0x7f, 0x80, 0x7ff, 0x800, 0xd7ff, 0xe000, 0xfffd, 0xfffe, 0xffff, 0x10000]
      .concat([0x1fffe, 0x10fffd, 0x10ffff], [...Array(12)].map((_, i) => 0xfdd0 + i * 2))
      .map((point): [string, Uint8Array] => [
        `U+${point.toString(16)}`,
        text(String.fromCodePoint(point)),
      ]);
    const bad: [string, Uint8Array][] = [
      ...[0x80, 0xbf, 0xc0, 0xc1, 0xf5, 0xf8, 0xfc, 0xfe, 0xff].map((
        value,
      ): [string, Uint8Array] => [
        `a lone ${value.toString(16)}`,
        bytes(value),
      ]),
      ...[[0xc3], [0xe2, 0x82], [0xf0, 0x9f, 0x98], [0xdf], [0xef, 0xbf], [0xf7, 0xbf, 0xbf]]
        .map((values): [string, Uint8Array] => [`${values} cut short`, bytes(...values)]),
      ...[
        ...[[0xc0, 0xaf], [0xe0, 0x80, 0xaf], [0xf0, 0x80, 0x80, 0xaf], [0xc1, 0xbf]],
        ...[[0xe0, 0x9f, 0xbf], [0xf0, 0x8f, 0xbf, 0xbf], [0xf8, 0x87, 0xbf, 0xbf, 0xbf]],
      ].map((values): [string, Uint8Array] => [`${values}, overlong`, bytes(...values)]),
      ...[0xa0, 0xad, 0xae, 0xaf, 0xb0, 0xbf].map((second): [string, Uint8Array] => [
        `a surrogate ed ${second.toString(16)}`,
        bytes(0xed, second, 0x80, 0xed, second, 0xbf),
      ]),
      ["above U+10FFFF", bytes(0xf4, 0x90, 0x80, 0x80)],
      ["of five bytes", bytes(0xf8, 0x88, 0x80, 0x80, 0x80)],
    ];
    return [...good, ...bad].flatMap(([name, value]): Case[] => {
      const whole = joined([text("κόσμε"), value, text("edited")]);
      return [
        [name, [frame(FIN | TEXT, value)]],
        [`${name} among others`, [frame(FIN | TEXT, whole)]],
        [`${name} among others by bytes`, fragments(TEXT, whole, 1)],
        [`${name} in a message that goes on`, [frame(TEXT, value), frame(FIN, text("z"))]],
        [`${name} as binary`, [frame(FIN | BINARY, whole)]],
      ];
    });
  },
  "closes": () => {
    const closing = (value: number, reason?: string) => frame(FIN | CLOSE, code(value, reason));
    const codes = [
      ...[0, 1, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011],
      ...[1012, 1013, 1014, 1015, 1016, 1100, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65_535],
    ];
    return [
      ...codes.flatMap((value): Case[] => [
        [`${value}`, [closing(value)]],
        [`${value} and a reason`, [closing(value, "why")]],
      ]),
      ["without a code", [frame(FIN | CLOSE, bytes())]],
      ["half a code", [frame(FIN | CLOSE, bytes(3))]],
      ["a reason of 123 bytes", [closing(1000, "x".repeat(123))]],
      ["a reason of 124 bytes", [closing(1000, "x".repeat(124))]],
      ["a reason that is no UTF-8", [frame(FIN | CLOSE, bytes(3, 232, 0xce, 0xba, 0xed, 0xa0))]],
      ["two", [closing(1000), closing(1001)]],
      ["a text after", [closing(1000), frame(FIN | TEXT, text("x"))]],
      ["a ping after", [closing(1000), frame(FIN | PING, text("x"))]],
      ["256 KiB after", [closing(1000), frame(FIN | TEXT, filled(262_144))]],
      ["in fragments", [frame(CLOSE, code(1000)), frame(FIN, text("why"))]],
      ["in a message", [frame(TEXT, text("a")), closing(1000), frame(FIN, text("b"))]],
      ["after a ping", [frame(FIN | PING, text("p")), closing(1000)]],
    ];
  },
  "big messages": () =>
    ([[TEXT, "text"], [BINARY, "binary"]] as const).flatMap(([opcode, kind]): Case[] => [
      [`${kind} of 1 MiB`, [frame(FIN | opcode, filled(1 << 20))]],
      [`${kind} of 4 MiB`, [frame(FIN | opcode, filled(1 << 22))]],
      [`${kind} of 16 MiB`, [frame(FIN | opcode, filled(1 << 24))]],
      [`${kind} of 1 MiB by 4 KiB`, [joined(fragments(opcode, filled(1 << 20), 4_096))]],
      [`${kind} of 1 MiB by 64`, [joined(fragments(opcode, filled(1 << 20), 64))]],
      [`${kind} of 1 MiB in pieces`, chopped([frame(FIN | opcode, filled(1 << 20))], 4_096)],
    ]),
};

function joined(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** All that a server sends after its handshake, until the connection ends. */
async function answers(target: Target, frames: readonly Uint8Array[]): Promise<string> {
  using client = await upgrade(target, handshakeOf("/ws"));
  assert(client.head.startsWith("HTTP/1.1 101 "));
  if ("setNoDelay" in client.conn) (client.conn as Deno.TcpConn).setNoDelay(); // Each by itself.
  // It reads meanwhile, because what it sends may be more than the two can have on their way.
  const all = client.ended();
  try {
    for (const each of frames) await client.send(each);
    await client.send(frame(FIN | CLOSE, code(1000)));
  } catch (error) {
    if (
      !(error instanceof Deno.errors.BrokenPipe || error instanceof Deno.errors.ConnectionReset)
    ) {
      throw error;
    }
  }
  return await all;
}

Deno.test("WebSockets answer what clients send as those of Deno.serve do, frame by frame", async (t) => {
  await using doors = await Doors.open();
  doors.served.router.get("/ws", (c) => echo(c.req.raw));
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, echo);
  const theirs: Target = { hostname: "127.0.0.1", port: server.addr.port };
  for (const [chapter, cases] of Object.entries(CHAPTERS)) {
    await t.step(chapter, async () => {
      for (const [name, frames] of cases()) {
        const [expected, ...ours] = await Promise.all(
          [theirs, ...doors.doors.map(({ target }) => target)]
            .map((target) => answers(target, frames)),
        );
        // Of what is long it is not shown.
        for (const got of ours) {
          assert(got === expected, `${name}: ${short(got)}, ${short(expected!)}`);
        }
      }
    });
  }
  await doors.empty();
});

function short(answer: string): string {
  return `${answer.length} bytes ${JSON.stringify(answer.slice(0, 40))}`;
}
