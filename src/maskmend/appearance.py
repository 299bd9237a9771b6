"""Images as another sequence may show them: other contrasts between tissues, other textures.

Ouyang et al., "Causality-inspired single-source domain generalization for medical image
segmentation", IEEE TMI 2022: a shallow network of random weights is shown the image, and what it
makes of it is mixed with it. No tone curve does as much: what was equally bright need not be so any
more, and edges may be all that is left.

Axes: slice, height, width.
"""

import itertools

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Slices = Float[Tensor, "slice height width"]

_CHANNELS = (1, 4, 4, 1)
"""From layer to layer."""
_SIDES = (1, 3)
"""Of a layer's kernels, in pixels: one changes tones, the other textures."""


def recoloured(slices: Slices, rng: np.random.Generator) -> Slices:
    """Show slices to a random network, all to the same.

    Args:
        slices: Of any brightness.
        rng: The source of all randomness.

    Returns:
        Slices of mean 0 and standard deviation 1.
    """

    def drawn(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape).astype(np.float32))

    shown = _standardised(slices)
    features = shown[:, None]
    for number, (channels, made) in enumerate(itertools.pairwise(_CHANNELS)):
        if number:
            features = functional.leaky_relu(features)
        side = _SIDES[int(rng.integers(len(_SIDES)))]
        padded = functional.pad(features, [side // 2] * 4, mode="replicate")
        features = functional.conv2d(padded, drawn(made, channels, side, side), drawn(made))
    return _standardised(torch.lerp(shown, features[:, 0], float(rng.uniform())))


def _standardised(slices: Slices) -> Slices:
    spread, mean = torch.std_mean(slices)
    return (slices - mean) / (spread + 1e-6)
