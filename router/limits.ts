/**
 * What a client may cost where nothing else is said.
 *
 * @module
 */

/** How long a client may take for its first request, in milliseconds. */
export const HEADER_TIMEOUT = 10_000;
/** How long a connection may be idle between requests, in milliseconds. */
export const IDLE_TIMEOUT = 60_000;
/** How many requests of one connection may be in work. */
export const MAX_CONNECTION_REQUESTS = 100;
/** The longest request body, in bytes. */
export const BODY_LIMIT = 16 * 1024 * 1024;
/** The longest JSON body of a route that takes its members for variables, in bytes. */
export const JSON_LIMIT = 1024 * 1024;
/** All request bodies together that are being read, of those with a limit, in bytes. */
export const BODIES_LIMIT = 256 * 1024 * 1024;
/** How long a client may send nothing of a body it has announced, in milliseconds. */
export const BODY_TIMEOUT = 60_000;
/** How long a client may take nothing of an answer that is ready, in milliseconds. */
export const SEND_TIMEOUT = 300_000;
