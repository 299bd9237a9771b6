"""One instance on its way through adaptation, and what adaptation made of it.

Axes: slice, channel or class, then space: height and width of slices, or depth, height and width of
patches.
"""

import copy
import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.augment import draw_augmentation
from maskmend.config import AdaptationConfig

Images = Float[Tensor, "slice channel *space"]
Masks = Float[Tensor, "slice class *space"]

_PLATEAU = 5
"""Steps in which an automatic run wants the lowest loss to fall by a hundredth."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """What adaptation made of one instance."""

    plain: Masks
    """Probabilities before the first step."""
    masks: Masks
    """Probabilities of the adaptor that is kept."""
    losses: tuple[float, ...]
    """Loss on the images before each step, and after the last: one more than steps were taken."""
    plain_scores: Float[Tensor, " slice"]
    """The prior's score of each plain mask."""
    scores: Float[Tensor, " slice"]
    """Its score of each returned mask."""
    steps: int
    """Updates behind the returned masks."""
    seconds: float
    """Time of its share of the passes through the networks."""
    message: str = ""
    """Why adaptation was given up, if it was."""
    decision: str = ""
    """What was decided and why, where there was a choice."""
    adaptor: nn.Module | None = None
    """What was tuned; None if the masks do not come of it."""
    plain_shown: Images | None = None
    """The images as the segmentor was shown them for the plain masks; None if as they are."""
    shown: Images | None = None
    """The images as it was shown them for the returned masks; None if as for the plain ones."""

    @property
    def realism_before(self) -> float:
        """Mean score of the plain masks."""
        return self.plain_scores.mean().item()

    @property
    def realism_after(self) -> float:
        """Mean score of the returned masks."""
        return self.scores.mean().item()


class Instance:
    """The images of one instance with their own adaptor, optimizer and history.

    Args:
        images: All its slices, on the networks' device.
        adaptor: The start, which stays as it is: a copy is tuned.
        config: How to adapt.
        enough: Mean score from which an automatic run leaves masks alone.
    """

    def __init__(
        self, images: Images, adaptor: nn.Module, config: AdaptationConfig, enough: float | None
    ):
        self.images, self.config, self.enough = images, config, enough
        self.start = adaptor
        self.adaptor = copy.deepcopy(adaptor).requires_grad_(True)
        self.optimizer = torch.optim.Adam(self.adaptor.parameters(), config.learning_rate)
        self.generator = torch.Generator().manual_seed(0)
        self.losses: list[float] = []
        self.steps = 0
        self.kept_step = 0
        self.kept_adaptor = adaptor
        self.finished = False
        self.seconds = 0.0
        self.message = ""
        self.plain = self.kept = images.new_empty(0)

    @property
    def stepping(self) -> bool:
        """Whether another step is to be taken; an automatic one only after a look."""
        looked = bool(self.losses) or self.config.steps != "auto"
        return looked and not self.finished and self.steps < self.config.most_steps

    def augmented(self) -> Images:
        """Another augmented copy of the images."""
        drawn = draw_augmentation(self.images.shape, self.config.augmentation, self.generator)
        return drawn.apply(self.images, padding="border")

    def step(self) -> None:
        """Update the adaptor along its gradients."""
        self.optimizer.step()
        self.steps += 1

    def look(self, masks: Masks, loss: float, realism: float) -> None:
        """Take note of the masks of the present weights, and decide whether to go on."""
        if not self.losses:
            self.plain = masks
        elif len(self.losses) > self.steps:
            return  # seen already, before the first step
        lowest = min(self.losses, default=math.inf)
        self.losses.append(loss)
        if not math.isfinite(loss):
            self.message = f"the loss was not finite after {self.steps} steps: plain mask"
            self.kept, self.kept_step, self.finished = self.plain, 0, True
            self.kept_adaptor = self.start
            return
        if self.config.keep == "last" or loss < lowest:
            self.kept, self.kept_step = masks, self.steps
            best = self.config.keep == "best"
            self.kept_adaptor = copy.deepcopy(self.adaptor) if best else self.adaptor
        self.finished = self.steps == self.config.most_steps
        if self.config.steps == "auto":
            self.finished |= self.enough is not None and realism >= self.enough
            earlier = min(self.losses[:-_PLATEAU], default=math.inf)
            self.finished |= min(self.losses) > 0.99 * earlier
