"""Adaptation that is never meant to harm: several starts, judged, and a guard.

1. Segment the volume in every way: corrections and views of the image, mixtures of statistics.
2. Blend the masks that agree best with the others. Tune a retouch of the image until the
   discriminator is content with the mask, near the blend.
3. Predict the Dice of every mask; see `quality`.
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
from maskmend.quality import Described, Look, agreements, describe, look
from maskmend.retouch import Aim, Retouched, retouch
from maskmend.ways import Images, Masks, Way

_BLENDED = 5


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A mask of a volume, and how it came about."""

    name: str
    masks: Masks
    """Probabilities."""
    look: Look
    """What was measured of them."""
    way: Way
    """How, or the best of those that were blended."""
    tuned: Retouched | None = None
    """The retouch, if it comes of one."""


@dataclass(frozen=True, kw_only=True)
class Mender:
    """The ways in which a run can segment a volume, and what judges them."""

    ways: Sequence[Way]
    """Plain inference first; in the hardware's precision."""
    plain: Callable[[Images], Masks]
    """Plain inference in 32 bits."""
    score: Callable[[Masks, Images], Float[Tensor, " slice"]]
    """The discriminator's, of masks and what they are masks of."""
    realistic: float
    """Score of true masks."""
    classes: int
    """Of the masks, the background included."""

    def candidates(self, images: Images, carried: nn.Module | None = None) -> list[Candidate]:
        """The mask of every way, then the blend, then that of the retouch.

        Args:
            images: All slices of the volume.
            carried: See `retouch`.
        """
        made = [self._candidate(way.name, way.masks(images), images, way=way) for way in self.ways]
        agreed = agreements([one.look.labels for one in made], self.classes).mean(1)
        best = np.argsort(-agreed, kind="stable")[:_BLENDED]
        first = self.ways[best[0]]
        blend = torch.stack([made[number].masks for number in best]).mean(0)
        aim = Aim(masks=blend, score=self.score, realistic=self.realistic)
        tuned = retouch(first, images, aim, carried=carried)
        way, masks = tuned.way, tuned.way.masks(images)
        return [
            *made,
            self._candidate(f"a blend with {first.name}", blend, images, way=first),
            self._candidate(way.name, masks, images, way=way, tuned=tuned),
        ]

    def describe(self, candidates: Sequence[Candidate]) -> Described:
        """The figures that Dice is predicted from."""
        return describe([one.look for one in candidates], self.classes)

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
        candidates = self.candidates(images, carried)
        described = self.describe(candidates)
        predicted = calibration.quality.predict(described.features)
        taken = calibration.choose(described)
        plain, chosen = self.plain(images), candidates[taken]
        return Adapted(
            plain=plain,
            masks=chosen.masks if taken else plain,
            losses=chosen.tuned.losses if chosen.tuned else (),
            plain_scores=torch.full((len(images),), float(predicted[0])),
            scores=torch.full((len(images),), float(predicted[taken])),
            steps=chosen.tuned.steps if chosen.tuned else 0,
            seconds=time.perf_counter() - start,
            decision=_decision(chosen.name, predicted, taken, calibration.guard.gate),
            adaptor=chosen.tuned.adaptor if chosen.tuned else None,
            plain_shown=images,
            shown=chosen.way.shown(images) if taken else None,
        )

    def _candidate(
        self, name: str, masks: Masks, images: Images, *, way: Way, tuned: Retouched | None = None
    ) -> Candidate:
        with torch.no_grad():
            seen = look(masks, self.score(masks, images))
        return Candidate(name=name, masks=masks, look=seen, way=way, tuned=tuned)


def _decision(name: str, predicted: Float[np.ndarray, " mask"], taken: int, gate: float) -> str:
    """For people: what was decided, and why."""
    if taken:
        return f"mended by {name}: Dice +{predicted[taken] - predicted[0]:.2f}"
    if predicted[0] >= gate:
        return f"left alone: predicted Dice {predicted[0]:.2f}"
    if best := int(predicted.argmax()):
        return f"left alone: +{predicted[best] - predicted[0]:.2f} is not worth the risk"
    return "left alone: nothing promises more"
