/**
 * Healthchecks: a command that is run periodically in a container.
 *
 * @module
 */

import { type Container, type Containers, isRunning, type State } from "./containers.ts";
import { goTime } from "./daemon.ts";
import type { Exec, ExecConfig, Execs } from "./exec.ts";
import type { Healthcheck } from "./images.ts";
import type { Lifecycle } from "./lifecycle.ts";

const SECOND = 1e9;
/** dockerd's defaults, in nanoseconds. */
const DEFAULTS = { Interval: 30 * SECOND, Timeout: 30 * SECOND, StartInterval: 5 * SECOND };
const RETRIES = 3;
/** How many results are kept, and how many bytes of the output of each. */
const RESULTS = 5;
const OUTPUT = 4_096;

/** The command of a healthcheck; undefined for none. */
function commandOf({ Test }: Healthcheck = {}): string[] | undefined {
  const [kind, ...args] = Test ?? [];
  if (kind === "CMD") return args;
  if (kind === "CMD-SHELL") return ["/bin/sh", "-c", args.join(" ")];
}

/** Runs the healthchecks of running containers, while this daemon is the owner. */
export class Healthchecks {
  #containers: Containers;
  #execs: Execs;
  #timers = new Map<string, ReturnType<typeof setTimeout>>();

  /** The healthchecks of these containers. */
  constructor(life: Lifecycle, execs: Execs) {
    this.#containers = life.containers;
    this.#execs = execs;
    life.onChange((container) => this.#changed(container));
    life.containers.daemon.engine.onShutdown(() => {
      for (const timer of this.#timers.values()) clearTimeout(timer);
    });
  }

  #changed(container: Container): void {
    clearTimeout(this.#timers.get(container.id));
    this.#timers.delete(container.id);
    const { Healthcheck } = container.config;
    if (!isRunning(container) || !commandOf(Healthcheck)?.length) return;
    if (!container.state.health) {
      this.#containers.update(container.id, ({ state }) => {
        state.health = { Status: "starting", FailingStreak: 0, Log: [] };
      });
    }
    this.#next(container.id, Healthcheck!, container.state.run);
  }

  #next(id: string, check: Healthcheck, run: number): void {
    const state = this.#containers.get(id)?.state;
    if (!state) return;
    const starting = state.health?.Status === "starting" && check.StartPeriod;
    const pause = starting && inStartPeriod(check, state)
      ? check.StartInterval || DEFAULTS.StartInterval
      : check.Interval || DEFAULTS.Interval;
    const look = () => {
      this.#look(id, check, run).catch((error) =>
        this.#containers.daemon.engine.log("warn", `healthcheck of ${id}: ${error.message}`)
      );
    };
    this.#timers.set(id, setTimeout(look, pause / 1e6));
  }

  async #look(id: string, check: Healthcheck, run: number): Promise<void> {
    const container = this.#containers.get(id);
    // A later start of the container has its own timer.
    if (!container || container.state.run !== run || !isRunning(container)) return;
    if (!this.#containers.daemon.store.owned) return;
    if (container.state.status === "running") {
      const Start = goTime(Date.now());
      const { code, output } = await this.#probe(container, check);
      await this.#result(id, check, run, { Start, End: goTime(Date.now()), code, output });
    }
    this.#next(id, check, run);
  }

  async #probe(
    container: Container,
    check: Healthcheck,
  ): Promise<{ code: number; output: string }> {
    const config: ExecConfig = {
      args: commandOf(check)!,
      env: [],
      user: "",
      cwd: "",
      terminal: false,
      privileged: false,
      streams: { stdin: false, stdout: true, stderr: true },
      keys: "",
    };
    let exec: Exec;
    try {
      exec = await this.#execs.create(container, config);
      const { io } = await this.#execs.start(exec, config.streams);
      const timeout = check.Timeout || DEFAULTS.Timeout;
      let late = false;
      const timer = setTimeout(() => {
        late = true;
        // It fails if the process has ended just now.
        this.#containers.daemon.driver.signal(exec.id, "SIGKILL").catch(() => {});
        io?.close(); // A process that it left in the background may keep its output open.
      }, timeout / 1e6);
      const decoder = new TextDecoder();
      let output = "";
      for (let chunk; (chunk = await io?.read());) {
        output += decoder.decode(chunk.data, { stream: true });
        output = output.slice(0, OUTPUT);
      }
      clearTimeout(timer);
      if (late) return { code: -1, output: `Health check exceeded timeout (${timeout / 1e6}ms)` };
      return { code: await this.#execs.ended(exec.id) ?? -1, output };
    } catch (error) {
      return { code: -1, output: (error as Error).message };
    }
  }

  async #result(
    id: string,
    check: Healthcheck,
    run: number,
    result: { Start: string; End: string; code: number; output: string },
  ): Promise<void> {
    let before: string | undefined;
    const container = this.#containers.update(id, ({ state }) => {
      if (state.run !== run || !state.health || !isRunning({ state } as Container)) return;
      const { health } = state;
      before = health.Status;
      const { Start, End, code: ExitCode, output: Output } = result;
      health.Log = [...health.Log, { Start, End, ExitCode, Output }].slice(-RESULTS);
      if (ExitCode === 0) {
        health.FailingStreak = 0;
        health.Status = "healthy";
      } else if (health.Status !== "starting" || !inStartPeriod(check, state)) {
        health.FailingStreak++;
        if (health.FailingStreak >= (check.Retries || RETRIES)) health.Status = "unhealthy";
      }
    });
    const status = container?.state.health?.Status;
    if (container && before !== undefined && status !== before) {
      await this.#containers.tell(`health_status: ${status}`, container);
    }
  }
}

/** Whether a container is within its start period, in which failures do not count. */
function inStartPeriod(check: Healthcheck, state: State): boolean {
  return Date.now() - Date.parse(state.startedAt) < (check.StartPeriod ?? 0) / 1e6;
}
