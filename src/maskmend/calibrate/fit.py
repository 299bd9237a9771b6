"""From trials to a calibration: predicted Dice, and a guard that would have gained without harm."""

from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float
from torch import Tensor

from maskmend.calibrate.search import best_guard
from maskmend.calibrate.trial import Trial
from maskmend.errors import InputError
from maskmend.guard.calibration import Calibration
from maskmend.guard.quality import Judged, Quality, fit_quality


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
