"""Where height, width and slices run to, whatever a file's axes."""

import itertools

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from maskmend.data.orientation import upright


@pytest.mark.parametrize(("slices", "expected"), [(0, "PIL"), (1, "LIP"), (2, "LPS")])
@pytest.mark.parametrize("tilt", [(0, 0, 0), (20, -15, 10), (-15, 20, -20)])
def test_axes_lead_where_people_look(slices, expected, tilt):
    """World: left, posterior and superior are the axes 0, 1 and 2, in all orders and directions."""
    rotation = Rotation.from_euler("xyz", tilt, degrees=True).as_matrix()
    for order in itertools.permutations(range(3)):
        for flips in itertools.product((1, -1), repeat=3):
            directions = np.eye(3)[:, order] * flips
            affine = np.eye(4)
            affine[:3, :3] = np.diag([-1, -1, 1]) @ rotation @ directions * (1.5, 1.2, 8)
            orientation, axes = upright(affine, order.index(slices))
            assert axes == expected
            turned = affine @ nib.orientations.inv_ornt_aff(orientation, (9, 9, 9))
            assert "".join(nib.aff2axcodes(turned)) == expected


@pytest.mark.parametrize(
    ("apex", "expected"), [((0.64, -0.48, -0.6), "PIL"), ((0.527, -0.369, -0.766), "PRS")]
)
def test_an_oblique_slice_has_its_steeper_axis_down(apex, expected):
    """Short axes of two hearts, stored alike; their letters are still of three axes."""
    apex = np.array(apex) / np.linalg.norm(apex)
    rows = np.array([-apex[1], apex[0], 0]) / np.hypot(*apex[:2])
    columns = -np.cross(apex, rows)
    affine = np.eye(4)
    affine[:3, :3] = np.diag([-1, -1, 1]) @ np.column_stack([columns, rows, apex])
    orientation, axes = upright(affine, 2)
    assert orientation[:2].tolist() == [[1, 1], [0, 1]]
    assert axes == expected
