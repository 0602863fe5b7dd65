import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { connect as connectTls } from "node:tls";
import { Hono } from "npm:hono@4.13.19";
import { upgradeWebSocket } from "npm:hono@4.13.19/deno";
import { serve } from "../../builtins/serveapi.ts";
import { TypedError } from "../../engine.ts";
import type { UpgradedConnection } from "../../router.ts";
import { lost } from "../../platform/websockets.ts";
import { Authority, type Pair } from "../support/certificates.ts";
import { Client, get, PING, type Target } from "../support/client.ts";
import { Daemon, exchange, installer, isPending, TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { portOf, Served } from "../support/served.ts";
import { settings } from "../support/tls.ts";
import {
  closed,
  Doors,
  handshakeOf,
  message,
  openSocket,
  sendBack,
  upgrade,
  upgradeOf,
} from "../support/upgrades.ts";

/** Adds `/echo`, which sends back what it gets, and gives what it has of its connections. */
function echo({ router }: Served): Promise<UpgradedConnection>[] {
  const connections: Promise<UpgradedConnection>[] = [];
  router.upgradable("/echo");
  router.post("/echo", (c) => {
    const { response, connection } = c.env.upgrade({ "x-more": "1" });
    connections.push(connection);
    sendBack(connection);
    return response;
  });
  return connections;
}

/** Adds `/ws`, which sends back each message, and gives the sockets. */
function echoMessages({ router }: Served): WebSocket[] {
  const sockets: WebSocket[] = [];
  router.get("/ws", (c) => {
    const { response, socket } = Deno.upgradeWebSocket(c.req.raw);
    sockets.push(socket);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  return sockets;
}

// ------------------------------------------------------------------ raw upgrades

foreignTest("c.env.upgrade() gives a handler the connection, with half-close", async () => {
  await using doors = await Doors.open();
  const connections = echo(doors.served);
  for (const { target } of doors.doors) {
    using client = await upgrade(target, upgradeOf("/echo"));
    assertMatch(client.head, /^HTTP\/1\.1 101 UPGRADED\r\n/);
    for (const header of ["connection: Upgrade", "upgrade: tcp", "x-more: 1"]) {
      assertStringIncludes(client.head, `\r\n${header}\r\n`);
    }
    await client.send("abc");
    await client.sees(/^abc$/);
    await client.send("def");
    await client.sees(/^abcdef$/);
    assertEquals((await doors.served.stats()).hijacked, 1);
    await client.conn.closeWrite();
    assertEquals(await client.ended(), "abcdef");
    await (await connections.at(-1)!).closed;
    await doors.empty();
  }
});

foreignTest(
  "c.env.upgrade() gives a connection that is read into a buffer of the reader's own",
  async () => {
    await using doors = await Doors.open();
    const { engine, router } = doors.served;
    const outcomes: string[] = [];
    router.upgradable("/own");
    router.post("/own", (c) => {
      const { response, connection } = c.env.upgrade();
      connection.then(async ({ readable, writable }) => {
        const writer = writable.getWriter();
        const reader = readable.getReader({ mode: "byob" });
        let buffer = new Uint8Array(4);
        for (;;) {
          const { value, done } = await reader.read(buffer);
          if (done) break;
          await writer.write(value);
          buffer = new Uint8Array(value.buffer);
        }
        outcomes.push("read to the end");
        await writer.close();
      });
      return response;
    });
    for (const { target } of doors.doors) {
      using client = await upgrade(target, upgradeOf("/own"));
      await client.send("abcdefghij");
      await client.sees(/^abcdefghij$/);
      await client.conn.closeWrite();
      assertEquals(await client.ended(), "abcdefghij");
    }
    assertEquals(outcomes.length, 2);
    using stays = await upgrade(doors.doors[0]!.target, upgradeOf("/own"));
    await stays.send("a");
    await stays.sees(/^a$/);
    const down = engine.shutdown({ drain: 5_000 });
    // The handler waits in the middle of a read, and ends by itself.
    assertEquals(await stays.ended(), "a");
    assertEquals(outcomes.length, 3);
    await down;
  },
);

foreignTest("c.env.upgrade() lets a handler send its end first, and read on", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  const got = Promise.withResolvers<string>();
  router.upgradable("/x");
  router.post("/x", (c) => {
    const { response, connection } = c.env.upgrade();
    connection.then(async ({ readable, writable }) => {
      const reading = new Response(readable as ReadableStream<Uint8Array<ArrayBuffer>>).text();
      const writer = writable.getWriter();
      await writer.write(new TextEncoder().encode("that is all"));
      await writer.close();
      got.resolve(await reading);
    });
    return response;
  });
  using client = await upgrade(doors.doors[1]!.target, upgradeOf("/x"));
  assertEquals(await client.ended(), "that is all");
  await client.send("and ");
  await client.send("more");
  await client.conn.closeWrite();
  assertEquals(await got.promise, "and more");
  await doors.empty();
});

foreignTest(
  "c.env.upgrade() comes after the request's body, and after what is left of it",
  async () => {
    await using doors = await Doors.open();
    const { router } = doors.served;
    router.upgradable("/*");
    router.post("/body", async (c) => {
      const body = await c.req.text();
      const { response, connection } = c.env.upgrade({ "x-body": body });
      sendBack(connection);
      return response;
    });
    echo(doors.served);
    const body = "x".repeat(70);
    for (const { target } of doors.doors) {
      for (const path of ["/body", "/echo"]) {
        using client = await upgrade(target, upgradeOf(path, body));
        if (path === "/body") assertStringIncludes(client.head, `x-body: ${body}\r\n`);
        await client.send("after");
        await client.conn.closeWrite();
        assertEquals(await client.ended(), "after");
      }
    }
  },
);

foreignTest(
  "a request that asks for an upgrade and gets an answer leaves nothing open",
  async () => {
    await using doors = await Doors.open();
    const { router, engine, lines } = doors.served;
    const kept: Promise<UpgradedConnection>[] = [];
    router.upgradable("/*");
    router.use("/guarded", async (c, next) => {
      if (c.req.header("authorization") === undefined) return c.text("who are you?", 401);
      await next();
    });
    router.use("/replaced", async (c, next) => {
      await next();
      c.res = c.text("no", 409);
    });
    const taking = (after: () => Response | void) => (c: { env: { upgrade(): Upgraded } }) => {
      const { response, connection } = c.env.upgrade();
      kept.push(connection);
      return after() ?? response;
    };
    type Upgraded = { response: Response; connection: Promise<UpgradedConnection> };
    router.post("/guarded", taking(() => {}));
    router.post("/replaced", taking(() => {}));
    router.post("/otherwise", taking(() => new Response("otherwise")));
    router.post("/long", taking(() => new Response("x".repeat(100_000))));
    router.post("/stream", taking(() => new Response(new Blob(["a", "b"]).stream())));
    router.post("/empty", taking(() => new Response(null, { status: 204 })));
    router.post(
      "/throws",
      taking(() => {
        throw new TypedError("not found", "no such thing");
      }),
    );
    const answers: Record<string, [number, string]> = {
      "/guarded": [401, "who are you?"],
      "/replaced": [409, "no"],
      "/otherwise": [200, "otherwise"],
      "/long": [200, "x".repeat(100_000)],
      "/stream": [200, "ab"],
      "/empty": [204, ""],
      "/throws": [404, '{"message":"no such thing"}'],
      "/nothing": [404, '{"message":"page not found: /nothing"}'],
      "/_ping": [405, '{"message":"method POST is not allowed for /_ping, expected GET"}'],
    };
    for (const { target } of doors.doors) {
      for (const [path, [status, body]] of Object.entries(answers)) {
        using client = await Client.to(target);
        const answer = await client.ask(upgradeOf(path));
        assertEquals([answer.status, answer.body, answer.last], [status, body, true], path);
        assertEquals(await client.ended(), "");
      }
    }
    for (const connection of kept) await assertRejects(() => connection);
    await doors.empty();
    assertEquals(engine.stats.running, 1); // serveapi
    assertEquals(lines.filter((line) => line.startsWith("error")), []);
  },
);

foreignTest(
  "a later request of a client that was held with its first one can ask for a raw upgrade",
  async () => {
    await using folder = await TempFolder.make();
    await using served = await Served.bind({}, ["tcp://127.0.0.1:0", `unix://${folder.path}/s`]);
    echo(served);
    const targets: Target[] = [served.target, { transport: "unix", path: `${folder.path}/s` }];
    const clients = await Promise.all(targets.map((target) => Client.to(target)));
    // By the time that they are let in, it is known what they ask for.
    for (const client of clients) await client.send(PING);
    await until(async () => (await served.stats()).listeners.every(({ held }) => held === 1));
    await served.accept();
    for (const client of clients) {
      assertEquals((await client.answer()).status, 200);
      await client.send(upgradeOf("/echo").replace(/Content-Length: 0\r\n/, ""));
      await client.sees(/^HTTP\/1\.1 101 UPGRADED\r\n[^]*\r\n\r\n$/);
      client.rest = "";
      await client.send("abc");
      await client.sees(/^abc$/);
      client.close();
    }
  },
);

foreignTest("a later request on a connection can ask for a raw upgrade", async () => {
  await using doors = await Doors.open();
  echo(doors.served);
  for (const { target } of doors.doors) {
    using client = await Client.to(target);
    for (let i = 0; i < 3; i++) assertEquals((await client.ask(PING)).status, 200);
    await client.send(upgradeOf("/echo").replace(/Content-Length: 0\r\n/, ""));
    await client.sees(/^HTTP\/1\.1 101 UPGRADED\r\n[^]*\r\n\r\n$/);
    client.rest = "";
    await client.send("abc");
    await client.sees(/^abc$/);
    assertEquals((await doors.served.stats()).hijacked, 1);
    await client.conn.closeWrite();
    assertEquals(await client.ended(), "abc");
    await doors.empty();
  }
});

foreignTest(
  "a client that may ask for an upgrade on a kept connection is told to take a new one",
  async () => {
    await using doors = await Doors.open();
    doors.served.router.upgradable("/containers/:id/attach");
    const asks = async (target: Target, path: string, ...headers: string[]) => {
      using client = await Client.to(target);
      const lines = [`GET ${path} HTTP/1.1`, "Host: localhost", ...headers, "", ""];
      return (await client.ask(lines.join("\r\n"))).last;
    };
    const keeps = "Connection: keep-alive";
    for (const { target } of doors.doors) {
      assertEquals(await asks(target, "/containers/json", keeps), true);
      assertEquals(await asks(target, "/v1.24/containers/json?all=1", keeps), true);
      // It may ask for anything before.
      assertEquals(await asks(target, "/_ping", keeps), true);
      // Not those that do not say so, or are a browser.
      assertEquals(await asks(target, "/containers/json"), false);
      assertEquals(await asks(target, "/containers/json", keeps, "Sec-Fetch-Mode: cors"), false);
      assertEquals(await asks(target, "/_ping"), false);
    }
  },
);

foreignTest("a request for a raw upgrade may come in pieces", async () => {
  await using doors = await Doors.open();
  echo(doors.served);
  const request = upgradeOf("/echo", "some body");
  for (const { target } of doors.doors) {
    for (const at of [1, 10, 60, request.indexOf("\r\n\r\n") + 3, request.length - 3]) {
      using client = await Client.to(target);
      await client.send(request.slice(0, at));
      // Long enough that it is seen in two pieces.
      await new Promise((resolve) => setTimeout(resolve, 5));
      await client.send(request.slice(at));
      await client.sees(/^HTTP\/1\.1 101 /);
      await client.conn.closeWrite();
      await client.ended();
    }
  }
});

foreignTest("a client that leaves in the middle of a header is not waited for", async () => {
  await using doors = await Doors.open({ HeaderTimeout: "0" });
  echo(doors.served);
  const head = upgradeOf("/echo");
  for (const { target } of doors.doors) {
    using half = await Client.to(target);
    await half.send(head.slice(0, head.length / 2));
    await half.conn.closeWrite();
    await half.ended();
    const gone = await Client.to(target);
    await gone.send(head.slice(0, head.length / 2));
    gone.close();
    await doors.empty();
  }
});

foreignTest("a request for a raw upgrade may be written as HTTP allows", async () => {
  await using doors = await Doors.open();
  echo(doors.served);
  const up = ["Connection: Upgrade", "Upgrade: tcp", "Content-Length: 0"];
  const of = (line: string, ...lines: string[]) =>
    [line, "Host: localhost", ...lines, "", ""].join("\r\n");
  const request = of("POST /echo HTTP/1.1", ...up);
  const ways = {
    "as it is": [request],
    "behind empty lines": ["\r\n\r\n" + request],
    "in absolute form": [of("POST HTTP://LOCALHOST/echo HTTP/1.1", ...up)],
    "in odd case": [
      of("POST /echo HTTP/1.1", "CONNECTION:uPgRaDe", "upgrade:\tTcP", "CONTENT-length:0"),
    ],
    "with other tokens": [
      of("POST /echo HTTP/1.1", "Connection: keep-alive, Upgrade", "Upgrade: a/2, tcp"),
    ],
    "with a long header": [of("POST /echo HTTP/1.1", `X-Long: ${"a".repeat(15_000)}`, ...up)],
    "with a pause of more than a second": [request.slice(0, 30), 1_200, request.slice(30)],
    // Where the first piece ends, the end of the other client's header is still in the buffer.
    "with a pause where another client's header has ended": [
      of("POST /echo HTTP/1.1"),
      5,
      of("POST /echo HTTP/1.1").slice(0, -2),
      50,
      [...up, "", ""].join("\r\n"),
    ],
  };
  for (const [way, given] of Object.entries(ways)) {
    for (const { target } of doors.doors) {
      const pieces: (string | number)[] = [...given];
      if (way.includes("another")) {
        using other = await Client.to(target);
        assertEquals((await other.ask(pieces.shift() as string)).status, 400);
        pieces.shift();
      }
      using client = await Client.to(target);
      for (const piece of pieces) {
        if (typeof piece === "string") await client.send(piece);
        else await new Promise((resolve) => setTimeout(resolve, piece));
      }
      // What is behind the header belongs to the stream.
      await client.send("abc");
      await client.conn.closeWrite();
      assertMatch(await client.ended(), /^HTTP\/1\.1 101 [^]*\r\n\r\nabc$/, way);
    }
  }
  await doors.empty();
});

foreignTest("HTTP/1.0 knows no upgrades", async () => {
  await using doors = await Doors.open();
  const connections = echo(doors.served);
  const up = "Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
  for (const { target } of doors.doors) {
    using pinging = await Client.to(target);
    await pinging.send(`GET /_ping HTTP/1.0\r\n${up}`);
    assertMatch(await pinging.ended(), /^HTTP\/1\.0 200 /);
    using asking = await Client.to(target);
    await asking.send(`POST /echo HTTP/1.0\r\n${up}`);
    assertMatch(await asking.ended(), /^HTTP\/1\.0 400 [^]*expected a request of HTTP\/1\.1/);
  }
  assertEquals(connections, []);
});

foreignTest("a client that expects 100-continue sends its body before a raw upgrade", async () => {
  await using doors = await Doors.open();
  echo(doors.served);
  const { router } = doors.served;
  router.upgradable("/read");
  router.post("/read", async (c) => {
    const body = await c.req.text();
    const { response, connection } = c.env.upgrade({ "Upgrade": body });
    connection.then(({ readable, writable }) => readable.pipeTo(writable));
    return response;
  });
  for (const { target } of doors.doors) {
    for (const path of ["/read", "/echo"]) {
      using client = await Client.to(target);
      await client.send(upgradeOf(path, "tcp", "Expect: 100-continue").slice(0, -"tcp".length));
      await client.sees(/^HTTP\/1\.1 100 Continue\r\n\r\n$/);
      await client.send("tcpabc");
      await client.conn.closeWrite();
      assertMatch(await client.ended(), /\r\nHTTP\/1\.1 101 [^]*\r\n\r\nabc$/);
    }
    using other = await Client.to(target);
    assertEquals((await other.ask(upgradeOf("/echo", "x", "Expect: a miracle"))).status, 417);
  }
  await doors.empty();
});

foreignTest(
  "a malformed request for a raw upgrade is refused, runs no handler, and is observed",
  async () => {
    await using doors = await Doors.open();
    const observed: (string | number)[] = [];
    doors.served.builtins.observe({
      times: () => false,
      ended: ({ method, request, status }) =>
        void observed.push(`${method} ${new URL(request.url).pathname}`, status),
    });
    const connections = echo(doors.served);
    const header = (...lines: string[]) =>
      [...lines, "Connection: Upgrade", "Upgrade: tcp", "", ""].join("\r\n");
    const host = "Host: localhost";
    const line = "POST /echo HTTP/1.1";
    const refused: [string, number][] = [
      [header(line, host, "Content-Length: 1", "Content-Length: 2"), 400],
      [header(line, host, "Content-Length: -1"), 400],
      [header(line, host, "Content-Length: 0x10"), 400],
      [header(line, host, "Content-Length: 2000000"), 413],
      [header(line, host, "Transfer-Encoding: chunked"), 411],
      [header(line, host, "Transfer-Encoding: chunked", "Content-Length: 0"), 411],
      [header(line, "Host: local host"), 400],
      [header(line, "Host: a/b"), 400],
      [header(line, "Host: a", "Host: b"), 400],
      [header(line, host, "Bad Name: 1"), 400],
      [header(line, host, " folded"), 400],
      [header(line, host, "No-Colon"), 400],
      [header("POST echo HTTP/1.1", host), 400],
      [header("POST  HTTP/1.1", host), 400],
      [header("POST http://other/echo HTTP/1.1", host), 400],
      [header("POST https://localhost/echo HTTP/1.1", host), 400],
      [header("POST /echo", host), 400],
      [header("POST /ec ho HTTP/1.1", host), 400],
      [header("GET /echo HTTP/1.1", host, "Content-Length: 1"), 400],
      [header("TRACE /echo HTTP/1.1", host), 400],
      [header(line, host, "Content-Length:\v0"), 400],
      [header(line, host, "X: a\0b"), 400],
    ];
    for (const [request, status] of refused) {
      using client = await Client.to(doors.doors[1]!.target);
      assertEquals((await client.ask(request)).status, status, request);
      assertEquals(await client.ended(), "");
      const [method, path] = request.split(/[ \r]/);
      const described = `${method === "TRACE" ? "GET" : method} ${
        path!.startsWith("/") ? path : "/"
      }`;
      assertEquals(observed.splice(0), [described, status]);
    }
    assertEquals(connections, []);
    await doors.empty();
  },
);

foreignTest("a header of a raw upgrade that ends as no header does is refused", async () => {
  await using doors = await Doors.open();
  const connections = echo(doors.served);
  for (const { target } of doors.doors) {
    using client = await Client.to(target);
    const head = upgradeOf("/echo").replace(/\r\n$/, "\rX");
    assertEquals((await client.ask(head)).status, 400);
  }
  assertEquals(connections, []);
});

foreignTest("a raw upgrade that is refused gets any answer as other requests do", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  const read = new Response("read");
  await read.text();
  await using origin = Deno.serve({ port: 0, onListen() {} }, () =>
    new Response(
      new Blob(["fetched"]).stream().pipeThrough(new CompressionStream("gzip")),
      { headers: { "content-encoding": "gzip", "x-origin": "\xe9" } },
    ));
  const all: Record<string, () => Response | Promise<Response>> = {
    "/redirect": () => Response.redirect("http://localhost/there", 307),
    "/fetched": () => fetch(`http://127.0.0.1:${origin.addr.port}/`),
    "/error": () => Response.error(),
    "/read": () => read,
    "/empty": () => new Response(null, { status: 204 }),
    "/same": () => new Response(null, { status: 304 }),
    "/whole": () => new Response("whole", { headers: { "content-length": "5" } }),
  };
  router.upgradable("/*");
  for (const [path, answer] of Object.entries(all)) router.get(path, answer);
  for (const { target } of doors.doors) {
    for (const path of Object.keys(all)) {
      const asked = async (request: string) => {
        using client = await Client.to(target);
        const { status, header, body } = await client.ask(request);
        const names = header.split("\r\n").slice(1).filter((line) => !/^date:/.test(line));
        return { status, body, names: names.sort() };
      };
      const up = upgradeOf(path).replace("POST", "GET").replace(/Content-Length: 0\r\n/, "");
      const expected = await asked(get(path));
      assertEquals(await asked(up), expected, path);
    }
  }
  await doors.empty();
});

const bytesOf = (text: string) => Uint8Array.from(text, (character) => character.charCodeAt(0));

foreignTest("a raw upgrade has the headers as they came", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  router.get("/x", (c) => c.json([...c.req.header("x-any")!].map((each) => each.charCodeAt(0))));
  router.upgradable("/x");
  for (const { target } of doors.doors) {
    // In bytes: UTF-8, of which some are others in Windows-1252.
    const bytes = [...new TextEncoder().encode("10 € – é")];
    const text = String.fromCharCode(...bytes);
    for (const up of ["", "Connection: Upgrade\r\nUpgrade: tcp\r\n"]) {
      using client = await Client.to(target);
      const head = `GET /x HTTP/1.1\r\nHost: localhost\r\nX-Any: ${text}\r\n${up}\r\n`;
      await client.send(bytesOf(head));
      const { status, body } = await client.answer();
      assertEquals([status, JSON.parse(body)], [200, bytes]);
    }
  }
});

foreignTest("each request that asks for an upgrade gets one of its own", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  const outcomes: string[] = [];
  router.upgradable("/x");
  router.post("/x", (c) => {
    const id = c.req.query("id")!;
    const { response, connection } = c.env.upgrade({ "x-id": id });
    assertEquals(c.env.upgrade().response, response);
    connection.then(
      () => outcomes.push(`${id} has it`),
      ({ message }) => outcomes.push(`${id}: ${message}`),
    );
    sendBack(connection);
    return id === "second" ? response : c.text("no", 409);
  });
  for (const { target } of doors.doors) {
    using client = await Client.to(target);
    const ask = (id: string) => upgradeOf(`/x?id=${id}`).replace(/Content-Length: 0\r\n/, "");
    assertEquals((await client.ask(PING)).status, 200);
    assertEquals((await client.ask(ask("first"))).status, 409);
    await client.send(ask("second"));
    const [head] = await client.sees(/^HTTP\/1\.1 101 UPGRADED\r\n[^]*\r\n\r\n$/);
    assertStringIncludes(head, "x-id: second");
    assertEquals(outcomes.splice(0), [
      "first: the request was answered otherwise",
      "second has it",
    ]);
    client.close();
    await doors.empty();
  }
});

foreignTest("a connection that cannot be taken back stays one of requests", async () => {
  await using folder = await TempFolder.make();
  const install = installer(`
    router.upgradable("/echo");
    router.get("/echo", (c) => {
      const { response, connection } = c.env.upgrade();
      connection.catch(({ message }) => {
        console.log("refused: " + message);
        files.forEach((file) => file.close());
      });
      // No descriptor is left for the copy.
      const files = [];
      for (;;) {
        try {
          files.push(Deno.openSync("/dev/null"));
        } catch {
          break;
        }
      }
      return response;
    });`);
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(
    ["-H", `unix://${path}`, "-H", "tcp://127.0.0.1:0", "--install", install],
    { descriptors: 80 },
  );
  await daemon.open();
  const targets: Target[] = [{ transport: "unix", path }, { port: await daemon.port() }];
  for (const target of targets) {
    using client = await Client.to(target);
    for (let i = 0; i < 2; i++) {
      assertEquals((await client.ask(PING)).status, 200);
      const ask = upgradeOf("/echo").replace("POST", "GET").replace(/Content-Length: 0\r\n/, "");
      const { status, body } = await client.ask(ask);
      assertEquals(status, 503);
      assertStringIncludes(body, "cannot be hijacked");
    }
  }
  await daemon.says(/refused: fcntl/);
});

foreignTest(
  "a client that leaves before its raw upgrade is answered aborts its request, with a body or not",
  async () => {
    await using doors = await Doors.open();
    const { router } = doors.served;
    const aborted: string[] = [];
    let begun = Promise.withResolvers<void>();
    router.upgradable("/x");
    router.post("/x", async (c) => {
      const body = await c.req.text();
      begun.resolve();
      const { signal } = c.env;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      aborted.push(body);
      return c.text("too late");
    });
    for (const { target } of doors.doors) {
      for (const body of ["", "some body"]) {
        begun = Promise.withResolvers();
        const client = await Client.to(target);
        await client.send(upgradeOf("/x", body));
        await begun.promise;
        client.close();
        await until(() => aborted.pop() === body);
      }
    }
    await doors.empty();
  },
);

foreignTest("c.env.upgrade() explains what it cannot take over", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  router.on(["GET", "POST"], "/x", (c) => c.env.upgrade().response);
  for (const { target } of doors.doors) {
    using plain = await Client.to(target);
    const answer = await plain.ask(get("/x"));
    assertEquals(answer.status, 400);
    assertStringIncludes(answer.body, "expected a request with Connection: Upgrade");
    using undeclared = await Client.to(target);
    const refused = await undeclared.ask(upgradeOf("/x").replace(/Content-Length: 0\r\n/, ""));
    assertEquals(refused.status, 501);
    assertStringIncludes(refused.body, "router.upgradable");
  }
});

foreignTest("a handler that does not use the connection it asked for loses it", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  router.upgradable("/x");
  router.post("/x", (c) => c.env.upgrade().response);
  router.upgradable("/ends");
  router.post("/ends", (c) => {
    const { response, connection } = c.env.upgrade();
    connection.then(({ readable, writable }) => {
      assertEquals(readable.locked, false); // It does not read.
      return writable.close();
    });
    return response;
  });
  const { setTimeout } = globalThis;
  try {
    // Ten seconds, made short: the only timer of that length.
    globalThis.setTimeout = ((callback: () => void, ms: number) =>
      setTimeout(callback, ms === 10_000 ? 20 : ms)) as typeof globalThis.setTimeout;
    for (const { target } of doors.doors) {
      for (const path of ["/x", "/ends"]) {
        using client = await upgrade(target, upgradeOf(path));
        assertEquals(await client.ended(), "");
        await doors.empty();
      }
    }
  } finally {
    globalThis.setTimeout = setTimeout;
  }
});

foreignTest(
  "a raw stream waits for a client that does not read, and for a handler that does not",
  async () => {
    await using doors = await Doors.open();
    const { router } = doors.served;
    let written = 0;
    const resume = Promise.withResolvers<void>();
    let read = 0;
    router.upgradable("/x");
    router.post("/x", (c) => {
      const { response, connection } = c.env.upgrade();
      connection.then(async ({ readable, writable }) => {
        const writer = writable.getWriter();
        const chunk = new Uint8Array(65_536);
        const write = async () => {
          for (; written < 32 * 1024 * 1024; written += chunk.length) await writer.write(chunk);
          await writer.close();
        };
        const writing = write();
        await resume.promise;
        for await (const chunk of readable) read += chunk.length;
        await writing;
      });
      return response;
    });
    using client = await upgrade(doors.doors[1]!.target, upgradeOf("/x"));
    const sending = client.send(new Uint8Array(8 * 1024 * 1024));
    let last = -1;
    await until(() => last === (last = written) && written > 0);
    assert(written < 4 * 1024 * 1024, `${written} bytes written that were not read`);
    assert(await isPending(sending));
    resume.resolve();
    let got = client.rest.length;
    const buffer = new Uint8Array(65_536);
    for (let count; (count = await client.conn.read(buffer)) !== null;) got += count;
    await sending;
    await client.conn.closeWrite();
    await until(() => read === 8 * 1024 * 1024);
    assertEquals(got, 32 * 1024 * 1024);
    await doors.empty();
  },
);

// ------------------------------------------------------------------ WebSockets

Deno.test("Deno.upgradeWebSocket works in a handler", async () => {
  await using doors = await Doors.open();
  const sockets = echoMessages(doors.served);
  for (const { url } of doors.doors) {
    const socket = await openSocket(`${url}/ws`);
    for (const text of ["a", "", "ü".repeat(70_000), "z".repeat(1_000_000)]) {
      const got = message(socket);
      socket.send(text);
      assertEquals(await got, text);
    }
    const ponged = new Promise((resolve) => socket.once("pong", resolve));
    socket.ping();
    await ponged;
    assertEquals((await doors.served.stats()).hijacked, 1);
    socket.close(3001, "bye");
    assertEquals(await closed(socket), { code: 3001, reason: "bye" });
    await until(() => sockets.at(-1)!.readyState === WebSocket.CLOSED);
    await doors.empty();
  }
});

Deno.test("Hono's upgradeWebSocket works, with a subprotocol, and with middleware that adds headers", async () => {
  await using doors = await Doors.open();
  const { router } = doors.served;
  const events: string[] = [];
  router.use("/ws", async (c, next) => {
    await next();
    c.header("x-after", "1"); // Hono makes another response for that.
  });
  router.get(
    "/ws",
    upgradeWebSocket(() => ({
      onOpen: () => void events.push("open"),
      onMessage: (event, ws) => ws.send(`you said ${event.data}`),
      onClose: ({ code, reason }) => void events.push(`close ${code} ${reason}`),
    }), { protocol: "two" }),
  );
  const mounted = new Hono();
  mounted.get(
    "/ws",
    upgradeWebSocket(() => ({ onMessage: ({ data }, ws) => ws.send(data as string) })),
  );
  router.mount("/mounted", mounted.fetch);
  for (const { url } of doors.doors) {
    const inner = await openSocket(`${url}/mounted/ws`);
    const echoed = message(inner);
    inner.send("in there");
    assertEquals(await echoed, "in there");
    inner.close();
    const socket = await openSocket(`${url}/ws`, ["two"]);
    assertEquals(socket.protocol, "two");
    const got = message(socket);
    socket.send("hello");
    assertEquals(await got, "you said hello");
    socket.close(1000, "done");
    await until(() => events.length === 2);
    assertEquals(events.splice(0), ["open", "close 1000 done"]);
  }
  await doors.empty();
});

Deno.test("a WebSocket that its server closes tells its code, and its client's end when that just leaves", async () => {
  await using doors = await Doors.open();
  const sockets = echoMessages(doors.served);
  for (const { url, target } of doors.doors) {
    const socket = await openSocket(`${url}/ws`);
    await until(() => sockets.at(-1)?.readyState === WebSocket.OPEN);
    sockets.at(-1)!.close(4_000, "enough");
    assertEquals(await closed(socket), { code: 4_000, reason: "enough" });
    const client = await upgrade(target, handshakeOf("/ws"));
    client.close();
    await until(() => sockets.at(-1)!.readyState === WebSocket.CLOSED);
    await doors.empty();
  }
});

Deno.test("a request's signal aborts when its WebSocket has ended, and not before", async () => {
  await using doors = await Doors.open();
  let signal: AbortSignal | undefined;
  doors.served.router.get("/ws", (c) => {
    signal = c.env.signal;
    const { response, socket } = Deno.upgradeWebSocket(c.req.raw);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  for (const { url } of doors.doors) {
    const socket = await openSocket(`${url}/ws`);
    const got = message(socket);
    socket.send("hello");
    await got;
    assertEquals(signal!.aborted, false);
    socket.terminate();
    await until(() => signal!.aborted);
  }
  await doors.empty();
});

Deno.test("a handler that answers 101 without an upgrade gets 500 in its place", async () => {
  await using served = await Served.open();
  served.router.get("/x", () => new Response(null, { status: 101 }));
  using client = await Client.to(served.target);
  assertEquals((await client.ask(handshakeOf("/x"))).status, 500);
  await until(() => served.lines.some((line) => line.includes("has not upgraded")));
});

Deno.test("a request that cannot become a WebSocket gets 4xx and one line, and none is logged", async () => {
  await using doors = await Doors.open();
  const { router, engine, lines, builtins } = doors.served;
  const statuses = new Set<number>();
  builtins.observe({ times: () => false, ended: ({ status }) => void statuses.add(status) });
  const upgradeTo = (request: Request) =>
    Deno.upgradeWebSocket(request, { protocol: "two" }).response;
  engine.register("cat", () => {});
  router.all("/ws", (c) => upgradeTo(c.req.raw));
  router.get("/async", async (c) => {
    await Promise.resolve();
    return upgradeTo(c.req.raw);
  });
  router.get("/hono", upgradeWebSocket(() => ({})));
  router.get("/hono/two", (c) => upgradeWebSocket(c, {}));
  const mounted = new Hono();
  mounted.get("/ws", (c) => upgradeTo(c.req.raw));
  router.mount("/mounted", mounted.fetch);
  router.job({ method: "GET", path: "/job", job: "cat", upgrade: "websocket" });
  const mine = new Hono();
  mine.get("/ws", (c) => upgradeTo(c.req.raw));
  const bare = { fetch: (request: Request) => upgradeTo(request) };
  const targets = doors.doors.map(({ target }) => target);
  for (const other of [mine, bare]) {
    const { addresses } = await serve(engine, { addresses: ["tcp://127.0.0.1:0"], router: other });
    targets.push({ hostname: "127.0.0.1", port: portOf(addresses[0]) });
  }
  const wanted = "expected a WebSocket (Connection: Upgrade, Upgrade: websocket)";
  const ask = async (target: Target, request: string, status: number, message: string) => {
    using client = await Client.to(target);
    const answer = await client.ask(request);
    const body = JSON.stringify({ message });
    assertEquals(
      [answer.status, answer.body],
      [status, body],
      `${JSON.stringify(target)} ${request}`,
    );
    assertEquals(/\r\nupgrade: websocket\r\n/.test(answer.header), status === 426);
  };
  for (const target of targets) {
    await ask(target, get("/ws"), 426, wanted);
    const keyless = handshakeOf("/ws").replace(/Sec-WebSocket-Key.*\r\n/, "");
    await ask(target, keyless, 400, "expected a WebSocket, which has a Sec-WebSocket-Key");
    const other = handshakeOf("/ws", "Sec-WebSocket-Protocol: one, three");
    const problem = 'expected "two" among the subprotocols (Sec-WebSocket-Protocol)';
    await ask(target, other, 400, problem);
    const unconnected = handshakeOf("/ws").replace("Connection: Upgrade", "Connection: close");
    await ask(target, unconnected, 426, wanted);
  }
  for (const target of targets.slice(0, 2)) {
    await ask(target, get("/async"), 426, wanted);
    await ask(target, get("/job"), 426, wanted);
    await ask(target, get("/hono/two"), 426, wanted);
    await ask(target, get("/mounted/ws"), 426, wanted);
    await ask(
      target,
      "POST /ws HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
      426,
      wanted,
    );
    await ask(target, get("/hono"), 404, "page not found: /hono");
    using old = await Client.to(target);
    const { status, body } = await old.ask(get("/v1.20/ws"));
    assertEquals([status, body], [426, wanted + "\n"]);
  }
  assertEquals(statuses, new Set([426, 400, 404]));
  await doors.empty();
  assertEquals(lines.filter((line) => /^(warn|error)/.test(line)), []);
});

Deno.test("once Deno keeps too many sockets, WebSockets get 503, and the log says why", async () => {
  await using doors = await Doors.open();
  echoMessages(doors.served);
  const { target, url } = doors.doors[1]!;
  const socket = await openSocket(`${url}/ws`);
  lost.most = lost.sockets = 3;
  try {
    socket.close();
    using client = await Client.to(target);
    const { status, body } = await client.ask(handshakeOf("/ws"));
    assertEquals(status, 503);
    assertStringIncludes(body, "no more WebSockets are served before a restart");
    const said = () => doors.served.lines.filter((line) => /^error 3 clients left as/.test(line));
    await until(() => said().length === 1);
  } finally {
    Object.assign(lost, { sockets: 0, most: undefined, told: false });
  }
});

Deno.test("other TypeErrors of a handler that opens a WebSocket are its own, and logged", async () => {
  await using served = await Served.open();
  served.router.get("/ws", (c) => {
    Deno.upgradeWebSocket(c.req.raw);
    throw new TypeError("a fault of the handler's");
  });
  using client = await Client.to(served.target);
  assertEquals((await client.ask(handshakeOf("/ws"))).status, 500);
  await until(() => served.lines.some((line) => line.includes("a fault of the handler's")));
});

// ------------------------------------------------------------------ both

Deno.test("an upgraded connection has a place under MaxConnections, and is not ended for another", async () => {
  await using served = await Served.open({ MaxConnections: "2", IdleTimeout: "0.1" });
  echoMessages(served);
  const { port } = served.target as Deno.ConnectOptions;
  const url = `ws://127.0.0.1:${port}/ws`;
  const sockets = [await openSocket(url), await openSocket(url)];
  using waiting = await Client.to(served.target);
  const answer = waiting.ask(PING);
  for (const socket of sockets) {
    const got = message(socket);
    socket.send("still here");
    assertEquals(await got, "still here");
  }
  assert(await isPending(answer));
  const { hijacked, shed, timedOut } = await served.stats();
  assertEquals({ hijacked, shed, timedOut }, { hijacked: 2, shed: 0, timedOut: 0 });
  for (const socket of sockets.slice(1)) socket.close();
  assertEquals((await answer).status, 200);
  sockets[0].close();
});

foreignTest("a drain tells upgraded connections, waits for them, and then cuts them", async () => {
  await using doors = await Doors.open();
  const { engine, router } = doors.served;
  const sockets = echoMessages(doors.served);
  const told: string[] = [];
  router.upgradable("/x");
  router.post("/x", (c) => {
    const { response, connection } = c.env.upgrade();
    c.env.signal.addEventListener("abort", () => told.push(c.env.signal.reason.message));
    connection.then(async ({ readable, writable }) => {
      for await (const _ of readable);
      const writer = writable.getWriter();
      await writer.write(new TextEncoder().encode("bye"));
      // It leaves it open: the drain's time is what ends it.
      if (c.req.query("stay") === undefined) await writer.close();
    });
    return response;
  });
  const polite = await Promise.all(doors.doors.map(({ url }) => openSocket(`${url}/ws`)));
  const ends = polite.map(closed);
  const { target } = doors.doors[1]!;
  // A client that does not answer a close.
  const deaf = await upgrade(target, handshakeOf("/ws"));
  const raw = await upgrade(target, upgradeOf("/x"));
  const staying = await upgrade(target, upgradeOf("/x?stay=1"));
  await until(async () => (await doors.served.stats()).hijacked === 5);
  const started = performance.now();
  const down = engine.shutdown({ drain: 1_000 });
  for (const end of ends) assertEquals(await end, { code: 1001, reason: "Going Away" });
  assertEquals(await raw.ended(), "bye");
  raw.close();
  await down;
  assert(performance.now() - started > 900, "those that stay were cut before the drain's time");
  assertEquals(await staying.ended(), "bye");
  assertMatch(await deaf.ended(), /Going Away$/);
  assertEquals(told.length, 2);
  for (const each of told) assertStringIncludes(each, "shutting down");
  assert(sockets.every(({ readyState }) => readyState >= WebSocket.CLOSING));
  for (const each of [staying, deaf]) each.close();
});

foreignTest(
  "a drain of 200 WebSockets and 200 raw streams tells them, waits, and cuts the rest",
  async () => {
    await using folder = await TempFolder.make();
    const install = installer(`
    router.get("/ws", (c) => Deno.upgradeWebSocket(c.req.raw).response);
    const cat = async (job) => {
      job.setenvBool("Tty", true);
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
      await job.print("end of stdin, ");
    };
    engine.register("cat", cat);
    engine.register("stay", async (job) => {
      await cat(job);
      if (!job.signal.aborted) {
        await new Promise((resolve) => job.signal.addEventListener("abort", resolve));
      }
      await job.print(job.signal.reason.message);
      // Writes at intervals until it is cut.
      for (;;) {
        await new Promise((resolve) => setTimeout(resolve, 20));
        await job.print(".");
      }
    });
    for (const job of ["cat", "stay"]) {
      router.job({ method: "POST", path: "/" + job, job, upgrade: "tcp" });
    }`);
    const path = `${folder.path}/s`;
    const limit = 2;
    await using daemon = Daemon.start([
      ...["-H", `unix://${path}`, "-H", "tcp://127.0.0.1:0", "--install", install],
      ...["--shutdown-timeout", String(limit)],
    ]);
    await daemon.open();
    const port = await daemon.port();
    const doors: { target: Target; url: string }[] = [
      { target: { transport: "unix", path }, url: `ws+unix://${path}:/ws` },
      { target: { port }, url: `ws://127.0.0.1:${port}/ws` },
    ];
    // Half of each kind end when they are told.
    const fifty = <T>(each: (door: { target: Target; url: string }) => Promise<T>) =>
      Promise.all(doors.flatMap((door) => Array.from({ length: 50 }, () => each(door))));
    const sockets = await fifty(({ url }) => openSocket(url));
    const deaf = await fifty(({ target }) => upgrade(target, handshakeOf("/ws")));
    const cats = await fifty(({ target }) => upgrade(target, upgradeOf("/cat")));
    const staying = await fifty(({ target }) => upgrade(target, upgradeOf("/stay")));
    for (const raw of [...cats, ...staying]) await raw.send("hello, ");
    for (const raw of [...cats, ...staying]) await raw.sees(/hello, $/);
    const closes = Promise.all(sockets.map(closed));
    const ends = Promise.all(cats.map((raw) => raw.ended()));
    const started = performance.now();
    daemon.kill("SIGTERM");
    const seconds = () => (performance.now() - started) / 1_000;
    assertEquals(new Set((await closes).map((end: { code: number }) => end.code)), new Set([1001]));
    assertEquals(new Set(await ends), new Set(["hello, end of stdin, "]));
    for (const raw of cats) raw.close();
    assert(seconds() < limit, `told after ${seconds()} s`);
    for (const raw of [...deaf, ...staying]) {
      await raw.sees(
        /Going Away$|the daemon is shutting down/,
      );
    }
    assert(seconds() < limit, `told after ${seconds()} s`);
    const cut = Promise.all([...deaf, ...staying].map((raw) => raw.ended()));
    for (const text of await cut) assertMatch(text, /Going Away$|^hello, end of stdin, the daemon/);
    assert(seconds() >= limit - 0.1, `cut after ${seconds()} s`);
    assertEquals((await daemon.status).code, 0);
    assert(seconds() < limit + 3, `ended after ${seconds()} s`);
    for (const raw of [...deaf, ...staying]) raw.close();
  },
);

foreignTest("a request that asks for an upgrade in a drain is answered", async () => {
  await using doors = await Doors.open();
  const { router, engine } = doors.served;
  const asked = Promise.withResolvers<void>();
  const go = Promise.withResolvers<void>();
  router.upgradable("/x");
  router.post("/x", async (c) => {
    asked.resolve();
    await go.promise;
    return c.text("no", 409);
  });
  using client = await Client.to(doors.doors[1]!.target);
  await client.send(upgradeOf("/x"));
  await asked.promise;
  const down = engine.shutdown({ drain: 5_000 });
  go.resolve();
  const { status, body } = await client.answer();
  assertEquals([status, body], [409, "no"]);
  await down;
});

foreignTest("pages of other origins get neither a WebSocket nor a raw stream", async () => {
  await using doors = await Doors.open();
  const sockets = echoMessages(doors.served);
  const connections = echo(doors.served);
  const { target } = doors.doors[0]!;
  const { port } = target as Deno.ConnectOptions;
  const own = `Origin: http://localhost:${port}`;
  for (const [origin, expected] of [["Origin: http://evil.example", 403], [own, 101]] as const) {
    for (const request of [handshakeOf("/ws", origin), upgradeOf("/echo", "", origin)]) {
      const asked = request.replace("Host: localhost", `Host: localhost:${port}`);
      using client = await upgrade(target, asked);
      assertEquals(Number(client.head.split(" ")[1]), expected, origin);
    }
  }
  assertEquals([sockets.length, connections.length], [1, 1]);
  await doors.empty();
});

foreignTest(
  "500 WebSockets and 500 raw streams that are reset in each of their states leave nothing behind",
  async () => {
    await using doors = await Doors.open();
    const { router, engine } = doors.served;
    echoMessages(doors.served);
    const connections = echo(doors.served);
    const slow = Promise.withResolvers<void>();
    router.post("/slow", async (c) => {
      await slow.promise;
      const { response, connection } = c.env.upgrade();
      connections.push(connection);
      sendBack(connection);
      return response;
    });
    router.upgradable("/slow");
    engine.register("cat", async (job) => {
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    });
    router.job({ method: "POST", path: "/job", job: "cat", upgrade: "tcp" });
    router.job({ method: "GET", path: "/jobs", job: "cat", upgrade: "websocket" });
    const sockets = [handshakeOf("/ws"), handshakeOf("/jobs")];
    const requests = [
      ...[upgradeOf("/echo"), upgradeOf("/job"), upgradeOf("/slow"), upgradeOf("/echo", "a body")],
      ...[...sockets, ...sockets, upgradeOf("/nothing"), PING],
    ];
    // A round has four of each kind, for each state and each address.
    const ROUNDS = 63;
    const descriptors = () => [...Deno.readDirSync("/proc/self/fd")].length;
    const resetAt: ((target: Target, request: string) => Promise<void>)[] = [
      async (target, request) => {
        using client = await Client.to(target);
        await client.send(request.slice(0, request.length / 2));
      },
      async (target, request) => {
        using client = await Client.to(target);
        await client.send(request); // And gone before the answer.
      },
      async (target, request) => {
        using client = await Client.to(target);
        await client.send(request);
        if (!request.includes("/slow")) await client.sees(/\r\n\r\n/);
      },
      async (target, request) => {
        using client = await Client.to(target);
        await client.send(request);
        if (!request.includes("/slow")) await client.more();
        // What is not read makes a reset of the close.
        await client.send("x".repeat(10_000)).catch(() => {});
      },
      async (target, request) => {
        using client = await Client.to(target);
        await client.send(request);
        await client.conn.closeWrite();
        // The daemon may have cut it already.
        if (!request.includes("/slow")) await client.more().catch(() => {});
      },
    ];
    let before = 0;
    for (let round = 1; round <= ROUNDS; round++) {
      for (const { target } of doors.doors) {
        await Promise.all(
          requests.flatMap((request) => resetAt.map((reset) => reset(target, request))),
        );
      }
      slow.resolve();
      if (round > 1 && round % 16 > 0 && round < ROUNDS) continue;
      await doors.empty();
      await until(() => engine.stats.running === 1);
      await Promise.all(
        connections.splice(0).map((each) => each.then(({ closed }) => closed, () => {})),
      );
      if (round === 1) before = descriptors();
    }
    await until(() => descriptors() <= before);
    const { hijacked, listeners } = await doors.served.stats();
    assertEquals([hijacked, ...listeners.map(({ open }: { open: number }) => open)], [0, 0, 0]);
    assertEquals((await doors.served.stats()).work.requests, 0);
  },
);

// ------------------------------------------------------------------ TLS

/** All that a request over TLS gets, until its connection ends; it half-closes after `more`. */
async function overTls(
  authority: Authority,
  port: number,
  pair: Pair,
  request: string,
  more: string,
): Promise<string> {
  const file = (path: string) => Deno.readTextFileSync(path);
  const options = {
    host: "localhost",
    port,
    ca: file(authority.ca),
    allowHalfOpen: true, // The types do not know it.
    cert: file(pair.cert),
    key: file(pair.key),
  };
  const socket = connectTls(options);
  let text = "";
  let sent = false;
  socket.setEncoding("latin1");
  socket.write(request);
  const ended = Promise.withResolvers<void>();
  socket.on("data", (chunk: string) => {
    text += chunk;
    if (sent || !text.includes("\r\n\r\n")) return;
    sent = true;
    socket.end(more);
  });
  socket.on("close", () => ended.resolve());
  socket.on("error", ended.reject);
  await ended.promise;
  return text;
}

Deno.test("WebSockets work over TLS, with client certificates or without", async () => {
  await using authority = await Authority.make();
  const server = await authority.server();
  const client = await authority.client();
  for (const ca of [undefined, authority.ca]) {
    await using served = await Served.open(settings(server, ca));
    const sockets = echoMessages(served);
    const options = {
      ca: Deno.readTextFileSync(authority.ca),
      ...ca && { cert: Deno.readTextFileSync(client.cert), key: Deno.readTextFileSync(client.key) },
    };
    const { port } = served.target as Deno.ConnectOptions;
    const socket = await openSocket(`wss://localhost:${port}/ws`, [], options);
    for (const text of ["abc", "d".repeat(1_000_000)]) {
      const got = message(socket);
      socket.send(text);
      assertEquals(await got, text);
    }
    // The time itself is what is tested: longer than a TLS connection may linger (1 s), and than
    // the pause of a sweep.
    await new Promise((resolve) => setTimeout(resolve, 1_500));
    const got = message(socket);
    socket.send("still here");
    assertEquals(await got, "still here");
    assertEquals((await served.stats()).hijacked, 1);
    const end = closed(socket);
    const down = served.engine.shutdown({ drain: 5_000 });
    assertEquals(await end, { code: 1001, reason: "Going Away" });
    await down;
    assertEquals(sockets.map(({ readyState }) => readyState), [WebSocket.CLOSED]);
  }
});

foreignTest("raw upgrades work behind client certificates, and know the client", async () => {
  await using authority = await Authority.make();
  await using served = await Served.open(settings(await authority.server(), authority.ca));
  served.router.upgradable("/x");
  served.router.post("/x", (c) => {
    const { response, connection } = c.env.upgrade({ "x-client": c.env.client!.subject });
    sendBack(connection);
    return response;
  });
  const { port } = served.target as Deno.ConnectOptions;
  const pair = await authority.client("alice", "/CN=alice");
  const more = "x".repeat(300_000);
  const text = await overTls(authority, port!, pair, upgradeOf("/x", "a body"), more);
  assertMatch(text, /^HTTP\/1\.1 101 UPGRADED\r\n/);
  assertStringIncludes(text, "\r\nx-client: CN=alice\r\n");
  assertEquals(text.split("\r\n\r\n")[1], more);
  await until(async () => (await served.stats()).open === 0);
});

foreignTest(
  "a malformed request for a raw upgrade runs no handler behind client certificates, either",
  async () => {
    await using authority = await Authority.make();
    await using served = await Served.open(settings(await authority.server(), authority.ca));
    let ran = 0;
    served.router.upgradable("/x");
    served.router.post("/x", (c) => c.text(`${++ran}`));
    const { port } = served.target as Deno.ConnectOptions;
    const pair = await authority.client("alice", "/CN=alice");
    const request = upgradeOf("/x", "", "Content-Length: 3");
    assertMatch(await overTls(authority, port!, pair, request, "x"), /^HTTP\/1\.1 400 /);
    assertEquals(ran, 0);
    assertEquals((await served.stats()).requests, 0);
  },
);

foreignTest(
  "a takeover lets WebSockets and raw streams go on in the process that has them",
  async () => {
    await using folder = await TempFolder.make();
    const go = `${folder.path}/go`;
    const install = installer(`
    const { existsSync } = await import("node:fs");
    router.upgradable("/late");
    router.use("/late", async (c, next) => {
      while (!existsSync("${go}")) await new Promise((resolve) => setTimeout(resolve, 10));
      await next();
    });
    router.job({ method: "POST", path: "/late", job: "cat", upgrade: "tcp" });
    router.get("/ws", (c) => {
      const { response, socket } = Deno.upgradeWebSocket(c.req.raw);
      socket.onmessage = ({ data }) => socket.send(data + " of " + Deno.pid);
      return response;
    });
    router.get("/pid", (c) => c.text(String(Deno.pid)));
    engine.register("cat", async (job) => {
      job.setenvBool("Tty", true);
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
      await job.print("bye");
    });
    router.job({ method: "POST", path: "/cat", job: "cat", upgrade: "tcp" });`);
    const path = `${folder.path}/s`;
    const given = [
      ...["-H", `unix://${path}`, "--handover", `${folder.path}/h`, "--install", install],
      ...["--shutdown-timeout", "6"],
    ];
    await using old = Daemon.start(given);
    await old.open();
    const target: Target = { transport: "unix", path };
    const sockets = await Promise.all(
      Array.from({ length: 200 }, () => openSocket(`ws+unix://${path}:/ws`)),
    );
    const raws = await Promise.all(
      Array.from({ length: 200 }, () => upgrade(target, upgradeOf("/cat"))),
    );
    const closes = Promise.all(sockets.map(closed));
    // It is answered only when the other process has taken over.
    const late = upgrade(target, upgradeOf("/late"));
    using idle = await Client.to(target);
    await idle.ask(PING);
    await using next = Daemon.start([...given, "--takeover"]);
    await next.open();
    await until(async () => (await exchange(target, get("/pid"))).endsWith(String(next.pid)));
    // The old one drains by now, and has a second less than its time for what is still open.
    await old.says(/draining/);
    await idle.ended();
    await Deno.writeTextFile(go, "");
    raws.push(await late);
    await Promise.all([
      ...sockets.map(async (socket: Awaited<ReturnType<typeof openSocket>>) => {
        const got = message(socket);
        socket.send("hello");
        assertEquals(await got, `hello of ${old.pid}`);
      }),
      ...raws.map(async (raw) => {
        await raw.send("hello");
        await raw.sees(/^hello$/);
      }),
    ]);
    assertEquals(new Set((await closes).map((end: { code: number }) => end.code)), new Set([1001]));
    for (const raw of raws) {
      assertEquals(await raw.ended(), "hellobye");
      raw.close();
    }
    assertEquals((await old.status).code, 0);
    assertEquals(await next.end(), 0);
  },
);

Deno.test("of WebSockets that open at once, all stay open", async () => {
  await using folder = await TempFolder.make();
  const path = `${folder.path}/s`;
  const install = installer(`
    router.get("/ws", (c) => {
      const { response, socket } = Deno.upgradeWebSocket(c.req.raw);
      socket.onmessage = ({ data }) => socket.send(data);
      return response;
    });`);
  await using daemon = Daemon.start(["-H", `unix://${path}`, "--install", install]);
  await daemon.open();
  const sockets = await Promise.all(
    Array.from({ length: 600 }, () => openSocket(`ws+unix://${path}:/ws`)),
  );
  await Promise.all(sockets.map(async (socket: (typeof sockets)[number]) => {
    const got = message(socket);
    socket.send("hello");
    assertEquals(await got, "hello");
  }));
  sockets.forEach((socket: (typeof sockets)[number]) => socket.terminate());
});
