/**
 * Validates a request by its row: makes the arguments, the variables and the typed input of the
 * job, or an error of one line that names the field, what it was, and what was expected.
 *
 * It uses no sockets, no Hono and no jobs.
 *
 * @module
 */

import { Env, FILTERS_FORM, filtersOf, isTrue, tryParse, unknownFilter } from "../engine/env.ts";
import { messageOf, quote, TypedError } from "../engine/errors.ts";
import { membersOf } from "../engine/json.ts";
import type {
  Body,
  BodyKind,
  Fields,
  Parameter,
  ParameterKind,
  ParameterOptions,
  Route,
  SchemaIssue,
  StandardSchema,
} from "./route.ts";
import { isWithin, type VersionRange, versionRange } from "./versions.ts";

/** A request besides its body. Hono's request is one. */
export interface Sent {
  /** A variable of the path. */
  param(name: string): string | undefined;
  /** The first value of a query parameter. */
  query(name: string): string | undefined;
  /** All values of a query parameter, or of all. */
  queries(name: string): string[] | undefined;
  queries(): Record<string, string[]>;
  header(name: string): string | undefined;
}

/** A validated request. */
export interface Reading {
  /** The variables of the job's env. */
  readonly env: Variables;
  /** The job's input, typed by `InputOf` in route.ts. */
  readonly input: {
    readonly params: Record<string, unknown>;
    readonly query: unknown;
    readonly headers: Record<string, unknown>;
    body: unknown;
  };
}

type Variables = [name: string, value: string][];

/** The parts of a request that parameters come from, as messages call them. */
type Place = "path parameter" | "query parameter" | "header" | "body field" | "form field";

/** Reads the requests of a row. */
export class RowReader {
  /** The body that the row takes; undefined for none. */
  readonly body: Body | undefined;
  readonly #schema?: StandardSchema;
  readonly #path: readonly string[];
  readonly #params: readonly Field[];
  readonly #query: readonly Field[];
  /** The query parameters that the row only names: all their values go into the env. */
  readonly #named: readonly string[] = [];
  readonly #querySchema?: StandardSchema;
  readonly #headers: readonly Field[];
  readonly #fields: readonly Field[];
  /** The names of the fields whose variables have other names. */
  readonly #renamed: ReadonlySet<string>;
  readonly #args: readonly string[] | undefined;
  /** Whether the row declares nothing besides its path and its body. */
  readonly #plain: boolean;

  /**
   * @param path The names of the path's variables, in order.
   * @throws {TypeError} If the row's parameters or its body are invalid.
   */
  constructor(route: Route, path: readonly string[]) {
    this.#path = path;
    this.#params = fields("path parameter", route.params, true);
    if (isSchema(route.query)) this.#querySchema = route.query;
    if (isNames(route.query)) this.#named = route.query;
    this.#query = isSchema(route.query) || isNames(route.query)
      ? []
      : fields("query parameter", route.query);
    this.#headers = fields("header", route.headers);
    if (isSchema(route.body)) this.#schema = route.body;
    this.body = bodyOf(route);
    if (this.body && !Object.hasOwn(CONTENT_TYPES, this.body.type)) {
      throw new TypeError(`body is "${this.body.type}", expected "stdin", "env" or "form"`);
    }
    if (this.body) checkMembers("body", this.body, BODY);
    const place = this.body?.type === "form" ? "form field" : "body field";
    this.#fields = fields(place, this.body?.fields);
    this.#renamed = new Set(
      this.#fields.filter(({ env, name }) => env !== name).map(({ name }) => name),
    );
    this.#args = route.args;
    const among = (list: string, names: readonly string[], known: readonly string[]) => {
      const unknown = names.find((name) => !known.includes(name));
      if (unknown === undefined) return;
      throw new TypeError(`${list} has "${unknown}", expected one of ${known.join(", ")}`);
    };
    among("params", this.#params.map(({ name }) => name), path);
    // The names that a schema reads cannot be told from the schema.
    if (this.#querySchema === undefined && this.#schema === undefined) {
      const known = [...this.#query, ...this.#fields].map(({ name }) => name);
      among("args", route.args ?? [], [...path, ...this.#named, ...known]);
    }
    this.#plain = route.query === undefined && route.headers === undefined &&
      route.params === undefined && route.args === undefined;
  }

  /** A reading without values, for a row that declares nothing besides its path and its body. */
  empty(): Reading {
    return { env: [], input: { params: {}, query: {}, headers: {}, body: undefined } };
  }

  /**
   * Reads the request besides its body. Undefined if the row declares nothing besides its path.
   *
   * @throws {TypedError} ("bad parameter") For the first parameter that is wrong.
   */
  read(sent: Sent, version: string | undefined): Reading | Promise<Reading> | undefined {
    if (this.#plain) return undefined;
    const env: Variables = [];
    const params: Record<string, unknown> = {};
    for (const name of this.#path) params[name] = sent.param(name);
    for (const field of this.#params) {
      params[field.name] = field.fromTexts(list(sent.param(field.name)));
    }
    const headers = readTexts(this.#headers, (name) => list(sent.header(name)), version, env);
    if (this.#querySchema !== undefined) {
      return readQuery(this.#querySchema, sent, env)
        .then((query) => ({ env, input: { params, query, headers, body: undefined } }));
    }
    const query = readTexts(
      this.#query,
      (name, all) => all ? sent.queries(name) : list(sent.query(name)),
      version,
      env,
    );
    for (const name of this.#named) {
      const texts = sent.queries(name);
      query[name] = texts?.at(-1);
      for (const text of texts ?? []) env.push([name, text]);
    }
    return { env, input: { params, query, headers, body: undefined } };
  }

  /** The accepted Content-Types of the body; empty for any. */
  get contentTypes(): readonly string[] {
    return this.body && (this.body.contentTypes ?? CONTENT_TYPES[this.body.type]) || [];
  }

  /**
   * What is wrong with a body's Content-Type; undefined if nothing is.
   *
   * @param empty Whether there is no body, which then needs no Content-Type.
   */
  typeProblem(contentType: string | undefined, empty: boolean): string | undefined {
    const accepted = this.contentTypes;
    if (accepted.length === 0 || (contentType === undefined && empty)) return undefined;
    const expected = `expected ${accepted.join(" or ")}`;
    if (contentType === undefined) return `Content-Type is missing, ${expected}`;
    const [essence = ""] = contentType.split(";", 1);
    if (accepted.includes(essence.trim().toLowerCase())) return undefined;
    return `Content-Type is ${quote(contentType)}, ${expected}`;
  }

  /**
   * Reads a JSON body into `reading`.
   *
   * @throws {TypedError} ("bad parameter") If it is not JSON, or not what the row declares.
   */
  readJson(text: string, reading: Reading): void | Promise<void> {
    const empty = text.trim() === "";
    if (empty && this.body?.required) {
      throw bad("the request body is missing, expected a JSON object");
    }
    if (this.#schema !== undefined) {
      const given = empty ? undefined : parsed(text, JSON.parse, "expected JSON: ");
      if (typeof given === "object" && given !== null && !Array.isArray(given)) {
        reading.env.push(...Env.decode(text));
      }
      return readSchema(this.#schema, given, "the request body", "body field")
        .then((value) => void (reading.input.body = value));
    }
    const members = empty ? new Map<string, string>() : parsed(text, membersOf);
    for (const [name, value] of members) {
      if (value === "null" || this.#renamed.has(name)) continue;
      reading.env.push([name, value.startsWith('"') ? JSON.parse(value) : value]);
    }
    if (this.#fields.length > 0) reading.input.body = this.#readMembers(members, reading.env);
  }

  #readMembers(members: ReadonlyMap<string, string>, env: Variables): Record<string, unknown> {
    const body: Record<string, unknown> = {};
    for (const field of this.#fields) {
      const text = members.get(field.name) ?? "null";
      const value = JSON.parse(text);
      body[field.name] = field.fromJson(value);
      if (value === null) field.setDefault(env);
      else if (field.env !== field.name) env.push([field.env, field.textOf(value)]);
    }
    return body;
  }

  /** Reads the fields of a form into `reading`. Throws like {@linkcode RowReader.readJson}. */
  readForm(form: FormData, reading: Reading): void {
    const given = new Map<string, string[]>();
    for (const [name, value] of form) {
      if (typeof value !== "string") throw bad(`form field ${name} is a file, expected text`);
      const texts = given.get(name);
      if (texts) texts.push(value);
      else given.set(name, [value]);
    }
    if (given.size === 0 && this.body?.required) {
      throw bad("the request body is missing, expected a form");
    }
    const declared = readTexts(this.#fields, (name) => given.get(name), undefined, reading.env);
    const known = new Set(this.#fields.map(({ name }) => name));
    const body: Record<string, unknown> = {};
    for (const [name, texts] of given) {
      if (known.has(name)) continue;
      const [text = ""] = texts;
      body[name] = text;
      reading.env.push([name, text]);
    }
    reading.input.body = { ...body, ...declared };
  }

  /** The job's arguments. */
  args(sent: Sent, reading: Reading | undefined): string[] {
    if (this.#args === undefined) {
      return this.#path.length === 0 ? [] : this.#path.map((name) => sent.param(name) ?? "");
    }
    const query = (reading?.input.query ?? {}) as Record<string, unknown>;
    const body = (reading?.input.body ?? {}) as Record<string, unknown>;
    const args: (string | undefined)[] = [];
    for (const name of this.#args) {
      const value = this.#path.includes(name)
        ? sent.param(name)
        : Object.hasOwn(query, name)
        ? query[name]
        : body[name];
      if (Array.isArray(value)) args.push(...value.map(String));
      else args.push(value === undefined || value === null ? undefined : String(value));
    }
    while (args.length > 0 && args.at(-1) === undefined) args.pop();
    return args.map((arg) => arg ?? "");
  }
}

/** The accepted Content-Types of each kind of body; empty for any. */
const CONTENT_TYPES: Record<BodyKind, readonly string[]> = {
  stdin: [],
  env: ["application/json"],
  form: ["application/x-www-form-urlencoded", "multipart/form-data"],
};

/** Whether a value is a Standard Schema. Those of some libraries are functions. */
export function isSchema(value: unknown): value is StandardSchema {
  return (typeof value === "object" || typeof value === "function") && value !== null &&
    "~standard" in value;
}

/**
 * The parameters that are declared, with all options; none by a schema, which tells of no names.
 */
export function parametersOf(declared: Route["query"]): [name: string, parameter: Parameter][] {
  if (declared === undefined || isSchema(declared)) return [];
  if (isNames(declared)) return declared.map((name) => [name, { type: "string" }]);
  return Object.entries(declared).map(([name, parameter]) => [name, inFull(parameter)]);
}

/** The body that a row takes, with all options; undefined for none. For a schema it is JSON. */
export function bodyOf({ body }: Route): Body | undefined {
  if (isSchema(body)) return { type: "env" };
  if (typeof body !== "string") return body;
  // The short form "env" accepts any Content-Type; a form needs it to tell its two encodings apart.
  return { type: body, ...body !== "form" && { contentTypes: [] } };
}

function isNames(query: Route["query"]): query is readonly string[] {
  return Array.isArray(query);
}

/** A parameter with its options, for one that is given by its kind alone. */
export function inFull(parameter: ParameterKind | Parameter): Parameter {
  return typeof parameter === "string" ? { type: parameter } : parameter;
}

/**
 * Refuses members that a part of a row does not have, such as misspelled ones.
 *
 * @param known Its members: an object with all of them, so that the type tells of one left out.
 * @throws {TypeError}
 */
export function checkMembers<T extends object>(
  part: string,
  given: T,
  known: Readonly<Record<string, unknown>>,
): void {
  for (const name of Object.keys(given)) {
    if (Object.hasOwn(known, name)) continue;
    throw new TypeError(
      `${part} has no "${name}", expected ${Object.keys(known).sort().join(", ")}`,
    );
  }
}

/** The members of type T, or of all the types that it may be. */
export type Members<T> = { readonly [K in T extends unknown ? keyof T : never]: 1 };

const OPTIONS: Members<ParameterOptions> = {
  required: 1,
  env: 1,
  since: 1,
  until: 1,
  description: 1,
};
const NUMERIC = { ...OPTIONS, type: 1, default: 1, minimum: 1, maximum: 1 } as const;
const PARAMETERS: { readonly [K in ParameterKind]: Members<Parameter & { type: K }> } = {
  string: { ...OPTIONS, type: 1, default: 1, enum: 1, pattern: 1, minLength: 1, maxLength: 1 },
  integer: NUMERIC,
  number: NUMERIC,
  boolean: { ...OPTIONS, type: 1, default: 1 },
  json: { ...OPTIONS, type: 1, default: 1 },
  list: { ...OPTIONS, type: 1, default: 1, enum: 1, minItems: 1, maxItems: 1 },
  filters: { ...OPTIONS, type: 1, names: 1 },
};
const BODY: Members<Body> = { type: 1, fields: 1, required: 1, contentTypes: 1, mismatch: 1 };

function fields(place: Place, declared: Fields | undefined, required = false): Field[] {
  return parametersOf(declared).map(([name, parameter]) =>
    new Field(place, name, { ...required && { required }, ...parameter })
  );
}

function list(text: string | undefined): string[] | undefined {
  return text === undefined ? undefined : [text];
}

function readTexts(
  fields: readonly Field[],
  textsOf: (name: string, all: boolean) => readonly string[] | undefined,
  version: string | undefined,
  env: Variables,
): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const field of fields) {
    const texts = isWithin(field.versions, version) ? textsOf(field.name, field.isList) : undefined;
    values[field.name] = field.fromTexts(texts);
    if (texts === undefined) field.setDefault(env);
    else env.push([field.env, textOf(texts, field.isList)]);
  }
  return values;
}

/** The text of a variable: the first value, or all of them as JSON. */
function textOf(texts: readonly string[], all: boolean): string {
  return all ? JSON.stringify(texts) : texts[0] ?? "";
}

async function readQuery(
  schema: StandardSchema,
  sent: Sent,
  env: Variables,
): Promise<unknown> {
  const all = sent.queries();
  const given = Object.fromEntries(
    Object.entries(all).map(([name, texts]) => [name, texts.length === 1 ? texts[0] : texts]),
  );
  const query = await readSchema(schema, given, "the query", "query parameter");
  for (const [name, value] of Object.entries(query ?? {})) {
    if (Object.hasOwn(all, name)) {
      const texts = all[name]!;
      env.push([name, textOf(texts, texts.length !== 1)]);
    } else if (["string", "number", "boolean", "bigint"].includes(typeof value)) {
      env.push([name, String(value)]);
    }
  }
  return query;
}

/** The value that a schema makes of another. Throws a TypedError with the schema's first issue. */
async function readSchema(
  schema: StandardSchema,
  given: unknown,
  whole: string,
  place: Place,
): Promise<unknown> {
  const result = await schema["~standard"].validate(given);
  if (result.issues === undefined) return result.value;
  const [issue] = result.issues;
  const keys = keysOf(issue);
  const part = keys.reduce<unknown>(
    (value, key) => (value as Record<PropertyKey, unknown> | undefined | null)?.[key],
    given,
  );
  const name = keys.length === 0 ? whole : `${place} ${keys.map(String).join(".")}`;
  const was = part === undefined ? "is missing" : `is ${quote(part)}`;
  throw bad(`${name} ${was}: ${issue?.message ?? "it is not what the schema says"}`);
}

function keysOf(issue: SchemaIssue | undefined): PropertyKey[] {
  return (issue?.path ?? []).map((key) => typeof key === "object" ? key.key : key);
}

/** What is read from a body, or an error that the text is not what it should be. */
function parsed<T>(text: string, read: (text: string) => T, expected = ""): T {
  try {
    return read(text);
  } catch (error) {
    throw bad(`request body: ${expected}${messageOf(error)}`);
  }
}

/** One parameter of a row: parses and checks its values. */
class Field {
  readonly name: string;
  readonly env: string;
  readonly isList: boolean;
  readonly versions: VersionRange;
  readonly #place: Place;
  readonly #parameter: Parameter;
  readonly #pattern?: RegExp;
  readonly #default: unknown;

  constructor(place: Place, name: string, parameter: Parameter) {
    const kind = parameter?.type;
    if (!Object.hasOwn(NOUNS, kind)) {
      throw new TypeError(
        `${place} ${name} is "${kind}", expected one of ${Object.keys(NOUNS).join(", ")}`,
      );
    }
    checkMembers(`${place} ${name}, ${NOUNS[kind]},`, parameter, PARAMETERS[kind]);
    this.name = name;
    this.env = parameter.env ?? name;
    this.isList = kind === "list";
    this.versions = versionRange(parameter);
    this.#place = place;
    this.#parameter = parameter;
    if (parameter.type === "string" && parameter.pattern !== undefined) {
      this.#pattern = new RegExp(`^(?:${parameter.pattern})$`, "u");
    }
    const { default: fallback } = parameter as { default?: unknown };
    this.#default = fallback ??
      (kind === "boolean" ? false : kind === "list" ? [] : undefined);
    if (fallback === undefined) return;
    try {
      this.#check(fallback);
    } catch (error) {
      throw new TypeError(`the default of ${messageOf(error)}`); // Not a TypedError of a request.
    }
  }

  /** @param texts The values in the order sent; undefined if the parameter is absent. */
  fromTexts(texts: readonly string[] | undefined): unknown {
    if (texts === undefined) return this.#absent();
    if (this.isList) return this.#check(texts);
    const [text = ""] = texts;
    const parameter = this.#parameter;
    if (parameter.type === "boolean") return isTrue(text);
    if (parameter.type === "string") {
      if (text === "" && (parameter.enum || parameter.pattern)) return this.#absent();
      return this.#check(text);
    }
    if (text.trim() === "") return this.#absent();
    if (parameter.type === "integer" || parameter.type === "number") {
      const pattern = parameter.type === "integer" ? INTEGER : NUMBER;
      if (!pattern.test(text.trim())) throw this.#wrong(text);
      return this.#check(Number(text) + 0, text);
    }
    const json = tryParse(text);
    if (json === undefined) throw this.#wrong(text);
    return this.#check(json.value, text);
  }

  /** @param value A member of a JSON object. Null counts as absent. */
  fromJson(value: unknown): unknown {
    if (value === undefined || value === null) return this.#absent();
    return this.#check(this.isList && typeof value === "string" ? [value] : value);
  }

  /** Sets the variable of an absent parameter to its default, if it has one. */
  setDefault(env: Variables): void {
    const { default: fallback } = this.#parameter as { default?: unknown };
    if (fallback !== undefined) env.push([this.env, this.textOf(fallback)]);
  }

  /** A value as the text of a variable. */
  textOf(value: unknown): string {
    if (typeof value === "string") return value;
    if (this.#parameter.type === "boolean") return value ? "1" : "0";
    return JSON.stringify(value);
  }

  #absent(): unknown {
    if (!this.#parameter.required) return this.#default;
    throw bad(`${this.#place} ${this.name} is missing, expected ${this.expected}`);
  }

  /** Returns a value of the right kind and within its limits; throws a TypedError for another. */
  #check(value: unknown, given: unknown = value): unknown {
    const parameter = this.#parameter;
    switch (parameter.type) {
      case "string": {
        if (typeof value !== "string") throw this.#wrong(given);
        const { minLength = 0, maxLength = Infinity } = parameter;
        if (
          value.length < minLength || value.length > maxLength ||
          parameter.enum?.includes(value) === false || this.#pattern?.test(value) === false
        ) throw this.#wrong(given);
        return value;
      }
      case "integer":
      case "number": {
        const is = parameter.type === "integer" ? Number.isSafeInteger : Number.isFinite;
        const { minimum = -Infinity, maximum = Infinity } = parameter;
        if (!is(value) || (value as number) < minimum || (value as number) > maximum) {
          throw this.#wrong(given);
        }
        return value;
      }
      case "boolean":
        if (typeof value !== "boolean") throw this.#wrong(given);
        return value;
      case "list": {
        if (!Array.isArray(value)) throw this.#wrong(given);
        const { minItems = 0, maxItems = Infinity } = parameter;
        if (value.length < minItems || value.length > maxItems) throw this.#wrong(given);
        for (const item of value) {
          if (typeof item !== "string" || parameter.enum?.includes(item) === false) {
            throw this.#wrong(value.length === 1 ? item : given);
          }
        }
        return value;
      }
      case "filters": {
        const filters = filtersOf(value);
        if (filters === undefined) throw this.#wrong(given);
        const problem = unknownFilter(filters, parameter.names);
        if (problem === undefined) return filters;
        throw bad(`${this.#place} ${this.name} ${problem}`);
      }
      case "json":
        return value;
    }
  }

  #wrong(given: unknown): TypedError {
    return bad(`${this.#place} ${this.name} is ${quote(given)}, expected ${this.expected}`);
  }

  /** The values that it accepts, in words. */
  get expected(): string {
    const parameter = this.#parameter;
    const noun = NOUNS[parameter.type];
    switch (parameter.type) {
      case "string":
        if (parameter.enum) return `one of ${parameter.enum.join(", ")}`;
        if (parameter.pattern) return `${noun} that matches ${parameter.pattern}`;
        return noun + limits(parameter.minLength, parameter.maxLength, " of", " characters");
      case "integer":
      case "number":
        return noun + limits(parameter.minimum, parameter.maximum, "", "");
      case "list": {
        const items = parameter.enum ? `: ${parameter.enum.join(", ")}` : "";
        return noun + limits(parameter.minItems, parameter.maxItems, " of", " items") + items;
      }
    }
    return noun;
  }
}

const NOUNS: Record<ParameterKind, string> = {
  string: "a string",
  integer: "an integer",
  number: "a number",
  boolean: "true or false",
  json: "JSON",
  list: "a list of strings",
  filters: FILTERS_FORM,
};

const INTEGER = /^[+-]?\d+$/;
const NUMBER = /^[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?$/i;

function limits(least: number | undefined, most: number | undefined, of: string, unit: string) {
  if (least === undefined && most === undefined) return "";
  if (most === undefined) return `${of} at least ${least}${unit}`;
  if (least === undefined) return `${of} at most ${most}${unit}`;
  return of === "" ? ` from ${least} to ${most}` : `${of} ${least} to ${most}${unit}`;
}

function bad(message: string): TypedError {
  return new TypedError("bad parameter", message);
}
