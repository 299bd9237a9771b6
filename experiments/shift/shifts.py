"""Simulated changes of scanner for tests, in three severities, made with MONAI and seeded.

Axes of an image: the slices first, as MONAI's channels, so that all slices of a volume are changed
in the same way but for the noise; then height and width. Intensities run from 0 to about 1.
"""

import dataclasses
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from experiments.shift.sequences import SEQUENCES, as_sequence
from maskmend.data.volume import Volume

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's imports speak of others' deprecations
    from monai.transforms.intensity.array import (
        AdjustContrast,
        GaussianSmooth,
        GibbsNoise,
        KSpaceSpikeNoise,
        RandBiasField,
        RandRicianNoise,
    )
    from monai.transforms.spatial.array import Zoom

Image = Float[Tensor, "slice height width"]

UNSEEN = ("gibbs", "spikes", "ghosts", "lowres")
"""Families that nothing is trained or calibrated on."""
SEVERITIES = (1, 2, 3)
SCANNER = "3T"
"""The real shift: trained on patients of 1.5 T scanners, tested on those of 3 T."""
HEADER = "header"
"""No change of the image: its header lies, so that networks see it mirrored (severity 1), turned by
half (2), or its rows as columns (3)."""


def bias(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A coil's shading: the exponential of a random cubic polynomial."""
    strength = (0.6, 1.2, 1.8)[severity - 1]
    field = RandBiasField(prob=1, degree=3, coeff_range=(strength, strength))
    field.set_random_state(seed=int(rng.integers(2**32)))
    # MONAI's coefficients are of one sign: the same corner would always be the brightest.
    flips = [axis for axis in (1, 2) if rng.random() < 0.5]
    return field(image.flip(flips)).flip(flips)


def gamma(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Another contrast: darker or brighter middle grey."""
    exponent = (1.5, 2.2, 3.2)[severity - 1]
    return AdjustContrast(exponent if rng.random() < 0.5 else 1 / exponent)(image)


def noise(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Rician noise."""
    transform = RandRicianNoise(prob=1, std=(0.06, 0.12, 0.2)[severity - 1], sample_std=False)
    transform.set_random_state(seed=int(rng.integers(2**32)))
    return transform(image)


def blur(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """A wider point spread: Gaussian, in pixels of the scan."""
    return GaussianSmooth(sigma=(2.0, 3.5, 5.0)[severity - 1])(image)


def gibbs(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Ringing at edges: the outer part of k-space is missing."""
    return GibbsNoise(alpha=(0.8, 0.88, 0.93)[severity - 1])(image)


def spikes(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Stripes: one point of k-space, drawn near the centre, is far too strong."""
    height, width = image.shape[1:]
    radius, angle = rng.uniform(0.05, 0.12), rng.uniform(0, np.pi)
    at = (
        int(height / 2 + radius * height * np.sin(angle)),
        int(width / 2 + radius * width * np.cos(angle)),
    )
    spectrum = torch.fft.fftn(image, dim=(1, 2)).abs().amax((1, 2)).log()
    share = (0.3, 0.6, 1.0)[severity - 1]  # of the mean intensity: the centre of k-space
    stripes = KSpaceSpikeNoise(loc=at, k_intensity=float(spectrum.mean() + np.log(share)))
    return torch.cat([torch.as_tensor(stripes(one[None])) for one in image])


def ghosts(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Breathing: every few lines of k-space are weaker, which repeats the body along an axis."""
    period, axis = int(rng.integers(2, 4)), int(rng.integers(1, 3))
    lines = torch.ones(image.shape[axis])
    lines[::period] = 1 - (0.5, 0.8, 1.0)[severity - 1]
    lines[0] = 1  # the mean stays
    shape = [1, -1, 1] if axis == 1 else [1, 1, -1]
    return torch.fft.ifft2(torch.fft.fft2(image) * lines.view(shape)).abs()


def lowres(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Fewer pixels: down by a factor and up again."""
    factor = (4, 6, 8)[severity - 1]
    small = Zoom(1 / factor, mode="area", keep_size=False)(image)
    grown = torch.nn.functional.interpolate(
        torch.as_tensor(small)[None], image.shape[1:], mode="bicubic"
    )[0]
    return grown.clamp(min=0)


def mix(image: Image, severity: int, rng: np.random.Generator) -> Image:
    """Shading, contrast and noise at once, each a severity milder but the first."""
    for change in (bias, gamma, noise):
        image = change(image, max(1, severity - 1), rng)
    return image


FAMILIES: dict[str, Callable[[Image, int, np.random.Generator], Image]] = {
    "bias": bias,
    "gamma": gamma,
    "noise": noise,
    "blur": blur,
    "gibbs": gibbs,
    "spikes": spikes,
    "ghosts": ghosts,
    "lowres": lowres,
    "mix": mix,
}


_LIES = (
    np.diag([-1.0, 1, 1, 1]),
    np.diag([-1.0, -1, 1, 1]),
    np.eye(4)[[1, 0, 2, 3]],
)


def shifted(
    volume: Volume, family: str, severity: int, seed: int, truth: Volume | None = None
) -> Volume:
    """The image of a volume as if it came from another scanner, or were of another sequence.

    Args:
        volume: An image whose last axis runs through the slices.
        family: One of `FAMILIES` or `SEQUENCES`, or `HEADER`.
        severity: 1, 2 or 3.
        seed: With the volume's name the source of all randomness.
        truth: The true mask, which sequences need.
    """
    if family == HEADER:
        return dataclasses.replace(volume, affine=volume.affine @ _LIES[severity - 1])
    rng = np.random.default_rng([seed, severity, *family.encode(), *volume.name.encode()])
    voxels = _slices_first(volume).astype(np.float32)
    top = np.percentile(voxels, 99.5)
    image = torch.from_numpy(voxels / top)
    if family in SEQUENCES:
        assert truth is not None
        labels = torch.from_numpy(_slices_first(truth).astype(np.int64))
        changed = as_sequence(image, labels, family, severity, rng).numpy()
    else:
        changed = torch.as_tensor(FAMILIES[family](image, severity, rng)).float().numpy()
    return dataclasses.replace(
        volume, voxels=np.ascontiguousarray(np.moveaxis(changed * top, 0, -1))
    )


def _slices_first(volume: Volume) -> np.ndarray:
    return np.moveaxis(np.asarray(volume.voxels), -1, 0)


def order(rows: pd.DataFrame) -> list[str]:
    """The shifts of a table: images as they are first, then in the order of their definition."""
    known = ["none", SCANNER, *FAMILIES, *SEQUENCES, HEADER]
    found = list(rows["shift"].unique())
    return sorted(found, key=lambda s: known.index(s) if s in known else -1)


def label(shift: str) -> str:
    """For people."""
    named = {"none": "in-domain", SCANNER: "1.5 T to 3 T", HEADER: "a header that lies"}
    named |= {family: f"{family} (unseen)" for family in UNSEEN}
    named |= {sequence: f"{sequence}-like (sequence)" for sequence in SEQUENCES}
    return named.get(shift, shift)


def middle(rows: pd.DataFrame) -> pd.DataFrame:
    """Images as they are, and shifts of the middle severity."""
    return rows[rows["severity"].isin([0, 2])]
