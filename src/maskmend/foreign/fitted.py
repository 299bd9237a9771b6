"""A discriminator that was trained after the fact, as a prior for any segmentor.

Axes: slice, class (softmax probabilities, the background first), height, width.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.adversary import Row
from maskmend.config import PriorConfig
from maskmend.discriminator import MaskDiscriminator
from maskmend.frozen import frozen
from maskmend.priors import DiscriminatorPrior, Images, Masks


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedPrior:
    """What `fit_prior` made; a `Prior`.

    Its loss is that of equation 2 with `enough` for a target, and none for masks that score more:
    what is as realistic as held-out masks is left alone.
    """

    config: PriorConfig
    """How it was fitted: the structures, and how masks were prepared."""
    discriminator: MaskDiscriminator
    """One-hot or soft masks without their background to scores, in evaluation mode."""
    enough: float
    """Mean score of held-out predictions where a segmentor's were fakes, else of held-out masks."""
    history: tuple[Row, ...] = field(default=(), repr=False)
    """Scores and losses of held-out masks (see `Adversary.judge`) at each look."""
    digest: str = ""
    """SHA-256 of the weights' file, if it was loaded from a folder."""

    def __call__(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """Loss of each mask."""
        return self._judge(masks)

    def realism(self, masks: Masks, images: Images | None = None) -> Float[Tensor, " slice"]:
        """The discriminator's score of each mask."""
        return self._judge.realism(masks)

    def to(self, device: torch.device | str) -> "FittedPrior":
        """Move it, in place, and return it."""
        self.discriminator.to(device)
        self.__dict__.pop("_judge", None)
        return self

    @cached_property
    def _judge(self) -> DiscriminatorPrior:
        return DiscriminatorPrior(frozen(self.discriminator), self.enough, one_sided=True)
