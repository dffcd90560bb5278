// The page of the server: it calls the same routes as any other client.

const MOST_IN_MATRIX = 40;
const MOST_IN_MAP = 5000;
const TEXTS_PER_REQUEST = 256;
const SVG = "http://www.w3.org/2000/svg";
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

function texts() {
  const found = find("#texts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!found.length) throw new Error("There are no texts. Type or paste some, one per line.");
  return found;
}

async function embed(given, inputType) {
  const rows = [];
  for (let start = 0; start < given.length; start += TEXTS_PER_REQUEST) {
    say(`Embedding ${Math.min(start + TEXTS_PER_REQUEST, given.length)} of ${given.length} texts`);
    const input = given.slice(start, start + TEXTS_PER_REQUEST);
    const body = { model: find("#model").value, input, truncate: true, encoding_format: "base64" };
    if (inputType) body.input_type = inputType;
    const answer = await ask("v1/embeddings", body);
    rows.push(...answer.data.map((one) => unit(decode(one.embedding))));
  }
  return rows;
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

function element(name, text, attributes = {}) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function table(caption, columns, rows) {
  const made = element("table");
  made.append(element("caption", caption));
  const head = element("tr");
  columns.forEach((name, index) => head.append(element("th", name, { scope: "col", class: index ? "number" : "" })));
  made.append(head);
  for (const row of rows) {
    const line = element("tr");
    row.forEach((value, index) => line.append(element("td", value, { class: index ? "number" : "" })));
    made.append(line);
  }
  return made;
}

async function search() {
  const given = texts();
  const [query] = await embed([find("#query").value], "query");
  const rows = await embed(given, "document");
  const ranked = rows.map((row, index) => [given[index], dot(query, row)]).sort((a, b) => b[1] - a[1]);
  const shown = ranked.slice(0, 100).map(([text, score]) => [text, score.toFixed(3)]);
  return table("Texts by similarity", ["Text", "Similarity"], shown);
}

async function matrix() {
  const given = texts().slice(0, MOST_IN_MATRIX);
  const rows = await embed(given);
  const made = element("table", undefined, { class: "matrix" });
  made.append(element("caption", "Cosine similarity"));
  const head = element("tr");
  head.append(element("td", ""));
  given.forEach((text, index) => head.append(element("th", String(index + 1), { scope: "col", title: text })));
  made.append(head);
  rows.forEach((row, index) => {
    const line = element("tr");
    line.append(element("th", `${index + 1} ${given[index]}`, { scope: "row", title: given[index] }));
    for (const other of rows) {
      const score = dot(row, other);
      const cell = element("td", score.toFixed(2));
      const share = Math.max(0, Math.min(1, score));
      // From white to blue; the ink follows, so that numbers stay legible.
      cell.style.background = `hsl(212 80% ${Math.round(97 - 65 * share)}%)`;
      cell.style.color = share > 0.6 ? "#fff" : "#111";
      line.append(cell);
    }
    made.append(line);
  });
  return made;
}

async function rerank() {
  const given = texts();
  const ranked = await ask("rerank", { query: find("#rerank-query").value, texts: given, truncate: true });
  return table("Texts by score", ["Text", "Score"], ranked.map((one) => [given[one.index], one.score.toFixed(3)]));
}

async function label() {
  const given = texts();
  const labels = find("#labels").value.split(",").map((one) => one.trim()).filter(Boolean);
  const body = { input: given, truncate: true };
  if (labels.length) body.labels = labels;
  const answer = await ask("v1/classify", body);
  const rows = answer.data.map((one) => [given[one.index], one.prediction, one.score.toFixed(3)]);
  return table("Labels of the texts", ["Text", "Label", "Score"], rows);
}

// The two directions in which the rows differ most, by power iteration.
function principal(rows) {
  const width = rows[0].length;
  const mean = new Float64Array(width);
  for (const row of rows) row.forEach((value, index) => { mean[index] += value / rows.length; });
  const centered = rows.map((row) => Float64Array.from(row, (value, index) => value - mean[index]));
  const axes = [];
  for (let axis = 0; axis < 2; axis += 1) {
    let vector = Float64Array.from({ length: width }, (_, index) => Math.sin(1 + index * (axis + 1)));
    for (let step = 0; step < 60; step += 1) {
      const next = new Float64Array(width);
      for (const row of centered) {
        const weight = dot(row, vector);
        for (let index = 0; index < width; index += 1) next[index] += weight * row[index];
      }
      for (const other of axes) {
        const shared = dot(next, other);
        for (let index = 0; index < width; index += 1) next[index] -= shared * other[index];
      }
      vector = unit(next);
    }
    axes.push(vector);
  }
  return centered.map((row) => axes.map((axis) => dot(row, axis)));
}

function toUnit(values) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return values.map((value) => (value - low) / (high - low || 1));
}

async function map() {
  const given = texts().slice(0, MOST_IN_MAP);
  const points = principal(await embed(given));
  const [across, down] = [0, 1].map((axis) => toUnit(points.map((point) => point[axis])));
  const name = `Map of ${given.length} texts; the table below has their positions`;
  // In pixels, so that labels are as large on a phone.
  const width = Math.max(280, find("#panel-map").clientWidth);
  const svg = shape("svg", { viewBox: `0 0 ${width} 500`, role: "img", "aria-label": name });
  given.forEach((text, index) => {
    const [x, y] = [20 + (width - 40) * across[index], 20 + 460 * down[index]];
    const circle = shape("circle", { cx: x, cy: y, r: given.length > 500 ? 2.5 : 5 });
    circle.append(shape("title", {}, text));
    svg.append(circle);
    if (given.length > 40) return;
    const most = width < 600 ? 24 : 40;
    const short = text.length > most ? `${text.slice(0, most - 1)}…` : text;
    const left = x > width / 2;
    svg.append(shape("text", { x: left ? x - 8 : x + 8, y: y + 4, "text-anchor": left ? "end" : "start" }, short));
  });
  const details = element("details");
  details.append(element("summary", "Positions as a table"));
  const rows = points.map(([x, y], index) => [given[index], x.toFixed(3), y.toFixed(3)]);
  details.append(table("Positions", ["Text", "x", "y"], rows.slice(0, 500)));
  const made = element("div");
  made.append(svg, details);
  return made;
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

// The first column of a CSV file, quoted or not; any other file line by line.
function lines(name, content) {
  if (!/\.(csv|tsv)$/i.test(name)) return content;
  const pattern = /^(?:"((?:[^"]|"")*)"|([^,;\t\r\n]*))/gm;
  return [...content.matchAll(pattern)]
    .map((one) => (one[1] === undefined ? one[2] : one[1].replaceAll('""', '"')).replace(/\s+/g, " ").trim())
    .filter(Boolean).join("\n");
}

async function open(file) {
  if (file) find("#texts").value = lines(file.name, await file.text());
}

find("#file").addEventListener("change", (event) => open(event.target.files[0]));
const area = find("#texts");
area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
area.addEventListener("dragleave", () => area.classList.remove("over"));
area.addEventListener("drop", (event) => {
  area.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});

async function describe() {
  try {
    const { models } = await ask("info");
    const embedding = models.filter((one) => one.kind === "embedding" || one.kind === null);
    find("#model").replaceChildren(...embedding.map((one) => element("option", one.id, { value: one.id })));
    find("#server").textContent = models.map((one) => `${one.id} (${one.kind ?? "not loaded yet"})`).join(", ");
    say("");
  } catch (error) {
    say(error.message, true);
  }
}

find("#key").addEventListener("change", describe);
find("#key-row").addEventListener("submit", (event) => event.preventDefault());
describe();
