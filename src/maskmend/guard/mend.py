"""Adaptation that is never meant to harm: several starts, judged, and a guard.

0. Turn slices that lie on their side; see `symmetry`.
1. Steady the plain mask: the mean over the image moved by a few pixels, its largest pieces.
2. Segment the volume in every way: corrections and views of the image, mixtures of statistics.
   Blend the masks that agree best with the others.
3. Predict the Dice of every mask; see `quality`.
4. Unless the plain mask is good enough, take the best mask whose promise is beyond doubt. Where any
   mask is trusted, one more is made before: a retouch of the image is tuned until the discriminator
   is content with the mask, near the blend.
5. Else the mask that the committee or its advice puts in the plain one's place, the steadied one,
   or the plain one; see `choice`.

Axes: slice, channel or class, height, width; the slices of one volume.
"""

import dataclasses
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from maskmend.components import largest_pieces, one_hot
from maskmend.guard.calibration import Calibration
from maskmend.guard.choice import PLAIN, STEADIED
from maskmend.guard.quality import (
    Judged,
    Look,
    agreements,
    describe,
    figures,
    labels_of,
    look,
)
from maskmend.guard.retouch import Aim, Retouched, retouch
from maskmend.guard.symmetry import Symmetry, likelier
from maskmend.guard.ways import ADVISED, COMMITTEE, Images, Masks, Way
from maskmend.instance import Adapted
from maskmend.prediction import DOUBTFUL

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
    """How, or the first of those that were averaged."""
    tuned: Retouched | None = None
    """The retouch, if it comes of one."""


@dataclass(frozen=True, kw_only=True)
class Mender:
    """The ways in which a run can segment a volume, and what judges them."""

    ways: Sequence[Way]
    """Plain inference first; in the hardware's precision."""
    committees: Mapping[str, Mapping[str, float]]
    """By its name, the shares of the ways, by theirs, whose mean is one more mask."""
    neighbours: Sequence[Way]
    """The mean with these is steadier than plain inference alone."""
    plain: Callable[[Images], Masks]
    """Plain inference in 32 bits."""
    score: Callable[[Masks, Images], Float[Tensor, " slice"]]
    """The discriminator's, of masks and what they are masks of."""
    realistic: float
    """Score of true masks."""
    classes: int
    """Of the masks, the background included."""

    @property
    def names(self) -> Sequence[str]:
        """Of the masks, in their order; a blend and its retouch, in short."""
        plain, *others = (way.name for way in self.ways)
        return [plain, "steadied", *others, *self.committees, "blend", "retouched"]

    @property
    def means(self) -> Sequence[int]:
        """Places of the committees' masks."""
        return [self.names.index(committee) for committee in self.committees]

    def place(self, committee: str) -> int | None:
        """Place of a committee's mask, if there is one."""
        return self.names.index(committee) if committee in self.committees else None

    def candidates(self, images: Images) -> list[Candidate]:
        """The plain mask, steadied; the mask of every other way and of committees; the blend.

        Args:
            images: All slices of the volume.
        """
        made = self._each_way(images)
        by_name = {one.name: one for one in made}
        agreed = agreements([one.look.labels for one in made], self.classes).mean(1)
        best = [made[number] for number in np.argsort(-agreed, kind="stable")[:_BLENDED]]
        alike = [1 / len(best)] * len(best)
        committees = [
            self._together(name, [by_name[way] for way in shares], [*shares.values()], images)
            for name, shares in self.committees.items()
        ]
        plain, *others = made
        return [
            plain,
            self._candidate("steadied", self._steady(plain.masks, images), images, way=plain.way),
            *others,
            *committees,
            self._together(f"a blend with {best[0].name}", best, alike, images),
        ]

    def retouched(
        self, images: Images, blend: Candidate, carried: nn.Module | None = None
    ) -> Candidate:
        """What is tuned from the blend's best way on.

        Args:
            images: All slices of the volume.
            blend: The last of `candidates`.
            carried: See `retouch`.
        """
        aim = Aim(masks=blend.masks, score=self.score, realistic=self.realistic)
        tuned = retouch(blend.way, images, aim, carried=carried)
        way = tuned.way
        return self._candidate(way.name, way.masks(images), images, way=way, tuned=tuned)

    @property
    def figures(self) -> int:
        """How many there are of each mask; see `describe`."""
        return figures(self.classes, len(self.names) - 1)

    def describe(self, candidates: Sequence[Candidate]) -> Float[np.ndarray, "mask feature"]:
        """The figures that Dice is predicted from; of `candidates`, and of a retouched one."""
        company = len(self.names) - 1
        return describe([one.look for one in candidates], self.classes, company)

    def shared(self, candidates: Sequence[Candidate]) -> float:
        """Dice between the plain mask and the committee's, if there is one; else 1."""
        place = self.place(COMMITTEE)
        if place is None:
            return 1.0
        labels = [candidates[number].look.labels for number in (PLAIN, place)]
        return float(agreements(labels, self.classes)[0, 1])

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
        candidates = self.candidates(images)
        made = best = self._chosen(candidates, images, calibration, carried)
        for symmetry in self.symmetries(images, candidates):
            slices = symmetry.of(images).contiguous()
            turned = self._chosen(self.candidates(slices), slices, calibration, carried)
            # Where none is any good, chance would choose.
            if turned.realism_after > max(best.realism_after, DOUBTFUL):
                best = _turned_back(turned, symmetry, made)
        return dataclasses.replace(best, seconds=time.perf_counter() - start)

    def symmetries(self, images: Images, candidates: Sequence[Candidate]) -> Sequence[Symmetry]:
        """How slices may have to be turned before they are segmented, if they may.

        Two students tell it, which differ in chance alone, or an only one and its segmentor.

        Args:
            images: All slices of the volume.
            candidates: Its masks, of `candidates`.
        """
        shares = self.committees.get(ADVISED, {})
        asked = [way for way in self.ways if way.name in shares][-2:]
        made = {one.name: one.masks for one in candidates}
        opinions, upright = [way.masks for way in asked], [made[way.name] for way in asked]
        return likelier(images, opinions, upright, self.classes) if asked else []

    def _chosen(
        self,
        candidates: Sequence[Candidate],
        images: Images,
        calibration: Calibration,
        carried: nn.Module | None,
    ) -> Adapted:
        """The mask that the guard takes, of these and what is tuned from them."""
        quality, guard = calibration.quality, calibration.guard
        judged = quality.judge(self.describe(candidates))
        if judged.dice[PLAIN] < guard.gate and guard.trusted is None:
            candidates = [*candidates, self.retouched(images, candidates[-1], carried)]
            judged = quality.judge(self.describe(candidates))
        shared = self.shared(candidates)
        taken = guard.choose(judged, shared)
        outvoted = taken == guard.committee and shared < guard.outvoted
        plain, chosen = self.plain(images), candidates[taken]
        return Adapted(
            plain=plain,
            masks=chosen.masks if taken else plain,
            losses=chosen.tuned.losses if chosen.tuned else (),
            plain_scores=torch.full((len(images),), float(judged.dice[PLAIN])),
            scores=torch.full((len(images),), float(judged.dice[taken])),
            steps=chosen.tuned.steps if chosen.tuned else 0,
            seconds=0.0,
            decision=_decision(chosen.name, judged, taken, outvoted),
            adaptor=chosen.tuned.adaptor if chosen.tuned else None,
            plain_shown=images,
            shown=chosen.way.shown(images) if taken else None,
        )

    def _each_way(self, images: Images) -> list[Candidate]:
        """The mask of every way; what several share is computed once."""
        made: dict[Hashable, Candidate] = {}
        for way in self.ways:
            if way.how not in made:
                made[way.how] = self._candidate(way.name, way.masks(images), images, way=way)
        return [dataclasses.replace(made[way.how], name=way.name, way=way) for way in self.ways]

    def _steady(self, plain: Masks, images: Images) -> Masks:
        masks = torch.stack([plain, *(way.masks(images) for way in self.neighbours)]).mean(0)
        labels = labels_of(masks).cpu()
        specks = (labels != largest_pieces(labels)).to(masks.device)
        nothing = one_hot(torch.zeros_like(labels), self.classes).to(masks)
        return torch.where(specks[:, None], nothing, masks)

    def _together(
        self, name: str, members: Sequence[Candidate], shares: Sequence[float], images: Images
    ) -> Candidate:
        masks = sum(share * one.masks for one, share in zip(members, shares, strict=True))
        assert isinstance(masks, Tensor)
        return self._candidate(name, masks, images, way=members[0].way)

    def _candidate(
        self, name: str, masks: Masks, images: Images, *, way: Way, tuned: Retouched | None = None
    ) -> Candidate:
        with torch.no_grad():
            seen = look(masks, self.score(masks, images))
        return Candidate(name=name, masks=masks, look=seen, way=way, tuned=tuned)


def _turned_back(turned: Adapted, symmetry: Symmetry, plain: Adapted) -> Adapted:
    """Masks of turned slices, beside the plain ones of the slices as they are."""
    gain = turned.realism_after - plain.realism_before
    shown = turned.plain_shown if turned.shown is None else turned.shown
    return dataclasses.replace(
        turned,
        plain=plain.plain,
        plain_scores=plain.plain_scores,
        plain_shown=plain.plain_shown,
        masks=symmetry.back(turned.masks).contiguous(),
        shown=None if shown is None else symmetry.back(shown),
        decision=f"mended, the slices {symmetry.name}: Dice +{gain:.2f}",
    )


def _decision(name: str, judged: Judged, taken: int, outvoted: bool) -> str:
    """For people: what was decided, and why."""
    predicted = judged.dice
    if taken == STEADIED:
        return f"steadied: predicted Dice {predicted[PLAIN]:.2f}"
    if taken:
        unlike = ", unlike the plain mask" if outvoted else ""
        return f"mended by {name}{unlike}: Dice +{predicted[taken] - predicted[PLAIN]:.2f}"
    if best := int(predicted.argmax()):
        return f"left alone: +{predicted[best] - predicted[PLAIN]:.2f} is not worth the risk"
    return "left alone: nothing promises more"
