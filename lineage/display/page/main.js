// Starts the page: opens what the address names, the list of families or one family, and keeps it up to date.

import { updateColourScale } from "./cards.js";
import { search } from "./controls.js";
import { announce, byId, canvas, commandList, counted, html, quoted, timeAgo } from "./elements.js";
import {
  addressOf,
  clearFamily,
  findMatches,
  isStalled,
  isVersion,
  parseAddress,
  setFamily,
  state,
} from "./family.js";
import { closeImages, openImages } from "./image_view.js";
import { pick, refreshPanel, select } from "./panel.js";
import { embedded, fetchJson, forgetSettings } from "./server.js";
import { arrange, draw, fit, paint, reveal } from "./tree.js";

const POLL = { training: 4_000, idle: 15_000 }; // milliseconds between questions for news

let families = []; // the list of all families
let opening = 0; // number of the address that was opened last; answers for earlier ones are dropped
let timer = 0;

// ---------------------------------------------------------------- views

function show(view) {
  for (const id of ["families", "message", "drawing"]) byId(id).hidden = id !== view;
  const isTree = view === "drawing";
  for (const id of ["colour", "legend", "zoom"]) byId(id).hidden = !isTree;
  byId("search").hidden = view === "message";
  byId("search").placeholder = isTree ? "v3, @best, seed 1 …" : "name of a family";
  if (!isTree) byId("panel").hidden = true;
}

function showMessage(heading, text, command = null) {
  const commands = command ? [commandList([command])] : [];
  byId("message").replaceChildren(html("h2", {}, heading), html("p", {}, text), ...commands);
  show("message");
}

function showLoading(name) {
  clearTimeout(timer);
  clearFamily();
  forgetSettings();
  byId("title").textContent = name;
  byId("count").textContent = name ? "loading …" : "";
  byId("count").classList.remove("bad");
  byId("report").hidden = true;
  byId("search").value = "";
  byId("matches").textContent = "";
  document.title = name ? `${name} – lineage` : "lineage";
}

async function openFamilies(isCurrent) {
  showLoading("");
  const answer = await fetchJson("families");
  if (!isCurrent()) return;
  families = answer.families;
  if (families.length) showFamilies();
  else {
    const text =
      "A family is a registered model whose versions lineage trained. You can read none on this server.";
    const command = ["Train one, with MLFLOW_TRACKING_URI set to this server", "lineage grow digits"];
    showMessage("No families yet", text, command);
  }
}

function showFamilies() {
  const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const found = families.filter(({ name }) => words.every((word) => name.toLowerCase().includes(word)));
  const count = `${found.length} of ${counted(families.length, "family", "families")}`;
  byId("count").textContent = words.length ? count : "";
  const list = html(
    "ul",
    { class: "families" },
    ...found.map((family) => html("li", {}, familyCard(family))),
  );
  byId("families").replaceChildren(
    found.length ? list : html("p", { class: "note" }, "No family has such a name."),
  );
  show("families");
}

function familyCard({ name, newest, best, growing, updated }) {
  const accuracy = best?.test_accuracy ?? null;
  const value = accuracy === null ? "–" : `${(100 * accuracy).toFixed(2)} %`;
  const caption = best ? ` test accuracy of v${best.version} @best` : " no @best yet";
  return html(
    "a",
    { class: "family", href: addressOf(name) },
    html("h2", {}, name),
    html("div", { class: "big" }, value, html("small", {}, caption)),
    html(
      "div",
      { class: "foot" },
      newest ? html("span", {}, `newest v${newest}`) : null,
      html("span", {}, `updated ${timeAgo(updated)}`),
      growing ? html("span", { class: "live" }, `${growing} in training`) : null,
    ),
  );
}

async function openFamily(name, parts, withImages, isCurrent) {
  if (state.family?.name !== name) {
    showLoading(name);
    const answer = embedded ?? (await fetchJson("family", { name }));
    if (!isCurrent()) return;
    if (!answer.family.nodes.length) {
      const command = ["Train the first one", `lineage grow digits --name ${quoted(name)}`];
      byId("count").textContent = "";
      showMessage("No versions yet", `${name} has no version that lineage trained or adopted.`, command);
      return;
    }
    show("drawing");
    update(answer);
    search(byId("search").value); // typed while the family was loading
    byId("panel").hidden = parts.length === 0; // the tree must fit beside it
    fit();
  }
  const ids = parts.map((part) => [`${name}/${part}`, part].find((id) => state.nodes.has(id)));
  const found = ids.filter(Boolean);
  for (const id of found) reveal(id);
  pick(found[0] ?? null, found[1] ?? null);
  const shown = found.map((id) => state.nodes.get(id)).filter(isVersion);
  if (withImages && shown.length) openImages(shown[0]);
  if (parts.length && !found.length) announce(`${name} has no version ${parts[0]}`);
  schedulePoll();
}

// Shows a new state of the family; what was picked and opened stays so.
function update(answer) {
  const { selected, compared } = state;
  setFamily(answer);
  const options = [...state.metrics.values()].map(({ name, label }) => {
    return html("option", { value: name, selected: name === state.metric }, label);
  });
  byId("metric").replaceChildren(...options);
  showCount();
  showReport();
  if (state.matches) findMatches(byId("search").value);
  updateColourScale();
  arrange();
  draw();
  if (state.selected !== selected || state.compared !== compared) select(state.selected, state.compared);
  else refreshPanel();
}

function showReport() {
  const { experiment, report } = state.family;
  byId("report").hidden = embedded || !report;
  byId("report").href = `./#/experiments/${experiment}/runs/${report}/artifacts/report/report.html`;
}

function showCount() {
  const { nodes } = state.family;
  const versions = nodes.filter(isVersion).length;
  const training = nodes.filter(({ kind }) => kind === "growing").length;
  byId("count").textContent = counted(versions, "version") + (training ? `, ${training} in training` : "");
  byId("count").classList.remove("bad");
}

// ---------------------------------------------------------------- news

function schedulePoll() {
  clearTimeout(timer);
  if (embedded || !state.family) return;
  const isTraining = state.family.nodes.some((node) => node.kind === "growing" && !isStalled(node));
  timer = setTimeout(poll, isTraining ? POLL.training : POLL.idle);
}

async function poll() {
  const name = state.family?.name;
  const isCurrent = () => state.family?.name === name;
  if (embedded || !name) return;
  try {
    if (document.hidden) return;
    const { token, growing } = await fetchJson("growing", { name });
    if (!isCurrent()) return;
    if (token !== state.token) {
      const answer = await fetchJson("family", { name });
      if (isCurrent()) update(answer);
    } else if (growing.length) {
      for (const run of growing) Object.assign(state.nodes.get(`run/${run.run_id}`) ?? {}, run);
      draw();
      refreshPanel();
    }
    if (isCurrent()) showCount();
  } catch (error) {
    if (!isCurrent()) return;
    byId("count").classList.add("bad");
    byId("count").textContent = error.message;
  } finally {
    schedulePoll();
  }
}

// ---------------------------------------------------------------- start

async function openAddress() {
  const [name, ...parts] = parseAddress(location.hash);
  const withImages = parts.at(-1) === "images" && parts.pop() !== undefined;
  if (!withImages) closeImages();
  const own = ++opening;
  const isCurrent = () => own === opening;
  try {
    if (embedded) await openFamily(embedded.family.name, parts, withImages, isCurrent);
    else if (name) await openFamily(name, parts, withImages, isCurrent);
    else await openFamilies(isCurrent);
  } catch (error) {
    if (!isCurrent()) return;
    byId("count").textContent = "";
    if (error.status === 404) {
      showMessage("No such family", error.message, ["Show a family in the terminal", "lineage tree NAME"]);
    } else showMessage("This cannot be shown", error.message);
  }
}

byId("search").addEventListener("input", (event) => {
  if (state.family) search(event.target.value);
  else if (!byId("families").hidden) showFamilies();
});
byId("metric").addEventListener("change", (event) => {
  state.metric = event.target.value;
  updateColourScale();
  draw();
  refreshPanel();
});
window.addEventListener("hashchange", openAddress);
document.addEventListener("visibilitychange", () => document.hidden || poll());
new ResizeObserver(() => state.family && !byId("drawing").hidden && paint()).observe(canvas);

if (embedded) for (const id of ["home", "stock"]) byId(id).hidden = true;
openAddress();
