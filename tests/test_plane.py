"""Masks of a model on a prior's grid are those that the prior would have prepared itself."""

import nibabel as nib
import numpy as np
import pytest
import torch

from maskmend.config import PreprocessConfig
from maskmend.data.phantom import write_cohort
from maskmend.data.preprocess import grid_of, mask_slices
from maskmend.data.volume import read_mask
from maskmend.plane import Plane
from maskmend.prediction import Prepared

GRID = PreprocessConfig(size=32, spacing_mm=8)


@pytest.fixture(scope="module")
def heart(tmp_path_factory):
    root = tmp_path_factory.mktemp("hearts")
    write_cohort(root, patients=1, seed=0, size=40, spacing_mm=6)
    return nib.load(sorted((root / "masks").iterdir())[0])


def one_hot(labels):
    return torch.nn.functional.one_hot(torch.from_numpy(labels).long(), 4).movedim(-1, 1).float()


@pytest.mark.parametrize("axcodes", ["LPS", "RAS", "LAS", "PLS", "ARI", "IPR", "LIP"])
@pytest.mark.parametrize("swapped", [False, True])
def test_masks_of_any_orientation_and_crop(heart, axcodes, swapped, tmp_path):
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(heart.affine), nib.orientations.axcodes2ornt(axcodes)
    )
    nib.save(heart.as_reoriented(turn), tmp_path / "mask.nii.gz")
    volume = read_mask(tmp_path / "mask.nii.gz")
    expected = mask_slices(volume, grid_of(volume, GRID), 4).numpy()
    along = axcodes.find("S") + axcodes.find("I") + 1  # the axis of the slices
    down, right = [axis for axis in (0, 1, 2) if axis != along][:: -1 if swapped else 1]
    # A model that sees a part off the centre of the file's own slices.
    box = (slice(3, volume.voxels.shape[down]), slice(0, volume.voxels.shape[right] - 2))
    slices = volume.voxels.transpose(along, down, right)[:, box[0], box[1]]
    plane = Plane.of(volume, axes=(down, right), box=box)
    seen = plane.onto(one_hot(np.ascontiguousarray(slices)), GRID)
    assert seen.shape == (len(expected), 4, 32, 32)
    assert torch.allclose(seen.sum(1), torch.ones(()), atol=1e-5)
    labels = seen.argmax(1).numpy()
    if axcodes[along] == "I":
        expected = expected[::-1]
    for structure in (1, 2, 3):
        a, b = labels == structure, expected == structure
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.9


def test_masks_on_the_priors_own_grid_stay_as_they_are(heart, tmp_path):
    nib.save(heart, tmp_path / "mask.nii.gz")
    volume = read_mask(tmp_path / "mask.nii.gz")
    grid = grid_of(volume, GRID)
    masks = one_hot(mask_slices(volume, grid, 4).numpy())
    prepared = Prepared(volume=volume, grid=grid, slices=masks[:, :1])
    torch.testing.assert_close(prepared.plane.onto(masks, GRID), masks, atol=1e-4, rtol=0)
