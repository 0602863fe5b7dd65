/** Floodgate's own version. The same as in deno.json, which a remote import cannot read. */
export const VERSION = "0.1.0";
/** The newest version of the docker API that the built-in jobs answer in. */
export const API_VERSION = "1.47";
/** The oldest that is documented; whoever asks in an older one is answered all the same, as in 2014. */
export const MIN_API_VERSION = "1.12";
