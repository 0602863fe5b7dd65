import { assertEquals, assertStringIncludes } from "@std/assert";
import { assertJsonError, make } from "../support/router.ts";

Deno.test("Router refuses a version that is too new", async () => {
  const { router } = make();
  for (const version of ["1.48", "1.100", "2.0", "9999.9999"]) {
    await assertJsonError(
      await router.request(`/v${version}/_ping`),
      400,
      `client version ${version} is too new. Maximum supported API version is 1.47`,
    );
  }
  for (const version of ["0.0", "1.0", "1.9", "1.47"]) {
    assertEquals([version, (await router.request(`/v${version}/_ping`)).status], [version, 200]);
  }
});

Deno.test("Router refuses a malformed version for every method", async () => {
  const { router } = make();
  for (const version of ["1", "1.", "1.x", "1.2.3", "1.24x", "1.-2", "1.12345", "12345.1"]) {
    for (const [method, path] of [["GET", "/_ping"], ["POST", "/nope"], ["OPTIONS", ""]]) {
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
  for (const path of ["/v", "/vx", "/vx.y/version", "/v.1/version", "/volumes", "/V1.24/version"]) {
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
    ]
  ) await assertJsonError(await router.request(path), 404, `page not found: ${rest}`);
});
