"use strict";
// The volume in NiiVue, made when it is asked for. Without WebGL 2 the pictures are all there is.

/** Offer to browse an image's volume, or say why not. */
function offerViewer(part) {
  const place = part.section.querySelector(".viewer");
  const button = place.querySelector("button");
  const excuse = (reason) => {
    place.querySelector(".browser").hidden = button.hidden = true;
    place.querySelector(".excuse").hidden = false;
    place.querySelector(".excuse").textContent = reason;
  };
  if (!document.createElement("canvas").getContext("webgl2")) {
    return excuse("This browser has no WebGL 2, which the viewer needs; the pictures show all slices.");
  }
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await browse(part, place);
      button.hidden = true;
    } catch (error) {
      excuse(`The viewer could not be started (${error.message}); the pictures show all slices.`);
    }
  });
}

/** Start the viewer, and keep it and the slider on the same slice. */
async function browse(part, place) {
  const { Niivue } = await loadedNiivue();
  const { slices, section } = part;
  place.querySelector(".browser").hidden = false;
  const viewer = new Niivue({
    backColor: [0, 0, 0, 1],
    crosshairColor: [1, 1, 1, 0.6],
    show3Dcrosshair: true,
    isRadiologicalConvention: true,
    dragAndDropEnabled: false,
    logLevel: "error",
    loadingText: "",
  });
  await viewer.attachToCanvas(place.querySelector("canvas"));
  await viewer.loadFromArrayBuffer(nifti(slices, voxelsOf(slices)), "image.nii");
  const moments = ["before", "after"];
  for (const when of moments) {
    await viewer.loadFromArrayBuffer(nifti(slices, slices.labels[when]), `${when}.nii`);
    viewer.volumes.at(-1).setColormapLabel(lookUp());
  }
  const show = () => {
    const chosen = section.querySelector(".viewer input:checked").value;
    moments.forEach((when, i) => viewer.setOpacity(i + 1, when === chosen ? 0.55 : 0));
  };
  place.addEventListener("input", show);
  show();
  // Its axes lead to right, anterior, superior; the slices' may lead the other way.
  const axis = "LPS".indexOf(slices.axes[2]);
  const along = (share) => (axis === 2 ? share : 1 - share);
  const moved = (slice) => {
    viewer.scene.crosshairPos[axis] = along((slice + 0.5) / slices.count);
    viewer.drawScene();
  };
  viewer.onLocationChange = ({ frac }) => {
    const slice = Math.min(slices.count - 1, Math.floor(along(frac[axis]) * slices.count));
    if (slice === part.slice) return;
    part.slider.value = slice + 1;
    part.moved = null; // it is there already
    part.draw();
    part.moved = moved;
  };
  part.moved = moved;
  moved(part.slice);
  place.querySelector(".screen").scrollIntoView({ block: "nearest" });
}

let niivueLibrary;

/** NiiVue, from the page itself. */
async function loadedNiivue() {
  if (!niivueLibrary) {
    const script = document.createElement("script");
    const source = await inflated(document.getElementById("niivue").textContent, "gzip");
    script.textContent = new TextDecoder().decode(source);
    document.head.append(script);
    niivueLibrary = window.niivue;
  }
  return niivueLibrary;
}

/** Intensities of all slices, from the picture that holds them. */
function voxelsOf({ image, size, count, across }) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.width, image.height];
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(image, 0, 0);
  const voxels = new Uint8Array(count * size * size);
  for (let slice = 0; slice < count; slice++) {
    const [x, y] = [(slice % across) * size, Math.floor(slice / across) * size];
    const { data } = pen.getImageData(x, y, size, size);
    for (let at = 0; at < size * size; at++) voxels[slice * size * size + at] = data[4 * at];
  }
  return voxels;
}

/** A NIfTI-1 file of bytes [slice, row, column], the middle of the volume at 0 mm. */
function nifti({ size, count, pixelMm, sliceMm, axes }, voxels) {
  const header = new DataView(new ArrayBuffer(352));
  const set = (kind, offset, ...values) =>
    values.forEach((value, i) => header[`set${kind}`](offset + i * (kind === "Int16" ? 2 : 4), value, true));
  set("Int32", 0, 348);
  set("Int16", 40, 3, size, size, count, 1, 1, 1, 1);
  set("Int16", 70, 2, 8); // unsigned bytes
  set("Float32", 76, 1, pixelMm, pixelMm, sliceMm);
  set("Float32", 108, 352, 1, 0);
  header.setUint8(123, 2); // mm
  set("Int16", 252, 0, 1); // the matrix below says where the axes lead: to right, anterior, superior
  const steps = [pixelMm, pixelMm, sliceMm];
  const lengths = [size, size, count];
  const matrix = [[0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]];
  [...axes].forEach((letter, axis) => {
    const [row, sign] = { L: [0, -1], R: [0, 1], P: [1, -1], A: [1, 1], S: [2, 1], I: [2, -1] }[letter];
    matrix[row][axis] = sign * steps[axis];
    matrix[row][3] -= (sign * steps[axis] * (lengths[axis] - 1)) / 2;
  });
  set("Float32", 280, ...matrix.flat());
  set("Int32", 344, 0x00312b6e); // n+1
  const file = new Uint8Array(352 + voxels.length);
  file.set(new Uint8Array(header.buffer));
  file.set(voxels, 352);
  return file.buffer;
}

/** Colours of the labels. */
function lookUp() {
  const part = (colour, from) => parseInt(colour.slice(from, from + 2), 16);
  const column = (from) => [0, ...structures.map(({ colour }) => part(colour, from))];
  return {
    R: column(1),
    G: column(3),
    B: column(5),
    A: [0, ...structures.map(() => 255)],
    I: [0, ...structures.map(({ label }) => label)],
    labels: ["", ...structures.map(({ name }) => name)],
  };
}
