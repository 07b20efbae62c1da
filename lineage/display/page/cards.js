// Draws single nodes as cards, and folds as buttons. Positions are in the drawing's own units.

import { byId, svg, truncate } from "./elements.js";
import {
  changeFromTeacher,
  countDescendants,
  describe,
  epochOf,
  extent,
  formatChange,
  formatValue,
  isMissing,
  isStalled,
  metricOf,
  roleOf,
  state,
  titleOf,
} from "./family.js";

export const CARD = { width: 218, height: 60 };
const COLOURS = ["#46327e", "#365c8d", "#1f978b", "#4ac16d", "#d5e21a"]; // viridis, from worst to best

// A card; from far away without the parts that are too small to see or to hit.
export function drawNode(node, isFar) {
  const children = state.children.get(node.id)?.length ?? 0;
  const description = describe(node);
  const group = svg("g", {
    class: `node ${node.kind}${isStalled(node) ? " stalled" : ""}`,
    id: `node-${node.number}`,
    transform: `translate(${node.x} ${node.y})`,
    role: "treeitem",
    "aria-level": node.column + 1,
    "aria-label": description,
    "aria-expanded": children ? String(!state.collapsed.has(node.id)) : null,
    "data-id": node.id,
  });
  group.append(
    svg("title", {}, description),
    svg("rect", { class: "ring", x: -5, y: -5, width: CARD.width + 10, height: CARD.height + 10, rx: 14 }),
    svg("rect", { class: "card", width: CARD.width, height: CARD.height, rx: 10 }),
  );
  if (node.kind === "growing") group.append(...drawTraining(node));
  else if (node.kind === "outside") group.append(...drawOutside(node));
  else group.append(...drawVersion(node));
  if (!isFar) {
    group.append(...drawAliases(node));
    if (children) group.append(drawToggle(node));
  }
  return group;
}

function drawVersion(node) {
  const [accuracy, metric] = [state.metrics.get("test_accuracy"), state.metrics.get(state.metric)];
  const gain = formatChange(accuracy, changeFromTeacher(node, "test_accuracy"));
  const generation = node.kind === "ensemble" ? "" : `gen ${node.generation}`;
  const colour = colourOf(metricOf(node, state.metric));
  const right = CARD.width - 16;
  const bar = {
    class: colour ? "" : "unknown",
    fill: colour,
    x: 7,
    y: 9,
    width: 5,
    height: CARD.height - 18,
  };
  const value = formatValue(accuracy, metricOf(node, "test_accuracy"));
  const parts = [
    svg("rect", { ...bar, rx: 2.5 }),
    svg(
      "text",
      { class: "name", x: 21, y: 23 },
      titleOf(node),
      svg("tspan", { class: "dim", dx: 7 }, generation),
    ),
    svg("text", { class: "aside", x: right, y: 23 }, truncate(roleOf(node), 20)),
    svg(
      "text",
      { class: "value", x: 21, y: 46 },
      value,
      svg("tspan", { class: `change ${gain.tone}`, dx: 7 }, gain.text),
    ),
  ];
  if (metric && metric !== accuracy) {
    parts.push(
      svg("text", { class: "aside", x: right, y: 46 }, formatValue(metric, metricOf(node, metric.name))),
    );
  }
  return parts;
}

function drawTraining(node) {
  const width = CARD.width - 36;
  const share = node.epochs ? Math.min(1, node.epoch / node.epochs) : 0;
  const stalled = isStalled(node);
  const progress = epochOf(node) + (stalled ? " · stalled" : "");
  const place = `gen ${node.generation} · seed ${node.seed}`;
  return [
    svg("circle", { class: "pulse", cx: 12, cy: 19, r: 4 }),
    svg("text", { class: "name", x: 21, y: 23 }, "in training", svg("tspan", { class: "dim", dx: 7 }, place)),
    svg("text", { class: stalled ? "dim warn" : "dim", x: 21, y: 40 }, progress),
    svg("rect", { class: "bar", x: 21, y: 47, width, height: 4, rx: 2 }),
    svg("rect", { class: "done", x: 21, y: 47, width: width * share, height: 4, rx: 2 }),
  ];
}

function drawOutside(node) {
  return [
    svg("text", { class: "name", x: 16, y: 26 }, truncate(node.id, 24)),
    svg("text", { class: "dim", x: 16, y: 44 }, isMissing(node) ? "missing" : "in another family"),
  ];
}

// Aliases on the card's upper edge, from right to left.
function drawAliases(node) {
  const names = node.aliases ?? [];
  const shown = names.length > 2 ? [names[0], `+${names.length - 1}`] : names;
  let right = CARD.width - 8;
  return shown.toReversed().map((name) => {
    const text = truncate(name, 18);
    const width = text.length * 6.3 + 16;
    const left = right - width;
    right = left - 4;
    return svg(
      "g",
      { class: "chip", transform: `translate(${left} -10)` },
      svg("rect", { width, height: 19, rx: 9.5 }),
      svg("text", { x: width / 2, y: 13 }, text),
    );
  });
}

function drawToggle(node) {
  const hidden = state.collapsed.has(node.id) ? countDescendants(node.id) : 0;
  const text = hidden ? `+${hidden}` : "−";
  const width = Math.max(18, text.length * 7 + 8);
  return svg(
    "g",
    { class: "toggle", "data-toggle": node.id, transform: `translate(${CARD.width} ${CARD.height / 2})` },
    hidden ? svg("rect", { x: -9, y: -9, width, height: 18, rx: 9 }) : svg("circle", { r: 8 }),
    svg("text", { x: hidden ? width / 2 - 9 : 0, y: 4 }, text),
  );
}

export function drawFold(fold) {
  const count = fold.nodes.length.toLocaleString("en");
  const text = state.openFolds.has(fold.key) ? `hide ${count}` : `+ ${count} more`;
  const width = text.length * 7.4 + 30;
  const place = { transform: `translate(${fold.x} ${fold.y + 14})`, role: "button", "aria-label": text };
  return svg(
    "g",
    { class: "fold", "data-fold": fold.key, ...place },
    svg("rect", { width, height: 30, rx: 15 }),
    svg("text", { x: width / 2, y: 20 }, text),
  );
}

// ---------------------------------------------------------------- colours of a metric's values

let range = null; // smallest and largest value in the family

// Measures the metric that is shown by colour, and labels the scale; the better end is on the right.
export function updateColourScale() {
  const values = state.family.nodes
    .map((node) => metricOf(node, state.metric))
    .filter((value) => value !== null);
  const metric = state.metrics.get(state.metric);
  range = extent(values);
  byId("legend").hidden = !range;
  if (!range) return;
  const ends = metric.better === -1 ? [range.high, range.low] : [range.low, range.high];
  [byId("low").textContent, byId("high").textContent] = ends.map((value) => formatValue(metric, value));
  byId("scale").style.background = `linear-gradient(to right, ${COLOURS.join(", ")})`;
}

function colourOf(value) {
  if (value === null || !range) return null;
  const width = range.high - range.low;
  const isLowBetter = state.metrics.get(state.metric).better === -1;
  const share = width ? (isLowBetter ? range.high - value : value - range.low) / width : 1;
  const place = share * (COLOURS.length - 1);
  const index = Math.min(Math.floor(place), COLOURS.length - 2);
  const [from, to] = COLOURS.slice(index, index + 2).map(channelsOf);
  const mixed = from.map((channel, i) => Math.round(channel + (to[i] - channel) * (place - index)));
  return `rgb(${mixed.join(" ")})`;
}

const channelsOf = (colour) => [1, 3, 5].map((start) => Number.parseInt(colour.slice(start, start + 2), 16));
