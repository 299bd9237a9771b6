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
from maskmend.quality import Quality, fit_quality

HARM = 0.01
"""Loss of Dice that counts as harm."""
FEW = 0.01
"""Share of the validation images that may be harmed."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that choosing among masks needs beside the networks."""

    quantiles: Float[Tensor, " quantile"]
    """Mean quantiles of the training images."""
    quality: Quality
    margin: float
    """Predicted gain of Dice from which another mask than the plain one is taken."""
    correlation: float
    """Between predicted and true Dice of the plain masks, every patient predicted by the others."""

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers, for JSON."""
        quality = self.quality
        return {
            "quantiles": self.quantiles.tolist(),
            "centre": quality.centre.tolist(),
            "spread": quality.spread.tolist(),
            "weights": quality.weights.tolist(),
            "margin": self.margin,
            "correlation": self.correlation,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibration":
        """What `to_dict` made."""
        return cls(
            quantiles=torch.tensor(saved["quantiles"]),
            quality=Quality(*(np.array(saved[k]) for k in ("centre", "spread", "weights"))),
            margin=saved["margin"],
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
    features: Float[np.ndarray, "mask feature"]
    """The plain mask first."""
    dice: Float[np.ndarray, " mask"]


def calibrate(trials: Sequence[Trial], quantiles: Float[Tensor, " quantile"]) -> Calibration:
    """Fit predicted Dice to trials, and find the smallest margin that did no harm in them.

    Every patient is predicted by a regression on the others, so that the margin covers what is not
    known of a new patient.

    Raises:
        InputError: There are fewer than two patients.
    """
    check_enough({trial.patient for trial in trials})
    predicted = np.empty((len(trials), len(trials[0].dice)))
    for patient in {trial.patient for trial in trials}:
        quality = _fit([trial for trial in trials if trial.patient != patient])
        for number, trial in enumerate(trials):
            if trial.patient == patient:
                predicted[number] = quality.predict(trial.features)
    true = np.stack([trial.dice for trial in trials])
    best = predicted.argmax(1)
    rows = np.arange(len(trials))
    promised = predicted[rows, best] - predicted[:, 0]
    gained = true[rows, best] - true[:, 0]
    margin = _margin(promised, gained)
    return Calibration(
        quantiles=quantiles,
        quality=_fit(trials),
        margin=margin,
        correlation=_correlation(predicted[:, 0], true[:, 0]),
    )


def _correlation(a: Float[np.ndarray, " trial"], b: Float[np.ndarray, " trial"]) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0


def check_enough(patients: Collection[str]) -> None:
    """Raises InputError if there are too few validation patients to calibrate with."""
    if len(patients) < 2:
        raise InputError(
            f"calibration needs two or more validation patients, but there are {len(patients)};"
            " add patients, or choose adaptation.method: paper"
        )


def _margin(promised: Float[np.ndarray, " trial"], gained: Float[np.ndarray, " trial"]) -> float:
    """The smallest promise from which few masks lost more than HARM, and none more than 3 of it."""
    for margin in sorted({0.0, *promised.clip(min=0).tolist()}):
        gains = gained[promised > margin]
        lost = np.count_nonzero(gains < -HARM)
        if lost <= FEW * len(promised) and not (gains < -3 * HARM).any():
            break
    return margin


def _fit(trials: Sequence[Trial]) -> Quality:
    features = np.concatenate([trial.features for trial in trials])
    return fit_quality(features, np.concatenate([trial.dice for trial in trials]))
