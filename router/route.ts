/**
 * A row of the route table: types only.
 *
 * @module
 */

/** One row of the route table: which requests run which job, and how they map to it. */
export interface Route {
  /** The HTTP method. */
  method: "GET" | "HEAD" | "POST" | "PUT" | "PATCH" | "DELETE";
  /** A Hono pattern, without version. Its variables, in order, become the job's arguments. */
  path: string;
  /** The job's name. */
  job: string;
  /** The query parameters that become variables of the job's env. */
  query?: readonly string[];
  /** The request body: nothing (the default), the job's stdin, or a JSON object into its env. */
  body?: "stdin" | "env";
  /** Whether the answer is sent as the job writes it, and not when it has ended. Default false. */
  stream?: boolean;
  /** The answer's Content-Type. Default `application/json`. */
  contentType?: string;
  /** The answer's status if the job succeeds. Default 200, or 204 if it has written nothing. */
  status?: number;
  /** The statuses that the job may choose in its place, by {@linkcode Job.outcome}. */
  answers?: Readonly<Record<number, unknown>>;
  /** The longest body in bytes, `Infinity` for any. Default: the router's. */
  bodyLimit?: number;
}
