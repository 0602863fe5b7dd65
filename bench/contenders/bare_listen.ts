/** The least that a Deno program takes to have a socket. */

const listener = Deno.listen({ transport: "unix", path: Deno.args[0]! });
for await (const connection of listener) connection.close();
