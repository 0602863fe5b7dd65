/** What a program was built from, and when. Nothing of it is known where it runs from its source. */
export interface Build {
  /** The commit, in short, with `-dirty` after it if files had been changed since. */
  readonly commit?: string;
  /** When, as `2014-06-09T12:00:00.000Z`. */
  readonly time?: string;
}

// `build/build.ts` puts another file in the place of this one, in what it builds.
export const BUILD: Build = {};
