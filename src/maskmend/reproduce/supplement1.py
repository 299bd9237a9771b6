"""Supplement, figure 1: corrected examples of each data set, those that gained most."""

import numpy as np
import pandas as pd

from maskmend.evaluate.scores import MEAN
from maskmend.reproduce.record import record
from maskmend.reproduce.sheet import draw_sheet
from maskmend.reproduce.study import Key, Need, Study

SHOWN = 4
"""Cases of each data set."""


def needs(study: Study) -> list[Need]:
    """The full method on the first fold of every data set."""
    return [
        Need(Key(name, study.folds[0], preset), run=True)
        for preset in study.presets
        for name in study.datasets
    ]


def make(study: Study) -> None:
    """A sheet for each preset and data set; how many volumes gained and lost is in the numbers."""
    rows, numbers = [], {}
    for key in study.there(needs(study)):
        evaluation = study.before_and_after(key)
        scores = evaluation.rows[evaluation.rows["structure"] == MEAN]
        gains = scores["dice_after"] - scores["dice_before"]
        last = len(scores) - 1
        ranks = [1 - place / max(last, 1) for place in range(min(SHOWN, len(scores)))]
        name = f"supplement1_{key.preset}_{key.dataset}"
        shown = draw_sheet(study, key, evaluation, ranks, name)
        rows += [{"preset": key.preset, "dataset": key.dataset, **case} for case in shown]
        counts = {"gained": int(np.sum(gains > 0)), "lost": int(np.sum(gains < 0))}
        numbers[f"{key.preset}, {key.dataset}"] = {"volumes": len(gains), **counts}
    record(study, "supplement1", pd.DataFrame(rows), numbers, study.there(needs(study)))
