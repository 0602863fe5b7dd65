/** Names for containers without one: an adjective of water, and a noun of what holds it. */
const LEFT = `
  brimming calm clear cool deep eager early gentle glassy hasty late lively low mild narrow
  patient quick quiet rising rushing silent slow steady still swift tidal wide wild winding
  young
`.trim().split(/\s+/);
const RIGHT = `
  basin bay beck brook canal cascade channel creek culvert dam delta dike eddy estuary fjord
  ford harbor inlet lagoon lake lock marsh mill pond pool rapid reef river sluice spring
  strait stream weir
`.trim().split(/\s+/);

/** A random name that is not `taken`. */
export function newName(taken: (name: string) => boolean): string {
  const pick = (from: readonly string[]) => from[Math.floor(Math.random() * from.length)];
  for (let tries = 0;; tries++) {
    // With a number, once most names are taken.
    const number = tries < 5 ? "" : Math.floor(Math.random() * 10 ** (tries / 5)) + 1;
    const name = `${pick(LEFT)}_${pick(RIGHT)}${number}`;
    if (!taken(name)) return name;
  }
}
