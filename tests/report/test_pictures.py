"""What is on the page is upright, small, and what the arrays say."""

import base64
import io
import zlib

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from maskmend.config import PreprocessConfig
from maskmend.data.preprocess import grid_of, image_slices
from maskmend.data.volume import Volume
from maskmend.report.pictures import (
    MOST_PIXELS,
    MOST_SLICES,
    View,
    atlas,
    crop_around,
    grey_change,
    middle_of,
    packed,
    thumbnail,
)


def picture(text):
    content = base64.b64decode(text.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)))


@pytest.mark.parametrize(
    ("axis", "axes", "right", "down"),
    [(2, "LPS", 0, 1), (1, "LIP", 0, 2), (0, "PIL", 1, 2)],
    ids=["axial", "coronal", "sagittal"],
)
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_slices_are_upright_whatever_the_files_axes(axis, axes, right, down, flips, tmp_path):
    """World: bright towards left, posterior, or inferior, where columns and rows must lead."""
    affine = np.diag([*np.array([-1.0, -1.0, 1.0]) * flips, 1.0])
    index = np.stack(np.meshgrid(*[np.arange(20.0)] * 3, indexing="ij"))
    left, posterior, superior = index * np.reshape(flips, (3, 1, 1, 1))
    where = {0: left, 1: posterior, 2: -superior}
    config = PreprocessConfig(size=20, spacing_mm=1, slice_axis=axis, clip_percentiles=None)
    for towards, row_or_column in ((right, 2), (down, 1)):
        volume = Volume(
            path=tmp_path / "a.nii",
            voxels=where[towards].astype(np.float32),
            affine=affine,
            header=nib.Nifti1Header(),
        )
        grid = grid_of(volume, config)
        view = View.of(grid, [True] * 20)
        shown = view.slices(image_slices(volume, grid, config)[:, 0].numpy())
        assert view.axes == axes
        assert (np.diff(shown, axis=row_or_column) > 0).all()


def grid(size):
    voxels = np.zeros((size, size, 3), np.float32)
    volume = Volume(path="a.nii", voxels=voxels, affine=np.diag([-1, -1, 9, 1]), header=None)
    return grid_of(volume, PreprocessConfig(size=size, spacing_mm=1))


def test_a_large_image_is_made_small_and_keeps_the_middle_of_its_mask():
    covered = [30 <= number < 41 for number in range(100)]
    view = View.of(grid(2 * MOST_PIXELS + 2), covered)
    numbers = np.arange(100)[view.first :: view.every]
    assert len(numbers) <= MOST_SLICES
    assert 35 in numbers
    array = np.zeros((100, 2 * MOST_PIXELS + 2, 2 * MOST_PIXELS + 2), np.uint8)
    array[35, 90:120, 60:120] = 3
    shown, labels = view.slices(array), view.labels(array)
    assert shown.shape == labels.shape == (len(numbers), 171, 171)
    at = list(numbers).index(35)
    assert (labels[at] == 3).sum() == (shown[at] == 3).sum() == 20 * 10
    assert (labels[at, 20:40, 30:40] == 3).all()  # rows are what was the width


def test_a_small_image_is_left_as_it_is():
    view = View.of(grid(32), [False] * 3)
    array = np.random.default_rng(0).integers(0, 255, (3, 32, 32)).astype(np.uint8)
    assert (view.slices(array) == array.swapaxes(1, 2)).all()
    assert (view.labels(array) == array.swapaxes(1, 2)).all()


def test_the_middle_is_that_of_the_mask():
    assert middle_of([False, True, True, True, False, False]) == 2
    assert middle_of([False] * 5) == 2


def test_the_crop_holds_all_masks_in_their_middle_and_stays_inside():
    masks = np.zeros((2, 3, 100, 100), np.uint8)
    masks[0, 1, 40:60, 50:60] = 1
    masks[1, 2, 40:60, 60:70] = 2
    assert crop_around(list(masks)) == (35, 45, 30)
    masks[1, 0, 99, 99] = 1
    row, column, side = crop_around(list(masks))
    assert row + side <= 100
    assert column + side <= 100
    assert row <= 40
    assert column <= 50
    assert crop_around([np.zeros((3, 100, 100), np.uint8)]) == (0, 0, 100)


def test_the_atlas_holds_every_slice_in_its_place():
    frames = np.arange(5)[:, None, None] * np.full((5, 16, 16), 50.0)
    text, across = atlas(frames)
    sheet = picture(text)[..., 0].astype(float)
    assert across == 3
    assert sheet.shape == (32, 48)
    for number in range(5):
        y, x = 16 * (number // across), 16 * (number % across)
        assert np.abs(sheet[y : y + 16, x : x + 16] - 50 * number).mean() < 4


def test_labels_come_back_as_they_were():
    labels = np.random.default_rng(0).integers(0, 4, (3, 8, 8)).astype(np.uint8)
    assert zlib.decompress(base64.b64decode(packed(labels))) == labels.tobytes()


def test_a_change_is_grey_about_the_middle():
    change = np.zeros((1, 100, 100))
    change[0, :50] = 3
    change[0, 50:, :50] = -1.5
    grey, most = grey_change(change)
    assert most == 3
    assert np.unique(grey).tolist() == [63.75, 127.5, 255]


def test_one_changed_pixel_is_seen_too():
    change = np.zeros((1, 100, 100))
    change[0, 5, 5] = 2
    grey, most = grey_change(change)
    assert (most, grey[0, 5, 5]) == (2, 255)


def test_a_thumbnail_has_the_outline_in_the_structures_colour():
    labels = np.zeros((64, 64), np.uint8)
    labels[20:40, 20:40] = 2
    image = np.full((64, 64), 128.0)
    colours = {1: "#0000ff", 2: "#ff0000"}
    drawn = picture(thumbnail(image, labels, (10, 10, 40), colours)).astype(int)
    red = (drawn[..., 0] - drawn[..., 2]) > 60
    scale = len(drawn) / 40
    rows, columns = (np.flatnonzero(red.any(axis=axis)) / scale for axis in (1, 0))
    assert rows.min() == pytest.approx(10, abs=1)
    assert rows.max() == pytest.approx(30, abs=1)
    assert columns.min() == pytest.approx(10, abs=1)
    assert not red[int(18 * scale) : int(22 * scale), int(18 * scale) : int(22 * scale)].any()
    assert not ((drawn[..., 2] - drawn[..., 0]) > 60).any()
