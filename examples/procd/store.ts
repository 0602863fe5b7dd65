/**
 * The daemon's state in one SQLite file: containers, execs, images, volumes and networks, each a
 * JSON document with indexed columns.
 *
 * During a takeover two daemons have it open. Each change is a transaction, and nothing is cached
 * in memory. One of the daemons, the owner, acts on its own: it records exits, restarts containers,
 * and removes them.
 *
 * @module
 */

import { DatabaseSync, type StatementSync } from "node:sqlite";
import { TypedError } from "../../mod.ts";
import { runs, statOf } from "./procfs.ts";

/** The version of the file's schema. */
const SCHEMA = 1;
/** How long to wait for another daemon's transaction, in milliseconds. */
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

/** A stored document. */
interface Row {
  body: string;
}

/** The database. */
export class Store {
  #db: DatabaseSync;
  #statements = new Map<string, StatementSync>();
  #self: string;

  /**
   * Opens the file, or creates it.
   *
   * @throws {Error} If a newer program has created it.
   */
  constructor(path: string) {
    this.#db = new DatabaseSync(path);
    Deno.chmodSync(path, 0o600);
    // NORMAL is safe if the daemon is killed. A power failure may lose the last changes, but also
    // ends all containers.
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

  /** The first row of a query. */
  get<T>(sql: string, ...values: (string | number)[]): T | undefined {
    return this.#prepared(sql).get(...values) as T | undefined;
  }

  /** All rows of a query. */
  all<T>(sql: string, ...values: (string | number)[]): T[] {
    return this.#prepared(sql).all(...values) as T[];
  }

  /** Runs a statement; returns how many rows it has changed. */
  run(sql: string, ...values: (string | number)[]): number {
    return Number(this.#prepared(sql).run(...values).changes);
  }

  /** The document in the column `body` of a query. */
  document<T>(sql: string, ...values: (string | number)[]): T | undefined {
    const row = this.get<Row>(sql, ...values);
    return row && JSON.parse(row.body);
  }

  /**
   * The document of this name or id, or the only one whose id begins with it; undefined if there is
   * none.
   *
   * @throws {TypedError} ("not found") If the ids of several begin with it.
   */
  named<T>(table: "containers" | "networks", name: string): T | undefined {
    const sql = `SELECT body FROM ${table} WHERE id = ?1 OR name = ?1 ORDER BY id = ?1 DESC`;
    return this.document<T>(sql, name) ?? this.beginning<T>(table, name);
  }

  /** The only document whose id, after `scheme`, begins with these digits. Throws as `named`. */
  beginning<T>(
    table: "containers" | "networks" | "images",
    digits: string,
    scheme = "",
  ): T | undefined {
    if (!/^[\da-f]{1,64}$/.test(digits)) return undefined;
    // LIKE would treat a client's % and _ as wildcards. "g" sorts after the last hexadecimal digit.
    const sql = `SELECT body FROM ${table} WHERE id >= ? AND id < ? LIMIT 2`;
    const [found, other] = this.documents<T>(sql, scheme + digits, `${scheme}${digits}g`);
    if (other === undefined) return found;
    throw new TypedError("not found", `multiple IDs found with provided prefix: ${digits}`);
  }

  /** Changes the document of an id, and returns it; undefined if there is none. */
  update<T>(
    table: "containers" | "execs",
    id: string,
    change: (document: T) => void,
  ): T | undefined {
    return this.transaction(() => {
      const document = this.document<T>(`SELECT body FROM ${table} WHERE id = ?`, id);
      if (document === undefined) return undefined;
      change(document);
      this.run(`UPDATE ${table} SET body = ? WHERE id = ?`, JSON.stringify(document), id);
      return document;
    });
  }

  /** The documents in the column `body` of a query. */
  documents<T>(sql: string, ...values: (string | number)[]): T[] {
    return this.all<Row>(sql, ...values).map(({ body }) => JSON.parse(body));
  }

  #prepared(sql: string): StatementSync {
    let statement = this.#statements.get(sql);
    if (!statement) this.#statements.set(sql, statement = this.#db.prepare(sql));
    return statement;
  }

  /** Runs `change` in a transaction. */
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

  /** Sets a value of the store as a whole. */
  setMeta(key: string, value: string): void {
    this.run("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value);
  }

  /**
   * Makes this process the owner.
   *
   * @param takeover Whether to replace a running owner.
   * @throws {TypedError} ("conflict") If another owner runs and `takeover` is false.
   */
  own(takeover: boolean): void {
    this.transaction(() => {
      const owner = this.meta("owner") ?? "";
      if (!takeover && owner !== this.#self && lives(owner)) {
        throw new TypedError(
          "conflict",
          `process ${
            parseInt(owner)
          } has this state already, expected --takeover or another FLOODGATE_STATE`,
        );
      }
      this.setMeta("owner", this.#self);
    });
  }

  /** Whether this process is the owner. It becomes the owner again if its successor has died. */
  get owned(): boolean {
    const owner = this.meta("owner") ?? "";
    if (owner === this.#self) return true;
    if (owner === "" || lives(owner)) return false;
    const sql = "UPDATE meta SET value = ? WHERE key = 'owner' AND value = ?";
    return this.run(sql, this.#self, owner) > 0;
  }

  /** Closes the file. */
  close(): void {
    this.transaction(() => {
      if (this.owned) this.setMeta("owner", "");
    });
    this.#db.close();
  }
}

/** Whether an owner's process runs: its id, and its start time. */
function lives(owner: string): boolean {
  const [pid = 0, startTime = 0] = owner.split(" ").map(Number);
  return pid > 0 && runs(pid, startTime);
}

/** A random id of 64 hexadecimal digits. */
export function newId(): string {
  return crypto.getRandomValues(new Uint8Array(32)).toHex();
}
