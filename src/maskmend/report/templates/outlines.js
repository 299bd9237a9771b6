"use strict";
// Outlines of a region on one slice.

// Directed lines through a cell of four pixels, by which of them are in the region (top left 1,
// top right 2, bottom right 4, bottom left 8): from side to side, the region on the left hand.
// Sides: 0 top, 1 right, 2 bottom, 3 left.
const LINES = [
  [], [[3, 0]], [[0, 1]], [[3, 1]], [[1, 2]], [[3, 0], [1, 2]], [[0, 2]], [[3, 2]],
  [[2, 3]], [[2, 0]], [[0, 1], [2, 3]], [[2, 1]], [[1, 3]], [[1, 0]], [[0, 3]], [],
];

/** Closed lines around a region: arrays of x, y, x, y, ... in pixels. `inside(x, y)` is its shape. */
function outlines(size, inside) {
  const field = smoothed(size, inside);
  const wide = size + 2;
  const point = new Map(); // side of a cell -> where the outline crosses it
  const next = new Map(); // that side -> the one where the outline leaves the cell
  for (let y = 0; y < wide - 1; y++) {
    for (let x = 0; x < wide - 1; x++) {
      const at = y * wide + x;
      const corners = [field[at], field[at + 1], field[at + wide + 1], field[at + wide]];
      const lines = LINES[corners.reduce((bits, value, i) => bits | ((value > 0.5) << i), 0)];
      const cross = (side) => {
        const key = [2 * at, 2 * (at + 1) + 1, 2 * (at + wide), 2 * at + 1][side];
        if (!point.has(key)) {
          const [a, b] = [[0, 1], [1, 2], [3, 2], [0, 3]][side].map((corner) => corners[corner]);
          const share = (0.5 - a) / (b - a);
          const [right, down] = [[share, 0], [1, share], [share, 1], [0, share]][side];
          point.set(key, [x + right - 0.5, y + down - 0.5]);
        }
        return key;
      };
      for (const [from, to] of lines) next.set(cross(from), cross(to));
    }
  }
  const closed = [];
  while (next.size) {
    const line = [];
    let [key] = next.keys();
    while (next.has(key)) {
      line.push(...point.get(key));
      const following = next.get(key);
      next.delete(key);
      key = following;
    }
    closed.push(line);
  }
  return closed;
}

/** Share of the region around each pixel, in a frame of zeros. Every pixel stays on its side. */
function smoothed(size, inside) {
  const wide = size + 2;
  const region = new Float32Array(wide * wide);
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) region[(y + 1) * wide + x + 1] = inside(x, y) ? 1 : 0;
  }
  const field = new Float32Array(wide * wide);
  for (let y = 1; y <= size; y++) {
    for (let x = 1; x <= size; x++) {
      const at = y * wide + x;
      let share = 0;
      for (let dy = -1; dy <= 1; dy++) {
        for (let dx = -1; dx <= 1; dx++) {
          share += (region[at + dy * wide + dx] * (2 - Math.abs(dx)) * (2 - Math.abs(dy))) / 16;
        }
      }
      field[at] = region[at] ? Math.max(share, 0.55) : Math.min(share, 0.45);
    }
  }
  return field;
}

/** Closed lines as a path. */
function pathOf(closed) {
  const path = new Path2D();
  for (const line of closed) {
    for (let i = 0; i < line.length; i += 2) path[i ? "lineTo" : "moveTo"](line[i], line[i + 1]);
    path.closePath();
  }
  return path;
}
