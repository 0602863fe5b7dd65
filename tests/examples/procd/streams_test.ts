import { assert, assertEquals, assertMatch } from "@std/assert";
import { KeyFilter, timestamp } from "../../../examples/procd/streams.ts";
import { until } from "../../support/daemon.ts";
import { NO_DOCKER, Procd } from "../../support/procd.ts";
import { NO_TMUX, Terminal } from "../../support/terminal.ts";

const ignore = NO_DOCKER || Deno.build.os !== "linux";
const encoder = new TextEncoder();
const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

Deno.test("timestamp has nine digits", () => {
  assertEquals(timestamp(1_700_000_000_000_000_001n), "2023-11-14T22:13:20.000000001Z");
});

Deno.test("KeyFilter finds keys across chunks, and passes on what only begins like them", () => {
  const filter = new KeyFilter([16, 17]);
  const pass = (...bytes: number[]) => filter.pass(Uint8Array.from(bytes));
  assertEquals([...pass(1, 16).data], [1]);
  assertEquals([...pass(2).data], [16, 2]);
  assertEquals([...pass(16, 16).data], [16]);
  assertEquals(pass(17, 3), { data: new Uint8Array(0), detached: true });
  const repeated = new KeyFilter([97, 97, 98]);
  assertEquals(repeated.pass(encoder.encode("aaab")), {
    data: encoder.encode("a"),
    detached: true,
  });
});

Deno.test({
  name: "docker run gives a program's exit status, and both its streams apart",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const script = "echo out; echo err >&2; exit 3";
    const said = await procd.docker("run", "--rm", "host", "sh", "-c", script);
    assertEquals(said, { code: 3, stdout: "out", stderr: "err" });
    const killed = await procd.docker("run", "--rm", "host", "sh", "-c", "kill -9 $$");
    assertEquals(killed.code, 137);
    assertEquals(await procd.ok("ps", "-aq"), "");
    assertEquals((await procd.docker("run", "--rm", "host", "no-such-program")).code, 127);
    assertEquals((await procd.docker("run", "--rm", "host", "/etc/passwd")).code, 126);
    const unknown = await procd.docker("run", "--rm", "no-such-image", "true");
    assertEquals(unknown.code, 125);
    assertMatch(unknown.stderr, /there is no registry here, expected "host"/);
    assertEquals(await procd.ok("ps", "-aq"), "");
  },
});

Deno.test({
  name: "docker run -i sends 100 MB through cat unchanged",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const chunk = crypto.getRandomValues(new Uint8Array(50_000));
    const chunks = 2_000;
    await using cat = procd.command(["run", "--rm", "-i", "host", "cat"], {
      stdin: "piped",
      stdout: "piped",
      stderr: "inherit",
    }).spawn();
    const writing = (async () => {
      const writer = cat.stdin.getWriter();
      for (let i = 0; i < chunks; i++) await writer.write(chunk);
      await writer.close();
    })();
    let at = 0;
    for await (const bytes of cat.stdout) {
      for (let i = 0; i < bytes.length; i++) {
        if (bytes[i] !== chunk[at % chunk.length]) throw new Error(`wrong at byte ${at}`);
        at++;
      }
    }
    await writing;
    assertEquals(at, chunks * chunk.length);
    assertEquals((await cat.status).code, 0);
  },
});

Deno.test({
  name: "docker logs tells what was written: all, the last lines, since, with times, and goes on",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const script = "for i in 1 2 3 4 5; do echo line $i; done; echo wrong >&2; printf open";
    await procd.docker("run", "--name", "done", "host", "sh", "-c", script);
    const said = await procd.docker("logs", "done");
    const lines = ["line 1", "line 2", "line 3", "line 4", "line 5", "open"];
    assertEquals(said, { code: 0, stdout: lines.join("\n"), stderr: "wrong" });
    const last = await procd.docker("logs", "--tail", "3", "done");
    assertEquals(last.stdout.split("\n").length + last.stderr.split("\n").length, 3);
    assertEquals((await procd.docker("logs", "--tail", "0", "done")).stdout, "");
    for (const line of (await procd.ok("logs", "-t", "done")).split("\n")) {
      assertMatch(line, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (line \d|open)$/);
    }
    assertEquals(await procd.ok("logs", "--until", "1h", "done"), "");
    assertEquals((await procd.ok("logs", "--since", "1h", "done")).split("\n").length, 6);

    // From the first byte, to the end, in the middle of which the client came.
    const counter = "i=0; while [ $i -lt 400 ]; do echo $i; i=$((i+1)); sleep 0.002; done";
    await procd.ok("run", "-d", "--name", "counter", "host", "sh", "-c", counter);
    const followed = await procd.ok("logs", "-f", "counter");
    assertEquals(followed, Array.from({ length: 400 }, (_, i) => String(i)).join("\n"));
  },
});

Deno.test({
  name: "procd keeps no more of a container's log than --log-opt says, and whole records",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    const options = ["--log-opt", "max-size=16k", "--log-opt", "max-file=2"];
    const script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done";
    await procd.ok("run", "--name", "much", ...options, "host", "sh", "-c", script);
    const lines = (await procd.ok("logs", "much")).split("\n");
    assertEquals(lines.at(-1), "line 4999");
    assert(lines.length < 5_000, "nothing was left out");
    const size = [...Deno.readDirSync(await procd.inspect("much", ".LogPath"))]
      .filter(({ name }) => name.startsWith("log.")).length;
    assertEquals(size, 2);
  },
});

Deno.test({
  name: "docker run -it has a terminal: its size, job control, and keys to leave and come back",
  ignore: ignore || NO_TMUX,
  async fn() {
    await using procd = await Procd.make();
    await using terminal = await Terminal.open(procd, 100, 30);
    const shell = ["run", "-it", "--name", "shell", "-e", "PS1=in: ", "host", "sh", "-i"];
    await terminal.type(...shell);
    await terminal.sees("in: ");
    await terminal.line("stty size; tty");
    await terminal.sees("30 100");
    await terminal.sees("/dev/pts/");
    // Before it runs, ^Z would reach the shell, which does not stop.
    await terminal.line(`sh -c 'echo at-$((4+5)); exec sleep 1000'`);
    await terminal.sees("at-9");
    await terminal.keys("C-z");
    await terminal.sees("Stopped");
    await terminal.line("kill -9 %1");
    await terminal.resize(90, 25);
    await until(async () => {
      await terminal.line("stty size");
      return (await terminal.screen()).includes("25 90");
    });
    await terminal.keys("C-p", "C-q");
    await terminal.sees("status-0");
    assertEquals(await procd.inspect("shell", ".State.Status"), "running");
    await terminal.type("attach", "shell");
    await terminal.line("echo back-$((2+3))");
    await terminal.sees("back-5");
    await terminal.line("exit 7");
    await terminal.sees("status-7");
    assertEquals(await procd.inspect("shell", ".State.ExitCode"), "7");
    // What was on the terminal is in the log.
    assertMatch(await procd.ok("logs", "shell"), /back-5/);
  },
});

Deno.test({
  name: "docker exec -it has a terminal of its own, and Ctrl-C reaches what runs in it",
  ignore: ignore || NO_TMUX,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("run", "-d", "--name", "host1", "host", "sleep", "1000");
    await using terminal = await Terminal.open(procd, 80, 24);
    await terminal.type("exec", "-it", "-e", "PS1=in: ", "host1", "sh", "-i");
    await terminal.sees("in: ");
    await terminal.line("sleep 1000");
    // The container's own, the shell, and what it has started.
    await until(async () => (await procd.ok("top", "host1")).split("\n").length === 4);
    await terminal.keys("C-c");
    await terminal.line("echo code-$?");
    await terminal.sees("code-130");
    await terminal.line("exit 4");
    await terminal.sees("status-4");
  },
});

Deno.test({
  name: "docker attach gives what is written from then on, and does not end what it leaves",
  ignore,
  async fn() {
    await using procd = await Procd.make();
    await procd.ok("run", "-d", "-i", "--name", "echo", "host", "sh", "-c", "cat; echo ended");
    await using client = procd.command(["attach", "echo"], {
      stdin: "piped",
      stdout: "piped",
      stderr: "null",
    }).spawn();
    const writer = client.stdin.getWriter();
    await writer.write(encoder.encode("hello\n"));
    const reader = client.stdout.getReader();
    assertEquals(text((await reader.read()).value!), "hello\n");
    client.kill("SIGKILL");
    await writer.abort();
    await reader.cancel();
    await client.status;
    assertEquals(await procd.inspect("echo", ".State.Status"), "running");
    assertEquals(await procd.ok("logs", "echo"), "hello");
  },
});
