"""Make-believe sequences: seeded, of rising severity, and what each is said to be."""

import dataclasses
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from experiments.shift.sequences import SEQUENCES, as_sequence
from experiments.shift.shifts import SEVERITIES, shifted
from maskmend.data.volume import Volume

RIGHT, MYOCARDIUM, LEFT = 1, 2, 3


def heart():
    """A ring about bright blood, a bright pool beside it, a grey body; three slices, and labels."""
    rows, columns = np.mgrid[:64, :64]
    radius = np.hypot(rows - 32, columns - 36)
    labels = np.zeros((64, 64), dtype=np.int64)
    labels[np.hypot(rows - 32, columns - 20) < 9] = RIGHT
    labels[radius < 13] = MYOCARDIUM
    labels[radius < 8] = LEFT
    image = np.array([0.4, 0.9, 0.3, 0.95])[labels] + 0.01 * np.random.default_rng(0).normal(
        size=labels.shape
    )
    image[:10] = 0.02
    image[54:] = 1.0
    stack = [torch.from_numpy(np.stack([one] * 3)) for one in (image.astype(np.float32), labels)]
    return stack[0], stack[1]


def means(name, severity, seed):
    image, labels = heart()
    made = as_sequence(image, labels, name, severity, np.random.default_rng(seed))
    return [float(made[labels == tissue].mean()) for tissue in (RIGHT, MYOCARDIUM, LEFT)]


@pytest.mark.parametrize("name", SEQUENCES)
def test_the_seed_decides_and_the_image_stays(name):
    image, labels = heart()
    before = image.clone()
    a, b, c = (as_sequence(image, labels, name, 3, np.random.default_rng(s)) for s in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert a.shape == image.shape
    assert a.dtype == torch.float32
    assert torch.equal(image, before)


@pytest.mark.parametrize("name", SEQUENCES)
def test_severities_rise(name):
    image, labels = heart()
    changes = [
        np.mean(
            [
                float((as_sequence(image, labels, name, k, np.random.default_rng(s)) - image).abs()
                      .mean())
                for s in range(4)
            ]
        )
        for k in SEVERITIES
    ]  # fmt: skip
    assert changes == sorted(changes)


@pytest.mark.parametrize(("name", "blood_is_darker"), [("t1", True), ("t2", True), ("lge", False)])
def test_blood_is_as_the_sequence_shows_it(name, blood_is_darker):
    for seed in range(5):
        right, myocardium, left = means(name, 3, seed)
        assert (right < myocardium) == blood_is_darker
        assert (left < myocardium) == blood_is_darker


def test_a_scar_is_a_part_of_the_myocardium():
    image, labels = heart()
    made = as_sequence(image, labels, "lge", 3, np.random.default_rng(0))
    ring = made[labels == MYOCARDIUM]
    bright = float((ring > ring.median() + 0.25).float().mean())
    assert 0.02 < bright < 0.45


def test_without_structures_a_slice_is_body_alone():
    image, labels = heart()
    for name in SEQUENCES:
        made = as_sequence(image, labels * 0, name, 3, np.random.default_rng(0))
        assert made.isfinite().all()
        assert not torch.allclose(made, image)


def test_a_volume_is_changed_on_its_own_grid():
    image, labels = heart()
    header = nib.Nifti1Header()
    volume, truth = (
        Volume(
            path=Path("case_frame01.nii.gz"),
            voxels=np.moveaxis(one.numpy(), 0, -1) * scale,
            affine=np.eye(4),
            header=header,
        )
        for one, scale in ((image, 700), (labels, 1))
    )
    changed = shifted(volume, "t2", 3, 0, truth)
    dark, bright = (changed.voxels[truth.voxels == k].mean() for k in (LEFT, MYOCARDIUM))
    assert dark < 0.7 * bright
    assert changed.voxels.shape == volume.voxels.shape
    assert changed.voxels.dtype == np.float32
    other = shifted(dataclasses.replace(volume, path=Path("other.nii.gz")), "t2", 3, 0, truth)
    assert not np.allclose(other.voxels, changed.voxels)
