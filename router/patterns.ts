/**
 * Patterns of paths, in Hono's grammar.
 *
 * @module
 */

import {
  checkOptionalParameter,
  getPattern,
  RegExpRouter,
  SmartRouter,
  splitRoutingPath,
  TrieRouter,
} from "./hono.ts";
import { messageOf } from "../engine/errors.ts";
import { isVersion } from "./versions.ts";

/** The names of a pattern's variables, in order, including optional ones. */
export function variablesOf(pattern: string): string[] {
  // A pattern with optional variables expands to several, the last of which has them all.
  const whole = checkOptionalParameter(pattern)?.at(-1) ?? pattern;
  return splitRoutingPath(whole).flatMap((segment) => {
    const found = getPattern(segment);
    return found === null || found === "*" ? [] : [found[1]];
  });
}

/** A pattern without the names of its variables. Two patterns of one shape match the same paths. */
export function shapeOf(pattern: string): string {
  return splitRoutingPath(pattern)
    .map((segment) => segment.replace(/^:[^{}?]+/, ":"))
    .join("/");
}

/** What is wrong with a route's pattern; undefined if nothing is. */
export function patternProblem(pattern: string): string | undefined {
  if (isVersion(splitRoutingPath(pattern)[0] ?? "")) {
    return "routes answer with and without a version, expected a path without one";
  }
  try {
    const names = variablesOf(pattern);
    const twice = names.find((name, at) => names.indexOf(name) !== at);
    if (twice !== undefined) return `the variable "${twice}" occurs twice, expected once`;
    // Compiled here, because Hono does so at the first request, and then fails all requests.
    const router = new SmartRouter({ routers: [new RegExpRouter(), new TrieRouter()] });
    router.add("GET", pattern, undefined);
    router.match("GET", "/");
  } catch (error) {
    return messageOf(error);
  }
}

/** A variable segment of a path. */
export interface Variable {
  readonly name: string;
  /** The expression that it has to match. */
  readonly pattern?: string;
}

/**
 * The segments of the paths that a pattern expands to: several, if variables are optional. A `*` at
 * the end becomes a variable named "rest".
 */
export function alternativesOf(pattern: string): (string | Variable)[][] {
  return (checkOptionalParameter(pattern) ?? [pattern]).map((path) =>
    splitRoutingPath(path).map((segment) => {
      if (segment === "*") return { name: "rest", pattern: ".*" };
      const [, name, pattern] = /^:([^{}]+)(?:\{(.+)\})?$/.exec(segment) ?? [];
      return name === undefined ? segment : { name, ...pattern && { pattern } };
    })
  );
}
