/**
 * `docker cp`: copies files into a container's folder and out of it. The folder is the root of all
 * paths and links, so that no link leads out of it, except to the container's mounts.
 *
 * @module
 */

import type { Job } from "../../mod.ts";
import type { Container, Containers } from "./containers.ts";
import { failure, subject } from "./daemon.ts";
import { notThere } from "./files.ts";
import { headerBytes, padding, readTar, TAR_END, type TarEntry, type TarHeader } from "./tar.ts";

/** The most links that a path may lead through, as in Linux. */
const LINKS = 40;
const PATH_STAT = "X-Docker-Container-Path-Stat";
// Bits of Go's FileMode, in the header that clients read.
const MODE_DIR = 2 ** 31;
const MODE_SYMLINK = 2 ** 27;

/** A path in a container, and its path on this machine. */
interface Place {
  /** The path in the container, with links resolved except perhaps the last. */
  inside: string;
  /** The path on this machine. */
  outside: string;
  info: Deno.FileInfo;
}

/** A container's folder as a root file system. */
class Tree {
  #root: string;
  #mounts: Map<string, string>;

  constructor(containers: Containers, { id, mounts }: Container) {
    this.#root = containers.daemon.filesOf(id);
    this.#mounts = new Map(mounts.map(({ Destination, Source }) => [Destination, Source]));
  }

  /** Resolves a path through links, the last only if `follow`. Undefined without its folder. */
  async find(path: string, follow: boolean): Promise<Place | undefined> {
    let left = parts(path);
    let inside: string[] = [];
    let links = 0;
    let info = await Deno.stat(this.#root);
    while (left.length > 0) {
      const part = left.shift()!;
      if (part === "..") {
        inside.pop();
        continue;
      }
      const next = [...inside, part];
      const found = await this.#look(`/${next.join("/")}`);
      if (!found) return undefined;
      if (found.isSymlink && (left.length > 0 || follow)) {
        if (++links > LINKS) throw failure("bad parameter", `too many links in ${path}`);
        const target = await Deno.readLink(this.#outside(`/${next.join("/")}`));
        if (target.startsWith("/")) inside = [];
        left = [...parts(target), ...left];
        continue;
      }
      if (left.length > 0 && !found.isDirectory) return undefined;
      info = found;
      inside = next;
    }
    const own = `/${inside.join("/")}`;
    // The last part may have been "..".
    if (path.endsWith("..") || inside.length === 0) info = await Deno.stat(this.#outside(own));
    return { inside: own, outside: this.#outside(own), info };
  }

  async #look(inside: string): Promise<Deno.FileInfo | undefined> {
    try {
      const outside = this.#outside(inside);
      // A mount is a link that looks like the mounted folder.
      return this.#mounts.has(inside) ? await Deno.stat(outside) : await Deno.lstat(outside);
    } catch (error) {
      return error instanceof Deno.errors.NotADirectory ? undefined : notThere(error);
    }
  }

  #outside(inside: string): string {
    for (let end = inside.length; end > 0; end = inside.lastIndexOf("/", end - 1)) {
      const source = this.#mounts.get(inside.slice(0, end));
      if (source !== undefined) return source + inside.slice(end);
    }
    return inside === "/" ? this.#root : this.#root + inside;
  }

  /** Resolves a path whose last part need not exist. */
  async place(path: string): Promise<{ inside: string; outside: string } | undefined> {
    const names = parts(path);
    const name = names.pop();
    const folder = await this.find(`/${names.join("/")}`, true);
    if (name === undefined) return folder;
    if (!folder?.info.isDirectory || name === "..") return undefined;
    const inside = folder.inside === "/" ? `/${name}` : `${folder.inside}/${name}`;
    return { inside, outside: this.#outside(inside) };
  }

  /** Whether a path is that of a mount, which must not be replaced. */
  isMount(inside: string): boolean {
    return this.#mounts.has(inside);
  }
}

function parts(path: string): string[] {
  return path.split("/").filter((part) => part !== "" && part !== ".");
}

/** The last part of a path: `.` for `/a/.`, which docker cp treats specially. */
function baseOf(path: string): string {
  return /(^|\/)\.$/.test(path) ? "." : parts(path).at(-1) ?? ".";
}

/** A path in the container that a job is about. */
async function locate(containers: Containers, job: Job, path: string, follow: boolean) {
  const container = containers.find(subject(job));
  const tree = new Tree(containers, container);
  const place = await tree.find(path, follow);
  if (place && (place.info.isDirectory || !path.endsWith("/"))) return { container, tree, place };
  throw failure(
    "not found",
    `Could not find the file ${path} in container ${container.name}: cp reaches its own folder only, and its volumes`,
  );
}

/** The value of the header that describes a file. */
async function statHeader(tree: Tree, place: Place, path: string): Promise<string> {
  const { info } = place;
  const link = info.isSymlink ? await tree.find(path, true) : undefined;
  const stat = {
    name: baseOf(path) === "." ? parts(place.inside).at(-1) ?? "/" : baseOf(path),
    size: info.size,
    mode: (info.mode! & 0o777) + (info.isDirectory ? MODE_DIR : 0) +
      (info.isSymlink ? MODE_SYMLINK : 0),
    mtime: info.mtime?.toISOString(),
    linkTarget: info.isSymlink ? link?.inside ?? await Deno.readLink(place.outside) : "",
  };
  return new TextEncoder().encode(JSON.stringify(stat)).toBase64();
}

/** Writes a file, or a folder with its contents, as an archive. */
async function pack(job: Job, outside: string, name: string, seen: Deno.FileInfo): Promise<void> {
  const header: TarHeader = {
    name,
    type: "other",
    size: 0,
    mode: seen.mode ?? 0o644,
    mtime: Math.floor((seen.mtime?.getTime() ?? 0) / 1_000),
    uid: seen.uid ?? 0,
    gid: seen.gid ?? 0,
    target: "",
  };
  if (seen.isSymlink) {
    const target = await Deno.readLink(outside);
    await job.stdout.write(headerBytes({ ...header, type: "symlink", target }));
  } else if (seen.isDirectory) {
    await job.stdout.write(headerBytes({ ...header, type: "directory", name: `${name}/` }));
    const names: string[] = [];
    for await (const entry of Deno.readDir(outside)) names.push(entry.name);
    for (const each of names.sort()) {
      const path = `${outside}/${each}`;
      try {
        await pack(job, path, `${name}/${each}`, await Deno.lstat(path));
      } catch (error) {
        notThere(error); // It was removed meanwhile.
      }
    }
  } else if (seen.isFile) {
    using file = await Deno.open(outside);
    const { size } = await file.stat();
    await job.stdout.write(headerBytes({ ...header, type: "file", size }));
    const buffer = new Uint8Array(65_536);
    let left = size;
    while (left > 0) {
      const n = await file.read(buffer.subarray(0, Math.min(left, buffer.length)));
      if (n === null) break;
      await job.stdout.write(buffer.subarray(0, n));
      left -= n;
    }
    // A file that was truncated meanwhile is padded to the announced length.
    for (; left > 0; left -= Math.min(left, 65_536)) {
      await job.stdout.write(new Uint8Array(Math.min(left, 65_536)));
    }
    await job.stdout.write(padding(size));
  }
  // Pipes, sockets and devices have no contents to copy.
}

/** Extracts one file of an archive. */
async function unpack(tree: Tree, folder: string, entry: TarEntry, strict: boolean): Promise<void> {
  const path = `${folder}/${entry.name}`;
  if (parts(entry.name).includes("..")) {
    throw failure("bad parameter", `the archive has a file that leads out of it: ${entry.name}`);
  }
  if (parts(entry.name).length === 0) return; // The folder itself.
  let place = await tree.place(path);
  if (!place) {
    // An archive may omit the parent folders of its files.
    const parent = parts(path).slice(0, -1);
    for (let depth = 1; depth <= parent.length; depth++) {
      const above = `/${parent.slice(0, depth).join("/")}`;
      const there = await tree.find(above, true);
      if (there?.info.isDirectory) continue;
      const at = !there && await tree.place(above);
      if (!at) throw failure("bad parameter", `${above} is not a directory`);
      await Deno.mkdir(at.outside);
    }
    place = await tree.place(path);
    if (!place) throw failure("bad parameter", `${path} leads out of the container`);
  }
  const { inside, outside } = place;
  const there = await Deno.lstat(outside).catch(notThere);
  if (there) {
    const isFolder = there.isDirectory || tree.isMount(inside);
    if (isFolder && entry.type === "directory") return;
    if (isFolder !== (entry.type === "directory") && strict || tree.isMount(inside)) {
      const [is, other] = isFolder
        ? ["directory", "non-directory"]
        : ["non-directory", "directory"];
      throw failure("bad parameter", `cannot overwrite ${is} "${inside}" with ${other}`);
    }
    await Deno.remove(outside, { recursive: true });
  }
  switch (entry.type) {
    case "directory":
      return await Deno.mkdir(outside, { mode: entry.mode & 0o777 });
    case "symlink":
      return await Deno.symlink(entry.target, outside);
    case "link": {
      const target = await tree.find(`${folder}/${entry.target}`, false);
      if (!target) throw failure("bad parameter", `${entry.target}, a link's target, is missing`);
      return await Deno.link(target.outside, outside);
    }
    case "file": {
      using file = await Deno.open(outside, {
        write: true,
        createNew: true,
        mode: entry.mode & 0o777,
      });
      for await (const chunk of entry.body) {
        for (let sent = 0; sent < chunk.length;) sent += await file.write(chunk.subarray(sent));
      }
      // chmod, because the umask applies to the mode of open.
      await Deno.chmod(outside, entry.mode & 0o777);
      return await file.utime(entry.mtime, entry.mtime);
    }
    case "other":
      throw failure("bad parameter", `${entry.name} is not a file, directory or link`);
  }
}

/** Registers `archive_stat`, `archive_get`, `archive_put` and `container_copy`. */
export function registerArchive(containers: Containers): void {
  const { engine } = containers.daemon;
  const get = async (job: Job, path: string) => {
    const follow = path.endsWith("/") || path.endsWith("/.");
    const { container, tree, place } = await locate(containers, job, path, follow);
    job.outcome = { headers: { [PATH_STAT]: await statHeader(tree, place, path) } };
    await pack(job, place.outside, baseOf(path), place.info);
    await job.stdout.write(TAR_END);
    await containers.tell("archive-path", container, { path });
  };
  engine.register("archive_get", (job) => get(job, job.getenv("path")));
  engine.register("container_copy", (job) => get(job, job.args[1] ?? ""));
  engine.register("archive_stat", async (job) => {
    const path = job.getenv("path");
    const { tree, place } = await locate(containers, job, path, path.endsWith("/"));
    job.outcome = { headers: { [PATH_STAT]: await statHeader(tree, place, path) } };
  });
  engine.register("archive_put", async (job) => {
    const path = job.getenv("path");
    const { container, tree, place } = await locate(containers, job, path, true);
    if (!place.info.isDirectory) {
      throw failure("bad parameter", `extraction point is not a directory: ${path}`);
    }
    const strict = job.getenvBool("noOverwriteDirNonDir");
    for await (const entry of readTar(job.stdin.readable)) {
      await unpack(tree, place.inside, entry, strict);
    }
    await containers.tell("extract-to-dir", container, { path });
  });
}
