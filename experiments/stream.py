"""A stream of patients whose scanner changes in the middle: adaptation carried on, or begun anew.

    python -m experiments.stream runs/shift/gan0 --data ACDC --csv docs/results/stream.csv

The first half of the patients comes from one simulated scanner, the second half from another. Each
method sees the stream twice: every patient for itself, and with `--continual`.
"""

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd
from cyclopts import App
from rich.console import Console

from experiments.shift.run import cases_of, mean_scores
from experiments.shift.shifts import shifted
from maskmend.config import AdaptationConfig
from maskmend.data.cohort import Case
from maskmend.data.preprocess import labels_on_grid
from maskmend.data.volume import read_image, read_mask
from maskmend.predict import Model, load
from maskmend.prediction import Prepared
from maskmend.progress import progress_bar

SCANNERS = ("gamma", "noise")
"""Before and after the change; of the middle severity."""
COLUMNS = (
    "method", "continual", "position", "shift", "patient", "phase",
    "dice_before", "dice", "steps", "first_loss", "last_loss", "seconds",
)  # fmt: skip

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    run: Path,
    *,
    data: Path,
    csv_: Path = Path("runs/stream.csv"),
    part: Literal["validation", "test"] = "test",
    patients: int | None = None,
    learning_rate: float | None = None,
) -> None:
    """Send the stream through every method.

    Args:
        run: A calibrated run.
        data: The data it was trained on.
        csv_: The table, written anew.
        part: Of the split.
        patients: So many, spread over the part; all by default.
        learning_rate: Of the paper's method; by default the run's.
    """
    console = Console()
    model = load(run)
    cases = cases_of(model, data, part, patients)
    csv_.parent.mkdir(parents=True, exist_ok=True)
    with csv_.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        methods = {
            "paper": {"method": "paper", "learning_rate": learning_rate},
            "ours": {"method": "guarded"},
        }
        for name, chosen in methods.items():
            for continual in (False, True):
                settings = model.settings(**chosen, continual=continual)
                with progress_bar(console, f"{name}, continual {continual}", len(cases)) as step:
                    for row in _stream(model, cases, settings):
                        writer.writerow([name, continual, *row])
                        file.flush()
                        step()
    console.print(summary(pd.read_csv(csv_)))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Mean gain in points, first loss and share harmed, by method and half of the stream."""
    table = table.assign(gain=100 * (table["dice"] - table["dice_before"]))
    table["harmed"] = table["gain"] < -1
    groups = table.groupby(["method", "continual", "shift"], sort=False)
    return groups[["gain", "harmed", "first_loss", "last_loss"]].mean().round(4)


def _stream(
    model: Model, cases: Sequence[Case], settings: AdaptationConfig
) -> Iterator[tuple[object, ...]]:
    seen: list[tuple[Case, str, Prepared]] = []

    def prepared() -> Iterator[Sequence[Prepared]]:
        for position, case in enumerate(cases):
            assert case.image is not None
            shift = SCANNERS[2 * position // len(cases)]
            volume = shifted(read_image(case.image), shift, 2, model.config.seed)
            seen.append((case, shift, model.prepare_volume(volume)))
            yield [seen[-1][2]]

    for position, (made,) in model.adapt_patients(prepared(), settings):  # as they are finished
        case, shift, one = seen[position]
        assert case.mask is not None
        truth = read_mask(case.mask, labels=range(model.config.data.classes), like=one.volume)
        before, after = (
            mean_scores(labels_on_grid(masks, one.grid), truth, model.structures)[0]
            for masks in (made.plain, made.masks)
        )
        losses = made.losses or (float("nan"),)
        yield (
            position, shift, case.patient, case.phase or "", round(before, 5), round(after, 5),
            made.steps, round(losses[0], 5), round(min(losses), 5), round(made.seconds, 2),
        )  # fmt: skip


if __name__ == "__main__":
    app()
