/**
 * Splits JSON text (RFC 8259) into the members or elements of its outermost value, each as JSON
 * text, so that numbers keep all their digits. One pass checks the text and builds no values, so
 * that its cost is bounded by its length.
 *
 * @module
 */

/** How deep a value may be nested, as in Go's encoding/json. */
const MAX_DEPTH = 10_000;
/** How many members the outermost object may have: each becomes a variable. */
const MAX_MEMBERS = 100_000;

/**
 * The members of a JSON object by name, each as its JSON text without white space between tokens.
 * Of several members of one name the last wins, at the place of the first.
 *
 * @throws {SyntaxError} If the text is not a JSON object, or has too many members.
 */
export function membersOf(text: string): Map<string, string> {
  try {
    return readMembers(new Reader(text));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new SyntaxError(`expected a JSON object: ${error.message}`);
  }
}

function readMembers(reader: Reader): Map<string, string> {
  const members = new Map<string, string>();
  reader.each(OPEN_BRACE, CLOSE_BRACE, () => {
    const name = JSON.parse(reader.name());
    members.set(name, reader.value());
    if (members.size > MAX_MEMBERS) throw new SyntaxError(`more than ${MAX_MEMBERS} members`);
  });
  return members;
}

/** The elements of a JSON array, each as its JSON text; undefined if the text is not an array. */
export function elementsOf(text: string): string[] | undefined {
  return attempt(() => {
    const reader = new Reader(text);
    const elements: string[] = [];
    reader.each(OPEN_BRACKET, CLOSE_BRACKET, () => elements.push(reader.value()));
    return elements;
  });
}

/** A JSON text without white space between its tokens; undefined if the text is not JSON. */
export function compactJson(text: string): string | undefined {
  return attempt(() => new Reader(text).whole());
}

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch (error) {
    if (error instanceof SyntaxError) return undefined;
    throw error;
  }
}

const [OPEN_BRACE, CLOSE_BRACE, OPEN_BRACKET, CLOSE_BRACKET, COLON, COMMA, QUOTE, BACKSLASH] =
  codesOf("{", "}", "[", "]", ":", ",", '"', "\\");
const [ZERO, NINE, MINUS, PLUS, DOT] = codesOf("0", "9", "-", "+", ".");
const ESCAPES = new Set([...'"\\/bfnrt'].map((char) => char.charCodeAt(0)));

/** Reads a JSON text from its beginning to its end. */
class Reader {
  at = 0;
  #text: string;
  /** Whether white space was skipped since this was last reset. */
  #spaced = false;

  constructor(text: string) {
    this.#text = text;
  }

  /** Reads the brackets that the whole text is in, and by `read` each thing between them. */
  each(open: number, close: number, read: () => void): void {
    if (this.peek() !== open) throw this.unexpected(`"${String.fromCharCode(open)}"`);
    this.at++;
    if (this.peek() === close) this.at++;
    else do read(); while (this.next(close));
    this.end();
  }

  /** Skips white space and returns the code of the character there, NaN at the end of the text. */
  peek(): number {
    const text = this.#text;
    for (;;) {
      const code = text.charCodeAt(this.at);
      if (code !== 0x20 && code !== 0x0a && code !== 0x0d && code !== 0x09) return code;
      this.#spaced = true;
      this.at++;
    }
  }

  /** The name of a member, with its quotes, and the colon after it. */
  name(): string {
    if (this.peek() !== QUOTE) throw this.unexpected("a name in quotes");
    const start = this.at;
    this.#string();
    const name = this.#text.slice(start, this.at);
    if (this.peek() !== COLON) throw this.unexpected('":"');
    this.at++;
    return name;
  }

  /** Reads a comma (true) or the closing bracket `close` (false). */
  next(close: number): boolean {
    const code = this.peek();
    if (code !== COMMA && code !== close) {
      throw this.unexpected(`"," or "${String.fromCharCode(close)}"`);
    }
    this.at++;
    return code === COMMA;
  }

  /** Reads a value, as text without white space between its tokens. */
  value(): string {
    this.peek();
    const start = this.at;
    this.#spaced = false;
    this.#skip();
    return this.#spaced
      ? withoutSpace(this.#text, start, this.at)
      : this.#text.slice(start, this.at);
  }

  /** Reads the one value that makes up the whole text. */
  whole(): string {
    const value = this.value();
    this.end();
    return value;
  }

  end(): void {
    if (this.at < this.#text.length && !Number.isNaN(this.peek())) {
      throw this.unexpected("the end");
    }
  }

  /** Skips a value. Open brackets are in a list, so that nesting cannot overflow the stack. */
  #skip(): void {
    const open: number[] = [];
    for (;;) {
      const code = this.peek();
      if (code === OPEN_BRACE || code === OPEN_BRACKET) {
        this.at++;
        const close = code === OPEN_BRACE ? CLOSE_BRACE : CLOSE_BRACKET;
        if (this.peek() !== close) {
          if (open.push(close) > MAX_DEPTH) {
            throw new SyntaxError(`nested more than ${MAX_DEPTH} deep`);
          }
          if (close === CLOSE_BRACE) this.name();
          continue;
        }
        this.at++;
      } else if (code === QUOTE) this.#string();
      else if (code === MINUS || isDigit(code)) this.#number();
      else this.#word();
      for (;;) {
        if (open.length === 0) return;
        const close = open[open.length - 1]!;
        if (this.next(close)) {
          if (close === CLOSE_BRACE) this.name();
          break;
        }
        open.pop();
      }
    }
  }

  #string(): void {
    const text = this.#text;
    for (let at = this.at + 1;; at++) {
      const code = text.charCodeAt(at);
      if (code === QUOTE) {
        this.at = at + 1;
        return;
      }
      if (code === BACKSLASH) {
        const escape = text.charCodeAt(++at);
        if (escape === 0x75 && /^[\da-f]{4}$/i.test(text.slice(at + 1, at + 5))) at += 4;
        else if (!ESCAPES.has(escape)) {
          this.at = at;
          throw this.unexpected("an escape sequence");
        }
      } else if (!(code >= 0x20)) {
        this.at = at;
        throw this.unexpected("a string that ends");
      }
    }
  }

  #number(): void {
    const text = this.#text;
    const digits = () => {
      if (!isDigit(text.charCodeAt(this.at))) throw this.unexpected("a digit");
      while (isDigit(text.charCodeAt(this.at))) this.at++;
    };
    if (text.charCodeAt(this.at) === MINUS) this.at++;
    if (text.charCodeAt(this.at) === ZERO) this.at++;
    else digits();
    if (text.charCodeAt(this.at) === DOT) {
      this.at++;
      digits();
    }
    const exponent = text.charCodeAt(this.at);
    if (exponent === 0x65 || exponent === 0x45) {
      const sign = text.charCodeAt(++this.at);
      if (sign === MINUS || sign === PLUS) this.at++;
      digits();
    }
  }

  #word(): void {
    const word = ["true", "false", "null"].find((word) => this.#text.startsWith(word, this.at));
    if (word === undefined) throw this.unexpected("a value");
    this.at += word.length;
  }

  unexpected(wanted: string): SyntaxError {
    const found = this.#text.slice(this.at, this.at + 40).replace(/\s+/g, " ").trim();
    return new SyntaxError(
      `expected ${wanted} at character ${this.at + 1}, got ${found || "the end of the text"}`,
    );
  }
}

function isDigit(code: number): boolean {
  return code >= ZERO && code <= NINE;
}

/** How many characters are copied at a time. */
const BLOCK = 8_192;

/** Removes the white space between the tokens of valid JSON. */
function withoutSpace(text: string, start: number, end: number): string {
  // In blocks, because a string concatenated from many small parts takes many times its own memory.
  let compact = "";
  const block = new Uint16Array(BLOCK);
  let used = 0;
  let quoted = false;
  for (let at = start; at < end; at++) {
    const code = text.charCodeAt(at);
    if (quoted && code === BACKSLASH) {
      block[used++] = code;
      if (used === BLOCK) {
        compact += String.fromCharCode.apply(null, block as unknown as number[]);
        used = 0;
      }
      block[used++] = text.charCodeAt(++at);
    } else {
      if (code === QUOTE) quoted = !quoted;
      else if (!quoted && code <= 0x20) continue;
      block[used++] = code;
    }
    if (used === BLOCK) {
      compact += String.fromCharCode.apply(null, block as unknown as number[]);
      used = 0;
    }
  }
  return compact + String.fromCharCode(...block.subarray(0, used));
}

function codesOf<T extends readonly string[]>(...chars: T): { [K in keyof T]: number } {
  return chars.map((char) => char.charCodeAt(0)) as { [K in keyof T]: number };
}
