/** What a program was built from, and when. Empty for a program that runs from its source. */
export interface Build {
  /** The abbreviated commit, followed by `-dirty` if files had been changed since. */
  readonly commit?: string;
  /** The time of the build in ISO 8601, such as `2014-06-09T12:00:00.000Z`. */
  readonly time?: string;
}

// `build/build.ts` replaces this file in what it builds.
export const BUILD: Build = {};
