"""Figure 3: Dice, IoU and Hausdorff distance before and after: distributions and tails."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from maskmend.before_after import ADAPTED, PLAIN
from maskmend.evaluate.statistics import compare
from maskmend.reproduce.record import AFTER, BEFORE, new_figure, record, save, stars, styled
from maskmend.reproduce.study import Need, Study

METRICS = {
    "dice": ("Dice ↑", 100),
    "iou": ("IoU ↑", 100),
    "hausdorff_mm": ("Hausdorff distance, mm ↓", 1),
}
"""Heading, factor."""


def needs(study: Study) -> list[Need]:
    """The full method on every data set."""
    return [Need(key, (PLAIN, ADAPTED)) for key in study.runs()]


def make(study: Study) -> None:
    """Compare, and draw a sheet for each preset."""
    tables, numbers = [], {}
    for preset in study.presets:
        compared = {name: study.compared(preset, name, PLAIN, ADAPTED) for name in study.datasets}
        parts = {name: table for name, table in compared.items() if len(table)}
        if not parts:
            continue
        for name, table in parts.items():
            tables.append(table.assign(preset=preset, dataset=name))
            numbers[f"{preset}, {name}"] = summarise(table)
        with styled():
            _draw(study, preset, parts)
    record(
        study, "figure3", pd.concat(tables, ignore_index=True), numbers, study.there(needs(study))
    )


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """By metric: means, deviations, the test over patients, and the worst tenth before and after.

    Each tenth is the worst of its own time: figure 3 shows the tails of two distributions.
    """
    patients = owners(table)
    numbers = {}
    for metric in METRICS:
        before, after = table[f"{metric}_{PLAIN}"], table[f"{metric}_{ADAPTED}"]
        numbers[metric] = asdict(compare(before, after, patients)) | {
            "worst_tenth_before": _worst_tenth(before, metric),
            "worst_tenth_after": _worst_tenth(after, metric),
        }
    return numbers


def owners(table: pd.DataFrame) -> list[str]:
    """The patient of each row; in another fold somebody else, for the networks differ."""
    return [f"{fold} {name}" for fold, name in zip(table["fold"], table["patient"], strict=True)]


def _worst_tenth(values: pd.Series, metric: str) -> float:
    ordered = np.sort(values.to_numpy())
    if metric == "hausdorff_mm":
        ordered = ordered[::-1]
    return float(ordered[: max(1, round(len(ordered) / 10))].mean())


def _draw(study: Study, preset: str, parts: dict[str, pd.DataFrame]) -> None:
    figure = new_figure(1.2 + 2.6 * len(METRICS), 3.4)
    for place, (metric, (heading, factor)) in enumerate(METRICS.items()):
        axes = figure.add_subplot(1, len(METRICS), place + 1)
        labels = []
        for number, (name, table) in enumerate(parts.items()):
            before, after = (factor * table[f"{metric}_{kind}"] for kind in (PLAIN, ADAPTED))
            _violins(axes, 2 * number, before.to_numpy(), after.to_numpy())
            own = summarise(table)[metric]
            low, high = (
                f"{factor * own[f'worst_tenth_{when}']:.1f}" for when in ("before", "after")
            )
            means = [f"{factor * own[w]['mean']:.1f} ({factor * own[w]['sd']:.0f})"
                     for w in ("before", "after")]  # fmt: skip
            labels.append(
                f"{name}\n{means[0]}\n→ {means[1]} {stars(own['p_value'])}\n"
                f"worst tenth\n{low} → {high}"
            )
        axes.set_xticks([2 * number + 0.5 for number in range(len(parts))], labels, fontsize=8)
        axes.set_title(heading)
        top = 100 if factor == 100 else None
        axes.set_ylim(0, top)
    handles = [Patch(color=BEFORE, label="before"), Patch(color=AFTER, label="after")]
    figure.legend(handles=handles, loc="outside upper center", ncols=2, frameon=False)
    save(figure, study.results, f"figure3_{preset}")


def _violins(axes: Axes, start: float, before: np.ndarray, after: np.ndarray) -> None:
    """Two violins side by side; every volume is a dot, and its two dots are joined."""
    for shift, values, colour in ((0, before, BEFORE), (1, after, AFTER)):
        if np.ptp(values) > 0:  # a violin needs a spread
            drawn: Any = axes.violinplot(values, [start + shift], widths=0.8, showextrema=False)
            drawn["bodies"][0].set(facecolor=colour, alpha=0.55, edgecolor="none")
        axes.hlines(
            values.mean(), start + shift - 0.25, start + shift + 0.25, color="black", lw=1.6
        )
    joined = np.stack([before, after])
    axes.plot([start, start + 1], joined, color="black", lw=0.3, alpha=0.35, marker=".", ms=2)
