// The script of the profiler's page: keeps its parts as they are in the daemon, and draws a profile.
// @ts-check
/// <reference no-default-lib="true" />
/// <reference lib="esnext" />
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/** @typedef {{ functionName: string, url: string, lineNumber: number }} CallFrame */
/** @typedef {{ id: number, callFrame: CallFrame, job?: string, children?: number[] }} CpuNode */
/** @typedef {{ id: number, callFrame: CallFrame, job?: string, children: HeapNode[] }} HeapNode */
/** @typedef {{ name: string, value: number, place?: string, kind: string, children: Frame[] }} Frame */
/** @typedef {{ id: number, data: Frame, value: number, parent: Node | null, children?: Node[], x0: number, x1: number, highlight?: boolean }} Node */

const { document, location } = globalThis;
const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

// What goes on

const state = $("state");
/** @type {Map<string, string>} What was put into each part, which the browser writes differently. */
const shown = new Map();
/** @type {Map<string, number[]>} */
const history = new Map();
const HISTORY = 60;

const live = new EventSource("live");
live.onopen = () => say(state, "live", "live");
live.onerror = () => say(state, "lost, trying again", "lost");
live.onmessage = (/** @type {MessageEvent<string>} */ { data }) => {
  for (const [id, html] of Object.entries(JSON.parse(data))) {
    // What has not changed stays, and with it what somebody has selected there.
    if (shown.get(id) !== html) $(id).innerHTML = html;
    shown.set(id, html);
  }
  for (const svg of document.querySelectorAll("svg.spark")) {
    drawSpark(/** @type {SVGElement} */ (svg));
  }
};

/** @param {HTMLElement} element @param {string} text @param {string} className */
function say(element, text, className) {
  element.textContent = text;
  element.className = className;
}

/** @param {SVGElement} svg */
function drawSpark(svg) {
  const { key = "", value } = svg.dataset;
  const values = history.get(key) ?? [];
  history.set(key, values);
  values.push(Number(value));
  if (values.length > HISTORY) values.shift();
  const least = key === "heap" ? Math.min(...values) * 0.95 : 0;
  const span = Math.max(...values) - least || 1;
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute(
    "points",
    values.map((each, i) => `${60 - values.length + 1 + i},${15 - ((each - least) / span) * 14}`)
      .join(" "),
  );
  svg.replaceChildren(line);
}

$("command").textContent = `go tool pprof -http=: ${
  location.protocol === "http:" || location.protocol === "https:"
    ? new URL("profile?seconds=30", location.href).href
    : "profile"
}`;

// The flame graph

const form = /** @type {HTMLFormElement} */ ($("take"));
const progress = $("progress");
const graph = $("graph");
const details = $("details");
const CELL = 20;
/** @type {{ unit: (value: number) => string, total: number } | undefined} */
let measure;
/** @type {any} d3-flame-graph's chart */
let chart;
/** @type {Node | undefined} */
let selected;

const what = /** @type {HTMLSelectElement} */ (form.elements.namedItem("what"));
const seconds = /** @type {HTMLSelectElement} */ (form.elements.namedItem("seconds"));
const find = /** @type {HTMLInputElement} */ (form.elements.namedItem("find"));

form.onsubmit = async (/** @type {SubmitEvent} */ event) => {
  event.preventDefault();
  const button = /** @type {HTMLButtonElement} */ (form.querySelector("button"));
  button.disabled = true;
  const cpu = what.value === "profile";
  let left = what.value === "heap" ? 0 : Number(seconds.value);
  const tell = () =>
    say(progress, left > 0 ? `Sampling, ${left--} s to go` : "Reading the profile", "");
  tell();
  const timer = setInterval(tell, 1_000);
  try {
    const format = cpu ? "cpuprofile" : "heapprofile";
    const answer = await fetch(`${what.value}?seconds=${seconds.value}&format=${format}`);
    const profile = await answer.json();
    if (!answer.ok) throw new Error(profile.message);
    const [root, unit] = cpu ? cpuTree(profile) : heapTree(profile);
    clearInterval(timer);
    say(
      progress,
      root.value > 0 ? `${unit(root.value)} sampled` : "Nothing was sampled: all was idle.",
      "",
    );
    draw(root, unit);
  } catch (error) {
    clearInterval(timer);
    say(progress, error instanceof Error ? error.message : String(error), "failed");
  } finally {
    button.disabled = false;
  }
};
what.onchange = () => {
  seconds.disabled = what.value === "heap";
};
find.oninput = () => {
  if (!chart) return;
  if (find.value) chart.search(find.value.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"));
  else chart.clear();
};

/**
 * Stacks as a tree of frames with their values, those of their callees included. Below its root is
 * the job whose handler was running, where there was one.
 *
 * @param {{ stack: CallFrame[], job?: string, value: number }[]} samples
 * @returns {Frame}
 */
function treeOf(samples) {
  /** @type {Frame} */
  const root = { name: "all", value: 0, kind: "root", children: [] };
  for (const { stack, job, value } of samples) {
    const path = stack.filter(({ functionName }) => functionName !== "(root)").map(frameOf);
    if (path.length === 0 || value <= 0) continue;
    if (job !== undefined) {
      path.unshift({ name: `job ${job}`, kind: "job", value: 0, children: [] });
    }
    root.value += value;
    let at = root;
    for (const frame of path) {
      let child = at.children.find(({ name, place }) =>
        name === frame.name && place === frame.place
      );
      if (!child) at.children.push(child = frame);
      child.value += value;
      at = child;
    }
  }
  return root;
}

/**
 * The frames of a path through V8's tree. Where it leads through the handler of a job, they begin
 * there: how the request came to it is the same for all jobs, and a screen deep.
 *
 * @param {{ callFrame: CallFrame, job?: string }[]} path
 */
function stackOf(path) {
  const job = path.at(-1)?.job;
  const handled = job === undefined ? path : path.filter((node) => node.job === job);
  return { stack: handled.map(({ callFrame }) => callFrame), job };
}

/** @param {CallFrame} frame @returns {Frame} */
function frameOf({ functionName, url, lineNumber }) {
  const kind = /^(?:ext|node):/.test(url) ? "runtime" : url === "" ? "native" : "program";
  const place = url === ""
    ? undefined
    : `${url.replace(/^file:\/\//, "").slice(0, 200)}:${lineNumber + 1}`;
  return { name: functionName || "(anonymous)", place, kind, value: 0, children: [] };
}

/**
 * @param {{ nodes: CpuNode[], samples: number[], timeDeltas: number[], startTime: number, endTime: number }} profile
 * @returns {[Frame, (value: number) => string]}
 */
function cpuTree({ nodes, samples, timeDeltas, startTime, endTime }) {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  /** @type {Map<number, CpuNode>} */
  const parents = new Map();
  for (const node of nodes) node.children?.forEach((id) => parents.set(id, node));
  /** @type {Map<number, number>} */
  const times = new Map();
  let at = startTime;
  samples.forEach((id, i) => {
    at += timeDeltas[i];
    const lasts = i + 1 < samples.length ? timeDeltas[i + 1] : endTime - at;
    times.set(id, (times.get(id) ?? 0) + Math.max(0, lasts));
  });
  const stacks = [...times].map(([id, value]) => {
    /** @type {CpuNode[]} */
    const path = [];
    for (let node = byId.get(id); node; node = parents.get(node.id)) path.unshift(node);
    return { ...stackOf(path), value };
  }).filter(({ stack }) => stack.at(-1)?.functionName !== "(idle)");
  const unit = (/** @type {number} */ value) =>
    value < 1e6 ? `${(value / 1e3).toFixed(1)} ms` : `${(value / 1e6).toFixed(2)} s`;
  return [treeOf(stacks), unit];
}

/**
 * @param {{ head: HeapNode, samples: { nodeId: number, size: number }[] }} profile
 * @returns {[Frame, (value: number) => string]}
 */
function heapTree({ head, samples }) {
  /** @type {Map<number, number>} */
  const sizes = new Map();
  for (const { nodeId, size } of samples) sizes.set(nodeId, (sizes.get(nodeId) ?? 0) + size);
  /** @type {Parameters<typeof treeOf>[0]} */
  const stacks = [];
  const walk = (/** @type {HeapNode} */ node, /** @type {HeapNode[]} */ above) => {
    const path = [...above, node];
    const value = sizes.get(node.id);
    if (value !== undefined) stacks.push({ ...stackOf(path), value });
    for (const child of node.children) walk(child, path);
  };
  walk(head, []);
  return [treeOf(stacks), (value) => `${(value / 2 ** 20).toFixed(1)} MiB`];
}

/** @param {Frame} root @param {(value: number) => string} unit */
function draw(root, unit) {
  graph.hidden = root.value === 0;
  $("keys").hidden = graph.hidden;
  details.textContent = "";
  selected = undefined;
  measure = { unit, total: root.value };
  graph.replaceChildren();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  // What the chart's script has put there.
  chart = /** @type {any} */ (globalThis).flamegraph()
    .width(graph.clientWidth)
    .cellHeight(CELL)
    .minFrameSize(1)
    .inverted(true)
    .transitionDuration(still ? 0 : 200)
    .sort((/** @type {Node} */ a, /** @type {Node} */ b) => b.data.value - a.data.value)
    .setColorMapper(colorOf)
    .setLabelHandler(describe)
    .setDetailsHandler((/** @type {string | null} */ text) => {
      if (text) details.textContent = text;
      else details.textContent = selected ? describe(selected) : "";
    })
    .setSearchHandler(
      (/** @type {Node[]} */ _results, /** @type {number} */ sum, /** @type {number} */ total) => {
        details.textContent = `${unit(sum)} found, ${percent(sum / total)}`;
      },
    )
    .onClick(select);
  if (!graph.hidden) chart(selection(graph, root));
}

/**
 * The little that the chart asks of a d3 selection: to get and to set what one element stands for.
 * The chart brings d3 along, and does not give it away.
 *
 * @param {HTMLElement} element @param {unknown} data
 */
function selection(element, data) {
  const bound = /** @type {HTMLElement & { __data__: unknown }} */ (element);
  bound.__data__ = data;
  return {
    each(/** @type {Function} */ visit) {
      visit.call(bound, bound.__data__, 0, [bound]);
      return this;
    },
    datum(/** @type {unknown} */ change) {
      bound.__data__ = typeof change === "function"
        ? change.call(bound, bound.__data__, 0)
        : change;
      return this;
    },
    node: () => bound,
  };
}

/**
 * Warm for the program's own functions, cold for the runtime's: a hue for each file, and a shade for
 * each function in it.
 *
 * @param {Node} node
 */
function colorOf(node) {
  if (node.highlight) return "#d98cf0";
  const { kind, name, place = "" } = node.data;
  const file = hashOf(place.replace(/:\d+$/, ""));
  switch (kind) {
    case "root":
      return "#c9c6bf";
    case "job":
      return "#8fd0a4";
    case "program":
      return `hsl(${16 + file * 32} 90% ${64 + hashOf(name) * 14}%)`;
    case "runtime":
      return `hsl(${205 + file * 20} 45% ${72 + hashOf(name) * 8}%)`;
    default:
      return "#d4cdd8";
  }
}

/** A number from 0 to 1 for a text. @param {string} text */
function hashOf(text) {
  let hash = 0;
  for (const char of text) hash = (hash * 31 + char.charCodeAt(0)) >>> 0;
  return hash % 1_000 / 1_000;
}

/** @param {number} share */
function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}

/** @param {Node} node */
function describe({ data }) {
  const { unit, total } = /** @type {NonNullable<typeof measure>} */ (measure);
  const place = data.place ? ` (${data.place})` : "";
  return `${data.name}: ${unit(data.value)}, ${percent(data.value / total)}${place}`;
}

/** @param {Node | undefined} node */
function select(node) {
  if (!node) return;
  selected = node;
  details.textContent = describe(node);
  for (const frame of graph.querySelectorAll(".frame")) {
    const same = /** @type {any} */ (frame).__data__ === node;
    frame.classList.toggle("selected", same);
    if (same) frame.scrollIntoView({ block: "nearest" });
  }
}

graph.onkeydown = (/** @type {KeyboardEvent} */ event) => {
  const root = /** @type {any} */ (graph).__data__;
  const from = selected ?? root;
  // As drawn: the widest first, and without what is too small to be seen or is zoomed away.
  const drawn = new Set(
    [...graph.querySelectorAll(".frame")].map((frame) => /** @type {any} */ (frame).__data__),
  );
  const visible = (/** @type {Node[]} */ nodes) =>
    nodes.filter((node) => drawn.has(node) && node.x1 > node.x0);
  const beside = (/** @type {number} */ step) => {
    const all = visible(from.parent?.children ?? []);
    return all[all.indexOf(from) + step];
  };
  /** @type {Record<string, () => void>} */
  const keys = {
    ArrowDown: () => select(selected ? visible(from.children ?? [])[0] : root),
    ArrowUp: () => select(from.parent ?? undefined),
    ArrowLeft: () => select(beside(-1)),
    ArrowRight: () => select(beside(1)),
    // The chart takes either for a click on what it zooms to, and draws the frames anew.
    Enter: () => (chart.zoomTo(from), select(from)),
    Escape: () => (chart.resetZoom(), select(from)),
  };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
};

new ResizeObserver(() => {
  if (!chart || graph.hidden || chart.width() === graph.clientWidth) return;
  chart.width(graph.clientWidth).update();
}).observe(graph);
