"""Each correction undoes what it is named after."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from maskmend.guard.corrections import (
    corrections,
    gamma,
    match_histogram,
    quantiles,
    smooth,
)


@pytest.fixture
def images():
    """Smooth structures, standardised."""
    noise = torch.randn(4, 1, 48, 48, generator=torch.Generator().manual_seed(0))
    images = smooth(noise, 3.0)
    low, middle, high = quantiles(images)[[25, 50, 75]]
    return (images - middle) / (high - low)


def test_quantiles_of_known_values():
    images = torch.arange(101.0).flip(0).view(1, 1, 101, 1)
    torch.testing.assert_close(quantiles(images), torch.arange(101.0))


def test_smooth_is_scipys_gaussian(images):
    ours = smooth(images, 1.2)
    theirs = ndimage.gaussian_filter(images.numpy(), (0, 0, 1.2, 1.2), mode="nearest", truncate=4)
    np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-5)


def test_any_monotone_change_of_contrast_is_undone_by_the_histogram(images):
    changed = (images.sigmoid() * 40) ** 2
    back = match_histogram(changed, quantiles(images))
    assert (back - images).abs().mean() < 0.02
    assert (changed - images).abs().mean() > 1


def test_a_histogram_of_clipped_values_stays_finite(images):
    back = match_histogram(images.clamp(-0.2, 0.2), quantiles(images))
    assert back.isfinite().all()
    assert back.min() >= images.min()


def test_a_gamma_is_undone_by_its_inverse(images):
    torch.testing.assert_close(gamma(gamma(images, 0.5), 2.0), images, atol=0.02, rtol=0)


def test_inversion_turns_bright_and_dark_around(images):
    inverted = corrections(quantiles(images))["invert"](-images)
    assert (inverted - images).abs().mean() < 0.02


def test_plain_inference_comes_first_and_changes_nothing(images):
    name, correction = next(iter(corrections(quantiles(images)).items()))
    assert name == "none"
    assert correction(images) is images


@pytest.mark.parametrize("name", list(corrections(torch.zeros(101))))
def test_shape_and_values_of_a_flat_image(name):
    """A slice without any contrast must not become nan."""
    flat = torch.zeros(2, 1, 20, 24)
    corrected = corrections(torch.linspace(-1, 2, 101))[name](flat)
    assert corrected.shape == flat.shape
    assert corrected.isfinite().all()
