"""Views of an image: turned, enlarged or moved before it is segmented, and the masks moved back.

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
    move: tuple[int, int] = (0, 0)
    """Moved by so many pixels down and right."""

    def of(self, images: Images) -> Images:
        """The images as seen; what comes in from beyond an edge is like the edge."""
        if self == View():
            return images
        return _sample(images, self._matrix(images), padding="border")

    def back(self, masks: Masks) -> Masks:
        """Probabilities on the images' own grid; what the view did not show is background."""
        if self == View():
            return masks
        structures = _sample(masks[:, 1:], self._matrix(masks).inverse(), padding="zeros")
        return torch.cat([1 - structures.sum(1, keepdim=True), structures], dim=1)

    def _matrix(self, batch: Tensor) -> Float[Tensor, "3 3"]:
        """From places in the view to places in the image; a side of it is 2 long."""
        angle, (height, width) = math.radians(self.degrees), batch.shape[-2:]
        cos, sin = math.cos(angle) / self.zoom, math.sin(angle) / self.zoom
        down, right = 2 * self.move[0] / height, 2 * self.move[1] / width
        # Both sides are 2 long, so that a turn is none unless they are as long as each other.
        tall = height / width
        return torch.tensor([[cos, -sin * tall, -right], [sin / tall, cos, -down], [0, 0, 1]])


def _sample(batch: Tensor, matrix: Float[Tensor, "3 3"], *, padding: str) -> Tensor:
    theta = matrix[:2].to(batch.device).expand(len(batch), 2, 3)
    grid = functional.affine_grid(theta, list(batch.shape), align_corners=False)
    return functional.grid_sample(batch, grid, padding_mode=padding, align_corners=False)
