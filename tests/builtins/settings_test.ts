import { assertEquals, assertThrows } from "@std/assert";
import {
  ALL,
  checkedSettings,
  parseDuration,
  readVariables,
  serveSettings,
  SETTINGS,
} from "../../builtins/settings.ts";
import { TypedError } from "../../engine.ts";
import { Env } from "../../engine/env.ts";

/** What `serve` is told by variables of `serveapi`. */
function settingsOf(variables: Record<string, string>) {
  const env = new Env();
  for (const [key, value] of Object.entries(variables)) env.set(key, value);
  return serveSettings(readVariables(env), ({ variable }) => variable!);
}

Deno.test("SETTINGS has each flag, letter and variable once, and a parser that takes its default", () => {
  for (const key of ["flag", "letter", "variable"] as const) {
    const names = ALL.flatMap(([, setting]) => setting[key] ?? []);
    assertEquals(names.toSorted(), [...new Set(names)].toSorted());
  }
  for (const [name, { kind, default: value }] of ALL) {
    if (typeof value !== "number") continue;
    assertEquals([name, kind.parse(kind.format?.(value) ?? `${value}`)], [name, value]);
  }
});

Deno.test("a time is a number of seconds, or has units; 0 is no limit where it is a limit", () => {
  const times: [string, number | undefined][] = [
    ["10", 10_000],
    ["0.5", 500],
    ["500ms", 500],
    ["1.5s", 1_500],
    ["2m", 120_000],
    ["1h", 3_600_000],
    ["1m30s", 90_000],
    ["0", Infinity],
    ["0s", Infinity],
  ];
  for (const [text, ms] of times) {
    assertEquals([text, settingsOf({ IdleTimeout: text }).idleTimeout], [text, ms]);
  }
  assertEquals(SETTINGS.shutdownTimeout.kind.parse("0"), 0);
  for (const text of ["soon", "-1", "-1s", "1.5x", "1 s", "s", "1s1", "1e3s"]) {
    assertThrows(
      () => settingsOf({ IdleTimeout: text }),
      TypedError,
      `IdleTimeout=${text}: expected a number of seconds of at least 0, or a time with its unit`,
    );
  }
});

Deno.test("a size is a number of bytes, or has a unit, decimal or binary", () => {
  const sizes: [string, number][] = [
    ["0", 0],
    ["1000", 1_000],
    ["64kB", 64_000],
    ["64KB", 64_000],
    ["10MB", 10_000_000],
    ["1.5MB", 1_500_000],
    ["2GB", 2_000_000_000],
    ["64KiB", 65_536],
    ["16MiB", 16_777_216],
    ["16 mib", 16_777_216],
    ["1GiB", 1_073_741_824],
    ["5B", 5],
  ];
  for (const [text, bytes] of sizes) {
    assertEquals([text, settingsOf({ BodyLimit: text }).bodyLimit], [text, bytes]);
  }
  for (const text of ["big", "-1", "-1MB", "1.5", "1.5B", "10M", "MB", "1TB"]) {
    assertThrows(
      () => settingsOf({ BodyLimit: text }),
      TypedError,
      `BodyLimit=${text}: expected a number of bytes of at least 0, or a size with its unit`,
    );
  }
});

Deno.test("readVariables reads what each variable holds, and nothing where it is empty", () => {
  assertEquals(
    settingsOf({ IdleTimeout: "", Takeover: "", AllowedHosts: "", MaxConnections: "" }),
    {},
  );
  assertEquals(
    settingsOf({
      BufferRequests: "0",
      Hold: "3",
      SocketGroup: "docker",
      Takeover: "1",
      ReusePort: "no",
      Insecure: "true",
      AllowedHosts: '["API.example", "192.0.2.1"]',
      CorsHeaders: "https://pages.example",
      MaxConnections: "7",
      Version: "1.2.3",
      Logging: "1",
    }),
    {
      bufferRequests: false,
      hold: 3,
      group: "docker",
      takeover: true,
      reusePort: false,
      insecure: true,
      allowedHosts: ["api.example", "192.0.2.1"],
      cors: ["https://pages.example"],
      maxConnections: 7,
      serverVersion: "1.2.3",
      logging: true,
    },
  );
  assertEquals(settingsOf({ EnableCors: "1" }), { cors: "*" });
  const wrong = [["MaxConnections", "0"], ["Hold", "1.5"], ["Hold", "all"]] as const;
  for (const [variable, text] of wrong) {
    const problem = `${variable}=${text}: expected a whole number of at least`;
    assertThrows(() => settingsOf({ [variable]: text }), TypedError, problem);
  }
});

Deno.test("serveSettings collects the files of TLS, and names a missing or useless one", () => {
  const files = { TlsCert: "/c", TlsKey: "/k" };
  assertEquals(settingsOf({ Tls: "1", ...files }), { tls: { cert: "/c", key: "/k" } });
  assertEquals(
    settingsOf({ TlsVerify: "1", TlsCa: "/a", ...files }),
    { tls: { cert: "/c", key: "/k", ca: "/a" } },
  );
  const wrong: [Record<string, string>, string][] = [
    [{ Tls: "1", TlsKey: "/k" }, "Tls needs TlsCert and the path of a PEM file"],
    [{ TlsVerify: "1", TlsCert: "/c" }, "TlsVerify needs TlsKey and the path of a PEM file"],
    [{ TlsVerify: "1", ...files }, "TlsVerify needs TlsCa and the path of a PEM file"],
    [files, "TlsCert needs Tls or TlsVerify"],
    [{ Tls: "1", TlsCa: "/a", ...files }, "TlsCa needs TlsVerify"],
  ];
  for (const [variables, problem] of wrong) {
    assertThrows(() => settingsOf(variables), TypedError, problem);
  }
});

Deno.test("checkedSettings takes 0 for no limit, and refuses invalid values", () => {
  assertEquals(
    checkedSettings({ headerTimeout: 0, idleTimeout: 1_500, bodyLimit: 0, hold: 0 }),
    { headerTimeout: Infinity, idleTimeout: 1_500, bodyLimit: 0, hold: 0 },
  );
  const wrong: [Parameters<typeof checkedSettings>[0], string][] = [
    [{ headerTimeout: -1 }, "headerTimeout: -1, expected a number of milliseconds of at least 0"],
    [{ sendTimeout: NaN }, "sendTimeout: NaN, expected a number of milliseconds of at least 0"],
    [{ maxConnections: 0 }, "maxConnections: 0, expected a whole number of at least 1"],
    [{ maxConnections: 1.5 }, "maxConnections: 1.5, expected a whole number of at least 1"],
    [{ bodyLimit: "1MB" as never }, "bodyLimit: 1MB, expected a number of bytes of at least 0"],
    [{ cors: "pages.example" }, 'origin "pages.example": expected one as browsers write it'],
    [{ allowedHosts: ["b.example", "a/b"] }, 'host "a/b": expected a name or a number'],
  ];
  for (const [settings, problem] of wrong) {
    assertThrows(() => checkedSettings(settings), TypedError, problem);
  }
});

Deno.test("parseDuration takes units only, not plain numbers", () => {
  assertEquals(["10m", "1h1m", "10", "", "m"].map(parseDuration), [
    600_000,
    3_660_000,
    ...Array(3).fill(undefined),
  ]);
});
