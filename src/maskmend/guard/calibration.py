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
from maskmend.guard.quality import Judged, Quality, fit_quality

HARM = 0.01
"""Loss of Dice that counts as harm."""
FEW = 0.005
"""Share of the validation images that may be harmed, by three times as much at the most. So none of
fewer than 200: what is chosen to be just harmless enough on these is not on others."""
_NEARLY = 0.9
PLAIN, STEADIED = 0, 1
"""Where these stand among the masks of a volume."""
_NEVER = 2.0  # no predicted Dice is as high
_GATES = np.linspace(0.4, 1, 25)
_CAUTIONS = np.linspace(0, 15, 31)
_TRUSTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0, 12.0, 15.0)
_STEADIES = (*np.linspace(0.4, 1, 13), _NEVER)


@dataclass(frozen=True, kw_only=True)
class Guard:
    """When a plain mask may be changed."""

    gate: float
    """Predicted Dice of a plain mask from which no other way is tried: there is little to gain."""
    steady: float
    """And that from which it is steadied, where no other way is taken."""
    caution: float
    """Standard errors of its prediction that the gain of another mask must be."""
    advised: int | None = None
    """Place of the mask by students' advice among those of a volume, if there is one."""
    trust: float = 0.0
    """And the standard errors that its gain must be, whatever the gate says. Advice changes a mask
    only where the segmentor is unsure and seldom harms, so it may need less."""

    def choose(self, judged: Judged) -> int:
        """The mask of the highest predicted Dice among those that promise enough.

        Args:
            judged: What is expected of each, the plain one and the steadied one first.

        Returns:
            Its number. If none does, or the plain mask is good enough, that of the advised, the
            steadied or the plain one.
        """
        plain, promised = judged.dice[PLAIN], judged.dice - judged.dice[PLAIN]
        enough = promised > self.caution * judged.doubt
        if plain < self.gate and enough.any():
            return int(np.where(enough, judged.dice, -1).argmax())
        place = self.advised
        if place is not None and promised[place] > self.trust * judged.doubt[place]:
            return place
        return STEADIED if plain >= self.steady else PLAIN


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


@dataclass(frozen=True)
class Trial:
    """All masks of one image of a validation patient."""

    patient: str
    features: Float[np.ndarray, "mask feature"]
    """See `maskmend.guard.quality.describe`."""
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
    features = np.concatenate([trial.features for trial in used])
    return fit_quality(features, np.concatenate([trial.dice for trial in used]))


def calibrate(
    trials: Sequence[Trial],
    quantiles: Float[Tensor, " quantile"],
    realistic: float,
    advised: int | None = None,
) -> Calibration:
    """Fit predicted Dice to trials, and find a guard that gained much in them without harm.

    Every patient is predicted by a regression on the others, so that the guard covers what is not
    known of a new patient.

    Args:
        trials: Of all candidates.
        quantiles: Mean quantiles of the training images.
        realistic: The discriminator's mean score of true masks.
        advised: Place of the mask by students' advice, if there is one.

    Raises:
        InputError: There are fewer than two patients.
    """
    judged = judged_by_others(trials)
    plain = (np.array([v.dice[0] for v in judged]), np.array([one.dice[0] for one in trials]))
    return Calibration(
        quantiles=quantiles,
        realistic=realistic,
        quality=fit(trials),
        guard=best_guard(trials, judged, advised),
        correlation=_correlation(*plain),
    )


def judged_by_others(trials: Sequence[Trial]) -> list[Judged]:
    """What the other patients taught to expect of each trial's masks."""
    qualities = {p: fit(trials, without=p) for p in {trial.patient for trial in trials}}
    return [qualities[one.patient].judge(one.features) for one in trials]


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
            "predicted": judged.dice.round(5),
            "doubt": judged.doubt.round(5),
        }
        for one, judged in zip(trials, judged_by_others(trials), strict=True)
    ).explode(["mask", "dice", "predicted", "doubt"], ignore_index=True)


def check_enough(patients: Collection[str]) -> None:
    """Raises InputError if there are too few validation patients to calibrate with."""
    if len(patients) < 2:
        raise InputError(
            f"calibration needs two or more validation patients, but there are {len(patients)};"
            " add patients, or choose adaptation.method: paper"
        )


def best_guard(
    trials: Sequence[Trial], judged: Sequence[Judged], advised: int | None = None
) -> Guard:
    """The most cautious that gains nearly as much as any with which few masks are harmed.

    A new scanner shows what no validation image did; caution is what covers it.

    Args:
        trials: Of all candidates.
        judged: What was predicted of each trial's masks, without its patient.
        advised: Place of the mask by students' advice, if there is one.
    """
    gains = np.array([one.dice - one.dice[PLAIN] for one in trials])
    predicted = np.array([one.dice for one in judged])
    doubt = np.array([one.doubt for one in judged])
    rows, plain = np.arange(len(trials)), predicted[:, PLAIN]
    promised = predicted - plain[:, None]
    asking = [(None, 0.0), *((advised, trust) for trust in _TRUSTS if advised)]
    harmless: list[tuple[float, Guard]] = [(0.0, NEVER)]
    for gate, caution in itertools.product(_GATES, _CAUTIONS):
        # As `Guard.choose` does, but for all trials at once.
        enough = promised > caution * doubt
        mended = (plain < gate) & enough.any(1)
        best = np.where(enough, predicted, -1).argmax(1)
        for place, trust in asking:
            asked = promised[:, place] > trust * doubt[:, place] if place else np.zeros_like(mended)
            for steady in _STEADIES:
                taken = np.where(plain >= steady, STEADIED, PLAIN)
                taken[asked] = place or PLAIN
                taken[mended] = best[mended]
                gain = gains[rows, taken]
                if np.count_nonzero(gain < -HARM) <= FEW * len(trials) and gain.min() >= -3 * HARM:
                    guard = Guard(
                        gate=float(gate),
                        steady=float(steady),
                        caution=float(caution),
                        advised=place,
                        trust=trust,
                    )
                    harmless.append((float(gain.mean()), guard))
    enough_gain = _NEARLY * max(gain for gain, _ in harmless)
    near = [(guard.caution, gain, guard) for gain, guard in harmless if gain >= enough_gain]
    return max(near, key=lambda one: one[:2])[-1]


def _correlation(a: Float[np.ndarray, " trial"], b: Float[np.ndarray, " trial"]) -> float:
    """Pearson's, 0 where one of the two does not vary."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0 and b.std() > 0 else 0.0
