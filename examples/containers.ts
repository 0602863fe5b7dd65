/**
 * An example daemon: it keeps "containers" in an embedded database, and the docker CLI lists,
 * creates, starts, stops and removes them. Nothing runs in them; the requests, jobs and answers are
 * real.
 *
 * ```sh
 * deno run -A mod.ts -H unix:///tmp/shelf.sock --install examples/containers.ts
 * docker -H unix:///tmp/shelf.sock ps --all
 * docker -H unix:///tmp/shelf.sock start web
 * ```
 *
 * `SHELF_DB` is the path of the database (default: in memory), `SHELF_BOOT` a time in milliseconds
 * by which to delay the boot (default: none).
 *
 * @module
 */

import { DatabaseSync } from "node:sqlite";
import { type Engine, type Installer, type Job, TypedError } from "../mod.ts";

interface Container {
  id: string;
  name: string;
  image: string;
  command: string;
  state: "created" | "running" | "exited";
  created: number;
}

/** Opens the database and registers the docker CLI's jobs. Clients are held until it returns. */
export const install: Installer = async (engine, router): Promise<void> => {
  const db = new DatabaseSync(Deno.env.get("SHELF_DB") ?? ":memory:");
  engine.onShutdown(() => db.close());
  migrate(db);
  // Stands for what a real daemon does here: check its disks, contact its peers, restore its state.
  await new Promise((resolve) => setTimeout(resolve, Number(Deno.env.get("SHELF_BOOT") ?? 0)));

  const find = (name: string): Container => {
    const found = db.prepare(
      "SELECT * FROM containers WHERE name = ? OR id LIKE ? || '%' ORDER BY name = ? DESC",
    ).get(name, name, name);
    if (!found) throw new TypedError("not found", `No such container: ${name}`);
    return found as unknown as Container;
  };

  engine.register("containers", (job) => {
    const all = job.getenvBool("all") ? "1" : "state = 'running'";
    const rows = db.prepare(`SELECT * FROM containers WHERE ${all} ORDER BY created DESC`).all();
    return job.print(JSON.stringify((rows as unknown as Container[]).map(summary)));
  });

  engine.register("create", async (job) => {
    const image = job.getenv("Image");
    if (!image) throw new TypedError("bad parameter", "no Image given");
    const id = [...crypto.getRandomValues(new Uint8Array(32))]
      .map((byte) => byte.toString(16).padStart(2, "0")).join("");
    const name = job.args[0] || `shelf-${id.slice(0, 6)}`;
    if (db.prepare("SELECT 1 FROM containers WHERE name = ?").get(name)) {
      throw new TypedError("conflict", `the name ${name} is in use`);
    }
    db.prepare("INSERT INTO containers VALUES (?, ?, ?, ?, 'created', ?)")
      .run(id, name, image, job.getenvList("Cmd").join(" "), Math.floor(Date.now() / 1000));
    await tell(job.engine, "create", find(id));
    await job.print(JSON.stringify({ Id: id, Warnings: [] }));
  });

  /** A job that puts the container named by its first argument into a state. */
  const transition = (action: string, state: Container["state"]) => async (job: Job) => {
    const container = find(job.args[0]!);
    if (container.state === state) return; // Already in that state, which is not an error.
    db.prepare("UPDATE containers SET state = ? WHERE id = ?").run(state, container.id);
    await tell(job.engine, action, container);
  };
  engine.register("start", transition("start", "running"));
  engine.register("stop", transition("die", "exited"));

  engine.register("rm", async (job) => {
    const container = find(job.args[0]!);
    if (container.state === "running" && !job.getenvBool("forceRemove")) {
      throw new TypedError("conflict", `container ${container.name} is running: stop it first`);
    }
    db.prepare("DELETE FROM containers WHERE id = ?").run(container.id);
    await tell(job.engine, "destroy", container);
  });

  // The built-in routes of the Docker API run these jobs. This route is plain Hono:
  router.get("/", (c) => c.text("This is a shelf of containers. Try docker ps --all.\n"));
};

function migrate(db: DatabaseSync): void {
  db.exec(`CREATE TABLE IF NOT EXISTS containers (
    id TEXT PRIMARY KEY, name TEXT UNIQUE, image TEXT, command TEXT, state TEXT, created INTEGER
  )`);
  if (db.prepare("SELECT 1 FROM containers").get()) return;
  const insert = db.prepare("INSERT INTO containers VALUES (?, ?, ?, ?, ?, ?)");
  const now = Math.floor(Date.now() / 1000);
  insert.run("f1".repeat(32), "web", "nginx:1.27", "nginx -g 'daemon off;'", "running", now - 7200);
  insert.run("a7".repeat(32), "db", "postgres:17", "postgres", "exited", now - 86400);
}

/** Records an event for `docker events`. */
function tell(engine: Engine, action: string, container: Container): Promise<void> {
  const job = engine.job("log", action, container.id, container.image);
  job.setenvJson("Attributes", { name: container.name });
  job.quiet = true;
  return job.run();
}

/** A container in the form of the docker CLI's list. */
function summary(container: Container) {
  return {
    Id: container.id,
    Names: [`/${container.name}`],
    Image: container.image,
    Command: container.command,
    Created: container.created,
    State: container.state,
    Status: container.state === "running"
      ? "Up"
      : container.state === "exited"
      ? "Exited (0)"
      : "Created",
    Ports: [],
    Labels: {},
  };
}
