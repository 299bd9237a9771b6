"""Artefacts: seeded, standardised, at the same places; each is what its name says."""

import numpy as np
import pytest
import torch

from maskmend.appearance import recoloured
from maskmend.calibrate.artefacts import ARTEFACTS, clouds, convolved, holes, shuffled, spoil
from maskmend.config import PreprocessConfig

PREPROCESS = PreprocessConfig(size=56, clip_percentiles=(5, 95))


@pytest.fixture
def unit():
    """Six equal slices: a bright disc on a dark ground."""
    rows, columns = np.mgrid[:56, :56] - 27.5
    disc = (np.hypot(rows, columns) < 15).astype(np.float32)
    return torch.from_numpy(disc).repeat(6, 1, 1)


def test_the_seed_decides(unit):
    a, b, c = (
        spoil(unit[:, None], clouds, PREPROCESS, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_each_changes_an_image_and_leaves_the_one_it_was_given(unit, artefact):
    before = unit.clone()
    spoilt = artefact(unit, np.random.default_rng(0))
    assert spoilt.shape == unit.shape
    assert spoilt.dtype == torch.float32
    assert (spoilt - unit).abs().mean() > 0.01
    assert torch.equal(unit, before)


@pytest.mark.parametrize("artefact", [clouds, convolved, recoloured])
def test_all_slices_are_changed_alike(unit, artefact):
    spoilt = artefact(unit, np.random.default_rng(0))
    torch.testing.assert_close(spoilt, spoilt[:1].expand_as(spoilt))


def test_holes_are_at_the_same_places_of_all_slices(unit):
    changed = holes(unit, np.random.default_rng(0)) != unit
    assert torch.equal(changed, changed[:1].expand_as(changed))
    assert 0.01 < changed.float().mean() < 0.5


def test_shuffled_squares_keep_their_pixels(unit):
    unit = unit + 0.01 * torch.arange(56.0)
    shuffled_ = shuffled(unit, np.random.default_rng(0))
    torch.testing.assert_close(shuffled_.flatten(1).sort(1)[0], unit.flatten(1).sort(1)[0])


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_spoilt_images_are_standardised(unit, artefact):
    for seed in range(4):
        spoilt = spoil(unit[:, None], artefact, PREPROCESS, np.random.default_rng(seed))
        assert spoilt.shape == unit[:, None].shape
        assert spoilt.isfinite().all()
        assert spoilt.median().abs() < 1e-3


def test_clouds_are_of_any_grain(unit):
    """Neighbouring pixels of the noise are hardly alike, or next to the same."""
    alike = []
    for seed in range(20):
        noise = (clouds(unit, np.random.default_rng(seed)) - unit)[0]
        pairs = torch.stack([noise[:, 1:].flatten(), noise[:, :-1].flatten()])
        alike.append(float(torch.corrcoef(pairs)[0, 1]))
    assert min(alike) < 0.6
    assert max(alike) > 0.95


def test_a_random_filter_leaves_flat_regions_flat(unit):
    filtered = convolved(unit, np.random.default_rng(0))[0]
    assert filtered[25:31, 25:31].std() < 1e-5
    assert filtered[:4, :4].std() < 1e-5


def test_a_flat_image_stays_as_it_is():
    flat = torch.zeros(2, 1, 56, 56)
    assert torch.equal(spoil(flat, clouds, PREPROCESS, np.random.default_rng(0)), flat)
