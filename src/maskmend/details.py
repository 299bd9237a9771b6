"""What people want to see of an image, kept beside its mask while it is at hand.

    DIR/details/NAME.npz             slices as the networks saw them, in 8 bits, and what was done
        NAME_mask.nii.gz             the plain mask, on the image's own grid

Axes: slice, height, width, as the networks have them. The files hold no path and nothing of the
image's header but its grid.
"""

import dataclasses
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8
from torch import Tensor

from maskmend.atomic import as_input_error, write_atomically
from maskmend.config import PreprocessConfig
from maskmend.data.preprocess import SliceGrid, grid_of, image_slices, mask_slices
from maskmend.data.volume import Volume, write_mask
from maskmend.instance import Adapted
from maskmend.prediction import Prediction, Prepared, Shown, by_length

DETAILS = "details"
"""Name of the folder in that of the masks."""

_LARGEST = 1024
"""Pixels along a side of a picture."""
_SHOWN_PERCENTILES = 0.5, 99.5
"""Intensities that are black and white."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Details:
    """One image on its way through the networks."""

    image: UInt8[np.ndarray, "slice height width"]
    """Intensities as the segmentor was shown them for the plain mask, dark to bright."""
    change: Int8[np.ndarray, "slice height width"] | None
    """What it was shown for the mask, less that; None if that is not known on this grid."""
    change_step: float
    """One of `change` in units of the image's 8 bits."""
    plain: UInt8[np.ndarray, "slice height width"]
    """Labels before."""
    mask: UInt8[np.ndarray, "slice height width"]
    """Labels after."""
    losses: Float[np.ndarray, "instance step"]
    """Loss of each instance that has slices in the image; NaN after its last step."""
    volumes_ml: Float[np.ndarray, "2 structure"]
    """Volume of each structure on the image's own grid, before and after, in millilitres."""
    changed: float
    """Voxels with another label, as a share of those that either mask covers."""
    grid: SliceGrid
    """Where the slices lie in the image."""
    slice_mm: float
    """Distance between neighbouring slices."""


def details_of(
    prepared: Sequence[Shown], adapted: Sequence[Adapted], predictions: Sequence[Prediction]
) -> list[Details]:
    """What there is to see of a patient's images.

    Args:
        prepared: The images.
        adapted: What adaptation made of their slices, one after another.
        predictions: What `finish` made of both.
    """
    lengths = [len(one.slices) for one in prepared]
    plain, masks = (
        by_length([getattr(one, name) for one in adapted], lengths) for name in ("plain", "masks")
    )
    before, after = _shown(prepared, adapted)
    made = []
    for number, (one, prediction) in enumerate(zip(prepared, predictions, strict=True)):
        classes = plain[number].shape[1]
        if isinstance(one, Prepared):
            grid = one.grid
            image, unit = _in_8_bits(before[number])
            change, change_step = _steps((after[number] - before[number]).numpy() / unit)
            labels = [_labels(plain[number]), _labels(masks[number])]
        else:  # with slices of its own kind
            grid, image, labels = _on_own_grid(prediction, classes)
            change, change_step = None, 1.0
        made.append(
            Details(
                image=image,
                change=change,
                change_step=change_step,
                plain=labels[0],
                mask=labels[1],
                losses=_padded(list(_behind(adapted, sum(lengths[:number]), lengths[number]))),
                volumes_ml=_volumes_ml(prediction, classes),
                changed=_changed(prediction.plain, prediction.labels),
                grid=grid,
                slice_mm=_slice_mm(prediction.volume, grid),
            )
        )
    return made


def write_details(out: Path, name: str, details: Details, prediction: Prediction) -> None:
    """Write the two files of one image, each whole or not at all.

    Args:
        out: Folder of the masks.
        name: Of the image.
        details: What to keep.
        prediction: The plain mask.

    Raises:
        InputError: The folder cannot be written.
    """
    arrays = {
        field.name: getattr(details, field.name)
        for field in fields(Details)
        if field.name != "grid" and getattr(details, field.name) is not None
    }
    arrays |= {f"grid.{f.name}": getattr(details.grid, f.name) for f in fields(SliceGrid)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    path, plain = _files(out, name)
    with as_input_error():
        write_atomically(path, content.getvalue())
    write_mask(plain, prediction.plain, prediction.volume)


def read_details(out: Path, name: str) -> Details | None:
    """What was kept of an image; None if nothing was, or the file is damaged."""
    try:
        with _files(out, name)[0].open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            grid = SliceGrid(
                orientation=arrays["grid.orientation"],
                axes=str(arrays["grid.axes"]),
                shape=tuple(arrays["grid.shape"].tolist()),
                pixel_mm=tuple(arrays["grid.pixel_mm"].tolist()),
                spacing_mm=float(arrays["grid.spacing_mm"]),
                size=int(arrays["grid.size"]),
            )
            numbers = {"change_step", "changed", "slice_mm"}
            read: dict[str, Any] = {"change": None}
            for name in {field.name for field in fields(Details)} & set(arrays):
                read[name] = float(arrays[name]) if name in numbers else arrays[name]
            return Details(**read, grid=grid)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def has_details(out: Path, name: str) -> bool:
    """Whether both files of an image are there."""
    return all(path.is_file() for path in _files(out, name))


def remove_details(out: Path, name: str) -> None:
    """Remove what was kept of an image, if anything was."""
    for path in _files(out, name):
        path.unlink(missing_ok=True)


def _files(out: Path, name: str) -> tuple[Path, Path]:
    return out / DETAILS / f"{name}.npz", out / DETAILS / f"{name}_mask.nii.gz"


def _shown(
    prepared: Sequence[Shown], adapted: Sequence[Adapted]
) -> tuple[list[Tensor], list[Tensor]]:
    """What the segmentor was shown of each image, before and after; the first channel."""
    images = by_length([one.slices for one in prepared], [len(one.plain) for one in adapted])
    before, after = [], []
    for one, own in zip(adapted, images, strict=True):
        before.append((own if one.plain_shown is None else one.plain_shown).detach().cpu())
        after.append(before[-1] if one.shown is None else one.shown.detach().cpu())
    lengths = [len(one.slices) for one in prepared]
    return (
        [one[:, 0].float() for one in by_length(before, lengths)],
        [one[:, 0].float() for one in by_length(after, lengths)],
    )


def _labels(masks: Tensor) -> np.ndarray:
    return masks.argmax(1).cpu().numpy().astype(np.uint8)


def _in_8_bits(image: Tensor) -> tuple[np.ndarray, float]:
    """The image from black to white, and one of its 8 bits' steps."""
    array = image.numpy()
    low, high = np.percentile(array, _SHOWN_PERCENTILES)
    unit = max(float(high - low), 1e-6) / 255
    return ((array - low) / unit).round().clip(0, 255).astype(np.uint8), unit


def _steps(change: np.ndarray) -> tuple[np.ndarray, float]:
    """A change in 8 bits, and one of their steps."""
    step = max(float(np.abs(change).max()), 1e-6) / 127
    return (change / step).round().astype(np.int8), step


def _on_own_grid(
    prediction: Prediction, classes: int
) -> tuple[SliceGrid, np.ndarray, list[np.ndarray]]:
    """Image and both masks on slices that show the whole image, as fine as its pixels if it can."""
    volume = prediction.volume
    found = grid_of(volume, PreprocessConfig())
    sides_mm = [n * mm for n, mm in zip(found.shape[1:], found.pixel_mm, strict=True)]
    spacing_mm = min(found.pixel_mm)
    size = min(_LARGEST, math.ceil(max(sides_mm) / spacing_mm))
    config = PreprocessConfig(size=size, spacing_mm=max(spacing_mm, max(sides_mm) / size))
    grid = grid_of(volume, config)
    masks = [
        mask_slices(dataclasses.replace(volume, voxels=labels), grid, classes).numpy()
        for labels in (prediction.plain, prediction.labels)
    ]
    image, _ = _in_8_bits(image_slices(volume, grid, config)[:, 0])
    return grid, image, masks


def _behind(adapted: Sequence[Adapted], start: int, length: int) -> Iterator[tuple[float, ...]]:
    """Losses of the instances that have slices among some."""
    position = 0
    for one in adapted:
        first, position = position, position + len(one.plain)
        if one.losses and first < start + length and start < position:
            yield one.losses


def _padded(losses: Sequence[tuple[float, ...]]) -> np.ndarray:
    padded = np.full((len(losses), max(map(len, losses), default=0)), np.nan, dtype=np.float32)
    for row, values in zip(padded, losses, strict=True):
        row[: len(values)] = values
    return padded


def _volumes_ml(prediction: Prediction, classes: int) -> np.ndarray:
    voxel_ml = abs(np.linalg.det(prediction.volume.affine[:3, :3])) / 1000
    counts = [
        np.bincount(labels.ravel(), minlength=classes)[1:classes]
        for labels in (prediction.plain, prediction.labels)
    ]
    return (np.stack(counts) * voxel_ml).astype(np.float32)


def _changed(plain: np.ndarray, labels: np.ndarray) -> float:
    covered = np.count_nonzero((plain > 0) | (labels > 0))
    return int(np.count_nonzero(plain != labels)) / max(1, int(covered))


def _slice_mm(volume: Volume, grid: SliceGrid) -> float:
    (axis,) = np.flatnonzero(grid.orientation[:, 0] == 2)
    return volume.spacing_mm[int(axis)]
