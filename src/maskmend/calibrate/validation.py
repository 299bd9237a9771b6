"""What a calibration is done on: validation patients' images as they are, degraded, and spoiled.

Axes: slice, channel, height, width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.calibrate.artefacts import ARTEFACTS, spoil
from maskmend.calibrate.teacher import Teacher
from maskmend.calibrate.trial import Trial
from maskmend.components import one_hot
from maskmend.config import DegradationConfig
from maskmend.data.cohort import Case
from maskmend.data.volume import read_mask
from maskmend.degrade import degrade_volume
from maskmend.guard.mend import Mender
from maskmend.guard.quality import agreements
from maskmend.prediction import Shown


@dataclass(frozen=True)
class Example:
    """An image of a validation patient, as it is or changed, and its truth."""

    patient: str
    draw: int
    """0 is the image as it is, then come degraded copies, then as many with an artefact."""
    slices: Float[Tensor, "slice 1 height width"]
    labels: UInt8[Tensor, "slice height width"]
    seen: Shown
    """The image as it is."""

    @torch.no_grad()
    def realism(self, mender: Mender) -> float:
        """The discriminator's mean score of the true mask."""
        truth = one_hot(self.labels, mender.classes).to(self.slices)
        return mender.score(truth, self.slices).mean().item()

    def trial(self, mender: Mender) -> Trial:
        """All masks of it beside the truth."""
        candidates = mender.candidates(self.slices)
        candidates.append(mender.retouched(self.slices, candidates[-1]))
        labels = [self.labels, *(one.look.labels for one in candidates)]
        dice = agreements(labels, mender.classes)[0, 1:]
        features, shared = mender.describe(candidates), mender.shared(candidates)
        return Trial(self.patient, features, dice, self.draw, shared)


def examples(teacher: Teacher, case: Case, number: int, draws: int) -> Iterator[Example]:
    """The image as it is, degraded copies, and as many with artefacts.

    Args:
        teacher: What prepares it.
        case: An image with a mask.
        number: How many images came before; decides with the seed what is drawn.
        draws: Degraded copies.
    """
    assert case.image is not None
    seen, config = teacher.prepare(case.image), teacher.config
    rng = np.random.default_rng([config.seed, number])
    labels = true_labels(case, seen, config.data.classes)
    for draw in range(1 + 2 * draws):
        slices = seen.slices
        if draw:
            if draw <= draws:
                degraded = degrade_volume(slices, DegradationConfig(), config.preprocess, rng)
            else:
                # In turn: of some twenty patients' images, chance would show one kind seldom.
                artefact = ARTEFACTS[(number * draws + draw) % len(ARTEFACTS)]
                degraded = spoil(slices, artefact, config.preprocess, rng)
            # Between the two: a guard must know mild changes, in which there is less to gain.
            slices = torch.lerp(slices, degraded, float(rng.uniform(0.25, 1)))
        yield Example(case.patient, draw, slices.to(teacher.device), labels, seen)


def true_labels(case: Case, seen: Shown, classes: int) -> UInt8[Tensor, "slice height width"]:
    """People's mask of an image, on the slices that the segmentor sees."""
    assert case.mask is not None
    truth = read_mask(case.mask, labels=range(classes), like=seen.volume)
    return seen.truth(truth, classes)
