// Draws families of generations. Where everything stands is computed in Python; here rows that show nothing
// are closed up, and what is in view is drawn. Everything that a user typed becomes text, never markup.

const CARD = { width: 218, height: 60 };
const PITCH = { x: 290, y: 84 };
const MARGIN = 60; // beside and above the first card
const ZOOM = { least: 0.25, most: 2.5, far: 0.5 };
const SILENT = 10 * 60_000; // milliseconds without a word after which a run may be dead
const POLL = { growing: 4_000, idle: 15_000 };
const SCALE = ["#46327e", "#365c8d", "#1f978b", "#4ac16d", "#d5e21a"];
const CHARTS = ["test_accuracy", "test_calibration_error", "test_secondary_mass", "test_cross_entropy"];

const by = (id) => document.getElementById(id);
const data = by("data");
const embedded = data ? JSON.parse(data.textContent) : null;
const canvas = by("canvas");

const state = {
  family: null, // the document as it came
  token: "", // of what the server holds
  nodes: new Map(), // by id
  children: new Map(), // by id, of the nodes that stand beside it
  open: new Set(), // folds that are open, by the id of their first node
  collapsed: new Set(),
  metric: "test_accuracy",
  selected: null,
  compared: null,
  comparing: false, // whether the next version that is picked is compared
  focus: null,
  hovered: null,
  query: "",
  view: { x: 0, y: 0, zoom: 1 },
  shown: { nodes: [], edges: [], folds: [], rows: 0 },
};

// ---------------------------------------------------------------- elements

function element(namespace, name, attributes, children) {
  const made = namespace ? document.createElementNS(namespace, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}
const html = (name, attributes, ...children) => element(null, name, attributes, children);
const svg = (name, attributes, ...children) => element("http://www.w3.org/2000/svg", name, attributes, children);

function say(text) {
  by("status").textContent = text;
}

// ---------------------------------------------------------------- words and numbers

const metricOf = (name) => state.family.metrics.find((metric) => metric.name === name);

function valueOf(node, name) {
  const place = state.family.metrics.findIndex((metric) => metric.name === name);
  return place < 0 ? null : (node.values[place] ?? null);
}

function digits(metric, value) {
  const scaled = value * metric.scale;
  return metric.fixed ? scaled.toFixed(metric.digits) : String(Number(scaled.toPrecision(metric.digits)));
}

function quantity(metric, value) {
  return value === null || !metric ? "–" : digits(metric, value) + metric.sign;
}

function change(metric, difference) {
  if (difference === null) return { text: "", tone: "" };
  const text = digits(metric, difference);
  const zero = Number(text) === 0;
  const tone = zero || !metric.better ? "" : difference * metric.better > 0 ? "good" : "bad";
  return { text: (difference > 0 && !zero ? "+" : "") + text.replace("-", "−"), tone };
}

function changeFromTeacher(node, name) {
  const teacher = node.parents.length === 1 ? state.nodes.get(node.parents[0]) : null;
  const [own, before] = [valueOf(node, name), teacher ? valueOf(teacher, name) : null];
  return own === null || before === null ? null : own - before;
}

function ago(milliseconds) {
  const seconds = Math.max(0, (Date.now() - milliseconds) / 1000);
  const units = [["day", 86_400], ["hour", 3_600], ["minute", 60]];
  for (const [unit, size] of units) {
    const count = Math.floor(seconds / size);
    if (count) return `${count} ${unit}${count > 1 ? "s" : ""} ago`;
  }
  return "just now";
}

const day = (milliseconds) => new Date(milliseconds).toISOString().slice(0, 16).replace("T", " ") + " UTC";
const cut = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
const plural = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
const uri = (node) => `models:/${node.id}`;
const nameOf = (id) => id.slice(0, id.lastIndexOf("/"));
const shell = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

function title(node) {
  if (node.kind === "outside") return node.id;
  if (node.kind === "growing") return `generation ${node.generation}`;
  return `v${node.version}`;
}

function role(node) {
  if (node.kind === "generation" || node.kind === "removed") {
    const seed = `seed ${node.seed}`;
    return node.objective === "student" ? seed : `${node.objective} · ${seed}`;
  }
  if (node.kind === "ensemble") return `ensemble of ${node.parents.length}`;
  return node.kind;
}

const isSilent = (node) => Date.now() - node.last_update > SILENT;

// ---------------------------------------------------------------- relatives

function pathTo(id) {
  const found = new Set([id]);
  const pending = [id];
  while (pending.length) {
    for (const parent of state.nodes.get(pending.pop())?.parents ?? []) {
      if (!found.has(parent) && state.nodes.has(parent)) {
        found.add(parent);
        pending.push(parent);
      }
    }
  }
  return found;
}

function lineOf(node) {
  const line = [node]; // the node, its teacher, and so on; an ensemble's last member stands for all
  const seen = new Set([node.id]);
  for (;;) {
    const parent = state.nodes.get(line.at(-1).parents.at(-1));
    if (!parent || parent.kind === "outside" || seen.has(parent.id)) return line.reverse();
    seen.add(parent.id);
    line.push(parent);
  }
}

function below(id) {
  const found = [];
  const pending = [...(state.children.get(id) ?? [])];
  while (pending.length) {
    const child = pending.pop();
    found.push(child);
    pending.push(...(state.children.get(child) ?? []));
  }
  return found;
}

// ---------------------------------------------------------------- what is shown, and where

function arrange() {
  const { family, nodes, open, collapsed } = state;
  const folded = new Map(); // by node, the fold that it stands in
  for (const fold of family.folds) {
    fold.key = fold.nodes[0];
    for (const id of fold.nodes) folded.set(id, fold);
  }
  const hidden = new Set();
  const kept = [];
  const inColumns = [...nodes.values()].sort((one, other) => one.column - other.column);
  for (const node of inColumns) {
    const fold = folded.get(node.id);
    const away = node.parent !== null && (hidden.has(node.parent) || collapsed.has(node.parent));
    if (away || (fold && !open.has(fold.key))) hidden.add(node.id);
    else kept.push(node);
  }
  const folds = family.folds.filter(
    ({ parent }) => parent === null || !(hidden.has(parent) || collapsed.has(parent)),
  );
  const rows = [...new Set([...kept, ...folds].map(({ row }) => row))].sort((one, other) => one - other);
  const place = new Map(rows.map((row, number) => [row, number]));
  for (const item of [...kept, ...folds]) {
    item.x = item.column * PITCH.x;
    item.y = place.get(item.row) * PITCH.y;
  }
  const edges = [];
  const visible = new Set(kept.map(({ id }) => id));
  for (const node of kept) {
    for (const parent of node.parents) {
      if (visible.has(parent)) edges.push(edge(nodes.get(parent), node));
    }
  }
  kept.sort((one, other) => one.y - other.y || one.x - other.x);
  state.shown = { nodes: kept, edges, folds, rows: rows.length, visible };
}

function edge(from, to) {
  const [x0, y0] = [from.x + CARD.width, from.y + CARD.height / 2];
  const [x1, y1] = [to.x, to.y + CARD.height / 2];
  const kind = to.kind === "ensemble" ? "member" : to.kind === "growing" ? "growing" : "";
  const middle = Math.max(x1 - 34, x0 + 14);
  const bend = Math.min(12, Math.abs(y1 - y0) / 2) * Math.sign(y1 - y0);
  const lane = from.y + CARD.height; // members further left pass below what stands between
  const dip = Math.max(lane, to.y + CARD.height) + 30;
  const path =
    kind === "member" && to.column > from.column + 1
      ? `M${x0 - 40} ${lane}C${x0 - 40} ${dip} ${x0 + 20} ${dip - 12} ${x0 + 60} ${dip - 12}H${x1 - 60}C${x1 - 20} ${dip - 12} ${x1 - 30} ${y1 + 14} ${x1} ${y1 + 14}`
      : y0 === y1
        ? `M${x0} ${y0}H${x1}`
        : `M${x0} ${y0}H${middle - 12}Q${middle} ${y0} ${middle} ${y0 + bend}V${y1 - bend}Q${middle} ${y1} ${middle + 12} ${y1}H${x1}`;
  return { from, to, kind, path, left: Math.min(x0, x1) - 40, right: Math.max(x0, x1), top: Math.min(y0, y1), bottom: dip };
}

// ---------------------------------------------------------------- drawing

let drawn = null; // the part of the world whose cards stand in the document
let cards = new Map(); // by node, those cards

// Draws everything anew; paint alone keeps the cards that stay in view.
function draw() {
  drawn = null;
  cards = new Map();
  paint();
}

function paint() {
  const { x, y, zoom } = state.view;
  by("world").setAttribute("transform", `translate(${x} ${y}) scale(${zoom})`);
  canvas.classList.toggle("far", zoom < ZOOM.far);
  const { clientWidth: width, clientHeight: height } = canvas;
  const view = { left: -x / zoom, top: -y / zoom, right: (width - x) / zoom, bottom: (height - y) / zoom };
  const inside = drawn && drawn.left <= view.left && drawn.top <= view.top && drawn.right >= view.right && drawn.bottom >= view.bottom;
  if (drawn && drawn.zoom !== zoom > ZOOM.far) cards = new Map();
  if (!inside || drawn.zoom !== zoom > ZOOM.far) {
    const [across, down] = [(view.right - view.left) * 0.3, (view.bottom - view.top) * 0.3];
    drawn = { left: view.left - across, top: view.top - down, right: view.right + across, bottom: view.bottom + down, zoom: zoom > ZOOM.far };
    const { nodes, edges, folds } = state.shown;
    const inView = (item) => item.x < drawn.right && item.x + CARD.width > drawn.left && item.y < drawn.bottom && item.y + CARD.height > drawn.top;
    by("edges").replaceChildren(...edgesIn(edges, drawn).map(drawEdge));
    cards = new Map(nodes.filter(inView).map((node) => [node.id, cards.get(node.id) ?? drawNode(node)]));
    by("nodes").replaceChildren(...folds.filter(inView).map(drawFold), ...cards.values());
    mark();
  }
  drawColumns(view);
}

// Edges that cross a part of the world. Of those that only pass through on their way from one teacher to its
// thousandth student, which lie upon each other, the longest stands for all.
function edgesIn(edges, part) {
  const near = [];
  const passing = new Map();
  for (const one of edges) {
    if (one.left > part.right || one.right < part.left || one.top > part.bottom || one.bottom < part.top) continue;
    const ends = one.kind === "member" || (one.to.y < part.bottom && one.to.y + CARD.height > part.top);
    if (ends) near.push(one);
    else if (one.bottom > (passing.get(one.from)?.bottom ?? -Infinity)) passing.set(one.from, one);
  }
  return [...near, ...passing.values()];
}

// Bands lie below everything, their titles above everything, at the top of what is in view.
function drawColumns(view) {
  const [bands, titles] = [[], []];
  const size = 12 / Math.max(state.view.zoom, ZOOM.far);
  state.family.columns.forEach((text, column) => {
    const x = column * PITCH.x - (PITCH.x - CARD.width) / 2;
    if (x > view.right || x + PITCH.x < view.left) return;
    const shade = column % 2 === 0 ? "band" : "between";
    bands.push(svg("rect", { class: shade, x, y: view.top, width: PITCH.x, height: view.bottom - view.top }));
    if (!text) return;
    const label = svg("text", { class: "column", x: column * PITCH.x, y: view.top + size * 1.9 }, text);
    label.style.fontSize = `${size}px`;
    titles.push(svg("rect", { class: `${shade} ground`, x, y: view.top, width: PITCH.x, height: size * 2.9 }), label);
  });
  by("bands").replaceChildren(...bands);
  by("titles").replaceChildren(...titles);
}

function drawEdge(one) {
  return svg("path", { class: `edge ${one.kind}`, d: one.path, "data-from": one.from.id, "data-to": one.to.id });
}

function drawNode(node) {
  const small = state.view.zoom < ZOOM.far;
  const metric = metricOf(state.metric);
  const group = svg("g", {
    class: `node ${node.kind}${node.kind === "growing" && isSilent(node) ? " silent" : ""}`,
    id: `node-${node.number}`,
    transform: `translate(${node.x} ${node.y})`,
    role: "treeitem",
    "aria-level": node.column + 1,
    "aria-label": described(node),
    "aria-expanded": state.children.get(node.id)?.length ? String(!state.collapsed.has(node.id)) : null,
    "data-id": node.id,
  });
  group.append(
    svg("rect", { class: "ring", x: -5, y: -5, width: CARD.width + 10, height: CARD.height + 10, rx: 14 }),
    svg("rect", { class: "card", width: CARD.width, height: CARD.height, rx: 10 }),
  );
  if (node.kind === "growing") group.append(...growingWords(node));
  else if (node.kind === "outside") group.append(...outsideWords(node));
  else group.append(...versionWords(node, metric));
  if (!small) {
    group.append(...chips(node));
    const toggle = drawToggle(node);
    if (toggle) group.append(toggle);
  }
  group.prepend(svg("title", {}, described(node)));
  return group;
}

function versionWords(node, metric) {
  const accuracy = metricOf("test_accuracy");
  const value = accuracy ? valueOf(node, "test_accuracy") : null;
  const gain = accuracy ? change(accuracy, changeFromTeacher(node, "test_accuracy")) : change(null, null);
  const colour = metric ? colourOf(valueOf(node, metric.name)) : null;
  const generation = node.kind === "ensemble" ? "" : `gen ${node.generation}`;
  const words = [
    svg("rect", { class: colour ? "" : "unknown", fill: colour, x: 7, y: 9, width: 5, height: CARD.height - 18, rx: 2.5 }),
    svg("text", { class: "name", x: 21, y: 23 }, title(node), svg("tspan", { class: "dim", dx: 7 }, generation)),
    svg("text", { class: "picked", x: CARD.width - 16, y: 23 }, cut(role(node), 20)),
    svg("text", { class: "value", x: 21, y: 46 }, quantity(accuracy, value), svg("tspan", { class: `change ${gain.tone}`, dx: 7 }, gain.text)),
  ];
  if (metric && metric.name !== "test_accuracy") {
    words.push(svg("text", { class: "picked", x: CARD.width - 16, y: 46 }, quantity(metric, valueOf(node, metric.name))));
  }
  return words;
}

function growingWords(node) {
  const width = CARD.width - 36;
  const share = node.epochs ? Math.min(1, node.epoch / node.epochs) : 0;
  const silent = isSilent(node);
  const progress = node.epochs ? `epoch ${node.epoch} of ${node.epochs}` : `epoch ${node.epoch}`;
  return [
    svg("circle", { class: "pulse", cx: 12, cy: 19, r: 4 }),
    svg("text", { class: "name", x: 21, y: 23 }, "growing", svg("tspan", { class: "dim", dx: 7 }, `gen ${node.generation} · seed ${node.seed}`)),
    svg("text", { class: silent ? "dim warn" : "dim", x: 21, y: 40 }, silent ? `${progress} · silent ${ago(node.last_update).replace(" ago", "")}` : progress),
    svg("rect", { class: "bar", x: 21, y: 47, width, height: 4, rx: 2 }),
    svg("rect", { class: "done", x: 21, y: 47, width: width * share, height: 4, rx: 2 }),
  ];
}

function outsideWords(node) {
  const missing = nameOf(node.id) === state.family.name;
  return [
    svg("text", { class: "name", x: 16, y: 26 }, cut(node.id, 24)),
    svg("text", { class: "dim", x: 16, y: 44 }, missing ? "missing" : "of another family"),
  ];
}

function chips(node) {
  const names = node.aliases ?? [];
  const shown = names.length > 2 ? [names[0], `+${names.length - 1}`] : names;
  let right = CARD.width - 8;
  return shown.toReversed().map((name) => {
    const text = cut(name, 18);
    const width = text.length * 6.3 + 16;
    right -= width;
    const chip = svg("g", { class: "chip", transform: `translate(${right} -10)` }, svg("rect", { width, height: 19, rx: 9.5 }), svg("text", { x: width / 2, y: 13 }, text));
    right -= 4;
    return chip;
  });
}

function drawToggle(node) {
  if (!state.children.get(node.id)?.length) return null;
  const hidden = state.collapsed.has(node.id) ? below(node.id).length : 0;
  const text = hidden ? `+${hidden}` : "−";
  const width = Math.max(18, text.length * 7 + 8);
  return svg(
    "g",
    { class: "toggle", "data-toggle": node.id, transform: `translate(${CARD.width} ${CARD.height / 2})` },
    hidden ? svg("rect", { x: -9, y: -9, width, height: 18, rx: 9 }) : svg("circle", { r: 8 }),
    svg("text", { x: hidden ? width / 2 - 9 : 0, y: 4 }, text),
  );
}

function drawFold(fold) {
  const count = fold.nodes.length.toLocaleString("en");
  const text = state.open.has(fold.key) ? `fold ${count}` : `+ ${count} more`;
  const width = text.length * 7.4 + 30;
  return svg(
    "g",
    { class: "fold", "data-fold": fold.key, transform: `translate(${fold.x} ${fold.y + 14})`, role: "button", "aria-label": text },
    svg("rect", { width, height: 30, rx: 15 }),
    svg("text", { x: width / 2, y: 20 }, text),
  );
}

function described(node) {
  if (node.kind === "outside") return `${node.id}, ${nameOf(node.id) === state.family.name ? "missing" : "of another family"}`;
  if (node.kind === "growing") return `growing, generation ${node.generation}, seed ${node.seed}, epoch ${node.epoch} of ${node.epochs}`;
  const accuracy = metricOf("test_accuracy");
  const gain = accuracy ? change(accuracy, changeFromTeacher(node, "test_accuracy")).text : "";
  return [
    `${title(node)}, generation ${node.generation}, ${role(node)}`,
    accuracy ? `test accuracy ${quantity(accuracy, valueOf(node, "test_accuracy"))}` : "",
    gain ? `${gain} against its teacher` : "",
    node.kind === "removed" ? `removed ${day(node.removed)}` : "",
    (node.aliases ?? []).map((alias) => `@${alias}`).join(" "),
  ].filter(Boolean).join(", ");
}

// Classes say what is picked, on a path, found or not: nothing is drawn anew for them.
function mark() {
  const path = state.hovered ? pathTo(state.hovered) : state.selected ? pathTo(state.selected) : new Set();
  const found = state.query ? matches() : null;
  for (const group of by("nodes").querySelectorAll(".node")) {
    const id = group.dataset.id;
    group.classList.toggle("onpath", path.has(id));
    group.classList.toggle("selected", id === state.selected);
    group.classList.toggle("compared", id === state.compared);
    group.classList.toggle("focus", id === state.focus);
    group.classList.toggle("dimmed", found ? !found.has(id) : Boolean(state.hovered) && !path.has(id));
    group.setAttribute("aria-selected", String(id === state.selected));
  }
  for (const line of by("edges").children) {
    const on = path.has(line.dataset.from) && path.has(line.dataset.to);
    line.classList.toggle("path", on);
    line.classList.toggle("dimmed", found ? !(found.has(line.dataset.from) && found.has(line.dataset.to)) : Boolean(state.hovered) && !on);
  }
  const focus = state.nodes.get(state.focus);
  if (focus) canvas.setAttribute("aria-activedescendant", `node-${focus.number}`);
  else canvas.removeAttribute("aria-activedescendant");
}

// ---------------------------------------------------------------- colour

let range = null;

function measureColours() {
  const values = state.family.nodes.map((node) => valueOf(node, state.metric)).filter((value) => value !== null);
  range = values.length ? { low: values.reduce((a, b) => Math.min(a, b)), high: values.reduce((a, b) => Math.max(a, b)) } : null;
  const metric = metricOf(state.metric);
  const worseFirst = metric?.better === -1;
  by("legend").hidden = !range;
  by("low").textContent = range ? quantity(metric, worseFirst ? range.high : range.low) : "";
  by("high").textContent = range ? quantity(metric, worseFirst ? range.low : range.high) : "";
  by("scale").style.background = `linear-gradient(to right, ${SCALE.join(", ")})`;
}

function colourOf(value) {
  if (value === null || !range) return null;
  let share = range.high > range.low ? (value - range.low) / (range.high - range.low) : 1;
  if (metricOf(state.metric).better === -1 && range.high > range.low) share = 1 - share;
  const place = share * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const [from, to] = [SCALE[low], SCALE[low + 1]].map((text) => [1, 3, 5].map((start) => parseInt(text.slice(start, start + 2), 16)));
  return `rgb(${from.map((part, channel) => Math.round(part + (to[channel] - part) * (place - low))).join(" ")})`;
}

// ---------------------------------------------------------------- moving about

function zoomTo(zoom, x, y) {
  const { view } = state;
  const next = Math.min(ZOOM.most, Math.max(ZOOM.least, zoom));
  const [atX, atY] = [x ?? canvas.clientWidth / 2, y ?? canvas.clientHeight / 2];
  view.x = atX - ((atX - view.x) * next) / view.zoom;
  view.y = atY - ((atY - view.y) * next) / view.zoom;
  view.zoom = next;
  paint();
}

function fit() {
  const { nodes, folds, rows } = state.shown;
  const columns = Math.max(0, ...[...nodes, ...folds].map(({ column }) => column));
  const [width, height] = [columns * PITCH.x + CARD.width, Math.max(1, rows) * PITCH.y];
  const { clientWidth, clientHeight } = canvas;
  const zoom = Math.min(1, (clientWidth - 2 * MARGIN) / width, (clientHeight - 2 * MARGIN) / height);
  state.view.zoom = Math.max(zoom, 0.6 * Math.min(1, clientWidth / 600), ZOOM.least);
  state.view.x = Math.max(24, (clientWidth - width * state.view.zoom) / 2);
  state.view.y = Math.max(MARGIN, (clientHeight - height * state.view.zoom) / 2.4);
  paint();
}

function bringIntoView(node, centre) {
  const { view } = state;
  const [x, y] = [view.x + node.x * view.zoom, view.y + node.y * view.zoom];
  const [width, height] = [CARD.width * view.zoom, CARD.height * view.zoom];
  const sheet = by("panel");
  const covered = !sheet.hidden && getComputedStyle(sheet).position === "absolute" ? sheet.clientHeight : 0;
  const [room, depth] = [canvas.clientWidth, canvas.clientHeight - covered];
  if (centre || x < 20 || x + width > room - 20) view.x += centre || width > room - 40 ? room / 2 - (x + width / 2) : x < 20 ? 40 - x : room - 40 - (x + width);
  const [top, foot] = [48, covered ? 12 : 48]; // below the titles, above the hint
  if (centre || y < top || y + height > depth - foot) view.y += centre ? depth / 2 - (y + height / 2) : y < top ? top + 20 - y : depth - foot - 20 - (y + height);
  paint();
}

// Opens what hides a node.
function reveal(id) {
  let changed = false;
  const folds = new Map(state.family.folds.flatMap((fold) => fold.nodes.map((node) => [node, fold.key])));
  for (let node = state.nodes.get(id); node; node = state.nodes.get(node.parent)) {
    const fold = folds.get(node.id);
    if (fold && !state.open.has(fold)) changed = Boolean(state.open.add(fold));
    if (node.parent !== null && state.collapsed.delete(node.parent)) changed = true;
  }
  if (changed) {
    arrange();
    draw();
  }
}

function collapse(id) {
  if (!state.children.get(id)?.length) return;
  if (!state.collapsed.delete(id)) state.collapsed.add(id);
  rearrange(state.nodes.get(id));
  say(`${title(state.nodes.get(id))} ${state.collapsed.has(id) ? "collapsed" : "expanded"}`);
}

function toggleFold(key) {
  if (!state.open.delete(key)) state.open.add(key);
  rearrange(state.family.folds.find((fold) => fold.key === key));
}

// Arranges anew with one item staying where it is on the screen.
function rearrange(anchor) {
  const before = anchor.y;
  arrange();
  state.view.y += (before - anchor.y) * state.view.zoom;
  draw();
}

// ---------------------------------------------------------------- search

// "gen 2 @best" asks for both; numbers and pairs must be met whole, words may be begun.
function matches() {
  const words = state.query.toLowerCase().replace(/\b(seed|gen)(?:eration)?[\s:=]+(\d+)/g, "$1:$2").split(/\s+/).filter(Boolean);
  const isMet = (word, own) => (/^v?\d+$|:/.test(word) ? own === word : own.startsWith(word));
  const found = new Set();
  for (const node of state.nodes.values()) {
    if (words.every((word) => node.words.some((own) => isMet(word, own)))) found.add(node.id);
  }
  return found;
}

function searchable(node) {
  const own = [node.id, title(node), node.kind, node.objective, node.run_id ?? node.run, node.model, `seed:${node.seed}`, `gen:${node.generation}`];
  const aliases = (node.aliases ?? []).flatMap((alias) => [alias, `@${alias}`]);
  return [...own, String(node.version ?? ""), ...aliases].filter(Boolean).map((word) => word.toLowerCase());
}

let step = -1;

function search(text) {
  state.query = text.trim();
  step = -1;
  if (!state.family) return families && by("families").hidden === false ? listFamilies() : undefined;
  by("matches").textContent = state.query ? `${matches().size} of ${state.nodes.size}` : "";
  mark();
}

function nextMatch(direction) {
  const found = [...matches()];
  if (!found.length) return;
  step = (step + direction + found.length) % found.length;
  by("matches").textContent = `${step + 1} of ${found.length}`;
  reveal(found[step]);
  state.focus = found[step];
  bringIntoView(state.nodes.get(found[step]), true);
  mark();
  say(described(state.nodes.get(found[step])));
}

// ---------------------------------------------------------------- the panel

const settingsKept = new Map();

async function settingsOf(node) {
  if (embedded) return embedded.settings[node.recipe] ?? null;
  if (node.kind === "removed" || node.kind === "growing" || node.kind === "outside") return null;
  if (!settingsKept.has(node.id)) settingsKept.set(node.id, ask("settings", { name: state.family.name, version: node.version }).then(({ settings }) => settings));
  try {
    return await settingsKept.get(node.id);
  } catch (error) {
    settingsKept.delete(node.id);
    throw error;
  }
}

function settingsDiffer(one, other) {
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].sort().filter((key) => one[key] !== other[key] && key !== "succession.seed" && key !== "model.name");
}

async function showPanel() {
  const panel = by("panel");
  state.comparing = false;
  const [node, other] = [state.nodes.get(state.selected), state.nodes.get(state.compared)];
  const was = panel.hidden;
  panel.hidden = !node;
  if (was !== panel.hidden) paint();
  if (!node) return panel.replaceChildren();
  panel.replaceChildren(...(other ? comparison(node, other) : portrait(node)));
  panel.scrollTop = 0;
  try {
    if (other) await fillComparison(node, other);
    else await fillSettings(node);
  } catch (error) {
    by("settings")?.replaceChildren(html("p", { class: "note bad" }, error.message));
  }
}

function heading(text, lead) {
  return [
    html("div", { class: "head" }, html("h2", {}, text), html("button", { class: "close", type: "button", "aria-label": "Close", onclick: () => select(null) }, "×")),
    html("p", { class: "lead" }, lead),
  ];
}

function portrait(node) {
  if (node.kind === "growing") {
    const silent = isSilent(node) ? ` Nothing was heard of it since ${day(node.last_update)}: if it was killed, the same command continues it.` : "";
    return [
      ...heading(`Generation ${node.generation} is growing`, `seed ${node.seed} · epoch ${node.epoch} of ${node.epochs}.${silent}`),
      links([["Run", runLink(node.run_id)]]),
    ];
  }
  if (node.kind === "outside") {
    const missing = nameOf(node.id) === state.family.name;
    const lead = missing ? "This version is named as a teacher or member, but the family does not hold it." : "A version of another family.";
    return [...heading(node.id, lead), missing ? commands([["Examine the family", `lineage doctor ${shell(state.family.name)}`]]) : links([["Its family", hash(nameOf(node.id), node.id.slice(node.id.lastIndexOf("/") + 1))]])];
  }
  const removed = node.kind === "removed" ? ` · removed ${day(node.removed)}` : "";
  const place = node.kind === "ensemble" ? role(node) : `generation ${node.generation} · ${role(node)}`;
  return [
    ...heading(uri(node), `${place} · ${day(node.created)}${removed}`),
    node.aliases.length ? html("ul", { class: "tags" }, ...node.aliases.map((alias) => html("li", {}, `@${alias}`))) : null,
    node.kind === "removed" ? null : stockLinks(node),
    html("button", { class: "compare", type: "button", onclick: (event) => waitForOther(event.currentTarget) }, "Compare with …"),
    ...charts(node),
    ...numbers(node),
    html("div", { id: "settings" }, html("p", { class: "note" }, "Reading its settings …")),
    ...(node.kind === "removed" ? [] : [html("h3", {}, "Use it"), commands(uses(node))]),
  ].filter(Boolean);
}

function waitForOther(button) {
  state.comparing = !state.comparing;
  button.textContent = state.comparing ? "Pick another version" : "Compare with …";
}

function stockLinks(node) {
  const name = encodeURIComponent(state.family.name);
  return links([
    ["Version", `./#/models/${name}/versions/${node.version}`],
    ["Run", runLink(node.run)],
    ["Artifacts", node.model && state.family.experiment ? `./#/experiments/${state.family.experiment}/models/${node.model}/artifacts` : null],
  ]);
}

function runLink(run) {
  return run && state.family.experiment ? `./#/experiments/${state.family.experiment}/runs/${run}` : null;
}

function links(pairs) {
  const usable = pairs.filter(([, target]) => target && (!embedded || target.startsWith("#")));
  return usable.length ? html("p", { class: "links" }, ...usable.map(([text, target]) => html("a", { href: target }, text))) : null;
}

function charts(node) {
  const line = lineOf(node);
  if (line.length < 2) return [];
  const names = [...new Set([state.metric, ...CHARTS])].filter((name) => metricOf(name) && line.filter((one) => valueOf(one, name) !== null).length > 1).slice(0, 4);
  if (!names.length) return [];
  return [html("h3", {}, "From the patriarch to here"), html("div", { class: "charts" }, ...names.map((name) => chart(metricOf(name), line)))];
}

function chart(metric, line) {
  const [width, height, left, top, bottom] = [200, 96, 8, 14, 16];
  const series = [{ name: metric.name, style: "line" }];
  if (metric.name === "test_accuracy" && metricOf("ensemble_accuracy")) series.push({ name: "ensemble_accuracy", style: "line also" });
  const values = series.flatMap(({ name }) => line.map((one) => valueOf(one, name))).filter((value) => value !== null);
  let [low, high] = [Math.min(...values), Math.max(...values)];
  if (high === low) [low, high] = [low - Math.abs(low || 1) * 0.01, high + Math.abs(high || 1) * 0.01];
  const x = (index) => left + (index * (width - 2 * left)) / (line.length - 1);
  const y = (value) => top + (1 - (value - low) / (high - low)) * (height - top - bottom);
  const drawnSeries = series.flatMap(({ name, style }) => {
    const points = line.map((one, index) => ({ one, index, value: valueOf(one, name) })).filter(({ value }) => value !== null);
    const path = svg("path", { class: style, d: "M" + points.map(({ index, value }) => `${x(index).toFixed(1)} ${y(value).toFixed(1)}`).join("L") });
    if (style !== "line" || points.length > 24) return [path];
    return [path, ...points.map(({ one, index, value }) => svg("circle", { class: index === line.length - 1 ? "dot here" : "dot", cx: x(index), cy: y(value), r: 3 }, svg("title", {}, `${title(one)}: ${quantity(metric, value)}`)))];
  });
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${metric.label} over ${line.length} generations, now ${quantity(metric, valueOf(line.at(-1), metric.name))}` },
    svg("line", { class: "grid", x1: left, x2: width - left, y1: height - bottom, y2: height - bottom }),
    ...drawnSeries,
    svg("text", { x: left, y: 9 }, quantity(metric, high)),
    svg("text", { x: left, y: height - bottom - 5 }, quantity(metric, low)),
    svg("text", { x: left, y: height - 4 }, title(line[0])),
    svg("text", { x: width - left, y: height - 4, "text-anchor": "end" }, title(line.at(-1))),
  );
  const also = series.length > 1 ? html("span", { class: "key-also" }, " · ensemble so far") : null;
  return html("figure", { class: "chart" }, html("figcaption", { title: metric.label }, metric.label, also), picture);
}

function numbers(node) {
  const rows = state.family.metrics
    .map((metric) => ({ metric, value: valueOf(node, metric.name), gain: changeFromTeacher(node, metric.name) }))
    .filter(({ value }) => value !== null)
    .map(({ metric, value, gain }) => {
      const { text, tone } = change(metric, gain);
      return html("tr", {}, html("th", { scope: "row" }, metric.label), html("td", {}, quantity(metric, value)), html("td", { class: tone }, text));
    });
  if (!rows.length) return [];
  const head = html("thead", {}, html("tr", {}, html("th", {}, ""), html("th", {}, "value"), html("th", {}, "to teacher")));
  const first = html("table", { class: "numbers" }, head, html("tbody", {}, ...rows.slice(0, 8)));
  const rest = rows.length > 8 ? html("details", {}, html("summary", {}, `${rows.length - 8} more`), html("table", { class: "numbers" }, html("tbody", {}, ...rows.slice(8)))) : null;
  return [html("h3", {}, "Numbers"), first, rest];
}

async function fillSettings(node) {
  const teacher = node.parents.length === 1 ? state.nodes.get(node.parents[0]) : null;
  const [own, before] = await Promise.all([settingsOf(node), teacher ? settingsOf(teacher) : null]);
  if (state.selected !== node.id || state.compared) return;
  const place = by("settings");
  if (!own || !Object.keys(own).length) {
    place.replaceChildren(html("h3", {}, "Settings"), html("p", { class: "note" }, "None are kept where this page reads."));
    return;
  }
  const parts = [html("h3", {}, "Settings")];
  if (before && Object.keys(before).length) {
    const keys = settingsDiffer(own, before);
    parts.push(html("p", { class: "note" }, keys.length ? `Differs from its teacher ${title(teacher)}:` : `The same as those of its teacher ${title(teacher)}.`));
    if (keys.length) parts.push(settingsTable(keys, [before, own], [title(teacher), title(node)]));
  }
  const all = Object.keys(own).sort();
  parts.push(html("details", {}, html("summary", {}, `All ${all.length}`), settingsTable(all, [own])));
  place.replaceChildren(...parts);
}

function settingsTable(keys, columns, heads) {
  const head = heads ? html("thead", {}, html("tr", {}, html("th", {}, ""), ...heads.map((text) => html("th", {}, text)))) : null;
  const rows = keys.map((key) => html("tr", {}, html("th", { scope: "row" }, key), ...columns.map((column) => html("td", {}, column[key] ?? "–"))));
  return html("table", { class: "settings" }, head, html("tbody", {}, ...rows));
}

function comparison(node, other) {
  const rows = state.family.metrics
    .map((metric) => ({ metric, one: valueOf(node, metric.name), two: valueOf(other, metric.name) }))
    .filter(({ one, two }) => one !== null || two !== null)
    .map(({ metric, one, two }) => {
      const { text, tone } = change(metric, one === null || two === null ? null : two - one);
      return html("tr", {}, html("th", { scope: "row" }, metric.label), html("td", {}, quantity(metric, one)), html("td", {}, quantity(metric, two)), html("td", { class: tone }, text));
    });
  const head = html("thead", {}, html("tr", {}, html("th", {}, ""), html("th", { class: "a" }, title(node)), html("th", { class: "b" }, title(other)), html("th", {}, "difference")));
  const command = `lineage diff ${shell(uri(node))} ${shell(uri(other))}`;
  return [
    ...heading(`${title(node)} and ${title(other)}`, relation(node, other)),
    html("h3", {}, "Numbers"),
    rows.length ? html("table", { class: "numbers" }, head, html("tbody", {}, ...rows)) : html("p", { class: "note" }, "Neither has any."),
    html("div", { id: "settings" }, html("p", { class: "note" }, "Reading their settings …")),
    html("h3", {}, "Agreement and likeness"),
    commands([["Predictions and features, on the test images", command]]),
  ];
}

async function fillComparison(node, other) {
  const [one, two] = await Promise.all([settingsOf(node), settingsOf(other)]);
  if (state.selected !== node.id || state.compared !== other.id) return;
  const parts = [html("h3", {}, "Settings that differ")];
  if (!one || !two) parts.push(html("p", { class: "note" }, "None are kept where this page reads."));
  else {
    const keys = settingsDiffer(one, two);
    parts.push(keys.length ? settingsTable(keys, [one, two], [title(node), title(other)]) : html("p", { class: "note" }, "None."));
  }
  by("settings").replaceChildren(...parts);
}

function relation(node, other) {
  const [above, aside] = [pathTo(node.id), pathTo(other.id)];
  if (above.has(other.id)) return `${title(node)} descends from ${title(other)}.`;
  if (aside.has(node.id)) return `${title(other)} descends from ${title(node)}.`;
  const common = lineOf(node).reverse().find((one) => aside.has(one.id));
  return common ? `Their nearest common ancestor is ${title(common)}.` : "They have no common ancestor here.";
}

function uses(node) {
  const own = shell(uri(node));
  return [
    ["Grow a student of it", `lineage grow --from ${own}`],
    ["Ensemble it with its ancestors", `lineage ensemble ${own}`],
    ["Load it in Python", `lineage.load(${JSON.stringify(uri(node))})`],
  ];
}

function commands(pairs) {
  return html("div", {}, ...pairs.flatMap(([what, text]) => [html("p", { class: "note" }, what), html("div", { class: "command" }, html("code", {}, text), html("button", { type: "button", onclick: (event) => copy(text, event.currentTarget) }, "Copy"))]));
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers keep the clipboard from pages that come without TLS: select the text and copy that.
    const selection = getSelection();
    selection.selectAllChildren(button.previousElementSibling);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

// ---------------------------------------------------------------- picking

function hash(name, ...versions) {
  return "#/" + [name, ...versions].map(encodeURIComponent).join("/");
}

function select(id, compared = null) {
  const parts = [id, compared].filter(Boolean).map((one) => (one.startsWith("run/") ? one : one.slice(one.lastIndexOf("/") + 1)));
  const target = hash(state.family.name, ...parts);
  if (location.hash === target) return pick(id, compared);
  try {
    history.pushState(null, "", target);
  } catch {
    // Inside a sandboxed frame there is no history.
  }
  pick(id, compared);
}

function pick(id, compared = null) {
  state.selected = id;
  state.compared = compared;
  if (id) state.focus = compared ?? id;
  mark();
  showPanel();
  if (id) bringIntoView(state.nodes.get(compared ?? id));
}

function activate(id, modified) {
  const together = modified || state.comparing;
  state.comparing = false;
  if (together && state.selected && state.selected !== id) select(state.selected, state.compared === id ? null : id);
  else select(state.selected === id && !state.compared ? null : id);
}

// ---------------------------------------------------------------- what comes from the server

async function ask(what, parameters = {}) {
  const address = new URL(`ajax-api/3.0/lineage/${what}`, new URL("./", location.href.split("#")[0]));
  for (const [key, value] of Object.entries(parameters)) address.searchParams.set(key, value);
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("The server does not answer. Start it with 'lineage ui', or see whether the network is up.");
  }
  if (!response.ok) {
    const told = await response.json().then(({ error }) => error, () => "");
    const text = response.status === 403 ? "You may not read this family; ask its owner for permission." : `The server answered ${response.status}; its log says why.`;
    throw Object.assign(new Error(told || text), { status: response.status });
  }
  return response.json();
}

let timer = 0;

function keepFresh() {
  clearTimeout(timer);
  if (embedded || !state.family) return;
  const growing = state.family.nodes.some((node) => node.kind === "growing" && !isSilent(node));
  timer = setTimeout(refresh, growing ? POLL.growing : POLL.idle);
}

async function refresh() {
  const name = state.family?.name;
  try {
    if (document.hidden || !name) return;
    const { token, growing } = await ask("growing", { name });
    if (state.family?.name !== name) return;
    if (token !== state.token) {
      const fresh = await ask("family", { name });
      if (state.family?.name === name) take(fresh);
    } else if (growing.length) {
      for (const one of growing) Object.assign(state.nodes.get(`run/${one.run_id}`) ?? {}, one);
      draw();
      if (state.nodes.get(state.selected)?.kind === "growing") showPanel();
    }
    by("count").classList.remove("bad");
  } catch (error) {
    by("count").classList.add("bad");
    by("count").textContent = error.message;
  } finally {
    keepFresh();
  }
}

// Takes a document in; what was picked, open and collapsed stays so.
function take(answer) {
  state.family = answer.family;
  state.token = answer.token ?? "";
  state.nodes = new Map();
  state.children = new Map();
  answer.family.nodes.forEach((node, number) => {
    node.number = number;
    state.nodes.set(node.id, node);
    if (node.parent !== null) state.children.set(node.parent, [...(state.children.get(node.parent) ?? []), node.id]);
  });
  for (const node of answer.family.nodes) node.words = searchable(node);
  if (!metricOf(state.metric)) state.metric = answer.family.metrics[0]?.name ?? "";
  by("metric").replaceChildren(...answer.family.metrics.map(({ name, label }) => html("option", { value: name, selected: name === state.metric }, label)));
  const versions = answer.family.nodes.filter(({ version, kind }) => version !== undefined && kind !== "removed").length;
  const growing = answer.family.nodes.filter(({ kind }) => kind === "growing").length;
  by("count").textContent = plural(versions, "version") + (growing ? `, ${growing} growing` : "");
  measureColours();
  arrange();
  draw();
  for (const role of ["selected", "compared", "focus", "hovered"]) if (!state.nodes.has(state[role])) state[role] = null;
  mark();
}

// ---------------------------------------------------------------- views

function show(view) {
  for (const id of ["families", "message", "drawing"]) by(id).hidden = id !== view;
  const tree = view === "drawing";
  for (const id of ["colour", "legend", "zoom"]) by(id).hidden = !tree;
  by("search").hidden = view === "message";
  by("search").placeholder = tree ? "v3, @best, seed 1 …" : "family";
  if (!tree) by("panel").hidden = true;
}

function tell(heading, text, command) {
  by("message").replaceChildren(html("h2", {}, heading), html("p", {}, text), ...(command ? [commands([command])] : []));
  show("message");
}

let families = null;
let journey = 0; // who came later than an answer does not want it any more

async function openFamilies() {
  const mine = ++journey;
  state.family = null;
  clearTimeout(timer);
  by("title").textContent = "";
  by("count").textContent = "";
  by("search").value = "";
  document.title = "lineage";
  const answer = await ask("families");
  if (mine !== journey) return;
  families = answer.families;
  if (families.length) listFamilies();
  else tell("No families yet", "The registry of this server holds no family that you may read. Grow one, and it appears here:", ["With MLFLOW_TRACKING_URI set to this server", "lineage grow digits"]);
}

function listFamilies() {
  const words = by("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = families.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  by("count").textContent = words.length ? `${found.length} of ${plural(families.length, "family").replace("familys", "families")}` : "";
  by("families").replaceChildren(html("ul", { class: "families" }, ...found.map((one) => html("li", {}, familyCard(one)))));
  if (!found.length) by("families").replaceChildren(html("p", { class: "note" }, "No family has a name like that."));
  show("families");
}

function familyCard({ name, newest, best, growing, updated }) {
  const accuracy = best?.test_accuracy;
  return html(
    "a",
    { class: "family", href: hash(name) },
    html("h2", {}, name),
    html("div", { class: "big" }, accuracy === undefined || accuracy === null ? "–" : `${(100 * accuracy).toFixed(2)} %`, html("small", {}, best ? ` test accuracy of v${best.version} @best` : " no @best yet")),
    html("div", { class: "foot" }, newest ? html("span", {}, `newest v${newest}`) : null, html("span", {}, `changed ${ago(updated)}`), growing ? html("span", { class: "live" }, `${growing} growing`) : null),
  );
}

async function openFamily(name, versions) {
  const mine = ++journey;
  if (state.family?.name !== name) {
    Object.assign(state, { family: null, selected: null, compared: null, focus: null, hovered: null, query: "" });
    state.open.clear();
    state.collapsed.clear();
    settingsKept.clear();
    by("search").value = "";
    by("matches").textContent = "";
    by("title").textContent = name;
    by("count").textContent = "reading …";
    document.title = `${name} – lineage`;
    const answer = embedded ?? (await ask("family", { name }));
    if (mine !== journey) return;
    if (!answer.family.nodes.length) return tell("Nothing has grown here", `${name} holds no version that lineage made.`, ["Grow its first", `lineage grow digits --name ${shell(name)}`]);
    show("drawing");
    take(answer);
    search(by("search").value);
    by("panel").hidden = versions.length === 0; // it takes room that the drawing must fit into
    fit();
  }
  const ids = versions.map((version) => (version === "run" ? null : `${name}/${version}`)).filter((id) => state.nodes.has(id));
  for (const id of ids) reveal(id);
  pick(ids[0] ?? null, ids[1] ?? null);
  if (versions.length && !ids.length && versions[0] !== "run") say(`${name} has no version ${versions[0]}`);
  keepFresh();
}

async function route() {
  const [name, ...versions] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent).filter(Boolean);
  try {
    if (embedded) await openFamily(embedded.family.name, name ? versions : []);
    else if (name) await openFamily(name, versions);
    else await openFamilies();
  } catch (error) {
    by("count").textContent = "";
    if (error.status === 404) tell("No such family", error.message, ["See what there is", "lineage tree NAME"]);
    else tell("This cannot be shown", error.message);
  }
}

// ---------------------------------------------------------------- hands

const pointers = new Map();
let pressed = null; // where a press began, and whether it became a drag

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  if (pointers.size === 1) pressed = { x: event.clientX, y: event.clientY, moved: false, target: event.target };
  canvas.focus({ preventScroll: true });
});
canvas.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) {
    const id = event.target.closest("[data-id]")?.dataset.id ?? null;
    if (id !== state.hovered) {
      state.hovered = id;
      mark();
    }
    return;
  }
  const now = { x: event.clientX, y: event.clientY };
  if (pointers.size === 2) {
    const [still] = [...pointers].filter(([pointer]) => pointer !== event.pointerId).map(([, place]) => place);
    const apart = (place) => Math.hypot(place.x - still.x, place.y - still.y) || 1;
    const frame = canvas.getBoundingClientRect();
    zoomTo((state.view.zoom * apart(now)) / apart(last), (now.x + still.x) / 2 - frame.left, (now.y + still.y) / 2 - frame.top);
    pressed.moved = true;
  } else if (pressed) {
    if (!pressed.moved && Math.hypot(now.x - pressed.x, now.y - pressed.y) > 4) pressed.moved = true;
    if (pressed.moved) {
      canvas.classList.add("grabbing");
      state.view.x += now.x - last.x;
      state.view.y += now.y - last.y;
      paint();
    }
  }
  pointers.set(event.pointerId, now);
});
for (const ended of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(ended, (event) => {
    pointers.delete(event.pointerId);
    canvas.classList.remove("grabbing");
    if (ended === "pointerup" && pressed && !pressed.moved && pointers.size === 0) press(pressed.target, event);
    if (pointers.size === 0) pressed = null;
  });
}
canvas.addEventListener("pointerleave", () => {
  state.hovered = null;
  mark();
});
canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const frame = canvas.getBoundingClientRect();
    if (event.ctrlKey || event.metaKey) return zoomTo(state.view.zoom * Math.exp(-event.deltaY * 0.004), event.clientX - frame.left, event.clientY - frame.top);
    state.view.x -= event.shiftKey ? event.deltaY : event.deltaX;
    state.view.y -= event.shiftKey ? 0 : event.deltaY;
    paint();
  },
  { passive: false },
);

function press(target, event) {
  const toggle = target.closest("[data-toggle]");
  const fold = target.closest("[data-fold]");
  const node = target.closest("[data-id]");
  if (toggle) collapse(toggle.dataset.toggle);
  else if (fold) toggleFold(fold.dataset.fold);
  else if (node) activate(node.dataset.id, event.ctrlKey || event.metaKey || event.shiftKey);
}

const KEYS = {
  ArrowLeft: (node) => state.shown.visible.has(node.parent) && node.parent,
  ArrowRight: (node) => (state.children.get(node.id) ?? []).find((id) => state.shown.visible.has(id)),
  ArrowUp: (node) => beside(node, -1),
  ArrowDown: (node) => beside(node, 1),
  Home: () => state.shown.nodes[0]?.id,
  End: () => state.shown.nodes.at(-1)?.id,
};

// The next node above or below in its column.
function beside(node, direction) {
  const column = state.shown.nodes.filter((one) => one.column === node.column);
  return column[column.indexOf(node) + direction]?.id;
}

canvas.addEventListener("keydown", (event) => {
  const node = state.nodes.get(state.focus);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (KEYS[event.key]) {
    const next = node && state.shown.visible.has(node.id) ? KEYS[event.key](node) : state.shown.nodes[0]?.id;
    if (next) {
      state.focus = next;
      bringIntoView(state.nodes.get(next));
      mark();
      say(described(state.nodes.get(next)));
    }
  } else if (event.key === "Enter" && node) activate(node.id, false);
  else if (event.key === " " && node) activate(node.id, true);
  else if (event.key === "c" && node) collapse(node.id);
  else if (event.key === "+" || event.key === "=") zoomTo(state.view.zoom * 1.25);
  else if (event.key === "-") zoomTo(state.view.zoom / 1.25);
  else if (event.key === "0") fit();
  else return;
  event.preventDefault();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== by("search")) {
    event.preventDefault();
    by("search").focus();
  } else if (event.key === "Escape") {
    if (by("search").value) {
      by("search").value = "";
      search("");
    } else if (state.selected) select(null);
    canvas.focus({ preventScroll: true });
  }
});

by("search").addEventListener("input", (event) => search(event.target.value));
by("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && state.family) nextMatch(event.shiftKey ? -1 : 1);
});
by("metric").addEventListener("change", (event) => {
  state.metric = event.target.value;
  measureColours();
  draw();
  showPanel();
});
by("zoom-in").addEventListener("click", () => zoomTo(state.view.zoom * 1.25));
by("zoom-out").addEventListener("click", () => zoomTo(state.view.zoom / 1.25));
by("fit").addEventListener("click", fit);
window.addEventListener("hashchange", route);
document.addEventListener("visibilitychange", () => document.hidden || refresh());
new ResizeObserver(() => state.family && !by("drawing").hidden && paint()).observe(canvas);

if (embedded) {
  by("home").hidden = true;
  by("stock").hidden = true;
}
route();
