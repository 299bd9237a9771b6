"""What a run knows of its own mistakes: predicted Dice, and the gain that is worth the risk.

Fitted once, after training, on the validation patients, plain and degraded at random.
"""

import dataclasses
import itertools
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from maskmend.checkpoint import CALIBRATION
from maskmend.errors import InputError, RunError
from maskmend.guard.quality import Described, Quality, fit_quality

HARM = 0.01
"""Loss of Dice that counts as harm."""
FEW = 0.01
"""Share of the validation images that may be harmed."""
PLAIN, STEADIED = 0, 1
"""Where these stand among the masks of a volume."""
_GATES = np.linspace(0.4, 1, 25)
_CAUTIONS = np.linspace(0, 1, 41)
_NEVER = 2.0  # no predicted Dice is as high


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a plain mask may be changed."""

    gate: float
    """Predicted Dice of a plain mask from which no other way is tried: there is little to gain."""
    steady: float
    """And that from which it is steadied, where no other way is taken."""
    caution: float
    """Gain of Dice that a mask must promise for each point in which it differs from the plain one.
    A small change can do little harm, and needs to promise little."""

    def choose(
        self, predicted: Float[np.ndarray, " mask"], change: Float[np.ndarray, " mask"]
    ) -> int:
        """The mask of the highest predicted Dice among those that promise enough.

        Args:
            predicted: Dice of each, the plain one and the steadied one first.
            change: How far each is from the plain one.

        Returns:
            Its number. If none does, or the plain mask is good enough, that of the steadied or of
            the plain one.
        """
        enough = predicted - predicted[PLAIN] > self.caution * change
        if predicted[PLAIN] < self.gate and enough.any():
            return int(np.where(enough, predicted, -1).argmax())
        return STEADIED if predicted[PLAIN] >= self.steady else PLAIN


NEVER = Guard(gate=0.0, steady=_NEVER, caution=0.0)
"""Leaves every mask alone."""


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

    def choose(self, described: Described) -> int:
        """The number of the mask to take; see `Guard`."""
        return self.guard.choose(self.quality.predict(described.features), described.change)

    def to_dict(self) -> dict[str, Any]:
        """As lists and numbers, for JSON."""
        return {
            "quantiles": self.quantiles.tolist(),
            "realistic": self.realistic,
            "quality": self.quality.to_dict(),
            "gate": self.guard.gate,
            "steady": self.guard.steady,
            "caution": self.guard.caution,
            "correlation": self.correlation,
        }

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> "Calibration":
        """What `to_dict` made."""
        return cls(
            quantiles=torch.tensor(saved["quantiles"]),
            realistic=saved["realistic"],
            quality=Quality.from_dict(saved["quality"]),
            guard=Guard(**{name: saved[name] for name in ("gate", "steady", "caution")}),
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
    draw: int = 0
    """Which degraded copy it is of; 0 is the image as it is."""


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
    trials: Sequence[Trial],
    quantiles: Float[Tensor, " quantile"],
    realistic: float,
) -> Calibration:
    """Fit predicted Dice to trials, and find the guard that gained most in them without harm.

    Every patient is predicted by a regression on the others, so that the guard covers what is not
    known of a new patient.

    Args:
        trials: Of all candidates.
        quantiles: Mean quantiles of the training images.
        realistic: The discriminator's mean score of true masks.

    Raises:
        InputError: There are fewer than two patients.
    """
    predicted = predicted_by_others(trials)
    plain = (np.array([v[0] for v in predicted]), np.array([one.dice[0] for one in trials]))
    return Calibration(
        quantiles=quantiles,
        realistic=realistic,
        quality=fit(trials),
        guard=_best_guard(trials, predicted),
        correlation=_correlation(*plain),
    )


def predicted_by_others(trials: Sequence[Trial]) -> list[Float[np.ndarray, " mask"]]:
    """Dice of each trial's masks, predicted by what the other patients taught."""
    qualities = {p: fit(trials, without=p) for p in {trial.patient for trial in trials}}
    return [qualities[one.patient].predict(one.described.features) for one in trials]


def as_table(trials: Sequence[Trial], names: Sequence[str]) -> pd.DataFrame:
    """A line a mask, for people: what it was, its true Dice and what the others predicted.

    Args:
        trials: Any number.
        names: Of the masks, in their order.
    """
    return pd.DataFrame(
        {
            "patient": one.patient,
            "draw": one.draw,
            "mask": names,
            "dice": one.dice.round(5),
            "predicted": predicted.round(5),
            "change": one.described.change.round(5),
        }
        for one, predicted in zip(trials, predicted_by_others(trials), strict=True)
    ).explode(["mask", "dice", "predicted", "change"], ignore_index=True)


def check_enough(patients: Collection[str]) -> None:
    """Raises InputError if there are too few validation patients to calibrate with."""
    if len(patients) < 2:
        raise InputError(
            f"calibration needs two or more validation patients, but there are {len(patients)};"
            " add patients, or choose adaptation.method: paper"
        )


def _best_guard(trials: Sequence[Trial], predicted: Sequence[Float[np.ndarray, " mask"]]) -> Guard:
    """Of those with which few masks lost more than HARM, and none more than 3 of it."""
    gains = [one.dice - one.dice[PLAIN] for one in trials]
    plain = np.array([ours[PLAIN] for ours in predicted])
    steadied = np.array([gain[STEADIED] for gain in gains])
    best, most = NEVER, 0.0
    for gate, caution in itertools.product(_GATES, _CAUTIONS):
        bare = Guard(gate=float(gate), steady=_NEVER, caution=float(caution))
        taken = [
            bare.choose(ours, one.described.change)
            for ours, one in zip(predicted, trials, strict=True)
        ]
        mended = np.array([gain[number] for gain, number in zip(gains, taken, strict=True)])
        for steady in (*_GATES, _NEVER):
            also = (np.array(taken) == PLAIN) & (plain >= steady)
            gain = np.where(also, steadied, mended)
            few = np.count_nonzero(gain < -HARM) <= FEW * len(trials)
            if few and gain.min() >= -3 * HARM and gain.mean() > most:
                best, most = dataclasses.replace(bare, steady=float(steady)), float(gain.mean())
    return best


def _correlation(a: Float[np.ndarray, " trial"], b: Float[np.ndarray, " trial"]) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
