// The script of the profiler's page: updates its live parts, and draws flame graphs.
// @ts-check
/// <reference no-default-lib="true" />
/// <reference lib="esnext" />
/// <reference lib="dom" />
/// <reference lib="dom.iterable" />

/** @typedef {{ functionName: string, url: string, lineNumber: number }} CallFrame */
/** @typedef {{ id: number, callFrame: CallFrame, job?: string | undefined, children?: number[] }} CpuNode */
/** @typedef {{ id: number, callFrame: CallFrame, job?: string | undefined, children: HeapNode[] }} HeapNode */
/** @typedef {{ name: string, value: number, place?: string | undefined, kind: string, parent?: Frame, children: Frame[] }} Frame */

const { document, location } = globalThis;
const $ = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));

// Live parts

const state = $("state");
/** @type {Map<string, string>} The HTML put into each part: the browser's serialization of it differs. */
const shown = new Map();
/** @type {Map<string, number[]>} */
const history = new Map();
const HISTORY = 60;

const live = new EventSource("live");
live.onopen = () => say(state, "live", "live");
live.onerror = () => say(state, "lost, trying again", "lost");
live.onmessage = (/** @type {MessageEvent<string>} */ { data }) => {
  for (const [id, html] of Object.entries(JSON.parse(data))) {
    // An unchanged part is not replaced, so that a selection in it stays.
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
const stack = $("stack");
const details = $("details");
/** The height of a frame, in pixels. */
const ROW = 20;
/** @type {{ root: Frame, unit: (value: number) => string } | undefined} */
let sampled;
/** @type {Frame | undefined} */
let selected;
/** @type {Set<Frame>} The frames found by the search. */
const found = new Set();
/** @type {Map<Frame, HTMLElement>} The drawn frames, without those too narrow to be seen. */
const boxes = new Map();
/** @type {WeakMap<Element, Frame>} */
const frames = new WeakMap();

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
  if (!sampled) return;
  const { root, unit } = sampled;
  found.clear();
  const text = find.value.toLowerCase();
  let sum = 0;
  const search = (/** @type {Frame} */ frame, /** @type {boolean} */ counted) => {
    const hit = frame.name.toLowerCase().includes(text);
    if (hit) found.add(frame);
    // The value of a found frame includes its callees.
    if (hit && !counted) sum += frame.value;
    for (const child of frame.children) search(child, counted || hit);
  };
  if (text) search(root, false);
  for (const [frame, box] of boxes) box.style.background = colorOf(frame);
  details.textContent = text ? `${unit(sum)} found, ${percent(sum / root.value)}` : "";
};

/**
 * Merges stacks into a tree of frames, whose values include those of their callees. Below the root
 * are the jobs whose handlers were running.
 *
 * @param {{ stack: CallFrame[], job?: string | undefined, value: number }[]} samples
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
      if (!child) {
        at.children.push(child = frame);
        child.parent = at;
      }
      child.value += value;
      at = child;
    }
  }
  return root;
}

/**
 * The frames of a path through V8's tree, from the handler of a job on if it has one: the frames
 * above are the same for all jobs, and fill a screen.
 *
 * @param {{ callFrame: CallFrame, job?: string | undefined }[]} path
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
 * @param {{ nodes: CpuNode[], samples: number[], timeDeltas: number[], startTime: number, endTime:
 * number }} profile
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
    at += timeDeltas[i] ?? 0;
    const lasts = i + 1 < samples.length ? timeDeltas[i + 1] : endTime - at;
    times.set(id, (times.get(id) ?? 0) + Math.max(0, lasts ?? 0));
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
  find.value = "";
  sampled = { root, unit };
  selected = undefined;
  found.clear();
  boxes.clear();
  stack.replaceChildren();
  // The widest at the left.
  const sort = (/** @type {Frame} */ { children }) => {
    children.sort((a, b) => b.value - a.value);
    children.forEach(sort);
  };
  sort(root);
  if (!graph.hidden) zoom(root);
}

/**
 * Draws a frame and its callers as wide as the graph, and its callees below.
 *
 * @param {Frame} onto
 */
function zoom(onto) {
  const least = 1 / (graph.clientWidth || 1_000);
  /** @type {Set<Frame>} */
  const drawn = new Set();
  /** @type {Frame[]} */
  const above = [];
  for (let frame = onto.parent; frame; frame = frame.parent) above.unshift(frame);
  let rows = 0;
  /** @param {Frame} frame @param {number} row @param {number} left @param {number} width */
  const put = (frame, row, left, width) => {
    const box = boxes.get(frame) ?? boxOf(frame);
    box.style.top = `${row * ROW}px`;
    box.style.left = `${left * 100}%`;
    box.style.width = `${width * 100}%`;
    box.classList.toggle("fade", above.includes(frame));
    drawn.add(frame);
    rows = Math.max(rows, row + 1);
  };
  /** @param {Frame} frame @param {number} row @param {number} left @param {number} width */
  const putAll = (frame, row, left, width) => {
    put(frame, row, left, width);
    for (const child of frame.children) {
      const share = width * child.value / frame.value;
      if (share < least) break; // The rest is narrower.
      putAll(child, row + 1, left, share);
      left += share;
    }
  };
  above.forEach((frame, row) => put(frame, row, 0, 1));
  putAll(onto, above.length, 0, 1);
  for (const [frame, box] of boxes) {
    if (drawn.has(frame)) continue;
    box.remove();
    boxes.delete(frame);
  }
  stack.style.height = `${rows * ROW}px`;
}

/** @param {Frame} frame */
function boxOf(frame) {
  const box = document.createElement("div");
  box.className = "frame";
  box.textContent = frame.name;
  box.style.background = colorOf(frame);
  box.classList.toggle("selected", frame === selected);
  boxes.set(frame, box);
  frames.set(box, frame);
  stack.append(box);
  return box;
}

/**
 * The color of a frame: warm for the program's functions, cold for the runtime's; a hue for each
 * file and a shade for each function.
 *
 * @param {Frame} frame
 */
function colorOf(frame) {
  if (found.has(frame)) return "#d98cf0";
  const { kind, name, place = "" } = frame;
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

/** @param {Frame} frame */
function describe({ name, value, place }) {
  const { root, unit } = /** @type {NonNullable<typeof sampled>} */ (sampled);
  return `${name}: ${unit(value)}, ${percent(value / root.value)}${place ? ` (${place})` : ""}`;
}

/** @param {Frame | undefined} frame */
function select(frame) {
  if (!frame) return;
  boxes.get(selected ?? frame)?.classList.remove("selected");
  selected = frame;
  details.textContent = describe(frame);
  const box = boxes.get(frame);
  box?.classList.add("selected");
  box?.scrollIntoView({ block: "nearest" });
}

/** The frame of an event. @param {Event} event */
const frameAt = ({ target }) => target instanceof Element ? frames.get(target) : undefined;

stack.onclick = (/** @type {Event} */ event) => {
  const frame = frameAt(event);
  if (!frame) return;
  zoom(frame);
  select(frame);
};
stack.onmouseover = (/** @type {Event} */ event) => {
  const frame = frameAt(event);
  if (frame) details.textContent = describe(frame);
};
stack.onmouseleave = () => {
  details.textContent = selected ? describe(selected) : "";
};

graph.onkeydown = (/** @type {KeyboardEvent} */ event) => {
  if (!sampled) return;
  const { root } = sampled;
  const from = selected ?? root;
  const visible = (/** @type {Frame[]} */ frames) => frames.filter((frame) => boxes.has(frame));
  const beside = (/** @type {number} */ step) => {
    const row = visible(from.parent?.children ?? []);
    return row[row.indexOf(from) + step];
  };
  /** @type {Record<string, () => void>} */
  const keys = {
    ArrowDown: () => select(selected ? visible(from.children)[0] : root),
    ArrowUp: () => select(from.parent),
    ArrowLeft: () => select(beside(-1)),
    ArrowRight: () => select(beside(1)),
    Enter: () => (zoom(from), select(from)),
    Escape: () => (zoom(root), select(from)),
  };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]?.();
};
