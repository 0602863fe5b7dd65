/**
 * Docker's multiplexed streams: stdout and stderr of a job, in frames.
 *
 * @module
 */

import type { Job } from "../engine.ts";
import type { Sink } from "../engine/streams.ts";
import { compareVersions } from "./versions.ts";

export const STDOUT = 1;
export const STDERR = 2;

/** The size of a frame's header: the stream, three zeros, and the length in four bytes. */
const HEADER = 8;
/** The first API version whose content type tells a multiplexed stream. */
const MULTIPLEXED = [1, 42];

/** A frame of Docker's streams (stdcopy). */
export function framed(
  chunk: Uint8Array,
  from: typeof STDOUT | typeof STDERR,
): Uint8Array<ArrayBuffer> {
  const frame = new Uint8Array(HEADER + chunk.length);
  const header = new DataView(frame.buffer);
  header.setUint8(0, from);
  header.setUint32(4, chunk.length);
  frame.set(chunk, HEADER);
  return frame;
}

/** The Content-Type of a stream; one of a terminal is not multiplexed. */
export function streamType(version: string | undefined, tty: boolean): string {
  const says = !tty && (version === undefined || compareVersions(version, MULTIPLEXED) >= 0);
  return `application/vnd.docker.${says ? "multiplexed" : "raw"}-stream`;
}

/**
 * Sends stdout and stderr of a job to one sink, in frames unless the job has set `Tty` in its env.
 * Output to stderr is kept until the job first writes to stdout: it may be the message of an error.
 *
 * @returns A function that sends what was kept.
 */
export function attachFramed(job: Job, sink: Sink): () => void {
  let kept: Uint8Array[] | undefined = [];
  const flush = () => {
    const chunks = kept;
    kept = undefined;
    for (const chunk of chunks ?? []) send(chunk, STDERR);
  };
  const send = (chunk: Uint8Array, from: typeof STDOUT | typeof STDERR) =>
    // An empty write begins the answer.
    sink.write(chunk.length === 0 || job.getenvBool("Tty") ? chunk : framed(chunk, from));
  job.stdout.add({
    write: (chunk) => {
      flush();
      return send(chunk, STDOUT);
    },
  });
  job.stderr.add({
    write: (chunk) => {
      if (kept === undefined) return send(chunk, STDERR);
      kept.push(chunk);
    },
  });
  return flush;
}
