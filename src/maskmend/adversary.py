"""The discriminator's side of training: what it is shown, and its loss (equation 2, first line).

The same whether a segmentor learns beside it (`training.py`) or it is fitted afterwards
(`fitting.py`).

Axes: batch, structure (the classes without the background), height, width.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional

from maskmend.anchors import corrupt, draw_corruption
from maskmend.augment import draw_augmentation
from maskmend.config import AdversarialConfig, Config, PriorConfig
from maskmend.discriminator import judged
from maskmend.group import Group
from maskmend.losses import discriminator_loss, gradient_penalty

Row = dict[str, float]
"""Figures by name: a line of history.csv."""

_BATCH = 32
"""Masks a pass when nothing is trained."""
SHOWN = 128
"""Most slices of each kind that the discriminator is judged on."""


class Adversary:
    """A discriminator with all that it learns from but predictions.

    Args:
        discriminator: Trained by the caller, with `loss`.
        config: Structures, fake anchors and augmentation.
        labels: What real and fake masks ought to score, and the gradient penalty.
        device: Where it computes.
        autocast: The precision of its passes.
        group: The processes that share a batch.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        config: Config | PriorConfig,
        labels: AdversarialConfig,
        device: torch.device,
        autocast: Callable[[], AbstractContextManager] = nullcontext,
        group: Group | None = None,
    ):
        self.discriminator, self.config, self.labels = discriminator, config, labels
        self.device, self.autocast, self.group = device, autocast, group or Group()

    def real_and_fakes(
        self,
        labels: UInt8[Tensor, "slice height width"],
        images: Tensor | None,
        rng: np.random.Generator,
    ) -> dict[str, Tensor]:
        """Real masks, their corruptions (fake anchors), and real masks of other images.

        Args:
            labels: Real masks.
            images: What they are masks of, if the discriminator sees that.
            rng: Draws the corruptions.
        """
        real = self._structures(labels)
        kinds = {"real": real}
        if self.config.anchors.kind != "none":
            kinds["corrupted"] = self._structures(self._corrupt(labels, rng))
        if self.config.discriminator.sees_image:
            kinds["mismatched"] = real.roll(len(real) // 2, 0)
        return {name: self.judged(masks, images) for name, masks in kinds.items()}

    def judged(self, masks: Tensor, images: Tensor | None) -> Tensor:
        """What the discriminator is shown of masks."""
        return judged(masks, images, sees_image=self.config.discriminator.sees_image)

    def scores(self, kinds: Sequence[Tensor], generator: torch.Generator) -> Tensor:
        """Scores of masks of each kind, this process's share of them, as they are augmented."""
        masks, batch = torch.cat(list(kinds)), len(kinds[0]) * self.group.size
        # Drawn for the whole batch, so that every process takes its share of the same draw.
        shape = (batch * len(kinds), *masks.shape[1:])
        drawn = draw_augmentation(shape, self.config.mask_augmentation, generator)
        rows = torch.cat([self.group.share(r) for r in torch.arange(shape[0]).split(batch)])
        return self.discriminator(drawn.of(rows).apply(masks, padding="zeros"))

    def loss(
        self,
        real: Tensor,
        predicted: Sequence[Tensor],
        others: Sequence[Tensor],
        generator: torch.Generator,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Equation 2, first line, without and with the gradient penalty.

        Args:
            real: Real masks.
            predicted: Predicted ones, if there are any.
            others: Fakes of other kinds, fake anchors first.
            generator: Draws the augmentation.
        """
        with self.autocast():
            scores = self.scores([real, *predicted, *others], generator)
        n = len(real)
        loss = discriminator_loss(
            scores[:n], scores[n:], real_label=self.labels.real, fake_label=self.labels.fake
        )
        if not (self.labels.gradient_penalty and others):
            return loss, loss
        mix = torch.rand(n * self.group.size, 1, 1, 1, generator=generator)
        mix = self.group.share(mix).to(real)
        penalty = gradient_penalty(self.discriminator, real, others[0], mix)
        return loss, loss + self.labels.gradient_penalty * penalty

    @torch.no_grad()
    def judge(
        self,
        name: str,
        labels: UInt8[Tensor, "slice height width"],
        images: Tensor | None,
        predicted: Float[Tensor, "slice class height width"] | None,
    ) -> Row:
        """Mean score and loss of real masks, predicted ones and other fakes, as they are.

        Args:
            name: Of the patients that they are of, which begins every figure's name.
            labels: Real masks.
            images: What the masks are of.
            predicted: Predicted probabilities of the same images, if there are any.
        """
        # The same corruptions at every look, so that changes are the discriminator's.
        rng = np.random.default_rng(self.config.seed)
        kinds = self.real_and_fakes(labels, images, rng)
        if predicted is not None:
            kinds["predicted"] = self.judged(predicted[:, 1:], images)
        row: Row = {}
        for kind, shown in kinds.items():
            with self.autocast():
                scores = torch.cat([self.discriminator(part) for part in shown.split(_BATCH)])
            label = self.labels.real if kind == "real" else self.labels.fake
            row[f"{name}_score_{kind}"] = scores.mean().item()
            row[f"{name}_loss_{kind}"] = (scores - label).square().mean().item()
        return row

    def _corrupt(
        self, labels: UInt8[Tensor, "slice height width"], rng: np.random.Generator
    ) -> UInt8[Tensor, "slice height width"]:
        anchors, classes = self.config.anchors, self.config.data.classes
        corrupted = [
            corrupt(mask, draw_corruption(mask, anchors, classes, rng)) for mask in labels.numpy()
        ]
        return torch.from_numpy(np.stack(corrupted))

    def _structures(self, labels: UInt8[Tensor, "slice height width"]) -> Tensor:
        """One-hot masks without the background, as the discriminator sees them."""
        one_hot = functional.one_hot(labels.long(), self.config.data.classes)
        return one_hot.movedim(-1, 1)[:, 1:].float().to(self.device)


def spread(count: int) -> Tensor:
    """Indices of at most `SHOWN` of so many slices, evenly spread."""
    return torch.linspace(0, count - 1, min(SHOWN, count)).long()
