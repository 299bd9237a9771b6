"""Supplement, figures 2 and 3: a discriminator in equilibrium, and one that memorises.

Losses are (score - label)^2 with labels 1 and -1, without the half of equation 2: 1 where every
score is 0, the equilibrium; 4 where a real mask is taken for a fake one. The paper's axis has 1 for
the first and 2 for the second, which no one factor gives.
"""

from typing import Any

import pandas as pd

from maskmend.reproduce.record import AFTER, BEFORE, new_figure, record, save, styled
from maskmend.reproduce.study import Key, Need, Study

RUNS = {"full": "towards equilibrium", "memorising": "memorisation"}
"""Variant: heading."""
PARTS = {"train": "training patients", "val": "validation patients"}
KINDS = {"real": ("real masks", AFTER, "-"), "predicted": ("fake: predicted", "#D55E00", "--"),
         "corrupted": ("fake: anchors", BEFORE, ":")}  # fmt: skip


def needs(study: Study) -> list[Need]:
    """Two runs of the first data set's first fold, by preset."""
    return [
        Need(Key(study.first.name, study.folds[0], preset, variant))
        for preset in study.presets
        for variant in RUNS
    ]


def make(study: Study) -> None:
    """A sheet for each preset from the runs' histories."""
    tables, numbers = [], {}
    for preset in study.presets:
        histories = {
            key.variant: study.history(key)
            for key in study.there(needs(study))
            if key.preset == preset
        }
        if not histories:
            continue
        for variant, history in histories.items():
            tables.append(history.assign(preset=preset, variant=variant))
            numbers[f"{preset}, {variant}"] = summarise(history)
        with styled():
            _draw(study, preset, histories)
    record(
        study,
        "convergence",
        pd.concat(tables, ignore_index=True),
        numbers,
        study.there(needs(study)),
    )


def summarise(history: pd.DataFrame) -> dict[str, Any]:
    """Losses at the last look, and how much farther apart real masks score than in training."""
    last = history.iloc[-1]
    names = [f"{part}_loss_{kind}" for part in PARTS for kind in KINDS]
    gap = last["train_score_real"] - last["val_score_real"]
    return {"iterations": int(last["iteration"]), "gap of real scores": float(gap)} | {
        name: float(last[name]) for name in names if name in last
    }


def _draw(study: Study, preset: str, histories: dict[str, pd.DataFrame]) -> None:
    figure = new_figure(6.5, 0.6 + 2.1 * len(histories))
    columns = [f"{p}_loss_{k}" for p in PARTS for k in KINDS]
    top = max(
        4.2, *(h[[c for c in columns if c in h]].to_numpy().max() for h in histories.values())
    )
    for row, (variant, history) in enumerate(histories.items()):
        for column, (part, heading) in enumerate(PARTS.items()):
            axes = figure.add_subplot(len(histories), 2, 2 * row + column + 1)
            for kind, (label, colour, line) in KINDS.items():
                if f"{part}_loss_{kind}" in history:
                    losses = history[f"{part}_loss_{kind}"]
                    axes.plot(history["iteration"], losses, line, color=colour, label=label, lw=1.6)
            axes.axhline(1, color="grey", lw=0.7)
            axes.set(ylim=(0, 1.03 * top), title=f"{RUNS[variant]}: {heading}")
            axes.set_ylabel("" if column else "discriminator's loss")
            if row == len(histories) - 1:
                axes.set_xlabel("iteration")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False)
    save(figure, study.results, f"convergence_{preset}")
