/**
 * The API version that a path may begin with.
 *
 * @module
 */

import { API_VERSION } from "../engine/version.ts";

const [MAX_MAJOR, MAX_MINOR] = API_VERSION.split(".").map(Number);

/** What is wrong with the version of a path, if anything. */
export function versionProblem(version: string | undefined): string | undefined {
  if (version === undefined) return undefined;
  if (!/^\d{1,4}\.\d{1,4}$/.test(version)) {
    return `malformed version "v${version}", expected vMAJOR.MINOR such as v${API_VERSION}`;
  }
  if (compareVersions(version, [MAX_MAJOR, MAX_MINOR]) > 0) {
    return `client version ${version} is too new. Maximum supported API version is ${API_VERSION}`;
  }
}

/** Below 0 if the version is older than the other, 0 if it is the same, else above 0. */
export function compareVersions(version: string, other: readonly number[]): number {
  const [major, minor] = version.split(".").map(Number);
  return major - other[0] || minor - other[1];
}
