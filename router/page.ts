/**
 * A page that lists the routes: what they take, what they answer, and a line for a shell to try
 * each.
 *
 * @module
 */

import type { Router } from "../router.ts";
import { formsOf } from "./answers.ts";
import { HONO } from "./hono.ts";
import { alternativesOf } from "./patterns.ts";
import type { Parameter, Route } from "./route.ts";
import { bodyOf, parametersOf } from "./validation.ts";

const { html } = await import(`${HONO}/html`) as typeof import("npm:hono@4.13.19/html");

/** Adds the page to a router, as `GET /debug/routes`. */
export function attachRoutes(router: Router): void {
  router.get("/debug/routes", (c) => {
    const { protocol, host } = new URL(c.req.url);
    const base = c.env.remoteAddr?.transport === "unix"
      ? '--unix-socket "$SOCKET" http://localhost'
      : `${protocol}//${host}`;
    return c.html(renderRoutes(router.rows(), base), 200, {
      "Content-Security-Policy":
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; " +
        "form-action 'none'; frame-ancestors 'none'",
      "Cache-Control": "no-store",
      "X-Content-Type-Options": "nosniff",
    });
  });
}

/** The page, as HTML. `base`: curl's arguments that reach the daemon. */
export function renderRoutes(rows: readonly Route[], base: string): string {
  const groups = Map.groupBy(rows, ({ tags }) => tags?.[0] ?? "");
  return String(html`
    <!DOCTYPE html>
    <html lang="en">
    <meta charset="utf-8">
    <meta name="viewport" content="width=device-width">
    <title>Routes</title>
    <style>${STYLE}</style>
    <h1>Routes</h1>
    <p>Each also with a version, <code>/v1.24/…</code>. The same for programs:
    <a href="../openapi.json">openapi.json</a>.</p>
    ${[...groups].map(([tag, rows]) =>
      html`
        <h2>${tag || "Others"}</h2>
        ${rows.map((row) => entry(row, base))}
      `
    )}
    </html>
  `);
}

const STYLE = `
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
article { border-top: 1px solid #8884; padding: .3rem 0 }
h3 { font: 600 1rem ui-monospace, monospace; margin: .4rem 0 }
p, ul { margin: .2rem 0 }
pre { overflow-x: auto; padding: .4rem .6rem; background: #8882 }
`;

function entry(row: Route, base: string) {
  const conditions = [
    row.since && `from API version ${row.since} on`,
    row.until && `up to API version ${row.until}`,
    row.when && `with ${row.when}`,
  ].filter(Boolean).join(", ");
  const takes: [string, Route["query"]][] = [
    ["path", row.params],
    ["query", row.query],
    ["header", row.headers],
    ["body", bodyOf(row)?.fields],
  ];
  return html`
    <article>
      <h3>${row.method} ${row.path}</h3>
      <p>${row.summary}${row.summary ? ". " : ""}Job <code>${row.job}</code>${conditions
        ? `, ${conditions}`
        : ""}; answers ${formsOf(row).map(({ status }) => status).join(", ")}.</p>
      <ul>${takes.flatMap(([place, fields]) =>
        parametersOf(fields).map(([name, parameter]) =>
          html`<li>${place} <code>${name}</code>: ${describeParameter(parameter)}</li>`
        )
      )}</ul>
      <pre>${curl(row, base)}</pre>
    </article>
  `;
}

function describeParameter(parameter: Parameter): string {
  const { type, required, description } = parameter;
  const { enum: values, default: fallback, minimum, maximum, names } = parameter as {
    enum?: readonly string[];
    default?: unknown;
    minimum?: number;
    maximum?: number;
    names?: readonly string[];
  };
  return [
    type + (required ? ", required" : ""),
    values && `one of ${values.join(", ")}`,
    names && `of ${names.join(", ")}`,
    minimum !== undefined && `at least ${minimum}`,
    maximum !== undefined && `at most ${maximum}`,
    fallback !== undefined && `default ${JSON.stringify(fallback)}`,
    description,
  ].filter(Boolean).join("; ");
}

/** A curl command with the row's required parameters, for a shell. */
export function curl(row: Route, base: string): string {
  const required = (declared: Route["query"]) =>
    parametersOf(declared).filter(([name, field]) => field.required || name === row.when);
  const path = alternativesOf(row.path).at(-1)!
    .map((each) => "/" + (typeof each === "string" ? each : each.name.toUpperCase())).join("");
  const query = required(row.query)
    .map(([name, field]) => `${encodeURIComponent(name)}=${encodeURIComponent(sample(field))}`);
  const version = row.until === undefined ? "" : `/v${row.until}`;
  const words = ["curl"];
  if (row.method === "HEAD") words.push("--head");
  else if (row.method !== "GET") words.push("-X", row.method);
  for (const [name, field] of required(row.headers)) {
    words.push("-H", quoted(`${name}: ${sample(field)}`));
  }
  const body = bodyOf(row);
  if (body?.type === "stdin") {
    const [type] = body.contentTypes ?? [];
    if (type !== undefined) words.push("-H", quoted(`Content-Type: ${type}`));
    words.push("-T", "FILE");
  }
  if (body?.type === "env") {
    const members = required(body.fields).map(([name, field]) => [name, sampleOf(field)]);
    words.push("--json", quoted(JSON.stringify(Object.fromEntries(members))));
  }
  if (body?.type === "form") {
    for (const [name, field] of required(body.fields)) {
      words.push("--data-urlencode", quoted(`${name}=${sample(field)}`));
    }
  }
  const [options, origin] = base.startsWith("--") ? base.split(/ (?=http)/) : [undefined, base];
  if (options !== undefined) words.push(options);
  words.push(quoted(`${origin}${version}${path}${query.length > 0 ? "?" + query.join("&") : ""}`));
  return words.join(" ");
}

function sample(parameter: Parameter): string {
  const [value] = [sampleOf(parameter)].flat();
  return typeof value === "string" ? value : JSON.stringify(value);
}

function sampleOf(parameter: Parameter): unknown {
  switch (parameter.type) {
    case "string":
      return parameter.enum?.[0] ?? "NAME";
    case "integer":
    case "number":
      return parameter.minimum ?? 1;
    case "boolean":
      return true;
    case "list":
      return [parameter.enum?.[0] ?? "NAME"];
    default:
      return {};
  }
}

/** A word in single quotes, for a POSIX shell. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}
