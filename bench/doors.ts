/**
 * What a way in costs: the same daemon on plain tcp, on a socket that systemd has opened, with TLS,
 * and with client certificates, asked by the same client in turn.
 *
 * @module
 */

import { Authority } from "../tests/support/certificates.ts";
import { Daemon, freePort, run as runQuietly } from "../tests/support/daemon.ts";
import { buildGo, run } from "./contenders.ts";
import { median } from "./report.ts";

const ROUNDS = 5;

await using authority = await Authority.make();
const client = await buildGo("tls");
const server = await authority.server();
const { cert, key } = await authority.client();
const tls = ["--tlscert", server.cert, "--tlskey", server.key];
const here = ["-H", "tcp://127.0.0.1:0"];
await using plain = Daemon.start(here);
await using secret = Daemon.start([...here, "--tls", ...tls]);
await using verified = Daemon.start([
  ...[...here, "--tlsverify", "--tlscacert", authority.ca, ...tls],
]);
const port = freePort();
await using inherited = Daemon.start(["-H", "fd://"], {
  through: ["systemd-socket-activate", "-l", `127.0.0.1:${port}`],
});
await inherited.says(/Listening on/);
// It starts at the first connection.
await runQuietly("curl", ["-sS", `http://127.0.0.1:${port}/_ping`]);

const asked = ["-ca", authority.ca];
const doors: [name: string, args: string[]][] = [
  ["tcp", [`http://127.0.0.1:${await plain.port()}/_ping`]],
  ["fd://", [`http://127.0.0.1:${port}/_ping`]],
  ["--tls", [...asked, `https://127.0.0.1:${await secret.port()}/_ping`]],
  ["--tlsverify", [
    ...[...asked, "-cert", cert, "-key", key],
    `https://127.0.0.1:${await verified.port()}/_ping`,
  ]],
];
for (const daemon of [plain, secret, verified]) await daemon.open();

console.log(`/_ping, 32 connections, HTTP/1.1, median of ${ROUNDS} rounds\n`);
console.log("| door | kept, requests a second | of tcp | fresh | of tcp |");
console.log("| --- | ---: | ---: | ---: | ---: |");
const rates = doors.map(() => ({ kept: [] as number[], fresh: [] as number[] }));
for (let round = 0; round < ROUNDS; round++) {
  for (const kind of ["kept", "fresh"] as const) {
    for (const [i, [, args]] of doors.entries()) {
      const flags = kind === "fresh" ? ["-fresh"] : [];
      rates[i]![kind].push(Number(await run(client, [...flags, ...args])));
    }
  }
}
for (const [i, [name]] of doors.entries()) {
  const of = (kind: "kept" | "fresh") =>
    median(rates[i]![kind].map((rate, round) => rate / rates[0]![kind][round]!)).toFixed(2);
  const { kept, fresh } = rates[i]!;
  console.log(
    `| ${name} | ${median(kept)} | ${of("kept")} | ${median(fresh)} | ${of("fresh")} |`,
  );
}
