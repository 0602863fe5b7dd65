import { assert, assertEquals, assertMatch } from "@std/assert";
import { Browser, CHROMIUM } from "../support/browser.ts";
import { TempFolder, until } from "../support/daemon.ts";
import { BUSY, lineOf, profiled, under } from "../support/profiler.ts";

Deno.test(
  "page shows jobs, connections and the event loop, and a flame graph with the hot function",
  {
    ignore: !CHROMIUM,
  },
  async () => {
    await using folder = await TempFolder.make();
    let { daemon, url } = await profiled(folder);
    await using daemons = new AsyncDisposableStack();
    daemons.use(daemon);
    await using browser = await Browser.start();
    const complaints: unknown[] = [];
    const elsewhere: string[] = [];
    browser.on("Runtime.consoleAPICalled", (call) => complaints.push(call.args));
    browser.on("Runtime.exceptionThrown", (thrown) => complaints.push(thrown.exceptionDetails));
    browser.on("Log.entryAdded", ({ entry }) => complaints.push(entry));
    browser.on("Network.requestWillBeSent", ({ request }) => {
      if (!request.url.startsWith(`${url}/`)) elsewhere.push(request.url);
    });
    const text = (id: string) =>
      browser.evaluate(`document.getElementById("${id}").innerText`) as Promise<string>;
    const frames = (): Promise<Record<string, number>> =>
      browser.evaluate(`Object.fromEntries([...document.querySelectorAll("#graph .frame")].map(
      (frame) => [frame.textContent, frame.getBoundingClientRect().width]))`);

    await browser.show(1_000, 900, "light");
    const shown = async () => {
      await browser.open(`${url}/debug/pprof/`);
      await until(async () => (await text("state")) === "live");
      assertMatch(await text("listeners"), /tcp:\/\/127\.0\.0\.1:\d+\s+open/);
      assertMatch(await text("running"), /serveapi\(tcp/);
      assertEquals(await browser.evaluate(`document.getElementById("graph").hidden`), true);

      await browser.evaluate(`document.querySelector("[name=seconds]").value = "1"`);
      await under(`${url}/burn`, async () => {
        await browser.evaluate(`document.querySelector("#take button").click()`);
        // The page is live meanwhile.
        await until(async () => /burn\s+\d+\s+0/.test(await text("jobs")));
        await until(async () => /sampled/.test(await text("progress")));
      });
      if (!/^\d\.\d\d s sampled$|^\d+\.\d ms sampled$/.test(await text("progress"))) return false;
      // The frames grow to their size.
      await until(async () => JSON.stringify(await frames()) === JSON.stringify(await frames()));
      const { all, burnTheCpu, "job burn": job } = await frames();
      return burnTheCpu! > all! * 0.8 && job! >= burnTheCpu!;
    };
    // On a busy machine few of the requests may come in a second; then a new daemon is tried.
    await until(async () => {
      if (await shown()) return true;
      await browser.open("about:blank");
      await daemon.end();
      ({ daemon, url } = await profiled(folder));
      daemons.use(daemon);
      return false;
    });

    // By keyboard: the root, the job, its handler, the hot function, which fills the zoomed graph.
    await browser.evaluate(`document.getElementById("graph").focus()`);
    for (let i = 0; i < 4; i++) await browser.press("ArrowDown");
    const hot = new RegExp(`^burnTheCpu: .* \\(${BUSY}:${lineOf("function burnTheCpu")}\\)$`);
    assertMatch(await text("details"), hot);
    await browser.press("Enter");
    await until(async () => {
      const { all, burnTheCpu } = await frames();
      return burnTheCpu === all;
    });
    await browser.press("Escape");
    await browser.press("ArrowUp");
    assertMatch(await text("details"), /^\(anonymous\): /);

    const paper = () => browser.evaluate(`getComputedStyle(document.body).backgroundColor`);
    const light = await paper();
    await browser.show(360, 800, "dark");
    assert(await paper() !== light);
    // Nothing is wider than the window, including the graph.
    await until(() => browser.evaluate(`document.documentElement.scrollWidth <= innerWidth`));
    await until(async () => (await frames()).all! < 360);
    assertEquals(complaints, []);
    assertEquals(elsewhere, []);
  },
);
