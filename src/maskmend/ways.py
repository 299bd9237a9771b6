"""Ways from an image to a mask: a correction of the image, then one of two batch norms.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.corrections import Correction

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to a mask."""

    name: str
    correction: Correction
    segmentor: Callable[[Images], Tensor]
    """Corrected images to logits."""

    def images(self, images: Images) -> Images:
        """What the segmentor is shown."""
        return self.correction(images)

    @torch.no_grad()
    def masks(self, images: Images) -> Masks:
        """Probabilities."""
        return self.segmentor(self.correction(images)).float().softmax(1)


def ways(
    corrections: Mapping[str, Correction], segmentors: Mapping[str, Callable[[Images], Tensor]]
) -> Sequence[Way]:
    """Every correction with every segmentor; the first of both, plain inference, comes first.

    Args:
        corrections: By name.
        segmentors: By name; the name of the first is not shown.
    """
    return [
        Way(name=f"{fix}{f' + {norm}' if number else ''}", correction=correct, segmentor=segment)
        for number, (norm, segment) in enumerate(segmentors.items())
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
