"""Images of any model as the guard's corrections and students know them.

These have a median of 0 and an interquartile range of 1, which a model's own images need not have;
so what the model wants is made of them.

Axes: slice, channel or class, height, width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from maskmend.data.volume import Volume
from maskmend.guard.corrections import quantiles
from maskmend.outputs import Activation, Probabilities
from maskmend.plane import Plane
from maskmend.prediction import Shown

Slices = Float[Tensor, "slice 1 height width"]
Masks = Float[Tensor, "slice class height width"]


class Intensities(NamedTuple):
    """What a model's slices of an image are like."""

    median: float
    spread: float
    """Interquartile range; the standard deviation where most of the image is of one intensity."""

    @classmethod
    def mean(cls, several: Sequence["Intensities"]) -> "Intensities":
        """Those of an image like many."""
        return cls(*torch.tensor(several).mean(0).tolist())

    @classmethod
    def of(cls, slices: Slices) -> "Intensities":
        """Those of one image, however it is normalised."""
        low, median, high = quantiles(slices)[[25, 50, 75]].tolist()
        return cls(median, (high - low) or slices.std().item() or 1.0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Standard:
    """An image that a model is shown, with standardised slices; a `Shown`."""

    shown: Shown
    """As the model wants it."""
    intensities: Intensities
    slices: Slices

    @classmethod
    def of(cls, shown: Shown) -> "Standard":
        """Standardise what a model is shown."""
        known = Intensities.of(shown.slices)
        slices = (shown.slices - known.median) / known.spread
        return cls(shown=shown, intensities=known, slices=slices)

    @property
    def volume(self) -> Volume:
        """The image."""
        return self.shown.volume

    @property
    def plane(self) -> Plane:
        """Where the slices lie."""
        return self.shown.plane

    def labels(self, masks: Masks) -> UInt8[np.ndarray, "x y z"]:
        """A mask of the slices on the file's grid."""
        return self.shown.labels(masks)

    def truth(self, mask: Volume, classes: int) -> UInt8[Tensor, "slice height width"]:
        """A mask of the file's grid on the slices."""
        return self.shown.truth(mask, classes)

    def cut(self, masks: Masks) -> str:
        """What to say of a mask that is cut, if it is."""
        return self.shown.cut(masks)


class Standardised(nn.Module):
    """A network for standardised slices.

    Args:
        network: Slices with intensities of its own to logits.
        activation: Of its output.
        intensities: What the network is to be shown; kept with its weights.
    """

    intensities: Tensor

    def __init__(self, network: nn.Module, activation: Activation, intensities: Intensities):
        super().__init__()
        self.probabilities = Probabilities(network, activation)
        self.register_buffer("intensities", torch.tensor(intensities))

    def forward(self, slices: Slices) -> Masks:
        """Logarithms of probabilities."""
        median, spread = self.intensities
        shown = slices * spread + median
        return self.probabilities(shown).clamp(min=1e-8).log()


class Padded(nn.Module):
    """A network that sees slices of any size padded, at their edges, to a multiple.

    Args:
        network: Slices to logits.
        multiple: Of both sides.
    """

    def __init__(self, network: nn.Module, multiple: int):
        super().__init__()
        self.network, self.multiple = network, multiple

    def forward(self, slices: Slices) -> Masks:
        """The network's logits of the slices alone."""
        height, width = slices.shape[2:]
        down, right = (-side % self.multiple for side in (height, width))
        logits: Tensor = self.network(functional.pad(slices, (0, right, 0, down), mode="replicate"))
        return logits[..., :height, :width]


def centred(
    slices: Float[Tensor, "slice channel some other"], size: tuple[int, int]
) -> Float[Tensor, "slice channel height width"]:
    """The middle of the slices, in another size; beyond an edge all is as at the edge."""
    missing = [max(0, side - length) for side, length in zip(size, slices.shape[2:], strict=True)]
    (top, bottom), (left, right) = ((math.floor(m / 2), math.ceil(m / 2)) for m in missing)
    padded = functional.pad(slices, (left, right, top, bottom), mode="replicate")
    height, width = size
    top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
    return padded[..., top : top + height, left : left + width]
