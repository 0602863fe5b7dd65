/**
 * The answers that a row declares for a job that succeeds.
 *
 * @module
 */

import { BODYLESS } from "./respond.ts";
import type { AnswerKind, AnswerSpec, Route } from "./route.ts";
import { checkMembers, type Members } from "./validation.ts";

const MEMBERS: Members<AnswerSpec> = {
  type: 1,
  contentType: 1,
  stream: 1,
  headers: 1,
  schema: 1,
  description: 1,
};

/** An answer with all defaults filled in. */
export interface Form extends AnswerSpec {
  readonly status: number;
  readonly type: AnswerKind;
  /** Undefined if the answer has no body. */
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

/**
 * The answers of a row. The first is that of a job which sets no outcome.
 *
 * @throws {TypeError} If the row's answers are invalid or contradict each other.
 */
export function formsOf({ answers = {}, ...route }: Route): readonly [Form, ...Form[]] {
  const statuses = Object.keys(answers).map(Number);
  const status = route.status ?? statuses.find((each) => each >= 200 && each < 300) ?? 200;
  // contentType and stream of the row are the defaults of answers that declare no type of their
  // own.
  const forms = [...new Set([status, ...statuses])].map((each) => {
    const given = answers[each] ?? {};
    const answer = typeof given === "string" ? { type: given } : given;
    checkMembers(`answer ${each}`, answer, MEMBERS);
    const { contentType, stream } = answer.type === undefined ? route : {} as Route;
    return form(each, { ...contentType && { contentType }, ...stream && { stream }, ...answer });
  });
  return forms as [Form, ...Form[]];
}

function form(status: number, answer: AnswerSpec): Form {
  const isEmpty = BODYLESS.includes(status);
  const { type = isEmpty ? "none" : "json" } = answer;
  if (!Object.hasOwn(FORMS, type)) {
    throw new TypeError(
      `answer ${status} is "${type}", expected one of ${Object.keys(FORMS).join(", ")}`,
    );
  }
  if (isEmpty && type !== "none") {
    throw new TypeError(`answer ${status} is "${type}", expected none: it has no body`);
  }
  if (!Number.isInteger(status) || status < 200 || status > 599) {
    throw new TypeError(`answer ${status} is not a status, expected 200 to 599`);
  }
  const eager = answer.stream === true;
  return { ...FORMS[type], ...answer, type, status, eager };
}
