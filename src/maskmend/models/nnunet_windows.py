"""nnU-Net's sliding window: overlapping patches, blended by a Gaussian; mirrored copies; folds.

Axes: slice, channel or class, height, width.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor, nn
from torch.nn import functional

Images = Float[Tensor, "slice channel height width"]
Logits = Float[Tensor, "slice class height width"]

_PRECISION = torch.half
"""In which nnU-Net adds up what windows say: it decides ties, so that no other gives its masks."""


class Windows(nn.Module):
    """Slices of any size to logits, by networks that were trained on patches.

    Args:
        networks: The folds, whose logits are averaged.
        patch: Height and width of a window.
        mirrored: Axes, 0 for height and 1 for width, along which copies are mirrored.
        exact: Compute as nnU-Net does, to the bit, and without a gradient. Otherwise in 32 bits,
            without mirrored copies, for adaptation.
    """

    weights: Tensor

    def __init__(
        self,
        networks: Sequence[nn.Module],
        patch: tuple[int, int],
        mirrored: Sequence[int],
        *,
        exact: bool,
    ):
        super().__init__()
        self.networks, self.patch, self.exact = nn.ModuleList(networks), patch, exact
        axes = [2 + axis for axis in mirrored] if exact else []
        weights = _gaussian(patch).to(_PRECISION if exact else torch.float32)
        weights[weights == 0] = weights[weights > 0].min()
        self.register_buffer("weights", weights, persistent=False)
        self.flips = [c for n in range(len(axes) + 1) for c in itertools.combinations(axes, n)]

    def forward(self, images: Images) -> Logits:
        """Logits, in 16 bits if they are exact."""
        if not self.exact:
            return self._predict(images)
        with torch.no_grad():  # slice by slice, since convolutions may round otherwise in a batch
            return torch.cat([self._predict(one) for one in images.split(1)])

    def _predict(self, images: Images) -> Logits:
        shape = images.shape[2:]
        missing = [max(0, side - n) for side, n in zip(self.patch, shape, strict=True)]
        (top, bottom), (left, right) = ((m // 2, m - m // 2) for m in missing)
        padded = functional.pad(images, (left, right, top, bottom))
        total = self._blend(self.networks[0], padded)
        for network in list(self.networks)[1:]:
            total = total + self._blend(network, padded)
        if len(self.networks) > 1:
            total = total / len(self.networks)
        return total[:, :, top : top + shape[0], left : left + shape[1]]

    def _blend(self, network: nn.Module, images: Images) -> Logits:
        """What the windows of one network say, each weighted most in its middle."""
        height, width = images.shape[2:]
        total, weights = None, self.weights.new_zeros(height, width)
        for top in _starts(height, self.patch[0]):
            for left in _starts(width, self.patch[1]):
                place = (..., slice(top, top + self.patch[0]), slice(left, left + self.patch[1]))
                logits = self._mirrored(network, images[place])
                if total is None:
                    shape = (*logits.shape[:2], height, width)
                    total = self.weights.new_zeros(shape)
                total[place] += logits * self.weights
                weights[place] += self.weights
        assert total is not None  # there is a window
        return total / weights

    def _mirrored(self, network: nn.Module, patch: Images) -> Logits:
        logits = network(patch)
        for axes in self.flips[1:]:
            logits = logits + network(patch.flip(axes)).flip(axes)
        return logits / len(self.flips) if len(self.flips) > 1 else logits


def _starts(length: int, side: int) -> list[int]:
    """Where windows begin: evenly, half a window apart or less."""
    steps = math.ceil((length - side) / (side * 0.5))
    return (
        [round((length - side) / steps * number) for number in range(steps + 1)] if steps else [0]
    )


def _gaussian(patch: tuple[int, int]) -> Float[Tensor, "height width"]:
    """Weights of a window: an eighth of its side is one standard deviation, 10 the highest."""
    middle = np.zeros(patch)
    middle[patch[0] // 2, patch[1] // 2] = 1
    weights = ndimage.gaussian_filter(middle, [side / 8 for side in patch], mode="constant")
    return torch.from_numpy(weights / (weights.max() / 10))
