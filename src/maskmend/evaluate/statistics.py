"""Did it help? Scores before and after adaptation, compared image by image.

The images of one patient (both phases of a heart, the slices of a volume) resemble one another, so
they are no independent evidence. The test and the interval therefore count patients, whatever the
unit of the scores; means and standard deviations count images.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

ONE_POINT = 0.01
"""One Dice point: an image that loses more was harmed."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Mean and standard deviation of some values."""

    mean: float
    sd: float
    """With n - 1 in the denominator; 0 for a single value."""

    @classmethod
    def of(cls, values: npt.ArrayLike) -> "Spread":
        """Summarise `values`; ValueError when there are none."""
        array = _finite(values, "values")
        return cls(mean=float(array.mean()), sd=float(array.std(ddof=1)) if len(array) > 1 else 0.0)


@dataclass(frozen=True, kw_only=True)
class Change:
    """One score before and after, over the same images."""

    n: int
    """Pairs, that is images."""
    patients: int
    before: Spread
    after: Spread
    gain: float
    """Mean of after - before. More is better for Dice and IoU, less for distances."""
    gain_ci95: tuple[float, float] | None
    """Percentile bootstrap over patients; None for a single patient, where there is no spread."""
    p_value: float
    """Wilcoxon signed-rank test, two-sided, of the patients' mean gains."""


@dataclass(frozen=True, kw_only=True)
class Harm:
    """What adaptation made worse. A mean gain can hide it."""

    count: int
    """Images that lost more than the tolerance."""
    share: float
    worst_loss: float
    """The largest before - after, or 0 when no image lost anything."""


def compare(
    before: npt.ArrayLike,
    after: npt.ArrayLike,
    patients: Sequence[Hashable] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Change:
    """Compare paired scores; the paper's test (section 4) with its effect size beside it.

    Zero differences say nothing about the direction and are left out of the Wilcoxon test (its
    original form); where all are zero, p is 1.

    Args:
        before: Scores of n images, [n].
        after: Scores of the same images in the same order, [n].
        patients: The patient of each image; by default every image is a patient of its own.
        resamples: Bootstrap samples behind the interval.
        seed: Seed of the bootstrap.

    Raises:
        ValueError: Lengths differ, there are no pairs, or a score is not finite.
    """
    old, new = _pairs(before, after)
    gains = new - old
    if patients is not None and len(patients) != len(gains):
        raise ValueError(f"patients must name {len(gains)} images, got {len(patients)}")
    order: dict[Hashable, int] = {}  # not np.unique: identifiers need not be sortable
    owner = [order.setdefault(p, len(order)) for p in patients or range(len(gains))]
    sums = np.bincount(owner, weights=gains)
    counts = np.bincount(owner)
    return Change(
        n=len(gains),
        patients=len(counts),
        before=Spread.of(old),
        after=Spread.of(new),
        gain=float(gains.mean()),
        gain_ci95=_bootstrap_ci95(sums, counts, resamples, seed) if len(counts) > 1 else None,
        p_value=_wilcoxon(sums / counts),
    )


def harm(before: npt.ArrayLike, after: npt.ArrayLike, tolerance: float = ONE_POINT) -> Harm:
    """Count the images that lost more than `tolerance` of a score where more is better.

    Raises:
        ValueError: Lengths differ, there are no pairs, or a score is not finite.
    """
    old, new = _pairs(before, after)
    losses = old - new
    lost = losses > tolerance
    return Harm(
        count=int(lost.sum()), share=float(lost.mean()), worst_loss=max(0.0, float(losses.max()))
    )


def _wilcoxon(differences: np.ndarray) -> float:
    nonzero = differences[differences != 0]
    return float(stats.wilcoxon(nonzero).pvalue) if len(nonzero) else 1.0


def _bootstrap_ci95(
    sums: np.ndarray, counts: np.ndarray, resamples: int, seed: int
) -> tuple[float, float]:
    """Interval of the mean gain over images, drawing whole patients with replacement."""
    drawn = np.random.default_rng(seed).integers(len(counts), size=(resamples, len(counts)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def _pairs(before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    old, new = _finite(before, "before"), _finite(after, "after")
    if len(old) != len(new):
        raise ValueError(f"before and after must be pairs, got {len(old)} and {len(new)} scores")
    return old, new


def _finite(values: npt.ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ValueError(f"{name} must be a list of at least one finite score")
    return array
