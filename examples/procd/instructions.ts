/**
 * The instructions of a Dockerfile that set an image's configuration, for `build` and `commit
 * --change`.
 *
 * @module
 */

import { failure } from "./daemon.ts";
import { durationOf } from "./filters.ts";
import type { Healthcheck, ImageConfig } from "./images.ts";

/** The words of a command: a JSON list, or a line for the image's shell. */
export function command(text: string, { Shell }: ImageConfig): string[] {
  return listOf(text) ?? [...Shell ?? ["/bin/sh", "-c"], text];
}

function listOf(text: string): string[] | undefined {
  if (!text.startsWith("[")) return undefined;
  try {
    const list = JSON.parse(text);
    if (Array.isArray(list) && list.every((each) => typeof each === "string")) return list;
  } catch {
    // A line for the shell may begin with a bracket too.
  }
  return undefined;
}

/** Splits a line into words like a shell: quotes group, a backslash escapes. */
export function words(text: string): string[] {
  const found = text.match(/(?:[^\s"'\\]|\\.|"(?:[^"\\]|\\.)*"|'[^']*')+/g) ?? [];
  return found.map((word) =>
    word.replace(
      /"((?:[^"\\]|\\.)*)"|'([^']*)'|\\(.)/g,
      (_all, double, single, escaped) =>
        double !== undefined ? double.replace(/\\(["\\$])/g, "$1") : single ?? escaped,
    )
  );
}

/** `A=1 B="2 3"`, or the old form `A 1`. */
function pairs(text: string): [string, string][] {
  const [first, ...rest] = words(text);
  if (first !== undefined && !first.includes("=")) return [[first, rest.join(" ")]];
  return words(text).map((word) => {
    const at = word.indexOf("=");
    if (at < 1) throw failure("bad parameter", `"${word}" is not NAME=VALUE`);
    return [word.slice(0, at), word.slice(at + 1)];
  });
}

/** A duration such as `1m30s`, in nanoseconds. */
function nanoseconds(text: string): number {
  const ms = durationOf(text);
  if (ms !== undefined) return ms * 1e6;
  throw failure("bad parameter", `"${text}" is not a duration, expected such as 30s`);
}

function healthcheck(text: string): Healthcheck {
  const check: Healthcheck = {};
  let rest = text;
  for (let flag; (flag = /^--([a-z-]+)=(\S+)\s+/.exec(rest));) {
    const [all, name, value = ""] = flag;
    rest = rest.slice(all.length);
    if (name === "interval") check.Interval = nanoseconds(value);
    else if (name === "timeout") check.Timeout = nanoseconds(value);
    else if (name === "start-period") check.StartPeriod = nanoseconds(value);
    else if (name === "start-interval") check.StartInterval = nanoseconds(value);
    else if (name === "retries") check.Retries = Number(value);
    else throw failure("bad parameter", `unknown flag of HEALTHCHECK: ${name}`);
  }
  if (rest.toUpperCase() === "NONE") return { Test: ["NONE"] };
  const [, line] = /^CMD\s+(.+)$/is.exec(rest) ?? [];
  if (line === undefined) throw failure("bad parameter", "HEALTHCHECK: expected CMD or NONE");
  const list = listOf(line);
  return { ...check, Test: list ? ["CMD", ...list] : ["CMD-SHELL", line] };
}

/**
 * Applies an instruction to an image's configuration.
 *
 * @throws {TypedError} ("bad parameter") If the instruction is unknown or malformed.
 */
export function applied(config: ImageConfig, instruction: string): ImageConfig {
  const [, name, text = ""] = /^\s*([A-Za-z]+)\s+(.*?)\s*$/s.exec(instruction) ?? [];
  if (name === undefined) {
    throw failure(
      "bad parameter",
      `"${instruction}" is not an instruction that is known here, expected such as ENV A=1`,
    );
  }
  switch (name.toUpperCase()) {
    case "CMD":
      return { ...config, Cmd: command(text, config) };
    case "ENTRYPOINT":
      return { ...config, Entrypoint: command(text, config), Cmd: null };
    case "ENV": {
      const given = pairs(text);
      const kept = (config.Env ?? []).filter((each) =>
        !given.some(([key]) => each.startsWith(`${key}=`))
      );
      return { ...config, Env: [...kept, ...given.map(([key, value]) => `${key}=${value}`)] };
    }
    case "LABEL":
      return { ...config, Labels: { ...config.Labels, ...Object.fromEntries(pairs(text)) } };
    case "USER":
      return { ...config, User: text };
    case "WORKDIR": {
      const base = (config.WorkingDir ?? "/").replace(/\/$/, "");
      return { ...config, WorkingDir: text.startsWith("/") ? text : `${base}/${text}` };
    }
    case "EXPOSE": {
      const ports = words(text).map((port) => [port.includes("/") ? port : `${port}/tcp`, {}]);
      return { ...config, ExposedPorts: { ...config.ExposedPorts, ...Object.fromEntries(ports) } };
    }
    case "VOLUME": {
      const paths = (listOf(text) ?? words(text)).map((path) => [path, {}]);
      return { ...config, Volumes: { ...config.Volumes, ...Object.fromEntries(paths) } };
    }
    case "STOPSIGNAL":
      return { ...config, StopSignal: text };
    case "SHELL": {
      const Shell = listOf(text);
      if (!Shell?.length) throw failure("bad parameter", `SHELL ${text}: expected a JSON list`);
      return { ...config, Shell };
    }
    case "HEALTHCHECK":
      return { ...config, Healthcheck: healthcheck(text) };
    default:
      throw failure("bad parameter", `${name} is not a valid change command`);
  }
}
