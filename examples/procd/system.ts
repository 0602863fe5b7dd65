/**
 * The daemon as a whole: `info`, `system_df`, and pruning of builds.
 *
 * @module
 */

import type { Job } from "../../mod.ts";
import type { Containers } from "./containers.ts";
import { failure, print, subject } from "./daemon.ts";
import { countStates } from "./usage.ts";

/** The warnings of `docker info`. */
const WARNINGS = [
  "WARNING: No isolation: containers are plain processes of this machine, and of its users",
  "WARNING: No memory limit support",
  "WARNING: No cpu limit support",
  "WARNING: No published ports: the network is this machine's",
];

/** Registers `system_df`, `build_prune` and `plugins`, and adds the containers to `info`. */
export function registerSystem(containers: Containers): void {
  const { daemon, images, volumes } = containers;
  const { engine } = daemon;
  const info = async (job: Job) => {
    const machine = engine.job("info");
    machine.setenv("OfMachine", "1");
    machine.quiet = true;
    const told = machine.stdout.addEnv();
    await machine.run();
    const known = JSON.parse(told.encode());
    await print(job, {
      ...known,
      ...countStates(containers),
      Images: images.all().length,
      Driver: daemon.driver.name,
      DriverStatus: [["State", daemon.folder], ["Isolation", "none"]],
      DockerRootDir: daemon.folder,
      LoggingDriver: "local",
      CgroupDriver: "none",
      DefaultRuntime: daemon.driver.name,
      Runtimes: { [daemon.driver.name]: { path: "" } },
      Plugins: { Volume: ["local"], Network: ["host"], Authorization: null, Log: ["local"] },
      SecurityOptions: [],
      RegistryConfig: { InsecureRegistryCIDRs: [], IndexConfigs: {}, Mirrors: [] },
      Swarm: { LocalNodeState: "inactive", ControlAvailable: false },
      LiveRestoreEnabled: true,
      Warnings: WARNINGS,
    });
  };
  // The built-in handler adds what it knows of the machine, in a job of its own.
  engine.wrapHandlers((job, handler) =>
    job.name === "info" && !job.getenvBool("OfMachine") ? info(job) : handler(job)
  );
  engine.register("system_df", async (job) => {
    const all = containers.all();
    const types = job.getenvList("type");
    const wanted = (type: string) => types.length === 0 || types.includes(type);
    const users = volumes.users();
    await print(job, {
      LayersSize: 0,
      Images: wanted("image") ? images.list(new Map(), true) : null,
      Containers: wanted("container")
        ? await Promise.all(all.map((each) => containers.summary(each, true)))
        : null,
      Volumes: wanted("volume")
        ? await Promise.all(volumes.all().map((each) => volumes.usage(each, users)))
        : null,
      BuildCache: wanted("build-cache") ? [] : null,
    });
  });
  // Builds leave only images behind.
  engine.register("build_prune", (job) => print(job, { CachesDeleted: null, SpaceReclaimed: 0 }));
  engine.register("plugins", (job) => print(job, []));
  engine.register("plugin_inspect", (job) => {
    throw failure("not found", `plugin "${subject(job)}" not found`);
  });
}
