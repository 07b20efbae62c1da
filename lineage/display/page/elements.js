// Elements of the document, and text for dates, counts and commands.
// Text that a user typed (names, aliases, settings) is only ever added as text nodes or attribute values.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);
export const canvas = byId("canvas");

// Attributes that are null, undefined or false are left out; "onclick" and the like add event listeners.
function create(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

export function html(name, attributes = {}, ...children) {
  return create(document.createElement(name), attributes, children);
}

export function svg(name, attributes = {}, ...children) {
  return create(document.createElementNS(SVG, name), attributes, children);
}

// Has screen readers read a text aloud.
export function announce(text) {
  byId("status").textContent = text;
}

export const truncate = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
export const counted = (count, one, many = `${one}s`) =>
  `${count.toLocaleString("en")} ${count === 1 ? one : many}`;
export const dateTime = (milliseconds) =>
  `${new Date(milliseconds).toISOString().slice(0, 16).replace("T", " ")} UTC`;

export function timeAgo(milliseconds) {
  const seconds = Math.max(0, (Date.now() - milliseconds) / 1000);
  const units = [
    ["day", 86_400],
    ["hour", 3_600],
    ["minute", 60],
  ];
  const unit = units.find(([, size]) => seconds >= size);
  return unit ? `${counted(Math.floor(seconds / unit[1]), unit[0])} ago` : "just now";
}

// A word as a POSIX shell reads it back.
export const quoted = (word) => (/^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'"'"'`)}'`);

// Commands, each below a line that says what it is for; pairs of both.
export function commandList(pairs) {
  const items = pairs.flatMap(([purpose, command]) => [
    html("p", { class: "note" }, purpose),
    html(
      "div",
      { class: "command" },
      html("code", {}, command),
      html("button", { type: "button", onclick: (event) => copy(command, event.currentTarget) }, "Copy"),
    ),
  ]);
  return html("div", {}, ...items);
}

async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Browsers offer no clipboard to pages served without TLS: select the text and copy the selection.
    getSelection().selectAllChildren(button.previousElementSibling);
    document.execCommand("copy");
  }
  button.textContent = "Copied";
  setTimeout(() => {
    button.textContent = "Copy";
  }, 1500);
}
