/**
 * procd: a daemon that runs plain processes of this machine as containers, for the docker CLI and
 * other clients of Docker's API. It needs no root, no kernel features and no images, and it
 * isolates nothing: it is for places where no container engine can run, and for uses that need
 * none.
 *
 * ```sh
 * deno run -A mod.ts -H unix:///tmp/procd.sock --install examples/procd/mod.ts
 * docker -H unix:///tmp/procd.sock run --rm host uname -a
 * ```
 *
 * `FLOODGATE_STATE` is the folder of its state; default `$XDG_STATE_HOME/floodgate`, or
 * `~/.local/state/floodgate`. Containers outlive the daemon, and the next one finds them.
 *
 * @module
 */

import type { Engine, Installer } from "../../mod.ts";
import { registerArchive } from "./archive.ts";
import { registerBuild } from "./build.ts";
import { Containers, registerContainers } from "./containers.ts";
import { Daemon } from "./daemon.ts";
import { Execs, registerExecs } from "./exec.ts";
import { Healthchecks } from "./health.ts";
import { registerImageArchives } from "./image_archive.ts";
import { Images, registerImages } from "./images.ts";
import { Lifecycle, registerLifecycle } from "./lifecycle.ts";
import { Networks, registerNetworks } from "./networks.ts";
import { ProcessDriver } from "./process_driver.ts";
import { Store } from "./store.ts";
import { registerStreams } from "./streams.ts";
import { SOCKET } from "./supervisor.ts";
import { registerSystem } from "./system.ts";
import { registerUsage } from "./usage.ts";
import { registerVolumes, Volumes } from "./volumes.ts";

/** The longest path of a unix socket in bytes (unix(7)), without the final zero. */
const SOCKET_PATH = 107;

/** Opens the store, finds the containers that still run, and registers the jobs. */
export const install: Installer = async (engine) => {
  const folder = await stateFolder();
  const store = new Store(`${folder}/state.db`);
  store.own(takesOver(engine));
  const driver = new ProcessDriver(folder, () => life.lost().then(() => execs.restore()));
  engine.onShutdown(() => {
    // The programs run on.
    driver.close();
    store.close();
  });
  const daemon = new Daemon(engine, store, driver, folder);
  const images = new Images(daemon);
  const volumes = new Volumes(daemon);
  const networks = new Networks(daemon);
  const containers = new Containers(daemon, images, volumes, networks);
  const life = new Lifecycle(containers);
  const execs = new Execs(life);
  new Healthchecks(life, execs);
  await images.seed();
  networks.seed();

  registerImages(daemon, images);
  registerVolumes(daemon, volumes);
  registerNetworks(daemon, networks);
  registerContainers(containers);
  registerLifecycle(life);
  registerStreams(containers);
  registerExecs(execs, containers);
  registerArchive(containers);
  registerImageArchives(daemon, images);
  registerBuild(life);
  registerUsage(containers);
  registerSystem(containers);

  await execs.restore();
  await life.restore();
};

/** Whether this daemon takes over from another: if the setting `takeover` is on. */
function takesOver(engine: Engine): boolean {
  return engine.predecessor !== undefined ||
    engine.running.some((job) => job.name === "serveapi" && job.getenvBool("Takeover"));
}

/** The state directory, which only the daemon's user can enter. */
async function stateFolder(): Promise<string> {
  const { env } = Deno;
  const home = env.get("XDG_STATE_HOME") || env.get("HOME") && `${env.get("HOME")}/.local/state`;
  const given = env.get("FLOODGATE_STATE") || home && `${home}/floodgate`;
  if (!given?.startsWith("/")) {
    throw new Error(
      `no folder for the state: FLOODGATE_STATE is "${given ?? ""}", expected an absolute path`,
    );
  }
  const folder = given.replace(/\/+$/, "");
  if (new TextEncoder().encode(`${folder}/${SOCKET}`).length > SOCKET_PATH) {
    throw new Error(
      `FLOODGATE_STATE ${folder} is too long for a socket in it, expected at most ${
        SOCKET_PATH - SOCKET.length - 1
      } bytes`,
    );
  }
  // Programs of other users have to be able to enter their own folders.
  const mode = Deno.uid() === 0 ? 0o711 : 0o700;
  for (const path of [folder, `${folder}/containers`, `${folder}/volumes`]) {
    await Deno.mkdir(path, { recursive: true, mode });
    await Deno.chmod(path, mode);
  }
  return folder;
}
