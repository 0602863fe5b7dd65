/**
 * A log in a file, which other programs may rename at any time.
 *
 * @module
 */

import { LineWriter } from "../engine/lines.ts";
import { oneLine } from "./process.ts";

/** How long the lines of a file that is left may take to be written, in milliseconds. */
const FLUSH = 1_000;
/** Only owner and group may read it: it tells what clients do. */
const MODE = 0o640;

/** Writes lines to the file that has a path. */
export class LogFile {
  #path: string;
  #file: Deno.FsFile;
  #writer: LineWriter;

  /**
   * Opens the file, and makes it where there is none. What is in it stays.
   *
   * @throws {Error} If it cannot be opened.
   */
  constructor(path: string) {
    this.#path = path;
    this.#file = open(path);
    this.#writer = new LineWriter(this.#file);
  }

  write(line: string): void {
    this.#writer.write(line);
  }

  /**
   * Opens what has the path now, as after a rename by logrotate(8).
   *
   * @returns What puts it in the place of the file before.
   * @throws {Error} If it cannot be opened; the file before stays.
   */
  reopen(): () => Promise<void> {
    const file = open(this.#path);
    return async () => {
      const [before, writer] = [this.#file, this.#writer];
      this.#file = file;
      this.#writer = new LineWriter(file);
      await writer.flush(FLUSH);
      before.close();
    };
  }
}

function open(path: string): Deno.FsFile {
  try {
    return Deno.openSync(path, { append: true, create: true, mode: MODE });
  } catch (error) {
    throw new Error(`cannot open --log-file ${path}: ${oneLine(error)}`, { cause: error });
  }
}
