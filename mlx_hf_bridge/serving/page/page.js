// The page of the server: it calls the same routes as any other client.

import { element, heatMap, pointMap, table } from "./draw.js";
import { texts } from "./texts.js";

const MOST_IN_MATRIX = 40;
const MOST_IN_MAP = 5000;
const MOST_SHOWN = 100;
const TEXTS_PER_REQUEST = 256;
const find = (selector) => document.querySelector(selector);
const status = find("#status");

function say(message, bad = false) {
  status.textContent = message;
  status.classList.toggle("bad", bad);
}

async function ask(path, body) {
  const headers = { "Content-Type": "application/json" };
  const key = find("#key").value;
  if (key) headers.Authorization = `Bearer ${key}`;
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const response = await fetch(path, options);
  const content = await response.json();
  if (response.ok) return content;
  if (response.status === 401) find("#key-row").hidden = false;
  const error = content.error ?? content.message;
  throw new Error(error?.message ?? error ?? `status ${response.status}`);
}

// Sends texts in parts, and joins what `read` gives of each answer.
async function inParts(given, what, send, read) {
  const found = [];
  for (let start = 0; start < given.length; start += TEXTS_PER_REQUEST) {
    const part = given.slice(start, start + TEXTS_PER_REQUEST);
    if (given.length > TEXTS_PER_REQUEST) say(`${what} ${start + part.length} of ${given.length} texts`);
    found.push(...read(await send(part), start));
  }
  return found;
}

function embed(given, inputType) {
  const body = { model: find("#model").value, truncate: true, encoding_format: "base64" };
  if (!body.model) throw new Error("This server has no embedding model.");
  if (inputType) body.input_type = inputType;
  const send = (input) => ask("v1/embeddings", { ...body, input });
  return inParts(given, "Embedding", send, (answer) => answer.data.map((one) => unit(decode(one.embedding))));
}

function decode(text) {
  return new Float32Array(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)).buffer);
}

function unit(row) {
  const length = Math.sqrt(dot(row, row)) || 1;
  return row.map((value) => value / length);
}

function dot(a, b) {
  let sum = 0;
  for (let index = 0; index < a.length; index += 1) sum += a[index] * b[index];
  return sum;
}

async function search() {
  const given = texts();
  const [query] = await embed([find("#query").value], "query");
  const rows = await embed(given, "document");
  const ranked = rows.map((row, index) => [given[index], dot(query, row)]).sort((a, b) => b[1] - a[1]);
  return table("Most similar first", ["Text", "Similarity"], ranked.slice(0, MOST_SHOWN));
}

async function matrix() {
  const given = texts().slice(0, MOST_IN_MATRIX);
  const rows = await embed(given);
  return heatMap(given, rows.map((row) => rows.map((other) => dot(row, other))));
}

async function rerank() {
  const given = texts();
  const query = find("#rerank-query").value;
  const send = (part) => ask("rerank", { query, texts: part, truncate: true });
  const read = (answer, start) => answer.map((one) => [given[start + one.index], one.score]);
  const ranked = (await inParts(given, "Ranking", send, read)).sort((a, b) => b[1] - a[1]);
  return table("Best first", ["Text", "Score"], ranked.slice(0, MOST_SHOWN));
}

async function label() {
  const given = texts();
  const labels = find("#labels").value.split(",").map((one) => one.trim()).filter(Boolean);
  const send = (input) => ask("v1/classify", { input, truncate: true, ...(labels.length ? { labels } : {}) });
  const read = (answer, start) => answer.data.map((one) => [given[start + one.index], one.prediction, one.score]);
  const rows = await inParts(given, "Labeling", send, read);
  return table("The best label of each text", ["Text", "Label", "Score"], rows.slice(0, 500));
}

async function map() {
  const input = texts().slice(0, MOST_IN_MAP);
  say(`Mapping ${input.length} texts`);
  const method = find("#method").value;
  const answer = await ask("v1/map", { input, model: find("#model").value, ...(method ? { method } : {}) });
  return pointMap(input, answer.data, Math.max(280, find("#panel-map").clientWidth));
}

const TOOLS = { search, matrix, rerank, labels: label, map };

for (const [name, work] of Object.entries(TOOLS)) {
  const panel = find(`#panel-${name}`);
  panel.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = panel.querySelector("button");
    button.disabled = true;
    try {
      say("Working");
      panel.querySelector(".result").replaceChildren(await work());
      say("Done");
    } catch (error) {
      panel.querySelector(".result").replaceChildren();
      say(error.message, true);
    } finally {
      button.disabled = false;
    }
  });
}

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const one of tabs) {
    const chosen = one === tab;
    one.setAttribute("aria-selected", String(chosen));
    one.tabIndex = chosen ? 0 : -1;
    find(`#${one.getAttribute("aria-controls")}`).hidden = !chosen;
  }
  say("");
}

tabs.forEach((tab, index) => {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const target = { Home: tabs[0], End: tabs.at(-1) }[event.key] ?? (step && tabs.at((index + step) % tabs.length));
    if (!target) return;
    event.preventDefault();
    select(target);
    target.focus();
  });
});

async function describe() {
  try {
    const { models } = await ask("info");
    const embedding = models.filter((one) => one.kind === "embedding" || one.kind === null);
    find("#model").replaceChildren(...embedding.map((one) => element("option", one.id, { value: one.id })));
    find("#models").replaceChildren(...models.map((one) => element("li", `${one.id} · ${one.kind ?? "not loaded yet"}`)));
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

find("#key-row").addEventListener("submit", (event) => { event.preventDefault(); describe(); });
describe();
