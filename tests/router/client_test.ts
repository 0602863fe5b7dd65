import { assertEquals, assertStringIncludes } from "@std/assert";
import openapiTS, { astToString } from "npm:openapi-typescript@7.13.0";
import * as z from "npm:zod@4.6.7";
import { run, TempFolder } from "../support/daemon.ts";
import { serve } from "../support/router.ts";

const FLAGS = ["--allow-net=127.0.0.1", "--no-lock", "--no-config"];

Deno.test("describe gives a generated client that compiles, works, and rejects wrong types", async () => {
  await using server = await serve(({ engine, router }) => {
    engine.register("order", async (job) => {
      await job.print(JSON.stringify({ id: 7, input: job.input }));
    });
    engine.register("containers", (job) => job.print("[]\n"));
    engine.register("rm", () => {});
    router.job({
      method: "POST",
      path: "/shops/:shop/orders",
      job: "order",
      query: { dry: "boolean", by: { type: "string", enum: ["name", "price"] } },
      body: z.object({ item: z.string(), count: z.number().optional() }),
      answers: { 201: { schema: z.object({ id: z.number() }) } },
      errors: [404],
    });
  });
  const url = `http://127.0.0.1:${server.port}`;
  await using folder = await TempFolder.make();
  const types = astToString(await openapiTS(new URL(`${url}/openapi.json`)));
  await Deno.writeTextFile(`${folder.path}/api.ts`, types);
  const client = `
import createClient from "npm:openapi-fetch@0.17.0";
import type { paths } from "./api.ts";

const client = createClient<paths>({ baseUrl: "${url}" });
const { data, error } = await client.POST("/shops/{shop}/orders", {
  params: { path: { shop: "north" }, query: { dry: true, by: "price" } },
  body: { item: "pear", count: 3 },
});
if (error) throw new Error(error.message);
const id: number = data.id;
const list = await client.GET("/containers/json", { params: { query: { all: true, limit: 3 } } });
const gone = await client.DELETE("/containers/{name}", { params: { path: { name: "web" } } });
const wrong = await client.GET("/containers/json", {
  params: { query: { filters: '{"colour":["red"]}' } },
});
console.log(JSON.stringify([
  id, (data as any).input, list.data, gone.response.status, wrong.error?.message,
]));
`;
  await Deno.writeTextFile(`${folder.path}/client.ts`, client);
  const good = await run(Deno.execPath(), ["run", "--check", ...FLAGS, "client.ts"], {
    cwd: folder.path,
    env: { NO_COLOR: "1" },
  });
  assertEquals([good.code, good.code === 0 ? "" : good.stderr], [0, ""]);
  const [id, input, list, status, message] = JSON.parse(good.stdout);
  assertEquals([id, list, status], [7, [], 204]);
  assertEquals(input, {
    params: { shop: "north" },
    query: { dry: true, by: "price" },
    headers: {},
    body: { item: "pear", count: 3 },
  });
  assertStringIncludes(message, 'query parameter filters has "colour"');

  const wrongs = [
    ['"price"', '"size"'],
    ['item: "pear"', "item: 5"],
    ["3 }", '"3" }'],
  ] as const;
  const names = await Promise.all(wrongs.map(async ([right, wrong], i) => {
    await Deno.writeTextFile(`${folder.path}/wrong${i}.ts`, client.replace(right, wrong));
    return `wrong${i}.ts`;
  }));
  const { code, stderr } = await run(
    Deno.execPath(),
    ["check", "--no-lock", "--no-config", ...names],
    { cwd: folder.path, env: { NO_COLOR: "1" } },
  );
  assertEquals(code, 1);
  // Each has one error: the number of it, and below it the place.
  const errors = [...stderr.matchAll(/^TS(\d+) [^]*?\bat file:.*\/(wrong\d\.ts):/gm)];
  assertEquals(
    errors.map(([, number, name]) => [name, number]).sort(),
    names.map((name) => [name, "2322"]),
  );
});
