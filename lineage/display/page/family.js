// The family on display: the document from the server, what is picked in it, and questions about its nodes.
// A node is a version, a generation in training ("growing"), a removed version, or a version of another
// family ("outside"). A document is what family_document in page_data.py returns.

import { byId, dateTime } from "./elements.js";

const STALLED_AFTER = 10 * 60_000; // milliseconds without progress after which a run may be dead

export const state = {
  family: null, // the document
  token: "", // identifies the state of the registry that the document shows
  nodes: new Map(), // nodes by id
  children: new Map(), // ids of the children that are drawn beside a node, by its id
  metrics: new Map(), // metrics by name
  metric: "test_accuracy", // name of the metric that is shown by colour
  openFolds: new Set(), // ids of the first nodes of folds that are open
  collapsed: new Set(), // ids of nodes whose children are hidden
  selected: null, // ids
  compared: null,
  focus: null,
  hovered: null,
  isComparing: false, // whether the next version that is picked is compared with the selected one
  matches: null, // set of the ids that the search found; null without a search
};

// Takes in a document; what was picked and opened stays so, as far as it is still there.
export function setFamily({ family, token = "" }) {
  Object.assign(state, { family, token, nodes: new Map(), children: new Map() });
  state.metrics = new Map(family.metrics.map((metric, index) => [metric.name, { ...metric, index }]));
  if (!state.metrics.has(state.metric)) state.metric = family.metrics[0]?.name ?? "";
  for (const [number, node] of family.nodes.entries()) {
    node.number = number;
    node.terms = searchTerms(node);
    state.nodes.set(node.id, node);
    if (node.parent === null) continue;
    const siblings = state.children.get(node.parent);
    if (siblings) siblings.push(node.id);
    else state.children.set(node.parent, [node.id]);
  }
  for (const role of ["selected", "compared", "focus", "hovered"]) {
    if (!state.nodes.has(state[role])) state[role] = null;
  }
  if (!state.selected) Object.assign(state, { selected: state.compared, compared: null });
}

export function clearFamily() {
  const picked = { selected: null, compared: null, focus: null, hovered: null, matches: null };
  Object.assign(state, { family: null, isComparing: false, ...picked });
  state.openFolds.clear();
  state.collapsed.clear();
}

// ---------------------------------------------------------------- values of metrics

export function metricOf(node, name) {
  return node.values[state.metrics.get(name)?.index] ?? null;
}

export function changeFromTeacher(node, name) {
  const teacher = teacherOf(node);
  const [own, before] = [metricOf(node, name), teacher ? metricOf(teacher, name) : null];
  return own === null || before === null ? null : own - before;
}

// Smallest and largest of many numbers; null of none. Math.min(...values) would overflow the stack.
export function extent(values) {
  if (!values.length) return null;
  const smaller = (one, other) => Math.min(one, other);
  const larger = (one, other) => Math.max(one, other);
  return { low: values.reduce(smaller), high: values.reduce(larger) };
}

function formatNumber(metric, value) {
  const scaled = value * metric.scale;
  return metric.fixed ? scaled.toFixed(metric.digits) : String(Number(scaled.toPrecision(metric.digits)));
}

export function formatValue(metric, value) {
  return value === null || !metric ? "–" : formatNumber(metric, value) + metric.sign;
}

// A difference with its sign, and whether it is "good" or "bad".
export function formatChange(metric, difference) {
  if (difference === null || !metric) return { text: "", tone: "" };
  const text = formatNumber(metric, difference);
  const isZero = Number(text) === 0;
  const direction = difference > 0 ? 1 : -1;
  const tone = isZero || !metric.better ? "" : direction === metric.better ? "good" : "bad";
  return { text: (direction > 0 && !isZero ? "+" : "") + text.replace("-", "−"), tone };
}

// ---------------------------------------------------------------- names of nodes

export const uriOf = (node) => `models:/${node.id}`;
export const familyOf = (id) => id.slice(0, id.lastIndexOf("/"));
export const isVersion = ({ version, kind }) => version !== undefined && kind !== "removed";
export const isMissing = (node) => node.kind === "outside" && familyOf(node.id) === state.family.name;
export const isStalled = (node) => node.kind === "growing" && Date.now() - node.last_update > STALLED_AFTER;

export function titleOf(node) {
  if (node.kind === "outside") return node.id;
  if (node.kind === "growing") return `generation ${node.generation}`;
  return `v${node.version}`;
}

export function roleOf(node) {
  if (node.kind === "ensemble") return `ensemble of ${node.parents.length}`;
  if (node.kind !== "generation" && node.kind !== "removed") return node.kind;
  const objective = node.objective === "student" ? "" : node.objective;
  return [objective, `seed ${node.seed}`, node.network].filter(Boolean).join(" · ");
}

export const epochOf = (node) =>
  node.epochs ? `epoch ${node.epoch} of ${node.epochs}` : `epoch ${node.epoch}`;

// A node in one sentence, for tooltips and screen readers.
export function describe(node) {
  if (node.kind === "outside") return `${node.id}, ${isMissing(node) ? "missing" : "in another family"}`;
  if (node.kind === "growing") {
    return `in training, generation ${node.generation}, seed ${node.seed}, ${epochOf(node)}`;
  }
  const accuracy = state.metrics.get("test_accuracy");
  const gain = formatChange(accuracy, changeFromTeacher(node, "test_accuracy")).text;
  const phrases = [
    `${titleOf(node)}, generation ${node.generation}, ${roleOf(node)}`,
    accuracy && `test accuracy ${formatValue(accuracy, metricOf(node, "test_accuracy"))}`,
    gain && `${gain} against its teacher`,
    node.kind === "removed" && `removed ${dateTime(node.removed)}`,
    node.aliases.map((alias) => `@${alias}`).join(" "),
  ];
  return phrases.filter(Boolean).join(", ");
}

// ---------------------------------------------------------------- relatives

export function teacherOf(node) {
  return node.parents.length === 1 ? (state.nodes.get(node.parents[0]) ?? null) : null;
}

// Ids of a node and all its ancestors.
export function ancestry(id) {
  const found = new Set([id]);
  for (const reached of found) {
    for (const parent of state.nodes.get(reached)?.parents ?? []) {
      if (state.nodes.has(parent)) found.add(parent); // a set's loop goes on to what is added in it
    }
  }
  return found;
}

// The nodes from a patriarch down to this one; the newest member stands for all members of an ensemble.
export function lineTo(node) {
  const line = new Set();
  for (let next = node; next && next.kind !== "outside" && !line.has(next); ) {
    line.add(next);
    next = state.nodes.get(next.parents.at(-1));
  }
  return [...line].reverse();
}

export function countDescendants(id) {
  const pending = [id];
  let count = -1;
  for (; pending.length; count += 1) {
    for (const child of state.children.get(pending.pop()) ?? []) pending.push(child);
  }
  return count;
}

// How two versions are related, as a sentence.
export function relation(node, other) {
  const [ancestors, others] = [ancestry(node.id), ancestry(other.id)];
  if (ancestors.has(other.id)) return `${titleOf(node)} descends from ${titleOf(other)}.`;
  if (others.has(node.id)) return `${titleOf(other)} descends from ${titleOf(node)}.`;
  const common = lineTo(node).findLast((one) => others.has(one.id));
  return common
    ? `Their nearest common ancestor is ${titleOf(common)}.`
    : "They have no common ancestor here.";
}

// ---------------------------------------------------------------- search

function searchTerms(node) {
  const names = [node.id, titleOf(node), node.kind, node.objective, node.run_id ?? node.run, node.model];
  const numbers = [`seed:${node.seed}`, `gen:${node.generation}`, String(node.version ?? "")];
  const aliases = (node.aliases ?? []).flatMap((alias) => [alias, `@${alias}`]);
  return [...names, ...numbers, ...aliases].filter(Boolean).map((term) => term.toLowerCase());
}

// Finds the nodes that meet every word of a query, such as "gen 2 @best". Numbers must be met whole; of other
// words the beginning is enough.
export function findMatches(query) {
  const pairs = query.toLowerCase().replace(/\b(seed|gen)(?:eration)?[\s:=]+(\d+)/g, "$1:$2");
  const words = pairs.split(/\s+/).filter(Boolean);
  const meets = (term, word) => (/^v?\d+$|:/.test(word) ? term === word : term.startsWith(word));
  const isMatch = (node) => words.every((word) => node.terms.some((term) => meets(term, word)));
  state.matches = words.length
    ? new Set([...state.nodes.values()].filter(isMatch).map(({ id }) => id))
    : null;
  byId("matches").textContent = state.matches ? `${state.matches.size} of ${state.nodes.size}` : "";
}

// ---------------------------------------------------------------- addresses

// The address of a family or of nodes in it, such as "#/digits/3/4"; ids of other families stay whole.
export function addressOf(name, ...ids) {
  const short = ids.map((id) => (id.startsWith(`${name}/`) ? id.slice(name.length + 1) : id));
  return `#/${[name, ...short].map(encodeURIComponent).join("/")}`;
}

// Puts an address into the browser's history, without opening it.
export function setAddress(address) {
  try {
    if (location.hash !== address) history.pushState(null, "", address);
  } catch {
    // There is no history inside a sandboxed frame.
  }
}

// The parts of an address, name of the family first.
export function parseAddress(address) {
  return address
    .replace(/^#?\/?/, "")
    .split("/")
    .map(decode)
    .filter(Boolean);
}

// A part that somebody typed by hand, such as "100%", stands for itself.
function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
