import { assert, assertEquals, assertRejects } from "@std/assert";
import { buildGo, run } from "../../bench/contenders.ts";
import { missing, project, TempFolder } from "../support/daemon.ts";

const ignore = await missing("go", ["version"]);

/** A client of the bench that runs, and a server in a process of its own for it. */
class Bench implements AsyncDisposable {
  private constructor(
    readonly folder: TempFolder,
    readonly client: string,
    readonly server: Deno.ChildProcess,
    readonly port: string,
  ) {}
  static async open(): Promise<Bench> {
    const folder = await TempFolder.make();
    const program = `${folder.path}/server.ts`;
    await Deno.writeTextFile(
      program,
      `import process from "node:process";
       import { echo } from ${JSON.stringify(`file://${project("bench/contenders/app.js")}`)};
       const worked = () => { const { user, system } = process.cpuUsage(); return user + system; };
       const { addr } = Deno.serve({ port: 0, hostname: "127.0.0.1", onListen() {} }, async (request) => {
         const { pathname } = new URL(request.url);
         if (pathname === "/websocket") return echo(request);
         // By the processor's clock: a busy machine lets no time count that is not worked.
         if (pathname === "/work") for (const end = worked() + 4_000; worked() < end;);
         if (pathname === "/wait") await new Promise((resolve) => setTimeout(resolve, 10));
         if (pathname === "/upload") return new Response(String((await request.arrayBuffer()).byteLength));
         return new Response("hello", { status: pathname === "/none" ? 404 : 200 });
       });
       console.log(addr.port);`,
    );
    const server = new Deno.Command(Deno.execPath(), {
      args: ["run", "-A", program],
      stdin: "null",
      stdout: "piped",
    }).spawn();
    const { value } = await server.stdout.getReader().read();
    const port = new TextDecoder().decode(value).trim();
    return new Bench(folder, await buildGo("load", folder.path), server, port);
  }
  /** What the client finds of this server in some turns beside itself. */
  async turns(path: string, ...flags: string[]): Promise<Record<string, number[]>[]> {
    const target = `tcp:127.0.0.1:${this.port},${this.server.pid},${path}`;
    return JSON.parse(
      await run(this.client, ["turns", "-turns", "2", ...flags, target, target]),
    );
  }
  async [Symbol.asyncDispose](): Promise<void> {
    this.server.kill("SIGKILL");
    await this.server.status;
    await this.server.stdout.cancel().catch(() => {}); // A test may still be reading it.
    await this.folder[Symbol.asyncDispose]();
  }
}

Deno.test({
  name: "load turns counts a server's processor time and latencies, a number a turn",
  ignore,
  async fn() {
    await using bench = await Bench.open();
    for (const found of await bench.turns("/work", "-c", "2")) {
      assertEquals(Object.values(found).map(({ length }) => length), [2, 2, 2, 2]);
      // 4 ms of work, one request at a time: two clients wait for two of them.
      for (const us of found.cpu!) assert(us > 3_000, `${us}`);
      for (const us of found.p50!) assert(us > 3_000, `${us}`);
      for (const rate of found.rate!) assert(rate < 330, `${rate}`);
    }
    for (const { cpu, p50 } of await bench.turns("/wait", "-c", "4", "-slice", "100ms")) {
      for (const us of p50!) assert(us >= 9_000, `${us}`);
      for (const us of cpu!) assert(us < 9_000, `${us}`);
    }
  },
});

Deno.test({
  name: "load turns speaks HTTP on kept and on fresh connections, with a body, and WebSocket",
  ignore,
  async fn() {
    await using bench = await Bench.open();
    for (
      const [path, ...flags] of [
        ["/"],
        ["/", "-kind", "fresh", "-c", "3"],
        ["/upload", "-size", "100000", "-c", "2"],
        ["/websocket", "-kind", "websocket", "-size", "64", "-c", "2"],
        ["/websocket", "-kind", "websocket", "-size", "65536"],
      ]
    ) {
      for (const { rate } of await bench.turns(path!, ...flags)) {
        for (const found of rate!) assert(found > 0, `${path} ${flags}: ${found}`);
      }
    }
    await assertRejects(() => bench.turns("/none"), Error, "404 Not Found");
    await assertRejects(
      () => bench.turns("/", "-kind", "websocket", "-size", "4"),
      Error,
      "200 OK",
    );
  },
});
