import { assertEquals, assertMatch } from "@std/assert";
import { Daemon, exchange, project, TempFolder } from "../support/daemon.ts";
import type { Watch } from "../support/fixtures/watch.ts";

const PING = "GET /_ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/** Watches a folder while `during` runs, and gives the states of the sockets that were in there. */
async function watch(
  watched: Omit<Watch, "stop">,
  during: () => Promise<void>,
): Promise<string[]> {
  const stop = new SharedArrayBuffer(1);
  const worker = new Worker(new URL("../support/fixtures/watch.ts", import.meta.url), {
    type: "module",
  });
  const message = <T>() =>
    new Promise<T>((resolve, reject) => {
      worker.onmessage = ({ data }) => resolve(data);
      worker.onerror = (event) => {
        event.preventDefault();
        reject(new Error(event.message));
      };
    });
  try {
    const started = message();
    worker.postMessage({ ...watched, stop } satisfies Watch);
    await started;
    const seen = message<string[]>();
    // A watcher that fails ends the wait for it.
    await Promise.race([during(), seen]);
    Atomics.store(new Uint8Array(stop), 0, 1);
    return await seen;
  } finally {
    worker.terminate();
  }
}

/** A group that we may give a socket to, not our own if there is another: root may take any. */
const GROUP = await (async () => {
  const { stdout } = await new Deno.Command("id", { args: ["-G"] }).output();
  const ours = new TextDecoder().decode(stdout).trim().split(" ");
  const groups = Deno.readTextFileSync("/etc/group").trim().split("\n").map((line) => {
    const [name, , id] = line.split(":");
    return { name, id };
  });
  return groups.find(({ id }) =>
    id !== `${Deno.gid()}` && (Deno.uid() === 0 || ours.includes(id))
  ) ?? { name: `${Deno.gid()}`, id: `${Deno.gid()}` };
})();

for (const [how, group] of [["by its name", GROUP.name], ["by its number", GROUP.id]]) {
  Deno.test(`a unix socket is open to its group, given ${how}, and never to anyone else`, async () => {
    await using folder = await TempFolder.make();
    await using steps = await TempFolder.make();
    const path = `${folder.path}/api.sock`;
    const options = {
      program: project("tests/support/fixtures/stepwise.ts"),
      env: { STEPS: steps.path },
    };
    const args = ["-H", `unix://${path}`, "-G", group];
    const ask = () => exchange({ transport: "unix", path }, PING);

    const states = await watch({ folder: folder.path, steps: steps.path }, async () => {
      await using daemon = Daemon.start(args, options);
      await daemon.open();
      assertMatch(await ask(), /\r\n\r\nOK$/);
      await using successor = Daemon.start([...args, "--takeover"], options);
      await successor.open();
      assertEquals(await daemon.end(), 0);
      assertMatch(await ask(), /\r\n\r\nOK$/);
      assertEquals(await successor.end(), 0);
    });
    const own = `${Deno.gid()}`;
    // Each of the two; what is random in the names of the two does not matter.
    const seen = states.map((state) => state.replace(/^\.floodgate-[\da-f]{8}/, "temporary"));
    // Where there is no other group, the first two are one.
    const born = [
      ...new Set([own, GROUP.id].map((id) => `temporary 600 ${id}`)),
      `temporary 660 ${GROUP.id}`,
    ];
    assertEquals(seen, [...born, `api.sock 660 ${GROUP.id}`, ...born]);
    assertEquals(folder.names(), []);
  });
}

Deno.test("main refuses a group that there is not, in one line, and leaves nothing behind", async () => {
  await using folder = await TempFolder.make();
  const address = `unix://${folder.path}/api.sock`;
  for (const group of ["no-such-group-here", "4294967295", "-1", "--help"]) {
    await using daemon = Daemon.start(["-H", address, `--group=${group}`]);
    assertEquals((await daemon.status).code, 1);
    assertEquals(
      daemon.stderr,
      `floodgate: cannot listen on ${address}: there is no group "${group}"\n`,
    );
    assertEquals(folder.names(), []);
  }
});

const EXPOSED = [
  "0.0.0.0:0",
  "[::]:0",
  "192.0.2.1:0",
  "[::ffff:192.0.2.1]:0",
  "api.example:0",
  "0:0",
];
for (const flags of [[], ["--tls", "--tlscert", "/no/cert", "--tlskey", "/no/key"]]) {
  const how = flags[0] ?? "plain tcp";
  Deno.test(`main refuses ${how} where other machines can reach it, in one line`, async () => {
    for (const where of EXPOSED) {
      await using daemon = Daemon.start([
        "-H",
        "tcp://127.0.0.1:0",
        "-H",
        `tcp://${where}`,
        ...flags,
      ]);
      assertEquals((await daemon.status).code, 2);
      assertEquals(
        daemon.stderr,
        `floodgate: address "tcp://${where}": other machines can reach it and could do as they like, ` +
          "expected a local one, --tlsverify (TlsVerify), or --insecure (Insecure)\n",
      );
      assertEquals(daemon.stdout, "");
    }
  });
}

Deno.test("main --insecure warns of each address that other machines can reach, and of no other", async () => {
  const hosts = ["tcp://0.0.0.0:0", "tcp://127.0.0.1:0"].flatMap((host) => ["-H", host]);
  await using daemon = Daemon.start([...hosts, "--insecure"]);
  await daemon.open();
  assertMatch(await exchange({ hostname: "127.0.0.1", port: await daemon.port() }, PING), /OK$/);
  assertEquals(await daemon.end(), 0);
  const warnings = daemon.stderr.split("\n").filter((line) => line.includes(" WARN "));
  assertEquals(warnings.length, 1);
  assertMatch(
    warnings[0],
    /tcp:\/\/0\.0\.0\.0:\d+: whoever reaches this port from any machine may do all that the daemon can/,
  );
});
