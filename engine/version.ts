/** Floodgate's own version: a copy of that in deno.json, which a remote import cannot read. */
export const VERSION = "0.1.0";
/** The newest version of the Docker API that the built-in jobs answer in. */
export const API_VERSION = "1.47";
/** The oldest version of the Docker API that is served. An older one is answered 400. */
export const MIN_API_VERSION = "1.12";
