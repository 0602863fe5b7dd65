import {
  assert,
  assertEquals,
  assertInstanceOf,
  assertStrictEquals,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { Env } from "../../engine/env.ts";
import { TypedError } from "../../engine/errors.ts";
import { envOf, HUGE } from "../support/engine.ts";

Deno.test("Env.get gives the last value set, and nothing where unset", () => {
  const env = new Env();
  env.set("a", "1");
  env.set("a", "2");
  assertEquals([env.get("a"), env.get("b"), env.get("toString")], ["2", "", ""]);
});

Deno.test("Env.has tells an empty value from none", () => {
  const env = envOf({ empty: "" });
  assertEquals(["empty", "unset", "toString"].map((key) => env.has(key)), [true, false, false]);
});

Deno.test("Env.size counts keys", () => {
  const env = new Env();
  assertEquals(env.size, 0);
  env.set("a", "1");
  env.set("a", "2");
  env.set("b", "");
  assertEquals(env.size, 2);
});

Deno.test("Env keeps the order in which the keys were first set, numbers among them", () => {
  const env = new Env();
  for (const key of ["b", "2", "a", "1", "b"]) env.set(key, `${env.size}`);
  assertEquals([...env], [["b", "4"], ["2", "1"], ["a", "2"], ["1", "3"]]);
  assertEquals(env.encode(), '{"b":4,"2":1,"a":2,"1":3}');
});

Deno.test('Env.getBool is false for "", 0, no, false and none in any case, and where unset', () => {
  const env = new Env();
  assertEquals(env.getBool("unset"), false);
  for (const value of ["", "0", "no", "No", "false", "FALSE", "none", "nOnE", " no "]) {
    env.set("a", value);
    assertEquals(env.getBool("a"), false, value);
  }
  for (const value of ["1", "yes", "true", "2", "00", "off", "nope", "null"]) {
    env.set("a", value);
    assertEquals(env.getBool("a"), true, value);
  }
});

Deno.test("Env.setBool sets 1 or 0", () => {
  const env = new Env();
  for (const [value, text] of [[true, "1"], [false, "0"]] as const) {
    env.setBool("a", value);
    assertEquals([env.get("a"), env.getBool("a")], [text, value]);
  }
});

Deno.test("Env.getInt gives the integer", () => {
  const env = new Env();
  const cases: [string, number][] = [
    ["0", 0],
    ["-0", 0],
    ["42", 42],
    ["-42", -42],
    ["+42", 42],
    ["007", 7],
    [" 8 ", 8],
    ["9007199254740991", Number.MAX_SAFE_INTEGER],
    ["-9007199254740991", Number.MIN_SAFE_INTEGER],
  ];
  for (const [text, value] of cases) {
    env.set("a", text);
    assertStrictEquals(env.getInt("a"), value, text);
  }
});

Deno.test("Env.getInt gives the integer in any notation of JSON", () => {
  const cases: [string, number][] = [
    ["1.6777216e+07", 16_777_216],
    ["512.0", 512],
    ["1e3", 1_000],
    ["-1.5E1", -15],
    ["1200e-2", 12],
    ["0.0", 0],
    ["-0e9", 0],
    ["0e999999999", 0],
    ["0.000001e6", 1],
    ["100000e-5", 1],
    ["9007199254740991.000", Number.MAX_SAFE_INTEGER],
    ["9.007199254740991e15", Number.MAX_SAFE_INTEGER],
  ];
  for (const [number, value] of cases) {
    assertStrictEquals(envOf({ a: number }).getInt("a"), value, number);
    assertStrictEquals(Env.decode(`{"a": ${number}}`).getInt("a"), value, number);
  }
});

Deno.test("Env.getInt gives 0 if the key is unset", () => {
  const env = envOf({ a: "", b: " " });
  assertEquals(["a", "b", "unset"].map((key) => env.getInt(key)), [0, 0, 0]);
});

Deno.test("Env.getInt refuses what is no integer, as a bad parameter", () => {
  const env = new Env();
  // deno-fmt-ignore
  for (const text of ["abc", "12abc", "1.5", "15e-1", "0x10", "1 2", "--1", "NaN", "Infinity", "true", "[1]",
    "1e", ".", "1e-1", "0.10e0"]) {
    env.set("a", text);
    const error = assertThrows(() => env.getInt("a"), TypedError, `a=${text} is no integer`);
    assertEquals(error.kind, "bad parameter");
  }
});

Deno.test("Env.getInt refuses an integer that it cannot hold", () => {
  const env = new Env();
  // deno-fmt-ignore
  for (const text of ["9007199254740992", "-9007199254740992", HUGE, "1e16", "1e999999999", "9007199254740992.0"]) {
    env.set("a", text);
    assertThrows(() => env.getInt("a"), TypedError, `a=${text} is out of range`);
    assertEquals(env.get("a"), text);
  }
});

Deno.test("Env.setInt sets the digits, of a bigint all of them", () => {
  const env = new Env();
  for (const value of [0, -7, Number.MAX_SAFE_INTEGER, BigInt(HUGE)]) {
    env.setInt("a", value);
    assertEquals(env.get("a"), `${value}`);
  }
});

Deno.test("Env.setInt throws on what is no safe integer, and sets nothing", () => {
  const env = new Env();
  for (const value of [1.5, NaN, Infinity, 2 ** 53]) {
    assertThrows(() => env.setInt("a", value), RangeError, `cannot set a to ${value}`);
  }
  assertEquals(env.has("a"), false);
});

Deno.test("Env.getFilters reads Docker's filters in both forms", () => {
  const env = new Env();
  assertEquals(env.getFilters("filters"), new Map());
  env.set("filters", '{"label":["a=1","b"],"name":["x"],"none":[]}');
  const lists = new Map([["label", ["a=1", "b"]], ["name", ["x"]], ["none", []]]);
  assertEquals(env.getFilters("filters"), lists);
  assertEquals(env.getFilters("filters", ["name", "none", "label"]), lists);
  env.set("filters", '{"label":{"a=1":true,"b":true,"c":false},"name":{"x":true},"none":null}');
  assertEquals(env.getFilters("filters"), new Map([["label", ["a=1", "b"]], ["name", ["x"]]]));
  env.set("filters", " ");
  assertEquals(env.getFilters("filters"), new Map());
});

Deno.test("Env.getFilters refuses another form, and names that are not known", () => {
  const form = 'expected a JSON object of lists such as {"label": ["a"]}';
  for (
    const [text, message] of [
      ["{", `filters is "{", ${form}`],
      ["[]", `filters is "[]", ${form}`],
      ['{"label":"a"}', form],
      ['{"label":[1]}', form],
      ['{"label":{"a":1}}', form],
      ['{"label":["a"],"size":["1"]}', 'filters has "size", expected names among label, name'],
    ] as const
  ) {
    const env = new Env();
    env.set("filters", text);
    const error = assertThrows(() => env.getFilters("filters", ["label", "name"]), TypedError);
    assertEquals(error.kind, "bad parameter");
    assertStringIncludes(error.message, message);
  }
});

Deno.test("Env.getList gives a JSON array, or a single string, or nothing", () => {
  const env = envOf({
    array: '["a","b"]',
    empty: "[]",
    string: "a,b",
    object: '{"a":1}',
    none: "",
  });
  assertEquals(env.getList("array"), ["a", "b"]);
  assertEquals(env.getList("empty"), []);
  assertEquals(env.getList("string"), ["a,b"]);
  assertEquals(env.getList("object"), ['{"a":1}']);
  assertEquals(env.getList("none"), []);
  assertEquals(env.getList("unset"), []);
});

Deno.test("Env.getList gives all values that were set, unless the last is a list", () => {
  const env = envOf({ a: "x" });
  env.set("a", "y");
  assertEquals(env.getList("a"), ["x", "y"]);
  env.setList("a", ["z"]);
  assertEquals(env.getList("a"), ["z"]);
});

Deno.test("Env.getList gives elements that are no strings as their JSON text, digit for digit", () => {
  const env = envOf({ a: `["x", 1, ${HUGE}, 1.0, null, true, {"b": [${HUGE}]}]` });
  const expected = ["x", "1", HUGE, "1.0", "null", "true", `{"b":[${HUGE}]}`];
  assertEquals(env.getList("a"), expected);
});

Deno.test("Env.setList sets what getList gives back", () => {
  const env = new Env();
  for (const list of [[], ["a"], ["", "null", '"', "[]", HUGE, "é\n"]]) {
    env.setList("a", list);
    assertEquals(env.getList("a"), list);
  }
});

Deno.test("Env.getJson gives the parsed value, and undefined where unset", () => {
  const env = envOf({ a: '{"b": [1, "c", null]}', n: "null" });
  assertEquals(env.getJson("a"), { b: [1, "c", null] });
  assertEquals(env.getJson("n"), null);
  assertEquals(env.getJson("unset"), undefined);
});

Deno.test("Env.getJson throws a SyntaxError that names the key where the value is not JSON", () => {
  const env = envOf({ a: "{", empty: "" });
  assertInstanceOf(assertThrows(() => env.getJson("a"), SyntaxError, "a is not JSON").cause, Error);
  assertThrows(() => env.getJson("empty"), SyntaxError, "empty is not JSON");
});

Deno.test("Env.setJson sets the JSON text, of a bigint all digits", () => {
  const env = new Env();
  for (
    const [value, text] of [
      ["a", '"a"'],
      [null, "null"],
      [[1, { b: true }], '[1,{"b":true}]'],
      [{ a: [BigInt(HUGE)] }, `{"a":[${HUGE}]}`],
    ]
  ) {
    env.setJson("a", value);
    assertEquals(env.get("a"), text);
  }
});

Deno.test("Env.setJson throws on what has no JSON text, and sets nothing", () => {
  const env = new Env();
  const cycle: unknown[] = [];
  cycle.push(cycle);
  for (const value of [undefined, () => {}, Symbol(), cycle]) {
    assertThrows(() => env.setJson("a", value), TypeError);
  }
  assertEquals(env.has("a"), false);
});

Deno.test("Env.getSubEnv gives a JSON object as an Env, and undefined for anything else", () => {
  const env = envOf({ a: `{"b": "c", "d": ${HUGE}}`, array: "[1]", n: "null", i: HUGE, s: "{" });
  assertEquals(env.getSubEnv("a")?.toObject(), { b: "c", d: HUGE });
  for (const key of ["array", "n", "i", "s", "unset"]) {
    assertEquals(env.getSubEnv(key), undefined, key);
  }
});

Deno.test("Env.setSubEnv sets what getSubEnv gives back", () => {
  const env = new Env();
  env.setSubEnv("a", envOf({ text: "b", int: HUGE }));
  assertEquals(env.get("a"), `{"text":"b","int":${HUGE}}`);
  assertEquals(env.getSubEnv("a")?.toObject(), { text: "b", int: HUGE });
});

Deno.test("Env.setAuto drops null, keeps strings as they are, and sets the rest as JSON", () => {
  const env = new Env();
  env.setAuto("null", null);
  env.setAuto("undefined", undefined);
  env.setAuto("string", '"a"');
  env.setAuto("number", 1.5);
  env.setAuto("bool", false);
  env.setAuto("object", { a: [1] });
  env.setAuto("bigint", BigInt(HUGE));
  assertEquals([...env], [
    ["string", '"a"'],
    ["number", "1.5"],
    ["bool", "false"],
    ["object", '{"a":[1]}'],
    ["bigint", HUGE],
  ]);
});

Deno.test("Env.setAuto leaves a key that is set as it is where the value is null", () => {
  const env = envOf({ a: "1" });
  env.setAuto("a", null);
  assertEquals(env.toMultiMap(), new Map([["a", ["1"]]]));
});

Deno.test("Env.toObject gives the last value of each key", () => {
  const env = envOf({ b: "1", a: "2" });
  env.set("b", "3");
  assertEquals(Object.entries(env.toObject()), [["b", "3"], ["a", "2"]]);
});

Deno.test("Env.toMultiMap gives every value of each key, and is a copy", () => {
  const env = envOf({ b: "1", a: "2" });
  env.set("b", "3");
  const map = env.toMultiMap();
  assertEquals([...map], [["b", ["1", "3"]], ["a", ["2"]]]);
  map.get("b")!.push("4");
  map.delete("a");
  assertEquals([...env], [["b", "3"], ["a", "2"]]);
});

Deno.test("Env takes __proto__ as a key like any other", () => {
  const env = Env.decode('{"__proto__":{"__proto__":"a"},"b":1}');
  assertEquals([...env], [["__proto__", '{"__proto__":"a"}'], ["b", "1"]]);
  assertEquals(env.encode(), '{"__proto__":{"__proto__":"a"},"b":1}');
  assertEquals(env.getSubEnv("__proto__")?.get("__proto__"), "a");
  const object = env.toObject();
  assertEquals(Object.keys(object), ["__proto__", "b"]);
  assertStrictEquals(Object.getPrototypeOf(object), Object.prototype);
  assertStrictEquals(Object.getPrototypeOf(env.getJson("__proto__")), Object.prototype);
});

Deno.test("Env.encode writes values that are JSON as JSON, and the others as strings", () => {
  const env = envOf({
    s: "text",
    n: "1.50",
    t: "true",
    o: '{ "a": [1, 2] }',
    q: '"q"',
    e: "",
    l: "[",
  });
  env.set("n\n", "null");
  assertEquals(
    env.encode(),
    '{"s":"text","n":1.50,"t":true,"o":{"a":[1,2]},"q":"q","e":"","l":"[","n\\n":null}',
  );
  assertEquals(new Env().encode(), "{}");
});

Deno.test("Env.encode writes one line and leaves strings within JSON alone", () => {
  const env = envOf({ a: '{\n\t"b c" : "d  \\" e" ,\r\n"\\\\" : [ " " ] }' });
  assertEquals(env.encode(), '{"a":{"b c":"d  \\" e","\\\\":[" "]}}');
});

Deno.test("Env.encode and Env.decode take strings of megabytes", () => {
  const text = '{"a":["' + "x\\n".repeat(5_000_000) + '"]}';
  assert(Env.decode(text).encode() === text);
});

Deno.test("Env.decode sets the members of an object as setAuto does", () => {
  const env = Env.decode(
    ' {"s":"a","n":1,"f":false,"o":{"a":null},"l":[1, "b"],"gone":null,"e":""} ',
  );
  assertEquals([...env], [
    ["s", "a"],
    ["n", "1"],
    ["f", "false"],
    ["o", '{"a":null}'],
    ["l", '[1,"b"]'],
    ["e", ""],
  ]);
});

Deno.test("Env.decode throws a SyntaxError on anything but a JSON object", () => {
  for (
    const text of ["", "{", "null", "[]", '["a"]', '"a"', "1", "1.0", HUGE, "true", "{}{}", "a"]
  ) {
    assertThrows(() => Env.decode(text), SyntaxError, "expected a JSON object", text);
  }
});

Deno.test("Env.decode and Env.encode keep numbers digit for digit, nested too", () => {
  const text =
    `{"a":${HUGE},"b":-${HUGE},"c":[${HUGE},{"d":${HUGE}}],"e":9007199254740993,"f":1.0}`;
  const env = Env.decode(text);
  assertEquals(env.get("a"), HUGE);
  assertEquals(env.get("c"), `[${HUGE},{"d":${HUGE}}]`);
  assertEquals(env.encode(), text);
  assertEquals(Env.decode(env.encode()).encode(), text);
  assertThrows(() => env.getInt("a"), TypedError, "out of range");
});
