"""How well one structure's mask agrees with its reference: Dice, IoU and Hausdorff distance.

Every function here takes the boolean masks of one structure, `labels == label`, of one shape: a
volume [x, y, z], or a slice [x, y, 1] or [x, y]. Background is never scored.

Empty masks get a value as well, so that every image can be compared before and after adaptation:

| prediction and reference | Dice | IoU | Hausdorff, 95%                   |
| ------------------------ | ---- | --- | -------------------------------- |
| both empty               | 1    | 1   | 0 mm                             |
| exactly one empty        | 0    | 0   | the diagonal of the image, in mm |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage
from scipy.spatial import KDTree

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Agreement of one structure's mask with its reference."""

    dice: float
    """2 |P ∩ R| / (|P| + |R|), from 0 to 1."""
    iou: float
    """|P ∩ R| / |P ∪ R|, from 0 to 1."""
    hausdorff_mm: float
    """The largest distance from a border to the other border."""
    hausdorff95_mm: float
    """The same with the 95th percentile in place of the maximum."""


def score(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> Scores:
    """All four scores of one structure; faster than calling the four functions.

    Args:
        prediction: Boolean mask, [x, y, z], [x, y, 1] or [x, y].
        reference: Boolean mask of the same shape.
        spacing_mm: Distance of neighbouring voxel centres along each axis.

    Raises:
        ValueError: The masks are not boolean, or shapes or spacing do not fit.
    """
    distances = _border_distances_mm(prediction, reference, spacing_mm)
    return Scores(
        dice=dice(prediction, reference),
        iou=iou(prediction, reference),
        hausdorff_mm=_symmetric_percentile(distances, 100),
        hausdorff95_mm=_symmetric_percentile(distances, 95),
    )


def dice(prediction: Mask, reference: Mask) -> float:
    """Dice coefficient, 2 |P ∩ R| / (|P| + |R|); 1 when both masks are empty."""
    _check(prediction, reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return 2 * np.count_nonzero(prediction & reference) / total if total else 1.0


def iou(prediction: Mask, reference: Mask) -> float:
    """Intersection over union (Jaccard index), |P ∩ R| / |P ∪ R|; 1 when both masks are empty."""
    _check(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    return np.count_nonzero(prediction & reference) / union if union else 1.0


def hausdorff_mm(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float:
    """Symmetric Hausdorff distance between the borders of two masks, in millimetres.

    The border of a mask is its voxels with a face neighbour outside the mask; what lies beyond the
    image counts as outside. An axis of length one has no neighbours and is left out, so that a
    slice [x, y, 1] is scored in its plane. Distances run from voxel centre to voxel centre.

    The same definition as in MedPy (`medpy.metric.binary.hd`) and MONAI
    (`compute_hausdorff_distance`), but for empty masks: see the top of this module.

    Args:
        prediction: Boolean mask, [x, y, z], [x, y, 1] or [x, y].
        reference: Boolean mask of the same shape.
        spacing_mm: Distance of neighbouring voxel centres along each axis.

    Raises:
        ValueError: The masks are not boolean, or shapes or spacing do not fit.
    """
    return _symmetric_percentile(_border_distances_mm(prediction, reference, spacing_mm), 100)


def hausdorff95_mm(prediction: Mask, reference: Mask, spacing_mm: Sequence[float]) -> float:
    """The larger of the two directed 95th percentiles of the border distances, in millimetres.

    Borders, arguments and errors are those of `hausdorff_mm`. Libraries differ here: this is
    MONAI's definition (`percentile=95`), linear between ranks. MedPy's `hd95` pools both directions
    before it takes the percentile, and surface-distance weighs every border element by its area, so
    both give other values.
    """
    return _symmetric_percentile(_border_distances_mm(prediction, reference, spacing_mm), 95)


def _symmetric_percentile(distances: tuple[np.ndarray, np.ndarray], percent: float) -> float:
    return max(float(np.percentile(directed, percent)) for directed in distances)


def _border_distances_mm(
    prediction: Mask, reference: Mask, spacing_mm: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """From each border voxel of one mask to the nearest of the other, in both directions."""
    _check(prediction, reference)
    if len(spacing_mm) != prediction.ndim:
        raise ValueError(
            f"spacing_mm needs one value for each of {prediction.ndim} axes, got {len(spacing_mm)}"
        )
    if np.array_equal(prediction, reference):
        return np.zeros(1), np.zeros(1)
    if not (prediction.any() and reference.any()):
        diagonal = np.array([_diagonal_mm(prediction.shape, spacing_mm)])
        return diagonal, diagonal
    # A tree of border points, unlike a distance transform, stays fast when one stray voxel in a
    # corner stretches the region to search.
    ours, theirs = (_border_points_mm(mask, spacing_mm) for mask in (prediction, reference))
    return np.asarray(KDTree(theirs).query(ours)[0]), np.asarray(KDTree(ours).query(theirs)[0])


def _border_points_mm(mask: Mask, spacing_mm: Sequence[float]) -> np.ndarray:
    """Centres of the border voxels of a mask that is not empty, [points, axes]."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1)
    in_plane = tuple(slice(1, 2) if length == 1 else slice(None) for length in mask.shape)
    box = ndimage.find_objects(mask.view(np.uint8))[0]  # eroding the rest would only take time
    inside = ndimage.binary_erosion(mask[box], faces[in_plane])
    indices = np.argwhere(mask[box] & ~inside) + [side.start for side in box]
    return indices * np.asarray(spacing_mm)


def _diagonal_mm(shape: Sequence[int], spacing_mm: Sequence[float]) -> float:
    """From the first voxel's centre to the last's: no two voxels are further apart."""
    return math.hypot(*((n - 1) * step for n, step in zip(shape, spacing_mm, strict=True)))


def _check(prediction: Mask, reference: Mask) -> None:
    # Label arrays would go through the arithmetic and give a wrong score without a word.
    if prediction.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(
            "masks must be boolean, such as `labels == 3`; "
            f"got {prediction.dtype} and {reference.dtype}"
        )
    if prediction.shape != reference.shape:
        raise ValueError(f"masks must have one shape; got {prediction.shape} and {reference.shape}")
