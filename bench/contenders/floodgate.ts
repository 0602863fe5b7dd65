/**
 * What the others answer, as a module for `--install`. With `HOLD` in the environment the gate
 * opens at SIGWINCH, which means nothing to the daemon; with `UPGRADES` there are routes for
 * WebSockets and raw streams.
 */

import type { Context } from "npm:hono@4.13.19";
import type { Installer } from "../../mod.ts";
import { echo, own } from "./app.js";

export const install: Installer = async (engine, router) => {
  own(router, (c: Context, value: Record<string, unknown>) => c.json(value));
  if (Deno.env.has("UPGRADES")) {
    router.get("/websocket", (c) => echo(c.req.raw));
    router.upgradable("/raw");
    router.post("/raw", (c) => {
      const { response, connection } = c.env.upgrade();
      connection.then(({ readable, writable }) => readable.pipeTo(writable)).catch(() => {});
      return response;
    });
    engine.register("echo", async (job) => {
      job.setenvBool("Tty", true);
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
    });
    router.job({ method: "GET", path: "/job/websocket", job: "echo", upgrade: "websocket" });
    router.job({ method: "POST", path: "/job/raw", job: "echo", upgrade: "tcp" });
  }
  if (!Deno.env.has("HOLD")) return;
  const opened = new Promise<void>((open) => Deno.addSignalListener("SIGWINCH", open));
  console.log("holding");
  await opened;
};
