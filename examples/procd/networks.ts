/**
 * Networks as records. Every container uses the network of this machine, `host`; other networks
 * exist for clients that expect them, such as compose.
 *
 * @module
 */

import { type Daemon, failure, goTime, print, type Strings, subject } from "./daemon.ts";
import { type Filters, labelled, named, some, untilOf, yesOrNo } from "./filters.ts";
import { newId } from "./store.ts";

/** A network. */
export interface Network {
  id: string;
  name: string;
  /** When it was created, in milliseconds since 1970. */
  created: number;
  driver: string;
  internal: boolean;
  attachable: boolean;
  labels: Strings;
  options: Strings;
  ipam: unknown;
}

/** A container's endpoint in a network. */
export interface Endpoint {
  Aliases: string[] | null;
  EndpointID: string;
  NetworkID: string;
  IPAddress: string;
  Gateway: string;
  IPPrefixLen: number;
  MacAddress: string;
  DriverOpts: Strings | null;
  Links: string[] | null;
}

/** The parts of a container that networks use. */
interface Member {
  id: string;
  name: string;
  networks: Record<string, Endpoint>;
}

/** The only real network. */
export const HOST = "host";
/** Networks of dockerd that clients expect: here they are aliases of `host`. */
const STAND_INS: readonly string[] = ["default", "bridge", "none"];

/** The networks. */
export class Networks {
  #daemon: Daemon;

  /** The networks of a daemon, with `host` at least. */
  constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  /** Adds `host` if it is missing. */
  seed(): void {
    if (this.get(HOST)) return;
    // Ports of containers are reached at this address, as at the gateway of other daemons.
    const Config = [{ Subnet: "127.0.0.0/8", Gateway: "127.0.0.1" }];
    this.#insert(HOST, { driver: "host", ipam: { Driver: "default", Options: null, Config } });
  }

  #insert(name: string, given: Partial<Network>): Network {
    const network: Network = {
      id: newId(),
      name,
      created: Date.now(),
      driver: given.driver || "bridge",
      internal: given.internal ?? false,
      attachable: given.attachable ?? false,
      labels: given.labels ?? {},
      options: given.options ?? {},
      ipam: given.ipam ?? { Driver: "default", Options: null, Config: [] },
    };
    const made = this.#daemon.store.run(
      "INSERT OR IGNORE INTO networks VALUES (?, ?, ?, ?)",
      network.id,
      name,
      network.created,
      JSON.stringify(network),
    );
    if (made === 0) throw failure("conflict", `network with name ${name} already exists`);
    return network;
  }

  /** The network of this name, id, or unique prefix of an id; undefined if there is none. */
  get(name: string): Network | undefined {
    return this.#daemon.store.named("networks", STAND_INS.includes(name) ? HOST : name);
  }

  /**
   * The network of this name or id.
   *
   * @throws {TypedError} ("not found") If there is none.
   */
  find(name: string): Network {
    const found = this.get(name);
    if (!found) throw failure("not found", `network ${name} not found`);
    return found;
  }

  /** All networks, by name. */
  all(): Network[] {
    return this.#daemon.store.documents("SELECT body FROM networks ORDER BY name");
  }

  /** Creates a network. */
  async create(name: string, given: Partial<Network>): Promise<Network> {
    if (!/^[a-zA-Z\d][\w.-]*$/.test(name)) {
      throw failure("bad parameter", `invalid network name: ${name}`);
    }
    if (STAND_INS.includes(name) || name === HOST) {
      throw failure("forbidden", `operation is not permitted on predefined ${name} network`);
    }
    const network = this.#insert(name, given);
    await this.#tell("create", network);
    return network;
  }

  #tell(action: string, network: Network, attributes: Strings = {}): Promise<void> {
    return this.#daemon.tell("network", action, network.id, {
      name: network.name,
      type: network.driver,
      ...attributes,
    });
  }

  /** A container's settings of a network, for inspect. */
  endpoint(network: Network, given: Partial<Endpoint> = {}): Endpoint {
    return {
      Links: null,
      DriverOpts: null,
      ...given,
      Aliases: given.Aliases ?? null,
      EndpointID: newId(),
      NetworkID: network.id,
      IPAddress: "",
      Gateway: "",
      IPPrefixLen: 0,
      MacAddress: "",
    };
  }

  /** The containers in a network. */
  members(network: Network): Member[] {
    return this.#daemon.store.documents(
      `SELECT json_object('id', containers.id, 'name', containers.name,
         'networks', json_extract(body, '$.networks')) AS body
       FROM containers, json_each(containers.body, '$.networks') AS endpoint
       WHERE json_extract(endpoint.value, '$.NetworkID') = ?`,
      network.id,
    );
  }

  /** Records that a container was connected or disconnected. */
  async connected(
    action: "connect" | "disconnect",
    name: string,
    container: string,
  ): Promise<void> {
    const network = this.get(name);
    if (network) await this.#tell(action, network, { container });
  }

  /** Removes a network without containers. */
  async remove(name: string): Promise<void> {
    const network = this.find(name);
    if (network.name === HOST) {
      throw failure("forbidden", `${HOST} is a pre-defined network and cannot be removed`);
    }
    const members = this.members(network);
    if (members.length > 0) {
      throw failure(
        "forbidden",
        `error while removing network: network ${name} has active endpoints (${
          members.map((each) => `name:"${each.name}" id:"${each.id.slice(0, 12)}"`).join(", ")
        })`,
      );
    }
    this.#daemon.store.run("DELETE FROM networks WHERE id = ?", network.id);
    await this.#tell("destroy", network);
  }

  /** The document of `docker network inspect`. */
  describe(network: Network): Record<string, unknown> {
    const containers = this.members(network).map(({ id, name, networks }) => [id, {
      Name: name,
      EndpointID: Object.values(networks).find((each) => each.NetworkID === network.id)?.EndpointID,
      MacAddress: "",
      IPv4Address: "",
      IPv6Address: "",
    }]);
    return {
      Name: network.name,
      Id: network.id,
      Created: goTime(network.created),
      Scope: "local",
      Driver: network.driver,
      EnableIPv4: true,
      EnableIPv6: false,
      IPAM: network.ipam,
      Internal: network.internal,
      Attachable: network.attachable,
      Ingress: false,
      ConfigFrom: { Network: "" },
      ConfigOnly: false,
      Containers: Object.fromEntries(containers),
      Options: network.options,
      Labels: network.labels,
    };
  }

  /** The list of `docker network ls`. */
  list(filters: Filters): Network[] {
    const dangling = yesOrNo(filters, "dangling");
    return this.all().filter((network) => {
      const builtin = network.name === HOST;
      return named(filters, network.name) && labelled(filters, network.labels) &&
        some(filters, "id", (id) => network.id.startsWith(id)) &&
        some(filters, "driver", (driver) => driver === network.driver) &&
        some(filters, "scope", (scope) => scope === "local") &&
        some(filters, "type", (type) => type === (builtin ? "builtin" : "custom")) &&
        (dangling === undefined ||
          dangling === (!builtin && this.members(network).length === 0));
    });
  }

  /** Removes all networks without containers. */
  async prune(filters: Filters): Promise<unknown> {
    const until = untilOf(filters);
    const deleted: string[] = [];
    for (const network of this.all()) {
      if (network.name === HOST || network.created >= until) continue;
      if (!labelled(filters, network.labels) || this.members(network).length > 0) continue;
      await this.remove(network.id);
      deleted.push(network.name);
    }
    await this.#daemon.tell("network", "prune", "", { reclaimed: "0" });
    return { NetworksDeleted: deleted.length > 0 ? deleted : null };
  }
}

/** Registers the jobs of networks, except connecting containers. */
export function registerNetworks(daemon: Daemon, networks: Networks): void {
  const { engine } = daemon;
  engine.register("networks", (job) => {
    const list = networks.list(job.env.getFilters("filters"));
    return print(job, list.map((each) => networks.describe(each)));
  });
  engine.register("network_inspect", (job) => {
    return print(job, networks.describe(networks.find(subject(job))));
  });
  engine.register("network_create", async (job) => {
    const network = await networks.create(job.getenv("Name"), {
      driver: job.getenv("Driver"),
      internal: job.getenvBool("Internal"),
      attachable: job.getenvBool("Attachable"),
      labels: (job.getenvJson("Labels") ?? {}) as Strings,
      options: (job.getenvJson("Options") ?? {}) as Strings,
      ipam: job.getenvJson("IPAM"),
    });
    const Warning = network.driver === "host"
      ? ""
      : "the network is a record: containers have the network of this machine";
    await print(job, { Id: network.id, Warning });
  });
  engine.register("network_rm", (job) => networks.remove(subject(job)));
  engine.register("networks_prune", async (job) => {
    await print(job, await networks.prune(job.env.getFilters("filters")));
  });
}
