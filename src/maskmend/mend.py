"""Adaptation that is never meant to harm: several starts, judged, and a guard.

1. Segment the volume in every way: each correction of the image with each batch norm.
2. Predict the Dice of every mask; see `quality`.
3. Take the best if it promises enough over the plain one, else leave the plain mask alone.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.calibration import Calibration
from maskmend.instance import Adapted
from maskmend.quality import Look, describe, look
from maskmend.ways import Way

Images = Float[Tensor, "slice channel height width"]
Masks = Float[Tensor, "slice class height width"]


@dataclass(frozen=True, kw_only=True)
class Mender:
    """The ways in which a run can segment a volume, and what judges them."""

    ways: Sequence[Way]
    """In the hardware's precision, plain inference first."""
    exact: Sequence[Way]
    """The same in 32 bits, for the masks that are returned."""
    score: Callable[[Masks], Float[Tensor, " slice"]]
    """The discriminator."""
    classes: int
    """Of the masks, the background included."""

    def looks(self, images: Images) -> list[Look]:
        """The mask that each way makes, and what can be said of it alone."""
        found = []
        for way in self.ways:
            masks = way.masks(images)
            with torch.no_grad():
                found.append(look(masks, self.score(masks)))
        return found

    def describe(self, looks: Sequence[Look]) -> Float[np.ndarray, "way feature"]:
        """The figures that Dice is predicted from."""
        return describe(looks, self.classes)

    def mend(self, images: Images, calibration: Calibration) -> Adapted:
        """Segment one volume in the way that promises the best mask, or in the plain one.

        Args:
            images: All its slices, on the networks' device.
            calibration: What the run knows of its own mistakes.

        Returns:
            Masks before and after, with predicted Dice as scores.
        """
        start = time.perf_counter()
        predicted = calibration.quality.predict(self.describe(self.looks(images)))
        best = int(predicted.argmax())
        promised = float(predicted[best] - predicted[0])
        if promised > calibration.margin:
            taken, decision = best, f"mended by {self.ways[best].name}: Dice +{promised:.2f}"
        elif best:
            taken, decision = 0, f"left alone: +{promised:.2f} is not worth the risk"
        else:
            taken, decision = 0, "left alone: nothing promises more"
        plain = self.exact[0].masks(images)
        return Adapted(
            plain=plain,
            masks=self.exact[taken].masks(images) if taken else plain,
            losses=(),
            plain_scores=torch.full((len(images),), float(predicted[0])),
            scores=torch.full((len(images),), float(predicted[taken])),
            steps=0,
            seconds=time.perf_counter() - start,
            decision=decision,
        )
