/**
 * What builtins/runtime.ts leans on in Deno, each thing by itself. When a release fails one of these,
 * the first line of the failure says what of the daemon is broken on it.
 *
 * @module
 */

import { assertEquals, assertRejects, assertStringIncludes, assertThrows } from "@std/assert";
import { answersEarly, denoIsFrom, requireProfiler, runtimeFault } from "../../platform/deno.ts";
import { bodyKind, headerOf, nativeServe, type Served } from "../../platform/http.ts";
import { foreignFunctionsProblem } from "../../platform/descriptors.ts";
import { formatTcp } from "../../platform/libc.ts";
import {
  adopt,
  ANYWHERE,
  deepenQueue,
  endsOf,
  inspectSocket,
  observe,
  shutConnections,
} from "../../platform/sockets.ts";
import { project, run, settle, TempFolder, testWhere } from "../support/daemon.ts";

/** A test of one thing that the daemon needs, and what breaks without. */
function needs(
  name: string,
  breaks: string,
  fn: () => Promise<void>,
  test: typeof Deno.test.ignore = Deno.test,
): void {
  test(name, async () => {
    try {
      await fn();
    } catch (cause) {
      throw new Error(`broken on Deno ${Deno.version.deno}: ${breaks}`, { cause });
    }
  });
}

const foreign = foreignFunctionsProblem();
const foreignTest = testWhere(!foreign, `what needs the C library: ${foreign}`);

/** Both ends of a connection that the native loop serves. */
class Pair implements Disposable {
  readonly client: Deno.Conn;
  readonly served: Served;
  /** Ends it at once. */
  cancel = () => {};

  private constructor(client: Deno.Conn, conn: Deno.Conn, handler: Parameters<Serving>[2]) {
    this.client = client;
    const signal = {
      addEventListener: (_: "abort", cancel: () => void) => void (this.cancel = cancel),
    };
    this.served = nativeServe()(conn, signal, handler, () => Response.error(), () => {});
    this.served.finished.catch(() => {}); // Tests that are about it await it.
  }
  static async make(handler: Parameters<Serving>[2]): Promise<Pair> {
    using listener = Deno.listen(ANYWHERE);
    const client = await Deno.connect({ ...ANYWHERE, port: listener.addr.port });
    return new Pair(client, await listener.accept(), handler);
  }
  /** Sends a request. */
  async ask(): Promise<void> {
    await this.client.write(new TextEncoder().encode("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"));
  }
  /** Reads until what came has this in it, or the connection ends. */
  async reads(end?: string): Promise<string> {
    let text = "";
    const buffer = new Uint8Array(1_024);
    for (let count; (count = await this.client.read(buffer)) !== null;) {
      text += new TextDecoder().decode(buffer.subarray(0, count));
      if (end !== undefined && text.includes(end)) break;
    }
    return text;
  }
  [Symbol.dispose](): void {
    this.client.close();
  }
}
type Serving = ReturnType<typeof nativeServe>;

needs(
  "Deno[Deno.internal].serveHttpOnConnection serves a connection that somebody else accepted",
  "no request is answered",
  async () => {
    using pair = await Pair.make((request) => new Response(`at ${new URL(request.url).pathname}`));
    await pair.ask();
    assertStringIncludes(await pair.reads("at /"), "HTTP/1.1 200 OK\r\n");
    await pair.served.shutdown();
    await pair.served.finished;
  },
);

needs(
  "serveHttpOnConnection takes any object with addEventListener for a signal, which cuts the connection",
  "no timeout ends a connection, and no drain",
  async () => {
    using pair = await Pair.make(() => new Response("OK"));
    await pair.ask();
    await pair.reads("OK");
    pair.cancel();
    assertEquals(await pair.reads(), "");
    await pair.served.finished;
  },
);

needs(
  "shutdown() of a served connection ends it after the answer that is under way",
  "a drain cuts answers, or never ends",
  async () => {
    const asked = Promise.withResolvers<void>();
    const answer = Promise.withResolvers<Response>();
    using pair = await Pair.make(() => {
      asked.resolve();
      return answer.promise;
    });
    await pair.ask();
    await asked.promise;
    const shut = pair.served.shutdown();
    answer.resolve(new Response("whole"));
    assertStringIncludes(await pair.reads(), "whole");
    await shut;
    await pair.served.finished;
  },
);

needs(
  "headerOf asks the native loop for one header and leaves request.headers alone",
  "requests on plain tcp take a sixth longer",
  async () => {
    const seen = Promise.withResolvers<unknown[]>();
    using pair = await Pair.make((request) => {
      Object.defineProperty(request, "headers", { value: "not to be looked at" });
      seen.resolve([headerOf(request, "host"), headerOf(request, "origin")]);
      return new Response("OK");
    });
    await pair.ask();
    await pair.reads("OK");
    assertEquals(await seen.promise, ["localhost", null]);
    await pair.served.shutdown();
  },
  testWhere(denoIsFrom("2.8.3"), "what asks for a header of a request by itself"),
);

Deno.test("headerOf reads the headers of any request", () => {
  const request = new Request("http://localhost", { headers: { origin: "http://pages.example" } });
  assertEquals(headerOf(request, "origin"), "http://pages.example");
  assertEquals(headerOf(request, "sec-fetch-site"), null);
});

needs(
  "Request has its signal from a getter under Symbol(signal), for fetch too",
  "a request with a body takes half as long again: router.ts asks each for its signal",
  async () => {
    const symbols = Object.getOwnPropertySymbols(Request.prototype);
    const symbol = symbols.find(({ description }) => description === "signal")!;
    const { signal } = new AbortController();
    const request = new Request("http://localhost");
    Object.defineProperty(request, symbol, { get: () => signal });
    assertEquals(request.signal, signal);
    const gone = new Request("http://localhost:1");
    Object.defineProperty(gone, symbol, { get: () => AbortSignal.abort() });
    await assertRejects(() => fetch(gone), DOMException, "aborted");
  },
);

needs(
  "bodyKind tells short answers, streams, and what is long or not known",
  "connections count as idle too early, or not before --send-timeout, and requests take a sixth longer",
  async () => {
    const text = "\u20ac".repeat(65_536 / 3);
    const kinds = (...answers: Response[]) => answers.map(bodyKind);
    const short = [new Response("OK"), Response.json({}), new Response("OK", { status: 404 })];
    const headers = { "Content-Type": "application/json", "Server": "Floodgate" };
    short.push(new Response("{}", { headers }), new Response("{}", { headers }).clone());
    short.push(new Response(text), new Response(new Uint8Array(65_536)));
    short.push(new Response(null, { status: 204 }), Response.redirect("http://localhost"));
    short.push(new Response(""), new Response(new URLSearchParams("a=b")));
    assertEquals(kinds(...short), short.map(() => "small"));
    const long = [new Response(text + "."), new Response(new Uint8Array(65_537), { headers })];
    long.push(Response.json(text));
    assertEquals(kinds(...long), long.map(() => "long"));
    const streams = [new Response(new ReadableStream()), new Response(new Blob(["OK"]))];
    assertEquals(kinds(...streams), streams.map(() => "stream"));
    // Nothing of them was used up.
    assertEquals(await short[3].text(), "{}");
    await Promise.all(streams.map((answer) => answer.body!.cancel()));
  },
);

needs(
  "info.completed of a request settles when its client has taken a streamed answer, or has left",
  "answers of unknown size are counted wrong, and their connections ended too early or late",
  async () => {
    for (const leaves of [false, true]) {
      const stream = Promise.withResolvers<ReadableStreamDefaultController<Uint8Array>>();
      const settled = Promise.withResolvers<void>();
      let before = true;
      const pair = await Pair.make((request, { completed }) => {
        completed.then(settled.resolve, () => settled.resolve());
        // Whether the client is there is looked at only while somebody listens.
        request.signal.addEventListener("abort", () => {});
        return new Response(new ReadableStream({ start: (control) => stream.resolve(control) }));
      });
      await pair.ask();
      const control = await stream.promise;
      control.enqueue(new TextEncoder().encode("part"));
      await pair.reads("part");
      settled.promise.then(() => before = false);
      await settle();
      assertEquals(before, true);
      if (leaves) pair.client.close();
      else control.close();
      await settled.promise;
      if (!leaves) pair.client.close();
      await pair.served.finished.catch(() => pair.served.shutdown());
    }
  },
);

needs(
  "request.signal of a served request is aborted when its client leaves",
  "jobs go on for clients that have left",
  async () => {
    const left = Promise.withResolvers<void>();
    const asked = Promise.withResolvers<void>();
    let served: Served;
    {
      using pair = await Pair.make(async (request) => {
        request.signal.addEventListener("abort", () => left.resolve());
        asked.resolve();
        await left.promise;
        return new Response("to nobody");
      });
      served = pair.served;
      await pair.ask();
      await asked.promise;
    }
    await left.promise;
    // How it ends differs: before Deno 2.8 it rejects, and what is left of it has to be shut down.
    await served.finished.catch(() => served.shutdown());
  },
);

needs(
  "the warning about request.signal is one that silenceLegacyAbort() knows",
  "the daemon's log shows Deno's warning about a Deno.serve that nobody called",
  async () => {
    const program = (silence: string) => `
      import { silenceLegacyAbort } from ${JSON.stringify(project("platform/http.ts"))};
      ${silence};
      const answered = Promise.withResolvers();
      const server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, (request) => {
        request.signal.addEventListener("abort", answered.resolve);
        return new Response("OK");
      });
      await (await fetch("http://127.0.0.1:" + server.addr.port)).text();
      await Promise.race([answered.promise, server.shutdown()]);
      console.warn("another warning");`;
    const [silent, loud] = await Promise.all(
      ["silenceLegacyAbort()", ""].map((silence) =>
        run(Deno.execPath(), ["eval", "--no-lock", program(silence)], { env: { NO_COLOR: "1" } })
      ),
    );
    assertEquals([silent.code, silent.stderr], [0, "another warning\n"]);
    // A Deno that does not warn at all is as good.
    assertEquals(
      loud.stderr.replace(/^Deno\.serve: request\.signal aborts .*\n/, ""),
      silent.stderr,
    );
  },
);

needs(
  "a listener's descriptor is found in /proc/self/fd by the address it has",
  "certificates cannot be renewed, and the queue of unix sockets is short",
  async () => {
    await using folder = await TempFolder.make();
    const options = { transport: "unix", path: `${folder.path}/s` } as const;
    for (const listen of [() => Deno.listen(ANYWHERE), () => Deno.listen(options)]) {
      const { listener, fd } = observe<Deno.Listener>(listen);
      using _ = listener;
      const { addr } = listener;
      assertEquals(
        inspectSocket(fd!).address,
        "path" in addr ? `unix://${addr.path}` : formatTcp(addr as Deno.NetAddr),
      );
    }
  },
  foreignTest,
);

needs(
  "Deno's event loop watches with epoll, so that a listener accepts from a socket put behind it",
  "fd:// addresses cannot be listened on, and certificates not be renewed",
  async () => {
    const { listener: first, fd } = observe(() => Deno.listen(ANYWHERE));
    const { addr } = first;
    const { listener: second } = adopt(() => Deno.listen(ANYWHERE), fd!);
    using _ = second;
    first.close();
    using client = await Deno.connect({ ...ANYWHERE, port: addr.port });
    using accepted = await second.accept();
    assertEquals(accepted.remoteAddr, client.localAddr);
  },
  foreignTest,
);

/** More clients than Deno's own listener lets wait, and what the kernel allows at most. */
const [CLIENTS, allowed] = [
  1_100,
  foreign ? 0 : Number(Deno.readTextFileSync("/proc/sys/net/core/somaxconn")),
];
needs(
  "listen(2) on a unix listener lengthens its queue",
  "more than 1 024 clients at once are refused during a boot that blocks",
  async () => {
    await using folder = await TempFolder.make();
    const path = `${folder.path}/s`;
    using listener = Deno.listen({ transport: "unix", path });
    deepenQueue(listener);
    const clients = await Promise.allSettled(
      Array.from({ length: CLIENTS }, () => Deno.connect({ transport: "unix", path })),
    );
    const connected = clients.flatMap((client) =>
      client.status === "fulfilled" ? [client.value] : []
    );
    connected.forEach((client) => client.close());
    assertEquals(connected.length, CLIENTS);
  },
  testWhere(allowed >= CLIENTS, `a queue of ${CLIENTS}, with net.core.somaxconn at ${allowed}`),
);

needs(
  "shutdown(2) ends a connection that Deno holds",
  "a TLS client that stops in the middle keeps its descriptor",
  async () => {
    using listener = Deno.listen(ANYWHERE);
    using client = await Deno.connect({ ...ANYWHERE, port: listener.addr.port });
    using accepted = await listener.accept();
    shutConnections(new Set([endsOf(accepted)]));
    assertEquals(await client.read(new Uint8Array(1)), null);
  },
  foreignTest,
);

Deno.test("denoIsFrom compares the numbers of releases", () => {
  const versions = ["2.4.0", "2.7.14", "2.8.0", "2.8.10+abc1234", "2.10.0-rc.1", "3.0.0"];
  const from = (release: string) => versions.map((version) => denoIsFrom(release, version));
  assertEquals(from("2.4.0"), [true, true, true, true, true, true]);
  assertEquals(from("2.8.0"), [false, false, true, true, true, true]);
  assertEquals(from("2.8.3"), [false, false, false, true, true, true]);
});

Deno.test("runtimeFault names what an operator should know, and nothing on a good release", () => {
  const faults = ["2.1.14", "2.2.0", "2.8.2", "2.8.3", "2.9.5", "2.9.6", "2.10.0"]
    .map((version) => runtimeFault(version)?.replace(/^Deno (\S+) (\S+).*/, "$1 $2"));
  assertEquals(faults, [
    "2.1.14 is",
    undefined,
    undefined,
    "2.8.3 stalls",
    "2.9.5 stalls",
    undefined,
    undefined,
  ]);
  assertEquals(["2.8.2", "2.8.3", "2.9.6"].map(answersEarly), [true, false, true]);
});

Deno.test("requireProfiler refuses a Deno that cannot load the profiler", () => {
  assertThrows(
    () => requireProfiler("2.7.14"),
    Error,
    "Deno 2.7.14 cannot load the profiler, expected Deno 2.8.0 or newer",
  );
  requireProfiler("2.8.0");
});
