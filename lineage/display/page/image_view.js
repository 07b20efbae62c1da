// The dialog with the test images of a version, a page of them at a time.

import { note } from "./charts.js";
import { byId, counted, html, svg } from "./elements.js";
import { addressOf, setAddress, state, titleOf, uriOf } from "./family.js";
import { countChoices, findImages, guessesOf, readPictures, readView } from "./images.js";

const PER_PAGE = 48;
const TINY = 64; // pixels below which a picture is enlarged without smoothing
const TYPING = 120; // milliseconds between the last change and the request for pictures

const dialog = byId("images");
let shown = null; // the view on display, with the places that were found and the page of them
let viewNumber = 0; // number of the view that was opened last; answers for earlier ones are dropped
let pictureTimer = 0;

// ---------------------------------------------------------------- opening and closing

export async function openImages(node) {
  const own = ++viewNumber;
  shown = null;
  setAddress(`${addressOf(state.family.name, node.id)}/images`);
  dialog.replaceChildren(bar(node), html("div", { class: "sheet" }, note("Loading …")));
  if (!dialog.open) dialog.showModal();
  let view;
  try {
    view = await readView(node);
  } catch (error) {
    view = { node, notes: [error.message], networks: [] };
  }
  if (own === viewNumber && dialog.open) showView(view);
}

export function closeImages() {
  if (dialog.open) dialog.close();
}

dialog.addEventListener("close", () => {
  viewNumber += 1;
  shown = null;
  dialog.replaceChildren();
  if (state.selected && location.hash.endsWith("/images")) {
    setAddress(addressOf(state.family.name, state.selected));
  }
});

// ---------------------------------------------------------------- frame

function bar(node, ...below) {
  const close = { class: "close", type: "button", "aria-label": "Close images", onclick: closeImages };
  const title = html("h2", { id: "images-title" }, `Test images of ${uriOf(node)}`);
  return html(
    "div",
    { class: "bar" },
    html("div", { class: "head" }, title, html("button", close, "×")),
    ...below,
  );
}

function showView(view) {
  if (!view.networks.length) {
    dialog.replaceChildren(bar(view.node), html("div", { class: "sheet" }, view.notes.map(note)));
    return;
  }
  shown = { ...view, places: [], page: 0, note: "" };
  const [, teacher] = view.networks;
  const facts = [counted(view.labels.length, "image"), teacher ? nameOf(teacher) : "no teacher"];
  const lead = html("p", { class: "lead" }, facts.join(" · "));
  const sheet = html("div", { class: "sheet", tabindex: 0, role: "region", "aria-label": "Images" });
  dialog.replaceChildren(bar(view.node, lead, ...view.notes.map(note), filters()), sheet, pageButtons());
  filter();
  dialog.querySelector("input").focus();
}

function filters() {
  const classes = [["", "any"], ...shown.classes.entries()];
  const options = (pairs) => pairs.map(([value, text]) => html("option", { value }, text));
  const choices = countChoices(shown).map(({ choice, name, count }) => {
    return [choice, `${name} (${count.toLocaleString("en")})`];
  });
  const search = { name: "text", type: "search", autocomplete: "off", placeholder: "name of a class" };
  return html(
    "form",
    { onsubmit: (event) => event.preventDefault(), oninput: filter },
    html("label", {}, "Search", html("input", search)),
    html("label", {}, "Show", html("select", { name: "choice", class: "wide" }, options(choices))),
    html("label", {}, "True class", html("select", { name: "label" }, options(classes))),
    html("label", {}, "Predicted class", html("select", { name: "predicted" }, options(classes))),
  );
}

function pageButtons() {
  const button = (id, text, step) =>
    html("button", { id, class: "action", type: "button", onclick: () => turn(step) }, text);
  return html(
    "nav",
    { class: "pages", "aria-label": "Pages" },
    button("page-before", "Previous", -1),
    html("output", { id: "page-place", role: "status" }),
    button("page-after", "Next", 1),
  );
}

// ---------------------------------------------------------------- images

function filter() {
  const { choice, label, predicted, text } = Object.fromEntries(new FormData(dialog.querySelector("form")));
  const number = (value) => (value === "" ? null : Number(value));
  shown.places = findImages(shown, { choice, label: number(label), predicted: number(predicted), text });
  shown.page = 0;
  showPage();
}

function turn(step) {
  shown.page += step;
  showPage();
}

function showPage() {
  const { places, page } = shown;
  const first = page * PER_PAGE;
  const visible = places.slice(first, first + PER_PAGE);
  const total = counted(places.length, "image");
  byId("page-place").textContent = places.length
    ? `${(first + 1).toLocaleString("en")}–${(first + visible.length).toLocaleString("en")} of ${total}`
    : total;
  byId("page-before").disabled = page === 0;
  byId("page-after").disabled = first + PER_PAGE >= places.length;
  const sheet = dialog.querySelector(".sheet");
  const list = html("ul", { class: "shots" }, visible.map(shot));
  sheet.replaceChildren(list, visible.length ? "" : note("No image meets all of this."));
  sheet.scrollTop = 0;
  clearTimeout(pictureTimer);
  if (shown.note) sayWithout(shown.note);
  else pictureTimer = setTimeout(() => addPictures(shown, visible, list), visible.length ? TYPING : 0);
}

function nameOf(network) {
  const node = state.nodes.get(network.id);
  const name = node ? titleOf(node) : network.id;
  return network.id === shown.node.id ? name : `teacher ${name}`;
}

function shot(place) {
  const label = shown.classes[shown.labels[place]];
  const number = html("span", {}, ` · image ${shown.rows[place]}`);
  const networks = shown.networks.map((network) =>
    topClasses(nameOf(network), guessesOf(shown, network, place)),
  );
  return html(
    "li",
    { class: "shot" },
    html("h3", {}, html("span", {}, "true class "), label, number),
    html("div", { class: "picture" }),
    html("div", { class: "networks" }, networks),
  );
}

// The most probable classes of one network; the true one has a tick, and is told to screen readers.
function topClasses(title, guesses) {
  const isRight = guesses[0].isTruth;
  const verdict = html("span", { class: isRight ? "right" : "wrong" }, isRight ? "✓ right" : "✗ wrong");
  const items = guesses.map(({ name, probability, isTruth }) =>
    html(
      "li",
      { class: isTruth ? "truth" : null },
      html("span", { class: "class", title: name }, isTruth ? "✓ " : "", name),
      html("span", {}, `${(100 * probability).toFixed(1)} %`),
      isTruth ? html("span", { class: "unseen" }, "true class") : null,
      svg("svg", { "aria-hidden": "true" }, svg("rect", { width: `${100 * probability}%`, height: 4 })),
    ),
  );
  return html(
    "div",
    {},
    html("h4", {}, title, " ", verdict),
    html("ol", { class: "guesses", "aria-label": title }, items),
  );
}

async function addPictures(view, places, list) {
  let reason;
  try {
    reason = await readPictures(view, places);
    if (view === shown) shown.note = reason; // and no more are asked for
  } catch (error) {
    reason = error.message;
  }
  if (view !== shown || !list.isConnected) return;
  if (reason) {
    sayWithout(reason);
    return;
  }
  for (const [index, frame] of list.querySelectorAll(".picture").entries()) {
    const source = view.pictures.get(places[index]);
    const text = `image ${view.rows[places[index]]}`;
    frame.replaceChildren(
      source ? html("img", { src: source, alt: text, onload: smooth }) : "cannot be decoded",
    );
  }
}

function smooth({ currentTarget: image }) {
  image.classList.toggle("tiny", image.naturalWidth < TINY);
}

function sayWithout(text) {
  const sheet = dialog.querySelector(".sheet");
  sheet.querySelector(".shots").classList.add("bare");
  sheet.prepend(note(text));
}
