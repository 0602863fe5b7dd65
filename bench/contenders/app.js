// What every contender on JavaScript answers, so that they differ in how they serve and in nothing else.

export const PING = {
  "Content-Type": "text/plain; charset=utf-8",
  "Api-Version": "1.47",
  "Ostype": "linux",
  "Docker-Experimental": "false",
  "Cache-Control": "no-cache, no-store, must-revalidate",
  "Pragma": "no-cache",
  "Server": "Floodgate/0.1.0 (linux)",
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

/** The fastest way to answer `/_ping` on Deno, where headers are slow to check and a copy has them. */
export const copy = () => pong.clone();

/** Adds the routes to a Hono app. */
export function routes(app, version, ping = answer) {
  const json = { status: 200, headers: { "Content-Type": "application/json" } };
  app.get("/_ping", ping);
  app.get("/version", () => new Response(version, json));
  app.get("/things/:id", (c) => c.json(thing(c.req.param("id"))));
  app.get("/bytes/:mebibytes", (c) => new Response(bytes(Number(c.req.param("mebibytes")))));
  return app;
}
