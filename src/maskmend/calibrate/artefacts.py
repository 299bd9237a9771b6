"""Artefacts that no segmentor is trained with, so that a guard gets to know failures.

A segmentor that was trained with degradations hardly fails on more of these. It does on artefacts,
and then other masks are the better ones, which nothing but such images can teach. Students know one
of them, another appearance: there the guard learns to ask them. Those that are kept for tests
(`experiments/shift`) are none of them.

Axes: slice, 1, height, width; the slices of a volume are changed at the same places.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from maskmend.appearance import recoloured
from maskmend.config import PreprocessConfig
from maskmend.degrade import Images, Unit, changed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's imports speak of others' deprecations
    from monai.transforms.intensity.array import (
        GaussianSmooth,
        RandCoarseDropout,
        RandCoarseShuffle,
    )

_KERNEL = 5


Artefact = Callable[[Unit, np.random.Generator], Unit]


def spoil(
    images: Images, artefact: Artefact, preprocess: PreprocessConfig, rng: np.random.Generator
) -> Images:
    """The slices of a volume with an artefact, standardised again.

    Args:
        images: Standardised slices.
        artefact: One of `ARTEFACTS`.
        preprocess: How slices are standardised.
        rng: The source of all randomness.
    """
    spoilt = changed(images, lambda unit: artefact(unit, rng), preprocess)
    return images if spoilt is None else spoilt


def clouds(unit: Unit, rng: np.random.Generator) -> Unit:
    """Noise of any grain: Gaussian, smoothed over half a pixel to a fourteenth of the image."""
    width = float(np.exp(rng.uniform(np.log(0.5), np.log(unit.shape[-1] / 14))))
    white = torch.from_numpy(rng.normal(size=(1, *unit.shape[1:])).astype(np.float32))
    noise = torch.as_tensor(GaussianSmooth(sigma=width)(white))
    return unit + float(rng.uniform(0.05, 0.3)) * noise / noise.std()


def convolved(unit: Unit, rng: np.random.Generator) -> Unit:
    """Another texture: a random filter, mixed with the image (Xu et al., ICLR 2021)."""
    kernel = torch.from_numpy(rng.normal(size=(1, 1, _KERNEL, _KERNEL)).astype(np.float32))
    padded = functional.pad(unit[:, None], [_KERNEL // 2] * 4, mode="reflect")
    filtered = functional.conv2d(padded, kernel)[:, 0]
    low, high = filtered.min(), filtered.max()
    return torch.lerp(unit, (filtered - low) / (high - low), float(rng.uniform(0.3, 0.8)))


def holes(unit: Unit, rng: np.random.Generator) -> Unit:
    """Squares of mere noise."""
    sides = _squares(unit)
    transform = RandCoarseDropout(prob=1, holes=8, spatial_size=sides[0], max_spatial_size=sides[1])
    return _drawn(transform, unit, rng)


def shuffled(unit: Unit, rng: np.random.Generator) -> Unit:
    """Squares whose pixels have changed places."""
    sides = _squares(unit)
    transform = RandCoarseShuffle(
        prob=1, holes=8, max_holes=40, spatial_size=sides[0], max_spatial_size=sides[1]
    )
    return _drawn(transform, unit, rng)


ARTEFACTS: Sequence[Artefact] = (clouds, convolved, holes, shuffled, recoloured)


def _squares(unit: Unit) -> tuple[int, int]:
    """Sides of the smallest and the largest."""
    return max(1, unit.shape[-1] // 20), max(2, unit.shape[-1] // 8)


def _drawn(
    transform: RandCoarseDropout | RandCoarseShuffle, unit: Unit, rng: np.random.Generator
) -> Unit:
    transform.set_random_state(seed=int(rng.integers(2**32)))
    changed = transform(unit.clone())  # MONAI may write into what it is given
    return torch.tensor(np.asarray(changed), dtype=torch.float32)
