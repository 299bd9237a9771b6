"""Training a discriminator after the fact: equation 2, first line, beside no segmentor that learns.

Fakes are corrupted masks (fake anchors), and the predictions of a frozen segmentor where there is
one: on images as they are and on degraded ones, since fakes that look like real failures pay.
As in training, every draw of an iteration comes from the seed and the iteration's number.

Axes: slice, channel or class, height, width.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.adversary import Adversary, Row, spread
from maskmend.build import fresh_discriminator
from maskmend.checkpoint import load_optimizer, load_tensors, optimizer_tensors, quiet_generator
from maskmend.config import AdversarialConfig, DegradationConfig, PreprocessConfig, PriorConfig
from maskmend.errors import ConfigError, RunError
from maskmend.foreign.fitted import FittedPrior

Images = Float[Tensor, "slice channel height width"]
Labels = UInt8[Tensor, "slice height width"]
Masks = Float[Tensor, "slice class height width"]
Segment = Callable[[Images], Masks]
"""Images to probabilities, the background first."""

_NETWORK, _OPTIMIZER = "discriminator", "optimizer"
_BATCH = 16
"""Slices a pass when nothing is trained."""


@dataclass(frozen=True, kw_only=True)
class FittingData:
    """What a prior is fitted to, and what is held out; images only where there is a segmentor."""

    masks: Labels
    held_out_masks: Labels
    images: Images | None = None
    held_out_images: Images | None = None


@dataclass
class FittingProgress:
    """Where a fit stands; all that is not a tensor and must survive a kill."""

    iteration: int = 0
    history: list[Row] = field(default_factory=list)


class Fitter:
    """Fits a discriminator.

    Args:
        config: What to fit and how.
        data: Masks, and images for the segmentor if there is one.
        segment: A frozen segmentor; without it, fake anchors are the only fakes.
        device: Where to compute.

    Raises:
        ConfigError: There would be no fakes.
    """

    def __init__(
        self, config: PriorConfig, data: FittingData, segment: Segment | None, device: torch.device
    ):
        if segment is None and config.anchors.kind == "none":
            raise ConfigError(
                "anchors.kind: none leaves no fakes without a segmentor; choose local"
            )
        self.config, self.data, self.segment, self.device = config, data, segment, device
        with quiet_generator(config.seed):
            self.discriminator = fresh_discriminator(config).to(device)
        self.adversary = Adversary(self.discriminator, config, AdversarialConfig(), device)
        self.optimizer = torch.optim.Adam(self.discriminator.parameters())
        self.progress = FittingProgress()

    def tensors(self) -> dict[str, Tensor]:
        """All tensors that a resumed fit needs."""
        network = self.discriminator.state_dict()
        return {
            **{f"{_NETWORK}.{name}": tensor for name, tensor in network.items()},
            **optimizer_tensors(self.optimizer, _OPTIMIZER),
        }

    def restore(self, tensors: dict[str, Tensor], progress: dict[str, Any], path: Any) -> None:
        """Go on from what `tensors` and `progress` said."""
        prefix = f"{_NETWORK}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        load_tensors(self.discriminator, own, path)
        load_optimizer(self.optimizer, _OPTIMIZER, tensors)
        self.progress = FittingProgress(**progress)

    def run(self, on_iteration: Callable[[float], None], on_look: Callable[[Row], None]) -> None:
        """Fit to the last iteration.

        Args:
            on_iteration: Called with the loss of each.
            on_look: Called with the figures of each look at what is held out: the moment to save.

        Raises:
            RunError: The loss is not finite.
        """
        fitting, progress = self.config.fitting, self.progress
        while progress.iteration < fitting.iterations:
            loss = self._iterate(progress.iteration)
            progress.iteration += 1
            if not math.isfinite(loss):
                raise RunError(
                    f"fitting diverged: the loss is not finite at iteration {progress.iteration};"
                    " lower fitting.learning_rate and choose another --out"
                )
            on_iteration(loss)
            last = progress.iteration == fitting.iterations
            if last or progress.iteration % fitting.look_every == 0:
                row = {"iteration": float(progress.iteration), **self.look()}
                progress.history.append(row)
                on_look(row)

    @torch.no_grad()
    def look(self) -> Row:
        """What the discriminator makes of masks that it was and was not fitted to."""
        self.discriminator.eval()
        data, row = self.data, Row()
        for name, masks, images in (
            ("train", data.masks, data.images),
            ("val", data.held_out_masks, data.held_out_images),
        ):
            predicted = None
            if self.segment and images is not None:
                parts = images[spread(len(images))].split(_BATCH)
                predicted = torch.cat([self.segment(part.to(self.device)) for part in parts])
            row |= self.adversary.judge(name, masks[spread(len(masks))], None, predicted)
        return row

    def prior(self) -> FittedPrior:
        """The discriminator as it is after the last look."""
        last = self.progress.history[-1]
        return FittedPrior(
            config=self.config,
            discriminator=self.discriminator.eval().requires_grad_(False),
            enough=last.get("val_score_predicted", last["val_score_real"]),
            history=tuple(self.progress.history),
        )

    def _iterate(self, iteration: int) -> float:
        fitting, data = self.config.fitting, self.data
        rng = np.random.default_rng([self.config.seed, iteration])
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        chosen = torch.from_numpy(rng.integers(len(data.masks), size=fitting.batch))
        kinds = self.adversary.real_and_fakes(data.masks[chosen], None, rng)
        predicted = []
        if self.segment and data.images is not None:
            chosen = torch.from_numpy(rng.integers(len(data.images), size=fitting.batch))
            images = degraded(data.images[chosen], self.config.degradation, rng)
            with torch.no_grad():
                predicted.append(self.segment(images.to(self.device))[:, 1:])
        self.discriminator.train()
        real = kinds.pop("real")
        loss, total = self.adversary.loss(real, predicted, list(kinds.values()), generator)
        share = iteration / fitting.iterations
        self.optimizer.param_groups[0]["lr"] = (
            fitting.learning_rate * (1 + math.cos(math.pi * share)) / 2
        )
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()
        return loss.item()


def degraded(images: Images, config: DegradationConfig, rng: np.random.Generator) -> Images:
    """Images, some of them as if from another scanner, of the range that they had.

    Args:
        images: However they are standardised; every channel is degraded on its own.
        config: How many, and how far.
        rng: The source of all randomness.
    """
    if not config.probability:
        return images
    from maskmend.degrade import degrade_volume  # seconds of imports

    images = images.clone()
    for hit in np.flatnonzero(rng.random(len(images)) < config.probability):
        for channel in images[hit]:
            quarters = channel.flatten().quantile(channel.new_tensor([0.25, 0.5, 0.75]))
            low, median, high = quarters.tolist()
            changed = degrade_volume(channel[None, None], config, PreprocessConfig(), rng)
            channel.copy_(changed[0, 0] * ((high - low) or channel.std()) + median)
    return images
