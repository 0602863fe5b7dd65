/**
 * What the daemon knows, in one file: containers, execs, images, volumes and networks, each a document
 * of JSON with the columns that it is looked for by.
 *
 * Two daemons may have it open, while one takes the place of the other. Each change is a transaction,
 * and nothing is kept in memory that the other could have changed; one of them, the owner, acts by
 * itself: it records how containers end, starts them again and removes them.
 *
 * @module
 */

import { DatabaseSync, type StatementSync } from "node:sqlite";
import { TypedError } from "../../mod.ts";
import { runs, statOf } from "./procfs.ts";

/** The form of the file that this program writes. */
const SCHEMA = 1;
/** How long one daemon waits for another's transaction, in milliseconds. */
const BUSY = 5_000;

const TABLES = `
  CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE containers (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL, body TEXT NOT NULL);
  CREATE INDEX containers_by_age ON containers (created);
  CREATE TABLE execs (id TEXT PRIMARY KEY, container TEXT NOT NULL, body TEXT NOT NULL);
  CREATE INDEX execs_of_container ON execs (container);
  CREATE TABLE images (id TEXT PRIMARY KEY, created INTEGER NOT NULL, body TEXT NOT NULL);
  CREATE TABLE tags (reference TEXT PRIMARY KEY, image TEXT NOT NULL) WITHOUT ROWID;
  CREATE TABLE volumes (id TEXT PRIMARY KEY, created INTEGER NOT NULL, body TEXT NOT NULL);
  CREATE TABLE networks (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, created INTEGER NOT NULL, body TEXT NOT NULL);
`;

/** A row as it is kept. */
interface Row {
  body: string;
}

/** The database. */
export class Store {
  #db: DatabaseSync;
  #statements = new Map<string, StatementSync>();
  #self: string;

  /**
   * Opens the file, or makes it.
   *
   * @throws {Error} If a newer program has made it.
   */
  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    Deno.chmodSync(path, 0o600);
    // NORMAL is safe against a daemon that is killed; a machine that loses its power may lose the last
    // changes, and has lost the containers anyway.
    this.#db.exec(`PRAGMA busy_timeout = ${BUSY}; PRAGMA journal_mode = WAL`);
    this.#db.exec("PRAGMA synchronous = NORMAL");
    this.#self = `${Deno.pid} ${statOf(Deno.pid)?.startTime}`;
    try {
      this.transaction(() => this.#migrate(path));
    } catch (error) {
      this.#db.close();
      throw error;
    }
  }

  #migrate(path: string): void {
    const { user_version: version } = this.get<{ user_version: number }>("PRAGMA user_version")!;
    if (version === SCHEMA) return;
    if (version !== 0) {
      throw new Error(`${path} has schema ${version}, expected ${SCHEMA}: a newer program made it`);
    }
    this.#db.exec(TABLES);
    this.#db.exec(`PRAGMA user_version = ${SCHEMA}`);
  }

  /** The first row that a query gives. */
  get<T>(sql: string, ...values: (string | number)[]): T | undefined {
    return this.#prepared(sql).get(...values) as T | undefined;
  }

  /** All rows that a query gives. */
  all<T>(sql: string, ...values: (string | number)[]): T[] {
    return this.#prepared(sql).all(...values) as T[];
  }

  /** Runs a statement, and gives how many rows it has changed. */
  run(sql: string, ...values: (string | number)[]): number {
    return Number(this.#prepared(sql).run(...values).changes);
  }

  /** The document that a query gives as `body`. */
  document<T>(sql: string, ...values: (string | number)[]): T | undefined {
    const row = this.get<Row>(sql, ...values);
    return row && JSON.parse(row.body);
  }

  /** The documents that a query gives as `body`. */
  documents<T>(sql: string, ...values: (string | number)[]): T[] {
    return this.all<Row>(sql, ...values).map(({ body }) => JSON.parse(body));
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, statement = this.#db.prepare(sql));
    return statement;
  }

  /** All that `change` does, or nothing of it. */
  transaction<T>(change: () => T): T {
    if (this.#db.isTransaction) return change();
    this.#db.exec("BEGIN IMMEDIATE");
    try {
      const result = change();
      this.#db.exec("COMMIT");
      return result;
    } catch (error) {
      if (this.#db.isTransaction) this.#db.exec("ROLLBACK");
      throw error;
    }
  }

  /** A value of the store as a whole. */
  meta(key: string): string | undefined {
    return this.get<{ value: string }>("SELECT value FROM meta WHERE key = ?", key)?.value;
  }

  /** Sets such a value. */
  setMeta(key: string, value: string): void {
    this.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value);
  }

  /**
   * Makes this process the owner.
   *
   * @param takeover Whether another that runs is to be replaced.
   * @throws {TypedError} ("conflict") If another runs, and is not to be.
   */
  own(takeover: boolean): void {
    this.transaction(() => {
      const [pid = 0, startTime = 0] = (this.meta("owner") ?? "").split(" ").map(Number);
      if (!takeover && pid > 0 && pid !== Deno.pid && runs(pid, startTime)) {
        throw new TypedError(
          "conflict",
          `process ${pid} has this state already, expected --takeover or another FLOODGATE_STATE`,
        );
      }
      this.setMeta("owner", this.#self);
    });
  }

  /** Whether this process is the owner. It is again where the one that replaced it has died. */
  get owned(): boolean {
    const owner = this.meta("owner");
    if (owner === this.#self) return true;
    const [pid = 0, startTime = 0] = (owner ?? "").split(" ").map(Number);
    return pid > 0 && !runs(pid, startTime) && this.#reclaim(owner!);
  }

  #reclaim(from: string): boolean {
    const sql = "UPDATE meta SET value = ? WHERE key = 'owner' AND value = ?";
    return this.run(sql, this.#self, from) > 0;
  }

  /** Closes the file. */
  close(): void {
    this.transaction(() => {
      if (this.owned) this.setMeta("owner", "");
    });
    this.#db.close();
  }
}

/** Sixty-four hexadecimal digits that no two things share. */
export function newId(): string {
  return [...crypto.getRandomValues(new Uint8Array(32))]
    .map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The bounds of ids that begin so, for a query: LIKE would take a client's % and _ for wildcards.
 * Undefined where none can.
 */
export function idRange(prefix: string): [from: string, to: string] | undefined {
  // "g" is what comes after the last digit.
  return /^[\da-f]{1,64}$/.test(prefix) ? [prefix, `${prefix}g`] : undefined;
}
