"""Random roto-translation, scaling and noise: the discriminator augmentation of section 3.1.

Parameters are drawn first and applied later, to images and their masks alike, and differentiably,
so that the segmentor learns through the discriminator's augmented view.

Axes: batch, channel, height, width.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from maskmend.config import AugmentationConfig


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What will be done to a batch."""

    theta: Float[Tensor, "batch 2 3"] | None
    """Affine maps in torch's normalised coordinates; None leaves the geometry alone."""
    noise: Float[Tensor, "batch channel height width"] | None
    """Gaussian noise to be added; None adds none."""

    def apply(
        self,
        batch: Float[Tensor, "batch channel height width"],
        *,
        padding: Literal["zeros", "border"],
    ) -> Float[Tensor, "batch channel height width"]:
        """The augmented batch: bilinear, filled with zeros or with its border."""
        moved = self.move(batch, padding=padding)
        return moved if self.noise is None else moved + self.noise.to(moved)

    def of(self, rows: Tensor) -> "Augmentation":
        """What will be done to some of the batch, by their index."""
        return Augmentation(
            theta=None if self.theta is None else self.theta[rows],
            noise=None if self.noise is None else self.noise[rows],
        )

    def move(
        self,
        batch: Float[Tensor, "batch channel height width"],
        *,
        padding: Literal["zeros", "border"],
        mode: Literal["bilinear", "nearest"] = "bilinear",
    ) -> Float[Tensor, "batch channel height width"]:
        """The geometry alone, for the masks that go with augmented images."""
        if self.theta is None:
            return batch
        grid = functional.affine_grid(
            self.theta.to(batch.device), list(batch.shape), align_corners=False
        )
        return functional.grid_sample(
            batch.float(), grid, mode=mode, padding_mode=padding, align_corners=False
        )


def draw_augmentation(
    shape: torch.Size | tuple[int, ...], config: AugmentationConfig, generator: torch.Generator
) -> Augmentation:
    """Draw an augmentation for each item of a batch.

    Args:
        shape: Batch, channels, height, width.
        config: How far to go.
        generator: The source of all randomness, on the CPU.
    """
    batch = shape[0]

    def uniform(low: float, high: float) -> Float[Tensor, " batch"]:
        return low + (high - low) * torch.rand(batch, generator=generator)

    theta = None
    if any(config.rotation_deg) or config.translation or config.scale:
        angle = torch.deg2rad(uniform(*config.rotation_deg))
        zoom = 1 / (1 + uniform(-config.scale, config.scale))
        # Normalised coordinates run from -1 to 1, hence twice the share of the side.
        shift_x, shift_y = (2 * uniform(-config.translation, config.translation) for _ in range(2))
        cos, sin = zoom * angle.cos(), zoom * angle.sin()
        rows = [torch.stack([cos, -sin, shift_x], 1), torch.stack([sin, cos, shift_y], 1)]
        theta = torch.stack(rows, dim=1)
    noise = None
    if config.noise_std:
        noise = config.noise_std * torch.randn(*shape, generator=generator)
    return Augmentation(theta=theta, noise=noise)
