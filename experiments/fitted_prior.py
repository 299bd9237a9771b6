"""A prior that was fitted after the fact against the discriminator that was trained jointly.

    python -m experiments.fitted_prior fit --data ACDC --run runs/shift/gan0 --out runs/priors
    python -m experiments.fitted_prior adapt --data ACDC --run runs/shift/gan0 --out runs/priors
    python -m experiments.fitted_prior table runs/priors/test.csv --out docs/results

Both loops go on where they stopped. All priors adapt the same segmentor and the same adaptor with
the same settings. A line of the table: prior, seed, shift, patient, phase, learning_rate, before,
after, steps.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from cyclopts import App, Parameter
from rich.console import Console

import maskmend as mm
from experiments.lines import append, keys_of
from experiments.shift.run import NONE, cases_of
from experiments.shift.shifts import shifted
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.volume import read_image, read_mask
from maskmend.devices import device_of
from maskmend.evaluate.metrics import dice
from maskmend.foreign.fit import fit_folder, source_of
from maskmend.frozen import frozen
from maskmend.predict import Model
from maskmend.progress import progress_bar

SEVERITY, ITERATIONS = 2, 300
KINDS = ("masks", "predictions")
"""What is fitted: from fake anchors alone, or from a segmentor's predictions as well."""
_LEARNT_FROM = {"masks": "masks alone", "predictions": "masks and predictions"}
JOINT = ("joint, as published", "joint, one-sided")
"""The run's own discriminator: pulled to 0, or from below to what validation predictions score."""

Data = Annotated[Path, Parameter(name="--data")]
Out = Annotated[Path, Parameter(name="--out")]
Seeds = Annotated[tuple[int, ...], Parameter(consume_multiple=True)]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True)]
app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Row:
    """One volume under one shift, adapted with one prior."""

    prior: str
    seed: int
    shift: str
    patient: str
    phase: str
    learning_rate: float
    before: float
    """Dice by volume on the image's grid, the mean over structures, without adaptation."""
    after: float
    steps: int


@app.command
def fit(*, data: Data, run: Path, out: Out, seeds: Seeds = (0, 1)) -> None:
    """Fit priors to a run's training patients.

    Args:
        data: ACDC's training set.
        run: Of the segmentor.
        out: Folder of the priors.
        seeds: Of the fits.
    """
    for kind, seed in itertools.product(KINDS, seeds):
        overrides = [
            f"seed={seed}",
            f"fitting.iterations={ITERATIONS}",
            "anchors.kind=local",
            f"fitting.predictions={kind == 'predictions'}",
        ]
        source = source_of(run, (), device_of(None))
        fit_folder(data, out / f"{kind}{seed}", source=source, overrides=overrides)


@app.command
def adapt(
    *,
    data: Data,
    run: Path,
    out: Out,
    part: Literal["validation", "test"] = "test",
    patients: int = 6,
    shifts: Names = ("none", "gamma", "noise", "spikes"),
    priors: Names = (*JOINT, *(f"{kind}{seed}" for kind in KINDS for seed in (0, 1))),
    learning_rate: float = 1e-3,
    steps: int = 10,
) -> None:
    """Adapt to volumes with each prior; lines that are there are not made again.

    Args:
        data: ACDC's training set.
        run: Of the segmentor.
        out: Folder of the priors, and of PART.csv.
        part: Settings are chosen on validation patients; test patients are run once, afterwards.
        patients: So many, spread over the part.
        shifts: Of the middle severity.
        priors: Names of folders in out, or those of the run.
        learning_rate: Step size of the adaptor.
        steps: Updates of the adaptor.
    """
    model, table = mm.load(run), out / f"{part}.csv"
    loaded = {name: _prior(name, model, out) for name in priors}
    cases = cases_of(model, data, part, patients)
    done = keys_of(table, Row, 6)
    with progress_bar(Console(), part, len(shifts) * len(cases)) as advance:
        for shift, case in itertools.product(shifts, cases):
            volume = read_image(case.image)
            volume = volume if shift == NONE else shifted(volume, shift, SEVERITY, 0)
            prepared = model.prepare_volume(volume)
            truth = read_mask(case.mask, like=volume).voxels
            for name, prior in loaded.items():
                seed = int(name[-1]) if name[-1].isdigit() else 0
                about = (name.rstrip("01"), seed, shift, case.patient, case.phase, learning_rate)
                if tuple(map(str, about)) in done:
                    continue
                made = mm.adapt(
                    frozen(model.networks.segmentor),
                    prior,
                    prepared.slices,
                    mm.AdaptationConfig(steps=steps, learning_rate=learning_rate),
                    adaptor=model.networks.adaptor,
                )
                scores = [
                    _dice(labels_on_grid(masks, prepared.grid), truth, model)
                    for masks in (made.plain, made.masks)
                ]
                append(table, Row(*about, *scores, made.steps))
            advance()


@app.command
def table(rows: Path, *, out: Out) -> None:
    """Write fitted_prior.csv and fitted_prior.md.

    Args:
        rows: What `adapt` wrote.
        out: Folder of the page.
    """
    found = pd.read_csv(rows)
    image = ["shift", "patient", "phase"]
    priors = len(found.groupby(["prior", "seed"]))
    found = found.groupby(image).filter(lambda lines: len(lines) == priors)  # seen by all
    found.to_csv(out / "fitted_prior.csv", index=False, lineterminator="\n")
    found["gain"] = 100 * (found["after"] - found["before"])
    lines = [
        "# A prior fitted after the fact, against one trained jointly\n",
        "From [`fitted_prior.csv`](fitted_prior.csv) by `python -m experiments.fitted_prior`"
        " (fit, adapt, table; [commands](../../experiments/README.md)): ACDC,"
        f" published fold, {found['patient'].nunique()} test patients, one segmentor"
        " ([gan.yaml](../../experiments/shift/gan.yaml), seed 0), shifts of severity"
        f" {SEVERITY}, two cores of an AMD EPYC. {int(found['steps'].max())} steps of"
        f" {found['learning_rate'].iloc[0]:g}; priors were fitted for {ITERATIONS} iterations to"
        " the run's training patients. Gains are in points (100 x Dice by volume, the mean over"
        " structures) over no adaptation of the same volume.\n",
        "| shift | prior | volumes | before | gain | worst | best |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (shift, prior), rows_of in found.groupby(["shift", "prior"], sort=False):
        gain = rows_of["gain"]
        name = prior if prior in JOINT else f"fitted to {_LEARNT_FROM[prior]}"
        lines.append(
            f"| {shift} | {name} | {len(gain)} | {100 * rows_of['before'].mean():.1f}"
            f" | {gain.mean():+.2f} | {gain.min():+.2f} | {gain.max():+.2f} |"
        )
    (out / "fitted_prior.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _prior(name: str, model: Model, out: Path) -> mm.Prior:
    if name not in JOINT:
        return mm.load_prior(out / name)
    judge = frozen(model.networks.discriminator)
    if name == JOINT[0]:
        return mm.DiscriminatorPrior(judge, model.config.adversarial.target)
    assert model.enough is not None
    return mm.DiscriminatorPrior(judge, model.enough, one_sided=True)


def _dice(labels: np.ndarray, truth: np.ndarray, model: Model) -> float:
    overlaps = [dice(labels == k, truth == k) for k in model.config.data.structures]
    return round(float(np.mean(overlaps)), 5)


if __name__ == "__main__":
    app()
