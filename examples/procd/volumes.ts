/**
 * Volumes: folders in the state directory. Nothing is mounted: a container finds them by a link in
 * its own folder, and by an environment variable.
 *
 * @module
 */

import { type Daemon, failure, goTime, NEVER, print, type Strings, subject } from "./daemon.ts";
import { notThere, sizeOf } from "./files.ts";
import { type Filters, labelled, named, some, yesOrNo } from "./filters.ts";
import { newId } from "./store.ts";

/** A volume. */
export interface Volume {
  name: string;
  /** When it was created, in milliseconds since 1970. */
  created: number;
  labels: Strings;
  options: Strings;
  /** Whether it is anonymous: created for a container without a name. */
  anonymous: boolean;
}

const NAME = /^[a-zA-Z\d][\w.-]*$/;

/** The volumes. */
export class Volumes {
  #daemon: Daemon;

  /** The volumes of a daemon. */
  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  /** The folder of a volume. */
  pathOf(name: string): string {
    return `${this.#daemon.folder}/volumes/${name}/_data`;
  }

  /** The volume of this name; undefined if there is none. */
  get(name: string): Volume | undefined {
    return this.#daemon.store.document("SELECT body FROM volumes WHERE id = ?", name);
  }

  /**
   * The volume of this name.
   *
   * @throws {TypedError} ("not found") If there is none.
   */
  find(name: string): Volume {
    const found = this.get(name);
    if (!found) throw failure("not found", `get ${name}: no such volume`);
    return found;
  }

  /** All volumes, by name. */
  all(): Volume[] {
    return this.#daemon.store.documents("SELECT body FROM volumes ORDER BY id");
  }

  /** Creates a volume, or returns the one of this name. */
  async create(
    name: string,
    given: {
      driver?: string | undefined;
      labels?: Strings | undefined;
      options?: Strings | undefined;
    } = {},
  ): Promise<Volume> {
    const { driver = "local" } = given;
    if (driver !== "local" && driver !== "") {
      throw failure("not found", `error looking up volume plugin ${driver}: there is only "local"`);
    }
    if (name !== "" && !NAME.test(name)) {
      throw failure(
        "bad parameter",
        `create ${name}: "${name}" includes invalid characters for a local volume name, only "[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed: a folder of this machine needs its absolute path`,
      );
    }
    if (Object.keys(given.options ?? {}).length > 0) {
      throw failure(
        "bad parameter",
        "a volume is a folder here, expected no driver options: nothing can be mounted",
      );
    }
    const existing = this.get(name);
    if (existing) return existing;
    const volume: Volume = {
      name: name || newId(),
      created: Date.now(),
      labels: given.labels ?? {},
      options: given.options ?? {},
      anonymous: name === "",
    };
    await Deno.mkdir(this.pathOf(volume.name), { recursive: true });
    const made = this.#daemon.store.run(
      "INSERT OR IGNORE INTO volumes VALUES (?, ?, ?)",
      volume.name,
      volume.created,
      JSON.stringify(volume),
    );
    if (made > 0) await this.#daemon.tell("volume", "create", volume.name, { driver: "local" });
    return volume;
  }

  /** The containers that use a volume, by its name. */
  users(): Map<string, string[]> {
    const rows = this.#daemon.store.all<{ volume: string; id: string }>(
      `SELECT DISTINCT json_extract(mount.value, '$.Name') AS volume, containers.id AS id
       FROM containers, json_each(containers.body, '$.mounts') AS mount
       WHERE json_extract(mount.value, '$.Type') = 'volume'`,
    );
    const users = new Map<string, string[]>();
    for (const { volume, id } of rows) users.set(volume, [...users.get(volume) ?? [], id]);
    return users;
  }

  /** Removes a volume that no container uses. */
  async remove(name: string, force: boolean): Promise<void> {
    if (force && !this.get(name)) return;
    const volume = this.find(name);
    const users = this.users().get(volume.name);
    if (users) {
      throw failure("conflict", `remove ${name}: volume is in use - [${users.join(", ")}]`);
    }
    await this.#delete(volume);
  }

  async #delete(volume: Volume): Promise<void> {
    this.#daemon.store.run("DELETE FROM volumes WHERE id = ?", volume.name);
    const folder = `${this.#daemon.folder}/volumes/${volume.name}`;
    await Deno.remove(folder, { recursive: true }).catch(notThere);
    await this.#daemon.tell("volume", "destroy", volume.name, { driver: "local" });
  }

  /** The document of `docker volume inspect`. */
  describe(volume: Volume): Record<string, unknown> {
    return {
      CreatedAt: volume.created ? goTime(volume.created) : NEVER,
      Driver: "local",
      Labels: volume.labels,
      Mountpoint: this.pathOf(volume.name),
      Name: volume.name,
      Options: volume.options,
      Scope: "local",
    };
  }

  /** A volume with its size and its number of containers. */
  async usage(volume: Volume, users: Map<string, string[]>): Promise<Record<string, unknown>> {
    return {
      ...this.describe(volume),
      UsageData: {
        RefCount: users.get(volume.name)?.length ?? 0,
        Size: await sizeOf(this.pathOf(volume.name)),
      },
    };
  }

  /** The list of `docker volume ls`. */
  list(filters: Filters): Volume[] {
    const dangling = yesOrNo(filters, "dangling");
    const users = dangling === undefined ? undefined : this.users();
    return this.all().filter((volume) =>
      named(filters, volume.name) && labelled(filters, volume.labels) &&
      some(filters, "driver", (driver) => driver === "local") &&
      (users === undefined || users.has(volume.name) !== dangling)
    );
  }

  /** Removes volumes that no container uses: anonymous ones, or with `all=true` any. */
  async prune(filters: Filters): Promise<unknown> {
    const all = yesOrNo(filters, "all") ?? false;
    const users = this.users();
    const deleted: string[] = [];
    let reclaimed = 0;
    for (const volume of this.all()) {
      if (users.has(volume.name) || !(all || volume.anonymous)) continue;
      if (!labelled(filters, volume.labels)) continue;
      reclaimed += await sizeOf(this.pathOf(volume.name));
      await this.#delete(volume);
      deleted.push(volume.name);
    }
    await this.#daemon.tell("volume", "prune", "", { reclaimed: String(reclaimed) });
    return { VolumesDeleted: deleted, SpaceReclaimed: reclaimed };
  }
}

/** Registers the jobs of volumes. */
export function registerVolumes(daemon: Daemon, volumes: Volumes): void {
  const { engine } = daemon;
  engine.register("volumes", (job) => {
    const list = volumes.list(job.env.getFilters("filters")).map((volume) =>
      volumes.describe(volume)
    );
    return print(job, { Volumes: list, Warnings: [] });
  });
  engine.register("volume_inspect", (job) => {
    return print(job, volumes.describe(volumes.find(subject(job))));
  });
  engine.register("volume_create", async (job) => {
    const volume = await volumes.create(job.getenv("Name"), {
      driver: job.getenv("Driver"),
      labels: job.getenvJson("Labels") as Strings | undefined,
      options: job.getenvJson("DriverOpts") as Strings | undefined,
    });
    await print(job, volumes.describe(volume));
  });
  engine.register("volume_rm", (job) => volumes.remove(subject(job), job.getenvBool("force")));
  engine.register("volumes_prune", async (job) => {
    await print(job, await volumes.prune(job.env.getFilters("filters")));
  });
}
