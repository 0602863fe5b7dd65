/**
 * Runs the code blocks of a document as its reader would: one shell for the whole document, in a
 * folder that looks like a clone of this repository.
 *
 * - `console`: a line that begins with `$ ` is run, and its output is what stands below it. `…`
 *   stands for what varies: alone on a line for any lines, else for the rest of a word or line. A
 *   command that ends with `&` goes on in the background; the next one waits until its output is
 *   there. What the shell itself says of its jobs, and Deno of JSR, is left out, and so are
 *   carriage returns.
 * - `sh`: each line is run, and must succeed.
 * - `ts`: the first line is `// NAME.ts`. It is saved under that name, and a later command has to
 *   use it.
 * - `text` is not run. There are no other blocks.
 *
 * @module
 */

import { assert, assertMatch } from "@std/assert";
import { within } from "../../engine/time.ts";
import { until } from "./daemon.ts";

/** A fenced code block. */
export interface Block {
  /** The document and line number of its first line of code, for messages. */
  document: string;
  line: number;
  /** The word after the fence. */
  language: string;
  lines: string[];
}

/** Commands that are not run, with the reason. */
export type Skipped = readonly (readonly [command: RegExp, reason: string])[];

/** The fenced blocks of a document. Throws for a fence that is not closed. */
export function blocksOf(document: string, text: string): Block[] {
  const blocks: Block[] = [];
  let open: Block | undefined;
  for (const [i, line] of text.split("\n").entries()) {
    const fence = /^\s*```(.*)$/.exec(line);
    if (!fence) open?.lines.push(line);
    else if (open) open = undefined;
    else blocks.push(open = { document, line: i + 2, language: fence[1]!, lines: [] });
  }
  assert(open === undefined, `${document}:${open?.line}: the block is not closed`);
  return blocks;
}

/** The file name of a `ts` block. */
export function nameOf({ document, line, lines }: Block): string {
  const name = /^\/\/ ([\w-]+\.ts)$/.exec(lines[0]!)?.[1];
  assert(name, `${document}:${line}: the first line is no name such as // greet.ts`);
  return name;
}

interface Command {
  line: number;
  text: string;
  /** The expected output; undefined if the document shows none. */
  shown?: string[];
}

function commandsOf(block: Block): Command[] {
  const commands: Command[] = [];
  let unfinished = false;
  for (const [i, line] of block.lines.entries()) {
    const prompt = block.language === "sh" ? /^(?!#)(.+)$/ : /^\$ (.*)$/;
    const text: string | undefined = unfinished ? line : prompt.exec(line)?.[1];
    if (text === undefined) {
      if (block.language === "console") (commands.at(-1)!.shown ??= []).push(line);
      continue;
    }
    if (unfinished) commands.at(-1)!.text += "\n" + line;
    else commands.push({ line: block.line + i, text });
    // A here-document ends at its word.
    const [, word] = /<< '(\w+)'$/m.exec(commands.at(-1)!.text) ?? [];
    unfinished = word === undefined ? text.endsWith("\\") : text !== word;
  }
  return commands;
}

/** The expected output as a regular expression. */
function patternOf(shown: string[], end: string): RegExp {
  const lines = shown.map((line) =>
    line === "…"
      ? "(?:.*\\n)*?"
      : line.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&").replaceAll("…", ".*") + "\\n"
  );
  return new RegExp(`^${lines.join("")}${end}`);
}

/** How long a command may take on a busy machine, in milliseconds. */
const PATIENCE = 180_000;

/** A shell that runs commands one after another. */
class Shell {
  #process: Deno.ChildProcess;
  #writer: WritableStreamDefaultWriter<Uint8Array>;
  #reader: ReadableStreamDefaultReader<string>;
  #folder: string;
  #commands = 0;

  constructor(cwd: string, folder: string, env: Record<string, string>) {
    this.#folder = folder;
    this.#process = new Deno.Command("bash", {
      args: ["--norc", "-O", "expand_aliases", "-s"], // As a shell that one types into.
      cwd,
      env,
      stdin: "piped",
      stdout: "piped",
      stderr: "null", // What commands say goes elsewhere.
    }).spawn();
    this.#writer = this.#process.stdin.getWriter();
    this.#reader = this.#process.stdout.pipeThrough(new TextDecoderStream()).getReader();
  }

  /** Runs a command and returns its status, and a function that returns its output so far. */
  async run(text: string): Promise<{ status: number; output: () => string }> {
    const path = `${this.#folder}/output-${++this.#commands}`;
    await this.#write(`{ ${text}\n} >${path} 2>&1 </dev/null\necho $?\n`);
    const answer = this.#reader.read();
    assert(await within(PATIENCE, answer), `${text}: still runs after ${PATIENCE} ms`);
    const { value, done } = await answer;
    assert(!done, `${text}: ended the shell`);
    const output = () => {
      const said = Deno.readTextFileSync(path).replace(/^Download .*\n|\r/gm, "");
      return said === "" || said.endsWith("\n") ? said : said + "\n";
    };
    return { status: Number(value), output };
  }

  /** Ends background jobs and the shell. */
  async end(): Promise<void> {
    // It may have ended already.
    await this.#write("kill $(jobs -p); wait; exit\n").catch(() => {});
    if (!await within(PATIENCE, this.#process.status)) this.#process.kill("SIGKILL");
    await this.#process.status;
    await this.#writer.close().catch(() => {});
    await this.#reader.cancel();
  }

  #write(text: string): Promise<void> {
    return this.#writer.write(new TextEncoder().encode(text));
  }
}

/** Options of {@linkcode runDocument}. */
export interface DocumentOptions {
  /** The folder that looks like a clone. */
  cwd: string;
  /** A temporary folder of this document. */
  folder: string;
  env: Record<string, string>;
  skipped: Skipped;
  /** Replaces ports and paths of the document by those of this run. */
  rewrite: (text: string) => string;
}

/** Runs the blocks of a document in order. Throws at the first that does not behave as shown. */
export async function runDocument(blocks: Block[], options: DocumentOptions): Promise<void> {
  const { cwd, folder, env, skipped, rewrite } = options;
  const shell = new Shell(cwd, folder, env);
  const saved = new Map<string, Block>();
  try {
    for (const block of blocks) {
      if (block.language === "ts") {
        const name = nameOf(block);
        await Deno.writeTextFile(`${cwd}/${name}`, rewrite(block.lines.join("\n")) + "\n");
        saved.set(name, block);
      } else if (block.language === "console" || block.language === "sh") {
        for (const command of commandsOf(block)) {
          const at = `${block.document}:${command.line}: ${command.text}`;
          const reason = skipped.find(([pattern]) => pattern.test(command.text))?.[1];
          if (reason) {
            console.log(`skipped: ${at}: ${reason}`);
            continue;
          }
          await runCommand(shell, command, at, rewrite);
          for (const name of saved.keys()) if (command.text.includes(name)) saved.delete(name);
        }
      } else {
        assert(
          block.language === "text",
          `${block.document}:${block.line}: expected console, sh, ts or text`,
        );
      }
    }
  } finally {
    await shell.end();
  }
  for (const [name, { document, line }] of saved) {
    throw new Error(`${document}:${line}: no command runs ${name}`);
  }
}

async function runCommand(
  shell: Shell,
  { text, shown }: Command,
  at: string,
  rewrite: (text: string) => string,
): Promise<void> {
  const { status, output } = await shell.run(rewrite(text));
  const expected = shown?.map(rewrite);
  const differs = () => `${at}\nshould say\n${expected?.join("\n")}\nand says\n${output()}`;
  if (text.endsWith("&")) {
    const pattern = patternOf(expected ?? [], "");
    await until(() => pattern.test(output())).catch((cause) => {
      throw new Error(differs(), { cause });
    });
  } else if (expected) {
    assertMatch(output(), patternOf(expected, "$"), differs());
  } else {
    assert(status === 0, `${at}: status ${status}\n${output()}`);
  }
}
