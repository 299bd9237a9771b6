"""Standardised intensities, and the way to the slices and back for all kinds of geometry."""

import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from maskmend.config import PreprocessConfig
from maskmend.data.preprocess import (
    grid_of,
    image_slices,
    labels_on_grid,
    mask_slices,
    touches_crop,
)
from maskmend.data.volume import Volume
from maskmend.errors import InputError

CLASSES = 4


def rotation(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    about_z = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return about_z @ about_x


def volume(voxels, spacing=(1.5, 1.5, 8), directions=None):
    affine = np.eye(4)
    affine[:3, :3] = (np.eye(3) if directions is None else directions) * spacing
    affine[:3, 3] = -31.5, 12.25, 7
    return Volume(path=Path("case.nii.gz"), voxels=voxels, affine=affine, header=nib.Nifti1Header())


def reoriented(original, codes):
    """The same volume with its axes turned, voxels and affine alike."""
    image = nib.Nifti1Image(original.voxels, original.affine)
    wanted = nib.orientations.axcodes2ornt(tuple(codes))
    change = nib.orientations.ornt_transform(nib.io_orientation(original.affine), wanted)
    turned = image.as_reoriented(change)
    return replace(original, voxels=np.asarray(turned.dataobj), affine=turned.affine)


def blobs(shape=(64, 56, 5), seed=0):
    """An off-centre ring around a disc beside a crescent, on every slice a little elsewhere."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    x, y = np.mgrid[: shape[0], : shape[1]]
    for z in range(shape[2]):
        at = np.array(shape[:2]) * (0.45, 0.55) + rng.uniform(-3, 3, 2)
        radius = np.hypot(x - at[0], y - at[1])
        labels[..., z][(np.hypot(x - at[0] - 9, y - at[1]) < 11)] = 1
        labels[..., z][radius < 14] = 2
        labels[..., z][radius < 8.5] = 3
    return labels


def dice(a, b):
    return 2 * np.sum(a & b) / (np.sum(a) + np.sum(b))


def there_and_back(mask, config):
    grid = grid_of(mask, config)
    slices = mask_slices(mask, grid, CLASSES)
    probabilities = functional.one_hot(slices.long(), CLASSES).permute(0, 3, 1, 2).float()
    return labels_on_grid(probabilities, grid)


def image_of(shape=(64, 56, 5), seed=0):
    noise = np.random.default_rng(seed).gamma(2, 100, size=shape)
    return (noise + 50 * blobs(shape)).astype(np.float32)


CONFIG = PreprocessConfig(spacing_mm=1.2, size=96)


def test_median_0_and_iqr_1():
    image = volume(image_of())
    # One pixel for one pixel, so that the slices hold the volume's own values.
    config = PreprocessConfig(spacing_mm=1.5, size=64)
    slices = image_slices(image, grid_of(image, config), config)
    assert slices.shape == (5, 1, 64, 64)
    inside = slices[:, 0, :, 4:-4].numpy()  # 56 wide, padded by 4 at either side
    low, median, high = np.percentile(inside, [25, 50, 75])
    assert median == pytest.approx(0, abs=1e-4)
    assert high - low == pytest.approx(1, abs=1e-4)


def test_units_of_intensity_do_not_matter():
    image = volume(image_of())
    other = replace(image, voxels=7 * image.voxels - 300)
    grid = grid_of(image, CONFIG)
    torch.testing.assert_close(
        image_slices(image, grid, CONFIG), image_slices(other, grid, CONFIG), atol=1e-3, rtol=1e-3
    )


def test_clipping_takes_the_volumes_percentiles():
    image = volume(image_of())
    image.voxels[3, 3, 3] = 1e6
    config = PreprocessConfig(spacing_mm=1.5, size=64, clip_percentiles=(5, 95))
    low, q1, median, q3, high = np.percentile(image.voxels, [5, 25, 50, 75, 95])
    slices = image_slices(image, grid_of(image, config), config)
    assert slices.max().item() == pytest.approx((high - median) / (q3 - q1), rel=1e-3)
    assert slices.min().item() == pytest.approx((low - median) / (q3 - q1), rel=1e-3)


def test_a_mostly_empty_image_falls_back_to_its_standard_deviation():
    voxels = np.zeros((32, 32, 3), np.float32)
    voxels[10:14, 10:14] = 100
    image = volume(voxels)
    config = PreprocessConfig(spacing_mm=1.5, size=32)
    slices = image_slices(image, grid_of(image, config), config)
    assert slices.max().item() == pytest.approx(100 / voxels.std(), rel=1e-3)
    with pytest.raises(InputError, match=r"clip_percentiles"):
        image_slices(image, grid_of(image, config), replace(config, clip_percentiles=(1, 90)))


def test_images_are_padded_with_their_edge_and_masks_with_background():
    image, mask = volume(image_of() * 0 + np.arange(64)[:, None, None]), volume(blobs())
    config = PreprocessConfig(spacing_mm=1.5, size=128)
    grid = grid_of(image, config)
    slices = image_slices(replace(image, voxels=image.voxels.astype(np.float32)), grid, config)
    values = np.percentile(image.voxels, [0, 25, 50, 75, 100])
    for extreme, value in ((slices.min(), values[0]), (slices.max(), values[-1])):
        expected = (value - values[2]) / (values[3] - values[1])
        assert extreme.item() == pytest.approx(expected, rel=1e-3)
    assert len(slices[:, :, :, :30].unique()) < slices.shape[2] + 70  # nothing blends with zeros
    labels = mask_slices(mask, grid, CLASSES)
    assert not labels[:, :20].any()
    assert not labels[:, :, :20].any()


GEOMETRIES = {
    "anisotropic": ((64, 56, 5), (1.5, 1.5, 8), np.eye(3)),
    "oblique": ((64, 56, 5), (1.4, 1.6, 8), rotation(25)),
    "flipped": ((64, 56, 5), (1.4, 1.6, 8), rotation(25) @ np.diag([-1, 1, 1])),
    "odd": ((63, 57, 4), (1.37, 1.37, 10), np.diag([-1, -1, 1])),
    "two-dimensional": ((64, 56, 1), (1.5, 1.5, 1.0), np.eye(3)),
    "sagittal": ((64, 56, 5), (1.5, 1.5, 8), np.eye(3)[:, [1, 2, 0]]),
}


@pytest.mark.parametrize("spacing_mm", [0.9, 1.5, 1.8])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_labels_come_back(geometry, spacing_mm):
    shape, spacing, directions = GEOMETRIES[geometry]
    mask = volume(blobs(shape), spacing, directions)
    back = there_and_back(mask, PreprocessConfig(spacing_mm=spacing_mm, size=128))
    assert back.shape == shape
    assert back.dtype == np.uint8
    assert dice(back > 0, mask.voxels > 0) > 0.97
    # Thin parts lose more where pixels get coarser.
    assert all(dice(back == c, mask.voxels == c) > 0.94 for c in (1, 2, 3))


@given(
    seed=st.integers(0, 2**32),
    degrees=st.floats(-40, 40),
    codes=st.permutations([0, 1, 2]),
    flips=st.tuples(*[st.booleans()] * 3),
    spacing=st.tuples(st.floats(1, 1.6), st.floats(1, 1.6), st.floats(3, 10)),
)
@settings(max_examples=25, deadline=None)
def test_labels_come_back_from_any_orientation(seed, degrees, codes, flips, spacing):
    names = ["".join("LRPASI"[2 * axis + flip] for axis, flip in zip(codes, flips, strict=True))]
    straight = volume(blobs(seed=seed), spacing, rotation(degrees / 2))
    mask = reoriented(straight, names[0])
    back = there_and_back(mask, PreprocessConfig(spacing_mm=1.2, size=128))
    assert back.shape == mask.voxels.shape
    assert dice(back > 0, mask.voxels > 0) > 0.97


@pytest.mark.parametrize("codes", ["LPS", "RAS", "LAS", "PLS", "SAR", "PSR", "IPR"])
def test_a_turned_copy_of_a_file_gives_the_same_slices(codes):
    image, mask = volume(image_of(), (1.4, 1.6, 8)), volume(blobs(), (1.4, 1.6, 8))
    turned_image, turned_mask = reoriented(image, codes), reoriented(mask, codes)
    grid, turned_grid = grid_of(image, CONFIG), grid_of(turned_image, CONFIG)
    torch.testing.assert_close(
        image_slices(turned_image, turned_grid, CONFIG),
        image_slices(image, grid, CONFIG),
        atol=1e-4,
        rtol=1e-4,
    )
    slices = mask_slices(mask, grid, CLASSES)
    assert torch.equal(mask_slices(turned_mask, turned_grid, CLASSES), slices)
    assert not torch.equal(slices, slices.flip(2))


@pytest.mark.parametrize("about_feet", [35, 55])
@pytest.mark.parametrize("tilt", [20, 50])
def test_short_axis_slices_lie_as_those_of_headers_that_call_them_axial(about_feet, tilt):
    """Some public files say so of short axes, where scanners' own say what is true."""
    angle, tip = np.radians([about_feet, tilt])
    rows = np.array([np.cos(angle), np.sin(angle), 0])  # to the left and back: from RV to LV
    apex = np.array([np.sin(angle) * np.cos(tip), -np.cos(angle) * np.cos(tip), -np.sin(tip)])
    columns = -np.cross(apex, rows)
    assert columns.argmin() == 2  # down
    left_posterior_superior = np.diag([-1, -1, 1])
    directions = np.column_stack([rows, columns, apex])
    true = volume(image_of(), directions=left_posterior_superior @ directions)
    called_axial = volume(image_of(), directions=left_posterior_superior)
    slices, expected = (
        image_slices(one, grid_of(one, CONFIG), CONFIG) for one in (true, called_axial)
    )
    # Which end of the stack is first tells no slice from another.
    expected = min((expected, expected.flip(0)), key=lambda one: float((slices - one).abs().max()))
    torch.testing.assert_close(slices, expected, atol=1e-4, rtol=1e-4)


def test_pixels_are_square_and_sizes_true_in_mm():
    # A disc of 20 mm on pixels of 1.25 x 2 mm.
    x, y = np.mgrid[:96, :60]
    disc = np.hypot((x - 47.5) * 1.25, (y - 29.5) * 2) < 20
    mask = volume(np.repeat(disc[..., None], 2, axis=2).astype(np.uint8), (1.25, 2, 8))
    config = PreprocessConfig(spacing_mm=0.8, size=128)
    one = mask_slices(mask, grid_of(mask, config), 2)[0].numpy()
    assert one.sum() * 0.8**2 == pytest.approx(np.pi * 20**2, rel=0.03)
    rows, columns = (np.flatnonzero(one.any(axis=axis)) for axis in (1, 0))
    assert len(rows) * 0.8 == pytest.approx(40, abs=2.5)
    assert len(columns) * 0.8 == pytest.approx(40, abs=2.5)
    assert [rows.mean(), columns.mean()] == pytest.approx([63.5, 63.5], abs=0.6)


def test_which_axis_runs_through_the_slices():
    voxels = blobs((40, 42, 44))
    assert grid_of(volume(voxels, (8, 1, 1)), CONFIG).shape[0] == 40
    assert grid_of(volume(voxels, (1, 1, 1)), CONFIG).shape[0] == 44
    across = np.eye(3)[:, [2, 0, 1]]  # x runs to the head
    assert grid_of(volume(voxels, (1, 1, 1), directions=across), CONFIG).shape[0] == 40
    assert grid_of(volume(voxels, (1, 1, 2), directions=across), CONFIG).shape[0] == 44
    forced = replace(CONFIG, slice_axis=1)
    assert grid_of(volume(voxels, (8, 1, 1)), forced).shape[0] == 42
    flat = volume(voxels[:, :, :1], (8, 1, 1))
    assert grid_of(flat, CONFIG).shape[0] == 1


@given(
    corner=st.tuples(st.integers(0, 56), st.integers(0, 48)),
    spacing_mm=st.floats(0.8, 2),
)
@settings(max_examples=40, deadline=None)
def test_a_crop_that_would_cut_names_a_size_that_works(corner, spacing_mm):
    voxels = np.zeros((64, 56, 3), np.uint8)
    voxels[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = 1
    mask = volume(voxels)
    config = PreprocessConfig(spacing_mm=spacing_mm, size=32)
    try:
        back = there_and_back(mask, config)
    except InputError as error:
        message = str(error)
        assert "\n" not in message
        assert message.startswith("case.nii.gz: ")
        size = int(re.search(r"set preprocess\.size to (\d+)", message)[1])
        assert size > 32
        back = there_and_back(mask, replace(config, size=size))
    assert dice(back > 0, voxels > 0) > 0.65  # a pixel at each border may go


def test_a_structure_in_a_corner_needs_a_larger_crop():
    voxels = np.zeros((64, 56, 3), np.uint8)
    voxels[:6, :6, 1] = 1
    mask = volume(voxels)
    config = PreprocessConfig(spacing_mm=1.5, size=48)
    with pytest.raises(InputError, match=r"preprocess\.size to 64 or more"):
        mask_slices(mask, grid_of(mask, config), CLASSES)


def test_outside_the_crop_is_background():
    mask = volume(blobs())
    grid = grid_of(mask, PreprocessConfig(spacing_mm=1.5, size=16))
    everywhere = torch.zeros(5, CLASSES, 16, 16)
    everywhere[:, 2] = 1
    labels = labels_on_grid(everywhere, grid)
    assert set(np.unique(labels)) == {0, 2}
    assert (labels == 2).sum(axis=(0, 1)).tolist() == [256] * 5


def test_touches_crop():
    mask = volume(blobs())  # 96 x 84 mm
    smaller = grid_of(mask, PreprocessConfig(spacing_mm=1.5, size=32))
    larger = grid_of(mask, PreprocessConfig(spacing_mm=1.5, size=96))
    inside = np.zeros((5, 32, 32), np.uint8)
    assert not touches_crop(inside, smaller)
    inside[1:3, 8:20, 8:20] = 1
    assert not touches_crop(inside, smaller)
    speck = inside.copy()
    speck[4, 0, 0] = 1
    assert not touches_crop(speck, smaller)
    for side in (np.s_[1, :10, 10], np.s_[1, 18:, 10], np.s_[1, 10, :10], np.s_[1, 10, 18:]):
        cut = inside.copy()
        cut[side] = 2
        assert touches_crop(cut, smaller)
    padded = np.zeros((5, 96, 96), np.uint8)
    padded[:, 0:40, 40] = 1
    assert not touches_crop(padded, larger)  # nothing lies beyond the padding


def test_touches_crop_looks_at_each_axis_alone():
    # The crop is 60 mm high and wide, the slice 96 x 48 mm or the other way round.
    grid = grid_of(volume(np.zeros((64, 32, 2))), PreprocessConfig(spacing_mm=1.5, size=40))
    long = int(np.argmax(grid.shape[1:]))
    for axis in (0, 1):
        labels = np.zeros((2, 40, 40), np.uint8)
        labels[(slice(None), *((slice(0, 9), 20) if axis == 0 else (20, slice(0, 9))))] = 1
        assert touches_crop(labels, grid) is (axis == long)
