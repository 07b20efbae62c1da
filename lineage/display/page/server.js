// Reads families from the server; a page that is one file has its family inside and asks nobody.

import { byId } from "./elements.js";
import { isVersion, state } from "./family.js";

const data = byId("data");
export const embedded = data ? JSON.parse(data.textContent) : null;

// Asks for JSON. Errors have a message for the user, and the response's status where there was one.
export async function fetchJson(what, parameters = {}) {
  const address = new URL(`ajax-api/3.0/lineage/${what}`, new URL("./", location.href.split("#")[0]));
  for (const [name, value] of Object.entries(parameters)) address.searchParams.set(name, value);
  let response;
  try {
    response = await fetch(address);
  } catch {
    throw new Error("The server does not answer. Start it with 'lineage ui', or check the network.");
  }
  const body = await response.json().catch(() => null);
  if (response.ok && body) return body;
  throw Object.assign(new Error(body?.error || reasonFor(response.status)), { status: response.status });
}

function reasonFor(status) {
  if (status === 401) return "You are not logged in; reload the page.";
  if (status === 403) return "You may not read this family; ask its owner for permission.";
  return `The server's answer (status ${status}) is not one of lineage; see the server's log.`;
}

const settings = new Map(); // promises of settings by the id of a version, so that none is asked for twice

// The settings that a version was trained with; null for a node that has none.
export async function settingsOf(node) {
  if (embedded) return embedded.settings[node.recipe] ?? null;
  if (!isVersion(node)) return null;
  if (!settings.has(node.id)) {
    const answer = fetchJson("settings", { name: state.family.name, version: node.version });
    settings.set(node.id, answer);
    answer.catch(() => settings.delete(node.id));
  }
  return (await settings.get(node.id)).settings;
}

export function forgetSettings() {
  settings.clear();
}
