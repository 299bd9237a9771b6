"""Realistic and wrong: what a discriminator that sees the image finds, and one of masks does not.

    python -m experiments.image_aware --data ACDC --csv docs/results/image_aware.csv

True masks of the test patients are compared with masks that are as realistic and wrong for their
image: those of another patient at the same height of the heart, and the true ones moved, mirrored
or enlarged. A volume's score is the mean over its slices with structures; told apart is the chance
that a true mask scores higher than the wrong one (area under the ROC curve).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
from cyclopts import App, Parameter
from rich.console import Console
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, one_hot

from experiments.shift.run import cases_of
from experiments.shift.table import auc
from maskmend.checkpoint import RUN
from maskmend.config_file import read_config
from maskmend.data.preprocess import mask_slices
from maskmend.data.volume import read_mask
from maskmend.predict import Model, load
from maskmend.progress import progress_bar
from maskmend.train import train

CONFIG = Path(__file__).parent / "shift" / "gan.yaml"
SEES = {"masks": False, "masks and images": True}
MOVED_MM = 25.0

app = App(help=__doc__, help_format="plaintext")


@app.default
def main(
    *,
    data: Path,
    out: Path = Path("runs/shift"),
    csv: Path = Path("runs/image_aware.csv"),
    seed: int = 0,
    set_: Annotated[tuple[str, ...], Parameter(name="--set")] = (),
) -> None:
    """Train both if need be, and score the masks of the test patients.

    Args:
        data: ACDC's training set.
        out: Folder of the runs.
        csv: The table: discriminator, mask, volume, score of the true mask and of the wrong one.
        seed: Of training.
        set_: section.field=value, over the configuration of the one that sees images.
    """
    console = Console()
    rows = []
    for name, sees in SEES.items():
        run = out / f"{'pairs' if sees else 'gan'}{seed}"
        if not (run / RUN).exists():
            overrides = [f"seed={seed}", f"discriminator.sees_image={str(sees).lower()}"]
            config = read_config(CONFIG, [*overrides, *(set_ if sees else ())])
            train(config, data, run, console=console)
        rows += _scores(name, load(run), data, console)
    table = pd.DataFrame(rows)
    csv.parent.mkdir(parents=True, exist_ok=True)
    table.to_csv(csv, index=False)
    console.print(summary(table))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """How well each discriminator tells true masks from each kind of wrong ones."""

    def told_apart(rows: pd.DataFrame) -> float:
        scores = [*rows["true"], *rows["wrong"]]
        return auc(scores, [False] * len(rows) + [True] * len(rows))

    groups = table.groupby(["mask", "discriminator"], sort=False)
    return groups[["true", "wrong"]].apply(told_apart).unstack().round(3)


def _scores(name: str, model: Model, data: Path, console: Console) -> list[dict[str, object]]:
    cases = cases_of(model, data, "test")
    volumes = []
    for case in cases:
        assert case.image is not None
        assert case.mask is not None
        prepared = model.prepare(case.image)
        classes = model.config.data.classes
        truth = read_mask(case.mask, labels=range(classes), like=prepared.volume)
        volumes.append((prepared.slices, mask_slices(truth, prepared.grid, classes)))
    rows: list[dict[str, object]] = []
    with progress_bar(console, f"judging by {name}", len(volumes)) as advance:
        for number, (images, labels) in enumerate(volumes):
            # Volumes are in the order of patients, two each: this one is of the next patient.
            other = volumes[(number + 2) % len(volumes)][1]
            for kind, wrong in wrong_masks(labels, other, model.config.preprocess.spacing_mm):
                scores = [_score(model, images, one) for one in (labels, wrong)]
                case = f"{cases[number].patient} {cases[number].phase}"
                rows.append(
                    dict(zip(("discriminator", "mask", "volume", "true", "wrong"),
                             (name, kind, case, *scores), strict=True))
                )  # fmt: skip
            advance()
    return rows


def wrong_masks(labels: Tensor, other: Tensor, spacing_mm: float) -> Sequence[tuple[str, Tensor]]:
    """Masks that are realistic and wrong, by kind.

    Args:
        labels: The true mask; slice, height, width.
        other: That of another patient, of any number of slices.
        spacing_mm: Between pixels.
    """
    same_height = torch.linspace(0, len(other) - 1, len(labels)).round().long()
    moved = round(MOVED_MM / spacing_mm)
    return [
        ("another patient's", other[same_height]),
        (f"moved {MOVED_MM:.0f} mm", labels.roll(moved, -1)),
        ("mirrored", labels.flip(-1)),
        ("enlarged by 1.4", _enlarged(labels, 1.4)),
    ]


def _enlarged(labels: Tensor, factor: float) -> Tensor:
    """About the centre of what is there."""
    rows, columns = (labels > 0).any(0).nonzero(as_tuple=True)
    height, width = labels.shape[1:]
    centre = [2 * (c.float().mean() + 0.5) / n - 1 for c, n in ((columns, width), (rows, height))]
    theta = torch.tensor([[1 / factor, 0, centre[0] * (1 - 1 / factor)],
                          [0, 1 / factor, centre[1] * (1 - 1 / factor)]])  # fmt: skip
    batch = labels[:, None].float()
    grid = affine_grid(theta.expand(len(labels), 2, 3), list(batch.shape), align_corners=False)
    return grid_sample(batch, grid, mode="nearest", align_corners=False)[:, 0].to(labels)


def _score(model: Model, images: Tensor, labels: Tensor) -> float:
    filled = labels.flatten(1).any(1)
    masks = one_hot(labels[filled].long(), model.config.data.classes).movedim(-1, 1).float()
    with torch.no_grad():
        prior = model.prior(model.settings(precision="32-true"))
        return prior.realism(masks, images[filled]).mean().item()


if __name__ == "__main__":
    app()
