"""Figure 4: the discriminator against a denoising autoencoder that is trained apart."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from maskmend.before_after import ADAPTED, PLAIN
from maskmend.evaluate.statistics import compare
from maskmend.reproduce.figure3 import owners
from maskmend.reproduce.record import AFTER, BEFORE, THIRD, new_figure, record, save, stars, styled
from maskmend.reproduce.study import DENOISED, Need, Study

KINDS = {PLAIN: ("baseline", BEFORE), DENOISED: ("DAE", THIRD), ADAPTED: ("discriminator", AFTER)}
"""How masks are made: name, colour."""


def needs(study: Study) -> list[Need]:
    """The first preset's full method on every data set: the comparison is between priors."""
    return [Need(key, (*KINDS,)) for key in study.runs() if key.preset == study.presets[0]]


def make(study: Study) -> None:
    """Compare by data set."""
    preset = study.presets[0]
    compared = {name: study.compared(preset, name, *KINDS) for name in study.datasets}
    parts = {name: table for name, table in compared.items() if len(table)}
    numbers = {name: summarise(table) for name, table in parts.items()}
    table = pd.concat([part.assign(dataset=name) for name, part in parts.items()])
    record(study, "figure4", table, numbers, study.there(needs(study)))
    with styled():
        _draw(study, parts, numbers)


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Dice of each kind with its 95% interval, both gains, and one against the other."""
    patients = owners(table)

    def change(before: str, after: str) -> dict[str, Any]:
        return asdict(compare(table[f"dice_{before}"], table[f"dice_{after}"], patients))

    zero = np.zeros(len(table))
    means = {}
    for kind in KINDS:  # the interval of a mean is that of its change from nothing
        mean = compare(zero, table[f"dice_{kind}"], patients)
        means[kind] = {"mean": mean.gain, "ci95": mean.gain_ci95}
    return {
        "means": means,
        "gain of DAE": change(PLAIN, DENOISED),
        "gain of discriminator": change(PLAIN, ADAPTED),
        "discriminator against DAE": change(DENOISED, ADAPTED),
    }


def _draw(study: Study, parts: dict[str, pd.DataFrame], numbers: dict[str, Any]) -> None:
    figure = new_figure(3.2 * len(parts) + 0.4, 5.2)
    for place, (name, table) in enumerate(parts.items()):
        bars = figure.add_subplot(2, len(parts), place + 1)
        for at, (kind, (_, colour)) in enumerate(KINDS.items()):
            own = numbers[name]["means"][kind]
            low, high = own["ci95"]
            errors = [[100 * (own["mean"] - low)], [100 * (high - own["mean"])]]
            bars.bar(at, 100 * own["mean"], yerr=errors, color=colour, width=0.65, capsize=4)
            bars.text(at, 3, f"{100 * own['mean']:.1f}", ha="center")
        bars.set_xticks(range(len(KINDS)), [label for label, _ in KINDS.values()])
        bars.set(ylim=(0, 100), title=name, ylabel="" if place else "Dice, mean and 95% interval")
        gains = figure.add_subplot(2, len(parts), len(parts) + place + 1)
        for at, kind in enumerate((DENOISED, ADAPTED)):
            points = 100 * (table[f"dice_{kind}"] - table[f"dice_{PLAIN}"]).to_numpy()
            jitter = np.random.default_rng(0).uniform(-0.22, 0.22, len(points))
            gains.scatter(at + jitter, points, s=7, color=KINDS[kind][1], alpha=0.7, lw=0)
            gains.hlines(points.mean(), at - 0.32, at + 0.32, color="black", lw=1.6)
        gains.axhline(0, color="grey", lw=0.8)
        test = numbers[name]["discriminator against DAE"]
        gains.set_xticks([0, 1], [KINDS[DENOISED][0], KINDS[ADAPTED][0]])
        gains.set_xlim(-0.6, 1.6)
        gains.set_title(
            f"one against the other: p = {test['p_value']:.2g} ({stars(test['p_value'])})"
        )
        gains.set_ylabel("" if place else "gain over baseline, points of Dice")
    save(figure, study.results, "figure4")
