import { assert, assertEquals, assertThrows } from "@std/assert";
import { TypedError } from "../../engine/errors.ts";
import type { Fields, Route, StandardSchema } from "../../router/route.ts";
import { type Reading, RowReader, type Sent } from "../../router/validation.ts";

/** A request's parameters, without a request. */
function sent(
  query: string | [string, string][] = "",
  params: Record<string, string> = {},
  headers: Record<string, string> = {},
): Sent {
  const all = new URLSearchParams(query);
  function queries(): Record<string, string[]>;
  function queries(name: string): string[] | undefined;
  function queries(name?: string) {
    if (name !== undefined) return all.has(name) ? all.getAll(name) : undefined;
    return Object.fromEntries([...all.keys()].map((key) => [key, all.getAll(key)]));
  }
  return {
    param: (name) => params[name],
    query: (name) => all.get(name) ?? undefined,
    queries,
    header: (name) => headers[name.toLowerCase()],
  };
}

const ROW = { method: "GET", path: "/x", job: "x" } as const;

function readQuery(query: NonNullable<Route["query"]>, text: string, version?: string): Reading {
  return new RowReader({ ...ROW, query }, []).read(sent(text), version) as Reading;
}

function problem(read: () => unknown): string {
  const error = assertThrows(read, TypedError);
  assertEquals(error.kind, "bad parameter");
  return error.message;
}

Deno.test("RowReader.read gives each kind of parameter its value, and the env its text", () => {
  const cases: [Fields[string], string, unknown, string][] = [
    ["string", "p=a%20b", "a b", "a b"],
    ["string", "p=", "", ""],
    ["string", "p=one&p=two", "one", "one"],
    [{ type: "string", enum: ["a", "b"] }, "p=b", "b", "b"],
    [{ type: "string", pattern: "[a-z]+" }, "p=abc", "abc", "abc"],
    [{ type: "string", maxLength: 3 }, "p=abc", "abc", "abc"],
    ["integer", "p=42", 42, "42"],
    ["integer", "p=-7", -7, "-7"],
    ["integer", "p=%2B7", 7, "+7"],
    ["integer", "p=-0", 0, "-0"],
    ["integer", "p=007", 7, "007"],
    ["integer", "p=9007199254740991", 9007199254740991, "9007199254740991"],
    [{ type: "integer", minimum: 0, maximum: 3 }, "p=3", 3, "3"],
    ["number", "p=1.5", 1.5, "1.5"],
    ["number", "p=-.5e2", -50, "-.5e2"],
    ["boolean", "p=1", true, "1"],
    ["boolean", "p=True", true, "True"],
    ["boolean", "p=anything", true, "anything"],
    ["boolean", "p=", false, ""],
    ["boolean", "p=0", false, "0"],
    ["boolean", "p=No", false, "No"],
    ["boolean", "p=FALSE", false, "FALSE"],
    ["boolean", "p=none", false, "none"],
    [{ type: "boolean", default: true }, "p=", false, ""],
    ["json", 'p={"a":[1]}', { a: [1] }, '{"a":[1]}'],
    ["json", "p=null", null, "null"],
    ["list", "p=a", ["a"], '["a"]'],
    ["list", "p=a&p=b&q=c", ["a", "b"], '["a","b"]'],
    [{ type: "list", enum: ["a", "b"] }, "p=b&p=a", ["b", "a"], '["b","a"]'],
    ["filters", 'p={"name":["x","y"]}', { name: ["x", "y"] }, '{"name":["x","y"]}'],
    [
      "filters",
      'p={"name":{"x":true,"y":false}}',
      { name: ["x"] },
      '{"name":{"x":true,"y":false}}',
    ],
    ["filters", 'p={"__proto__":["x"]}', JSON.parse('{"__proto__":["x"]}'), '{"__proto__":["x"]}'],
    ["filters", "p={}", {}, "{}"],
    [{ type: "filters", names: ["name"] }, 'p={"name":[]}', { name: [] }, '{"name":[]}'],
  ];
  for (const [parameter, text, value, variable] of cases) {
    const read = readQuery({ p: parameter }, text);
    assertEquals([text, read.input.query, read.env], [text, { p: value }, [["p", variable]]]);
  }
});

Deno.test("RowReader.read says which parameter is wrong, what it was, and what is expected", () => {
  const cases: [Fields[string], string, string][] = [
    ["integer", "p=abc", 'is "abc", expected an integer'],
    ["integer", "p=1.5", 'is "1.5", expected an integer'],
    ["integer", "p=1e3", 'is "1e3", expected an integer'],
    ["integer", "p=0x10", 'is "0x10", expected an integer'],
    ["integer", "p=9007199254740993", 'is "9007199254740993", expected an integer'],
    [{ type: "integer", minimum: 1 }, "p=0", 'is "0", expected an integer at least 1'],
    [{ type: "integer", maximum: 9 }, "p=10", 'is "10", expected an integer at most 9'],
    [
      { type: "integer", minimum: 1, maximum: 9 },
      "p=-5",
      'is "-5", expected an integer from 1 to 9',
    ],
    ["number", "p=1,5", 'is "1,5", expected a number'],
    ["number", "p=Infinity", 'is "Infinity", expected a number'],
    ["number", "p=1e999", 'is "1e999", expected a number'],
    [{ type: "string", enum: ["a", "b"] }, "p=c", 'is "c", expected one of a, b'],
    [
      { type: "string", pattern: "[a-z]+" },
      "p=ab1",
      'is "ab1", expected a string that matches [a-z]+',
    ],
    [
      { type: "string", minLength: 2, maxLength: 3 },
      "p=a",
      'is "a", expected a string of 2 to 3 characters',
    ],
    ["json", "p={", 'is "{", expected JSON'],
    [{ type: "list", enum: ["a"] }, "p=b", 'is "b", expected a list of strings: a'],
    [
      { type: "list", maxItems: 1 },
      "p=a&p=b",
      'is ["a","b"], expected a list of strings of at most 1 items',
    ],
    ...["x", "[]", "7", "null", '{"a":"b"}', '{"a":[1]}', '{"a":{"b":1}}'].map(
      (text): [Fields[string], string, string] => [
        "filters",
        `p=${text}`,
        `is ${JSON.stringify(text)}, expected a JSON object of lists such as {"label": ["a"]}`,
      ],
    ),
    [
      { type: "filters", names: ["id", "name"] },
      'p={"colour":["red"]}',
      'has "colour", expected names among id, name',
    ],
    [{ type: "string", required: true }, "q=1", "is missing, expected a string"],
    [{ type: "integer", required: true }, "p=", "is missing, expected an integer"],
    [
      { type: "filters", required: true },
      "",
      "is missing, expected a JSON object of lists such as " +
      '{"label": ["a"]}',
    ],
  ];
  for (const [parameter, text, message] of cases) {
    assertEquals(problem(() => readQuery({ p: parameter }, text)), `query parameter p ${message}`);
  }
});

Deno.test("RowReader.read quotes at most a line of a wrong value", () => {
  const message = problem(() => readQuery({ p: "integer" }, `p=${"x%0A".repeat(1_000)}`));
  assert(message.length < 150, message);
  assert(!message.includes("\n"));
});

Deno.test("RowReader.read takes an empty text for absent if it is no value of its kind", () => {
  for (
    const parameter of [
      "integer",
      "number",
      "json",
      "filters",
      { type: "string", enum: ["a"] },
      { type: "string", pattern: "a+" },
    ] as const
  ) assertEquals(readQuery({ p: parameter }, "p=").input.query, { p: undefined });
});

Deno.test("RowReader.read gives defaults to the input and to the env", () => {
  const query: Fields = {
    text: { type: "string", default: "a" },
    count: { type: "integer", default: 3 },
    on: { type: "boolean", default: true },
    off: { type: "boolean", default: false },
    any: { type: "json", default: { a: 1 } },
    names: { type: "list", default: ["x", "y"] },
    bare: "string",
    flag: "boolean",
    several: "list",
  };
  const read = readQuery(query, "");
  assertEquals(read.input.query, {
    text: "a",
    count: 3,
    on: true,
    off: false,
    any: { a: 1 },
    names: ["x", "y"],
    bare: undefined,
    flag: false,
    several: [],
  });
  assertEquals(Object.fromEntries(read.env), {
    text: "a",
    count: "3",
    on: "1",
    off: "0",
    any: '{"a":1}',
    names: '["x","y"]',
  });
});

Deno.test("RowReader.read ignores what the row does not name", () => {
  const read = readQuery({ all: "boolean" }, "all=1&Image=busybox&HostConfig=%7B%7D&limit=x");
  assertEquals([read.input.query, read.env], [{ all: true }, [["all", "1"]]]);
  assertEquals(readQuery(["a"], "a=1&b=2").env, [["a", "1"]]);
});

Deno.test("RowReader.read gives the env all values of a parameter that is only named", () => {
  const read = readQuery(["a", "b"], "a=1&b=2&a=3");
  assertEquals(read.env, [["a", "1"], ["a", "3"], ["b", "2"]]);
  assertEquals(read.input.query, { a: "3", b: "2" });
});

Deno.test("RowReader.read gives a variable the name that the row says", () => {
  const read = readQuery({ v: { type: "boolean", env: "removeVolume" } }, "v=1");
  assertEquals([read.input.query, read.env], [{ v: true }, [["removeVolume", "1"]]]);
});

Deno.test("RowReader.read ignores a parameter that the API version lacks", () => {
  const query: Fields = {
    signal: { type: "string", since: "1.42" },
    filter: { type: "string", until: "1.40" },
  };
  const read = (version?: string) => readQuery(query, "signal=INT&filter=x", version).input.query;
  assertEquals(read("1.41"), { signal: undefined, filter: undefined });
  assertEquals(read("1.40"), { signal: undefined, filter: "x" });
  assertEquals(read("1.5"), { signal: undefined, filter: "x" });
  assertEquals(read("1.42"), { signal: "INT", filter: undefined });
  assertEquals(read(undefined), { signal: "INT", filter: undefined });
});

Deno.test("RowReader.read reads the path and headers", () => {
  const reader = new RowReader({
    ...ROW,
    params: { id: { type: "integer", minimum: 1 } },
    headers: { "X-Count": "integer", "X-Registry-Auth": { type: "string", env: "auth" } },
  }, ["id", "rest"]);
  const read = reader.read(
    sent("", { id: "7", rest: "a/b" }, { "x-count": "2", "x-registry-auth": "e30=" }),
    undefined,
  ) as Reading;
  assertEquals(read.input.params, { id: 7, rest: "a/b" });
  assertEquals(read.input.headers, { "X-Count": 2, "X-Registry-Auth": "e30=" });
  assertEquals(read.env, [["X-Count", "2"], ["auth", "e30="]]);
  assertEquals(
    problem(() => reader.read(sent("", { id: "0", rest: "" }), undefined)),
    'path parameter id is "0", expected an integer at least 1',
  );
  assertEquals(
    problem(() => reader.read(sent("", { id: "1" }, { "x-count": "x" }), undefined)),
    'header X-Count is "x", expected an integer',
  );
});

Deno.test("RowReader.args gives the path's variables, or what the row lists", () => {
  const args = (route: Partial<Route>, query: string, params: Record<string, string>) => {
    const reader = new RowReader({ ...ROW, ...route }, Object.keys(params));
    const from = sent(query, params);
    return reader.args(from, reader.read(from, undefined) as Reading);
  };
  assertEquals(args({}, "", { a: "1", b: "2" }), ["1", "2"]);
  const kill: Partial<Route> = { query: ["signal"], args: ["name", "signal"] };
  assertEquals(args(kill, "signal=INT", { name: "web" }), ["web", "INT"]);
  assertEquals(args(kill, "", { name: "web" }), ["web"]);
  const tag: Partial<Route> = { query: ["repo", "tag"], args: ["name", "repo", "tag"] };
  assertEquals(args(tag, "tag=1", { name: "web" }), ["web", "", "1"]);
  const save: Partial<Route> = { query: { names: "list" }, args: ["names"] };
  assertEquals(args(save, "names=a&names=b", {}), ["a", "b"]);
  assertEquals(args(save, "", {}), []);
  const size: Partial<Route> = { query: { h: "integer" }, args: ["h"] };
  assertEquals(args(size, "h=024", {}), ["24"]);
});

Deno.test("RowReader refuses a row that cannot be", () => {
  const cases: [Partial<Route>, string][] = [
    [
      { query: { p: "text" as "string" } },
      'query parameter p is "text", expected one of string, integer, number, boolean, json, list, ' +
      "filters",
    ],
    [{ params: { nme: "string" } }, 'params has "nme", expected one of name'],
    [
      { args: ["name", "signal"], query: ["t"] },
      'args has "signal", expected one of name, t',
    ],
    [
      { query: { p: { type: "integer", default: 1.5 } } },
      "the default of query parameter p is 1.5, expected an " +
      "integer",
    ],
    [
      { query: { p: { type: "string", enum: ["a"], default: "b" } } },
      "the default of query parameter p is " +
      '"b", expected one of a',
    ],
    [
      { query: { p: { type: "string", since: "2" } } },
      'since is "2", expected MAJOR.MINOR such as ' +
      "1.47",
    ],
    [
      { query: { p: { type: "string", since: "1.30", until: "1.29" } } },
      "since 1.30 is later than until 1.29",
    ],
    [{ body: "json" as "env" }, 'body is "json", expected "stdin", "env" or "form"'],
  ];
  for (const [route, message] of cases) {
    const make = () => new RowReader({ ...ROW, ...route }, ["name"]);
    assertEquals(assertThrows(make, TypeError).message, message);
  }
  assertThrows(
    () => new RowReader({ ...ROW, query: { p: { type: "string", pattern: "(" } } }, []),
    SyntaxError,
    "Invalid regular expression",
  );
});

function nothing(): Reading {
  return { env: [], input: { params: {}, query: {}, headers: {}, body: undefined } };
}

async function readBody(body: NonNullable<Route["body"]>, text: string): Promise<Reading> {
  const reading = nothing();
  await new RowReader({ ...ROW, method: "POST", body }, []).readJson(text, reading);
  return reading;
}

async function bodyProblem(body: NonNullable<Route["body"]>, text: string): Promise<string> {
  try {
    await readBody(body, text);
  } catch (error) {
    assert(error instanceof TypedError && error.kind === "bad parameter");
    return error.message;
  }
  throw new Error(`${text} was taken`);
}

Deno.test("RowReader.readJson reads the declared members, and the env has the others too", async () => {
  const body: Route["body"] & object = {
    type: "env",
    fields: {
      Image: { type: "string", required: true },
      Cmd: "list",
      Tty: "boolean",
      Memory: { type: "integer", env: "memory" },
      Restart: { type: "string", default: "no" },
      HostConfig: "json",
    },
  };
  const text =
    '{"Image":"a","Cmd":"true","Tty":true,"Memory":1.6777216e+07,"HostConfig":{"b":[1]},' +
    '"Labels":{"x":"y"},"Hostname":null}';
  const { input: { body: read }, env } = await readBody(body, text);
  assertEquals(read, {
    Image: "a",
    Cmd: ["true"],
    Tty: true,
    Memory: 16777216,
    Restart: "no",
    HostConfig: { b: [1] },
  });
  assertEquals(Object.fromEntries(env), {
    Image: "a",
    Cmd: "true",
    Tty: "true",
    memory: "16777216",
    Restart: "no",
    HostConfig: '{"b":[1]}',
    Labels: '{"x":"y"}',
  });
});

Deno.test("RowReader.readJson says which member is wrong", async () => {
  const body: Route["body"] & object = {
    type: "env",
    fields: {
      Image: { type: "string", required: true },
      Cmd: { type: "list", minItems: 1 },
      Tty: "boolean",
      Memory: { type: "integer", minimum: 0 },
    },
  };
  for (
    const [text, message] of [
      ["{}", "body field Image is missing, expected a string"],
      ['{"Image":null}', "body field Image is missing, expected a string"],
      ['{"Image":5}', "body field Image is 5, expected a string"],
      [
        '{"Image":"a","Cmd":[]}',
        "body field Cmd is [], expected a list of strings of at least 1 " +
        "items",
      ],
      [
        '{"Image":"a","Cmd":[1]}',
        "body field Cmd is 1, expected a list of strings of at least 1 " +
        "items",
      ],
      ['{"Image":"a","Tty":"yes"}', 'body field Tty is "yes", expected true or false'],
      ['{"Image":"a","Memory":"1"}', 'body field Memory is "1", expected an integer at least 0'],
      ['{"Image":"a","Memory":1.5}', "body field Memory is 1.5, expected an integer at least 0"],
      ['{"Image":"a","Memory":-1}', "body field Memory is -1, expected an integer at least 0"],
    ] as const
  ) assertEquals(await bodyProblem(body, text), message);
  assertEquals(
    await bodyProblem({ type: "env", required: true }, " "),
    "the request body is missing, expected a JSON object",
  );
  assertEquals(
    (await bodyProblem(body, "[1]")).slice(0, 36),
    "request body: expected a JSON object",
  );
});

/** A schema as a library would make it: an object with a name, whose count is doubled. */
function schema(wait: boolean): StandardSchema<unknown, { name: string; count: number }> {
  const validate = (value: unknown) => {
    const { name, count = "1" } = (value ?? {}) as { name?: string; count?: string };
    if (name === undefined) {
      return { issues: [{ message: "expected a string", path: [{ key: "name" }] }] };
    }
    if (!Number(count)) return { issues: [{ message: "expected digits", path: ["count"] }] };
    return { value: { name, count: 2 * Number(count) } };
  };
  return {
    "~standard": {
      version: 1,
      vendor: "test",
      validate: wait ? (value) => Promise.resolve(validate(value)) : validate,
    },
  };
}

Deno.test("RowReader takes a Standard Schema for the query", async () => {
  for (const wait of [false, true]) {
    const read = await readQuery(
      schema(wait) as NonNullable<Route["query"]>,
      "name=a&count=2&other=x",
    );
    assertEquals(read.input.query, { name: "a", count: 4 });
    assertEquals(read.env, [["name", "a"], ["count", "2"]]);
    const less = await readQuery(schema(wait) as NonNullable<Route["query"]>, "name=a");
    assertEquals(less.env, [["name", "a"], ["count", "2"]]);
    for (
      const [text, message] of [
        ["", "query parameter name is missing: expected a string"],
        ["name=a&count=x", 'query parameter count is "x": expected digits'],
      ] as const
    ) {
      const failed = await Promise.resolve(
        readQuery(schema(wait) as NonNullable<Route["query"]>, text),
      )
        .catch((error) => error);
      assert(failed instanceof TypedError);
      assertEquals(failed.message, message);
    }
  }
});

Deno.test("RowReader takes a Standard Schema for the body", async () => {
  for (const wait of [false, true]) {
    const { input: { body }, env } = await readBody(schema(wait), '{"name":"a","count":"3","n":1}');
    assertEquals(body, { name: "a", count: 6 });
    assertEquals(env, [["name", "a"], ["count", "3"], ["n", "1"]]);
    assertEquals(
      await bodyProblem(schema(wait), '{"name":"a","count":"x"}'),
      'body field count is "x": expected digits',
    );
    assertEquals(
      await bodyProblem(schema(wait), ""),
      "body field name is missing: expected a string",
    );
    assertEquals(
      (await bodyProblem(schema(wait), "{")).slice(0, 27),
      "request body: expected JSON",
    );
  }
});

Deno.test("RowReader.readForm reads the fields of a form", () => {
  const reader = new RowReader({
    ...ROW,
    method: "POST",
    body: { type: "form", required: true, fields: { count: "integer", tag: "list" } },
  }, []);
  const form = (...entries: [string, string | File][]) => {
    const data = new FormData();
    for (const [name, value] of entries) data.append(name, value);
    return data;
  };
  const values = nothing();
  reader.readForm(form(["count", "3"], ["tag", "a"], ["tag", "b"], ["note", "x"]), values);
  assertEquals(values.input.body, { count: 3, tag: ["a", "b"], note: "x" });
  assertEquals(values.env, [["count", "3"], ["tag", '["a","b"]'], ["note", "x"]]);
  assertEquals(
    problem(() => reader.readForm(form(["count", "x"]), nothing())),
    'form field count is "x", expected an integer',
  );
  assertEquals(
    problem(() => reader.readForm(form(["count", new File([], "x")]), nothing())),
    "form field count is a file, expected text",
  );
  assertEquals(
    problem(() => reader.readForm(form(), nothing())),
    "the request body is missing, expected a form",
  );
});

Deno.test("RowReader.typeProblem is what is wrong with a Content-Type", () => {
  const check = (body: NonNullable<Route["body"]>, type: string | undefined, empty = false) =>
    new RowReader({ ...ROW, method: "POST", body }, []).typeProblem(type, empty);
  for (const type of ["application/json", "Application/JSON; charset=utf-8"]) {
    assertEquals(check({ type: "env" }, type), undefined);
  }
  assertEquals(
    check({ type: "env" }, "text/plain"),
    'Content-Type is "text/plain", expected application/json',
  );
  assertEquals(
    check({ type: "env" }, "text/plain", true),
    'Content-Type is "text/plain", expected application/json',
  );
  assertEquals(
    check({ type: "env" }, undefined),
    "Content-Type is missing, expected application/json",
  );
  assertEquals(check({ type: "env" }, undefined, true), undefined);
  assertEquals(
    check({ type: "form" }, "application/json"),
    'Content-Type is "application/json", expected application/x-www-form-urlencoded or ' +
      "multipart/form-data",
  );
  assertEquals(check(schema(false), "text/plain")?.slice(0, 12), "Content-Type");
  assertEquals(check({ type: "stdin" }, "image/png"), undefined);
  assertEquals(check("env", "text/plain"), undefined);
});
