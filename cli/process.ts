/**
 * The daemon as a process of the system: its output, its signals, and errors that no handler
 * caught.
 *
 * @module
 */

import type { Engine } from "../engine.ts";
import { messageOf, reportOf } from "../engine/errors.ts";
import { LineWriter } from "../engine/lines.ts";
import { printable, stderr } from "../engine/log.ts";
import { lightly } from "../engine/time.ts";

/** The first line of an error's message. */
export function oneLine(error: unknown): string {
  return messageOf(error).split("\n", 1)[0]!;
}

/**
 * Standard output. A thread writes, until {@linkcode writeAtOnce}, so that a reader that stalls
 * does not stop the daemon.
 */
const stdout = new LineWriter(Deno.stdout, () => undefined);

/** From now on lines are written at once where that does not block. */
export async function writeAtOnce(): Promise<void> {
  const { STDOUT, writability } = await import("../platform/writability.ts");
  stdout.ready = writability(STDOUT);
}

/** Writes a line to standard output. */
export function say(line: string): void {
  stdout.write(line + "\n");
}

/** Writes what went wrong to standard error, in a line. */
export function complain(problem: unknown): void {
  stderr.write(`floodgate: ${printable(oneLine(problem))}\n`);
}

/** How long {@linkcode flush} waits for the readers, in milliseconds. */
const FLUSH = 1_000;

/** Waits until all that was written has been read, but not longer than `FLUSH`. */
export async function flush(): Promise<void> {
  await Promise.all([stdout.flush(FLUSH), stderr.flush(FLUSH)]);
}

const SIGNALS = { SIGINT: 2, SIGTERM: 15 } as const;

/**
 * The other signals that end a process by default (signal(7)): the daemon removes its files and
 * ends. Not those that the processor raises, nor SIGABRT, which systemd sends to a daemon whose
 * event loop hangs: no listener would run.
 */
const DEADLY = Deno.build.os !== "linux" ? {} : {
  SIGQUIT: 3,
  SIGUSR2: 12,
  SIGALRM: 14,
  SIGXCPU: 24,
  SIGVTALRM: 26,
  SIGPROF: 27,
  SIGIO: 29,
  SIGPWR: 30,
};

/**
 * The first SIGINT or SIGTERM drains, the second ends the process with the status that a shell
 * expects (128 and the number). SIGHUP runs the job `reload`. SIGXFSZ does nothing: the write that
 * went over the limit fails, and the log counts what it loses. Other deadly signals end the process
 * at once, and leave no file.
 *
 * @returns What stops listening, but for SIGHUP and SIGXFSZ, which do nothing from then on.
 */
export function listenToSignals(engine: Engine, drain: () => number): () => void {
  const end = (name: string, number: number) => {
    engine.log("warn", `${name}: ended at once`);
    Deno.exit(128 + number);
  };
  const listeners: [Deno.Signal, () => void][] = Object.entries(SIGNALS).map(([name, number]) => [
    name as Deno.Signal,
    () => {
      if (engine.stopping.aborted) end(name, number);
      engine.log("info", `${name}: draining`);
      engine.shutdown({ drain: drain() });
    },
  ]);
  for (const [name, number] of Object.entries(DEADLY)) {
    listeners.push([name as Deno.Signal, () => end(name, number)]);
  }
  for (const [name, listener] of listeners) Deno.addSignalListener(name, listener);
  // These two stay: Deno delivers a signal a moment after it came, and ends the process where no
  // listener is left by then.
  if (Deno.build.os === "linux") Deno.addSignalListener("SIGXFSZ", () => {});
  Deno.addSignalListener("SIGHUP", () => {
    if (engine.stopping.aborted) return;
    // If it fails, the log says why, and the daemon goes on with the settings it had.
    engine.job("reload").run().catch((error) =>
      engine.log("error", `SIGHUP: nothing was reloaded: ${oneLine(error)}`)
    );
  });
  return () => {
    for (const [name, listener] of listeners) Deno.removeSignalListener(name, listener);
  };
}

/** The most jobs that are listed one by one. */
const MOST_LISTED = 1_000;

/** Deno listens for SIGUSR1 from 500 ms after its start on; in milliseconds, with a margin. */
const DENO_DEAF = 400;

/**
 * Writes the running jobs to the log at SIGUSR1. Deno would open its debugger at that signal, from
 * half a second after its start on. The program creates this before all else.
 */
export class UserSignal {
  /** The engine whose jobs are listed; until it is set, the signal does nothing. */
  engine: Engine | undefined;
  #diverted?: Promise<void>;
  #cancelTimer: () => void;
  /** Whether the debugger stays shut, once that is known. */
  #shut: boolean | undefined;

  /** Without a listener the signal would end the process. */
  constructor() {
    if (Deno.build.os !== "windows") Deno.addSignalListener("SIGUSR1", this.#list);
    this.#cancelTimer = lightly(Math.max(0, DENO_DEAF - performance.now()), this.#divert);
  }

  /**
   * Keeps the debugger shut from now on. A timer does so before Deno listens. It is called once the
   * sockets are bound, because it takes 2 ms.
   */
  divert(): Promise<void> {
    return this.#divert();
  }

  #divert = (): Promise<void> => {
    this.#cancelTimer();
    return this.#diverted ??= import("../platform/signals.ts").then(({ onUserSignal }) => {
      this.#shut = onUserSignal(this.#list);
      if (Deno.build.os !== "windows") Deno.removeSignalListener("SIGUSR1", this.#list);
    });
  };

  #list = (): void => {
    const { engine } = this;
    if (!engine) return;
    const { running } = engine;
    engine.log("info", `SIGUSR1: running jobs: ${running.length}`);
    for (const job of running.slice(0, MOST_LISTED)) {
      const fields = job.user === undefined ? undefined : { user: job.user };
      engine.log("info", `SIGUSR1: ${job}`, fields);
    }
    if (this.#shut === false) engine.log("warn", `SIGUSR1: ${DEBUGGER_OPENED}`);
  };
}

const DEBUGGER_OPENED =
  "Deno opened its debugger on 127.0.0.1:9229 for a moment, expected Linux and --allow-ffi";

/** Logs errors that no code caught, in place of Deno's default, which is to end the process. */
export function surviveErrors(engine: Engine): () => void {
  const onRejection = (event: PromiseRejectionEvent) => {
    event.preventDefault();
    engine.log("error", `unhandled rejection: ${kindOf(event.reason)}`, { error: event.reason });
  };
  const onError = (event: ErrorEvent) => {
    event.preventDefault();
    engine.log("error", `uncaught error: ${kindOf(event.error)}`, { error: event.error });
  };
  globalThis.addEventListener("unhandledrejection", onRejection);
  globalThis.addEventListener("error", onError);
  return () => {
    globalThis.removeEventListener("unhandledrejection", onRejection);
    globalThis.removeEventListener("error", onError);
  };
}

/** What was thrown, in one line. */
function kindOf(error: unknown): string {
  return reportOf(error).split("\n", 1)[0]!;
}
