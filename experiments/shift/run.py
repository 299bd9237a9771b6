"""Methods x shifts x seeds, into one tidy table; goes on by itself where it stopped.

    python -m experiments.shift.run --data ACDC --patients 12
    python -m experiments.shift.run --data ACDC --part validation --patients 4 --csv runs/choose.csv
    python -m experiments.shift.run --hearts --csv runs/hearts.csv

Segmentors are trained first (configurations beside this file; runs in --out) and calibrated; for
the shift `3T`, which is real, once more on the patients of the 1.5 T scanners. A line of the table:
segmentor, method, shift, severity, seed, patient, phase, dice, hausdorff95_mm, realism, steps,
seconds, realism_before. --hearts is a quick turn on procedural hearts. Slow methods can be spared
some severities by a call of their own: --methods paper dae --severities 2.
"""

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from cyclopts import App, Parameter
from rich.console import Console

import maskmend
from experiments.lines import append, keys_of
from experiments.shift.methods import METHODS, Method, method_of, prepare
from experiments.shift.sequences import SEQUENCES
from experiments.shift.shifts import FAMILIES, HEADER, SCANNER, SEVERITIES, shifted
from maskmend.calibrate.run import calibrate_run
from maskmend.checkpoint import CALIBRATION, RUN, read_split
from maskmend.config_file import read_config
from maskmend.data.cohort import Case
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import write_cohort
from maskmend.data.volume import Volume, read_image, read_mask
from maskmend.errors import ConfigError
from maskmend.evaluate.metrics import dice, hausdorff95_mm
from maskmend.instance import Adapted
from maskmend.predict import Model, load
from maskmend.prediction import Shown
from maskmend.progress import progress_bar
from maskmend.train import train

Shift = tuple[str, int]
"""A family and a severity; 0 where there are none."""
HEARTS = 30
"""Procedural hearts of the quick turn."""
HERE = Path(__file__).parent
NONE = "none"
"""The shift of an image as it is."""

app = App(help=__doc__, help_format="plaintext")


@dataclass(frozen=True)
class Row:
    """One volume, one method."""

    segmentor: str
    method: str
    shift: str
    severity: int
    seed: int
    patient: str
    phase: str
    dice: float
    """Mean over structures."""
    hausdorff95_mm: float
    """Mean over structures."""
    realism: float
    """The method's score of its mask: for the guarded one predicted Dice."""
    steps: int
    seconds: float
    realism_before: float
    """Its score of the plain mask."""


@app.default
def main(
    *,
    data: Path | None = None,
    hearts: bool = False,
    out: Path = Path("runs/shift"),
    csv_: Annotated[Path, Parameter(name="--csv")] = Path("runs/shift/shift.csv"),
    part: Literal["validation", "test"] = "test",
    segmentors: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("gan", "strong"),
    seeds: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (0, 1, 2),
    methods: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = tuple(METHODS),
    families: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (
        SCANNER,
        *FAMILIES,
        *SEQUENCES,
        HEADER,
    ),
    severities: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = SEVERITIES,
    patients: int | None = None,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
) -> None:
    """Fill the table.

    Args:
        data: ACDC's training set.
        hearts: Draw procedural hearts instead, seen by one scanner, and train on them.
        out: Folder of the runs.
        csv_: The table; lines that it has are not made again.
        part: Settings are chosen on validation patients; test patients are run once, afterwards.
        segmentors: Names of configurations beside this file.
        seeds: Of training, and of the shifts.
        methods: Those to run.
        families: Of shifts; images as they are come first. 3T is a training of its own; alone,
            it is the only one.
        severities: Of each family.
        patients: So many of each seed, spread over the split; all by default.
        set_: section.field=value, over the configurations; choose another --out then.
    """
    console = Console()
    if hearts:
        data, segmentors = out / "hearts", ("hearts",)
        families = tuple(family for family in families if family != SCANNER)
        if not (data / "patients.csv").exists():
            write_cohort(data, patients=HEARTS, seed=0)
    if data is None:
        raise ConfigError("--data: name ACDC's training set, or ask for --hearts")
    done = keys_of(csv_, Row, 7)
    simulated = [family for family in families if family != SCANNER]
    for segmentor, seed in itertools.product(segmentors, seeds):
        trainings: list[tuple[str, list[str], list[Shift]]] = []
        if simulated or SCANNER not in families:
            shifts = [(NONE, 0), *itertools.product(simulated, severities)]
            trainings.append((segmentor, [*set_], shifts))
        if SCANNER in families:
            split = [*set_, "data.split=scanner_1p5T_to_3T"]
            trainings.append((f"{segmentor}_{SCANNER}_", split, [(SCANNER, 0)]))
        for name, overrides, shifts in trainings:
            model = _trained(segmentor, seed, data, out / f"{name}{seed}", overrides, console)
            prepare(out / f"{name}{seed}", data, methods, console)
            named = {name: method_of(name, model) for name in methods}
            cases = cases_of(model, data, part, patients)
            total = len(cases) * len(shifts)
            with progress_bar(console, f"{name}{seed}", total) as advance:
                for (family, severity), case in itertools.product(shifts, cases):
                    about = (case.patient, case.phase or "")
                    wanted = {
                        name: method
                        for name, method in named.items()
                        if (segmentor, name, family, str(severity), str(seed), *about) not in done
                    }
                    for row in _rows(model, wanted, case, family, severity, seed, segmentor):
                        append(csv_, row)
                    advance()


def _trained(
    segmentor: str, seed: int, data: Path, run: Path, overrides: Sequence[str], console: Console
) -> Model:
    if not (run / RUN).exists():
        config = read_config(_config(segmentor), [f"seed={seed}", *overrides])
        train(config, data, run, console=console)
    if not (run / CALIBRATION).exists():
        draws = load(run).config.adaptation.draws
        calibrate_run(run, data, draws=draws, console=console)
    return load(run)


def _config(segmentor: str) -> Path:
    if segmentor == "hearts":
        return Path(maskmend.__file__).parent / "configs" / "demo.yaml"
    return HERE / f"{segmentor}.yaml"


def cases_of(model: Model, data: Path, part: str, count: int | None = None) -> list[Case]:
    """Cases of the part's patients: a few of them evenly spread, from one that the seed decides."""
    assert model.run is not None
    everybody = getattr(read_split(model.run), part)
    cases = find_cohort(data, model.config.data.layout).cases
    return some_of(cases, everybody, count, model.config.seed)


def some_of(
    cases: Iterable[Case], everybody: Sequence[str], count: int | None, seed: int
) -> list[Case]:
    """Cases of a few patients; see `cases_of`."""
    if count is not None and count < len(everybody):
        places = (np.arange(count) * len(everybody) / count).astype(int) + seed
        everybody = [everybody[place % len(everybody)] for place in places]
    return [case for case in cases if case.patient in everybody and case.image and case.mask]


def _rows(
    model: Model,
    methods: dict[str, Method],
    case: Case,
    family: str,
    severity: int,
    seed: int,
    segmentor: str,
) -> Iterator[Row]:
    if not methods:
        return
    assert case.image is not None
    assert case.mask is not None
    volume = read_image(case.image)
    truth = read_mask(case.mask, labels=range(model.config.data.classes), like=volume)
    if family not in (NONE, SCANNER):
        volume = shifted(volume, family, severity, seed, truth)
    prepared = model.prepare_volume(volume)
    for name, method in methods.items():
        made = method(prepared.slices.to(model.device))
        about = (segmentor, name, family, severity, seed, case.patient, case.phase or "")
        yield row_of(about, made, prepared, truth, model.structures)


def row_of(
    about: tuple[str, str, str, int, int, str, str],
    made: Adapted,
    shown: Shown,
    truth: Volume,
    structures: Collection[int],
) -> Row:
    """What a method made of a volume, scored on the image's own grid.

    Args:
        about: The line's first fields, up to the phase.
        made: Masks of the volume's slices.
        shown: The volume.
        truth: Its true mask.
        structures: Labels of those that count.
    """
    overlap, distance = mean_scores(shown.labels(made.masks), truth, structures)
    return Row(
        *about, round(overlap, 5), round(distance, 3), round(made.realism_after, 4), made.steps,
        round(made.seconds, 3), round(made.realism_before, 4),
    )  # fmt: skip


def mean_scores(
    labels: np.ndarray, truth: Volume, structures: Collection[int]
) -> tuple[float, float]:
    """Dice and Hausdorff distance (95%, mm) of a mask, the mean over structures."""
    pairs = [(labels == k, truth.voxels == k) for k in structures]
    spacing = truth.spacing_mm
    return (
        float(np.mean([dice(*pair) for pair in pairs])),
        float(np.mean([hausdorff95_mm(*pair, spacing) for pair in pairs])),
    )


if __name__ == "__main__":
    app()
