/**
 * Images: the configurations of containers. One is real: `host`, this machine. Others are derived
 * from it by `commit`, `tag`, `build` and `load`; they hold no files, only a configuration.
 *
 * @module
 */

import type { Job } from "../../mod.ts";
import { type Daemon, failure, goTime, print, type Strings, subject } from "./daemon.ts";
import { type Filters, labelled, some, untilOf, yesOrNo } from "./filters.ts";

/** A healthcheck; times in nanoseconds. */
export interface Healthcheck {
  Test?: string[] | undefined;
  Interval?: number | undefined;
  Timeout?: number | undefined;
  StartPeriod?: number | undefined;
  StartInterval?: number | undefined;
  Retries?: number | undefined;
}

/** The configuration of a container. */
export interface ImageConfig {
  User?: string | undefined;
  Env?: string[] | null | undefined;
  Cmd?: string[] | null | undefined;
  Entrypoint?: string[] | null | undefined;
  WorkingDir?: string | undefined;
  Labels?: Strings | null | undefined;
  StopSignal?: string | undefined;
  Healthcheck?: Healthcheck | undefined;
  ExposedPorts?: Record<string, unknown> | null | undefined;
  Volumes?: Record<string, unknown> | null | undefined;
  /** The shell of commands that are a line, and no list. Default: /bin/sh -c. */
  Shell?: string[] | null | undefined;
}

/** A step in an image's history. */
export interface HistoryEntry {
  created: string;
  created_by: string;
  comment?: string | undefined;
  empty_layer: true;
}

/** The document of an image: what `docker save` writes, and whose digest is the image's id. */
export interface ImageDocument {
  architecture: string;
  os: string;
  created: string;
  author?: string | undefined;
  config: ImageConfig;
  history: HistoryEntry[];
  rootfs: { type: "layers"; diff_ids: string[] };
}

/** An image. */
export interface Image {
  /** `sha256:` and the digest of its document. */
  id: string;
  /** The parent image. */
  parent?: string | undefined;
  document: ImageDocument;
}

/** The architecture of this machine, as images have it. */
export const ARCHITECTURE: string = { x86_64: "amd64", aarch64: "arm64" }[Deno.build.arch] ??
  Deno.build.arch;
const OS = Deno.build.os as string;

const HOST = "host:latest";
/** The image of this machine: with a constant document, so that it has the same id everywhere. */
const HOST_DOCUMENT: ImageDocument = {
  architecture: ARCHITECTURE,
  os: OS,
  created: "2014-10-31T00:00:00Z",
  config: { Cmd: ["sh"] },
  history: [
    { created: "2014-10-31T00:00:00Z", created_by: "this machine", empty_layer: true },
  ],
  rootfs: { type: "layers", diff_ids: [] },
};

const REFERENCE = /^[a-z\d]+(?:(?:\.|_{1,2}|-+|\/|:\d+\/)[a-z\d]+)*$/;
const TAG = /^\w[\w.-]{0,127}$/;

/**
 * Normalizes the name of an image to its short form with tag: `docker.io/library/host` is
 * `host:latest`.
 *
 * @throws {TypedError} ("bad parameter") If the name is malformed.
 */
export function referenceOf(name: string, tag = ""): string {
  let repository = name.replace(/^(?:index\.)?docker\.io\//, "").replace(/^library\//, "");
  // A colon before a slash belongs to a registry's port.
  const at = repository.lastIndexOf(":");
  if (at > repository.lastIndexOf("/")) {
    tag ||= repository.slice(at + 1);
    repository = repository.slice(0, at);
  }
  tag ||= "latest";
  if (!REFERENCE.test(repository) || !TAG.test(tag)) {
    throw failure("bad parameter", `invalid reference format: ${name}${tag && `:${tag}`}`);
  }
  return `${repository}:${tag}`;
}

/** The images. */
export class Images {
  #daemon: Daemon;

  /** The images of a daemon, with `host` at least. */
  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  /** Adds `host` if it is missing. */
  async seed(): Promise<void> {
    const image = await this.#add(HOST_DOCUMENT);
    this.#daemon.store.run("INSERT OR IGNORE INTO tags VALUES (?, ?)", HOST, image.id);
  }

  async #add(document: ImageDocument, parent?: string): Promise<Image> {
    const image: Image = { id: await digestOf(encode(document)), parent, document };
    this.#daemon.store.run(
      "INSERT OR IGNORE INTO images VALUES (?, ?, ?)",
      image.id,
      Date.parse(document.created),
      JSON.stringify(image),
    );
    return image;
  }

  /** The image of this name, id, or unique prefix of an id; undefined if there is none. */
  get(name: string): Image | undefined {
    const { store } = this.#daemon;
    const id = name.startsWith("sha256:") ? name.slice(7) : name;
    if (/^[\da-f]{64}$/.test(id)) {
      return store.document("SELECT body FROM images WHERE id = ?", `sha256:${id}`);
    }
    const reference = name === id ? safeReference(name) : undefined;
    const tagged = reference && store.document<Image>(
      "SELECT body FROM images JOIN tags ON image = id WHERE reference = ?",
      reference,
    );
    return tagged || store.beginning("images", id, "sha256:");
  }

  /**
   * The image of this name or id.
   *
   * @throws {TypedError} ("not found") If there is none.
   */
  find(name: string): Image {
    const found = this.get(name);
    if (!found) throw failure("not found", `No such image: ${safeReference(name) ?? name}`);
    return found;
  }

  /** All images, the newest first. */
  all(): Image[] {
    return this.#daemon.store.documents("SELECT body FROM images ORDER BY created DESC, id");
  }

  /** The names of an image. */
  tagsOf(id: string): string[] {
    return this.#daemon.store
      .all<{ reference: string }>("SELECT reference FROM tags WHERE image = ?", id)
      .map(({ reference }) => reference);
  }

  /** The names of all images, by id. */
  #tags(): Map<string, string[]> {
    const tags = new Map<string, string[]>();
    const rows = this.#daemon.store
      .all<{ reference: string; image: string }>("SELECT * FROM tags ORDER BY reference");
    for (const { reference, image } of rows) {
      tags.set(image, [...tags.get(image) ?? [], reference]);
    }
    return tags;
  }

  /** Makes an image derived from another. */
  async derive(
    parent: Image,
    config: ImageConfig,
    by: string,
    options: { author?: string; comment?: string } = {},
  ): Promise<Image> {
    const created = goTime(Date.now());
    const document: ImageDocument = {
      ...parent.document,
      created,
      author: options.author || parent.document.author,
      config,
      history: [
        ...parent.document.history,
        { created, created_by: by, comment: options.comment || undefined, empty_layer: true },
      ],
    };
    return await this.#add(document, parent.id);
  }

  /** Gives an image a name, and takes it from another image that has it. */
  async tag(image: Image, reference: string): Promise<void> {
    if (reference === HOST && image.id !== this.find(HOST).id) {
      throw failure("conflict", `${HOST} is this machine, and no other image`);
    }
    this.#daemon.store.run("INSERT OR REPLACE INTO tags VALUES (?, ?)", reference, image.id);
    await this.#daemon.tell("image", "tag", image.id, { name: reference });
  }

  /** The containers of an image. */
  #users(id: string): { id: string; running: number }[] {
    return this.#daemon.store.all(
      `SELECT id, json_extract(body, '$.state.status') IN ('running', 'paused', 'restarting') AS running
       FROM containers WHERE json_extract(body, '$.image') = ?`,
      id,
    );
  }

  /** Removes a name from an image, and the image with its last name. Returns what was done. */
  async remove(name: string, force: boolean): Promise<Record<string, string>[]> {
    const { store } = this.#daemon;
    const image = this.find(name);
    const tags = this.tagsOf(image.id);
    const byId = !tags.includes(safeReference(name) ?? "");
    const done: Record<string, string>[] = [];
    const untag = async (reference: string) => {
      store.run("DELETE FROM tags WHERE reference = ?", reference);
      done.push({ Untagged: reference });
      await this.#daemon.tell("image", "untag", image.id, { name: reference });
    };
    const short = image.id.slice(7, 19);
    const refuse = (why: string) =>
      failure("conflict", `conflict: unable to delete ${name} (must be forced) - ${why}`);
    if (!byId && tags.length > 1) {
      if (safeReference(name) === HOST) throw this.#isHost();
      await untag(safeReference(name)!);
      return done;
    }
    if (tags.includes(HOST)) throw this.#isHost();
    if (tags.length > 1 && !force) {
      throw refuse(`image is referenced in multiple repositories`);
    }
    const users = this.#users(image.id);
    const running = users.find(({ running }) => running);
    if (running) {
      throw failure(
        "conflict",
        `conflict: unable to delete ${name} (cannot be forced) - image is being used by running container ${
          running.id.slice(0, 12)
        }`,
      );
    }
    const [user] = users;
    if (user && !force) {
      throw refuse(`image is being used by stopped container ${user.id.slice(0, 12)}`);
    }
    const child = this.all().find(({ parent }) => parent === image.id);
    if (child && byId && tags.length === 0) {
      throw failure(
        "conflict",
        `conflict: unable to delete ${short} (cannot be forced) - image has dependent child images`,
      );
    }
    for (const reference of tags) await untag(reference);
    if (!child) done.push(...await this.#delete(image));
    return done;
  }

  #isHost() {
    return failure("conflict", `conflict: ${HOST} is this machine, and cannot be removed`);
  }

  /** Removes an image, and its unnamed ancestors that no other image needs. */
  async #delete(image: Image): Promise<Record<string, string>[]> {
    this.#daemon.store.run("DELETE FROM images WHERE id = ?", image.id);
    await this.#daemon.tell("image", "delete", image.id, { name: image.id });
    const done: Record<string, string>[] = [{ Deleted: image.id }];
    const parent = image.parent && this.get(image.parent);
    if (
      parent && this.tagsOf(parent.id).length === 0 && this.#users(parent.id).length === 0 &&
      !this.all().some((each) => each.parent === parent.id)
    ) done.push(...await this.#delete(parent));
    return done;
  }

  /** Whether an image has neither a name nor children. */
  #dangles(image: Image, tags: Map<string, string[]>, all: Image[]): boolean {
    return !tags.has(image.id) && !all.some(({ parent }) => parent === image.id);
  }

  /** The list of `docker images`. */
  list(filters: Filters, every: boolean): unknown[] {
    const all = this.all();
    const tags = this.#tags();
    const dangling = yesOrNo(filters, "dangling");
    const until = untilOf(filters);
    const time = (name: string, least: boolean) => {
      const [of] = filters.get(name) ?? [];
      return of === undefined
        ? least ? -Infinity : Infinity
        : Date.parse(this.find(of).document.created);
    };
    const [since, before] = [time("since", true), time("before", false)];
    const counts = new Map(
      this.#daemon.store.all<{ image: string; n: number }>(
        "SELECT json_extract(body, '$.image') AS image, count(*) AS n FROM containers GROUP BY image",
      ).map(({ image, n }) => [image, n]),
    );
    return all.filter((image) => {
      const created = Date.parse(image.document.created);
      const dangles = this.#dangles(image, tags, all);
      // Intermediate images of a build are listed with all=1 only.
      if (!tags.has(image.id) && !dangles && !every) return false;
      if (dangling !== undefined && dangling !== dangles) return false;
      if (created >= until || created <= since || created >= before) return false;
      if (!labelled(filters, image.document.config.Labels ?? undefined)) return false;
      const names = tags.get(image.id) ?? [];
      return some(filters, "reference", (pattern) => names.some((name) => refersTo(pattern, name)));
    }).map((image) => {
      const names = (tags.get(image.id) ?? [])
        .filter((name) => some(filters, "reference", (pattern) => refersTo(pattern, name)));
      return {
        Id: image.id,
        ParentId: image.parent ?? "",
        RepoTags: names,
        RepoDigests: [],
        Created: Math.floor(Date.parse(image.document.created) / 1_000),
        Size: 0,
        VirtualSize: 0,
        SharedSize: -1,
        Containers: counts.get(image.id) ?? 0,
        Labels: image.document.config.Labels ?? null,
      };
    });
  }

  /** The document of `docker image inspect`. */
  inspect(image: Image): unknown {
    const { document } = image;
    return {
      Id: image.id,
      RepoTags: this.tagsOf(image.id),
      RepoDigests: [],
      Parent: image.parent ?? "",
      Comment: document.history.at(-1)?.comment ?? "",
      Created: document.created,
      DockerVersion: "",
      Author: document.author ?? "",
      Config: { ...document.config, Image: "" },
      Architecture: document.architecture,
      Os: document.os,
      Size: 0,
      VirtualSize: 0,
      GraphDriver: { Name: "none", Data: null },
      RootFS: { Type: "layers" },
      Metadata: { LastTagTime: document.created },
    };
  }

  /** Removes unnamed images; with `dangling=false` all images without containers. */
  async prune(filters: Filters): Promise<unknown> {
    const onlyDangling = yesOrNo(filters, "dangling") ?? true;
    const until = untilOf(filters);
    const deleted: Record<string, string>[] = [];
    for (const image of this.all()) {
      const tags = this.tagsOf(image.id);
      if (tags.includes(HOST) || this.#users(image.id).length > 0) continue;
      if (onlyDangling && tags.length > 0) continue;
      if (this.all().some(({ parent }) => parent === image.id)) continue;
      if (Date.parse(image.document.created) >= until) continue;
      if (!labelled(filters, image.document.config.Labels ?? undefined)) continue;
      if (this.get(image.id)) deleted.push(...await this.remove(image.id, true));
    }
    await this.#daemon.tell("image", "prune", "", { reclaimed: "0" });
    return { ImagesDeleted: deleted.length > 0 ? deleted : null, SpaceReclaimed: 0 };
  }

  /** Loads an image that `docker save` has written. */
  async take(text: string): Promise<Image> {
    let document: ImageDocument;
    try {
      document = JSON.parse(text);
    } catch {
      throw failure("bad parameter", "the archive has no image: its configuration is not JSON");
    }
    if (typeof document !== "object" || document === null || !document.rootfs) {
      throw failure("bad parameter", "the archive has no image: its configuration has no rootfs");
    }
    if ((document.rootfs.diff_ids ?? []).length > 0) {
      throw failure(
        "not implemented",
        'the image holds files, expected one made of "host": here a container runs in this machine',
      );
    }
    const created = Number.isNaN(Date.parse(document.created)) ? goTime(0) : document.created;
    return await this.#add({
      ...document,
      created,
      config: document.config ?? {},
      history: document.history ?? [],
    });
  }
}

/** The bytes of an image's document, whose digest is its id. */
export function encode(document: ImageDocument): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(JSON.stringify(document));
}

async function digestOf(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  return "sha256:" + new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)).toHex();
}

function safeReference(name: string): string | undefined {
  try {
    return referenceOf(name);
  } catch {
    return undefined; // It is an id, or malformed, and names no image.
  }
}

/** Whether a pattern such as `me/*` or `host:l*` matches a name; a star matches no slash. */
function refersTo(pattern: string, reference: string): boolean {
  const repository = reference.slice(0, reference.lastIndexOf(":"));
  const expression = new RegExp(
    "^" +
      pattern.replace(/[.+^${}()|\\]/g, "\\$&").replaceAll("*", "[^/]*").replaceAll("?", "[^/]") +
      "$",
  );
  return expression.test(reference) || expression.test(repository);
}

/** Registers the jobs of images, except those of archives. */
export function registerImages(daemon: Daemon, images: Images): void {
  const { engine } = daemon;
  engine.register("images", (job) => {
    const filters = job.env.getFilters("filters");
    const filter = job.getenv("filter"); // Clients before API version 1.41 send this.
    if (filter) filters.set("reference", [filter]);
    return print(job, images.list(filters, job.getenvBool("all")));
  });
  engine.register("image_inspect", (job) => print(job, images.inspect(images.find(subject(job)))));
  engine.register("history", (job) => {
    const image = images.find(subject(job));
    // The image's own step has its id; earlier steps may have no image any more.
    const entries = image.document.history.map((entry, i, { length }) => ({
      Id: i === length - 1 ? image.id : "<missing>",
      Created: Math.floor(Date.parse(entry.created) / 1_000),
      CreatedBy: entry.created_by,
      Tags: i === length - 1 ? images.tagsOf(image.id) : null,
      Size: 0,
      Comment: entry.comment ?? "",
    }));
    return print(job, entries.reverse());
  });
  engine.register("image_delete", async (job) => {
    await print(job, await images.remove(subject(job), job.getenvBool("force")));
  });
  engine.register("tag", async (job) => {
    const [name = "", repository = job.getenv("repo"), tag = job.getenv("tag")] = job.args;
    await images.tag(images.find(name), referenceOf(repository, tag));
  });
  engine.register("images_prune", async (job) => {
    await print(job, await images.prune(job.env.getFilters("filters")));
  });
  engine.register("pull", (job) => pull(job, images));
  engine.register("push", (job) => {
    images.find(subject(job));
    throw failure("not implemented", "there is no registry here to push to");
  });
  engine.register("search", (job) => print(job, []));
  engine.register("auth", () => {
    throw failure("not implemented", "there is no registry here to log in to");
  });
  engine.register("distribution_inspect", (job) => {
    throw failure("not found", `there is no registry here that has ${subject(job)}`);
  });
}

/** There is no registry: pulling a local image succeeds, and any other fails. */
function pull(job: Job, images: Images): Promise<void> {
  const [name = job.getenv("fromImage"), tag = job.getenv("tag")] = job.args;
  const reference = referenceOf(name, tag);
  if (!images.get(reference)) {
    throw failure(
      "not found",
      `pull access denied for ${reference}: there is no registry here, expected "host", which is this machine, or an image made of it`,
    );
  }
  return print(job, { status: `Status: Image is up to date for ${reference}` });
}
