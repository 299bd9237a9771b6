"""Guards are measured on images that they were not chosen on, and the table says what they did."""

import numpy as np
import pandas as pd
import pytest

from experiments.shift.held_out import FOLDS, TIMES_FOLDED, TIMES_HALVED, folds, kinds, tell
from experiments.shift.trials import arrays
from maskmend.guard.ways import COMMITTEE

DRAWS = 5


@pytest.fixture
def trials():
    """Twenty patients; a committee gains 0.2, promises it, and loses 0.1 of what has artefacts."""
    rows = []
    for patient in range(20):
        for draw in range(DRAWS):
            plain = 0.5 + 0.001 * patient
            lost = draw > 2
            for mask, dice, told in (
                ("none", plain, plain),
                ("steadied", plain, plain - 0.01),
                (COMMITTEE, plain + (-0.1 if lost else 0.2), plain + 0.2),
            ):
                doubt = 0.0 if mask == "none" else 0.01
                rows.append((f"p{patient:02}", draw, mask, dice, told, doubt, 0.9))
    columns = ["patient", "draw", "mask", "dice", "predicted", "doubt", "shared"]
    return arrays(pd.DataFrame(rows, columns=columns))


def test_a_table_becomes_arrays(trials):
    assert trials.masks == ("none", "steadied", COMMITTEE)
    assert trials.dice.shape == (100, 3)
    assert trials.dice[7].round(6).tolist() == [0.501, 0.501, 0.701]
    some = trials.of(trials.draw == 4)
    assert some.patient.tolist() == sorted(set(trials.patient))
    assert (some.dice[:, 2] < some.dice[:, 0]).all()


def test_every_patient_is_held_out_once_by_every_drawing(trials):
    pairs = list(folds(trials))
    assert len(pairs) == FOLDS * TIMES_FOLDED
    for chosen, measured in pairs:
        assert not set(trials.patient[chosen]) & set(trials.patient[measured])
    for drawing in range(TIMES_FOLDED):
        held = [measured for _, measured in pairs[drawing * FOLDS : (drawing + 1) * FOLDS]]
        assert (np.sum(held, axis=0) == 1).all()


def test_neither_patients_nor_kinds_of_copies_are_in_both(trials):
    pairs = list(kinds(trials))
    assert len(pairs) == 4 * TIMES_HALVED
    for chosen, measured in pairs:
        assert not set(trials.patient[chosen]) & set(trials.patient[measured])
        assert 0 in trials.draw[chosen]
        assert not set(trials.draw[chosen]) & set(trials.draw[measured])
        assert set(trials.draw[measured]) in ({1, 2}, {3, 4})


def test_the_table_tells_the_harm_to_what_was_not_chosen_on(trials):
    """Who saw no artefacts trusts the committee there; who saw some leaves all alone."""
    by_patients, by_kinds = tell(trials).splitlines()[2:]
    assert by_patients.endswith("| +0.0 | 0.0% | +0.0 |")
    assert by_kinds.endswith("| -5.0 | 50.0% | -10.0 |")
