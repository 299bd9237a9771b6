"""The mask of one image, and what to say of it.

Axes: slice, class, height, width; volumes have the axes of their file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.data.preprocess import SliceGrid, labels_on_grid, touches_crop
from maskmend.data.volume import Volume, write_mask
from maskmend.instance import Adapted

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
    """An image that is ready for the networks."""

    volume: Volume
    grid: SliceGrid
    slices: Float[Tensor, "slice 1 height width"]


def finish(prepared: Sequence[Prepared], adapted: Sequence[Adapted]) -> list[Prediction]:
    """A patient's predictions on the grids of its images.

    Args:
        prepared: The patient's images.
        adapted: What adaptation made of their slices, one after another.
    """
    lengths = [len(p.slices) for p in prepared]
    masks, plain, scores, plain_scores = (
        torch.cat([getattr(one, name) for one in adapted]).split(lengths)
        for name in ("masks", "plain", "scores", "plain_scores")
    )
    given_up = next((one.message for one in adapted if one.message), "")
    made = []
    for number, image in enumerate(prepared):
        labels = labels_on_grid(masks[number], image.grid)
        problem = _problem(labels, masks[number], image.grid)
        # A volume that was mended is an instance of its own, and its score is its predicted Dice.
        decision = adapted[number].decision if len(adapted) == len(prepared) else ""
        realism = scores[number].mean().item()
        if decision and not problem and realism < DOUBTFUL:
            problem = f"predicted Dice {realism:.2f}: the mask is likely wrong; look at it"
        prediction = Prediction(
            volume=image.volume,
            labels=labels,
            plain=labels_on_grid(plain[number], image.grid),
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


def _problem(labels: UInt8[np.ndarray, "x y z"], masks: Tensor, grid: SliceGrid) -> str:
    """Why a person ought to look at a mask; nothing if there is no reason."""
    if not labels.any():
        return "no structure was found: the mask is empty; look at the image"
    if touches_crop(masks.argmax(1).cpu(), grid):
        side = grid.size * grid.spacing_mm
        return (
            f"the mask runs into the edge of the {side:.0f} mm square that the network sees;"
            " crop the image around the organ, or train with a larger preprocess.size"
        )
    return ""
