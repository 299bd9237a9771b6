"""What judges a mask at test time: one small interface, one class a prior.

Axes: slice, class (softmax probabilities, the background first), height, width.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.denoiser import Denoiser
from maskmend.discriminator import judged
from maskmend.losses import adversarial_loss, soft_dice

Masks = Float[Tensor, "slice class height width"]
Images = Float[Tensor, "slice channel height width"]
Volumes = Float[Tensor, "volume channel depth height width"]


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
        one_sided: Leave alone what scores more than the target. The paper's loss pulls it back.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        target: float = 0.0,
        *,
        sees_image: bool = False,
        one_sided: bool = False,
    ):
        self.discriminator, self.target = discriminator, target
        self.sees_image, self.one_sided = sees_image, one_sided

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """Equation 2, second line."""
        scores = self.realism(masks, images)
        return adversarial_loss(scores, self.target, one_sided=self.one_sided)

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The discriminator's score."""
        return self.discriminator(judged(masks[:, 1:], images, sees_image=self.sees_image))


class Slicewise:
    """A prior for slices, of volumes: the mean over their slices along depth.

    Args:
        prior: Judges slices.
    """

    def __init__(self, prior: Prior):
        self.prior = prior

    def __call__(self, masks: Volumes, images: Volumes) -> Float[Tensor, " volume"]:
        """Mean loss of a volume's slices."""
        return self._mean(self.prior, masks, images)

    def realism(self, masks: Volumes, images: Volumes) -> Float[Tensor, " volume"]:
        """Mean score of a volume's slices."""
        return self._mean(self.prior.realism, masks, images)

    @staticmethod
    def _mean(
        judge: Callable[[Masks, Images], Tensor], masks: Volumes, images: Volumes
    ) -> Float[Tensor, " volume"]:
        slices = [volumes.transpose(1, 2).flatten(0, 1) for volumes in (masks, images)]
        return judge(*slices).unflatten(0, (len(masks), -1)).mean(1)


class EntropyPrior:
    """Mean entropy of the pixels, in nats (Wang et al., "Tent", ICLR 2021)."""

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The entropy."""
        return -(masks * masks.clamp(min=1e-8).log()).sum(1).mean((1, 2))

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The negative entropy."""
        return -self(masks)


class DenoiserPrior:
    """Agreement with what a denoising autoencoder makes of the masks (Karani et al. 2021).

    Masks are all slices of one volume, and each slice has the volume's loss and score.

    Args:
        denoiser: Frozen.
    """

    def __init__(self, denoiser: Denoiser):
        self.denoiser = denoiser
        self.target: Masks | None = None

    @torch.no_grad()
    def refresh(self, masks: Masks) -> float:
        """Let the denoised masks be the target from now on; returns how well the masks agree."""
        self.target = self.denoiser.mended(masks)
        return soft_dice(masks, self.target).item()

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """1 - soft Dice with the target, which is the masks' own until it is refreshed."""
        target = self.denoiser.mended(masks).detach() if self.target is None else self.target
        return (1 - soft_dice(masks, target)).expand(len(masks))

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """Soft Dice of the masks and their denoised ones."""
        return soft_dice(masks, self.denoiser.mended(masks)).expand(len(masks))
