"""The whole system on procedural hearts: train, predict, adapt, evaluate, show."""

import os
import sys
import webbrowser
from importlib import resources
from pathlib import Path

from rich.console import Console
from rich.table import Table

from maskmend.before_after import ADAPTED, before_and_after, examples
from maskmend.checkpoint import read_split
from maskmend.config_file import read_config
from maskmend.data.layouts import find_cohort
from maskmend.data.phantom import SCANNER_A, SCANNER_B, write_cohort
from maskmend.evaluate.figures import contact_sheet
from maskmend.evaluate.scores import MEAN, Evaluation
from maskmend.predict import load
from maskmend.progress import progress_bar
from maskmend.report.page import REPORT, write_report
from maskmend.train import train

PATIENTS = 30
TESTED = 6
"""Test patients that are adapted to: all of them would take longer than a demo should."""
COHORTS = {"in-domain": SCANNER_A, "shifted": SCANNER_B}
RANKS = {"in-domain": (0.5,), "shifted": (1.0, 0.5, 0.0)}
"""Cases in the picture, by their gain."""


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
        hearts = out / "hearts" / name
        if not (hearts / "patients.csv").exists():
            with progress_bar(console, f"drawing, {name}", PATIENTS) as advance:
                write_cohort(hearts, patients=PATIENTS, seed=seed, scanner=scanner, advance=advance)
    console.print("training the segmentor and its mask discriminator on the first")
    train(config, out / "hearts" / "in-domain", out / "run", console=console)
    model = load(out / "run")
    tested = read_split(out / "run").test[:TESTED]
    evaluations, rows = {}, []
    for name in COHORTS:
        cohort = find_cohort(out / "hearts" / name)
        evaluation = before_and_after(
            model,
            cohort,
            tested,
            out / name,
            settings=config.adaptation,
            console=console,
            details=True,
        )
        evaluations[name] = evaluation
        rows += examples(evaluation, cohort, out / name, RANKS[name], name=f"{name}: ")
    console.print(_table(evaluations))
    picture = out / "demo.png"
    contact_sheet(picture, rows, structures=config.data.structures)
    console.print(f"picture: {picture}", soft_wrap=True)
    report = write_report(
        out / "shifted" / ADAPTED,
        references=out / "hearts" / "shifted",
        out=out / REPORT,
        title="Procedural hearts from another scanner",
    )
    console.print(f"report: {report}", soft_wrap=True)
    if console.is_terminal and _has_desktop():
        webbrowser.open(report.absolute().as_uri())
    return picture


def _has_desktop() -> bool:
    """Whether a browser would open in a window, and not in the terminal."""
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


def _table(evaluations: dict[str, Evaluation]) -> Table:
    table = Table(title="test patients, average over structures, before -> after adaptation")
    for heading in ("", "Dice", "IoU", "Hausdorff (mm)"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, evaluation in evaluations.items():
        rows = evaluation.rows
        mean = rows[rows["structure"] == MEAN].mean(numeric_only=True)
        cells = [
            f"{scale * mean[f'{metric}_before']:.1f} -> {scale * mean[f'{metric}_after']:.1f}"
            for metric, scale in (("dice", 100), ("iou", 100), ("hausdorff_mm", 1))
        ]
        table.add_row(name, *cells)
    return table
