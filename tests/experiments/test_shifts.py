"""Simulated changes of scanner: seeded, of rising severity, and each of its own kind."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from experiments.shift.shifts import FAMILIES, HEADER, SEVERITIES, UNSEEN, shifted
from maskmend.config import PreprocessConfig
from maskmend.data.preprocess import grid_of, image_slices
from maskmend.data.volume import Volume


@pytest.fixture
def volume():
    """A bright ring on a textured ground, four slices."""
    rows, columns = np.mgrid[:96, :80]
    radius = np.hypot(rows - 48, columns - 40)
    ring = 300.0 * (radius < 25) - 200.0 * ((radius > 12) & (radius < 20)) + 60 * (radius < 44)
    ground = 20 + 10 * np.sin(rows / 5) * np.cos(columns / 7)
    voxels = np.repeat((ring + ground)[..., None], 4, axis=2).astype(np.float32)
    header = nib.Nifti1Header()
    return Volume(path=Path("case_frame01.nii.gz"), voxels=voxels, affine=np.eye(4), header=header)


def distance(a, b):
    return float(np.abs(a.voxels - b.voxels).mean())


@pytest.mark.parametrize("family", FAMILIES)
def test_the_seed_and_the_name_decide(volume, family):
    first, again = (shifted(volume, family, 2, seed=0) for _ in range(2))
    np.testing.assert_array_equal(first.voxels, again.voxels)
    assert first.voxels.shape == volume.voxels.shape
    assert first.voxels.dtype == np.float32
    assert np.isfinite(first.voxels).all()
    assert first.path == volume.path
    assert distance(first, volume) > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_severities_rise(volume, family):
    """On the mean of some draws, for direction and place are drawn too."""
    means = [
        np.mean([distance(shifted(volume, family, s, seed), volume) for seed in range(6)])
        for s in SEVERITIES
    ]
    assert means[0] < means[2]
    assert means == sorted(means) or family in ("gamma", "mix")


def test_blur_lowers_gradients_and_noise_raises_them(volume):
    def roughness(v):
        return np.abs(np.diff(v.voxels, axis=0)).mean()

    plain = roughness(volume)
    for family in ("blur", "lowres"):
        assert roughness(shifted(volume, family, 3, 0)) < 0.7 * plain
    for family in ("noise", "spikes"):
        assert roughness(shifted(volume, family, 3, 0)) > 1.2 * plain


def test_a_gamma_keeps_the_order_of_intensities(volume):
    changed = shifted(volume, "gamma", 2, 0).voxels.ravel()
    order = np.argsort(volume.voxels.ravel(), kind="stable")
    assert (np.diff(changed[order]) > -1e-3).all()


def test_what_nothing_is_trained_on_is_not_among_the_degradations():
    import maskmend.degrade as degrade

    assert set(UNSEEN) < set(FAMILIES)
    for word in ("Gibbs", "KSpace", "Ghost", "LowRes", "Zoom"):
        assert not [name for name in vars(degrade) if word in name]


def test_a_header_that_lies_turns_what_networks_see(volume):
    config = PreprocessConfig(size=96, spacing_mm=1.0, slice_axis=2)
    volume.voxels[10:30, 20:40] = 400  # alike in no other way

    def seen(image):
        return image_slices(image, grid_of(image, config), config)

    upright = seen(volume)
    lies = [shifted(volume, HEADER, severity, seed=0) for severity in SEVERITIES]
    for one in lies:
        np.testing.assert_array_equal(one.voxels, volume.voxels)
    mirrored, turned, swapped = (seen(one) for one in lies)
    for made, expected in ((mirrored, upright.flip(-2)), (turned, upright.flip(-2, -1))):
        np.testing.assert_allclose(made, expected, atol=1e-4)
    np.testing.assert_allclose(swapped, upright.mT, atol=1e-4)
