"""Other appearances: seeded, the same of all slices, and more than any tone curve."""

import numpy as np
import pytest
import torch

from maskmend.appearance import recoloured
from maskmend.config import DegradationConfig, PreprocessConfig
from maskmend.degrade import degrade_volume

PREPROCESS = PreprocessConfig(size=32, clip_percentiles=(5, 95))


@pytest.fixture
def unit():
    """Six slices of a disc, a square and a ramp beside them."""
    rows, columns = np.mgrid[:32, :32]
    image = 0.02 * columns
    image[np.hypot(rows - 10, columns - 10) < 6] = 0.9
    image[20:28, 4:12] = 0.5
    moved = [np.roll(image, shift, axis=0) for shift in range(6)]
    return torch.from_numpy(np.stack(moved).astype(np.float32))


def test_the_seed_decides_and_the_image_stays(unit):
    before = unit.clone()
    a, b, c = (recoloured(unit, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.allclose(a, c)
    assert torch.equal(unit, before)


def test_it_does_not_depend_on_brightness_and_contrast(unit):
    one, other = (recoloured(k * unit + 3 * k, np.random.default_rng(0)) for k in (1, 50))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert abs(float(one.mean())) < 1e-4
    assert float(one.std()) == pytest.approx(1, abs=1e-3)


def test_slices_are_recoloured_alike(unit):
    equal = unit[:1].repeat(6, 1, 1)
    made = recoloured(equal, np.random.default_rng(4))
    torch.testing.assert_close(made, made[:1].expand_as(made))


def test_some_exchange_bright_and_dark_and_some_keep_them(unit):
    """Over many draws the disc is brighter than the square, and darker."""
    disc, square = (0, 10, 10), (0, 24, 8)
    made = [recoloured(unit, np.random.default_rng(seed)) for seed in range(40)]
    brighter = np.mean([bool(one[disc] > one[square]) for one in made])
    assert 0.2 < brighter < 0.95


def test_a_flat_image_stays_flat():
    made = recoloured(torch.full((2, 16, 16), 7.0), np.random.default_rng(0))
    assert made.isfinite().all()
    assert float(made.std()) < 1e-3


def test_degraded_volumes_have_other_appearances_only_if_asked(unit):
    off = {"contrast": 0, "inversion": 0, "shading": 0, "noise": 0}
    slices = unit[:, None]

    def ranks(config):
        volume = degrade_volume(slices, config, PREPROCESS, np.random.default_rng(0))
        return volume.flatten().argsort().argsort().double()

    plain = slices.flatten().argsort().argsort().double()
    without, asked = (ranks(DegradationConfig(appearance=share, **off)) for share in (0, 1))
    alike = [float(torch.corrcoef(torch.stack([plain, one]))[0, 1]) for one in (without, asked)]
    assert alike[0] > 0.9
    assert alike[1] < 0.9
