/**
 * Headless Chromium, through the Chrome DevTools protocol.
 *
 * @module
 */

import { until } from "./daemon.ts";

/** The path of Chromium; undefined, with a line that says so, if it is not installed. */
export const CHROMIUM: string | undefined = await find();

async function find(): Promise<string | undefined> {
  for (const name of ["chromium", "chromium-browser", "google-chrome"]) {
    const { success } = await new Deno.Command(name, {
      args: ["--version"],
      stdout: "null",
      stderr: "null",
    }).output().catch(() => ({ success: false }));
    if (success) return name;
  }
  console.log("skipped: there is no chromium here, which would look at the pages");
}

// deno-lint-ignore no-explicit-any -- the protocol's own types are a package of a megabyte
type Params = Record<string, any>;
type Listener = (params: Params) => void;

/** A browser with one page. */
export class Browser implements AsyncDisposable {
  #process: Deno.ChildProcess;
  #profile: string;
  #socket: WebSocket;
  #session?: string | undefined;
  #calls = new Map<number, PromiseWithResolvers<Params>>();
  #listeners = new Map<string, Listener[]>();
  #last = 0;
  /**
   * What names the page that is loaded: the event that one is may come when the next is asked for.
   */
  #loaded?: string;

  private constructor(process: Deno.ChildProcess, profile: string, socket: WebSocket) {
    this.#process = process;
    this.#profile = profile;
    this.#socket = socket;
    socket.onmessage = ({ data }) => {
      const { id, method, params, result, error } = JSON.parse(data);
      if (id === undefined) this.#listeners.get(method)?.forEach((listener) => listener(params));
      else if (error) this.#calls.get(id)?.reject(new Error(error.message));
      else this.#calls.get(id)?.resolve(result);
      this.#calls.delete(id);
    };
  }

  /** Starts a browser without connections outside; `flags` are added to its command line. */
  static async start(flags: string[] = []): Promise<Browser> {
    const profile = await Deno.makeTempDir({ prefix: "floodgate-chromium-" });
    const process = new Deno.Command(CHROMIUM!, {
      args: [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--remote-debugging-port=0",
        `--user-data-dir=${profile}`,
        ...flags,
        "about:blank",
      ],
      stdin: "null",
      stdout: "null",
      stderr: "piped",
    }).spawn();
    let said = "";
    const url = Promise.withResolvers<string>();
    (async () => {
      for await (const chunk of process.stderr.pipeThrough(new TextDecoderStream())) {
        said += chunk;
        const found = /^DevTools listening on (\S+)\s/m.exec(said)?.[1];
        if (found) url.resolve(found);
      }
      url.reject(new Error(`chromium ended: ${said}`));
    })();
    const socket = new WebSocket(await url.promise);
    await new Promise((resolve, reject) => {
      socket.onopen = resolve;
      socket.onerror = reject;
    });
    const browser = new Browser(process, profile, socket);
    const { targetId } = await browser.send("Target.createTarget", { url: "about:blank" });
    browser.on("Page.lifecycleEvent", ({ frameId, loaderId, name }) => {
      if (frameId === targetId && name === "load") browser.#loaded = loaderId;
    });
    const attached = await browser.send("Target.attachToTarget", { targetId, flatten: true });
    browser.#session = attached.sessionId;
    for (const domain of ["Page", "Runtime", "Network", "Log"]) {
      await browser.send(`${domain}.enable`);
    }
    await browser.send("Page.setLifecycleEventsEnabled", { enabled: true });
    return browser;
  }

  /** Calls a method of the protocol. */
  send(method: string, params: Params = {}): Promise<Params> {
    const call = Promise.withResolvers<Params>();
    const id = ++this.#last;
    this.#calls.set(id, call);
    this.#socket.send(JSON.stringify({ id, method, params, sessionId: this.#session }));
    return call.promise;
  }

  /** Calls back at an event of the protocol. */
  on(event: string, listener: Listener): void {
    this.#listeners.set(event, [...this.#listeners.get(event) ?? [], listener]);
  }

  /** Navigates to a page, and waits until it is loaded. */
  async open(url: string): Promise<void> {
    const { errorText, loaderId } = await this.send("Page.navigate", { url });
    if (errorText) throw new Error(`${url}: ${errorText}`);
    await until(() => this.#loaded === loaderId);
  }

  /** Resolves when another page than now is loaded. */
  loaded(): Promise<void> {
    const before = this.#loaded;
    return until(() => this.#loaded !== before);
  }

  /** Evaluates an expression in the page; awaits a promise. */
  // deno-lint-ignore no-explicit-any -- whatever the page has
  async evaluate(expression: string): Promise<any> {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
    });
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? expression);
    return result.value;
  }

  /** Presses a key. */
  async press(key: string): Promise<void> {
    for (const type of ["keyDown", "keyUp"]) {
      await this.send("Input.dispatchKeyEvent", {
        type,
        key,
        ...key === "Enter" ? { text: "\r", windowsVirtualKeyCode: 13 } : {},
        ...key === "Tab" ? { windowsVirtualKeyCode: 9 } : {},
      });
    }
  }

  /** Sets the size of the window, and its color scheme. */
  async show(width: number, height: number, scheme: "light" | "dark"): Promise<void> {
    await this.send("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await this.send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value: scheme }],
    });
  }

  /** A screenshot of the window, as PNG. */
  async picture(): Promise<Uint8Array> {
    const { data } = await this.send("Page.captureScreenshot");
    return Uint8Array.fromBase64(data);
  }

  /** Ends the browser. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#session = undefined;
    await this.send("Browser.close");
    this.#socket.close();
    await this.#process.status;
    // Its other processes end a moment later, and may write until then.
    await until(() =>
      Deno.remove(this.#profile, { recursive: true }).then(() => true, () => false)
    );
  }
}
