"""Adaptation that is never meant to harm: several starts, judged, and a guard.

1. Segment the volume in every way: each correction of the image with each batch norm.
2. Predict the Dice of every mask; see `quality`.
3. Blend the best masks; tune a retouch of the best way's image towards the blend; judge these too.
4. Take the best that promises enough for the change that it makes, else leave the plain mask.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.calibration import Calibration
from maskmend.instance import Adapted
from maskmend.quality import Described, Look, Quality, describe, look
from maskmend.retouch import Retouched, retouch
from maskmend.ways import Blend, Candidate, Images, Masks, Way

_BLENDED = 5


@dataclass(frozen=True)
class Mended:
    """The candidates that came of looking at those before."""

    candidates: Sequence[Candidate]
    """The blend and the retouched way."""
    looks: Sequence[Look]
    """Of their masks."""
    retouched: Retouched
    """The retouched way, again."""


@dataclass(frozen=True, kw_only=True)
class Mender:
    """The ways in which a run can segment a volume, and what judges them."""

    ways: Sequence[Way]
    """Plain inference first."""
    score: Callable[[Masks, Images], Float[Tensor, " slice"]]
    """The discriminator's, of masks and what they are masks of."""
    classes: int
    """Of the masks, the background included."""
    steps: int | None = None
    """Of the retouch; None: chosen by itself."""

    def looks(self, images: Images) -> list[Look]:
        """The mask that each way makes, and what can be said of it alone."""
        return [self._look(way.masks(images), images) for way in self.ways]

    def describe(self, looks: Sequence[Look]) -> Described:
        """The figures that Dice is predicted from."""
        return describe(looks, self.classes)

    def further(
        self,
        images: Images,
        looks: Sequence[Look],
        quality: Quality,
        carried: nn.Module | None = None,
    ) -> Mended:
        """Candidates that are made of the ways that promise most.

        Args:
            images: All slices of the volume.
            looks: The ways' masks.
            quality: Predicts their Dice.
            carried: See `retouch`.
        """
        order = np.argsort(-quality.predict(self.describe(looks).features), kind="stable")
        best = [self.ways[number] for number in order[:_BLENDED]]
        blend = Blend(name=f"a blend with {best[0].name}", ways=best)
        target = blend.masks(images)
        tuned = retouch(best[0], images, target, steps=self.steps, carried=carried)
        looks = [self._look(masks, images) for masks in (target, tuned.way.masks(images))]
        return Mended([blend, tuned.way], looks, tuned)

    def mend(
        self, images: Images, calibration: Calibration, carried: nn.Module | None = None
    ) -> Adapted:
        """Segment one volume in the way that promises the best mask, or in the plain one.

        Args:
            images: All its slices, on the networks' device.
            calibration: What the run knows of its own mistakes.
            carried: What was tuned on the last volume of a stream.

        Returns:
            Masks before and after, with predicted Dice as scores.
        """
        start = time.perf_counter()
        looks = self.looks(images)
        more = self.further(images, looks, calibration.first, carried)
        candidates: list[Candidate] = [*self.ways, *more.candidates]
        described = self.describe([*looks, *more.looks])
        predicted = calibration.quality.predict(described.features)
        taken = calibration.choose(described)
        best = int(predicted.argmax())
        if taken:
            promised = predicted[taken] - predicted[0]
            decision = f"mended by {candidates[taken].name}: Dice +{promised:.2f}"
        elif best:
            promised = predicted[best] - predicted[0]
            decision = f"left alone: +{promised:.2f} is not worth the risk"
        else:
            decision = "left alone: nothing promises more"
        plain = candidates[0].masks(images, exact=True)
        tuned = more.retouched if taken == len(candidates) - 1 else None
        return Adapted(
            plain=plain,
            masks=candidates[taken].masks(images, exact=True) if taken else plain,
            losses=tuned.losses if tuned else (),
            plain_scores=torch.full((len(images),), float(predicted[0])),
            scores=torch.full((len(images),), float(predicted[taken])),
            steps=tuned.steps if tuned else 0,
            seconds=time.perf_counter() - start,
            decision=decision,
            adaptor=tuned.adaptor if tuned else None,
        )

    def _look(self, masks: Masks, images: Images) -> Look:
        with torch.no_grad():
            return look(masks, self.score(masks, images))
