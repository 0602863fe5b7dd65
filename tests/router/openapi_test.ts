import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { Validator } from "npm:@seriousme/openapi-schema-validator@2.11.0";
import * as v from "npm:valibot@1.5.0";
import * as z from "npm:zod@4.6.7";
import { API_VERSION } from "../../engine/version.ts";
import { DOCKER_API } from "../../router/dockerapi.ts";
import { describe } from "../../router/openapi.ts";
import type { Route } from "../../router/route.ts";

// deno-lint-ignore no-explicit-any
type Any = any;

const ABOUT = { title: "Shop", version: "1.2.3" };

function described(rows: Route | readonly Route[], version?: string): Any {
  return describe(Array.isArray(rows) ? rows : [rows as Route], ABOUT, version);
}

function row(route: Partial<Route> = {}): Route {
  return { method: "GET", path: "/items", job: "items", ...route };
}

const DOCKER: readonly Route[] = Object.values(DOCKER_API).flat();

Deno.test("describe passes a validator of OpenAPI 3.1, for every API version", async () => {
  const tree = z.object({
    name: z.string(),
    get children() {
      return z.array(tree);
    },
  });
  const rows: Route[] = [
    ...DOCKER,
    row({
      method: "PUT",
      path: "/trees/:id{[0-9]+}/:part?",
      params: { id: { type: "integer", minimum: 1 } },
      query: z.object({ deep: z.coerce.number().optional(), by: z.enum(["a", "b"]) }),
      headers: { "X-Count": { type: "integer", description: "How many" } },
      body: tree,
      answers: { 200: { schema: tree }, 201: "none" },
      timeout: 5,
      concurrency: 3,
    }),
    row({ method: "POST", body: { type: "form", fields: { count: "integer", more: "json" } } }),
    row({ path: "/files/*", answers: { 200: "raw" } }),
  ];
  for (const version of [undefined, "1.12", "1.23", "1.24", "1.41", API_VERSION]) {
    const description = described(rows, version);
    const { valid, errors } = await new Validator().validate(description);
    assertEquals([version, valid, errors], [version, true, undefined]);
    const operations = Object.values(description.paths as Any).flatMap((item: Any) =>
      Object.values(item) as Any[]
    );
    const ids = operations.map(({ operationId }) => operationId);
    assertEquals(new Set(ids).size, ids.length);
  }
  // The validator sees what is wrong, where something is.
  const broken = described(rows);
  broken.paths["/files/{rest}"].get.parameters[0].in = "nowhere";
  assertEquals((await new Validator().validate(broken)).valid, false);
});

Deno.test("describe says what the API is, and at what paths", () => {
  const newest = described(row());
  assertEquals([newest.openapi, newest.info.title, newest.info.version], [
    "3.1.0",
    "Shop",
    "1.2.3",
  ]);
  assertEquals(newest.servers, [{ url: "/" }]);
  assertEquals(described(row(), "1.24").servers, [{ url: "/v1.24" }]);
  assertStringIncludes(described(row(), "1.24").info.description, "/v1.24");
});

Deno.test("describe writes Hono's patterns as OpenAPI's paths", () => {
  const cases: [string, string[], [string, string | undefined][]][] = [
    ["/", ["/"], []],
    ["/a/:id", ["/a/{id}"], [["id", undefined]]],
    ["/a/:id{[0-9]+}/b", ["/a/{id}/b"], [["id", "^(?:[0-9]+)$"]]],
    ["/a/:id{[0-9]{2}}", ["/a/{id}"], [["id", "^(?:[0-9]{2})$"]]],
    ["/images/:name{.+}/json", ["/images/{name}/json"], [["name", "^(?:.+)$"]]],
    ["/a/:x/:y?", ["/a/{x}", "/a/{x}/{y}"], [["x", undefined], ["y", undefined]]],
    ["/a/*", ["/a/{rest}"], [["rest", "^(?:.*)$"]]],
  ];
  for (const [path, paths, parameters] of cases) {
    const description = described(row({ path }));
    assertEquals([path, Object.keys(description.paths)], [path, paths]);
    const { parameters: found = [] } = description.paths[paths.at(-1)!].get;
    assertEquals(
      found.map((each: Any) => [each.name, each.schema.pattern]),
      parameters,
    );
    for (const each of found) assertEquals([each.in, each.required], ["path", true]);
  }
});

Deno.test("describe gives paths of one form one name, as OpenAPI wants it", () => {
  const { paths } = described([
    row({ path: "/a/:id" }),
    row({ method: "DELETE", path: "/a/:name", job: "other" }),
  ]);
  assertEquals(Object.keys(paths), ["/a/{id}"]);
  assertEquals(paths["/a/{id}"].delete.parameters[0].name, "id");
});

Deno.test("describe tells each kind of parameter", () => {
  const { parameters } = described(row({
    query: {
      text: { type: "string", enum: ["a", "b"], default: "a", description: "A letter." },
      name: { type: "string", pattern: "[a-z]+", minLength: 1, maxLength: 9 },
      count: { type: "integer", minimum: 0, maximum: 9, required: true },
      share: "number",
      all: { type: "boolean", default: true },
      names: { type: "list", minItems: 1 },
      any: "json",
      filters: { type: "filters", names: ["id"] },
    },
    headers: { "X-Id": "string" },
  })).paths["/items"].get;
  const schemas = Object.fromEntries(parameters.map((each: Any) => [each.name, each.schema]));
  assertEquals(schemas, {
    text: { type: "string", enum: ["a", "b"], default: "a" },
    name: { type: "string", pattern: "^(?:[a-z]+)$", minLength: 1, maxLength: 9 },
    count: { type: "integer", minimum: 0, maximum: 9 },
    share: { type: "number" },
    all: { type: "boolean", default: true },
    names: { type: "array", items: { type: "string" }, minItems: 1 },
    any: { type: "string", contentMediaType: "application/json", contentSchema: {} },
    filters: {
      type: "string",
      contentMediaType: "application/json",
      contentSchema: {
        type: "object",
        propertyNames: { enum: ["id"] },
        additionalProperties: {
          anyOf: [
            { type: "array", items: { type: "string" } },
            { type: "object", additionalProperties: { type: "boolean" } },
          ],
        },
      },
    },
    "X-Id": { type: "string" },
  });
  assertEquals(parameters[0].description, "A letter.");
  assertEquals(parameters.filter((each: Any) => each.required).map((each: Any) => each.name), [
    "count",
  ]);
  assertEquals(parameters.at(-1).in, "header");
});

Deno.test("describe has bodies, and the errors for wrong ones", () => {
  const post = (body: NonNullable<Route["body"]>) =>
    described(row({ method: "POST", body })).paths["/items"].post;
  const stdin = post("stdin");
  assertEquals(stdin.requestBody, { content: { "application/octet-stream": { schema: {} } } });
  assertEquals(Object.keys(stdin.responses), ["200", "204", "400", "408", "413", "500"]);
  const env = post({
    type: "env",
    required: true,
    fields: { Image: { type: "string", required: true }, Cmd: "list", Tty: "boolean" },
  });
  assertEquals(env.requestBody, {
    required: true,
    content: {
      "application/json": {
        schema: {
          type: "object",
          properties: {
            Image: { type: "string" },
            Cmd: { type: ["array", "null"], items: { type: "string" } },
            Tty: { type: ["boolean", "null"] },
          },
          required: ["Image"],
        },
      },
    },
  });
  assert("415" in env.responses);
  assert(!("415" in post({ type: "env", mismatch: 400 }).responses));
  assertEquals(Object.keys(post({ type: "form" }).requestBody.content), [
    "application/x-www-form-urlencoded",
    "multipart/form-data",
  ]);
});

Deno.test("describe tells answers and errors by status", () => {
  const { responses } = described(row({
    answers: {
      304: "none",
      200: { type: "tar", headers: { "X-Stat": "What it is" }, description: "The files" },
    },
    errors: [404, 409],
    timeout: { ms: 1_000, kind: "unavailable" },
    concurrency: 1,
  })).paths["/items"].get;
  assertEquals(Object.keys(responses), ["200", "304", "404", "409", "500", "503"]);
  assertEquals(responses[200], {
    description: "The files",
    headers: { "X-Stat": { description: "What it is", schema: { type: "string" } } },
    content: { "application/x-tar": { schema: {} } },
  });
  assertEquals(responses[304], { description: "Done" });
  const error = { "application/json": { schema: { $ref: "#/components/schemas/Error" } } };
  assertEquals(responses[404], { description: "Not found", content: error });
  assertEquals(responses[503].headers["Retry-After"].schema, { type: "integer" });
  const slow = described(row({ timeout: 5 })).paths["/items"].get.responses;
  assertEquals(slow[504], { description: "Deadline exceeded", content: error });
  const old = described(row({ errors: [404] }), "1.23").paths["/items"].get.responses;
  assertEquals(Object.keys(old[404].content), ["text/plain"]);
});

Deno.test("describe has the rows and parameters of the requested API version", () => {
  const rows = [
    row({ until: "1.23", query: ["old"] }),
    row({ since: "1.24", query: { signal: { type: "string", since: "1.42" } } }),
    row({ path: "/late", job: "late", since: "1.47" }),
  ];
  const names = (version?: string) =>
    (described(rows, version).paths["/items"].get.parameters ?? []).map((each: Any) => each.name);
  assertEquals([names("1.23"), names("1.24"), names("1.42"), names()], [["old"], [], ["signal"], [
    "signal",
  ]]);
  assertEquals(Object.keys(described(rows, "1.46").paths), ["/items"]);
  assertEquals(Object.keys(described(rows).paths), ["/items", "/late"]);
});

Deno.test("describe makes one operation of rows that differ in a parameter", () => {
  const { post } = described([
    row({
      method: "POST",
      when: "from",
      job: "pull",
      query: { from: { type: "string", required: true }, tag: "string" },
      summary: "Pulls",
    }),
    row({ method: "POST", job: "import", query: ["tag"], body: "stdin", summary: "Imports" }),
  ]).paths["/items"];
  assertEquals([post.operationId, post.summary], ["pull", "Pulls; or: Imports"]);
  assertEquals(post.parameters.map((each: Any) => [each.name, each.required]), [
    ["from", undefined],
    ["tag", undefined],
  ]);
  assert(post.requestBody);
});

Deno.test("describe takes the JSON Schema of a Standard Schema, if its library makes one", () => {
  const item = z.object({
    name: z.string(),
    count: z.number().int().optional(),
    get parts() {
      return z.array(item);
    },
  });
  const { paths, components } = described(row({
    method: "POST",
    query: z.object({ dry: z.stringbool().optional(), shop: z.string() }),
    body: z.object({ item, second: item }),
    answers: { 201: { schema: z.object({ id: z.number() }) } },
  }));
  const { post } = paths["/items"];
  assertEquals(post.parameters.map((each: Any) => [each.name, each.required]), [
    ["dry", undefined],
    ["shop", true],
  ]);
  const { schema } = post.requestBody.content["application/json"];
  const reference = schema.properties.item.$ref;
  assert(reference.startsWith("#/components/schemas/items_body_"), reference);
  const shared = components.schemas[reference.split("/").at(-1)];
  assertEquals(shared.properties.parts.items.$ref, reference);
  assertEquals(shared.properties.name, { type: "string" });
  assert(!("$schema" in schema) && !("$defs" in schema));
  assertEquals(
    post.responses[201].content["application/json"].schema.properties,
    { id: { type: "number" } },
  );
  // valibot's has none by itself: anything is allowed, as far as the description knows.
  const plain = described(row({ method: "POST", body: v.object({ name: v.string() }) }));
  assertEquals(plain.paths["/items"].post.requestBody, {
    required: true,
    content: { "application/json": { schema: {} } },
  });
});
