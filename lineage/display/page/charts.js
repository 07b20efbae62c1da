// Charts and tables of the panel: metrics from a patriarch to a version, metrics and settings side by side.

import { html, svg } from "./elements.js";
import {
  changeFromTeacher,
  extent,
  formatChange,
  formatValue,
  lineTo,
  metricOf,
  state,
  teacherOf,
  titleOf,
} from "./family.js";
import { settingsOf } from "./server.js";

const CHARTED = ["test_accuracy", "test_calibration_error", "test_secondary_mass", "test_cross_entropy"];
const MOST_CHARTS = 4;
const MOST_DOTS = 24;
const MOST_ROWS = 8; // metrics of a version that are shown at once
const PER_VERSION = ["succession.seed", "model.name"]; // settings that are not a difference worth showing
const SIZE = { width: 200, height: 96 };
const LETTER = 5.6; // width of one, at most, in the font of labels

// Charts of the metric shown by colour and of the usual ones, from the patriarch to a node.
export function charts(node) {
  const line = lineTo(node);
  const hasValues = (name) => line.filter((one) => metricOf(one, name) !== null).length > 1;
  const names = [...new Set([state.metric, ...CHARTED])].filter(hasValues).slice(0, MOST_CHARTS);
  if (!names.length) return [];
  const figures = names.map((name) => chart(state.metrics.get(name), line));
  return [html("h3", {}, "From the patriarch to this version"), html("div", { class: "charts" }, ...figures)];
}

function chart(metric, line) {
  const pointsOf = (name) =>
    line
      .map((node, index) => ({ node, index, value: metricOf(node, name) }))
      .filter(({ value }) => value !== null);
  const points = pointsOf(metric.name);
  const ensemble = metric.name === "test_accuracy" ? pointsOf("ensemble_accuracy") : [];
  const { low, high } = extent([...points, ...ensemble].map(({ value }) => value));
  const labels = low === high ? [high] : [high, low];
  const scale = scales(metric, line, low, high);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${SIZE.width} ${SIZE.height}`, role: "img", "aria-label": summary(metric, line) },
    svg("line", { class: "grid", x1: scale.left, x2: scale.right, y1: scale.bottom, y2: scale.bottom }),
    ensemble.length > 1 ? drawLine(ensemble, scale, "line also") : null,
    drawLine(points, scale, "line"),
    points.length > MOST_DOTS ? null : points.map((point) => drawDot(point, scale, metric, line.length)),
    labels.map((value) => drawLabel(formatValue(metric, value), scale.left - 7, scale.y(value) + 3, "end")),
    drawLabel(titleOf(line[0]), scale.left, SIZE.height - 4),
    drawLabel(titleOf(line.at(-1)), scale.right, SIZE.height - 4, "end"),
  );
  const key =
    ensemble.length > 1
      ? html("span", { class: "key-also", title: "ensemble of all generations so far" }, " · ensemble")
      : null;
  const caption = html("figcaption", { title: metric.label }, metric.label, key);
  return html("figure", { class: "chart" }, caption, picture);
}

// Places of values and of indices along the line; labels of values are left of all points.
function scales(metric, line, low, high) {
  const longest = Math.max(...[low, high].map((value) => formatValue(metric, value).length));
  const [left, right] = [longest * LETTER + 10, SIZE.width - 8];
  const [top, bottom] = [12, SIZE.height - 22];
  const x = (index) => left + (index * (right - left)) / (line.length - 1);
  const y = (value) =>
    high > low ? bottom - 8 - ((value - low) / (high - low)) * (bottom - 8 - top) : (top + bottom) / 2;
  return { left, right, bottom, x, y };
}

function summary(metric, line) {
  const last = formatValue(metric, metricOf(line.at(-1), metric.name));
  return `${metric.label} over ${line.length} generations, now ${last}`;
}

function drawLine(points, scale, style) {
  const places = points.map(
    ({ index, value }) => `${scale.x(index).toFixed(1)} ${scale.y(value).toFixed(1)}`,
  );
  return svg("path", { class: style, d: `M${places.join("L")}` });
}

function drawDot({ node, index, value }, scale, metric, length) {
  const style = index === length - 1 ? "dot here" : "dot";
  const tooltip = svg("title", {}, `${titleOf(node)}: ${formatValue(metric, value)}`);
  return svg("circle", { class: style, cx: scale.x(index), cy: scale.y(value), r: 3 }, tooltip);
}

function drawLabel(text, x, y, anchor = "start") {
  return svg("text", { x, y, "text-anchor": anchor }, text);
}

// ---------------------------------------------------------------- tables

export const note = (text) => html("p", { class: "note" }, text);

// A table; a row is its heading and its cells, each a text or, with a class, { text, tone }.
export function table(style, heads, rows) {
  const cell = (name, content, scope) => {
    const { text, tone } = typeof content === "string" ? { text: content } : content;
    return html(name, { class: tone, scope }, text);
  };
  const head = heads
    ? html(
        "thead",
        {},
        html(
          "tr",
          {},
          heads.map((text) => cell("th", text)),
        ),
      )
    : null;
  const body = rows.map(([name, ...cells]) =>
    html(
      "tr",
      {},
      cell("th", name, "row"),
      cells.map((content) => cell("td", content)),
    ),
  );
  return html("table", { class: style }, head, html("tbody", {}, body));
}

// Metrics of a version and their change from its teacher; the first few, and the rest folded.
export function metricsSection(node) {
  const rows = [];
  for (const metric of state.metrics.values()) {
    const value = metricOf(node, metric.name);
    const change = formatChange(metric, changeFromTeacher(node, metric.name));
    if (value !== null) rows.push([metric.label, formatValue(metric, value), change]);
  }
  if (!rows.length) return [];
  const [first, rest] = [rows.slice(0, MOST_ROWS), rows.slice(MOST_ROWS)];
  const more = rest.length ? folded(`${rest.length} more`, table("numbers", null, rest)) : null;
  return [html("h3", {}, "Metrics"), table("numbers", ["", "value", "vs. teacher"], first), more];
}

const folded = (summary, content) => html("details", {}, html("summary", {}, summary), content);

// A part of the panel that is there once a promise of its elements is fulfilled.
export function later(promise, meanwhile) {
  const place = html("div", { id: "settings" }, note(meanwhile));
  promise.then(
    (elements) => place.replaceChildren(...elements),
    (error) => place.replaceChildren(html("p", { class: "note bad" }, error.message)),
  );
  return place;
}

// Settings of a version: those that its teacher had otherwise, and all of them.
export async function settingsSection(node) {
  const teacher = teacherOf(node);
  const [own, before] = await Promise.all([settingsOf(node), teacher && settingsOf(teacher)]);
  const elements = [html("h3", {}, "Settings")];
  if (isEmpty(own)) return [...elements, note("No settings are recorded here.")];
  if (!isEmpty(before)) elements.push(...changedSettings(own, before, titleOf(node), titleOf(teacher)));
  const all = Object.keys(own).sort();
  return [...elements, folded(`All ${all.length}`, settingsTable(all, [own]))];
}

function changedSettings(own, before, title, teacher) {
  const keys = keysThatDiffer(own, before);
  if (!keys.length) return [note(`The same as its teacher ${teacher}.`)];
  const table = settingsTable(keys, [before, own], ["", teacher, title]);
  return [note(`Differs from its teacher ${teacher}:`), table];
}

// Settings of two versions side by side where they differ.
export async function settingsThatDiffer(node, other) {
  const [one, two] = await Promise.all([settingsOf(node), settingsOf(other)]);
  const heading = html("h3", {}, "Settings that differ");
  if (isEmpty(one) || isEmpty(two)) return [heading, note("Settings of both are not recorded here.")];
  const keys = keysThatDiffer(one, two);
  if (!keys.length) return [heading, note("None.")];
  return [heading, settingsTable(keys, [one, two], ["", titleOf(node), titleOf(other)])];
}

const isEmpty = (settings) => !settings || !Object.keys(settings).length;

function keysThatDiffer(one, other) {
  const keys = Object.keys({ ...one, ...other }).sort();
  return keys.filter((key) => one[key] !== other[key] && !PER_VERSION.includes(key));
}

function settingsTable(keys, columns, heads = null) {
  const rows = keys.map((key) => [key, ...columns.map((column) => column[key] ?? "–")]);
  return table("settings", heads, rows);
}
