import { assert, assertEquals, assertMatch } from "@std/assert";
import { Authority } from "../support/certificates.ts";
import { freePort, missing, project, run, TempFolder, until } from "../support/daemon.ts";
import { Served } from "../support/served.ts";

/** The blocks of docs/proxies.md that a configuration file has, by how they begin. */
async function blocks(): Promise<string[]> {
  const text = await Deno.readTextFile(project("docs/proxies.md"));
  return [...text.matchAll(/^```text\n([^]*?)^```$/gm)].map(([, block]) => block!);
}

interface Proxy {
  name: string;
  version: string[];
  /** The files of a proxy, and its arguments. */
  command(setup: Setup): { config: string; args: (path: string) => string[] };
}
interface Setup {
  folder: string;
  port: number;
  /** The daemon's address: the path of its socket, or its port. */
  daemon: string | number;
  cert: string;
  key: string;
  blocks: string[];
}

const PROXIES: Proxy[] = [
  {
    name: "nginx",
    version: ["-v"],
    command: ({ folder, port, daemon, cert, key, blocks }) => {
      const [whole, upstream] = blocks.filter((block) => block.startsWith("upstream "));
      const site = typeof daemon === "string"
        ? whole!.replace("/run/floodgate.sock", daemon)
        : whole!.replace(/^upstream [^]*?^\}\n/m, upstream!).replace("2375", `${daemon}`);
      const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map((name) => `${name}_temp_path ${folder}/${name};`).join(" ");
      const config = `daemon off; user root; pid ${folder}/nginx.pid; error_log stderr;
        events {} http { access_log off; ${temporary} ${
        site.replace("443", `127.0.0.1:${port}`).replace("/etc/ssl/api.pem", cert)
          .replace("/etc/ssl/api.key", key)
      } }`;
      return { config, args: (path) => ["-p", folder, "-c", path] };
    },
  },
  {
    name: "caddy",
    version: ["version"],
    command: ({ port, daemon, cert, key, blocks }) => {
      const [unix, tcp] = blocks.filter((block) => block.startsWith("api.example "));
      const site = typeof daemon === "string"
        ? unix!.replace("/run/floodgate.sock", daemon)
        : tcp!.replace("2375", `${daemon}`);
      const config = `{\n admin off\n auto_https off\n}\n${
        site.replace("api.example {", `https://api.example:${port} {\n tls ${cert} ${key}`)
      }`;
      return { config, args: (path) => ["run", "--adapter", "caddyfile", "--config", path] };
    },
  },
];

for (const { name, version, command } of PROXIES) {
  const ignore = await missing(name, version);
  if (ignore) console.log(`Skipped: no ${name} here`);
  for (const way of ["unix", "tcp"]) {
    Deno.test({
      name: `${name} in front of a daemon on ${way}, as docs/proxies.md has it`,
      ignore,
      fn: async () => {
        await using folder = await TempFolder.make();
        await using authority = await Authority.make();
        const { cert, key } = await authority.signed(
          "proxy",
          "/CN=api.example",
          "subjectAltName=DNS:api.example",
        );
        const socket = `${folder.path}/floodgate.sock`;
        await using served = way === "unix"
          ? await Served.bind({}, [`unix://${socket}`])
          : await Served.bind({ AllowedHosts: "api.example" });
        const { engine, router } = served;
        const go = Promise.withResolvers<void>();
        engine.register("stream", async (job) => {
          await job.print("first\n");
          await go.promise;
          await job.print("second\n");
        });
        engine.register("size", async (job) => {
          let size = 0;
          for await (const chunk of job.stdin.readable) size += chunk.length;
          await job.print(`${size}`);
        });
        engine.register("fails", () => {
          throw new Error("boom");
        });
        router.job({ method: "GET", path: "/stream", job: "stream", stream: true });
        router.job({
          method: "PUT",
          path: "/size",
          job: "size",
          body: "stdin",
          bodyLimit: Infinity,
        });
        router.job({ method: "GET", path: "/fails", job: "fails" });
        router.get("/url", (c) => c.text(c.req.url));
        router.post("/change", (c) => c.text("changed"));
        await served.accept();

        const port = freePort();
        const daemon = way === "unix" ? socket : (served.target as Deno.ConnectOptions).port;
        const setup = { folder: folder.path, port, daemon, cert, key, blocks: await blocks() };
        const { config, args } = command(setup);
        const path = `${folder.path}/config`;
        await Deno.writeTextFile(path, config);
        const process = new Deno.Command(name, {
          args: args(path),
          env: { HOME: folder.path, XDG_DATA_HOME: folder.path, XDG_CONFIG_HOME: folder.path },
          stdout: "null",
          stderr: "piped",
        }).spawn();
        const stderr = new Response(process.stderr).text();
        // deno-fmt-ignore
        const curl = (path: string, ...more: string[]) => run("curl", ["-sS", "-m", "20", "--cacert", authority.ca,
          "--resolve", `api.example:${port}:127.0.0.1`, ...more, `https://api.example:${port}${path}`]);
        try {
          await until(async () => {
            const { stdout } = await curl("/_ping");
            return stdout === "OK";
          });
          assertMatch((await curl("/url?a=b")).stdout, /^http:\/\/api\.example(:\d+)?\/url\?a=b$/);
          assertMatch((await curl("/v1.24/version")).stdout, /"ApiVersion":"1\.47"/);

          // A stream arrives while it is written.
          const streamed = new Deno.Command("curl", {
            // deno-fmt-ignore
            args: ["-sSN", "-m", "20", "--cacert", authority.ca, "--resolve", `api.example:${port}:127.0.0.1`,
              `https://api.example:${port}/stream`],
            stdout: "piped",
          }).spawn();
          const reader = streamed.stdout.pipeThrough(new TextDecoderStream()).getReader();
          assertEquals((await reader.read()).value, "first\n");
          go.resolve();
          assertEquals((await reader.read()).value, "second\n");
          await reader.cancel();
          await streamed.status;

          // An upload beyond the default limit of proxies.
          const big = `${folder.path}/big`;
          await Deno.writeFile(big, new Uint8Array(20_000_000));
          assertEquals((await curl("/size", "-T", big)).stdout, "20000000");

          // One id for both logs.
          const failed = await curl("/fails", "-D", "-");
          const id = /^x-request-id: ([\w-]{32,36})\r$/im.exec(failed.stdout)?.[1];
          assert(id !== undefined, failed.stdout);
          // The lines of the request's job have it, too.
          const told = served.fields.filter(({ request }) => request === id);
          assertEquals(told.flatMap(({ method }) => method ?? []), ["GET"]);

          // Pages of its own origin may use it, others may not.
          const from = async (origin: string, site: string) =>
            // deno-fmt-ignore
            (await curl("/change", "-X", "POST", "-H", `Origin: ${origin}`, "-H", `Sec-Fetch-Site: ${site}`,
              "-o", "/dev/null", "-w", "%{http_code}")).stdout;
          const own = `https://api.example:${port}`;
          assertEquals(await from(own, "same-origin"), "200");
          if (way === "tcp") {
            assertEquals(await from("https://evil.example", "cross-site"), "403");
            assertEquals(await from(own, "cross-site"), "403");
          }
          // A path that the daemon would read differently is unchanged by the proxy, or refused.
          for (const host of ["x/version?", "localhost/containers"]) {
            const { stdout } = await curl("/_ping", "-H", `Host: ${host}`, "-w", "%{http_code}");
            assertEquals(/ApiVersion/.test(stdout), false);
          }
        } finally {
          process.kill("SIGTERM");
          await process.status;
          await stderr;
        }
      },
    });
  }
}
