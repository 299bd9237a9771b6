"""What judges a mask at test time: one small interface, one class a prior.

Axes: slice, class (softmax probabilities, the background first), height, width.
"""

from typing import Protocol

from jaxtyping import Float
from torch import Tensor, nn

from maskmend.discriminator import judged
from maskmend.losses import adversarial_loss

Masks = Float[Tensor, "slice class height width"]
Images = Float[Tensor, "slice channel height width"]


class Prior(Protocol):
    """Knows realistic masks. Both calls must be differentiable in the masks.

    They are given the images as well, before any adaptor; most priors do not look at them.
    """

    def __call__(self, masks: Masks, images: Images) -> Float[Tensor, " slice"]:
        """Loss of each mask: what adaptation makes small."""

    def realism(self, masks: Masks, images: Images) -> Float[Tensor, " slice"]:
        """Score of each mask: the higher, the more realistic."""


class DiscriminatorPrior:
    """The mask discriminator that was trained with the segmentor (section 3.3).

    Args:
        discriminator: Masks without their background to scores.
        target: The score that equation 2 pulls predicted masks to.
        sees_image: Whether the discriminator judges images and masks together.
    """

    def __init__(self, discriminator: nn.Module, target: float = 0.0, *, sees_image: bool = False):
        self.discriminator, self.target, self.sees_image = discriminator, target, sees_image

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """Equation 2, second line."""
        return adversarial_loss(self.realism(masks, images), self.target)

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The discriminator's score."""
        return self.discriminator(judged(masks[:, 1:], images, sees_image=self.sees_image))


class EntropyPrior:
    """Mean entropy of the pixels, in nats (Wang et al., "Tent", ICLR 2021)."""

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The entropy."""
        return -(masks * masks.clamp(min=1e-8).log()).sum(1).mean((1, 2))

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The negative entropy."""
        return -self(masks)
