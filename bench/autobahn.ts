/**
 * Runs the cases of the Autobahn test suite against `Deno.serve` and against Floodgate, with one
 * handler, and compares the verdicts case by case. It needs `wstest` of that suite (Python 2.7), on
 * the PATH or named by `$WSTEST`.
 *
 *     deno run -A bench/autobahn.ts [CASES ...]     such as '6.*', default '*'; some ten minutes
 *
 * @module
 */

import { Served } from "../tests/support/served.ts";
import { TempFolder } from "../tests/support/daemon.ts";

/** What the suite says of a case. */
interface Verdict {
  readonly behavior: string;
  readonly behaviorClose: string;
  readonly remoteCloseCode: number | null;
}
type Verdicts = Readonly<Record<string, Verdict>>;

const CHAPTERS: Readonly<Record<string, string>> = {
  "1": "framing",
  "2": "pings and pongs",
  "3": "reserved bits",
  "4": "opcodes",
  "5": "fragmentation",
  "6": "UTF-8",
  "7": "close handling",
  "9": "limits, big messages",
  "10": "auto-fragmentation",
  "12": "permessage-deflate, by sizes",
  "13": "permessage-deflate, by parameters",
};
const THEIRS = "Deno.serve";
const OURS = "Floodgate";

function echo(request: Request): Response {
  const { response, socket } = Deno.upgradeWebSocket(request, { idleTimeout: 0 });
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => socket.send(data);
  return response;
}

/** Runs the suite, and gives what it says of each server. */
async function run(wstest: string, cases: string[]): Promise<Record<string, Verdicts>> {
  await using folder = await TempFolder.make();
  await using server = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, echo);
  await using served = await Served.open();
  served.router.get("/", (c) => echo(c.req.raw));
  const { port } = served.target as Deno.ConnectOptions;
  const spec = `${folder.path}/spec.json`;
  await Deno.writeTextFile(
    spec,
    JSON.stringify({
      outdir: folder.path,
      servers: [
        { agent: THEIRS, url: `ws://127.0.0.1:${server.addr.port}/` },
        { agent: OURS, url: `ws://127.0.0.1:${port}/` },
      ],
      cases,
    }),
  );
  const { success } = await new Deno.Command(wstest, {
    args: ["-m", "fuzzingclient", "-s", spec],
    stdin: "null",
    stdout: "null",
  }).output();
  if (!success) throw new Error(`${wstest} failed`);
  return JSON.parse(await Deno.readTextFile(`${folder.path}/index.json`));
}

/** `OK 10, NON-STRICT 1` */
function counted(verdicts: Verdict[]): string {
  const counts = Object.groupBy(verdicts, ({ behavior }) => behavior);
  return Object.entries(counts).map(([behavior, all]) => `${behavior} ${all!.length}`).join(", ");
}

function isSame(a: Verdict | undefined, b: Verdict | undefined): boolean {
  return a?.behavior === b?.behavior && a?.behaviorClose === b?.behaviorClose &&
    a?.remoteCloseCode === b?.remoteCloseCode;
}

const wstest = Deno.env.get("WSTEST") ?? "wstest";
const found = await new Deno.Command(wstest, { args: ["--help"], stdout: "null", stderr: "null" })
  .output().catch(() => undefined);
if (!found?.success) {
  console.error(
    `${wstest} cannot be run, expected the Autobahn test suite's on the PATH or in $WSTEST`,
  );
  Deno.exit(2);
}
const cases = Deno.args.length > 0 ? Deno.args : ["*"];
const { [THEIRS]: theirs = {}, [OURS]: ours = {} } = await run(wstest, cases);
const ids = [...new Set([...Object.keys(theirs), ...Object.keys(ours)])];
const chapters = Object.groupBy(ids, (id) => id.split(".")[0]!);
console.log(`| chapter | cases | ${THEIRS} | ${OURS} | different |`);
console.log("| --- | ---: | --- | --- | ---: |");
const different: string[] = [];
for (const [chapter, ids = []] of Object.entries(chapters)) {
  const differing = ids.filter((id) => !isSame(theirs[id], ours[id]));
  different.push(...differing);
  const said = [theirs, ours].map((all) => counted(ids.flatMap((id) => all[id] ?? [])));
  const title = `${chapter} ${CHAPTERS[chapter] ?? ""}`;
  console.log(`| ${title} | ${ids.length} | ${said.join(" | ")} | ${differing.length} |`);
}
for (const id of different) {
  console.log(`${id}: ${JSON.stringify(theirs[id])} and ${JSON.stringify(ours[id])}`);
}
if (ids.length === 0) throw new Error(`no such cases: ${cases.join(" ")}`);
Deno.exit(different.length === 0 ? 0 : 1);
