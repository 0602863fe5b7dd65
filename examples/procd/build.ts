/**
 * `docker build` for images without files: their configuration only. `RUN` runs on this machine;
 * instructions that would put files into an image are refused.
 *
 * @module
 */

import type { Job } from "../../mod.ts";
import { applied, command } from "./instructions.ts";
import type { Config } from "./containers.ts";
import { failure, print } from "./daemon.ts";
import { type Image, type ImageConfig, type Images, referenceOf } from "./images.ts";
import type { Lifecycle } from "./lifecycle.ts";
import { readTar, textOf } from "./tar.ts";

/** The longest Dockerfile, in bytes. */
const DOCKERFILE_LIMIT = 1_024 * 1_024;

/** The instructions of a Dockerfile, one per line. */
export function instructionsOf(text: string): string[] {
  const found: string[] = [];
  let open = "";
  for (const line of text.split(/\r?\n/)) {
    if (/^\s*#/.test(line) || (open === "" && line.trim() === "")) continue;
    const goes = /^(.*?)\\\s*$/.exec(line);
    if (goes) {
      open += goes[1];
      continue;
    }
    found.push((open + line).trim());
    open = "";
  }
  if (open.trim() !== "") found.push(open.trim());
  return found.filter((instruction) => instruction !== "");
}

/** Text with `$NAME`, `${NAME}` and `${NAME:-other}` replaced; `\$` is a dollar. */
function substituted(text: string, variables: ReadonlyMap<string, string>): string {
  return text.replace(
    /\\\$|\$(\w+)|\$\{(\w+)(?::([-+])([^}]*))?\}/g,
    (all, plain, braced, operator, word = "") => {
      if (all === "\\$") return "$";
      const value = variables.get(plain ?? braced) ?? "";
      if (operator === "-") return value || word;
      if (operator === "+") return value && word;
      return value;
    },
  );
}

/** All instructions. */
const INSTRUCTIONS = [
  ...["ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"],
  ...["MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"],
];

/** An instruction and its arguments. */
interface Step {
  readonly text: string;
  readonly name: string;
  readonly rest: string;
}

/**
 * The instructions of a Dockerfile up to the end of a stage; `""` for the last one.
 *
 * @throws {TypedError} ("bad parameter") If one is unknown, or the stage is.
 */
function stepsOf(text: string, target: string): Step[] {
  const steps = instructionsOf(text).map((text) => {
    const [, word = "", rest = ""] = /^(\S+)\s*(.*)$/s.exec(text) ?? [];
    const name = word.toUpperCase();
    if (INSTRUCTIONS.includes(name)) return { text, name, rest };
    throw failure("bad parameter", `dockerfile parse error: unknown instruction: ${word}`);
  });
  const [first] = steps.filter(({ name }) => name !== "ARG");
  if (first === undefined) {
    throw failure("bad parameter", "the Dockerfile has no instructions, expected FROM");
  }
  if (first.name !== "FROM") {
    throw failure("bad parameter", `no build stage in current context: ${first.name} before FROM`);
  }
  if (target === "") return steps;
  const starts = [...steps.keys()].filter((i) => steps[i]!.name === "FROM");
  const stage = starts.findIndex((i, n) =>
    stageName(steps[i]!.rest) === target.toLowerCase() || String(n) === target
  );
  if (stage < 0) throw failure("bad parameter", `target stage "${target}" could not be found`);
  return steps.slice(0, starts[stage + 1]);
}

/** The name that FROM gives its stage; undefined for none. */
function stageName(from: string): string | undefined {
  return /\sAS\s+(\S+)\s*$/i.exec(from)?.[1]?.toLowerCase();
}

/** Instructions whose arguments have variables substituted. */
const SUBSTITUTES = [
  ...["ARG", "ENV", "LABEL", "EXPOSE", "USER", "VOLUME", "WORKDIR", "STOPSIGNAL", "FROM"],
];

/** One build. */
class Build {
  #life: Lifecycle;
  #images: Images;
  #job: Job;
  /** The arguments that FROM and, once it declares them again, each stage has. */
  #global = new Map<string, string>();
  /** The arguments of the stage. */
  #args = new Map<string, string>();
  #image?: Image;
  /** The names and the number of the stage. */
  #names: string[] = [];
  /** The images of earlier stages, by their names and numbers. */
  #stages = new Map<string, Image>();
  #count = 0;

  constructor(life: Lifecycle, job: Job) {
    this.#life = life;
    this.#images = life.containers.images;
    this.#job = job;
  }

  /** Runs the instructions of a Dockerfile. */
  async run(text: string): Promise<Image> {
    const given = (this.#job.getenvJson("buildargs") ?? {}) as Record<string, string | null>;
    const steps = stepsOf(text, this.#job.getenv("target"));
    for (const [i, { text, name, rest }] of steps.entries()) {
      await this.say(`Step ${i + 1}/${steps.length} : ${text}\n`);
      const variables = this.#image && name !== "FROM" ? this.#variables() : this.#global;
      const known = SUBSTITUTES.includes(name) ? substituted(rest, variables) : rest;
      await this.#step(name, known, given);
      if (this.#image) await this.say(` ---> ${this.#image.id.slice(7, 19)}\n`);
    }
    const labels = this.#job.getenvJson("labels") as Record<string, string> | undefined;
    if (labels && Object.keys(labels).length > 0) {
      const { config } = this.#image!.document;
      await this.#derive({ ...config, Labels: { ...config.Labels, ...labels } }, "LABEL");
    }
    return this.#image!; // The first instruction but ARG is FROM.
  }

  #variables(): Map<string, string> {
    const variables = new Map(this.#args);
    for (const each of this.#image?.document.config.Env ?? []) {
      const at = each.indexOf("=");
      variables.set(each.slice(0, at), each.slice(at + 1));
    }
    return variables;
  }

  async #step(name: string, text: string, given: Record<string, string | null>): Promise<void> {
    if (name === "ARG") {
      const [, arg = "", assigned, other = ""] = /^(\w+)(=(.*))?$/s.exec(text) ?? [];
      if (arg === "") throw failure("bad parameter", `ARG ${text}: expected NAME or NAME=VALUE`);
      const value = given[arg] ??
        (assigned === undefined ? this.#global.get(arg) : undefined) ??
        other.replace(/^(["'])(.*)\1$/s, "$2");
      (this.#image ? this.#args : this.#global).set(arg, value);
      return;
    }
    if (name === "FROM") {
      for (const name of this.#names) this.#stages.set(name, this.#image!);
      const [from = ""] = text.split(/\s+/).filter((word) => !word.startsWith("--"));
      this.#image = this.#stages.get(from.toLowerCase()) ?? this.#images.find(from);
      const stage = stageName(text);
      this.#names = [String(this.#count++), ...stage === undefined ? [] : [stage]];
      this.#args.clear();
      return;
    }
    if (name === "COPY" || name === "ADD") {
      throw failure(
        "not implemented",
        `${name} ${text}: an image here holds no files; a container has those of this machine`,
      );
    }
    if (name === "RUN") return await this.#run(text);
    if (name === "MAINTAINER") {
      return await this.#derive(this.#image!.document.config, `MAINTAINER ${text}`, text);
    }
    if (name === "ONBUILD") throw failure("not implemented", `${name} is not done here`);
    const { config } = this.#image!.document;
    await this.#derive(applied(config, `${name} ${text}`), `${name} ${text}`);
  }

  async #derive(config: ImageConfig, by: string, author = ""): Promise<void> {
    this.#image = await this.#images.derive(this.#image!, config, by, { author });
  }

  /** Runs a command on this machine, in a container that is removed afterwards. */
  async #run(text: string): Promise<void> {
    const { containers } = this.#life;
    const config: Config = {
      Image: this.#image!.id,
      Entrypoint: [],
      Cmd: command(text, this.#image!.document.config),
      Env: [...this.#args].map(([name, value]) => `${name}=${value}`),
    };
    const { container } = await containers.create("", config, {});
    try {
      const { driver } = containers.daemon;
      const streams = { stdin: false, stdout: true, stderr: true };
      const io = await driver.attach(container.id, streams);
      const leave = () => io.close();
      this.#job.signal.addEventListener("abort", leave, { once: true });
      try {
        await this.#life.start(container.id);
        const decoder = new TextDecoder();
        for (let chunk; (chunk = await io.read());) {
          await this.say(decoder.decode(chunk.data, { stream: true }));
        }
      } finally {
        this.#job.signal.removeEventListener("abort", leave);
        io.close();
      }
      const told = () => Promise.resolve();
      const code = await this.#life.wait(container.id, "not-running", told, this.#job.signal);
      if (code !== 0) {
        const command = config.Cmd!.join(" ");
        const problem = `The command '${command}' returned a non-zero code: ${code}`;
        throw failure("bad parameter", problem);
      }
    } finally {
      await this.#life.remove(container.id, { force: true, volumes: true });
    }
    await this.#derive(this.#image!.document.config, `RUN ${text}`);
  }

  /** Sends a line to the client, unless it wants only the id. */
  async say(stream: string): Promise<void> {
    if (!this.#job.getenvBool("q")) await print(this.#job, { stream });
  }
}

/** Registers `build`. */
export function registerBuild(life: Lifecycle): void {
  const { engine } = life.containers.daemon;
  const { images } = life.containers;
  engine.register("build", async (job) => {
    if (job.getenv("remote")) {
      throw failure("not implemented", "a remote context: expected the context itself");
    }
    const wanted = job.getenv("dockerfile") || "Dockerfile";
    const names = job.env.toMultiMap().get("t") ?? [];
    const references = names.flatMap((name) => name.startsWith("[") ? JSON.parse(name) : [name])
      .filter((name) => name !== "").map((name: string) => referenceOf(name));
    let text: string | undefined;
    for await (const entry of readTar(job.stdin.readable)) {
      if (entry.name.replace(/^\.\//, "") !== wanted) continue;
      if (entry.size > DOCKERFILE_LIMIT) throw failure("bad parameter", `${wanted} is too long`);
      text = await textOf(entry);
    }
    if (text === undefined) {
      throw failure("bad parameter", `Cannot locate specified Dockerfile: ${wanted}`);
    }
    const build = new Build(life, job);
    try {
      const image = await build.run(text);
      for (const reference of references) await images.tag(image, reference);
      await print(job, { aux: { ID: image.id } });
      await build.say(`Successfully built ${image.id.slice(7, 19)}\n`);
      for (const reference of references) await build.say(`Successfully tagged ${reference}\n`);
      if (job.getenvBool("q")) await print(job, { stream: `${image.id}\n` });
    } catch (error) {
      if (job.signal.aborted) return;
      // The answer has begun, so the error is sent as part of it.
      const { message } = error as Error;
      await print(job, { errorDetail: { message }, error: message });
    }
  });
}
