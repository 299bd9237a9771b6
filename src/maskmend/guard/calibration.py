"""What a run knows of its own mistakes: predicted Dice, and the gain that is worth the risk.

Fitted once, after training, on the validation patients, plain and degraded at random.
"""

import dataclasses
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
from maskmend.guard.choice import Guard
from maskmend.guard.quality import Judged, Quality, fit_quality
from maskmend.guard.search import best_guard
from maskmend.guard.trial import Trial


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """All that choosing among masks needs beside the networks."""

    quantiles: Float[Tensor, " quantile"]
    """Mean quantiles of the training images."""
    realistic: float
    """The discriminator's mean score of true masks."""
    quality: Quality
    """Predicts the Dice of masks."""
    guard: Guard
    """When to leave the plain mask."""
    correlation: float
    """Between predicted and true Dice of the plain masks, every patient predicted by the others."""

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers, for JSON."""
        return {
            "quantiles": self.quantiles.tolist(),
            "realistic": self.realistic,
            "quality": self.quality.to_dict(),
            **dataclasses.asdict(self.guard),
            "correlation": self.correlation,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibration":
        """What `to_dict` made."""
        return cls(
            quantiles=torch.tensor(saved["quantiles"]),
            realistic=saved["realistic"],
            quality=Quality.from_dict(saved["quality"]),
            guard=Guard(**{field.name: saved[field.name] for field in dataclasses.fields(Guard)}),
            correlation=saved["correlation"],
        )


def read_calibration(run: Path) -> Calibration | None:
    """A run's calibration, if it has one.

    Raises:
        RunError: The file is damaged, or of another version.
    """
    try:
        return Calibration.from_dict(json.loads((run / CALIBRATION).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        lacks = isinstance(error, KeyError)
        what = f"is of another version, without {error}" if lacks else "is damaged"
        raise RunError(
            f"{run / CALIBRATION}: {what}; remove it and calibrate the run again"
        ) from error


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
    features = np.concatenate([trial.features for trial in used])
    return fit_quality(features, np.concatenate([trial.dice for trial in used]))


def calibrate(
    trials: Sequence[Trial],
    judged: Sequence[Judged],
    quantiles: Float[Tensor, " quantile"],
    realistic: float,
    *,
    means: Sequence[int] = (),
    advised: int | None = None,
    committee: int | None = None,
) -> Calibration:
    """Fit predicted Dice to trials, and find a guard that gained much in them without harm.

    Args:
        trials: Of all candidates.
        judged: What `judged_by_others` expects of each, so that the guard covers what is not known
            of a new patient.
        quantiles: Mean quantiles of the training images.
        realistic: The discriminator's mean score of true masks.
        means: Places of the masks that are means of several.
        advised: Place of the mask by students' advice, if there is one.
        committee: Place of the mask that the committee outvotes the plain one with, if any.

    Raises:
        InputError: There are fewer than two patients.
    """
    plain = (np.array([v.dice[0] for v in judged]), np.array([one.dice[0] for one in trials]))
    return Calibration(
        quantiles=quantiles,
        realistic=realistic,
        quality=fit(trials),
        guard=best_guard(
            np.array([one.dice for one in trials]),
            judged,
            means=means,
            advised=advised,
            committee=committee,
            shared=np.array([one.shared for one in trials]),
        ),
        correlation=_correlation(*plain),
    )


def judged_by_others(trials: Sequence[Trial]) -> list[Judged]:
    """What the other patients taught to expect of each trial's masks."""
    qualities = {p: fit(trials, without=p) for p in {trial.patient for trial in trials}}
    return [qualities[one.patient].judge(one.features) for one in trials]


def check_enough(patients: Collection[str]) -> None:
    """Raises InputError if there are too few validation patients to calibrate with."""
    if len(patients) < 2:
        raise InputError(
            f"calibration needs two or more validation patients, but there are {len(patients)};"
            " add patients, or choose adaptation.method: paper"
        )


def _correlation(a: Float[np.ndarray, " trial"], b: Float[np.ndarray, " trial"]) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
