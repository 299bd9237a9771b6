"""How good a mask is, without its truth: realism calibrated to predicted Dice.

Several masks of one image, made in different ways, tell more than one: where all agree, all are
likely right. What is measured of each mask is put together by a ridge regression that was fitted on
the validation patients, plain and degraded, whose truth is known.

Axes: slice, class or structure, height, width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from maskmend.components import largest_pieces

Labels = UInt8[Tensor, "slice height width"]
Masks = Float[Tensor, "slice class height width"]

ALONE = (
    "score_mean",
    "score_least",
    "score_by_area",
    "entropy",
    "slices_with_structures",
    "log_area",
    "continuity",
    "largest_pieces",
    "classes",
)
"""What is measured of a mask alone; its structures' shares of the area follow."""
IN_COMPANY = ("agreement", "agreement_of_3", "agreement_of_8", "agreement_with_plain")
"""And of a mask among the others: its mean Dice with them, with the nearest 3, and 8."""


@dataclass(frozen=True)
class Look:
    """One mask of a volume and what was measured of it."""

    labels: Labels
    alone: tuple[float, ...]


def labels_of(masks: Masks) -> Labels:
    """The most probable class of every pixel."""
    return masks.max(1).indices.to(torch.uint8)  # argmax, in a fraction of its time on a CPU


def entropy(masks: Masks) -> Float[Tensor, ""]:
    """Mean entropy of what is not background, from 0 where all is certain."""
    foreground = 1 - masks[:, 0]
    everywhere = -(masks * masks.clamp(min=1e-6).log()).sum(1)
    return (everywhere * foreground).sum() / (foreground.sum() + 1)


def look(masks: Masks, scores: Float[Tensor, " slice"]) -> Look:
    """Measure a mask.

    Args:
        masks: Probabilities of the slices of one volume.
        scores: The discriminator's score of each.
    """
    labels = labels_of(masks)
    area = (labels > 0).sum((1, 2)).float()
    weight = area / area.sum().clamp(min=1)
    shares = torch.stack([(labels == c).sum() for c in range(1, masks.shape[1])])
    figures = torch.stack(
        [
            scores.mean(),
            scores.min(),
            (scores * weight).sum(),
            entropy(masks),
            (area > 0).float().mean(),
            area.mean().log1p(),
            *(shares / area.sum().clamp(min=1)),
        ]
    ).tolist()
    labels = labels.cpu()
    continuity = _continuity(labels, masks.shape[1])
    pieces = agreements([labels, largest_pieces(labels)], masks.shape[1])[0, 1]
    present = float(len(labels.unique()))
    return Look(labels, (*figures[:6], continuity, float(pieces), present, *figures[6:]))


def describe(
    looks: Sequence[Look], classes: int, company: int
) -> Float[np.ndarray, "mask feature"]:
    """Compare several masks of one volume, made in ways that are always the same.

    Features are, of each mask, its own figures and its agreement with the company, the difference
    of all these from those of the first mask, and which of the ways it was made in.

    Args:
        looks: At the masks; the plain one is the first.
        classes: Of the masks, the background included.
        company: So many, the first ones, are always made. One more may follow: then nothing that is
            known of these changes.
    """
    others = agreements([one.labels for one in looks], classes)
    with_plain = others[0].copy()
    np.fill_diagonal(others, -np.inf)
    nearest = -np.sort(-others[:, :company], axis=1)[:, : max(1, company - 1)]
    agreed = [nearest.mean(1), nearest[:, :3].mean(1), nearest[:, :8].mean(1), with_plain]
    own = np.column_stack([np.array([one.alone for one in looks]), *agreed])
    which = np.eye(len(looks), company + 1)
    return np.column_stack([own, own - own[0], which])


def figures(classes: int, company: int) -> int:
    """How many features `describe` makes of a mask."""
    own = len(ALONE) + classes - 1 + len(IN_COMPANY)
    return 2 * own + company + 1


def agreements(masks: Sequence[Labels], classes: int) -> Float[np.ndarray, "mask mask"]:
    """Dice between any two masks, the mean over structures; two that are both empty agree."""
    total = np.zeros((len(masks), len(masks)))
    stacked = torch.stack(list(masks)).flatten(1)
    for structure in range(1, classes):
        there = (stacked == structure).float()
        both, size = there @ there.T, there.sum(1)
        union = size[:, None] + size
        total += torch.where(union > 0, 2 * both / union.clamp(min=1), 1.0).numpy()
    return total / (classes - 1)


def _continuity(labels: Labels, classes: int) -> float:
    """Mean Dice between neighbouring slices; 0 where one of the two is empty."""
    if len(labels) == 1:
        return 1.0
    there = torch.stack([labels == c for c in range(1, classes)]).flatten(2).float()
    size = there.sum(2)
    both, union = (there[:, 1:] * there[:, :-1]).sum(2), size[:, 1:] + size[:, :-1]
    dice = torch.where(union > 0, 2 * both / union.clamp(min=1), 1.0).mean(0)
    filled = size.sum(0) > 0
    return float((dice * (filled[1:] & filled[:-1])).mean())


@dataclass(frozen=True)
class Judged:
    """What is expected of several masks of one volume, the plain one first."""

    dice: Float[np.ndarray, " mask"]
    """Predicted mean Dice over structures, from 0 to 1."""
    doubt: Float[np.ndarray, " mask"]
    """Standard error of the predicted gain over the first mask: large for masks unlike any that the
    regression has seen, and 0 for the first."""


@dataclass(frozen=True)
class Quality:
    """Predicted Dice of masks: a ridge regression on `describe`'s features."""

    centre: Float[np.ndarray, " feature"]
    spread: Float[np.ndarray, " feature"]
    weights: Float[np.ndarray, " feature+1"]
    """Of the standardised features; last the intercept."""
    covariance: Float[np.ndarray, "feature+1 feature+1"]
    """Of the weights, were masks independent of each other (Hoerl and Kennard 1970)."""

    def judge(self, features: Float[np.ndarray, "mask feature"]) -> Judged:
        """Predict the Dice of several masks of one volume.

        Args:
            features: Of each, the plain one first.
        """
        design = _design(features, self.centre, self.spread)
        change = design - design[0]
        variance = ((change @ self.covariance) * change).sum(1)
        return Judged((design @ self.weights).clip(0, 1), np.sqrt(variance.clip(min=0)))

    def to_dict(self) -> dict[str, list[Any]]:
        """As lists, for JSON."""
        return {name: values.tolist() for name, values in vars(self).items()}

    @classmethod
    def from_dict(cls, saved: dict[str, list[Any]]) -> "Quality":
        """What `to_dict` made."""
        return cls(**{name: np.array(values) for name, values in saved.items()})


def fit_quality(
    features: Float[np.ndarray, "mask feature"], dice: Float[np.ndarray, " mask"], ridge: float = 30
) -> Quality:
    """Fit predicted Dice to true Dice.

    Args:
        features: Of masks of any number of volumes.
        dice: Their true Dice.
        ridge: Weight of the penalty.
    """
    centre, spread = features.mean(0), features.std(0) + 1e-6
    design = _design(features, centre, spread)
    inverse = np.linalg.inv(design.T @ design + ridge * np.eye(design.shape[1]))
    weights = inverse @ design.T @ dice
    residual = float(np.mean((design @ weights - dice) ** 2))
    return Quality(centre, spread, weights, residual * inverse)


def _design(
    features: Float[np.ndarray, "mask feature"],
    centre: Float[np.ndarray, " feature"],
    spread: Float[np.ndarray, " feature"],
) -> Float[np.ndarray, "mask feature+1"]:
    # A mask unlike any that was seen must not be judged by far extrapolation.
    standard = ((features - centre) / spread).clip(-4, 4)
    return np.column_stack([standard, np.ones(len(features))])
