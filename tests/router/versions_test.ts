import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { assertJsonError, assertTextError, make } from "../support/router.ts";

Deno.test("Router refuses a version that is too new", async () => {
  const { router } = make();
  for (const version of ["1.48", "1.100", "2.0", "9999.9999"]) {
    await assertJsonError(
      await router.request(`/v${version}/_ping`),
      400,
      `client version ${version} is too new. Maximum supported API version is 1.47`,
    );
  }
  for (const version of ["1.12", "1.23", "1.24", "1.47"]) {
    assertEquals([version, (await router.request(`/v${version}/_ping`)).status], [version, 200]);
  }
});

Deno.test("Router refuses a version that is older than the oldest it announces", async () => {
  const { router } = make();
  const { MinAPIVersion } = await (await router.request("/version")).json();
  for (const version of ["0.0", "1.0", "1.9", "1.11"]) {
    for (const path of ["/_ping", "/version", "/nope"]) {
      await assertTextError(
        await router.request(`/v${version}${path}`),
        400,
        `client version ${version} is too old. Minimum supported API version is ${MinAPIVersion}`,
      );
    }
  }
});

Deno.test("Router takes what may be a version for a path, where a route has it", async () => {
  const { router } = make();
  router.get("/v1/users", (c) => c.text(`${c.env.path} ${c.env.version}`));
  router.get("/v2beta/:name", (c) => c.text(c.req.param("name")));
  assertEquals(await (await router.request("/v1/users")).text(), "/v1/users undefined");
  assertEquals(await (await router.request("/v1.24/v1/users")).text(), "/v1/users 1.24");
  assertEquals(await (await router.request("/v2beta/x")).text(), "x");
  assertEquals((await router.request("/v1/users", { method: "POST" })).status, 405);
  assertEquals((await router.request("/v1/nope")).status, 400);
  for (const path of ["/v1.24/users", "/v1.24"]) {
    assertThrows(
      () => router.job({ method: "GET", path, job: "x" }),
      TypeError,
      `row GET ${path}: routes answer with and without a version`,
    );
  }
});

Deno.test("Router serves a version after two slashes, as old clients send it", async () => {
  const { router } = make();
  for (const path of ["//v1.47/_ping", "///v1.24/_ping"]) {
    assertEquals([path, (await router.request(path)).status], [path, 200]);
  }
  await assertJsonError(await router.request("//_ping"), 404, "page not found: //_ping");
});

Deno.test("Router refuses a version where middleware lets the request through, and not before", async () => {
  const { router } = make();
  router.use("*", async (c, next) => {
    if (c.req.header("authorization") !== "yes") return c.text("who?", 401);
    await next();
    c.header("X-Seen", "1");
  });
  router.get("/mine", (c) => c.text("mine"));
  for (const path of ["/v9.9/mine", "/v9.9/nope", "/v1.1/mine"]) {
    assertEquals((await router.request(path)).status, 401);
    const response = await router.request(path, { headers: { authorization: "yes" } });
    await response.body!.cancel();
    assertEquals([response.status, response.headers.get("x-seen")], [400, "1"]);
  }
});

Deno.test("Router refuses a malformed version for every method", async () => {
  const { router } = make();
  for (const version of ["1", "1.", "1.x", "1.2.3", "1.24x", "1.-2", "1.12345", "12345.1"]) {
    for (const [method, path] of [["GET", "/_ping"], ["POST", "/nope"], ["OPTIONS", ""]] as const) {
      const response = await router.request(`/v${version}${path}`, { method });
      assertEquals([version, response.status], [version, 400]);
      // As JSON or text: there is no telling which of the two such a client would read.
      assertStringIncludes(
        (await response.text()).replaceAll("\\", ""),
        `malformed version "v${version}", expected vMAJOR.MINOR such as v1.47`,
      );
    }
  }
});

Deno.test("Router takes no path that only begins with v for a version", async () => {
  const { router } = make();
  for (const path of ["/v", "/vx", "/vx.y/version", "/v.1/version", "/vol", "/V1.24/version"]) {
    await assertJsonError(await router.request(path), 404, `page not found: ${path}`);
  }
  const own = make().router;
  own.get("/volumes/:name", (c) => c.text(`${c.req.param("name")} ${c.env.version}`));
  assertEquals(await (await own.request("/volumes/v1")).text(), "v1 undefined");
  assertEquals(await (await own.request("/v1.24/volumes/v1")).text(), "v1 1.24");
});

Deno.test("Router takes one version off a path, and the rest is the path", async () => {
  const { router } = make();
  for (
    const [path, rest] of [
      ["/v1.24/v1.24/version", "/v1.24/version"],
      ["/v1.24", "/"],
      ["/v1.24/", "/"],
      ["/v1.30/nope?x=1", "/nope"],
    ] as const
  ) await assertJsonError(await router.request(path), 404, `page not found: ${rest}`);
});
