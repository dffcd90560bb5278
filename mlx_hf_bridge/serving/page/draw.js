// Results as elements: tables, the heat map of similarities, and the map.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 480;
const MARGIN = 20;
// Texts whose points have their words next to them.
const MOST_NAMED = 40;
// About how wide a letter and how high a line of these words is, in pixels.
const LETTER = 6.5;
const LINE = 15;

export function element(name, text, attributes = {}) {
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

// The last column has numbers, with a bar for each from 0 to 1.
export function table(caption, columns, rows, barred = true) {
  const made = element("table");
  const kind = (index) => (index === columns.length - 1 ? "number" : index ? "label" : "");
  const head = element("thead");
  const line = element("tr");
  columns.forEach((name, index) => line.append(element("th", name, { scope: "col", class: kind(index) })));
  head.append(line);
  const body = element("tbody");
  for (const row of rows) {
    const one = element("tr");
    row.forEach((value, index) => {
      const text = typeof value === "number" ? value.toFixed(3) : value;
      const cell = element("td", text, { class: kind(index) });
      if (typeof value === "number" && barred) {
        const bar = element("span", undefined, { class: "bar" });
        bar.style.width = `${Math.round(100 * Math.max(0, Math.min(1, value)))}%`;
        cell.append(bar);
      }
      one.append(cell);
    });
    body.append(one);
  }
  made.append(element("caption", caption), head, body);
  return made;
}

export function heatMap(names, scores) {
  const made = element("table", undefined, { class: "matrix" });
  const head = element("thead");
  const line = element("tr");
  line.append(element("td", ""));
  names.forEach((text, index) => line.append(element("th", String(index + 1), { scope: "col", title: text })));
  head.append(line);
  const body = element("tbody");
  scores.forEach((row, index) => {
    const one = element("tr");
    one.append(element("th", `${index + 1} ${names[index]}`, { scope: "row", title: names[index] }));
    row.forEach((score, other) => {
      // Without the sign of -0.00.
      const cell = element("td", score.toFixed(2).replace("-0.00", "0.00"), { title: `${names[index]} / ${names[other]}` });
      const share = Math.max(0, Math.min(1, score));
      // From white to blue; the ink follows, so that numbers stay legible.
      cell.style.background = `hsl(212 80% ${Math.round(97 - 65 * share)}%)`;
      cell.style.color = share > 0.6 ? "#fff" : "#111";
      one.append(cell);
    });
    body.append(one);
  });
  made.append(element("caption", "Cosine similarity"), head, body);
  return made;
}

function toUnit(values) {
  const low = values.reduce((a, b) => Math.min(a, b));
  const high = values.reduce((a, b) => Math.max(a, b));
  return values.map((value) => (high > low ? (value - low) / (high - low) : 0.5));
}

// `width` in pixels, so that words are as large on a phone.
export function pointMap(names, points, width) {
  const [across, down] = [0, 1].map((axis) => toUnit(points.map((point) => point[axis])));
  const name = `Map of ${names.length} texts; the table below has their positions`;
  const svg = shape("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": name });
  const under = element("p", "Point at a text to read it.", { id: "under", class: "quiet" });
  const named = [];
  names.forEach((text, index) => {
    const x = MARGIN + (width - 2 * MARGIN) * across[index];
    const y = MARGIN + (HEIGHT - 2 * MARGIN) * down[index];
    const circle = shape("circle", { cx: x, cy: y, r: names.length > 500 ? 3 : 6 });
    circle.append(shape("title", {}, text));
    circle.addEventListener("pointerenter", () => { under.textContent = text; });
    svg.append(circle);
    if (names.length > MOST_NAMED) return;
    const most = width < 600 ? 22 : 40;
    const short = text.length > most ? `${text.slice(0, most - 1)}…` : text;
    const left = x > width / 2;
    const reach = short.length * LETTER;
    const place = { from: left ? x - 10 - reach : x + 10, to: left ? x - 10 : x + 10 + reach, y };
    // A text whose words would cover those of another is named by its point only.
    if (named.some((one) => Math.abs(one.y - y) < LINE && one.from < place.to && place.from < one.to)) return;
    named.push(place);
    svg.append(shape("text", { x: left ? x - 10 : x + 10, y: y + 4, "text-anchor": left ? "end" : "start" }, short));
  });
  const details = element("details");
  details.append(element("summary", "Positions as a table"));
  const rows = points.map(([x, y], index) => [names[index], x.toFixed(3), y]);
  details.append(table("The first 500 texts", ["Text", "x", "y"], rows.slice(0, 500), false));
  const made = element("div");
  made.append(svg, under, details);
  return made;
}
