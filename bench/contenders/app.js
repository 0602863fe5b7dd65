// What every contender on JavaScript answers, so that they differ in how they serve and in nothing
// else.

/** What the daemon puts on every answer. The others do the same, but on `/plain/:id`. */
export const ALWAYS = {
  "Server": "Floodgate/0.1.0 (linux)",
  "Api-Version": "1.47",
  "Ostype": "linux",
};

export const PING = {
  ...ALWAYS,
  "Content-Type": "text/plain; charset=utf-8",
  "Docker-Experimental": "false",
  "Cache-Control": "no-cache, no-store, must-revalidate",
  "Pragma": "no-cache",
};

export function thing(id) {
  return { Id: id, Name: "web", State: { Status: "running", Pid: 4242 }, Ports: [80, 443] };
}

const CHUNK = new Uint8Array(64 * 1024);

/** So many mebibytes, in chunks, as fast as they are taken. */
export function bytes(mebibytes) {
  let left = mebibytes * 16;
  return new ReadableStream({
    pull(controller) {
      if (left-- > 0) controller.enqueue(CHUNK);
      else controller.close();
    },
  });
}

const answer = () => new Response("OK", { headers: PING });
const pong = answer();

/**
 * The fastest way to answer `/_ping` on Deno, where headers are slow to check and a copy has them.
 */
export const copy = () => pong.clone();

/**
 * The routes that a daemon does not have by itself, on a Hono app.
 *
 * @param json Makes an answer of what `c.json` takes.
 */
export function own(app, json) {
  app.get("/things/:id", (c) => json(c, thing(c.req.param("id"))));
  app.get("/plain/:id", (c) => c.json(thing(c.req.param("id"))));
  app.get("/bytes/:mebibytes", (c) => new Response(bytes(Number(c.req.param("mebibytes")))));
  app.post("/upload", async (c) => {
    const { byteLength } = await c.req.arrayBuffer();
    return json(c, { byteLength });
  });
  app.post("/json", async (c) => {
    const { data } = await c.req.json();
    return json(c, { length: data.length });
  });
  return app;
}

/** All routes, on a Hono app. */
export function routes(app, version, ping = answer) {
  const headers = { ...ALWAYS, "Content-Type": "application/json" };
  app.get("/_ping", ping);
  app.get("/version", () => new Response(version, { headers }));
  // `c.json(value, 200, headers)` takes longer, on Deno by 2 µs.
  return own(app, (_c, value) => new Response(JSON.stringify(value), { headers }));
}

/** A handler that echoes on a WebSocket of Deno's. */
export function echo(request) {
  const { response, socket } = Deno.upgradeWebSocket(request);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
}
