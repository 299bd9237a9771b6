"""Section 4.1, computational aspects: memory, time, and steps against Dice.

Steps are counted on validation patients: what comes out may choose a setting.
"""

import dataclasses
import time
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from maskmend.adapt import adapt_all
from maskmend.atomic import write_atomically
from maskmend.checkpoint import read_split
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.volume import read_mask
from maskmend.evaluate.metrics import dice
from maskmend.predict import Model
from maskmend.priors import Prior
from maskmend.progress import progress_bar
from maskmend.reproduce.record import AFTER, BEFORE, new_figure, record, save, styled
from maskmend.reproduce.study import Key, Need, Study

PAPERS_STEPS = 50


def needs(study: Study) -> list[Need]:
    """The full method on the first data set's first fold."""
    keys = [Key(study.first.name, study.folds[0], preset) for preset in study.presets]
    return [Need(key, run=True) for key in keys]


def make(study: Study) -> None:
    """Weigh the networks, and follow the validation patients through adaptation."""
    tables, numbers = [], {}
    for key in study.there(needs(study)):
        table = _curve(study, key)
        tables.append(table.assign(preset=key.preset))
        numbers[key.preset] = summarise(table) | {"weights_mb": _weights_mb(study.model(key))}
    table = pd.concat(tables, ignore_index=True)
    record(study, "cost", table, numbers, study.there(needs(study)))
    with styled():
        _draw(study, table, numbers)


def summarise(table: pd.DataFrame) -> dict[str, Any]:
    """Mean Dice by number of steps, the best number, and seconds a patient at the last."""
    means = table.groupby("steps")["dice"].mean()
    last = table[table["steps"] == table["steps"].max()]
    per_patient = last.groupby("patient")["seconds"].first()
    return {
        "dice": {str(steps): float(value) for steps, value in means.items()},
        "best_steps": int(means.index.to_numpy()[means.to_numpy().argmax()]),
        "seconds_a_patient_a_step": float(per_patient.mean() / max(1, last["steps"].iloc[0])),
        "patients": len(per_patient),
    }


class _Watched:
    """A prior that remembers the masks of some steps.

    One instance alone, in a single pass: then every step calls the prior once, and so does the look
    after the last.
    """

    def __init__(self, prior: Prior, steps: list[int]):
        self.prior, self.steps = prior, set(steps)
        self.calls = 0
        self.seen: dict[int, Tensor] = {}

    def __call__(self, masks: Tensor, images: Tensor) -> Tensor:
        if self.calls in self.steps:
            self.seen[self.calls] = masks.detach()
        self.calls += 1
        return self.prior(masks, images)

    def realism(self, masks: Tensor, images: Tensor) -> Tensor:
        return self.prior.realism(masks, images)


def _curve(study: Study, key: Key) -> pd.DataFrame:
    """A row for each volume of the validation patients and number of steps."""
    few = "" if study.patients is None else f"_{study.patients}"
    kept = study.out / "masks" / key.place / f"steps{few}.csv"
    if kept.exists():
        return pd.read_csv(kept)
    model, dataset, steps = study.model(key), study.datasets[key.dataset], study.own["curve"]
    settings = model.settings(method="paper", steps=max(steps))
    settings = dataclasses.replace(settings, keep="last")
    patients = read_split(study.run(key)).validation[: study.patients]
    rows: list[dict[str, Any]] = []
    with progress_bar(study.console, f"{key.place}, steps", len(patients)) as advance:
        for patient in patients:
            cases = [c for c in dataset.cohort.cases if c.patient == patient and c.image and c.mask]
            prepared = [model.prepare(case.image) for case in cases if case.image]
            images = torch.cat([one.slices for one in prepared]).to(model.device)
            watched = _Watched(model.prior(settings), steps)
            start = time.perf_counter()
            networks = model.networks
            # To its end: what the prior has seen is all that is wanted.
            list(
                adapt_all(
                    networks.segmentor,
                    networks.adaptor,
                    watched,
                    [images],
                    settings,
                    slices=len(images),
                )
            )
            seconds = time.perf_counter() - start
            for number, masks in watched.seen.items():
                volumes = masks.split([len(one.slices) for one in prepared])
                for case, one, volume in zip(cases, prepared, volumes, strict=True):
                    labels = labels_on_grid(volume, one.grid)
                    assert case.mask is not None
                    truth = read_mask(case.mask, like=one.volume).voxels
                    scores = [dice(labels == k, truth == k) for k in dataset.structures]
                    rows.append(
                        {"patient": patient, "image": case.name, "steps": number,
                         "dice": float(np.mean(scores)), "seconds": seconds}
                    )  # fmt: skip
            advance()
    table = pd.DataFrame(rows)
    write_atomically(kept, table.to_csv(index=False))
    return table


def _weights_mb(model: Model) -> dict[str, float]:
    """Of each network, in 32 bits."""
    return {
        name: sum(p.numel() * 4 for p in module.state_dict().values()) / 1e6
        for name, module in model.networks.modules().items()
    }


def _draw(study: Study, table: pd.DataFrame, numbers: dict[str, Any]) -> None:
    figure = new_figure(3.4 * len(numbers) + 0.2, 3.2)
    for place, preset in enumerate(numbers):
        axes = figure.add_subplot(1, len(numbers), place + 1)
        own = table[table["preset"] == preset]
        curves = 100 * own.pivot_table(index="steps", columns="image", values="dice")
        gains = curves - curves.iloc[0]
        axes.plot(gains.index, gains, color=BEFORE, lw=0.5, alpha=0.7)
        axes.plot(gains.index, gains.mean(axis=1), color=AFTER, lw=2, marker="o", ms=3)
        axes.axhline(0, color="black", lw=0.8)
        axes.axvline(PAPERS_STEPS, color="grey", lw=0.8, ls=":")
        weights = sum(numbers[preset]["weights_mb"].values())
        seconds = PAPERS_STEPS * numbers[preset]["seconds_a_patient_a_step"]
        axes.set_title(
            f"{preset}: {weights:.1f} MB, {seconds:.1f} s a patient at {PAPERS_STEPS} steps",
            fontsize=8,
        )
        axes.set(xlabel="steps", ylabel="" if place else "gain in Dice, points")
    save(figure, study.results, "cost")
