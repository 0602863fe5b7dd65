import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { Engine, type Job } from "../../engine.ts";
import { API_VERSION } from "../../engine/version.ts";
import { createRouter } from "../../router.ts";
import { formsOf } from "../../router/answers.ts";
import { DOCKER_API, type DockerInput } from "../../router/dockerapi.ts";
import { streamType } from "../../router/frames.ts";
import type { Body, Fields, Parameter, Route } from "../../router/route.ts";
import { inFull } from "../../router/validation.ts";

const ROWS: readonly Route[] = Object.values(DOCKER_API).flat();

/** An accepted value of a parameter, as text and as the job's input. */
function right(parameter: Parameter): { text: string; value: unknown } {
  switch (parameter.type) {
    case "string":
      if (parameter.enum) return { text: parameter.enum[0]!, value: parameter.enum[0] };
      if (parameter.pattern) return { text: "1795799423.5", value: "1795799423.5" };
      return { text: "a/b:c", value: "a/b:c" };
    case "integer":
    case "number":
      return { text: "24", value: 24 };
    case "boolean":
      return { text: "1", value: true };
    case "json":
      return { text: '{"a":1}', value: { a: 1 } };
    case "list": {
      const item = parameter.enum?.[0] ?? "x";
      return { text: item, value: [item] };
    }
    case "filters": {
      const name = parameter.names?.[0] ?? "name";
      return { text: `{"${name}":{"x":true}}`, value: { [name]: ["x"] } };
    }
  }
}

/** Texts that a parameter refuses. Booleans accept any text, as in dockerd. */
function wrong(parameter: Parameter): string[] {
  switch (parameter.type) {
    case "string":
      return [
        ...parameter.enum ? ["nothing"] : [],
        ...parameter.pattern ? ["tomorrow"] : [],
        ...parameter.minLength ? [""] : [],
      ];
    case "integer":
      return ["x", "1.5", ...parameter.minimum !== undefined ? [`${parameter.minimum - 1}`] : []];
    case "number":
      return ["x"];
    case "boolean":
      return [];
    case "json":
      return ["{"];
    case "list":
      return parameter.enum ? ["nothing"] : [];
    case "filters":
      return ["x", "[]", '{"name":5}', ...parameter.names ? ['{"nothing":["x"]}'] : []];
  }
}

/** Values that members of a JSON body refuse. */
function wrongJson(parameter: Parameter): unknown[] {
  switch (parameter.type) {
    case "string":
      return [5, {}, ...parameter.minLength ? [""] : []];
    case "integer":
      return ["1", 1.5];
    case "boolean":
      return ["true", 1];
    case "list":
      return [5, [5], ...parameter.minItems ? [[]] : []];
    default:
      return [];
  }
}

interface Request {
  path: string;
  query: Record<string, string>;
  headers: Record<string, string>;
  body: string | undefined;
  version: string;
}

/** A request that matches a row, with its required parameters, or with all of them. */
function request(row: Route, all = false): Request {
  const wanted = (fields: Fields | undefined): [string, Parameter][] =>
    Object.entries(fields ?? {})
      .map(([name, field]): [string, Parameter] => [name, inFull(field)])
      .filter(([, { required, since, until }]) =>
        required || (all && since === undefined && until === undefined)
      );
  const texts = (fields: Fields | undefined) =>
    Object.fromEntries(wanted(fields).map(([name, field]) => [name, right(field).text]));
  const body = row.body as Body | undefined;
  return {
    path: row.path.replace(/:\w+(\{\.\+\})?/g, (_, any) => any ? "a/b:c" : "abc"),
    query: texts(row.query as Fields),
    headers: { ...texts(row.headers), ...body && { "Content-Type": "application/json" } },
    body: body?.type === "env"
      ? JSON.stringify(
        Object.fromEntries(wanted(body.fields).map(([name, field]) => [name, right(field).value])),
      )
      : body && "bytes",
    version: row.until ?? row.since ?? API_VERSION,
  };
}

async function send(
  router: ReturnType<typeof createRouter>,
  row: Route,
  { path, query, headers, body, version }: Request,
): Promise<Response> {
  return await router.request(`/v${version}${path}?${new URLSearchParams(query)}`, {
    method: row.method,
    headers,
    ...body !== undefined && { body },
  });
}

/** A router with one job, whose output is given. */
function daemon(
  name?: string,
  says = true,
): { router: ReturnType<typeof createRouter>; jobs: Job[] } {
  const engine = new Engine();
  const jobs: Job[] = [];
  if (name !== undefined) {
    engine.register(name, async (job) => {
      jobs.push(job);
      if (says) await job.print('{"done":true}\n');
    });
  }
  return { router: createRouter(engine), jobs };
}

async function message(response: Response): Promise<string> {
  if (response.headers.get("content-type") !== "application/json") return await response.text();
  const text = await response.text();
  return text === "" ? "" : JSON.parse(text).message;
}

const label = (row: Route) =>
  [row.method, row.path, row.since, row.until, row.when].filter(Boolean).join(" ");

Deno.test("DOCKER_API has all of what the original's router had", () => {
  const count = (method: string, until?: string) =>
    new Set(
      ROWS.filter((row) => row.method === method && (until === undefined || row.until === until))
        .map(({ path }) => path),
    ).size;
  assert(count("GET") >= 18 && count("POST") >= 21 && count("DELETE") >= 2);
  const paths = new Set(ROWS.map(({ method, path }) => `${method} ${path.replace("{.+}", "")}`));
  for (
    const [method, list] of Object.entries({
      GET: "/events /info /version /images/json /images/viz /images/search /images/get " +
        "/images/:name/get /images/:name/history /images/:name/json /containers/ps " +
        "/containers/json /containers/:name/export /containers/:name/changes " +
        "/containers/:name/json /containers/:name/top /containers/:name/logs " +
        "/containers/:name/attach/ws",
      POST: "/auth /commit /build /images/create /images/load /images/:name/push " +
        "/images/:name/tag /containers/create /containers/:name/kill /containers/:name/pause " +
        "/containers/:name/unpause /containers/:name/restart /containers/:name/start " +
        "/containers/:name/stop /containers/:name/wait /containers/:name/resize " +
        "/containers/:name/attach /containers/:name/copy /containers/:name/exec " +
        "/exec/:name/start /exec/:name/resize",
      DELETE: "/containers/:name /images/:name",
    })
  ) {
    for (const path of list.split(" ")) assert(paths.has(`${method} ${path}`), `${method} ${path}`);
  }
});

Deno.test("DOCKER_API has no row twice, and each says what it does", () => {
  assertEquals(new Set(ROWS.map(label)).size, ROWS.length);
  for (const row of ROWS) assertMatch(row.summary ?? "", /^[A-Z].{5,}[^.]$/, label(row));
});

Deno.test("DOCKER_API's rows are 501 without their job, which they name; swarm's are 503", async () => {
  const { router } = daemon();
  for (const row of ROWS) {
    const response = await send(router, row, request(row));
    const text = await message(response);
    assertEquals([label(row), response.status], [label(row), row.unavailable ? 503 : 501]);
    if (row.method === "HEAD") assertEquals(text, "");
    else assertStringIncludes(text, row.unavailable ? "not a swarm manager" : row.job);
  }
});

Deno.test("DOCKER_API's rows run their job with what the client has sent, and answer so", async () => {
  for (const row of ROWS) {
    const [{ status, type, contentType }] = formsOf(row);
    const { router, jobs } = daemon(row.job, type !== "none");
    for (const all of [false, true]) {
      const asked = request(row, all);
      const response = await send(router, row, asked);
      const text = await response.text();
      if (row.upgrade === "websocket") {
        // Its clients speak another protocol from there on: tests/router/upgrade_test.ts.
        assertEquals([label(row), response.status], [label(row), 426]);
        continue;
      }
      assertEquals([label(row), text, response.status], [label(row), text, status]);
      if (type !== "none") {
        const tty = asked.body?.includes('"Tty":true') ?? false;
        const expected = type === "frames" ? streamType(asked.version, tty) : contentType;
        assertEquals(response.headers.get("content-type"), expected);
        assertStringIncludes(text, '{"done":true}\n');
      }
      const job = jobs.pop()!;
      const input = job.input as Record<"query" | "body", Record<string, unknown>>;
      const inPath = [...asked.path.matchAll(/abc|a\/b:c/g)].map(([value]) => value);
      for (const value of inPath) assert(job.args.includes(value), `${label(row)}: ${job}`);
      for (const [name, text] of Object.entries(asked.query)) {
        const field = inFull((row.query as Fields)[name]!);
        assertEquals(input.query[name], right(field).value);
        const variable = field.type === "list" ? JSON.stringify([text]) : text;
        assertEquals(job.getenv(field.env ?? name), variable);
      }
      for (const [at, name] of row.args?.entries() ?? []) {
        if (row.path.includes(`:${name}`)) assertEquals(job.args[at], inPath[0]);
        else if (name in asked.query) assertEquals(job.args[at], asked.query[name]);
      }
      if ((row.body as Body | undefined)?.type !== "env") continue;
      const members = JSON.parse(asked.body!);
      for (const [name, value] of Object.entries(members)) {
        assertEquals([label(row), input.body[name]], [label(row), value]);
        assert(job.env.has(name), name);
      }
    }
  }
});

Deno.test("DOCKER_API's rows refuse a wrong query", async () => {
  for (const row of ROWS) {
    const { router, jobs } = daemon(row.job);
    const fields = row.query as Fields | undefined;
    for (const [name, field] of Object.entries(fields ?? {})) {
      const parameter = inFull(field);
      const texts: (string | undefined)[] = wrong(parameter);
      if (parameter.required && name !== row.when) texts.push(undefined);
      for (const text of texts) {
        const asked = request(row);
        asked.version = parameter.until ?? parameter.since ?? asked.version;
        if (text === undefined) delete asked.query[name];
        else asked.query[name] = text;
        const response = await send(router, row, asked);
        assertEquals([label(row), name, text, response.status], [label(row), name, text, 400]);
        if (row.method === "HEAD") continue;
        const said = await message(response);
        assertStringIncludes(said, `query parameter ${name} `);
        assertStringIncludes(said, "expected ");
      }
    }
    assertEquals(jobs, []);
  }
});

Deno.test("DOCKER_API's rows refuse a wrong body", async () => {
  for (const row of ROWS) {
    const body = row.body as Body | undefined;
    if (body?.type !== "env") continue;
    const { router, jobs } = daemon(row.job);
    const refused = async (change: Partial<Request>, part: string) => {
      const response = await send(router, row, { ...request(row), ...change });
      const said = await message(response);
      assertEquals([label(row), said, response.status], [label(row), said, 400]);
      assertStringIncludes(said, part);
      assertStringIncludes(said, "expected ");
    };
    await refused({ body: "{" }, "request body: ");
    await refused({ body: "[]" }, "request body: ");
    const headers = { "Content-Type": "text/plain" };
    await refused({ body: "{}", headers }, 'Content-Type is "text/plain"');
    if (body.required) await refused({ body: "" }, "the request body is missing");
    const good = JSON.parse(request(row).body!);
    for (const [name, field] of Object.entries(body.fields ?? {})) {
      const parameter = inFull(field);
      for (const value of wrongJson(parameter)) {
        await refused({ body: JSON.stringify({ ...good, [name]: value }) }, `body field ${name} `);
      }
      if (!parameter.required) continue;
      const { [name]: _, ...rest } = good;
      await refused({ body: JSON.stringify(rest) }, `body field ${name} is missing`);
    }
    assertEquals(jobs, []);
  }
});

Deno.test("DOCKER_API gives old versions their forms, and new ones and those without theirs", async () => {
  const waits = daemon("wait");
  const wait = async (prefix: string) => {
    const path = `${prefix}/containers/x/wait?condition=removed`;
    const response = await waits.router.request(path, { method: "POST" });
    assertEquals(response.status, 200);
    await response.text();
    return waits.jobs.pop()!.getenv("condition");
  };
  assertEquals(
    [await wait("/v1.29"), await wait("/v1.30"), await wait("")],
    ["", "removed", "removed"],
  );
  const prune = (prefix: string) =>
    daemon("containers_prune").router.request(`${prefix}/containers/prune`, { method: "POST" });
  const old = await prune("/v1.24");
  assertEquals([old.status, await message(old)], [
    400,
    "POST /containers/prune requires API version 1.25 or newer",
  ]);
  assertEquals([(await prune("/v1.25")).status, (await prune("")).status], [200, 200]);
});

Deno.test("DOCKER_API takes create for a pull or an import", async () => {
  const engine = new Engine();
  for (const name of ["pull", "import"]) {
    engine.register(name, async (job) => job.print(`${job} ${await job.stdin.text()}`));
  }
  const router = createRouter(engine);
  const create = async (query: string, body = "") => {
    const response = await router.request(`/images/create?${query}`, { method: "POST", body });
    return await response.text();
  };
  assertEquals(
    await create("fromImage=docker.io/library/alpine&tag=3.20"),
    "pull(docker.io/library/" +
      "alpine, 3.20) ",
  );
  assertEquals(await create("fromSrc=-&repo=imp:1", "tar"), "import(-, imp:1) tar");
  assertStringIncludes(await create("tag=1"), "query parameter fromSrc is missing");
});

Deno.test("DOCKER_API ignores the further parameters that dockerode sends", async () => {
  const { router, jobs } = daemon("create");
  const body = { Image: "busybox", Cmd: ["true"], name: "web", HostConfig: { AutoRemove: true } };
  const query = new URLSearchParams(
    Object.entries(body).map(([name, value]) => [name, JSON.stringify(value)]),
  );
  query.set("name", "web");
  const response = await router.request(`/containers/create?${query}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  assertEquals(response.status, 201);
  const { body: got, query: named } = jobs[0]!.input as DockerInput<"create">;
  assertEquals([got.Image, got.Cmd, named.name], ["busybox", ["true"], "web"]);
  assertEquals(jobs[0]!.getenvList("Cmd"), ["true"]);
});

Deno.test("DOCKER_API takes names with slashes, tags and digests", async () => {
  const { router, jobs } = daemon("image_inspect");
  for (
    const [path, name] of [
      ["/images/busybox/json", "busybox"],
      ["/images/a/b:c/json", "a/b:c"],
      ["/images/host:5000/a/b@sha256:01/json", "host:5000/a/b@sha256:01"],
      ["/images/a%2Fb:c/json", "a/b:c"],
      ["/images/json/json", "json"],
      ["/v1.24/images/a/json/json", "a/json"],
    ] as const
  ) {
    assertEquals([path, (await router.request(path)).status], [path, 200]);
    assertEquals(jobs.pop()!.args, [name]);
  }
});

Deno.test("DOCKER_API's paths answer 405 to another method", async () => {
  const { router } = daemon();
  for (
    const [method, path, allow] of [
      ["POST", "/_ping", "GET"],
      ["DELETE", "/_ping", "GET"],
      ["GET", "/containers/create", "POST"],
      ["PUT", "/images/a/b:c/json", "GET"],
      ["DELETE", "/containers/x/archive", "GET, HEAD, PUT"],
    ] as const
  ) {
    const response = await router.request(path, { method });
    assertEquals([method, path, response.status], [method, path, 405]);
    assertStringIncludes(response.headers.get("allow") ?? "", allow);
  }
});

Deno.test("docs/dockerd.md lists DOCKER_API, row by row", async () => {
  const lines = Object.entries(DOCKER_API).flatMap(([noun, rows]) =>
    rows.map((row: Route) => {
      const names = [...row.path.matchAll(/:(\w+)/g)].map(([, name]) => name!);
      const args = (row.args ?? names).map((name) => name.toUpperCase());
      const conditions = [
        row.since && `from ${row.since}`,
        row.until && `up to ${row.until}`,
        row.when && `with \`${row.when}\``,
        row.upgrade && `upgrade to ${row.upgrade === "tcp" ? "raw" : "WebSocket"}`,
      ].filter(Boolean).join(", ");
      const path = row.path.replace(/:(\w+)(\{\.\+\})?/g, "{$1}");
      return [noun, `\`${row.method} ${path}\``, `\`${[row.job, ...args].join(" ")}\``, conditions];
    })
  );
  const table = [["", "route", "job", ""], ["-", "-", "-", "-"], ...lines]
    .map((cells) => `|${cells.join("|")}|`).join("\n");
  const document = await Deno.readTextFile(new URL("../../docs/dockerd.md", import.meta.url));
  const bare = (text: string) => text.replace(/ *\| */g, "|").replace(/-+/g, "-");
  // If this fails, the document has to be this, up to spaces (deno fmt).
  assertStringIncludes(bare(document), bare(table));
});
