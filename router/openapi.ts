/**
 * A description of rows for people and for programs: OpenAPI 3.1
 * (https://spec.openapis.org/oas/v3.1.1).
 *
 * @module
 */

import { API_VERSION, MIN_API_VERSION } from "../engine/version.ts";
import { type Form, formsOf } from "./answers.ts";
import { JSON_ERRORS, STATUS_OF } from "./errors.ts";
import type { Body, Fields, JsonSchema, Parameter, Route, StandardSchema } from "./route.ts";
import { alternativesOf, variablesOf } from "./patterns.ts";
import { inFull, isSchema, parametersOf, RowReader } from "./validation.ts";
import { isWithin, versionRange } from "./versions.ts";

/** An object of the description. */
type Json = Record<string, unknown>;

/** The title and version of the described API. */
export interface About {
  readonly title: string;
  /** The program's version. */
  readonly version: string;
}

/**
 * Describes the rows of an API version. Rows of one method and path, which differ in a parameter,
 * become one operation with the parameters of all of them.
 *
 * @param version The API version; undefined for the newest.
 */
export function describe(rows: readonly Route[], about: About, version?: string): Json {
  const described = new Description();
  for (const row of rows) {
    if (isWithin(versionRange(row), version)) described.add(row, version);
  }
  const asked = version ?? API_VERSION;
  return {
    openapi: "3.1.0",
    info: {
      title: about.title,
      version: about.version,
      description: `API version ${asked}, by paths that begin with /v${asked} or, for the newest ` +
        `(${API_VERSION}), without. The oldest is ${MIN_API_VERSION}.`,
    },
    servers: version === undefined ? [{ url: "/" }] : [{ url: `/v${version}` }],
    paths: described.paths,
    components: { schemas: { Error: ERROR, ...described.schemas } },
  };
}

const ERROR = {
  type: "object",
  description: "What went wrong.",
  required: ["message"],
  properties: { message: { type: "string" } },
};

/** Descriptions of error statuses that no kind of error has. */
const MEANINGS: Record<number, string> = { 500: "internal error" };

class Description {
  readonly paths: Record<string, Json> = {};
  readonly schemas: Record<string, unknown> = {};
  /** The paths by their shape, without the names of variables. */
  readonly #shapes = new Map<string, string>();
  readonly #ids = new Set<string>();

  add(row: Route, version: string | undefined): void {
    for (const { template, variables } of templatesOf(row.path)) {
      const shape = template.replace(/\{\w+\}/g, "{}");
      const path = this.#shapes.get(shape) ?? template;
      this.#shapes.set(shape, path);
      // The variables' names of the path's first row: a description may have one path of a shape.
      const names = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const renamed = variables.map((variable, i) => ({ ...variable, as: names[i] }));
      const method = row.method.toLowerCase();
      const item = this.paths[path] ??= {};
      const operation = this.#operation(row, renamed, version);
      item[method] = item[method] === undefined
        ? { ...operation, operationId: this.#id(row, path) }
        : merged(item[method] as Json, operation);
    }
  }

  /** A unique operationId: the job's name, with the path if several rows run the job. */
  #id(row: Route, path: string): string {
    const words = path.split(/[^\w]+/).filter((word) => word !== "");
    let id = row.job;
    if (this.#ids.has(id)) id = [row.job, row.method.toLowerCase(), ...words].join("_");
    for (let n = 2; this.#ids.has(id); n++) id = `${row.job}_${n}`;
    this.#ids.add(id);
    return id;
  }

  #operation(row: Route, variables: Variable[], version: string | undefined): Json {
    const within = (declared: Route["query"]) =>
      parametersOf(declared).filter(([, field]) => isWithin(versionRange(field), version));
    const parameters = [
      ...variables.map(({ name, as, pattern }) => {
        const parameter = inFull(row.params?.[name] ?? "string");
        return this.#parameter("path", as ?? name, { ...parameter, required: true }, pattern);
      }),
      ...isSchema(row.query)
        ? this.#schemaParameters(row, row.query)
        : within(row.query).map(([name, field]) => this.#parameter("query", name, field)),
      ...within(row.headers).map(([name, field]) => this.#parameter("header", name, field)),
    ];
    const body = this.#body(row);
    const notes = [
      ...rangeOf(row),
      row.upgrade && `A request to upgrade gets 101 and a ${UPGRADES[row.upgrade]}.`,
    ].filter(Boolean);
    return {
      ...row.summary && { summary: row.summary },
      ...notes.length > 0 && { description: notes.join(" ") },
      ...row.tags && { tags: [...row.tags] },
      ...parameters.length > 0 && { parameters },
      ...body && { requestBody: body },
      responses: this.#responses(row, parameters.length > 0 || body !== undefined, version),
    };
  }

  #parameter(where: string, name: string, field: Parameter, pattern?: string): Json {
    return {
      name,
      in: where,
      ...describing(field),
      ...field.required && { required: true },
      schema: {
        ...schemaOfText(field),
        ...pattern && field.type === "string" && { pattern: `^(?:${pattern})$` },
      },
    };
  }

  /** The properties of a schema for the whole query, as parameters. */
  #schemaParameters(row: Route, schema: StandardSchema): Json[] {
    const { properties, required } = this.#schema(
      schema,
      "input",
      `${row.job}_query`,
      "inline",
    ) as {
      properties?: Record<string, unknown>;
      required?: string[];
    };
    return Object.entries(properties ?? {}).map(([name, schema]) => ({
      name,
      in: "query",
      ...required?.includes(name) && { required: true },
      schema,
    }));
  }

  #body(row: Route): Json | undefined {
    if (row.body === undefined) return undefined;
    if (isSchema(row.body)) {
      const schema = this.#schema(row.body, "input", `${row.job}_body`);
      return { required: true, content: { "application/json": { schema } } };
    }
    const { body, contentTypes } = readerOf(row);
    const { type, required, fields } = body!;
    const types = contentTypes.length > 0 ? contentTypes : [TYPES[type]];
    const schema = type === "stdin" ? {} : { type: "object", ...objectOf(fields, type) };
    return {
      ...required && { required },
      content: Object.fromEntries(types.map((each) => [each, { schema }])),
    };
  }

  #responses(row: Route, hasInput: boolean, version: string | undefined): Json {
    const content = isWithin({ since: JSON_ERRORS }, version)
      ? { "application/json": { schema: { $ref: "#/components/schemas/Error" } } }
      : { "text/plain": { schema: { type: "string" } } };
    const responses: Json = {};
    const forms = formsOf(row);
    const [usual] = forms;
    for (const form of forms) responses[form.status] = this.#response(row, form);
    if ((row.status ?? row.answers?.[usual.status]) === undefined) {
      responses[204] = { description: "Done, with nothing to say" };
    }
    if (row.upgrade) responses[101] = { description: `A ${UPGRADES[row.upgrade]}` };
    const { body, contentTypes } = readerOf(row);
    const mismatch = contentTypes.length > 0 ? [body?.mismatch ?? 415] : [];
    const errors = new Set([
      ...hasInput ? [400] : [],
      ...row.errors ?? [],
      ...body === undefined ? [] : [408, 413, ...mismatch],
      500,
      ...row.concurrency === undefined ? [] : [503],
      ...row.timeout === undefined
        ? []
        : [typeof row.timeout === "number" ? 504 : STATUS_OF[row.timeout.kind]],
    ]);
    for (const status of errors) {
      const kind = Object.entries(STATUS_OF).find(([, each]) => each === status)?.[0];
      responses[status] = {
        description: capitalized(MEANINGS[status] ?? kind ?? "an error"),
        ...status === 503 && row.concurrency !== undefined && {
          headers: { "Retry-After": { schema: { type: "integer" }, description: "Seconds" } },
        },
        content,
      };
    }
    return responses;
  }

  #response(row: Route, form: Form): Json {
    const { status, type, contentType, schema: given = {}, headers = {}, description } = form;
    const described = Object.entries(headers).map(([name, description]) => [
      name,
      { description, schema: { type: "string" } },
    ]);
    const hasBody = type !== "none" && contentType;
    const name = `${row.job}_${status}`;
    const schema = () =>
      isSchema(given) ? this.#schema(given, "output", name) : this.#adopt(given, name);
    return {
      description: description ?? DESCRIPTIONS[type],
      ...described.length > 0 && { headers: Object.fromEntries(described) },
      ...hasBody && { content: { [contentType]: { schema: schema() } } },
    };
  }

  /** The JSON Schema of a Standard Schema; `{}`, for anything, if its library makes none. */
  #schema(
    schema: StandardSchema,
    direction: "input" | "output",
    name: string,
    place: "component" | "inline" = "component",
  ): unknown {
    const convert = schema["~standard"].jsonSchema?.[direction];
    return convert ? this.#adopt(convert({ target: "draft-2020-12" }), name, place) : {};
  }

  /**
   * Adds a JSON Schema to the description. Its `$defs` become components, and references to them
   * are rewritten: `#` would mean the whole description there.
   */
  #adopt(
    schema: JsonSchema,
    name: string,
    place: "component" | "inline" = "component",
  ): unknown {
    const { $schema: _, $defs, ...rest } = schema as Json;
    const whole = JSON.stringify(schema).includes('"$ref":"#"');
    const moved = (part: unknown): unknown => {
      if (Array.isArray(part)) return part.map(moved);
      if (typeof part !== "object" || part === null) return part;
      return Object.fromEntries(
        Object.entries(part).map(([key, value]) => {
          if (key !== "$ref" || typeof value !== "string") return [key, moved(value)];
          const def = value.startsWith("#/$defs/") ? "_" + value.slice(8) : "";
          return [key, value.startsWith("#") ? `#/components/schemas/${name}${def}` : value];
        }),
      );
    };
    for (const [key, def] of Object.entries($defs ?? {})) {
      this.schemas[`${name}_${key}`] = moved(def);
    }
    if (!whole || place === "inline") return moved(rest);
    this.schemas[name] = moved(rest);
    return { $ref: `#/components/schemas/${name}` };
  }
}

function readerOf(row: Route): RowReader {
  return new RowReader(row, variablesOf(row.path));
}

const TYPES: Record<Body["type"], string> = {
  stdin: "application/octet-stream",
  env: "application/json",
  form: "application/x-www-form-urlencoded",
};

const UPGRADES = { tcp: "raw stream in both directions", websocket: "WebSocket" };

const DESCRIPTIONS: Record<Form["type"], string> = {
  json: "JSON",
  lines: "JSON, a value a line, as it comes",
  tar: "A tar archive",
  text: "Text",
  raw: "Bytes, as they come",
  frames: "Frames of 8 bytes (1 for stdout or 2 for stderr, three zeros, length) and data",
  none: "Done",
};

interface Variable {
  readonly name: string;
  readonly pattern?: string;
  /** The name in the description. */
  readonly as?: string | undefined;
}

/** The OpenAPI paths of a Hono pattern: several, if variables are optional. */
function templatesOf(path: string): { template: string; variables: Variable[] }[] {
  return alternativesOf(path).map((segments) => ({
    template: segments.map((each) => typeof each === "string" ? `/${each}` : `/{${each.name}}`)
      .join(""),
    variables: segments.filter((each) => typeof each !== "string"),
  }));
}

/** Merges the operations of two rows of one method and path. */
function merged(one: Json, other: Json): Json {
  const list = (operation: Json) => (operation.parameters ?? []) as Json[];
  const key = ({ name, in: where }: Json) => `${where} ${name}`;
  const both = new Set(list(one).map(key)).intersection(new Set(list(other).map(key)));
  const parameters = [...list(one), ...list(other).filter((each) => !both.has(key(each)))]
    .map(({ required, ...each }) => ({
      ...each,
      ...required !== undefined && both.has(key(each)) && { required },
    }));
  const summaries = [one.summary, other.summary].filter(Boolean);
  const requestBody = one.requestBody ?? other.requestBody;
  return {
    ...one,
    ...summaries.length > 0 && { summary: summaries.join("; or: ") },
    ...parameters.length > 0 && { parameters },
    ...requestBody !== undefined && { requestBody },
    responses: { ...other.responses as Json, ...one.responses as Json },
  };
}

function rangeOf({ since, until }: { since?: string; until?: string }) {
  return [since && `From API version ${since} on.`, until && `Up to API version ${until}.`];
}

function describing(field: Parameter): Json {
  const notes = [field.description, ...rangeOf(field)].filter(Boolean);
  return notes.length > 0 ? { description: notes.join(" ") } : {};
}

/** The JSON Schema of a parameter that is sent as text. */
function schemaOfText(field: Parameter): Json {
  if (field.type !== "json" && field.type !== "filters") return schemaOf(field);
  return { type: "string", contentMediaType: "application/json", contentSchema: schemaOf(field) };
}

/** The JSON Schema of a parameter's value. */
function schemaOf(field: Parameter): Json {
  const given: Json = field.type === "filters" || field.default === undefined
    ? {}
    : { default: field.default };
  switch (field.type) {
    case "string": {
      const { enum: values, pattern, minLength, maxLength } = field;
      return {
        type: "string",
        ...values && { enum: [...values] },
        ...pattern && { pattern: `^(?:${pattern})$` },
        ...minLength !== undefined && { minLength },
        ...maxLength !== undefined && { maxLength },
        ...given,
      };
    }
    case "integer":
    case "number": {
      const { type, minimum, maximum } = field;
      return {
        type,
        ...minimum !== undefined && { minimum },
        ...maximum !== undefined && { maximum },
        ...given,
      };
    }
    case "boolean":
      return { type: "boolean", ...given };
    case "json":
      return given;
    case "list": {
      const { enum: values, minItems, maxItems } = field;
      return {
        type: "array",
        items: { type: "string", ...values && { enum: [...values] } },
        ...minItems !== undefined && { minItems },
        ...maxItems !== undefined && { maxItems },
        ...given,
      };
    }
    case "filters": {
      const names = field.names && { propertyNames: { enum: [...field.names] } };
      const list = { type: "array", items: { type: "string" } };
      const set = { type: "object", additionalProperties: { type: "boolean" } };
      return { type: "object", ...names, additionalProperties: { anyOf: [list, set] } };
    }
  }
}

/** The keywords for the members of a JSON object, or the fields of a form. */
function objectOf(fields: Fields | undefined, type: string): Json {
  const all = parametersOf(fields);
  const required = all.filter(([, field]) => field.required).map(([name]) => name);
  const properties = all.map(([name, field]) => {
    const schema = type === "form" ? schemaOfText(field) : schemaOf(field);
    // Null counts as absent, and Go's clients send it.
    const nullable = type === "env" && !field.required && typeof schema.type === "string" &&
      schema.enum === undefined;
    return [name, {
      ...schema,
      ...nullable && { type: [schema.type, "null"] },
      ...describing(field),
    }];
  });
  return {
    ...properties.length > 0 && { properties: Object.fromEntries(properties) },
    ...required.length > 0 && { required },
  };
}

function capitalized(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1);
}
