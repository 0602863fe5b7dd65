/**
 * What all connections of a daemon together may have in work, and hold of answers.
 *
 * @module
 */

import { memoryLimit } from "../platform/descriptors.ts";
import { MAX_CONNECTION_REQUESTS } from "../router/limits.ts";

/** What a {@linkcode Workload} can be told. */
export interface WorkloadOptions {
  /**
   * How many requests may be in work at once. Default: one for each 256 KiB of the memory that the
   * process can have, at least 256 and at most 65 536.
   */
  maxRequests?: number;
  /** How many of those may have come by one connection; with HTTP/1 it is one anyway. Default 100. */
  maxConnectionRequests?: number;
}

const KIB = 1_024;
const MIB = 1_024 * KIB;
/** A request, its job and its answer take some 20 KiB, and what the job needs. */
const MEMORY_A_REQUEST = 256 * KIB;

/**
 * Counts the requests in work, and the bytes of answers that clients have not taken. A request is in
 * work until its handler has answered and the client has the answer, or, where the client does not
 * wait for it, until whatever makes the answer has let go.
 */
export class Workload {
  /** How many requests may be in work. */
  readonly maxRequests: number;
  /** How many requests of one connection may be in work. */
  readonly maxConnectionRequests: number;
  /** How many bytes of whole answers may wait for clients: a sixteenth of the memory, 64 to 512 MiB. */
  readonly maxHeld: number;
  /** How many of those may be one connection's, unless it is a single answer: an eighth. */
  readonly maxConnectionHeld: number;
  /** How many requests are in work. */
  requests = 0;
  /** How many bytes of answers wait for clients. */
  held = 0;

  /** Nothing is in work yet. */
  constructor(options: WorkloadOptions = {}) {
    const memory = memoryLimit();
    this.maxRequests = options.maxRequests ?? bounded(256, memory / MEMORY_A_REQUEST, 65_536);
    this.maxConnectionRequests = options.maxConnectionRequests ?? MAX_CONNECTION_REQUESTS;
    this.maxHeld = bounded(64 * MIB, memory / 16, 512 * MIB);
    this.maxConnectionHeld = this.maxHeld / 8;
  }
}

function bounded(least: number, value: number, most: number): number {
  return Math.floor(Math.min(Math.max(least, value), most));
}
