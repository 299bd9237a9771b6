"""Largest component and hole filling: what most people do to a mask today.

Axes: slice, height, width; the slices of one volume.
"""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy import ndimage
from torch import Tensor

Labels = UInt8[Tensor, "slice height width"]


def largest_pieces(labels: Labels) -> Labels:
    """Of each structure its largest connected piece of the volume."""
    kept = labels.numpy().copy()
    for structure in range(1, int(kept.max()) + 1):
        pieces, count = ndimage.label(kept == structure)
        if count > 1:
            sizes = np.bincount(pieces.ravel())[1:]
            kept[(pieces > 0) & (pieces != 1 + sizes.argmax())] = 0
    return torch.from_numpy(kept)


def clean(labels: Labels) -> Labels:
    """Keep each structure's largest piece of the volume, and fill the holes that it has in a slice.

    A hole is background that one structure surrounds; a structure inside another stays.
    """
    cleaned = largest_pieces(labels).numpy()
    for structure in range(1, int(cleaned.max()) + 1):
        for one in cleaned:
            holes = ndimage.binary_fill_holes(one == structure) & (one == 0)
            one[holes] = structure
    return torch.from_numpy(cleaned)


def one_hot(labels: Labels, classes: int) -> Float[Tensor, "slice class height width"]:
    """Labels as probabilities that are sure of themselves."""
    return torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 1).float()
