/**
 * The defaults of the limits on what a client may cost.
 *
 * @module
 */

/** How long a client's first request may take to arrive, in milliseconds. */
export const HEADER_TIMEOUT = 10_000;
/** How long a connection may be idle between requests, in milliseconds. */
export const IDLE_TIMEOUT = 60_000;
/** How many requests of one connection may be in work at once (by HTTP/2). */
export const MAX_CONNECTION_REQUESTS = 100;
/** The longest request body, in bytes. */
export const BODY_LIMIT = 16 * 1024 * 1024;
/** The longest JSON body whose members become variables of a job, in bytes. */
export const JSON_LIMIT = 1024 * 1024;
/** How many bytes of request bodies may be in memory at once, of all routes with a limit. */
export const BODIES_LIMIT = 256 * 1024 * 1024;
/** How long a client may pause while it sends a body, in milliseconds. */
export const BODY_TIMEOUT = 60_000;
/** How long a client may take to read a further 64 KiB of an answer, in milliseconds. */
export const SEND_TIMEOUT = 300_000;
