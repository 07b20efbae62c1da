// Test images with the most probable classes that a version and its teacher gave them.
// A view is what image_document in image_data.py returns, with the version's node and its pictures.

import { state } from "./family.js";
import { embedded, fetchJson } from "./server.js";

const WITHOUT =
  "This file holds no images of this version. Write it with 'lineage tree NAME --html FILE --images 100'," +
  " or open the page with 'lineage ui'.";

// Which images are shown; each choice has a name, and a test of what the version and its teacher gave.
const ALONE = {
  all: ["all images", () => true],
  right: ["right", ({ isRight }) => isRight],
  wrong: ["wrong", ({ isRight }) => !isRight],
};
const WITH_TEACHER = {
  all: ["all images", () => true],
  disagree: ["disagrees with its teacher", ({ isSame }) => !isSame],
  gained: ["right, its teacher wrong", ({ isRight, wasRight }) => isRight && !wasRight],
  lost: ["wrong, its teacher right", ({ isRight, wasRight }) => !isRight && wasRight],
  both: ["both right", ({ isRight, wasRight }) => isRight && wasRight],
  neither: ["both wrong", ({ isRight, wasRight }) => !isRight && !wasRight],
};

export async function readView(node) {
  const parameters = { name: state.family.name, version: node.version };
  const none = { notes: [WITHOUT], networks: [] };
  const view = embedded ? (embedded.images?.[node.id] ?? none) : await fetchJson("images", parameters);
  return { ...view, node, parameters, pictures: new Map(), choices: view.networks[1] ? WITH_TEACHER : ALONE };
}

const firstClass = (view, network, place) => network.classes[place * view.top];

// Whether an image, by its place in the view, is among those of a choice.
function isAmong(view, choice, place) {
  const [network, other = network] = view.networks;
  const [own, teacher] = [firstClass(view, network, place), firstClass(view, other, place)];
  const label = view.labels[place];
  const [, meets] = view.choices[choice];
  return meets({ isRight: own === label, wasRight: teacher === label, isSame: own === teacher });
}

// Places of the images that meet all conditions: a choice, the true and the predicted class (null for any),
// and a text that the name of the true class, or of one that a network gave first, must contain.
export function findImages(view, { choice, label, predicted, text }) {
  const wanted = text.trim().toLowerCase();
  const named = view.classes.map((name) => name.toLowerCase().includes(wanted));
  const isNamed = (place) =>
    named[view.labels[place]] || view.networks.some((one) => named[firstClass(view, one, place)]);
  const found = [];
  for (let place = 0; place < view.labels.length; place += 1) {
    const isMet =
      (label === null || view.labels[place] === label) &&
      (predicted === null || firstClass(view, view.networks[0], place) === predicted) &&
      (!wanted || isNamed(place)) &&
      isAmong(view, choice, place);
    if (isMet) found.push(place);
  }
  return found;
}

// The choices with their names and the number of images of each.
export function countChoices(view) {
  const any = { label: null, predicted: null, text: "" };
  return Object.entries(view.choices).map(([choice, [name]]) => {
    return { choice, name, count: findImages(view, { ...any, choice }).length };
  });
}

// The classes that a network gave an image, most probable first.
export function guessesOf(view, network, place) {
  const numbers = [...Array(view.top).keys()].map((rank) => place * view.top + rank);
  return numbers.map((number) => ({
    name: view.classes[network.classes[number]],
    probability: network.probabilities[number],
    isTruth: network.classes[number] === view.labels[place],
  }));
}

// Reads the pictures at some places into the view; returns a sentence if they are not at hand.
export async function readPictures(view, places) {
  const missing = places.filter((place) => !view.pictures.has(place));
  if (!missing.length) return "";
  const rows = missing.map((place) => view.rows[place]);
  if (embedded) {
    const { note, addresses } = embedded.pictures[view.data];
    for (const [index, place] of missing.entries()) view.pictures.set(place, addresses[rows[index]] ?? null);
    return note;
  }
  const { pictures, note } = await fetchJson("pictures", { ...view.parameters, rows: rows.join(",") });
  for (const [index, address] of pictures.entries()) view.pictures.set(missing[index], address);
  return note;
}
