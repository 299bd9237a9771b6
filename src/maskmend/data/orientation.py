"""How a slice lies before people and networks: what is left, right, up and down.

Headers say where a file's axes point. Columns of a slice run to the left or to the back, rows to
the back or down, in whatever order and direction the file has them, as radiologists look at them.
"""

import nibabel as nib
import numpy as np
from jaxtyping import Float, Int

_OBLIQUE = np.cos(np.radians(38))
"""Less than this has an oblique slice's normal along any of the body's axes."""
_LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))


def upright(affine: Float[np.ndarray, "4 4"], slices: int) -> tuple[Int[np.ndarray, "axis 2"], str]:
    """The turn from a file's axes to those to the right, down, and from slice to slice.

    The nearest of the body's axes tell right from down in a slice that is nearly axial, coronal or
    sagittal. A short-axis slice of the heart lies between the three, where patients of one scanner
    have now one and now another nearest; there the axis that is steeper runs down.

    Args:
        affine: Voxel index to mm.
        slices: The file's axis of the slices.

    Returns:
        nibabel's orientation array, and where the three run to, more or less and each to another of
        left, right, posterior, anterior, superior and inferior.
    """
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    left, back, up = towards = np.diag([-1, -1, 1]) @ directions
    in_plane = [axis for axis in range(3) if axis != slices]
    oblique = np.abs(towards[:, slices]).max() < _OBLIQUE
    nearest = nib.orientations.io_orientation(affine)[:, 0].astype(int)
    right, down = sorted(in_plane, key=lambda axis: abs(up[axis]) if oblique else nearest[axis])
    forwards = {
        right: (left + back)[right],
        down: (back - up)[down],
        slices: towards[nearest[slices], slices],
    }
    orientation = np.empty((3, 2), dtype=int)
    letters = ""
    for number, (axis, sign) in enumerate(forwards.items()):
        flip = 1 if sign > 0 else -1
        orientation[axis] = number, flip
        letters += _LETTERS[nearest[axis]][int(flip * towards[nearest[axis], axis] > 0)]
    return orientation, letters
