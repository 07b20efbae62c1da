// Lays out and draws the tree, and moves it about. Columns and rows come from tree_layout.py; rows in which
// nothing is shown take no room, and only what is in view is in the document.

import { CARD, drawFold, drawNode } from "./cards.js";
import { announce, byId, canvas, svg } from "./elements.js";
import { ancestry, state, titleOf } from "./family.js";

const PITCH = { x: 290, y: 84 }; // from one card to the next
const MARGIN = 60; // beside and above the first card
const ZOOM = { least: 0.25, far: 0.5, readable: 0.6, most: 2.5 };

// The items that are shown: nodes from top to bottom, their ids, edges, folds, and the number of rows.
export let layout = { nodes: [], visible: new Set(), edges: [], folds: [], rows: 0 };
let view = { x: 0, y: 0, zoom: 1 }; // where the drawing's origin is on the canvas, in pixels

// ---------------------------------------------------------------- layout

export function arrange() {
  const folded = new Map(); // fold by the id of a node in it
  for (const fold of state.family.folds) {
    fold.key = fold.nodes[0];
    for (const id of fold.nodes) folded.set(id, fold);
  }
  const hidden = new Set();
  const isBelowHidden = ({ parent }) =>
    parent !== null && (hidden.has(parent) || state.collapsed.has(parent));
  const nodes = [];
  for (const node of [...state.nodes.values()].sort((one, other) => one.column - other.column)) {
    const fold = folded.get(node.id);
    if (isBelowHidden(node) || (fold && !state.openFolds.has(fold.key))) hidden.add(node.id);
    else nodes.push(node);
  }
  const folds = state.family.folds.filter((fold) => !isBelowHidden(fold));
  const shown = [...nodes, ...folds];
  const rows = [...new Set(shown.map(({ row }) => row))].sort((one, other) => one - other);
  const heights = new Map(rows.map((row, index) => [row, index * PITCH.y]));
  for (const item of shown) Object.assign(item, { x: item.column * PITCH.x, y: heights.get(item.row) });
  nodes.sort((one, other) => one.y - other.y || one.x - other.x);
  const visible = new Set(nodes.map(({ id }) => id));
  const edges = nodes.flatMap((node) =>
    node.parents.filter((id) => visible.has(id)).map((id) => makeEdge(state.nodes.get(id), node)),
  );
  layout = { nodes, visible, edges, folds, rows: rows.length };
}

function makeEdge(from, to) {
  const [x0, y0] = [from.x + CARD.width, from.y + CARD.height / 2];
  const [x1, y1] = [to.x, to.y + CARD.height / 2];
  const kind = to.kind === "ensemble" ? "member" : to.kind === "growing" ? "growing" : "";
  const bottom = Math.max(from.y, to.y) + CARD.height + 30;
  const isFar = kind === "member" && to.column > from.column + 1;
  let path = `M${x0} ${y0}H${x1}`;
  if (isFar) path = pathBelow(x0 - 40, from.y + CARD.height, x1, y1 + 14, bottom);
  else if (y0 !== y1) path = pathAround(x0, y0, x1, y1);
  const box = { left: Math.min(x0, x1) - 40, right: Math.max(x0, x1), top: Math.min(y0, y1), bottom };
  return { from, to, kind, path, ...box };
}

// From a member's lower edge, below what is between, to the ensemble.
function pathBelow(x0, y0, x1, y1, bottom) {
  const lane = bottom - 12;
  const down = `C${x0} ${bottom} ${x0 + 60} ${lane} ${x0 + 100} ${lane}`;
  return `M${x0} ${y0}${down}H${x1 - 60}C${x1 - 20} ${lane} ${x1 - 30} ${y1} ${x1} ${y1}`;
}

// To the right, up or down with round corners, and on.
function pathAround(x0, y0, x1, y1) {
  const middle = Math.max(x1 - 34, x0 + 14);
  const bend = Math.min(12, Math.abs(y1 - y0) / 2) * Math.sign(y1 - y0);
  const turn = `Q${middle} ${y0} ${middle} ${y0 + bend}`;
  return `M${x0} ${y0}H${middle - 12}${turn}V${y1 - bend}Q${middle} ${y1} ${middle + 12} ${y1}H${x1}`;
}

// ---------------------------------------------------------------- drawing

let drawn = null; // the part of the drawing that is in the document, and whether it is drawn as from afar
let cards = new Map(); // those cards by the id of their node

// Draws everything again; paint keeps the cards that stay in view.
export function draw() {
  drawn = null;
  cards = new Map();
  paint();
}

const overlaps = (box, part) =>
  box.left < part.right && box.right > part.left && box.top < part.bottom && box.bottom > part.top;
const isCardIn = ({ x, y }, part) =>
  x < part.right && x + CARD.width > part.left && y < part.bottom && y + CARD.height > part.top;

export function paint() {
  const { x, y, zoom } = view;
  const [width, height] = [canvas.clientWidth / zoom, canvas.clientHeight / zoom];
  const [left, top] = [-x / zoom, -y / zoom];
  const [right, bottom] = [left + width, top + height];
  const isFar = zoom < ZOOM.far;
  byId("world").setAttribute("transform", `translate(${x} ${y}) scale(${zoom})`);
  canvas.classList.toggle("far", isFar);
  if (drawn?.isFar !== isFar) {
    drawn = null;
    cards = new Map();
  }
  const isInside = (part) =>
    part.left <= left && part.top <= top && part.right >= right && part.bottom >= bottom;
  if (!drawn || !isInside(drawn)) {
    const [beside, above] = [width * 0.3, height * 0.3]; // drawn in advance, so that small moves draw nothing
    drawn = { isFar, left: left - beside, right: right + beside, top: top - above, bottom: bottom + above };
    const isNear = (item) => isCardIn(item, drawn);
    const nodes = layout.nodes.filter(isNear);
    cards = new Map(nodes.map((node) => [node.id, cards.get(node.id) ?? drawNode(node, isFar)]));
    byId("edges").replaceChildren(...edgesIn(drawn).map(drawEdge));
    byId("nodes").replaceChildren(...layout.folds.filter(isNear).map(drawFold), ...cards.values());
    mark();
  }
  drawColumns(left, right, top, height);
}

// Edges that cross a part of the drawing. Edges from one teacher to students above or below that part lie
// upon each other, so the longest is enough.
function edgesIn(part) {
  const near = [];
  const passing = new Map(); // by teacher
  for (const edge of layout.edges) {
    if (!overlaps(edge, part)) continue;
    const ends = edge.kind === "member" || (edge.to.y < part.bottom && edge.to.y + CARD.height > part.top);
    if (ends) near.push(edge);
    else if (edge.bottom > (passing.get(edge.from)?.bottom ?? -Infinity)) passing.set(edge.from, edge);
  }
  return [...near, ...passing.values()];
}

function drawEdge({ kind, path, from, to }) {
  return svg("path", { class: `edge ${kind}`, d: path, "data-from": from.id, "data-to": to.id });
}

// Bands are behind everything; their titles are in front of it, at the upper edge of the canvas.
function drawColumns(left, right, top, height) {
  const [bands, titles] = [[], []];
  const size = 12 / Math.max(view.zoom, ZOOM.far);
  const gap = (PITCH.x - CARD.width) / 2;
  const { columns } = state.family;
  const first = Math.max(0, Math.floor((left + gap) / PITCH.x));
  for (let column = first; column < columns.length && column * PITCH.x - gap < right; column += 1) {
    const style = column % 2 === 0 ? "band" : "between";
    const box = { x: column * PITCH.x - gap, y: top, width: PITCH.x };
    bands.push(svg("rect", { class: style, ...box, height }));
    if (!columns[column]) continue;
    const place = { x: column * PITCH.x, y: top + size * 1.9, "font-size": size };
    titles.push(svg("rect", { class: `${style} backdrop`, ...box, height: size * 2.9 }));
    titles.push(svg("text", { class: "column", ...place }, columns[column]));
  }
  byId("bands").replaceChildren(...bands);
  byId("titles").replaceChildren(...titles);
}

// Marks with classes what is picked, on a path to the patriarch, or found; draws nothing again.
export function mark() {
  const [matches, end] = [state.matches, state.hovered ?? state.selected];
  const path = end ? ancestry(end) : new Set();
  const isDimmed = (...ids) => {
    const bright = matches ?? (state.hovered ? path : null);
    return bright !== null && !ids.every((id) => bright.has(id));
  };
  for (const [id, group] of cards) {
    group.classList.toggle("onpath", path.has(id));
    for (const role of ["selected", "compared", "focus"]) group.classList.toggle(role, id === state[role]);
    group.classList.toggle("dimmed", isDimmed(id));
    group.setAttribute("aria-selected", String(id === state.selected));
  }
  for (const line of byId("edges").children) {
    const { from, to } = line.dataset;
    line.classList.toggle("path", path.has(from) && path.has(to));
    line.classList.toggle("dimmed", isDimmed(from, to));
  }
  const focus = state.nodes.get(state.focus);
  if (focus) canvas.setAttribute("aria-activedescendant", `node-${focus.number}`);
  else canvas.removeAttribute("aria-activedescendant");
}

// ---------------------------------------------------------------- moving

export function moveBy(x, y) {
  view = { ...view, x: view.x + x, y: view.y + y };
  paint();
}

// Zooms by a factor with one point of the canvas staying where it is, by default the middle.
export function zoomBy(factor, x = canvas.clientWidth / 2, y = canvas.clientHeight / 2) {
  const zoom = Math.min(ZOOM.most, Math.max(ZOOM.least, view.zoom * factor));
  const ratio = zoom / view.zoom;
  view = { x: x - (x - view.x) * ratio, y: y - (y - view.y) * ratio, zoom };
  paint();
}

export function fit() {
  const columns = [...layout.nodes, ...layout.folds].reduce((most, { column }) => Math.max(most, column), 0);
  const [width, height] = [columns * PITCH.x + CARD.width, Math.max(1, layout.rows) * PITCH.y];
  const { clientWidth, clientHeight } = canvas;
  const whole = Math.min(1, (clientWidth - 2 * MARGIN) / width, (clientHeight - 2 * MARGIN) / height);
  const zoom = Math.max(whole, ZOOM.readable);
  const x = Math.max(24, (clientWidth - width * zoom) / 2);
  view = { x, y: Math.max(MARGIN, (clientHeight - height * zoom) / 2.4), zoom };
  paint();
}

// Moves the tree until a node is in view, or in the middle.
export function bringIntoView(node, inMiddle = false) {
  const panel = byId("panel");
  const isCovering = !panel.hidden && getComputedStyle(panel).position === "absolute";
  const bottom = canvas.clientHeight - (isCovering ? panel.clientHeight + 12 : 48); // above the hint
  const [x, y] = [view.x + node.x * view.zoom, view.y + node.y * view.zoom];
  const [width, height] = [CARD.width * view.zoom, CARD.height * view.zoom];
  moveBy(
    shift(x, width, 20, canvas.clientWidth - 20, inMiddle),
    shift(y, height, 48, bottom, inMiddle), // 48: below the titles
  );
}

// How far to move what is at a place, so that it is between two limits, 20 pixels away from them if it moves.
function shift(place, size, low, high, inMiddle) {
  if (inMiddle || size > high - low) return (low + high - size) / 2 - place;
  if (place < low) return low + 20 - place;
  return place + size > high ? high - 20 - size - place : 0;
}

// ---------------------------------------------------------------- opening and closing

// Opens the folds and the collapsed ancestors that hide a node.
export function reveal(id) {
  const folds = new Map(state.family.folds.flatMap((fold) => fold.nodes.map((node) => [node, fold.key])));
  for (let node = state.nodes.get(id); node; node = state.nodes.get(node.parent)) {
    if (folds.has(node.id)) state.openFolds.add(folds.get(node.id));
    state.collapsed.delete(node.parent);
  }
  if (layout.visible.has(id)) return;
  arrange();
  draw();
}

export function toggleSubtree(id) {
  if (!state.children.get(id)?.length) return;
  const isOpen = state.collapsed.delete(id);
  if (!isOpen) state.collapsed.add(id);
  rearrangeAround(state.nodes.get(id));
  announce(`${titleOf(state.nodes.get(id))} ${isOpen ? "expanded" : "collapsed"}`);
}

export function toggleFold(key) {
  if (!state.openFolds.delete(key)) state.openFolds.add(key);
  rearrangeAround(state.family.folds.find((fold) => fold.key === key));
}

// Lays out again with one node or fold staying where it is on the screen.
function rearrangeAround(anchor) {
  const before = anchor.y;
  arrange();
  view = { ...view, y: view.y + (before - anchor.y) * view.zoom };
  draw();
}
