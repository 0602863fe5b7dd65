import { assert, assertEquals, assertMatch } from "@std/assert";
import { foreignFunctionsProblem } from "../../platform/descriptors.ts";
import { Daemon, project, TempFolder, until } from "../support/daemon.ts";

/** A program that counts the signal; only by JavaScript, or by {@linkcode onUserSignal}. */
async function counting(folder: TempFolder, own: boolean): Promise<Daemon> {
  const program = `${folder.path}/program.ts`;
  await Deno.writeTextFile(
    program,
    `import { onUserSignal } from ${JSON.stringify(project("platform/signals.ts"))};
     let count = 0;
     const listener = () => console.log("signal " + ++count);
     if (${own}) console.log("shut " + onUserSignal(listener));
     else Deno.addSignalListener("SIGUSR1", listener);
     console.log("ready");
     setInterval(() => {}, 1_000);`,
  );
  return Daemon.start([], { program });
}

/**
 * Sends the signal until it was heard of, and Deno has listened for it for long: 500 ms from its
 * start.
 */
async function signalled(daemon: Daemon): Promise<void> {
  await daemon.says(/ready/);
  const began = performance.now();
  let sent = 0;
  while (performance.now() < began + 1_000 && !daemon.stderr.includes("inspector")) {
    daemon.kill("SIGUSR1");
    await daemon.says(new RegExp(`signal ${++sent}\n`));
  }
}

Deno.test("Deno opens its debugger at SIGUSR1, even with a listener", async () => {
  await using folder = await TempFolder.make();
  await using daemon = await counting(folder, false);
  await signalled(daemon);
  // If it does so no more, platform/signals.ts is of no use. Another process may have its port. On
  // a busy machine it may listen only now.
  await until(() => {
    daemon.kill("SIGUSR1");
    return /Debugger listening|Failed to start inspector/.test(daemon.stderr);
  });
});

Deno.test("onUserSignal is called at each SIGUSR1, and Deno's debugger stays shut", {
  ignore: foreignFunctionsProblem() !== undefined,
}, async () => {
  await using folder = await TempFolder.make();
  await using daemon = await counting(folder, true);
  await daemon.says(/shut true/);
  await signalled(daemon);
  assertEquals(daemon.stderr, "");
  assertMatch(daemon.stdout, /signal 2\n/);
  // It still ends as it should.
  daemon.kill("SIGTERM");
  const { signal } = await daemon.status;
  assert(signal === "SIGTERM");
});
