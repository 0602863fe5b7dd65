/**
 * Containers as records: how they are created, found, listed and described. `lifecycle.ts` starts
 * and stops them.
 *
 * @module
 */

import { constants } from "node:os";
import { type Job, TypedError } from "../../mod.ts";
import {
  type Daemon,
  failure,
  goTime,
  humanDuration,
  NEVER,
  print,
  type Strings,
  subject,
} from "./daemon.ts";
import { notThere, sizeOf } from "./files.ts";
import { type Filters, labelled, named, some } from "./filters.ts";
import { ARCHITECTURE, type Image, type ImageConfig, type Images, referenceOf } from "./images.ts";
import { applied } from "./instructions.ts";
import { DEFAULT_LIMITS, type LogLimits } from "./logs.ts";
import { newName } from "./names.ts";
import { type Endpoint, HOST, type Networks } from "./networks.ts";
import { newId } from "./store.ts";
import { userOf } from "./users.ts";
import type { Volumes } from "./volumes.ts";

/** The configuration of a container: members of create's body. */
export interface Config extends ImageConfig {
  Hostname?: string | undefined;
  Domainname?: string | undefined;
  AttachStdin?: boolean | undefined;
  AttachStdout?: boolean | undefined;
  AttachStderr?: boolean | undefined;
  Tty?: boolean | undefined;
  OpenStdin?: boolean | undefined;
  StdinOnce?: boolean | undefined;
  Image?: string | undefined;
  StopTimeout?: number | undefined;
}

/** The restart policy. */
export interface RestartPolicy {
  Name: "" | "no" | "always" | "unless-stopped" | "on-failure";
  MaximumRetryCount: number;
}

/** A mount: a link from a container's folder to another. */
interface Mount {
  Type: "volume" | "bind";
  Name?: string | undefined;
  Source: string;
  Destination: string;
  Driver?: string | undefined;
  Mode: string;
  RW: boolean;
  Propagation: string;
}

/** The state of the healthcheck. */
export interface Health {
  Status: "starting" | "healthy" | "unhealthy";
  FailingStreak: number;
  Log: { Start: string; End: string; ExitCode: number; Output: string }[];
}

/** The state of a container. */
export interface State {
  status: "created" | "running" | "paused" | "restarting" | "exited" | "dead";
  /** The count of starts, and the last start whose exit is recorded. */
  run: number;
  ended: number;
  pid: number;
  /** The start time of the process, in clock ticks since the boot: with the pid its identity. */
  startTime: number;
  code: number;
  error: string;
  startedAt: string;
  finishedAt: string;
  restarts: number;
  /** Whether a client has stopped it, so that no restart policy applies. */
  stopped: boolean;
  health?: Health | undefined;
}

/** A container. */
export interface Container {
  id: string;
  name: string;
  /** When it was created, in milliseconds since 1970. */
  created: number;
  /** The image's id. */
  image: string;
  config: Config;
  /** The client's HostConfig, most of which is only stored. */
  host: Record<string, unknown>;
  /** The program and its arguments. */
  args: string[];
  mounts: Mount[];
  networks: Record<string, Endpoint>;
  restart: RestartPolicy;
  limits: LogLimits;
  state: State;
}

/** Whether its main process runs. */
export function isRunning({ state }: Container): boolean {
  return state.status === "running" || state.status === "paused";
}

const NAME = /^[a-zA-Z\d][\w.-]+$/;

/** The members of create's body besides `HostConfig` and `NetworkingConfig`. */
const MEMBERS = {
  text: ["Hostname", "Domainname", "User", "Image", "WorkingDir", "StopSignal"],
  flag: ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"],
  list: ["Env", "Cmd", "Entrypoint"],
  json: ["Labels", "Volumes", "ExposedPorts", "Healthcheck", "StopTimeout"],
} as const;

/** Reads a {@linkcode Config} from a job's env. */
function configOf(job: Job): Config {
  const config: Record<string, unknown> = {};
  for (const name of MEMBERS.text) if (job.env.has(name)) config[name] = job.getenv(name);
  for (const name of MEMBERS.flag) config[name] = job.getenvBool(name);
  for (const name of MEMBERS.list) if (job.env.has(name)) config[name] = job.getenvList(name);
  for (const name of MEMBERS.json) if (job.env.has(name)) config[name] = job.getenvJson(name);
  return config as Config;
}

/** The part of a text before a separator. */
function nameIn(text: string, separator: string): string {
  const at = text.indexOf(separator);
  return at < 0 ? text : text.slice(0, at);
}

/** Merges an image's configuration with the client's, as dockerd does. */
function merged(image: ImageConfig, given: Config): Config {
  const env = new Map<string, string>();
  for (const each of [...image.Env ?? [], ...given.Env ?? []]) env.set(nameIn(each, "="), each);
  // An empty list counts as absent; --entrypoint "", a list of one empty text, removes the image's.
  const entrypoint = given.Entrypoint?.length
    ? given.Entrypoint.filter((word) => word !== "" || given.Entrypoint!.length > 1)
    : undefined;
  // The image's command is for its own entrypoint only.
  const cmd = given.Cmd?.length ? given.Cmd : entrypoint ? [] : image.Cmd ?? [];
  return {
    ...given,
    Env: [...env.values()],
    Entrypoint: entrypoint ?? image.Entrypoint ?? null,
    Cmd: cmd,
    WorkingDir: given.WorkingDir || image.WorkingDir || "",
    User: given.User || image.User || "",
    Labels: { ...image.Labels, ...given.Labels },
    Volumes: { ...image.Volumes, ...given.Volumes },
    ExposedPorts: { ...image.ExposedPorts, ...given.ExposedPorts },
    StopSignal: given.StopSignal || image.StopSignal,
    Healthcheck: given.Healthcheck?.Test?.length
      ? given.Healthcheck
      : { ...image.Healthcheck, ...given.Healthcheck, Test: image.Healthcheck?.Test },
  };
}

/** The host settings that plain processes do not support, each with its warning. */
const NOT_GIVEN: readonly [name: string, says: string][] = [
  ["Memory", "memory is not limited"],
  ["MemorySwap", "swap is not limited"],
  ["MemoryReservation", "memory is not limited"],
  ["NanoCpus", "processors are not limited"],
  ["CpuShares", "processors are not limited"],
  ["CpuQuota", "processors are not limited"],
  ["CpusetCpus", "processors are not limited"],
  ["PidsLimit", "the number of processes is not limited"],
  ["BlkioWeight", "disks are not limited"],
  ["Ulimits", "limits of the daemon's apply"],
  ["CapAdd", "capabilities are the daemon's"],
  ["CapDrop", "capabilities are the daemon's"],
  ["SecurityOpt", "security options are not applied"],
  ["ReadonlyRootfs", "the file system is this machine's, and can be written where the user may"],
  ["Privileged", "a container has the rights of the daemon's user"],
  ["GroupAdd", "groups are those of the user"],
  ["Tmpfs", "nothing is mounted"],
  ["Devices", "devices are this machine's"],
  ["DeviceRequests", "devices are this machine's"],
  ["Links", "names are resolved as this machine does"],
  ["Dns", "names are resolved as this machine does"],
  ["ExtraHosts", "names are resolved as this machine does"],
  ["Sysctls", "the kernel's parameters are this machine's"],
];

/** The warnings for a client about settings that have no effect. */
function warningsFor(config: Config, host: Record<string, unknown>, platform = ""): string[] {
  const asked = (value: unknown) =>
    Array.isArray(value)
      ? value.length > 0
      : typeof value === "object" && value !== null
      ? Object.keys(value).length > 0
      : value !== undefined && value !== null && value !== "" && value !== false &&
        Number(value) !== 0 && Number(value) !== -1;
  const warnings = new Set<string>();
  for (const [name, says] of NOT_GIVEN) {
    if (asked(host[name])) warnings.add(`${name} is ignored: ${says}.`);
  }
  if (asked(host.PortBindings) || host.PublishAllPorts === true) {
    warnings.add(
      "Published ports are ignored: the network is this machine's, and a port is where a program opens it.",
    );
  }
  const mode = String(host.NetworkMode ?? "");
  if (!["", "default", HOST].includes(mode)) {
    warnings.add(`Network ${mode} isolates nothing: the network is this machine's.`);
  }
  const driver = (host.LogConfig as { Type?: string } | undefined)?.Type ?? "";
  if (!OWN_DRIVERS.includes(driver)) {
    warnings.add(`Log driver ${driver} is ignored: docker logs reads what the driver local keeps.`);
  }
  if (((host.Mounts ?? []) as { Type?: string }[]).some(({ Type }) => Type === "tmpfs")) {
    warnings.add("Mounts of type tmpfs are ignored: nothing is mounted.");
  }
  const [, wanted = ARCHITECTURE] = platform.split("/");
  if (wanted !== ARCHITECTURE) {
    warnings.add(
      `Platform ${platform} is ignored: programs are this machine's, of ${ARCHITECTURE}.`,
    );
  }
  if (config.Hostname) warnings.add("Hostname is only in the variable HOSTNAME.");
  return [...warnings];
}

/** The containers. */
export class Containers {
  /** The containers of a daemon. */
  constructor(
    readonly daemon: Daemon,
    readonly images: Images,
    readonly volumes: Volumes,
    readonly networks: Networks,
  ) {}

  /** The container of this name, id, or unique prefix of an id; undefined if there is none. */
  get(name: string): Container | undefined {
    return this.daemon.store.named("containers", name.replace(/^\//, ""));
  }

  /**
   * The container of this name or id.
   *
   * @throws {TypedError} ("not found") If there is none.
   */
  find(name: string): Container {
    const found = this.get(name);
    if (!found) throw failure("not found", `No such container: ${name}`);
    return found;
  }

  /**
   * The same, if it runs.
   *
   * @throws {TypedError} ("not found") If there is none; ("conflict") if it does not run.
   */
  findRunning(name: string): Container {
    const found = this.find(name);
    if (!isRunning(found)) throw failure("conflict", `container ${found.id} is not running`);
    return found;
  }

  /** All containers, the newest first. */
  all(): Container[] {
    return this.daemon.store.documents("SELECT body FROM containers ORDER BY created DESC");
  }

  /** Updates a container's record and returns it; undefined if the container was removed. */
  update(id: string, change: (container: Container) => void): Container | undefined {
    return this.daemon.store.update("containers", id, change);
  }

  /** Records an event about a container. */
  tell(action: string, container: Container, attributes: Strings = {}): Promise<void> {
    return this.daemon.tell("container", action, container.id, {
      ...container.config.Labels,
      image: container.config.Image ?? container.image,
      name: container.name,
      ...attributes,
    });
  }

  /** Checks a name for a container, and returns it without the leading slash. */
  checkName(name: string): string {
    const bare = name.replace(/^\//, "");
    if (!NAME.test(bare)) {
      throw failure(
        "bad parameter",
        `Invalid container name (${name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed`,
      );
    }
    return bare;
  }

  #byName(name: string): { id: string } | undefined {
    return this.daemon.store.get("SELECT id FROM containers WHERE name = ?", name);
  }

  /** Throws a TypedError ("conflict") if a name is in use. */
  checkFree(name: string): void {
    const other = this.#byName(name);
    if (!other) return;
    throw failure(
      "conflict",
      `Conflict. The container name "/${name}" is already in use by container "${other.id}". You have to remove (or rename) that container to be able to reuse that name.`,
    );
  }

  /** Creates a container; returns it with warnings for the client. */
  async create(
    wantedName: string,
    given: Config,
    host: Record<string, unknown>,
    endpoints: Record<string, Partial<Endpoint>> = {},
    platform = "",
  ): Promise<{ container: Container; warnings: string[] }> {
    if (!given.Image) throw failure("bad parameter", "no Image given");
    const image = this.images.find(given.Image);
    const config = merged(image.document.config, given);
    const args = [...config.Entrypoint ?? [], ...config.Cmd ?? []];
    if (args.length === 0) throw failure("bad parameter", "no command specified");
    const id = newId();
    let name = wantedName && this.checkName(wantedName);
    if (name) this.checkFree(name);
    if (config.User) userOf(config.User);
    if (config.StopSignal) signalOf(config.StopSignal);
    if (given.WorkingDir && !given.WorkingDir.startsWith("/")) {
      throw failure(
        "bad parameter",
        `the working directory '${given.WorkingDir}' is invalid, it needs to be an absolute path`,
      );
    }
    const restart = restartOf(host);
    const limits = limitsOf(host.LogConfig);
    let networks: Record<string, Endpoint>;
    let mounts: Mount[];
    try {
      networks = this.#endpoints(id, String(host.NetworkMode ?? ""), endpoints);
      mounts = await this.#mounts(config, host);
    } catch (error) {
      // The docker CLI takes a 404 for that of the image, which it pulls then.
      if (!(error instanceof TypedError) || error.kind !== "not found") throw error;
      throw failure("bad parameter", error.message);
    }
    await Deno.mkdir(this.daemon.filesOf(id), { recursive: true, mode: 0o755 });
    try {
      await this.#link(id, mounts);
      if (config.User) {
        const { uid, gid } = userOf(config.User);
        if (uid !== Deno.uid()) await Deno.chown(this.daemon.filesOf(id), uid, gid);
      }
      const container = this.daemon.store.transaction(() => {
        name ||= newName((name) => this.#byName(name) !== undefined);
        this.checkFree(name);
        // Later than all before, so that the order is unique even if the clock is set back.
        const { last } = this.daemon.store.get<{ last: number }>(
          "SELECT ifnull(max(created), 0) AS last FROM containers",
        )!;
        const container: Container = {
          id,
          name,
          created: Math.max(Date.now(), last + 1),
          image: image.id,
          config,
          host,
          args,
          mounts,
          networks,
          restart,
          limits,
          state: {
            status: "created",
            run: 0,
            ended: 0,
            pid: 0,
            startTime: 0,
            code: 0,
            error: "",
            startedAt: NEVER,
            finishedAt: NEVER,
            restarts: 0,
            stopped: false,
          },
        };
        this.daemon.store.run(
          "INSERT INTO containers VALUES (?, ?, ?, ?)",
          id,
          name,
          container.created,
          JSON.stringify(container),
        );
        return container;
      });
      await this.tell("create", container);
      return { container, warnings: warningsFor(given, host, platform) };
    } catch (error) {
      await Deno.remove(this.daemon.folderOf(id), { recursive: true });
      throw error;
    }
  }

  #endpoints(
    id: string,
    mode: string,
    given: Record<string, Partial<Endpoint>>,
  ): Record<string, Endpoint> {
    const networks: Record<string, Endpoint> = {};
    const add = (name: string, endpoint?: Partial<Endpoint>) => {
      const network = this.networks.find(name || HOST);
      const aliases = [...endpoint?.Aliases ?? [], id.slice(0, 12)];
      networks[network.name] ??= this.networks.endpoint(
        network,
        { ...endpoint, Aliases: network.name === HOST ? null : aliases },
      );
    };
    const container = /^container:(.+)$/.exec(mode)?.[1];
    if (container !== undefined) this.find(container);
    add(container === undefined ? mode : HOST, given[mode]);
    for (const [name, endpoint] of Object.entries(given)) add(name, endpoint);
    return networks;
  }

  /** The mounts that a client asks for. */
  async #mounts(config: Config, host: Record<string, unknown>): Promise<Mount[]> {
    const mounts = new Map<string, Mount>();
    const add = async (
      type: string,
      source: string,
      target: string,
      rw: boolean,
      mode = "",
      create = true,
    ) => {
      if (!target.startsWith("/") || target === "/") {
        throw failure(
          "bad parameter",
          `invalid mount path: '${target}' mount path must be absolute, and not "/"`,
        );
      }
      const Destination = target.replace(/\/+$/, "");
      if (mounts.has(Destination)) {
        throw failure("bad parameter", `Duplicate mount point: ${Destination}`);
      }
      const common = { Destination, Mode: mode, RW: rw };
      if (type === "bind") {
        if (await Deno.lstat(source).catch(notThere) === undefined) {
          if (!create) {
            throw failure(
              "bad parameter",
              `invalid mount config for type "bind": bind source path does not exist: ${source}`,
            );
          }
          await Deno.mkdir(source, { recursive: true });
        }
        mounts.set(Destination, {
          Type: "bind",
          Source: source,
          ...common,
          Propagation: "rprivate",
        });
      } else {
        const { name } = await this.volumes.create(source);
        mounts.set(Destination, {
          Type: "volume",
          Name: name,
          Source: this.volumes.pathOf(name),
          Driver: "local",
          ...common,
          Propagation: "",
        });
      }
    };
    for (const from of (host.VolumesFrom ?? []) as string[]) {
      for (const mount of this.find(nameIn(from, ":")).mounts) {
        mounts.set(mount.Destination, mount);
      }
    }
    for (const bind of (host.Binds ?? []) as string[]) {
      const [source, target, mode = "", ...more] = bind.split(":");
      if (source === undefined || target === undefined || more.length > 0) {
        throw failure("bad parameter", `invalid volume specification: '${bind}'`);
      }
      mounts.delete(target.replace(/\/+$/, ""));
      const type = source.startsWith("/") ? "bind" : "volume";
      await add(type, source, target, !mode.split(",").includes("ro"), mode);
    }
    for (const each of (host.Mounts ?? []) as Record<string, unknown>[]) {
      const { Type = "volume", Source = "", Target, ReadOnly } = each;
      if (Type === "tmpfs") continue; // A warning tells the client.
      if (Type !== "bind" && Type !== "volume") {
        throw failure("bad parameter", `mount type ${Type} unknown, expected bind or volume`);
      }
      const { CreateMountpoint } = (each.BindOptions ?? {}) as { CreateMountpoint?: boolean };
      const create = CreateMountpoint === true;
      await add(Type, String(Source), String(Target ?? ""), ReadOnly !== true, "", create);
    }
    for (const target of Object.keys(config.Volumes ?? {})) {
      if (!mounts.has(target.replace(/\/+$/, ""))) await add("volume", "", target, true);
    }
    return [...mounts.values()];
  }

  /** Makes the links of mounts. */
  async #link(id: string, mounts: Mount[]): Promise<void> {
    const files = this.daemon.filesOf(id);
    // The shortest path first, so that nested mounts come after the outer ones.
    const length = ({ Destination }: Mount) => Destination.length;
    for (const { Destination, Source } of mounts.toSorted((a, b) => length(a) - length(b))) {
      const parts = Destination.split("/").filter((part) => part !== "" && part !== ".");
      if (parts.includes("..")) {
        throw failure("bad parameter", `invalid mount path: '${Destination}' leads out`);
      }
      const path = `${files}/${parts.join("/")}`;
      const inside = mounts.some((other) => Destination.startsWith(`${other.Destination}/`));
      if (inside) continue; // A nested mount has a variable and no link.
      await Deno.mkdir(path.slice(0, path.lastIndexOf("/")), { recursive: true });
      await Deno.symlink(Source, path);
    }
  }

  /** Removes a container's record and files; with `volumes` its anonymous volumes too. */
  async remove(container: Container, volumes: boolean): Promise<void> {
    const { store } = this.daemon;
    const removed = store.transaction(() => {
      store.run("DELETE FROM execs WHERE container = ?", container.id);
      return store.run("DELETE FROM containers WHERE id = ?", container.id) > 0;
    });
    if (!removed) return; // Another request has removed it.
    await removeTree(this.daemon.folderOf(container.id));
    if (volumes) {
      const users = this.volumes.users();
      for (const { Name } of container.mounts) {
        if (!Name || users.has(Name) || !this.volumes.get(Name)?.anonymous) continue;
        await this.volumes.remove(Name, true);
      }
    }
    await this.tell("destroy", container);
  }

  /** The size of a container's folder in bytes. */
  size(container: Container): Promise<number> {
    return sizeOf(this.daemon.filesOf(container.id));
  }

  async #sizes(container: Container): Promise<Record<"SizeRw" | "SizeRootFs", number>> {
    const size = await this.size(container);
    return { SizeRw: size, SizeRootFs: size };
  }

  /** The status column of `docker ps`. */
  describeState({ state }: Container): string {
    const since = (time: string) => humanDuration(Date.now() - Date.parse(time));
    switch (state.status) {
      case "created":
        return "Created";
      case "running": {
        const health = state.health
          ? ` (${state.health.Status === "starting" ? "health: starting" : state.health.Status})`
          : "";
        return `Up ${since(state.startedAt)}${health}`;
      }
      case "paused":
        return `Up ${since(state.startedAt)} (Paused)`;
      case "restarting":
        return `Restarting (${state.code}) ${since(state.finishedAt)} ago`;
      case "dead":
        return "Dead";
      case "exited":
        return `Exited (${state.code}) ${since(state.finishedAt)} ago`;
    }
  }

  /** The list of `docker ps`: the newest `limit`, all, or the running ones. */
  async list(
    filters: Filters,
    options: { all: boolean; limit: number; size: boolean },
  ): Promise<unknown[]> {
    const every = options.all || options.limit > 0 || ["status", "exited", "since", "before"]
      .some((name) => filters.has(name));
    const at = (name: string, other: number) => {
      const [of] = filters.get(name) ?? [];
      return of === undefined ? other : this.find(of).created;
    };
    const [since, before] = [at("since", -Infinity), at("before", Infinity)];
    const ancestors = filters.get("ancestor")?.map((name) => this.images.get(name)?.id);
    const found: Container[] = [];
    for (const container of this.all()) {
      if (options.limit > 0 && found.length === options.limit) break;
      const { state } = container;
      if (!every && !isRunning(container) && state.status !== "restarting") continue;
      if (container.created <= since || container.created >= before) continue;
      if (ancestors && !ancestors.includes(container.image)) continue;
      if (this.#fits(container, filters)) found.push(container);
    }
    return await Promise.all(found.map((container) => this.summary(container, options.size)));
  }

  #fits(container: Container, filters: Filters): boolean {
    const { state, config } = container;
    const networks = Object.entries(container.networks);
    const hasEnded = ["exited", "dead"].includes(state.status);
    const ports = Object.keys(config.ExposedPorts ?? {});
    const fits: Record<string, (wanted: string) => boolean> = {
      id: (id) => container.id.startsWith(id),
      status: (status) => status === state.status,
      exited: (code) => hasEnded && Number(code) === state.code,
      health: (health) => health === (state.health?.Status ?? "none"),
      network: (wanted) =>
        networks.some(([name, { NetworkID }]) => name === wanted || NetworkID.startsWith(wanted)),
      volume: (wanted) =>
        container.mounts.some(({ Name, Source, Destination }) =>
          [Name, Source, Destination].includes(wanted)
        ),
      expose: (port) => ports.includes(port.includes("/") ? port : `${port}/tcp`),
      publish: () => false, // No port is ever published.
      "is-task": (wanted) => ["false", "0"].includes(wanted),
      isolation: (wanted) => ["", "default"].includes(wanted),
    };
    return named(filters, container.name) && labelled(filters, config.Labels ?? undefined) &&
      Object.entries(fits).every(([name, test]) => some(filters, name, test));
  }

  /** An entry of the list. */
  async summary(container: Container, size: boolean): Promise<unknown> {
    const { state, config } = container;
    return {
      Id: container.id,
      Names: [`/${container.name}`],
      Image: config.Image,
      ImageID: container.image,
      Command: container.args.map(quoted).join(" "),
      Created: Math.floor(container.created / 1_000),
      Ports: [],
      Labels: config.Labels ?? {},
      State: state.status,
      Status: this.describeState(container),
      HostConfig: { NetworkMode: container.host.NetworkMode || "default" },
      NetworkSettings: { Networks: container.networks },
      Mounts: container.mounts,
      ...size && await this.#sizes(container),
    };
  }

  /** The document of `docker inspect`. */
  async inspect(container: Container, size: boolean, execs: string[]): Promise<unknown> {
    const { state, config, id } = container;
    const [Path, ...Args] = container.args;
    const folder = this.daemon.folderOf(id);
    return {
      Id: id,
      Created: goTime(container.created),
      Path,
      Args,
      State: {
        Status: state.status,
        Running: isRunning(container) || state.status === "restarting",
        Paused: state.status === "paused",
        Restarting: state.status === "restarting",
        OOMKilled: false,
        Dead: state.status === "dead",
        Pid: isRunning(container) ? state.pid : 0,
        ExitCode: state.code,
        Error: state.error,
        StartedAt: state.startedAt,
        FinishedAt: state.finishedAt,
        ...state.health && { Health: state.health },
      },
      Image: container.image,
      ResolvConfPath: "/etc/resolv.conf",
      HostnamePath: "/etc/hostname",
      HostsPath: "/etc/hosts",
      LogPath: folder,
      Name: `/${container.name}`,
      RestartCount: state.restarts,
      Driver: this.daemon.driver.name,
      Platform: Deno.build.os,
      MountLabel: "",
      ProcessLabel: "",
      AppArmorProfile: "",
      ExecIDs: execs.length > 0 ? execs : null,
      HostConfig: {
        Binds: null,
        AutoRemove: false,
        Privileged: false,
        NanoCpus: 0,
        Memory: 0,
        Tmpfs: null,
        Ulimits: null,
        PortBindings: {},
        ...container.host,
        NetworkMode: container.host.NetworkMode || "default",
        RestartPolicy: { ...container.restart, Name: container.restart.Name || "no" },
        LogConfig: {
          Type: "local",
          Config: {
            "max-size": String(container.limits.maxSize),
            "max-file": String(container.limits.maxFiles),
          },
        },
      },
      GraphDriver: { Name: "none", Data: { Folder: this.daemon.filesOf(id) } },
      ...size && await this.#sizes(container),
      Mounts: container.mounts,
      Config: { ...config, Hostname: config.Hostname || id.slice(0, 12) },
      NetworkSettings: {
        Bridge: "",
        SandboxID: "",
        Ports: {},
        IPAddress: "",
        Gateway: "",
        MacAddress: "",
        Networks: container.networks,
      },
    };
  }
}

/** Quotes a word for a shell, if necessary. */
function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** Removes a folder; tries again if a process in it has just created files. */
async function removeTree(path: string): Promise<void> {
  for (let tries = 0;; tries++) {
    try {
      return await Deno.remove(path, { recursive: true });
    } catch (error) {
      if (error instanceof Deno.errors.NotFound) return;
      if (tries === 5) throw error;
    }
  }
}

/** Parses the restart policy. */
function restartOf(host: Record<string, unknown>): RestartPolicy {
  const given = (host.RestartPolicy ?? {}) as Partial<RestartPolicy>;
  const { Name = "", MaximumRetryCount = 0 } = given;
  const names = ["", "no", "always", "unless-stopped", "on-failure"];
  if (!names.includes(Name)) {
    throw failure(
      "bad parameter",
      `invalid restart policy: unknown policy '${Name}'; use one of '${
        names.slice(1).join("', '")
      }'`,
    );
  }
  if (MaximumRetryCount && Name !== "on-failure") {
    throw failure(
      "bad parameter",
      "invalid restart policy: maximum retry count can only be used with 'on-failure'",
    );
  }
  if (MaximumRetryCount < 0) {
    throw failure(
      "bad parameter",
      "invalid restart policy: maximum retry count cannot be negative",
    );
  }
  if (host.AutoRemove === true && !["", "no"].includes(Name)) {
    throw failure("bad parameter", "can't create 'AutoRemove' container with restart policy");
  }
  return { Name, MaximumRetryCount };
}

/** Log drivers that are what there is here. */
const OWN_DRIVERS = ["", "local", "json-file"];
/** Their options, of which the first two have an effect. */
const LOG_OPTIONS = ["max-size", "max-file", "compress", "env", "env-regex", "labels", "tag"];

/** Parses the limits of the log: `--log-opt max-size=10m --log-opt max-file=3`. */
function limitsOf(given: unknown): LogLimits {
  const { Type = "", Config } = (given ?? {}) as { Type?: string; Config?: Strings | null };
  const options = Config ?? {};
  const unknown = Object.keys(options).find((name) => !LOG_OPTIONS.includes(name));
  if (unknown !== undefined && OWN_DRIVERS.includes(Type)) {
    throw failure(
      "bad parameter",
      `unknown log opt '${unknown}' for ${Type || "local"} log driver, expected one of ${
        LOG_OPTIONS.join(", ")
      }`,
    );
  }
  const { "max-size": size, "max-file": files } = options;
  const [, number, unit = ""] = /^(\d+)([kmg]?)b?$/i.exec(size ?? "") ?? [];
  if (size !== undefined && (number === undefined || Number(number) === 0)) {
    throw failure("bad parameter", `invalid value for max-size: ${size}, expected such as 10m`);
  }
  if (files !== undefined && !(Number.isInteger(Number(files)) && Number(files) > 0)) {
    throw failure("bad parameter", `invalid value for max-file: ${files}, expected at least 1`);
  }
  return {
    maxSize: number === undefined
      ? DEFAULT_LIMITS.maxSize
      : Number(number) * 1_024 ** ["", "k", "m", "g"].indexOf(unit.toLowerCase()),
    maxFiles: files === undefined ? DEFAULT_LIMITS.maxFiles : Number(files),
  };
}

/**
 * Parses a signal: `HUP`, `SIGHUP` or `1`.
 *
 * @throws {TypedError} ("bad parameter") If there is no such signal.
 */
export function signalOf(text: string): Deno.Signal {
  const name = text.toUpperCase();
  const found = Object.entries(constants.signals).find(([signal, number]) =>
    signal === name || signal === `SIG${name}` || String(number) === text
  );
  if (!found) throw failure("bad parameter", `invalid signal: ${text}`);
  return found[0] as Deno.Signal;
}

/** The number of a signal. */
export function numberOf(signal: Deno.Signal): number {
  return (constants.signals as Partial<Record<Deno.Signal, number>>)[signal]!;
}

/** The values that some of the filters have. */
const FILTER_VALUES = {
  status: ["created", "restarting", "running", "removing", "paused", "exited", "dead"],
  health: ["none", "starting", "healthy", "unhealthy"],
};

/** Registers the jobs that work on records. */
export function registerContainers(containers: Containers): void {
  const { engine, store } = containers.daemon;
  engine.register("create", async (job) => {
    const networking = job.getenvJson("NetworkingConfig") as {
      EndpointsConfig?: Record<string, Partial<Endpoint>>;
    } | undefined;
    const { container, warnings } = await containers.create(
      subject(job),
      configOf(job),
      (job.getenvJson("HostConfig") ?? {}) as Record<string, unknown>,
      networking?.EndpointsConfig,
      job.getenv("platform"),
    );
    await print(job, { Id: container.id, Warnings: warnings });
  });
  engine.register("containers", async (job) => {
    const filters = job.env.getFilters("filters");
    for (const name of ["since", "before"]) { // Clients before API version 1.24 send these.
      if (job.getenv(name)) filters.set(name, [job.getenv(name)]);
    }
    const exited = filters.get("exited")?.find((code) => !/^-?\d+$/.test(code));
    if (exited !== undefined) throw failure("bad parameter", `invalid filter exited=${exited}`);
    for (const [name, values] of Object.entries(FILTER_VALUES)) {
      const wrong = filters.get(name)?.find((value) => !values.includes(value));
      if (wrong === undefined) continue;
      throw failure(
        "bad parameter",
        `invalid filter '${name}=${wrong}', expected one of ${values.join(", ")}`,
      );
    }
    const list = await containers.list(filters, {
      all: job.getenvBool("all"),
      limit: job.getenvInt("limit"),
      size: job.getenvBool("size"),
    });
    await print(job, list);
  });
  engine.register("container_inspect", async (job) => {
    const container = containers.find(subject(job));
    const execs = store.all<{ id: string }>(
      "SELECT id FROM execs WHERE container = ? AND json_extract(body, '$.running')",
      container.id,
    );
    const ids = execs.map(({ id }) => id);
    await print(job, await containers.inspect(container, job.getenvBool("size"), ids));
  });
  engine.register("container_changes", (job) => {
    containers.find(subject(job));
    return print(job, []);
  });
  engine.register("export", (job) => {
    containers.find(subject(job));
    throw failure(
      "not implemented",
      "cannot export a container: its files are this machine's; docker cp gives those of its folder",
    );
  });
  engine.register("rename", async (job) => {
    const container = containers.find(subject(job));
    const name = containers.checkName(job.args[1] ?? "");
    if (name === container.name) {
      const problem = "Renaming a container with the same name as its current name";
      throw failure("bad parameter", problem);
    }
    const renamed = store.transaction(() => {
      containers.checkFree(name);
      store.run("UPDATE containers SET name = ? WHERE id = ?", name, container.id);
      return containers.update(container.id, (each) => each.name = name);
    });
    if (renamed) await containers.tell("rename", renamed, { oldName: `/${container.name}` });
  });
  engine.register("network_connect", async (job) => {
    const network = containers.networks.find(subject(job));
    const container = containers.find(job.getenv("Container"));
    if (container.networks[network.name]) {
      throw failure(
        "forbidden",
        `endpoint with name ${container.name} already exists in network ${network.name}`,
      );
    }
    const given = (job.getenvJson("EndpointConfig") ?? {}) as Partial<Endpoint>;
    containers.update(container.id, ({ networks, id }) => {
      const Aliases = [...given.Aliases ?? [], id.slice(0, 12)];
      networks[network.name] = containers.networks.endpoint(network, { ...given, Aliases });
    });
    await containers.networks.connected("connect", network.id, container.id);
  });
  engine.register("network_disconnect", async (job) => {
    const network = containers.networks.find(subject(job));
    const container = containers.find(job.getenv("Container"));
    if (!container.networks[network.name]) {
      throw failure("forbidden", `container ${container.id} is not connected to ${network.name}`);
    }
    if (network.name === HOST) {
      throw failure(
        "conflict",
        "container cannot be disconnected from host network: it is this machine's",
      );
    }
    containers.update(container.id, ({ networks }) => void delete networks[network.name]);
    await containers.networks.connected("disconnect", network.id, container.id);
  });
  engine.register("update", async (job) => {
    const container = containers.find(subject(job));
    const { Name } = (job.getenvJson("RestartPolicy") ?? {}) as Partial<RestartPolicy>;
    if (Name) {
      const RestartPolicy = job.getenvJson("RestartPolicy");
      const policy = restartOf({ ...container.host, RestartPolicy });
      containers.update(container.id, (each) => each.restart = policy);
    }
    await containers.tell("update", container);
    // Strings are in the env as they are, other values as JSON.
    const limits = NOT_GIVEN.map(([name]) => {
      const value = job.getenv(name);
      return [name, /^[[{]/.test(value) ? JSON.parse(value) : value];
    });
    await print(job, { Warnings: warningsFor({}, Object.fromEntries(limits)) });
  });
  engine.register("commit", async (job) => {
    const container = containers.find(subject(job));
    const changes = job.getenv("changes") === "" ? [] : job.getenvList("changes");
    await print(job, { Id: (await commit(containers, container, job, changes)).id });
  });
}

/** The members of a container's configuration that an image made of it has. */
const OF_IMAGES = [
  ...["User", "Env", "Cmd", "Entrypoint", "WorkingDir", "Labels"] as const,
  ...["StopSignal", "ExposedPorts", "Volumes"] as const,
];

/** Makes an image of a container's configuration. */
async function commit(
  containers: Containers,
  container: Container,
  job: Job,
  changes: string[],
): Promise<Image> {
  const parent = containers.images.get(container.image) ?? containers.images.find("host");
  const repository = job.getenv("repo");
  const reference = repository && referenceOf(repository, job.getenv("tag"));
  const { Healthcheck } = container.config;
  const kept = OF_IMAGES.map((name) => [name, container.config[name]]);
  const base: ImageConfig = {
    ...Object.fromEntries(kept),
    Healthcheck: Healthcheck?.Test ? Healthcheck : undefined,
  };
  const config = changes.reduce((config, line) => applied(config, line), base);
  const comment = job.getenv("comment");
  const options = { author: job.getenv("author"), comment };
  const by = container.args.map(quoted).join(" ");
  const image = await containers.images.derive(parent, config, by, options);
  if (reference) await containers.images.tag(image, reference);
  await containers.tell("commit", container, { comment, imageID: image.id });
  return image;
}
