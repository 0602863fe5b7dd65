/**
 * The limit of a raw stream on Deno: a bare connection of which the request's header is taken, and
 * all that follows sent back, by the same `pipeTo` that a handler of the daemon uses.
 */

const ANSWER = new TextEncoder().encode(
  "HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n",
);

async function serve(connection: Deno.Conn): Promise<void> {
  let head = "";
  const buffer = new Uint8Array(4096);
  while (!head.endsWith("\r\n\r\n")) {
    const count = await connection.read(buffer);
    if (count === null) return connection.close();
    head += new TextDecoder().decode(buffer.subarray(0, count));
  }
  await connection.write(ANSWER);
  await connection.readable.pipeTo(connection.writable);
}

async function accept(listener: Deno.Listener): Promise<void> {
  for await (const connection of listener) serve(connection).catch(() => {});
}
const tcp = Deno.listen({ hostname: "127.0.0.1", port: 0 });
accept(tcp);
accept(Deno.listen({ transport: "unix", path: Deno.args[0]! }));
console.log(`port ${tcp.addr.port}`);
