/**
 * The API version that a path may begin with.
 *
 * @module
 */

import { API_VERSION, MIN_API_VERSION } from "../engine/version.ts";

/** Whether the first segment of a path is a version, `v1.24`: nothing else may be meant by it. */
export function isVersion(segment: string): boolean {
  return /^v\d{1,4}\.\d{1,4}$/.test(segment);
}

/** What is wrong with a version, `1.24`, if anything. */
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

/** Below 0 if the version is older than the other, 0 if it is the same, else above 0. */
export function compareVersions(version: string, other: readonly number[]): number {
  const [major, minor] = numbersOf(version);
  return major - other[0] || minor - other[1];
}

function numbersOf(version: string): number[] {
  return version.split(".").map(Number);
}

const MAX = numbersOf(API_VERSION);
const MIN = numbersOf(MIN_API_VERSION);
