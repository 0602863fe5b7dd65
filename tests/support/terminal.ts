/**
 * A terminal for the docker CLI, through tmux.
 *
 * @module
 */

import { missing, until } from "./daemon.ts";
import type { Procd } from "./procd.ts";

/** Skips tests, with a line that says so, if there is no tmux. */
export const NO_TMUX: boolean = await missing("tmux", ["-V"]);

/** A shell in a terminal, used as by a person. */
export class Terminal implements AsyncDisposable {
  readonly #procd: Procd;

  private constructor(procd: Procd) {
    this.#procd = procd;
  }

  /** Opens a terminal of this size. */
  static async open(procd: Procd, columns: number, rows: number): Promise<Terminal> {
    const terminal = new Terminal(procd);
    const size = ["-x", String(columns), "-y", String(rows)];
    await terminal.#tmux("new-session", "-d", ...size, "-s", "t", "sh -i");
    return terminal;
  }

  async #tmux(...args: string[]): Promise<string> {
    const { success, stdout, stderr } = await new Deno.Command("tmux", {
      args: ["-S", `${this.#procd.folder}/tmux`, "-f", "/dev/null", ...args],
      env: { PS1: "$ ", TERM: "xterm", DOCKER_CLI_HINTS: "false", ENV: "", TMUX: "" },
    }).output();
    const decoder = new TextDecoder();
    if (!success) throw new Error(`tmux ${args.join(" ")}: ${decoder.decode(stderr)}`);
    return decoder.decode(stdout);
  }

  /** The text on the screen. */
  screen(): Promise<string> {
    return this.#tmux("capture-pane", "-p", "-J", "-S", "-200", "-t", "t");
  }

  /** Waits until this is on the screen. */
  async sees(text: string): Promise<void> {
    try {
      await until(async () => (await this.screen()).includes(text));
    } catch (error) {
      throw new Error(`no "${text}" in\n${await this.screen()}`, { cause: error });
    }
  }

  /** Types a line. */
  async line(text: string): Promise<void> {
    await this.#tmux("send-keys", "-t", "t", "-l", text);
    await this.keys("Enter");
  }

  /** Types a docker command, and after it a print of `status-N` with its exit status. */
  async type(...args: string[]): Promise<void> {
    const words = ["docker", "-H", `unix://${this.#procd.socket}`, ...args];
    const line = words.map((word) => `'${word.replaceAll("'", "'\\''")}'`).join(" ");
    await this.line(`${line}; echo status-$?`);
  }

  /** Types keys by their names. */
  async keys(...names: string[]): Promise<void> {
    await this.#tmux("send-keys", "-t", "t", ...names);
  }

  /** Resizes the terminal. */
  async resize(columns: number, rows: number): Promise<void> {
    await this.#tmux("resize-window", "-t", "t", "-x", String(columns), "-y", String(rows));
  }

  /** Closes the terminal, and ends what runs in it. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#tmux("kill-server");
  }
}
