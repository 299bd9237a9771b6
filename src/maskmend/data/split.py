"""Which patients are trained, validated and tested on (section 4 of the paper).

By patient, never by image: two frames of one heart on both sides would leak the answer.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib import resources
from itertools import combinations
from typing import Any

from maskmend.errors import ConfigError, InputError

MIN_PATIENTS = 5
"""The fewest patients that fill every set: 2 test, 1 validation, 1 annotated, 1 unpaired."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Patients by use, each tuple sorted.

    No patient is in two of `train_annotated`, `train_unpaired_images`, `validation` and `test`,
    and none of the last two gives an unpaired mask.

    Raises:
        ConfigError: A patient is where it must not be.
    """

    train_annotated: tuple[str, ...]
    """Images with their masks, for the supervised loss (equation 1)."""

    train_unpaired_images: tuple[str, ...]
    """Images whose masks are withheld, for the adversarial loss (equation 2)."""

    train_unpaired_masks: tuple[str, ...]
    """Masks that show the discriminator what is real, never beside their image."""

    validation: tuple[str, ...]
    """For choosing the weights to keep."""

    test: tuple[str, ...]
    """For the figures that are reported."""

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, tuple(sorted(set(getattr(self, field.name)))))
        apart = ("train_annotated", "train_unpaired_images", "validation", "test")
        leaks = (("train_unpaired_masks", "validation"), ("train_unpaired_masks", "test"))
        for first, second in (*combinations(apart, 2), *leaks):
            if both := sorted(set(getattr(self, first)) & set(getattr(self, second))):
                raise ConfigError(
                    f"{first}: {both[0]} is also in {second}, expected disjoint patients; "
                    "remove it from one of them"
                )

    def to_dict(self) -> dict[str, list[str]]:
        """The split as lists, for JSON."""
        return {use: list(patients) for use, patients in asdict(self).items()}

    @classmethod
    def from_dict(cls, uses: Mapping[str, Sequence[str]]) -> "Split":
        """The split that `to_dict` wrote.

        Raises:
            ConfigError: A use is missing, unknown or no list of names, or a patient is where it
                must not be.
        """
        expected = [field.name for field in fields(cls)]
        for use in sorted({*uses, *expected}):
            if use not in expected:
                raise ConfigError(f"{use}: is no part of a split; expected {', '.join(expected)}")
            names = uses.get(use)
            if not isinstance(names, (list, tuple)) or not all(isinstance(n, str) for n in names):
                raise ConfigError(f"{use}: is {names!r}; expected a list of patients' names")
        return cls(**{use: tuple(names) for use, names in uses.items()})


def random_split(patients: Sequence[str], *, fold: int, seed: int, folds: int = 3) -> Split:
    """Divide patients as in section 4: 40% training, 20% validation, 40% test.

    A quarter of the training patients (10 of ACDC's 40) is annotated, the others give unpaired
    images; all of them give unpaired masks.

    The seed puts the patients into one order, laid out as a circle. Fold k takes its test set, then
    its validation set, then its training set from the circle, starting at k / folds of the way
    round. Three test sets of 40% have to share patients. Spaced evenly they share as few as
    possible: everybody is tested, a fifth of the patients twice, nobody three times.

    Args:
        patients: Their names; order and repetition do not matter.
        fold: Which of the folds, from 0.
        seed: Of the order; the same for all folds of an experiment.
        folds: How many folds.

    Returns:
        The split; sizes are rounded, and every set has at least one patient.

    Raises:
        ConfigError: There is no such fold.
        InputError: Fewer than `MIN_PATIENTS` patients.
    """
    if not 0 <= fold < folds:
        raise ConfigError(f"fold: {fold} does not exist; choose from 0 to {folds - 1}")
    # Sorting by a hash gives the same order on every platform and with every version of numpy.
    order = sorted(
        set(patients), key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest()
    )
    n = len(order)
    if n < MIN_PATIENTS:
        raise InputError(
            f"data: {n} annotated patients, expected at least {MIN_PATIENTS} to divide into "
            "training, validation and test; add patients"
        )
    start = round(n * fold / folds)
    order = order[start:] + order[:start]
    n_test, n_validation = round(0.4 * n), round(0.2 * n)
    test, validation, train = (
        order[:n_test],
        order[n_test : n_test + n_validation],
        order[n_test + n_validation :],
    )
    n_annotated = max(1, round(len(train) / 4))
    return Split(
        train_annotated=tuple(train[:n_annotated]),
        train_unpaired_images=tuple(train[n_annotated:]),
        train_unpaired_masks=tuple(train),
        validation=tuple(validation),
        test=tuple(test),
    )


def published_split(name: str) -> Split:
    """A split of ACDC's 100 training patients that was published with the paper's code.

    Args:
        name: "semi_supervised_fold0", the one published fold of the paper's three (40 test, 20
            validation, 10 annotated and 30 unpaired training patients), or "scanner_1p5T_to_3T"
            (33 test patients scanned at 3 T; 22 validation, 22 annotated and 23 unpaired training
            patients scanned at 1.5 T).

    Raises:
        ConfigError: There is no such split.
    """
    published: dict[str, dict[str, Any]] = json.loads(
        resources.files("maskmend.data").joinpath("acdc_splits.json").read_text(encoding="utf-8")
    )
    if name not in published:
        raise ConfigError(f"split: {name!r} was not published; choose from {', '.join(published)}")
    return Split.from_dict(
        {use: [f"patient{n:03d}" for n in numbers] for use, numbers in published[name].items()}
    )
