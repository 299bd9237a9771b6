"""Views of an image: turned or enlarged before it is segmented, and the masks turned back.

A network that is not sure of itself answers differently to each; the mean is more often right than
any of them (Wang et al. 2019, "Aleatoric uncertainty estimation with test-time augmentation").

Axes: slice, channel or class, height, width.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]


@dataclass(frozen=True, kw_only=True)
class View:
    """One way to look at a slice; by default straight on."""

    degrees: float = 0.0
    """Turned by."""
    zoom: float = 1.0
    """Enlarged by."""

    def of(self, images: Images) -> Images:
        """The images, turned and enlarged; what comes in from beyond an edge is like the edge."""
        if self == View():
            return images
        return self._sample(images, self.degrees, self.zoom, padding="border")

    def back(self, masks: Masks) -> Masks:
        """Probabilities on the images' own grid; what the view did not show is background."""
        if self == View():
            return masks
        structures = self._sample(masks[:, 1:], -self.degrees, 1 / self.zoom, padding="zeros")
        return torch.cat([1 - structures.sum(1, keepdim=True), structures], dim=1)

    @staticmethod
    def _sample(batch: Tensor, degrees: float, zoom: float, *, padding: str) -> Tensor:
        angle = math.radians(degrees)
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], device=batch.device)
        shape = list(batch.shape)
        grid = functional.affine_grid(theta.expand(len(batch), 2, 3), shape, align_corners=False)
        return functional.grid_sample(batch, grid, padding_mode=padding, align_corners=False)
