// The panel beside the tree: one node, or two versions that are compared. Picking a node opens it.

import { charts, later, metricsSection, note, settingsSection, settingsThatDiffer, table } from "./charts.js";
import { byId, commandList, dateTime, html, quoted } from "./elements.js";
import {
  addressOf,
  epochOf,
  familyOf,
  formatChange,
  formatValue,
  isMissing,
  isStalled,
  isVersion,
  metricOf,
  relation,
  roleOf,
  setAddress,
  state,
  titleOf,
  uriOf,
} from "./family.js";
import { openImages } from "./image_view.js";
import { embedded } from "./server.js";
import { bringIntoView, mark, paint } from "./tree.js";

// ---------------------------------------------------------------- picking

// Opens a node, or two that are compared, or closes the panel; the address follows.
export function select(id, compared = null) {
  setAddress(addressOf(state.family.name, ...[id, compared].filter(Boolean)));
  pick(id, compared);
}

// The same with the address left alone.
export function pick(id, compared = null) {
  Object.assign(state, { selected: id, compared });
  if (id) state.focus = compared ?? id;
  mark();
  showPanel();
  if (id) bringIntoView(state.nodes.get(compared ?? id));
}

// Answers a click or a key on a node: selects it, compares it with the selected one, or closes the panel.
export function activate(id, isWithOther) {
  const isSecond = state.selected && state.selected !== id && (isWithOther || state.isComparing);
  if (isSecond) select(state.selected, state.compared === id ? null : id);
  else select(state.selected === id && !state.compared ? null : id);
}

// ---------------------------------------------------------------- content

let content = ""; // what the panel shows, to compare it with what it should show

function showPanel() {
  const panel = byId("panel");
  const [node, other] = [state.nodes.get(state.selected), state.nodes.get(state.compared)];
  state.isComparing = false;
  content = contentOf(node, other);
  if (panel.hidden === Boolean(node)) {
    panel.hidden = !node;
    paint(); // the canvas has another width
  }
  if (!node) panel.replaceChildren();
  else panel.replaceChildren(...(other ? comparison(node, other) : portrait(node)).filter(Boolean));
  panel.scrollTop = 0;
}

// Shows the panel again if its nodes changed or are gone.
export function refreshPanel() {
  if (contentOf(state.nodes.get(state.selected), state.nodes.get(state.compared)) !== content) showPanel();
}

function contentOf(...nodes) {
  const shown = nodes.map(
    (node) => node && [node.id, node.kind, node.aliases, node.epoch, isStalled(node), node.values],
  );
  return JSON.stringify([shown, state.metric]);
}

const ACTION = { class: "action", type: "button" };

function heading(text, lead) {
  const close = { class: "close", type: "button", "aria-label": "Close", onclick: () => select(null) };
  return [
    html("div", { class: "head" }, html("h2", {}, text), html("button", close, "×")),
    html("p", { class: "lead" }, lead),
  ];
}

function portrait(node) {
  if (node.kind === "growing") return portraitOfTraining(node);
  if (node.kind === "outside") return portraitOfOutside(node);
  const isRemoved = node.kind === "removed";
  const place = node.kind === "ensemble" ? roleOf(node) : `generation ${node.generation} · ${roleOf(node)}`;
  const dates = dateTime(node.created) + (isRemoved ? ` · removed ${dateTime(node.removed)}` : "");
  const compare = {
    ...ACTION,
    onclick: (event) => toggleComparing(event.currentTarget),
  };
  return [
    ...heading(uriOf(node), `${place} · ${dates}`),
    node.aliases.length ? tags(node.aliases) : null,
    isRemoved ? null : mlflowLinks(node),
    html(
      "p",
      { class: "actions" },
      html("button", compare, "Compare with …"),
      isRemoved ? null : html("button", { ...ACTION, onclick: () => openImages(node) }, "Images"),
    ),
    ...charts(node),
    ...metricsSection(node),
    later(settingsSection(node), "Loading settings …"),
    ...(isRemoved ? [] : [html("h3", {}, "Commands"), commandList(commandsFor(node))]),
  ];
}

function tags(aliases) {
  const items = aliases.map((alias) => html("li", {}, `@${alias}`));
  return html("ul", { class: "tags" }, items);
}

function portraitOfTraining(node) {
  const since = `No progress since ${dateTime(node.last_update)}: if its process was killed,`;
  const advice = isStalled(node) ? ` ${since} run the same command again to resume it.` : "";
  const lead = `seed ${node.seed} · ${epochOf(node)}.${advice}`;
  return [
    ...heading(`Generation ${node.generation} is in training`, lead),
    links([["Run", runLink(node.run_id)]]),
  ];
}

function portraitOfOutside(node) {
  const family = familyOf(node.id);
  if (isMissing(node)) {
    const lead = "A version names this one as its teacher or member, but the registry does not have it.";
    return [
      ...heading(node.id, lead),
      commandList([["Check the family", `lineage doctor ${quoted(family)}`]]),
    ];
  }
  const lead = node.parents.length
    ? "A student that is registered under another name."
    : "A version of another family.";
  return [...heading(node.id, lead), links([["Its family", addressOf(family, node.id)]])];
}

function toggleComparing(button) {
  state.isComparing = !state.isComparing;
  button.textContent = state.isComparing ? "Pick another version" : "Compare with …";
}

// Links to pages of MLflow's own interface; a page without a server has none.
function mlflowLinks(node) {
  const { name, experiment } = state.family;
  const model =
    node.model && experiment ? `./#/experiments/${experiment}/models/${node.model}/artifacts` : null;
  const version = `./#/models/${encodeURIComponent(name)}/versions/${node.version}`;
  return links([
    ["Version", version],
    ["Run", runLink(node.run)],
    ["Artifacts", model],
  ]);
}

function runLink(run) {
  return run && state.family.experiment ? `./#/experiments/${state.family.experiment}/runs/${run}` : null;
}

function links(pairs) {
  const usable = pairs.filter(([, target]) => target && (!embedded || target.startsWith("#")));
  const anchors = usable.map(([text, target]) => html("a", { href: target }, text));
  return anchors.length ? html("p", { class: "links" }, anchors) : null;
}

function commandsFor(node) {
  const uri = quoted(uriOf(node));
  return [
    ["Train a student of it", `lineage grow --from ${uri}`],
    ["Ensemble it with its ancestors", `lineage ensemble ${uri}`],
    ["Load it in Python", `lineage.load(${JSON.stringify(uriOf(node))})`],
  ];
}

function comparison(node, other) {
  const heads = ["", { text: titleOf(node), tone: "a" }, { text: titleOf(other), tone: "b" }, "difference"];
  const rows = [];
  for (const metric of state.metrics.values()) {
    const [one, two] = [metricOf(node, metric.name), metricOf(other, metric.name)];
    if (one === null && two === null) continue;
    const difference = formatChange(metric, one === null || two === null ? null : two - one);
    rows.push([metric.label, formatValue(metric, one), formatValue(metric, two), difference]);
  }
  return [
    ...heading(`${titleOf(node)} and ${titleOf(other)}`, relation(node, other)),
    html("h3", {}, "Metrics"),
    rows.length ? table("numbers", heads, rows) : note("Neither has any."),
    later(settingsThatDiffer(node, other), "Loading settings …"),
    ...similarity(node, other),
  ];
}

function similarity(...nodes) {
  if (!nodes.every(isVersion)) return [];
  const command = `lineage diff ${nodes.map((node) => quoted(uriOf(node))).join(" ")}`;
  return [
    html("h3", {}, "Agreement and similarity"),
    commandList([["Compare both on test images", command]]),
  ];
}
