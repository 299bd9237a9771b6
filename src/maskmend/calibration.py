"""What a run knows of its own mistakes: predicted Dice, and the gain that is worth the risk.

Fitted once, after training, on the validation patients, plain and degraded at random.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.checkpoint import CALIBRATION
from maskmend.errors import InputError, RunError
from maskmend.quality import Described, Quality, fit_quality

HARM = 0.01
"""Loss of Dice that counts as harm."""
FEW = 0.01
"""Share of the validation images that may be harmed."""
_CAUTIONS = [*np.linspace(0, 1, 51), 1e9]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that choosing among masks needs beside the networks."""

    quantiles: Float[Tensor, " quantile"]
    """Mean quantiles of the training images."""
    first: Quality
    """Of the masks of the ways alone."""
    quality: Quality
    """Of these and of what was made of the best."""
    caution: float
    """Gain of Dice that a mask must promise for each point in which it differs from the plain one.
    A small change can do little harm, and needs to promise little."""
    correlation: float
    """Between predicted and true Dice of the plain masks, every patient predicted by the others."""

    def choose(self, described: Described) -> int:
        """The mask to take; 0, the plain one, if no other promises enough."""
        return choose(self.quality.predict(described.features), described.change, self.caution)

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers, for JSON."""
        return {
            "quantiles": self.quantiles.tolist(),
            "first": self.first.to_dict(),
            "quality": self.quality.to_dict(),
            "caution": self.caution,
            "correlation": self.correlation,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibration":
        """What `to_dict` made."""
        return cls(
            quantiles=torch.tensor(saved["quantiles"]),
            first=Quality.from_dict(saved["first"]),
            quality=Quality.from_dict(saved["quality"]),
            caution=saved["caution"],
            correlation=saved["correlation"],
        )


def read_calibration(run: Path) -> Calibration | None:
    """A run's calibration, if it has one.

    Raises:
        RunError: The file is damaged.
    """
    try:
        return Calibration.from_dict(json.loads((run / CALIBRATION).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(
            f"{run / CALIBRATION}: is damaged; remove it and calibrate the run again"
        ) from error


@dataclass(frozen=True)
class Trial:
    """All masks of one image of a validation patient."""

    patient: str
    described: Described
    dice: Float[np.ndarray, " mask"]


def fit(trials: Sequence[Trial], without: str | None = None) -> Quality:
    """Predicted Dice, learnt from trials.

    Args:
        trials: Of any number of patients.
        without: A patient that is to be predicted, and not learnt from.

    Raises:
        InputError: There are fewer than two patients.
    """
    check_enough({trial.patient for trial in trials})
    used = [trial for trial in trials if trial.patient != without]
    features = np.concatenate([trial.described.features for trial in used])
    return fit_quality(features, np.concatenate([trial.dice for trial in used]))


def calibrate(
    trials: Sequence[Trial], first: Quality, quantiles: Float[Tensor, " quantile"]
) -> Calibration:
    """Fit predicted Dice to trials, and find the least caution that did no harm in them.

    Every patient is predicted by a regression on the others, so that the caution covers what is not
    known of a new patient.

    Args:
        trials: Of all candidates, the retouched ones too.
        first: Predicts the Dice of the ways alone.
        quantiles: Mean quantiles of the training images.

    Raises:
        InputError: There are fewer than two patients.
    """
    qualities = {p: fit(trials, without=p) for p in {trial.patient for trial in trials}}
    predicted = [qualities[one.patient].predict(one.described.features) for one in trials]
    plain = (np.array([v[0] for v in predicted]), np.array([one.dice[0] for one in trials]))
    return Calibration(
        quantiles=quantiles,
        first=first,
        quality=fit(trials),
        caution=_least_caution(trials, predicted),
        correlation=_correlation(*plain),
    )


def choose(
    predicted: Float[np.ndarray, " mask"], change: Float[np.ndarray, " mask"], caution: float
) -> int:
    """The mask of the highest predicted Dice among those that promise enough for their change.

    Args:
        predicted: Dice of each, the plain one first.
        change: How far each is from the plain one.
        caution: Promise that is wanted for a change of 1.

    Returns:
        Its number; 0 if none does.
    """
    promises_enough = predicted - predicted[0] > caution * change
    return int(np.where(promises_enough, predicted, -1).argmax()) if promises_enough.any() else 0


def check_enough(patients: Collection[str]) -> None:
    """Raises InputError if there are too few validation patients to calibrate with."""
    if len(patients) < 2:
        raise InputError(
            f"calibration needs two or more validation patients, but there are {len(patients)};"
            " add patients, or choose adaptation.method: paper"
        )


def _least_caution(
    trials: Sequence[Trial], predicted: Sequence[Float[np.ndarray, " mask"]]
) -> float:
    """So that few masks lost more than HARM, and none more than 3 of it."""
    for caution in _CAUTIONS:
        taken = [
            choose(ours, one.described.change, caution)
            for ours, one in zip(predicted, trials, strict=True)
        ]
        lost = np.array([one.dice[0] - one.dice[n] for n, one in zip(taken, trials, strict=True)])
        if np.count_nonzero(lost > HARM) <= FEW * len(trials) and not (lost > 3 * HARM).any():
            break
    return float(caution)


def _correlation(a: Float[np.ndarray, " trial"], b: Float[np.ndarray, " trial"]) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
