"""The whole system on procedural hearts: train, predict, adapt, evaluate, show."""

import json
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from maskmend.config import read_config
from maskmend.data.phantom import SCANNER_A, SCANNER_B, write_cohort
from maskmend.data.volume import read_image, read_mask
from maskmend.evaluate.figures import Row, contact_sheet
from maskmend.evaluate.scores import Evaluation, evaluate
from maskmend.predict import load, predict_files
from maskmend.train import train

PATIENTS = 30
COHORTS = {"in-domain": SCANNER_A, "shifted": SCANNER_B}


def run_demo(out: Path, *, seed: int, console: Console) -> Path:
    """Train on one scanner's hearts; segment unseen patients as this and another scanner see them.

    Args:
        out: Folder of everything that is made; a run that was stopped goes on.
        seed: Seed of hearts, split and training.
        console: Where the table is printed.

    Returns:
        The picture.
    """
    with resources.as_file(resources.files("maskmend") / "configs" / "demo.yaml") as path:
        config = read_config(path, [f"seed={seed}"])
    console.print(f"drawing {PATIENTS} hearts, as two scanners see them")
    for name, scanner in COHORTS.items():
        if not (out / "hearts" / name / "patients.csv").exists():
            write_cohort(out / "hearts" / name, patients=PATIENTS, seed=seed, scanner=scanner)
    console.print("training the segmentor and its mask discriminator on the first")
    train(config, out / "hearts" / "in-domain", out / "run", console=console)
    model = load(out / "run")
    tested = set(json.loads((out / "run" / "split.json").read_text())["test"])
    evaluations = {}
    for name in COHORTS:
        folder = out / "hearts" / name
        images = [p for p in sorted((folder / "images").iterdir()) if p.name[:8] in tested]
        for kind, steps in (("plain", 0), ("adapted", config.adaptation.steps)):
            with Progress(console=console, transient=True) as bar:
                task = bar.add_task(f"{name}, {kind}", total=len(images))
                predict_files(
                    model,
                    images,
                    out / name / kind,
                    model.settings(steps=steps),
                    partial(_advance, bar, task),
                )
        evaluations[name] = evaluate(
            out / name / "adapted",
            folder,
            out / name / "scores",
            baseline=out / name / "plain",
            structures=config.data.structures,
        )
    console.print(_table(evaluations))
    picture = out / "demo.png"
    _draw(picture, out, evaluations)
    console.print(f"picture: {picture}", soft_wrap=True)
    return picture


def _advance(bar: Progress, task: TaskID, _: object) -> None:
    bar.advance(task)


def _table(evaluations: dict[str, Evaluation]) -> Table:
    table = Table(title="test patients, average over structures, before -> after adaptation")
    for heading in ("", "Dice", "IoU", "Hausdorff (mm)"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, evaluation in evaluations.items():
        mean = _mean_rows(evaluation).mean(numeric_only=True)
        cells = [
            f"{scale * mean[f'{metric}_before']:.1f} -> {scale * mean[f'{metric}_after']:.1f}"
            for metric, scale in (("dice", 100), ("iou", 100), ("hausdorff_mm", 1))
        ]
        table.add_row(name, *cells)
    return table


def _mean_rows(evaluation: Evaluation) -> pd.DataFrame:
    return evaluation.rows[evaluation.rows["structure"] == "mean"]


def _draw(picture: Path, out: Path, evaluations: dict[str, Evaluation]) -> None:
    """The images with the largest, the median and the smallest gain, a shifted and a plain one."""
    rows = []
    for name, ranks in (("shifted", (1.0, 0.5, 0.0)), ("in-domain", (0.5,))):
        scores = _mean_rows(evaluations[name]).copy()
        scores["gain"] = scores["dice_after"] - scores["dice_before"]
        scores = scores.sort_values("gain").reset_index(drop=True)
        for rank in ranks:
            score = scores.iloc[round(rank * (len(scores) - 1))]
            rows.append(_row(name, score, out))
    contact_sheet(picture, rows)


def _row(name: str, score: pd.Series, out: Path) -> Row:
    """The middle slice of the heart, of one image."""
    folder, image = out / "hearts" / name, score["image"]
    truth = read_mask(folder / "masks" / f"{image}.nii.gz").voxels
    slices = np.flatnonzero(truth.any(axis=(0, 1)))
    middle = int(slices[len(slices) // 2])

    def at(voxels: np.ndarray) -> np.ndarray:
        return voxels[:, :, middle]

    masks = {
        kind: read_mask(out / name / kind / f"{image}_mask.nii.gz").voxels
        for kind in ("plain", "adapted")
    }
    return Row(
        name=f"{name}: {image}",
        image=at(read_image(folder / "images" / f"{image}.nii.gz").voxels),
        before=at(masks["plain"]),
        after=at(masks["adapted"]),
        truth=at(truth),
        dice_before=score["dice_before"],
        dice_after=score["dice_after"],
    )
