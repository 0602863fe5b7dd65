import { assertEquals } from "@std/assert";
import { descriptorsProblem } from "../../platform/descriptors.ts";
import { writability } from "../../platform/writability.ts";
import { until } from "../support/daemon.ts";

Deno.test("writability tells whether a write to a pipe would block", {
  ignore: descriptorsProblem() !== undefined,
}, async () => {
  await using child = new Deno.Command("cat", { stdin: "piped", stdout: "null" }).spawn();
  const fd = Number(
    [...Deno.readDirSync("/proc/self/fd")].map(({ name }) => name).find((name) => {
      try {
        return Deno.readLinkSync(`/proc/self/fd/${name}`) ===
          Deno.readLinkSync(`/proc/${child.pid}/fd/0`);
      } catch {
        return false; // It was closed meanwhile.
      }
    }),
  );
  const writable = writability(fd);
  assertEquals(writable(), true);
  child.kill("SIGSTOP");
  const writer = child.stdin.getWriter();
  const written = writer.write(new Uint8Array(1_000_000));
  await until(() => writable() === false);
  child.kill("SIGCONT");
  await written;
  await until(() => writable() === true);
  await writer.close();
  await child.status;
});
