/**
 * What a request may cost where nothing else is said.
 *
 * @module
 */

/** The longest request body, in bytes. */
export const BODY_LIMIT = 16 * 1024 * 1024;
/** How long a client may send nothing of a body it has announced, in milliseconds. */
export const BODY_TIMEOUT = 60_000;
/** How long a client may take nothing of an answer that is ready, in milliseconds. */
export const SEND_TIMEOUT = 300_000;
