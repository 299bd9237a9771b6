"""Degraded slices: seeded, standardised, changed; the masks' place in them untouched."""

import numpy as np
import pytest
import torch

from maskmend.config import DegradationConfig, PreprocessConfig
from maskmend.degrade import degrade, degrade_volume

PREPROCESS = PreprocessConfig(size=32, clip_percentiles=(5, 95))
ALWAYS = DegradationConfig(probability=1)


@pytest.fixture
def slices():
    """A bright disc on a dark ground, with a little noise."""
    rows, columns = np.mgrid[:32, :32] - 15.5
    disc = (np.hypot(rows, columns) < 9) * 2.0
    noise = np.random.default_rng(0).normal(0, 0.05, (6, 1, 32, 32))
    return torch.from_numpy((disc + noise).astype(np.float32))


def test_the_seed_decides(slices):
    a, b, c = (degrade(slices, ALWAYS, PREPROCESS, np.random.default_rng(s)) for s in (1, 1, 2))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


def test_probability_is_the_share_that_changes(slices):
    many = slices.repeat(40, 1, 1, 1)
    config = DegradationConfig(probability=0.3)
    degraded = degrade(many, config, PREPROCESS, np.random.default_rng(0))
    changed = (degraded != many).flatten(1).any(1).float().mean()
    assert 0.2 < changed < 0.4
    none = degrade(many, DegradationConfig(), PREPROCESS, np.random.default_rng(0))
    assert torch.equal(none, many)


def test_a_volume_is_standardised_again(slices):
    for seed in range(10):
        volume = degrade_volume(slices, ALWAYS, PREPROCESS, np.random.default_rng(seed))
        assert volume.shape == slices.shape
        assert volume.median().abs() < 1e-3
        assert volume.isfinite().all()


def test_slices_of_a_volume_are_changed_alike(slices):
    """Without noise, equal slices stay equal."""
    equal = slices[:1].repeat(6, 1, 1, 1)
    config = DegradationConfig(probability=1, noise=0)
    volume = degrade_volume(equal, config, PREPROCESS, np.random.default_rng(3))
    assert (volume - volume[:1]).abs().max() < 1e-5
    assert (volume - equal).abs().max() > 1e-3


@pytest.mark.parametrize(
    "only",
    [
        {"contrast": 1},
        {"inversion": 1},
        {"shading": 1, "bias": (0.3, 0.4)},
        {"noise": 1, "noise_std": 0.3},
    ],
)
def test_each_family_alone_changes_images(slices, only):
    off = {"contrast": 0, "inversion": 0, "shading": 0, "noise": 0}
    config = DegradationConfig(probability=1, **{**off, **only})
    degraded = degrade_volume(slices, config, PREPROCESS, np.random.default_rng(0))
    assert (degraded - slices).abs().mean() > 0.01


def test_flat_slices_stay_as_they_are():
    flat = torch.zeros(2, 1, 16, 16)
    assert torch.equal(degrade(flat, ALWAYS, PREPROCESS, np.random.default_rng(0)), flat)


@pytest.mark.parametrize(("gamma", "refused"), [((4.0, 4.1), True), ((1.0, 1.3), False)])
def test_a_change_that_leaves_hardly_any_contrast_is_not_made(gamma, refused):
    """Raised to the fourth power, the ground beside a bright square is nearly one grey value."""
    shaded = torch.linspace(0, 1, 32).expand(6, 1, 32, 32).clone()
    shaded[..., 8:18, 8:18] = 2
    off = {"inversion": 0, "shading": 0, "noise": 0}
    config = DegradationConfig(probability=1, contrast=1, gamma=gamma, **off)
    made = [
        degrade_volume(shaded, config, PREPROCESS, np.random.default_rng(seed))
        for seed in range(20)
    ]
    assert max(one.abs().max() for one in made) <= 4 * shaded.abs().max()
    assert any(torch.equal(one, shaded) for one in made) == refused
