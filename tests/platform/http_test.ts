import { connect } from "node:http2";
import { assert, assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import {
  addHeaders,
  answers,
  type BodyGuard,
  type BodySource,
  guardBody,
  headerOf,
  nativeServe,
  NativeSource,
  onGone,
  Probe,
  type Served,
  setUrl,
  staticBody,
  urlOf,
  watchReads,
} from "../../platform/http.ts";
import { ANYWHERE } from "../../platform/sockets.ts";
import { isPending, project, run, settle } from "../support/daemon.ts";
import { needs } from "../support/platform.ts";

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
    await this.send("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n");
  }
  async send(text: string): Promise<void> {
    await this.client.write(new TextEncoder().encode(text));
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
  "Deno[Deno.internal].serveHttpOnConnection serves a connection that its caller accepted",
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
);

needs(
  "an answer keeps its headers in Symbol(response).headerList, also where they cannot be changed",
  "all answers of plain Hono routes take longer, and a redirect fails for want of a Server header",
  async () => {
    const answers = [
      new Response("text"),
      Response.json({}, { headers: { "X-Mine": "own" } }),
      new Response(null, { status: 204 }),
      Response.redirect("http://localhost/"),
    ];
    for (const answer of answers) {
      addHeaders(answer, [["x-mine", "added"], ["x-other", "added"]]);
      using pair = await Pair.make(() => answer);
      await pair.ask();
      const text = (await pair.reads("\r\n\r\n")).toLowerCase();
      const mine = answer === answers[1] ? "own" : "added";
      assertEquals(text.match(/^x-(mine|other): \w*/gm), [`x-mine: ${mine}`, "x-other: added"]);
      await pair.served.shutdown();
    }
  },
);

needs(
  "an answer is made of Symbol(response).status, headerList and body, where these are set",
  "answers of jobs take longer",
  async () => {
    const make = answers(201, [["Content-Type", "application/json"], ["X-Mine", "own"]]);
    for (const body of ['{"a":"ä"}', new TextEncoder().encode('{"a":"ä"}')]) {
      using pair = await Pair.make(() => make(body));
      await pair.ask();
      const text = await pair.reads("}");
      assertMatch(text, /^HTTP\/1\.1 201 Created\r\n/);
      assertMatch(text, /^content-type: application\/json\r$/im);
      assertMatch(text, /^content-length: 10\r$/im);
      assertStringIncludes(text, '\r\n\r\n{"a":"ä"}');
      await pair.served.shutdown();
      // As any other, and none has a part of another.
      const [one, two] = [make(body), make(body)];
      one.headers.set("X-Mine", "changed");
      assertEquals([two.headers.get("x-mine"), two.status, two.bodyUsed], ["own", 201, false]);
      assertEquals(await two.clone().json(), { a: "ä" });
      assertEquals([staticBody(one), await two.json(), two.bodyUsed], [body, { a: "ä" }, true]);
    }
    assertThrows(() => answers(99, []), RangeError);
    assertThrows(() => answers(200, [["X-A", "a\nb"]]), TypeError);
  },
);

needs(
  "a native request keeps its URL in Symbol(request).url(), for its copies too",
  "on unix sockets and behind --tlsverify c.req.url begins with http+unix:",
  async () => {
    const seen = Promise.withResolvers<string[]>();
    using pair = await Pair.make((request) => {
      const before = urlOf(request);
      setUrl(request, "https://other.example/y?z");
      seen.resolve([before, request.url, request.clone().url, new Request(request).url]);
      return new Response("OK");
    });
    await pair.ask();
    await pair.reads("OK");
    const other = "https://other.example/y?z";
    assertEquals(await seen.promise, ["http://localhost/", other, other, other]);
    await pair.served.shutdown();
  },
);

Deno.test("headerOf reads the headers of any request", () => {
  const request = new Request("http://localhost", { headers: { origin: "http://pages.example" } });
  assertEquals(headerOf(request, "origin"), "http://pages.example");
  assertEquals(headerOf(request, "sec-fetch-site"), null);
});

/** A guard that keeps nothing back, and tells what it was asked. */
class Watchman implements BodyGuard {
  readonly asked: string[] = [];
  readonly leaving = new AbortController();
  readonly gone = false;
  get signal(): AbortSignal {
    return this.leaving.signal;
  }
  take(size: number, native: boolean): void {
    this.asked.push(`take ${size} ${native}`);
  }
  async collect(source: BodySource): Promise<Uint8Array> {
    this.asked.push(`collect ${source instanceof NativeSource}`);
    return await new Response(this.wrap(source) as BodyInit).bytes();
  }
  wrap(source: BodySource): ReadableStream<Uint8Array> {
    this.asked.push(`wrap ${source instanceof NativeSource}`);
    return new ReadableStream<Uint8Array>({
      async pull(controller) {
        if (source instanceof NativeSource) {
          const room = new Uint8Array(4_096);
          const count = await source.read(room);
          return count === 0 ? controller.close() : controller.enqueue(room.subarray(0, count));
        }
        const { value, done } = await source.read();
        return done ? controller.close() : controller.enqueue(value);
      },
    }, { highWaterMark: 0 });
  }
}

needs(
  "guardBody stands between the body of a served request and whatever reads it",
  "a handler reads bodies of any length, or of a request that is made anew, in several times the time",
  async () => {
    const guards: Watchman[] = [];
    const ways: ((request: Request) => Promise<unknown>)[] = [
      (request) => request.text(),
      (request) => request.json(),
      (request) => request.arrayBuffer(),
      (request) => request.clone().text(),
      (request) => new Request(request).text(),
      (request) => new Response(request.body).text(),
    ];
    using pair = await Pair.make(async (request) => {
      const guard = new Watchman();
      const way = ways[guards.push(guard) - 1]!;
      assert(guardBody(request, guard) === request);
      assertEquals([request.bodyUsed, guard.asked], [false, []]);
      await way(request);
      assertEquals(await request.text().catch(() => "used"), way === ways[3] ? '"ab"' : "used");
      return new Response("done.");
    });
    for (let i = 0; i < ways.length; i++) {
      await pair.send('POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\n"ab"');
      assertStringIncludes(await pair.reads("done."), "200 OK");
    }
    const taken = ["take 4 true"];
    const wrapped = ["wrap false"];
    assertEquals(guards.map(({ asked }) => asked), [
      taken,
      taken,
      taken,
      wrapped,
      wrapped,
      wrapped,
    ]);
    await pair.served.shutdown();
  },
);

needs(
  "NativeSource reads what comes in pieces, and the next body of that length comes whole",
  "a POST of 1 kB takes twice as long",
  async () => {
    const guard = new Watchman();
    using pair = await Pair.make(async (request) => {
      guardBody(request, guard);
      return new Response(`${(await request.bytes()).length}.`);
    });
    for (let i = 0; i < 3; i++) {
      const body = "x".repeat(3_000);
      await pair.send(`POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3000\r\n\r\n${body}`);
      assertStringIncludes(await pair.reads("3000."), "200 OK");
    }
    assertEquals(guard.asked, ["collect true", "wrap true", "take 3000 true", "take 3000 true"]);
    await pair.served.shutdown();
  },
);

needs(
  "a guarded request has its guard's signal, and is not aborted by its answer",
  "what a handler does in the background for a POST ends with its answer",
  async () => {
    const guards = [new Watchman(), new Watchman()];
    const requests: Request[] = [];
    using pair = await Pair.make((request) => {
      guardBody(request, guards[requests.push(request) - 1]!);
      return new Response(`${request.signal.aborted}.`);
    });
    for (let i = 0; i < 2; i++) {
      await pair.send("POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nbody");
      assertStringIncludes(await pair.reads("false."), "200 OK");
    }
    assertEquals(requests[0]!.signal.aborted, false);
    guards[0]!.leaving.abort();
    assertEquals(requests.map(({ signal }) => signal.aborted), [true, false]);
    await pair.served.shutdown();
  },
);

needs(
  "staticBody gives the body that an answer holds whole, and uses nothing up",
  "requests take a sixth longer, and answers that are not taken are not seen",
  async () => {
    const headers = { "Content-Type": "application/json", "Server": "Floodgate" };
    const bytes = new Uint8Array(70_000);
    const answers = [
      new Response("OK"),
      new Response("OK", { status: 404 }),
      new Response("OK", { headers }),
      new Response("OK", { headers }).clone(),
    ];
    assertEquals(answers.map(staticBody), ["OK", "OK", "OK", "OK"]);
    assertEquals(staticBody(Response.json({})), "{}");
    assertEquals(staticBody(new Response(new URLSearchParams("a=b"))), "a=b");
    assertEquals(staticBody(new Response(bytes, { headers })), bytes);
    const none = [
      new Response(null),
      new Response(null, { status: 204 }),
      Response.redirect("http://localhost"),
    ];
    assertEquals(none.map(staticBody), [null, null, null]);
    const streams = [new Response(new ReadableStream()), new Response(new Blob(["OK"]))];
    assertEquals(streams.map(staticBody), [undefined, undefined]);
    // Nothing of them was used up.
    assertEquals(await answers[3]!.text(), "OK");
    await Promise.all(streams.map((answer) => answer.body!.cancel()));
  },
);

needs(
  "Probe tells HTTP/2 from HTTP/1 by how its answer is waited for",
  "an HTTP/2 connection whose client takes nothing can fill the memory, or every one is taken for HTTP/2",
  async () => {
    const probes: Probe[] = [];
    const handler = () => {
      const probe = new Probe(Promise.resolve(new Response("OK")));
      probes.push(probe);
      return probe as unknown as Promise<Response>;
    };
    using one = await Pair.make(handler);
    await one.ask();
    await one.reads("OK");
    using listener = Deno.listen(ANYWHERE);
    const session = connect(`http://127.0.0.1:${listener.addr.port}`);
    const served = nativeServe()(
      await listener.accept(),
      { addEventListener() {} },
      handler,
      () => Response.error(),
      () => {},
    );
    await new Promise((resolve) => session.request().on("response", resolve));
    assertEquals(probes.map(({ http2 }) => http2), [false, true]);
    session.destroy();
    await served.finished.catch(() => {}); // The client does not say goodbye.
    await one.served.shutdown();
  },
);

needs(
  "watchReads sees when the native loop asks for a chunk, when it waits, and tells the source",
  "streams take several microseconds more a chunk",
  async () => {
    let reads = 0;
    const cancelled = Promise.withResolvers<unknown>();
    const released = Promise.withResolvers<void>();
    let gone: Promise<unknown> | undefined;
    const go = Promise.withResolvers<void>();
    const made = Promise.withResolvers<ReturnType<typeof watchReads>>();
    using pair = await Pair.make(() => {
      let chunks = 0;
      const stream = new ReadableStream({
        async pull(controller) {
          if (++chunks === 3) await go.promise;
          controller.enqueue(new TextEncoder().encode(`chunk ${chunks}`));
        },
        cancel(reason) {
          cancelled.resolve(reason);
          return released.promise;
        },
      }, { highWaterMark: 0 });
      made.resolve(watchReads(stream, () => reads++, (released) => gone = released));
      return new Response(stream);
    });
    await pair.ask();
    await pair.reads("chunk 2");
    const watched = (await made.promise)!;
    assertEquals([reads, watched.pending], [3, true]);
    go.resolve();
    // The client takes no more, and the loop asks for no more than it can keep.
    await pair.reads("chunk 3");
    watched.fail("whatever");
    assertEquals(await cancelled.promise, "whatever");
    assertEquals(await isPending(gone!), true);
    released.resolve();
    await gone;
    watched.fail("again"); // It has ended.
    await pair.served.finished.catch(() => {}); // It fails with the answer.
    // What the loop reads in another way cannot be watched.
    using file = await Deno.open(new URL(import.meta.url));
    assertEquals(watchReads(file.readable, () => {}, () => {}), undefined);
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
        // Deno checks for the client only while the signal has a listener.
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
  "onGone calls back when the client of a served request leaves, and asks for no signal",
  "jobs go on for clients that have left, or each that looks for that takes twice as long",
  async () => {
    const left = Promise.withResolvers<void>();
    const asked = Promise.withResolvers<void>();
    let served: Served;
    {
      using pair = await Pair.make(async (request) => {
        Object.defineProperty(request, "signal", { value: "not to be looked at" });
        onGone(request, () => left.resolve());
        asked.resolve();
        await left.promise;
        return new Response("to nobody");
      });
      served = pair.served;
      await pair.ask();
      await asked.promise;
    }
    await left.promise;
    await served.finished;
    const leaving = new AbortController();
    const reason = Promise.withResolvers<unknown>();
    onGone(new Request("http://localhost", { signal: leaving.signal }), reason.resolve);
    leaving.abort("enough");
    assertEquals(await reason.promise, "enough");
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
        return new Response("discarded");
      });
      served = pair.served;
      await pair.ask();
      await asked.promise;
    }
    await left.promise;
    await served.finished;
  },
);

needs(
  "the warning about request.signal is one that silenceLegacyAbort() knows",
  "the daemon's log shows Deno's warning about a Deno.serve that was not called",
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
    assertEquals([silent!.code, silent!.stderr], [0, "another warning\n"]);
    // A Deno that does not warn at all is as good.
    assertEquals(
      loud!.stderr.replace(/^Deno\.serve: request\.signal aborts .*\n/, ""),
      silent!.stderr,
    );
  },
);
