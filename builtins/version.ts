/** Floodgate's own version. The same as in deno.json, which a remote import cannot read. */
export const VERSION = "0.1.0";
/** The newest version of the docker API that requests may ask for. */
export const API_VERSION = "1.47";
/** The oldest that is documented; older requests are answered all the same, as in 2014. */
export const MIN_API_VERSION = "1.12";
