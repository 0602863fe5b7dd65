/**
 * Requests that are none: a seeded generator, so that what breaks a server once breaks it again.
 *
 * @module
 */

/** A request to try. */
export interface Attack {
  /** What is wrong with it. */
  name: string;
  /** What is sent, in as many writes. */
  parts: (string | Uint8Array)[];
  /** How the client leaves: it waits for the end, closes its half, or is gone at once. */
  leaves: "waits" | "half" | "reset";
  /** Whether a server may take it as whole, answer, and wait for more. */
  complete: boolean;
  /** Whether the answers so far are all that will come. */
  done(text: string): boolean;
  /** What is wrong with the answers, if anything. */
  check(text: string, statuses: string[]): string | undefined;
}

/** What the daemon has to have that they go to: the body of a module's `install`. */
export const ECHO = `
  engine.register("echo", async (job) => { await job.print("<" + await job.stdin.text() + ">"); });
  router.job({ method: "POST", path: "/echo", job: "echo", body: "stdin", contentType: "text/plain" });`;

/** Mulberry32: small, seeded, good enough to vary. */
function random(seed: number): () => number {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

const SECRET = "smuggled";

/** The attack with this number: the same one each time. */
export function malformed(number: number): Attack {
  const next = random(number + 1);
  const int = (n: number) => Math.floor(next() * n);
  const pick = <T>(of: readonly T[]): T => of[int(of.length)]!;
  const bytes = (n: number) => Uint8Array.from({ length: n }, () => int(256));
  const word = (n: number) =>
    Array.from({ length: n }, () => String.fromCharCode(97 + int(26))).join("");
  const host = "Host: localhost\r\n";
  const answers = (n: number) => (text: string) =>
    (text.match(/HTTP\/1\.[01] \d{3} /g)?.length ?? 0) >= n &&
    (/\r\n\r\n[^]*(\}|>|OK)$/.test(text) || /content-length: 0\r\n[^]*\r\n\r\n$/i.test(text));
  const attack = (name: string, parts: Attack["parts"], more: Partial<Attack> = {}): Attack => ({
    name,
    parts,
    leaves: "half",
    complete: true,
    done: answers(1),
    check: () => undefined,
    ...more,
  });
  const smuggle = `GET /${SECRET} HTTP/1.1\r\n${host}\r\n`;

  switch (number % 12) {
    case 0: // broken request lines
      return attack("request line", [
        pick([
          "GET\r\n\r\n",
          "GET /\r\n\r\n",
          `GET / HTTP/${int(99)}.${int(99)}\r\n${host}\r\n`,
          `${word(int(40))}\r\n\r\n`,
          ` GET / HTTP/1.1\r\n${host}\r\n`,
          `GET  /  HTTP/1.1\r\n${host}\r\n`,
          `G\0T / HTTP/1.1\r\n${host}\r\n`,
          `GET /${String.fromCharCode(int(32))} HTTP/1.1\r\n${host}\r\n`,
          `GET http:// HTTP/1.1\r\n${host}\r\n`,
          `${word(3000)} / HTTP/1.1\r\n${host}\r\n`,
          `GET / HTTP/1.1 ${word(5)}\r\n${host}\r\n`,
          `GET /%${word(2)}%zz/../..//./?%=%&&#x HTTP/1.1\r\n${host}\r\n`,
          `CONNECT ${word(5)}:80 HTTP/1.1\r\n${host}\r\n`,
          `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`,
        ]),
      ]);
    case 1: // header bombs
      return attack("header bomb", [
        `GET / HTTP/1.1\r\n${host}` +
        pick([
          () =>
            Array.from({ length: 50 + int(3000) }, (_, i) => `X-${i}: ${word(10)}\r\n`).join(""),
          () => `X: ${"a".repeat(1 + int(300_000))}\r\n`,
          () => `${"X".repeat(1 + int(100_000))}: a\r\n`,
          () => "Cookie: a=b\r\n".repeat(int(500)),
        ])() + "\r\n",
      ]);
    case 2: // bad chunking
      return attack("chunking", [
        `POST /echo HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n`,
        pick([
          "zz\r\nabc\r\n0\r\n\r\n",
          "-1\r\nabc\r\n0\r\n\r\n",
          "ffffffffffffffffff\r\nabc\r\n",
          "5\r\nabc\r\n0\r\n\r\n",
          "3\r\nabcdef\r\n0\r\n\r\n",
          "3;" + "x".repeat(int(50_000)) + "\r\nabc\r\n0\r\n\r\n",
          "3\nabc\n0\n\n",
          "0x3\r\nabc\r\n0\r\n\r\n",
          "3\r\nabc\r\n0\r\n" + "T: x\r\n".repeat(int(2_000)) + "\r\n",
          "3 \r\nabc\r\n0\r\n\r\n",
          "\r\n3\r\nabc\r\n0\r\n\r\n",
        ]),
      ]);
    case 3: // lengths
      return attack("length", [
        `POST /echo HTTP/1.1\r\n${host}Content-Length: ` +
        pick([
          "-1",
          "+3",
          "3 3",
          "0x3",
          "9".repeat(30),
          "1e3",
          "",
          " ",
          "3,3",
          "3.0",
          "٣",
          "18446744073709551617",
        ]) +
        "\r\n\r\nabc",
      ]);
    case 4: // binary
      return attack("binary", [bytes(1 + int(4_000))]);
    case 5: // early closes
      return attack("early close", [
        pick([
          "GET / HT",
          "GET /_ping HTTP/1.1\r\nHos",
          `POST /echo HTTP/1.1\r\n${host}Content-Length: 1000\r\n\r\nabc`,
          `POST /echo HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n5\r\nab`,
          `GET /events HTTP/1.1\r\n${host}\r\n`,
        ]),
      ], { leaves: pick(["half", "reset"] as const), complete: false });
    case 6: { // pipelining: as many answers as requests, in order
      const tokens = Array.from({ length: 2 + int(8) }, () => word(8));
      return attack(
        "pipelining",
        [tokens.map((token) => `GET /${token} HTTP/1.1\r\n${host}\r\n`).join("")],
        {
          leaves: "waits",
          done: answers(tokens.length),
          check: (text) => {
            const seen = [...text.matchAll(/page not found: \/([a-z]+)/g)].map(([, token]) =>
              token
            );
            return seen.join() === tokens.join()
              ? undefined
              : `answers mixed: ${seen} for ${tokens}`;
          },
        },
      );
    }
    case 7: // Content-Length beside Transfer-Encoding
      return attack("CL.TE", [
        `POST /echo HTTP/1.1\r\n${host}` +
        pick([
          "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
          "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
          "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
          "Transfer-Encoding: identity, chunked\r\nContent-Length: 5\r\n",
          "Transfer-Encoding:\tchunked\r\nContent-Length: 6\r\n",
          "Transfer-Encoding : chunked\r\nContent-Length: 5\r\n",
          "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
          "Transfer-Encoding: chunked, gzip\r\n",
          "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        ]) + `\r\n0\r\n\r\n${smuggle}`,
      ], {
        check: (text, statuses) =>
          // If the body ends at the chunk of size 0, what follows is a request of its own; else it
          // is part of the body. What must not be is both fields obeyed in turn.
          statuses.length > 1 && !/<>|"message"/.test(text)
            ? `odd answers: ${statuses}`
            : undefined,
      });
    case 8: // two lengths
      return attack("CL.CL", [
        `POST /echo HTTP/1.1\r\n${host}Content-Length: ${smuggle.length}\r\nContent-Length: 0\r\n\r\n${smuggle}`,
      ], {
        check: (_, statuses) =>
          statuses.length === 1 && statuses[0] === "400" ? undefined : `not refused: ${statuses}`,
      });
    case 9: { // a request in a body is a body
      const body = smuggle + word(int(50));
      return attack("hidden", [
        `POST /echo HTTP/1.1\r\n${host}Content-Length: ${body.length}\r\n\r\n${body}`,
      ], {
        leaves: "waits",
        check: (text, statuses) =>
          !text.endsWith(`<${body}>`)
            ? `body lost: ${text.slice(-80)}`
            : statuses.length > 1
            ? `answered a request hidden in a body: ${statuses}`
            : undefined,
      });
    }
    case 10: // odd headers
      return attack("headers", [
        "GET / HTTP/1.1\r\n" +
        pick([
          "",
          "Host\r\n",
          ": a\r\n",
          "Host: localhost\r\nHost: b\r\n",
          "Host: localhost\r\nX\x01Y: b\r\n",
          "Host: localhost\r\nX: b\rc\r\n",
          "Host: localhost\r\nX: \x00\r\n",
          "Host: localhost\n\n",
          "Host: localhost\r\n\tfolded\r\n",
          "Host: localhost\r\nExpect: 200-maybe\r\n",
          "Host: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAAA\r\n",
          "Host: localhost\r\nConnection: close, keep-alive\r\n",
          "Host: [::\r\n",
          `Host: ${"a.".repeat(200)}\r\n`,
        ]) + "\r\n",
      ]);
    default: // a good request, torn into pieces
      return attack("torn", [..."GET /_ping HTTP/1.1\r\n" + host + "\r\n"], {
        leaves: "waits",
        check: (_, statuses) => statuses.join() === "200" ? undefined : `answered ${statuses}`,
      });
  }
}
