// The texts of the page, and files that are opened: a text on each line, or a column of a CSV file.

const find = (selector) => document.querySelector(selector);
const area = find("#texts");
const column = find("#column");
// The rows of the CSV file that was opened last.
let rows = [];

export function texts() {
  const found = area.value.split("\n").map((line) => line.trim()).filter(Boolean);
  if (!found.length) throw new Error("There are no texts. Type or paste some, one per line.");
  return found;
}

// Rows of a CSV file; quoted fields may hold separators, line breaks and doubled quotes.
export function parse(content, separator) {
  const found = [[""]];
  let quoted = false;
  for (let index = 0; index < content.length; index += 1) {
    const letter = content[index];
    const row = found.at(-1);
    if (quoted) {
      if (letter !== '"') row[row.length - 1] += letter;
      else if (content[index + 1] === '"') { row[row.length - 1] += '"'; index += 1; }
      else quoted = false;
    } else if (letter === '"' && row.at(-1) === "") quoted = true;
    else if (letter === separator) row.push("");
    else if (letter === "\n") found.push([""]);
    else if (letter !== "\r") row[row.length - 1] += letter;
  }
  return found.filter((row) => row.some((field) => field.trim()));
}

// The separator that occurs most often in the first line.
function separatorOf(name, content) {
  if (/\.tsv$/i.test(name)) return "\t";
  const [first] = content.split("\n", 1);
  const counts = [",", ";", "\t"].map((one) => [first.split(one).length, one]);
  return counts.reduce((best, one) => (one[0] > best[0] ? one : best))[1];
}

// The column with the longest fields is the one that has texts.
function longestColumn() {
  const lengths = rows[0].map((_, index) => rows.slice(1).reduce((sum, row) => sum + (row[index] ?? "").length, 0));
  return lengths.indexOf(Math.max(...lengths));
}

function showColumn() {
  const chosen = rows.slice(1).map((row) => (row[column.value] ?? "").replace(/\s+/g, " ").trim());
  write(chosen.filter(Boolean).join("\n"));
}

function write(content) {
  area.value = content;
  count();
}

export function count() {
  const number = area.value.split("\n").filter((line) => line.trim()).length;
  find("#count").textContent = `${number.toLocaleString("en")} ${number === 1 ? "text" : "texts"}`;
}

async function open(file) {
  if (!file) return;
  const content = (await file.text()).replace(/^\uFEFF/, "");
  const isTable = /\.(csv|tsv)$/i.test(file.name);
  rows = isTable ? parse(content, separatorOf(file.name, content)) : [];
  const hasColumns = rows.length > 1 && rows[0].length > 1;
  column.hidden = find("#column-label").hidden = !hasColumns;
  if (!hasColumns) {
    write(isTable ? rows.map((row) => row[0].replace(/\s+/g, " ").trim()).join("\n") : content);
    return;
  }
  column.replaceChildren(...rows[0].map((name, index) => new Option(name || `Column ${index + 1}`, index)));
  column.value = longestColumn();
  showColumn();
}

area.addEventListener("input", count);
column.addEventListener("change", showColumn);
find("#file").addEventListener("change", (event) => open(event.target.files[0]));
area.addEventListener("dragover", (event) => { event.preventDefault(); area.classList.add("over"); });
area.addEventListener("dragleave", () => area.classList.remove("over"));
area.addEventListener("drop", (event) => {
  area.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});
count();
