"""What judges a mask at test time: one small interface, one class a prior.

Axes: slice, class (softmax probabilities, the background first), height, width.
"""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from maskmend.losses import adversarial_loss

Masks = Float[Tensor, "slice class height width"]


class Prior(Protocol):
    """Knows realistic masks. Both calls must be differentiable in the masks."""

    def __call__(self, masks: Masks) -> Float[Tensor, " slice"]:
        """Loss of each mask: what adaptation makes small."""

    def realism(self, masks: Masks) -> Float[Tensor, " slice"]:
        """Score of each mask: the higher, the more realistic."""


class DiscriminatorPrior:
    """The mask discriminator that was trained with the segmentor (section 3.3).

    Args:
        discriminator: Masks without their background to scores.
        target: The score that equation 2 pulls predicted masks to.
    """

    def __init__(self, discriminator: nn.Module, target: float = 0.0):
        self.discriminator, self.target = discriminator, target

    def __call__(self, masks: Masks) -> Float[Tensor, " slice"]:
        """Equation 2, second line."""
        return adversarial_loss(self.realism(masks), self.target)

    def realism(self, masks: Masks) -> Float[Tensor, " slice"]:
        """The discriminator's score."""
        return self.discriminator(masks[:, 1:])


class EntropyPrior:
    """Mean entropy of the pixels, in nats (Wang et al., "Tent", ICLR 2021)."""

    def __call__(self, masks: Masks) -> Float[Tensor, " slice"]:
        """The entropy."""
        return -(masks * masks.clamp(min=1e-8).log()).sum(1).mean((1, 2))

    def realism(self, masks: Masks) -> Float[Tensor, " slice"]:
        """The negative entropy."""
        return -self(masks)
