"use strict";
// The table of images: sorted, filtered, its parts opened; and light or dark.

const table = document.getElementById("table");
const rows = [...table.tBodies[0].rows];

/** Sort by a column; again by the same one in the other direction. */
function sortBy(heading) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of table.tHead.querySelectorAll("th[aria-sort]")) {
    other.setAttribute("aria-sort", "none");
  }
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const column = heading.cellIndex;
  const key = (row) => row.cells[column].dataset.value;
  const compare = (a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === "" || y === "") return (x === "") - (y === ""); // unknown ones last, either way
    const order = heading.dataset.kind === "number" ? x - y : x.localeCompare(y, undefined, { numeric: true });
    return descending ? -order : order;
  };
  for (const row of rows.sort(compare)) {
    table.tBodies[0].append(row);
    const part = partOf(row);
    if (part) row.after(part);
  }
}

/** Show the images of the pressed kind whose text holds the words that are looked for. */
function filter() {
  const words = document.getElementById("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = document.querySelector("[data-kind][aria-pressed=true]").dataset.kind;
  let count = 0;
  for (const row of rows) {
    const fits =
      (kind === "all" || row.dataset.kinds.split(",").includes(kind)) &&
      words.every((word) => row.textContent.toLowerCase().includes(word));
    row.hidden = !fits;
    const part = partOf(row);
    if (part) part.hidden = !fits;
    count += fits;
  }
  document.getElementById("count").textContent = `${count} of ${rows.length} images`;
}

/** The row below an image that holds its part of the page; null while that is closed. */
function partOf(row) {
  return document.getElementById(`part-${row.dataset.number}`);
}

/** Open or close the part of an image. */
async function toggle(row, open = !partOf(row)) {
  const button = row.querySelector("button.name");
  button?.setAttribute("aria-expanded", open);
  if (!open) partOf(row)?.remove();
  else if (!partOf(row)) await openPart(row);
}

/** Go to the next or the previous image that is shown. */
async function step(row, direction) {
  const shown = rows.filter((other) => !other.hidden && other.querySelector("button.name"));
  const other = shown[shown.indexOf(row) + direction];
  if (!other) return;
  await toggle(row, false);
  await toggle(other, true);
  other.scrollIntoView({ block: "start" });
  other.querySelector("button.name").focus({ preventScroll: true });
}

function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  document.getElementById("theme").textContent = dark ? "Dark" : "Light";
}

for (const button of table.tHead.querySelectorAll("th[aria-sort] button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}
for (const button of document.querySelectorAll("button[data-kind]")) {
  button.addEventListener("click", () => {
    for (const other of document.querySelectorAll("button[data-kind]")) {
      other.setAttribute("aria-pressed", other === button);
    }
    filter();
  });
}
document.getElementById("words").addEventListener("input", filter);
document.getElementById("theme").addEventListener("click", switchTheme);
document.getElementById("theme").textContent = matchMedia("(prefers-color-scheme: dark)").matches
  ? "Light"
  : "Dark";
for (const row of rows) {
  row.querySelector("button.name")?.addEventListener("click", () => toggle(row));
  row.querySelector(".pictures")?.addEventListener("click", () => toggle(row));
}
document.documentElement.classList.add("scripted");
filter();
