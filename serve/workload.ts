/**
 * How many requests all connections of a daemon together may have in work, and how many bytes of
 * answers may wait for clients.
 *
 * @module
 */

import { memoryLimit } from "../platform/descriptors.ts";
import { MAX_CONNECTION_REQUESTS } from "../router/limits.ts";

/** Options of a {@linkcode Workload}. */
export interface WorkloadOptions {
  /**
   * How many requests may be in work at once. Default: one for each 256 KiB of the memory that the
   * process may use, at least 256 and at most 65 536.
   */
  maxRequests?: number;
  /** How many of those may be of one connection (by HTTP/1 there is at most one). Default: 100. */
  maxConnectionRequests?: number;
}

const KIB = 1_024;
const MIB = 1_024 * KIB;
/** A request, its job and its answer take some 20 KiB; the rest is for what the handler needs. */
const MEMORY_A_REQUEST = 256 * KIB;

/**
 * Counts the requests in work, and the bytes of answers that clients have not taken. A request is
 * in work until its client has the whole answer. If the client leaves before, it is in work until
 * its handler has answered and the source of that answer has been released.
 */
export class Workload {
  /** How many requests may be in work at once. */
  readonly maxRequests: number;
  /** How many requests of one connection may be in work at once. */
  readonly maxConnectionRequests: number;
  /** How many bytes of answers may wait for clients: 1/16 of the memory, 64 to 512 MiB. */
  readonly maxHeld: number;
  /** How many of those may be of one connection: 1/8. A single answer may be longer. */
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
