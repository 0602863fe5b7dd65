import { assertEquals, assertStringIncludes, assertThrows } from "@std/assert";
import { completion } from "../../cli/completion.ts";
import { FLAGS } from "../../cli/settings.ts";
import { Daemon, missing, run, TempFolder } from "../support/daemon.ts";

const NO_BASH = await missing("bash", ["--version"]);
const NO_ZSH = await missing("zsh", ["--version"]);
const NO_FISH = await missing("fish", ["--version"]);

/** The script of a shell, in a file. */
async function scriptOf(shell: string, folder: TempFolder): Promise<string> {
  const path = `${folder.path}/_floodgate`;
  await Deno.writeTextFile(path, completion(shell, FLAGS));
  return path;
}

Deno.test(
  "completion bash completes flags, the values of some, and files",
  { ignore: NO_BASH },
  async () => {
    await using folder = await TempFolder.make();
    const script = await scriptOf("bash", folder);
    await Deno.writeTextFile(`${folder.path}/module.ts`, "");
    const complete = async (...words: string[]) => {
      const { stdout, stderr } = await run("bash", [
        "-c",
        'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _floodgate; printf "%s\\n" "${COMPREPLY[@]}"',
        script,
        "floodgate",
        ...words,
      ]);
      assertEquals(stderr, "");
      return stdout.trim().split("\n");
    };
    assertEquals(await complete("--log-"), ["--log-level", "--log-format", "--log-file"]);
    assertEquals(await complete("-D", "--log-level", ""), ["debug", "info", "warn", "error"]);
    assertEquals(await complete("-l", "w"), ["warn"]);
    assertEquals(await complete("--install", `${folder.path}/mod`), [`${folder.path}/module.ts`]);
    assertEquals(await complete("--idle-timeout", ""), [""]);
  },
);

Deno.test(
  "completion fish completes flags with their descriptions",
  { ignore: NO_FISH },
  async () => {
    await using folder = await TempFolder.make();
    const script = await scriptOf("fish", folder);
    const complete = async (line: string) =>
      (await run("fish", ["-c", `source ${script}; complete -C "${line}"`], {
        env: { HOME: folder.path },
      })).stdout.trim().split("\n");
    assertStringIncludes(
      (await complete("floodgate --heal"))[0]!,
      "--health\tServe the daemon's health",
    );
    const formats = await complete("floodgate --log-format ");
    assertEquals(formats.map((line) => line.split("\t")[0]), ["json", "text"]);
  },
);

Deno.test("completion zsh is a function that zsh parses", { ignore: NO_ZSH }, async () => {
  await using folder = await TempFolder.make();
  const script = await scriptOf("zsh", folder);
  // What zsh's own _arguments would be told.
  const told = await run("zsh", [
    "-f",
    "-c",
    `_arguments() { print -l -- "$@" }; source ${script}`,
  ]);
  assertEquals(told.stderr, "");
  const specs = told.stdout.trim().split("\n");
  assertStringIncludes(specs.join("\n"), "--log-level[`debug`".replaceAll("`", ""));
  assertEquals(specs.filter((spec) => spec.startsWith("*--host[")).length, 1);
  assertEquals(specs.length, FLAGS.length + FLAGS.filter(({ letter }) => letter).length);
});

Deno.test("completion names the shells that it supports", async () => {
  assertThrows(
    () => completion("csh", FLAGS),
    Error,
    "completion csh: expected one of bash, zsh, fish",
  );
  await using daemon = Daemon.start(["completion"]);
  assertEquals((await daemon.status).code, 2);
  assertEquals(
    daemon.stderr,
    "floodgate: completion needs a shell: expected one of bash, zsh, fish\n",
  );
});
