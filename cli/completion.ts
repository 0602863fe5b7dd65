/**
 * What shells complete the program's flags by: `floodgate completion bash`, `zsh` or `fish`.
 *
 * @module
 */

import type { Setting } from "../builtins/settings.ts";
import { TypedError } from "../engine/errors.ts";

/** A setting with a flag. */
type Flag = Setting & { readonly flag: string };

/** What a flag's value is completed by. */
type Values = { readonly words: readonly string[] } | "files" | "none";

/**
 * The script for a shell.
 *
 * @throws {TypedError} ("bad parameter") If there is none for it.
 */
export function completion(shell: string | undefined, flags: readonly Flag[]): string {
  const script = { bash, zsh, fish }[shell ?? ""];
  if (script) return script(flags);
  const problem = shell === undefined ? "completion needs a shell" : `completion ${shell}`;
  throw new TypedError("bad parameter", `${problem}: expected one of bash, zsh, fish`);
}

function valuesOf({ kind: { choices, expected }, flag }: Flag): Values {
  if (choices) return { words: choices };
  return expected === "a path" || flag === "install" ? "files" : "none";
}

function namesOf({ flag, letter }: Flag): string[] {
  return [`--${flag}`, ...letter === undefined ? [] : [`-${letter}`]];
}

function bash(flags: readonly Flag[]): string {
  const cases = flags.filter(({ takes }) => takes !== undefined).map((flag) => {
    const values = valuesOf(flag);
    const reply = values === "none"
      ? "COMPREPLY=()"
      : values === "files"
      ? 'mapfile -t COMPREPLY < <(compgen -f -- "$current")'
      : `mapfile -t COMPREPLY < <(compgen -W '${values.words.join(" ")}' -- "$current")`;
    return `    ${namesOf(flag).join("|")}) ${reply} ;;`;
  });
  return `# floodgate completion bash: source it, or put it into /etc/bash_completion.d
_floodgate() {
  local current=\${COMP_WORDS[COMP_CWORD]} previous=\${COMP_WORDS[COMP_CWORD - 1]}
  case $previous in
${cases.join("\n")}
    *) mapfile -t COMPREPLY < <(compgen -W '${flags.flatMap(namesOf).join(" ")}' -- "$current") ;;
  esac
}
complete -o filenames -F _floodgate floodgate
`;
}

function zsh(flags: readonly Flag[]): string {
  const specs = flags.flatMap((flag) => {
    const values = valuesOf(flag);
    const action = values === "none"
      ? " "
      : values === "files"
      ? "_files"
      : `(${values.words.join(" ")})`;
    const value = flag.takes === undefined ? "" : `:${flag.takes.replaceAll(":", "\\:")}:${action}`;
    const help = summary(flag).replace(/[[\]\\:]/g, "\\$&");
    return namesOf(flag).map((name) =>
      `  ${quoted(`${flag.list ? "*" : ""}${name}[${help}]${value}`)}`
    );
  });
  return `#compdef floodgate
# floodgate completion zsh: put it as _floodgate into a folder of $fpath
_arguments \\
${specs.join(" \\\n")}
`;
}

function fish(flags: readonly Flag[]): string {
  const lines = flags.map((flag) => {
    const values = valuesOf(flag);
    const names = `-l ${flag.flag}` + (flag.letter === undefined ? "" : ` -s ${flag.letter}`);
    const value = flag.takes === undefined
      ? ""
      : values === "files"
      ? " -r -F"
      : values === "none"
      ? " -x"
      : ` -x -a ${quoted(values.words.join(" "))}`;
    return `complete -c floodgate ${names}${value} -d ${quoted(summary(flag))}`;
  });
  return `# floodgate completion fish: put it into ~/.config/fish/completions/floodgate.fish
complete -c floodgate -f
${lines.join("\n")}
`;
}

/** The first part of what a flag is for. */
function summary({ help }: Flag): string {
  return help.replaceAll("\`", "").split(/[;:,.] /, 1)[0]!;
}

/** For a shell, as one word. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
