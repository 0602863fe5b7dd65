/**
 * Archives (tar(5)): written in POSIX format, with pax headers where a field is too short; read in
 * that format and GNU's.
 *
 * @module
 */

import { Buffer } from "node:buffer";
import { failure } from "./daemon.ts";

/** The metadata of a file in an archive. */
export interface TarHeader {
  name: string;
  type: "file" | "directory" | "symlink" | "link" | "other";
  size: number;
  mode: number;
  /** Seconds since 1970. */
  mtime: number;
  uid: number;
  gid: number;
  /** The target of a link. */
  target: string;
}

const BLOCK = 512;
const encoder = new TextEncoder();
const decoder = new TextDecoder();
/** The largest number of eleven octal digits. */
const OCTAL_MAX = 0o77_777_777_777;
const TYPES = { file: "0", link: "1", symlink: "2", directory: "5", other: "0" } as const;

/** A header, after a pax header if one is needed. */
export function headerBytes(header: TarHeader): Uint8Array<ArrayBuffer> {
  const pax: string[] = [];
  const add = (key: string, value: string) => {
    // The length at the beginning includes its own digits.
    const rest = ` ${key}=${value}\n`;
    const bytes = encoder.encode(rest).length;
    let length = bytes + 1;
    while (String(length).length + bytes !== length) length++;
    pax.push(`${length}${rest}`);
  };
  const short = (text: string) => encoder.encode(text).length <= 100;
  // deno-lint-ignore no-control-regex -- other than ASCII needs a pax header
  const plain = (text: string) => short(text) && /^[\x00-\x7f]*$/.test(text);
  if (!plain(header.name)) add("path", header.name);
  if (!plain(header.target)) add("linkpath", header.target);
  if (header.size > OCTAL_MAX) add("size", String(header.size));
  const own = block(header, TYPES[header.type]);
  if (pax.length === 0) return own;
  const body = encoder.encode(pax.join(""));
  const about = { ...header, name: "pax", target: "", size: body.length, mode: 0o644 };
  const extended = block(about, "x");
  return Buffer.concat([extended, body, padding(body.length), own]);
}

function block(header: TarHeader, type: string): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(BLOCK);
  const text = (at: number, length: number, value: string) => {
    bytes.set(encoder.encode(value).subarray(0, length), at);
  };
  const octal = (at: number, length: number, value: number) => {
    text(at, length, Math.min(value, OCTAL_MAX).toString(8).padStart(length - 1, "0"));
  };
  text(0, 100, header.name);
  octal(100, 8, header.mode & 0o7777);
  octal(108, 8, header.uid & 0o7_777_777);
  octal(116, 8, header.gid & 0o7_777_777);
  octal(124, 12, header.size);
  octal(136, 12, Math.max(0, Math.floor(header.mtime)));
  text(148, 8, "        ");
  text(156, 1, type);
  text(157, 100, header.target);
  text(257, 8, "ustar\x0000");
  octal(148, 7, bytes.reduce((sum, byte) => sum + byte, 0));
  return bytes;
}

/** The padding after a file of this size. */
export function padding(length: number): Uint8Array<ArrayBuffer> {
  return new Uint8Array((BLOCK - length % BLOCK) % BLOCK);
}

/** The end of an archive. */
export const TAR_END = new Uint8Array(2 * BLOCK);

/** A file of an archive that is being read. */
export interface TarEntry extends TarHeader {
  /** Its content, to be read before the next entry; the rest is skipped. */
  body: AsyncGenerator<Uint8Array<ArrayBuffer>>;
}

/**
 * Reads an archive as a stream.
 *
 * @throws {TypedError} ("bad parameter") If it is not an archive, or truncated.
 */
export async function* readTar(stream: ReadableStream<Uint8Array>): AsyncGenerator<TarEntry> {
  const source = new Source(stream);
  let given: Partial<TarHeader> = {};
  try {
    for (;;) {
      const bytes = await source.exactly(BLOCK, true);
      if (bytes === undefined) return;
      if (bytes.every((byte) => byte === 0)) {
        await source.rest();
        return;
      }
      const { header, type } = parse(bytes);
      if (type === "x" || type === "L" || type === "K" || type === "g") {
        if (header.size > 1_048_576) throw malformed("a header of more than a megabyte");
        const body = decoder.decode(await source.exactly(header.size));
        await source.exactly(padding(header.size).length);
        if (type === "x") given = { ...given, ...parsePax(body) };
        else if (type === "L") given.name = body.replace(/\0.*$/s, "");
        else if (type === "K") given.target = body.replace(/\0.*$/s, "");
        continue;
      }
      const entry = { ...header, ...given };
      given = {};
      const size = entry.type === "file" ? entry.size : 0;
      let left = size;
      const body = (async function* () {
        while (left > 0) {
          const chunk = await source.upTo(left);
          left -= chunk.length;
          yield chunk;
        }
      })();
      yield { ...entry, size, body };
      while (left > 0) left -= (await source.upTo(left)).length;
      await source.exactly(padding(size).length);
    }
  } finally {
    source.close();
  }
}

function malformed(why: string) {
  return failure("bad parameter", `the archive is not a tar: ${why}`);
}

function parse(bytes: Uint8Array): { header: TarHeader; type: string } {
  const text = (at: number, length: number) =>
    decoder.decode(bytes.subarray(at, at + length)).replace(/\0.*$/s, "");
  const number = (at: number, length: number) => {
    if ((bytes[at] ?? 0) & 0x80) { // GNU's big-endian form, for numbers beyond octal digits.
      return bytes.subarray(at + 1, at + length).reduce((sum, byte) => sum * 256 + byte, 0);
    }
    const digits = text(at, length).trim();
    if (!/^[0-7]*$/.test(digits)) {
      throw malformed(`${JSON.stringify(digits.slice(0, 20))} is not an octal number`);
    }
    return parseInt(digits || "0", 8);
  };
  const sum = bytes.reduce((all, byte, i) => all + (i >= 148 && i < 156 ? 0x20 : byte), 0);
  if (sum !== number(148, 8)) throw malformed("a header's checksum is wrong");
  const type = text(156, 1) || "0";
  const prefix = text(257, 5) === "ustar" && bytes[263] === 0x30 ? text(345, 155) : "";
  const name = text(0, 100);
  const kinds: Record<string, TarHeader["type"]> = {
    0: "file",
    7: "file",
    1: "link",
    2: "symlink",
    5: "directory",
  };
  return {
    type,
    header: {
      name: prefix ? `${prefix}/${name}` : name,
      type: kinds[type] ?? "other",
      size: number(124, 12),
      mode: number(100, 8),
      mtime: number(136, 12),
      uid: number(108, 8),
      gid: number(116, 8),
      target: text(157, 100),
    },
  };
}

function parsePax(text: string): Partial<TarHeader> {
  const found: Partial<TarHeader> = {};
  const bytes = encoder.encode(text);
  for (let at = 0; at < bytes.length;) {
    const space = bytes.indexOf(0x20, at);
    const length = Number(decoder.decode(bytes.subarray(at, space)));
    if (!(length > 0) || space < 0) throw malformed("a pax header without a length");
    const [, key, value = ""] = /^([^=]*)=(.*)\n$/s
      .exec(decoder.decode(bytes.subarray(space + 1, at + length))) ?? [];
    if (key === "path") found.name = value;
    else if (key === "linkpath") found.target = value;
    else if (key === "size") found.size = Number(value);
    else if (key === "mtime") found.mtime = Number(value);
    at += length;
  }
  return found;
}

/** Reads the content of an entry as text. */
export async function textOf({ body }: TarEntry): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for await (const chunk of body) text += decoder.decode(chunk, { stream: true });
  return text;
}

/** Reads a stream in pieces of wanted lengths. */
class Source {
  #reader: ReadableStreamDefaultReader<Uint8Array>;
  #chunk: Uint8Array = new Uint8Array(0);
  constructor(stream: ReadableStream<Uint8Array>) {
    this.#reader = stream.getReader();
  }
  async #more(): Promise<boolean> {
    while (this.#chunk.length === 0) {
      const { value, done } = await this.#reader.read();
      if (done) return false;
      this.#chunk = value;
    }
    return true;
  }
  /** The next bytes, at most `most`. */
  async upTo(most: number): Promise<Uint8Array<ArrayBuffer>> {
    if (!await this.#more()) throw malformed("it breaks off");
    const taken = this.#chunk.slice(0, most);
    this.#chunk = this.#chunk.subarray(taken.length);
    return taken;
  }
  /** Exactly this many bytes; undefined at the end, if that is allowed. */
  async exactly(length: number): Promise<Uint8Array<ArrayBuffer>>;
  async exactly(length: number, orEnd: true): Promise<Uint8Array<ArrayBuffer> | undefined>;
  async exactly(length: number, orEnd = false): Promise<Uint8Array<ArrayBuffer> | undefined> {
    if (orEnd && !await this.#more()) return undefined;
    const all = new Uint8Array(length);
    for (let at = 0; at < length;) {
      const part = await this.upTo(length - at);
      all.set(part, at);
      at += part.length;
    }
    return all;
  }
  /** Reads to the end: clients report an error if their upload is not read completely. */
  async rest(): Promise<void> {
    while (await this.#more()) this.#chunk = new Uint8Array(0);
  }
  close(): void {
    this.#reader.releaseLock();
  }
}
