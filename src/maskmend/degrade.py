"""Simulated changes of scanner that networks are trained with: contrast, shading, blur and noise.

If asked for, of sequence as well (`maskmend.appearance`). Gibbs ringing, k-space spikes, ghosts
and a lower resolution are left out on purpose, so that they can be tested as shifts that nothing
was trained on (`experiments/shift`).

Axes: slice, 1, height, width.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.appearance import recoloured
from maskmend.config import DegradationConfig, PreprocessConfig
from maskmend.data.preprocess import standardise

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's imports speak of others' deprecations
    from monai.transforms.compose import Compose, OneOf
    from monai.transforms.intensity.array import (
        RandAdjustContrast,
        RandBiasField,
        RandGaussianSharpen,
        RandGaussianSmooth,
        RandHistogramShift,
        RandRicianNoise,
    )
    from monai.transforms.utility.array import Identity, RandLambda

Images = Float[Tensor, "slice 1 height width"]
Unit = Float[Tensor, "slice height width"]
"""Intensities from 0 to 1."""

_SQUEEZED = 4.0
"""Times an image's range that no scanner's change makes of it. A strong gamma can leave half of the
pixels nearly one grey value; standardised, others are then up to a hundred times as far away."""


def degrade(
    images: Images,
    config: DegradationConfig,
    preprocess: PreprocessConfig,
    rng: np.random.Generator,
) -> Images:
    """Degrade slices, each in its own way, and standardise them again.

    Args:
        images: Standardised slices.
        config: How many, and how far.
        preprocess: How slices are standardised.
        rng: The source of all randomness.
    """
    hit = rng.random(len(images)) < config.probability
    return torch.cat(
        [
            degrade_volume(one, config, preprocess, rng) if degraded else one
            for one, degraded in zip(images.split(1), hit, strict=True)
        ]
    )


def degrade_volume(
    slices: Images,
    config: DegradationConfig,
    preprocess: PreprocessConfig,
    rng: np.random.Generator,
) -> Images:
    """Degrade the slices of a volume, all in the same way but for the noise; see `degrade`.

    A change that leaves hardly any contrast is not made.
    """
    if config.appearance and rng.random() < config.appearance:
        other = changed(slices, partial(recoloured, rng=rng), preprocess)
        slices = slices if other is None else other

    def chained(unit: Unit) -> Unit:
        # MONAI's channels, which share every draw but the noise, are the slices.
        chain = _chain(config, slices.shape[-1])
        chain.set_random_state(seed=int(rng.integers(2**32)))
        return chain(unit)

    degraded = changed(slices, chained, preprocess)
    if degraded is None or degraded.abs().max() > _SQUEEZED * slices.abs().max():
        return slices
    return degraded


def changed(
    slices: Images, change: Callable[[Unit], Unit], preprocess: PreprocessConfig
) -> Images | None:
    """The slices of a volume with other intensities, standardised again.

    Args:
        slices: Standardised slices.
        change: Of the intensities.
        preprocess: How slices are standardised.

    Returns:
        Nothing if there was no contrast, or none is left.
    """
    low, high = slices.min(), slices.max()
    if low == high:
        return None
    made = np.asarray(change((slices[:, 0] - low) / (high - low)), dtype=np.float32)
    standard = standardise(made, preprocess.clip_percentiles)
    return None if standard is None else torch.from_numpy(standard)[:, None]


@cache
def _chain(config: DegradationConfig, side: int) -> Compose:
    blur = (config.blur[0] * side, config.blur[1] * side)
    return Compose(
        [
            RandAdjustContrast(prob=config.contrast, gamma=config.gamma),
            RandHistogramShift(prob=config.contrast / 2, num_control_points=(4, 8)),
            RandLambda(_inverted, prob=config.inversion),
            RandBiasField(prob=config.shading, degree=3, coeff_range=config.bias),
            OneOf(
                [
                    RandGaussianSmooth(prob=1, sigma_x=blur, sigma_y=blur),
                    RandGaussianSharpen(prob=1, alpha=config.sharpening),
                    Identity(),
                ],
                weights=[0.25, 0.15, 0.6],
            ),
            RandRicianNoise(prob=config.noise, std=config.noise_std, sample_std=True),
        ]
    )


def _inverted(unit: Unit) -> Unit:
    return unit.max() - unit
