"""The page of candidates counts what the trials say."""

import pandas as pd

from experiments.shift.candidates import numbered, tell
from maskmend.guard.choice import Guard


def trials():
    """Two images of one patient, each as it is and degraded once; four masks."""
    rows = []
    for plain in (0.8, 0.7):
        for draw, (first, other, third) in enumerate(
            [(plain, plain - 0.05, plain + 0.01), (0.4, 0.6, 0.3)]
        ):
            for mask, dice in (
                ("none", first),
                ("steadied", first),
                ("own", other),
                ("blend", third),
            ):
                rows.append(
                    {"patient": "p1", "draw": draw, "mask": mask, "dice": dice,
                     "predicted": dice, "doubt": 0.1 if mask in ("own", "blend") else 0.0,
                     "shared": 0.5 if draw else 0.95}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_gains_are_over_the_plain_mask_of_the_same_image():
    table = numbered(trials())
    assert list(table["case"].unique()) == [1, 2]
    assert table["gain"].round(6).tolist() == [0, 0, -5, 1, 0, 0, 20, -10] * 2


def test_the_page_tells_means_harm_and_the_guards_choice():
    page = tell(trials(), Guard(gate=0.5, steady=0.6, caution=1.0))
    assert "1 patients, 4 images" in page
    assert "| own | -5.0 | 100% | +20.0 | 0% | -5.0 |" in page
    assert "| blend | +1.0 | 0% | -10.0 | 100% | -10.0 |" in page
    assert "| the best of each image | +1.0 | 0% | +20.0 | 0% | +1.0 |" in page
    assert "| **the guard** | +0.0 | 0% | +20.0 | 0% | +0.0 |" in page
    assert "it trusts any mask." in page


def test_a_guard_that_trusts_means_alone_takes_no_other():
    page = tell(trials(), Guard(gate=0.5, steady=0.6, caution=1.0, trusted=[3]))
    assert "| **the guard** | +0.0 | 0% | +0.0 | 0% | +0.0 |" in page
    assert "it trusts means alone." in page


def test_masks_that_are_outvoted_are_counted_as_the_committees():
    """Nothing else is ever taken; degraded images agree by 0.5 with what stands in for it."""
    rule = {"gate": 0.0, "steady": 2.0, "caution": 0.0, "committee": 2}
    for outvoted, gain in ((0.4, "+0.0"), (0.6, "+20.0")):
        page = tell(trials(), Guard(**rule, outvoted=outvoted))
        (guard,) = [one for one in page.splitlines() if one.startswith("| **the guard** |")]
        assert guard.split(" | ")[1:4:2] == ["+0.0", gain]
