"""Figure 2: cases before and after: what gained most, the median, what lost most."""

import pandas as pd

from maskmend.reproduce.record import record
from maskmend.reproduce.sheet import draw_sheet
from maskmend.reproduce.study import Key, Need, Study

RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}
"""By gain of mean Dice: 1 gained most."""


def needs(study: Study) -> list[Need]:
    """The full method on the first data set's first fold."""
    keys = [Key(study.first.name, study.folds[0], preset) for preset in study.presets]
    return [Need(key, run=True) for key in keys]


def make(study: Study) -> None:
    """A sheet for each preset."""
    rows = []
    for key in study.there(needs(study)):
        evaluation, name = study.before_and_after(key), f"figure2_{key.preset}"
        shown = draw_sheet(study, key, evaluation, [*RANKS.values()], name)
        rows += [
            {"preset": key.preset, "rank": rank, **case}
            for rank, case in zip(RANKS, shown, strict=True)
        ]
    record(
        study,
        "figure2",
        pd.DataFrame(rows),
        {"chosen by": "gain of mean Dice"},
        study.there(needs(study)),
    )
