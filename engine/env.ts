import { messageOf } from "./errors.ts";

/** An ordered set of strings by name. A key may be set again: the last value wins, all are kept. */
export class Env {
  #values = new Map<string, string[]>();

  /** The last value set under `key`, or `""`. */
  get(key: string): string {
    return this.#values.get(key)?.at(-1) ?? "";
  }
  /** Sets `key` to `value`; what it was set to before stays in {@linkcode Env.toMultiMap}. */
  set(key: string, value: string): void {
    const values = this.#values.get(key);
    if (values) values.push(value);
    else this.#values.set(key, [value]);
  }
  /** Whether `key` was ever set. */
  has(key: string): boolean {
    return this.#values.has(key);
  }
  /** How many different keys are set. */
  get size(): number {
    return this.#values.size;
  }

  /** False for `""`, `0`, `no`, `false` and `none` in any case, and where unset; else true. */
  getBool(key: string): boolean {
    return !["", "0", "no", "false", "none"].includes(this.get(key).trim().toLowerCase());
  }
  /** Sets `1` or `0`. */
  setBool(key: string, value: boolean): void {
    this.set(key, value ? "1" : "0");
  }

  /**
   * The value as a decimal integer; 0 where it is not one.
   *
   * @throws {RangeError} If it is an integer that a number cannot hold exactly; `get` still gives
   * all its digits.
   */
  getInt(key: string): number {
    const text = this.get(key).trim();
    if (!/^[+-]?\d+$/.test(text)) return 0;
    const value = Number(text);
    if (Number.isSafeInteger(value)) return value + 0;
    throw new RangeError(
      `${key}=${text} is out of range, expected an integer between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER}`,
    );
  }
  /**
   * Sets the decimal digits of an integer.
   *
   * @throws {RangeError} If the number is not a safe integer. A bigint may be of any size.
   */
  setInt(key: string, value: number | bigint): void {
    if (typeof value === "number" && !Number.isSafeInteger(value)) {
      throw new RangeError(`cannot set ${key} to ${value}, expected a safe integer or a bigint`);
    }
    this.set(key, String(value));
  }

  /** A JSON array as a list (elements that are no strings as their JSON text), else one string. */
  getList(key: string): string[] {
    const text = this.get(key);
    if (text === "") return [];
    const parsed = tryParse(text, keepDigits);
    if (!Array.isArray(parsed?.value)) return [text];
    return parsed.value.map((item) => typeof item === "string" ? item : toJson(item));
  }
  /** Sets a JSON array of strings. */
  setList(key: string, value: readonly string[]): void {
    this.setJson(key, value);
  }

  /**
   * The value parsed as JSON, or undefined where unset.
   *
   * @throws {SyntaxError} If it is not JSON.
   */
  getJson(key: string): unknown {
    if (!this.has(key)) return undefined;
    try {
      return JSON.parse(this.get(key));
    } catch (error) {
      throw new SyntaxError(`${key} is not JSON: ${messageOf(error)}`, { cause: error });
    }
  }
  /**
   * Sets the JSON text of a value.
   *
   * @throws {TypeError} If the value has no JSON text (undefined, a function, a cycle).
   */
  setJson(key: string, value: unknown): void {
    const text = toJson(value);
    if (text === undefined) throw new TypeError(`cannot set ${key}: the value has no JSON form`);
    this.set(key, text);
  }

  /** A JSON object as an Env of its own; undefined where unset or anything else. */
  getSubEnv(key: string): Env | undefined {
    const parsed = tryParse(this.get(key));
    return isObject(parsed?.value) ? Env.decode(this.get(key)) : undefined;
  }
  /** Sets the JSON object of another Env. */
  setSubEnv(key: string, value: Env): void {
    this.set(key, value.encode());
  }

  /** Drops null and undefined, sets a string as it is, and anything else as its JSON text. */
  setAuto(key: string, value: unknown): void {
    if (value === null || value === undefined) return;
    if (typeof value === "string") this.set(key, value);
    else this.setJson(key, value);
  }

  /** The last value of each key, in the order the keys were first set. */
  toObject(): Record<string, string> {
    // Object.fromEntries defines own properties, so that a key such as __proto__ is only a key.
    return Object.fromEntries(this);
  }
  /** Every value of each key, in the order set. */
  toMultiMap(): Map<string, string[]> {
    return new Map([...this.#values].map(([key, values]) => [key, [...values]]));
  }
  /** The keys with their last values, in the order the keys were first set. */
  *[Symbol.iterator](): Generator<[string, string]> {
    for (const [key, values] of this.#values) yield [key, values[values.length - 1]];
  }

  /**
   * A JSON object on one line. Values that are JSON themselves are written as they are, so that an
   * integer keeps all its digits; the others as strings.
   */
  encode(): string {
    let text = "{";
    for (const [key, value] of this) {
      if (text !== "{") text += ",";
      text += JSON.stringify(key) + ":" +
        (tryParse(value) ? compact(value) : JSON.stringify(value));
    }
    return text + "}";
  }
  /**
   * The Env of a JSON object's members, by {@linkcode Env.setAuto}. Numbers keep their digits. Keys
   * that are integers come first, as in every JavaScript object.
   *
   * @throws {SyntaxError} If the text is not a JSON object.
   */
  static decode(text: string): Env {
    let value: unknown;
    try {
      value = parseJson(text, keepDigits);
    } catch (error) {
      throw new SyntaxError(`expected a JSON object: ${messageOf(error)}`, { cause: error });
    }
    if (!isObject(value) || isRawJSON(value)) {
      throw new SyntaxError(`expected a JSON object, got ${compact(text).slice(0, 40)}`);
    }
    const env = new Env();
    for (const [key, member] of Object.entries(value)) env.setAuto(key, member);
    return env;
  }
}

// JSON.parse source text access (ES2026): a number that JavaScript would print differently from how
// it was written is kept as it was written.
const { parse: parseJson, rawJSON, isRawJSON } = JSON as unknown as {
  parse(text: string, reviver?: Reviver): unknown;
  rawJSON(text: string): unknown;
  isRawJSON(value: unknown): boolean;
};
type Reviver = (key: string, value: unknown, context: { source?: string }) => unknown;
function keepDigits(_key: string, value: unknown, context: { source?: string }): unknown {
  return typeof value === "number" && context.source !== undefined &&
      String(value) !== context.source
    ? rawJSON(context.source)
    : value;
}

function toJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, part) => typeof part === "bigint" ? rawJSON(`${part}`) : part,
  );
}

function tryParse(text: string, reviver?: Reviver): { value: unknown } | undefined {
  try {
    return { value: parseJson(text, reviver) };
  } catch {
    return undefined; // The question was whether it is JSON, and it is not.
  }
}

/** JSON text without the white space between its tokens. */
function compact(json: string): string {
  // A token at a time: a pattern for a whole string overflows the stack where that has megabytes.
  let quoted = false;
  return json.replace(/\\.|"|\s+/g, (token) => {
    if (token === '"') quoted = !quoted;
    return quoted || token === '"' ? token : "";
  });
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
