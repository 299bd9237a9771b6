"""The mask of one image, and what to say of it.

Axes: slice, class, height, width; volumes have the axes of their file.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.config import AdaptationConfig
from maskmend.data.preprocess import SliceGrid, labels_on_grid, mask_slices, touches_crop
from maskmend.data.volume import Volume, write_mask
from maskmend.instance import Adapted, Masks
from maskmend.plane import Plane

DOUBTFUL = 0.7
"""Predicted Dice below which a person is asked to look."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The mask of one image."""

    volume: Volume
    """The image."""
    labels: UInt8[np.ndarray, "x y z"]
    """Mask on the image's own grid."""
    plain: UInt8[np.ndarray, "x y z"]
    """Mask before adaptation."""
    realism_before: float
    """Prior's mean score of the plain mask's slices."""
    realism_after: float
    """Its mean score of the mask's slices."""
    steps: int
    """Updates of the adaptor; their mean where every slice has its own."""
    seconds: float
    """Time of adaptation; a patient's images share theirs evenly."""
    message: str = ""
    """What a person ought to know; with `check` set, what to look at."""
    decision: str = ""
    """What was decided and why, where there was a choice."""
    check: bool = False
    """Whether the mask needs a look: empty, cut by the crop, or likely wrong."""

    def save(self, path: str | Path) -> None:
        """Write the mask, uint8, with the image's geometry; raises InputError if it cannot be."""
        write_mask(Path(path), self.labels, self.volume)


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """An image that is ready for the networks, and the way back."""

    volume: Volume
    grid: SliceGrid
    slices: Float[Tensor, "slice channel height width"]

    @property
    def plane(self) -> Plane:
        """Where the slices lie."""
        side = self.grid.size * self.grid.spacing_mm
        return Plane(size_mm=(side, side))

    def labels(self, masks: Masks) -> UInt8[np.ndarray, "x y z"]:
        """The mask on the file's grid."""
        return labels_on_grid(masks, self.grid)

    def truth(self, mask: Volume, classes: int) -> UInt8[Tensor, "slice height width"]:
        """A mask of the file's grid on the slices."""
        return mask_slices(mask, self.grid, classes)

    def cut(self, masks: Masks) -> str:
        """What to say of a mask that runs into the crop, if it does."""
        if not touches_crop(masks.argmax(1).cpu(), self.grid):
            return ""
        side = self.grid.size * self.grid.spacing_mm
        return (
            f"the mask runs into the edge of the {side:.0f} mm square that the network sees;"
            " crop the image around the organ, or train with a larger preprocess.size"
        )


class Shown(Protocol):
    """What there must be of an image that a network is shown; `Prepared` is one way."""

    @property
    def volume(self) -> Volume:
        """The image, or its first channel."""

    @property
    def slices(self) -> Float[Tensor, "slice channel height width"]:
        """What the network takes."""

    @property
    def plane(self) -> Plane:
        """Where the slices lie."""

    def labels(self, masks: Masks) -> UInt8[np.ndarray, "x y z"]:
        """A mask of the slices on the file's grid."""

    def truth(self, mask: Volume, classes: int) -> UInt8[Tensor, "slice height width"]:
        """A mask of the file's grid on the slices; `labels`, backwards."""

    def cut(self, masks: Masks) -> str:
        """What to say of a mask that is cut by the border of what the network sees, if it is."""


class Predictor(Protocol):
    """What makes masks of images: a trained run, or a model that was not trained here."""

    @property
    def device(self) -> torch.device:
        """Where it computes."""

    @property
    def structures(self) -> Mapping[int, str]:
        """Name of each label but the background's."""

    def check(self, settings: AdaptationConfig) -> None:
        """Raises ConfigError or RunError if no mask can be made so, before any is."""

    def made_by(self, settings: AdaptationConfig) -> dict[str, Any]:
        """What masks depend on, but for the images; for JSON."""

    def loader(self) -> Callable[[], "Predictor"]:
        """Loads the same in another process."""

    def prepare(self, image: Path) -> Shown:
        """Read an image and slice it; raises InputError if it cannot be used."""

    def adapt_patients(
        self, patients: Iterable[Sequence[Any]], settings: AdaptationConfig
    ) -> Iterator[tuple[int, list[Adapted]]]:
        """Adapt to patients, given what `prepare` made of their images."""


def finish(prepared: Sequence[Shown], adapted: Sequence[Adapted]) -> list[Prediction]:
    """A patient's predictions on the grids of its images.

    Args:
        prepared: The patient's images.
        adapted: What adaptation made of their slices, one after another.
    """
    lengths = [len(p.slices) for p in prepared]
    masks, plain, scores, plain_scores = (
        by_length([getattr(one, name) for one in adapted], lengths)
        for name in ("masks", "plain", "scores", "plain_scores")
    )
    given_up = next((one.message for one in adapted if one.message), "")
    made = []
    for number, image in enumerate(prepared):
        labels = image.labels(masks[number])
        problem = _problem(labels, image, masks[number])
        # A volume that was mended is an instance of its own, and its score is its predicted Dice.
        decision = adapted[number].decision if len(adapted) == len(prepared) else ""
        realism = scores[number].mean().item()
        if decision and not problem and realism < DOUBTFUL:
            problem = f"predicted Dice {realism:.2f}: the mask is likely wrong; look at it"
        prediction = Prediction(
            volume=image.volume,
            labels=labels,
            plain=image.labels(plain[number]),
            realism_before=plain_scores[number].mean().item(),
            realism_after=realism,
            steps=round(sum(one.steps for one in adapted) / len(adapted)),
            seconds=sum(one.seconds for one in adapted) / len(prepared),
            message="; ".join(filter(None, (problem, given_up))),
            decision=decision,
            check=bool(problem),
        )
        made.append(prediction)
    return made


def by_length(parts: Sequence[Tensor], lengths: Sequence[int]) -> list[Tensor]:
    """The slices of instances, one after another, as those of images, which may differ in size."""
    slices = [one for part in parts for one in part.split(1)]
    ends = list(itertools.accumulate(lengths, initial=0))
    return [torch.cat(slices[a:b]) for a, b in itertools.pairwise(ends)]


def _problem(labels: UInt8[np.ndarray, "x y z"], image: Shown, masks: Masks) -> str:
    """Why a person ought to look at a mask; nothing if there is no reason."""
    if not labels.any():
        return "no structure was found: the mask is empty; look at the image"
    return image.cut(masks)
