"""Pictures of the shift benchmark's table; its lines are those of `table.beside_plain`."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.shift.sequences import SEQUENCES
from experiments.shift.shifts import FAMILIES, HEADER, SCANNER, UNSEEN, label, middle, order


def draw_gains(rows: pd.DataFrame, path: Path) -> None:
    """Mean gain of every method under every shift of the middle severity, as coloured cells.

    In brackets is a mean of fewer volumes than others'; blank is what was not measured.
    """
    rows = middle(rows)
    segmentors = list(rows["segmentor"].unique())
    methods = [m for m in rows["method"].unique() if m != "none"]
    shifts = order(rows)
    figure = Figure(
        # So wide that "(-10.5)" fits into a cell.
        figsize=(3 + 0.55 * len(methods) * len(segmentors), max(3.4, 1.2 + 0.42 * len(shifts))),
        layout="constrained",
    )
    FigureCanvasAgg(figure)
    bracketed = blank = False
    for place, segmentor in enumerate(segmentors):
        axes = figure.add_subplot(1, len(segmentors), place + 1)
        gains = rows[rows["segmentor"] == segmentor].groupby(["shift", "method"])["gain"]
        means, counts = (
            figures.unstack().reindex(index=shifts, columns=["none", *methods])
            for figures in (gains.mean(), gains.size())
        )
        means, fewer = means[methods], counts[methods].lt(counts["none"], axis=0).to_numpy()
        bracketed |= fewer.any()
        blank |= means.isna().to_numpy().any()
        shown = axes.imshow(means, cmap="RdBu", vmin=-20, vmax=20, aspect="auto")
        axes.set_xticks(range(len(methods)), methods, rotation=35, ha="right")
        axes.set_yticks(range(len(shifts)), [label(s) for s in shifts] if not place else [])
        axes.set_title(segmentor)
        for (y, x), value in np.ndenumerate(means.to_numpy()):
            if np.isfinite(value):
                dark = abs(value) > 10
                told = f"({value:+.1f})" if fewer[y, x] else f"{value:+.1f}"
                axes.text(x, y, told, ha="center", va="center", fontsize=7 if fewer[y, x] else 8,
                          color="white" if dark else "black")  # fmt: skip
    notes = {"in brackets: of fewer volumes": bracketed, "blank: not measured": blank}
    if note := "; ".join(text for text, needed in notes.items() if needed):
        figure.supxlabel(note, fontsize=8)
    bar = figure.colorbar(shown, ax=figure.axes, shrink=0.8)
    bar.set_label("gain in points over no adaptation")
    figure.savefig(path, dpi=160)


def draw_realism(rows: pd.DataFrame, path: Path) -> None:
    """Predicted against true Dice, one dot a volume: of the plain masks and of the final ones."""
    rows = rows[rows["method"] == "ours"]
    segmentors = list(rows["segmentor"].unique())
    figure = Figure(figsize=(8.6, 0.9 + 4.2 * len(segmentors)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(segmentors), 2, squeeze=False)
    kinds = {
        "in-domain": ("#000000", ["none"]),
        "shifted": ("#0072B2", [SCANNER, *set(FAMILIES).difference(UNSEEN)]),
        "shifted, unseen": ("#D55E00", UNSEEN),
        "another sequence": ("#009E73", SEQUENCES),
        "a header that lies": ("#CC79A7", [HEADER]),
    }
    kinds = {name: of for name, of in kinds.items() if rows["shift"].isin(of[1]).any()}
    pairs = {"plain": ("realism_before", "before"), "ours": ("realism", "dice")}
    for (y, segmentor), (x, masks) in itertools.product(enumerate(segmentors), enumerate(pairs)):
        axes, (predicted, true) = grid[y, x], pairs[masks]
        for name, (colour, shifts) in kinds.items():
            at = rows[rows["shift"].isin(shifts) & (rows["segmentor"] == segmentor)]
            axes.scatter(at[predicted], at[true], s=8, alpha=0.4, color=colour, label=name, lw=0)
        axes.plot([0, 1], [0, 1], color="grey", lw=0.8)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted Dice", ylabel="Dice")
        axes.set_title(f"{segmentor}: {masks}")
        axes.set_aspect("equal")
    shown = grid[0, 0].get_legend_handles_labels()
    legend = figure.legend(*shown, loc="outside lower center", ncols=4, frameon=False)
    for handle in legend.legend_handles:
        handle.set_alpha(1)
    figure.savefig(path, dpi=160)
