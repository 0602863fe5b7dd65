/**
 * Pseudoterminals (pty(7)), by four calls of the C library.
 *
 * @module
 */

// Deno's own files block a thread per terminal; this one uses the event loop.
import { ReadStream } from "node:tty";

const O_RDWR = 0o2;
const O_NOCTTY = 0o400;
const O_NONBLOCK = 0o4_000;
const O_CLOEXEC = 0o2_000_000;
// ioctl_tty(2).
const TIOCSPTLCK = 0x40045431n;
const TIOCGPTN = 0x80045430n;
const TIOCSWINSZ = 0x5414n;

const SYMBOLS = {
  open: { parameters: ["buffer", "i32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  ioctl: { parameters: ["i32", "usize", "buffer"], result: "i32" },
} as const;

let library: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;
const libc = () => (library ??= Deno.dlopen("libc.so.6", SYMBOLS)).symbols;

/** The master of a pseudoterminal; its slave is for another process. */
export class Pty {
  /** The slave's path. It becomes the controlling terminal of a session leader that opens it. */
  readonly path: string;
  /** The output of the other process. It ends when no process has the slave open. */
  readonly readable: ReadableStream<Uint8Array>;
  #fd: number;
  #slave: number;
  #stream: ReadStream;
  #closed = false;

  /**
   * Opens a pseudoterminal.
   *
   * @throws {Error} If there is no `/dev/ptmx`, or the limit on terminals is reached.
   */
  constructor() {
    this.#fd = open("/dev/ptmx");
    const number = new Int32Array(1);
    const unlocked = libc().ioctl(this.#fd, TIOCSPTLCK, new Int32Array(1));
    if (unlocked !== 0 || libc().ioctl(this.#fd, TIOCGPTN, number) !== 0) {
      libc().close(this.#fd);
      throw new Error("cannot open a terminal: /dev/ptmx is none");
    }
    this.path = `/dev/pts/${number[0]}`;
    // Held open until release(), so that a program may close its terminal for a moment.
    try {
      this.#slave = open(this.path);
    } catch (error) {
      libc().close(this.#fd);
      throw error;
    }
    const stream = this.#stream = new ReadStream(this.#fd);
    this.readable = new ReadableStream<Uint8Array>({
      start(controller) {
        const end = () => {
          try {
            controller.close();
          } catch (error) {
            if (!(error instanceof TypeError)) throw error; // Closed or cancelled already.
          }
        };
        stream.on("data", (chunk: Uint8Array) => {
          controller.enqueue(chunk);
          if (controller.desiredSize! <= 0) stream.pause();
        });
        // On Linux EIO means that no process has the slave open any more.
        stream.on("error", end);
        stream.on("end", end);
        stream.on("close", end);
      },
      pull: () => void stream.resume(),
      cancel: () => this.close(),
    });
  }

  /** Sends input. Resolves when it is written, or the terminal is closed. */
  write(data: Uint8Array): Promise<void> {
    if (this.#closed) return Promise.resolve();
    const stream = this.#stream as unknown as {
      write(data: Uint8Array, done: () => void): boolean;
      once(event: "close", listener: () => void): void;
      off(event: "close", listener: () => void): void;
    };
    return new Promise((resolve) => {
      const done = () => {
        stream.off("close", done);
        resolve();
      };
      stream.once("close", done);
      stream.write(data, done);
    });
  }

  /** Sets the size in characters; a change sends SIGWINCH to the foreground processes. */
  resize(rows: number, columns: number): void {
    if (!this.#closed) {
      libc().ioctl(
        this.#fd,
        TIOCSWINSZ,
        new Uint8Array(Uint16Array.of(rows, columns, 0, 0).buffer),
      );
    }
  }

  /** Closes our handle of the slave: the terminal ends when all other processes have closed it. */
  release(): void {
    if (this.#slave >= 0) libc().close(this.#slave);
    this.#slave = -1;
  }

  /** Hangs up: processes that have it open get SIGHUP. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.release();
    this.#stream.destroy(); // Closes the descriptor.
  }
}

function open(path: string): number {
  const fd = libc().open(
    new TextEncoder().encode(`${path}\0`),
    O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC,
  );
  if (fd < 0) {
    throw new Error(
      `cannot open a terminal: ${path} is missing, or the limit on terminals is reached`,
    );
  }
  return fd;
}
