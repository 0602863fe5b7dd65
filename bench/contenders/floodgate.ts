/** What the others answer, as a module for `--install`. A gate that is to stay shut opens at SIGUSR2. */

import type { Installer } from "../../mod.ts";
import { bytes, thing } from "./app.js";

export const install: Installer = async (_engine, router) => {
  router.get("/things/:id", (c) => c.json(thing(c.req.param("id"))));
  router.get(
    "/bytes/:mebibytes",
    (c) => new Response(bytes(Number(c.req.param("mebibytes")))),
  );
  if (!Deno.env.has("HOLD")) return;
  await new Promise<void>((open) => Deno.addSignalListener("SIGUSR2", open));
};
