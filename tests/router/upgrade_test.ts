import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import { type Job, TypedError } from "../../engine.ts";
import { Client, type Target } from "../support/client.ts";
import { missing, run, testWhere, until } from "../support/daemon.ts";
import { foreign, foreignTest } from "../support/platform.ts";
import {
  closed,
  Doors,
  handshakeOf,
  message,
  openSocket,
  upgrade,
  upgradeOf,
} from "../support/upgrades.ts";

/** The frames of a stream, as `N:text`. */
function frames(bytes: string): string[] {
  const found: string[] = [];
  while (bytes.length > 0) {
    const length = bytes.charCodeAt(6) * 256 + bytes.charCodeAt(7);
    assertEquals(bytes.slice(1, 6), "\0\0\0\0\0");
    found.push(`${bytes.charCodeAt(0)}:${bytes.slice(8, 8 + length)}`);
    bytes = bytes.slice(8 + length);
  }
  return found;
}

/** Jobs that read and write, and rows for them. */
function register({ served: { engine, router } }: Doors): void {
  engine.register("cat", async (job) => {
    for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
  });
  engine.register("both", async (job) => {
    await job.print("out");
    await job.stderr.write("err");
    await job.print("again");
  });
  engine.register("shout", async (job) => {
    job.setenvBool("Tty", true);
    await job.print(`${job.args[0]} ${job.getenv("Cmd")}: `);
    await job.stdout.write((await job.stdin.text()).toUpperCase());
  });
  engine.register("refuse", async (job) => {
    await new Promise((resolve) => setTimeout(resolve));
    return job.error(`no such container: ${job.args[0]}`);
  });
  for (const job of ["cat", "both", "refuse"]) {
    router.job({ method: "POST", path: `/${job}/:id`, job, upgrade: "tcp" });
    router.job({ method: "GET", path: `/ws/${job}/:id`, job, upgrade: "websocket" });
  }
  router.job({ method: "POST", path: "/shout/:id", job: "shout", upgrade: "tcp", body: "env" });
}

foreignTest(
  "a row with upgrade: tcp gives its job the client's bytes, and frames what it writes",
  async () => {
    await using doors = await Doors.open();
    register(doors);
    for (const { target } of doors.doors) {
      using cat = await upgrade(target, upgradeOf("/cat/1"));
      assertStringIncludes(cat.head, "content-type: application/vnd.docker.multiplexed-stream\r\n");
      await cat.send("abc");
      await cat.sees(/abc$/);
      await cat.send("def");
      await cat.sees(/def$/);
      await cat.conn.closeWrite();
      assertEquals(frames(await cat.ended()), ["1:abc", "1:def"]);
      using both = await upgrade(target, upgradeOf("/v1.40/both/1"));
      assertStringIncludes(both.head, "content-type: application/vnd.docker.raw-stream\r\n");
      assertEquals(frames(await both.ended()), ["1:out", "2:err", "1:again"]);
      // The job's end is the connection's.
      await doors.empty();
    }
  },
);

foreignTest(
  "a job with a terminal gets bytes as they are, and its env from the body before",
  async () => {
    await using doors = await Doors.open();
    register(doors);
    for (const { target } of doors.doors) {
      using client = await upgrade(target, upgradeOf("/shout/7", '{"Cmd": "echo"}'));
      assertStringIncludes(client.head, "content-type: application/vnd.docker.raw-stream\r\n");
      await client.send("hello");
      await client.conn.closeWrite();
      assertEquals(await client.ended(), "7 echo: HELLO");
      using bad = await Client.to(target);
      const answer = await bad.ask(upgradeOf("/shout/7", "no JSON"));
      assertEquals(answer.status, 400);
    }
  },
);

foreignTest("a job that fails before it is attached answers with its error", async () => {
  await using doors = await Doors.open();
  register(doors);
  doors.served.router.job({ method: "POST", path: "/none/:id", job: "none", upgrade: "tcp" });
  for (const { target } of doors.doors) {
    for (const [path, status] of [["/refuse/x", 404], ["/none/x", 501]] as const) {
      using client = await Client.to(target);
      const answer = await client.ask(upgradeOf(path));
      assertEquals(answer.status, status);
      if (status === 404) assertEquals(answer.body, '{"message":"no such container: x"}\n'.trim());
    }
  }
});

foreignTest("a job says when its client has the upgrade, however long it takes", async () => {
  await using doors = await Doors.open();
  const { engine, router, lines } = doors.served;
  // The time itself is what is tested: no client gets its 101 by waiting, as after 200 ms once.
  const boot = () => new Promise((resolve) => setTimeout(resolve, 250));
  const handlers: Record<string, (job: Job) => unknown> = {
    fails: (job) => job.error(`no such container: ${job.args[0]}`),
    reads: async (job) => void await job.stdin.readable.getReader().read(),
    writes: (job) => job.print("some"),
    "says nothing": (job) => job.stdout.write(new Uint8Array()),
    succeeds: () => {},
  };
  for (const [job, handler] of Object.entries(handlers)) {
    engine.register(job, async (job) => {
      await boot();
      return await handler(job) as void;
    });
    const path = `/${job.replace(" ", "-")}/:id`;
    router.job({ method: "POST", path, job, upgrade: "tcp" });
    router.job({ method: "GET", path, job, upgrade: "websocket" });
  }
  const ask = async (target: Target, job: string, request: string) => {
    using client = await Client.to(target);
    const { status, body } = await client.ask(request);
    const refused = '{"message":"no such container: x"}';
    assertEquals([status, body], job === "fails" ? [404, refused] : [101, ""], job);
  };
  await Promise.all(
    doors.doors.flatMap(({ target }) =>
      Object.keys(handlers).flatMap((job) =>
        [upgradeOf, handshakeOf].map((request) =>
          ask(target, job, request(`/${job.replace(" ", "-")}/x`))
        )
      )
    ),
  );
  await doors.empty();
  await until(() => engine.stats.running === 1);
  assertEquals(lines.filter((line) => line.startsWith("error")), []);
});

foreignTest(
  "with stream: true a client has the upgrade as soon as its job has waited",
  async () => {
    await using doors = await Doors.open();
    const { engine, router } = doors.served;
    const go = Promise.withResolvers<void>();
    engine.register("starts", async (job) => {
      if (job.args[0] === "x") throw new TypedError("not found", "no such container: x");
      await go.promise;
      await job.print("started");
    });
    router.job({
      method: "POST",
      path: "/starts/:id",
      job: "starts",
      upgrade: "tcp",
      stream: true,
    });
    for (const { target } of doors.doors) {
      using refused = await Client.to(target);
      assertEquals((await refused.ask(upgradeOf("/starts/x"))).status, 404);
    }
    const clients = await Promise.all(
      doors.doors.map(({ target }) => upgrade(target, upgradeOf("/starts/1"))),
    );
    go.resolve();
    for (const client of clients) {
      assertEquals(frames(await client.ended()), ["1:started"]);
      client.close();
    }
    await doors.empty();
  },
);

foreignTest(
  "a job that takes too long, or whose client leaves, before it is attached",
  async () => {
    await using doors = await Doors.open();
    const { engine, router, lines } = doors.served;
    const go = Promise.withResolvers<void>();
    engine.register("deaf", async (job) => {
      await go.promise;
      await assertRejects(async () => await job.print("too late"), Error, "longer than 50 ms");
    });
    engine.register("wary", async (job) => {
      await new Promise((_, reject) => {
        job.signal.addEventListener("abort", () => reject(job.signal.reason));
      });
    });
    router.job({ method: "POST", path: "/deaf", job: "deaf", upgrade: "tcp", timeout: 50 });
    router.job({ method: "GET", path: "/deaf", job: "deaf", upgrade: "websocket", timeout: 50 });
    router.job({ method: "POST", path: "/wary", job: "wary", upgrade: "tcp" });
    router.job({ method: "GET", path: "/wary", job: "wary", upgrade: "websocket" });
    for (const { target } of doors.doors) {
      for (const request of [upgradeOf, handshakeOf]) {
        using slow = await Client.to(target);
        const { status, body } = await slow.ask(request("/deaf"));
        assertEquals([status, body], [504, '{"message":"job deaf took longer than 50 ms"}']);
        const running = engine.stats.running;
        const leaving = await Client.to(target);
        await leaving.send(request("/wary"));
        await until(() => engine.stats.running === running + 1);
        leaving.close();
        await until(() => engine.stats.running === running);
      }
    }
    go.resolve();
    await doors.empty();
    await until(() => engine.stats.running === 1);
    assertEquals(lines.filter((line) => line.startsWith("error")), []);
  },
);

foreignTest(
  "a row with upgrade: tcp answers 200 and streams where no upgrade is asked for",
  async () => {
    await using doors = await Doors.open();
    register(doors);
    for (const { target } of doors.doors) {
      using client = await Client.to(target);
      const ask = (path: string, body = "") =>
        client.ask(
          `POST ${path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
        );
      const both = await ask("/both/1");
      assertEquals([both.status, ...frames(both.body)], [200, "1:out", "2:err", "1:again"]);
      const cat = await ask("/cat/1", "some input");
      assertEquals([cat.status, ...frames(cat.body)], [200, "1:some input"]);
      const shout = await ask("/shout/7", '{"Cmd": "echo"}');
      assertEquals([shout.status, shout.body], [200, "7 echo: "]);
      assertEquals((await ask("/refuse/x")).status, 404);
      assertEquals((await ask("/cat/1")).body, "");
    }
  },
);

foreignTest(
  "a job whose client leaves is aborted, and one that is drained hears of it",
  async () => {
    await using doors = await Doors.open();
    const { engine, router } = doors.served;
    const heard: string[] = [];
    engine.register("wait", async (job: Job) => {
      await job.print("begun");
      for await (const _ of job.stdin.readable);
      heard.push("end of input");
      if (job.args[0] === "writes") {
        // What it writes after the client has left fails, and aborts it.
        while (!job.signal.aborted) await job.stdout.write(new Uint8Array(65_536));
      } else if (!job.signal.aborted) {
        await new Promise((resolve) => job.signal.addEventListener("abort", resolve));
      }
      heard.push(job.signal.reason.name);
    });
    router.job({ method: "POST", path: "/wait/:how", job: "wait", upgrade: "tcp" });
    const target: Target = doors.doors[1]!.target;
    const gone = await upgrade(target, upgradeOf("/wait/writes"));
    gone.close();
    await until(() => engine.stats.running === 1);
    assertEquals(heard.splice(0, 1), ["end of input"]);
    using drained = await upgrade(target, upgradeOf("/wait/still"));
    await drained.sees(/begun/);
    const down = engine.shutdown({ drain: 5_000 });
    await drained.ended();
    await down;
    assertEquals(heard.slice(-2), ["end of input", "TypedError"]);
  },
);

Deno.test("Router.job with upgrade: websocket gives its job messages, and closes when it ends", async () => {
  await using doors = await Doors.open();
  register(doors);
  for (const { url, target } of doors.doors) {
    const socket = await openSocket(`${url}/ws/cat/1`);
    for (const text of ["abc", "d".repeat(100_000)]) {
      const got = message(socket);
      socket.send(text);
      assertEquals(await got, text);
    }
    socket.close(1000);
    await closed(socket);
    const both = await openSocket(`${url}/ws/both/1`);
    let all = "";
    both.on("message", (data: Uint8Array) => all += new TextDecoder().decode(data));
    assertEquals((await closed(both)).code, 1000);
    assertEquals(all, "outerragain");
    using refused = await Client.to(target);
    const answer = await refused.ask("GET /ws/cat/1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assertEquals(answer.status, 426);
    assertStringIncludes(answer.body, "expected a WebSocket");
    const error = await openSocket(`${url}/ws/refuse/1`).catch(({ message }) => message);
    assertMatch(error as string, /404/);
  }
  await doors.empty();
  await until(() => doors.served.engine.stats.running === 1);
});

Deno.test("Router.job closes the WebSocket of a job that fails with the reason", async () => {
  await using doors = await Doors.open();
  const { engine, router, lines } = doors.served;
  engine.register("breaks", async (job) => {
    await job.print("begun");
    throw new Error("it broke ".repeat(30));
  });
  router.job({ method: "GET", path: "/breaks", job: "breaks", upgrade: "websocket" });
  const socket = await openSocket(`${doors.doors[0]!.url}/breaks`);
  const { code, reason } = await closed(socket);
  assertEquals(code, 1011);
  assertStringIncludes(reason, "it broke");
  assert(lines.some((line) => line.startsWith("warn job breaks failed in its answer")));
});

const noDocker = await missing("docker", ["--version"]);
const dockerTest = testWhere(!foreign && !noDocker, "the docker CLI, and FFI");

dockerTest("docker run, attach, exec and logs work on rows with upgrade: tcp", async () => {
  await using doors = await Doors.open();
  const { engine, router } = doors.served;
  const path = `${doors.folder.path}/s`;
  // One container, whose program is cat.
  const started = Promise.withResolvers<void>();
  const ended = Promise.withResolvers<void>();
  const config = { Tty: false, AttachStdin: true, OpenStdin: true, StdinOnce: true };
  const state = () => ({ Status: "running", Running: true, ExitCode: 0 });
  const jobs: Record<string, (job: Job) => void | Promise<void>> = {
    create: (job) => void job.print('{"Id": "c1", "Warnings": []}'),
    start: () => started.resolve(),
    wait: async (job) => {
      await job.stdout.write(new Uint8Array());
      await ended.promise;
      await job.print('{"StatusCode": 3}');
    },
    inspect: (job) => void job.print(JSON.stringify({ Id: "c1", Config: config, State: state() })),
    attach: async (job) => {
      await job.stdout.write(new Uint8Array()); // Docker's client starts it only then.
      await started.promise;
      for await (const chunk of job.stdin.readable) await job.stdout.write(chunk);
      await job.stderr.write("and an error\n");
      ended.resolve();
    },
    exec: (job) => void job.print('{"Id": "e1"}'),
    exec_start: async (job) => {
      await job.print(`exec: ${(await job.stdin.text()).trim()}\n`);
    },
    exec_inspect: (job) => void job.print('{"ExitCode": 5, "Running": false}'),
  };
  for (const [name, handler] of Object.entries(jobs)) {
    engine.register(name, async (job) => await handler(job));
  }
  const row = router.job.bind(router);
  row({ method: "POST", path: "/containers/create", job: "create", body: "env", status: 201 });
  row({ method: "POST", path: "/containers/:id/start", job: "start" });
  row({ method: "POST", path: "/containers/:id/wait", job: "wait", stream: true });
  row({ method: "GET", path: "/containers/:id/json", job: "inspect" });
  row({ method: "POST", path: "/containers/:id/attach", job: "attach", upgrade: "tcp" });
  row({ method: "POST", path: "/containers/:id/exec", job: "exec", body: "env", status: 201 });
  row({
    method: "POST",
    path: "/exec/:id/start",
    job: "exec_start",
    upgrade: "tcp",
    body: "env",
  });
  row({ method: "GET", path: "/exec/:id/json", job: "exec_inspect" });
  const docker = (...args: string[]) =>
    run("sh", ["-c", `echo hello | timeout 20 docker -H unix://${path} "$@"`, "sh", ...args]);
  const ran = await docker("run", "-i", "busybox", "cat");
  assertEquals([ran.stdout, ran.stderr, ran.code], ["hello\n", "and an error\n", 3]);
  const attached = await docker("attach", "c1");
  assertEquals([attached.stdout, attached.stderr], ["hello\n", "and an error\n"]);
  const exec = await docker("exec", "-i", "c1", "anything");
  assertEquals([exec.stdout, exec.code], ["exec: hello\n", 5]);
  await doors.empty();
});
