/**
 * The interface of an exec driver, which runs the programs of containers. The name is dockerd's, of
 * 2014.
 *
 * @module
 */

import type { LogLimits } from "./logs.ts";

/** A program to run, for a container or for an exec in one. */
export interface ProcessSpec {
  /** Its id: the container's, or the exec's. */
  id: string;
  /** The container that it runs in. */
  container: string;
  /** The count of starts of `id`, to tell the exits of different starts apart. */
  run: number;
  /** The program and its arguments. */
  args: string[];
  /** Its whole environment. */
  env: Record<string, string>;
  /** Its working directory. */
  cwd: string;
  /** Its user, if that is not the daemon's. */
  uid?: number | undefined;
  /** See `uid`. */
  gid?: number | undefined;
  /** Whether it has a terminal for its input and both outputs. */
  terminal: boolean;
  /** The terminal's rows and columns. */
  size?: [rows: number, columns: number] | undefined;
  /** Its standard input: none, the clients' until one has half-closed, or the clients' for ever. */
  stdin: "none" | "once" | "open";
  /** The folder and the limits of its log. An exec has none. */
  log?: { folder: string; limits: LogLimits };
  /** The file that its exit is recorded in, as an {@linkcode Ended}. */
  record: string;
}

/** A program that was started. */
export interface Started {
  /** The id it was started under. */
  id: string;
  /** The container that it runs in. */
  container: string;
  /** The count of starts of `id`. */
  run: number;
  /** Its process id. */
  pid: number;
  /** When the process started, in clock ticks since the machine's boot. */
  startTime: number;
  /** The same time in RFC 3339. */
  startedAt: string;
}

/** A program that has ended. */
export interface Ended extends Started {
  /** The exit status; 128 plus the signal's number if a signal ended it. */
  code: number;
  /** When it ended (RFC 3339). */
  finishedAt: string;
}

/** The streams of a program that a client attaches to. */
export interface Streams {
  /** Whether it writes to standard input. */
  stdin: boolean;
  /** Whether it reads standard output. */
  stdout: boolean;
  /** Whether it reads standard error. */
  stderr: boolean;
}

/** An attachment to a program's streams. */
export interface Attached {
  /** The next chunk of output; undefined once the program or the attachment has ended. */
  read(): Promise<{ stream: 1 | 2; data: Uint8Array } | undefined>;
  /** Writes to standard input. */
  write(data: Uint8Array): Promise<void>;
  /** Closes standard input, if the program was started so that one client may. */
  end(): Promise<void>;
  /** Detaches. */
  close(): void;
}

/** Follows a log. */
export interface Follower {
  /** Resolves with true when there may be more output, and with false at the end. */
  more(): Promise<boolean>;
  /** Stops following. */
  close(): void;
}

/** Runs programs. They go on when the daemon ends. */
export interface ExecDriver {
  /** The name in `docker info` and `inspect`. */
  readonly name: string;
  /**
   * Starts a program.
   *
   * @param streams Attaches to it before it can write anything.
   * @throws {TypedError} ("bad parameter") If it cannot be run; ("conflict") if it runs already.
   */
  start(spec: ProcessSpec): Promise<Started>;
  start(spec: ProcessSpec, streams: Streams): Promise<Started & { io: Attached }>;
  /** Attaches to a program's streams, or to those of its next start. */
  attach(id: string, streams: Streams): Promise<Attached>;
  /** Follows a program's log; undefined if it does not run. */
  follow(id: string): Promise<Follower | undefined>;
  /** Sends a signal to a program, or to all of its container. False if it does not run. */
  signal(id: string, signal: Deno.Signal, all?: boolean): Promise<boolean>;
  /** Sets the size of its terminal. False if it has none, or does not run. */
  resize(id: string, rows: number, columns: number): Promise<boolean>;
  /** The running programs, including those that another daemon started. */
  running(): Promise<Started[]>;
  /** Calls back at each start from now on, including those by another daemon. */
  onStart(listener: (started: Started) => void): void;
  /** Calls back at each exit from now on, including those of other daemons' programs. */
  onEnd(listener: (ended: Ended) => void): void;
  /** Disconnects, and leaves the programs running. */
  close(): void;
}
