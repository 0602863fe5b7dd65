/**
 * `docker save` and `docker load`: images as archives in Docker's format.
 *
 * @module
 */

import { type Daemon, failure, print } from "./daemon.ts";
import { encode, type Image, type Images, referenceOf } from "./images.ts";
import { headerBytes, padding, readTar, TAR_END, textOf } from "./tar.ts";

/** The longest file that is read from an archive, in bytes: all metadata is short. */
const FILE_LIMIT = 4 * 1_024 * 1_024;

/** An entry of `manifest.json`. */
interface Manifest {
  Config: string;
  RepoTags: string[] | null;
  Layers: string[];
}

/** Registers `image_export`, `load` and `import`. */
export function registerImageArchives(daemon: Daemon, images: Images): void {
  const { engine } = daemon;
  engine.register("image_export", async (job) => {
    // The named tags by image id; an image that was named by its id has none.
    const wanted = new Map<string, { image: Image; tags: Set<string> }>();
    for (const name of job.args) {
      const image = images.find(name);
      const entry = wanted.get(image.id) ?? { image, tags: new Set() };
      wanted.set(image.id, entry);
      for (const tag of images.tagsOf(image.id)) {
        if (!image.id.includes(name) && tag === referenceOf(name)) entry.tags.add(tag);
      }
    }
    if (wanted.size === 0) throw failure("bad parameter", "no image named, expected at least one");
    const manifest: Manifest[] = [];
    const write = async (name: string, content: Uint8Array) => {
      const header = { mode: 0o644, mtime: 0, uid: 0, gid: 0, target: "" };
      const size = content.length;
      await job.stdout.write(headerBytes({ ...header, name, type: "file", size }));
      await job.stdout.write(content);
      await job.stdout.write(padding(size));
    };
    for (const { image, tags } of wanted.values()) {
      const Config = `${image.id.slice(7)}.json`;
      await write(Config, encode(image.document));
      manifest.push({ Config, RepoTags: tags.size > 0 ? [...tags] : null, Layers: [] });
      await daemon.tell("image", "save", image.id, { name: image.id });
    }
    await write("manifest.json", new TextEncoder().encode(JSON.stringify(manifest)));
    await job.stdout.write(TAR_END);
  });
  engine.register("load", async (job) => {
    const files = new Map<string, string>();
    for await (const entry of readTar(job.stdin.readable)) {
      if (entry.type !== "file" || entry.size > FILE_LIMIT) continue;
      files.set(entry.name.replace(/^\.\//, ""), await textOf(entry));
    }
    const text = files.get("manifest.json");
    if (text === undefined) {
      const problem = "the archive has no manifest.json, expected one of docker save";
      throw failure("bad parameter", problem);
    }
    for (const { Config, RepoTags } of JSON.parse(text) as Manifest[]) {
      const config = files.get(Config);
      if (config === undefined) throw failure("bad parameter", `the archive has no ${Config}`);
      const image = await images.take(config);
      for (const tag of RepoTags ?? []) {
        // The image of this machine is not part of archives.
        const reference = referenceOf(tag);
        if (images.get(reference)?.id !== image.id) await images.tag(image, reference);
        await print(job, { stream: `Loaded image: ${reference}\n` });
      }
      if (!RepoTags?.length) await print(job, { stream: `Loaded image ID: ${image.id}\n` });
      await daemon.tell("image", "load", image.id, { name: image.id });
    }
  });
  engine.register("import", () => {
    throw failure(
      "not implemented",
      "cannot import files: an image here holds none, and a container has those of this machine",
    );
  });
}
