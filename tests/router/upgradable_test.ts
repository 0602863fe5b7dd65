import { assertEquals, assertStringIncludes } from "@std/assert";
import { Hono } from "npm:hono@4.13.19";
import { serve } from "../../builtins/serveapi.ts";
import type { Fetcher } from "../../serve/handler.ts";
import { createRouter, type Router } from "../../router.ts";
import { Client, type Target } from "../support/client.ts";
import { TempFolder, until } from "../support/daemon.ts";
import { foreignTest } from "../support/platform.ts";
import { portOf, Served } from "../support/served.ts";
import { closed, message, openSocket, sendBack, upgrade, upgradeOf } from "../support/upgrades.ts";

/** A router with all that is upgraded. */
function upgrading({ engine }: Served): Router {
  const router = createRouter(engine);
  router.job({ method: "POST", path: "/cat", job: "cat", upgrade: "tcp" });
  router.job({ method: "GET", path: "/cats", job: "cat", upgrade: "websocket" });
  router.upgradable("/echo");
  router.post("/echo", (c) => {
    const { response, connection } = c.env.upgrade();
    sendBack(connection);
    return response;
  });
  router.get("/ws", (c) => {
    const { response, socket } = Deno.upgradeWebSocket(c.req.raw);
    socket.onmessage = ({ data }) => socket.send(data);
    return response;
  });
  return router;
}

/** Serves an app on tcp and on a unix socket, and gives where it is. */
async function serveApp({ engine }: Served, router: Fetcher, path: string) {
  const { addresses } = await serve(engine, {
    addresses: ["tcp://127.0.0.1:0", `unix://${path}`],
    router,
  });
  const port = portOf(addresses[0]);
  const doors: { target: Target; url: string }[] = [
    { target: { hostname: "127.0.0.1", port }, url: `ws://127.0.0.1:${port}` },
    { target: { transport: "unix", path }, url: `ws+unix://${path}:` },
  ];
  return doors;
}

foreignTest("a router in another app has its upgrades, wherever that is", async (t) => {
  await using served = await Served.open();
  await using folder = await TempFolder.make();
  const { engine } = served;
  engine.register("cat", async (job) => {
    job.setenvBool("Tty", true);
    for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
  });
  const router = upgrading(served);
  const plain = new Hono().mount("/x", router.fetch);
  const apps: Record<string, Fetcher> = {
    "Hono, route": new Hono().route("/x", router),
    "Hono, route in a route": new Hono().route("/x", new Hono().route("/y", router)),
    "Hono, route at its root": new Hono().route("/", router),
    "Hono, route with a variable": new Hono().route("/:any", router),
    "Hono, mount, with what may be upgraded": {
      fetch: (request: Request, env: object) => plain.fetch(request, env),
      upgrades: new Set(["x"]),
    },
    "router, route": createRouter(engine).route("/x", router),
    "router, route below a path": createRouter(engine).basePath("/x").route("/y", router),
    "router, route of an app": createRouter(engine).route("/x", new Hono().route("/y", router)),
    "router, mount": createRouter(engine).mount("/x", router.fetch),
    "router, mount of a mount": createRouter(engine)
      .mount("/x", createRouter(engine).mount("/y", router.fetch).fetch),
  };
  let count = 0;
  for (const [name, app] of Object.entries(apps)) {
    const base = name.includes("root") ? "" : / in | below | of /.test(name) ? "/x/y" : "/x";
    await t.step(name, async () => {
      for (const { target, url } of await serveApp(served, app, `${folder.path}/${++count}`)) {
        for (const path of ["/cat", "/v1.40/echo"]) {
          using client = await upgrade(target, upgradeOf(base + path));
          assertStringIncludes(client.head, "HTTP/1.1 101 ");
          await client.send("hello");
          await client.conn.closeWrite();
          assertEquals(await client.ended(), "hello");
        }
        for (const path of ["/ws", "/v1.40/cats"]) {
          const socket = await openSocket(url + base + path);
          const got = message(socket);
          socket.send("hello");
          assertEquals(await got, "hello");
          socket.close(1000);
          await closed(socket);
        }
      }
    });
  }
  await until(() => engine.stats.running === count + 1);
  const errors = served.lines.filter((line) => line.startsWith("error"));
  assertEquals(errors, []);
});

foreignTest("a router that an app of Hono's mounts, unseen, says what to do", async () => {
  await using served = await Served.open();
  await using folder = await TempFolder.make();
  served.engine.register("cat", () => {});
  const app = new Hono().mount("/x", upgrading(served).fetch);
  for (const { target } of await serveApp(served, app, `${folder.path}/s`)) {
    using client = await Client.to(target);
    // Without a length of its body, for which the native loop would refuse it before.
    const { status, body } = await client.ask(
      upgradeOf("/x/cat").replace(/Content-Length: 0\r\n/, ""),
    );
    assertEquals(status, 501);
    assertStringIncludes(body, "the path was not given to router.upgradable");
  }
});

foreignTest("connections are looked at as soon as a router in an app has an upgrade", async () => {
  await using served = await Served.open();
  await using folder = await TempFolder.make();
  const router = createRouter(served.engine);
  const app = new Hono().route("/x", router);
  const [door] = await serveApp(served, app, `${folder.path}/s`);
  const ask = async () => {
    using client = await Client.to(door!.target);
    return (await client.ask(upgradeOf("/x/cat"))).status;
  };
  assertEquals(await ask(), 400); // As the native loop has it.
  router.upgradable("/cat");
  assertEquals(await ask(), 404);
});
