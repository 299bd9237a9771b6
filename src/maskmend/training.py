"""Training a segmentor and a discriminator that can be used again (sections 3.1 and 3.2).

Every random draw of an iteration comes from the seed and the iteration's number, so that a run that
was killed goes on exactly as if it had not been.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional

from maskmend.adversary import Adversary, Row, spread
from maskmend.augment import draw_augmentation
from maskmend.build import Networks
from maskmend.checkpoint import load_networks, load_optimizer, network_tensors, optimizer_tensors
from maskmend.config import Config
from maskmend.data.slices import Pairs, TrainingData
from maskmend.errors import RunError
from maskmend.group import Group
from maskmend.losses import adversarial_loss, class_weights, supervised_loss

_BATCH = 32
"""Slices a forward pass when nothing is trained."""


@dataclass
class Progress:
    """Where a run stands; all that is not a tensor and must survive a kill."""

    iteration: int = 0
    best: float | None = None
    """Best validation figure so far, the larger the better."""
    best_iteration: int = 0
    history: list[Row] = field(default_factory=list)
    finished: bool = False

    @property
    def looked_at(self) -> int:
        """Iteration of the last look at the validation patients."""
        return int(self.history[-1]["iteration"]) if self.history else 0


class Trainer:
    """The alternation of equations 1 and 2.

    Args:
        config: What to train and how.
        networks: Fresh networks; trained in place.
        data: Slices to draw from.
        fabric: Device and precision.
    """

    def __init__(self, config: Config, networks: Networks, data: TrainingData, fabric: Fabric):
        self.config, self.networks, self.data, self.fabric = config, networks, data, fabric
        self.group = Group(fabric.global_rank, fabric.world_size)
        for module in networks.modules().values():
            # Convolutions of a CPU are a fifth quicker with the channels innermost.
            module.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.group.synchronise(module)
        self.weights = class_weights(
            torch.bincount(data.annotated.masks.flatten().long(), minlength=config.data.classes),
            config.training.class_weights,
        ).to(fabric.device)
        predicting = [*networks.segmentor.parameters()]
        if config.adaptor.joint:
            predicting += networks.adaptor.parameters()
        self.segmentor_optimizer = torch.optim.Adam(predicting, config.training.learning_rate)
        self.discriminator_optimizer = torch.optim.Adam(
            networks.discriminator.parameters(), config.training.discriminator_learning_rate
        )
        self.adversary = Adversary(
            networks.discriminator,
            config,
            config.adversarial,
            fabric.device,
            fabric.autocast,
            self.group,
        )
        self.progress = Progress()

    # ------------------------------------------------------------------ state

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a resumed run needs."""
        return {
            **network_tensors(self.networks),
            **optimizer_tensors(self.segmentor_optimizer, "segmentor_optimizer"),
            **optimizer_tensors(self.discriminator_optimizer, "discriminator_optimizer"),
        }

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any], path: Any) -> None:
        """Go on from what `tensors` and `progress` said."""
        own = {n: t for n, t in tensors.items() if n.split(".")[0] in self.networks.modules()}
        load_networks(self.networks, own, path)
        load_optimizer(self.segmentor_optimizer, "segmentor_optimizer", tensors)
        load_optimizer(self.discriminator_optimizer, "discriminator_optimizer", tensors)
        self.progress = Progress(**progress)

    # --------------------------------------------------------------- training

    def run(
        self,
        on_iteration: Callable[[Row], None],
        on_validation: Callable[[Row, bool], None],
    ) -> None:
        """Train until the validation figure no longer improves or the iterations are used up.

        Args:
            on_iteration: Called with the losses of each iteration.
            on_validation: Called with the figures of each look at the validation patients, and
                whether they are the best so far: the moment to save.

        Raises:
            RunError: A loss is not finite.
        """
        training, progress = self.config.training, self.progress
        since, sums = time.monotonic(), dict[str, float]()
        while not progress.finished:
            losses = self._iterate(progress.iteration)
            progress.iteration += 1
            if odd := [name for name, value in losses.items() if not math.isfinite(value)]:
                raise RunError(
                    f"training diverged: the {odd[0]} loss is not finite at iteration"
                    f" {progress.iteration}; lower training.learning_rate and choose another --out"
                )
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value
            on_iteration(losses)
            last = progress.iteration == training.iterations
            if progress.iteration % training.validate_every and not last:
                continue
            row = {"iteration": float(progress.iteration), **self.validate()}
            done = progress.iteration - progress.looked_at
            row |= {f"train_{name}": value / done for name, value in sums.items()}
            row["seconds"] = time.monotonic() - since
            since, sums = time.monotonic(), {}
            figure = row["val_dice"] if training.stop == "dice" else -row["val_supervised"]
            improved = progress.best is None or figure > progress.best
            if improved:
                progress.best, progress.best_iteration = figure, progress.iteration
            waited = (progress.iteration - progress.best_iteration) / training.validate_every
            progress.history.append(row)
            progress.finished = last or waited >= training.patience
            on_validation(row, improved)

    def _iterate(self, iteration: int) -> Row:
        """One supervised step on annotated images, one adversarial step of each player."""
        config, networks = self.config, self.networks
        rng = np.random.default_rng([config.seed, iteration])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        self._set_learning_rates(iteration)
        for module in networks.modules().values():
            module.train()

        # Equation 1, on a batch of annotated images.
        pairs = self.data.annotated
        chosen = torch.from_numpy(rng.integers(len(pairs.images), size=config.training.batch))
        images, labels = self._augment_pairs(pairs, chosen, generator, rng)
        with self.fabric.autocast():
            logits = self._predict(images)
        dice = config.training.dice
        supervised = supervised_loss(logits, labels, self.weights, dice=dice)
        self._step(self.segmentor_optimizer, supervised)
        supervised = self.group.mean(supervised)
        losses = {"supervised": supervised.item()}
        if not config.adversarial.enabled:
            return losses

        # Equation 2, second line, on a batch of unpaired images.
        images = self._draw_images(rng, generator)
        real, *fakes = self._draw_judged(rng)
        adversary = self.adversary
        networks.discriminator.requires_grad_(False)
        with self.fabric.autocast():
            probabilities = self._predict(images).float().softmax(1)
            predicted = adversary.judged(probabilities[:, 1:], images)
            scores = adversary.scores([predicted], generator)
        own = adversarial_loss(scores, config.adversarial.target).mean()
        adversarial = self.group.mean(own)
        weight = config.adversarial.weight
        if config.adversarial.balance:
            weight *= (supervised / adversarial.clamp(min=1e-6)).item()
        self._step(self.segmentor_optimizer, weight * own)
        networks.discriminator.requires_grad_(True)

        # Equation 2, first line, on real masks, the same predictions and fake anchors.
        loss, total = adversary.loss(real, [predicted.detach()], fakes, generator)
        self._step(self.discriminator_optimizer, total)
        discriminator = self.group.mean(loss)
        return losses | {"adversarial": adversarial.item(), "discriminator": discriminator.item()}

    def _step(self, optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.group.average_gradients(optimizer.param_groups[0]["params"])
        optimizer.step()

    def _set_learning_rates(self, iteration: int) -> None:
        training = self.config.training
        factor = 1.0
        if training.cosine:
            factor = (1 + math.cos(math.pi * iteration / training.iterations)) / 2
        for optimizer, rate in (
            (self.segmentor_optimizer, training.learning_rate),
            (self.discriminator_optimizer, training.discriminator_learning_rate),
        ):
            optimizer.param_groups[0]["lr"] = rate * factor

    def _predict(
        self, images: Float[Tensor, "batch 1 height width"]
    ) -> Float[Tensor, "batch class height width"]:
        adapted = self.networks.adaptor(images) if self.config.adaptor.joint else images
        return self.networks.segmentor(adapted)

    def _augment_pairs(
        self, pairs: Pairs, chosen: Tensor, generator: torch.Generator, rng: np.random.Generator
    ) -> tuple[Tensor, Tensor]:
        images, labels = pairs.images[chosen], pairs.masks[chosen]
        drawn = draw_augmentation(images.shape, self.config.image_augmentation, generator)
        images = self._degrade(drawn.apply(images, padding="border"), rng)
        labels = drawn.move(labels[:, None].float(), padding="zeros", mode="nearest")[:, 0]
        images, labels = self.group.share(images), self.group.share(labels)
        return images.to(self.fabric.device), labels.long().to(self.fabric.device)

    def _draw_images(self, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """Unpaired images, augmented."""
        chosen = rng.integers(len(self.data.unpaired_images), size=self.config.training.batch)
        images = self.data.unpaired_images[torch.from_numpy(chosen)]
        drawn = draw_augmentation(images.shape, self.config.image_augmentation, generator)
        images = self._degrade(drawn.apply(images, padding="border"), rng)
        return self.group.share(images).to(self.fabric.device)

    def _draw_judged(self, rng: np.random.Generator) -> list[Tensor]:
        """What the discriminator sees beside predictions: real masks, then fakes of each kind."""
        batch, pairs = self.config.training.batch, self.data.annotated
        seen = self.config.discriminator.sees_image
        masks = pairs.masks if seen else self.data.unpaired_masks
        chosen = torch.from_numpy(rng.integers(len(masks), size=batch))
        images = self._degrade(pairs.images[chosen], rng) if seen else None
        kinds = self.adversary.real_and_fakes(masks[chosen], images, rng)
        return [self.group.share(kind) for kind in kinds.values()]

    def _degrade(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        if not self.config.degradation.probability:
            return images
        from maskmend.degrade import degrade  # seconds of imports that few runs need

        return degrade(images, self.config.degradation, self.config.preprocess, rng)

    # ------------------------------------------------------------- validation

    @torch.no_grad()
    def validate(self) -> Row:
        """Segmentation of the validation patients, and what the discriminator makes of masks.

        Its losses on real, predicted and corrupted masks are taken on training and validation
        patients alike, without augmentation, so that equilibrium, forgetting and memorisation
        (supplement, section 2) can be told apart.
        """
        for module in self.networks.modules().values():
            module.eval()
        pairs = self.data.validation
        probabilities = self._probabilities(pairs.images)
        labels = pairs.masks.to(self.fabric.device)
        # Equation 1 from probabilities; the clamp is the logarithm's guard.
        log = probabilities.clamp(min=1e-8).log()
        loss = functional.nll_loss(log, labels.long(), self.weights, reduction="none").mean()
        dice = volume_dice(probabilities.argmax(1).cpu(), pairs, self.config.data.classes)
        row: Row = {"val_supervised": loss.item(), "val_dice": float(dice.mean())}
        names = self.config.data.structures
        row |= {f"val_dice_{names[i + 1]}": float(d) for i, d in enumerate(dice.mean(0))}
        if self.config.adversarial.enabled:
            row |= self._judge("val", pairs.images, pairs.masks, probabilities)
            pairs, apart = self.data.annotated, self.data
            if self.config.discriminator.sees_image:
                row |= self._judge("train", pairs.images, pairs.masks)
            else:
                row |= self._judge("train", apart.unpaired_images, apart.unpaired_masks)
        return row

    def _judge(
        self, name: str, images: Tensor, masks: Tensor, probabilities: Tensor | None = None
    ) -> Row:
        """See `Adversary.judge`."""
        some = [spread(len(one)) for one in (images, masks)]
        if probabilities is None:
            predicted = self._probabilities(images[some[0]])
        else:
            predicted = probabilities[some[0].to(probabilities.device)]
        return self.adversary.judge(name, masks[some[1]], images[some[0]], predicted)

    def _probabilities(self, images: Tensor) -> Float[Tensor, "slice class height width"]:
        with self.fabric.autocast():
            return torch.cat(
                [
                    self._predict(chunk.to(self.fabric.device)).float().softmax(1)
                    for chunk in images.split(_BATCH)
                ]
            )


def volume_dice(
    labels: Int[Tensor, "slice height width"], pairs: Pairs, classes: int
) -> Float[np.ndarray, "volume structure"]:
    """Dice by volume and structure, on the networks' grid; 1 where both are empty."""
    structures = range(1, classes)
    rows = []
    for ours, truth in zip(
        labels.split(pairs.lengths), pairs.masks.split(pairs.lengths), strict=True
    ):
        row = []
        for structure in structures:
            a, b = ours == structure, truth == structure
            total = int(a.sum() + b.sum())
            row.append(2 * int((a & b).sum()) / total if total else 1.0)
        rows.append(row)
    return np.array(rows)
