/**
 * The API version that a path may begin with.
 *
 * @module
 */

import { API_VERSION, MIN_API_VERSION } from "../engine/version.ts";

/** Whether the first segment of a path is a version, such as `v1.24`. */
export function isVersion(segment: string): boolean {
  return /^v\d{1,4}\.\d{1,4}$/.test(segment);
}

/** What is wrong with a version such as `1.24`; undefined if nothing is. */
export function versionProblem(version: string): string | undefined {
  if (!isVersion(`v${version}`)) {
    return `malformed version "v${version}", expected vMAJOR.MINOR such as v${API_VERSION}`;
  }
  if (compareVersions(version, MAX) > 0) {
    return `client version ${version} is too new. Maximum supported API version is ${API_VERSION}`;
  }
  if (compareVersions(version, MIN) < 0) {
    return `client version ${version} is too old. Minimum supported API version is ${MIN_API_VERSION}`;
  }
}

/** Negative if the version is older than the other, 0 if they are equal, else positive. */
export function compareVersions(version: string, other: readonly number[]): number {
  return compare(numbersOf(version), other);
}

function compare(one: readonly number[], other: readonly number[]): number {
  const [major = 0, minor = 0] = one;
  const [otherMajor = 0, otherMinor = 0] = other;
  return major - otherMajor || minor - otherMinor;
}

function numbersOf(version: string): number[] {
  return version.split(".").map(Number);
}

const MAX = numbersOf(API_VERSION);
const MIN = numbersOf(MIN_API_VERSION);

/** A range of API versions, both ends included; undefined is open. */
export interface VersionRange {
  readonly since?: readonly number[] | undefined;
  readonly until?: readonly number[] | undefined;
}

/**
 * Reads the range of a row.
 *
 * @throws {TypeError} If a version is malformed, or the range is empty.
 */
export function versionRange(range: { since?: string; until?: string }): VersionRange {
  const [since, until] = (["since", "until"] as const).map((end) => {
    const version = range[end];
    if (version === undefined) return undefined;
    if (isVersion(`v${version}`)) return numbersOf(version);
    throw new TypeError(`${end} is "${version}", expected MAJOR.MINOR such as ${API_VERSION}`);
  });
  if (since && until && compareVersions(range.since!, until) > 0) {
    throw new TypeError(`since ${range.since} is later than until ${range.until}`);
  }
  return { since, until };
}

/** Whether a version is in a range. Undefined, of a request without one, is the newest. */
export function isWithin({ since, until }: VersionRange, version: string | undefined): boolean {
  const asked = version ?? API_VERSION;
  return (since === undefined || compareVersions(asked, since) >= 0) &&
    (until === undefined || compareVersions(asked, until) <= 0);
}

/** Whether two ranges have a version in common. */
export function overlap(one: VersionRange, other: VersionRange): boolean {
  const before = (a: VersionRange, b: VersionRange) =>
    a.until !== undefined && b.since !== undefined && compare(a.until, b.since) < 0;
  return !before(one, other) && !before(other, one);
}
