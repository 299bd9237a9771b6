"use strict";
// The part of one image: its slices before and after, what differs, what was done to the image.

const DASHES = [[], [7, 3], [3, 2], [9, 3, 2, 3]]; // structures are told apart by more than colour
const ADDED = "#56B4E9";
const REMOVED = "#D55E00";
const RELABELLED = "#F0E442";
const HALO = "rgba(0, 0, 0, 0.35)";

const structures = JSON.parse(document.getElementById("structures").textContent);

/** Put the part of an image below its row. */
async function openPart(row) {
  const { number, name } = row.dataset;
  const holder = document.createElement("tr");
  holder.id = `part-${number}`;
  holder.className = "part";
  const cell = holder.insertCell();
  cell.colSpan = row.cells.length;
  cell.append(document.getElementById("part").content.cloneNode(true));
  cell.querySelector(".facts").append(
    document.getElementById(`facts-${number}`).content.cloneNode(true),
  );
  row.after(holder);
  const section = cell.querySelector("section");
  section.setAttribute("aria-label", name);
  section.querySelector("h3").textContent = name;
  section.querySelector(".previous").addEventListener("click", () => step(row, -1));
  section.querySelector(".next").addEventListener("click", () => step(row, 1));
  section.querySelector(".close").addEventListener("click", () => {
    toggle(row, false);
    row.querySelector("button.name").focus();
  });
  const data = document.getElementById(`slices-${number}`);
  if (!data) return section.querySelector(".stage").remove();
  new Part(section, name, await unpacked(JSON.parse(data.textContent)));
}

/** The slices of an image, ready to draw. */
async function unpacked(slices) {
  const labels = Object.fromEntries(
    await Promise.all(
      Object.entries(slices.labels).map(async ([when, text]) => [when, await inflated(text, "deflate")]),
    ),
  );
  const [image, change] = await Promise.all([picture(slices.image), slices.change && picture(slices.change)]);
  return { ...slices, labels, image, change };
}

/** Bytes of a compressed text in base64. */
async function inflated(text, format) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function picture(text) {
  const image = new Image();
  image.src = `data:image/webp;base64,${text}`;
  await image.decode();
  return image;
}

/** What a reader has chosen to see of one image, and the pictures of it. */
class Part {
  constructor(section, name, slices) {
    Object.assign(this, { section, name, slices, cache: new Map() });
    this.slider = section.querySelector("input.slice");
    this.slider.max = slices.count;
    this.slider.value = slices.middle + 1;
    section.querySelector(".reference").hidden = !slices.labels.truth;
    section.querySelector("figure.change").hidden = !slices.change;
    for (const input of section.querySelectorAll(".controls input, .swipe input")) {
      input.addEventListener("input", () => this.draw());
    }
    for (const radio of section.querySelectorAll("input[type=radio]")) {
      radio.name = `${radio.dataset.group}-${section.closest("tr").id}`;
    }
    new ResizeObserver(() => this.draw()).observe(section.querySelector(".views"));
    offerViewer(this);
    this.draw();
  }

  get slice() {
    return this.slider.value - 1;
  }

  checked(name) {
    return this.section.querySelector(`input.${name}`).checked;
  }

  draw() {
    const text = `${this.slider.value} of ${this.slices.count}`;
    this.section.querySelector("output").textContent = text;
    this.slider.setAttribute("aria-valuetext", `slice ${text}`);
    const swiping = this.checked("swiping");
    this.section.querySelector(".side").hidden = swiping;
    this.section.querySelector(".swipe").hidden = !swiping;
    if (swiping) this.drawSwipe();
    else this.drawSideBySide();
    this.moved?.(this.slice);
  }

  drawSideBySide() {
    for (const when of ["before", "after"]) {
      const pen = this.pen(`figure.${when} canvas`, `${this.name}, ${when}: ${this.described(when)}`);
      this.drawImage(pen, this.slices.image);
      this.drawOutlines(pen, when);
    }
    this.drawDifference();
    if (!this.slices.change) return;
    const pen = this.pen("figure.change canvas", `${this.name}: what was changed in the image`);
    this.drawImage(pen, this.slices.change);
  }

  drawSwipe() {
    const share = this.section.querySelector(".boundary").value / 100;
    const pen = this.pen(".swipe canvas", `${this.name}: before on the left of the boundary, after on the right`);
    this.drawImage(pen, this.slices.image);
    const [row, column, side] = this.square;
    for (const [when, from, to] of [["before", 0, share], ["after", share, 1]]) {
      pen.save();
      pen.beginPath();
      pen.rect(column + from * side, row, (to - from) * side, side);
      pen.clip();
      this.drawOutlines(pen, when);
      pen.restore();
    }
    pen.fillStyle = "white";
    pen.fillRect(column + share * side, row, 1.5 / pen.zoom, side);
  }

  drawDifference() {
    const [before, after] = ["before", "after"].map((when) => this.plane(when));
    const size = this.slices.size;
    const regions = [
      ["added", ADDED, (at) => !before[at] && after[at]],
      ["removed", REMOVED, (at) => before[at] && !after[at]],
      ["relabelled", RELABELLED, (at) => before[at] && after[at] && before[at] !== after[at]],
    ];
    const counts = regions.map(([name, , fits]) => [name, before.reduce((sum, _, at) => sum + !!fits(at), 0)]);
    const area = this.slices.pixelMm ** 2 / 100;
    const said = counts
      .filter(([, count]) => count)
      .map(([name, count]) => `${(count * area).toFixed(1)} cm² ${name}`);
    const text = said.join(", ") || "nothing on this slice";
    const pen = this.pen("figure.difference canvas", `${this.name}, difference: ${text}`);
    this.section.querySelector("figure.difference .note").textContent = text;
    this.drawImage(pen, this.slices.image);
    for (const [name, colour, fits] of regions) {
      const path = pathOf(outlines(size, (x, y) => fits(y * size + x)));
      pen.fillStyle = hatching(pen, name, colour);
      pen.fill(path, "evenodd");
      pen.strokeStyle = colour;
      pen.lineWidth = 1.2 / pen.zoom;
      pen.stroke(path);
    }
  }

  /** A pen whose unit is a pixel of the slice, on a canvas that is then clean. */
  pen(selector, label) {
    const canvas = this.section.querySelector(selector);
    canvas.setAttribute("aria-label", `Slice ${this.slider.value}. ${label}`);
    const width = Math.round((canvas.clientWidth || 320) * Math.max(1, devicePixelRatio));
    if (canvas.width !== width) canvas.width = canvas.height = width;
    const [row, column, side] = this.square;
    const pen = canvas.getContext("2d");
    const zoom = width / side;
    pen.setTransform(zoom, 0, 0, zoom, -column * zoom, -row * zoom);
    pen.zoom = zoom / Math.max(1, devicePixelRatio);
    return pen;
  }

  /** First row, first column and side of what is shown. */
  get square() {
    return this.checked("whole") ? [0, 0, this.slices.size] : this.slices.crop;
  }

  drawImage(pen, sheet) {
    const { size, across } = this.slices;
    const side = sheet.width / across; // that of the change is coarser
    const [x, y] = [(this.slice % across) * side, Math.floor(this.slice / across) * side];
    pen.imageSmoothingQuality = "high";
    pen.drawImage(sheet, x, y, side, side, 0, 0, size, size);
  }

  drawOutlines(pen, when) {
    if (this.checked("reference") && this.slices.labels.truth) {
      for (const path of this.paths("truth")) {
        pen.setLineDash([]);
        pen.strokeStyle = "white";
        pen.lineWidth = 1.2 / pen.zoom;
        pen.stroke(path);
      }
    }
    if (!this.checked("outlined")) return;
    this.paths(when).forEach((path, i) => {
      pen.setLineDash([]);
      pen.strokeStyle = HALO;
      pen.lineWidth = 3.4 / pen.zoom;
      pen.stroke(path);
      pen.setLineDash(DASHES[i % DASHES.length].map((length) => length / pen.zoom));
      pen.strokeStyle = structures[i].colour;
      pen.lineWidth = 2.2 / pen.zoom;
      pen.stroke(path);
      pen.setLineDash([]);
    });
  }

  /** Outlines of each structure on the slice. */
  paths(when) {
    const key = `${when} ${this.slice}`;
    if (!this.cache.has(key)) {
      const [plane, size] = [this.plane(when), this.slices.size];
      const inside = (label) => (x, y) => plane[y * size + x] === label;
      this.cache.set(key, structures.map(({ label }) => pathOf(outlines(size, inside(label)))));
    }
    return this.cache.get(key);
  }

  /** Labels of the slice. */
  plane(when) {
    const area = this.slices.size ** 2;
    return this.slices.labels[when].subarray(this.slice * area, (this.slice + 1) * area);
  }

  described(when) {
    const plane = this.plane(when);
    const area = this.slices.pixelMm ** 2 / 100;
    return structures
      .map(({ label, name }) => [name, plane.reduce((sum, at) => sum + (at === label), 0) * area])
      .map(([name, size]) => (size ? `${name} ${size.toFixed(1)} cm²` : `no ${name}`))
      .join(", ");
  }
}

/** What fills a region, so that colour is not all that tells it. */
function hatching(pen, name, colour) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = 8;
  const brush = tile.getContext("2d");
  brush.strokeStyle = brush.fillStyle = colour;
  brush.globalAlpha = name === "added" ? 0.7 : 1;
  brush.lineWidth = 2;
  if (name === "added") brush.fillRect(0, 0, 8, 8);
  if (name === "removed") brush.stroke(new Path2D("M-2 2L2 -2M0 8L8 0M6 10L10 6"));
  if (name === "relabelled") brush.fill(new Path2D("M1 1h3v3h-3zM5 5h3v3h-3z"));
  const pattern = pen.createPattern(tile, "repeat");
  pattern.setTransform(new DOMMatrix().scale(0.75 / pen.zoom));
  return pattern;
}
