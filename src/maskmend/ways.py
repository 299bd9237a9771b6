"""Ways from an image to a mask: a correction of the image, then one of two batch norms.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.corrections import Correction

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]
Segment = Callable[[Images], Tensor]
"""Images to logits."""


class Candidate(Protocol):
    """Anything that makes a mask of a volume."""

    @property
    def name(self) -> str:
        """For people."""

    def masks(self, images: Images, *, exact: bool = False) -> Masks:
        """Probabilities, in the hardware's precision, or exactly: in 32 bits."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to a mask."""

    name: str
    correction: Correction
    segmentor: Segment
    """In the hardware's precision."""
    exact: Segment
    """The same in 32 bits."""

    @torch.no_grad()
    def masks(self, images: Images, *, exact: bool = False) -> Masks:
        """Probabilities."""
        segment = self.exact if exact else self.segmentor
        return segment(self.correction(images)).float().softmax(1)


@dataclass(frozen=True, kw_only=True)
class Blend:
    """Several ways at once: the mean of their masks."""

    name: str
    ways: Sequence[Way]

    def masks(self, images: Images, *, exact: bool = False) -> Masks:
        """Probabilities."""
        total = self.ways[0].masks(images, exact=exact)
        for way in self.ways[1:]:
            total = total + way.masks(images, exact=exact)
        return total / len(self.ways)


def ways(
    corrections: Mapping[str, Correction], segmentors: Mapping[str, tuple[Segment, Segment]]
) -> Sequence[Way]:
    """Every correction with every segmentor; the first of both, plain inference, comes first.

    Args:
        corrections: By name.
        segmentors: By name, in the hardware's precision and exact; the first's name is not shown.
    """
    return [
        Way(
            name=f"{fix}{f' + {norm}' if number else ''}",
            correction=correct,
            segmentor=segmentor,
            exact=exact,
        )
        for number, (norm, (segmentor, exact)) in enumerate(segmentors.items())
        for fix, correct in corrections.items()
    ]


def own_statistics(segmentor: nn.Module) -> nn.Module:
    """A copy whose batch norms take mean and variance from the images that they are shown.

    Nado et al. 2020, "Evaluating prediction-time batch normalization for robustness under covariate
    shift". A segmentor without batch norm comes back the same function.
    """
    segmentor = copy.deepcopy(segmentor)
    for module in segmentor.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False
            module.running_mean = module.running_var = None
    return segmentor.eval().requires_grad_(False)
