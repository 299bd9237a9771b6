"""Procedural MRI scanners: from the tissues of a heart to an image of it.

Two scanners see the same anatomy differently, which makes a domain shift with known truth.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from maskmend.data.anatomy import Tissue
from maskmend.data.painting import pixel_means, smooth_field

_TEXTURE_MM = 4.0


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How an acquisition looks."""

    contrast: Mapping[Tissue, float]
    """Mean intensity of each tissue."""
    contrast_jitter: float
    """Relative standard deviation of the contrast from scan to scan, for each tissue."""
    texture: float
    """Relative standard deviation of the intensity inside a tissue."""
    bias: float
    """Standard deviation of the bias field's logarithm."""
    blur_mm: float
    """Standard deviation of the Gaussian point spread in a slice."""
    noise: float
    """Standard deviation of the complex noise, in units of the contrast."""


SCANNER_A = Scanner(
    contrast={
        Tissue.AIR: 0,
        Tissue.LUNG: 45,
        Tissue.FAT: 230,
        Tissue.MUSCLE: 110,
        Tissue.BONE: 150,
        Tissue.LIVER: 130,
        Tissue.STOMACH: 190,
        Tissue.BLOOD: 300,
        Tissue.MYOCARDIUM: 115,
    },
    contrast_jitter=0.08,
    texture=0.08,
    bias=0.15,
    blur_mm=1.5,
    noise=12,
)
"""Bright blood on dark muscle, as in balanced steady-state sequences."""

SCANNER_B = Scanner(
    contrast={
        Tissue.AIR: 0,
        Tissue.LUNG: 70,
        Tissue.FAT: 330,
        Tissue.MUSCLE: 140,
        Tissue.BONE: 120,
        Tissue.LIVER: 200,
        Tissue.STOMACH: 140,
        Tissue.BLOOD: 260,
        Tissue.MYOCARDIUM: 150,
    },
    contrast_jitter=0.08,
    texture=0.1,
    bias=0.3,
    blur_mm=2.6,
    noise=22,
)
"""Another hospital's: weaker contrast, bright fat and liver, more of every artefact."""


def acquire(
    tissues: np.ndarray, scanner: Scanner, rng: np.random.Generator, *, spacing_mm: float
) -> np.ndarray:
    """Scan an anatomy.

    Args:
        tissues: Array [slice, row, column] of `paint`.
        scanner: What scans it.
        rng: Draws the scan's contrast, texture, bias field and noise.
        spacing_mm: Distance of rows and of columns.

    Returns:
        The magnitude image [slice, row, column], int16, not negative.
    """
    in_plane = (0, 1 / spacing_mm, 1 / spacing_mm)
    contrast = np.array([scanner.contrast[tissue] for tissue in Tissue])
    contrast = contrast * (1 + scanner.contrast_jitter * rng.standard_normal(contrast.shape))
    signal = pixel_means(contrast.astype(np.float32)[tissues])

    texture = ndimage.gaussian_filter(
        rng.standard_normal(signal.shape, np.float32), [_TEXTURE_MM / 2 * s for s in in_plane]
    )
    signal *= 1 + scanner.texture / texture.std() * texture
    bias = smooth_field(rng.standard_normal((3, 3)), signal.shape[1:])
    signal *= np.exp(scanner.bias * (bias - bias.mean()) / bias.std())
    signal = ndimage.gaussian_filter(signal, [scanner.blur_mm * s for s in in_plane])

    # The magnitude of a complex signal with Gaussian noise is Rician.
    real, imaginary = scanner.noise * rng.standard_normal((2, *signal.shape), np.float32)
    return np.hypot(signal + real, imaginary).round().astype(np.int16)
