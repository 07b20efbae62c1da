// Pointer, wheel, keyboard and search.

import { announce, byId, canvas } from "./elements.js";
import { describe, findMatches, state } from "./family.js";
import { activate, select } from "./panel.js";
import {
  bringIntoView,
  fit,
  layout,
  mark,
  moveBy,
  reveal,
  toggleFold,
  toggleSubtree,
  zoomBy,
} from "./tree.js";

const CLICK = 4; // pixels that a pointer may move between press and release
const ZOOM_STEP = 1.25;

// ---------------------------------------------------------------- pointer

const pointers = new Map(); // places of pressed pointers by id; two of them zoom
let press = null; // where the first one was pressed, on what, and whether it has moved

const placeOf = ({ clientX: x, clientY: y }) => ({ x, y });
const distance = (one, other) => Math.hypot(one.x - other.x, one.y - other.y);

canvas.addEventListener("pointerdown", (event) => {
  if (event.button !== 0) return; // the secondary button opens the browser's menu, the middle one scrolls
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, placeOf(event));
  if (pointers.size === 1) press = { ...placeOf(event), target: event.target, hasMoved: false };
  canvas.focus({ preventScroll: true });
});

canvas.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) {
    hover(event.target.closest("[data-id]")?.dataset.id ?? null);
    return;
  }
  const now = placeOf(event);
  pointers.set(event.pointerId, now);
  if (pointers.size === 2) pinch(event.pointerId, last, now);
  else if (press.hasMoved || distance(now, press) > CLICK) {
    press.hasMoved = true;
    canvas.classList.add("grabbing");
    moveBy(now.x - last.x, now.y - last.y);
  }
});

canvas.addEventListener("pointerup", (event) => {
  if (!pointers.has(event.pointerId)) return;
  release(event);
  if (pointers.size === 0 && !press.hasMoved) click(press.target, event);
});
canvas.addEventListener("pointercancel", release);
canvas.addEventListener("pointerleave", () => hover(null));

function release(event) {
  pointers.delete(event.pointerId);
  canvas.classList.remove("grabbing");
}

function hover(id) {
  if (id === state.hovered) return;
  state.hovered = id;
  mark();
}

function pinch(moving, last, now) {
  const [, still] = [...pointers].find(([id]) => id !== moving);
  const frame = canvas.getBoundingClientRect();
  const middle = { x: (now.x + still.x) / 2 - frame.left, y: (now.y + still.y) / 2 - frame.top };
  zoomBy((distance(now, still) || 1) / (distance(last, still) || 1), middle.x, middle.y);
  press.hasMoved = true;
}

function click(target, event) {
  const toggle = target.closest("[data-toggle]");
  const fold = target.closest("[data-fold]");
  const node = target.closest("[data-id]");
  if (toggle) toggleSubtree(toggle.dataset.toggle);
  else if (fold) toggleFold(fold.dataset.fold);
  else if (node) activate(node.dataset.id, event.ctrlKey || event.metaKey || event.shiftKey);
}

canvas.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const frame = canvas.getBoundingClientRect();
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    if (event.ctrlKey || event.metaKey) zoomBy(Math.exp(-event.deltaY * 0.004), x, y);
    else if (event.shiftKey) moveBy(-event.deltaY, 0);
    else moveBy(-event.deltaX, -event.deltaY);
  },
  { passive: false },
);

byId("zoom-in").addEventListener("click", () => zoomBy(ZOOM_STEP));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / ZOOM_STEP));
byId("fit").addEventListener("click", fit);

// ---------------------------------------------------------------- keyboard

// Keys that go from one node to another; each gives the next id.
const MOVES = {
  ArrowLeft: (node) => node.parent,
  ArrowRight: (node) => state.children.get(node.id)?.find((id) => layout.visible.has(id)),
  ArrowUp: (node) => neighbour(node, -1),
  ArrowDown: (node) => neighbour(node, 1),
  Home: () => layout.nodes[0]?.id,
  End: () => layout.nodes.at(-1)?.id,
};

// Keys that do something with the node that has the focus.
const ACTIONS = {
  Enter: (node) => activate(node.id, false),
  " ": (node) => activate(node.id, true),
  c: (node) => toggleSubtree(node.id),
};

const VIEWS = {
  "+": () => zoomBy(ZOOM_STEP),
  "=": () => zoomBy(ZOOM_STEP),
  "-": () => zoomBy(1 / ZOOM_STEP),
  0: fit,
};

// The next node above or below in the same column.
function neighbour(node, direction) {
  const column = layout.nodes.filter((one) => one.column === node.column);
  return column[column.indexOf(node) + direction]?.id;
}

canvas.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const node = layout.visible.has(state.focus) ? state.nodes.get(state.focus) : null;
  const { key } = event;
  if (Object.hasOwn(MOVES, key)) moveFocus(node ? MOVES[key](node) : layout.nodes[0]?.id);
  else if (Object.hasOwn(ACTIONS, key) && node) ACTIONS[key](node);
  else if (Object.hasOwn(VIEWS, key)) VIEWS[key]();
  else return;
  event.preventDefault();
});

function moveFocus(id, inMiddle = false) {
  if (!layout.visible.has(id)) return;
  const node = state.nodes.get(id);
  state.focus = id;
  bringIntoView(node, inMiddle);
  mark();
  announce(describe(node));
}

document.addEventListener("keydown", (event) => {
  if (byId("images").open) return; // it has keys of its own
  const box = byId("search");
  if (event.key === "/" && event.target !== box) {
    event.preventDefault();
    box.focus();
  } else if (event.key === "Escape") {
    if (box.value) {
      box.value = "";
      box.dispatchEvent(new Event("input"));
    } else if (state.selected) select(null);
    canvas.focus({ preventScroll: true });
  }
});

// ---------------------------------------------------------------- search

let step = -1; // index of the match that was gone to; -1 before the first

export function search(query) {
  step = -1;
  findMatches(query);
  mark();
}

byId("search").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && state.matches?.size) goToMatch(event.shiftKey ? -1 : 1);
});

function goToMatch(direction) {
  const matches = [...state.matches];
  step = (Math.max(step + direction, direction) + matches.length) % matches.length;
  byId("matches").textContent = `${step + 1} of ${matches.length}`;
  reveal(matches[step]);
  moveFocus(matches[step], true);
}
