import { assert, assertEquals } from "@std/assert";
import { descriptorsProblem } from "../../platform/descriptors.ts";
import { openFolder } from "../../platform/folders.ts";
import { TempFolder } from "../support/daemon.ts";

const ignore = descriptorsProblem() !== undefined;

Deno.test("openFolder gives a path that stays with the folder when it is renamed", {
  ignore,
}, async () => {
  await using folder = await TempFolder.make();
  const [real, moved] = [`${folder.path}/real`, `${folder.path}/moved`];
  await Deno.mkdir(real);
  using opened = openFolder(real)!;
  await Deno.rename(real, moved);
  await Deno.symlink("/", real);
  await Deno.writeTextFile(`${opened.path}/file`, "here");
  assertEquals(await Deno.readTextFile(`${moved}/file`), "here");
  assertEquals(Deno.statSync(opened.path).ino, Deno.lstatSync(moved).ino);
});

Deno.test(
  "openFolder follows links, and OpenFolder.open follows none",
  { ignore },
  async () => {
    await using folder = await TempFolder.make();
    await Deno.mkdir(`${folder.path}/inner`);
    await Deno.symlink("inner", `${folder.path}/link`);
    await Deno.writeTextFile(`${folder.path}/file`, "");
    using byLink = openFolder(`${folder.path}/link`);
    assertEquals(Deno.statSync(byLink!.path).ino, Deno.statSync(`${folder.path}/inner`).ino);
    using opened = openFolder(folder.path)!;
    using inner = opened.open("inner");
    assertEquals(Deno.statSync(inner!.path).ino, Deno.statSync(`${folder.path}/inner`).ino);
    for (const name of ["link", "file", "missing"]) {
      assertEquals(
        opened.open(name),
        undefined,
        name,
      );
    }
    for (const name of ["file", "missing"]) {
      assertEquals(
        openFolder(`${folder.path}/${name}`),
        undefined,
      );
    }
  },
);

Deno.test(
  "openFolder closes its descriptor once, and keeps it from other programs",
  { ignore },
  async () => {
    await using folder = await TempFolder.make();
    const opened = openFolder(folder.path)!;
    const { path } = opened;
    const number = path.split("/").at(-1);
    const { stdout } = await new Deno.Command("ls", { args: ["-l", "/proc/self/fd"] }).output();
    assert(!new TextDecoder().decode(stdout).includes(folder.path));
    opened[Symbol.dispose]();
    const next = openFolder("/")!;
    // The number is another's now, if the kernel has given it out again, as it mostly does.
    opened[Symbol.dispose]();
    assertEquals(Deno.statSync(next.path).ino, Deno.statSync("/").ino, `descriptor ${number}`);
    next[Symbol.dispose]();
  },
);
