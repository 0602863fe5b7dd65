/**
 * Settings from a file: a JSON object with dockerd's names where they mean the same (daemon.json).
 *
 * @module
 */

import type { Setting } from "../builtins/settings.ts";
import { messageOf, TypedError } from "../engine/errors.ts";

/** What is wrong with a name that is none, and what was most likely meant. */
type Suggest = (name: string) => string;

/**
 * Reads such a file.
 *
 * @param settings The settings that may be in it, by name.
 * @returns The texts of those that are.
 * @throws {TypedError} ("bad parameter") If it cannot be read, is no JSON object, or has something
 * in it that is no setting, or no value of one.
 */
export async function readConfigFile(
  path: string,
  settings: ReadonlyMap<string, Setting>,
  suggest: Suggest,
): Promise<Map<string, string[]>> {
  const bad = (problem: string) =>
    new TypedError("bad parameter", `--config-file ${path}: ${problem}`);
  let parsed: unknown;
  try {
    // Editors on Windows begin a file with a byte order mark, which is no JSON (RFC 8259, 8.1).
    parsed = JSON.parse((await Deno.readTextFile(path)).replace(/^\uFEFF/, ""));
  } catch (error) {
    if (error instanceof Deno.errors.NotCapable) throw error;
    const what = error instanceof SyntaxError ? "this is not JSON" : "it cannot be read";
    throw bad(`${what}: ${messageOf(error)}`);
  }
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
    throw bad('expected a JSON object, such as {"log-level": "debug"}');
  }
  const given = new Map<string, string[]>();
  for (const [key, value] of Object.entries(parsed)) {
    const setting = settings.get(key);
    if (!setting) throw bad(`"${key}" is no setting, ${suggest(key)}`);
    const values: unknown[] = setting.list && Array.isArray(value) ? value : [value];
    const types = setting.takes === undefined ? ["boolean"] : ["string", "number"];
    if (
      setting.list && !Array.isArray(value) || !values.every((each) => types.includes(typeof each))
    ) {
      throw bad(`"${key}": ${JSON.stringify(value)}: expected ${expectedOf(setting)}`);
    }
    given.set(
      key,
      values.map((each) => typeof each === "boolean" ? String(Number(each)) : `${each}`),
    );
  }
  return given;
}

function expectedOf({ takes, list, kind }: Setting): string {
  if (takes === undefined) return "true or false";
  return list ? "a list of texts" : kind.expected;
}
