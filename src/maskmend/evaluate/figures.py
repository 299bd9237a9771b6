"""Pictures of masks beside their images, for the report and the documentation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from maskmend.data.volume import appearing_whole
from maskmend.palette import OKABE_ITO

HEART = {1: "RV", 2: "MYO", 3: "LV"}
"""The structures of a heart, labelled as in ACDC."""

_COLUMNS = ("image", "before", "after", "truth")
_PANEL_INCHES = 1.6
_LEAST_CROP = 32  # pixels, so that a tiny structure keeps its surroundings


@dataclass(frozen=True, kw_only=True, eq=False)
class Row:
    """One slice of a contact sheet; all arrays [x, y] of one shape."""

    name: str
    image: np.ndarray
    """Intensities; shown between their 1st and 99th percentile."""
    before: np.ndarray
    """Labels before adaptation."""
    after: np.ndarray
    truth: np.ndarray
    dice_before: float
    """From 0 to 1; printed in points. The caller says of what: the slice or its volume."""
    dice_after: float


def contact_sheet(
    path: Path, rows: Sequence[Row], *, structures: Mapping[int, str] = HEART, dpi: int = 200
) -> None:
    """Draw a PNG or PDF: a row per case; its image, and the contours before, after and in truth.

    Panels are cropped to a square around the masks, so that contours are readable at half a page.
    The first array axis, x, runs to the right, the second, y, downwards.

    Args:
        path: The file, .png or .pdf; it appears whole or not at all.
        rows: The cases, from top to bottom.
        structures: Label -> name in the legend; each gets a colour, in order.
        dpi: Dots per inch; the sheet is about 6.6 inches wide.

    Raises:
        ValueError: There are no rows, arrays of a row differ in shape, or there are more structures
            than colours.
        InputError: The file cannot be written.
    """
    _check(rows, structures)
    figure = Figure(
        figsize=(len(_COLUMNS) * _PANEL_INCHES + 0.2, len(rows) * _PANEL_INCHES + 0.7),
        layout="constrained",
    )
    FigureCanvasAgg(figure)  # no pyplot: nothing global, nothing to close
    panels = figure.subplots(len(rows), len(_COLUMNS), squeeze=False)
    colours = dict(zip(structures, OKABE_ITO, strict=False))
    for row, axes in zip(rows, panels, strict=True):
        _draw(row, axes, colours)
    for heading, axis in zip(_COLUMNS, panels[0], strict=True):
        axis.set_title(heading, fontsize=9)
    figure.legend(
        handles=[Line2D([], [], color=colours[k], label=structures[k]) for k in structures],
        loc="outside lower center",
        ncols=len(structures),
        fontsize=9,
        frameon=False,
    )
    with appearing_whole(path) as temporary:
        figure.savefig(temporary, format=path.suffix.removeprefix("."), dpi=dpi)


def _draw(row: Row, axes: Sequence[Axes], colours: Mapping[int, str]) -> None:
    crop = _square_around((row.before > 0) | (row.after > 0) | (row.truth > 0))
    image = row.image[crop]
    low, high = np.percentile(image, [1, 99])
    masks = (None, row.before, row.after, row.truth)
    for axis, labels in zip(axes, masks, strict=True):
        axis.imshow(image.T, cmap="gray", vmin=low, vmax=high, interpolation="bilinear")
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
        for label, colour in colours.items():
            if labels is None:
                continue
            inside = np.pad(labels[crop] == label, 1)  # closes contours at the edge of the crop
            if inside.any():
                ticks = [np.arange(-1, n - 1) for n in inside.shape]
                axis.contour(*ticks, inside.T, levels=[0.5], colors=[colour], linewidths=1.1)
        axis.set_xlim(-0.5, image.shape[0] - 0.5)
        axis.set_ylim(image.shape[1] - 0.5, -0.5)
    axes[0].set_ylabel(row.name, fontsize=7)
    for axis, dice in ((axes[1], row.dice_before), (axes[2], row.dice_after)):
        axis.set_xlabel(f"Dice {100 * dice:.1f}", fontsize=7, labelpad=2)


def _square_around(mask: np.ndarray) -> tuple[slice, slice]:
    """A square around a mask with a sixth of its size as margin; everything if it is empty."""
    if not mask.any():
        return slice(None), slice(None)
    corners = np.argwhere(mask)
    first, last = corners.min(axis=0), corners.max(axis=0) + 1
    side = max(_LEAST_CROP, int(4 / 3 * (last - first).max()))
    starts = (first + last - side) // 2
    x, y = (
        # Shifted back into the image, or the whole axis where the image is the smaller one.
        slice(max(0, min(start, size - side)), max(0, min(start, size - side)) + side)
        for start, size in zip(starts.tolist(), mask.shape, strict=True)
    )
    return x, y


def _check(rows: Sequence[Row], structures: Mapping[int, str]) -> None:
    if not rows:
        raise ValueError("rows must hold at least one case")
    if len(structures) > len(OKABE_ITO):
        raise ValueError(f"structures must be at most {len(OKABE_ITO)}, got {len(structures)}")
    for row in rows:
        shapes = {array.shape for array in (row.image, row.before, row.after, row.truth)}
        if len(shapes) > 1 or row.image.ndim != 2:
            raise ValueError(f"{row.name}: arrays must have one shape [x, y], got {sorted(shapes)}")
