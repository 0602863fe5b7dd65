import { assert, assertEquals } from "@std/assert";
import {
  type Descriptor,
  descriptorOf,
  duplicate,
  findDescriptor,
  peek,
  releaseDescriptor,
  skipDescriptor,
  untilReadable,
} from "../../platform/peek.ts";
import { nativeServe } from "../../platform/http.ts";
import { connect } from "../support/client.ts";
import { isPending, run, settle, TempFolder } from "../support/daemon.ts";
import { foreignTest, needs } from "../support/platform.ts";

const encoder = new TextEncoder();
const window = new Uint8Array(256);

function seen({ fd }: Descriptor): string | number {
  const count = peek(fd, window);
  return count <= 0 ? count : new TextDecoder().decode(window.subarray(0, count));
}

async function pair(): Promise<{ client: Deno.Conn; conn: Deno.Conn }> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const client = await Deno.connect({ ...listener.addr, transport: "tcp" });
  return { client, conn: await listener.accept() };
}

needs(
  "a tcp connection tells its descriptor, and peek() leaves what was sent where it is",
  "no raw upgrade is served on tcp",
  async () => {
    const { client, conn } = await pair();
    const descriptor = descriptorOf(conn)!;
    assertEquals(seen(descriptor), -1);
    await client.write(encoder.encode("abc"));
    await untilReadable(conn);
    assertEquals(seen(descriptor), "abc");
    const buffer = new Uint8Array(9);
    assertEquals(await conn.read(buffer), 3);
    client.close();
    await untilReadable(conn);
    assertEquals(seen(descriptor), 0);
    conn.close();
  },
  foreignTest,
);

needs(
  "untilReadable() waits for a client to send or to leave, and takes nothing",
  "requests wait for others, or for nothing",
  async () => {
    const { client, conn } = await pair();
    const waiting = untilReadable(conn);
    assert(await isPending(waiting));
    await client.write(encoder.encode("a"));
    await waiting;
    assertEquals(await conn.read(new Uint8Array(2)), 1);
    const closed = untilReadable(conn).catch(() => "closed");
    conn.close();
    assertEquals(await closed, "closed");
    client.close();
  },
  foreignTest,
);

needs(
  "duplicate() makes a stream of a descriptor that the native loop lets go of",
  "no raw upgrade is served on a connection that was used before",
  async () => {
    const { client, conn } = await pair();
    const descriptor = descriptorOf(conn)!;
    let cancel = () => {};
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<Response>();
    const served = nativeServe()(
      conn,
      { addEventListener: (_, given) => void (cancel = given) },
      () => {
        asked.resolve();
        return answer.promise;
      },
      () => Response.error(),
      () => {},
    );
    await client.write(encoder.encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
    await asked.promise;
    const stream = duplicate(conn, descriptor);
    cancel();
    await served.finished.catch(() => {}); // It may reject because it was cancelled.
    answer.resolve(new Response());
    await stream.write(encoder.encode("hello"));
    await stream.closeWrite();
    const buffer = new Uint8Array(16);
    assertEquals(await client.read(buffer), 5);
    assertEquals(await client.read(buffer), null);
    await client.write(encoder.encode("abc"));
    assertEquals(await stream.read(buffer), 3);
    client.close();
    assertEquals(await stream.read(buffer), null);
    stream.close();
  },
  foreignTest,
);

/** A listener, and what connects to it and finds its descriptors. */
async function withUnix(
  test: (accept: (find?: boolean) => Promise<Both>) => Promise<void>,
): Promise<void> {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  using listener = Deno.listen({ transport: "unix", path });
  let made = 0;
  await test(async (find = true) => {
    const client = await connect({ transport: "unix", path });
    const conn = await listener.accept();
    if (find) findDescriptor(conn);
    else skipDescriptor();
    const text = `message ${++made}`;
    await client.write(encoder.encode(text));
    const close = () => {
      client.close();
      conn.close();
    };
    return { text, close, descriptor: descriptorOf(conn) };
  });
}
interface Both {
  text: string;
  descriptor?: Descriptor | undefined;
  close(): void;
}

needs(
  "findDescriptor() finds each connection of a unix listener, whatever others come and go",
  "no raw upgrade is served on a unix socket, or the wrong one is",
  () =>
    withUnix(async (accept) => {
      const open: Both[] = [];
      const others: Disposable[] = [];
      const random = seeded(7);
      for (let i = 0; i < 1_000; i++) {
        const both = await accept();
        assert(both.descriptor, `the descriptor of connection ${i} was not found`);
        open.push(both);
        // Descriptors that are none of ours come and go besides.
        if (random() < 0.3) others.push(Deno.openSync("/dev/null"));
        if (random() < 0.3) others.shift()?.[Symbol.dispose]();
        while (open.length > 40 * random()) {
          const [gone] = open.splice(Math.floor(random() * open.length), 1);
          // Of some it is told at once, of some late, and of some never.
          const how = random();
          if (how < 0.3) releaseDescriptor(gone!.descriptor!);
          gone!.close();
          if (how > 0.6) queueMicrotask(() => releaseDescriptor(gone!.descriptor!));
        }
        if (random() < 0.2) await settle();
        for (const { descriptor, text } of open) assertEquals(seen(descriptor!), text);
      }
      for (const each of [...open, ...others]) {
        if ("close" in each) each.close();
        else each[Symbol.dispose]();
      }
    }),
  foreignTest,
);

foreignTest(
  "findDescriptor() finds none where two may be meant, and the next again",
  () =>
    withUnix(async (accept) => {
      const first = await accept();
      const skipped = [await accept(false), await accept(false)];
      assertEquals(skipped.map(({ descriptor }) => descriptor), [undefined, undefined]);
      const unclear = await accept();
      assertEquals(unclear.descriptor, undefined);
      const clear = await accept();
      assertEquals(seen(clear.descriptor!), clear.text);
      assertEquals(seen(first.descriptor!), first.text);
      for (const each of [first, ...skipped, unclear, clear]) each.close();
    }),
);

/** Numbers between 0 and 1 that are the same each time (a linear congruential generator). */
function seeded(seed: number): () => number {
  return () => {
    seed = (seed * 1_664_525 + 1_013_904_223) % 2 ** 32;
    return seed / 2 ** 32;
  };
}

/** What a program prints, as JSON, that finds the connections of a unix listener `unix`. */
async function found(program: string) {
  await using folder = await TempFolder.make();
  const module = new URL("../../platform/peek.ts", import.meta.url);
  // In a process of its own: other tests open descriptors, too.
  await Deno.writeTextFile(
    `${folder.path}/look.ts`,
    `import * as peeking from "${module}";
    const { descriptorOf, duplicate, findDescriptor, findings, peek, releaseDescriptor } = peeking;
    const unix = Deno.listen({ transport: "unix", path: "${folder.path}/s" });
    ${program}`,
  );
  const { stdout, stderr } = await run(Deno.execPath(), [
    ...["run", "-A", "--no-check", `${folder.path}/look.ts`],
  ]);
  assertEquals(stderr, "");
  return JSON.parse(stdout);
}

foreignTest(
  "findDescriptor looks through all descriptors once, though tcp connections come between",
  async () => {
    const findings = await found(`
      const tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const kept = [];
      let unknown = 0;
      const take = async (listener, client) => {
        const conn = await listener.accept();
        findDescriptor(conn);
        const descriptor = descriptorOf(conn);
        if (!descriptor) unknown++;
        kept.push([client, conn, descriptor]);
      };
      for (let i = 0; i < 200; i++) {
        await take(unix, await Deno.connect(unix.addr));
        await take(tcp, await Deno.connect(tcp.addr));
        if (i % 3) continue;
        const [client, conn, descriptor] = kept.shift();
        client.close();
        conn.close();
        if (descriptor) releaseDescriptor(descriptor);
      }
      console.log(JSON.stringify({ all: findings().all, unknown }));`);
    assertEquals(findings, { all: 1, unknown: 0 });
  },
);

foreignTest(
  "findDescriptor finds connections at the first looks, though it is told late which have ended",
  async () => {
    const { asked, looks, all } = await found(`
      const idle = [];
      let ended = [];
      for (let turn = 0; turn < 50; turn++) {
        const clients = [];
        for (let i = 0; i < 40; i++) clients.push(await Deno.connect(unix.addr));
        const accepted = [];
        for (let i = 0; i < 40; i++) {
          const conn = await unix.accept();
          findDescriptor(conn);
          accepted.push([conn, descriptorOf(conn)]);
        }
        // It is told of those that ended in the last turn when theirs are taken already.
        for (const descriptor of ended) if (descriptor) releaseDescriptor(descriptor);
        if (turn % 10 === 0) idle.push(...clients.splice(0, 20), ...accepted.splice(0, 20));
        for (const client of clients) client.close();
        for (const [conn] of accepted) conn.close();
        ended = accepted.map(([, descriptor]) => descriptor);
      }
      console.log(JSON.stringify(findings()));
      Deno.exit();`);
    assertEquals([asked, all], [2_000, 1]);
    assert(looks < 3 * asked, `${asked} connections took ${looks} looks`);
  },
);

foreignTest(
  "findDescriptor takes no connection for a later one, though it is told too early that it ended",
  async () => {
    assertEquals(
      await found(`
      const accepted = [];
      const right = [];
      for (let i = 0; i < 20; i++) {
        const client = await Deno.connect(unix.addr);
        const conn = await unix.accept();
        findDescriptor(conn);
        const descriptor = descriptorOf(conn);
        await client.write(new Uint8Array([i]));
        const window = new Uint8Array(2);
        right.push(descriptor !== undefined && peek(descriptor.fd, window) === 1 && window[0] === i);
        // As of a WebSocket, whose serving ends before its socket does.
        if (i % 3 === 0 && descriptor) releaseDescriptor(descriptor);
        accepted.push({ client, conn });
        if (i % 4 === 3) accepted.shift().conn.close();
      }
      console.log(JSON.stringify(right));
      Deno.exit();`),
      Array(20).fill(true),
    );
  },
);

foreignTest("findDescriptor takes no copy of a connection for one that comes later", async () => {
  assertEquals(
    await found(`
      const take = async () => {
        const client = await Deno.connect(unix.addr);
        const conn = await unix.accept();
        findDescriptor(conn);
        return { client, conn, descriptor: descriptorOf(conn) };
      };
      const end = ({ conn, descriptor }) => {
        conn.close();
        releaseDescriptor(descriptor);
      };
      const [first, gone] = [await take(), await take()];
      end(gone);
      const copy = duplicate(first.conn, first.descriptor); // It has the descriptor that is free.
      end(first);
      const next = [];
      for (let i = 0; i < 3; i++) {
        const each = await take();
        await each.client.write(new TextEncoder().encode(String(i)));
        const window = new Uint8Array(9);
        next.push(peek(each.descriptor.fd, window) + new TextDecoder().decode(window.slice(0, 1)));
      }
      copy.close();
      console.log(JSON.stringify(next));
      Deno.exit();`),
    ["10", "11", "12"],
  );
});

foreignTest(
  "duplicate() copies no connection that has the descriptor of one that ended",
  async () => {
    assertEquals(
      await found(`
      const tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      const refused = [];
      for (const listener of [tcp, unix]) {
        const take = async () => {
          const client = await Deno.connect(listener.addr);
          const conn = await listener.accept();
          findDescriptor(conn);
          return { client, conn, descriptor: descriptorOf(conn) };
        };
        const first = await take();
        const other = await take();
        first.conn.close();
        // The client's end of the next takes it, or the other.
        const next = await take();
        for (const taken of [first.descriptor, { ...first.descriptor, fd: next.descriptor.fd }]) {
          try {
            duplicate(first.conn, taken);
          } catch (error) {
            refused.push(error.message);
          }
        }
        duplicate(next.conn, next.descriptor).close();
      }
      console.log(JSON.stringify(refused));
      Deno.exit();`),
      Array(4).fill("the client has left"),
    );
  },
);
