"""Table 1: what each part of the method adds, in Dice; below the paper's columns, ours."""

import pandas as pd

from maskmend.before_after import ADAPTED, PLAIN
from maskmend.evaluate.statistics import Spread
from maskmend.reproduce.record import AFTER, BEFORE, new_figure, record, save, styled
from maskmend.reproduce.study import Key, Need, Study

COLUMNS = {
    "paper": [
        ("UNet", "unet", PLAIN),
        ("GAN", "gan", PLAIN),
        ("+ smoothness", "smooth", PLAIN),
        ("+ fake anchors", "full", PLAIN),
        ("+ test-time training", "full", ADAPTED),
    ],
    "ours": [("ours", "full", PLAIN), ("ours, guarded", "full", ADAPTED)],
}
"""By preset: name, variant of the run, how masks are made."""


def needs(study: Study) -> list[Need]:
    """Four runs a fold, and one of ours."""
    return [
        Need(Key(study.first.name, fold, preset, variant), (kind,))
        for fold in study.folds
        for preset in study.presets
        for _, variant, kind in COLUMNS[preset]
    ]


def make(study: Study) -> None:
    """Score every column on every fold."""
    rows = []
    for preset in study.presets:
        for name, variant, kind in COLUMNS[preset]:
            keys = [Key(study.first.name, fold, preset, variant) for fold in study.folds]
            for key in study.there(Need(key, (kind,)) for key in keys):
                scores = study.scores(key, kind)[["image", "patient", "dice"]]
                rows.append(scores.assign(preset=preset, method=name, fold=key.fold))
    table = pd.concat(rows, ignore_index=True)
    numbers = summarise(table)
    record(study, "table1", table, numbers, study.there(needs(study)))
    with styled():
        _draw(study, numbers)


def summarise(table: pd.DataFrame) -> dict[str, dict[str, object]]:
    """Points of Dice by method: mean and standard deviation over volumes, and the folds' means."""
    return {
        str(method): {
            "volumes": len(rows),
            "mean": 100 * Spread.of(rows["dice"]).mean,
            "sd": 100 * Spread.of(rows["dice"]).sd,
            "folds": [100 * float(part["dice"].mean()) for _, part in rows.groupby("fold")],
        }
        for method, rows in table.groupby("method", sort=False)
    }


def _draw(study: Study, numbers: dict[str, dict[str, object]]) -> None:
    names = list(numbers)
    figure = new_figure(6.5, 0.7 + 0.36 * len(names))
    axes = figure.add_subplot()
    for place, name in enumerate(names):
        own = numbers[name]
        mean, sd, folds = own["mean"], own["sd"], own["folds"]
        assert isinstance(mean, float)
        assert isinstance(sd, float)
        assert isinstance(folds, list)
        colour = AFTER if "test-time" in name or "guarded" in name else BEFORE
        axes.barh(place, mean, xerr=sd, color=colour, height=0.62, error_kw={"lw": 1, "capsize": 3})
        axes.plot(folds, [place] * len(folds), "k|", ms=9)
        axes.text(101, place, f"{mean:.1f} ({sd:.0f})", va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(
        xlim=(0, 100), xlabel="Dice: mean and standard deviation over volumes, | a fold's mean"
    )
    save(figure, study.results, "table1")
