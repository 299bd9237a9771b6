"""Figure 2: cases before and after: what gained most, the median, what lost most."""

import pandas as pd

from maskmend.before_after import examples
from maskmend.evaluate.figures import contact_sheet
from maskmend.reproduce.record import record
from maskmend.reproduce.study import Key, Study

RANKS = {"best": 1.0, "median": 0.5, "worst": 0.0}
"""By gain of mean Dice: 1 gained most."""


def needs(study: Study) -> list[Key]:
    """The full method on the first data set's first fold."""
    return [Key(study.first.name, study.folds[0], preset) for preset in study.presets]


def make(study: Study) -> None:
    """A sheet for each preset."""
    rows = []
    for key in study.there(needs(study)):
        evaluation = study.before_and_after(key)
        dataset = study.datasets[key.dataset]
        shown = examples(
            evaluation, dataset.cohort, study.out / "masks" / key.place, [*RANKS.values()]
        )
        rows += [
            {"preset": key.preset, "rank": rank, "image": case.name,
             "dice_before": case.dice_before, "dice_after": case.dice_after}
            for rank, case in zip(RANKS, shown, strict=True)
        ]  # fmt: skip
        name = f"figure2_{key.preset}"
        for kind in ("png", "pdf"):
            contact_sheet(study.results / f"{name}.{kind}", shown, structures=dataset.structures)
    record(
        study,
        "figure2",
        pd.DataFrame(rows),
        {"chosen by": "gain of mean Dice"},
        study.there(needs(study)),
    )
