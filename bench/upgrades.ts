/**
 * What it costs to look for raw upgrades: the same daemon without a route that asks for it and with one,
 * asked by the same client in turn, on kept connections and with a connection a request.
 *
 * @module
 */

import { Daemon, installer } from "../tests/support/daemon.ts";
import { buildGo, run } from "./contenders.ts";
import { median } from "./report.ts";

const ROUNDS = Number(Deno.args[0] ?? 9);

/** What the client prints. */
interface Rate {
  rate: number;
  cpu: number;
}

const workshop = { path: await Deno.makeTempDir({ prefix: "floodgate-" }) };
try {
  const client = await buildGo(workshop, "load");
  const start = async (name: string, body: string) => {
    const path = `${workshop.path}/${name}`;
    const daemon = Daemon.start([
      ...["-H", "tcp://127.0.0.1:0", "-H", `unix://${path}`, "--install", installer(body)],
    ]);
    await daemon.open();
    return { daemon, tcp: `tcp:127.0.0.1:${await daemon.port()}`, unix: `unix:${path}` };
  };
  const daemons = [
    await start("without", ""),
    await start("with", `router.upgradable("/attach");`),
  ];
  try {
    const results: string[] = [];
    for (const door of ["tcp", "unix"] as const) {
      for (const mode of ["rate", "fresh"]) {
        const measured: Rate[][] = daemons.map(() => []);
        for (let round = -1; round < ROUNDS; round++) {
          // Who is first has the warmer machine, or the colder one.
          for (const i of round % 2 === 0 ? [0, 1] : [1, 0]) {
            const { daemon, [door]: to } = daemons[i]!;
            const printed = await run(client, [
              ...[mode, "-to", to, "-path", "/_ping", "-c", "32", "-for", "500ms"],
              ...["-pid", String(daemon.pid)],
            ]);
            if (round >= 0) measured[i]!.push(JSON.parse(printed));
          }
        }
        const ratio = (of: (rate: Rate) => number) =>
          median(measured[1]!.map((rate, round) => of(rate) / of(measured[0]![round]!))).toFixed(3);
        results.push(
          `| ${door} | ${mode === "rate" ? "kept" : "fresh"} | ${
            Math.round(median(measured[0]!.map(({ rate }) => rate)))
          } | ${ratio(({ rate }) => rate)} | ${ratio(({ cpu }) => cpu)} |`,
        );
      }
    }
    console.log("| door | connections | without, a second | with, of it | CPU a request, of it |");
    console.log("| --- | --- | ---: | ---: | ---: |");
    console.log(results.join("\n"));
  } finally {
    for (const { daemon } of daemons) await daemon[Symbol.asyncDispose]();
  }
} finally {
  await Deno.remove(workshop.path, { recursive: true });
}
