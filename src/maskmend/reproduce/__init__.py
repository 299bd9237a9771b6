"""The paper's tables and figures from raw data, each with one call that goes on by itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from maskmend.errors import ConfigError
from maskmend.reproduce import (
    convergence,
    cost,
    figure2,
    figure3,
    figure4,
    supplement1,
    table1,
)
from maskmend.reproduce.datasets import find_datasets
from maskmend.reproduce.page import write_page
from maskmend.reproduce.study import Study

TARGETS = {
    "table1": table1,
    "figure2": figure2,
    "figure3": figure3,
    "figure4": figure4,
    "convergence": convergence,
    "supplement1": supplement1,
    "cost": cost,
}
EVERYWHERE = {"figure3", "figure4", "supplement1"}
"""Those that have a part for each data set."""


def reproduce(
    target: str,
    data: Path,
    out: Path,
    *,
    scale: Literal["small", "paper", "toy"] = "small",
    presets: Sequence[str] = ("paper", "ours"),
    folds: Sequence[int] | None = None,
    seed: int = 0,
    training: bool = True,
    patients: int | None = None,
    console: Console | None = None,
) -> Path:
    """Make a table or figure of the paper; runs that are there are used again.

    Args:
        target: One of `TARGETS`, or "all".
        data: ACDC or LVSC as downloaded, or images/ and masks/ with ACDC's labels.
        out: Folder of runs, masks and results; one for each scale.
        scale: "small" for two cores, "paper" for a GPU, "toy" for tests.
        presets: "paper": the paper's settings; "ours": ours, with guarded masks.
        folds: Of the cross-validation; by default three. The first is the published one.
        seed: Of training, and of the folds that were not published.
        training: Train runs that are not there. Without it what they would give stays open.
        patients: Validation patients of the cost's curve; by default all.
        console: Where progress is shown; standard error by default.

    Returns:
        The page of results.

    Raises:
        ConfigError: There is no such target or preset.
        InputError: A file of the data cannot be used.
        RunError: `out` holds runs of other settings.
    """
    if target != "all" and target not in TARGETS:
        raise ConfigError(f"target: {target!r} is unknown; choose {', '.join(TARGETS)} or all")
    if unknown := set(presets) - {"paper", "ours"}:
        raise ConfigError(f"preset: {min(unknown)!r} is unknown; choose paper or ours")
    console = console or Console(stderr=True)
    chosen = list(TARGETS) if target == "all" else [target]
    study = Study(
        find_datasets(data, out, console, everywhere=not EVERYWHERE.isdisjoint(chosen)),
        out,
        scale=scale,
        presets=presets,
        seed=seed,
        folds=folds,
        training=training,
        patients=patients,
        console=console,
    )
    study.results.mkdir(parents=True, exist_ok=True)
    study.prepare([key for name in chosen for key in TARGETS[name].needs(study)])
    for name in chosen:
        if not study.there(TARGETS[name].needs(study)):
            console.print(f"{name}: open, no run of it is there", highlight=False)
            continue
        TARGETS[name].make(study)
        console.print(f"{name}: {study.results / name}.csv", soft_wrap=True, highlight=False)
    return write_page(study.results, study.results / "reproduction.md")
