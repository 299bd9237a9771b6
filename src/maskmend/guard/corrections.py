"""What can be done to an image before a segmentor sees it: simple undoings of a scanner's change.

Each is where adaptation may start. They are fixed, have no weights, and know nothing of the image
but the image; histogram standardisation knows the training images' quantiles.

Axes: slice, 1, height, width; the slices of one volume, standardised.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "slice 1 height width"]
Quantiles = Float[Tensor, " quantile"]
Correction = Callable[[Images], Images]

_QUANTILES = 101


def corrections(training: Quantiles) -> Mapping[str, Correction]:
    """The corrections by name; "none" comes first.

    Args:
        training: Mean quantiles of the training images (see `quantiles`).
    """
    return {
        "none": lambda images: images,
        "histogram": partial(match_histogram, target=training),
        "sharpen": lambda images: 2 * images - smooth(images, 1.0),
        "darken": partial(gamma, exponent=1.6),
        "invert": lambda images: match_histogram(-images, target=training),
    }


def quantiles(images: Images) -> Quantiles:
    """The intensities' quantiles from the least to the largest."""
    values = images.flatten().float().sort().values
    at = torch.linspace(0, len(values) - 1, _QUANTILES, device=images.device)
    return values[at.round().long()]


def match_histogram(images: Images, target: Quantiles) -> Images:
    """Standardise the histogram to the training images' (Nyul and Udupa 2000, all percentiles)."""
    # Quantiles that coincide (clipped intensities) would leave no slope between them.
    tie = torch.arange(_QUANTILES, device=images.device) * 1e-5
    source, target = quantiles(images) + tie, target.to(images)
    index = torch.searchsorted(source, images.contiguous()).clamp(1, _QUANTILES - 1)
    share = (images - source[index - 1]) / (source[index] - source[index - 1])
    return target[index - 1] + share.clamp(0, 1) * (target[index] - target[index - 1])


def smooth(images: Images, sigma: float) -> Images:
    """Gaussian filter within the slices; the standard deviation in pixels."""
    radius = int(4 * sigma + 0.5)
    at = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = (-0.5 * (at / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    # One axis at a time; a wide kernel may reach further than an edge can be mirrored.
    for shape, padding in (((1, 1, -1, 1), (0, 0, radius, radius)),
                           ((1, 1, 1, -1), (radius, radius, 0, 0))):  # fmt: skip
        padded = functional.pad(images, padding, mode="replicate")
        images = functional.conv2d(padded, kernel.view(shape))
    return images


def gamma(images: Images, exponent: float) -> Images:
    """Raise intensities, from the least to the largest as 0 to 1, to a power."""
    return _standardised(_unit(images) ** exponent)


def _unit(images: Images) -> Images:
    low, high = images.min(), images.max()
    return (images - low) / (high - low).clamp(min=1e-6)


def _standardised(images: Images) -> Images:
    """Median 0 and interquartile range 1, as preprocessing leaves them."""
    low, middle, high = (quantiles(images)[i] for i in (25, 50, 75))
    return (images - middle) / (high - low).clamp(min=1e-6)
