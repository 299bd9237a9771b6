"""What a guard that was chosen on some validation images gains on others that are unlike them."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool

from experiments.shift.table import HARMED
from experiments.shift.trials import Trials

FOLDS, TIMES_FOLDED = 5, 4
TIMES_HALVED = 6

Chosen = tuple[Bool[np.ndarray, " image"], Bool[np.ndarray, " image"]]
"""The images that a guard is chosen on, and those that it is measured on."""


def tell(trials: Trials) -> str:
    """A table, by what was held out."""
    lines = [
        "| chosen on | measured on | gain | harmed | worst |",
        "| --- | --- | --- | --- | --- |",
    ]
    splits = [
        ("four fifths of the patients", "the others", list(folds(trials))),
        ("half of them, one kind of copies left out", "that kind, the others", list(kinds(trials))),
    ]
    for chosen, measured, pairs in splits:
        gain = np.concatenate([trials.of(b).gains(trials.of(a).guard()) for a, b in pairs])
        harmed = f"{100 * np.mean(gain < HARMED):.1f}%"
        lines.append(
            f"| {chosen} | {measured} | {gain.mean():+.1f} | {harmed} | {gain.min():+.1f} |"
        )
    return "\n".join(lines) + "\n"


def folds(trials: Trials) -> Iterator[Chosen]:
    """Every patient is measured once by every drawing of folds."""
    for seed in range(TIMES_FOLDED):
        for fold in np.array_split(_shuffled(trials, seed), FOLDS):
            held = np.isin(trials.patient, fold)
            yield ~held, held


def kinds(trials: Trials) -> Iterator[Chosen]:
    """Neither the patients nor the kind of copy, degraded or with artefacts, was chosen on."""
    draws = trials.draw.max() // 2
    degraded = (trials.draw > 0) & (trials.draw <= draws)
    for seed in range(TIMES_HALVED):
        patients = _shuffled(trials, seed)
        half = np.isin(trials.patient, patients[: len(patients) // 2])
        for chosen in (half, ~half):
            for kind in (degraded, trials.draw > draws):
                yield chosen & ~kind, ~chosen & kind


def _shuffled(trials: Trials, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).permutation(np.unique(trials.patient))
