/**
 * What runs a container's programs: the exec driver, as the original called it.
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
  /** Which start of `id` this is, so that the end of an earlier one is not taken for its. */
  run: number;
  /** The program and its arguments. */
  args: string[];
  /** Its whole environment. */
  env: Record<string, string>;
  /** Its working directory. */
  cwd: string;
  /** Its user and group, where those are not the daemon's. */
  uid?: number | undefined;
  /** See `uid`. */
  gid?: number | undefined;
  /** Whether it has a terminal, which is its input and both its outputs. */
  terminal: boolean;
  /** The terminal's rows and columns. */
  size?: [rows: number, columns: number] | undefined;
  /** Its standard input: nothing, what clients send until one has sent all, or what clients send. */
  stdin: "none" | "once" | "open";
  /** The folder for its log, and how long that may be. An exec has none. */
  log?: { folder: string; limits: LogLimits };
  /** The file that tells of its end, as an {@linkcode Ended}. */
  record: string;
}

/** A program that was started. */
export interface Started {
  /** What it was started as. */
  id: string;
  /** The container that it runs in. */
  container: string;
  /** Which start of `id` this is. */
  run: number;
  /** Its process id. */
  pid: number;
  /** When the process started, in clock ticks since the machine did. */
  startTime: number;
  /** The same as a date (RFC 3339). */
  startedAt: string;
}

/** A program that has ended. */
export interface Ended extends Started {
  /** Its exit status, 128 and the signal's number where one has ended it. */
  code: number;
  /** When it ended (RFC 3339). */
  finishedAt: string;
}

/** Which of a program's streams a client wants. */
export interface Streams {
  /** Whether it sends what the program reads. */
  stdin: boolean;
  /** Whether it gets what the program writes. */
  stdout: boolean;
  /** Whether it gets what the program complains of. */
  stderr: boolean;
}

/** A connection with a program's streams. */
export interface Attached {
  /** What it wrote next; undefined when it has ended, or the connection has. */
  read(): Promise<{ stream: 1 | 2; data: Uint8Array } | undefined>;
  /** Sends what it reads. */
  write(data: Uint8Array): Promise<void>;
  /** Ends what it reads, if it was started so that one client may. */
  end(): Promise<void>;
  /** Leaves it. */
  close(): void;
}

/** Tells when there may be more in a log. */
export interface Follower {
  /** Resolves with true when there may be more, and with false when there will be no more. */
  more(): Promise<boolean>;
  /** Ends it. */
  close(): void;
}

/** Runs programs, and keeps them running when the daemon ends. */
export interface ExecDriver {
  /** What `docker info` and `inspect` call it. */
  readonly name: string;
  /**
   * Starts a program.
   *
   * @param streams Connects with it before it can have written anything.
   * @throws {TypedError} "bad parameter" if it cannot be run, "conflict" if it runs already.
   */
  start(spec: ProcessSpec): Promise<Started>;
  start(spec: ProcessSpec, streams: Streams): Promise<Started & { io: Attached }>;
  /**
   * Connects with a program's streams, from now on; with those of its next start where it does not
   * run.
   */
  attach(id: string, streams: Streams): Promise<Attached>;
  /** Follows a program's log; undefined where it does not run. */
  follow(id: string): Promise<Follower | undefined>;
  /** Sends a signal to a program, or to all processes of its container. False if it does not run. */
  signal(id: string, signal: Deno.Signal, all?: boolean): Promise<boolean>;
  /** Sets the size of its terminal. False if it has none, or does not run. */
  resize(id: string, rows: number, columns: number): Promise<boolean>;
  /** What runs now, whichever daemon has started it. */
  running(): Promise<Started[]>;
  /** Has each start told from now on, those that another daemon has asked for too. */
  onStart(listener: (started: Started) => void): void;
  /** Has each end told from now on, those of programs that another daemon has started too. */
  onEnd(listener: (ended: Ended) => void): void;
  /** Lets go of what runs, without ending it. */
  close(): void;
}
