import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { get } from "../support/client.ts";
import { Daemon, exchange, installer, TempFolder, until } from "../support/daemon.ts";
import { Receiver } from "../support/otlp.ts";

Deno.test("a job is a span with its name and status, the child of what runs it", async () => {
  await using folder = await TempFolder.make();
  await using otlp = new Receiver();
  const path = `${folder.path}/s`;
  await using daemon = Daemon.start(
    [
      "-H",
      `unix://${path}`,
      "--install",
      installer(`
      engine.register("outer", async (job) => {
        await new Promise((resolve) => setTimeout(resolve, 1));
        engine.log("warn", "said in the job", { answer: 42 });
        await engine.job("inner").run();
        // How these two end is in their spans.
        await engine.job("failing").run().catch(() => {});
        await engine.job("three").run().catch(() => {});
        await job.print("done");
      });
      engine.register("inner", () => {});
      engine.register("failing", () => { throw new Error("no luck"); });
      engine.register("three", async () => 3);
      router.job({ method: "GET", path: "/outer/:id", job: "outer", contentType: "text/plain" });
    `),
    ],
    { env: otlp.env },
  );
  await daemon.open();
  await exchange({ transport: "unix", path }, get("/v1.40/outer/7"));
  await until(() => otlp.spans.some(({ name }) => name.startsWith("GET")));
  await until(() => otlp.spans.some(({ name }) => name === "outer"));
  const outer = otlp.span("outer");
  assertEquals(outer.attributes, { "floodgate.job.name": "outer", "floodgate.job.status": "0" });
  assertEquals([outer.code, outer.message], [0, ""]);
  const children = ["inner", "failing", "three"].map((name) => otlp.span(name));
  assertEquals(
    children.map(({ traceId, parentSpanId }) => [traceId, parentSpanId]),
    children.map(() => [outer.traceId, outer.spanId]),
  );
  assertEquals(
    children.map(({ attributes }) => attributes["floodgate.job.status"]),
    ["0", "1", "3"],
  );
  assertEquals(children.map(({ code, message }) => [code, message]), [[0, ""], [2, "no luck"], [
    2,
    "",
  ]]);
  const request = otlp.span("GET /outer/:id");
  assertEquals([outer.traceId, outer.parentSpanId], [request.traceId, request.spanId]);
  assertEquals(request.attributes["http.route"], "/outer/:id");
  assertEquals(request.attributes["http.response.status_code"], "200");
  assertEquals(await daemon.end(), 0);
  // What is logged in a job has the trace of its request.
  const said = otlp.logs.filter(({ body }) => body.startsWith("said in the job"));
  assertEquals(
    said.map(({ severity, body, traceId, spanId }) => [severity, body, traceId, spanId]),
    [["WARN", "said in the job answer=42", outer.traceId, outer.spanId]],
  );
  assert(
    otlp.logs.some(({ severity, body }) =>
      severity === "INFO" && body === "+job acceptconnections()"
    ),
  );
  assertStringIncludes(daemon.stderr, "WARN  said in the job answer=42\n");
});
