import { judgePages } from "../../serve/browsers.ts";
import { admit } from "../../serve/requests.ts";
import { assertLinear } from "../support/engine.ts";
import { KIB, make } from "../support/router.ts";

/** What a client sends that would be the worst of its kind, of about so many bytes. */
const WORST: Record<string, (size: number) => string> = {
  "dashes": (size) => "a-".repeat(size / 2),
  "slashes": (size) => "/".repeat(size),
  "versions": (size) => "v1.".repeat(size / 3),
  "segments": (size) => "/a".repeat(size / 2),
  "dots": (size) => "../".repeat(size / 3),
  "percents": (size) => "%".repeat(size),
  "escapes": (size) => "%e4".repeat(size / 3),
  "digits": (size) => "1".repeat(size),
  "units": (size) => "1m".repeat(size / 2) + "x",
  "colons": (size) => "a:".repeat(size / 2),
  "brackets": (size) => "[".repeat(size),
  "quotes": (size) => '"'.repeat(size),
  "commas": (size) => "a,".repeat(size / 2),
  "equals": (size) => "=&".repeat(size / 2),
};

/** Where a client can send it. */
function places() {
  const { engine, router, logged } = make();
  engine.register("says", (job) => job.error(`no such thing: ${job.args[0] ?? ""}`));
  engine.register("throws", (job) => {
    throw new Error(`${job.args[0]}: /etc/${job.args[0]}`);
  });
  engine.register("env", (job) => job.print(String(job.getenvList("names").length)));
  router.job({ method: "GET", path: "/says/:it{.+}", job: "says" });
  router.job({ method: "GET", path: "/throws/:it{.+}", job: "throws" });
  router.job({ method: "GET", path: "/env", job: "env", query: ["names"] });
  router.job({ method: "POST", path: "/env", job: "env", body: "env", bodyLimit: Infinity });
  const get = (path: string, headers: Record<string, string> = {}) =>
    router.fetch(new Request(`http://localhost${path}`, { headers }));
  const judge = judgePages({ scheme: "http", hosts: ["127.0.0.1"] });
  const door = admit(() => new Response(), { scheme: "http", unix: true, problemOf: judge });
  const info = {
    remoteAddr: { transport: "unix", path: "/" } as const,
    signal: new AbortController().signal,
    completed: Promise.resolve(),
    left: false,
    cut() {},
    upgrade(): never {
      throw new Error("there is no connection");
    },
  };
  const enter = (headers: Record<string, string>) =>
    door(new Request("http://localhost/", { headers }), info);
  return {
    logged,
    of: {
      "a path": (text: string) => get(`/${text}`),
      "what a job says of it": (text: string) => get(`/says/${text}`),
      "what a job throws of it": (text: string) => get(`/throws/${text}`),
      "a query": (text: string) => get(`/env?${text}`),
      "values of a query": (text: string) => get(`/env?names=${text.replaceAll(",", "&names=")}`),
      "since": (text: string) => get(`/events?until=0s&since=${text}`),
      "filters": (text: string) =>
        get(`/events?filters=${encodeURIComponent(JSON.stringify({ label: [text] }))}&until=0s`),
      "X-Request-Id": (text: string) => get("/throws/x", { "X-Request-Id": text }),
      "Host": (text: string) => enter({ host: text }),
      "Origin": (text: string) => enter({ host: "localhost", origin: text }),
      "a body": (text: string) =>
        router.fetch(
          new Request("http://localhost/env", { method: "POST", body: `{"names":${text}` }),
        ),
    },
  };
}

for (const [what, make] of Object.entries(WORST)) {
  Deno.test(`Router takes time in proportion to what a client sends: ${what}`, async (t) => {
    const { of, logged } = places();
    for (const [where, send] of Object.entries(of)) {
      await t.step(where, () =>
        assertLinear(16 * KIB, (size) => {
          const text = make(size);
          return async () => {
            const response = await send(text);
            await response.body?.cancel();
            logged.length = 0;
          };
        }));
    }
  });
}
