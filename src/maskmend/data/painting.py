"""Procedural hearts: from a patient's anatomy to tissues and labels on a grid.

Axes: slice (from base to apex), row (to the patient's back), column (to the patient's left).
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from maskmend.data.anatomy import Ellipsoid, HeartParameters, Tissue

RV, MYO, LV = 1, 2, 3
"""Labels of the masks, as in ACDC: right ventricle, left myocardium, left cavity."""

_OVERSAMPLING = 2
_FREE_WALL_MM = 3.0
"""Wall of the right ventricle: seen in the image, but background in the mask."""
_NARROWEST_RV_MM = 6.0
"""Where the right ventricle gets narrower than this it has ended."""
_TRABECULAE = 13
"""Ridges along the circumference of a cavity."""
_REACH_MM = 110.0
"""No part of the heart is farther from the left ventricle's axis."""
_WARP_MM = 15.0
"""No pixel is displaced more, by the warp and by breathing."""


def paint(heart: HeartParameters, *, size: int, spacing_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Paint the heart in its chest.

    Args:
        heart: The anatomy.
        size: Rows and columns of a slice.
        spacing_mm: Their distance.

    Returns:
        Tissues, uint8 [slice, row, column], on a finer grid, for `pixel_means`; and the labels,
        uint8 [slice, row, column], which cover most of each pixel.
    """
    fine = size * _OVERSAMPLING
    offsets = (np.arange(fine) + 0.5 - fine / 2) * spacing_mm / _OVERSAMPLING
    warp = [smooth_field(knots, (fine, fine)) for knots in heart.warp_mm]
    column = (heart.plan.centre_mm[0] + offsets + warp[0]).astype(np.float32)
    row = (heart.plan.centre_mm[1] + offsets[:, None] + warp[1]).astype(np.float32)

    shape = (heart.plan.slices, fine, fine)
    tissues = np.full(shape, Tissue.LUNG, np.uint8)
    labels = np.zeros(shape, np.uint8)
    for tissue, label, z, (x, y) in zip(
        tissues, labels, heart.plan.z_mm, heart.plan.breath_mm, strict=True
    ):
        _paint_ellipsoids(tissue, heart.chest, column - x, row - y, z)
        _paint_heart(tissue, label, heart, column - x, row - y, z)

    shares = np.stack([pixel_means(labels == label) for label in range(LV + 1)])
    return tissues, shares.argmax(0).astype(np.uint8)


def pixel_means(fine: np.ndarray) -> np.ndarray:
    """Means over the pixels, float32 [slice, row, column], of a finer grid: partial volume."""
    slices, rows, columns = fine.shape
    blocks = fine.reshape(
        slices, rows // _OVERSAMPLING, _OVERSAMPLING, columns // _OVERSAMPLING, _OVERSAMPLING
    )
    return blocks.mean(axis=(2, 4), dtype=np.float32)


def smooth_field(knots: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Cubic interpolation of a small lattice, stretched over an array of the given shape."""
    lattice = np.meshgrid(
        *(np.linspace(0, n - 1, m) for n, m in zip(knots.shape, shape, strict=True)), indexing="ij"
    )
    return ndimage.map_coordinates(knots, lattice, order=3, mode="nearest")


# Painting one slice, in place. `column` and `row` tell where its pixels are, in mm.


def _paint_ellipsoids(
    tissue: np.ndarray, lumps: Sequence[Ellipsoid], column: np.ndarray, row: np.ndarray, z: float
) -> None:
    # Pixels far from a lump are left alone: most lumps are small.
    columns, rows = column.mean(axis=0), row.mean(axis=1)
    for lump in lumps:
        (x, y, middle), (rx, ry, rz) = lump.centre_mm, lump.radii_mm
        share = 1 - ((z - middle) / rz) ** 2
        if share <= 0:
            continue
        box = np.s_[:, :] if lump.outside else np.s_[_box(rows, y, ry), _box(columns, x, rx)]
        inside = ((column[box] - x) / rx) ** 2 + ((row[box] - y) / ry) ** 2 < share
        tissue[box][inside ^ lump.outside] = lump.tissue


def _box(places: np.ndarray, centre_mm: float, radius_mm: float) -> slice:
    reach = radius_mm + _WARP_MM
    return slice(*np.searchsorted(places, (centre_mm - reach, centre_mm + reach)))


def _paint_heart(
    tissue: np.ndarray,
    label: np.ndarray,
    heart: HeartParameters,
    column: np.ndarray,
    row: np.ndarray,
    z: float,
) -> None:
    depth = z - heart.base_mm
    x, y = (slope * z for slope in heart.axis_slope)
    column, row = column - x, row - y
    if depth < 0:
        _paint_ellipsoids(tissue, heart.vessels, column, row, depth)
        return
    t = min(depth / heart.length_mm, 1.0)
    cavity_mm = heart.cavity_mm * np.sqrt(1 - t**2.5)
    wall_mm = heart.wall_mm * (1 - 0.3 * t)
    if (beyond := (depth - heart.length_mm) / wall_mm) > 0:  # the apex's cap
        wall_mm *= np.sqrt(max(1 - beyond**2, 0))
    if wall_mm == 0:
        return

    near = np.hypot(column, row) < _REACH_MM
    place = (column + 1j * row)[near].astype(np.complex64)
    radius = np.abs(place)
    direction = place / radius.clip(1e-6)
    cavity = cavity_mm * _outline(heart.cavity_shape, t, direction)
    wall = wall_mm * np.maximum(_outline(heart.wall_shape, t, direction), 0.6)
    epicardium = cavity + wall
    notches = heart.trabeculae_mm * (1 + (direction**_TRABECULAE).real) / 2 * (0.3 + t)

    along = np.angle(direction * np.exp(-1j * heart.septum_angle)) / heart.rv_half_angle  # -1 to 1
    width_mm = heart.rv_width_mm * max(1 - (t / heart.rv_length) ** 2, 0) ** 0.7
    beside = (np.abs(along) < 1) & (width_mm > _NARROWEST_RV_MM)
    crescent = np.cos(np.pi / 2 * along.clip(-1, 1)) ** 0.6 * (1 + heart.rv_skew * along)
    rv = np.where(beside, width_mm * crescent, 0)
    free_wall = np.where(beside, _FREE_WALL_MM, 0)
    groove = (1 - t) * 5 * np.exp(-(((np.abs(along) - 1) / 0.2) ** 2))
    fat = heart.fat_mm * np.maximum(_outline(heart.fat_shape, t, direction), 0) + groove

    kinds, structures = tissue[near], label[near]
    for outer, kind, structure in (
        (epicardium + rv + free_wall + fat, Tissue.FAT, 0),
        (epicardium + rv + free_wall, Tissue.MYOCARDIUM, 0),
        (epicardium + rv, Tissue.MYOCARDIUM, RV),
        (epicardium + rv - notches, Tissue.BLOOD, RV),
        (epicardium, Tissue.MYOCARDIUM, MYO),
        (cavity, Tissue.MYOCARDIUM, LV),
        (cavity - notches, Tissue.BLOOD, LV),
    ):
        inside = radius < outer
        kinds[inside] = kind
        structures[inside] = structure
    # Like the notches between trabeculae, papillary muscles count as cavity: experts do so.
    papillary_mm = heart.papillary_size * cavity_mm * np.sqrt(max(1 - ((t - 0.5) / 0.4) ** 2, 0))
    for angle in heart.papillary_angles:
        muscle = np.abs(place - 0.65 * cavity_mm * np.exp(1j * angle)) < papillary_mm
        kinds[muscle & (structures == LV)] = Tissue.MYOCARDIUM
    tissue[near], label[near] = kinds, structures


def _outline(shape: np.ndarray, t: float, direction: np.ndarray) -> np.ndarray:
    """1 plus the harmonics of a unit complex direction, at share t of the way base to apex."""
    weights = ((1 - t) * shape[0] + t * shape[1]).astype(np.complex64)
    return np.polyval([*weights[::-1], 1], direction).real
