import { assert, assertEquals, assertRejects, assertStrictEquals, assertThrows } from "@std/assert";
import { type Acceptor, Activation, ConnectionLimit, ListenBuffer } from "../listenbuffer.ts";
import { FakeClock } from "./support/clock.ts";
import { isPending, settle, until } from "./support/daemon.ts";

/** A listener whose connections and errors the test hands out. */
class Fake implements Acceptor<FakeConn, Deno.NetAddr> {
  readonly addr: Deno.NetAddr = { transport: "tcp", hostname: "127.0.0.1", port: 1 };
  closed = false;
  accepts = 0;
  #ready: (FakeConn | Error)[] = [];
  #waiter?: PromiseWithResolvers<FakeConn> | undefined;
  accept(): Promise<FakeConn> {
    this.accepts++;
    if (this.#waiter) return Promise.reject(new Deno.errors.Busy("another accept is pending"));
    const next = this.#ready.shift();
    if (next instanceof Error) return Promise.reject(next);
    if (next) return Promise.resolve(next);
    this.#waiter = Promise.withResolvers();
    return this.#waiter.promise;
  }
  push(...items: (FakeConn | Error)[]): void {
    for (const item of items) {
      const waiter = this.#waiter;
      this.#waiter = undefined;
      if (!waiter) this.#ready.push(item);
      else if (item instanceof Error) waiter.reject(item);
      else waiter.resolve(item);
    }
  }
  close(): void {
    if (this.closed) throw new Deno.errors.BadResource("closed already");
    this.closed = true;
    this.#waiter?.reject(new Deno.errors.BadResource("Listener has been closed"));
  }
  get waiting(): number {
    return this.#ready.length;
  }
}
class FakeConn {
  closed = false;
  constructor(readonly id: number, readonly error?: Error) {}
  close(): void {
    this.closed = true;
    if (this.error) throw this.error;
  }
}
const conns = (n: number) => Array.from({ length: n }, (_, i) => new FakeConn(i));

class CodedError extends Error {
  constructor(readonly code: string) {
    super(`${code} happened`);
  }
}

Deno.test("Activation.opened waits until open, and then resolves at once for all", async () => {
  const gate = new Activation();
  const waiting = [gate.opened, gate.opened];
  assertEquals(gate.state, "shut");
  assertEquals(await isPending(waiting[0]!), true);
  gate.open();
  await Promise.all(waiting);
  await gate.opened;
  assertEquals(gate.state, "open");
});

Deno.test("Activation.fail rejects all who wait, now or later, with the reason", async () => {
  const gate = new Activation();
  const reason = new Error("no disk");
  const early = assertRejects(() => gate.opened);
  gate.fail(reason);
  assertStrictEquals(await early, reason);
  assertStrictEquals(await assertRejects(() => gate.opened), reason);
  gate.open();
  assertEquals(gate.state, "failed");
});

Deno.test("Activation.fail after open does nothing", async () => {
  const gate = new Activation();
  gate.open();
  gate.fail(new Error("too late"));
  await gate.opened;
  assertEquals(gate.state, "open");
});

Deno.test("Activation.fail without a waiter is no unhandled rejection", async () => {
  new Activation().fail(new Error("no waiter"));
  await settle();
});

Deno.test("ListenBuffer is a Deno.Listener over tcp", async () => {
  const gate = new Activation();
  using listener: Deno.Listener = new ListenBuffer(
    Deno.listen({ port: 0, hostname: "127.0.0.1" }),
    gate,
  ) as Deno.Listener;
  const { port } = listener.addr as Deno.NetAddr;
  const client = await Deno.connect({ port, hostname: "127.0.0.1" });
  const accepted = listener.accept();
  assertEquals(await isPending(accepted), true);
  gate.open();
  const server = await accepted;
  await client.write(new Uint8Array([7]));
  const bytes = new Uint8Array(1);
  await server.read(bytes);
  assertEquals(bytes[0], 7);
  listener.unref();
  listener.ref();
  client.close();
  server.close();
});

Deno.test("ListenBuffer gives held unix connections in order of arrival", async () => {
  const folder = await Deno.makeTempDir();
  const gate = new Activation();
  const path = `${folder}/s`;
  using listener = new ListenBuffer(Deno.listen({ transport: "unix", path }), gate);
  const clients: Deno.Conn[] = [];
  for (let i = 0; i < 20; i++) {
    const client = await Deno.connect({ transport: "unix", path });
    await client.write(new Uint8Array([i]));
    clients.push(client);
  }
  await until(() => listener.stats.held === 20);
  gate.open();
  const seen: number[] = [];
  for await (const conn of listener) {
    const bytes = new Uint8Array(1);
    await conn.read(bytes);
    seen.push(bytes[0]!);
    conn.close();
    if (seen.length === 20) break;
  }
  assertEquals(seen, Array.from({ length: 20 }, (_, i) => i));
  clients.forEach((client) => client.close());
  await Deno.remove(folder, { recursive: true });
});

Deno.test("ListenBuffer holds at most hold connections, and the kernel queues the rest", async () => {
  const fake = new Fake();
  const gate = new Activation();
  using buffer = new ListenBuffer(fake, gate, { hold: 3 });
  fake.push(...conns(5));
  await until(() => buffer.stats.held === 3);
  await settle();
  assertEquals([buffer.stats.held, fake.waiting], [3, 2]);
  gate.open();
  const ids = [];
  for (let i = 0; i < 5; i++) ids.push((await buffer.accept()).id);
  assertEquals(ids, [0, 1, 2, 3, 4]);
});

Deno.test("ListenBuffer with hold 0 accepts nothing before the gate opens", async () => {
  const fake = new Fake();
  const gate = new Activation();
  using buffer = new ListenBuffer(fake, gate, { hold: 0 });
  const first = buffer.accept();
  fake.push(...conns(2));
  await settle();
  assertEquals(fake.accepts, 0);
  gate.open();
  assertEquals((await first).id, 0);
});

Deno.test("ListenBuffer behind a gate that was opened before starts open", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  using buffer = new ListenBuffer(fake, gate);
  fake.push(...conns(1));
  assertEquals((await buffer.accept()).id, 0);
});

Deno.test("ListenBuffer serves several waiters, and several listeners share one gate", async () => {
  const gate = new Activation();
  const fakes = [new Fake(), new Fake()];
  const buffers = fakes.map((fake) => new ListenBuffer(fake, gate));
  const accepted = buffers.map((buffer) => [buffer.accept(), buffer.accept()]);
  fakes.forEach((fake) => fake.push(...conns(2)));
  gate.open();
  for (const pair of accepted) {
    assertEquals((await Promise.all(pair)).map((conn) => conn.id), [0, 1]);
  }
  buffers.forEach((buffer) => buffer.close());
});

Deno.test("ListenBuffer never has two accepts pending on its listener", async () => {
  const gate = new Activation();
  const fake = new Fake();
  using buffer = new ListenBuffer(fake, gate);
  await settle();
  const all = Array.from({ length: 10 }, () => buffer.accept());
  gate.open();
  for (const conn of conns(10)) {
    fake.push(conn);
    await settle();
  }
  assertEquals((await Promise.all(all)).map((conn) => conn.id), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
  assertEquals(buffer.stats.acceptErrors, 0);
});

Deno.test("ListenBuffer whose gate fails closes what it holds and its listener, and rejects", async () => {
  const gate = new Activation();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate);
  const held = conns(3);
  fake.push(...held);
  await until(() => buffer.stats.held === 3);
  const reason = new Error("the boot failed");
  const waiting = assertRejects(() => buffer.accept());
  gate.fail(reason);
  assertStrictEquals(await waiting, reason);
  assertStrictEquals(await assertRejects(() => buffer.next()), reason);
  assertEquals(held.map((conn) => conn.closed), [true, true, true]);
  assertEquals([fake.closed, buffer.stats.refused, buffer.stats.active], [true, 3, 0]);
});

Deno.test("ListenBuffer.close ends the loop, rejects waiters and closes what is held", async () => {
  const gate = new Activation();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate);
  const [held] = conns(1);
  fake.push(held!);
  await until(() => buffer.stats.held === 1);
  const loop = (async () => {
    for await (const _ of buffer) throw new Error("nothing should come out");
  })();
  const waiting = assertRejects(() => buffer.accept(), Deno.errors.BadResource);
  buffer.close();
  await Promise.all([loop, waiting]);
  assertEquals([held!.closed, fake.closed], [true, true]);
  await assertRejects(() => buffer.accept(), Deno.errors.BadResource);
  buffer.close();
});

Deno.test("ListenBuffer.close logs what cannot be closed, and not what was closed already", async () => {
  const fake = new Fake();
  const lines: string[] = [];
  const buffer = new ListenBuffer(fake, new Activation(), {
    log: (level, message) => lines.push(`${level} ${message}`),
  });
  const gone = new Deno.errors.BadResource("Bad resource ID");
  const held = [new FakeConn(0, new CodedError("EIO")), new FakeConn(1, gone), new FakeConn(2)];
  fake.push(...held);
  await until(() => buffer.stats.held === 3);
  const late = new FakeConn(3, new CodedError("EBADF"));
  fake.push(late); // It is accepted, and has not come out of accept() yet.
  buffer.close();
  await settle();
  assertEquals([...held, late].map(({ closed }) => closed), [true, true, true, true]);
  assertEquals(fake.closed, true);
  assertEquals(lines, [
    "warn closing a connection: EIO happened",
    "warn closing a connection: EBADF happened",
  ]);
  assertEquals(buffer.stats.refused, 4);
});

Deno.test("ListenBuffer ends when the listener it wraps is closed", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate);
  const next = buffer.next();
  await settle();
  fake.close();
  assertEquals(await next, { value: undefined, done: true });
});

Deno.test("ListenBuffer accepts on at once after an error of one connection", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const pressure: boolean[] = [];
  using buffer = new ListenBuffer(fake, gate, { onPressure: (on) => pressure.push(on) });
  const codes = [
    "ECONNABORTED",
    "ECONNRESET",
    "ENOTCONN",
    "EPROTO",
    "EPERM",
    "ETIMEDOUT",
    "EWHATEVER",
  ];
  const started = performance.now();
  for (let i = 0; i < 100; i++) fake.push(...codes.map((code) => new CodedError(code)));
  fake.push(...conns(1));
  assertEquals((await buffer.accept()).id, 0);
  assertEquals([buffer.stats.acceptErrors, pressure], [700, []]);
  // With the shortest wait after each, it would take 3.5 s.
  assert(performance.now() - started < 3_000);
});

Deno.test("ListenBuffer lets the event loop go on while every accept fails", async () => {
  const gate = new Activation();
  gate.open();
  let accepts = 0;
  const failing = {
    addr: undefined,
    accept: () => Promise.reject(new CodedError(accepts++ < 10_000 ? "ENOTCONN" : "EMFILE")),
    close: () => {},
  };
  using _buffer = new ListenBuffer(failing, gate, {});
  _buffer.accept().catch(() => {}); // It ends with the buffer.
  await settle();
  assert(accepts < 10_000, "no other thing had its turn");
});

Deno.test("ListenBuffer survives EMFILE: waits, logs once a burst, calls onPressure", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const lines: string[] = [];
  const pressure: boolean[] = [];
  using buffer = new ListenBuffer(fake, gate, {
    log: (level, message) => lines.push(`${level} ${message}`),
    onPressure: (on) => pressure.push(on),
  });
  const started = performance.now();
  fake.push(...Array.from({ length: 4 }, () => new CodedError("EMFILE")), ...conns(2));
  assertEquals((await buffer.accept()).id, 0);
  // 5 + 10 + 20 + 40 ms, of which a timer may take a little off.
  assertEquals(performance.now() - started > 70, true);
  assertEquals((await buffer.accept()).id, 1);
  assertEquals(lines, ["warn accept: EMFILE happened, going on"]);
  assertEquals([buffer.stats.acceptErrors, pressure], [4, [true, false]]);
});

Deno.test("ListenBuffer.close ends the wait after an accept error", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate);
  const next = buffer.next();
  fake.push(...Array.from({ length: 20 }, () => new CodedError("ENFILE")));
  await until(() => buffer.stats.acceptErrors >= 3);
  buffer.close();
  assertEquals(await next, { value: undefined, done: true });
});

Deno.test("ListenBuffer pauses at maxConnections and goes on when one is released", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const pressure: boolean[] = [];
  using buffer = new ListenBuffer(fake, gate, {
    maxConnections: 2,
    onPressure: (on) => pressure.push(on),
  });
  fake.push(...conns(3));
  await buffer.accept();
  await buffer.accept();
  const third = buffer.accept();
  assertEquals(await isPending(third), true);
  assertEquals([fake.waiting, buffer.stats.active, pressure], [1, 2, [true]]);
  buffer.release();
  assertEquals((await third).id, 2);
  assertEquals([buffer.stats.active, pressure], [2, [true, false]]);
});

Deno.test("ListenBuffer with maxConnections Infinity has no limit", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  using buffer = new ListenBuffer(fake, gate, { maxConnections: Infinity });
  fake.push(...conns(2));
  assertEquals([(await buffer.accept()).id, (await buffer.accept()).id], [0, 1]);
  buffer.release();
  assertEquals([buffer.stats.active, buffer.stats.acceptErrors], [1, 0]);
});

Deno.test("ConnectionLimit is shared by listeners and counts what they hold", async () => {
  const gate = new Activation();
  const limit = new ConnectionLimit(3);
  const [a, b] = [new Fake(), new Fake()];
  using first = new ListenBuffer(a, gate, { maxConnections: limit });
  using second = new ListenBuffer(b, gate, { maxConnections: limit });
  a.push(...conns(2));
  await until(() => first.stats.held === 2);
  b.push(...conns(2));
  await until(() => second.stats.held === 1);
  await settle();
  assertEquals([limit.active, limit.full, b.waiting], [3, true, 1]);
  assertThrows(() => new ConnectionLimit(0), RangeError, "expected at least 1");
});

Deno.test("ListenBuffer.drain takes what is queued before it closes", async () => {
  const gate = new Activation();
  gate.open();
  using listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const { port } = listener.addr;
  const buffer = new ListenBuffer(listener, gate);
  const clients = await Promise.all(
    Array.from({ length: 50 }, () => Deno.connect({ port, hostname: "127.0.0.1" })),
  );
  const drained = buffer.drain();
  let count = 0;
  for await (const conn of buffer) {
    count++;
    conn.close();
  }
  await drained;
  assertEquals(count, 50);
  clients.forEach((client) => client.close());
});

Deno.test("ListenBuffer.drain waits for room for queued clients, longer than for new ones", async () => {
  using clock = new FakeClock();
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate, { maxConnections: 1 });
  fake.push(...conns(2));
  assertEquals((await buffer.accept()).id, 0);
  const next = buffer.accept();
  const drained = buffer.drain({ limit: 10_000 });
  await clock.pass(2_000);
  assert(await isPending(drained));
  buffer.release();
  assertEquals((await next).id, 1);
  buffer.release();
  await clock.pass(40);
  await drained;
  assertEquals([fake.closed, buffer.stats.accepted], [true, 2]);
});

Deno.test("ListenBuffer.drain serves a client that is being accepted when it closes", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  fake.close = () => {
    fake.closed = true;
    fake.push(new FakeConn(7)); // The accept had ended already, without a caller to get the connection.
    fake.push(new Deno.errors.BadResource("Listener has been closed"));
  };
  const buffer = new ListenBuffer(fake, gate);
  const next = buffer.accept();
  await buffer.drain();
  const connection = await next;
  assertEquals([connection.id, connection.closed, buffer.stats.refused], [7, false, 0]);
  await assertRejects(() => buffer.accept(), Deno.errors.BadResource);
});

Deno.test("ListenBuffer closes the listener when its loop is left", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate);
  fake.push(...conns(1));
  for await (const conn of buffer) {
    assertEquals(conn.id, 0);
    break;
  }
  assertEquals(fake.closed, true);
});

Deno.test("ListenBuffer goes on after EINTR", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  using buffer = new ListenBuffer(fake, gate);
  fake.push(
    Object.assign(new Deno.errors.Interrupted("interrupted"), { code: "EINTR" }),
    ...conns(1),
  );
  assertEquals((await buffer.accept()).id, 0);
});

Deno.test("ListenBuffer.close rejects waiters although the listener's close throws", async () => {
  const gate = new Activation();
  const fake = new Fake();
  fake.close = () => {
    throw new Error("stuck");
  };
  const lines: string[] = [];
  const buffer = new ListenBuffer(fake, gate, { log: (_, message) => lines.push(message) });
  const waiting = assertRejects(() => buffer.accept(), Deno.errors.BadResource);
  buffer.close();
  await waiting;
  assertEquals(lines, ["closing the listener: stuck"]);
});

Deno.test("ListenBuffer survives an onPressure that throws", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  using buffer = new ListenBuffer(fake, gate, {
    onPressure: () => {
      throw new Error("no");
    },
  });
  fake.push(new CodedError("EMFILE"), ...conns(1));
  assertEquals((await buffer.accept()).id, 0);
});

Deno.test("ListenBuffer.forEach calls with held connections once the gate is open, then with new ones", async () => {
  const gate = new Activation();
  const fake = new Fake();
  const buffer = new ListenBuffer(fake, gate, { maxConnections: 3 });
  fake.push(...conns(2));
  await until(() => buffer.stats.held === 2);
  const taken: number[] = [];
  const ended = buffer.forEach(({ id }) => taken.push(id));
  await settle();
  assertEquals([taken, await isPending(ended)], [[], true]);
  gate.open();
  await until(() => taken.length === 2);
  assertEquals(buffer.stats.held, 0);
  fake.push(new FakeConn(2), new FakeConn(3));
  await until(() => taken.length === 3);
  await settle();
  assertEquals([taken, fake.waiting], [[0, 1, 2], 1]); // No more than the limit.
  buffer.release();
  await until(() => taken.length === 4);
  buffer.close();
  await ended;
  assertEquals(fake.closed, true);
});

Deno.test("ListenBuffer.forEach ends with the listener, and rejects if the gate has failed", async () => {
  const gate = new Activation();
  const buffer = new ListenBuffer(new Fake(), gate);
  const ended = buffer.forEach(() => {});
  gate.fail(new Error("no disk"));
  await assertRejects(() => ended, Error, "no disk");
  await assertRejects(() => buffer.forEach(() => {}), Error, "no disk");

  const closed = new ListenBuffer(new Fake(), new Activation());
  closed.close();
  await closed.forEach(() => {});
});

Deno.test("ListenBuffer.forEach gets the client that is being accepted when a drain closes", async () => {
  const gate = new Activation();
  gate.open();
  const fake = new Fake();
  fake.close = () => {
    fake.closed = true;
    fake.push(new FakeConn(7)); // The accept had ended already, which the buffer had not been told.
    fake.push(new Deno.errors.BadResource("Listener has been closed"));
  };
  const buffer = new ListenBuffer(fake, gate);
  const taken: FakeConn[] = [];
  const ended = buffer.forEach((connection) => taken.push(connection));
  await buffer.drain();
  await ended;
  assertEquals(taken.map(({ id, closed }) => [id, closed]), [[7, false]]);
});
