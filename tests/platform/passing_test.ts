import { assertEquals, assertNotEquals, assertRejects } from "@std/assert";
import { AcceptedPassage, ConnectedPassage } from "../../platform/passing.ts";
import { closeDescriptor } from "../../platform/sockets.ts";
import { TempFolder } from "../support/daemon.ts";
import { decoded, encoded } from "../support/engine.ts";
import { foreignTest } from "../support/platform.ts";

/** Both ends of a passage, and the listener between them. */
async function passage(folder: TempFolder) {
  const path = `${folder.path}/passage.sock`;
  const listener = Deno.listen({ transport: "unix", path }) as Deno.UnixListener;
  const [accepted, connected] = await Promise.all([
    AcceptedPassage.accept(listener),
    ConnectedPassage.connect(path),
  ]);
  return { listener, accepted, connected: connected! };
}

foreignTest("Passage tells which process is at the other end", async () => {
  await using folder = await TempFolder.make();
  const ends = await passage(folder);
  using _listener = ends.listener;
  using accepted = ends.accepted;
  using connected = ends.connected;
  const self = { pid: Deno.pid, uid: Deno.uid(), gid: Deno.gid() };
  assertEquals(accepted.peer, self);
  assertEquals(connected.peer, self);
});

foreignTest("Passage.send gives descriptors of what it sends, each message its own", async () => {
  await using folder = await TempFolder.make();
  const ends = await passage(folder);
  using _listener = ends.listener;
  using accepted = ends.accepted;
  using connected = ends.connected;
  await Deno.writeTextFile(`${folder.path}/a`, "the first");
  using _file = await Deno.open(`${folder.path}/a`);
  const fd = descriptorOf(`${folder.path}/a`);
  accepted.send(encoded("one\n"), [fd, fd]);
  accepted.send(encoded("two\n"), [fd]);

  const one = await connected.receive(5_000);
  const two = await connected.receive(5_000);
  assertEquals([decoded(one.message), one.fds.length], ["one\n", 2]);
  assertEquals([decoded(two.message), two.fds.length], ["two\n", 1]);
  for (const received of [...one.fds, ...two.fds]) {
    assertNotEquals(received, fd);
    assertEquals(Deno.readLinkSync(`/proc/self/fd/${received}`), `${folder.path}/a`);
    // Not for the programs that this process starts.
    const info = await Deno.readTextFile(`/proc/self/fdinfo/${received}`);
    assertEquals(parseInt(/^flags:\s*(\d+)/m.exec(info)![1]!, 8) & 0o2_000_000, 0o2_000_000);
    closeDescriptor(received);
  }
});

foreignTest(
  "Passage.receive fails where nothing comes in time, and where the other end closes",
  async () => {
    await using folder = await TempFolder.make();
    const ends = await passage(folder);
    using _listener = ends.listener;
    const { accepted } = ends;
    using connected = ends.connected;
    await assertRejects(() => connected.receive(1), Error, "does not answer within 1 ms");
    accepted[Symbol.dispose]();
    await assertRejects(() => connected.receive(5_000), Error, "has closed");
  },
);

foreignTest("Passage.connect finds its own among connections to the same socket", async () => {
  await using folder = await TempFolder.make();
  const first = await passage(folder);
  using _listener = first.listener;
  using _one = first.accepted;
  using one = first.connected;
  const [two, connected] = await Promise.all([
    AcceptedPassage.accept(first.listener),
    ConnectedPassage.connect(`${folder.path}/passage.sock`),
  ]);
  using _two = two;
  using _connected = connected!;
  two.send(encoded("to the second"), []);
  assertEquals(decoded((await connected!.receive(5_000)).message), "to the second");
  await assertRejects(() => one.receive(1), Error, "does not answer");
});

function descriptorOf(path: string): number {
  const found = [...Deno.readDirSync("/proc/self/fd")].find(({ name }) => {
    try {
      return Deno.readLinkSync(`/proc/self/fd/${name}`) === path;
    } catch {
      return false; // That of the listing itself.
    }
  });
  return Number(found!.name);
}
