import { messageOf, quote, TypedError } from "./errors.ts";
import { compactJson, elementsOf, membersOf } from "./json.ts";

/** An ordered multimap of strings: of the values of a key all are kept, and the last wins. */
export class Env {
  #values = new Map<string, string[]>();

  /** The last value set under `key`, or `""`. */
  get(key: string): string {
    return this.#values.get(key)?.at(-1) ?? "";
  }
  /** Sets `key` to `value`; its earlier values stay in {@linkcode Env.toMultiMap}. */
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

  /** False for `""`, `0`, `no`, `false` and `none` in any case, and for an unset key; else true. */
  getBool(key: string): boolean {
    return isTrue(this.get(key));
  }
  /** Sets `1` or `0`. */
  setBool(key: string, value: boolean): void {
    this.set(key, value ? "1" : "0");
  }

  /**
   * The value as an integer, in any of JSON's notations: `512`, `512.0`, `5.12e2`; 0 if it is empty
   * or unset.
   *
   * @throws {TypedError} ("bad parameter") If the value is not an integer, or not a safe one; `get`
   * still returns all its digits.
   */
  getInt(key: string): number {
    const text = this.get(key).trim();
    if (text === "") return 0;
    const value = integerOf(text);
    if (value !== undefined && Number.isSafeInteger(value)) return value + 0;
    const problem = value === undefined ? "is no integer" : "is out of range";
    throw new TypedError(
      "bad parameter",
      `${key}=${
        text.slice(0, 40)
      } ${problem}, expected one between ${Number.MIN_SAFE_INTEGER} and ${Number.MAX_SAFE_INTEGER}`,
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

  /**
   * The elements of a JSON array, those that are not strings as their JSON text. If the last value
   * is not an array: all values that were set, or an empty list if the only one is `""`.
   */
  getList(key: string): string[] {
    const values = this.#values.get(key) ?? [];
    const elements = elementsOf(values.at(-1) ?? "");
    if (elements === undefined) return values.length === 1 && values[0] === "" ? [] : [...values];
    return elements.map((element) => element.startsWith('"') ? JSON.parse(element) : element);
  }
  /** Sets a JSON array of strings. */
  setList(key: string, value: readonly string[]): void {
    this.setJson(key, value);
  }

  /**
   * The value parsed as JSON; undefined if unset.
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

  /** A JSON object as an Env of its own; undefined if the value is unset or not an object. */
  getSubEnv(key: string): Env | undefined {
    try {
      return Env.decode(this.get(key));
    } catch (error) {
      if (error instanceof SyntaxError) return undefined;
      throw error;
    }
  }
  /** Sets the JSON object of another Env. */
  setSubEnv(key: string, value: Env): void {
    this.set(key, value.encode());
  }

  /**
   * The value as Docker's filters: the values of each filter, by its name. Empty if the value is
   * empty or unset. Both forms that Docker's clients send are read: `{"label": ["a"]}` and
   * `{"label": {"a": true}}`.
   *
   * @param names The names that filters may have. Default: any.
   * @throws {TypedError} ("bad parameter") If the value is of neither form, or has another name.
   */
  getFilters(key: string, names?: readonly string[]): Map<string, string[]> {
    const text = this.get(key);
    if (text.trim() === "") return new Map();
    const filters = filtersOf(tryParse(text)?.value);
    const problem = filters === undefined
      ? `is ${quote(text)}, expected ${FILTERS_FORM}`
      : unknownFilter(filters, names);
    if (problem === undefined) return new Map(Object.entries(filters!));
    throw new TypedError("bad parameter", `${key} ${problem}`);
  }

  /** Sets a string as it is and any other value as its JSON text; ignores null and undefined. */
  setAuto(key: string, value: unknown): void {
    if (value === null || value === undefined) return;
    if (typeof value === "string") this.set(key, value);
    else this.setJson(key, value);
  }

  /** The last value of each key, in the order the keys were first set. */
  toObject(): Record<string, string> {
    // Object.fromEntries defines own properties, so a key such as __proto__ does no harm.
    return Object.fromEntries(this);
  }
  /** Every value of each key, in the order set. */
  toMultiMap(): Map<string, string[]> {
    return new Map([...this.#values].map(([key, values]) => [key, [...values]]));
  }
  /** The keys with their last values, in the order the keys were first set. */
  *[Symbol.iterator](): Generator<[string, string]> {
    for (const [key, values] of this.#values) yield [key, values[values.length - 1]!];
  }

  /**
   * A JSON object on one line. Values that are themselves JSON are written verbatim, so that an
   * integer keeps all its digits; other values become JSON strings.
   */
  encode(): string {
    let text = "{";
    for (const [key, value] of this) {
      if (text !== "{") text += ",";
      text += JSON.stringify(key) + ":" + (compactJson(value) ?? JSON.stringify(value));
    }
    return text + "}";
  }
  /**
   * The Env of a JSON object's members: null is left out, a string is taken as it is, and any other
   * value as its JSON text without white space between tokens. Numbers keep their digits.
   *
   * @throws {SyntaxError} If the text is not a JSON object, has more than 100 000 members, or is
   * nested more than 10 000 deep.
   */
  static decode(text: string): Env {
    const env = new Env();
    for (const [key, value] of membersOf(text)) {
      if (value.startsWith('"')) env.set(key, JSON.parse(value));
      else if (value !== "null") env.set(key, value);
    }
    return env;
  }
}

/** Whether a text means true to dockerd: see {@linkcode Env.getBool}. */
export function isTrue(text: string): boolean {
  return !["", "0", "no", "false", "none"].includes(text.trim().toLowerCase());
}

/** What filters look like, for messages. */
export const FILTERS_FORM = 'a JSON object of lists such as {"label": ["a"]}';

/** Docker's filters in a JSON value, as lists or as sets; undefined for neither form. */
export function filtersOf(value: unknown): Record<string, string[]> | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return undefined;
  const filters: [string, string[]][] = [];
  for (const [name, given] of Object.entries(value)) {
    if (Array.isArray(given)) {
      if (!given.every((item) => typeof item === "string")) return undefined;
      filters.push([name, given]);
    } else if (typeof given === "object" && given !== null) {
      const set = Object.entries(given);
      if (!set.every(([, on]) => typeof on === "boolean")) return undefined;
      filters.push([name, set.filter(([, on]) => on).map(([item]) => item)]);
    } else if (given !== null) {
      return undefined;
    }
  }
  return Object.fromEntries(filters);
}

/** What is wrong with the names of filters, if only `names` are known; undefined if nothing is. */
export function unknownFilter(
  filters: Record<string, unknown>,
  names: readonly string[] | undefined,
): string | undefined {
  const unknown = names && Object.keys(filters).find((name) => !names.includes(name));
  if (unknown === undefined) return undefined;
  return `has ${quote(unknown)}, expected names among ${names!.join(", ")}`;
}

/** A JSON text's value; undefined if the text is not JSON. */
export function tryParse(text: string): { value: unknown } | undefined {
  try {
    return { value: JSON.parse(text) };
  } catch {
    return undefined;
  }
}

/** The integer of a text in any of JSON's notations; undefined if it is not an integer. */
function integerOf(text: string): number | undefined {
  const [, sign, whole, fraction = "", exponent = "0"] =
    /^([+-]?)(\d+)(?:\.(\d*))?(?:[eE]([+-]?\d{1,9}))?$/.exec(text) ?? [];
  if (whole === undefined) return undefined;
  const digits = whole + fraction;
  // The position of the decimal point, counted from the first digit.
  const point = whole.length + Number(exponent);
  for (let at = Math.max(point, 0); at < digits.length; at++) {
    if (digits[at] !== "0") return undefined;
  }
  const significant = point <= 0 ? "" : digits.slice(0, point);
  const zeros = point - significant.length;
  if (Number(significant) === 0) return 0;
  return zeros > 20 ? Infinity : Number(`${sign}${significant}${"0".repeat(Math.max(zeros, 0))}`);
}

const { rawJSON } = JSON as unknown as { rawJSON(text: string): unknown };

function toJson(value: unknown): string {
  return JSON.stringify(
    value,
    (_key, part) => typeof part === "bigint" ? rawJSON(`${part}`) : part,
  );
}
