/**
 * What a row may answer when its job succeeds.
 *
 * @module
 */

import type { AnswerKind, AnswerSpec, Route } from "./route.ts";

/** An answer in full. */
export interface Form extends AnswerSpec {
  readonly status: number;
  readonly type: AnswerKind;
  /** Undefined where there is no body. */
  readonly contentType?: string;
  readonly stream: boolean;
  /** Whether a stream's headers are sent before the job writes. */
  readonly eager: boolean;
}

const FORMS: Record<AnswerKind, { contentType?: string; stream: boolean }> = {
  json: { contentType: "application/json", stream: false },
  lines: { contentType: "application/json", stream: true },
  tar: { contentType: "application/x-tar", stream: false },
  text: { contentType: "text/plain; charset=utf-8", stream: false },
  raw: { contentType: "application/octet-stream", stream: true },
  frames: { contentType: "application/vnd.docker.multiplexed-stream", stream: true },
  none: { stream: false },
};

/** Statuses whose answers have no body (RFC 9110). */
const BODILESS = [204, 205, 304];

/**
 * The answers of a row: first the one of a job that succeeds and says nothing else.
 *
 * @throws {TypeError} If the row's answers cannot be.
 */
export function formsOf(route: Route): readonly [Form, ...Form[]] {
  const { answers, status = 200, contentType, stream } = route;
  if (answers === undefined) {
    const type = BODILESS.includes(status) ? "none" : "json";
    return [form(status, { type, ...contentType && { contentType }, ...stream && { stream } })];
  }
  if ((route.status ?? contentType ?? stream) !== undefined) {
    throw new TypeError("answers stands in place of status, contentType and stream: expected one");
  }
  const forms = Object.entries(answers).map(([key, answer]) =>
    form(Number(key), typeof answer === "string" ? { type: answer } : answer)
  );
  const usual = forms.find(({ status }) => status < 300) ?? forms[0];
  if (usual === undefined) throw new TypeError("answers is empty, expected a status at least");
  return [usual, ...forms.filter((each) => each !== usual)];
}

function form(status: number, answer: AnswerSpec): Form {
  const { type = "json" } = answer;
  if (!Object.hasOwn(FORMS, type)) {
    throw new TypeError(
      `answer ${status} is "${type}", expected one of ${Object.keys(FORMS).join(", ")}`,
    );
  }
  if (!Number.isInteger(status) || status < 200 || status > 399) {
    throw new TypeError(`answer ${status} is none of a success, expected 200 to 399`);
  }
  if (BODILESS.includes(status) && type !== "none") {
    throw new TypeError(`answer ${status} is "${type}", expected none: it has no body`);
  }
  // Throws now, and not at the first request, if it cannot be sent so.
  if (answer.contentType !== undefined) new Headers({ "Content-Type": answer.contentType });
  return { ...FORMS[type], ...answer, type, status, eager: answer.stream === true };
}
